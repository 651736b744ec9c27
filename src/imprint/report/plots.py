"""Every picture that Imprint draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64, UInt8
from numpy import ndarray

from imprint.core.plot_style import BLUE, GREY, ORANGE, draw_picture, new_figure, picture_height, save_png, shorten
from imprint.data.images import LabelledImages
from imprint.models.predictor import Predictions
from imprint.preprocessing.input_spec import InputSpec
from imprint.recipes import Recipe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES = {"loss": "Loss", "acc": "Accuracy", "lr": "Learning rate"}
VERSIONS = 5  # of a picture, as training changes it
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
    with new_figure(9, 3.4, layout=None) as figure:
        # Margins by hand: finding them takes longer than the rest of the drawing.
        panels = figure.subplots(
            1, 3, gridspec_kw={"left": 0.06, "right": 0.985, "top": 0.82, "bottom": 0.15, "wspace": 0.3}
        )
        for axes, what in zip(panels, CURVES, strict=True):
            _draw_curve(axes, history, what)
    save_png(figure, path)


def curve_plot(history: Mapping[str, Sequence[float]], what: str) -> Figure:
    """Draw one of the curves by itself.

    Parameters
    ----------
    history : mapping of str to sequence of float
        As `Run.history`.
    what : str
        One of `CURVES`.

    Returns
    -------
    Figure
        Of matplotlib.

    Examples
    --------
    >>> figure = curve_plot({"loss": [1.0, 0.5], "acc": [0.7, 0.9], "lr": [1e-3, 1e-3]}, "acc")
    """
    with new_figure(3.3, 2.8) as figure:
        _draw_curve(figure.subplots(), history, what)
    return figure


def _draw_curve(axes: Axes, history: Mapping[str, Sequence[float]], what: str) -> None:
    """Draw training and validation, or the learning rate, over the epochs."""
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


def save_samples(images: LabelledImages, path: Path, count: int = 5) -> None:
    """Draw the first pictures, each under its label; the first of each class where they lie sorted by class.

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
    >>> from imprint.data.load import load
    >>> save_samples(load("digits"), Path(tempfile.mkdtemp()) / "samples.png")
    """
    labels = images.labels
    if labels is not None and (np.diff(labels) >= 0).all():
        first = images[one_of_each(labels, count)]
    else:
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
    >>> from imprint.data.load import load
    >>> digits = load("digits")
    >>> sure = np.eye(10, dtype=np.float32)[digits.labels]
    >>> right = Predictions(sure, digits.class_names, digits.sources, np.zeros(1797, dtype=np.float32), 0.5)
    >>> save_predictions(digits, right, Path(tempfile.mkdtemp()) / "predictions.png", slice(0, 10))
    """
    names = predictions.names
    titles = [f"index {i}\npredicted {shorten(names[i], 8)}" for i in range(window.start, window.stop)]
    _save_grid(images.pixels[window], titles, path)


def _save_grid(pixels: UInt8[ndarray, "n c h w"], titles: Sequence[str], path: Path) -> None:
    """Draw pictures in rows, each under its title."""
    columns = 5 if len(pixels) <= 10 else 10
    rows = math.ceil(len(pixels) / columns)
    lines = max(title.count("\n") + 1 for title in titles)
    side = 1.5 if columns == 5 else 0.95
    longest = max(len(line) for title in titles for line in title.split("\n"))
    size = 11 if columns == 5 and longest <= 15 else 9
    height = picture_height(pixels.shape[1:], side) + 0.24 * lines
    with new_figure(columns * side + 0.2, rows * height) as figure:
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in grid:
            axes.axis("off")
        for axes, picture, title in zip(grid, pixels, titles, strict=False):
            draw_picture(axes, picture)
            shown = shorten(title, 18 if columns == 5 else 11)
            axes.set_title(shown, fontsize=size, fontweight="normal", loc="center", parse_math=False)
    save_png(figure, path)


def training_versions(
    pixels: UInt8[ndarray, "n c h w"], spec: InputSpec, recipe: Recipe, versions: int = VERSIONS
) -> UInt8[ndarray, "n versions c H W"]:
    """Change pictures at random as training does, for people to look at.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (n, c, h, w)
        Pictures in the form that `spec` asks for.
    spec : InputSpec
        The model's input contract.
    recipe : Recipe
        How training changes them.
    versions : int, default=5
        Of each picture.

    Returns
    -------
    ndarray of uint8, shape (n, versions, c, *spec.input_size)
        What the network is given, the same at every call.

    Examples
    --------
    >>> from imprint.data.load import load
    >>> from imprint.recipes import RECIPES
    >>> spec = InputSpec(1, picture_size=(8, 8), input_size=(28, 28))
    >>> training_versions(load("digits").pixels[:3], spec, RECIPES["quick"]).shape
    (3, 5, 1, 28, 28)
    """
    import torch

    from imprint.preprocessing.prepare import prepare
    from imprint.training.augmentation import augment

    repeated = torch.from_numpy(np.repeat(pixels, versions, axis=0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        seen = augment(prepare(repeated, spec), recipe)
    as_bytes: UInt8[ndarray, "m c H W"] = (seen * 255).round().clamp(0, 255).to(torch.uint8).numpy()
    return as_bytes.reshape(len(pixels), versions, *as_bytes.shape[1:])


def one_of_each(labels: Int64[ndarray, " n"], count: int) -> Int64[ndarray, " chosen"]:
    """Choose pictures to show: the first of each class, then the second of each, and so on.

    Parameters
    ----------
    labels : ndarray of int64, shape (n,)
        Class of each picture.
    count : int
        How many; fewer where there are no more.

    Returns
    -------
    ndarray of int64, shape (chosen,)
        Positions, by class where one of each is enough.

    Examples
    --------
    >>> one_of_each(np.array([1, 1, 0, 0, 2]), 4)
    array([2, 0, 4, 3])
    """
    by_class = np.argsort(labels, kind="stable")
    _, start = np.unique(labels[by_class], return_index=True)
    turn = np.arange(len(labels)) - np.repeat(start, np.diff(np.append(start, len(labels))))
    return np.asarray(by_class[np.argsort(turn, kind="stable")][:count])


def save_augmented(images: LabelledImages, spec: InputSpec, recipe: Recipe, path: Path, count: int = 5) -> None:
    """Draw labelled pictures, each beside versions of it as the network is given them in training.

    Parameters
    ----------
    images : LabelledImages
        Pictures in the form that `spec` asks for, with labels.
    spec : InputSpec
        The model's input contract.
    recipe : Recipe
        How training changes them.
    path : Path
        The PNG file to write.
    count : int, default=5
        Pictures, of different classes as far as there are.

    Raises
    ------
    UsageError
        When the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from imprint.data.load import load
    >>> from imprint.recipes import RECIPES
    >>> spec, path = InputSpec(1, (8, 8), (28, 28)), Path(tempfile.mkdtemp()) / "augmented.png"
    >>> save_augmented(load("digits"), spec, RECIPES["quick"], path)
    """
    labels = images.labels_among(images.class_names)
    chosen = images[one_of_each(labels, count)]
    seen = training_versions(chosen.pixels, spec, recipe)
    height = picture_height(chosen.shape, 1.3) + 0.25
    with new_figure(8.2, height * len(chosen) + 0.1) as figure:
        grid = figure.subplots(len(chosen), VERSIONS + 1, squeeze=False)
        for row, picture, versions, label in zip(
            grid, chosen.pixels, seen, chosen.labels_among(chosen.class_names), strict=True
        ):
            draw_picture(row[0], np.asarray(picture))
            title = shorten(chosen.class_names[label], 12)
            row[0].set_title(title, fontsize=11, fontweight="bold", loc="left", parse_math=False)
            for axes, version in zip(row[1:], versions, strict=True):
                draw_picture(axes, version)
        grid[0, 1].set_title("as training sees it", fontsize=11, fontweight="normal", loc="left")
    save_png(figure, path)


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
    with new_figure(2.4 * len(steps), 2.8) as figure:
        for axes, (name, picture) in zip(figure.subplots(1, len(steps)), steps, strict=True):
            draw_picture(axes, picture.transpose(2, 0, 1))
            axes.set_title(name, fontsize=10, fontweight="normal", loc="center")
    save_png(figure, path)
