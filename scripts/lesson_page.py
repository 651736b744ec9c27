"""Follow docs/lesson.md block by block, write under each block what it prints, and draw the page's pictures.

    make lesson

The page itself is the program: its python and sh blocks run in order in an empty folder. A block that is followed by a
text block prints that. Training does not give the same bits on every processor, so what depends on it stands in a block
marked `text about`, or behind the word "about".
"""

import io
import re
import shlex
import statistics
import sys
import tempfile
from contextlib import chdir, redirect_stdout
from pathlib import Path

from lesson_pictures import draw_pictures, measured

from imprint.cli import app

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "lesson.md"
PICTURES = ROOT / "docs" / "images" / "lesson"
BLOCK = re.compile(
    r"^```(?P<language>python|sh)\n(?P<code>.*?)^```\n(?:\n```text(?P<about> about)?\n(?P<printed>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)


TABLE = re.compile(r"(<!-- measured: (?P<measure>.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
SETS = {"digits": "small digits", "kaggle": "of Kaggle's"}


def follow(page, folder):
    """Run a page's blocks; give the names that they leave, and for each block its match and what it printed."""
    names, printed = {}, []
    with chdir(folder):
        for block in BLOCK.finditer(page):
            out = io.StringIO()
            with redirect_stdout(out):
                if block["language"] == "sh":
                    for line in block["code"].splitlines():
                        app(shlex.split(line, comments=True)[1:], standalone_mode=False)
                else:
                    exec(block["code"], names)
            printed.append((block, out.getvalue()))
    return names, printed


def spread(runs):
    """Mean, standard deviation and number of the runs' scores."""
    scores = [run["accuracy"] for run in runs]
    if not scores:
        return "not measured"
    if len(scores) < 2:
        return f"{scores[0]:.4f} (1 run)"
    return f"{statistics.mean(scores):.4f} ± {statistics.stdev(scores):.4f} ({len(scores)} runs)"


def learning_rate_table():
    lines = ["| learning rate | " + "the small digits | Kaggle's |", "| --- | --- | --- |"]
    for variant in ("too small", "right", "too large", "falling"):
        rate = {"too small": "0.00001", "right": "0.001", "too large": "0.03", "falling": "from 0.001 down"}[variant]
        cells = [spread(measured(data=data, measure="learning rate", variant=variant)) for data in SETS]
        lines.append(f"| {variant}: {rate} | {' | '.join(cells)} |")
    return lines


def augmentation_table():
    head = ("learnt from", "scored on", "without augmentation", "with", "training accuracy without", "with")
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for data, name in SETS.items():
        for measure in ("augmentation", "few pictures"):
            without, with_ = (measured(data=data, measure=measure, variant=v) for v in ("without", "with"))
            if not without or not with_:
                continue
            learnt = [f"{statistics.mean(run['history']['acc'][-1] for run in runs):.3f}" for runs in (without, with_)]
            counts = [f"{without[0]['learnt']:,} {name}", f"{without[0]['scored']:,}"]
            lines.append(f"| {' | '.join([*counts, spread(without), spread(with_), *learnt])} |")
    return lines


def with_tables(page):
    """Write the tables of measurements from benchmarks/lesson.jsonl."""
    tables = {"learning rate": learning_rate_table, "augmentation": augmentation_table}

    def table(found):
        runs = measured()
        last = max(run["date"] for run in runs)
        when = f"Accuracy ± standard deviation; `benchmarks/lesson.py`, {last}, {runs[-1]['machine']}."
        return found[1] + "\n".join([*tables[found["measure"]](), "", when, ""]) + found[3]

    return TABLE.sub(table, page)


def rewritten(page, printed):
    """Put what was printed in place of what stands there."""
    for block, out in reversed(printed):
        if block["printed"] is not None:
            page = page[: block.start("printed")] + out + page[block.end("printed") :]
    return page


def main():
    page = PAGE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        names, printed = follow(page, folder)
        PAGE.write_text(with_tables(rewritten(page, printed)), encoding="utf-8")
        draw_pictures(names, Path(folder), PICTURES)
    for path in sorted(PICTURES.glob("*.png")):
        print(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1000:.0f} kB", file=sys.stderr)


if __name__ == "__main__":
    main()
