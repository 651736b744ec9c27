"""Plots of data: sample images, augmented versions, and how an image becomes what a model sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from imprint.core.plot_style import draw_grid, draw_image, image_height, new_figure, save_png, shorten
from imprint.data.images import LabelledImages, image_titles, one_of_each, some_of_each
from imprint.preprocessing.input_spec import InputSpec
from imprint.recipes import Recipe

VERSIONS = 5  # augmented versions of an image


def save_samples(images: LabelledImages, path: Path, count: int = 5) -> None:
    """Draw the first images, each under its label; the first of each class where they are sorted by class."""
    labels = images.labels
    by_class = labels is not None and bool((np.diff(labels) >= 0).all())
    shown = some_of_each(images, count) if by_class else images[:count]
    save_png(draw_grid(shown.pixels, image_titles(shown)), path)


def training_versions(
    pixels: UInt8[ndarray, "n c h w"], spec: InputSpec, recipe: Recipe, versions: int = VERSIONS
) -> UInt8[ndarray, "n versions c H W"]:
    """Augment images (in the form that `spec` asks for) as training does, for people to look at.

    Gives what the network is given, as bytes, the same at every call; `recipe.seed` decides.
    """
    import torch

    from imprint.preprocessing.prepare import normalise, scale
    from imprint.training.augmentation import augment

    repeated = torch.from_numpy(np.repeat(pixels, versions, axis=0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        augmented = augment(normalise(scale(repeated, spec)), recipe)
    as_bytes: UInt8[ndarray, "m c H W"] = (augmented * 255).round().clamp(0, 255).to(torch.uint8).numpy()
    return as_bytes.reshape(len(pixels), versions, *as_bytes.shape[1:])


def save_augmented(images: LabelledImages, spec: InputSpec, recipe: Recipe, path: Path, count: int = 5) -> None:
    """Draw labelled images, of as many classes as possible, each beside augmented versions of it."""
    labels = images.labels_among(images.class_names)
    chosen = images[one_of_each(labels, count)]
    augmented = training_versions(chosen.pixels, spec, recipe)
    chosen_labels = chosen.labels_among(chosen.class_names)
    height = image_height(chosen.shape, 1.3) + 0.25
    with new_figure(8.2, height * len(chosen) + 0.1) as figure:
        grid = figure.subplots(len(chosen), VERSIONS + 1, squeeze=False)
        for row, image, versions, label in zip(grid, chosen.pixels, augmented, chosen_labels, strict=True):
            draw_image(row[0], np.asarray(image))
            title = shorten(chosen.class_names[label], 12)
            row[0].set_title(title, fontsize=11, fontweight="bold", loc="left", parse_math=False)
            for axes, version in zip(row[1:], versions, strict=True):
                draw_image(axes, version)
        grid[0, 1].set_title("as training sees it", fontsize=11, fontweight="normal", loc="left")
    save_png(figure, path)


def save_steps(steps: Sequence[tuple[str, UInt8[ndarray, "_ _ _"]]], path: Path) -> None:
    """Draw the steps of `input_spec.fitting_steps` side by side: how an image becomes what a model sees."""
    with new_figure(2.4 * len(steps), 2.8) as figure:
        for axes, (name, image) in zip(figure.subplots(1, len(steps)), steps, strict=True):
            draw_image(axes, image.transpose(2, 0, 1))
            axes.set_title(name, fontsize=10, fontweight="normal", loc="center")
    save_png(figure, path)
