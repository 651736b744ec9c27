"""Why a model errs on each image that it predicts wrongly, as far as model and training images tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64
from numpy import ndarray
from torch import Tensor

from imprint.core.errors import DataError, brief
from imprint.core.progress import say
from imprint.core.scores import LabelledPredictions, label_predictions
from imprint.data.images import LabelledImages
from imprint.data.load import Data
from imprint.models.classifier import Classifier
from imprint.models.inference import features, nearest

CAUSES = {
    "unlike": "unlike the training data",
    "mislabelled": "label doubtful",
    "ambiguous": "ambiguous",
    "fault": "the model's fault",
}
NEIGHBOURS = 3
# Of 3,360 digits of Kaggle's the model erred on 13, and two of these lay beyond the limit of 0.66; noise lay at 0.63 to
# 0.91, the letters that are no digits mostly at 0.6 to 0.8.
UNLIKE_QUANTILE = 0.995  # of the distances of correctly predicted images; farther away is unlike the training data
LABEL_NOISE = 0.01  # probability below which a label is doubtful; about this share of labels is wrong in good data
RIVAL_PROBABILITY = 0.2  # from which the label is a real rival of the prediction
HESITANT_QUANTILE = 0.05  # of the margins of correctly predicted images; a smaller one is hesitant
MAX_CORRECT = 2_000  # correctly predicted images that the limits are taken from
MAX_TRAINING = 50_000  # training images among which neighbours are searched


@dataclass(frozen=True)
class Mistake:
    """One image that the model predicts wrongly, and why.

    Parameters
    ----------
    image : int
        Position among the images examined.
    cause : {"unlike", "mislabelled", "ambiguous", "fault"}
        The likeliest reason.
    label, predicted : int
        Positions in the model's classes.
    confidence, label_probability : float
        What the model gave the predicted class, and the label.
    strangeness : float
        Mean distance to the neighbours; 1 is the limit of "unlike".
    neighbours : tuple of int
        Positions of the nearest training images, the nearest first.

    Examples
    --------
    >>> Mistake(4, "ambiguous", 1, 7, 0.6, 0.3, 0.4, (12, 3, 9)).cause
    'ambiguous'
    """

    image: int
    cause: str
    label: int
    predicted: int
    confidence: float
    label_probability: float
    strangeness: float
    neighbours: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ErrorAnalysis:
    """All mistakes of a model on some labelled images, each with its probable cause.

    Parameters
    ----------
    images : LabelledImages
        The images examined.
    training : LabelledImages
        The images that the model was trained on.
    labelled : LabelledPredictions
        The model's predictions for the images examined, with their labels.
    mistakes : tuple of Mistake
        The most doubtful labels first. Each has `image` (a position in `images`), `cause` (unlike, mislabelled,
        ambiguous or fault), `label`, `predicted`, `confidence`, `label_probability`, `strangeness` and `neighbours`
        (positions in `training`).

    Examples
    --------
    >>> from imprint import load, train
    >>> digits = load("digits")
    >>> model = train(digits[:900], recipe="quick", epochs=1, min_steps=1, verbose=False).model
    >>> analysis = analyse_errors(model, digits[900:], digits[:900])
    >>> sum(analysis.counts().values()) == len(analysis.mistakes)
    True
    """

    images: LabelledImages
    training: LabelledImages
    labelled: LabelledPredictions
    mistakes: tuple[Mistake, ...]

    def __repr__(self) -> str:
        causes = ", ".join(f"{count:,} {cause}" for cause, count in self.counts().items() if count)
        found = f"{len(self.mistakes):,} mistakes in {len(self.images):,} images"
        return brief(self, found + (f": {causes}" if causes else ""))

    def of(self, cause: str) -> list[Mistake]:
        """Give the mistakes of one cause.

        Parameters
        ----------
        cause : {"unlike", "mislabelled", "ambiguous", "fault"}
            The cause.

        Returns
        -------
        list of Mistake
            In the order of `mistakes`.

        Examples
        --------
        >>> from imprint import load
        >>> digits, shifted = load("digits")[:3], np.eye(3, 10, 1, dtype=np.float32)
        >>> labelled = label_predictions(shifted, digits.labels, digits.class_names, np.zeros(3, dtype=bool))
        >>> analysis = ErrorAnalysis(digits, digits, labelled, (Mistake(0, "fault", 0, 1, 1.0, 0.0, 0.5, (1, 2)),))
        >>> [mistake.image for mistake in analysis.of("fault")]
        [0]
        """
        return [mistake for mistake in self.mistakes if mistake.cause == cause]

    def counts(self) -> dict[str, int]:
        """Count the mistakes of each cause.

        Returns
        -------
        dict of str to int
            All four causes, those without mistakes too.

        Examples
        --------
        >>> from imprint import load
        >>> digits, shifted = load("digits")[:3], np.eye(3, 10, 1, dtype=np.float32)
        >>> labelled = label_predictions(shifted, digits.labels, digits.class_names, np.zeros(3, dtype=bool))
        >>> analysis = ErrorAnalysis(digits, digits, labelled, (Mistake(0, "fault", 0, 1, 1.0, 0.0, 0.5, (1, 2)),))
        >>> analysis.counts()
        {'unlike': 0, 'mislabelled': 0, 'ambiguous': 0, 'fault': 1}
        """
        return {cause: len(self.of(cause)) for cause in CAUSES}

    def to_dicts(self) -> list[dict[str, Any]]:
        """Give the mistakes as plain JSON values, with names and sources in place of positions.

        Returns
        -------
        list of dict
            With `source`, `label`, `prediction`, `confidence`, `label_probability`, `cause`, `strangeness` and
            `nearest`, a list of the sources and labels of training images.

        Examples
        --------
        >>> from imprint import load
        >>> digits, shifted = load("digits")[:3], np.eye(3, 10, 1, dtype=np.float32)
        >>> labelled = label_predictions(shifted, digits.labels, digits.class_names, np.zeros(3, dtype=bool))
        >>> analysis = ErrorAnalysis(digits, digits, labelled, (Mistake(0, "fault", 0, 1, 1.0, 0.0, 0.5, (1, 2)),))
        >>> analysis.to_dicts()[0]["nearest"]
        [{'source': 'digits#2', 'label': '1'}, {'source': 'digits#3', 'label': '2'}]
        """
        names = self.labelled.class_names
        labels = self.training.labels_among(names)
        return [
            {
                "source": self.images.sources.item(one.image),
                "label": names[one.label],
                "prediction": names[one.predicted],
                "confidence": one.confidence,
                "label_probability": one.label_probability,
                "cause": one.cause,
                "strangeness": one.strangeness,
                "nearest": [
                    {"source": self.training.sources.item(i), "label": names[labels[i]]} for i in one.neighbours
                ],
            }
            for one in self.mistakes
        ]


def analyse_errors(
    model: Classifier,
    images: LabelledImages | Data,
    training: LabelledImages | Data,
    part: str | None = None,
) -> ErrorAnalysis:
    """Find the probable cause of each wrong prediction.

    Images are compared by the network's penultimate-layer embeddings. The first rule that holds names the cause:

    - *unlike the training data*: the three nearest training images are farther away on average than those of 199 in
      200 correctly predicted images. A prediction for such an image means little.
    - *label doubtful*: the label has a probability below 1 %, and the three nearest training images all have the
      predicted class as label. Look at the image before changing it: of good data most such labels are right.
    - *ambiguous*: the label comes second with a probability of 20 % or more, and the prediction leads by no more than
      it does for 1 in 20 correctly predicted images: a model that often hesitates says little about an image.
    - *the model's fault*: everything else.

    Parameters
    ----------
    model : Classifier
        The model.
    images : LabelledImages, or data as `load` takes it
        Images with labels that the model was not trained on.
    training : LabelledImages, or data as `load` takes it
        Images with labels that it was trained on. Exact copies of `images` among them are ignored; of more than 50,000
        a random choice is compared.
    part : {"train", "validation", "test"} or None, default=None
        Which part of `images` that come divided.

    Returns
    -------
    ErrorAnalysis
        The mistakes, each with its cause and its nearest training images.

    Raises
    ------
    DataError
        When labels are missing or unknown to the model, or no training images are left.

    References
    ----------
    Northcutt, Athalye and Mueller, "Pervasive label errors in test sets destabilize machine learning benchmarks",
    arXiv:2103.14749, for how often labels are wrong (3.3 % on average).

    Examples
    --------
    >>> from imprint import load, train
    >>> digits = load("digits")
    >>> model = train(digits[:900], recipe="quick", epochs=1, min_steps=1, verbose=False).model
    >>> analysis = analyse_errors(model, digits[900:], digits[:900])
    >>> len(analysis.mistakes[0].neighbours)
    3
    """
    images, training = model.ready(images, part), model.ready(training, None)
    labels, training_labels = (one.labels_among(model.class_names) for one in (images, training))
    said = model.predict(images)
    labelled = label_predictions(said.probabilities, labels, model.class_names, said.why, said.sources)
    mistakes = _find_mistakes(model, images, training, training_labels, labelled, said.probabilities)
    return ErrorAnalysis(images, training, labelled, tuple(mistakes))


def causes_of_unseen(model: Classifier, images: LabelledImages, training: LabelledImages | Data) -> dict[int, str]:
    """Name the causes of the mistakes on those images that are not among the training images, by position.

    Raises `DataError` as `analyse_errors` does, and where all are among them.
    """
    training = model.ready(training, None)
    unseen = np.flatnonzero(~np.isin(images.pixel_hashes, training.pixel_hashes))
    if not len(unseen):
        remedy = "Evaluate images that were held out."
        raise DataError("images", images.name, "the model has learnt from each of them", remedy)
    if len(unseen) < len(images):
        say(f"causes of mistakes are found for the {len(unseen):,} images that the model has not learnt from")
    analysis = analyse_errors(model, images[unseen], training)
    return {int(unseen[one.image]): one.cause for one in analysis.mistakes}


def _find_mistakes(
    model: Classifier,
    images: LabelledImages,
    training: LabelledImages,
    training_labels: Int64[ndarray, " m"],
    labelled: LabelledPredictions,
    probabilities: Float32[ndarray, "n classes"],
) -> list[Mistake]:
    """Name the cause of each mistake by its nearest training images and by the limits of the correct predictions."""
    searched = _sample(_without_copies(training, images), MAX_TRAINING)
    embeddings = features(model.network, training.pixels, model.spec, searched)
    wrong, margins, mistakes = labelled.worst(), _margins(probabilities), []
    near, distances = _neighbours(model, images, wrong, embeddings)
    far, hesitant = _limits(model, images, np.flatnonzero(labelled.correct), margins, embeddings)
    for image, neighbours, distance in zip(wrong.tolist(), searched[near], distances.tolist(), strict=True):
        predicted, probability = int(labelled.predicted[image]), float(labelled.label_probability[image])
        contradicted = bool((training_labels[neighbours] == predicted).all())
        second = int((probabilities[image] > probability).sum()) == 1
        cause = _cause(
            unlike=distance > far,
            mislabelled=contradicted and probability < LABEL_NOISE,
            ambiguous=second and probability >= RIVAL_PROBABILITY and float(margins[image]) <= hesitant,
        )
        mistakes.append(
            Mistake(
                image=image,
                cause=cause,
                label=int(labelled.labels[image]),
                predicted=predicted,
                confidence=float(labelled.confidence[image]),
                label_probability=probability,
                strangeness=distance / far,
                neighbours=tuple(neighbours.tolist()),
            )
        )
    return mistakes


def _limits(
    model: Classifier,
    images: LabelledImages,
    correct: Int64[ndarray, " k"],
    margins: Float32[ndarray, " n"],
    known: Float32[Tensor, "m features"],
) -> tuple[float, float]:
    """Give the distance above which an image is unlike the training data, and the margin of a hesitant prediction."""
    if not len(correct):
        return np.inf, -1.0  # nothing to compare with: no image is called unlike, no prediction hesitant
    _, distances = _neighbours(model, images, _sample(correct, MAX_CORRECT), known)
    far = max(1e-6, float(np.quantile(distances, UNLIKE_QUANTILE)))
    return far, float(np.quantile(margins[correct], HESITANT_QUANTILE))


def _cause(unlike: bool, mislabelled: bool, ambiguous: bool) -> str:
    if unlike:
        return "unlike"
    if mislabelled:
        return "mislabelled"
    return "ambiguous" if ambiguous else "fault"


def _without_copies(training: LabelledImages, images: LabelledImages) -> Int64[ndarray, " m"]:
    """Give the positions of the training images that are not among the images to examine."""
    others = np.flatnonzero(~np.isin(training.pixel_hashes, images.pixel_hashes))
    if not len(others):
        cause = "each of them is among the images to examine"
        raise DataError("training images", training.name, cause, "Examine images that were held out.")
    return others


def _sample(positions: Int64[ndarray, " n"], most: int) -> Int64[ndarray, " chosen"]:
    """Choose at most so many at random, always the same ones, in order."""
    if len(positions) <= most:
        return positions
    return np.sort(np.random.default_rng(7).choice(positions, most, replace=False))


def _margins(probabilities: Float32[ndarray, "n classes"]) -> Float32[ndarray, " n"]:
    """Give by how much the likeliest class leads the second."""
    two = np.partition(probabilities, -2, axis=1)[:, -2:]
    return np.asarray(two[:, 1] - two[:, 0])


def _neighbours(
    model: Classifier, images: LabelledImages, chosen: Int64[ndarray, " n"], known: Float32[Tensor, "m features"]
) -> tuple[Int64[ndarray, "n count"], Float32[ndarray, " n"]]:
    """Find the nearest training images of the chosen images, and their mean distance."""
    if not len(chosen):
        return np.empty((0, NEIGHBOURS), dtype=np.int64), np.empty(0, dtype=np.float32)
    near, distances = nearest(features(model.network, images.pixels, model.spec, chosen), known, NEIGHBOURS)
    return near, distances.mean(axis=1)
