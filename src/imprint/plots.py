"""Every picture that Imprint draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from imprint.files import written_whole
from imprint.images import LabelledImages
from imprint.predictions import Predictions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind people tell apart: jfly.uni-koeln.de/color
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#5F6B76"
INK = "#1F2933"
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#B8C0C8",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlesize": 12,
    "grid.color": "#E6EAEE",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "savefig.dpi": 150,
}
SHOWN = 10  # test pictures in predictions.png


def save_curves(history: Mapping[str, Sequence[float]], path: Path) -> None:
    """Draw loss, accuracy and learning rate over the epochs.

    Parameters
    ----------
    history : mapping of str to sequence of float
        As `Run.history`.
    path : Path
        The PNG file to write.

    Raises
    ------
    UsageError
        When the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> history = {"loss": [1.0, 0.5], "acc": [0.7, 0.9], "lr": [1e-3, 1e-3]}
    >>> save_curves(history, Path(tempfile.mkdtemp()) / "curves.png")
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with rc_context(STYLE):
        figure = Figure(figsize=(9, 3.2))
        # Margins by hand: finding them takes longer than the rest of the drawing.
        panels = figure.subplots(
            1, 3, gridspec_kw={"left": 0.06, "right": 0.985, "top": 0.89, "bottom": 0.16, "wspace": 0.26}
        )
        epochs = range(1, len(history["loss"]) + 1)
        marker = "o" if len(epochs) < 4 else None
        for axes, title, key in zip(panels, ("Loss", "Accuracy"), ("loss", "acc"), strict=False):
            axes.plot(epochs, history[key], color=GREY, label="training (augmented)", marker=marker)
            if f"val_{key}" in history:
                axes.plot(epochs, history[f"val_{key}"], color=BLUE, label="validation", marker=marker)
            axes.set_title(title)
            axes.legend(loc="upper right" if key == "loss" else "lower right")
        panels[2].plot(epochs, history["lr"], color=ORANGE, drawstyle="steps-mid", marker=marker)
        panels[2].set_yscale("log")
        panels[2].set_title("Learning rate")
        for axes in panels:
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        _save(figure, path)


def save_samples(images: LabelledImages, path: Path, count: int = 5) -> None:
    """Draw the first pictures, each under its label.

    Parameters
    ----------
    images : LabelledImages
        The pictures.
    path : Path
        The PNG file to write.
    count : int, default=5
        How many; five stand in one row.

    Raises
    ------
    UsageError
        When the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from imprint.data import load
    >>> save_samples(load("digits"), Path(tempfile.mkdtemp()) / "samples.png")
    """
    first = images[:count]
    if first.labels is None:
        titles = [f"{'row ' if images.from_pixel_table else ''}{source}" for source in first.sources]
    else:
        titles = [images.class_names[label] for label in first.labels]
    _save_grid(first.pixels, titles, path)


def random_window(count: int, seed: int) -> slice:
    """Choose ten consecutive pictures from a random place.

    Parameters
    ----------
    count : int
        How many pictures there are.
    seed : int
        Which place.

    Returns
    -------
    slice
        Positions; all of them if there are fewer than ten.

    Examples
    --------
    >>> window = random_window(28_000, seed=7)
    >>> window.stop - window.start
    10
    """
    start = int(np.random.default_rng(seed).integers(max(count - SHOWN, 0) + 1))
    return slice(start, min(start + SHOWN, count))


def save_predictions(images: LabelledImages, predictions: Predictions, path: Path, window: slice) -> None:
    """Draw some pictures in rows of five, each under its index and prediction.

    Parameters
    ----------
    images : LabelledImages
        The pictures.
    predictions : Predictions
        What the model says of them, in the same order.
    path : Path
        The PNG file to write.
    window : slice
        Which to draw, as `random_window` gives it; the first picture has index 0.

    Raises
    ------
    UsageError
        When the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from imprint.data import load
    >>> digits = load("digits")
    >>> sure = np.eye(10, dtype=np.float32)[digits.labels]
    >>> right = Predictions(sure, digits.class_names, digits.sources, 0.5)
    >>> save_predictions(digits, right, Path(tempfile.mkdtemp()) / "predictions.png", slice(0, 10))
    """
    names = predictions.names
    titles = [f"index {i}\npredicted {names[i]}" for i in range(window.start, window.stop)]
    _save_grid(images.pixels[window], titles, path)


def _save_grid(pixels: UInt8[ndarray, "n c h w"], titles: Sequence[str], path: Path) -> None:
    """Draw pictures in rows, each under its title."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    columns = 5 if len(pixels) <= 10 else 10
    rows = math.ceil(len(pixels) / columns)
    lines = max(title.count("\n") + 1 for title in titles)
    side = 1.5 if columns == 5 else 0.95
    size = 11 if columns == 5 else 9
    with rc_context(STYLE):
        figure = Figure(figsize=(columns * side + 0.2, rows * (side + 0.24 * lines)), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in grid:
            axes.axis("off")
        for axes, picture, title in zip(grid, pixels, titles, strict=False):
            _draw_picture(axes, picture)
            axes.set_title(_shorten(title), fontsize=size, fontweight="normal", loc="center", parse_math=False)
        _save(figure, path)


def save_steps(steps: Sequence[tuple[str, UInt8[ndarray, "_ _ _"]]], path: Path) -> None:
    """Draw how a picture becomes what a model sees, side by side.

    Parameters
    ----------
    steps : sequence of tuple of str and ndarray of uint8
        From `input_spec.fitting_steps`.
    path : Path
        The PNG file to write.

    Raises
    ------
    UsageError
        When the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> grey = np.zeros((28, 28, 1), dtype=np.uint8)
    >>> save_steps([("as given", grey), ("as the model sees it", grey)], Path(tempfile.mkdtemp()) / "seen.png")
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(2.4 * len(steps), 2.8), layout="constrained")
        for axes, (name, picture) in zip(figure.subplots(1, len(steps)), steps, strict=True):
            axes.axis("off")
            _draw_picture(axes, picture.transpose(2, 0, 1))
            axes.set_title(name, fontsize=10, fontweight="normal", loc="center")
        _save(figure, path)


def _draw_picture(axes: Axes, picture: UInt8[ndarray, "c h w"]) -> None:
    """Draw one picture with crisp pixels, grey or in colour."""
    channels_last = picture.transpose(1, 2, 0)
    if channels_last.shape[2] == 1:
        axes.imshow(channels_last[..., 0], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    else:
        axes.imshow(channels_last, interpolation="nearest")


def _shorten(title: str) -> str:
    return "\n".join(line if len(line) <= 18 else f"{line[:17]}…" for line in title.split("\n"))


def _save(figure: Figure, path: Path) -> None:
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", facecolor="white")
