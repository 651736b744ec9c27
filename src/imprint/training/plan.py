"""Plan: the validated settings of a training run and how its images are split, before anything is spent on it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from typing import Any, Unpack

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
from imprint.models.networks import input_size, network_kind, normalisation
from imprint.preprocessing.glyph import learn_glyph_form
from imprint.preprocessing.input_spec import InputSpec, describe
from imprint.recipes import PHOTOS, Recipe, RecipeFields, default_recipe, find_recipe

# Classes named after one of these would change their meaning in a mirror.
DIRECTION_WORDS = {
    "left",
    "right",
    "east",
    "west",
    "clockwise",
    "anticlockwise",
    "counterclockwise",
    "port",
    "starboard",
}


@dataclass(frozen=True, eq=False)
class Plan:
    """A training run that can begin: everything in it has been checked.

    `training` and `held_out` are positions: among `images`, and among what the validation images were taken from.
    `reason` and `hflip_reason` say why the recipe and the mirroring were chosen, where nobody named them.
    """

    images: LabelledImages
    training: Int64[ndarray, " n"]
    validation: LabelledImages | None
    held_out: Int64[ndarray, " m"]
    recipe: Recipe
    reason: str
    hflip_reason: str
    spec: InputSpec
    device: torch.device
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        line = f"training on {len(self.training):,} images of {describe(self.images.shape)}"
        if self.spec.input_size != self.spec.image_size:
            height, width = self.spec.input_size
            line += f", scaled to {width}×{height} for the {'+'.join(self.recipe.networks)} network"
        held_out = "none" if self.validation is None else f"{len(self.validation):,}"
        line += f", {len(self.images.class_names)} classes; {held_out} held out; recipe {self.recipe.name}"
        line += f" ({self.reason})" if self.reason else ""
        mirrored = "mirrored" if self.recipe.hflip == "yes" else "not mirrored"
        line += f", {mirrored} ({self.hflip_reason}; --set hflip=yes or no)" if self.hflip_reason else ""
        return f"{line}, seed {self.recipe.seed}, {self.device.type}"


def make_plan(
    images: LabelledImages,
    recipe: str | Recipe | None = None,
    *,
    validation: float | int | LabelledImages | None = None,
    device: str = "auto",
    **fields: Unpack[RecipeFields],
) -> Plan:
    """Settle a training run and check all of it; see `imprint.train` for what it takes.

    Raises `DataError` where labels are missing, name one class only, or validation images do not fit, `UsageError`
    where recipe, field or device makes no sense.
    """
    _check_arguments(images, validation)
    settled, reason = _settled_recipe(images, recipe, validation, fields)
    settled, hflip_reason = _settled_hflip(images, settled)
    labels = _checked_labels(images)
    channels, height, width = images.shape
    network_size = input_size(settled.all_networks, (height, width), settled.largest_side)
    # Images of several sizes were scaled and cropped for training, so others will be too.
    glyph = learn_glyph_form(images.pixels) if images.sizes is None else None
    mean, std = normalisation(settled.all_networks, channels)
    spec = InputSpec(channels, (height, width), network_size, glyph, mean, std)
    pixel_hashes = fingerprints(images.pixels)
    copies = first_copies(pixel_hashes)
    warnings = (*_duplicate_warnings(images, copies), *_similar_class_warnings(images))
    if isinstance(validation, LabelledImages):
        spec.check(validation.shape, validation.name)
        validation.labels_among(images.class_names)
        shared = len(np.intersect1d(pixel_hashes, fingerprints(validation.pixels)))
        leaks = (f"{shared:,} validation images are training images too",) if shared else ()
        training, held_out, warnings = np.arange(len(images)), np.arange(len(validation)), (*warnings, *leaks)
    else:
        training, held_out = split(images, settled.validation_fraction, settled.validation_seed, images.groups, copies)
        validation = images[held_out] if len(held_out) else None
    if len(np.unique(labels[training])) < 2:
        raise DataError("labels", images.name, "all images left to train on are of one class", "Use more images.")
    chosen_device = choose_device(device)
    return Plan(images, training, validation, held_out, settled, reason, hflip_reason, spec, chosen_device, warnings)


def may_hflip(images: LabelledImages) -> tuple[bool, str]:
    """Tell whether a horizontal flip leaves an image's label right, and why.

    Not where images are grey, since those may be letters, digits or other signs; nor where a class is named by a single
    letter or by a number, or after a side.
    """
    if images.shape[0] == 1:
        return False, "grey images may be signs"
    for name in images.class_names:
        if len(name.strip()) < 2 or name.strip().isdecimal():
            return False, f"class {name!r} is named like a sign"
        if DIRECTION_WORDS & set(re.split(r"[\W_\d]+", name.lower())):
            return False, f"class {name!r} is named after a side"
    return True, "photos whose classes name neither a sign nor a side"


def decoding_side(recipe: str | Recipe | None, **fields: Unpack[RecipeFields]) -> int:
    """Tell at which shorter side, in pixels, to decode photos of different sizes: above what the network takes.

    Raises `UsageError` where the recipe, a field or a network's name makes no sense.
    """
    settled = recipe if isinstance(recipe, Recipe) else find_recipe(recipe or PHOTOS.name)
    settled = settled.with_fields(fields, "train")
    for name in settled.all_networks:
        network_kind(name)  # a wrong name is refused before images are decoded
    return max(128, settled.largest_side)


def data_fingerprint(plan: Plan) -> str:
    """Hash what a run learns from and is scored with (SHA-256): every pixel, label and class, and the split."""
    collections = (plan.images,) if plan.validation is None else (plan.images, plan.validation)
    digest = hashlib.sha256(plan.training.tobytes())
    for images in collections:
        digest.update(images.fingerprint.encode())
    return digest.hexdigest()


def _check_arguments(images: Any, validation: Any) -> None:
    """Refuse arguments of a kind that cannot be meant."""
    expect_images(images, "train")
    if not isinstance(validation, float | int | LabelledImages | None):
        cause = f"{kind_of(validation)} is neither a share nor LabelledImages"
        raise UsageError("validation", "train", cause, "Give a share such as 0.1.")


def _settled_recipe(
    images: LabelledImages,
    recipe: str | Recipe | None,
    validation: float | int | LabelledImages | None,
    fields: RecipeFields,
) -> tuple[Recipe, str]:
    """Find or choose the recipe, change it by the fields given, and say why it was chosen."""
    settled, reason = (recipe, "") if isinstance(recipe, Recipe | None) else (find_recipe(recipe), "")
    if settled is None:
        settled, reason = default_recipe(images.shape)
    settled = settled.with_fields(fields, "train")
    if isinstance(validation, LabelledImages):
        settled = replace(settled, validation_fraction=0.0)
    elif validation is not None:
        settled = settled.with_fields({"validation_fraction": validation}, "train")
    return settled, reason


def _settled_hflip(images: LabelledImages, recipe: Recipe) -> tuple[Recipe, str]:
    """Settle whether images are mirrored, in training and in prediction, and say why."""
    hflip, reason = may_hflip(images) if recipe.hflip == "auto" else (recipe.hflip == "yes", "")
    tta = ("hflip" if hflip else "none") if recipe.tta == "auto" else recipe.tta
    return replace(recipe, hflip="yes" if hflip else "no", tta=tta), reason


def _checked_labels(images: LabelledImages) -> Int64[ndarray, " n"]:
    """Give the labels; refuse what has nothing to tell apart."""
    remedy = "Training needs at least two classes: a folder for each, or a column label."
    if images.labels is None:
        raise DataError("labels", images.name, "there are none", remedy)
    present = np.unique(images.labels)
    if len(present) < 2:
        raise DataError("labels", images.name, f"all are {images.class_names[present[0]]!r}", remedy)
    return images.labels


def _duplicate_warnings(images: LabelledImages, copies: Int64[ndarray, " n"]) -> tuple[str, ...]:
    """Warn of copies of images."""
    again = int((copies != np.arange(len(copies))).sum())
    if not again:
        return ()
    words = "1 image is a copy of another" if again == 1 else f"{again:,} images are copies of others"
    contradicting = 0 if images.labels is None else int((images.labels != images.labels[copies]).sum())
    words += f", {contradicting:,} of them with another label" if contradicting else ""
    return (f"{words}; imprint check names them",)


def _similar_class_warnings(images: LabelledImages) -> tuple[str, ...]:
    """Warn of classes that are probably one, spelt in two ways."""
    alike = [names for names in spelt_alike(images.class_names) if len(names) > 1]
    return tuple(f"classes {', '.join(map(repr, names))} are probably one, learnt as several" for names in alike)
