"""Score: how well predictions fit labels, and how far the figure can be trusted."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, Shaped
from numpy import ndarray

from imprint.core.errors import DataError, brief
from imprint.core.files import written_whole
from imprint.core.html import MOST_CELLS, ORANGE, block, confusion_table, headline, line, table
from imprint.core.metrics import (
    Z_95,
    brier_losses,
    calibration_error,
    class_scores,
    confusion,
    in_top_k,
    log_loss,
    percent,
    wilson_interval,
)
from imprint.core.texts import text_array

FEWEST_TO_TELL = 20  # images, for an accuracy to be claimed
COLUMNS = ("label", "prediction", "confidence", "label_probability", "unsure", "why")  # of validation.csv, after where
EVALUATED = ("source", "label", "prediction", "confidence", "unsure", "cause")  # columns of a table for people
SURE, STRANGE, LOW_CONFIDENCE = "", "strange", "low confidence"  # why a prediction is unsure, or is not


@dataclass(frozen=True)
class Score:
    """How well predictions fit labels, and how far the figure can be trusted.

    Parameters
    ----------
    images : int
        Number of images scored.
    accuracy : float
        Share of them predicted correctly, from 0 to 1.
    interval : tuple of float
        95 % Wilson interval of the accuracy (Wilson, JASA 22 (1927) 209-212); wider in cross-validation, since its
        models share images.
    baseline : float
        Accuracy of always predicting the most frequent class of these images.
    log_loss : float
        Mean of -log of the true class's probability, in nats; 0 is perfect.
    calibration_error : float
        Expected calibration error in 15 bins, from 0 (calibrated) to 1 (Guo et al., arXiv:1706.04599).
    brier : float
        Mean squared distance of the probabilities from the truth, summed over classes, from 0 (perfect) to 2 (Brier,
        Monthly Weather Review 78 (1950) 1-3).
    macro : dict
        Unweighted means of ``precision``, ``recall`` and ``f1`` over the classes that have images.
    per_class : dict
        For each class name ``precision`` (share of the images predicted as this class that are of it), ``recall``
        (share of its images predicted as it), ``f1`` (their harmonic mean) and ``images``; 0 where undefined.
    top_5 : float or None
        Share of images whose true class is among the five most probable; None for ten classes or fewer.
    confusion : list of list of int
        Counts of images by true class (row) and predicted class (column).
    classes : tuple of str
        Names of the rows and columns of `confusion`.
    unsure : dict
        ``share`` of images flagged unsure and ``accuracy_when_sure`` on the rest (None if none is left); of the share
        ``strange`` and ``low_confidence``, which add up to it.
    balanced_accuracy : float
        Unweighted mean of the classes' recall.
    method : {"held-out", "leave-one-out", "cross-validated"}, default="held-out"
        Which images were scored: some that training never saw, or all of them, each by a model that had not seen it.
    notes : tuple of str, default=()
        What else was noticed: images that the model reads much better turned, mirrored or inverted.

    Examples
    --------
    >>> from imprint.core.scores import score
    >>> print(score(np.eye(2, dtype=np.float32), np.array([0, 1]), ("a", "b"), np.array(["", ""])))
    too few to tell: 0.3424 to 1.0000 (95 % interval; 2 of 2 images right; always the commonest class: 0.5000)
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
    balanced_accuracy: float
    method: str = "held-out"
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        low, high = self.interval
        images = f"{self.images:,} image{'' if self.images == 1 else 's'}"
        how = "" if self.method == "held-out" else f", {self.method}"
        if self.images < FEWEST_TO_TELL:
            return (
                f"too few to tell: {low:.4f} to {high:.4f} (95 % interval; {round(self.accuracy * self.images)} of "
                f"{images} right{how}; always the commonest class: {self.baseline:.4f})"
            )
        return (
            f"{self.accuracy:.4f} (95 % interval {low:.4f} to {high:.4f}; {images}{how}; "
            f"always the commonest class: {self.baseline:.4f})"
        )

    def __repr__(self) -> str:
        return brief(self, str(self))

    def _repr_html_(self) -> str:
        parts = [line(note, ORANGE) for note in self.notes]
        if self.images >= FEWEST_TO_TELL and not self.better_than_guessing:
            parts.append(line("no better than guessing: always naming the commonest class scores as well", ORANGE))
        if len(self.classes) <= MOST_CELLS:
            parts.append(confusion_table(self.classes, self.confusion))
        else:
            parts += [line("classes, the hardest first"), self._hardest_table()]
        return block("Accuracy", "", self.headline_html(), line(self._figures()), *parts)

    def headline_html(self) -> str:
        """Show the accuracy with its interval and baseline, as HTML.

        Returns
        -------
        str
            Two lines of a notebook's output.

        Examples
        --------
        >>> from imprint.core.scores import score
        >>> one = score(np.ones((1, 1), dtype=np.float32), np.array([0]), ("a",), np.array([""]))
        >>> "too few to tell" in one.headline_html()
        True
        """
        low, high = self.interval
        right = f"{round(self.accuracy * self.images):,} of {self.images:,} images right, {self.method}"
        shares = (self.accuracy, self.baseline, low, high)
        accuracy, baseline, lowest, highest = (percent(share, self.images) for share in shares)
        terms = f"{lowest} to {highest} (95 % interval; {right}); always the commonest class: {baseline}"
        return headline("too few to tell" if self.images < FEWEST_TO_TELL else accuracy) + line(terms)

    def _figures(self) -> str:
        sure = self.unsure["accuracy_when_sure"]
        rest = "" if sure is None else f", accuracy on the rest {percent(sure, self.images)}"
        losses = f", log loss {self.log_loss:.4f}, calibration error {self.calibration_error:.4f}"
        losses = "" if math.isnan(self.log_loss) else losses
        unsure = f"unsure of {percent(self.unsure['share'] or 0.0, self.images)}{rest}"
        return f"balanced accuracy {percent(self.balanced_accuracy, self.images)}{losses}; {unsure}"

    def _hardest_table(self) -> str:
        met = [(name, one) for name, one in self.per_class.items() if one["images"]]
        hardest = sorted(met, key=lambda item: item[1]["f1"])[:MOST_CELLS]
        keys = ("precision", "recall", "f1")
        rows = [(name, *(f"{one[key]:.4f}" for key in keys), f"{one['images']:,}") for name, one in hardest]
        return table(("class", *keys, "images"), rows)

    @property
    def better_than_guessing(self) -> bool:
        """Whether the accuracy is above that of always predicting the commonest class, by more than chance.

        Returns
        -------
        bool
            True where the whole interval is above the baseline.

        Examples
        --------
        >>> from imprint.core.scores import score
        >>> perfect = np.eye(2, dtype=np.float32)
        >>> score(perfect, np.array([0, 1]), ("a", "b"), np.array([False, False])).better_than_guessing
        False
        """
        return self.interval[0] > self.baseline

    def facts(self) -> dict[str, Any]:
        """Give the figures that sum up a run, as plain JSON values.

        Returns
        -------
        dict
            `images`, `accuracy`, `balanced_accuracy`, `macro_f1`, `interval`, `baseline` and `method`.

        Examples
        --------
        >>> from imprint.core.scores import score
        >>> sure = np.array([""])
        >>> score(np.ones((1, 1), dtype=np.float32), np.array([0]), ("a",), sure).facts()["images"]
        1
        """
        keys = ("images", "accuracy", "balanced_accuracy", "interval", "baseline", "method")
        return {key: getattr(self, key) for key in keys} | {"macro_f1": self.macro["f1"]}

    def write_per_class(self, path: str | Path) -> None:
        """Write the scores of every class as CSV, in the order of `classes`; the file appears once it is whole.

        Its columns are ``class``, ``images``, ``precision``, ``recall``, ``recall_low`` and ``recall_high`` (the 95 %
        Wilson interval of the recall) and ``f1``. What is undefined stays empty: the recall of a class without images,
        and the precision of one that was never predicted.

        Parameters
        ----------
        path : str or Path
            The file; an older one is replaced.

        Raises
        ------
        UsageError
            When the file cannot be written.

        Examples
        --------
        >>> import tempfile
        >>> from imprint.core.scores import score
        >>> path = Path(tempfile.mkdtemp()) / "classes.csv"
        >>> perfect, sure = np.eye(2, dtype=np.float32), np.array(["", ""])
        >>> score(perfect, np.array([0, 1]), ("cat", "dog"), sure).write_per_class(path)
        >>> print(path.read_text().splitlines()[1])
        cat,1,1.0000,1.0000,0.2065,1.0000,1.0000
        """
        counts = np.array(self.confusion, dtype=np.int64)
        rows = [["class", "images", "precision", "recall", "recall_low", "recall_high", "f1"]]
        for name, hits, images, said in zip(
            self.classes, counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0), strict=True
        ):
            low, high = wilson_interval(int(hits), int(images)) if images else (0, 0)
            recall = [f"{share:.4f}" if images else "" for share in (hits / max(images, 1), low, high)]
            precision, f1 = (f"{hits / of:.4f}" if of else "" for of in (said, (said + images) / 2))
            rows.append([name, str(images), precision, *recall, f1])
        _write_rows(rows, Path(path))


@dataclass(frozen=True, eq=False)
class JudgedPredictions:
    """What is kept of predictions to score them: some 90 bytes an image, however many classes there are.

    `brier` is each one's term of the Brier loss; `in_top_5` is only meant for more than ten classes.
    """

    labels: Int64[ndarray, " n"]
    predicted: Int64[ndarray, " n"]
    confidence: Float32[ndarray, " n"]
    label_probability: Float32[ndarray, " n"]
    brier: Float64[ndarray, " n"]
    in_top_5: Bool[ndarray, " n"]
    why: Shaped[ndarray, " n"]

    def labelled(self, classes: tuple[str, ...], sources: Shaped[ndarray, " n"]) -> LabelledPredictions:
        """Give them as predictions of labelled images, which are all of their data."""
        columns = self.labels, self.predicted, self.confidence, self.label_probability, self.why
        return LabelledPredictions(np.arange(len(self.labels)), sources, *columns, classes)


def judge(
    probabilities: Float32[ndarray, "n classes"], labels: Int64[ndarray, " n"], why: Shaped[ndarray, " n"]
) -> JudgedPredictions:
    """Compare probabilities with labels; `why` each is unsure, or ""."""
    several = probabilities.shape[1] > 10
    return JudgedPredictions(
        labels,
        np.asarray(probabilities.argmax(axis=1)),
        np.asarray(probabilities.max(axis=1)),
        probabilities[np.arange(len(labels)), labels],
        brier_losses(probabilities, labels),
        in_top_k(probabilities, labels, 5) if several else np.ones(len(labels), dtype=bool),
        why,
    )


def join_judged(parts: Iterable[JudgedPredictions]) -> JudgedPredictions:
    """Join what was judged part by part."""
    columns = zip(*([getattr(part, one.name) for one in fields(part)] for part in parts), strict=True)
    return JudgedPredictions(*(np.concatenate(column) for column in columns))


def score(
    probabilities: Float32[ndarray, "n classes"],
    labels: Int64[ndarray, " n"],
    classes: tuple[str, ...],
    why: Shaped[ndarray, " n"],
    method: str = "held-out",
    folds: int = 0,
) -> Score:
    """Score probabilities, whose columns are `classes`, against labels; `why` each is unsure, or "".

    With `folds` of cross-validation an image counts for less than one in the interval.
    """
    return score_judged(judge(probabilities, labels, why), classes, method, folds)


def score_judged(
    judged: JudgedPredictions, classes: tuple[str, ...], method: str = "held-out", folds: int = 0
) -> Score:
    """Do as `score`, with predictions that have been judged."""
    labels, count = judged.labels, len(judged.labels)
    correct = judged.predicted == labels
    independent = cross_validated_number(float(count), folds) if folds else count
    confused = confusion(labels, judged.predicted, len(classes))
    by_class = class_scores(confused)
    shown = [one for one in by_class if one["images"]]
    return Score(
        images=count,
        accuracy=float(correct.mean()),
        interval=wilson_interval(float(correct.mean()) * independent, independent),
        baseline=float(np.bincount(labels).max() / count),
        log_loss=log_loss(judged.label_probability[:, None], np.zeros(count, dtype=np.int64)),
        calibration_error=calibration_error(judged.confidence, correct),
        brier=float(judged.brier.mean()),
        macro={key: float(np.mean([one[key] for one in shown])) for key in ("precision", "recall", "f1")},
        per_class=dict(zip(classes, by_class, strict=True)),
        top_5=float(judged.in_top_5.mean()) if len(classes) > 10 else None,
        confusion=confused.tolist(),
        classes=classes,
        unsure=unsure_facts(judged.why, correct),
        balanced_accuracy=float(np.mean([one["recall"] for one in shown])),
        method=method,
    )


def restored_score(labelled: LabelledPredictions, facts: Mapping[str, Any]) -> Score:
    """Rebuild a score from predictions read back, and from `facts` what these do not tell, as `Run.facts` has it.

    What runs of older versions do not tell is nan or None. Raises what malformed facts happen to raise.
    """
    confused = labelled.confusion()
    by_class = class_scores(confused)
    shown = [one for one in by_class if one["images"]]
    low, high = (float(bound) for bound in facts["interval"])
    given = facts.get("top_5")
    return Score(
        images=len(labelled),
        accuracy=float(facts["accuracy"]),
        interval=(low, high),
        baseline=float(facts["baseline"]),
        log_loss=float(facts.get("log_loss", math.nan)),
        calibration_error=float(facts.get("calibration_error", math.nan)),
        brier=float(facts.get("brier", math.nan)),
        macro={key: float(np.mean([one[key] for one in shown])) for key in ("precision", "recall", "f1")},
        per_class=dict(zip(labelled.class_names, by_class, strict=True)),
        top_5=None if given is None else float(given),
        confusion=confused.tolist(),
        classes=labelled.class_names,
        unsure=unsure_facts(labelled.why, labelled.correct),
        balanced_accuracy=float(np.mean([one["recall"] for one in shown])),
        method=str(facts.get("method", "held-out")),
    )


def unsure_facts(why: Shaped[ndarray, " n"], correct: Bool[ndarray, " n"]) -> dict[str, float | None]:
    """Give the shares of predictions that are unsure, in all and for each cause, and the accuracy of the others."""
    sure = why == SURE
    return {
        "share": float((~sure).mean()),
        "accuracy_when_sure": float(correct[sure].mean()) if sure.any() else None,
        "strange": float((why == STRANGE).mean()),
        "low_confidence": float((why == LOW_CONFIDENCE).mean()),
    }


def causes_text(unsure: Mapping[str, float | None]) -> str:
    """Put into words which share of predictions is unsure for which cause, from `unsure_facts`."""
    strange, low = (f"{100 * (unsure[key] or 0):.1f} %" for key in ("strange", "low_confidence"))
    return f"strange {strange}, low confidence {low}"


def cross_validated_number(images: float, folds: int) -> float:
    """Give how many independent images those of a cross-validation are worth, since its training sets overlap.

    Nadeau and Bengio, Machine Learning 52 (2003) 239-281: the variance is larger by a factor of 1 + k / (k - 1).
    """
    return images / (1 + folds / (folds - 1))


@dataclass(frozen=True)
class AccuracyEstimate:
    """Accuracy to expect on new images, from images held out.

    Parameters
    ----------
    accuracy : float
        Of the images held out.
    interval : tuple of float
        In 95 of 100 runs it holds the accuracy of this very model on endlessly many images from the same source.
    images : int
        How many were held out.
    effective : float
        How many independent images those are worth, since images of a group err together.
    tries : int
        How many epochs they chose the best of.
    method : {"held-out", "leave-one-out", "cross-validated"}, default="held-out"
        Which images they were; all of them, but for the first.

    Examples
    --------
    >>> print(AccuracyEstimate(0.98, (0.94, 0.99), 144, 144.0, 1))
    expect 0.9800 on new images like these, from 0.9400 to 0.9900 (95 % interval, from 144 images held out)
    """

    accuracy: float
    interval: tuple[float, float]
    images: int
    effective: float
    tries: int
    method: str = "held-out"

    def __repr__(self) -> str:
        return brief(self, str(self))

    def __str__(self) -> str:
        low, high = self.interval
        how = "held out" if self.method == "held-out" else self.method
        because = f"95 % interval, from {self.images:,} image{'' if self.images == 1 else 's'} {how}"
        if self.method != "held-out":
            because += f", worth {self.effective:,.0f} unrelated ones since the models that judged them share images"
        elif round(self.effective) < self.images:
            because += f", worth {self.effective:,.0f} unrelated ones since groups err together"
        if self.tries > 1:
            because += f"; widened, since they chose the best of {self.tries} epochs, which makes this optimistic"
        if self.images < FEWEST_TO_TELL:
            return f"too few to tell: expect {low:.4f} to {high:.4f} on new images like these ({because})"
        return f"expect {self.accuracy:.4f} on new images like these, from {low:.4f} to {high:.4f} ({because})"

    def facts(self) -> dict[str, Any]:
        """Give what ``imprint train --json`` prints.

        Returns
        -------
        dict
            `accuracy`, `interval`, `effective` and `tries`.

        Examples
        --------
        >>> AccuracyEstimate(0.98, (0.94, 0.99), 144, 144.0, 1).facts()
        {'accuracy': 0.98, 'interval': [0.94, 0.99], 'effective': 144.0, 'tries': 1}
        """
        known = {"accuracy": self.accuracy, "interval": list(self.interval)}
        return known | {"effective": self.effective, "tries": self.tries}


def estimate_accuracy(
    correct: Bool[ndarray, " n"],
    groups: Shaped[ndarray, " n"] | None = None,
    tries: int = 1,
    method: str = "held-out",
    folds: int = 0,
) -> AccuracyEstimate:
    """Estimate the accuracy on new images by Wilson's interval, widened for `groups` that err together and for `tries`.

    The number of images is divided by the design effect of the groups (Kish, "Survey sampling", 1965). Where the images
    chose the best of several epochs, each epoch's interval gets its share of the 5 % (Bonferroni), so that all hold.
    """
    accuracy = float(correct.mean())
    effective = float(len(correct)) if groups is None else _effective_number(correct, groups)
    effective = cross_validated_number(effective, folds) if folds else effective
    z = NormalDist().inv_cdf(1 - 0.025 / tries)
    interval = wilson_interval(accuracy * effective, effective, z)
    return AccuracyEstimate(accuracy, interval, len(correct), effective, tries, method)


def _effective_number(correct: Bool[ndarray, " n"], groups: Shaped[ndarray, " n"]) -> float:
    """How many independent images these groups are worth: at least the number if each group were one image.

    Student's t stands for the normal distribution where groups are few and their variance therefore uncertain: Korn and
    Graubard, Survey Methodology 24 (1998) 193-201.
    """
    from scipy.special import stdtrit

    _, number = np.unique(groups, return_inverse=True)
    sizes = np.bincount(number).astype(float)
    n, accuracy = len(correct), correct.mean()
    fewest = float(n**2 / (sizes**2).sum())
    if accuracy in (0, 1) or len(sizes) == 1:
        return fewest  # nothing shows whether they err together
    surplus = np.bincount(number, weights=correct - accuracy)
    variance = len(sizes) / (len(sizes) - 1) * (surplus**2).sum() / n**2
    independent = np.clip(accuracy * (1 - accuracy) / variance, fewest, n)
    return float(independent * (Z_95 / float(stdtrit(len(sizes) - 1, 0.975))) ** 2)


@dataclass(frozen=True, eq=False)
class LabelledPredictions:
    """A model's predictions for labelled images, with one entry an image in every array.

    `places` are the images' positions in their data, from 0; `sources` where they came from, as in `LabelledImages`;
    `confidence` the probability of the predicted class, `label_probability` that of the true one; `why` each is unsure:
    "strange", "low confidence" or "".
    """

    places: Int64[ndarray, " n"]
    sources: Shaped[ndarray, " n"]
    labels: Int64[ndarray, " n"]
    predicted: Int64[ndarray, " n"]
    confidence: Float32[ndarray, " n"]
    label_probability: Float32[ndarray, " n"]
    why: Shaped[ndarray, " n"]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def unsure(self) -> Bool[ndarray, " n"]:
        """Whether each prediction is flagged."""
        return np.asarray(self.why != SURE)

    @property
    def causes(self) -> str:
        """Which shares of the images are unsure for which cause, in words."""
        return causes_text(unsure_facts(self.why, self.correct))

    @property
    def correct(self) -> Bool[ndarray, " n"]:
        """Whether each prediction is the label."""
        return np.asarray(self.labels == self.predicted)

    def confusion(self) -> Int64[ndarray, "k k"]:
        """Count images by true class (row) and predicted class (column)."""
        return confusion(self.labels, self.predicted, len(self.class_names))

    def worst(self) -> Int64[ndarray, " mistakes"]:
        """Positions of the wrong predictions, those with the least probable label first."""
        mistakes = np.flatnonzero(~self.correct)
        order = np.lexsort((-self.confidence[mistakes], self.label_probability[mistakes]))
        return np.asarray(mistakes[order])

    def write_csv(self, path: Path) -> None:
        """Write one row an image, places counted from 1; raises `UsageError` when the file cannot be written."""
        header = ["place", "row" if self.sources.dtype.kind == "i" else "source", *COLUMNS]
        rows = zip(
            (self.places + 1).tolist(),
            self.sources.tolist(),
            (self.class_names[label] for label in self.labels),
            (self.class_names[label] for label in self.predicted),
            (f"{probability:.6g}" for probability in self.confidence),
            (f"{probability:.6g}" for probability in self.label_probability),
            ("yes" if unsure else "no" for unsure in self.unsure),
            self.why.tolist(),
            strict=True,
        )
        _write_rows(chain([header], rows), path)

    def evaluated(self, chosen: Int64[ndarray, " m"], causes: Mapping[int, str]) -> list[list[str]]:
        """Give a row of `EVALUATED` for each chosen position; `causes` names those of mistakes, by position."""
        return [
            [
                str(self.sources[i]),
                self.class_names[self.labels[i]],
                self.class_names[self.predicted[i]],
                f"{self.confidence[i]:.4f}",
                "yes" if self.why[i] != SURE else "no",
                causes.get(i, ""),
            ]
            for i in chosen.tolist()
        ]

    def write_evaluated(self, path: Path, causes: Mapping[int, str]) -> None:
        """Write a table of all images for people; raises `UsageError` when the file cannot be written."""
        _write_rows([list(EVALUATED), *self.evaluated(np.arange(len(self)), causes)], path)


def _write_rows(rows: Iterable[Sequence[Any]], path: Path) -> None:
    with (
        written_whole(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        csv.writer(file, lineterminator="\n").writerows(rows)


def label_predictions(
    probabilities: Float32[ndarray, "n classes"],
    labels: Int64[ndarray, " n"],
    classes: tuple[str, ...],
    why: Shaped[ndarray, " n"],
    sources: Shaped[ndarray, " n"] | None = None,
    places: Int64[ndarray, " n"] | None = None,
) -> LabelledPredictions:
    """Join probabilities, whose columns are `classes`, with labels.

    Without `places` the images are all of their data, and without `sources` these count from 1.
    """
    count = len(labels)
    return LabelledPredictions(
        np.arange(count) if places is None else places,
        np.arange(1, count + 1) if sources is None else sources,
        labels,
        np.asarray(probabilities.argmax(axis=1)),
        np.asarray(probabilities.max(axis=1)),
        probabilities[np.arange(count), labels],
        why,
        classes,
    )


def read_labelled_predictions(path: Path, class_names: tuple[str, ...]) -> LabelledPredictions:
    """Read what `LabelledPredictions.write_csv` wrote, for the same classes; probabilities have six digits.

    Raises `DataError` when the file is any other.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file)) or [[]]
        return _parse_predictions(header, rows, class_names)
    except (OSError, ValueError, KeyError, csv.Error) as error:
        cause, remedy = f"it is not a table of predictions ({error})", "Use a run folder as train left it."
        raise DataError(path.name, str(path.parent), cause, remedy) from None


def _parse_predictions(header: list[str], rows: list[list[str]], class_names: tuple[str, ...]) -> LabelledPredictions:
    if {len(row) for row in rows} - {len(header)}:
        raise ValueError("a row has more or fewer cells than the header")
    if header[:1] + header[2:] == ["place", *COLUMNS[:-1]]:  # before there were two causes
        header, rows = [*header, COLUMNS[-1]], [[*row, STRANGE if row[-1] == "yes" else SURE] for row in rows]
    if header[:1] + header[2:] != ["place", *COLUMNS] or not rows:
        raise ValueError("its columns are others, or it is empty")
    places, sources, labels, predicted, confidence, probability, _, why = zip(*rows, strict=True)
    if set(why) - {SURE, STRANGE, LOW_CONFIDENCE}:
        raise ValueError("a cause is none of Imprint's")
    probabilities = np.array([confidence, probability], dtype=np.float32)
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("a probability lies outside 0 to 1")
    position = {name: i for i, name in enumerate(class_names)}
    return LabelledPredictions(
        np.array(places, dtype=np.int64) - 1,
        np.array([int(row) for row in sources]) if header[1] == "row" else text_array(sources),
        np.array([position[name] for name in labels], dtype=np.int64),
        np.array([position[name] for name in predicted], dtype=np.int64),
        probabilities[0],
        probabilities[1],
        np.array(why),
        class_names,
    )
