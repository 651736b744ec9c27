"""Tables and plots of docs/lesson.md, made from the measurements in benchmarks/lesson.jsonl."""

import json
import re
import statistics
from collections import Counter
from pathlib import Path

from imprint.core.plot_style import BLUE, GREEN, GREY, ORANGE, new_figure, save_png

MEASURED = Path(__file__).parent.parent / "benchmarks" / "lesson.jsonl"
TABLE = re.compile(r"(<!-- measured: (?P<measure>.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
RATES = {"too small": "0.00001", "right": "0.001", "too large": "0.03", "falling": "from 0.001 down"}
AUGMENTED = {
    ("digits", "augmentation"): "999 small digits",
    ("digits", "few images"): "500 small digits",
    ("kaggle", "few images"): "500 of Kaggle's",
    ("kaggle", "augmentation"): "32,000 of Kaggle's, cut short",
    ("kaggle", "whole lesson"): "32,000 of Kaggle's, the whole lesson",
}
PARTS = ("dropout", "ReLU", "pooling", "convolutions")
COMMONEST = 8  # pairs of digits in the table of errors


def measured(**wanted):
    """The measured runs that have these values."""
    runs = [json.loads(line) for line in MEASURED.read_text(encoding="utf-8").splitlines()]
    return [run for run in runs if all(run[key] == value for key, value in wanted.items())]


def spread(runs, key="accuracy"):
    """Mean, standard deviation and number of the runs' scores."""
    scores = [run[key] for run in runs]
    if len(scores) < 2:
        return f"{scores[0]:.4f} (1 run)"
    return f"{statistics.mean(scores):.4f} ± {statistics.stdev(scores):.4f} ({len(scores)} runs)"


def times_seen(run):
    """How often training saw each image; the 8 % held out for validation are not seen."""
    lengths = dict(change.split("=") for change in run["settings"])
    steps = int(lengths.get("epochs", 30)) * int(lengths.get("steps_per_epoch", 640))
    return round(steps * 64 / (run["learnt"] * 0.92))


def learning_rate_table():
    yield "| learning rate | the small digits | Kaggle's |"
    yield "| --- | --- | --- |"
    for variant, rate in RATES.items():
        cells = [spread(measured(data=data, measure="learning rate", variant=variant)) for data in ("digits", "kaggle")]
        yield f"| {variant}: {rate} | {' | '.join(cells)} |"


def augmentation_table():
    yield "| learnt from | each seen | scored on | without augmentation | with | training accuracy without | with |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for (data, measure), name in AUGMENTED.items():
        both = [measured(data=data, measure=measure, variant=variant) for variant in ("without", "with")]
        learnt = [f"{statistics.mean(run['history']['acc'][-1] for run in runs):.3f}" for runs in both]
        one = both[0][0]
        cells = [name, f"{times_seen(one)} times", f"{one['scored']:,}", *map(spread, both), *learnt]
        yield f"| {' | '.join(cells)} |"


def moved_table():
    both = [measured(data="digits", measure="augmentation", variant=variant) for variant in ("without", "with")]
    yield f"| {both[0][0]['scored']} small digits | without augmentation | with |"
    yield "| --- | --- | --- |"
    for name, key in (("as they are", "accuracy"), ("moved by a pixel", "moved")):
        yield f"| {name} | {' | '.join(spread(runs, key) for runs in both)} |"


def parts_table():
    yield "| left out | parameters | as they are | moved by a pixel |"
    yield "| --- | --- | --- | --- |"
    rows = {"nothing": measured(data="digits", measure="augmentation", variant="with")}
    rows |= {part: measured(data="digits", measure="parts", variant=part) for part in PARTS}
    for part, runs in rows.items():
        parameters = runs[0].get("parameters", 203_933)
        yield f"| {part} | {parameters:,} | {spread(runs)} | {spread(runs, 'moved')} |"


def errors_table():
    runs = measured(data="kaggle", measure="whole lesson", variant="with")
    errors = Counter()
    for run in runs:
        for true, row in enumerate(run["confusion"]):
            errors.update({(true, said): count for said, count in enumerate(row) if said != true and count})
    yield f"| it is | it said | times, of {errors.total()} errors in {len(runs)} runs of {runs[0]['scored']:,} |"
    yield "| --- | --- | --- |"
    for (true, said), count in errors.most_common(COMMONEST):
        yield f"| {true} | {said} | {count} |"


TABLES = {
    "learning rate": learning_rate_table,
    "augmentation": augmentation_table,
    "moved": moved_table,
    "parts": parts_table,
    "errors": errors_table,
}


def with_tables(page):
    """Replace the tables of measurements in a page."""
    runs = measured()
    last = max(run["date"] for run in runs)
    when = f"`benchmarks/lesson.py`, until {last}, {runs[-1]['machine']}."

    def table(found):
        about = "" if found["measure"] == "errors" else "Accuracy ± standard deviation; "
        return found[1] + "\n".join([*TABLES[found["measure"]](), "", about + when, ""]) + found[3]

    return TABLE.sub(table, page)


def draw_learning_rates(path):
    """Validation accuracy of every run, a panel for each way of setting the learning rate."""
    with new_figure(6.6, 4.4) as figure:
        panels = figure.subplots(2, 2, sharex=True, sharey=True).flat
        for axes, variant, colour in zip(panels, RATES, (BLUE, GREEN, ORANGE, GREY), strict=True):
            for run in measured(data="digits", measure="learning rate", variant=variant):
                curve = run["history"]["val_acc"]
                axes.plot(range(1, len(curve) + 1), curve, color=colour, linewidth=1.2, alpha=0.8)
            axes.set_title(f"{variant}: {RATES[variant]}", fontsize=11)
            axes.set_ylim(0, 1.03)
        figure.supxlabel("epoch", fontsize=11)
        figure.supylabel("validation accuracy", fontsize=11)
        save_png(figure, path)


def draw_augmentation(path):
    """Errors with and without augmentation, a dot a run."""
    with new_figure(6.6, 3.6) as figure:
        axes = figure.subplots()
        for row, (data, measure) in enumerate(AUGMENTED):
            for variant, colour, shift in (("without", ORANGE, -0.13), ("with", BLUE, 0.13)):
                runs = measured(data=data, measure=measure, variant=variant)
                errors = [100 * (1 - run["accuracy"]) for run in runs]
                label = f"{variant} augmentation" if row == 0 else None
                axes.plot(errors, [row + shift] * len(errors), "o", color=colour, alpha=0.75, label=label)
        axes.set_yticks(range(len(AUGMENTED)), [name.replace(", ", ",\n") for name in AUGMENTED.values()])
        axes.set_ylim(len(AUGMENTED) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.set_xlabel("errors in 100 new images")
        axes.legend(loc="upper right")
        save_png(figure, path)


def draw_overfitting(path):
    """Losses over the whole lesson on Kaggle's digits, without and with augmentation."""
    with new_figure(6.6, 3.2) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, variant in zip(panels, ("without", "with"), strict=True):
            for number, run in enumerate(measured(data="kaggle", measure="whole lesson", variant=variant)):
                for key, colour, name in (("loss", GREY, "training"), ("val_loss", BLUE, "validation")):
                    curve = run["history"][key]
                    label = name if number == 0 else None
                    axes.plot(range(1, len(curve) + 1), curve, color=colour, linewidth=1.3, alpha=0.8, label=label)
            axes.set_title(f"{variant} augmentation", fontsize=11)
            axes.set_xlabel("epoch")
        panels[0].set_ylabel("loss")
        panels[0].set_ylim(0, 0.16)
        panels[1].legend(loc="upper right")
        save_png(figure, path)
