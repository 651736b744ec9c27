"""Scoring a model on labelled pictures."""

from __future__ import annotations

from imprint.classifier import Classifier
from imprint.images import LabelledImages
from imprint.metrics import Score, score


def evaluate(model: Classifier, images: LabelledImages) -> Score:
    """Score a model on labelled pictures; classes are matched by name.

    Parameters
    ----------
    model : Classifier
        The model.
    images : LabelledImages
        Pictures with labels, of the form that the model was taught with.

    Returns
    -------
    Score
        Accuracy with its 95 % interval, baseline, log loss, calibration error and confusion.

    Raises
    ------
    DataError
        When labels are missing or unknown to the model, or pictures have another form.

    Examples
    --------
    >>> from imprint import load, train
    >>> digits = load("digits")
    >>> model = train(digits, recipe="quick", settings=["epochs=1", "min_steps=1"], silent=True).model
    >>> evaluate(model, digits).images
    1797
    """
    labels = images.labels_among(model.class_names)
    predictions = model.predict(images)
    return score(predictions.probabilities, labels, model.class_names, predictions.unsure)
