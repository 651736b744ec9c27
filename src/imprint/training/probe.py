"""Linear probing: features of a pretrained network, the linear head fitted to them, and cross-validated predictions."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32, Float64, Int64, Shaped
from numpy import ndarray
from torch import Tensor

from imprint.core.metrics import class_weights, fit_temperature, log_loss, tempered
from imprint.core.progress import say, track
from imprint.data import cache
from imprint.data.images import LabelledImages
from imprint.data.split import deal_folds
from imprint.models.backbones import EfficientNetLite, load_weights
from imprint.models.hardware import compute_settings, machine_name
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
            with cache.writing(found.key, found.features.nbytes) as writer:
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
    of_network, prints = known.hexdigest()[:40], images.pixel_hashes
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

    rows: Float32[Tensor, "n rank"]
    turn: Float64[Tensor, "features rank"]
    mean: Float64[Tensor, " features"]
    width: int

    @classmethod
    def of(cls, features: Float32[Tensor, "n features"]) -> _Scaled:
        exact = features.double()
        mean, deviation = exact.mean(dim=0), exact.std(dim=0, correction=0) + 1e-3
        (count, width), scale = exact.shape, deviation * exact.shape[1] ** 0.5
        scaled = (exact - mean) / scale
        if count >= width:
            return cls(scaled.float(), (1 / scale).diag(), mean, width)
        # The rows of the Cholesky factor have the lengths and angles of the images' features.
        products = scaled @ scaled.T
        products.diagonal().add_(products.diagonal().mean() * 1e-9)  # copies of an image make it singular
        factor = torch.linalg.cholesky(products)
        turn = torch.linalg.solve_triangular(factor, scaled, upper=False).T
        return cls(factor.float(), turn / scale[:, None], mean, width)

    def head(
        self, weight: Float32[Tensor, "rank classes"], bias: Float32[Tensor, " classes"]
    ) -> tuple[Float32[Tensor, "features classes"], Float32[Tensor, " classes"]]:
        """Express a head on the turned features as one on the features themselves."""
        whole = self.turn @ weight.double()
        return whole.float(), (bias - self.mean @ whole).float()


@compute_settings(1)  # so small, two threads take twice as long
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


@compute_settings(1)
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
    logits, distances = torch.zeros(len(labels), classes), torch.zeros(len(labels))
    for number in range(folds):
        seen, unseen = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        if not len(seen) or not len(unseen):
            continue
        weight, bias = _fit(kind, scaled.rows[seen], labels[seen], classes, scaled.width, balance)
        logits[unseen] = scaled.rows[unseen] @ weight + bias
        score = fit_mahalanobis(features[seen], torch.from_numpy(labels[seen]), classes)
        distances[unseen] = score.distances(features[unseen], logits[unseen].argmax(dim=1))
    plain = logits.softmax(dim=1).numpy()
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
                total[unseen] += (scaled.rows[unseen] @ weight + bias).softmax(dim=1).numpy() / len(deals)
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
        logits = torch.full((len(given), classes), NO_IMAGE)
        for number in range(folds):
            seen, unseen = fold != number, fold == number
            if unseen.any() and seen.any():
                weight, bias = _fit(kind, rows[seen], given[seen], classes, scaled.width, balance)
                logits[unseen] = rows[unseen] @ weight + bias
        plain = logits.softmax(dim=1).numpy()
        loss = log_loss(tempered(plain, fit_temperature(plain, given)), given)
        merits[kind] = (float(((plain.argmax(axis=1) == given) * counted).mean()), -loss)
    return max(merits, key=lambda kind: merits[kind])


_KINDS = {"regression": ("regression",), "lda": tuple(f"lda {value}" for value in SHRINKAGES), "ridge": ("ridge",)}


def _fit(
    kind: str, rows: Float32[Tensor, "n rank"], labels: Int64[ndarray, " n"], classes: int, width: int, balance: float
) -> tuple[Float32[Tensor, "rank classes"], Float32[Tensor, " classes"]]:
    """Fit one kind of head to the classes that have images."""
    present, given = np.unique(labels, return_inverse=True)
    weight, bias = torch.zeros(rows.shape[1], classes), torch.full((classes,), NO_IMAGE)
    if len(present) == 1:
        bias[present] = 0.0
        return weight, bias
    counted = torch.from_numpy(class_weights(given, len(present), balance)).float()
    targets = F.one_hot(torch.from_numpy(given), len(present)).float()
    if kind == "regression":
        some_weight, some_bias = _regression(rows, targets, counted)
    elif kind == "ridge":
        some_weight, some_bias = _ridge(rows, targets, counted)
    else:
        some_weight, some_bias = _shrunk_lda(rows, targets, counted, float(kind.split()[1]), width)
    weight[:, present], bias[present] = some_weight, some_bias
    return weight, bias


def _regression(
    rows: Float32[Tensor, "n rank"], targets: Float32[Tensor, "n classes"], counted: Float32[Tensor, " classes"]
) -> tuple[Float32[Tensor, "rank classes"], Float32[Tensor, " classes"]]:
    """Multinomial logistic regression by SciPy's L-BFGS, with scikit-learn's loss and tolerance, in half its time."""
    from scipy.optimize import minimize
    from threadpoolctl import threadpool_limits

    count, rank = rows.shape
    weights = targets * counted  # a row has its class's weight at its label
    share, penalty = 1 / float(weights.sum()), REGRESSION_PENALTY * count / float(weights.sum())

    def loss_and_gradient(flat: Float64[ndarray, " numbers"]) -> tuple[float, Float64[ndarray, " numbers"]]:
        head = torch.from_numpy(flat).float().view(rank + 1, -1)
        weight, bias = head[:-1], head[-1]
        logs = torch.addmm(bias, rows, weight).log_softmax(dim=1)
        gaps = logs.exp().mul_(weights.sum(dim=1, keepdim=True)).sub_(weights).mul_(share)
        loss = penalty / 2 * weight.square().sum() - share * (weights * logs).sum()
        gradient = torch.cat([torch.addmm(weight, rows.T, gaps, beta=penalty), gaps.sum(dim=0, keepdim=True)])
        return float(loss), gradient.double().numpy().ravel()

    start = np.zeros((rank + 1) * targets.shape[1])
    with threadpool_limits(1, user_api="blas"):
        found = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options={"maxiter": 300, "gtol": 1e-3})
    head = torch.from_numpy(found.x).float().view(rank + 1, -1)
    return head[:-1], head[-1]


def _ridge(
    rows: Float32[Tensor, "n rank"], targets: Float32[Tensor, "n classes"], counted: Float32[Tensor, " classes"]
) -> tuple[Float32[Tensor, "rank classes"], Float32[Tensor, " classes"]]:
    """Least squares on ones and zeros with an L2 penalty, in closed form."""
    weights = targets @ counted[:, None]
    middle, mean = (weights * rows).mean(dim=0), (weights * targets).mean(dim=0)
    centred = rows - middle
    products = centred.T @ (weights * centred)
    products.diagonal().add_(RIDGE_PENALTY * len(rows))
    weight = _solve(products, centred.T @ (weights * (targets - mean)))
    return weight, mean - middle @ weight


def _shrunk_lda(
    rows: Float32[Tensor, "n rank"],
    targets: Float32[Tensor, "n classes"],
    counted: Float32[Tensor, " classes"],
    shrinkage: float,
    width: int,
) -> tuple[Float32[Tensor, "rank classes"], Float32[Tensor, " classes"]]:
    """Linear discriminant analysis, the covariance shrunk towards one variance for all `width` numbers.

    Friedman, JASA 84 (1989) 165-175.
    """
    counts, middle = targets.sum(dim=0), rows.mean(dim=0)
    centres = targets.T @ (rows - middle) / counts[:, None]
    within = rows - middle - targets @ centres
    variance = (within.square().sum() / len(rows) / width).clamp_min(1e-12)
    covariance = (1 - shrinkage) / len(rows) * within.T @ within
    covariance.diagonal().add_(shrinkage * variance)
    weight = _solve(covariance, centres.T)
    bias = (counts * counted / len(rows)).log() - (centres.T * weight).sum(dim=0) / 2
    return weight, bias - middle @ weight


def _solve(matrix: Float32[Tensor, "n n"], right: Float32[Tensor, "n m"]) -> Float32[Tensor, "n m"]:
    """Solve a linear system of a positive definite matrix."""
    return torch.cholesky_solve(right, torch.linalg.cholesky(matrix))
