// A drawing pad. Strokes are kept as lines, so that they can be undone, shown in the colours of the page, and sent as
// black ink on white paper with a pen that suits the size of the drawing.

import { button, h, icon, t } from "./dom.js";

const SIDE = 280; // of the picture sent; strokes are kept in these units
const PEN = 20; // on the screen
const STEP = 7; // a press of an arrow key

/** A canvas to draw on with its ghost, buttons to undo and clear, and what `drawingPad` gives. */
export function drawingStage(onChange) {
  const canvas = h("canvas", { class: "pad", tabindex: 0, role: "application", "aria-label": t("try.pad") });
  const buttons = [
    button(t("undo"), () => pad.undo(), { shape: "undo", disabled: true }),
    button(t("try.clear"), () => (pad.clear(), canvas.focus()), { shape: "trash", disabled: true }),
  ];
  const ghost = h("p", { class: "ghost", "aria-hidden": "true" }, icon("pen"), t("try.draw.here"));
  const pad = drawingPad(canvas, () => {
    for (const each of buttons) each.disabled = pad.empty;
    onChange(pad);
  });
  return { canvas, ghost, buttons, pad };
}

/**
 * Make a canvas a drawing pad: mouse, finger, pen, or arrow keys with Space to lower and lift the pen.
 * `onChange` is called while drawing, with true at the end of a stroke.
 */
function drawingPad(canvas, onChange = () => {}) {
  const context = canvas.getContext("2d");
  let strokes = [];
  let current = null; // the stroke being drawn
  let cursor = null; // of the keyboard
  const colour = (name) => getComputedStyle(canvas).getPropertyValue(name).trim();

  const resize = () => {
    const side = Math.round(canvas.clientWidth * devicePixelRatio) || SIDE;
    if (canvas.width !== side) canvas.width = canvas.height = side;
    show();
  };

  function show() {
    context.setTransform(canvas.width / SIDE, 0, 0, canvas.width / SIDE, 0, 0);
    context.clearRect(0, 0, SIDE, SIDE);
    paint(context, strokes, PEN, colour("--pen"));
    if (!cursor) return;
    context.strokeStyle = colour("--accent");
    context.lineWidth = 2;
    context.beginPath();
    context.arc(...cursor, current ? PEN / 2 : PEN / 2 + 4, 0, 7);
    context.stroke();
  }

  function changed(ended) {
    canvas.classList.toggle("blank", !strokes.length);
    show();
    onChange(ended);
  }

  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top].map((value) => (value / box.width) * SIDE);
  };
  const begin = (point) => strokes.push((current = [point]));
  const end = () => {
    if (!current) return;
    current = null;
    changed(true);
  };

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button || !event.isPrimary) return;
    canvas.setPointerCapture(event.pointerId);
    cursor = null;
    begin(at(event));
    changed(false);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!current || cursor || !event.isPrimary) return;
    const events = event.getCoalescedEvents?.() ?? [];
    current.push(...(events.length ? events : [event]).map(at));
    changed(false);
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => cursor || end());
  canvas.addEventListener("blur", () => {
    cursor = null;
    end();
    show();
  });
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] }[event.key];
    if (!move && event.key !== " ") return;
    event.preventDefault();
    cursor ??= [SIDE / 2, SIDE / 4];
    if (!move && current) end();
    else if (!move) begin([...cursor]);
    else cursor = cursor.map((value, axis) => Math.min(Math.max(value + move[axis], 0), SIDE));
    if (move && current) current.push([...cursor]);
    if (current) changed(false);
    show();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  new ResizeObserver(resize).observe(canvas);
  canvas.classList.add("blank");
  resize();

  return {
    get empty() {
      return !strokes.length;
    },
    clear() {
      [strokes, current] = [[], null];
      changed(true);
    },
    undo() {
      strokes.pop();
      current = null;
      changed(true);
    },
    /** The drawing as a PNG of 280 × 280, black on white. */
    blob() {
      const sent = document.createElement("canvas");
      sent.width = sent.height = SIDE;
      const paper = sent.getContext("2d");
      paper.fillStyle = "#fff";
      paper.fillRect(0, 0, SIDE, SIDE);
      paint(paper, strokes, pen(strokes), "#000");
      return new Promise((resolve) => sent.toBlob(resolve, "image/png"));
    },
  };
}

/**
 * A pen that stays in proportion to what was drawn: a small figure is no blot, a large one no hair at 28 pixels. Of 180
 * digits a model of 8 × 8 pixels read 175 so, and 156 with a pen of fixed width (docs/page.md).
 */
function pen(strokes) {
  const [xs, ys] = [0, 1].map((axis) => strokes.flat().map((point) => point[axis]));
  const side = Math.max(...[xs, ys].map((values) => Math.max(...values) - Math.min(...values)), 0);
  return Math.min(Math.max(side / 9, 6), 24);
}

function paint(context, strokes, width, colour) {
  Object.assign(context, { lineCap: "round", lineJoin: "round", lineWidth: width, strokeStyle: colour });
  for (const points of strokes) {
    context.beginPath();
    context.moveTo(...points[0]);
    // Through the middles of what the mouse reported, so that few points still make a curve.
    for (let i = 1; i < points.length - 1; i++) {
      const middle = [0, 1].map((axis) => (points[i][axis] + points[i + 1][axis]) / 2);
      context.quadraticCurveTo(...points[i], ...middle);
    }
    context.lineTo(...points.at(-1));
    context.stroke();
  }
}
