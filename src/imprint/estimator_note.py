"""EstimatorNote: what a model file keeps of an ImageClassifier beyond its model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Shaped
from numpy import ndarray

from imprint.classifier import Classifier
from imprint.recipe import Recipe

NOTE = "scikit-learn"  # among a model file's notes


@dataclass(frozen=True, eq=False)
class EstimatorNote:
    """What a fitted ImageClassifier knows beyond its model.

    Parameters
    ----------
    parameters : dict
        It was made with.
    classes : ndarray, shape (classes,)
        Labels as they were given, sorted.
    image_shape : tuple of int
        Height, width and, for colour, channels.
    pixel_range : tuple of float
        The numbers that mean black and white.

    Examples
    --------
    >>> EstimatorNote({"recipe": "quick"}, np.array([3, 8]), (28, 28), (0.0, 1.0)).facts()["classes"]
    [3, 8]
    """

    parameters: dict[str, Any]
    classes: Shaped[ndarray, " classes"]
    image_shape: tuple[int, ...]
    pixel_range: tuple[float, float]

    def facts(self) -> dict[str, Any]:
        """Give the note as plain JSON values; a random generator's state is not kept.

        Returns
        -------
        dict
            From which `read_note` makes it again.

        Examples
        --------
        >>> EstimatorNote({"recipe": "quick"}, np.array(["a", "b"]), (28, 28), (0.0, 1.0)).facts()["label_type"]
        '<U1'
        """
        parameters = dict(self.parameters)
        if isinstance(parameters["recipe"], Recipe):
            parameters["recipe"] = parameters["recipe"].to_dict()
        if not isinstance(parameters.get("random_state"), int):
            parameters["random_state"] = None
        return {
            "classes": self.classes.tolist(),
            "label_type": self.classes.dtype.str,
            "image_shape": list(self.image_shape),
            "pixel_range": list(self.pixel_range),
            "parameters": parameters,
        }


def read_note(model: Classifier) -> EstimatorNote:
    """Read a model's note, or make one: labels are words then, and pixels go from 0 to 255.

    Parameters
    ----------
    model : Classifier
        Any model.

    Returns
    -------
    EstimatorNote
        Checked against the model, but for the parameters.

    Raises
    ------
    KeyError, TypeError, ValueError or AttributeError
        When it does not hold together.

    Examples
    --------
    >>> from imprint import load, train
    >>> model = train(load("digits"), recipe="quick", settings=["epochs=1", "min_steps=1"], silent=True).model
    >>> read_note(model).image_shape
    (8, 8)
    """
    spec = model.spec
    plain = {
        "classes": list(model.class_names),
        "label_type": "U",
        "image_shape": [*spec.picture_size, *([spec.channels] if spec.channels > 1 else [])],
        "pixel_range": [0, 255],
        "parameters": {"recipe": model.recipe.to_dict()},
    }
    facts: Mapping[str, Any] = (model.notes or {}).get(NOTE, plain)
    parameters = dict(facts["parameters"])
    if isinstance(parameters["recipe"], dict):
        parameters["recipe"] = Recipe.from_dict(parameters["recipe"])
    label_type = np.dtype(facts["label_type"])
    classes = np.array(facts["classes"], dtype=label_type)
    if tuple(map(class_name, classes.tolist())) != model.class_names or label_type.kind not in "biufUO":
        raise ValueError("classes")
    shape = tuple(map(int, facts["image_shape"]))
    height, width, channels = (*shape, 1)[:3]
    low, high = map(float, facts["pixel_range"])
    if (channels, (height, width)) != (spec.channels, spec.picture_size) or not low < high:
        raise ValueError("shape or range")
    return EstimatorNote(parameters, classes, shape, (low, high))


def class_name(label: Any) -> str:
    """Name a class as a CSV would: whole numbers without a point.

    Parameters
    ----------
    label : int, float, bool or str
        As `y` holds it.

    Returns
    -------
    str
        For `Classifier.class_names`.

    Examples
    --------
    >>> class_name(3.0), class_name(True)
    ('3', 'True')
    """
    return f"{label:.0f}" if isinstance(label, float) and label.is_integer() else str(label)
