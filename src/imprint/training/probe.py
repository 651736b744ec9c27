"""Linear probing: features of a pretrained network, the linear head fitted to them, and cross-validated predictions."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64, Shaped
from numpy import ndarray
from torch import Tensor

from imprint.core.metrics import class_weights, fit_temperature, log_loss, tempered
from imprint.core.progress import say, track
from imprint.data import cache
from imprint.data.duplicates import fingerprints
from imprint.data.images import LabelledImages
from imprint.data.split import deal_folds
from imprint.models.backbones import EfficientNetLite, load_weights
from imprint.models.hardware import machine_name
from imprint.models.inference import predict_with_embeddings
from imprint.models.ood import fit_mahalanobis
from imprint.preprocessing.input_spec import InputSpec, cpu_batch_size
from imprint.training.plan import Plan

MIN_CACHED = 8  # images; the features of fewer are computed at once
FEATURES_VERSION = 1  # raise it when the same network gives other features
# Of an L2 penalty, for features that are scaled to a length of about 1: best or near it on every collection tried
# (docs/log/photos.md), as are the shrinkage and the ridge.
REGRESSION_PENALTY, RIDGE_PENALTY, SHRINKAGES = 8e-5, 1e-3, (0.5, 0.8)
NO_IMAGE = -30.0  # logit of a class that has none
LEAVE_ONE_OUT_BELOW = 60  # images; more are divided into folds
CHOOSING_IMAGES, CHOOSING_FOLDS = 1000, 5


def frozen_features(
    network: EfficientNetLite, images: LabelledImages, spec: InputSpec
) -> Float32[Tensor, "n features"]:
    """Compute the embeddings of images as they are, or find them in the cache, also where only some images are new."""
    found = _find_features(network, images, spec)
    places = np.flatnonzero(found.missing)
    at_once = cpu_batch_size(spec) if network.head.weight.device.type == "cpu" else max(1, len(places))
    parts = [places[start : start + at_once] for start in range(0, len(places), at_once)]
    for part in track(parts, "computing features", total=len(parts)):
        found.features[part] = predict_with_embeddings(network, images.pixels, spec, part)[1].cpu().numpy()
    if len(images) >= MIN_CACHED and not found.whole:
        try:
            with cache.writing(found.key) as writer:
                writer.add(found.features)
                writer.facts = {
                    "name": f"features of {images.name}",
                    "shape": found.features.shape,
                    "dtype": "float32",
                    "network": found.network,
                    "images": found.prints.tobytes().hex(),
                }
        except OSError:
            pass  # the next run computes them again
    return torch.from_numpy(found.features)


def missing_features(network: EfficientNetLite, images: LabelledImages, spec: InputSpec) -> int:
    """Count the images whose embeddings are not in the cache."""
    return int(_find_features(network, images, spec).missing.sum())


@dataclass(frozen=True, eq=False)
class _FoundFeatures:
    """What the cache holds of the features of images: `whole` under the `key` of all, or some of other collections."""

    features: Float32[ndarray, "n features"]
    missing: Bool[ndarray, " n"]
    whole: bool
    key: str
    network: str
    prints: ndarray


def _find_features(network: EfficientNetLite, images: LabelledImages, spec: InputSpec) -> _FoundFeatures:
    """Look features up in the cache."""
    device = network.head.weight.device
    known = hashlib.sha256(f"{FEATURES_VERSION} {spec.input_size} {images.shape} {machine_name(device)}".encode())
    for name, tensor in network.state_dict().items():
        if not name.startswith("head."):
            known.update(tensor.detach().cpu().contiguous().numpy().data)
    of_network, prints = known.hexdigest()[:40], fingerprints(images.pixels)
    key = hashlib.sha256(of_network.encode() + prints.tobytes()).hexdigest()[:40]
    if (found := cache.lookup(key)) is not None:
        return _FoundFeatures(np.array(found[0]), np.zeros(len(images), dtype=bool), True, key, of_network, prints)
    features = np.empty((len(images), network.num_features), dtype=np.float32)
    missing = np.ones(len(images), dtype=bool)
    for rows, facts in cache.matching(network=of_network):
        earlier = np.frombuffer(bytes.fromhex(facts["images"]), dtype=np.uint64)
        order = np.argsort(earlier)
        places = order[np.searchsorted(earlier, prints, sorter=order).clip(max=len(earlier) - 1)]
        same = missing & (earlier[places] == prints)
        features[same], missing[same] = rows[places[same]], False
    return _FoundFeatures(features, missing, False, key, of_network, prints)


@dataclass(frozen=True, eq=False)
class _Scaled:
    """Features with mean 0, each number scaled by its deviation, turned so that n images need at most n numbers.

    All heads are the same in the turned space, since none has weights outside what the images span.
    """

    rows: Float64[ndarray, "n rank"]
    turn: Float64[ndarray, "features rank"]
    mean: Float64[ndarray, " features"]
    width: int

    @classmethod
    def of(cls, features: Float32[Tensor, "n features"]) -> _Scaled:
        exact = features.double().numpy()
        mean, deviation = exact.mean(axis=0), exact.std(axis=0) + 1e-3
        scale = deviation * np.sqrt(exact.shape[1])
        scaled = (exact - mean) / scale
        if len(scaled) >= scaled.shape[1]:
            return cls(scaled, np.diag(1 / scale), mean, scaled.shape[1])
        size, vectors = np.linalg.eigh(scaled @ scaled.T)
        kept = size > size[-1] * 1e-10
        turn = scaled.T @ (vectors[:, kept] / np.sqrt(size[kept]))
        return cls(scaled @ turn, turn / scale[:, None], mean, scaled.shape[1])

    def head(
        self, weight: ndarray, bias: ndarray
    ) -> tuple[Float32[Tensor, "features classes"], Float32[Tensor, " classes"]]:
        """Express a head on the turned features as one on the features themselves."""
        whole = self.turn @ weight
        return torch.from_numpy(whole).float(), torch.from_numpy(bias - self.mean @ whole).float()


def fit_head(
    features: Float32[Tensor, "n features"],
    labels: Int64[ndarray, " n"],
    groups: Shaped[ndarray, " n"],
    classes: int,
    wanted: str = "auto",
    seed: int = 7,
    balance: float = 0.0,
) -> tuple[Float32[Tensor, "features classes"], Float32[Tensor, " classes"], str]:
    """Fit a linear head; gives weights, biases, and which kind it is.

    With "auto" the kind that names most images right in cross-validation on at most 1,000 of them. Images count by the
    size of their class to the power of -`balance`, there too.
    """
    scaled = _Scaled.of(features)
    kind = _KINDS[wanted][0] if wanted != "auto" else _choose_kind(scaled, labels, groups, classes, seed, balance)
    return (*scaled.head(*_fit(kind, scaled.rows, labels, classes, scaled.width, balance)), kind)


@dataclass(frozen=True, eq=False)
class CrossValidated:
    """What heads say of images that they were not fitted to: probabilities, and how far each image lies from others.

    `method` is "leave-one-out" or "cross-validated"; `folds` tells how many heads there were.
    """

    probabilities: Float32[ndarray, "n classes"]
    distances: Float32[Tensor, " n"]
    temperature: float
    folds: int
    method: str


def cross_validate(
    features: Float32[Tensor, "n features"],
    labels: Int64[ndarray, " n"],
    groups: Shaped[ndarray, " n"],
    classes: int,
    kind: str,
    seed: int,
    balance: float = 0.0,
) -> CrossValidated:
    """Predict each image by a head that was fitted to the others; groups, and copies, stay together."""
    return predict_folds(features, labels, _deal(labels, groups, seed), classes, kind, balance)


def predict_folds(
    features: Float32[Tensor, "n features"],
    labels: Int64[ndarray, " n"],
    fold: Int64[ndarray, " n"],
    classes: int,
    kind: str,
    balance: float = 0.0,
) -> CrossValidated:
    """Predict each fold by a head that was fitted to the others."""
    scaled, folds = _Scaled.of(features), int(fold.max()) + 1
    logits, distances = np.zeros((len(labels), classes)), torch.zeros(len(labels))
    for number in range(folds):
        seen, unseen = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        if not len(seen) or not len(unseen):
            continue
        weight, bias = _fit(kind, scaled.rows[seen], labels[seen], classes, scaled.width, balance)
        logits[unseen] = scaled.rows[unseen] @ weight + bias
        score = fit_mahalanobis(features[seen], torch.from_numpy(labels[seen]), classes)
        distances[unseen] = score.distances(features[unseen], torch.from_numpy(logits[unseen].argmax(axis=1)))
    plain = _softmax(logits)
    method = "leave-one-out" if folds == len(labels) else "cross-validated"
    return CrossValidated(plain, distances, fit_temperature(plain, labels), folds, method)


def mean_over_deals(
    features: Float32[Tensor, "n features"],
    labels: Int64[ndarray, " n"],
    deals: Sequence[Int64[ndarray, " n"]],
    classes: int,
) -> Float32[ndarray, "n classes"]:
    """Predict each image by heads of regression fitted to the other folds; the mean over several deals into folds."""
    scaled, total = _Scaled.of(features), np.zeros((len(labels), classes), dtype=np.float32)
    for fold in deals:
        for number in range(int(fold.max()) + 1):
            seen, unseen = fold != number, fold == number
            if seen.any() and unseen.any():
                weight, bias = _fit("regression", scaled.rows[seen], labels[seen], classes, scaled.width, 0.0)
                total[unseen] += _softmax(scaled.rows[unseen] @ weight + bias) / len(deals)
    return total


def pretrained_network(plan: Plan) -> EfficientNetLite:
    """Build the network that a plan names, with its pretrained weights and without a head, in evaluation mode."""
    name, spec = plan.recipe.networks[0], plan.spec
    network = EfficientNetLite(name, spec.channels, spec.input_size, len(plan.images.class_names))
    load_weights(network, name, plan.recipe.pretrained)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval().to(plan.device)


def init_head(network: EfficientNetLite, plan: Plan) -> None:
    """Begin with the linear head that fits the training images as they are."""
    images, chosen = plan.images, np.sort(plan.training)
    labels = images.labels_among(images.class_names)[chosen]
    started = time.perf_counter()
    features = frozen_features(network, images, plan.spec)[chosen]
    recipe = plan.recipe
    weight, bias, kind = fit_head(
        features,
        labels,
        plan.groups[chosen],
        len(images.class_names),
        recipe.head,
        recipe.seed,
        recipe.class_balance,
    )
    network.head_kind = kind
    with torch.no_grad():
        network.head.weight.copy_(weight)
        network.head.bias.copy_(bias)
    say(f"linear head by {kind} on features of {len(chosen):,} images, {time.perf_counter() - started:.1f}s")


def _deal(labels: Int64[ndarray, " n"], groups: Shaped[ndarray, " n"], seed: int) -> Int64[ndarray, " n"]:
    """Deal images into folds: each group alone where they are few, else ten, five or three folds with even classes."""
    if len(labels) < LEAVE_ONE_OUT_BELOW:
        return np.asarray(np.unique(groups, return_inverse=True)[1], dtype=np.int64)
    return deal_folds(labels, groups, count_folds(groups), seed)


def count_folds(groups: Shaped[ndarray, " n"]) -> int:
    """Count the folds that images are dealt into for cross-validation."""
    images, names = len(groups), len(np.unique(groups))
    if images < LEAVE_ONE_OUT_BELOW:
        return names
    return min(10 if images <= 500 else 5 if images <= 2000 else 3, names)


def _choose_kind(
    scaled: _Scaled,
    labels: Int64[ndarray, " n"],
    groups: Shaped[ndarray, " n"],
    classes: int,
    seed: int,
    balance: float,
) -> str:
    """Compare the kinds on other folds than those that a score comes from."""
    rng = np.random.default_rng(seed)
    some = np.sort(rng.permutation(len(labels))[:CHOOSING_IMAGES])
    rows, given, groups = scaled.rows[some], labels[some], groups[some]
    folds = min(CHOOSING_FOLDS, len(np.unique(groups)))
    if folds < 2:
        return "regression"
    fold = deal_folds(given, groups, folds, seed + 1)
    counted, merits = class_weights(given, classes, balance)[given], {}
    for kind in (kind for kinds in _KINDS.values() for kind in kinds):
        logits = np.full((len(given), classes), NO_IMAGE)
        for number in range(folds):
            seen, unseen = fold != number, fold == number
            if unseen.any() and seen.any():
                weight, bias = _fit(kind, rows[seen], given[seen], classes, scaled.width, balance)
                logits[unseen] = rows[unseen] @ weight + bias
        plain = _softmax(logits)
        loss = log_loss(tempered(plain, fit_temperature(plain, given)), given)
        merits[kind] = (float(((logits.argmax(axis=1) == given) * counted).mean()), -loss)
    return max(merits, key=lambda kind: merits[kind])


_KINDS = {"regression": ("regression",), "lda": tuple(f"lda {value}" for value in SHRINKAGES), "ridge": ("ridge",)}


def _fit(
    kind: str, rows: Float64[ndarray, "n rank"], labels: Int64[ndarray, " n"], classes: int, width: int, balance: float
) -> tuple[Float64[ndarray, "rank classes"], Float64[ndarray, " classes"]]:
    """Fit one kind of head to the classes that have images."""
    present, given = np.unique(labels, return_inverse=True)
    weight, bias = np.zeros((rows.shape[1], classes)), np.full(classes, NO_IMAGE)
    if len(present) == 1:
        bias[present] = 0.0
        return weight, bias
    counted = class_weights(given, len(present), balance)
    if kind == "regression":
        some_weight, some_bias = _regression(rows, given, counted)
    elif kind == "ridge":
        some_weight, some_bias = _ridge(rows, given, counted)
    else:
        some_weight, some_bias = _shrunk_lda(rows, given, counted, float(kind.split()[1]), width)
    weight[:, present], bias[present] = some_weight, some_bias
    return weight, bias


def _regression(rows: ndarray, labels: ndarray, counted: ndarray) -> tuple[ndarray, ndarray]:
    """Multinomial logistic regression by scikit-learn."""
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where the last digits do not settle, they do not matter
        model = LogisticRegression(C=1 / (REGRESSION_PENALTY * len(rows)), max_iter=300, tol=1e-3)
        found = model.fit(rows, labels, sample_weight=counted[labels])
    weight, bias = found.coef_.T, found.intercept_
    if weight.shape[1] == 1:  # of two classes it gives the difference
        return np.hstack([-weight / 2, weight / 2]), np.hstack([-bias / 2, bias / 2])
    return weight, bias


def _ridge(rows: ndarray, labels: ndarray, counted: ndarray) -> tuple[ndarray, ndarray]:
    """Least squares on ones and zeros with an L2 penalty, in closed form."""
    targets, weights = np.eye(len(counted))[labels], counted[labels, None]
    middle, mean = (weights * rows).mean(axis=0), (weights * targets).mean(axis=0)
    centred = rows - middle
    matrix = centred.T @ (weights * centred) + RIDGE_PENALTY * len(rows) * np.eye(rows.shape[1])
    weight = np.linalg.solve(matrix, centred.T @ (weights * (targets - mean)))
    return weight, mean - middle @ weight


def _shrunk_lda(
    rows: ndarray, labels: ndarray, counted: ndarray, shrinkage: float, width: int
) -> tuple[ndarray, ndarray]:
    """Linear discriminant analysis, the covariance shrunk towards one variance for all `width` numbers.

    Friedman, JASA 84 (1989) 165-175.
    """
    counts = np.bincount(labels)
    middle = rows.mean(axis=0)
    sums = np.zeros((len(counts), rows.shape[1]))
    np.add.at(sums, labels, rows - middle)
    centres = sums / counts[:, None]
    within = rows - middle - centres[labels]
    variance = max(float(np.square(within).sum()) / len(rows) / width, 1e-12)
    covariance = (1 - shrinkage) * within.T @ within / len(rows) + shrinkage * variance * np.eye(rows.shape[1])
    weight = np.linalg.solve(covariance, centres.T)
    bias = np.log(counts * counted / len(rows)) - (centres.T * weight).sum(axis=0) / 2
    return weight, bias - middle @ weight


def _softmax(logits: Float64[ndarray, "n classes"]) -> Float32[ndarray, "n classes"]:
    return torch.from_numpy(logits).softmax(dim=1).float().numpy()
