"""Answers: what a model said of labelled pictures, one row a picture; as a file, the evidence of a score."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int64, Shaped
from numpy import ndarray

from imprint.errors import DataError
from imprint.files import written_whole
from imprint.metrics import confusion

COLUMNS = ("label", "prediction", "confidence", "label_probability", "unsure")


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model said of labelled pictures.

    Parameters
    ----------
    places : ndarray of int64, shape (n,)
        Position of each picture in its data, the first being 0.
    sources : ndarray, shape (n,)
        Where each picture came from, as in `LabelledImages`.
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
    >>> answers_to(two, np.array([0, 0]), ("cat", "dog"), unsure).correct.tolist()
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
        """Count pictures by true class (row) and predicted class (column).

        Returns
        -------
        ndarray of int64, shape (classes, classes)
            Counts.

        Examples
        --------
        >>> two, unsure = np.array([[0.9, 0.1], [0.4, 0.6]], dtype=np.float32), np.array([False, True])
        >>> answers_to(two, np.array([0, 0]), ("cat", "dog"), unsure).confusion().tolist()
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
        >>> answers_to(two, np.array([1, 0]), ("cat", "dog"), unsure).worst()
        array([0, 1])
        """
        mistakes = np.flatnonzero(~self.correct)
        order = np.lexsort((-self.confidence[mistakes], self.label_probability[mistakes]))
        return np.asarray(mistakes[order])

    def write_csv(self, path: Path) -> None:
        r"""Write one row a picture: where it stands, label, prediction, and how probable each was.

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
        >>> answers_to(one, np.array([1]), ("cat", "dog"), np.array([False]), np.array([5])).write_csv(path)
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


def answers_to(
    probabilities: Float32[ndarray, "n classes"],
    labels: Int64[ndarray, " n"],
    classes: tuple[str, ...],
    unsure: ndarray,
    sources: Shaped[ndarray, " n"] | None = None,
    places: Int64[ndarray, " n"] | None = None,
) -> Answers:
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
        Where each picture came from; None counts them from 1.
    places : ndarray of int64, shape (n,), or None, default=None
        Position of each picture in its data; None where these are all of it.

    Returns
    -------
    Answers
        One for each picture.

    Examples
    --------
    >>> one = np.array([[0.9, 0.1]], dtype=np.float32)
    >>> answers_to(one, np.array([1]), ("cat", "dog"), np.array([False])).label_probability
    array([0.1], dtype=float32)
    """
    count = len(labels)
    return Answers(
        np.arange(count) if places is None else places,
        np.arange(1, count + 1) if sources is None else sources,
        labels,
        np.asarray(probabilities.argmax(axis=1)),
        np.asarray(probabilities.max(axis=1)),
        probabilities[np.arange(count), labels],
        unsure,
        classes,
    )


def read_answers(path: Path, class_names: tuple[str, ...]) -> Answers:
    """Read what `Answers.write_csv` wrote.

    Parameters
    ----------
    path : Path
        The file.
    class_names : tuple of str
        The model's classes.

    Returns
    -------
    Answers
        As they were written, probabilities to six digits.

    Raises
    ------
    DataError
        When the file is not one that a run wrote with these classes.

    Examples
    --------
    >>> read_answers(Path("pyproject.toml"), ("cat", "dog"))
    Traceback (most recent call last):
    imprint.errors.DataError: pyproject.toml at .: it is no list of answers (...
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
        return Answers(
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
