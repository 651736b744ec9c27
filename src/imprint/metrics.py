"""Pure scores: a name in `_score` rises when predictions get better, one in `_loss` or `_error` falls."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64
from numpy import ndarray

Z_95 = 1.959963984540054  # the normal distribution's 97.5 % point


def wilson_interval(hits: int, count: int) -> tuple[float, float]:
    """Bound a share with 95 % confidence, by Wilson's score interval.

    Parameters
    ----------
    hits : int
        How many succeeded.
    count : int
        Out of how many, at least 1.

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
    centre = share + Z_95**2 / (2 * count)
    margin = Z_95 * math.sqrt(share * (1 - share) / count + Z_95**2 / (4 * count**2))
    scale = 1 + Z_95**2 / count
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


@dataclass(frozen=True)
class Score:
    """How well predictions fit labels, and how far the figure can be trusted.

    Parameters
    ----------
    images : int
        Number of pictures scored.
    accuracy : float
        Share of them predicted rightly.
    interval : tuple of float
        95 % Wilson interval of the accuracy.
    baseline : float
        Accuracy of always naming the commonest class of these pictures.
    log_loss : float
        See `log_loss`.
    calibration_error : float
        See `calibration_error`.
    confusion : list of list of int
        See `confusion`.
    classes : tuple of str
        Names of the rows and columns of `confusion`.
    unsure : dict
        ``share`` of pictures flagged unsure and ``accuracy_when_sure`` on the rest (None if none is left).

    Examples
    --------
    >>> print(score(np.eye(2, dtype=np.float32), np.array([0, 1]), ("a", "b"), np.array([False, False])))
    1.0000 (95 % interval 0.3424 to 1.0000; 2 images; always the commonest class: 0.5000)
    """

    images: int
    accuracy: float
    interval: tuple[float, float]
    baseline: float
    log_loss: float
    calibration_error: float
    confusion: list[list[int]]
    classes: tuple[str, ...]
    unsure: dict[str, float | None]

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.accuracy:.4f} (95 % interval {low:.4f} to {high:.4f}; {self.images:,} images; "
            f"always the commonest class: {self.baseline:.4f})"
        )

    def facts(self) -> dict[str, Any]:
        """Give the figures that sum a run up, as plain JSON values.

        Returns
        -------
        dict
            `images`, `accuracy`, `interval` and `baseline`.

        Examples
        --------
        >>> sure = np.array([False])
        >>> score(np.ones((1, 1), dtype=np.float32), np.array([0]), ("a",), sure).facts()["images"]
        1
        """
        keys = ("images", "accuracy", "interval", "baseline")
        return {key: getattr(self, key) for key in keys}


def score(
    probabilities: Float32[ndarray, "n classes"],
    labels: Int64[ndarray, " n"],
    classes: tuple[str, ...],
    unsure: ndarray,
) -> Score:
    """Score probabilities against labels.

    Parameters
    ----------
    probabilities : ndarray of float32, shape (n, classes)
        Rows that sum to 1.
    labels : ndarray of int64, shape (n,)
        True classes, as columns of `probabilities`.
    classes : tuple of str
        Names of the columns.
    unsure : ndarray of bool, shape (n,)
        Which predictions are flagged.

    Returns
    -------
    Score
        Every figure of it.

    Examples
    --------
    >>> score(np.eye(2, dtype=np.float32), np.array([0, 0]), ("a", "b"), np.array([False, True])).accuracy
    0.5
    """
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    correct = predicted == labels
    sure = ~unsure
    return Score(
        images=len(labels),
        accuracy=float(correct.mean()),
        interval=wilson_interval(int(correct.sum()), len(labels)),
        baseline=float(np.bincount(labels).max() / len(labels)),
        log_loss=log_loss(probabilities, labels),
        calibration_error=calibration_error(confidence, correct),
        confusion=confusion(labels, predicted, len(classes)).tolist(),
        classes=classes,
        unsure={
            "share": float(unsure.mean()),
            "accuracy_when_sure": float(correct[sure].mean()) if sure.any() else None,
        },
    )
