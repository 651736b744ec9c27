"""Tables of text for the command line: what data is, how a model scored, what a network is made of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from imprint.analysis.error_analysis import CAUSES, ErrorAnalysis
from imprint.analysis.evaluation import Comparison
from imprint.core.errors import spelled
from imprint.core.plot_style import shorten
from imprint.core.scores import Score
from imprint.data.cache import Entry
from imprint.data.images import LabelledImages
from imprint.data.quality import KINDS, Findings
from imprint.preprocessing.input_spec import describe
from imprint.runs.run import Run

if TYPE_CHECKING:
    from imprint.models.summary import Layer  # which needs torch

PREVIEW_ROWS = 5
PREVIEW_PIXELS = 8  # half from each end of a row
LARGEST_AS_NUMBERS = 64  # pixels of a side; the numbers of larger images say nothing
NUMBER = re.compile(r"-|\d[\d.,]*\s?%?")
MOST_CLASSES = 30  # more make no readable table


def preview(images: LabelledImages) -> str:
    """Describe data: count, form, classes, and the first rows.

    Parameters
    ----------
    images : LabelledImages
        The data.

    Returns
    -------
    str
        Several lines.

    Examples
    --------
    >>> from imprint.data.load import load
    >>> print(preview(load("digits")).splitlines()[0])
    digits: 1,797 images of 8×8 grey, 1 channel, 10 classes
    """
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
            lines.append(f"… and {len(counts) - len(shown)} more classes")
    return "\n".join([*lines, "", _first_rows(images)])


def _first_rows(images: LabelledImages) -> str:
    """Show the first images as numbers, the way a data frame would; of larger ones, sizes."""
    if max(images.shape[1:]) > LARGEST_AS_NUMBERS:
        return _first_sizes(images)
    flat = images.pixels[:PREVIEW_ROWS].transpose(0, 2, 3, 1).reshape(min(PREVIEW_ROWS, len(images)), -1)
    ends = np.arange(flat.shape[1])
    if len(ends) > PREVIEW_PIXELS:
        ends = np.r_[ends[: PREVIEW_PIXELS // 2], ends[-PREVIEW_PIXELS // 2 :]]
    labels = ["?"] * len(flat) if images.labels is None else [images.class_names[i] for i in images.labels[:5]]
    rows = [
        [str(source), label, *(str(value) for value in pixels[ends]), f"{pixels.mean():.1f}"]
        for source, label, pixels in zip(images.sources, labels, flat, strict=False)
    ]
    header = ["row" if images.from_pixel_table else "source", "label", *(f"pixel{i}" for i in ends), "mean"]
    return table(header, rows)


def _first_sizes(images: LabelledImages) -> str:
    """Name the first images, with their sizes as they stood in their files."""
    sizes = [images.shape[1:]] * PREVIEW_ROWS if images.sizes is None else images.sizes[:PREVIEW_ROWS].tolist()
    labels = ["?"] * PREVIEW_ROWS if images.labels is None else [images.class_names[i] for i in images.labels[:5]]
    rows = [
        [str(source), label, f"{width}×{height}"]
        for source, label, (height, width) in zip(images.sources[:PREVIEW_ROWS], labels, sizes, strict=False)
    ]
    return table(["source", "label", "size"], rows)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align columns: numbers to the right, words to the left.

    Parameters
    ----------
    header : sequence of str
        Column names.
    rows : sequence of sequence of str
        Cells, one for each column.

    Returns
    -------
    str
        One line a row, the header first.

    Examples
    --------
    >>> print(table(["class", "images"], [["cat", "10"], ["dog", "9"]]))
    class  images
    cat          10
    dog           9
    """
    # A label may hold line ends, and a class may head a column.
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
    """Describe a score: one line of accuracy, the other figures, and who was taken for whom.

    Parameters
    ----------
    result : Score
        From `evaluate`.

    Returns
    -------
    str
        Several lines.

    Examples
    --------
    >>> from imprint.core.scores import score
    >>> two = score(np.eye(2, dtype=np.float32), np.array([0, 1]), ("a", "b"), np.array([False, False]))
    >>> print(score_table(two).splitlines()[0])
    accuracy 1.0000 (95 % interval 0.3424 to 1.0000; 2 images; always the commonest class: 0.5000)
    """
    sure = result.unsure["accuracy_when_sure"]
    lines = [
        f"accuracy {result}",
        f"log loss {result.log_loss:.4f}, Brier score {result.brier:.4f}, "
        f"calibration error {result.calibration_error:.4f}",
        *(() if result.top_5 is None else (f"true class among the five likeliest: {result.top_5:.4f}",)),
        f"unsure of {result.unsure['share']:.1%}" + ("" if sure is None else f", accuracy on the rest {sure:.4f}"),
    ]
    lines += ["", "classes, the hardest first", _class_table(result)]
    if len(result.classes) <= MOST_CLASSES:
        rows = [
            [name, *(str(count) if count else "·" for count in counts)]
            for name, counts in zip(result.classes, result.confusion, strict=True)
        ]
        header = ["", *(shorten(name, 10) for name in result.classes)]
        lines += ["", "rows: true class, columns: predicted", table(header, rows)]
    return "\n".join(lines)


def _class_table(result: Score) -> str:
    """Lay the scores of the hardest classes out that there are images of, and the means over all classes."""
    met = [item for item in result.per_class.items() if item[1]["images"]]
    hardest = sorted(met, key=lambda item: item[1]["f1"])[:MOST_CLASSES]
    scored = [*hardest, ("all alike", result.macro | {"images": result.images})]
    keys = ("precision", "recall", "f1")
    cells = [[name, *(f"{one[key]:.4f}" for key in keys), f"{one['images']:,}"] for name, one in scored]
    return table(["class", "precision", "recall", "F1", "images"], cells)


def comparison_table(first: str, second: str, result: Comparison) -> str:
    """Describe how two models fared on the same images, and whether that means anything.

    Parameters
    ----------
    first, second : str
        The models' names.
    result : Comparison
        From `evaluation.compare`.

    Returns
    -------
    str
        Several lines, the verdict last.

    Examples
    --------
    >>> print(comparison_table("a", "b", Comparison(1000, (0.99, 0.97), 0.02, (0.0075, 0.0324), 30, 10, 0.0022)))
    model  accuracy  right where the other is wrong
    a        0.9900                              30
    b        0.9700                              10
    <BLANKLINE>
    difference +0.0200 (95 % interval +0.0075 to +0.0324; 1,000 images; McNemar's test: p = 0.0022)
    a is better
    """
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
            table(["model", "accuracy", "right where the other is wrong"], rows),
            "",
            f"difference {result.difference:+.4f} (95 % interval {low:+.4f} to {high:+.4f}; {result.images:,} images; "
            f"McNemar's test: p = {result.p_value:.2g})",
            verdict,
        ]
    )


def run_lines(run: Run) -> str:
    """Sum a run up: seconds, score, files and what to expect."""
    lines = [f"trained in {run.seconds:.1f} s"]
    if run.validation is not None:
        lines.append(f"validation accuracy {run.validation}")
    if run.folder is not None:
        lines += map(str, sorted(run.folder.iterdir()))
    return "\n".join([*lines, run.expectation])


def seeds_table(facts: Mapping[str, Any]) -> str:
    """List the accuracies of runs that differ in nothing but their seed, and how far they scatter.

    Parameters
    ----------
    facts : mapping
        From `run_folder.seeds_facts`.

    Returns
    -------
    str
        Several lines.

    Examples
    --------
    >>> rows = [{"seed": 7, "accuracy": 0.98, "run": "runs/1"}, {"seed": 8, "accuracy": 0.99, "run": "runs/2"}]
    >>> print(seeds_table({"seeds": rows, "mean": 0.985, "sd": 0.0071}))
    seed  accuracy  run
       7    0.9800  runs/1
       8    0.9900  runs/2
    <BLANKLINE>
    mean 0.9850 ± 0.0071 (standard deviation of 2 seeds on the same validation images)
    """
    rows = [[str(row["seed"]), f"{row['accuracy']:.4f}", row["run"]] for row in facts["seeds"]]
    spread = "" if facts["sd"] is None else f" ± {facts['sd']:.4f}"
    line = f"mean {facts['mean']:.4f}{spread} (standard deviation of {len(rows)} seeds on the same validation images)"
    return "\n".join([table(["seed", "accuracy", "run"], rows), "", line])


def cache_table(folder: str, limit: int, entries: Sequence[Entry]) -> str:
    """List the collections of decoded images that are kept.

    Parameters
    ----------
    folder : str
        Where.
    limit : int
        Bytes that may be kept.
    entries : sequence of Entry
        From `data.cache.entries`.

    Returns
    -------
    str
        Several lines.

    Examples
    --------
    >>> from pathlib import Path
    >>> print(cache_table("cache", 10**10, [Entry(Path("ab.images"), "photos", 200, 9_830_500, 0.0)]))
    cache: 9.8 MB of at most 10,000 MB (IMPRINT_CACHE_GB)
    <BLANKLINE>
    collection  images   MB  last used
    photos           200  9.8  1970-01-01
    """
    whole = sum(entry.size for entry in entries) / 1e6
    line = f"{folder}: {whole:,.1f} MB of at most {limit / 1e6:,.0f} MB (IMPRINT_CACHE_GB)"
    rows = [
        [one.name, f"{one.images:,}", f"{one.size / 1e6:,.1f}", f"{datetime.fromtimestamp(one.used, UTC):%Y-%m-%d}"]
        for one in reversed(entries)
    ]
    return "\n".join([line, "", table(["collection", "images", "MB", "last used"], rows)]) if rows else line


def summary_table(title: str, layers: Sequence[Layer]) -> str:
    """Lay a network's layers out as Keras's `model.summary()` does.

    Parameters
    ----------
    title : str
        What is summarised.
    layers : sequence of Layer
        From `summarise`.

    Returns
    -------
    str
        A table and three totals.

    Examples
    --------
    >>> from imprint.models.summary import Layer
    >>> print(summary_table("one", [Layer("dense", "Dense", (None, 10), 510, 510)]))
    Model: one
    Layer (type)   Output Shape  Param #
    dense (Dense)  (None, 10)        510
    <BLANKLINE>
    Total params: 510
    Trainable params: 510
    Non-trainable params: 0
    """
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


SHOWN_FINDINGS = 5  # of each kind
SHOWN_SOURCES = 4  # of each finding


def findings_table(findings: Findings) -> str:
    """Sum up what the data doctor found: how much of each kind, and the worst of each.

    Parameters
    ----------
    findings : Findings
        From `check`.

    Returns
    -------
    str
        Several lines.

    Examples
    --------
    >>> from imprint.data.quality import Finding
    >>> constant = Finding("constant", (17,), "every pixel is 0", 1.0)
    >>> print(findings_table(Findings("a.csv", 2, {"cat": 2}, (constant,))))
    a.csv: 2 images, 1 class; 1 finding
    <BLANKLINE>
    constant: 1 of one colour
      17  every pixel is 0
    """
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
    return "\n".join(lines)


def _places(where: Sequence[str | int]) -> str:
    """Name the first of some places, and say how many more there are."""
    # A row of a CSV is a bare number; a name is shown so that blanks and line ends in it can be seen.
    places = [
        str(place) if isinstance(place, int) or place == " ".join(place.split()) else repr(place)
        for place in where[:SHOWN_SOURCES]
    ]
    more = len(where) - len(places)
    return ", ".join(places) + (f" and {more:,} more" if more else "")


SHOWN = 10  # mistakes of one cause


def mistakes_table(clinic: ErrorAnalysis) -> str:
    """List the mistakes by cause, each with the labels of its nearest training images.

    Parameters
    ----------
    clinic : ErrorAnalysis
        From `analyse_errors`.

    Returns
    -------
    str
        Several lines.

    Examples
    --------
    >>> from imprint import load, train
    >>> from imprint.analysis.error_analysis import analyse_errors
    >>> digits = load("digits")
    >>> model = train(digits[:900], recipe="quick", epochs=1, min_steps=1, verbose=False).model
    >>> print(mistakes_table(analyse_errors(model, digits[900:], digits[:900])).splitlines()[0])
    mistakes: ... of 897; ... the model's fault
    """
    counts = clinic.counts()
    listed = ", ".join(f"{counts[cause]:,} {words}" for cause, words in CAUSES.items() if counts[cause])
    lines = [f"mistakes: {len(clinic.mistakes):,} of {len(clinic.images):,}" + (f"; {listed}" if listed else "")]
    facts = clinic.to_dicts()
    for cause, words in CAUSES.items():
        found = [fact for fact in facts if fact["cause"] == cause]
        if found:
            rows = [
                [
                    str(fact["source"]),
                    fact["label"],
                    fact["prediction"],
                    f"{fact['confidence']:.4f}",
                    ", ".join(near["label"] for near in fact["nearest"]),
                ]
                for fact in found[:SHOWN]
            ]
            header = [
                "row" if clinic.images.from_pixel_table else "source",
                "label",
                "predicted",
                "confidence",
                "nearest in training",
            ]
            lines += ["", words, table(header, rows)]
            if len(found) > SHOWN:
                lines.append(f"… and {len(found) - SHOWN:,} more")
    return "\n".join(lines)
