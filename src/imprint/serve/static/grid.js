// Pictures in a grid of which only the visible rows exist, so that ten thousand are as quick as ten.

import { fail, h, mount, t } from "./dom.js";

const PAGE = 200; // items asked of the server at a time
const SPARE = 2; // rows beyond what is visible

/**
 * A list box of pictures: arrows move, Space and clicks choose, with Shift a whole range, Ctrl+A all.
 * `fetch(offset, limit)` gives {total, samples: [{sha, …}]}; `caption(item)` gives [words, for a screen reader too].
 */
export function pictureGrid(label, { fetch, caption = () => "", badge = () => "", tall = 0, onchange = () => {} }) {
  const room = h("div", { class: "grid-room", role: "presentation" });
  const box = h(
    "div",
    { class: "grid", role: "listbox", tabindex: 0, "aria-multiselectable": "true", "aria-label": label },
    room,
  );
  let [items, total, columns, side, at, anchor] = [[], 0, 1, 96, 0, 0];
  const chosen = new Map(); // sha → item
  const nodes = new Map(); // index → element
  let asked = new Set(); // pages

  function measure() {
    const width = box.clientWidth || 300;
    columns = Math.max(Math.floor(width / 104), 2);
    side = Math.floor(width / columns);
    room.style.height = `${Math.ceil(total / columns) * (side + tall)}px`;
    nodes.clear();
    mount(room);
    draw();
  }

  async function ask(page) {
    if (asked.has(page)) return;
    asked.add(page);
    const mine = asked;
    const found = await fetch(page * PAGE, PAGE);
    if (mine !== asked) return;
    const before = total;
    total = found.total;
    found.samples.forEach((item, i) => (items[page * PAGE + i] = item));
    if (total !== before) measure();
    else draw();
  }

  function option(index) {
    const item = items[index];
    const node = h("div", {
      class: "cell",
      role: "option",
      id: `cell-${index}`,
      "aria-selected": "false",
      "aria-setsize": total,
      "aria-posinset": index + 1,
    });
    node.style.transform = `translate(${(index % columns) * side}px, ${Math.floor(index / columns) * (side + tall)}px)`;
    node.style.width = `${side}px`;
    node.style.height = `${side + tall}px`;
    if (!item) return node;
    const words = caption(item);
    node.setAttribute(
      "aria-label",
      [t("grid.picture", { n: index + 1 }), words, badge(item)].filter(Boolean).join(", "),
    );
    node.append(
      h("img", { src: `/api/samples/${item.sha}/thumbnail`, alt: "", decoding: "async" }),
      badge(item) && h("span", { class: "badge" }, badge(item)),
      words && h("span", { class: "caption" }, words),
    );
    node.dataset.sha = item.sha;
    return node;
  }

  function draw() {
    const height = side + tall;
    const first = Math.max(Math.floor(box.scrollTop / height) - SPARE, 0) * columns;
    const last = Math.min((Math.ceil((box.scrollTop + box.clientHeight) / height) + SPARE) * columns, total);
    for (const [index, node] of nodes) {
      if (index >= first && index < last && Boolean(node.dataset.sha) === Boolean(items[index])) continue;
      node.remove();
      nodes.delete(index);
    }
    for (let index = first; index < last; index++) {
      if (!items[index]) ask(Math.floor(index / PAGE)).catch(fail);
      if (!nodes.has(index)) room.append(nodes.set(index, option(index)).get(index));
      const node = nodes.get(index);
      node.setAttribute("aria-selected", String(chosen.has(node.dataset.sha)));
      node.classList.toggle("at", index === at);
    }
    box.toggleAttribute("aria-activedescendant", false);
    if (nodes.has(at)) box.setAttribute("aria-activedescendant", `cell-${at}`);
  }

  function choose(index, on) {
    const item = items[index];
    if (!item) return;
    if (on ?? !chosen.has(item.sha)) chosen.set(item.sha, item);
    else chosen.delete(item.sha);
  }

  const changed = () => (draw(), onchange([...chosen.values()]));

  function go(index) {
    at = Math.min(Math.max(index, 0), Math.max(total - 1, 0));
    const top = Math.floor(at / columns) * (side + tall);
    box.scrollTop = Math.min(Math.max(box.scrollTop, top + side + tall - box.clientHeight), top);
    draw();
  }

  async function all() {
    while (items.filter(Boolean).length < total)
      await ask([...Array(Math.ceil(total / PAGE)).keys()].find((page) => !asked.has(page)) ?? 0);
    const every = chosen.size === total;
    for (const item of items) every ? chosen.delete(item.sha) : chosen.set(item.sha, item);
    changed();
  }

  box.addEventListener("click", (event) => {
    const node = event.target.closest(".cell");
    if (!node) return;
    const index = Number(node.id.slice(5));
    if (event.shiftKey) for (let i = Math.min(anchor, index); i <= Math.max(anchor, index); i++) choose(i, true);
    else choose(index);
    anchor = at = index;
    changed();
  });
  box.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -total, End: total }[
      event.key
    ];
    if (step) go(at + step);
    else if (event.key === " ") (choose(at), (anchor = at), changed());
    else if (event.key === "a" && (event.ctrlKey || event.metaKey)) all();
    else return;
    event.preventDefault();
  });
  box.addEventListener("scroll", draw, { passive: true });
  new ResizeObserver(() => total && measure()).observe(box);

  /** Read the list anew. */
  async function refresh() {
    [items, asked] = [[], new Set()];
    chosen.clear();
    await ask(0);
    at = Math.min(at, Math.max(total - 1, 0));
    measure();
    onchange([]);
    return total;
  }
  return {
    element: box,
    refresh,
    all,
    choose: (index) => (choose(index, true), changed()),
    get total() {
      return total;
    },
  };
}
