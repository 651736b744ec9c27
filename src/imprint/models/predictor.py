"""Predictions: what a model says about images, and Predictor, what every kind of model does with images."""

from __future__ import annotations

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Int64, Shaped, UInt8
from numpy import ndarray

from imprint.core.errors import UsageError, brief
from imprint.core.files import written_whole
from imprint.core.html import TILES, block, line, table, tile, tiles
from imprint.core.metrics import percent
from imprint.core.scores import LOW_CONFIDENCE, STRANGE, SURE
from imprint.data.images import LabelledImages
from imprint.data.load import Data, load
from imprint.preprocessing.input_spec import InputSpec

if TYPE_CHECKING:
    import pandas
    import polars

# Images that are predicted at once: of 1,000 classes they take half a gigabyte meanwhile.
NUMBERS_AT_ONCE, FEWEST_AT_ONCE, MOST_AT_ONCE = 2**24, 1024, 2**14
COLUMNS = ("source", "label", "confidence", "unsure", "why")


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model says about images.

    Parameters
    ----------
    probabilities : ndarray of float32, shape (n, classes)
        Rows that sum to 1.
    class_names : tuple of str
        Names of the columns.
    sources : ndarray, shape (n,)
        Where each image came from, as in `LabelledImages`.
    uncertainty : ndarray of float32, shape (n,)
        The higher, the less the class is to be trusted: from confidence and the OOD score; compare it only within a
        model.
    unsure_above : float
        Predictions with more uncertainty than this are flagged unsure, since their images are strange.
    unsure_below : float, default=0
        Predictions with less confidence than this are flagged unsure too.
    ids : ndarray of str, shape (n,), or None, default=None
        What a table calls the images, as in `LabelledImages`.
    headers : tuple of str, default=("", "label")
        The names of the columns of ids and of labels, as a table of predictions has them.
    preview : ndarray of uint8, shape (m, channels, height, width), or None, default=None
        The first images, at most twelve, for a notebook to show.

    Attributes
    ----------
    labels : ndarray of int64, shape (n,)
        The likeliest class of each image, as position in `class_names`.
    names : list of str
        The same by name.
    confidence : ndarray of float32, shape (n,)
        The likeliest class's probability.
    unsure : ndarray of bool, shape (n,)
        Whether each prediction is flagged.
    why : ndarray of str, shape (n,)
        Why it is: ``"strange"``, where its image is unlike those trained on, else ``"low confidence"``, where answers
        of its confidence are too often wrong; empty where it is not.

    Examples
    --------
    >>> two, uncertainty = np.array([[0.9, 0.1], [0.4, 0.6]], dtype=np.float32), np.array([4.7, 6.2], dtype=np.float32)
    >>> predictions = Predictions(two, ("cat", "dog"), np.array([1, 2]), uncertainty, unsure_above=6.0)
    >>> predictions.names, predictions.unsure.tolist()
    (['cat', 'dog'], [False, True])
    """

    probabilities: Float32[ndarray, "n classes"]
    class_names: tuple[str, ...]
    sources: Shaped[ndarray, " n"]
    uncertainty: Float32[ndarray, " n"]
    unsure_above: float
    unsure_below: float = 0.0
    ids: Shaped[ndarray, " n"] | None = None
    headers: tuple[str, str] = ("", "label")
    preview: UInt8[ndarray, "m c h w"] | None = None

    def __len__(self) -> int:
        return len(self.probabilities)

    def __repr__(self) -> str:
        return brief(self, self._summary())

    def _repr_html_(self) -> str:
        facts = self._first(TILES).to_dicts()
        if self.preview is None:
            rows = [(one["source"], one["label"], one["why"], f"{one['confidence']:.4f}") for one in facts]
            body = table(("source", "label", "unsure", "confidence"), rows, words=3)
        else:
            body = tiles([_tile(image, one) for image, one in zip(self.preview, facts, strict=False)])
        more = [line(f"and {len(self) - TILES:,} more")] if len(self) > TILES else []
        return block("Predictions", self._summary(), body, *more)

    def _first(self, count: int) -> Predictions:
        first: dict[str, Any] = {key: getattr(self, key)[:count] for key in ("probabilities", "sources", "uncertainty")}
        return replace(self, **first, ids=None if self.ids is None else self.ids[:count])

    def _summary(self) -> str:
        unsure = f", unsure of {self.unsure.mean():.1%}" if len(self) else ""
        return f"{len(self):,} image{'' if len(self) == 1 else 's'}, {len(self.class_names):,} classes{unsure}"

    @property
    def labels(self) -> Int64[ndarray, " n"]:
        """The likeliest class of each image, as position in `class_names`."""
        return np.asarray(self.probabilities.argmax(axis=1))

    @property
    def names(self) -> list[str]:
        """The same by name."""
        return [self.class_names[label] for label in self.labels]

    @property
    def confidence(self) -> Float32[ndarray, " n"]:
        """The likeliest class's probability."""
        return np.asarray(self.probabilities.max(axis=1))

    @property
    def unsure(self) -> ndarray:
        """Whether each image is more uncertain than all but 1 % of genuine ones, or confidence is too low."""
        return np.asarray(self.why != SURE)

    @property
    def why(self) -> Shaped[ndarray, " n"]:
        """Why each prediction is unsure; empty where it is not."""
        low = np.where(self.confidence < self.unsure_below, LOW_CONFIDENCE, SURE)
        return np.where(self.uncertainty > self.unsure_above, STRANGE, low)

    def to_dicts(self, probabilities: bool = False) -> list[dict[str, Any]]:
        """Convert each prediction to plain JSON values.

        Parameters
        ----------
        probabilities : bool, default=False
            Whether to give the probability of every class too.

        Returns
        -------
        list of dict
            With `source`, which is the id where there is one, `label`, `confidence`, `unsure` and `why`, and where
            asked for `probabilities`, a dict from the names of the classes.

        Examples
        --------
        >>> one = np.array([[1.0, 0.0]], dtype=np.float32)
        >>> Predictions(one, ("cat", "dog"), np.array(["a.png"]), np.zeros(1, dtype=np.float32), 0.5).to_dicts()
        [{'source': 'a.png', 'label': 'cat', 'confidence': 1.0, 'unsure': False, 'why': ''}]
        """
        sources = self.sources if self.ids is None else self.ids
        arrays = (array.tolist() for array in (self.confidence, self.unsure, self.why))
        facts = zip(sources.tolist(), self.names, *arrays, strict=True)
        dicts: list[dict[str, Any]] = [dict(zip(COLUMNS, values, strict=True)) for values in facts]
        if probabilities:
            for fact, row in zip(dicts, self.probabilities.tolist(), strict=True):
                fact["probabilities"] = dict(zip(self.class_names, row, strict=True))
        return dicts

    def to_csv(self, probabilities: bool = False) -> str:
        """Format as CSV: ids under their own header, `ImageId,Label` for CSVs of pixels without, else all five facts.

        Parameters
        ----------
        probabilities : bool, default=False
            Whether to add a column for each class, with its name, after the others. A class that is called as one of
            these gets ``probability of`` before its name.

        Returns
        -------
        str
            A header and one line an image, in the images' order.

        Examples
        --------
        >>> one = np.array([[1.0, 0.0]], dtype=np.float32)
        >>> uncertainty = np.zeros(1, dtype=np.float32)
        >>> print(Predictions(one, ("cat", "dog"), np.array([5]), uncertainty, 0.5).to_csv())
        ImageId,Label
        1,cat
        >>> print(Predictions(one, ("cat", "dog"), np.array(["a.png"]), uncertainty, 0.5).to_csv())
        source,label,confidence,unsure,why
        a.png,cat,1.0000,no,
        """
        text = io.StringIO()
        self._write_csv(text, probabilities)
        return text.getvalue()

    def _write_csv(self, file: io.TextIOBase, probabilities: bool) -> None:
        header, rows = self._table()
        if probabilities:
            header = [*header, *self._probability_columns(header)]
            shares = ([f"{share:.6g}" for share in row] for row in self.probabilities)
            rows = ([*row, *more] for row, more in zip(rows, shares, strict=True))
        csv.writer(file, lineterminator="\n").writerows(chain([header], rows))

    def _table(self) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        """Give the header and the rows of `to_csv`, without probabilities."""
        if self.ids is not None:
            return self.headers, zip(self.ids.tolist(), self.names, strict=True)
        if self.sources.dtype.kind == "i":
            return ("ImageId", "Label"), enumerate(self.names, start=1)
        confidence = (f"{share:.4f}" for share in self.confidence)
        unsure = ("yes" if flagged else "no" for flagged in self.unsure)
        return COLUMNS, zip(self.sources.tolist(), self.names, confidence, unsure, self.why.tolist(), strict=True)

    def _probability_columns(self, others: Sequence[str]) -> list[str]:
        """Name a column after each class; none is called as another, nor as one of `others`."""
        taken, columns = {*others, *self.class_names}, list[str]()
        for name in self.class_names:
            column = name
            while column in others or (column != name and column in taken):
                column = f"probability of {column}"
            taken.add(column)
            columns.append(column)
        return columns

    def to_polars(self, probabilities: bool = False) -> polars.DataFrame:
        """Convert to a data frame of polars, one row an image.

        Parameters
        ----------
        probabilities : bool, default=False
            Whether to add a column for each class, named as `to_csv` names it.

        Returns
        -------
        polars.DataFrame
            With the columns of `to_dicts`: source, label, confidence, unsure and why.

        Examples
        --------
        >>> one = np.array([[1.0, 0.0]], dtype=np.float32)
        >>> predictions = Predictions(one, ("cat", "dog"), np.array(["a.png"]), np.zeros(1, dtype=np.float32), 0.5)
        >>> predictions.to_polars(probabilities=True).columns
        ['source', 'label', 'confidence', 'unsure', 'why', 'cat', 'dog']
        """
        import polars

        return polars.DataFrame(self._columns(probabilities))

    def to_pandas(self, probabilities: bool = False) -> pandas.DataFrame:
        """Convert to a data frame of pandas, one row an image; pandas is to be installed for it.

        Parameters
        ----------
        probabilities : bool, default=False
            Whether to add a column for each class, named as `to_csv` names it.

        Returns
        -------
        pandas.DataFrame
            With the columns of `to_dicts`: source, label, confidence, unsure and why.

        Raises
        ------
        UsageError
            When pandas is not installed.

        Examples
        --------
        >>> one = np.array([[1.0, 0.0]], dtype=np.float32)
        >>> predictions = Predictions(one, ("cat", "dog"), np.array(["a.png"]), np.zeros(1, dtype=np.float32), 0.5)
        >>> predictions.to_pandas()["label"].tolist()
        ['cat']
        """
        try:
            import pandas
        except ModuleNotFoundError:
            remedy = "Use to_polars, or install it: pip install pandas."
            raise UsageError("package pandas", "this Python", "it is missing, and to_pandas needs it", remedy) from None
        return pandas.DataFrame(self._columns(probabilities))

    def _columns(self, probabilities: bool) -> dict[str, Any]:
        """Give the columns of a data frame by name."""
        sources = (self.sources if self.ids is None else self.ids).tolist()
        values = (sources, self.names, self.confidence, self.unsure, self.why.tolist())
        columns: dict[str, Any] = dict(zip(COLUMNS, values, strict=True))
        if probabilities:
            columns |= dict(zip(self._probability_columns(COLUMNS), self.probabilities.T, strict=True))
        return columns

    def write_csv(self, path: str | Path, probabilities: bool = False) -> None:
        r"""Write the predictions to a file that appears once it is whole; see `to_csv` for its form.

        Parameters
        ----------
        path : str or Path
            The file; an older one is replaced.
        probabilities : bool, default=False
            Whether to add a column for each class, as `to_csv` does.

        Raises
        ------
        UsageError
            When the file cannot be written.

        Examples
        --------
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "result.csv"
        >>> one = np.array([[1.0, 0.0]], dtype=np.float32)
        >>> Predictions(one, ("cat", "dog"), np.array([5]), np.zeros(1, dtype=np.float32), 0.5).write_csv(path)
        >>> path.read_text()
        'ImageId,Label\n1,cat\n'
        """
        with written_whole(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
            self._write_csv(file, probabilities)


def _tile(image: UInt8[ndarray, "c h w"], fact: Mapping[str, Any]) -> str:
    """Show an image with what is said of it."""
    doubt = f"unsure: {fact['why']}" if fact["unsure"] else ""
    return tile(image, fact["label"], percent(fact["confidence"]), str(fact["source"]), doubt)


def prediction_parts(images: int, classes: int) -> list[slice]:
    """Divide images into parts that are predicted at once, by the memory that their probabilities take meanwhile."""
    at_once = max(FEWEST_AT_ONCE, min(MOST_AT_ONCE, NUMBERS_AT_ONCE // classes))
    return [slice(start, start + at_once) for start in range(0, images, at_once)]


class Predictor(ABC):
    """What `Classifier` and `OnnxClassifier` do with images; several threads may use one at once.

    Attributes
    ----------
    class_names : tuple of str
        What it tells apart, in the order of its probabilities.
    spec : InputSpec
        What it expects of an image.
    unsure_above : float
        Uncertainty above which a prediction is unsure.
    unsure_below : float
        Confidence below which it is unsure as well.
    label_header : str
        What the table that it was trained on calls its column of labels, else ``"label"``.

    Examples
    --------
    >>> import imprint
    >>> issubclass(imprint.Classifier, Predictor), issubclass(imprint.OnnxClassifier, Predictor)
    (True, True)
    """

    class_names: tuple[str, ...]
    spec: InputSpec
    unsure_above: float
    unsure_below: float
    label_header: str

    @abstractmethod
    def _compute(
        self, pixels: UInt8[ndarray, "n c h w"]
    ) -> tuple[Float32[ndarray, "n classes"], Float32[ndarray, " n"]]:
        """Compute probabilities and uncertainty of images that have the form of `spec`."""

    def predict_proba(self, images: LabelledImages | Data) -> Float32[ndarray, "n classes"]:
        """Predict each image's probability of each class.

        Parameters
        ----------
        images : LabelledImages, or data as `load` takes it
            Images of the form that the model was trained on; or files, arrays, tensors, rows of pixels, PIL images and
            whatever else `load` takes, which are all brought into that form in one way. Labels are ignored.

        Returns
        -------
        ndarray of float32, shape (n, classes)
            Columns as in `class_names`; rows sum to 1.

        Raises
        ------
        DataError
            When the images have another form.

        Examples
        --------
        >>> from imprint import load, train
        >>> digits = load("digits")
        >>> model = train(digits, recipe="quick", epochs=1, min_steps=1, verbose=False).model
        >>> model.predict_proba(digits).shape
        (1797, 10)
        """
        return self.predict(images).probabilities

    def predict(self, images: LabelledImages | Data) -> Predictions:
        """Predict each image's class.

        Parameters
        ----------
        images : LabelledImages, or data as `load` takes it
            Images of the form that the model was trained on; or files, arrays, tensors, rows of pixels, PIL images and
            whatever else `load` takes, which are all brought into that form in one way. Labels are ignored.

        Returns
        -------
        Predictions
            In the images' order; `write_csv` writes them.

        Raises
        ------
        DataError
            When the images have another form.

        Examples
        --------
        >>> from imprint import load, train
        >>> digits = load("digits")
        >>> model = train(digits, recipe="quick", epochs=1, min_steps=1, verbose=False).model
        >>> set(model.predict(digits).names) <= set(digits.class_names)
        True
        >>> len(model.predict(digits.pixels[0, 0])), len(model.predict(digits.pixels.reshape(1797, 64)))
        (1, 1797)
        """
        ready = self.ready(images)
        probabilities = np.empty((len(ready), len(self.class_names)), dtype=np.float32)
        uncertainty = np.empty(len(ready), dtype=np.float32)
        for part in prediction_parts(len(ready), len(self.class_names)):  # embeddings of these alone are in memory
            probabilities[part], uncertainty[part] = self._compute(ready.pixels[part])
        headers = ready.headers[0], self.label_header
        limits = self.unsure_above, self.unsure_below
        preview = np.array(ready.pixels[:TILES])  # a copy, which does not keep all images in memory
        return Predictions(
            probabilities, self.class_names, ready.sources, uncertainty, *limits, ready.ids, headers, preview
        )

    def ready(
        self,
        data: LabelledImages | Data,
        part: str | None = None,
        label: str | None = None,
        ids: str | None = None,
        labels: str | Path | None = None,
    ) -> LabelledImages:
        """Read data in the form that the model was trained on.

        Parameters
        ----------
        data : LabelledImages, or what `load` takes
            The images; those already read pass as they are.
        part : {"train", "validation", "test"} or None, default=None
            Which part of data that come divided.
        label : str or None, default=None
            The column of labels, or a regular expression for paths, as `load` takes it.
        ids : str or None, default=None
            The column of ids.
        labels : str, Path or None, default=None
            A list of corrected labels, as `load` takes it.

        Returns
        -------
        LabelledImages
            Images of the form of `spec`.

        Raises
        ------
        DataError
            When the data cannot be read, or images already read have another form.

        Examples
        --------
        >>> import imprint
        >>> run = imprint.train("digits", "quick", epochs=1, min_steps=1, verbose=False)
        >>> run.model.ready("digits").shape
        (1, 8, 8)
        """
        if not isinstance(data, LabelledImages):
            data = load(data, part=part, spec=self.spec, label=label, ids=ids, allow_bad=1.0, labels=labels)
        self.spec.check(data.shape, data.name, data.pixel_range, data.background)
        return data
