"""Calibration: how sure a trained network may be, settled on images at the end of training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64, Shaped, UInt8
from numpy import ndarray
from torch import Tensor, nn

from imprint.core.html import TILES
from imprint.core.memmap import in_chunks
from imprint.core.metrics import fit_temperature, tempered
from imprint.core.scores import STRANGE
from imprint.models.backbones import EfficientNetLite
from imprint.models.classifier import Classifier
from imprint.models.inference import (
    NEAREST,
    apply_tta,
    in_distribution,
    predict_with_embeddings,
    uncertainty_score,
)
from imprint.models.ood import fit_mahalanobis, levelled
from imprint.models.predictor import Predictions
from imprint.preprocessing.input_spec import InputSpec
from imprint.preprocessing.prepare import normalise, scale
from imprint.recipes import PRETRAINED, Recipe
from imprint.training.augmentation import augment
from imprint.training.plan import Plan
from imprint.training.probe import CrossValidated, cross_validate, deal, frozen_features

MAX_FLAGGED = 0.01  # share of in-distribution images that may be flagged unsure
OOD_IMAGES = 8192  # training images that the OOD score is fitted on; four times as many changed nothing
# The same where a pretrained network was trained, in all and a class; 2,100 found no more (docs/log/photos.md).
OOD_PHOTOS, OOD_PHOTOS_PER_CLASS = 1000, 20
CALIBRATION_IMAGES = 2000  # training images that stand for validation images where there are none
# Of uncertainty, by which another machine may differ: the image that sets the limit is flagged on none.
ROUNDING_MARGIN = 1e-3
MIN_HELD_OUT = 2  # a standard deviation needs so many
AUGMENTED_IMAGES = 128  # images; of photos more take much memory
DELTA = 0.05  # chance that the limit of confidence is certified and too low
LIMITS = np.r_[0.9999, 0.9995, 0.999, 0.995, np.arange(99, 0, -1) / 100, 0.0]  # of confidence, the strictest first
EVER_UNSURE = 2.0  # more confidence than there is
LIKELIER_WRONG = 0.5  # confidence below which another answer may be as good


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
    fitted = some[set_apart : set_apart + count_ood_images(plan)] if len(some) > set_apart else some
    held = plan.validation if held_out and plan.validation is not None else images[some[:set_apart]]
    labels = held.labels_among(images.class_names)
    seen_by = spec if held_out else replace(spec, image_size=spec.input_size)
    pixels = held.pixels if held_out else _augmented(held.pixels, spec, recipe)

    plain, embeddings = predict_with_embeddings(network, pixels, seen_by)
    tta_below = float(np.quantile(plain.max(axis=1), recipe.tta_share))
    probabilities = apply_tta(network, pixels, seen_by, recipe.tta, plain, tta_below)
    temperature = fit_temperature(probabilities, labels)
    fitted_labels = torch.from_numpy(images.labels_among(images.class_names)[fitted])
    if recipe.is_probe and isinstance(network, EfficientNetLite):  # computed already, for the head
        features = frozen_features(network, images, spec)[fitted]
        fitted_embeddings = levelled(features, network.embedded_widths).to(embeddings.device)
    else:
        _, fitted_embeddings = predict_with_embeddings(network, images.pixels, spec, fitted)
    ood_score = fit_mahalanobis(fitted_embeddings, fitted_labels, len(images.class_names))
    calibrated = tempered(probabilities, temperature)
    predicted = calibrated.argmax(axis=1)
    distances = ood_score.distances(embeddings, torch.from_numpy(predicted).to(embeddings.device))
    known = None if ood_detector is None else in_distribution(ood_detector, pixels, seen_by, predicted)
    uncertainty = uncertainty_score(ood_score, calibrated, distances, known)
    if held_out and ood_score.decides_alone and len(held) < 1 / MAX_FLAGGED - 1:
        apart = _cross_validated_distances(fitted_embeddings.cpu(), fitted_labels, plan.groups[fitted], recipe.seed)
        limit = (
            likely_limit(np.append(uncertainty, apart.clamp_min(NEAREST).log().numpy()), MAX_FLAGGED) + ROUNDING_MARGIN
        )
    else:
        limit = conformal_limit(uncertainty, MAX_FLAGGED) + ROUNDING_MARGIN
    return Classifier(network, images.class_names, spec, recipe, temperature, ood_score, limit, tta_below, ood_detector)


def _cross_validated_distances(
    embeddings: Float32[Tensor, "n features"],
    labels: Int64[Tensor, " n"],
    groups: Shaped[ndarray, " n"],
    seed: int,
) -> Float32[Tensor, " n"]:
    """Compute the distance of each training image from its class by a score that was fitted to others.

    A network changes its wide embeddings so little in training that unseen images lie as far (docs/log/photos.md), and
    a limit by the few held out would lie beyond most strangers.
    """
    fold, distances = deal(labels.numpy(), groups, seed), torch.zeros(len(labels))
    if not fold.any():  # a single group, whose images no others judge
        return distances[:0]
    for number in range(int(fold.max()) + 1):
        out = torch.from_numpy(fold == number)
        score = fit_mahalanobis(embeddings[~out], labels[~out], int(labels.max()) + 1)
        distances[out] = score.distances(embeddings[out], labels[out])
    return distances


def count_ood_images(plan: Plan) -> int:
    """Count how many training images the OOD score is fitted on, at most."""
    if plan.recipe.is_probe or plan.recipe.networks[0] not in PRETRAINED:
        return OOD_IMAGES
    return max(OOD_PHOTOS, OOD_PHOTOS_PER_CLASS * len(plan.images.class_names))


def calibrate_probe(
    network: EfficientNetLite, plan: Plan, recipe: Recipe
) -> tuple[Classifier, Predictions, CrossValidated]:
    """Make a classifier of a network with a linear head, calibrated on cross-validated predictions, which it gives too.

    Every image is one that the head behind its prediction was not fitted to.
    """
    images, classes = plan.images, len(plan.images.class_names)
    labels = torch.from_numpy(images.labels_among(images.class_names))
    features = frozen_features(network, images, plan.spec)
    # Of a single group no image can be judged by heads of others; no score is claimed then, but «unsure» needs a limit.
    groups = plan.groups if len(np.unique(plan.groups)) > 1 else np.arange(len(images))
    widths, kind = network.embedded_widths, network.head_kind
    found = cross_validate(features, widths, labels.numpy(), groups, classes, kind, recipe.seed, recipe.class_balance)
    fitted = plan.training[:OOD_IMAGES]
    ood_score = fit_mahalanobis(levelled(features[fitted], widths), labels[fitted], classes)
    probabilities = tempered(found.probabilities, found.temperature)
    uncertainty = uncertainty_score(ood_score, probabilities, found.distances)
    limit, names = likely_limit(uncertainty, MAX_FLAGGED) + ROUNDING_MARGIN, images.class_names
    model = Classifier(network, names, plan.spec, recipe, found.temperature, ood_score, limit, 0.0)
    preview = np.array(images.pixels[:TILES])
    return model, Predictions(probabilities, names, images.sources, uncertainty, limit, preview=preview), found


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
    """Find the limit that the next of numbers whose upper half is normal exceeds with a chance of `share`.

    The most uncertain of a hundred images decides nothing, and far more images of other things are found (docs/log).
    """
    from scipy.special import stdtrit

    count, middle = len(uncertainty), float(np.median(uncertainty))
    upper = uncertainty[uncertainty >= middle] - middle
    spread = math.sqrt(float(np.square(upper).mean()) * (1 + 1 / count))
    return middle + float(stdtrit(max(1, len(upper) - 1), 1 - share)) * spread


def likely_limit(uncertainty: Float32[ndarray, " n"], share: float) -> float:
    """Find the limit that a share of new images will likely exceed: the normal bound, the share itself where it tells.

    It comes to count from ``1 / share`` images on, and counts alone from twice as many, where no single image decides.
    """
    weight = min(max(len(uncertainty) * share - 1, 0.0), 1.0)
    return weight * conformal_limit(uncertainty, share) + (1 - weight) * normal_limit(uncertainty, share)


BASES = ("certified", "estimated", "unreached", "unknown", "off")  # what a limit of confidence rests on


@dataclass(frozen=True)
class ConfidenceLimit:
    """The confidence below which predictions are unsure, so that of the others a share of `trust` is right.

    `basis` tells what it rests on: "certified" with 95 % certainty; "estimated" from images that are too few for that;
    "unreached" where not even the surest predictions are right so often, and all are unsure; "unknown" where too few
    images were judged to tell; "off". Of `images` predictions judged, `answered` stay sure, and `right` of these are.
    """

    below: float
    trust: float
    basis: str
    images: int = 0
    answered: int = 0
    right: int = 0
    method: str = "held-out"

    def facts(self) -> dict[str, Any]:
        """Give it as plain JSON values, as metrics.json and model files hold it; `says` is it in words."""
        return asdict(self) | {"says": str(self)}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> ConfidenceLimit:
        """Read it from plain JSON values; raises what a malformed one happens to raise."""
        below, trust = float(facts["below"]), float(facts["trust"])
        images, answered, right = (int(facts[key]) for key in ("images", "answered", "right"))
        if facts["basis"] not in BASES or not (0 <= trust < 1 and 0 <= right <= answered <= images):
            raise ValueError("trust")
        return cls(below, trust, facts["basis"], images, answered, right, str(facts["method"]))

    def __str__(self) -> str:
        return f"unsure (low confidence): {self._words()}"

    def _words(self) -> str:
        judged = f"the {self.images:,} images {'held out' if self.method == 'held-out' else self.method}"
        wanted = _percent(self.trust)
        if self.basis == "off":
            return "none is flagged for it, since trust is 0"
        if self.basis == "unknown":
            few = f"{judged} are too few" if self.images else "no images were held out"
            return f"below {self.below:g} is flagged, where an answer is likelier wrong than right; {few} to tell more"
        if self.basis == "unreached":
            return (
                f"every answer is flagged: of {judged} not even the surest were right in {wanted}; --trust takes less"
            )
        flagged = f"below {self.below:g} is flagged" if self.below else "none is flagged for it"
        share = f"of its {self.answered:,} sure answers to {judged} {_percent(self.right / self.answered)} are right"
        if self.basis == "certified":
            return f"{flagged}; {share}, of new ones at least {wanted} with 95 % certainty"
        optimistic = "; they settled it too, so expect slightly less" if self.below else ""
        return f"{flagged}; {share}, too few to certify {wanted}{optimistic}"


def confidence_limit(
    predictions: Predictions,
    correct: Bool[ndarray, " n"],
    trust: float,
    weight: float = 1.0,
    tries: int = 1,
    method: str = "held-out",
) -> ConfidenceLimit:
    """Find the least confidence from which predictions that are not strange are right in a share of `trust`.

    An image counts for `weight` independent ones; where they chose the model from `tries`, too, each has its part of
    the 5 % that a certified limit may be wrong.
    """
    if not trust:
        return ConfidenceLimit(0.0, trust, "off", len(correct), len(correct), int(correct.sum()), method)
    genuine = predictions.why != STRANGE
    confidence, correct = predictions.confidence[genuine].astype(np.float64), correct[genuine]
    fewest = math.ceil(1 / (1 - trust) - 1e-9)  # of fewer answers a single error is too many
    if len(correct) < fewest:
        return unknown_limit(trust, len(predictions), method)
    answered = confidence[:, None] >= LIMITS
    counts, right = answered.sum(axis=0), (answered & correct[:, None]).sum(axis=0)
    promised = (answered * confidence[:, None]).sum(axis=0)
    start = int(_p_values(counts * weight, promised * weight, trust).argmin())
    certified = _last_certified(_p_values(counts * weight, right * weight, trust) <= DELTA / tries, start)
    reached = (counts >= fewest) & (right >= trust * counts - 1e-9)
    if not reached.any():
        return ConfidenceLimit(EVER_UNSURE, trust, "unreached", len(predictions), method=method)
    if reached[-1]:  # all answers are right often enough: a strong model needs no limit
        chosen = len(LIMITS) - 1
    elif certified is not None:
        chosen = certified
    else:  # the lowest, of those that confidence promises too, if any: hits of a few scatter
        likely = reached & (promised >= trust * counts)
        chosen = int(np.flatnonzero(likely if likely.any() else reached)[-1])
    basis = "certified" if chosen == certified else "estimated"
    found = float(LIMITS[chosen]), trust, basis, len(predictions), int(counts[chosen]), int(right[chosen]), method
    return ConfidenceLimit(*found)


def unknown_limit(trust: float, images: int = 0, method: str = "held-out") -> ConfidenceLimit:
    """Give the limit where images are too few to tell: below it the model itself holds an answer likelier wrong."""
    return ConfidenceLimit(min(LIKELIER_WRONG, trust), trust, "unknown" if trust else "off", images, method=method)


def _last_certified(passed: Bool[ndarray, " limits"], start: int) -> int | None:
    """Test limits from `start` downwards, until one fails; gives the last that passed.

    Learn then Test (Angelopoulos et al., arXiv:2110.01052): with a chance of 95 % none that is too low has passed
    before. Where to start is settled without labels: at the limit that the confidences themselves promise most of.
    """
    failed = np.flatnonzero(~passed[start:])
    end = start + int(failed[0]) if len(failed) else len(passed)
    return end - 1 if end > start else None


def _p_values(
    counts: Float64[ndarray, " limits"], right: Float64[ndarray, " limits"], trust: float
) -> Float64[ndarray, " limits"]:
    """Compute the chance of so many right answers or more if each were right with a chance of `trust`.

    The tail of the binomial (Clopper and Pearson, Biometrika 26, 1934), by the incomplete beta function, which takes
    numbers that are not whole.
    """
    from scipy.special import betainc

    return np.where(right > 0, betainc(np.maximum(right, 1e-9), counts - right + 1, trust), 1.0)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}".removesuffix(".0") + " %"


def coverage_statement(images: int, split_off: bool = True) -> str:
    """Say which share of in-distribution images will be flagged, by how many set the limit, split off from training."""
    share = f"{MAX_FLAGGED:.0%}".replace("%", " %")
    enough = images >= 1 / MAX_FLAGGED - 1
    if not split_off:
        promised = "cross-validation cannot promise it" if enough else "there are too few to promise it"
        return f"unsure (strange): about {share} of new images like these should be flagged; {promised}"
    if enough:
        return (
            f"unsure (strange): at most {share} of new images like the {images:,} held out will be flagged, "
            "on average over which were held out"
        )
    few = f"the {images:,} held out are too few" if images else "none were held out"
    flagged = f"unsure (strange): about {share} of new images like these should be flagged"
    return f"{flagged}; {few} to promise it, 99 would do"


def _augmented(pixels: UInt8[ndarray, "n c h w"], spec: InputSpec, recipe: Recipe) -> UInt8[ndarray, "n c H W"]:
    """Change images at random as in training, at the size that the network takes."""
    parts = (normalise(scale(torch.from_numpy(part), spec)) for part in in_chunks(pixels, AUGMENTED_IMAGES))
    changed = (augment(part, recipe) for part in parts)
    return np.concatenate([(part * 255).round().to(torch.uint8).numpy() for part in changed])
