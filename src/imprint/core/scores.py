"""Score: how well predictions fit labels, and how far the figure can be trusted."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int64, Shaped
from numpy import ndarray

from imprint.core.errors import DataError
from imprint.core.files import written_whole
from imprint.core.metrics import (
    Z_95,
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
        Number of images scored.
    accuracy : float
        Share of them predicted rightly.
    interval : tuple of float
        95 % Wilson interval of the accuracy.
    baseline : float
        Accuracy of always naming the commonest class of these images.
    log_loss : float
        See `metrics.log_loss`.
    calibration_error : float
        See `metrics.calibration_error`.
    brier : float
        See `metrics.brier_loss`.
    macro : dict
        Means of ``precision``, ``recall`` and ``f1`` over the classes that have images, each counting alike.
    per_class : dict
        For each class name ``precision``, ``recall``, ``f1`` and ``images``; see `metrics.class_scores`.
    top_5 : float or None
        Share of images whose true class is among the five likeliest; None for ten classes or fewer.
    confusion : list of list of int
        See `metrics.confusion`.
    classes : tuple of str
        Names of the rows and columns of `confusion`.
    unsure : dict
        ``share`` of images flagged unsure and ``accuracy_when_sure`` on the rest (None if none is left).

    Examples
    --------
    >>> from imprint.core.scores import score
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
        >>> from imprint.core.scores import score
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


@dataclass(frozen=True)
class AccuracyEstimate:
    """What a model will score on new images.

    Parameters
    ----------
    accuracy : float
        Its accuracy on the images held out.
    interval : tuple of float
        Holds, in 95 of 100 runs, the share that this very model would name rightly of endlessly many new
        images from the same source. A score on `m` new images scatters around that share by chance, and another
        seed makes another model.
    images : int
        Number of images held out.
    effective : float
        How many unrelated images they are worth; fewer than `images` where groups err together.
    tries : int
        Among how many epochs these images chose the model; 1 where they did not choose.

    Examples
    --------
    >>> print(estimate_accuracy(np.arange(1000) >= 5))
    expect 0.9950 on new images like these, from 0.9883 to 0.9979 (95 % interval, from 1,000 images held out)
    """

    accuracy: float
    interval: tuple[float, float]
    images: int
    effective: float
    tries: int

    def __str__(self) -> str:
        low, high = self.interval
        because = f"95 % interval, from {self.images:,} image{'' if self.images == 1 else 's'} held out"
        if round(self.effective) < self.images:
            because += f", worth {self.effective:,.0f} unrelated ones since groups err together"
        if self.tries > 1:
            because += f"; widened, since they chose the best of {self.tries} epochs: rather less than more"
        return f"expect {self.accuracy:.4f} on new images like these, from {low:.4f} to {high:.4f} ({because})"

    def facts(self) -> dict[str, Any]:
        """Give what `train --json` tells of it.

        Returns
        -------
        dict
            `accuracy` and `interval`.

        Examples
        --------
        >>> sorted(estimate_accuracy(np.array([True, False])).facts())
        ['accuracy', 'interval']
        """
        return {"accuracy": self.accuracy, "interval": list(self.interval)}


def estimate_accuracy(
    correct: Bool[ndarray, " n"], groups: Shaped[ndarray, " n"] | None = None, tries: int = 1
) -> AccuracyEstimate:
    """Tell what accuracy to expect on new images from those held out.

    Wilson's interval, with two corrections. Images of one group, such as photos of one person, tend to be right
    or wrong together, so that they count as fewer: their number is divided by the design effect, the variance
    between groups against that of unrelated images. Where the same images chose the best of several
    epochs, each epoch's interval gets its share of the 5 % (Bonferroni), so that all of them hold at once.

    Parameters
    ----------
    correct : ndarray of bool, shape (n,)
        Whether each image held out was named rightly.
    groups : ndarray, shape (n,), or None, default=None
        Images with the same value belong together.
    tries : int, default=1
        Among how many epochs these images chose.

    Returns
    -------
    AccuracyEstimate
        Accuracy and interval.

    References
    ----------
    Wilson, JASA 22 (1927) 209-212; Kish, "Survey sampling", 1965, for the design effect; Korn and
    Graubard, Survey Methodology 24 (1998) 193-201, for Student's t where groups are few.

    Examples
    --------
    >>> right = np.repeat([True, True, True, False], 25)
    >>> alone = estimate_accuracy(right)
    >>> together = estimate_accuracy(right, groups=np.repeat(np.arange(4), 25))
    >>> alone.effective, together.effective  # and that of four only roughly known
    (100.0, 1.5...)
    """
    accuracy = float(correct.mean())
    effective = float(len(correct)) if groups is None else _effective_number(correct, groups)
    z = NormalDist().inv_cdf(1 - 0.025 / tries)
    interval = wilson_interval(accuracy * effective, effective, z)
    return AccuracyEstimate(accuracy, interval, len(correct), effective, tries)


def _students_point(freedom: int) -> float:
    """Give the 97.5 % point of Student's t: a variance estimated from few groups is itself uncertain."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))


def _effective_number(correct: Bool[ndarray, " n"], groups: Shaped[ndarray, " n"]) -> float:
    """Tell how many unrelated images groups are worth, never fewer than if each group were one image."""
    _, number = np.unique(groups, return_inverse=True)
    sizes = np.bincount(number).astype(float)
    n, accuracy = len(correct), correct.mean()
    fewest = float(n**2 / (sizes**2).sum())
    if accuracy in (0, 1) or len(sizes) == 1:
        return fewest  # nothing shows whether they err together
    surplus = np.bincount(number, weights=correct - accuracy)
    variance = len(sizes) / (len(sizes) - 1) * (surplus**2).sum() / n**2
    return float(
        np.clip(accuracy * (1 - accuracy) / variance, fewest, n) * (Z_95 / _students_point(len(sizes) - 1)) ** 2
    )


COLUMNS = ("label", "prediction", "confidence", "label_probability", "unsure")


@dataclass(frozen=True, eq=False)
class LabelledPredictions:
    """What a model said of labelled images.

    Parameters
    ----------
    places : ndarray of int64, shape (n,)
        Position of each image in its data, the first being 0.
    sources : ndarray, shape (n,)
        Where each image came from, as in `LabelledImages`.
    labels : ndarray of int64, shape (n,)
        True classes, as positions in `class_names`.
    predicted : ndarray of int64, shape (n,)
        The likeliest classes.
    confidence : ndarray of float32, shape (n,)
        Their probabilities.
    label_probability : ndarray of float32, shape (n,)
        The probabilities of the true classes.
    unsure : ndarray of bool, shape (n,)
        Which predictions were flagged.
    class_names : tuple of str
        The model's classes.

    Examples
    --------
    >>> two, unsure = np.array([[0.9, 0.1], [0.4, 0.6]], dtype=np.float32), np.array([False, True])
    >>> label_predictions(two, np.array([0, 0]), ("cat", "dog"), unsure).correct.tolist()
    [True, False]
    """

    places: Int64[ndarray, " n"]
    sources: Shaped[ndarray, " n"]
    labels: Int64[ndarray, " n"]
    predicted: Int64[ndarray, " n"]
    confidence: Float32[ndarray, " n"]
    label_probability: Float32[ndarray, " n"]
    unsure: Bool[ndarray, " n"]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def correct(self) -> Bool[ndarray, " n"]:
        """Whether each prediction is the label."""
        return np.asarray(self.labels == self.predicted)

    def confusion(self) -> Int64[ndarray, "k k"]:
        """Count images by true class (row) and predicted class (column).

        Returns
        -------
        ndarray of int64, shape (classes, classes)
            Counts.

        Examples
        --------
        >>> two, unsure = np.array([[0.9, 0.1], [0.4, 0.6]], dtype=np.float32), np.array([False, True])
        >>> label_predictions(two, np.array([0, 0]), ("cat", "dog"), unsure).confusion().tolist()
        [[1, 1], [0, 0]]
        """
        return confusion(self.labels, self.predicted, len(self.class_names))

    def worst(self) -> Int64[ndarray, " mistakes"]:
        """List the mistakes, those of which the model was surest first.

        Returns
        -------
        ndarray of int64, shape (mistakes,)
            Positions.

        Examples
        --------
        >>> two, unsure = np.array([[0.9, 0.1], [0.4, 0.6]], dtype=np.float32), np.array([False, True])
        >>> label_predictions(two, np.array([1, 0]), ("cat", "dog"), unsure).worst()
        array([0, 1])
        """
        mistakes = np.flatnonzero(~self.correct)
        order = np.lexsort((-self.confidence[mistakes], self.label_probability[mistakes]))
        return np.asarray(mistakes[order])

    def write_csv(self, path: Path) -> None:
        r"""Write one row an image: where it stands, label, prediction, and how probable each was.

        Parameters
        ----------
        path : Path
            The file; it appears once it is whole.

        Raises
        ------
        UsageError
            When the file cannot be written.

        Examples
        --------
        >>> import tempfile
        >>> one, path = np.array([[0.9, 0.1]], dtype=np.float32), Path(tempfile.mkdtemp()) / "validation.csv"
        >>> label_predictions(one, np.array([1]), ("cat", "dog"), np.array([False]), np.array([5])).write_csv(path)
        >>> path.read_text()
        'place,row,label,prediction,confidence,label_probability,unsure\n1,5,dog,cat,0.9,0.1,no\n'
        """
        names = self.class_names
        with (
            written_whole(path) as temporary,
            open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as file,
        ):
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["place", "row" if self.sources.dtype.kind == "i" else "source", *COLUMNS])
            for place, source, label, predicted, confidence, probability, unsure in zip(
                self.places.tolist(),
                self.sources.tolist(),
                self.labels,
                self.predicted,
                self.confidence,
                self.label_probability,
                self.unsure,
                strict=True,
            ):
                shown = f"{confidence:.6g}", f"{probability:.6g}", "yes" if unsure else "no"
                writer.writerow([place + 1, source, names[label], names[predicted], *shown])


def label_predictions(
    probabilities: Float32[ndarray, "n classes"],
    labels: Int64[ndarray, " n"],
    classes: tuple[str, ...],
    unsure: ndarray,
    sources: Shaped[ndarray, " n"] | None = None,
    places: Int64[ndarray, " n"] | None = None,
) -> LabelledPredictions:
    """Put what a model said beside the labels.

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
    sources : ndarray, shape (n,), or None, default=None
        Where each image came from; None counts them from 1.
    places : ndarray of int64, shape (n,), or None, default=None
        Position of each image in its data; None where these are all of it.

    Returns
    -------
    LabelledPredictions
        One for each image.

    Examples
    --------
    >>> one = np.array([[0.9, 0.1]], dtype=np.float32)
    >>> label_predictions(one, np.array([1]), ("cat", "dog"), np.array([False])).label_probability
    array([0.1], dtype=float32)
    """
    count = len(labels)
    return LabelledPredictions(
        np.arange(count) if places is None else places,
        np.arange(1, count + 1) if sources is None else sources,
        labels,
        np.asarray(probabilities.argmax(axis=1)),
        np.asarray(probabilities.max(axis=1)),
        probabilities[np.arange(count), labels],
        unsure,
        classes,
    )


def read_labelled_predictions(path: Path, class_names: tuple[str, ...]) -> LabelledPredictions:
    """Read what `LabelledPredictions.write_csv` wrote.

    Parameters
    ----------
    path : Path
        The file.
    class_names : tuple of str
        The model's classes.

    Returns
    -------
    LabelledPredictions
        As they were written, probabilities to six digits.

    Raises
    ------
    DataError
        When the file is not one that a run wrote with these classes.

    Examples
    --------
    >>> read_labelled_predictions(Path("pyproject.toml"), ("cat", "dog"))
    Traceback (most recent call last):
    imprint.core.errors.DataError: pyproject.toml at .: it is no list of answers (...
    """
    position = {name: i for i, name in enumerate(class_names)}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file)) or [[]]
        if header[:1] + header[2:] != ["place", *COLUMNS] or not rows:
            raise ValueError("its columns are others, or it is empty")
        if {len(row) for row in rows} != {len(header)}:
            raise ValueError("a row has more or fewer cells than the header")
        places, sources, labels, predicted, confidence, probability, unsure = zip(*rows, strict=True)
        shares = np.array([confidence, probability], dtype=np.float32)
        if not ((shares >= 0) & (shares <= 1)).all():
            raise ValueError("a probability lies outside 0 to 1")
        return LabelledPredictions(
            np.array(places, dtype=np.int64) - 1,
            np.array([int(row) for row in sources] if header[1] == "row" else sources),
            np.array([position[name] for name in labels], dtype=np.int64),
            np.array([position[name] for name in predicted], dtype=np.int64),
            np.array(confidence, dtype=np.float32),
            np.array(probability, dtype=np.float32),
            np.array(unsure) == "yes",
            class_names,
        )
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise DataError(
            path.name, str(path.parent), f"it is no list of answers ({error})", "Use a run folder as train left it."
        ) from None
