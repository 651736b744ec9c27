// An answer as a large name and a bar for each class; numbers and patterns say what colours say.

import { h, mount, t } from "./dom.js";

const ALL = 12; // up to so many classes keep their places; of more, the likeliest five are shown

/** 0.998 → "99 %": rounded down, so that nothing ever claims to be certain. */
export const percent = (share) =>
  share < 0.01 ? t("percent.less") : t("percent", { n: Math.min(Math.floor(share * 100), 99) });

const ranked = (prediction) => Object.entries(prediction.probabilities).sort((a, b) => b[1] - a[1]);

/** What a prediction says, in a sentence. */
export function sentence(prediction) {
  if (!prediction.unsure) return t("answer.sure", { label: prediction.label, share: percent(prediction.confidence) });
  if (prediction.why === "strange") return t("answer.strange");
  const [first, second] = ranked(prediction);
  return t("answer.low", { first: first[0], second: second?.[0] ?? t("answer.else") });
}

/** Show predictions in an element, one after the other. */
export function answerBars(element) {
  const [name, words, more] = ["answer", "words", "soft"].map((each) => h("p", { class: each }));
  const list = h("ol", { class: "bars" });
  const head = h("div", { class: "head" }, name, words);
  const rows = new Map();

  function row(label) {
    const fill = h("span", { class: "fill" });
    const number = h("span", { class: "number" });
    const item = h(
      "li",
      {},
      h("span", { class: "name" }, label),
      h("span", { class: "bar", "aria-hidden": "true" }, fill),
      number,
    );
    rows.set(label, { item, fill, number });
    return rows.get(label);
  }

  function show(prediction) {
    const all = Object.entries(prediction.probabilities);
    const shown = all.length <= ALL ? all : ranked(prediction).slice(0, 5);
    element.classList.toggle("unsure", prediction.unsure);
    name.textContent = prediction.unsure ? `${prediction.label}?` : prediction.label;
    name.classList.toggle("long", prediction.label.length > 6);
    words.textContent = prediction.unsure
      ? sentence(prediction)
      : t("answer.share", { share: percent(prediction.confidence) });
    mount(
      list,
      ...shown.map(([label, share]) => {
        const { item, fill, number } = rows.get(label) ?? row(label);
        item.classList.toggle("first", label === prediction.label);
        fill.style.width = share < 0.01 ? 0 : `${share * 100}%`;
        number.textContent = percent(share);
        return item;
      }),
    );
    more.textContent = all.length > shown.length ? t("answer.others", { n: all.length - shown.length }) : "";
    if (!head.isConnected) mount(element, head, list, more);
  }

  return {
    show,
    clear() {
      rows.clear();
      element.classList.remove("unsure");
      mount(element);
    },
  };
}
