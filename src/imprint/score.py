"""Score: how well predictions fit labels, and how far the figure can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64
from numpy import ndarray

from imprint.metrics import (
    brier_loss,
    calibration_error,
    class_scores,
    confusion,
    log_loss,
    top_k_score,
    wilson_interval,
)


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
        See `metrics.log_loss`.
    calibration_error : float
        See `metrics.calibration_error`.
    brier : float
        See `metrics.brier_loss`.
    macro : dict
        Means of ``precision``, ``recall`` and ``f1`` over the classes that have pictures, each counting alike.
    per_class : dict
        For each class name ``precision``, ``recall``, ``f1`` and ``images``; see `metrics.class_scores`.
    top_5 : float or None
        Share of pictures whose true class is among the five likeliest; None for ten classes or fewer.
    confusion : list of list of int
        See `metrics.confusion`.
    classes : tuple of str
        Names of the rows and columns of `confusion`.
    unsure : dict
        ``share`` of pictures flagged unsure and ``accuracy_when_sure`` on the rest (None if none is left).

    Examples
    --------
    >>> from imprint.score import score
    >>> print(score(np.eye(2, dtype=np.float32), np.array([0, 1]), ("a", "b"), np.array([False, False])))
    1.0000 (95 % interval 0.3424 to 1.0000; 2 images; always the commonest class: 0.5000)
    """

    images: int
    accuracy: float
    interval: tuple[float, float]
    baseline: float
    log_loss: float
    calibration_error: float
    brier: float
    macro: dict[str, float]
    per_class: dict[str, dict[str, float]]
    top_5: float | None
    confusion: list[list[int]]
    classes: tuple[str, ...]
    unsure: dict[str, float | None]

    def __str__(self) -> str:
        low, high = self.interval
        images = f"{self.images:,} image{'' if self.images == 1 else 's'}"
        return (
            f"{self.accuracy:.4f} (95 % interval {low:.4f} to {high:.4f}; {images}; "
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
        >>> from imprint.score import score
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
    confused = confusion(labels, predicted, len(classes))
    by_class = class_scores(confused)
    shown = [one for one in by_class if one["images"]]
    return Score(
        images=len(labels),
        accuracy=float(correct.mean()),
        interval=wilson_interval(int(correct.sum()), len(labels)),
        baseline=float(np.bincount(labels).max() / len(labels)),
        log_loss=log_loss(probabilities, labels),
        calibration_error=calibration_error(confidence, correct),
        brier=brier_loss(probabilities, labels),
        macro={key: float(np.mean([one[key] for one in shown])) for key in ("precision", "recall", "f1")},
        per_class=dict(zip(classes, by_class, strict=True)),
        top_5=top_k_score(probabilities, labels, 5) if len(classes) > 10 else None,
        confusion=confused.tolist(),
        classes=classes,
        unsure={
            "share": float(unsure.mean()),
            "accuracy_when_sure": float(correct[sure].mean()) if sure.any() else None,
        },
    )
