// Try: draw, show to the camera, choose, drop or paste; one picture gets a live answer, many a table.

import { cameraChoice, cameraLight, cameraPossible, openCamera, photoButton } from "./camera.js";
import { button, h, icon, mount, picture, t } from "./dom.js";
import { drawingStage } from "./draw.js";
import { chosen, onFiles } from "./drop.js";
import { answerCard } from "./result.js";
import { answerMany } from "./table.js";

const SOURCES = { draw: "pen", camera: "camera", files: "upload" };

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
  source ??= context.model.reads_glyphs ? "draw" : cameraPossible() ? "camera" : "files";
  const body = h("div", { class: "try-body" });
  const intro = h("p", { class: "intro" });
  const name = (classes) => {
    let room = 70; // letters
    const shown = classes.slice(0, 12).filter((each) => (room -= each.length + 4) > 0);
    mount(
      intro,
      h("span", {}, t("try.knows", { n: classes.length })),
      ...shown.map((each) => h("span", { class: "chip" }, each)),
      classes.length > shown.length && h("span", {}, t("try.more", { n: classes.length - shown.length })),
    );
  };
  name(context.model.classes);
  context.onProject(() => context.model && name(context.model.classes));
  const tabs = Object.entries(SOURCES).map(([each, shape]) =>
    h(
      "label",
      {},
      h("input", { type: "radio", name: "source", value: each, checked: each === source, onchange: () => start(each) }),
      h("span", {}, icon(shape), t(`try.${each}`)),
    ),
  );
  mount(
    root,
    h(
      "div",
      { class: "title" },
      h("h1", {}, t("try.title")),
      intro,
      h("fieldset", { class: "segmented" }, h("legend", { class: "unseen" }, t("try.how")), ...tabs),
    ),
    body,
  );
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
    mount(
      body,
      h(
        "div",
        { class: "two" },
        h("section", { class: "card stage", "aria-label": t(`try.${source}`) }, ...stage),
        answer,
      ),
    );
  }

  function draw() {
    const answer = answerCard(context, t("try.draw.first"));
    const { canvas, ghost, buttons, pad } = drawingStage(() =>
      pad.empty ? answer.clear() : answer.ask(pad.blob, "drawing.png"),
    );
    two(
      [h("div", { class: "square paper" }, canvas, ghost), h("div", { class: "row" }, ...buttons)],
      answer.card,
    );
    here.pad = () => !pad.empty && (pad.undo(), true);
    here.end = answer.clear;
  }

  function camera() {
    const answer = answerCard(context, t(cameraPossible() ? "try.camera.first" : "try.photo.first"));
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
      mount(
        box,
        h(
          "div",
          { class: "still" },
          icon("camera"),
          h(
            "p",
            { role: reason && "alert" },
            t(reason ? `camera.${reason}` : cameraPossible() ? "camera.off" : "camera.needs-https"),
          ),
        ),
      );
      mount(
        row,
        cameraPossible() &&
          button(t(reason ? "retry" : "try.camera.start"), () => on(), { kind: "button-primary", shape: "camera" }),
        (reason || !cameraPossible()) &&
          photoButton((input) => given(chosen(input)), cameraPossible() ? "" : "button-primary"),
      );
    };
    async function on(deviceId) {
      stop();
      mount(box, video, cameraLight());
      mount(row, h("p", { class: "soft" }, t("camera.starting")));
      try {
        const started = await openCamera(video, { deviceId, onend: () => off("none") });
        if (!video.isConnected) return started.stop();
        opened = started;
      } catch (error) {
        return video.isConnected && off(error.reason);
      }
      mount(row, button(t("try.camera.stop"), () => off(), { shape: "stop" }), cameraChoice(opened, on));
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
    const pick = (text, shape, kind, props) =>
      h(
        "label",
        { class: `button ${kind}` },
        icon(shape),
        text,
        h("input", {
          class: "unseen",
          type: "file",
          multiple: true,
          onchange: (event) => event.target.files.length && given(chosen(event.target)),
          ...props,
        }),
      );
    mount(
      body,
      h(
        "section",
        { class: "card drop", "aria-label": t("try.files") },
        icon("upload"),
        h("p", { class: "words" }, t("try.drop")),
        h("p", { class: "soft" }, t("try.paste")),
        h(
          "div",
          { class: "row" },
          pick(t("try.choose"), "picture", "button-primary", { accept: "image/*" }),
          pick(t("try.folder"), "upload", "wide-only", { webkitdirectory: true }),
        ),
      ),
    );
  }

  /** A single picture, large, beside its answer; `back` returns to the table that it came from. */
  function one(file, known, back) {
    select("files");
    const answer = answerCard(context, t("try.thinking"));
    two(
      [
        h("div", { class: "square" }, picture(file.blob, file.path)),
        h("p", { class: "soft name" }, file.path),
        h(
          "div",
          { class: "row" },
          back
            ? button(t("try.back"), back, { shape: "undo" })
            : button(t("try.another"), () => start("files"), { shape: "upload" }),
        ),
      ],
      answer.card,
    );
    here.end = answer.clear;
    if (known) answer.show(known, file.blob, file.path);
    else answer.ask(() => file, file.path);
    body.querySelector("button").focus({ preventScroll: true });
  }

  function many(given) {
    select("files");
    here.end = answerMany(body, given, {
      again: () => start("files"),
      open: (each, back) => one(each.file, each, back),
    });
  }

  function select(each) {
    here.end();
    here.end = () => {};
    here.pad = null;
    source = each;
    root.querySelector(`input[value=${each}]`).checked = true;
  }
}

/** No model yet, or one that is being prepared. */
function empty(root, context) {
  const show = () =>
    mount(
      root,
      context.preparing
        ? h(
            "div",
            { class: "card empty", role: "status" },
            h("h1", {}, t("try.preparing")),
            h("progress", { "aria-label": t("try.preparing") }),
          )
        : h(
            "div",
            { class: "card empty" },
            h("h1", {}, t("try.empty")),
            h("p", { class: "words" }, t("try.empty.text")),
            h("a", { class: "button button-primary", href: "#teach" }, t("try.empty.go")),
          ),
    );
  show();
  let waiting = true;
  context.onProject(() => {
    if (!waiting) return;
    waiting = !context.model;
    if (waiting) show();
    else enter(root, context);
  });
}
