"""Confidence: how sure a trained network may be, settled on images at the end of training."""

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
from imprint.models.classifier import Classifier
from imprint.models.inference import (
    TTA_SHARE,
    in_distribution,
    predict_with_embeddings,
    test_time_augment,
    uncertainty_score,
)
from imprint.models.ood import fit_mahalanobis
from imprint.preprocessing.input_spec import InputSpec
from imprint.preprocessing.prepare import prepare
from imprint.recipes import Recipe
from imprint.training.augmentation import augment
from imprint.training.plan import Plan

UNSURE_SHARE = 0.01  # of genuine images, at most
FITTING = 8192  # training images that show what is usual; four times as many changed nothing
SETTLING = 2000  # training images that settle the limits where there are no validation images
ROUNDING = 1e-3  # of doubt, by which another machine may differ: the image that sets the limit is flagged on none
FEWEST_HELD_OUT = 2  # a spread needs so many
TOGETHER = 128  # images changed at once; of photos more take much memory


def calibrate(network: nn.Module, ood_detector: nn.Module | None, plan: Plan, recipe: Recipe) -> Classifier:
    """Make a classifier of a trained network: settle its temperature, what is usual to it, and its limits.

    The temperature and the limits come from the validation images, what is usual from training images as they are.
    Where none was held out, augmented versions of a fifth of the training images, 2,000 at most, stand for new ones,
    since they are harder than what the network has learnt by heart, and the others show what is usual.
    Confidence is then less certain to fit accuracy, and the share of genuine images flagged is no longer promised.

    Parameters
    ----------
    net : nn.Module
        The trained network.
    guard : nn.Module or None
        The trained guard, if the recipe has one.
    plan : Plan
        The run.
    recipe : Recipe
        As it was carried out.

    Returns
    -------
    Classifier
        Without its score.

    Examples
    --------
    >>> from imprint import load
    >>> from imprint.models.networks import build_network
    >>> from imprint.training.plan import make_plan
    >>> plan = make_plan(load("digits"), "quick", device="cpu")
    >>> model = calibrate(build_network("quick", 1, (28, 28), 10), None, plan, plan.recipe)
    >>> model.ood_score.centres.shape
    torch.Size([10, 208])
    """
    images, spec = plan.images, plan.spec
    held_out = plan.validation is not None and len(plan.validation) >= FEWEST_HELD_OUT
    some = np.random.default_rng(recipe.seed).permutation(plan.training)  # they may stand class by class
    parting = 0 if held_out else min(SETTLING, max(FEWEST_HELD_OUT, len(some) // 5))
    usual = some[parting : parting + FITTING] if len(some) > parting else some
    settling = plan.validation if held_out and plan.validation is not None else images[some[:parting]]
    labels = settling.labels_among(images.class_names)
    looked_at = spec if held_out else replace(spec, image_size=spec.input_size)
    pixels = settling.pixels if held_out else _augmented(settling.pixels, spec, recipe)

    plain, features = predict_with_embeddings(network, pixels, looked_at)
    tta_below = float(np.quantile(plain.max(axis=1), TTA_SHARE))
    probabilities = test_time_augment(network, pixels, looked_at, recipe.tta, plain, tta_below)
    temperature = fit_temperature(probabilities, labels)
    usual_labels = torch.from_numpy(images.labels_among(images.class_names)[usual])
    _, usual_features = predict_with_embeddings(network, images.pixels, spec, usual)
    ood_score = fit_mahalanobis(usual_features, usual_labels, len(images.class_names))
    calibrated = tempered(probabilities, temperature)
    predicted = calibrated.argmax(axis=1)
    distances = ood_score.distances(features, torch.from_numpy(predicted).to(features.device))
    known = None if ood_detector is None else in_distribution(ood_detector, pixels, looked_at, predicted)
    limit = conformal_limit(uncertainty_score(calibrated, distances, known), UNSURE_SHARE) + ROUNDING
    return Classifier(network, images.class_names, spec, recipe, temperature, ood_score, limit, tta_below, ood_detector)


def conformal_limit(uncertainty: Float32[ndarray, " n"], share: float) -> float:
    """Find the limit that a new genuine image's doubt exceeds with a given chance at most.

    The guarantee: if `doubt` was measured on images that the model was not trained on, and a new image comes
    from the same source independently of them, then the chance that its doubt lies above the limit is at
    most `share`, whatever the model and the source. It holds on average over what images were
    held out: with 2,560 of them and a share of 1 %, the share really flagged scatters by 0.2 % around 1 %.
    It says nothing of other images, nor of each class by itself. Below ``1 / share - 1`` images no
    limit can promise that; then it is the bound that the next of normally distributed numbers stays below with that
    chance, or the largest of `doubt` if that is more.

    Parameters
    ----------
    doubt : ndarray of float32, shape (n,)
        Of genuine images; at least two.
    share : float
        Of genuine images that may be flagged.

    Returns
    -------
    float
        The limit.

    References
    ----------
    Split conformal prediction: Papadopoulos et al., ECML 2002; Angelopoulos and Bates, "A gentle
    introduction to conformal prediction", arXiv:2107.07511; Laxhammar and Falkman, "Conformal prediction for
    distribution-independent anomaly detection", 2010, for its use on strange things.

    Examples
    --------
    >>> conformal_limit(np.arange(1, 200, dtype=np.float32), share=0.01)  # 198 of 199 lie at or below
    198.0
    """
    count = len(uncertainty)
    rank = math.ceil((count + 1) * (1 - share) - 1e-9)
    if rank <= count:
        return float(np.partition(uncertainty, rank - 1)[rank - 1])
    from scipy.special import stdtrit

    spread = float(uncertainty.std(ddof=1)) * math.sqrt(1 + 1 / count)
    return max(float(uncertainty.max()), float(uncertainty.mean()) + float(stdtrit(count - 1, 1 - share)) * spread)


def coverage_statement(held_out: int) -> str:
    """Say in words how many genuine images will be flagged unsure.

    Parameters
    ----------
    held_out : int
        Number of images that settled the limit.

    Returns
    -------
    str
        One line.

    Examples
    --------
    >>> print(coverage_statement(2560))
    unsure: at most 1 % of new images like the 2,560 held out will be flagged, on average over which were held out
    """
    share = f"{UNSURE_SHARE:.0%}".replace("%", " %")
    if held_out >= 1 / UNSURE_SHARE - 1:
        return (
            f"unsure: at most {share} of new images like the {held_out:,} held out will be flagged, "
            "on average over which were held out"
        )
    few = f"the {held_out:,} held out are too few" if held_out else "none were held out"
    return f"unsure: about {share} of new images like these should be flagged; {few} to promise it, 99 would do"


def _augmented(pixels: UInt8[ndarray, "n c h w"], spec: InputSpec, recipe: Recipe) -> UInt8[ndarray, "n c H W"]:
    """Change images at random as in training, at the size that the network takes."""
    changed = (augment(prepare(torch.from_numpy(part), spec), recipe) for part in in_chunks(pixels, TOGETHER))
    return np.concatenate([(part * 255).round().to(torch.uint8).numpy() for part in changed])
