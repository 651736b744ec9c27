"""Predictor: what every model does with pictures, whatever computes its probabilities."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float32, UInt8
from numpy import ndarray

from imprint.data import Data, load
from imprint.images import LabelledImages
from imprint.input_spec import InputSpec
from imprint.predictions import Predictions
from imprint.progress import Reporter


class Predictor(ABC):
    """What every model does with pictures. Several threads may ask one model at once.

    Attributes
    ----------
    class_names : tuple of str
        As the labels stood in the training data.
    spec : InputSpec
        What it expects of a picture.
    unsure_above : float
        Predictions with more doubt than this are flagged unsure; see `predict.doubts`.

    Examples
    --------
    >>> from imprint.classifier import Classifier
    >>> issubclass(Classifier, Predictor)
    True
    """

    class_names: tuple[str, ...]
    spec: InputSpec
    unsure_above: float

    @abstractmethod
    def _answers(
        self, pixels: UInt8[ndarray, "n c h w"]
    ) -> tuple[Float32[ndarray, "n classes"], Float32[ndarray, " n"]]:
        """Compute probabilities and doubt of pictures that have the form of `spec`."""

    def predict_proba(self, images: LabelledImages | Data) -> Float32[ndarray, "n classes"]:
        """Give each picture's probability of each class.

        Parameters
        ----------
        images : LabelledImages, or data as `load` takes it
            Pictures of the form that the model was taught with, or data that are brought into it; labels
            are not looked at.

        Returns
        -------
        ndarray of float32, shape (n, classes)
            Columns as in `class_names`; rows sum to 1.

        Raises
        ------
        DataError
            When the pictures have another form.

        Examples
        --------
        >>> from imprint import load, train
        >>> digits = load("digits")
        >>> model = train(digits, recipe="quick", settings=["epochs=1", "min_steps=1"], silent=True).model
        >>> model.predict_proba(digits).shape
        (1797, 10)
        """
        return self.predict(images).probabilities

    def predict(self, images: LabelledImages | Data) -> Predictions:
        """Name each picture's class.

        Parameters
        ----------
        images : LabelledImages, or data as `load` takes it
            Pictures of the form that the model was taught with, or data that are brought into it; labels
            are not looked at.

        Returns
        -------
        Predictions
            In the pictures' order; `write_csv` writes them.

        Raises
        ------
        DataError
            When the pictures have another form.

        Examples
        --------
        >>> from imprint import load, train
        >>> digits = load("digits")
        >>> model = train(digits, recipe="quick", settings=["epochs=1", "min_steps=1"], silent=True).model
        >>> set(model.predict(digits).names) <= set(digits.class_names)
        True
        >>> len(model.predict(digits.pixels[0, 0]))  # an array, a file's path and its bytes do as well
        1
        """
        ready = self.ready(images)
        probabilities, doubt = self._answers(ready.pixels)
        return Predictions(probabilities, self.class_names, ready.sources, doubt, self.unsure_above)

    def ready(
        self, data: LabelledImages | Data, part: str | None = None, reporter: Reporter | None = None
    ) -> LabelledImages:
        """Read data in the form that the model was taught with.

        Parameters
        ----------
        data : LabelledImages, or data as `load` takes it
            Pictures already in that form, or data that are brought into it.
        part : {"train", "validation", "test"} or None, default=None
            Which part of data that come divided.
        reporter : Reporter or None, default=None
            Told what is read and what is left out; None keeps silent.

        Returns
        -------
        LabelledImages
            In that form.

        Raises
        ------
        DataError
            When the data cannot be read, or a table has another form.

        Examples
        --------
        >>> from imprint import load, train
        >>> model = train(load("digits"), recipe="quick", settings=["epochs=1", "min_steps=1"], silent=True).model
        >>> model.ready("digits").shape
        (1, 8, 8)
        """
        if not isinstance(data, LabelledImages):
            data = load(data, part=part, spec=self.spec, allow_bad=1.0, reporter=reporter)
        self.spec.check(data.shape, data.name)
        return data
