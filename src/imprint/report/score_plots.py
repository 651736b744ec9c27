"""Images of a score: who was taken for whom, how far confidence can be trusted, the worst mistakes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from imprint.core.metrics import class_scores, wilson_interval
from imprint.core.plot_style import BLUE, GREY, ORANGE, draw_image, image_height, new_figure, save_png, shorten
from imprint.core.scores import LabelledPredictions
from imprint.data.images import LabelledImages

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 15  # of confidence, as `metrics.calibration_error` has them
NUMBERED = 20  # classes; more leave no room for numbers in the cells
STRONGEST = 0.7  # opacity of a cell; ink on it keeps a contrast of 4.5 on white and on black (WCAG 1.4.3)
NAMED = 40  # classes; more leave no room for every name
POINTS = 400  # of a curve; more cannot be seen
HARDEST = 25  # classes
WORST = 15  # mistakes


def save_score_plots(labelled: LabelledPredictions, images: LabelledImages, folder: Path) -> list[Path]:
    """Draw everything about a score into a folder.

    Parameters
    ----------
    answers : LabelledPredictions
        At least one.
    images : LabelledImages
        The images answered, in the same order.
    folder : Path
        It must be there; files of the same names are replaced.

    Returns
    -------
    list of Path
        The PNG files.

    Raises
    ------
    UsageError
        When a file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from imprint.core.scores import label_predictions
    >>> from imprint.data.load import load
    >>> digits = load("digits")
    >>> sure, flagged = np.eye(10, dtype=np.float32)[digits.labels], np.zeros(1797, dtype=bool)
    >>> labelled = label_predictions(sure, digits.labels, digits.class_names, flagged)
    >>> [path.name for path in save_score_plots(labelled, digits, Path(tempfile.mkdtemp()))]
    ['confusion.png', 'reliability.png', 'coverage.png', 'classes.png', 'mistakes.png']
    """
    figures = {
        "confusion": confusion_plot(labelled),
        "reliability": reliability_plot(labelled),
        "coverage": coverage_plot(labelled),
        "classes": class_plot(labelled),
        "mistakes": mistakes_plot(labelled, images),
    }
    paths = [folder / f"{name}.png" for name in figures]
    for figure, path in zip(figures.values(), paths, strict=True):
        save_png(figure, path)
    return paths


def confusion_plot(labelled: LabelledPredictions) -> Figure:
    """Draw who was taken for whom: rows are true classes, columns predictions.

    Right answers are blue, by the share of the row; mistakes are orange, by their number, the
    commonest the strongest.

    Parameters
    ----------
    answers : LabelledPredictions
        For two classes or hundreds.

    Returns
    -------
    Figure
        Of matplotlib.

    Examples
    --------
    >>> from imprint.core.scores import label_predictions
    >>> sure, flagged = np.eye(2, dtype=np.float32), np.array([False, False])
    >>> figure = confusion_plot(label_predictions(sure, np.array([0, 0]), ("cat", "dog"), flagged))
    """
    counts, names = labelled.confusion(), labelled.class_names
    longest = min(max(map(len, names)), 14)
    side = max(2.6, 0.36 * len(names)) if len(names) <= NAMED else 6.4
    margin = 0.09 * longest + 0.9
    with new_figure(min(side, 8) + margin, min(side, 8) + margin) as figure:
        axes = figure.subplots()
        axes.imshow(_cell_colours(counts), interpolation="nearest")
        axes.grid(False)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true class")
        _name_classes(axes, names)
        if len(names) <= NUMBERED:
            _number_cells(axes, counts)
    return figure


def _cell_colours(counts: Int64[ndarray, "k k"]) -> Float64[ndarray, "k k 4"]:
    """Colour right answers blue and mistakes orange, see-through where few, never too dark for ink."""
    from matplotlib.colors import to_rgb

    classes = len(counts)
    colours = np.zeros((classes, classes, 4))
    colours[..., :3] = to_rgb(ORANGE)
    mistakes = counts * (1 - np.eye(classes))
    # Mistakes are few beside right answers, and most of them one or two: without the root they could not be seen.
    colours[..., 3] = np.sqrt(mistakes / max(1, mistakes.max())) * STRONGEST
    own = np.arange(classes)
    colours[own, own, :3] = to_rgb(BLUE)
    colours[own, own, 3] = STRONGEST * counts.diagonal() / np.maximum(1, counts.sum(axis=1))
    return colours


def _name_classes(axes: Axes, names: tuple[str, ...]) -> None:
    """Name rows and columns, of many classes only some."""
    step = math.ceil(len(names) / NAMED)
    places = np.arange(0, len(names), step)
    shown = [shorten(names[i], 14) for i in places]
    size = 10 if len(places) <= NUMBERED else 7
    upright = max(map(len, shown)) * len(shown) > 36  # letters that stand side by side below the image
    axes.set_xticks(places, shown, rotation=90 if upright else 0, fontsize=size, parse_math=False)
    axes.set_yticks(places, shown, fontsize=size, parse_math=False)
    axes.tick_params(length=0)


def _number_cells(axes: Axes, counts: Int64[ndarray, "k k"]) -> None:
    size = 10 if counts.max() < 1000 else 8
    for row, column in np.argwhere(counts):
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=size)


def reliability_plot(labelled: LabelledPredictions) -> Figure:
    """Draw how often the model was right when it was so sure, and how many images that was.

    Parameters
    ----------
    answers : LabelledPredictions
        At least one.

    Returns
    -------
    Figure
        Of matplotlib. Bars are 95 % Wilson intervals; a model that is right as often as it says lies on the line.

    References
    ----------
    Niculescu-Mizil and Caruana, "Predicting good probabilities with supervised learning", ICML 2005.

    Examples
    --------
    >>> from imprint.core.scores import label_predictions
    >>> sure, flagged = np.eye(2, dtype=np.float32), np.array([False, False])
    >>> figure = reliability_plot(label_predictions(sure, np.array([0, 0]), ("cat", "dog"), flagged))
    """
    bin_of = np.minimum((labelled.confidence * BINS).astype(int), BINS - 1)
    filled = np.unique(bin_of)
    counts = np.bincount(bin_of, minlength=BINS)
    mean = np.array([labelled.confidence[bin_of == i].mean() for i in filled])
    hits = np.array([labelled.correct[bin_of == i].sum() for i in filled])
    right = hits / counts[filled]
    bounds = np.array([wilson_interval(int(hit), int(count)) for hit, count in zip(hits, counts[filled], strict=True)])
    with new_figure(4.4, 4.2) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 1]})
        upper.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="as sure as right")
        upper.vlines(mean, bounds[:, 0], bounds[:, 1], color=BLUE, linewidth=1.5)
        upper.plot(mean, right, "o", color=BLUE, label="model, 95 % interval", clip_on=False)
        upper.set(xlim=(0, 1.02), ylim=(0, 1.05), ylabel="share right")
        figure.legend(loc="outside upper left", fontsize=9, ncols=2, columnspacing=1, handletextpad=0.5)
        edges = np.arange(BINS) / BINS
        lower.bar(edges, counts, width=1 / BINS, align="edge", color=BLUE, alpha=0.75)
        lower.set_yscale("symlog", linthresh=1)
        lower.set_ylim(0, 10 ** math.ceil(math.log10(max(10, counts.max()))))
        lower.set(xlabel="confidence", ylabel="images")
        lower.set_yticks([1, 10 ** math.ceil(math.log10(max(10, counts.max())))])
        lower.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    return figure


def coverage_plot(labelled: LabelledPredictions) -> Figure:
    """Draw how accurate the model is if it answers only the images that it is surest of.

    Parameters
    ----------
    answers : LabelledPredictions
        At least one.

    Returns
    -------
    Figure
        Of matplotlib. The band is the 95 % Wilson interval; the point is where `unsure` draws the line.

    References
    ----------
    El-Yaniv and Wiener, "On the foundations of noise-free selective classification", JMLR 11 (2010) 1605-1641.

    Examples
    --------
    >>> from imprint.core.scores import label_predictions
    >>> sure, flagged = np.eye(2, dtype=np.float32), np.array([False, False])
    >>> figure = coverage_plot(label_predictions(sure, np.array([0, 0]), ("cat", "dog"), flagged))
    """
    count = len(labelled)
    order = np.argsort(-labelled.confidence, kind="stable")
    hits = labelled.correct[order].cumsum()
    taken = np.unique(np.linspace(max(1, count // 20), count, POINTS).astype(int))
    accuracy = hits[taken - 1] / taken
    bounds = np.array([wilson_interval(int(hits[n - 1]), int(n)) for n in taken])
    sure = ~labelled.unsure
    with new_figure(4.4, 3.3) as figure:
        axes = figure.subplots()
        axes.fill_between(taken / count, bounds[:, 0], bounds[:, 1], color=BLUE, alpha=0.2, linewidth=0)
        axes.plot(taken / count, accuracy, color=BLUE, marker="o" if len(taken) < 3 else None)
        lowest = float(accuracy.min())
        if sure.any():
            point = float(labelled.correct[sure].mean())
            lowest = min(lowest, point)
            axes.plot([sure.mean()], [point], "o", color=ORANGE, label="without the unsure")
            axes.legend(loc="lower left", fontsize=9)
        bottom = max(0, min(lowest - 1.2 * (1 - lowest), bounds[-1, 0] - 0.2 * (1 - bounds[-1, 0])))
        axes.set(xlim=(0, 1.02), ylim=(bottom, 1 + 0.03 * (1 - bottom)))
        axes.set(xlabel="share answered, the surest first", ylabel="share right of those")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    return figure


def class_plot(labelled: LabelledPredictions) -> Figure:
    """Draw precision and recall of the classes that there are images of, the hardest first.

    Parameters
    ----------
    answers : LabelledPredictions
        At least one.

    Returns
    -------
    Figure
        Of matplotlib.

    Examples
    --------
    >>> from imprint.core.scores import label_predictions
    >>> sure, flagged = np.eye(2, dtype=np.float32), np.array([False, False])
    >>> figure = class_plot(label_predictions(sure, np.array([0, 0]), ("cat", "dog"), flagged))
    """
    scored = class_scores(labelled.confusion())
    met = [i for i, one in enumerate(scored) if one["images"]]
    order = sorted(met, key=lambda i: scored[i]["f1"])[:HARDEST]
    places = np.arange(len(order))
    with new_figure(4.8, 0.9 + 0.26 * len(order)) as figure:
        axes = figure.subplots()
        axes.plot([scored[i]["recall"] for i in order], places, "o", color=BLUE, label="recall")
        precision = [scored[i]["precision"] for i in order]
        axes.plot(precision, places, "D", color=ORANGE, markerfacecolor="none", label="precision")
        names = [f"{shorten(labelled.class_names[i])} ({scored[i]['images']:,})" for i in order]
        axes.set_yticks(places, names, fontsize=9, parse_math=False)
        axes.set_ylim(len(order) - 0.5, -0.5)
        axes.set_xlim(right=1 + 0.03 * (1 - axes.get_xlim()[0]))
        axes.locator_params("x", nbins=5)  # more labels meet where all scores are near 1
        axes.set_xlabel("precision, recall")
        figure.legend(loc="outside upper right", ncols=2, fontsize=9)
    return figure


def mistakes_plot(labelled: LabelledPredictions, images: LabelledImages) -> Figure:
    """Draw the mistakes that the model was surest of, each with label, prediction and confidence.

    Parameters
    ----------
    answers : LabelledPredictions
        At least one.
    images : LabelledImages
        The images answered, in the same order.

    Returns
    -------
    Figure
        Of matplotlib; without mistakes it says so.

    Examples
    --------
    >>> from imprint.core.scores import label_predictions
    >>> from imprint.data.load import load
    >>> digits, says_0 = load("digits"), np.tile(np.eye(10, dtype=np.float32)[0], (1797, 1))
    >>> labelled = label_predictions(says_0, digits.labels, digits.class_names, np.zeros(1797, dtype=bool))
    >>> figure = mistakes_plot(labelled, digits)
    """
    worst, names = labelled.worst()[:WORST], labelled.class_names
    columns = min(5, max(1, len(worst)))
    rows = max(1, math.ceil(len(worst) / columns))
    height = image_height(images.shape, 1.6) + 0.85 if len(worst) else 1
    with new_figure(max(3.2, 1.65 * columns), height * rows) as figure:
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in grid:
            axes.axis("off")
        if not len(worst):
            grid[0].text(0.5, 0.5, "no mistakes", ha="center", va="center", fontsize=13)
        for axes, place in zip(grid, worst, strict=False):
            draw_image(axes, np.asarray(images.pixels[place]))
            label, predicted = names[labelled.labels[place]], names[labelled.predicted[place]]
            title = shorten(f"is {label}\nsaid {predicted}\n{100 * labelled.confidence[place]:.1f} % sure")
            axes.set_title(title, fontsize=10, fontweight="normal", loc="center", parse_math=False)
    return figure
