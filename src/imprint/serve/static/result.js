// The answer to one picture, and what may be done about it: «Wrong?» and «Why?».

import { answerBars, sentence } from "./answers.js";
import { api } from "./api.js";
import { announce, button, fail, h, mount, picture, sheet, t, toast } from "./dom.js";

/** Where the answer to one picture is shown, with what may be done about it. */
export function answerCard(context, hint) {
  const place = h("div", { class: "result" });
  const [wrong, why] = [
    button(t("wrong"), () => correct(context, current), {}),
    button(t("why"), () => {
      const { blob, prediction } = current;
      explain(prediction.label, picture(blob, t("why.picture")), () => api.send("/api/explain", blob));
    }),
  ];
  const actions = h("div", { class: "row actions" }, wrong, why);
  const card = h("section", { class: "card answer-card", "aria-label": t("try.answer") }, place, actions);
  const bars = answerBars(place);
  let current = null;
  let [busy, next, generation, said, timer] = [false, null, 0, "", 0];

  function clear() {
    generation++;
    [current, next, said] = [null, null, ""];
    clearTimeout(timer);
    actions.hidden = true;
    bars.clear();
    mount(place, h("p", { class: "hint" }, h("span", { class: "question", "aria-hidden": "true" }, "?"), hint));
  }

  function show(prediction, blob, name) {
    current = { prediction, blob, name };
    context.current = { blob, name };
    bars.show(prediction);
    actions.hidden = false;
    wrong.hidden = !context.project;
    why.hidden = !context.project;
    wrong.textContent = prediction.unsure ? t("teach.this") : t("wrong");
    wrong.classList.toggle("button-primary", prediction.unsure);
    const words = sentence(prediction).replace(/\d+ %/, "");
    if (words === said) return;
    said = words;
    clearTimeout(timer);
    timer = setTimeout(() => announce(sentence(prediction)), 700); // once it has settled
  }

  /** Answer what `capture` gives; of what is asked meanwhile, the last is answered next. */
  async function ask(capture, name) {
    next = [capture, name];
    if (busy) return;
    busy = place.ariaBusy = true;
    while (next) {
      const [[take, called], mine] = [next, generation];
      next = null;
      try {
        const taken = await take();
        const prediction = await api.predict(taken);
        if (mine === generation) show(prediction, taken.blob ?? taken, called);
      } catch (problem) {
        if (mine === generation) trouble(problem, take, called);
      }
    }
    busy = place.ariaBusy = false;
  }

  function trouble(problem, capture, name) {
    clear();
    mount(
      place,
      h(
        "div",
        { class: "trouble", role: "alert" },
        h("p", { class: "words" }, problem.title),
        problem.detail && h("p", {}, problem.detail),
        [0, 503].includes(problem.status) && button(t("retry"), () => ask(capture, name), { shape: "retry" }),
      ),
    );
  }
  clear();
  return { card, ask, show, clear };
}

/** «Wrong?»: one tap on the right class, or its key 1 to 9. */
function correct(context, { blob, prediction }) {
  const known = new Map(context.project.classes.map((each) => [each.name, each.id]));
  const classes = [...known.keys(), ...context.model.classes.filter((each) => !known.has(each))];
  const give = async (label) => {
    dialog.close();
    try {
      const id = known.get(label) ?? (await api.post("/api/classes", { name: label })).id;
      await api.upload(`/api/corrections?class=${id}`, [{ blob, path: "picture" }]);
      toast(t("corrected", { label }), { action: t("undo"), onaction: () => context.undo() });
      context.refresh();
    } catch (problem) {
      fail(problem);
    }
  };
  const likely = (label) => prediction.probabilities[label] ?? 0;
  if (classes.length > 12) classes.sort((a, b) => likely(b) - likely(a));
  const short = classes.every((each) => each.length === 1); // a digit's key is the digit
  const keys = classes.map((each, i) => (short ? each : i < 9 && `${i + 1}`));
  const chips = classes.map((each, i) =>
    h(
      "button",
      { type: "button", class: "chip choice", onclick: () => give(each) },
      !short && keys[i] && h("kbd", {}, keys[i]),
      each,
    ),
  );
  const dialog = sheet(
    t("wrong.title"),
    h("div", { class: "square small" }, picture(blob, "")),
    h("p", { class: "soft" }, t(prediction.unsure ? "wrong.unsure" : "wrong.said", { label: prediction.label })),
    classes.length > 24 &&
      h("input", {
        class: "find",
        type: "search",
        placeholder: t("wrong.find"),
        "aria-label": t("wrong.find"),
        oninput: find,
      }),
    h("div", { class: "chips" }, ...chips),
    h("a", { class: "button", href: "#teach", onclick: () => dialog.close() }, t("wrong.new")),
  );
  dialog.addEventListener(
    "keydown",
    (event) => event.target.type === "search" || chips[keys.indexOf(event.key)]?.click(),
  );
  function find(event) {
    const wanted = event.target.value.trim().toLowerCase();
    chips.forEach((chip, i) => (chip.hidden = !classes[i].toLowerCase().includes(wanted)));
  }
}

/** «Why?»: where in a picture the network looked; `ask` gives the picture of that. */
export async function explain(label, shown, ask) {
  const where = h("div", { class: "square" }, h("p", { class: "still" }, t("why.wait")));
  const text = h("p", { class: "words", role: "status" });
  sheet(
    t("why.title", { label }),
    h("div", { class: "pair" }, h("div", { class: "square" }, shown), where),
    text,
  );
  try {
    mount(where, picture(await ask(), t("why.map")));
    text.textContent = t("why.text");
  } catch (problem) {
    mount(where, h("p", { class: "still" }, problem.title, " ", problem.detail));
  }
}
