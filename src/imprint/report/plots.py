"""Every image that Imprint draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64, UInt8
from numpy import ndarray

from imprint.core.plot_style import draw_image, image_height, new_figure, save_png, shorten
from imprint.data.images import LabelledImages
from imprint.preprocessing.input_spec import InputSpec
from imprint.recipes import Recipe
from imprint.runs.figures import save_grid

if TYPE_CHECKING:
    pass

VERSIONS = 5  # of an image, as training changes it


def save_samples(images: LabelledImages, path: Path, count: int = 5) -> None:
    """Draw the first images, each under its label; the first of each class where they lie sorted by class.

    Parameters
    ----------
    images : LabelledImages
        The images.
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
    save_grid(first.pixels, titles, path)


def training_versions(
    pixels: UInt8[ndarray, "n c h w"], spec: InputSpec, recipe: Recipe, versions: int = VERSIONS
) -> UInt8[ndarray, "n versions c H W"]:
    """Change images at random as training does, for people to look at.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (n, c, h, w)
        Images in the form that `spec` asks for.
    spec : InputSpec
        The model's input contract.
    recipe : Recipe
        How training changes them.
    versions : int, default=5
        Of each image.

    Returns
    -------
    ndarray of uint8, shape (n, versions, c, *spec.input_size)
        What the network is given, the same at every call.

    Examples
    --------
    >>> from imprint.data.load import load
    >>> from imprint.recipes import RECIPES
    >>> spec = InputSpec(1, image_size=(8, 8), input_size=(28, 28))
    >>> training_versions(load("digits").pixels[:3], spec, RECIPES["quick"]).shape
    (3, 5, 1, 28, 28)
    """
    import torch

    from imprint.preprocessing.prepare import normalise, scale
    from imprint.training.augmentation import augment

    repeated = torch.from_numpy(np.repeat(pixels, versions, axis=0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        seen = augment(normalise(scale(repeated, spec)), recipe)
    as_bytes: UInt8[ndarray, "m c H W"] = (seen * 255).round().clamp(0, 255).to(torch.uint8).numpy()
    return as_bytes.reshape(len(pixels), versions, *as_bytes.shape[1:])


def one_of_each(labels: Int64[ndarray, " n"], count: int) -> Int64[ndarray, " chosen"]:
    """Choose images to show: the first of each class, then the second of each, and so on.

    Parameters
    ----------
    labels : ndarray of int64, shape (n,)
        Class of each image.
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
    """Draw labelled images, each beside versions of it as the network is given them in training.

    Parameters
    ----------
    images : LabelledImages
        Images in the form that `spec` asks for, with labels.
    spec : InputSpec
        The model's input contract.
    recipe : Recipe
        How training changes them.
    path : Path
        The PNG file to write.
    count : int, default=5
        Images, of different classes as far as there are.

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
    height = image_height(chosen.shape, 1.3) + 0.25
    with new_figure(8.2, height * len(chosen) + 0.1) as figure:
        grid = figure.subplots(len(chosen), VERSIONS + 1, squeeze=False)
        for row, image, versions, label in zip(
            grid, chosen.pixels, seen, chosen.labels_among(chosen.class_names), strict=True
        ):
            draw_image(row[0], np.asarray(image))
            title = shorten(chosen.class_names[label], 12)
            row[0].set_title(title, fontsize=11, fontweight="bold", loc="left", parse_math=False)
            for axes, version in zip(row[1:], versions, strict=True):
                draw_image(axes, version)
        grid[0, 1].set_title("as training sees it", fontsize=11, fontweight="normal", loc="left")
    save_png(figure, path)


def save_steps(steps: Sequence[tuple[str, UInt8[ndarray, "_ _ _"]]], path: Path) -> None:
    """Draw how an image becomes what a model sees, side by side.

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
        for axes, (name, image) in zip(figure.subplots(1, len(steps)), steps, strict=True):
            draw_image(axes, image.transpose(2, 0, 1))
            axes.set_title(name, fontsize=10, fontweight="normal", loc="center")
    save_png(figure, path)
