// Try: draw, show to the camera, choose, drop or paste; one picture gets a live answer, many a table.

import { answerBars, percent, sentence } from "./answers.js";
import { api } from "./api.js";
import { cameraPossible, openCamera } from "./camera.js";
import { announce, button, download, fail, h, icon, mount, picture, sheet, t, toast } from "./dom.js";
import { drawingPad } from "./draw.js";
import { chosen, onFiles } from "./drop.js";

const SOURCES = { draw: "pen", camera: "camera", files: "upload" };
const BATCH = { files: 32, bytes: 16e6 };
const ROWS = 200; // of the table at a time

let source; // the way of showing that was used last
let here = null; // what leaving ends, and what Ctrl+Z undoes first

export const leave = () => {
  here?.end();
  here?.stop();
  here = null;
};
export const undo = () => here?.pad?.();

export function enter(root, context) {
  here = { end() {}, stop() {}, pad: null };
  if (!context.model) return empty(root, context);
  const glyph = context.model.input_spec?.glyph;
  source ??= glyph ? "draw" : cameraPossible() ? "camera" : "files";
  const body = h("div", { class: "try-body" });
  const intro = h("p", { class: "intro" });
  const name = (classes) => {
    const shown = classes.slice(0, 12).map((each) => h("span", { class: "chip" }, each));
    mount(intro, h("span", {}, t("try.knows", { n: classes.length })), ...shown,
      classes.length > 12 && h("span", { class: "soft" }, t("try.more", { n: classes.length - 12 })));
  };
  name(context.model.class_names);
  context.onProject(() => context.model && name(context.model.class_names));
  const tabs = Object.entries(SOURCES).map(([each, shape]) => h("label", {},
    h("input", { type: "radio", name: "source", value: each, checked: each === source, onchange: () => start(each) }),
    h("span", {}, icon(shape), t(`try.${each}`))));
  mount(root, h("div", { class: "title" }, h("h1", {}, t("try.title")), intro,
    h("fieldset", { class: "segmented" }, h("legend", { class: "unseen" }, t("try.how")), ...tabs)), body);
  const given = (files) => (files.length === 1 ? one(files[0]) : many(files));
  here.stop = onFiles(document.body, given);
  start(source);

  function start(chosenSource) {
    source = chosenSource;
    here.end();
    here.end = () => {};
    here.pad = null;
    ({ draw, camera, files })[source]();
  }

  function two(stage, answer) {
    mount(body, h("div", { class: "two" }, h("section", { class: "card stage", "aria-label": t(`try.${source}`) }, ...stage), answer));
  }

  function draw() {
    const answer = answerCard(context, t("try.draw.first"));
    const canvas = h("canvas", { class: "pad", tabindex: 0, role: "application", "aria-label": t("try.pad") });
    const buttons = [
      button(t("undo"), () => pad.undo(), { shape: "undo", disabled: true }),
      button(t("try.clear"), () => (pad.clear(), canvas.focus()), { shape: "trash", disabled: true }),
    ];
    two([h("div", { class: "square paper" }, canvas, h("p", { class: "ghost", "aria-hidden": "true" }, icon("pen"), t("try.draw.here"))),
      h("div", { class: "row" }, ...buttons)], answer.card);
    const pad = drawingPad(canvas, () => {
      for (const each of buttons) each.disabled = pad.empty;
      if (pad.empty) answer.clear();
      else answer.ask(pad.blob, "drawing.png");
    });
    here.pad = () => !pad.empty && (pad.undo(), true);
    here.end = answer.clear;
  }

  function camera() {
    const answer = answerCard(context, t("try.camera.first"));
    const video = h("video", { "aria-label": t("try.preview") });
    const box = h("div", { class: "square" }, video);
    const row = h("div", { class: "row" });
    let opened = null;
    let timer;
    two([box, row], answer.card);

    const stop = () => {
      clearTimeout(timer);
      opened?.stop();
      opened = null;
      video.remove();
    };
    const off = (reason) => {
      stop();
      answer.clear();
      const photo = h("label", { class: cameraPossible() ? "button" : "button button-primary" }, icon("camera"), t("try.photo"),
        h("input", { class: "unseen", type: "file", accept: "image/*", capture: "environment", onchange: (event) => given(chosen(event.target)) }));
      mount(box, h("div", { class: "still" }, icon("camera"),
        h("p", { role: reason && "alert" }, t(reason ? `camera.${reason}` : cameraPossible() ? "camera.off" : "camera.needs-https"))));
      mount(row, cameraPossible() && button(t(reason ? "retry" : "try.camera.start"), () => on(), { kind: "button-primary", shape: "camera" }),
        (reason || !cameraPossible()) && photo);
    };
    async function on(deviceId) {
      stop();
      mount(box, video, h("p", { class: "on" }, h("span", { class: "dot", "aria-hidden": "true" }), t("camera.on")));
      mount(row, h("p", { class: "soft" }, t("camera.starting")));
      try {
        const started = await openCamera(video, { deviceId, onend: () => off("none") });
        if (!video.isConnected) return started.stop();
        opened = started;
      } catch (error) {
        return video.isConnected && off(error.reason);
      }
      const { devices } = opened;
      mount(row, button(t("try.camera.stop"), () => off(), { shape: "stop" }),
        devices.length > 1 && h("select", { "aria-label": t("try.camera.choose"), onchange: (event) => on(event.target.value) },
          ...devices.map((device, i) => h("option", { value: device.deviceId, selected: device.deviceId === opened.deviceId },
            device.label || t("try.camera.number", { n: i + 1 })))));
      row.querySelector("button").focus();
      const look = async () => {
        const mine = opened;
        if (!document.querySelector("dialog")) await answer.ask(mine.capture, "camera.jpg");
        if (opened === mine) timer = setTimeout(look, 150);
      };
      look();
    }
    const hidden = () => document.hidden && opened && off();
    const escape = (event) => event.key === "Escape" && opened && !document.querySelector("dialog") && off();
    document.addEventListener("visibilitychange", hidden);
    document.addEventListener("keydown", escape);
    here.end = () => {
      stop();
      answer.clear();
      document.removeEventListener("visibilitychange", hidden);
      document.removeEventListener("keydown", escape);
    };
    off();
  }

  function files() {
    const pick = (text, shape, kind, props) => h("label", { class: `button ${kind}` }, icon(shape), text,
      h("input", { class: "unseen", type: "file", multiple: true, onchange: (event) => event.target.files.length && given(chosen(event.target)), ...props }));
    mount(body, h("section", { class: "card drop", "aria-label": t("try.files") }, icon("upload"),
      h("p", { class: "words" }, t("try.drop")), h("p", { class: "soft" }, t("try.paste")),
      h("div", { class: "row" }, pick(t("try.choose"), "picture", "button-primary", { accept: "image/*" }),
        pick(t("try.folder"), "upload", "wide-only", { webkitdirectory: true }))));
  }

  /** A single picture, large, beside its answer; `back` returns to the table that it came from. */
  function one(file, known, back) {
    select("files");
    const answer = answerCard(context, t("try.thinking"));
    two([h("div", { class: "square" }, picture(file.blob, file.path)),
      h("p", { class: "soft name" }, file.path),
      h("div", { class: "row" }, back ? button(t("try.back"), back, { shape: "undo" }) : button(t("try.another"), () => start("files"), { shape: "upload" }))],
    answer.card);
    here.end = answer.clear;
    if (known) answer.show(known, file.blob, file.path);
    else answer.ask(() => file, file.path);
    body.querySelector("button").focus({ preventScroll: true });
  }

  async function many(given) {
    select("files");
    const files = sorted(given);
    const progress = h("progress", { max: files.length, value: 0, "aria-label": t("try.reading", { n: files.length }) });
    mount(body, h("section", { class: "card empty" }, h("p", { class: "words" }, t("try.reading", { n: files.length })), progress,
      button(t("cancel"), () => start("files"))));
    const stopping = new AbortController();
    here.end = () => stopping.abort();
    const results = [];
    try {
      for (const batch of batches(files)) {
        const { predictions } = await api.upload("/v1/predict", batch, {}, { signal: stopping.signal });
        predictions.forEach((answer, i) => results.push({ ...answer, source: batch[i].path, file: batch[i] }));
        progress.value = results.length;
      }
    } catch (problem) {
      if (problem.name === "AbortError") return;
      start("files");
      return fail(problem);
    }
    here.end = () => {};
    table(results);
  }

  function table(results) {
    const good = results.filter((each) => each.probabilities);
    const bad = results.filter((each) => !each.probabilities);
    good.sort((a, b) => b.unsure - a.unsure || a.confidence - b.confidence);
    const rows = h("tbody");
    const more = button(t("try.show.more"), () => show(), {});
    const all = [...bad, ...good];
    const show = () => {
      const begin = rows.children.length;
      rows.append(...all.slice(begin, begin + ROWS).map((each) => row(each, () => one(each.file, each, () => table(results)))));
      more.hidden = rows.children.length >= all.length;
    };
    show();
    const unsure = good.filter((each) => each.unsure).length;
    const summary = [t("try.pictures", { n: results.length }), unsure ? t("try.unsure", { n: unsure }) : t("try.none.unsure"), bad.length && t("try.bad", { n: bad.length })];
    mount(body, h("section", { class: "card" },
      h("div", { class: "row spread" }, h("h2", { tabindex: -1 }, summary.filter(Boolean).join(" · ")),
        h("div", { class: "row" }, button(t("try.csv"), () => download(new Blob([csv(results)], { type: "text/csv" }), "predictions.csv"), { kind: "button-primary", shape: "down", disabled: !good.length }),
          button(t("try.others"), () => start("files"), { shape: "upload" }))),
      h("p", { class: "soft" }, t("try.order")),
      h("table", { class: "answers" }, h("thead", {}, h("tr", {}, ...["picture", "answer", "confidence", "note"].map((each) => h("th", { scope: "col" }, t(`try.column.${each}`))))), rows),
      more));
    announce(summary.filter(Boolean).join(", "));
    body.querySelector("h2").focus({ preventScroll: true });
  }

  function select(each) {
    here.end();
    here.end = () => {};
    here.pad = null;
    source = each;
    root.querySelector(`input[value=${each}]`).checked = true;
  }
}

/** As `imprint predict` orders a folder: by path. */
const sorted = (files) => [...files].sort((a, b) => (a.path < b.path ? -1 : 1));

function* batches(files) {
  let [batch, bytes] = [[], 0];
  for (const file of files) {
    if (batch.length && (batch.length === BATCH.files || bytes + file.blob.size > BATCH.bytes)) {
      yield batch;
      [batch, bytes] = [[], 0];
    }
    batch.push(file);
    bytes += file.blob.size;
  }
  if (batch.length) yield batch;
}

function row(answer, open) {
  const name = h("td", { class: "who" }, picture(answer.file.blob, "", { loading: "lazy", decoding: "async" }),
    answer.probabilities ? h("button", { type: "button", class: "link", onclick: open }, answer.source) : h("span", {}, answer.source));
  if (!answer.probabilities) return h("tr", { class: "bad" }, name, h("td", { colspan: 3 }, answer.title, " ", answer.detail ?? ""));
  const fill = h("span", { class: "fill" });
  fill.style.width = `${answer.confidence * 100}%`;
  return h("tr", { class: answer.unsure ? "unsure" : "" }, name, h("td", { class: "label" }, answer.label),
    h("td", { class: "share" }, h("span", { class: "bar", "aria-hidden": "true" }, fill), h("span", { class: "number" }, percent(answer.confidence))),
    h("td", { class: "note" }, answer.unsure ? t(`why.${answer.why === "strange" ? "strange" : "low"}`) : ""));
}

/** The file that `imprint predict` writes: in the order of the files, four decimals, ties to even. */
export function csv(results) {
  const quoted = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const decimals = (share) => {
    const tie = (share * 32) % 1 === 0 && Math.floor(share * 1e4) % 2 === 0; // only multiples of 1/32 end in a 5
    return (tie ? Math.floor(share * 1e4) / 1e4 : share).toFixed(4);
  };
  const lines = results.filter((each) => each.probabilities)
    .map((each) => [quoted(each.source), quoted(each.label), decimals(each.confidence), each.unsure ? "yes" : "no", each.why]);
  return [["source", "label", "confidence", "unsure", "why"], ...lines].map((line) => `${line.join(",")}\n`).join("");
}

/** Where the answer to one picture is shown, with what may be done about it. */
function answerCard(context, hint) {
  const place = h("div", { class: "result" });
  const [wrong, why] = [button(t("wrong"), () => correct(context, current), {}), button(t("why"), () => explain(current), {})];
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
    busy = true;
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
    busy = false;
  }

  function trouble(problem, capture, name) {
    clear();
    mount(place, h("div", { class: "trouble", role: "alert" },
      h("p", { class: "words" }, problem.title), problem.detail && h("p", {}, problem.detail),
      [0, 503].includes(problem.status) && button(t("retry"), () => ask(capture, name), { shape: "retry" })));
  }
  clear();
  return { card, ask, show, clear };
}

/** «Wrong?»: one tap on the right class, or its key 1 to 9. */
function correct(context, { blob, prediction }) {
  const classes = context.project.classes;
  const give = async (each) => {
    dialog.close();
    try {
      await api.upload("/api/corrections", [{ blob, path: "picture" }], { class: each.id });
      toast(t("corrected", { label: each.name }), { action: t("undo"), onaction: () => context.undo() });
      context.refresh();
    } catch (problem) {
      fail(problem);
    }
  };
  const short = classes.every((each) => each.name.length === 1); // a digit's key is the digit
  const keys = classes.map((each, i) => (short ? each.name : i < 9 && `${i + 1}`));
  const chips = classes.map((each, i) => h("button", { type: "button", class: "chip choice", onclick: () => give(each) },
    !short && keys[i] && h("kbd", {}, keys[i]), each.name));
  const dialog = sheet(t("wrong.title"), h("div", { class: "square small" }, picture(blob, "")),
    h("p", { class: "soft" }, t(prediction.unsure ? "wrong.unsure" : "wrong.said", { label: prediction.label })),
    h("div", { class: "chips" }, ...chips), h("a", { class: "button", href: "#teach", onclick: () => dialog.close() }, t("wrong.new")));
  dialog.addEventListener("keydown", (event) => chips[keys.indexOf(event.key)]?.click());
}

/** «Why?»: where in the picture the network looked. */
async function explain({ blob, prediction }) {
  const where = h("div", { class: "square" }, h("p", { class: "still" }, t("why.wait")));
  const text = h("p", { class: "words", role: "status" });
  sheet(t("why.title", { label: prediction.label }), h("div", { class: "pair" }, h("div", { class: "square" }, picture(blob, t("why.picture"))), where), text);
  try {
    mount(where, picture(await api.send("/api/explain", blob), t("why.map")));
    text.textContent = t("why.text");
  } catch (problem) {
    mount(where, h("p", { class: "still" }, problem.title, " ", problem.detail));
  }
}

/** No model yet, or one that is being prepared. */
function empty(root, context) {
  const show = () => mount(root, context.preparing
    ? h("div", { class: "card empty", role: "status" }, h("h1", {}, t("try.preparing")), h("progress", { "aria-label": t("try.preparing") }))
    : h("div", { class: "card empty" }, h("h1", {}, t("try.empty")), h("p", { class: "words" }, t("try.empty.text")),
      h("a", { class: "button button-primary", href: "#teach" }, t("try.empty.go"))));
  show();
  let waiting = true;
  context.onProject(() => {
    if (!waiting) return;
    waiting = !context.model;
    if (waiting) show();
    else enter(root, context);
  });
}
