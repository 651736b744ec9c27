"""Confidence: how sure a trained network may be, settled on pictures at the end of training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from numpy import ndarray
from torch import Tensor, nn

from imprint.augment import augment
from imprint.classifier import Classifier
from imprint.familiarity import learn_familiarity
from imprint.images import LabelledImages
from imprint.input_spec import InputSpec
from imprint.metrics import conformal_limit, fit_temperature, tempered
from imprint.plan import Plan
from imprint.predict import HESITANT_SHARE, doubts, look_again, predict_probabilities, predict_with_features
from imprint.preparation import prepare
from imprint.recipe import Recipe

UNSURE_SHARE = 0.01  # of genuine pictures, at most
FAMILIAR = 8192  # training pictures that show what is usual; four times as many changed nothing
SETTLING = 2000  # training pictures that settle the limits where there are no validation pictures
ROUNDING = 1e-3  # of doubt, by which another machine may differ: the picture that sets the limit is flagged on none
FEWEST_HELD_OUT = 2  # a spread needs so many
LOOKED_AT = 1024  # pictures copied at once


def settle_confidence(net: nn.Module, plan: Plan, recipe: Recipe) -> Classifier:
    """Make a classifier of a trained network: settle its temperature, what is usual to it, and its limits.

    The temperature and the limits come from the validation pictures, what is usual from training pictures as they are.
    Where none was held out, a fifth of the training pictures, 2,000 at most, settle the limits and the others show
    what is usual; the temperature then comes from augmented versions of that fifth, which are harder than
    what the network has learnt by heart. Confidence is then less certain to fit accuracy, and the share of genuine
    pictures flagged is no longer promised.

    Parameters
    ----------
    net : nn.Module
        The trained network.
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
    >>> from imprint.nets import build_net
    >>> from imprint.plan import plan_training
    >>> plan = plan_training(load("digits"), "quick", device="cpu")
    >>> model = settle_confidence(build_net("quick", 1, (28, 28), 10), plan, plan.recipe)
    >>> model.familiarity.centres.shape
    torch.Size([10, 208])
    """
    images, spec = plan.images, plan.spec
    held_out = plan.validation is not None and len(plan.validation) >= FEWEST_HELD_OUT
    some = np.random.default_rng(recipe.seed).permutation(plan.training)  # they may stand class by class
    parting = 0 if held_out else min(SETTLING, max(FEWEST_HELD_OUT, len(some) // 5))
    usual = some[parting : parting + FAMILIAR] if len(some) > parting else some
    settling = plan.validation if held_out and plan.validation is not None else images[some[:parting]]
    pixels = torch.from_numpy(settling.pixels)
    labels = settling.labels_among(images.class_names)

    plain, features = predict_with_features(net, pixels, spec)
    views_below = float(np.quantile(plain.max(axis=1), HESITANT_SHARE))
    probabilities = look_again(net, pixels, spec, recipe.views, plain, views_below)
    temperature = fit_temperature(probabilities if held_out else _augmented(net, pixels, spec, recipe), labels)
    usual_labels = torch.from_numpy(images[usual].labels_among(images.class_names))
    usual_features = _features(net, images, usual, spec)
    familiarity = learn_familiarity(usual_features, usual_labels.to(features.device), len(images.class_names))
    doubt = doubts(tempered(probabilities, temperature), familiarity.distances(features))
    limit = conformal_limit(doubt, UNSURE_SHARE) + ROUNDING
    return Classifier(net, images.class_names, spec, recipe, temperature, familiarity, limit, views_below)


def _features(
    net: nn.Module, images: LabelledImages, chosen: Int64[ndarray, " n"], spec: InputSpec
) -> Float32[Tensor, "n features"]:
    """Note a network's features for some of many pictures, which may be mapped from a file."""
    parts = np.split(chosen, range(LOOKED_AT, len(chosen), LOOKED_AT))
    return torch.cat([predict_with_features(net, torch.from_numpy(images.pixels[part]), spec)[1] for part in parts])


def _augmented(
    net: nn.Module, pixels: UInt8[Tensor, "n c h w"], spec: InputSpec, recipe: Recipe
) -> Float32[ndarray, "n classes"]:
    """Ask a network about augmented versions of pictures."""
    parts = [(augment(prepare(part, spec), recipe) * 255).round().to(torch.uint8) for part in pixels.split(LOOKED_AT)]
    return predict_probabilities(net, torch.cat(parts), replace(spec, picture_size=spec.input_size))
