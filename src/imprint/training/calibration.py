"""Confidence: how sure a trained network may be, settled on pictures at the end of training."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from numpy import ndarray
from torch import nn

from imprint.core.memmap import in_parts
from imprint.core.metrics import fit_temperature, tempered
from imprint.models.classifier import Classifier
from imprint.models.inference import HESITANT_SHARE, doubts, look_again, predict_with_features, recognised
from imprint.models.ood import learn_familiarity
from imprint.preprocessing.input_spec import InputSpec
from imprint.preprocessing.prepare import prepare
from imprint.recipes import Recipe
from imprint.training.augmentation import augment
from imprint.training.plan import Plan

UNSURE_SHARE = 0.01  # of genuine pictures, at most
FAMILIAR = 8192  # training pictures that show what is usual; four times as many changed nothing
SETTLING = 2000  # training pictures that settle the limits where there are no validation pictures
ROUNDING = 1e-3  # of doubt, by which another machine may differ: the picture that sets the limit is flagged on none
FEWEST_HELD_OUT = 2  # a spread needs so many
TOGETHER = 128  # pictures changed at once; of photos more take much memory


def settle_confidence(net: nn.Module, guard: nn.Module | None, plan: Plan, recipe: Recipe) -> Classifier:
    """Make a classifier of a trained network: settle its temperature, what is usual to it, and its limits.

    The temperature and the limits come from the validation pictures, what is usual from training pictures as they are.
    Where none was held out, augmented versions of a fifth of the training pictures, 2,000 at most, stand for new ones,
    since they are harder than what the network has learnt by heart, and the others show what is usual.
    Confidence is then less certain to fit accuracy, and the share of genuine pictures flagged is no longer promised.

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
    >>> from imprint.models.networks import build_net
    >>> from imprint.training.plan import plan_training
    >>> plan = plan_training(load("digits"), "quick", device="cpu")
    >>> model = settle_confidence(build_net("quick", 1, (28, 28), 10), None, plan, plan.recipe)
    >>> model.familiarity.centres.shape
    torch.Size([10, 208])
    """
    images, spec = plan.images, plan.spec
    held_out = plan.validation is not None and len(plan.validation) >= FEWEST_HELD_OUT
    some = np.random.default_rng(recipe.seed).permutation(plan.training)  # they may stand class by class
    parting = 0 if held_out else min(SETTLING, max(FEWEST_HELD_OUT, len(some) // 5))
    usual = some[parting : parting + FAMILIAR] if len(some) > parting else some
    settling = plan.validation if held_out and plan.validation is not None else images[some[:parting]]
    labels = settling.labels_among(images.class_names)
    looked_at = spec if held_out else replace(spec, picture_size=spec.input_size)
    pixels = settling.pixels if held_out else _augmented(settling.pixels, spec, recipe)

    plain, features = predict_with_features(net, pixels, looked_at)
    views_below = float(np.quantile(plain.max(axis=1), HESITANT_SHARE))
    probabilities = look_again(net, pixels, looked_at, recipe.views, plain, views_below)
    temperature = fit_temperature(probabilities, labels)
    usual_labels = torch.from_numpy(images.labels_among(images.class_names)[usual])
    _, usual_features = predict_with_features(net, images.pixels, spec, usual)
    familiarity = learn_familiarity(usual_features, usual_labels, len(images.class_names))
    calibrated = tempered(probabilities, temperature)
    predicted = calibrated.argmax(axis=1)
    distances = familiarity.distances(features, torch.from_numpy(predicted).to(features.device))
    known = None if guard is None else recognised(guard, pixels, looked_at, predicted)
    limit = conformal_limit(doubts(calibrated, distances, known), UNSURE_SHARE) + ROUNDING
    return Classifier(net, images.class_names, spec, recipe, temperature, familiarity, limit, views_below, guard)


def conformal_limit(doubt: Float32[ndarray, " n"], share: float) -> float:
    """Find the limit that a new genuine picture's doubt exceeds with a given chance at most.

    The guarantee: if `doubt` was measured on pictures that the model was not taught with, and a new picture comes
    from the same source independently of them, then the chance that its doubt lies above the limit is at
    most `share`, whatever the model and the source. It holds on average over what pictures were
    held out: with 2,560 of them and a share of 1 %, the share really flagged scatters by 0.2 % around 1 %.
    It says nothing of other pictures, nor of each class by itself. Below ``1 / share - 1`` pictures no
    limit can promise that; then it is the bound that the next of normally distributed numbers stays below with that
    chance, or the largest of `doubt` if that is more.

    Parameters
    ----------
    doubt : ndarray of float32, shape (n,)
        Of genuine pictures; at least two.
    share : float
        Of genuine pictures that may be flagged.

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
    count = len(doubt)
    rank = math.ceil((count + 1) * (1 - share) - 1e-9)
    if rank <= count:
        return float(np.partition(doubt, rank - 1)[rank - 1])
    from scipy.special import stdtrit

    spread = float(doubt.std(ddof=1)) * math.sqrt(1 + 1 / count)
    return max(float(doubt.max()), float(doubt.mean()) + float(stdtrit(count - 1, 1 - share)) * spread)


def promise(held_out: int) -> str:
    """Say in words how many genuine pictures will be flagged unsure.

    Parameters
    ----------
    held_out : int
        Number of pictures that settled the limit.

    Returns
    -------
    str
        One line.

    Examples
    --------
    >>> print(promise(2560))
    unsure: at most 1 % of new pictures like the 2,560 held out will be flagged, on average over which were held out
    """
    share = f"{UNSURE_SHARE:.0%}".replace("%", " %")
    if held_out >= 1 / UNSURE_SHARE - 1:
        return (
            f"unsure: at most {share} of new pictures like the {held_out:,} held out will be flagged, "
            "on average over which were held out"
        )
    few = f"the {held_out:,} held out are too few" if held_out else "none were held out"
    return f"unsure: about {share} of new pictures like these should be flagged; {few} to promise it, 99 would do"


def _augmented(pixels: UInt8[ndarray, "n c h w"], spec: InputSpec, recipe: Recipe) -> UInt8[ndarray, "n c H W"]:
    """Change pictures at random as in training, at the size that the network takes."""
    changed = (augment(prepare(torch.from_numpy(part), spec), recipe) for part in in_parts(pixels, TOGETHER))
    return np.concatenate([(part * 255).round().to(torch.uint8).numpy() for part in changed])
