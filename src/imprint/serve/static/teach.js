// Teach: record classes on the left, train in the middle, try the answer on the right.

import { api } from "./api.js";
import { cameraPossible } from "./camera.js";
import { classCard } from "./classes.js";
import { announce, button, h, icon, mount, t, toast } from "./dom.js";
import { chosen, onFiles } from "./drop.js";
import { openFile, openProject } from "./project.js";
import { createStage } from "./record.js";
import { keepTogether } from "./tabs.js";
import { byFolder, newTake, onWaiting, told } from "./takes.js";
import { createTraining, running } from "./training.js";

const FEWEST = 2; // pictures of a class, and classes
const narrow = matchMedia("(max-width: 46rem)");

let here = null;

export const leave = () => {
  here?.end();
  here = null;
};
export const undo = () => here?.stage?.undo();

export function enter(root, context) {
  if (!context.project) return mount(root, h("div", { class: "card empty" }, h("h1", {}, t("teach.none"))));
  const title = h("h1", { id: "next" });
  const hint = h("p", { class: "words soft" });
  const waiting = h("p", { class: "waiting", role: "status", hidden: true });
  const chips = h("div", { class: "chips class-chips", role: "group", "aria-label": t("teach.classes") });
  const extra = h(
    "button",
    { type: "button", class: "chip choice", "aria-label": t("teach.class.add"), onclick: () => more() },
    icon("plus"),
  );
  const list = h("div", { class: "cards" });
  const teach = { active: () => active, choose, renamed: refreshNames, drop };
  let cards = []; // in the order of the project, then those that are not made yet
  let active = null;
  let said = "";
  const stage = createStage(context, teach, chips);
  const training = createTraining(context, { blocked, onstate: guide });
  const add = button(t("teach.class.add"), () => more(), { kind: "add-class", shape: "plus" });
  const [back, again] = ["undo", "redo"].map((name) =>
    h(
      "button",
      {
        type: "button",
        class: "round",
        "aria-label": t(name),
        title: t(name),
        onclick: () => context.undo(`/api/${name}`),
      },
      icon(name),
    ),
  );
  mount(
    root,
    h(
      "div",
      { class: "teach-head" },
      h("div", { class: "next" }, title, hint),
      h(
        "div",
        { class: "row tools" },
        back,
        again,
        button(t("teach.project"), () => openProject(context)),
      ),
    ),
    waiting,
    h(
      "div",
      { class: "columns" },
      h(
        "section",
        { class: "classes", "aria-labelledby": "classes-title" },
        h("h2", { id: "classes-title", class: "unseen" }, t("teach.classes")),
        list,
        h("div", { class: "row adding" }, add, folderButton()),
      ),
      training.element,
      stage.element,
    ),
  );

  update();
  choose(cards[0]);
  stage.start();
  if (!narrow.matches && !cards[0].id) cards[0].input.focus({ preventScroll: true });
  context.onProject(update);
  api.post("/api/warm").catch(() => {});

  const stopTabs = keepTogether(context, () => stage.recording);
  const stopWaiting = onWaiting((n, stuck) => {
    if (stuck || !n) waiting.hidden = !n;
    if (!waiting.hidden) waiting.textContent = t("teach.waiting", { n });
  });
  const stopFiles = onFiles(document.body, (files, event) =>
    given(
      files,
      cards.find((card) => card.element.contains(event.target)),
    ),
  );
  document.addEventListener("keydown", pressed);
  document.addEventListener("keyup", lifted);
  here = {
    stage,
    end() {
      stage.end();
      training.end();
      stopTabs();
      stopWaiting();
      stopFiles();
      document.removeEventListener("keydown", pressed);
      document.removeEventListener("keyup", lifted);
    },
  };

  // Classes

  function more() {
    const card = classCard(context, stage, teach);
    card.kept = true;
    cards.push(card);
    update();
    choose(card);
    card.input.focus();
  }

  function drop(card) {
    cards = cards.filter((each) => each !== card);
    update();
  }

  function refreshNames() {
    const taken = new Set(cards.map((card) => card.input.value.trim()));
    cards.forEach((card, i) => {
      let free = i + 1; // a name that no other class has
      for (let n = 1; taken.has(t("teach.class.number", { n: free })); n++) free = n;
      if (!card.input.value.trim()) taken.add(t("teach.class.number", { n: free }));
      card.number(i + 1, free);
      card.chip.setAttribute("aria-pressed", String(card === active));
    });
    const wanted = [...cards.map((card) => card.chip), extra];
    if (wanted.length !== chips.children.length || wanted.some((chip, i) => chip !== chips.children[i]))
      mount(chips, ...wanted);
    stage.label();
  }

  function choose(card) {
    active = card;
    for (const each of cards) each.element.classList.toggle("active", each === card);
    refreshNames();
  }

  function update() {
    const { project } = context;
    const known = new Map(cards.filter((card) => card.id).map((card) => [card.id, card]));
    const made = project.classes.map((facts) => {
      const card = known.get(facts.id) ?? classCard(context, stage, teach);
      card.show(facts, project);
      return card;
    });
    // A card that is not made yet goes when others have taken its place, unless it is in use.
    const empty = cards.filter((card) => !card.id);
    const drafts = empty.filter((card) => card.busy || card.kept || card.input.value);
    const spare = empty.filter((card) => !drafts.includes(card));
    while (made.length + drafts.length < FEWEST) drafts.push(spare.pop() ?? classCard(context, stage, teach));
    // All keep their places; a class that is new here takes that of a card which went.
    const places = new Map(cards.map((card, i) => [card, i]));
    const gone = cards.filter((card) => !made.includes(card) && !drafts.includes(card));
    for (const card of made) if (!places.has(card) && gone.length) places.set(card, places.get(gone.shift()));
    const place = (card) => places.get(card) ?? places.size;
    cards = [...made, ...drafts].sort((a, b) => place(a) - place(b));
    if (cards.length !== list.children.length || cards.some((card, i) => card.element !== list.children[i])) {
      const focused = document.activeElement;
      mount(list, ...cards.map((card) => card.element));
      if (list.contains(focused)) focused.focus({ preventScroll: true });
    }
    if (!cards.includes(active)) choose(cards[0]);
    back.disabled = !project.can_undo;
    again.disabled = !project.can_redo;
    refreshNames();
    training.draw();
    guide(training.state);
  }

  // What to do next

  function blocked() {
    const { classes, findings } = context.project;
    if (findings?.some((each) => each.blocks)) return t("teach.blocked.twice");
    const filled = classes.filter((each) => each.samples);
    if (filled.length < FEWEST) return t("teach.blocked.classes");
    const few = filled.find((each) => each.samples < FEWEST);
    return few ? t("teach.one.more", { name: few.name }) : "";
  }

  function guide(state) {
    const { project } = context;
    const filled = project.classes.filter((each) => each.samples);
    const empty = cards.find((card) => !card.count);
    const few = cards.find((card) => card.count && card.count < FEWEST);
    const once = filled.find((each) => each.recorded < 2);
    let [next, words, target] = ["", "", null];
    if (running(state))
      [next, words] = ["teach.next.learning", state.version ? "teach.next.already" : "teach.next.learning.text"];
    else if (project.findings?.some((each) => each.blocks))
      [next, words] = ["teach.next.twice", "teach.next.twice.text"];
    else if (project.needs_images && filled.length < FEWEST)
      [next, words, target] = ["teach.next.needs", "teach.next.needs.text", cards[0]];
    else if (!filled.length)
      [next, words, target] = [
        "teach.next.first",
        cameraPossible() ? "teach.next.first.text" : "teach.next.photo.text",
        cards[0],
      ];
    else if (filled.length < FEWEST) [next, words, target] = ["teach.next.second", "teach.next.second.text", empty];
    else if (few) [next, words, target] = ["teach.next.more", "teach.next.more.text", few];
    else if (!project.model?.version)
      [next, words] = ["teach.next.train", once ? "teach.next.train.once" : "teach.next.train.text"];
    else if (project.changed) [next, words] = ["teach.next.again", "teach.next.again.text"];
    else
      [next, words] = [
        "teach.next.try",
        once ? "teach.next.once" : stage.live ? "teach.next.try.text" : "teach.next.try.start",
      ];
    const values = { name: (target ?? cards[0])?.name, first: filled[0]?.name, once: once?.name };
    title.textContent = t(next, values);
    hint.textContent = t(words, values);
    for (const card of cards) card.hold.classList.toggle("button-primary", card === target);
    root.classList.toggle("taught", Boolean(context.model));
    // On a phone one button records whatever class is chosen: let it be the one that is asked for.
    if (next !== said && next === "teach.next.second" && target && narrow.matches) choose(target);
    if (next !== said && said && next !== "teach.next.learning") announce(`${title.textContent}. ${hint.textContent}`);
    said = next;
  }

  // Files

  function folderButton() {
    return h(
      "label",
      { class: "button wide-only" },
      icon("upload"),
      t("teach.folders"),
      h("input", {
        class: "unseen",
        type: "file",
        webkitdirectory: true,
        multiple: true,
        onchange: (event) => given(chosen(event.target)).then(() => (event.target.value = "")),
      }),
    );
  }

  /** Each folder becomes a class, which it joins where there is one of its name; loose files join a card. */
  async function given(files, card = active) {
    const saved = files.find((file) => file.path.endsWith(".imprint.zip"));
    if (saved) return openFile(context, saved.blob);
    const { folders, loose } = byFolder(files);
    if (!folders.size && !loose.length) return toast(t("teach.no.pictures"));
    let n = 0;
    for (const [name, inside] of folders) n += await addFolder(name, inside);
    if (loose.length) {
      const take = newTake(card.ensure, "upload");
      take.add(loose);
      n += await told(context, card.name, take);
    }
    if (n)
      toast(
        folders.size
          ? t("teach.added.folders", { n, classes: t("teach.n.classes", { n: folders.size }) })
          : t("teach.added", { n, name: card.name }),
        { action: t("undo"), onaction: () => context.undo() },
      );
  }

  async function addFolder(name, files) {
    const ensure = async () =>
      context.project.classes.find((each) => each.name === name)?.id ?? (await api.post("/api/classes", { name })).id;
    const take = newTake(ensure, "folder");
    take.add(files);
    return told(context, name, take);
  }

  // Space holds for the active class wherever it would do nothing else.

  function free(event) {
    return (
      event.key === " " &&
      !event.target.closest?.("input, button, select, textarea, a, summary, label, canvas, dialog, [role=listbox]")
    );
  }
  function pressed(event) {
    if (!free(event)) return;
    event.preventDefault();
    if (!event.repeat) stage.hold(active);
  }
  function lifted(event) {
    if (event.key === " ") stage.release();
  }
}
