"""Estimate: how long a run will take, by timing some real steps of each of its networks before it starts."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from imprint.core.errors import UsageError
from imprint.core.progress import shown
from imprint.data.images import LabelledImages
from imprint.models.backbones import EfficientNetLite
from imprint.models.inference import predict_probabilities
from imprint.preprocessing.input_spec import cpu_batch_size
from imprint.training.calibration import CALIBRATION_IMAGES, MIN_HELD_OUT, count_ood_images
from imprint.training.checkpoint import TrainingState, init_network, load_start, state_before_training
from imprint.training.distributed import ALONE
from imprint.training.fit import fit
from imprint.training.ood_detector import detector_plan, make_synthetic_ood, ood_detector_recipe
from imprint.training.plan import Plan, dealt_to
from imprint.training.probe import CHOOSING_FOLDS, count_folds, missing_features

# Steps are timed for so long, in so many rounds; a round has at most as many as `fit` augments at once of 28×28 digits.
# After the longest no further round begins.
TIMED_SECONDS, ROUNDS, MOST_STEPS, LONGEST = 0.3, 3, 8, 0.4
# Seconds of a pretrained step timed whole; about so many predictions of its images it is; images timed at least.
LONGEST_STEP, PASSES, FEWEST_TIMED = 0.25, 3, 4
WORTH_TIMING = 1.0  # second; the first step, which is slow, tells enough of a network that takes less
PREDICTED = 64  # images at most, for the time that a prediction takes
VIEWS = {"none": 0, "hflip": 2, "shifts": 9}  # versions of an image in test-time augmentation
# Of one fit of a linear head: seconds by the number of images, times classes, times features; of 45, 199 and 360 photos
# 0.004, 0.029 and 0.062 on one core (AMD EPYC). Choosing the kind fits four in each fold, most of them cheaper. Before
# the first, scikit-learn is imported.
HEAD_SECONDS, HEAD_POWER, KINDS, IMPORT_SECONDS = 1.8e-5, 0.6, 2, 0.7


@dataclass(frozen=True)
class Estimate:
    """Seconds that a run will take, by its parts: features and epochs of each network, OOD detector, calibration."""

    features: tuple[float, ...]
    networks: tuple[float, ...]
    ood_detector: float = 0.0
    calibration: float = 0.0

    @property
    def seconds(self) -> float:
        """The whole."""
        return sum(self.features) + sum(self.networks) + self.ood_detector + self.calibration

    def facts(self) -> dict[str, float]:
        """Give it as plain JSON values."""
        parts = {"features": sum(self.features), "epochs": sum(self.networks)}
        parts |= {"ood_detector": self.ood_detector, "calibration": self.calibration, "seconds": self.seconds}
        return {name: round(seconds, 2) for name, seconds in parts.items()}


def no_estimate(plan: Plan) -> Estimate:
    """Give an estimate of nothing, where nobody would hear of it."""
    nothing = (0.0,) * len(plan.recipe.networks)
    return Estimate(nothing, nothing)


def estimate_seconds(plan: Plan, epochs: int = 0) -> Estimate:
    """Estimate the seconds that are left of a run after so many `epochs` of all its networks.

    Trains a network of each kind for some steps of the real size, and throws it away; torch's random numbers are as
    before. Decoding images and drawing figures is not in it.
    """
    devices = [plan.device] if plan.device.type == "cuda" else []
    # Of a batch that several processes share, this one's part; what they say to each other is not timed.
    sharing = 1 if plan.dealt else plan.crew.size
    own = replace(plan.recipe, batch_size=-(-plan.recipe.batch_size // sharing))
    alone = replace(plan, crew=ALONE, recipe=own)
    with shown(verbose=False), torch.random.fork_rng(devices):
        timed = {name: _time_network(name, alone) for name in dict.fromkeys(plan.recipe.networks)}
        detector = _time_detector(alone) if plan.recipe.ood_detector else _Timing()
    held_out = 0 if plan.validation is None else len(plan.validation)
    features, networks, recipe = [], [], plan.recipe
    for place, name in enumerate(recipe.networks):
        one, left = timed[name], max(0, recipe.epochs - max(0, epochs - place * recipe.epochs))
        begun = place < (epochs // recipe.epochs if recipe.epochs else 0)
        features.append(0.0 if begun else one.features)
        steps = sum(recipe.epoch_steps(len(plan.training))[recipe.epochs - left :])
        networks.append(steps * one.step + left * held_out * one.prediction / sharing)
    if plan.dealt:  # the first process, which tells, has some of them
        dealt = dealt_to(plan.crew.rank, plan.crew.size, len(networks))
        features, networks = ([one * (i in dealt) for i, one in enumerate(part)] for part in (features, networks))
    steps = sum(ood_detector_recipe(plan.recipe).epoch_steps(len(plan.training))) if detector.plan else 0
    prediction = sum(timed[name].prediction for name in recipe.networks)
    calibration = _calibration(plan, prediction, detector.prediction)
    return Estimate(tuple(features), tuple(networks), steps * detector.step / plan.crew.size, calibration)


@dataclass(frozen=True)
class _Timing:
    """Seconds of one network: of a training step, of predicting one image, and of its features and head."""

    step: float = 0.0
    prediction: float = 0.0
    features: float = 0.0
    plan: Plan | None = None


def _time_network(name: str, plan: Plan) -> _Timing:
    """Time a network of the recipe."""
    network, compute = init_network(name, plan)
    features = 0.0
    prediction = _time_prediction(network, plan)
    if isinstance(network, EfficientNetLite):
        load_start(network, plan.recipe.networks.index(name), plan)
        features = missing_features(network, plan.images, plan.spec) * prediction
        features += IMPORT_SECONDS * ("sklearn.linear_model" not in sys.modules)
        features += _head(plan, fits=1 + KINDS * CHOOSING_FOLDS * (plan.recipe.head == "auto"))
        network.freeze(plan.recipe.frozen_blocks)
    if plan.recipe.is_probe:
        return _Timing(0.0, prediction, features)
    return _Timing(_time_step(state_before_training(network, compute, plan), prediction), prediction, features)


def _time_detector(plan: Plan) -> _Timing:
    """Time the OOD detector of the recipe, on a few images made for it."""
    some = plan.training[: 2 * plan.recipe.batch_size]
    planned = detector_plan(plan, make_synthetic_ood(plan.images, some, plan.recipe))
    network, compute = init_network(planned.recipe.networks[0], planned)
    prediction = _time_prediction(network, planned)
    return _Timing(_time_step(state_before_training(network, compute, planned), prediction), prediction, plan=planned)


def _time_prediction(network: nn.Module, plan: Plan) -> float:
    """Time how long it takes to predict an image, in a batch as predictions have it."""
    pixels = plan.images.pixels[: min(PREDICTED, cpu_batch_size(plan.spec))]
    predict_probabilities(network, pixels, plan.spec)  # the first of a process takes longer

    def seconds() -> float:
        started = time.perf_counter()
        predict_probabilities(network, pixels, plan.spec)
        return time.perf_counter() - started

    return _quickest(seconds) / len(pixels)


def _quickest(seconds: Callable[[], float]) -> float:
    """Repeat what gives its seconds, and take the least, since other programs can only slow it down."""
    started, timed = time.perf_counter(), list[float]()
    while len(timed) < ROUNDS and (not timed or time.perf_counter() - started < LONGEST):
        timed.append(seconds())
    return min(timed)


def _time_step(state: TrainingState, prediction: float) -> float:
    """Time a step: the first, and where that makes the training long, some more.

    Of a pretrained network, whose step takes long by the seconds of a `prediction`, a part of the images is timed.
    """
    plan = state.plan
    count = min(plan.recipe.batch_size, len(plan.training))
    timed = count  # of small networks, a smaller step would mostly be overhead
    if isinstance(state.network, EfficientNetLite):
        timed = min(count, max(FEWEST_TIMED, int(LONGEST_STEP / (PASSES * prediction))))
    images = plan.images[np.sort(plan.training[: MOST_STEPS * timed])]
    first = _time_steps(state, images, 1, timed) * count / timed
    if first * sum(plan.recipe.epoch_steps(len(plan.training))) < WORTH_TIMING:
        return first
    steps = max(1, min(MOST_STEPS, int(TIMED_SECONDS / ROUNDS / (first * timed / count))))
    return _quickest(lambda: _time_steps(state, images, steps, timed)) * count / timed


def _time_steps(state: TrainingState, images: LabelledImages, steps: int, batch_size: int) -> float:
    """Train for some steps of one epoch; gives the seconds of a step."""
    short = replace(state.plan.recipe, epochs=1, steps_per_epoch=steps, min_steps=0)
    recipe = replace(short, batch_size=batch_size, class_balance=0.0)
    plan = replace(state.plan, images=images, training=np.arange(len(images)), validation=None, recipe=recipe)
    losses = torch.full((len(images),), torch.inf, dtype=plan.dtype, device=plan.device)
    pixels, labels = (
        torch.from_numpy(values).to(plan.device) for values in (images.pixels, images.labels_among(images.class_names))
    )
    started = time.perf_counter()
    with contextlib.suppress(UsageError):  # a rate too high diverges at once; training itself will say so
        fit(replace(state, plan=plan, losses=losses, epochs=[]), pixels, labels)
    return (time.perf_counter() - started) / steps


def _head(plan: Plan, fits: int) -> float:
    """Estimate the seconds of so many fits of a linear head."""
    features = min(len(plan.training), 1280)
    numbers = len(plan.training) * features * len(plan.images.class_names)
    return float(fits * HEAD_SECONDS * numbers**HEAD_POWER)


def _calibration(plan: Plan, prediction: float, detected: float) -> float:
    """Estimate the seconds of calibration and score from those that a prediction takes."""
    if plan.cross_validated:
        return _head(plan, fits=count_folds(plan.groups))
    count = len(plan.training)
    scored = 0 if plan.validation is None else len(plan.validation)
    judged = scored if scored >= MIN_HELD_OUT else min(CALIBRATION_IMAGES, max(MIN_HELD_OUT, count // 5))
    views = 1 + plan.recipe.tta_share * VIEWS[plan.recipe.tta]
    embeddings = 0 if plan.recipe.is_probe else min(count, count_ood_images(plan))
    return prediction * (views * (judged + scored) + embeddings) + detected * (judged + scored)
