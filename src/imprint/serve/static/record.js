// The stage: the camera or the drawing pad that classes are recorded from, and the live answer to what is on it.

import { api } from "./api.js";
import { cameraChoice, cameraLight, cameraPossible, openCamera, photoButton } from "./camera.js";
import { announce, button, h, icon, mount, t, toast } from "./dom.js";
import { drawingStage } from "./draw.js";
import { chosen } from "./drop.js";
import { addFiles, newTake, told } from "./takes.js";
import { answerCard } from "./result.js";

const EVERY = 120; // ms between two pictures of a burst
const MOST = 300; // pictures of one burst
const LOOK = 150; // ms between two live answers
const PHOTOS = 60000; // ms within which single photos of a class are one take

/** The stage for the classes of `teach`: `active()` gives the card that is recorded; `chips` choose it on a phone. */
export function createStage(context, teach, chips) {
  const box = h("div", { class: "square" });
  const controls = h("div", { class: "row stage-controls" });
  const thumb = h("button", { type: "button", class: "button button-primary thumb" });
  const answer = answerCard(context, t("teach.answer.none"));
  // On a phone the answer is a sheet from below, of which a line is shown until it is opened.
  const handle = h("button", {
    type: "button",
    class: "handle",
    "aria-expanded": "false",
    "aria-label": t("teach.sheet"),
    onclick: () => handle.setAttribute("aria-expanded", String(below.classList.toggle("open"))),
  });
  const below = h("div", { class: "answer-sheet" }, handle, answer.card);
  const modes = ["camera", "draw"].map((each) =>
    h(
      "label",
      {},
      h("input", {
        type: "radio",
        name: "stage",
        value: each,
        checked: each === "camera",
        onchange: () => setMode(each),
      }),
      h("span", {}, icon(each === "draw" ? "pen" : "camera"), t(`try.${each}`)),
    ),
  );
  const heading = h("h2", { id: "stage-title", tabindex: -1 });
  const element = h(
    "section",
    { class: "card stage", "aria-labelledby": "stage-title" },
    h(
      "div",
      { class: "stage-head" },
      heading,
      h("fieldset", { class: "segmented" }, h("legend", { class: "unseen" }, t("teach.stage.how")), ...modes),
    ),
    box,
    controls,
    h("div", { class: "dock" }, chips, thumb, below),
  );
  let mode = "camera";
  let [opened, opening, held, taking, pad, timer] = [null, null, false, false, null, 0];
  let holder = null; // the button that is held
  let photos = null; // the take that single photos join, {card, take, when}
  const video = h("video", { "aria-label": t("try.preview") });
  const tally = h("span", { class: "tally", "aria-hidden": "true" });
  const light = cameraLight(tally);

  function setMode(next) {
    if (mode === next && box.firstChild) return;
    mode = next;
    element.querySelector(`input[value=${next}]`).checked = true;
    element.classList.toggle("drawing", mode === "draw");
    close();
    answer.clear();
    pad = null;
    if (mode === "draw") showPad();
    else showOff();
    label();
  }

  // The camera

  function close() {
    clearTimeout(timer);
    held = false;
    opened?.stop();
    opened = null;
    element.classList.remove("live");
  }

  function showOff(reason) {
    close();
    answer.clear();
    const possible = cameraPossible();
    const trouble = reason ?? (possible ? null : "needs-https");
    mount(controls);
    mount(
      box,
      h(
        "div",
        { class: "still" },
        icon("camera"),
        h("p", { role: trouble && "alert" }, t(`camera.${trouble ?? "off"}`)),
        possible && button(t(trouble ? "retry" : "try.camera.start"), () => open(), { shape: "camera" }),
        trouble && photoButton(photo),
      ),
    );
    label();
  }

  async function photo(input) {
    const card = teach.active();
    const files = chosen(input);
    input.value = "";
    if (photos?.card !== card || Date.now() - photos.when > PHOTOS)
      photos = { card, take: newTake(card.ensure, "camera") };
    photos.when = Date.now();
    photos.take.add(files);
    await told(context, card.name, photos.take);
    if (context.model && files[0]) answer.ask(() => files[0], "photo.jpg");
  }

  /** Open the camera; true when it is open. */
  function open(deviceId) {
    return (opening ??= start(deviceId).finally(() => (opening = null)));
  }

  async function start(deviceId) {
    opened?.stop();
    opened = null;
    mount(box, video, light);
    mount(controls, h("p", { class: "soft" }, t("camera.starting")));
    try {
      const started = await openCamera(video, { deviceId, onend: () => showOff("none") });
      if (!video.isConnected) return (started.stop(), false);
      opened = started;
    } catch (error) {
      if (video.isConnected) showOff(error.reason);
      return false;
    }
    element.classList.add("live");
    mount(
      box,
      video,
      light,
      h(
        "button",
        {
          type: "button",
          class: "round stop",
          "aria-label": t("teach.camera.stop"),
          title: t("teach.camera.stop"),
          onclick: () => showOff(),
        },
        icon("close"),
      ),
    );
    mount(controls, cameraChoice(opened, open));
    label();
    look();
    return true;
  }

  async function look() {
    const mine = opened;
    clearTimeout(timer);
    if (context.model && !taking && !document.hidden && !document.querySelector("dialog"))
      await answer.ask(mine.capture, "camera.jpg");
    if (mine && opened === mine) timer = setTimeout(look, LOOK);
  }

  /** Record pictures of a class for as long as it is held: one take. */
  async function hold(card, long = Infinity) {
    if (taking) return;
    held = true;
    teach.choose(card);
    setMode("camera");
    if (!opened && !(await open())) return;
    if (!held) return toast(t("teach.hold.now", { name: card.name }));
    taking = true;
    card.recording(true);
    element.classList.add("recording");
    const take = newTake(card.ensure, "camera");
    let n = 0;
    const until = Date.now() + long;
    do {
      const next = new Promise((resolve) => setTimeout(resolve, EVERY));
      const blob = await opened.capture();
      if (!blob) break;
      take.add([blob]);
      tally.textContent = t("teach.tally", { name: card.name, n: ++n });
      card.pending(blob);
      await next;
    } while (held && opened && n < MOST && Date.now() < until);
    held = taking = false;
    tally.textContent = "";
    element.classList.remove("recording");
    card.recording(false);
    const added = await told(context, card.name, take);
    if (n === 1) toast(t("teach.hold.longer"));
    else if (added) announce(t("teach.added", { n: added, name: card.name }));
  }

  const release = () => (held = false);

  /** Make a button record what `card` gives while it is held, by pointer or key; a bare click is a short burst. */
  function holdable(node, card) {
    const key = (event) => [" ", "Enter"].includes(event.key) && card() && (event.preventDefault(), true);
    const press = () => ((holder = node), hold(card()));
    node.addEventListener("pointerdown", (event) => {
      if (event.button || !card()) return;
      node.setPointerCapture(event.pointerId);
      press();
    });
    for (const name of ["pointerup", "pointercancel", "lostpointercapture", "blur"])
      node.addEventListener(name, () => holder === node && release());
    node.addEventListener("contextmenu", (event) => event.preventDefault()); // of a long touch
    node.addEventListener("keydown", (event) => key(event) && !event.repeat && press());
    node.addEventListener("keyup", (event) => key(event) && release());
    node.addEventListener("click", (event) => event.detail === 0 && card() && hold(card(), 1500)); // by a screen reader
  }

  // The drawing pad

  function showPad() {
    const stage = drawingStage(() => {
      thumb.disabled = pad.empty;
      if (pad.empty) answer.clear();
      else if (context.model) answer.ask(pad.blob, "drawing.png");
    });
    const { canvas } = stage;
    pad = stage.pad;
    mount(box, canvas, stage.ghost);
    mount(controls, ...stage.buttons);
    canvas.addEventListener("keydown", (event) => event.key === "Enter" && save());
  }

  async function save() {
    if (pad.empty) return;
    const card = teach.active();
    const blob = await pad.blob();
    pad.clear();
    card.pending(blob);
    await addFiles(context, card, [blob], "drawing"); // each drawing is a take of its own
    announce(t("teach.added", { n: 1, name: card.name }));
  }

  function draw(card) {
    teach.choose(card);
    setMode("draw");
    box.querySelector("canvas").focus();
  }

  // The large button below: for the thumb on a phone, and to save a drawing.

  function label() {
    const { name } = teach.active();
    heading.textContent = t(context.model ? "teach.stage" : "teach.stage.first");
    thumb.disabled = mode === "draw" && (!pad || pad.empty);
    thumb.hidden = mode === "camera" && !cameraPossible();
    mount(
      thumb,
      icon(mode === "draw" ? "check" : "record"),
      h("span", {}, t(mode === "draw" ? "teach.save.drawing" : "teach.hold.as", { name })),
    );
  }
  holdable(thumb, () => mode === "camera" && teach.active());
  thumb.addEventListener("click", () => mode === "draw" && save());

  const hidden = () => document.hidden && opened && showOff();
  const escape = (event) =>
    event.key === "Escape" && opened && !document.querySelector("dialog") && (showOff(), announce(t("camera.off")));
  document.addEventListener("visibilitychange", hidden);
  document.addEventListener("keydown", escape);
  addEventListener("blur", release);

  return {
    element,
    hold,
    release,
    holdable,
    draw,
    label,
    start: () => setMode(mode),
    get recording() {
      return taking;
    },
    get live() {
      return Boolean(opened) || mode === "draw";
    },
    undo: () => Boolean(pad && !pad.empty && (pad.undo(), true)),
    clear: answer.clear,
    end() {
      close();
      answer.clear();
      document.removeEventListener("visibilitychange", hidden);
      document.removeEventListener("keydown", escape);
      removeEventListener("blur", release);
    },
  };
}
