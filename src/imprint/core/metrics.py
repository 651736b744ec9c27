"""Pure scores: a name in `_score` rises when predictions get better, one in `_loss` or `_error` falls."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float32, Float64, Int64
from numpy import ndarray

Z_95 = 1.959963984540054  # the normal distribution's 97.5 % point
SMALLEST = 1e-30  # probability that still has a logarithm
BELIEVED = 10  # images' worth of trust in the confidence that a model came with (docs/LOG.md, "A score to trust")


def wilson_interval(hits: float | int, count: float | int, z: float = Z_95) -> tuple[float, float]:
    """Bound a share, by Wilson's score interval.

    Parameters
    ----------
    hits : float
        How many succeeded; no whole number where images count for less than one each.
    count : float
        Out of how many, at least 1.
    z : float, default=1.96
        The normal distribution's point for the confidence wanted; the default gives 95 %.

    Returns
    -------
    tuple of float
        Lower and upper bound, from 0 to 1.

    References
    ----------
    Wilson, JASA 22 (1927) 209-212.

    Examples
    --------
    >>> low, high = wilson_interval(98, 100)
    >>> round(low, 4), round(high, 4)
    (0.93, 0.9945)
    """
    share = hits / count
    centre = share + z**2 / (2 * count)
    margin = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    scale = 1 + z**2 / count
    return max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale)


def log_loss(probabilities: Float32[ndarray, "n classes"], labels: Int64[ndarray, " n"]) -> float:
    """Mean of minus the logarithm of the true class's probability; 0 is perfect.

    Parameters
    ----------
    probabilities : ndarray of float32, shape (n, classes)
        Rows that sum to 1.
    labels : ndarray of int64, shape (n,)
        True classes, as columns of `probabilities`.

    Returns
    -------
    float
        In nats; probabilities count as at least float32's smallest step above 0.

    Examples
    --------
    >>> round(log_loss(np.array([[0.5, 0.5]], dtype=np.float32), np.array([0])), 4)
    0.6931
    """
    true = np.take_along_axis(probabilities, labels[:, None], axis=1)
    return float(-np.log(np.maximum(true, np.finfo(np.float32).eps), dtype=np.float64).mean())


def brier_loss(probabilities: Float32[ndarray, "n classes"], labels: Int64[ndarray, " n"]) -> float:
    """Mean squared distance of the probabilities from the truth, summed over classes; 0 is perfect, 2 the worst.

    Parameters
    ----------
    probabilities : ndarray of float32, shape (n, classes)
        Rows that sum to 1.
    labels : ndarray of int64, shape (n,)
        True classes, as columns of `probabilities`.

    Returns
    -------
    float
        From 0 to 2.

    References
    ----------
    Brier, Monthly Weather Review 78 (1950) 1-3, whose form for several classes this is.

    Examples
    --------
    >>> brier_loss(np.array([[0.5, 0.5]], dtype=np.float32), np.array([0]))
    0.5
    """
    true = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0].astype(np.float64)
    squares = np.square(probabilities, dtype=np.float64).sum(axis=1)
    return float((squares - 2 * true + 1).mean())


def top_k_score(probabilities: Float32[ndarray, "n classes"], labels: Int64[ndarray, " n"], k: int) -> float:
    """Share of images whose true class is among the k likeliest.

    Parameters
    ----------
    probabilities : ndarray of float32, shape (n, classes)
        Rows that sum to 1.
    labels : ndarray of int64, shape (n,)
        True classes, as columns of `probabilities`.
    k : int
        At least 1.

    Returns
    -------
    float
        From 0 to 1. Of classes with the same probability, the first counts as the likelier.

    Examples
    --------
    >>> top_k_score(np.array([[0.5, 0.3, 0.2]], dtype=np.float32), np.array([1]), k=2)
    1.0
    """
    likeliest = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return float((likeliest == labels[:, None]).any(axis=1).mean())


def calibration_error(confidence: Float32[ndarray, " n"], correct: ndarray, bins: int = 15) -> float:
    """Measure how far confidence lies from accuracy on average (expected calibration error).

    Sum over equal bins of confidence of ``share of images · |accuracy - mean confidence|``.

    Parameters
    ----------
    confidence : ndarray of float32, shape (n,)
        Probability of the predicted class.
    correct : ndarray of bool, shape (n,)
        Whether the prediction was right.
    bins : int, default=15
        Number of equal bins from 0 to 1.

    Returns
    -------
    float
        From 0 (calibrated) to 1.

    References
    ----------
    Guo et al., "On calibration of modern neural networks", arXiv:1706.04599.

    Examples
    --------
    >>> round(calibration_error(np.array([0.9, 0.9], dtype=np.float32), np.array([True, False])), 4)
    0.4
    """
    bin_of = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(bin_of, weights=correct - confidence.astype(np.float64), minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def fit_temperature(probabilities: Float32[ndarray, "n classes"], labels: Int64[ndarray, " n"]) -> float:
    """Find the temperature at which a model's confidence fits its accuracy best.

    Dividing logits by it changes no answer. It minimises the log loss, with ten more images
    counted whose labels are as likely as the model says. These draw the temperature towards 1, so that
    a few images, faultless or not, change little.

    Parameters
    ----------
    probabilities : ndarray of float32, shape (n, classes)
        Softmax of the logits, rows that sum to 1.
    labels : ndarray of int64, shape (n,)
        True classes, as columns of `probabilities`.

    Returns
    -------
    float
        From 0.1 to 10: below 1 where the model was too modest, above where it was too sure.

    References
    ----------
    Guo et al., "On calibration of modern neural networks", arXiv:1706.04599; Platt,
    "Probabilistic outputs for support vector machines", 1999, for images added.

    Examples
    --------
    >>> boastful = np.tile(np.array([[0.99, 0.01]], dtype=np.float32), (100, 1))
    >>> fit_temperature(boastful, np.repeat([0, 1], [80, 20])) > 3
    True
    """
    logits = _logits(probabilities)
    believed = (probabilities * logits).sum(axis=1).mean()
    true = np.take_along_axis(logits, labels[:, None], axis=1).sum() + BELIEVED * believed
    low, high = 0.1, 10.0
    # The loss is convex in the temperature's inverse: halve the range by its slope.
    for _ in range(30):
        middle = (low * high) ** 0.5
        expected = (_softmax(logits / middle) * logits).sum(axis=1)
        too_sure = expected.sum() + BELIEVED * expected.mean() > true
        low, high = (middle, high) if too_sure else (low, middle)
    return float((low * high) ** 0.5)


def tempered(probabilities: Float32[ndarray, "n classes"], temperature: float) -> Float32[ndarray, "n classes"]:
    """Make probabilities more modest, or surer, without changing which is the largest.

    Parameters
    ----------
    probabilities : ndarray of float32, shape (n, classes)
        Rows that sum to 1.
    temperature : float
        What their logits are divided by, from `fit_temperature`.

    Returns
    -------
    ndarray of float32, shape (n, classes)
        Rows that sum to 1.

    Examples
    --------
    >>> sharpened = tempered(np.array([[0.8, 0.2]], dtype=np.float32), temperature=0.5)
    >>> [round(probability, 4) for probability in sharpened[0].tolist()]  # 16 to 1
    [0.9412, 0.0588]
    """
    return _softmax(_logits(probabilities) / temperature).astype(np.float32)


def _logits(probabilities: Float32[ndarray, "n classes"]) -> Float64[ndarray, "n classes"]:
    return np.asarray(np.log(np.maximum(probabilities, SMALLEST), dtype=np.float64))


def _softmax(logits: Float64[ndarray, "n classes"]) -> Float64[ndarray, "n classes"]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def confusion(labels: Int64[ndarray, " n"], predicted: Int64[ndarray, " n"], classes: int) -> Int64[ndarray, "k k"]:
    """Count images by true class (row) and predicted class (column).

    Parameters
    ----------
    labels, predicted : ndarray of int64, shape (n,)
        True and predicted classes.
    classes : int
        Number of classes.

    Returns
    -------
    ndarray of int64, shape (classes, classes)
        Counts.

    Examples
    --------
    >>> confusion(np.array([0, 1]), np.array([1, 1]), 2).tolist()
    [[0, 1], [0, 1]]
    """
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes).astype(np.int64)


def class_scores(confused: Int64[ndarray, "k k"]) -> list[dict[str, float]]:
    """Score each class by itself.

    Parameters
    ----------
    confused : ndarray of int64, shape (classes, classes)
        From `confusion`.

    Returns
    -------
    list of dict
        For each class ``precision`` (share of images named so that are), ``recall`` (share of
        its images named so), ``f1`` (their harmonic mean) and ``images``. 0 where there is nothing to count.

    Examples
    --------
    >>> class_scores(np.array([[3, 1], [0, 4]]))[0]
    {'precision': 1.0, 'recall': 0.75, 'f1': 0.8571428571428571, 'images': 4}
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
    """Test whether two classifiers err equally often on the same images, exactly.

    Parameters
    ----------
    only_first : int
        Images that only the first named rightly.
    only_second : int
        Images that only the second named rightly.

    Returns
    -------
    float
        Chance of a split at least as uneven where both are equally good; 1 where they never differ.

    References
    ----------
    McNemar, Psychometrika 12 (1947) 153-157; the exact form is a sign test.

    Examples
    --------
    >>> mcnemar(0, 5)  # five times the same side of a coin, either side
    0.0625
    """
    from scipy.stats import binomtest  # takes 0.3 s to import

    differing = only_first + only_second
    return float(binomtest(only_first, differing).pvalue) if differing else 1.0


def difference_interval(only_first: int, only_second: int, count: int) -> tuple[float, float]:
    """Bound with 95 % confidence by how much the first classifier's accuracy exceeds the second's.

    Parameters
    ----------
    only_first : int
        Images that only the first named rightly.
    only_second : int
        Images that only the second named rightly.
    count : int
        All images that both were given.

    Returns
    -------
    tuple of float
        Lower and upper bound, from -1 to 1.

    References
    ----------
    Agresti and Min, "Simple improved confidence intervals for comparing matched proportions",
    Statistics in Medicine 24 (2005) 729-740: Wald's interval with half an image added to each cell.

    Examples
    --------
    >>> low, high = difference_interval(30, 10, 1000)
    >>> round(low, 4), round(high, 4)
    (0.0075, 0.0324)
    """
    first, second, whole = only_first + 0.5, only_second + 0.5, count + 2
    difference = (first - second) / whole
    margin = Z_95 * math.sqrt(first + second - (first - second) ** 2 / whole) / whole
    return max(-1.0, difference - margin), min(1.0, difference + margin)
