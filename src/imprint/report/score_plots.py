"""Plots of a score: confusion matrix, calibration, accuracy against coverage, classes, and the worst mistakes."""

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
MOST_NUMBERED = 20  # classes; more leave no room for numbers in the cells
MAX_OPACITY = 0.7  # of a cell; ink on it keeps a contrast of 4.5 on white and on black (WCAG 1.4.3)
MOST_NAMED = 40  # classes; more leave no room for every name
POINTS = 400  # of a curve; more cannot be seen
HARDEST = 25  # classes
WORST = 15  # mistakes


def save_score_plots(labelled: LabelledPredictions, images: LabelledImages, folder: Path) -> list[Path]:
    """Draw every plot of a score into an existing folder, and give the PNG files; `images` in the same order."""
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
    """Draw the confusion matrix: rows are true classes, columns predictions.

    Correct predictions are blue, by their share of the row; mistakes are orange, by their number.
    """
    counts, names = labelled.confusion(), labelled.class_names
    longest = min(max(map(len, names)), 14)
    side = max(2.6, 0.36 * len(names)) if len(names) <= MOST_NAMED else 6.4
    margin = 0.09 * longest + 0.9
    with new_figure(min(side, 8) + margin, min(side, 8) + margin) as figure:
        axes = figure.subplots()
        axes.imshow(_cell_colours(counts), interpolation="nearest")
        axes.grid(False)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true class")
        _name_classes(axes, names)
        if len(names) <= MOST_NUMBERED:
            _number_cells(axes, counts)
    return figure


def _cell_colours(counts: Int64[ndarray, "k k"]) -> Float64[ndarray, "k k 4"]:
    """Colour correct predictions blue and mistakes orange, more transparent where few, never too dark for ink."""
    from matplotlib.colors import to_rgb

    classes = len(counts)
    colours = np.zeros((classes, classes, 4))
    colours[..., :3] = to_rgb(ORANGE)
    mistakes = counts * (1 - np.eye(classes))
    # Mistakes are few beside correct predictions, most cells hold one or two: without the root they would be invisible.
    colours[..., 3] = np.sqrt(mistakes / max(1, mistakes.max())) * MAX_OPACITY
    own = np.arange(classes)
    colours[own, own, :3] = to_rgb(BLUE)
    colours[own, own, 3] = MAX_OPACITY * counts.diagonal() / np.maximum(1, counts.sum(axis=1))
    return colours


def _name_classes(axes: Axes, names: tuple[str, ...]) -> None:
    """Label rows and columns; of many classes only some."""
    step = math.ceil(len(names) / MOST_NAMED)
    places = np.arange(0, len(names), step)
    shown = [shorten(names[i], 14) for i in places]
    size = 10 if len(places) <= MOST_NUMBERED else 7
    upright = max(map(len, shown)) * len(shown) > 36  # letters that fit side by side below the plot
    axes.set_xticks(places, shown, rotation=90 if upright else 0, fontsize=size, parse_math=False)
    axes.set_yticks(places, shown, fontsize=size, parse_math=False)
    axes.tick_params(length=0)


def _number_cells(axes: Axes, counts: Int64[ndarray, "k k"]) -> None:
    size = 10 if counts.max() < 1000 else 8
    for row, column in np.argwhere(counts):
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=size)


def reliability_plot(labelled: LabelledPredictions) -> Figure:
    """Draw accuracy against confidence in 15 bins, with 95 % Wilson intervals, and how many images each bin holds.

    Niculescu-Mizil and Caruana, "Predicting good probabilities with supervised learning", ICML 2005.
    """
    bin_of = np.minimum((labelled.confidence * BINS).astype(int), BINS - 1)
    filled = np.unique(bin_of)
    counts = np.bincount(bin_of, minlength=BINS)
    mean = np.array([labelled.confidence[bin_of == i].mean() for i in filled])
    hits = np.array([labelled.correct[bin_of == i].sum() for i in filled])
    bounds = np.array([wilson_interval(int(hit), int(count)) for hit, count in zip(hits, counts[filled], strict=True)])
    top = 10 ** math.ceil(math.log10(max(10, counts.max())))
    with new_figure(4.4, 4.2) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 1]})
        upper.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="perfectly calibrated")
        upper.vlines(mean, bounds[:, 0], bounds[:, 1], color=BLUE, linewidth=1.5)
        upper.plot(mean, hits / counts[filled], "o", color=BLUE, label="model, 95 % interval", clip_on=False)
        upper.set(xlim=(0, 1.02), ylim=(0, 1.05), ylabel="accuracy")
        figure.legend(loc="outside upper left", fontsize=9, ncols=2, columnspacing=1, handletextpad=0.5)
        edges = np.arange(BINS) / BINS
        lower.bar(edges, counts, width=1 / BINS, align="edge", color=BLUE, alpha=0.75)
        lower.set_yscale("symlog", linthresh=1)
        lower.set(xlabel="confidence", ylabel="images", ylim=(0, top), yticks=[1, top])
        lower.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    return figure


def coverage_plot(labelled: LabelledPredictions) -> Figure:
    """Draw accuracy against coverage, with its 95 % Wilson interval; the point leaves out unsure predictions.

    El-Yaniv and Wiener, "On the foundations of noise-free selective classification", JMLR 11 (2010) 1605-1641.
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
            axes.plot([sure.mean()], [point], "o", color=ORANGE, label="without unsure ones")
            axes.legend(loc="lower left", fontsize=9)
        bottom = max(0, min(lowest - 1.2 * (1 - lowest), bounds[-1, 0] - 0.2 * (1 - bounds[-1, 0])))
        axes.set(xlim=(0, 1.02), ylim=(bottom, 1 + 0.03 * (1 - bottom)))
        axes.set(xlabel="coverage, the surest first", ylabel="accuracy of those")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    return figure


def class_plot(labelled: LabelledPredictions) -> Figure:
    """Draw precision and recall of the classes that have images, the hardest first."""
    scored = class_scores(labelled.confusion())
    present = [i for i, one in enumerate(scored) if one["images"]]
    order = sorted(present, key=lambda i: scored[i]["f1"])[:HARDEST]
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
    """Draw the mistakes with the highest confidence, each with label, prediction and confidence; `images` in order."""
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
