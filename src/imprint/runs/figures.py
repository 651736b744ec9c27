"""Figures of a run folder: training curves, and test images with their predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imprint.core.plot_style import BLUE, GREY, ORANGE, draw_grid, new_figure, save_png, shorten
from imprint.data.images import LabelledImages
from imprint.models.predictor import Predictions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES = {"loss": "Loss", "acc": "Accuracy", "lr": "Learning rate"}
PREDICTIONS_SHOWN = 10  # test images in predictions.png


def save_curves(history: Mapping[str, Sequence[float]], path: Path) -> None:
    """Draw the curves of a `Run.history` into a file."""
    save_png(curves_plot(history), path)


def curves_plot(history: Mapping[str, Sequence[float]]) -> Figure:
    """Draw loss, accuracy and learning rate over the epochs of a `Run.history`."""
    with new_figure(9, 3.4, layout=None) as figure:
        # Margins set by hand: the constrained layout takes longer than the rest of the drawing.
        panels = figure.subplots(
            1, 3, gridspec_kw={"left": 0.06, "right": 0.985, "top": 0.82, "bottom": 0.15, "wspace": 0.3}
        )
        for axes, what in zip(panels, CURVES, strict=True):
            _draw_curve(axes, history, what)
    return figure


def curve_plot(history: Mapping[str, Sequence[float]], what: str) -> Figure:
    """Draw one of `CURVES` by itself."""
    with new_figure(3.3, 2.8) as figure:
        _draw_curve(figure.subplots(), history, what)
    return figure


def _draw_curve(axes: Axes, history: Mapping[str, Sequence[float]], what: str) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    epochs = range(1, len(history["loss"]) + 1)
    marker = "o" if len(epochs) < 4 else None
    if what == "lr":
        axes.plot(epochs, history["lr"], color=ORANGE, drawstyle="steps-mid", marker=marker)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # powers of ten alone may be one, or none
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.plot(epochs, history[what], color=GREY, label="training (augmented)", marker=marker)
        if f"val_{what}" in history:
            axes.plot(epochs, history[f"val_{what}"], color=BLUE, label="validation", marker=marker)
        # Above the axes, since a curve may lie anywhere within them.
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=9, handlelength=1, columnspacing=0.8)
    axes.set_title(CURVES[what], pad=24)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))


def random_window(count: int, seed: int) -> slice:
    """Choose ten consecutive images at a random place, or all where there are fewer."""
    start = int(np.random.default_rng(seed).integers(max(count - PREDICTIONS_SHOWN, 0) + 1))
    return slice(start, min(start + PREDICTIONS_SHOWN, count))


def save_predictions(images: LabelledImages, predictions: Predictions, path: Path, window: slice) -> None:
    """Draw the images of a window in rows of five, each under its index, counted from 0, and its prediction."""
    names = predictions.names
    titles = [f"index {i}\npredicted {shorten(names[i], 8)}" for i in range(window.start, window.stop)]
    save_png(draw_grid(images.pixels[window], titles), path)
