// The middle column: train, watch it learn, and what came of it.

import { api, watchTraining } from "./api.js";
import { announce, button, fail, h, icon, mount, t, toast } from "./dom.js";

const RECIPES = ["", "probe", "quick", "finetune", "photos", "best"];

function svg(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Accuracy over the epochs, as a line with its last value. */
function curve(points) {
  const [wide, tall] = [300, 90];
  const xy = points.map(({ accuracy }, i) => [
    points.length > 1 ? (i / (points.length - 1)) * wide : wide,
    tall - 4 - accuracy * (tall - 8),
  ]);
  if (xy.length === 1) xy.unshift([0, xy[0][1]]);
  const line = xy.map((each) => each.map((value) => value.toFixed(1)).join(" ")).join("L");
  return svg(
    "svg",
    { viewBox: `0 0 ${wide} ${tall}`, class: "curve", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("path", { class: "area", d: `M0 ${tall}L${line}L${wide} ${tall}Z` }),
    svg("path", { class: "line", d: `M${line}` }),
  );
}

export const running = (training) => ["training", "warming"].includes(training?.state);

/** How a new version did against the one before, in the order of the words of the comparison. */
export function verdict({ text, keep }) {
  return h("p", { class: `verdict ${keep}` }, text);
}

/** The card with Train; `blocked()` tells in words why training cannot begin, or gives an empty text. */
export function createTraining(context, { blocked, onstate }) {
  const train = h("button", {
    type: "button",
    class: "button train",
    onclick: start,
    "aria-describedby": "train-note",
  });
  const note = h("p", { class: "soft train-note", id: "train-note" });
  const live = h("div", { class: "learning" });
  const result = h("div", { class: "outcome" });
  const recipe = h(
    "select",
    { id: "recipe" },
    ...RECIPES.map((each) => h("option", { value: each }, t(`teach.recipe.${each || "auto"}`))),
  );
  const seed = h("input", { id: "seed", type: "number", min: 0, max: 2 ** 31 - 1, step: 1, placeholder: "0" });
  const share = h("input", {
    id: "held-out",
    type: "number",
    min: 0,
    max: 50,
    step: 5,
    placeholder: t("teach.share.auto"),
  });
  const field = (key, input) => h("label", { class: "field" }, h("span", {}, t(`teach.${key}`)), input);
  const more = h(
    "details",
    { class: "more" },
    h("summary", {}, t("teach.more")),
    h("div", { class: "fields" }, field("recipe", recipe), field("seed", seed), field("share", share)),
  );
  const element = h(
    "section",
    { class: "card model", "aria-labelledby": "model-title" },
    h("h2", { id: "model-title" }, t("teach.model")),
    h("div", { class: "train-row" }, train, note),
    live,
    result,
    more,
  );
  let state = context.project.training ?? { state: "idle" };
  let lasted = null; // seconds of the last training
  let [versions, mistakes] = [[], 0];

  async function start() {
    if (running(state)) return cancel();
    const reason = blocked();
    if (reason) return toast(reason);
    const options = {};
    if (recipe.value) options.recipe = recipe.value;
    if (seed.value) options.seed = Number(seed.value);
    if (share.value) options.held_out = Number(share.value) / 100;
    try {
      update(await api.post("/api/train", options));
    } catch (problem) {
      fail(problem);
      context.refresh();
    }
  }

  async function cancel() {
    try {
      update(await api.delete("/api/train"));
    } catch (problem) {
      fail(problem);
    }
  }

  function update(next) {
    const before = state;
    state = next;
    if (running(state)) learning();
    if (running(before) && !running(state)) ended();
    else if (state.version && state.version !== before.version) context.refresh().catch(() => {}); // answers already
    draw();
    onstate(state);
  }

  function learning() {
    const last = state.curve?.at(-1);
    const left = state.seconds_left;
    mount(
      live,
      h(
        "p",
        { class: "learning-words" },
        state.state === "warming" ? t("teach.warming") : state.message || t("teach.learning"),
      ),
      last
        ? h(
            "div",
            { class: "chart" },
            curve(state.curve),
            h("p", { class: "accuracy" }, last.accuracy.toFixed(2), h("span", { class: "soft" }, t("teach.accuracy"))),
          )
        : h("progress", {
            "aria-label": t("teach.learning"),
            ...(left == null ? {} : { max: state.seconds + left, value: state.seconds }),
          }),
    );
  }

  const time = () =>
    state.seconds_left == null
      ? t(state.seconds < 1 ? "teach.some.seconds" : "teach.time", { n: Math.round(state.seconds) })
      : t("teach.left", { n: Math.max(Math.ceil(state.seconds_left), 1) });

  async function ended() {
    mount(live);
    if (state.state === "failed") fail({ title: t("teach.failed"), detail: state.message });
    if (state.state === "cancelled") toast(t("teach.cancelled"));
    await context.refresh().catch(() => {});
    onstate(state);
    await known();
    if (state.state === "done")
      announce([t("teach.done", { n: Math.ceil(state.seconds) }), summary()].filter(Boolean).join(" "));
  }

  const summary = () => context.project.score?.text ?? context.project.why_no_score ?? "";

  /** Read the versions, for what the latest was compared with, and the number of mistakes. */
  async function known() {
    const [all, report] = await Promise.all(
      ["/api/versions", "/api/check"].map((path) => api.get(path).catch(() => null)),
    );
    [versions, mistakes] = [all ?? [], report?.mistakes?.length ?? 0];
    draw();
  }

  function draw() {
    const busy = running(state);
    const { project } = context;
    if (state.seconds && state.state === "done") lasted = state.seconds;
    const reason = blocked();
    mount(
      train,
      icon(busy ? "stop" : "spark"),
      busy ? t("cancel") : t(project.model?.version ? "teach.train.again" : "teach.train"),
      !busy &&
        h(
          "span",
          { class: "train-count", "aria-hidden": "true" },
          `· ${project.classes.reduce((sum, each) => sum + each.samples, 0)}`,
        ),
    );
    train.classList.toggle("button-primary", !busy && !reason && (!project.model?.version || project.changed));
    train.setAttribute("aria-disabled", String(!busy && Boolean(reason)));
    note.textContent = busy
      ? time()
      : reason || (lasted ? t("teach.seconds", { n: Math.max(Math.round(lasted), 1) }) : t("teach.some.seconds"));
    element.classList.toggle("busy", busy);
    result.hidden = busy;
    const { score, why_no_score: none } = project;
    const latest = versions[0];
    mount(
      result,
      score && scoreLine(score),
      project.model?.version && !score && h("p", { class: "no-score" }, none ?? t("teach.no.score")),
      latest?.comparison && verdict(latest.comparison),
      project.model?.version &&
        h(
          "a",
          { class: "button", href: "#check" },
          latest?.comparison
            ? t("teach.compare")
            : mistakes
              ? t("teach.see.mistakes", { n: mistakes })
              : t("teach.see.check"),
        ),
    );
  }

  const stop = watchTraining(update);
  known();
  const ticking = setInterval(
    () =>
      running(state) &&
      state.seconds_left > 0 &&
      update({ ...state, seconds: state.seconds + 1, seconds_left: state.seconds_left - 1 }),
    1000,
  );
  return {
    element,
    start,
    draw,
    get state() {
      return state;
    },
    end() {
      stop();
      clearInterval(ticking);
    },
  };
}

/** "14 of 16 right, 64 to 97 of 100", and by which method that is known. */
export function scoreLine({ right, images, interval, method, text }) {
  // As the server rounded it for the words that stand elsewhere.
  const [low, high] = text.match(/\((\d+) to (\d+)/)?.slice(1) ?? interval.map((end) => Math.round(end * 100));
  return h(
    "div",
    { class: "score" },
    h("p", {}, h("strong", {}, t("check.of", { right, n: images }))),
    h("p", { class: "soft" }, t("check.range", { low, high }), " ", t(`check.method.${method}`)),
  );
}
