"""Scoring a model on labelled images, and two against each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from imprint.core.errors import UsageError
from imprint.core.metrics import difference_interval, mcnemar
from imprint.core.scores import Score, score
from imprint.data.images import LabelledImages, kind_of
from imprint.data.load import Data
from imprint.models.predictor import Predictor


def evaluate(model: Predictor, images: LabelledImages | Data, part: str | None = None) -> Score:
    """Score a model on labelled images; classes are matched by name.

    Parameters
    ----------
    model : Predictor
        A classifier, as training or an exported file gives it.
    images : LabelledImages, or data as `load` takes it
        Images with labels, of the form that the model was trained on or brought into it.
    part : {"train", "validation", "test"} or None, default=None
        Which part of data that come divided.

    Returns
    -------
    Score
        Accuracy with its 95 % interval, baseline, log loss, calibration error and confusion.

    Raises
    ------
    DataError
        When labels are missing or unknown to the model, or images have another form.
    UsageError
        When the model is none.

    Examples
    --------
    >>> from imprint import load, train
    >>> digits = load("digits")
    >>> model = train(digits, recipe="quick", epochs=1, min_steps=1, verbose=False).model
    >>> evaluate(model, digits).images
    1797
    """
    if not hasattr(model, "ready"):
        remedy = "Give imprint.Classifier.load(PATH), then the data."
        raise UsageError("model", "evaluate", f"{kind_of(model)} is no model", remedy)
    ready = model.ready(images, part)
    labels = ready.labels_among(model.class_names)
    predictions = model.predict(ready)
    return score(predictions.probabilities, labels, model.class_names, predictions.unsure)


SIGNIFICANT = 0.05  # a difference that chance makes less often than this is called one


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images.

    Parameters
    ----------
    images : int
        Number of images.
    accuracy : tuple of float
        Of the first and of the second.
    difference : float
        The first's accuracy less the second's.
    interval : tuple of float
        Its 95 % interval; see `metrics.difference_interval`.
    only_first, only_second : int
        Images that only one of them named rightly.
    p_value : float
        See `metrics.mcnemar`.

    Examples
    --------
    >>> print(Comparison(1000, (0.99, 0.97), 0.02, (0.0075, 0.0324), 30, 10, 0.0022).verdict)
    the first is better
    """

    images: int
    accuracy: tuple[float, float]
    difference: float
    interval: tuple[float, float]
    only_first: int
    only_second: int
    p_value: float

    @property
    def verdict(self) -> str:
        """Which model is better, where chance would seldom make such a difference.

        Returns
        -------
        str
            In a few words.

        Examples
        --------
        >>> Comparison(100, (0.9, 0.9), 0.0, (-0.06, 0.06), 4, 4, 1.0).verdict
        'no difference beyond noise'
        """
        if self.p_value >= SIGNIFICANT:
            return "no difference beyond noise"
        return "the first is better" if self.difference > 0 else "the second is better"


def compare(
    first: Predictor,
    second: Predictor,
    images: LabelledImages | Data,
    part: str | None = None,
) -> Comparison:
    """Tell whether one of two models is really better, on images that neither has learnt from.

    Parameters
    ----------
    first, second : Predictor
        The models: classifiers, as training or an exported file gives them.
    images : LabelledImages, or data as `load` takes it
        Images with labels, of the form that both were trained on or brought into each one's.
    part : {"train", "validation", "test"} or None, default=None
        Which part of data that come divided.

    Returns
    -------
    Comparison
        The difference with its interval and McNemar's test.

    Raises
    ------
    DataError
        When labels are missing or unknown to a model, or images have another form.

    Examples
    --------
    >>> from imprint import load, train
    >>> digits = load("digits")
    >>> model = train(digits, recipe="quick", epochs=1, min_steps=1, verbose=False).model
    >>> compare(model, model, digits).verdict
    'no difference beyond noise'
    """
    given = [(model, model.ready(images, part)) for model in (first, second)]
    return comparison(*(named_rightly(model, ready) for model, ready in given))


def named_rightly(model: Predictor, images: LabelledImages) -> Bool[ndarray, " n"]:
    """Tell which images a model names rightly.

    Parameters
    ----------
    model : Predictor
        The model.
    images : LabelledImages
        Images with labels, of the form that it was trained on.

    Returns
    -------
    ndarray of bool, shape (n,)
        True where the prediction is the label.

    Raises
    ------
    DataError
        When labels are missing or unknown to the model, or the images have another form.

    Examples
    --------
    >>> from imprint import load, train
    >>> digits = load("digits")
    >>> model = train(digits, recipe="quick", epochs=1, min_steps=1, verbose=False).model
    >>> int(named_rightly(model, digits).sum()) == round(evaluate(model, digits).accuracy * 1797)
    True
    """
    labels = images.labels_among(model.class_names)
    return np.asarray(model.predict(images).labels == labels)


def comparison(first: Bool[ndarray, " n"], second: Bool[ndarray, " n"]) -> Comparison:
    """Compare two models by which of the same images each named rightly.

    Parameters
    ----------
    first, second : ndarray of bool, shape (n,)
        From `named_rightly`.

    Returns
    -------
    Comparison
        The difference with its interval and McNemar's test.

    Examples
    --------
    >>> comparison(np.array([True, True, True]), np.array([True, False, False])).difference
    0.6666666666666667
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    accuracy = float(first.mean()), float(second.mean())
    return Comparison(
        images=len(first),
        accuracy=accuracy,
        difference=accuracy[0] - accuracy[1],
        interval=difference_interval(only_first, only_second, len(first)),
        only_first=only_first,
        only_second=only_second,
        p_value=mcnemar(only_first, only_second),
    )
