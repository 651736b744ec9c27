"""Metrics as pure functions: a name in `_score` rises when predictions get better, one in `_loss` or `_error` falls."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from numpy import ndarray

Z_95 = 1.959963984540054  # the normal distribution's 97.5 % point
SMALLEST = 1e-30  # probability that still has a logarithm
PRIOR_IMAGES = 10  # weight of the model's own confidence in calibration (docs/log/confidence.md, "A score to trust")


def wilson_interval(hits: float | int, count: float | int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a proportion, JASA 22 (1927) 209-212.

    Neither count need be whole: with correlated images, each counts for less than one.
    """
    share = hits / count
    centre = share + z**2 / (2 * count)
    margin = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    scale = 1 + z**2 / count
    return max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale)


def log_loss(probabilities: Float32[ndarray, "n classes"], labels: Int64[ndarray, " n"]) -> float:
    """Mean of -log of the true class's probability, in nats; probabilities are clipped at float32's epsilon."""
    true = np.take_along_axis(probabilities, labels[:, None], axis=1)
    return float(0.0 - np.log(np.maximum(true, np.finfo(np.float32).eps), dtype=np.float64).mean())  # never -0.0


def brier_loss(probabilities: Float32[ndarray, "n classes"], labels: Int64[ndarray, " n"]) -> float:
    """Mean squared distance of the probabilities from the truth, summed over classes, from 0 to 2.

    The multi-class form of Brier, Monthly Weather Review 78 (1950) 1-3.
    """
    return float(brier_losses(probabilities, labels).mean())


def brier_losses(probabilities: Float32[ndarray, "n classes"], labels: Int64[ndarray, " n"]) -> Float64[ndarray, " n"]:
    """Give each image's term of `brier_loss`."""
    true = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0].astype(np.float64)
    squares = np.square(probabilities, dtype=np.float64).sum(axis=1)
    return np.asarray(squares - 2 * true + 1)


def top_k_score(probabilities: Float32[ndarray, "n classes"], labels: Int64[ndarray, " n"], k: int) -> float:
    """Share of images whose true class is among the k most probable; ties go to the first class."""
    return float(in_top_k(probabilities, labels, k).mean())


def in_top_k(probabilities: Float32[ndarray, "n classes"], labels: Int64[ndarray, " n"], k: int) -> Bool[ndarray, " n"]:
    """Mark the images that `top_k_score` counts."""
    top = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return np.asarray((top == labels[:, None]).any(axis=1))


def calibration_error(confidence: Float32[ndarray, " n"], correct: ndarray, bins: int = 15) -> float:
    """Compute the expected calibration error, with equal bins of confidence: Guo et al., arXiv:1706.04599.

    Sum over bins of ``share of images · |accuracy - mean confidence|``: from 0 (calibrated) to 1.
    """
    bin_of = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(bin_of, weights=correct - confidence.astype(np.float64), minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def fit_temperature(probabilities: Float32[ndarray, "n classes"], labels: Int64[ndarray, " n"]) -> float:
    """Find the temperature, from 0.1 to 10, with the least log loss; above 1 where the model was overconfident.

    As Guo et al., arXiv:1706.04599, but with PRIOR_IMAGES more images whose labels are as likely as the model says
    (after Platt 1999): they draw the temperature towards 1, so that a few images, faultless or not, change little.
    """
    logits = _logits(probabilities)
    prior = (probabilities * logits).sum(axis=1).mean()
    true = np.take_along_axis(logits, labels[:, None], axis=1).sum() + PRIOR_IMAGES * prior
    low, high = 0.1, 10.0
    # The loss is convex in the inverse temperature, so the sign of its slope says which half of the range to keep.
    for _ in range(30):
        middle = (low * high) ** 0.5
        expected = (_softmax(logits / middle) * logits).sum(axis=1)
        overconfident = expected.sum() + PRIOR_IMAGES * expected.mean() > true
        low, high = (middle, high) if overconfident else (low, middle)
    return float((low * high) ** 0.5)


def tempered(probabilities: Float32[ndarray, "n classes"], temperature: float) -> Float32[ndarray, "n classes"]:
    """Divide the logits of these probabilities by a temperature, which never changes the largest."""
    return _softmax(_logits(probabilities) / temperature).astype(np.float32)


def _logits(probabilities: Float32[ndarray, "n classes"]) -> Float64[ndarray, "n classes"]:
    return np.asarray(np.log(np.maximum(probabilities, SMALLEST), dtype=np.float64))


def _softmax(logits: Float64[ndarray, "n classes"]) -> Float64[ndarray, "n classes"]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def confusion(labels: Int64[ndarray, " n"], predicted: Int64[ndarray, " n"], classes: int) -> Int64[ndarray, "k k"]:
    """Count images by true class (row) and predicted class (column)."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes).astype(np.int64)


def class_scores(confused: Int64[ndarray, "k k"]) -> list[dict[str, float]]:
    """Score each class of a confusion matrix: `precision`, `recall`, `f1` and the number of `images`.

    A score is 0 where its denominator is.
    """
    hits, named, images = confused.diagonal(), confused.sum(axis=0), confused.sum(axis=1)
    return [
        {
            "precision": float(hit / max(1, of_named)),
            "recall": float(hit / max(1, of_images)),
            "f1": float(2 * hit / max(1, of_named + of_images)),
            "images": int(of_images),
        }
        for hit, of_named, of_images in zip(hits, named, images, strict=True)
    ]


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact p-value that two classifiers err equally often, from the images that only one of them predicted correctly.

    McNemar, Psychometrika 12 (1947) 153-157, whose exact form is a two-sided sign test.
    """
    from scipy.stats import binomtest  # takes 0.3 s to import

    differing = only_first + only_second
    return float(binomtest(only_first, differing).pvalue) if differing else 1.0


def difference_interval(only_first: int, only_second: int, count: int) -> tuple[float, float]:
    """95 % interval of the first classifier's accuracy minus the second's, on the same `count` images.

    Wald's interval with half an image added to each cell: Agresti and Min, Statistics in Medicine 24 (2005) 729-740.
    """
    first, second, whole = only_first + 0.5, only_second + 0.5, count + 2
    difference = (first - second) / whole
    margin = Z_95 * math.sqrt(first + second - (first - second) ** 2 / whole) / whole
    return max(-1.0, difference - margin), min(1.0, difference + margin)


def class_weights(labels: Int64[ndarray, " n"], classes: int, balance: float) -> Float64[ndarray, " classes"]:
    """Weigh classes by their number of images to the power of -`balance`, with a mean of 1 over all images."""
    counts = np.bincount(labels, minlength=classes).clip(1)
    weights = counts.astype(float) ** -balance
    return np.asarray(weights * (len(labels) / weights[labels].sum()))


def percent(share: float, count: int = 0) -> str:
    """Write a share as a percentage, with two decimals where it was measured on 1,000 images or more."""
    text = f"{share * 100:.{2 if count >= 1000 else 1}f}"
    if text.startswith("100") and share < 1:
        text = "99.99"  # no rounding makes a mistake vanish
    return f"{text}\u00a0%"
