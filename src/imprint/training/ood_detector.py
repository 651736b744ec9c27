"""The OOD detector: a small network that learns to tell training images from synthetic OOD images made of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from numpy import ndarray

from imprint.core.errors import UsageError
from imprint.core.memmap import take_rows
from imprint.core.progress import say, warn
from imprint.data.images import LabelledImages
from imprint.models.ood import FORMS, ood_detector_classes, transforms_for
from imprint.recipes import QUICK, Recipe
from imprint.training.batches import place_images
from imprint.training.checkpoint import TrainingState, start_network
from imprint.training.fit import fit
from imprint.training.plan import Plan

CUT = (0.4, 0.6)  # where two images are cut to be joined, in shares of the side
MAX_BYTES = 2**28  # bytes of made-up images, 342,000 of MNIST's size


def make_synthetic_ood(images: LabelledImages, chosen: Int64[ndarray, " n"], recipe: Recipe) -> LabelledImages:
    """Leave about half of the chosen images as they are; turn, mirror or join halves of two classes of the others.

    Gives copies, fewer where memory is too small, with the classes that `ood_detector_classes` counts; the recipe's
    seed decides. Sources: Golan and El-Yaniv, arXiv:1805.10917; joint labels as in Lee et al., arXiv:1910.05872.
    """
    rng = np.random.default_rng(recipe.seed)
    size = images.pixels.shape[2:]
    transforms, classes = transforms_for(recipe, size), len(images.class_names)
    most = max(2, MAX_BYTES // int(np.prod(images.shape)))
    taken = np.sort(rng.permutation(chosen)[:most])  # images mapped from a file are read faster in order
    pixels, labels = take_rows(images.pixels, taken), images.labels_among(images.class_names)[taken]
    becomes = rng.integers(0, 2 * (len(transforms) + 1), len(pixels))
    for place, transform in enumerate(transforms):
        chosen_here = becomes == place
        pixels[chosen_here] = FORMS[transform](pixels[chosen_here])
        labels[chosen_here] += classes * (1 + place)
    halved, plain = np.flatnonzero(becomes == len(transforms)), np.flatnonzero(becomes > len(transforms))
    others = rng.choice(plain, len(halved)) if len(plain) else halved
    differ = labels[others] != labels[halved]
    for first, second in zip(halved[differ], others[differ], strict=True):
        _join(pixels[first], pixels[second], rng)
        labels[first] = classes * (1 + len(transforms))
    names = tuple(map(str, range(ood_detector_classes(recipe, size, classes))))
    return LabelledImages(pixels, labels, names, images.sources[taken])


def _join(image: UInt8[ndarray, "c h w"], other: UInt8[ndarray, "c h w"], rng: np.random.Generator) -> None:
    """Put about half of another image in an image's place, across or along."""
    axis = int(rng.integers(1, 3))
    cut = round(float(rng.uniform(*CUT)) * image.shape[axis])
    half = (slice(None),) * axis + (slice(cut),)
    image[half] = other[half]


def ood_detector_recipe(recipe: Recipe) -> Recipe:
    """Give the recipe that a model's OOD detector is trained by: `quick`, or shorter where the model's is.

    Detectors trained five times as long found no more (docs/log). Images are turned as far as the model's, or further.
    """
    kept = ("hflip", "precision", "threads", "deterministic", "min_steps", "seed")
    taken = {name: getattr(recipe, name) for name in kept}
    taken |= {"epochs": min(recipe.epochs, QUICK.epochs), "rotation": max(recipe.rotation, QUICK.rotation)}
    return replace(QUICK, name="ood_detector", networks=(recipe.ood_detector,), validation_fraction=0.0, **taken)


def detector_plan(plan: Plan, made: LabelledImages) -> Plan:
    """Plan how a model's OOD detector is trained on images and synthetic OOD images, none of them held out."""
    recipe, all_of_them = ood_detector_recipe(plan.recipe), np.arange(len(made))
    return replace(plan, images=made, training=all_of_them, validation=None, recipe=recipe)


def fit_ood_detector(plan: Plan) -> TrainingState | None:
    """Train a network to tell the training images from synthetic ones made of them; None where that diverges."""
    made = make_synthetic_ood(plan.images, plan.training, plan.recipe)
    transforms = ", ".join(transforms_for(plan.recipe, plan.spec.image_size))
    how = f"{transforms} or joined of two" if transforms else "joined of two"
    say(f"OOD detector: {plan.recipe.ood_detector}, learns to tell these images from such {how}")
    state = start_network(detector_plan(plan, made))
    pixels = place_images(torch.from_numpy(made.pixels), plan.device)
    labels = torch.from_numpy(made.labels_among(made.class_names)).to(plan.device)
    try:
        fit(state, pixels, labels)
    except UsageError:  # what the networks have learnt is worth more than their OOD detector
        warn("training of the OOD detector has diverged; the model is kept without it")
        return None
    return state
