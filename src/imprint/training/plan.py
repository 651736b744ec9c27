"""Plan: a training run settled and checked, before anything is spent on it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from numpy import ndarray

from imprint.core.errors import DataError, UsageError
from imprint.data.duplicates import fingerprints, first_copies
from imprint.data.images import LabelledImages, expect_images, kind_of
from imprint.data.quality import spelt_alike
from imprint.data.split import split
from imprint.models.hardware import choose_device
from imprint.models.networks import input_size
from imprint.preprocessing.glyph import learn_glyph_form
from imprint.preprocessing.input_spec import InputSpec, describe
from imprint.recipes import PHOTOS, QUICK, Recipe, find_recipe


@dataclass(frozen=True, eq=False)
class Plan:
    """A training run that can begin: everything in it has been checked.

    Parameters
    ----------
    images : LabelledImages
        What was given; it may be memory-mapped, and is not copied.
    training : ndarray of int64, shape (n,)
        Positions of those to learn from.
    validation : LabelledImages or None
        What to score epochs with.
    held_out : ndarray of int64, shape (m,)
        Positions of those in the data that they come from: `images`, unless others were given.
    recipe : Recipe
        What decides the run.
    reason : str
        Why this recipe; empty where it was named.
    mirror_reason : str
        Why pictures are mirrored, or not; empty where the recipe settles it.
    spec : InputSpec
        What the model will expect of a picture.
    device : torch.device
        Where to compute.
    warnings : tuple of str, default=()
        What the person who runs it should know of the data.

    Examples
    --------
    >>> from imprint import load
    >>> plan = plan_training(load("digits"))
    >>> plan.recipe.name, plan.spec.input_size, len(plan.validation)
    ('quick', (28, 28), 144)
    """

    images: LabelledImages
    training: Int64[ndarray, " n"]
    validation: LabelledImages | None
    held_out: Int64[ndarray, " m"]
    recipe: Recipe
    reason: str
    mirror_reason: str
    spec: InputSpec
    device: torch.device
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        line = f"training on {len(self.training):,} pictures of {describe(self.images.shape)}"
        if self.spec.input_size != self.spec.picture_size:
            height, width = self.spec.input_size
            line += f", scaled to {width}×{height} for the {self.recipe.net} network"
        held_out = "none" if self.validation is None else f"{len(self.validation):,}"
        line += f", {len(self.images.class_names)} classes; {held_out} held out; recipe {self.recipe.name}"
        line += f" ({self.reason})" if self.reason else ""
        mirrored = "mirrored" if self.recipe.mirror == "yes" else "not mirrored"
        line += f", {mirrored} ({self.mirror_reason}; --set mirror=yes or no)" if self.mirror_reason else ""
        return f"{line}, seed {self.recipe.seed}, {self.device.type}"

    def with_seeds(self, count: int) -> list[Plan]:
        """Give the same run with several seeds, to see how far chance alone moves its score.

        Parameters
        ----------
        count : int
            How many; the validation pictures are the same for all.

        Returns
        -------
        list of Plan
            With this plan's seed, the next one, and so on.

        Raises
        ------
        UsageError
            When there are several, and no pictures to score them with.

        Examples
        --------
        >>> from imprint import load
        >>> [plan.recipe.seed for plan in plan_training(load("digits")).with_seeds(3)]
        [7, 8, 9]
        """
        if count > 1 and self.validation is None:
            raise UsageError(
                f"{count} seeds",
                "--seeds",
                "without validation pictures there is nothing to compare",
                "Hold some out, such as --validation 0.08.",
            )
        return [replace(self, recipe=replace(self.recipe, seed=self.recipe.seed + i)) for i in range(count)]


def plan_training(
    images: LabelledImages,
    recipe: str | Recipe | None = None,
    *,
    settings: Sequence[str] = (),
    validation: float | int | LabelledImages | None = None,
    seed: int | None = None,
    device: str = "auto",
) -> Plan:
    """Settle a training run and check all of it, before anything is spent on it.

    Parameters
    ----------
    images : LabelledImages
        At least two classes.
    recipe : str, Recipe or None, default=None
        A recipe, its name or the path of a recipe.json; None lets the pictures decide.
    settings : sequence of str, default=()
        Changes to the recipe, such as ``"epochs=3"``.
    validation : float, LabelledImages or None, default=None
        Share to hold out, or other pictures to validate with; None does as the recipe says.
    seed : int or None, default=None
        Of weights, order, augmentation and dropout; None takes the recipe's.
    device : str, default="auto"
        Where to compute.

    Returns
    -------
    Plan
        For `carry_out`.

    Raises
    ------
    DataError
        When labels are missing or name only one class, or validation pictures do not fit.
    UsageError
        When the recipe, a setting or the device makes no sense.

    Examples
    --------
    >>> from imprint import load
    >>> print(plan_training(load("digits"), "quick", device="cpu"))
    training on 1,653 pictures of 8×8 grey, scaled to 28×28 for the quick network, 10 classes;
    144 held out; recipe quick, not mirrored (grey pictures may be signs; --set mirror=yes or no), seed 7, cpu
    """
    _check_arguments(images, recipe, settings, validation)
    settled, reason = (find_recipe(recipe), "") if isinstance(recipe, str) else (recipe, "")
    if settled is None:
        settled, reason = choose_recipe(images.shape)
    changes = [*settings, *(() if seed is None else (f"seed={seed}",))]
    if isinstance(validation, float | int):
        changes.append(f"validation_share={validation}")
    settled = settled.with_settings(changes)
    mirror, why = may_mirror(images) if settled.mirror == "auto" else (settled.mirror == "yes", "")
    views = ("mirror" if mirror else "none") if settled.views == "auto" else settled.views
    settled = replace(settled, mirror="yes" if mirror else "no", views=views)

    labels = _checked_labels(images)
    channels, height, width = images.shape
    network_size = input_size(settled.every_net, (height, width), settled.largest_side)
    # Pictures of several sizes were scaled and cropped for training, so others will be too.
    glyph = learn_glyph_form(images.pixels) if images.sizes is None else None
    spec = InputSpec(channels, (height, width), network_size, glyph)
    prints = fingerprints(images.pixels)
    copies = first_copies(prints)
    warned = (*_copies_told(images, copies), *_spellings_told(images))
    if isinstance(validation, LabelledImages):
        spec.check(validation.shape, validation.name)
        validation.labels_among(images.class_names)
        settled = replace(settled, validation_share=0.0)
        shared = len(np.intersect1d(prints, fingerprints(validation.pixels)))
        leaks = (f"{shared:,} validation pictures are training pictures too",) if shared else ()
        training, held_out, warned = np.arange(len(images)), np.arange(len(validation)), (*warned, *leaks)
    else:
        training, held_out = split(images, settled.validation_share, settled.validation_seed, images.groups, copies)
        validation = images[held_out] if len(held_out) else None
    if len(np.unique(labels[training])) < 2:
        raise DataError("labels", images.name, "all pictures left to train on are of one class", "Use more pictures.")
    where = choose_device(device)
    return Plan(images, training, validation, held_out, settled, reason, why, spec, where, warned)


def _checked_labels(images: LabelledImages) -> Int64[ndarray, " n"]:
    """Give the labels; refuse what has nothing to tell apart."""
    remedy = "Training needs at least two classes: a folder for each, or a column label."
    if images.labels is None:
        raise DataError("labels", images.name, "there are none", remedy)
    present = np.unique(images.labels)
    if len(present) < 2:
        raise DataError("labels", images.name, f"all are {images.class_names[present[0]]!r}", remedy)
    return images.labels


def _spellings_told(images: LabelledImages) -> tuple[str, ...]:
    """Put into words which classes are probably one."""
    alike = [names for names in spelt_alike(images.class_names) if len(names) > 1]
    return tuple(f"classes {', '.join(map(repr, names))} are probably one, learnt as several" for names in alike)


def _check_arguments(images: Any, recipe: Any, settings: Any, validation: Any) -> None:
    """Refuse arguments of a kind that cannot be meant."""
    expect_images(images, "train")
    if not isinstance(recipe, str | Recipe | None):
        raise UsageError("recipe", "train", f"{kind_of(recipe)} is neither a name nor a Recipe", 'Give "quick".')
    if not isinstance(settings, list | tuple) or not all(isinstance(setting, str) for setting in settings):
        raise UsageError("settings", "train", f"{kind_of(settings)} is no list of texts", 'Give ["epochs=3"].')
    if not isinstance(validation, float | int | LabelledImages | None):
        cause = f"{kind_of(validation)} is neither a share nor LabelledImages"
        raise UsageError("validation", "train", cause, "Give a share such as 0.1.")


def _copies_told(images: LabelledImages, copies: Int64[ndarray, " n"]) -> tuple[str, ...]:
    """Put into words what there is more than once; nothing where nothing is."""
    again = int((copies != np.arange(len(copies))).sum())
    if not again:
        return ()
    words = "1 picture is a copy of another" if again == 1 else f"{again:,} pictures are copies of others"
    contradicting = 0 if images.labels is None else int((images.labels != images.labels[copies]).sum())
    words += f", {contradicting:,} of them with another label" if contradicting else ""
    return (f"{words}; imprint check names them",)


def data_fingerprint(plan: Plan) -> str:
    """Boil down what a run learns from and is scored with: every pixel, label and class, and the split.

    Parameters
    ----------
    plan : Plan
        The run.

    Returns
    -------
    str
        The same for the same data; SHA-256.

    Examples
    --------
    >>> from imprint import load
    >>> digits = load("digits")
    >>> data_fingerprint(plan_training(digits)) == data_fingerprint(plan_training(digits[::-1]))
    False
    """
    collections = (plan.images,) if plan.validation is None else (plan.images, plan.validation)
    digest = hashlib.sha256(plan.training.tobytes())
    for images in collections:
        digest.update(images.fingerprint.encode())
    return digest.hexdigest()


def picture_side(recipe: str | Recipe | None, settings: Sequence[str]) -> int:
    """Tell at which size to decode photos of different sizes: somewhat larger than the network takes them.

    Parameters
    ----------
    recipe : str, Recipe or None
        A recipe, its name or the path of a recipe.json; None lets the pictures decide.
    settings : sequence of str
        Changes to the recipe.

    Returns
    -------
    int
        Pixels of the shorter side, for `load`.

    Raises
    ------
    UsageError
        When the recipe or a setting makes no sense.

    Examples
    --------
    >>> picture_side("photos", ["largest_side=192"])
    192
    """
    settled = recipe if isinstance(recipe, Recipe) else find_recipe(recipe or "photos")
    return max(128, settled.with_settings(settings).largest_side)


SIDES = {"left", "right", "east", "west", "clockwise", "anticlockwise", "counterclockwise", "port", "starboard"}


def may_mirror(images: LabelledImages) -> tuple[bool, str]:
    """Tell whether left and right may be turned about without changing what a picture means.

    Not where pictures are grey, since those may be letters, digits or other signs; nor where a
    class is named by a single letter or by a number, or after a side.

    Parameters
    ----------
    images : LabelledImages
        Pictures and class names.

    Returns
    -------
    allowed : bool
        Whether.
    reason : str
        Why, in a few words.

    Examples
    --------
    >>> from imprint import load
    >>> may_mirror(load("digits"))
    (False, 'grey pictures may be signs')
    """
    if images.shape[0] == 1:
        return False, "grey pictures may be signs"
    for name in images.class_names:
        if len(name.strip()) < 2 or name.strip().isdecimal():
            return False, f"class {name!r} is named like a sign"
        if SIDES & set(re.split(r"[\W_\d]+", name.lower())):
            return False, f"class {name!r} is named after a side"
    return True, "photos whose classes name neither a sign nor a side"


def choose_recipe(shape: tuple[int, int, int]) -> tuple[Recipe, str]:
    """Choose a recipe for pictures of a given form, where nobody named one.

    Parameters
    ----------
    shape : tuple of int
        Channels, height and width.

    Returns
    -------
    recipe : Recipe
        The choice.
    reason : str
        Why, in a few words.

    Examples
    --------
    >>> choose_recipe((1, 28, 28))[1]
    'the default for small grey pictures'
    """
    channels, height, width = shape
    if channels == 3:
        return PHOTOS, "the default for colour pictures"
    if max(height, width) <= 64:
        return QUICK, "the default for small grey pictures"
    return PHOTOS, "the default for larger pictures"
