"""Strangers: pictures made of known ones that are of no class, from which a guard learns what is none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Int64, UInt8
from numpy import ndarray

from imprint.images import LabelledImages
from imprint.mapped import rows_of
from imprint.recipe import Recipe

QUARTER_TURNS = ("turned left", "turned right")  # only where height and width are the same
FORMS: dict[str, Callable[[UInt8[ndarray, "n c h w"]], UInt8[ndarray, "n c h w"]]] = {
    "turned left": lambda pixels: np.rot90(pixels, 1, axes=(2, 3)),
    "turned right": lambda pixels: np.rot90(pixels, 3, axes=(2, 3)),
    "upside down": lambda pixels: np.rot90(pixels, 2, axes=(2, 3)),
    "mirrored": lambda pixels: pixels[..., ::-1],
}
MIDDLE = (0.4, 0.6)  # where two pictures are cut to be joined, in shares of the side
LARGEST = 2**28  # bytes of made-up pictures, 342,000 of MNIST's size


def forms_for(recipe: Recipe, size: tuple[int, int]) -> tuple[str, ...]:
    """Tell which forms make strangers of pictures.

    Parameters
    ----------
    recipe : Recipe
        Where it mirrors pictures, mirrored ones are no strangers.
    size : tuple of int
        Height and width of the pictures.

    Returns
    -------
    tuple of str
        Some of `FORMS`.

    Examples
    --------
    >>> from imprint.recipes import RECIPES
    >>> forms_for(RECIPES["tutorial"], (28, 20))
    ('upside down', 'mirrored')
    """
    square = size[0] == size[1]
    return tuple(
        form
        for form in FORMS
        if (square or form not in QUARTER_TURNS) and not (form == "mirrored" and recipe.mirror == "yes")
    )


def guard_classes(recipe: Recipe, size: tuple[int, int], classes: int) -> int:
    """Count what a guard tells apart: each class as it is, each in every strange form, and halves of two classes.

    Parameters
    ----------
    recipe : Recipe
        Of the model.
    size : tuple of int
        Height and width of the pictures.
    classes : int
        Of the model.

    Returns
    -------
    int
        The guard's classes, of which the first are the model's.

    Examples
    --------
    >>> from imprint.recipes import RECIPES
    >>> guard_classes(RECIPES["tutorial"], (28, 28), 10)
    51
    """
    return classes * (1 + len(forms_for(recipe, size))) + 1


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
    halved = np.flatnonzero(becomes == len(forms))
    usual = np.flatnonzero(becomes > len(forms))
    others = rng.choice(usual, len(halved)) if len(usual) else halved
    differ = labels[others] != labels[halved]
    for first, second in zip(halved[differ], others[differ], strict=True):
        axis = int(rng.integers(1, 3))
        cut = round(float(rng.uniform(*MIDDLE)) * pixels.shape[axis + 1])
        half = (slice(None),) * axis + (slice(cut),)
        pixels[first][half] = pixels[second][half]
        labels[first] = classes * (1 + len(forms))
    names = tuple(map(str, range(guard_classes(recipe, size, classes))))
    return LabelledImages(pixels, labels, names, images.sources[taken])
