"""Tables of text for the command line: data, scores, runs, networks, recipes and findings."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from imprint.analysis.evaluation import Comparison
from imprint.core.errors import spelled
from imprint.core.plot_style import shorten
from imprint.core.progress import duration
from imprint.core.scores import FEWEST_TO_TELL, Score, causes_text
from imprint.data.cache import Entry
from imprint.data.images import LabelledImages
from imprint.data.quality import KINDS, Findings
from imprint.preprocessing.input_spec import describe
from imprint.recipes import CHOICES, Recipe, describe_fields
from imprint.runs.listing import RunFacts

if TYPE_CHECKING:  # these need torch, and scores of exported models do not
    from imprint.analysis.error_analysis import ErrorAnalysis
    from imprint.models.summary import Layer
    from imprint.runs.run import Run
    from imprint.runs.training import PlannedRun

PREVIEW_ROWS = 5
PREVIEW_PIXELS = 8  # half from each end of a row
LARGEST_AS_NUMBERS = 64  # pixels of a side; of larger images, the preview shows sizes instead of pixel values
NUMBER = re.compile(r"-|≤?\d[\d.,]*\s?%?")
MOST_CLASSES = 30  # more make no readable table
FIELDS_WIDTH = 100  # columns of the table of a recipe's fields
VALUE_WIDTH = 9  # columns; a longer value leaves less room for its meaning
SHOWN_FINDINGS = 5  # of each kind
SHOWN_SOURCES = 4  # of each finding
SHOWN_MISTAKES = 10  # of each cause


def preview(images: LabelledImages) -> str:
    """Describe data: count, form, classes, and the first rows."""
    counts = images.class_counts()
    channels = images.shape[0]
    classes = f"{len(counts)} class{'es' if len(counts) > 1 else ''}" if counts else "no labels"
    lines = [
        f"{spelled(images.name)}: {len(images):,} image{'s' if len(images) > 1 else ''} of {describe(images.shape)}, "
        f"{channels} channel{'s' if channels > 1 else ''}, {classes}"
    ]
    if counts:
        shown = list(counts.items())[:MOST_CLASSES]
        rows = [[name, f"{count:,}", f"{count / len(images):.1%}"] for name, count in shown]
        lines += ["", table(["class", "images", "share"], rows)]
        if len(counts) > len(shown):
            lines.append(f"… and {len(counts) - len(shown):,} more classes; imprint show DATA --json lists all")
    return "\n".join([*lines, "", _first_rows(images)])


def _first_rows(images: LabelledImages) -> str:
    """Show the first images as pixel values, the way a data frame would; larger ones by their sizes."""
    if max(images.shape[1:]) > LARGEST_AS_NUMBERS:
        return _first_sizes(images)
    flat = images.pixels[:PREVIEW_ROWS].transpose(0, 2, 3, 1).reshape(min(PREVIEW_ROWS, len(images)), -1)
    ends = np.arange(flat.shape[1])
    if len(ends) > PREVIEW_PIXELS:
        ends = np.r_[ends[: PREVIEW_PIXELS // 2], ends[-PREVIEW_PIXELS // 2 :]]
    labels = (
        ["?"] * len(flat) if images.labels is None else [images.class_names[i] for i in images.labels[:PREVIEW_ROWS]]
    )
    rows = [
        [str(source), label, *(str(value) for value in pixels[ends]), f"{pixels.mean():.1f}"]
        for source, label, pixels in zip(images.sources, labels, flat, strict=False)
    ]
    header = ["row" if images.from_pixel_table else "source", "label", *(f"pixel{i}" for i in ends), "mean"]
    return table(header, rows)


def _first_sizes(images: LabelledImages) -> str:
    """List the first images with the sizes that they have in their files."""
    sizes = [images.shape[1:]] * PREVIEW_ROWS if images.sizes is None else images.sizes[:PREVIEW_ROWS].tolist()
    labels = (
        ["?"] * PREVIEW_ROWS if images.labels is None else [images.class_names[i] for i in images.labels[:PREVIEW_ROWS]]
    )
    rows = [
        [str(source), label, f"{width}×{height}"]
        for source, label, (height, width) in zip(images.sources[:PREVIEW_ROWS], labels, sizes, strict=False)
    ]
    return table(["source", "label", "size"], rows)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align columns, numbers to the right and words to the left; the header is the first line."""
    # Labels and class names, which may stand in the header too, may hold line ends.
    header, *rows = ([spelled(" ".join(cell.split())) for cell in row] for row in (header, *rows))
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    to_right = [all(NUMBER.fullmatch(cell) for cell in column[1:]) for column in columns]
    lines = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, to_right, strict=True)
        ).rstrip()
        for row in (header, *rows)
    ]
    return "\n".join(lines)


def score_table(result: Score) -> str:
    """Describe a score: accuracy, the other figures, classes, and the confusion matrix of up to 30 classes."""
    unsure, sure = result.unsure, result.unsure["accuracy_when_sure"]
    lines = [
        _score_line("accuracy", result),
        f"log loss {result.log_loss:.4f}, Brier score {result.brier:.4f}, "
        f"calibration error {result.calibration_error:.4f}",
        *(() if result.top_5 is None else (f"true class among the five likeliest: {result.top_5:.4f}",)),
        f"unsure of {unsure['share']:.1%} ({causes_text(unsure)}), "
        + ("which leaves none" if sure is None else f"accuracy on the rest {sure:.4f}"),
    ]
    if not result.better_than_guessing and result.images >= FEWEST_TO_TELL:
        lines.append("no better than guessing: always naming the commonest class scores as well, but for chance")
    lines += ["", "classes, the hardest first", _class_table(result)]
    if (met := sum(1 for one in result.per_class.values() if one["images"])) > MOST_CLASSES:
        lines.append(f"… and {met - MOST_CLASSES:,} easier classes; imprint evaluate --per-class FILE.csv writes all")
    if len(result.classes) <= MOST_CLASSES:
        rows = [
            [name, *(str(count) if count else "·" for count in counts)]
            for name, counts in zip(result.classes, result.confusion, strict=True)
        ]
        header = ["", *(shorten(name, 10) for name in result.classes)]
        lines += ["", "rows: true class, columns: predicted", table(header, rows)]
    else:
        classes = f"confusions of {len(result.classes):,} classes"
        lines += ["", f"{classes}: imprint evaluate --json lists them, --pictures DIR draws them"]
    return "\n".join(lines)


def _score_line(name: str, result: Score) -> str:
    """Give a score by its name; where it says nothing, that comes first."""
    return (
        f"{name} {result}"
        if result.images >= FEWEST_TO_TELL
        else str(result).replace("interval", f"interval of the {name}", 1)
    )


def _class_table(result: Score) -> str:
    """Score the hardest classes that have images, and give the means over all classes."""
    met = [item for item in result.per_class.items() if item[1]["images"]]
    hardest = sorted(met, key=lambda item: item[1]["f1"])[:MOST_CLASSES]
    scored = [*hardest, ("mean", result.macro | {"images": result.images})]
    keys = ("precision", "recall", "f1")
    cells = [[name, *(f"{one[key]:.4f}" for key in keys), f"{one['images']:,}"] for name, one in scored]
    return table(["class", "precision", "recall", "F1", "images"], cells)


def comparison_table(first: str, second: str, result: Comparison) -> str:
    """Describe how two models scored on the same images; the last line says whether one is better."""
    rows = [
        [name, f"{accuracy:.4f}", f"{alone:,}"]
        for name, accuracy, alone in zip(
            (first, second), result.accuracy, (result.only_first, result.only_second), strict=True
        )
    ]
    low, high = result.interval
    verdict = result.verdict.replace("the first is", f"{first} is").replace("the second is", f"{second} is")
    return "\n".join(
        [
            table(["model", "accuracy", "correct where the other is wrong"], rows),
            "",
            f"difference {result.difference:+.4f} (95 % interval {low:+.4f} to {high:+.4f}; {result.images:,} images; "
            f"McNemar's test: p = {result.p_value:.2g})",
            verdict,
        ]
    )


def plan_lines(planned: PlannedRun) -> str:
    """Lay out a run that was planned but not begun: images of each part, recipe and why, work and its time."""
    plan, recipe, estimate = planned.plan, planned.plan.recipe, planned.estimate
    held_out = "none held out" if plan.validation is None else f"{len(plan.validation):,}"
    parts = {"features and head": sum(estimate.features), "epochs": sum(estimate.networks)}
    parts |= {"OOD detector": estimate.ood_detector, "calibration and score": estimate.calibration}
    shares = ", ".join(
        f"{name} {seconds:,.{int(seconds < 10)}f} s" for name, seconds in parts.items() if seconds >= 0.05
    )
    each = (
        "" if planned.seeds == 1 else f" each, {duration(planned.seeds * estimate.seconds)} for {planned.seeds} seeds"
    )
    rows = [
        ["recipe", recipe.name + (f", {plan.reason}" if plan.reason else "")],
        *([["start", plan.start]] if plan.start else []),
        ["classes", str(len(plan.images.class_names))],
        ["training", f"{len(plan.training):,} images of {describe(plan.images.shape)}"],
        ["validation", "cross-validated" if plan.cross_validated else held_out],
        *([] if planned.test_images is None else [["test", f"{planned.test_images:,} images"]]),
        ["work", plan.work_line],
        ["steps", f"{sum(recipe.epoch_steps(len(plan.training))):,} of {recipe.batch_size} images, of each network"],
        ["mirroring", plan.hflip_line],
        ["computing", str(planned.compute)],
        ["time", f"{duration(estimate.seconds)}{each}" + (f": {shares}" if shares else "")],
    ]
    rows = [row for row in rows if not (recipe.is_probe and row[0] in ("steps", "mirroring"))]
    lines = [f"{name:<10}  {text}" for name, text in rows]
    leak = (plan.leak,) if plan.leak else ()
    return "\n".join([*lines, *(f"warning: {warning}" for warning in (*plan.warnings, *leak))])


def run_lines(run: Run) -> str:
    """Sum a run up: score, what to expect on new images, then the folder and the seconds."""
    leak = " (upper estimate)" if run.leak else ""
    lines = [] if run.validation is None else [_score_line("validation accuracy", run.validation) + leak]
    lines.append(run.expectation)
    trained = f"trained in {run.seconds:.1f} s"
    result = "" if run.result is None else "; predictions in result.csv"
    written = f"{run.folder}: model, scores and curves{result}; {trained}"
    return "\n".join([*lines, trained if run.folder is None else written])


def seeds_table(facts: Mapping[str, Any]) -> str:
    """List the accuracies of runs that differ only in their seed, from `runs.run.seeds_facts`, and their spread."""
    rows = [[str(row["seed"]), f"{row['accuracy']:.4f}", row["run"]] for row in facts["seeds"]]
    spread = "" if facts["sd"] is None else f" ± {facts['sd']:.4f}"
    line = f"mean {facts['mean']:.4f}{spread} (standard deviation of {len(rows)} seeds on the same validation images)"
    count = (facts.get("validation") or {}).get("images", FEWEST_TO_TELL)
    few = f"too few to tell: {count} held out; " if count < FEWEST_TO_TELL else ""
    return "\n".join([table(["seed", "accuracy", "run"], rows), "", few + line])


def runs_table(runs: Sequence[RunFacts]) -> str:
    """List runs with state, recipe, score (≤ where it is an upper estimate), data, time and size."""
    if not runs:
        return "no runs"
    started = any(one.parent for one in runs)
    rows = [
        [
            *(one.run, one.state, one.recipe or "–"),
            "–" if one.accuracy is None else f"{'≤' if one.leak else ''}{one.accuracy:.4f}",
            *("–" if one.images is None else f"{one.images:,}", one.data or "–"),
            *("–" if one.seconds is None else f"{one.seconds:,.1f}", f"{one.size / 1e6:,.1f}", one.ended[:10]),
            *([one.parent or "–"] if started else ()),
        ]
        for one in runs
    ]
    header = ["run", "state", "recipe", "accuracy", "held out", "data", "seconds", "MB", "ended"]
    return table([*header, *(["started from"] if started else ())], rows)


def cache_table(folder: str, limit: int, entries: Sequence[Entry]) -> str:
    """List the decoded image collections of the cache; `limit` is in bytes."""
    whole = sum(entry.size for entry in entries) / 1e6
    line = f"{folder}: {whole:,.1f} MB of at most {limit / 1e6:,.0f} MB (IMPRINT_CACHE_GB)"
    rows = [
        [one.name, f"{one.images:,}", f"{one.size / 1e6:,.1f}", f"{datetime.fromtimestamp(one.used, UTC):%Y-%m-%d}"]
        for one in reversed(entries)
    ]
    return "\n".join([line, "", table(["collection", "images", "MB", "last used"], rows)]) if rows else line


def summary_table(title: str, layers: Sequence[Layer]) -> str:
    """Lay a network's layers out as Keras's `model.summary()` does."""
    rows = [[f"{layer.name} ({layer.type})", str(layer.output_shape), f"{layer.parameters:,}"] for layer in layers]
    total, trainable = sum(layer.parameters for layer in layers), sum(layer.trainable for layer in layers)
    return "\n".join(
        [
            f"Model: {title}",
            table(["Layer (type)", "Output Shape", "Param #"], rows),
            "",
            f"Total params: {total:,}",
            f"Trainable params: {trainable:,}",
            f"Non-trainable params: {total - trainable:,}",
        ]
    )


def fields_table(recipe: Recipe) -> str:
    """List a recipe's fields with value and meaning, in lines of at most 100 columns."""
    width = max(map(len, describe_fields()))
    lines = [_field_start("field", "value", width) + "meaning"]
    for name, meaning in describe_fields().items():
        start = _field_start(name, field_text(getattr(recipe, name)), width)
        choices = f" One of {', '.join(CHOICES[name])}." if name in CHOICES else ""
        text = meaning.replace("`", "") + choices
        indent = " " * (width + VALUE_WIDTH + 4)
        lines += textwrap.wrap(
            text, FIELDS_WIDTH, initial_indent=start, subsequent_indent=indent, break_long_words=False
        )
    return "\n".join(lines)


def field_text(value: Any) -> str:
    """Spell the value of a recipe's field as ``--set`` takes it."""
    return "+".join(value) if isinstance(value, tuple) else str(value)


def _field_start(name: str, value: str, width: int) -> str:
    return f"{name:<{width}}  {value:<{VALUE_WIDTH}}  "


def findings_table(findings: Findings) -> str:
    """Sum up what the data doctor found: the number of findings of each kind, and the worst of each."""
    classes, found = len(findings.classes), len(findings.findings)
    images = f"{findings.images:,} image{'' if findings.images == 1 else 's'}"
    lines = [
        f"{spelled(findings.name)}: {images}, {classes} class{'' if classes == 1 else 'es'}; "
        + ("nothing found" if not found else f"{found:,} finding{'' if found == 1 else 's'}")
    ]
    for kind, words in KINDS.items():
        of_kind = findings.of(kind)
        if of_kind:
            rows = [[_places(finding.where), finding.message] for finding in of_kind[:SHOWN_FINDINGS]]
            body = table(["", ""], rows).splitlines()[1:]
            lines += ["", f"{kind}: {len(of_kind):,} {words}", *(f"  {line}" for line in body)]
            if len(of_kind) > SHOWN_FINDINGS:
                lines.append(f"  … and {len(of_kind) - SHOWN_FINDINGS:,} more")
    if any(len(findings.of(kind)) > SHOWN_FINDINGS for kind in KINDS) or any(
        len(finding.where) > SHOWN_SOURCES for finding in findings.findings
    ):
        lines += ["", "imprint check --save REPORT.html or --json gives the whole list"]
    return "\n".join(lines)


def _places(where: Sequence[str | int]) -> str:
    """Name the first of some places, and say how many more there are."""
    # A row of a CSV is a bare number; `repr` makes blanks and line ends in a name visible.
    places = [
        str(place) if isinstance(place, int) or place == " ".join(place.split()) else repr(place)
        for place in where[:SHOWN_SOURCES]
    ]
    more = len(where) - len(places)
    return ", ".join(places) + (f" and {more:,} more" if more else "")


def mistakes_table(analysis: ErrorAnalysis) -> str:
    """List the mistakes by cause, each with the labels of its nearest training images."""
    from imprint.analysis.error_analysis import CAUSES

    counts = analysis.counts()
    listed = ", ".join(f"{counts[cause]:,} {words}" for cause, words in CAUSES.items() if counts[cause])
    lines = [f"mistakes: {len(analysis.mistakes):,} of {len(analysis.images):,}" + (f"; {listed}" if listed else "")]
    place = "row" if analysis.images.from_pixel_table else "source"
    header = [place, "label", "predicted", "confidence", "nearest in training"]
    facts = analysis.to_dicts()
    for cause, words in CAUSES.items():
        found = [fact for fact in facts if fact["cause"] == cause]
        if found:
            rows = [_mistake_row(fact) for fact in found[:SHOWN_MISTAKES]]
            lines += ["", words, table(header, rows)]
            if len(found) > SHOWN_MISTAKES:
                lines.append(f"… and {len(found) - SHOWN_MISTAKES:,} more; imprint evaluate --mistakes FILE writes all")
    return "\n".join(lines)


def _mistake_row(fact: Mapping[str, Any]) -> list[str]:
    nearest = ", ".join(near["label"] for near in fact["nearest"])
    return [str(fact["source"]), fact["label"], fact["prediction"], f"{fact['confidence']:.4f}", nearest]
