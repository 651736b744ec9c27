"""Figures of a run folder: training curves, and test images with their predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imprint.core.plot_style import BLUE, GREEN, GREY, ORANGE, draw_grid, new_figure, save_png, shorten
from imprint.data.images import LabelledImages
from imprint.models.predictor import Predictions
from imprint.recipes import Recipe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

History = Mapping[str, Sequence[float]]
COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9")  # of networks, by name
LEGEND_COLUMNS = 3
TRAINING_DASHES = (0, (3, 2))
CURVES = {"loss": "Loss", "acc": "Accuracy", "lr": "Learning rate"}
PREDICTIONS_SHOWN = 10  # test images in predictions.png


def save_curves(history: Mapping[str, Sequence[float]], path: Path, recipe: Recipe | None = None) -> None:
    """Draw the curves of a `Run.history` into a file."""
    save_png(curves_plot(history, recipe), path)


def curves_plot(history: Mapping[str, Sequence[float]], recipe: Recipe | None = None) -> Figure:
    """Draw loss, accuracy and learning rate over the epochs of a `Run.history`, each network of several by itself."""
    parts = by_network(history, recipe)
    with new_figure(9, 3.4, layout=None) as figure:
        # Margins set by hand: the constrained layout takes longer than the rest of the drawing.
        margins = {"left": 0.06, "right": 0.985, "top": 0.88 - 0.06 * _legend_rows(parts), "bottom": 0.15}
        panels = figure.subplots(1, 3, gridspec_kw={**margins, "wspace": 0.3})
        for axes, what in zip(panels, CURVES, strict=True):
            _draw_curves(axes, parts, what)
    return figure


def curve_plot(history: Mapping[str, Sequence[float]], what: str, recipe: Recipe | None = None) -> Figure:
    """Draw one of `CURVES` by itself."""
    with new_figure(3.3, 2.8) as figure:
        _draw_curves(figure.subplots(), by_network(history, recipe), what)
    return figure


def by_network(history: Mapping[str, Sequence[float]], recipe: Recipe | None) -> list[tuple[str, History]]:
    """Divide a history among the networks of a recipe, which are trained one after another; each with its name."""
    count, names = len(history["loss"]), () if recipe is None else recipe.networks
    if recipe is None or len(names) < 2 or not recipe.epochs:
        return [("", history)]
    starts = range(0, count, recipe.epochs)
    parts = [{key: values[start : start + recipe.epochs] for key, values in history.items()} for start in starts]
    return [(name, part) for name, part in zip(names, parts, strict=False)]


def _draw_curves(axes: Axes, parts: Sequence[tuple[str, History]], what: str) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    colours = dict(zip(dict.fromkeys(name for name, _ in parts), cycle(COLOURS), strict=False))
    for name, part in parts:
        _draw_curve(axes, part, what, colours[name] if name else "")
    if what == "lr":
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # powers of ten alone may be one, or none
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        for name, colour in colours.items() if parts[0][0] else ():
            times = [one for one, _ in parts].count(name)
            axes.plot([], [], color=colour, label=shorten(name, 12) + (f" ({times})" if times > 1 else ""))
        if parts[0][0] and f"val_{what}" in parts[0][1]:
            axes.plot([], [], color=GREY, linestyle=TRAINING_DASHES, linewidth=1, label="training")
        # Above the axes, since a curve may lie anywhere within them.
        columns = LEGEND_COLUMNS if parts[0][0] else 2
        style = {"fontsize": 9, "handlelength": 1.2 if parts[0][0] else 1, "columnspacing": 0.8}
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, **style)
    axes.set_title(CURVES[what], pad=24 + 14 * (_legend_rows(parts) - 1))
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))


def _draw_curve(axes: Axes, history: History, what: str, colour: str) -> None:
    """Draw one network's curve; with a `colour` as one of several, its training dashed."""
    epochs = range(1, len(history["loss"]) + 1)
    marker = "o" if len(epochs) < 4 else None
    if what == "lr":
        axes.plot(epochs, history["lr"], color=colour or ORANGE, drawstyle="steps-mid", marker=marker)
    elif colour:
        validated = f"val_{what}" in history
        style = {"linestyle": TRAINING_DASHES, "linewidth": 1, "alpha": 0.6} if validated else {"linewidth": 1.3}
        axes.plot(epochs, history[what], color=colour, marker=marker, markersize=4, **style)
        if validated:
            axes.plot(epochs, history[f"val_{what}"], color=colour, linewidth=1.3, marker=marker, markersize=4)
    else:
        axes.plot(epochs, history[what], color=GREY, label="training (augmented)", marker=marker)
        if f"val_{what}" in history:
            axes.plot(epochs, history[f"val_{what}"], color=BLUE, label="validation", marker=marker)


def _legend_rows(parts: Sequence[tuple[str, History]]) -> int:
    """Count the rows of the legend: the names of several networks, and what dashes mean."""
    names = len({name for name, _ in parts if name})
    return -(-(names + 1) // LEGEND_COLUMNS) if names else 1


def random_window(count: int, seed: int) -> slice:
    """Choose ten consecutive images at a random place, or all where there are fewer."""
    start = int(np.random.default_rng(seed).integers(max(count - PREDICTIONS_SHOWN, 0) + 1))
    return slice(start, min(start + PREDICTIONS_SHOWN, count))


def save_predictions(images: LabelledImages, predictions: Predictions, path: Path, window: slice) -> None:
    """Draw the images of a window in rows of five, each under its name in result.csv and its prediction."""
    names, places = predictions.names, range(window.start, window.stop)
    titles = [f"{_name_in_result(predictions, i)}\npredicted {shorten(names[i], 8)}" for i in places]
    save_png(draw_grid(images.pixels[window], titles), path)


def _name_in_result(predictions: Predictions, place: int) -> str:
    """Name an image as `Predictions.to_csv` does, with the header of ids before it."""
    if predictions.ids is not None:
        return shorten(f"{predictions.headers[0]} {predictions.ids[place]}", 18)
    source = predictions.sources[place]
    return f"ImageId {place + 1}" if isinstance(source, np.integer) else shorten(Path(str(source)).name, 18)
