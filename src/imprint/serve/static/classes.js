// The card of a class: its name, how it is recorded, its newest pictures, and what the doctor says of them.

import { api } from "./api.js";
import { announce, button, fail, h, icon, mount, picture, sheet, t, toast } from "./dom.js";
import { chosen } from "./drop.js";
import { pictureGrid } from "./grid.js";
import { addFiles } from "./takes.js";

const SHOWN = 12; // thumbnails of a card
const MOST = 300; // pictures shown large

/** The server knows a class once it has a name or a picture; until then the card is a draft without an id. */
export function classCard(context, stage, teach) {
  const number = h("span", { class: "class-number", "aria-hidden": "true" });
  const input = h("input", {
    class: "class-name",
    type: "text",
    maxlength: 200,
    autocomplete: "off",
    spellcheck: "false",
    enterkeyhint: "done",
    onchange: named,
    onkeydown: entered,
    oninput: () => teach.renamed(),
  });
  const facts = h("button", {
    type: "button",
    class: "link class-facts",
    hidden: true,
    onclick: () => openSamples(context, card.id),
  });
  const remove = h("button", { type: "button", class: "round", onclick: erase }, icon("trash"));
  const hold = h("button", { type: "button", class: "button hold" });
  const files = h("input", { class: "unseen", type: "file", multiple: true, accept: "image/*", onchange: sent });
  const strip = h("div", { class: "strip", hidden: true });
  const hints = h("div", { class: "hints" });
  const chip = h("button", { type: "button", class: "chip choice", onclick: () => teach.choose(card) }); // on a phone
  const element = h(
    "section",
    { class: "card class-card" },
    h("div", { class: "class-head" }, number, input, remove),
    h(
      "div",
      { class: "row class-actions" },
      hold,
      h("label", { class: "button" }, icon("upload"), t("teach.upload"), files),
      button(t("teach.draw"), () => stage.draw(card), { shape: "pen" }),
    ),
    facts,
    strip,
    hints,
  );
  let [making, place, held, thumbnails] = [null, 1, 0, ""];
  const card = {
    element,
    chip,
    hold,
    input,
    id: null,
    busy: false,
    kept: false,
    get name() {
      return input.value.trim() || t("teach.class.number", { n: place });
    },
    get count() {
      return held;
    },
    /** Be the nth card, called by the free number while it has no name. */
    number(n, free) {
      place = free;
      number.textContent = n;
      input.placeholder = t("teach.class.number", { n: free });
      element.setAttribute("aria-label", card.name);
      input.setAttribute("aria-label", t("teach.class.name", { n }));
      remove.setAttribute("aria-label", t("teach.class.delete", { name: card.name }));
      remove.title = remove.getAttribute("aria-label");
      remove.hidden = !card.id && !card.kept;
      hold.setAttribute("aria-label", t("teach.hold.as", { name: card.name }));
      mount(chip, card.name, h("span", { class: "soft" }, held));
    },
    /** Give the id, making the class where it is not made yet. */
    ensure() {
      if (card.id) return Promise.resolve(card.id);
      making ??= api
        .post("/api/classes", { name: card.name })
        .then(({ id }) => (card.id = id))
        .finally(() => (making = null));
      return making;
    },
    show(given, project) {
      card.id = given.id;
      held = given.samples;
      if (document.activeElement !== input || !input.value) input.value = given.name;
      facts.hidden = !held;
      facts.textContent = [
        t("teach.pictures", { n: held }),
        t("teach.takes", { n: given.takes }),
        given.exam_takes && t("teach.exam.takes", { n: given.exam_takes }),
      ]
        .filter(Boolean)
        .join(" · ");
      if (!card.busy && thumbnails !== String(given.thumbnails)) {
        thumbnails = String(given.thumbnails);
        mount(
          strip,
          ...given.thumbnails
            .slice(0, SHOWN)
            .map((sha) =>
              h("img", { src: `/api/samples/${sha}/thumbnail`, alt: "", loading: "lazy", decoding: "async" }),
            ),
        );
        strip.hidden = !held;
      }
      mount(
        hints,
        ...given.hints.map(tip),
        ...together(project.findings)
          .filter((each) => each.class === given.id && each.kind !== "dark")
          .map((each) => note(context, each)),
      );
    },
    /** Show a picture before the server has it. */
    pending(blob) {
      thumbnails = "";
      strip.prepend(picture(blob, ""));
      if (strip.children.length > SHOWN) strip.lastChild.remove();
      strip.hidden = false;
    },
    recording(on) {
      card.busy = on;
      element.classList.toggle("recording", on);
      mount(hold, icon("record"), t(on ? "teach.recording" : "teach.hold"));
    },
  };
  card.recording(false);
  stage.holdable(hold, () => card);
  for (const name of ["focusin", "pointerdown"])
    element.addEventListener(name, () => teach.active() !== card && teach.choose(card));
  return card;

  async function named() {
    const name = input.value.trim();
    const known = context.project.classes.find((each) => each.id === card.id)?.name ?? "";
    if (!name || name === known) return void (input.value = known);
    try {
      if (card.id) await api.patch(`/api/classes/${card.id}`, { name });
      else await card.ensure();
    } catch (problem) {
      input.value = known;
      fail(problem);
    }
    context.refresh().catch(fail);
  }

  function entered(event) {
    if (event.key !== "Enter") return;
    event.preventDefault(); // or it would press the button that is focused next
    const next = element.nextElementSibling?.querySelector(".class-name");
    if (next && !next.value && input.value) next.focus();
    else hold.focus();
  }

  async function sent() {
    const given = chosen(files);
    files.value = "";
    if (given.length && (await addFiles(context, card, given, "upload")))
      announce(t("teach.added", { n: given.length, name: card.name }));
  }

  async function erase() {
    const { name } = card;
    if (!card.id) return teach.drop(card);
    try {
      await api.delete(`/api/classes/${card.id}`);
      await context.refresh();
      toast(t("teach.class.deleted", { name }), { action: t("undo"), onaction: () => context.undo() });
    } catch (problem) {
      fail(problem);
    }
  }
}

/** A hint of the doctor, with what to do about it. */
function tip(text) {
  const about = ["dark", "alike"].find((each) => text.includes(each));
  return h("p", { class: "note" }, h("strong", {}, text), about && ` ${t(`teach.tip.${about}`)}`);
}

/** Findings that say the same of the same classes as one, whose `each` holds them all. */
export function together(findings) {
  const groups = new Map();
  for (const finding of findings ?? []) {
    const key = JSON.stringify([finding.kind, finding.class, finding.classes ?? finding.message]);
    if (!groups.has(key)) groups.set(key, { ...finding, each: [] });
    groups.get(key).each.push(finding);
  }
  return [...groups.values()];
}

/** A finding, or several together, with the pictures and what may be done about them. */
export function note(context, { kind, message, class: id, classes = [], blocks, each }) {
  const named = (key) => context.project.classes.find((one) => one.id === key)?.name ?? key;
  const shown = each.flatMap(({ where }) => (kind === "exam" ? where.slice(0, 1) : where)); // the copy that trains
  const act = async (path, body, words, name) => {
    try {
      await api.post(path, { samples: shown, ...body });
      await context.refresh();
      toast(t(words, { n: shown.length, name }), { action: t("undo"), onaction: () => context.undo() });
    } catch (problem) {
      fail(problem);
    }
  };
  const text =
    each.length > 1
      ? t(`teach.finding.${["conflict", "exam"].includes(kind) ? kind : "many"}`, {
          message,
          n: each.length,
          name: named(id),
          names: classes.map(named).join(" + "),
        })
      : message;
  const actions =
    kind === "conflict"
      ? classes.map((key) =>
          button(named(key), () => act("/api/samples/move", { class: key }, "teach.moved", named(key)), {
            kind: "small-button",
          }),
        )
      : shown.length && ["exam", "dark"].includes(kind)
        ? [
            button(
              t("teach.delete.n", { n: shown.length }),
              () => act("/api/samples/delete", { class: id }, "teach.deleted"),
              { kind: "small-button", shape: "trash" },
            ),
          ]
        : [];
  return h(
    "div",
    { class: blocks ? "note blocks" : "note" },
    h("p", {}, text),
    (shown.length > 0 || actions.length > 0) &&
      h(
        "div",
        { class: "row" },
        ...shown
          .slice(0, 3)
          .map((sha) => h("img", { class: "tiny", src: `/api/samples/${sha}/thumbnail`, alt: "", loading: "lazy" })),
        shown.length > 3 &&
          button(t("teach.look.n", { n: shown.length }), () => openPictures(text, shown), { kind: "small-button" }),
        ...actions,
      ),
  );
}

/** Some pictures, large. */
export function openPictures(title, shas) {
  return sheet(
    title,
    h(
      "div",
      { class: "pictures" },
      ...shas.slice(0, MOST).map((sha) => h("img", { src: `/api/samples/${sha}`, alt: "", loading: "lazy" })),
    ),
  );
}

/** All pictures of a class: choose some, delete them or move them to another class. */
export function openSamples(context, id) {
  const facts = () => context.project.classes.find((each) => each.id === id);
  const { name } = facts();
  let chosen_ = [];
  const status = h("p", { class: "soft", role: "status" });
  const remove = button("", () => act("/api/samples/delete", { class: id }, "teach.deleted"), { shape: "trash" });
  const chips = context.project.classes
    .filter((each) => each.id !== id)
    .map((each, i) =>
      h(
        "button",
        {
          type: "button",
          class: "chip choice",
          onclick: () => act("/api/samples/move", { class: each.id }, "teach.moved", each.name),
        },
        i < 9 && h("kbd", {}, i + 1),
        each.name,
      ),
    );
  const grid = pictureGrid(t("teach.pictures.of", { name }), {
    fetch: (offset, limit) => api.get(`/api/classes/${id}/samples?offset=${offset}&limit=${limit}`),
    badge: ({ exam }) => (exam ? t("teach.exam") : ""),
    onchange: (given) => {
      chosen_ = given;
      status.textContent = given.length ? t("teach.chosen", { n: given.length }) : t("teach.choose.some");
      mount(remove, icon("trash"), t("teach.delete"));
      for (const each of [remove, ...chips]) each.disabled = !given.length;
    },
  });
  const dialog = sheet(
    `${name} · ${t("teach.pictures", { n: facts().samples })}`,
    status,
    grid.element,
    h("div", { class: "row" }, button(t("teach.all"), grid.all, {}), remove),
    chips.length > 0 && h("p", { class: "soft" }, t("teach.move.to")),
    h("div", { class: "chips" }, ...chips),
  );
  dialog.classList.add("wide-sheet");
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "Delete" || event.key === "Backspace") remove.click();
    else chips[Number(event.key) - 1]?.click();
  });
  grid.refresh().catch(fail);
  grid.element.focus();

  async function act(path, body, words, to) {
    const samples = chosen_.map((each) => each.sha);
    if (!samples.length) return;
    try {
      await api.post(path, { samples, ...body });
      await context.refresh();
      toast(t(words, { n: samples.length, name: to ?? name }), { action: t("undo"), onaction: () => context.undo() });
      if (!facts()?.samples) return dialog.close();
      dialog.querySelector("h2").textContent = `${name} · ${t("teach.pictures", { n: facts().samples })}`;
      await grid.refresh();
      grid.element.focus();
    } catch (problem) {
      fail(problem);
    }
  }
}
