// The answers to many pictures: a table with the least sure first, and the file that `imprint predict` writes.

import { percent } from "./answers.js";
import { api } from "./api.js";
import { announce, button, download, fail, h, mount, picture, t } from "./dom.js";

const BATCH = { files: 32, bytes: 16e6 }; // of a request
const ROWS = 200; // shown at a time

/** Ask for the answers and show them; `again` and `open` are for the buttons. Returns what stops asking. */
export function answerMany(body, given, { again, open }) {
  const files = sorted(given);
  const stopping = new AbortController();
  const words = t("try.reading", { n: files.length });
  const progress = h("progress", { max: files.length, value: 0, "aria-label": words });
  mount(
    body,
    h("section", { class: "card empty" }, h("p", { class: "words" }, words), progress, button(t("cancel"), again)),
  );
  ask();
  return () => stopping.abort();

  async function ask() {
    const results = [];
    try {
      for (const batch of batches(files)) {
        const { predictions } = await api.upload("/v1/predict", batch, {}, { signal: stopping.signal });
        predictions.forEach((answer, i) => results.push({ ...answer, source: batch[i].path, file: batch[i] }));
        progress.value = results.length;
      }
      table(body, results, { again, open });
    } catch (problem) {
      if (problem.name === "AbortError") return;
      again();
      fail(problem);
    }
  }
}

function table(body, results, { again, open }) {
  const bad = results.filter((each) => !each.probabilities);
  const good = results.filter((each) => each.probabilities);
  good.sort((a, b) => b.unsure - a.unsure || a.confidence - b.confidence);
  const all = [...bad, ...good];
  const unsure = good.filter((each) => each.unsure).length;
  const summary = [
    t("try.pictures", { n: results.length }),
    unsure ? t("try.unsure", { n: unsure }) : good.length && t("try.none.unsure"),
    bad.length && t("try.bad", { n: bad.length }),
  ].filter(Boolean);
  const save = () => download(new Blob([csv(results)], { type: "text/csv" }), "predictions.csv");
  const back = () => table(body, results, { again, open });

  const rows = h("tbody");
  const show = () => {
    const begin = rows.children.length;
    rows.append(...all.slice(begin, begin + ROWS).map((each) => row(each, () => open(each, back))));
    more.hidden = rows.children.length >= all.length;
  };
  const more = button(t("try.show.more"), show);
  show();
  const columns = ["picture", "answer", "confidence", "note"].map((each) =>
    h("th", { scope: "col" }, t(`try.column.${each}`)),
  );
  const title = h("h2", { tabindex: -1 }, summary.join(" · "));
  const buttons = [
    button(t("try.csv"), save, { kind: "button-primary", shape: "down", disabled: !good.length }),
    button(t("try.others"), again, { shape: "upload" }),
  ];
  mount(
    body,
    h(
      "section",
      { class: "card" },
      h("div", { class: "row spread" }, title, h("div", { class: "row" }, buttons)),
      h("p", { class: "soft" }, t("try.order")),
      h("table", { class: "answers" }, h("thead", {}, h("tr", {}, columns)), rows),
      more,
    ),
  );
  announce(summary.join(", "));
  title.focus({ preventScroll: true });
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
  const shown = picture(answer.file.blob, "", { loading: "lazy", decoding: "async" });
  const cell = (kind, ...children) => h("td", { class: kind }, ...children);
  if (!answer.probabilities) {
    const name = cell("", h("div", { class: "who" }, shown, h("span", {}, answer.source)));
    return h("tr", { class: "bad" }, name, h("td", { colspan: 3 }, answer.detail || answer.title));
  }
  const name = h("button", { type: "button", class: "link", onclick: open }, answer.source);
  const fill = h("span", { class: "fill" });
  fill.style.width = `${answer.confidence * 100}%`;
  const bar = h("span", { class: "bar", "aria-hidden": "true" }, fill);
  return h(
    "tr",
    { class: answer.unsure ? "unsure" : "" },
    cell("", h("div", { class: "who" }, shown, name)),
    cell("label", answer.label),
    cell("share", bar, h("span", { class: "number" }, percent(answer.confidence))),
    cell("remark", answer.unsure && t(answer.why === "strange" ? "why.strange" : "why.low")),
  );
}

/** The file that `imprint predict` writes: in the order of the files, four decimals, ties to even. */
export function csv(results) {
  const quoted = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const decimals = (share) => {
    const tie = (share * 32) % 1 === 0 && Math.floor(share * 1e4) % 2 === 0; // only multiples of 1/32 end in a 5
    return (tie ? Math.floor(share * 1e4) / 1e4 : share).toFixed(4);
  };
  const lines = results
    .filter((each) => each.probabilities)
    .map((each) => [
      quoted(each.source),
      quoted(each.label),
      decimals(each.confidence),
      each.unsure ? "yes" : "no",
      each.why,
    ]);
  return [["source", "label", "confidence", "unsure", "why"], ...lines].map((line) => `${line.join(",")}\n`).join("");
}
