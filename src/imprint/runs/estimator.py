"""ImageClassifier: training and prediction as a scikit-learn estimator, and the note that its model file keeps."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Float32, Shaped
from numpy import ndarray
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from imprint.core.errors import DataError, UsageError
from imprint.data.images import LabelledImages
from imprint.data.load import load
from imprint.data.readers.arrays import Shape, has_alpha
from imprint.data.readers.memory import Data, holds_files, without_tensors
from imprint.data.readers.rows import as_rows, range_like, settle_range, settle_shape, to_pixels
from imprint.models.classifier import Classifier
from imprint.models.model_file import broken
from imprint.preprocessing.depth import Range
from imprint.preprocessing.input_spec import fit_all
from imprint.recipes import Recipe, RecipeFields, parse_settings
from imprint.runs.training import train

NOTE = "scikit-learn"  # key of the note among a model file's notes
WHERE = "ImageClassifier"  # in messages


class ImageClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """An image classifier for scikit-learn's pipelines, cross-validation and searches.

    `X` is an array of images, n × height × width, or with 1 or 3 channels last or first; or rows of pixels as
    scikit-learn's data sets hold them, channels last. uint8 is taken as brightness from 0 to 255. Any other numbers are
    scaled so that `pixel_range` becomes 0 to 255, rounded, and clipped. Tensors are taken as arrays. `X` may also be
    whatever else `load` takes, such as paths or PIL images; none of these may be unreadable. Labels are numbers or
    text, and predictions are of the same type.

    Parameters
    ----------
    recipe : str, Recipe or None, default="quick"
        A recipe, its name or the path of a recipe.json; None lets the images decide.
    image_shape : tuple of int or None, default=None
        Height, width and, for colour, channels of images that are given as rows; one of them may be -1, as in
        ``numpy.reshape``. None takes rows for square grey images.
    pixel_range : tuple of float or None, default=None
        The numbers that mean black and white. None is 0 and 255 for uint8. For other types it is 0 and 1 where all
        training pixels lie between; the 1st and the 99th percentile where some are negative, as from StandardScaler;
        else the least and the greatest.
    epochs, batch_size : int or None, default=None
        In place of the recipe's.
    learning_rate : float or None, default=None
        In place of the recipe's.
    settings : mapping, sequence of str or None, default=None
        Any other fields of the recipe to change, such as ``{"rotation": 0}`` or ``["rotation=0"]``.
    validation_fraction : float or None, default=None
        Share of the training images to hold out, which calibrates confidence; None takes the recipe's.
    random_state : int, RandomState or None, default=None
        Seed of weights, order, augmentation and dropout; None takes the recipe's, so that fits can be repeated.
    device : {"auto", "cpu", "cuda", "mps"}, default="auto"
        Where to compute.
    verbose : bool, default=False
        Whether to report each epoch on stderr.

    Attributes
    ----------
    classes_ : ndarray, shape (classes,)
        The labels, each once, sorted.
    n_features_in_ : int
        Numbers in an image.
    image_shape_ : tuple of int
        Height, width and, for colour, channels.
    pixel_range_ : tuple of float
        The numbers that mean black and white.
    model_ : Classifier
        The trained model.
    history_ : dict of str to list of float
        One value an epoch, as in `Run.history`; empty after `load`.
    validation_ : Score or None
        On the images held out; None where there were none, and after `load`.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> classifier = ImageClassifier("quick", epochs=1).fit(X[:1000], y[:1000])
    >>> classifier.score(X[1000:], y[1000:]) > 0.8
    True
    >>> classifier.predict(X[:3]).dtype
    dtype('int64')
    """

    def __init__(
        self,
        recipe: str | Recipe | None = "quick",
        *,
        image_shape: Sequence[int] | None = None,
        pixel_range: tuple[float | int, float | int] | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        settings: Mapping[str, Any] | Sequence[str] | None = None,
        validation_fraction: float | int | None = None,
        random_state: int | np.random.RandomState | None = None,
        device: str = "auto",
        verbose: bool = False,
    ) -> None:
        self.recipe = recipe
        self.image_shape = image_shape
        self.pixel_range = pixel_range
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.settings = settings
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(self, X: Data, y: ArrayLike) -> ImageClassifier:  # noqa: N803
        """Train on labelled images.

        Parameters
        ----------
        X : array, shape (n, height, width), (n, height, width, channels) or (n, pixels), or list of images
            Images.
        y : array, shape (n,)
            A label for each, numbers or text, of two classes at least.

        Returns
        -------
        ImageClassifier
            Itself.

        Raises
        ------
        DataError
            When images or labels cannot be used.
        UsageError
            When a parameter makes no sense, or training diverges.

        Examples
        --------
        >>> from imprint import load
        >>> digits = load("digits")
        >>> ImageClassifier(epochs=1, settings={"min_steps": 1}).fit(digits.pixels[:, 0], digits.labels).image_shape_
        (8, 8)
        """
        settled = dict[str, Any]()
        if holds_files(X) or has_alpha(X):
            loaded = load(X, allow_bad=0.0)
            if self.pixel_range is not None and loaded.pixel_range is not None:
                cause = "images of more than 8 bits get the range of all of them"
                raise UsageError(f"pixel_range {self.pixel_range!r}", WHERE, cause, "Leave it out, or give arrays.")
            X = loaded.pixels.transpose(0, 2, 3, 1)  # noqa: N806
            settled = {"pixel_range": loaded.pixel_range, "background": loaded.background}
        rows, given_shape = as_rows(without_tensors(X), "X")
        with _one_line("X or y"):
            rows, y = validate_data(self, rows, y)
            check_classification_targets(y)
        self.image_shape_ = settle_shape(self.image_shape, given_shape, rows.shape[1])
        self.pixel_range_ = settle_range(self.pixel_range, rows)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise DataError("labels", "y", "there is only one class", "Give images of two classes at least.")
        names = tuple(map(class_name, self.classes_.tolist()))
        images = self._images(rows, self.image_shape_, self.pixel_range_, labels.astype(np.int64), names)
        images = replace(images, **settled)
        run = train(images, self.recipe, device=self.device, verbose=self.verbose, **self._fields())
        self.model_, self.history_, self.validation_ = run.model, run.history, run.validation
        return self

    def predict(self, X: LabelledImages | Data) -> Shaped[ndarray, " n"]:  # noqa: N803
        """Predict each image's class.

        Parameters
        ----------
        X : array, or what `load` takes
            Rows as wide as those that the classifier was fitted with, or images, which are brought into the form of
            those. Numbers from 0 to 1 and from 0 to 255 do for each other.

        Returns
        -------
        ndarray, shape (n,)
            Labels, of the type that `y` had.

        Raises
        ------
        DataError
            When rows have another width, pixels another range, or an image cannot be read.

        Examples
        --------
        >>> from imprint import load
        >>> digits = load("digits")
        >>> names = np.array(digits.class_names)[digits.labels]
        >>> classifier = ImageClassifier(epochs=1, settings={"min_steps": 1}).fit(digits.pixels, names)
        >>> classifier.predict(digits.pixels[:2]).dtype
        dtype('<U1')
        """
        likeliest = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[likeliest])

    def predict_proba(self, X: LabelledImages | Data) -> Float32[ndarray, "n classes"]:  # noqa: N803
        """Predict each image's probability of each class.

        Parameters
        ----------
        X : array, or what `load` takes
            Rows as wide as those that the classifier was fitted with, or images, which are brought into the form of
            those. Numbers from 0 to 1 and from 0 to 255 do for each other.

        Returns
        -------
        ndarray of float32, shape (n, classes)
            Columns as in `classes_`; rows sum to 1.

        Raises
        ------
        DataError
            When rows have another width, pixels another range, or an image cannot be read.

        Examples
        --------
        >>> from imprint import load
        >>> digits = load("digits")
        >>> classifier = ImageClassifier(epochs=1, settings={"min_steps": 1}).fit(digits.pixels, digits.labels)
        >>> classifier.predict_proba(digits.pixels[:2]).shape
        (2, 10)
        """
        check_is_fitted(self)
        if isinstance(X, LabelledImages):
            return self.model_.predict_proba(X)
        spec = self.model_.spec
        if holds_files(X) or has_alpha(X, spec.image_size) or spec.pixel_range is not None:
            return self.model_.predict_proba(load(X, spec=spec, allow_bad=0.0))
        rows, given_shape = as_rows(without_tensors(X), "X", spec)
        with _one_line("X"):
            fitted_shape = given_shape in (None, self.image_shape_)
            rows = validate_data(self, rows, reset=False) if fitted_shape else check_array(rows)
        images = self._images(rows, given_shape or self.image_shape_, range_like(rows, self.pixel_range_))
        return self.model_.predict_proba(replace(images, pixels=fit_all(images.pixels, spec)))

    def save(self, path: str | Path) -> None:
        """Write the fitted classifier to a model file, which the command line and `Classifier.load` read too.

        Parameters
        ----------
        path : str or Path
            The file; written whole or not at all, in place of an older one.

        Raises
        ------
        UsageError
            When the file cannot be written, or labels are neither numbers nor text.

        Examples
        --------
        >>> import tempfile
        >>> from imprint import load
        >>> digits = load("digits")
        >>> path = Path(tempfile.mkdtemp()) / "digits.safetensors"
        >>> classifier = ImageClassifier(epochs=1, settings={"min_steps": 1}).fit(digits.pixels, digits.labels)
        >>> classifier.save(path)
        >>> ImageClassifier.load(path).predict(digits.pixels[:3]).dtype
        dtype('int64')
        """
        check_is_fitted(self)
        note = EstimatorNote(self.get_params(deep=False), self.classes_, self.image_shape_, self.pixel_range_)
        replace(self.model_, notes={NOTE: note.facts()}).save(path)

    @classmethod
    def load(cls, path: str | Path, device: str = "auto") -> ImageClassifier:
        """Read a fitted classifier, or turn any model into one.

        Parameters
        ----------
        path : str or Path
            A file that `save` wrote; or another model file or run folder, with labels as text and pixels from 0 to
            255.
        device : str, default="auto"
            Where to compute.

        Returns
        -------
        ImageClassifier
            As it was saved, without `history_` and `validation_`.

        Raises
        ------
        ModelFileError
            When the file is missing, damaged or no model.

        Examples
        --------
        >>> ImageClassifier.load("pyproject.toml")
        Traceback (most recent call last):
        imprint.core.errors.ModelFileError: model at pyproject.toml: ...
        """
        model = Classifier.load(path, device)
        try:
            note = read_note(model)
            classifier = cls(**note.parameters)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise broken(path, f"its note of an ImageClassifier is inconsistent ({error})") from None
        classifier.classes_, classifier.image_shape_ = note.classes, note.image_shape
        classifier.pixel_range_, classifier.n_features_in_ = note.pixel_range, math.prod(note.image_shape)
        classifier.model_, classifier.history_, classifier.validation_ = model, {}, None
        return classifier

    def _images(
        self,
        rows: ndarray,
        shape: Shape,
        pixel_range: Range,
        labels: ndarray | None = None,
        class_names: tuple[str, ...] = (),
    ) -> LabelledImages:
        pixels = to_pixels(rows, shape, pixel_range)
        return LabelledImages(pixels, labels, class_names, np.arange(1, len(pixels) + 1), "X")

    def _fields(self) -> RecipeFields:
        """Join all parameters that change the recipe."""
        given = {} if self.settings is None else self.settings
        if isinstance(given, str) or not isinstance(given, Mapping | Sequence):
            cause = "it is neither a dict nor a list"
            raise UsageError(f"settings {given!r}", WHERE, cause, 'Give {"epochs": 3} or ["epochs=3"].')
        fields: dict[Any, Any] = dict(given) if isinstance(given, Mapping) else parse_settings(map(str, given))
        for name in ("epochs", "batch_size", "learning_rate", "validation_fraction"):
            if (value := getattr(self, name)) is not None:
                fields[name] = value
        if (seed := self._seed()) is not None:
            fields["seed"] = seed
        for name in fields:
            if name not in RecipeFields.__annotations__:  # `train` would take some of them for something else
                known = ", ".join(RecipeFields.__annotations__)
                raise UsageError(f"field {name!r}", WHERE, "recipes have none of that name", f"Fields: {known}.")
        return cast(RecipeFields, fields)

    def _seed(self) -> int | None:
        if self.random_state is None or isinstance(self.random_state, int):
            return self.random_state
        try:
            return int(check_random_state(self.random_state).randint(2**31 - 1))
        except ValueError:
            raise UsageError(f"random_state {self.random_state!r}", WHERE, "it is no seed", "Give an int.") from None

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Raise scikit-learn's complaints about input as Imprint's errors of one line."""
    try:
        yield
    except ValueError as error:
        cause = re.sub(r"\[.*\]", "[…]", " ".join(str(error).split())).rstrip(".")  # it prints whole arrays
        raise DataError(what, WHERE, cause, "Give images as an array, and a label for each to fit.") from None


@dataclass(frozen=True, eq=False)
class EstimatorNote:
    """What a fitted ImageClassifier knows beyond its model; fields as its parameters and attributes."""

    parameters: dict[str, Any]
    classes: Shaped[ndarray, " classes"]
    image_shape: tuple[int, ...]
    pixel_range: tuple[float, float]

    def facts(self) -> dict[str, Any]:
        """Give the note as plain JSON values, which `read_note` reads; a random generator's state is not kept."""
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
    """Read a model's note and check it against the model; of one without a note, labels are text, pixels 0 to 255.

    Raises KeyError, TypeError, ValueError or AttributeError where the note is inconsistent.
    """
    spec = model.spec
    plain = {
        "classes": list(model.class_names),
        "label_type": "U",
        "image_shape": [*spec.image_size, *([spec.channels] if spec.channels > 1 else [])],
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
    if (channels, (height, width)) != (spec.channels, spec.image_size) or not low < high:
        raise ValueError("shape or range")
    return EstimatorNote(parameters, classes, shape, (low, high))


def class_name(label: Any) -> str:
    """Name the class of a label in `y` as a CSV would: whole numbers without a point."""
    return f"{label:.0f}" if isinstance(label, float) and label.is_integer() else str(label)
