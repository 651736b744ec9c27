"""Strangers: pictures made of known ones that are of no class, from which a guard learns what is none."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Int64, UInt8
from numpy import ndarray

from imprint.core.memmap import rows_of
from imprint.data.images import LabelledImages
from imprint.models.ood import FORMS, forms_for, guard_classes
from imprint.recipes import QUICK, Recipe

MIDDLE = (0.4, 0.6)  # where two pictures are cut to be joined, in shares of the side
LARGEST = 2**28  # bytes of made-up pictures, 342,000 of MNIST's size


def make_strangers(images: LabelledImages, chosen: Int64[ndarray, " n"], recipe: Recipe) -> LabelledImages:
    """Leave about half of some pictures as they are, and make strangers of the others.

    Each other picture is turned, mirrored, or joined of halves of two classes, as chance has it.

    Parameters
    ----------
    images : LabelledImages
        Labelled pictures.
    chosen : ndarray of int64, shape (n,)
        Positions of those to take; of too many to hold in memory, some are left out.
    recipe : Recipe
        Of the model; its seed decides what becomes of which picture.

    Returns
    -------
    LabelledImages
        Copies, with the classes that `guard_classes` counts.

    References
    ----------
    Golan and El-Yaniv, "Deep anomaly detection using geometric transformations", arXiv:1805.10917; Lee et al.,
    "Self-supervised label augmentation via input transformations", arXiv:1910.05872, for telling class and form
    together.

    Examples
    --------
    >>> from imprint import load
    >>> from imprint.recipes import RECIPES
    >>> digits = load("digits")
    >>> made = make_strangers(digits, np.arange(1000), RECIPES["tutorial"])
    >>> made.pixels.shape, len(made.class_names), round(float((made.labels < 10).mean()), 1)
    ((1000, 1, 8, 8), 51, 0.5)
    """
    rng = np.random.default_rng(recipe.seed)
    size = images.pixels.shape[2:]
    forms, classes = forms_for(recipe, size), len(images.class_names)
    most = max(2, LARGEST // int(np.prod(images.shape)))
    taken = np.sort(rng.permutation(chosen)[:most])  # pictures mapped from a file are read faster in order
    pixels, labels = rows_of(images.pixels, taken), images.labels_among(images.class_names)[taken]
    becomes = rng.integers(0, 2 * (len(forms) + 1), len(pixels))
    for place, form in enumerate(forms):
        of_form = becomes == place
        pixels[of_form] = FORMS[form](pixels[of_form])
        labels[of_form] += classes * (1 + place)
    halved, usual = np.flatnonzero(becomes == len(forms)), np.flatnonzero(becomes > len(forms))
    others = rng.choice(usual, len(halved)) if len(usual) else halved
    differ = labels[others] != labels[halved]
    for first, second in zip(halved[differ], others[differ], strict=True):
        _join(pixels[first], pixels[second], rng)
        labels[first] = classes * (1 + len(forms))
    names = tuple(map(str, range(guard_classes(recipe, size, classes))))
    return LabelledImages(pixels, labels, names, images.sources[taken])


def _join(picture: UInt8[ndarray, "c h w"], other: UInt8[ndarray, "c h w"], rng: np.random.Generator) -> None:
    """Put about half of another picture in a picture's place, across or along."""
    axis = int(rng.integers(1, 3))
    cut = round(float(rng.uniform(*MIDDLE)) * picture.shape[axis])
    half = (slice(None),) * axis + (slice(cut),)
    picture[half] = other[half]


def guard_recipe(recipe: Recipe) -> Recipe:
    """Give the recipe by which a model's guard is taught: that of `quick`, or shorter where the model's is.

    Guards taught five times as long found no more (docs/LOG.md). Pictures are turned as far as the model's, or further.

    Parameters
    ----------
    recipe : Recipe
        The model's, settled, with a guard.

    Returns
    -------
    Recipe
        The guard's.

    Examples
    --------
    >>> guard_recipe(dataclasses.replace(BEST, mirror="no")).epochs
    7
    """
    taken = {name: getattr(recipe, name) for name in ("mirror", "precision", "min_steps", "seed")}
    taken |= {"epochs": min(recipe.epochs, QUICK.epochs), "rotation": max(recipe.rotation, QUICK.rotation)}
    return dataclasses.replace(QUICK, name="guard", net=recipe.guard, validation_share=0.0, **taken)
