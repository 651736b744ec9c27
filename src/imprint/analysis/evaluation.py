"""The score of a model on labelled images, and the comparison of two models on the same images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from imprint.analysis.orientation import POOR, find_better_orientation
from imprint.core.errors import UsageError, brief
from imprint.core.metrics import difference_interval, mcnemar
from imprint.core.scores import JudgedPredictions, LabelledPredictions, Score, join_judged, judge, score_judged
from imprint.data.images import LabelledImages, kind_of
from imprint.data.load import Data
from imprint.models.predictor import Predictor, prediction_parts

SIGNIFICANT = 0.05  # p-value below which a difference is not put down to chance


def evaluate(model: Predictor, images: LabelledImages | Data, part: str | None = None) -> Score:
    """Score a model on labelled images; classes are matched by name.

    Parameters
    ----------
    model : Predictor
        A `Classifier` or an `OnnxClassifier`.
    images : LabelledImages, or data as `load` takes it
        Images with labels. Image files are brought into the size that the model was trained on; LabelledImages must
        have it.
    part : {"train", "validation", "test"} or None, default=None
        Which part of data that come divided.

    Returns
    -------
    Score
        Accuracy with its 95 % interval, baseline, log loss, calibration error and confusion. Where accuracy is below
        0.8, 200 of the images are also tried turned, mirrored and inverted; `notes` say so if one of that fits better.

    Raises
    ------
    DataError
        When labels are missing or unknown to the model, or images have another size or number of channels.
    UsageError
        When `model` is no model.

    Examples
    --------
    >>> from imprint import load, train
    >>> digits = load("digits")
    >>> model = train(digits, recipe="quick", epochs=1, min_steps=1, verbose=False).model
    >>> evaluate(model, digits).images
    1797
    """
    _check_model(model, "evaluate")
    return evaluate_each(model, model.ready(images, part))[0]


def evaluate_each(model: Predictor, images: LabelledImages) -> tuple[Score, LabelledPredictions]:
    """Score a model as `evaluate` does, and give what it says of every image.

    Probabilities of some images only are in memory at a time.
    """
    labels, judged_parts = images.labels_among(model.class_names), list[JudgedPredictions]()
    for part in prediction_parts(len(images), len(model.class_names)):
        said = model.predict(images[part])
        judged_parts.append(judge(said.probabilities, labels[part], said.why))
    judged = join_judged(judged_parts)
    result = score_judged(judged, model.class_names)
    better = find_better_orientation(model, images) if result.accuracy < POOR else None
    said_of_each = judged.labelled(model.class_names, images.sources)
    return result if better is None else replace(result, notes=(str(better),)), said_of_each


@dataclass(frozen=True)
class Comparison:
    """Accuracy of two models on the same images, and whether the difference is more than chance.

    Parameters
    ----------
    images : int
        Number of images.
    accuracy : tuple of float
        Of the first and of the second model, from 0 to 1.
    difference : float
        The first model's accuracy less the second's.
    interval : tuple of float
        The 95 % interval of the difference (Agresti and Min, Statistics in Medicine 24, 2005).
    only_first, only_second : int
        Number of images that only this one of the two models predicts correctly.
    p_value : float
        Of McNemar's exact test: how often chance alone makes a difference at least as large.
    unknown_classes : tuple of tuple of str, default=((), ())
        Classes of the images that the first and the second model do not know; their images count as wrong for it.

    Examples
    --------
    >>> Comparison(1000, (0.99, 0.97), 0.02, (0.0075, 0.0324), 30, 10, 0.0022).verdict
    'the first is better'
    """

    images: int
    accuracy: tuple[float, float]
    difference: float
    interval: tuple[float, float]
    only_first: int
    only_second: int
    p_value: float
    unknown_classes: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())

    def __repr__(self) -> str:
        first, second = self.accuracy
        compared = f"{first:.4f} against {second:.4f} on {self.images:,} images"
        return brief(self, f"{compared}: {self.verdict} (p = {self.p_value:.2g})")

    @property
    def verdict(self) -> str:
        """Which model is better, in words; neither where the p-value is 0.05 or more.

        Returns
        -------
        str
            One of three phrases.

        Examples
        --------
        >>> Comparison(100, (0.9, 0.9), 0.0, (-0.06, 0.06), 4, 4, 1.0).verdict
        'no difference beyond noise'
        """
        if self.p_value >= SIGNIFICANT:
            return "no difference beyond noise"
        return "the first is better" if self.difference > 0 else "the second is better"


def compare(first: Predictor, second: Predictor, images: LabelledImages | Data, part: str | None = None) -> Comparison:
    """Test whether one of two models is really better, on images that neither was trained on.

    Images of a class that only one of the two knows count as wrong for the other, since that is what users would get.

    Parameters
    ----------
    first, second : Predictor
        The models, each a `Classifier` or an `OnnxClassifier`.
    images : LabelledImages, or data as `load` takes it
        Images with labels. Image files are brought into the size that each model was trained on; LabelledImages must
        have it.
    part : {"train", "validation", "test"} or None, default=None
        Which part of data that come divided.

    Returns
    -------
    Comparison
        The difference in accuracy with its interval and McNemar's test.

    Raises
    ------
    DataError
        When labels are missing or unknown to both models, or images have another size or number of channels.
    UsageError
        When `first` or `second` is no model.

    References
    ----------
    McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 12 (1947) 153-157.

    Examples
    --------
    >>> from imprint import load, train
    >>> digits = load("digits")
    >>> model = train(digits, recipe="quick", epochs=1, min_steps=1, verbose=False).model
    >>> compare(model, model, digits).verdict
    'no difference beyond noise'
    """
    for model in (first, second):
        _check_model(model, "compare")
    given = [(model, model.ready(images, part)) for model in (first, second)]
    right = [
        named_rightly(model, ready, other.class_names)
        for (model, ready), other in zip(given, (second, first), strict=True)
    ]
    unknown = [unknown_classes(model, ready) for model, ready in given]
    return comparison(right[0], right[1], (unknown[0], unknown[1]))


def named_rightly(model: Predictor, images: LabelledImages, also_known: tuple[str, ...] = ()) -> Bool[ndarray, " n"]:
    """Mark the images that a model predicts correctly; none of a class that is only among those `also_known`.

    Raises `DataError` where labels are missing, or neither the model's nor `also_known`.
    """
    labels = images.labels_among(tuple(dict.fromkeys((*model.class_names, *also_known))))
    parts = prediction_parts(len(images), len(model.class_names))
    return np.concatenate([model.predict(images[part]).labels == labels[part] for part in parts])


def unknown_classes(model: Predictor, images: LabelledImages) -> tuple[str, ...]:
    """Name the classes of images that a model does not know."""
    return tuple(name for name, count in images.class_counts().items() if count and name not in model.class_names)


def comparison(
    first: Bool[ndarray, " n"],
    second: Bool[ndarray, " n"],
    unknown: tuple[tuple[str, ...], tuple[str, ...]] = ((), ()),
) -> Comparison:
    """Compare two models by which of the same images each predicts correctly; see `named_rightly`."""
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
        unknown_classes=unknown,
    )


def _check_model(model: Predictor, where: str) -> None:
    if not hasattr(model, "ready"):
        remedy = "Give imprint.Classifier.load(PATH), then the data."
        raise UsageError("model", where, f"{kind_of(model)} is no model", remedy)
