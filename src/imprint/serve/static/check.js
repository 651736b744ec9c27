// Check: how good it is, what it confuses, its mistakes to correct, what the doctor found, and every version.

import { percent } from "./answers.js";
import { api } from "./api.js";
import { note, openPictures, together } from "./classes.js";
import { announce, button, fail, h, icon, language, mount, t, toast } from "./dom.js";
import { pictureGrid } from "./grid.js";
import { explain } from "./result.js";
import { keepTogether } from "./tabs.js";
import { running, scoreLine } from "./training.js";

const MATRIX = 20; // classes up to which the table of confusions is shown
const CONFUSED = 5; // confusions in words

let here = null;

export const leave = () => {
  here?.();
  here = null;
};

export function enter(root, context) {
  const top = h("div", { class: "check-top" });
  const [score, versus, mistakes, confusions, findings, versions] = [
    "score",
    "versus",
    "mistakes",
    "confusions",
    "findings",
    "versions",
  ].map((name) => h("section", { class: `card check-${name}`, "aria-labelledby": `title-${name}`, hidden: true }));
  const settled = new Set(); // pictures whose mistake was dealt with here
  const title = (name) => h("h2", { id: `title-${name}`, tabindex: -1 }, t(`check.${name}`));
  let [report, list, work] = [null, [], null];
  mount(
    root,
    top,
    h("div", { class: "check-cards" }, score, versus),
    mistakes,
    h("div", { class: "check-cards" }, confusions, findings),
    versions,
  );
  load().catch(fail);
  let seen = stamp(context);
  context.onProject(() => {
    if (stamp(context) !== seen) load().catch(fail);
    seen = stamp(context);
  });
  document.addEventListener("keydown", key);
  const stopTabs = context.project ? keepTogether(context) : () => {};
  here = () => {
    stopTabs();
    document.removeEventListener("keydown", key);
  };

  async function load() {
    [report, list] = await Promise.all([api.get("/api/check"), api.get("/api/versions")]).catch((problem) => {
      if (problem.status === 404) return [null, []];
      throw problem;
    });
    const none = !list.length;
    mount(
      top,
      none
        ? h(
            "div",
            { class: "card empty" },
            h("h1", {}, t("check.empty")),
            h("p", { class: "words" }, t("check.empty.text")),
            h("a", { class: "button button-primary", href: "#teach" }, t("try.empty.go")),
          )
        : [h("h1", {}, t("check.title")), again()],
    );
    for (const each of [score, versus, mistakes, confusions, findings, versions]) each.hidden = none;
    if (none) return;
    showScore();
    showVersus();
    showMistakes();
    showConfusions();
    showFindings();
    showVersions();
  }

  /** After corrections: back to Train, in one step. */
  function again() {
    if (!context.project.changed || running(context.project.training)) return null;
    return h(
      "div",
      { class: "again" },
      h("p", {}, t("check.again")),
      h("a", { class: "button button-primary", href: "#teach" }, t("check.again.go")),
    );
  }

  function showScore() {
    const { exam } = report;
    const none = report.why_no_score ?? t("teach.no.score");
    mount(
      score,
      title("score"),
      report.score ? scoreLine(report.score) : h("p", { class: "no-score" }, none),
      report.score &&
        h("p", { class: "soft" }, t("check.baseline", { n: Math.round((report.score.baseline ?? 0) * 100) })),
      exam && h("p", {}, t("check.exam"), " ", h("strong", {}, exam.text)),
    );
  }

  // New against old

  function showVersus() {
    const [latest, before] = list;
    versus.hidden = list.length < 2;
    if (versus.hidden) return;
    const { comparison } = latest;
    const old = latest.current ? before : (list.find((each) => each.current) ?? before);
    if (!comparison) return mount(versus, title("versus"), h("p", {}, t("check.unproven")), choice(latest, old));
    const row = (words, share) => {
      const fill = h("span", { class: "fill" });
      fill.style.width = `${share * 100}%`;
      return h(
        "li",
        {},
        h("span", { class: "name" }, words),
        h("span", { class: "bar", "aria-hidden": "true" }, fill),
        h(
          "span",
          { class: "number" },
          t("check.right.n", { right: Math.round(share * comparison.images), n: comparison.images }),
        ),
      );
    };
    const bars = h(
      "ul",
      { class: "bars" },
      row(t("check.before"), comparison.before),
      row(t("check.after"), comparison.after),
    );
    bars.lastChild.classList.add("first");
    mount(
      versus,
      title("versus"),
      h("p", { class: "verdict" }, comparison.text),
      bars,
      h("p", { class: "soft" }, t("check.versus.text", { n: comparison.images })),
      h("div", { class: "row looks" }, look("mended", comparison.mended), look("newly.wrong", comparison.newly_wrong)),
      comparison.keep === "old" && !latest.current && h("p", {}, t("check.old.stays")),
      choice(latest, old),
    );
  }

  function look(name, shas) {
    const text = t(`check.${name}`, { n: shas.length });
    return h(
      "div",
      { class: "row" },
      h("span", {}, text),
      shas.length > 0 && button(t("check.look"), () => openPictures(text, shas), { kind: "small-button" }),
    );
  }

  function choice(latest, old) {
    const pick = (each, words) =>
      button(words, () => use(each), {
        kind: each.current ? "chosen" : "",
        shape: each.current ? "check" : undefined,
        "aria-pressed": String(each.current),
      });
    return h("div", { class: "row" }, pick(latest, t("check.keep.new")), pick(old, t("check.keep.old")));
  }

  async function use({ version, current }) {
    if (current) return toast(t("check.answers", { version }));
    try {
      list = await api.post(`/api/versions/${version}/use`);
      await context.refresh();
      await load();
      toast(t("check.answers", { version }));
    } catch (problem) {
      fail(problem);
    }
  }

  // Mistakes

  const left = () => report.mistakes.filter((each) => !settled.has(each.sha));

  function showMistakes() {
    const open = left();
    const focused = mistakes.contains(document.activeElement);
    mistakes.hidden = !report.score;
    if (!open.length) {
      work = null;
      return mount(
        mistakes,
        title("mistakes"),
        h("p", {}, t(report.score && report.score.right < report.score.images ? "check.mistakes.done" : "check.mistakes.none")),
      );
    }
    const large = h("img", { alt: "", class: "large" });
    const words = h("p", { class: "words", role: "status" });
    const chips = context.project.classes.map((each, i) =>
      h(
        "button",
        { type: "button", class: "chip choice", onclick: () => correct(each) },
        i < 9 && h("kbd", {}, i + 1),
        each.name,
      ),
    );
    const grid = pictureGrid(t("check.mistakes"), {
      fetch: async (offset, limit) => ({ total: open.length, samples: open.slice(offset, offset + limit) }),
      tall: 44,
      caption: ({ label, answer }) => t("check.mistake", { label, answer }),
      onchange(chosen) {
        work.chosen = chosen;
        const last = chosen.at(-1);
        if (last) large.src = `/api/samples/${last.sha}`;
        large.hidden = !last;
        words.textContent =
          chosen.length > 1
            ? t("check.mistake.many", { n: chosen.length })
            : last
              ? t("check.mistake.one", { label: last.label, answer: last.answer, share: percent(last.confidence) })
              : t("check.mistake.choose");
        for (const each of chips) each.disabled = !last;
        why.disabled = chosen.length !== 1;
      },
    });
    const why = button(t("why"), () => {
      const { sha, answer } = work.chosen[0];
      const shown = h("img", { src: `/api/samples/${sha}`, alt: t("why.picture") });
      explain(answer, shown, () => api.post("/api/explain", { sample: sha }));
    });
    work = { grid, chips, chosen: [] };
    mount(
      mistakes,
      h("div", { class: "row spread" }, title("mistakes"), button(t("teach.all"), grid.all)),
      h("p", { class: "soft" }, t("check.mistakes.text", { n: open.length })),
      h(
        "div",
        { class: "clinic" },
        grid.element,
        h("div", { class: "patient" }, large, words, h("div", { class: "chips" }, ...chips), why),
      ),
    );
    grid.refresh().then(() => grid.choose(0));
    if (focused) grid.element.focus({ preventScroll: true });
  }

  async function correct({ id, name }) {
    const { chosen } = work;
    if (!chosen.length) return;
    try {
      const moved = chosen.filter((each) => each.label !== name);
      if (moved.length) await api.post("/api/samples/move", { samples: moved.map((each) => each.sha), class: id });
      settle(chosen);
      if (!moved.length) return toast(t("check.kept", { name }));
      await context.refresh();
      toast(t("check.corrected", { n: moved.length, name }), {
        action: t("undo"),
        onaction: () => {
          for (const each of chosen) settled.delete(each.sha);
          context.undo();
        },
      });
    } catch (problem) {
      fail(problem);
    }
  }

  function settle(chosen) {
    for (const each of chosen) settled.add(each.sha);
    showMistakes();
    announce(t("check.left", { n: left().length }));
  }

  function key(event) {
    if (
      !work ||
      event.ctrlKey ||
      event.metaKey ||
      event.altKey ||
      event.target.closest?.("input, select, textarea, dialog")
    )
      return;
    work.chips[Number(event.key) - 1]?.click();
  }

  // Confusions

  function showConfusions() {
    const { confusion } = report;
    confusions.hidden = !confusion;
    if (!confusion) return;
    const { classes, counts } = confusion;
    const pairs = counts
      .flatMap((row, i) =>
        row.map((n, j) => ({ n, label: classes[i], answer: classes[j] })).filter(({ n }, j) => n && i !== j),
      )
      .sort((a, b) => b.n - a.n);
    mount(
      confusions,
      title("confusions"),
      pairs.length
        ? h("ul", { class: "pairs" }, ...pairs.slice(0, CONFUSED).map((each) => h("li", {}, t("check.confused", each))))
        : h("p", {}, t("check.confused.none")),
      classes.length <= MATRIX &&
        h(
          "div",
          { class: "scroll", tabindex: 0, role: "region", "aria-label": t("check.matrix") },
          matrix(classes, counts),
        ),
    );
  }

  function matrix(classes, counts) {
    const cell = (n, i, j) => {
      const share =
        n /
        Math.max(
          counts[i].reduce((a, b) => a + b, 0),
          1,
        );
      return h(
        "td",
        { class: n === 0 ? "zero" : `${i === j ? "hit" : "miss"} level-${Math.min(Math.ceil(share * 4), 4)}` },
        n,
      );
    };
    return h(
      "table",
      { class: "matrix" },
      h("caption", {}, t("check.matrix.text")),
      h("thead", {}, h("tr", {}, h("td", {}), ...classes.map((name) => h("th", { scope: "col" }, name)))),
      h(
        "tbody",
        {},
        ...counts.map((row, i) =>
          h("tr", {}, h("th", { scope: "row" }, classes[i]), ...row.map((n, j) => cell(n, i, j))),
        ),
      ),
    );
  }

  // The doctor

  function showFindings() {
    const ask = button(t("check.doctor"), async () => {
      ask.disabled = true;
      mount(ask, t("check.doctor.wait"));
      try {
        report = await api.post("/api/check/doctor");
        announce(t("check.found", { n: report.findings.length }));
      } catch (problem) {
        fail(problem);
      }
      showFindings();
    });
    const found = report.findings ?? [];
    mount(
      findings,
      h("div", { class: "row spread" }, title("findings"), ask),
      found.length
        ? h("div", { class: "found" }, ...together(found).map((each) => note(context, each)))
        : h("p", {}, t("check.found.none")),
    );
  }

  // Versions

  function showVersions() {
    const when = (text) => new Date(text).toLocaleString(language, { dateStyle: "medium", timeStyle: "short" });
    mount(
      versions,
      title("versions"),
      h(
        "ul",
        { class: "versions" },
        ...list.map((each) =>
          h(
            "li",
            { class: each.current ? "current" : "" },
            h(
              "div",
              {},
              h("strong", {}, t("check.version", { n: each.version })),
              " ",
              h("span", { class: "soft" }, [when(each.when), t("teach.pictures", { n: each.images })].join(" · ")),
            ),
            h("div", { class: "soft" }, each.score?.text ?? each.why_no_score ?? t("teach.no.score")),
            each.current
              ? h("span", { class: "chip" }, icon("check"), t("check.current"))
              : button(t("check.use"), () => use(each), {
                  shape: "undo",
                  "aria-label": t("check.use.n", { version: each.version }),
                }),
          ),
        ),
      ),
    );
  }
}

const stamp = ({ project }) => project && `${project.model?.version} ${project.revision} ${project.training?.state}`;
