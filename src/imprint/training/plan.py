"""Plan: the validated settings of a training run and how its images are split, before anything is spent on it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from jaxtyping import Int64
from numpy import ndarray

from imprint.core.errors import DataError, UsageError
from imprint.core.memmap import in_chunks
from imprint.core.scores import FEWEST_TO_TELL
from imprint.data.duplicates import burst_share, connect, first_copies
from imprint.data.images import LabelledImages, earlier_fingerprint, expect_images, kind_of
from imprint.data.quality import spelt_alike
from imprint.data.readers.layout import label_in_names
from imprint.data.split import split, split_further
from imprint.models.backbones import find_weights
from imprint.models.hardware import choose_device
from imprint.models.networks import input_size, network_kind, normalisation
from imprint.preprocessing.glyph import learn_glyph_form
from imprint.preprocessing.input_spec import InputSpec, describe
from imprint.recipes import (
    FINETUNE,
    PHOTOS,
    PRETRAINED,
    PROBE,
    QUICK,
    Recipe,
    RecipeFields,
    default_recipe,
    find_recipe,
    recipe_for,
)
from imprint.training.distributed import ALONE, Crew, own_device
from imprint.training.parent import ImageKeys, Parent, SeenImages

# What these learn from is seldom drawn.
PHOTO_NETWORKS = {*PRETRAINED, "residual", "whitened", "whitened_broad", "whitened_photos"}
MANY_IMAGES = 20  # of the median class, beside which a class of one image is probably a mistake
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


# What a step of a pretrained network costs on two cores (AMD EPYC, torch 2.13.0; docs/log/photos.md): seconds an image
# and a pixel, and the share of that which is left where the first blocks are frozen.
SECONDS_AN_IMAGE, SECONDS_A_PIXEL = 0.9e-3, 0.66e-6
SHARE_BY_FROZEN = {0: 1.0, 5: 0.63, 11: 0.43}
SIDES = (256, 224, 208, 192, 160, 128, 96)  # shorter side, in pixels; a larger one gains more than more blocks do
# From this shorter side on photos show things as ImageNet's do: the first blocks stay, and the others change the less
# the fewer images there are, up to a number that takes the recipe's whole learning rate.
LARGE_SIDE, FULL_RATE_IMAGES = 192, 12_000
KEPT_SIZE = 96  # pixels; images whose shorter side has so many are not enlarged to be trained on
FEWEST_IN_CLASS, FEWEST_IN_ALL = 5, FEWEST_TO_TELL  # images, for a score to be claimed
SEED_STEP = 0x9E3779B1  # between the seeds of networks that are dealt, far from the next seed of a series
BURST_SHARE, BURST_SOUGHT = 0.5, 500  # of a class's images, and in how many of them a burst is looked for at most


@dataclass(frozen=True, eq=False)
class Plan:
    """A training run that can begin: everything in it has been checked.

    `training` and `held_out` are positions: among `images`, and among what the validation images were taken from.
    `reason` and `hflip_reason` say why the recipe and the mirroring were chosen, where nobody named them; `start`
    what a run with a `parent` starts from, `leak` why its score is an upper estimate, where the parent was trained on
    images held out. `seen` tells which images the model will have seen, None where nothing tells the parent's. `crew`
    are the processes that train together; where networks are `dealt`, each trains some of these alone, of which the
    first is a `member` of the whole.
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
    groups: Int64[ndarray, " images"]
    warnings: tuple[str, ...] = ()
    parent: Parent | None = None
    start: str = ""
    leak: str = ""
    seen: SeenImages | None = None
    crew: Crew = ALONE
    dealt: bool = False
    member: int = 0

    @property
    def dtype(self) -> torch.dtype:
        """The type of weights and images in training."""
        return torch.float64 if self.recipe.precision == "float64" else torch.float32

    @property
    def batch_size(self) -> int:
        """Images in a step, of all processes together."""
        return min(self.recipe.batch_size, len(self.training))

    @property
    def cross_validated(self) -> bool:
        """Whether every image is predicted by a head that was fitted to others, since none is held out."""
        return self.recipe.is_probe and self.validation is None

    @property
    def no_score_because(self) -> str:
        """Why no score can be claimed of photos as few as these; empty where one can."""
        if self.parent is not None and self.validation is None and self.recipe.validation_fraction:
            cause = "the old model was trained on these images, so that none of them can be held out"
            return f"{cause}; measure on new ones with imprint evaluate"
        split_off = self.validation is None or self.recipe.validation_fraction > 0
        if not split_off or not set(self.recipe.networks) & PHOTO_NETWORKS:
            return ""
        counts = self.images.class_counts()
        least = min(counts, key=lambda name: counts[name])
        rule = f"a score needs {FEWEST_IN_CLASS} images a class and {FEWEST_IN_ALL} to judge by"
        if counts[least] < FEWEST_IN_CLASS:
            return f"class {least!r} has {counts[least]}: {rule}"
        if self.cross_validated and (together := self._class_of_one_group()):
            return f"all images of class {together!r} are copies or of one group, and so cannot judge each other"
        judged = len(self.images) if self.cross_validated else len(self.held_out)
        if judged < FEWEST_IN_ALL and (self.validation is not None or self.cross_validated):
            return f"there are {judged}: {rule}"
        return ""

    def _class_of_one_group(self) -> str:
        """Name a class that no head would know which was not fitted to the very group that it judges."""
        labels, names = self.images.labels_among(self.images.class_names), self.images.class_names
        alone = (label for label in np.unique(labels) if len(np.unique(self.groups[labels == label])) < 2)
        return next((names[label] for label in alone), "")

    @property
    def data_line(self) -> str:
        """How many images of which kind there are, and how many are held out; 100 columns hold it."""
        held_out = "none" if self.validation is None else f"{len(self.validation):,}"
        held_out = "cross-validated" if self.cross_validated else f"{held_out} held out"
        kind = describe(self.images.shape)
        return (
            f"training on {len(self.training):,} images of {kind}, {len(self.images.class_names)} classes, {held_out}"
        )

    @property
    def recipe_line(self) -> str:
        """The recipe, and why it was chosen where nobody named it."""
        return f"recipe {self.recipe.name}" + (f": {self.reason}" if self.reason else "")

    @property
    def work_line(self) -> str:
        """What will be computed: epochs, networks and the size of the images that they see."""
        recipe, names = self.recipe, list(dict.fromkeys(self.recipe.networks))
        height, width = self.spec.input_size
        several = len(recipe.networks) > len(names)
        networks = f"{len(recipe.networks)} networks, {', '.join(names)}," if several else "+".join(names)
        networks += f" at {width}×{height}"
        if recipe.is_probe:
            work = f"a linear head on features of {networks}"
        else:
            work = f"{recipe.epochs} epoch{'s' * (recipe.epochs > 1)} of {networks}"
        work += f", {recipe.frozen_blocks} blocks frozen" if recipe.frozen_blocks else ""
        work += ", then an OOD detector" if recipe.ood_detector else ""
        work += self._processes_text()
        return f"{work}{', mirrored' if recipe.hflip == 'yes' else ''}, seed {recipe.seed}, {self.device.type}"

    @property
    def hflip_line(self) -> str:
        """Whether images are mirrored, and why."""
        reason = f", {self.hflip_reason}; --set hflip=yes or no" if self.hflip_reason else ""
        return f"{'yes' if self.recipe.hflip == 'yes' else 'no'}{reason}"

    def __str__(self) -> str:
        line = f"training on {len(self.training):,} images of {describe(self.images.shape)}"
        if self.spec.input_size != self.spec.image_size:
            height, width = self.spec.input_size
            line += f", scaled to {width}×{height} for the {'+'.join(self.recipe.networks)} network"
        held_out = "none held out" if self.validation is None else f"{len(self.validation):,} held out"
        held_out = "cross-validated" if self.cross_validated else held_out
        line += f", {len(self.images.class_names)} classes; {held_out}; recipe {self.recipe.name}"
        line += f" ({self.reason})" if self.reason else ""
        mirrored = "mirrored" if self.recipe.hflip == "yes" else "not mirrored"
        line += f", {mirrored} ({self.hflip_reason}; --set hflip=yes or no)" if self.hflip_reason else ""
        line += f", seed {self.recipe.seed}, {self.device.type}{self._processes_text()}{self._time_text()}"
        return f"{line}; {self.start}" if self.start else line

    def _processes_text(self) -> str:
        """Say how several processes share the work."""
        if self.crew.size == 1 or self.recipe.is_probe:
            return ""
        return f", {'networks dealt to' if self.dealt else 'batches shared by'} {self.crew.size} processes"

    def _time_text(self) -> str:
        """Say how long a pretrained network will train, before it starts."""
        recipe = self.recipe
        if recipe.is_probe or recipe.networks[0] not in PRETRAINED or self.device.type != "cpu":
            return ""
        images = sum(recipe.epoch_steps(len(self.training))) * min(recipe.batch_size, len(self.training))
        seconds = images * _pass_seconds(self.spec.input_size, recipe.frozen_blocks)
        frozen = f", {recipe.frozen_blocks} blocks frozen" if recipe.frozen_blocks else ""
        return f"; {recipe.epochs} epochs{frozen}, about {seconds:,.0f} s on two cores"


def make_plan(
    images: LabelledImages,
    recipe: str | Recipe | None = None,
    *,
    validation: float | int | LabelledImages | None = None,
    device: str = "auto",
    parent: Parent | None = None,
    **fields: Unpack[RecipeFields],
) -> Plan:
    """Settle a training run and check all of it; see `imprint.train` for what it takes. `parent` is what to start from.

    Raises `DataError` where labels are missing, name one class only, or validation images do not fit, `UsageError`
    where recipe, field or device makes no sense.
    """
    _check_arguments(images, validation)
    chosen = images.loaded_from is None or "classes" in images.loaded_from.options
    images, empty = _without_empty_classes(images)
    if parent is not None:
        empty += parent.check_classes(images, chosen)
        recipe, fields = recipe or parent.recipe, _sized_like(parent, fields)
    settled, reason = _settled_recipe(images, recipe, validation, fields)
    if parent is not None:
        parent.check_recipe(settled)
    settled, hflip_reason = _settled_hflip(images, settled)
    labels = _checked_labels(images)
    _refuse_one_colour(images)
    channels, height, width = images.shape
    if settled.time_budget and not settled.is_probe and settled.networks[0] in PRETRAINED:
        settled = _settled_cost(settled, images, fields)
    network_size = input_size(settled.all_networks, (height, width), settled.largest_side, settled.smallest_side)
    # Images of several sizes were scaled and cropped for training, so others will be too.
    glyph = learn_glyph_form(images.pixels) if images.sizes is None else None
    mean, std = normalisation(settled.all_networks, channels)
    spec = InputSpec(channels, (height, width), network_size, glyph, mean, std, images.pixel_range, images.background)
    if parent is not None:
        parent.check_form(spec, images)
        background = images.background if parent.spec.background is None else parent.spec.background
        spec = replace(spec, pixel_range=parent.spec.pixel_range, background=background)
    copies = first_copies(images.pixel_hashes)
    groups = connect([copies] if images.groups is None else [copies, images.groups])
    warnings = (*empty, *_duplicate_warnings(images, copies), *_similar_class_warnings(images))
    warnings += (*_decoded_small_warnings(images, settled), *_burst_warnings(images, settled))
    warnings += _lone_class_warnings(images)
    keys = ImageKeys.of(images)
    seen = None if parent is None or settled.is_probe else parent.seen  # frozen features have learnt from no image
    if isinstance(validation, LabelledImages):
        spec.check(validation.shape, validation.name, validation.pixel_range, validation.background)
        validation.labels_among(images.class_names)
        shared = len(np.intersect1d(images.pixel_hashes, validation.pixel_hashes))
        leaks = (f"{shared:,} validation images are training images too",) if shared else ()
        training, held_out, warnings = np.arange(len(images)), np.arange(len(validation)), (*warnings, *leaks)
    else:
        share, split_seed = settled.validation_fraction, settled.validation_seed
        if seen is None:
            training, held_out = split(images, share, split_seed, images.groups, copies)
        else:
            known = keys.among(seen.trained_on), keys.among(seen.held_out)
            training, held_out = split_further(share, split_seed, groups, *known)
        validation = images[held_out] if len(held_out) else None
    if len(np.unique(labels[training])) < 2:
        raise DataError("labels", images.name, "all images left to train on are of one class", "Use more images.")
    held_out_keys = keys[held_out] if validation is None or settled.validation_fraction else ImageKeys.of(validation)
    inherits = parent is not None and not settled.is_probe
    return Plan(
        images,
        training,
        validation,
        held_out,
        settled,
        reason,
        hflip_reason,
        spec,
        _settled_device(device, settled),
        groups,
        warnings,
        parent,
        parent.describe(keys) if parent is not None else "",
        parent.leak(held_out_keys) if parent is not None and inherits else "",
        None if inherits and seen is None else keys[training].joined(seen, held_out_keys),
    )


def _sized_like(parent: Parent, fields: RecipeFields) -> RecipeFields:
    """Take images at the parent's size, whatever recipe is named and however many they are by now."""
    sides: RecipeFields = {"largest_side": parent.recipe.largest_side, "smallest_side": parent.recipe.smallest_side}
    return {**sides, **fields}


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
    if recipe is None:
        settled = _any_default(fields)
    else:
        settled = (recipe if isinstance(recipe, Recipe) else find_recipe(recipe)).with_fields(fields, "train")
    for name in settled.all_networks:
        network_kind(name)  # a wrong name is refused before images are decoded
    if recipe is None and find_weights(PROBE.networks[0]) is not None:
        return max(PROBE.largest_side, settled.largest_side)
    return max(128, settled.largest_side)


def _any_default(fields: RecipeFields) -> Recipe:
    """Change a recipe that the images may choose by the fields; raises `UsageError` where they fit none of these."""
    refusal = None
    for default in (PHOTOS, QUICK, PROBE, FINETUNE):
        try:
            return default.with_fields(fields, "train")
        except UsageError as error:
            refusal = refusal or error
    assert refusal is not None
    where = "any recipe" if refusal.where == f"recipe {PHOTOS.name}" else refusal.where
    raise UsageError(refusal.what, where, refusal.cause, refusal.remedy)


def data_fingerprint(plan: Plan, earlier: bool = False) -> str:
    """Hash what a run learns from and is scored with (SHA-256): every pixel, label and class, and the split.

    `earlier` gives what versions up to 0.2 noted.
    """
    collections = (plan.images,) if plan.validation is None else (plan.images, plan.validation)
    digest = hashlib.sha256(plan.training.tobytes())
    for images in collections:
        digest.update((earlier_fingerprint(images) if earlier else images.fingerprint).encode())
    return digest.hexdigest()


def share_plan(plan: Plan, crew: Crew, dealt: bool | None = None) -> Plan:
    """Plan how several processes share a run: each network by one of them where there are as many, else each batch.

    A run that was begun is `dealt` or not, however many take it up. Raises `UsageError` where batches are too small.
    """
    if dealt is None:
        dealt = 1 < crew.size <= len(plan.recipe.networks)
    if not dealt and not plan.recipe.is_probe and plan.batch_size < crew.size:
        cause = f"a batch has {plan.batch_size} images, fewer than one for each"
        raise UsageError(f"{crew.size} processes", "train", cause, f"Use --processes {plan.batch_size}, or fewer.")
    return replace(plan, crew=crew, dealt=dealt, device=own_device(plan.device))


def seed_random_numbers(plan: Plan) -> None:
    """Let the recipe's seed decide torch's random numbers from here on."""
    torch.default_generator.manual_seed(plan.recipe.seed)  # torch.manual_seed would reseed every GPU for good
    if plan.device.type == "cuda":
        torch.cuda.default_generators[plan.device.index or 0].manual_seed(plan.recipe.seed)
    if plan.device.type == "mps":
        torch.mps.manual_seed(plan.recipe.seed)


def dealt_to(rank: int, size: int, count: int) -> list[int]:
    """Give the positions, of `count` networks, of those that one process trains.

    There and back again: recipes alternate between networks that take long and others.
    """
    return [i for i in range(count) if (i % size if i // size % 2 == 0 else size - 1 - i % size) == rank]


def network_plan(plan: Plan, member: int) -> Plan:
    """Plan the training of a single network of several that are dealt, from a seed of its own."""
    seed = (plan.recipe.seed + member * SEED_STEP) % 2**32
    recipe = replace(plan.recipe, networks=(plan.recipe.networks[member],), ood_detector="", seed=seed)
    return replace(plan, recipe=recipe, crew=ALONE, dealt=False, member=member)


def _check_arguments(images: Any, validation: Any) -> None:
    """Refuse arguments of a kind that cannot be meant."""
    expect_images(images, "train")
    if not isinstance(validation, float | int | LabelledImages | None):
        cause = f"{kind_of(validation)} is neither a share nor LabelledImages"
        raise UsageError("validation", "train", cause, "Give a share such as 0.1.")


def _without_empty_classes(images: LabelledImages) -> tuple[LabelledImages, tuple[str, ...]]:
    """Drop the classes that no image has, as choosing some images leaves them; gives a warning that names them."""
    counts = images.class_counts()
    empty = [name for name, count in counts.items() if not count]
    if not empty:
        return images, ()
    kinds = "class" if len(empty) == 1 else "classes"
    shown = ", ".join(map(repr, empty[:5])) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
    left = f"{kinds} {shown}: no images, so the model will not know {'it' if len(empty) == 1 else 'them'}"
    return images.select([name for name, count in counts.items() if count]), (left,)


def _settled_recipe(
    images: LabelledImages,
    recipe: str | Recipe | None,
    validation: float | int | LabelledImages | None,
    fields: RecipeFields,
) -> tuple[Recipe, str]:
    """Find or choose the recipe, change it by the fields given, and say why it was chosen."""
    settled, reason = (recipe, "") if isinstance(recipe, Recipe | None) else (find_recipe(recipe), "")
    if settled is None:
        counts = list(images.class_counts().values()) or [0]
        weights_found = find_weights(PROBE.networks[0]) is not None
        settled, reason = default_recipe(images.shape, len(images), float(np.median(counts)), weights_found)
    changed = _with_fields(recipe_for(images.shape, settled), fields)
    if validation is None:
        return changed, reason
    given = 0.0 if isinstance(validation, LabelledImages) else validation
    if not 0 <= given < 1:
        remedy = "Give a share such as 0.1, or data."
        raise UsageError(f"--validation {given:g}", "train", "validation_fraction lies from 0 to below 1", remedy)
    if fields.get("validation_fraction", given) not in (given, str(given)):
        what = f"validation_fraction={fields['validation_fraction']}"
        other = "other images validate" if isinstance(validation, LabelledImages) else f"--validation is {given:g}"
        raise UsageError(what, f"recipe {changed.name}", other, "Leave one of the two out.")
    return replace(changed, validation_fraction=float(given)), reason


def _with_fields(recipe: Recipe, fields: RecipeFields) -> Recipe:
    """Change a recipe by fields; refuse those that would change nothing, or that contradict each other."""
    changed = recipe.with_fields(fields, "train")
    if "steps_per_epoch" in fields and 0 < changed.steps_per_epoch < changed.min_steps:
        if "min_steps" in fields:
            what, cause = f"steps_per_epoch={changed.steps_per_epoch}", f"min_steps is {changed.min_steps}"
            raise UsageError(what, f"recipe {changed.name}", cause, "Leave one of the two out.")
        changed = replace(changed, min_steps=changed.steps_per_epoch)
    for name, because in changed.idle_fields().items():
        if name in fields and getattr(changed, name) != getattr(recipe, name):
            remedy = "Leave it out" + (", or train epochs: --epochs 5." if changed.is_probe else ".")
            raise UsageError(f"{name}={fields[name]}", f"recipe {changed.name}", because, remedy)  # type: ignore[literal-required]
    return changed


def _settled_cost(recipe: Recipe, images: LabelledImages, fields: RecipeFields) -> Recipe:
    """Turn the time that training may take into size, frozen blocks and epochs, but for those that were given.

    Large photos, if few, take a lower learning rate.
    """
    count, size = len(images), images.shape[1:]
    is_large = min(size) >= LARGE_SIDE
    if is_large and "learning_rate" not in fields:
        share = min(1.0, (count / FULL_RATE_IMAGES) ** (1 / 3))
        recipe = replace(recipe, learning_rate=float(f"{share * recipe.learning_rate:.2g}"))
    budget = min(recipe.time_budget, 40 + 0.065 * count)
    given = "epochs" in fields
    wanted = recipe.epochs if given else max(1, round(30 * count**-0.2))  # 12 for 100 images, 7 for 1,400, 5 for 10,000
    least = wanted if given else max(1, round(0.65 * wanted))
    frozen_choices = [blocks for blocks in SHARE_BY_FROZEN if blocks or not is_large]
    for side, frozen in product(SIDES, frozen_choices):
        smallest = 0 if min(size) >= KEPT_SIZE else min(side, recipe.smallest_side)
        sides = {"largest_side": side, "smallest_side": smallest}
        changed = replace(recipe, **(sides | {"frozen_blocks": frozen} | _given(recipe, fields)), time_budget=0.0)
        seen = input_size(changed.networks, size, changed.largest_side, changed.smallest_side)
        possible = int(budget / (count * _pass_seconds(seen, changed.frozen_blocks)))
        if possible >= least:
            break
    if given and possible < wanted and "time_budget" in fields:
        cause = f"{wanted} epochs take longer, however small the images are made"
        raise UsageError(
            f"time_budget={recipe.time_budget:g}", f"recipe {recipe.name}", cause, "Leave one of the two out."
        )
    return replace(changed, epochs=wanted if given else max(least if possible >= least else 1, min(wanted, possible)))


def _given(recipe: Recipe, fields: RecipeFields) -> dict[str, Any]:
    """Give those of the fields that planning would choose which were given."""
    chosen = ("largest_side", "smallest_side", "frozen_blocks")
    return {name: getattr(recipe, name) for name in chosen if name in fields}


def _pass_seconds(size: tuple[int, int], frozen_blocks: int) -> float:
    """Estimate the seconds that one training step takes for each of its images."""
    share = min(share for frozen, share in SHARE_BY_FROZEN.items() if frozen <= frozen_blocks)
    return share * (SECONDS_AN_IMAGE + SECONDS_A_PIXEL * size[0] * size[1])


def _settled_device(name: str, recipe: Recipe) -> torch.device:
    """Choose the device; refuse one that lacks the recipe's precision."""
    device = choose_device(name, recipe.deterministic == "yes")
    if recipe.precision == "float64" and device.type == "mps":
        raise UsageError("precision=float64", f"device {device}", "Apple's GPUs lack it", "Use --device cpu.")
    return device


def _settled_hflip(images: LabelledImages, recipe: Recipe) -> tuple[Recipe, str]:
    """Settle whether images are mirrored, in training and in prediction, and say why."""
    hflip, reason = may_hflip(images) if recipe.hflip == "auto" else (recipe.hflip == "yes", "")
    tta = ("hflip" if hflip else "none") if recipe.tta == "auto" else recipe.tta
    return replace(recipe, hflip="yes" if hflip else "no", tta=tta), reason


def _checked_labels(images: LabelledImages) -> Int64[ndarray, " n"]:
    """Give the labels; refuse what has nothing to tell apart."""
    remedy = "Training needs at least two classes: a folder or a .npy for each, or labels for the images."
    if images.labels is None:
        pattern = "" if images.from_pixel_table else label_in_names([str(source) for source in images.sources])
        hint = (
            f" If their names tell, as {Path(str(images.sources[0])).name} may: --label '{pattern}'." if pattern else ""
        )
        raise DataError("labels", images.name, "there are none", f"{remedy}{hint}")
    present = np.unique(images.labels)
    if len(present) < 2:
        raise DataError("labels", images.name, f"all are {images.class_names[present[0]]!r}", remedy)
    return images.labels


def _refuse_one_colour(images: LabelledImages) -> None:
    """Refuse images that show nothing, such as white ink on white; the first one mostly tells."""
    colour = images.pixels[:1, :, :1, :1]
    if all((part == colour).all() for part in in_chunks(images.pixels, BURST_SOUGHT)):
        remedy = "Look at the files: nothing in them tells the classes apart."
        raise DataError("pixels", images.name, "all images are one colour", remedy)


def _duplicate_warnings(images: LabelledImages, copies: Int64[ndarray, " n"]) -> tuple[str, ...]:
    """Warn of copies of images."""
    again = int((copies != np.arange(len(copies))).sum())
    if not again:
        return ()
    words = "1 image is a copy of another" if again == 1 else f"{again:,} images are copies of others"
    contradicting = 0 if images.labels is None else int((images.labels != images.labels[copies]).sum())
    words += f", {contradicting:,} of them with another label" if contradicting else ""
    return (f"{words}; imprint check names them",)


def _decoded_small_warnings(images: LabelledImages, recipe: Recipe) -> tuple[str, ...]:
    """Warn where files were decoded smaller than a pretrained network would take them: 3 to 5 points of accuracy."""
    shorter, wanted = min(images.shape[1:]), recipe.largest_side
    if images.sizes is None or recipe.networks[0] not in PRETRAINED or shorter >= wanted:
        return ()
    if np.median(images.sizes.min(axis=1)) <= shorter:
        return ()
    return (f"images were decoded at {shorter} pixels; {recipe.name} uses up to {wanted}: load(..., side={wanted})",)


def _burst_warnings(images: LabelledImages, recipe: Recipe) -> tuple[str, ...]:
    """Warn of classes of photos that are mostly one burst: a score among them says nothing about other photos."""
    if not set(recipe.networks) & PHOTO_NETWORKS:
        return ()  # drawings and letters are alike by nature
    assert images.labels is not None
    bursts = []
    for label, name in enumerate(images.class_names):
        chosen = np.flatnonzero(images.labels == label)[:BURST_SOUGHT]
        if len(chosen) >= 3 and (share := burst_share(images.pixels, chosen)) >= BURST_SHARE:
            bursts.append(f"{name!r} ({share:.0%})")
    if not bursts:
        return ()
    shown = ", ".join(bursts[:5]) + (f" and {len(bursts) - 5} more" if len(bursts) > 5 else "")
    kinds = "class" if len(bursts) == 1 else "classes"
    advice = "scores will be too good: add photos of other things, places and light, or keep a series together: --group"
    return (f"{kinds} {shown}: nearly the same view, as in one burst; {advice}",)


def _lone_class_warnings(images: LabelledImages) -> tuple[str, ...]:
    """Warn of classes of one image where others have many: mostly a label mistyped."""
    counts = images.class_counts()
    lone = [name for name, count in counts.items() if count == 1]
    if not lone or np.median(list(counts.values())) < MANY_IMAGES:
        return ()
    shown = ", ".join(map(repr, lone[:5])) + (f" and {len(lone) - 5} more" if len(lone) > 5 else "")
    return (f"class{'es' if len(lone) > 1 else ''} {shown}: one image only, where others have many; mistyped?",)


def _similar_class_warnings(images: LabelledImages) -> tuple[str, ...]:
    """Warn of classes that are probably one, spelt in two ways."""
    alike = [names for names in spelt_alike(images.class_names) if len(names) > 1]
    return tuple(f"classes {', '.join(map(repr, names))} are probably one, learnt as several" for names in alike)
