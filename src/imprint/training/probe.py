"""Linear probing: features of a pretrained network, the linear head fitted to them, and cross-validated predictions."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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
from imprint.models.inference import head_inputs
from imprint.models.ood import fit_mahalanobis, levelled
from imprint.preprocessing.input_spec import InputSpec, cpu_batch_size
from imprint.training.plan import Plan

MIN_CACHED = 8  # images; the features of fewer are computed at once
FEATURES_VERSION = 2  # raise it when the same network gives other features
# Of an L2 penalty, for features that are scaled to a length of about 1: best or near it on every collection tried
# (docs/log/photos.md), as are the shrinkage and the ridge.
REGRESSION_PENALTY, RIDGE_PENALTY, SHRINKAGES = 8e-5, 1e-3, (0.5, 0.8)
NO_IMAGE = -30.0  # logit of a class that has none
# By how much logits are too small or too large, so that temperatures come to about 1: those of ridge, which aims at 0
# and 1, always; those of LDA by how few images there are to each number of the features (docs/log/photos.md).
RIDGE_SCALE, LDA_SCALE = 10.0, (4.0, 2.0)
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
        found.features[part] = head_inputs(network, images.pixels, spec, part).numpy()
    if len(images) >= MIN_CACHED and not found.whole:
        try:
            with cache.writing(found.key, found.features.nbytes) as writer:
                writer.add(found.features)
                writer.facts = {
                    "name": f"features of {images.name}",
                    "shape": found.features.shape,
                    "dtype": "float32",
                    "network": found.network,
                    "images": found.prints,
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
        earlier = facts["images"]
        order = np.argsort(earlier)
        places = order[np.searchsorted(earlier, prints, sorter=order).clip(max=len(earlier) - 1)]
        same = missing & (earlier[places] == prints)
        features[same], missing[same] = rows[places[same]], False
    return _FoundFeatures(features, missing, False, key, of_network, prints)


@dataclass(frozen=True, eq=False)
class _Scaled:
    """Features with mean 0, each number scaled by its deviation, turned so that n images need at most n numbers.

    All heads are the same in the turned space, since none has weights outside what the images span. Where they were
    turned, `scaled` has the features before that, and `products` are those of images with each other.
    """

    rows: Float32[Tensor, "n rank"]
    scaled: Float32[Tensor, "n features"] | None
    products: Float64[Tensor, "n n"] | None
    scale: Float32[Tensor, " features"]
    mean: Float32[Tensor, " features"]

    @property
    def width(self) -> int:
        """Give how many numbers an image's features have."""
        return len(self.mean)

    @classmethod
    def of(cls, features: Float32[Tensor, "n features"]) -> _Scaled:
        (count, width), mean = features.shape, features.mean(dim=0)
        scaled = features - mean
        scale = (scaled.square().mean(dim=0).sqrt() + 1e-3) * width**0.5
        scaled /= scale
        if count >= width:
            return cls(scaled, None, None, scale, mean)
        # The rows of the Cholesky factor have the lengths and angles of the images' features.
        exact = scaled.double()
        products = exact @ exact.T
        products.diagonal().add_(products.diagonal().mean() * 1e-9)  # copies of an image make it singular
        return cls(torch.linalg.cholesky(products).float(), scaled, products, scale, mean)

    def head(
        self, weight: Float32[Tensor, "rank classes"], bias: Float32[Tensor, " classes"]
    ) -> tuple[Float32[Tensor, "features classes"], Float32[Tensor, " classes"]]:
        """Express a head on the turned features as one on the features themselves."""
        whole = weight
        if self.scaled is not None:
            whole = self.scaled.T @ torch.linalg.solve_triangular(self.rows.T, weight, upper=True)
        whole = whole / self.scale[:, None]
        return whole, bias - self.mean @ whole


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
    with _one_thread():
        weight, bias = _fit(kind, scaled.rows, labels, classes, scaled.width, balance, scaled.products)
    return (*scaled.head(weight, bias), kind)


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
    widths: Sequence[int],
    labels: Int64[ndarray, " n"],
    groups: Shaped[ndarray, " n"],
    classes: int,
    kind: str,
    seed: int,
    balance: float = 0.0,
) -> CrossValidated:
    """Predict each image by a head that was fitted to the others; groups, and copies, stay together."""
    return predict_folds(features, widths, labels, deal(labels, groups, seed), classes, kind, balance)


def predict_folds(
    features: Float32[Tensor, "n features"],
    widths: Sequence[int],
    labels: Int64[ndarray, " n"],
    fold: Int64[ndarray, " n"],
    classes: int,
    kind: str,
    balance: float = 0.0,
) -> CrossValidated:
    """Predict each fold by a head that was fitted to the others; the features are those of depths of `widths`."""
    scaled, embeddings, folds = _Scaled.of(features), levelled(features, widths), int(fold.max()) + 1
    logits, distances = torch.zeros(len(labels), classes), torch.zeros(len(labels))

    def predict(seen: Int64[ndarray, " m"], unseen: Int64[ndarray, " k"]) -> None:
        products = None if scaled.products is None else _among(scaled.products, seen)
        weight, bias = _fit(kind, scaled.rows[seen], labels[seen], classes, scaled.width, balance, products)
        logits[unseen] = scaled.rows[unseen] @ weight + bias
        score = fit_mahalanobis(embeddings[seen], torch.from_numpy(labels[seen]), classes)
        distances[unseen] = score.distances(embeddings[unseen], logits[unseen].argmax(dim=1))

    _for_each_fold(fold, predict)
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

        def predict(seen: Int64[ndarray, " m"], unseen: Int64[ndarray, " k"]) -> None:
            weight, bias = _fit("regression", scaled.rows[seen], labels[seen], classes, scaled.width, 0.0)
            total[unseen] += (scaled.rows[unseen] @ weight + bias).softmax(dim=1).numpy() / len(deals)

        _for_each_fold(fold, predict)
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


def _for_each_fold(
    fold: Int64[ndarray, " n"], work: Callable[[Int64[ndarray, " seen"], Int64[ndarray, " unseen"]], None]
) -> None:
    """Do some work with the images of all other folds and of each; a thread has a fold of its own."""
    parts = ((np.flatnonzero(fold != number), np.flatnonzero(fold == number)) for number in range(int(fold.max()) + 1))
    threads = torch.get_num_threads()
    with _one_thread(), ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, *part) for part in parts if len(part[0]) and len(part[1])]:
            done.result()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute one head in one thread: so small, two take twice as long."""
    from threadpoolctl import threadpool_limits

    with compute_settings(1), threadpool_limits(1, user_api="blas"):
        yield


def deal(labels: Int64[ndarray, " n"], groups: Shaped[ndarray, " n"], seed: int) -> Int64[ndarray, " n"]:
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
    products = rows.double() @ rows.double().T if scaled.products is None else _among(scaled.products, some)
    kinds = [kind for kinds in _KINDS.values() for kind in kinds]
    logits = torch.full((len(kinds), len(given), classes), NO_IMAGE)

    def compare(seen: Int64[ndarray, " m"], unseen: Int64[ndarray, " k"]) -> None:
        learnt, among = (rows[seen], given[seen], classes, scaled.width, balance), _among(products, seen)
        for place, kind in enumerate(kinds):
            weight, bias = _fit(kind, *learnt, among)
            logits[place, unseen] = rows[unseen] @ weight + bias

    _for_each_fold(fold, compare)
    counted, merits = class_weights(given, classes, balance)[given], {}
    for kind, plain in zip(kinds, logits.softmax(dim=2).numpy(), strict=True):
        loss = log_loss(tempered(plain, fit_temperature(plain, given)), given)
        merits[kind] = (float(((plain.argmax(axis=1) == given) * counted).mean()), -loss)
    return max(merits, key=lambda kind: merits[kind])


_KINDS = {"regression": ("regression",), "lda": tuple(f"lda {value}" for value in SHRINKAGES), "ridge": ("ridge",)}


def _fit(
    kind: str,
    rows: Float32[Tensor, "n rank"],
    labels: Int64[ndarray, " n"],
    classes: int,
    width: int,
    balance: float,
    products: Float64[Tensor, "n n"] | None = None,
) -> tuple[Float32[Tensor, "rank classes"], Float32[Tensor, " classes"]]:
    """Fit one kind of head to the classes that have images; `products` of the rows save time where they are few."""
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
        some_weight, some_bias = _ridge(rows, products, targets, counted)
    else:
        some_weight, some_bias = _shrunk_lda(rows, products, targets, counted, float(kind.split()[1]), width)
    weight[:, present], bias[present] = some_weight, some_bias
    return weight, bias


def _regression(
    rows: Float32[Tensor, "n rank"], targets: Float32[Tensor, "n classes"], counted: Float32[Tensor, " classes"]
) -> tuple[Float32[Tensor, "rank classes"], Float32[Tensor, " classes"]]:
    """Multinomial logistic regression by SciPy's L-BFGS, with scikit-learn's loss and tolerance, in half its time."""
    from scipy.optimize import minimize

    (count, rank), classes = rows.shape, len(counted)
    weights = (targets * counted).T.contiguous()  # an image has its class's weight at its label
    share, penalty = 1 / float(weights.sum()), REGRESSION_PENALTY * count / float(weights.sum())

    def loss_and_gradient(flat: Float64[ndarray, " numbers"]) -> tuple[float, Float64[ndarray, " numbers"]]:
        head = torch.from_numpy(flat).float().view(classes, rank + 1)  # class by class: products take a quarter as long
        weight, bias = head[:, :-1], head[:, -1:]
        logs = torch.addmm(bias, weight, rows.T).log_softmax(dim=0)
        gaps = logs.exp().mul_(weights.sum(dim=0)).sub_(weights).mul_(share)
        loss = penalty / 2 * weight.square().sum() - share * (weights * logs).sum()
        gradient = torch.cat([torch.addmm(weight, gaps, rows, beta=penalty), gaps.sum(dim=1, keepdim=True)], dim=1)
        return float(loss), gradient.double().numpy().ravel()

    start = np.zeros(classes * (rank + 1))
    found = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options={"maxiter": 300, "gtol": 1e-3})
    head = torch.from_numpy(found.x).float().view(classes, rank + 1).T
    return head[:-1], head[-1]


def _ridge(
    rows: Float32[Tensor, "n rank"],
    products: Float64[Tensor, "n n"] | None,
    targets: Float32[Tensor, "n classes"],
    counted: Float32[Tensor, " classes"],
) -> tuple[Float32[Tensor, "rank classes"], Float32[Tensor, " classes"]]:
    """Least squares on ones and zeros with an L2 penalty, in closed form."""
    weights, penalty = targets @ counted, RIDGE_PENALTY * len(rows)
    wanted = torch.cat([targets, torch.ones(len(rows), 1)], dim=1)  # the last column for the bias, without a penalty
    if products is None:
        weighted = weights[:, None] * rows
        fitted = _solve(rows.T @ weighted, penalty, weighted.T @ wanted)
    else:
        fitted = (_solve(products.float(), penalty / weights, wanted).T @ rows).T
    gaps = weights @ (wanted - rows @ fitted)
    bias = gaps[:-1] / gaps[-1]
    return (fitted[:, :-1] - fitted[:, -1:] * bias) * RIDGE_SCALE, bias * RIDGE_SCALE


def _shrunk_lda(
    rows: Float32[Tensor, "n rank"],
    products: Float64[Tensor, "n n"] | None,
    targets: Float32[Tensor, "n classes"],
    counted: Float32[Tensor, " classes"],
    shrinkage: float,
    width: int,
) -> tuple[Float32[Tensor, "rank classes"], Float32[Tensor, " classes"]]:
    """Linear discriminant analysis, the covariance shrunk towards one variance for all `width` numbers.

    Friedman, JASA 84 (1989) 165-175. Logits are divided by what they are too large by.
    """
    counts, middle = targets.sum(dim=0), rows.mean(dim=0)
    means = targets / counts
    centres = means.T @ rows
    within = rows - targets @ centres
    variance = (within.square().sum() / len(rows) / width).clamp_min(1e-12)
    scale, penalty = len(rows) / (1 - shrinkage), shrinkage / (1 - shrinkage) * len(rows) * variance
    if products is None:
        weight = _solve(within.T @ within, penalty, (centres - middle).T) * scale
    else:  # by Woodbury's identity; in float64, for classes that lie far apart
        members, shares = targets.double(), means.double()
        contrasts = shares - 1 / len(rows)
        centred = torch.addmm(products, members, shares.T @ products, alpha=-1)
        scatter = torch.addmm(centred, centred @ shares, members.T, alpha=-1).float()
        along = _solve(scatter, penalty, (centred @ contrasts).float())
        contrasts -= along - targets @ (means.T @ along)
        weight = (contrasts.float().T @ rows).T * (scale / penalty)
    bias = (counts * counted / len(rows)).log() - ((centres + middle).T * weight).sum(dim=0) / 2
    too_large = LDA_SCALE[0] + LDA_SCALE[1] * width / len(rows)
    return weight / too_large, bias / too_large


def _among(products: Float64[Tensor, "n n"], some: Int64[ndarray, " m"]) -> Float64[Tensor, "m m"]:
    """Give the products of some with each other; indexing by NumPy's array takes six times as long."""
    places = torch.from_numpy(some)
    return products.index_select(0, places).index_select(1, places)


def _solve(
    matrix: Float32[Tensor, "n n"], penalty: float | Tensor, right: Float32[Tensor, "n m"]
) -> Float32[Tensor, "n m"]:
    """Solve a linear system of a positive definite matrix, once a penalty has been added to its diagonal."""
    matrix.diagonal().add_(penalty)
    return torch.cholesky_solve(right, torch.linalg.cholesky(matrix))
