// The shell: one place at a time, chosen by the part of the address after #, and what all places know.

import { api } from "./api.js";
import { announce, button, fail, h, icon, mount, t, toast } from "./dom.js";

const PLACES = ["try", "teach", "check"];
const main = document.getElementById("main");
const saved = h("p", { class: "saved" });
let place = null; // the module of the place that is shown
let listeners = [];
let turn = 0;

/** What every place is given. `project` and `model` are null where there is none. */
const context = {
  project: null,
  model: null, // {model: its digest, classes, reads_glyphs, …}
  preparing: false, // the server is still getting its model ready
  current: null, // the picture answered last, {blob, name}: the gear shows how to send it
  /** Call back after each change of project or model, until the place is left. */
  onProject: (callback) => listeners.push(callback),
  /** Read project and model again, and tell the place. */
  async refresh() {
    context.project = await optional("/api/project");
    const { digest, status } = context.project?.model ?? {};
    context.preparing = !digest && status === "preparing";
    context.model = context.project && !digest ? null : await optional("/v1/model");
    if (context.preparing) setTimeout(() => context.refresh().catch(fail), 1000);
    const where = context.project?.place;
    mount(saved, ...(where ? [h("span", { class: "dot", "aria-hidden": "true" }), h("span", {}, where)] : []));
    for (const callback of listeners) callback(context);
    return context;
  },
  /** Undo the last change of the project, or do it again. */
  async undo(path = "/api/undo") {
    try {
      await api.post(path);
      await context.refresh();
      announce(t(path === "/api/undo" ? "undone" : "redone"));
    } catch (problem) {
      fail(problem);
    }
  },
};

async function optional(path) {
  try {
    return await api.get(path);
  } catch (problem) {
    if ([401, 403, 0].includes(problem.status)) throw problem;
    return null;
  }
}

async function show() {
  const asked = location.hash.slice(1).split("/")[0];
  const name = PLACES.includes(asked)
    ? asked
    : context.model || context.preparing || !context.project
      ? "try"
      : "teach";
  const mine = ++turn;
  const module = await import(`./${name}.js`);
  if (mine !== turn) return;
  const first = place === null;
  place?.leave();
  listeners = [];
  place = module;
  for (const link of document.querySelectorAll("nav a")) link.toggleAttribute("aria-current", link.hash === `#${name}`);
  document.title = `${t(`place.${name}`)} · Imprint`;
  const root = h("div", { class: `place ${name}` });
  mount(main, root);
  place.enter(root, context);
  if (!first) main.focus({ preventScroll: true });
  scrollTo(0, 0);
}

function locked(problem) {
  const offline = problem.status === 0;
  mount(
    main,
    h(
      "div",
      { class: "card empty" },
      h("h1", {}, offline ? problem.title : t("locked")),
      h("p", {}, offline ? problem.detail : t("locked.remedy")),
      button(t("retry"), () => location.reload(), { kind: "button-primary", shape: "retry" }),
    ),
  );
}

function header() {
  const links = PLACES.map((name) => h("a", { href: `#${name}` }, t(`place.${name}`)));
  const engineers = h(
    "button",
    {
      type: "button",
      class: "round",
      "aria-label": t("gear"),
      title: t("gear"),
      onclick: async () => (await import("./gear.js")).openGear(context),
    },
    icon("gear"),
  );
  mount(
    document.getElementById("top"),
    h(
      "a",
      { class: "brand", href: "#try", "aria-label": "Imprint" },
      h("img", { src: "static/icon.svg", alt: "", width: 28, height: 28 }),
      h("span", {}, "Imprint"),
    ),
    h("nav", { "aria-label": t("places") }, ...links),
    saved,
    engineers,
  );
}

addEventListener("keydown", (event) => {
  const writing = event.target.closest?.("input:not([type=radio]), textarea, select, dialog");
  if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z" || writing || event.defaultPrevented) return;
  event.preventDefault();
  if (!event.shiftKey && place?.undo?.()) return; // a stroke, say
  if (context.project?.[event.shiftKey ? "can_redo" : "can_undo"])
    context.undo(event.shiftKey ? "/api/redo" : "/api/undo");
  else toast(t("undo.nothing"));
});
// A file dropped beside a place must not replace the page.
for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault());

header();
document.getElementById("skip").addEventListener("click", (event) => (event.preventDefault(), main.focus()));
try {
  await context.refresh();
  addEventListener("hashchange", () => show().catch(fail));
  await show();
} catch (problem) {
  if (problem.status === undefined) throw problem;
  locked(problem);
}
