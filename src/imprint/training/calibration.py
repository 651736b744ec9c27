"""Calibration: how sure a trained network may be, settled on images at the end of training."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from numpy import ndarray
from torch import nn

from imprint.core.memmap import in_chunks
from imprint.core.metrics import fit_temperature, tempered
from imprint.models.backbones import EfficientNetLite
from imprint.models.classifier import Classifier
from imprint.models.inference import (
    TTA_SHARE,
    apply_tta,
    in_distribution,
    predict_with_embeddings,
    uncertainty_score,
)
from imprint.models.ood import fit_mahalanobis
from imprint.models.predictor import Predictions
from imprint.preprocessing.input_spec import InputSpec
from imprint.preprocessing.prepare import normalise, scale
from imprint.recipes import Recipe
from imprint.training.augmentation import augment
from imprint.training.plan import Plan
from imprint.training.probe import CrossValidated, cross_validate, frozen_features

MAX_FLAGGED = 0.01  # share of in-distribution images that may be flagged unsure
OOD_IMAGES = 8192  # training images that the OOD score is fitted on; four times as many changed nothing
CALIBRATION_IMAGES = 2000  # training images that stand for validation images where there are none
# Of uncertainty, by which another machine may differ: the image that sets the limit is flagged on none.
ROUNDING_MARGIN = 1e-3
MIN_HELD_OUT = 2  # a standard deviation needs so many
AUGMENTED_IMAGES = 128  # images; of photos more take much memory


def calibrate(network: nn.Module, ood_detector: nn.Module | None, plan: Plan, recipe: Recipe) -> Classifier:
    """Make a classifier of trained networks: fit its temperature and OOD score, and settle when it is unsure.

    Temperature and limits come from the validation images, the OOD score from training images as they are.
    """
    # Where none was held out, augmented versions of a fifth of the training images (2,000 at most) stand for new ones,
    # since they are harder than what the network has learnt by heart; confidence then fits accuracy less surely, and no
    # share is promised.
    images, spec = plan.images, plan.spec
    held_out = plan.validation is not None and len(plan.validation) >= MIN_HELD_OUT
    some = np.random.default_rng(recipe.seed).permutation(plan.training)  # they may stand class by class
    set_apart = 0 if held_out else min(CALIBRATION_IMAGES, max(MIN_HELD_OUT, len(some) // 5))
    fitted = some[set_apart : set_apart + OOD_IMAGES] if len(some) > set_apart else some
    held = plan.validation if held_out and plan.validation is not None else images[some[:set_apart]]
    labels = held.labels_among(images.class_names)
    seen_by = spec if held_out else replace(spec, image_size=spec.input_size)
    pixels = held.pixels if held_out else _augmented(held.pixels, spec, recipe)

    plain, embeddings = predict_with_embeddings(network, pixels, seen_by)
    tta_below = float(np.quantile(plain.max(axis=1), TTA_SHARE))
    probabilities = apply_tta(network, pixels, seen_by, recipe.tta, plain, tta_below)
    temperature = fit_temperature(probabilities, labels)
    fitted_labels = torch.from_numpy(images.labels_among(images.class_names)[fitted])
    if recipe.is_probe and isinstance(network, EfficientNetLite):  # computed already, for the head
        fitted_embeddings = frozen_features(network, images, spec)[fitted].to(embeddings.device)
    else:
        _, fitted_embeddings = predict_with_embeddings(network, images.pixels, spec, fitted)
    ood_score = fit_mahalanobis(fitted_embeddings, fitted_labels, len(images.class_names))
    calibrated = tempered(probabilities, temperature)
    predicted = calibrated.argmax(axis=1)
    of = torch.from_numpy(predicted).to(embeddings.device)
    ood_score = ood_score.sharpened(ood_score.distances(embeddings, of))
    distances = ood_score.distances(embeddings, of)
    known = None if ood_detector is None else in_distribution(ood_detector, pixels, seen_by, predicted)
    limit = conformal_limit(uncertainty_score(calibrated, distances, known), MAX_FLAGGED) + ROUNDING_MARGIN
    return Classifier(network, images.class_names, spec, recipe, temperature, ood_score, limit, tta_below, ood_detector)


def calibrate_probe(
    network: EfficientNetLite, plan: Plan, recipe: Recipe
) -> tuple[Classifier, Predictions, CrossValidated]:
    """Make a classifier of a network with a linear head, calibrated on cross-validated predictions, which it gives too.

    Every image is one that the head behind its prediction was not fitted to.
    """
    images, classes = plan.images, len(plan.images.class_names)
    labels = torch.from_numpy(images.labels_among(images.class_names))
    features = frozen_features(network, images, plan.spec)
    found = cross_validate(
        features, labels.numpy(), plan.groups, classes, network.head_kind, recipe.seed, recipe.class_balance
    )
    ood_score = fit_mahalanobis(features[plan.training[:OOD_IMAGES]], labels[plan.training[:OOD_IMAGES]], classes)
    probabilities = tempered(found.probabilities, found.temperature)
    ood_score = ood_score.sharpened(found.distances)
    distances = found.distances
    if ood_score.power is not None:  # as it will be computed of new images
        distances = (distances / distances.median()) ** ood_score.power
    uncertainty = uncertainty_score(probabilities, distances)
    limit = normal_limit(uncertainty, MAX_FLAGGED) + ROUNDING_MARGIN
    names = images.class_names
    model = Classifier(network, names, plan.spec, recipe, found.temperature, ood_score, limit, 0.0)
    return model, Predictions(probabilities, names, images.sources, uncertainty, limit), found


def conformal_limit(uncertainty: Float32[ndarray, " n"], share: float) -> float:
    """Find the limit that the uncertainty of a new in-distribution image exceeds with a chance of `share` at most.

    Below ``1 / share - 1`` images nothing can promise that; then it is the bound for the next of normally distributed
    numbers, or the largest seen if that is more.
    """
    # Split conformal prediction (Papadopoulos et al., ECML 2002; Angelopoulos and Bates, arXiv:2107.07511; for
    # anomalies Laxhammar and Falkman, 2010). The promise holds whatever model and source are, if these images were not
    # trained on and new ones come from the same source, on average over which were held out: with 2,560 of them and 1 %
    # the share really flagged scatters by 0.2 %. It says nothing of each class by itself.
    count = len(uncertainty)
    rank = math.ceil((count + 1) * (1 - share) - 1e-9)
    if rank <= count:
        return float(np.partition(uncertainty, rank - 1)[rank - 1])
    return max(float(uncertainty.max()), normal_limit(uncertainty, share))


def normal_limit(uncertainty: Float32[ndarray, " n"], share: float) -> float:
    """Find the limit that the next of normally distributed numbers exceeds with a chance of `share`.

    The most uncertain of a hundred images decides nothing then; in cross-validation, which promises no share, that
    found far more images of other things (docs/log/photos.md).
    """
    from scipy.special import stdtrit

    count = len(uncertainty)
    spread = float(uncertainty.std(ddof=1)) * math.sqrt(1 + 1 / count)
    return float(uncertainty.mean()) + float(stdtrit(count - 1, 1 - share)) * spread


def coverage_statement(images: int, split_off: bool = True) -> str:
    """Say which share of in-distribution images will be flagged, by how many set the limit, split off from training."""
    share = f"{MAX_FLAGGED:.0%}".replace("%", " %")
    enough = images >= 1 / MAX_FLAGGED - 1
    if not split_off:
        promised = "cross-validation cannot promise it" if enough else "there are too few to promise it"
        return f"unsure: about {share} of new images like these should be flagged; {promised}"
    if enough:
        return (
            f"unsure: at most {share} of new images like the {images:,} held out will be flagged, "
            "on average over which were held out"
        )
    few = f"the {images:,} held out are too few" if images else "none were held out"
    return f"unsure: about {share} of new images like these should be flagged; {few} to promise it, 99 would do"


def _augmented(pixels: UInt8[ndarray, "n c h w"], spec: InputSpec, recipe: Recipe) -> UInt8[ndarray, "n c H W"]:
    """Change images at random as in training, at the size that the network takes."""
    parts = (normalise(scale(torch.from_numpy(part), spec)) for part in in_chunks(pixels, AUGMENTED_IMAGES))
    changed = (augment(part, recipe) for part in parts)
    return np.concatenate([(part * 255).round().to(torch.uint8).numpy() for part in changed])
