// Elements, words and announcements. Texts become text nodes, so that a name is never markup.

const words = await (await fetch(new URL("strings.json", import.meta.url))).json();
export const language = document.documentElement.lang;
const plural = new Intl.PluralRules(language);

/** The words of a key with {values} filled in; an entry of {one, other} is chosen by `values.n`. */
export function t(key, values = {}) {
  let text = words[key] ?? key;
  if (typeof text === "object") text = text[plural.select(values.n)] ?? text.other;
  return text.replace(/\{(\w+)\}/g, (whole, name) => {
    const value = values[name] ?? whole;
    return typeof value === "number" ? value.toLocaleString(language) : value;
  });
}

/** An element: `class`, `on…` handlers and other properties; true and false set and leave out an attribute. */
export function h(tag, props, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled") node[name] = value;
    else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child != null && child !== false));
  return node;
}

export function mount(parent, ...nodes) {
  parent.replaceChildren(...nodes.flat().filter(Boolean));
}

const SHAPES = {
  camera: "M4 8h3l2-3h6l2 3h3v11H4zM12 10a3.5 3.5 0 1 0 .01 0",
  check: "M5 12.5l4.5 4.5L19 7.5",
  close: "M6 6l12 12M18 6L6 18",
  copy: "M9 9h10v11H9zM15 9V4H5v11h4",
  down: "M12 4v11M7 11l5 5 5-5M5 20h14",
  gear: "M4 7h9M17 7h3M4 17h3M11 17h9M15 5v4M9 15v4",
  picture: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.5 9h.01",
  pen: "M4 20l1-4L16 5l3 3L8 19zM14 7l3 3",
  plus: "M12 5v14M5 12h14",
  record: "M12 5a7 7 0 1 0 .01 0M12 9a3 3 0 1 0 .01 0",
  redo: "M15 6l5 5-5 5M20 11H10a5 5 0 0 0 0 9h2",
  retry: "M5 12a7 7 0 1 0 2-5M5 4v4h4",
  spark: "M12 3l2.2 6.8L21 12l-6.8 2.2L12 21l-2.2-6.8L3 12l6.8-2.2z",
  stop: "M7 7h10v10H7z",
  trash: "M5 7h14M10 4h4M7 7l1 13h8l1-13",
  undo: "M9 6L4 11l5 5M4 11h10a5 5 0 0 1 0 9h-2",
  upload: "M12 16V5M7 9l5-5 5 5M5 20h14",
};

/** A decorative icon, drawn in the colour of the text beside it. */
export function icon(name) {
  const [svg, path] = ["svg", "path"].map((tag) => document.createElementNS("http://www.w3.org/2000/svg", tag));
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", SHAPES[name]);
  svg.append(path);
  return svg;
}

export function button(text, onclick, { kind = "", shape, ...props } = {}) {
  return h("button", { type: "button", class: `button ${kind}`, onclick, ...props }, shape && icon(shape), text);
}

/** Let a screen reader say something, politely. */
export function announce(text) {
  document.getElementById("live").textContent = text;
}

/** A line at the bottom for some seconds, with at most one action (as Undo); errors stay until closed. */
export function toast(text, { action, onaction, error = false } = {}) {
  const box = h(
    "div",
    { class: error ? "toast error" : "toast", role: error ? "alert" : "status" },
    h("span", {}, text),
  );
  const close = () => box.remove();
  if (action) box.append(button(action, () => (close(), onaction())));
  if (error || action)
    box.append(h("button", { class: "round", "aria-label": t("close"), onclick: close }, icon("close")));
  document.getElementById("toasts").replaceChildren(box);
  if (!error) setTimeout(close, action ? 12000 : 5000);
  return close;
}

/** Tell a problem; any other error is a mistake of the page, and goes to the console too. */
export function fail(problem) {
  if (problem.status === undefined) console.error(problem);
  toast([problem.title ?? t("problem.other"), problem.detail].filter(Boolean).join(" "), { error: true });
}

/** A dialog: in the middle of a wide screen, a sheet from below on a phone. Returns it; `close()` ends it. */
export function sheet(title, ...children) {
  const close = h(
    "button",
    { type: "button", class: "round", "aria-label": t("close"), onclick: () => dialog.close() },
    icon("close"),
  );
  const dialog = h(
    "dialog",
    { class: "sheet", "aria-labelledby": "sheet-title" },
    h("div", { class: "sheet-top" }, h("h2", { id: "sheet-title" }, title), close),
    ...children,
  );
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** The address of a blob for <img>, given back when the picture is loaded or cannot be. */
export function picture(blob, alt, props = {}) {
  const src = URL.createObjectURL(blob);
  const done = () => URL.revokeObjectURL(src);
  const image = h("img", {
    alt,
    ...props,
    onload: done,
    onerror: () => (done(), image.replaceWith(h("span", { class: "no-picture" }, icon("picture")))),
  });
  image.src = src;
  return image;
}

export function download(content, name) {
  const href = content instanceof Blob ? URL.createObjectURL(content) : content;
  h("a", { href, download: name }).click();
  if (content instanceof Blob) setTimeout(() => URL.revokeObjectURL(href), 10000);
}
