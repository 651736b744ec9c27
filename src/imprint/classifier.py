"""Classifier: what training returns and a model file holds."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from numpy import ndarray
from torch import Tensor, nn

from imprint.augment import VIEWS
from imprint.data import Data, load
from imprint.device import choose_device
from imprint.glyph import GlyphForm
from imprint.images import LabelledImages
from imprint.input_spec import InputSpec
from imprint.metrics import tempered
from imprint.model_file import broken, read_model_file, write_model_file
from imprint.nets import build_net, smallest_side
from imprint.predict import Predictions, look_again, predict_probabilities
from imprint.progress import Reporter
from imprint.recipe import Recipe
from imprint.summary import Layer, summarise

MODEL_NAME, CHECKPOINT_NAME = "model.safetensors", "checkpoint.safetensors"  # within a run folder
RESUME = "resume"  # the fact, and the start of tensors' names, that a checkpoint holds beyond a model
LARGEST_SIDE, MOST_CLASSES = 4096, 100_000  # a file that claims more is not believed


@dataclass(frozen=True, eq=False)
class Classifier:
    """A trained network with all that is needed to use it.

    Parameters
    ----------
    net : nn.Module
        From prepared pictures to logits.
    class_names : tuple of str
        As the labels stood in the training data.
    spec : InputSpec
        What it expects of a picture.
    recipe : Recipe
        How it was taught.
    temperature : float
        What the network's logits are divided by, so that confidence fits accuracy. Training fits
        it on the validation pictures, and leaves it at 1 where there are none.
    unsure_below : float
        Predictions with less confidence than this are flagged unsure. Training sets it so
        that 1 % of the validation pictures are flagged.
    views_below : float
        Pictures that the network is less sure of than this are looked at again in the recipe's
        other views. Training sets it so that 5 % of the validation pictures are.
    score : dict or None
        How it did on the validation pictures, for information.

    Examples
    --------
    >>> from imprint import load, train
    >>> model = train(load("digits"), recipe="quick", settings=["epochs=1", "min_steps=1"], silent=True).model
    >>> len(model.predict(load("digits")))
    1797
    """

    net: nn.Module
    class_names: tuple[str, ...]
    spec: InputSpec
    recipe: Recipe
    temperature: float
    unsure_below: float
    views_below: float
    score: dict[str, Any] | None = None

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
        pixels = torch.from_numpy(self.ready(images).pixels)
        found = predict_probabilities(self.net, pixels, self.spec)
        found = look_again(self.net, pixels, self.spec, self.recipe.views, found, self.views_below)
        return tempered(found, self.temperature)

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
        """
        ready = self.ready(images)
        return Predictions(self.predict_proba(ready), self.class_names, ready.sources, self.unsure_below)

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

    def summary(self) -> list[Layer]:
        """List the network's layers as Keras would.

        Returns
        -------
        list of Layer
            Name, type, output shape and parameters of each.

        Examples
        --------
        >>> from imprint import load, train
        >>> model = train(load("digits"), recipe="quick", settings=["epochs=1", "min_steps=1"], silent=True).model
        >>> model.summary()[-1].output_shape
        (None, 10)
        """
        return summarise(self.net, (self.spec.channels, *self.spec.input_size))

    def save(self, path: str | Path) -> None:
        """Write the model to one file.

        Parameters
        ----------
        path : str or Path
            The file; it appears once it is whole, and replaces an older one.

        Raises
        ------
        UsageError
            When the file cannot be written.

        Examples
        --------
        >>> import tempfile
        >>> from imprint import load, train
        >>> model = train(load("digits"), recipe="quick", settings=["epochs=1", "min_steps=1"], silent=True).model
        >>> path = Path(tempfile.mkdtemp()) / "digits.safetensors"
        >>> model.save(path)
        >>> Classifier.load(path).class_names == model.class_names
        True
        """
        write_model_file(path, self.net.state_dict(), self.facts())

    def facts(self) -> dict[str, Any]:
        """Give everything but the weights, as a model file holds it.

        Returns
        -------
        dict
            Plain JSON values.

        Examples
        --------
        >>> from imprint import load, train
        >>> model = train(load("digits"), recipe="quick", settings=["epochs=1", "min_steps=1"], silent=True).model
        >>> model.facts()["recipe"]["name"]
        'quick'
        """
        return {
            "class_names": list(self.class_names),
            "input_spec": asdict(self.spec),
            "recipe": self.recipe.to_dict(),
            "temperature": self.temperature,
            "unsure_below": self.unsure_below,
            "views_below": self.views_below,
            "score": self.score,
        }

    @classmethod
    def load(cls, path: str | Path, device: str = "auto") -> Classifier:
        """Read a model.

        Parameters
        ----------
        path : str or Path
            A model file or run folder. Of a run that was stopped before its model was written, the last
            checkpoint is taken: its best epoch, neither calibrated nor with views.
        device : str, default="auto"
            Where to compute.

        Returns
        -------
        Classifier
            As it was saved.

        Raises
        ------
        ModelFileError
            When the file is not a whole model.

        Examples
        --------
        >>> Classifier.load("pyproject.toml")
        Traceback (most recent call last):
        imprint.errors.ModelFileError: model at pyproject.toml: ...
        """
        path = find_model(path)
        tensors, facts = read_model_file(path)
        try:
            classifier = _from_facts(facts)
            begun = RESUME not in facts or bool(facts[RESUME]["epochs"])
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
            raise broken(path, f"its header does not hold together ({error})") from None
        if not begun:
            remedy = f"Go on with imprint train --resume {path.parent}."
            raise broken(path, "training was stopped before its first epoch had ended", remedy)
        weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{RESUME}/")}
        _fill(classifier.net, weights, path)
        classifier.net.to(choose_device(device)).eval()
        return classifier


def find_model(path: str | Path) -> Path:
    """Find the model's file.

    Parameters
    ----------
    path : str or Path
        A model file or run folder.

    Returns
    -------
    Path
        In a run folder its model, or its checkpoint where there is no model yet.

    Examples
    --------
    >>> find_model("digits.safetensors").name
    'digits.safetensors'
    """
    path = Path(path)
    if not path.is_dir():
        return path
    stopped = (path / CHECKPOINT_NAME).is_file() and not (path / MODEL_NAME).exists()
    return path / (CHECKPOINT_NAME if stopped else MODEL_NAME)


def _from_facts(facts: dict[str, Any]) -> Classifier:
    """Rebuild a classifier from a model file's facts, its weights not yet there."""
    given = facts["input_spec"]
    sizes = [tuple(int(side) for side in given[key]) for key in ("picture_size", "input_size")]
    (height, width), (input_height, input_width) = sizes
    glyph = None if given["glyph"] is None else GlyphForm(**given["glyph"])
    if glyph is not None and [glyph.height, glyph.width] != given["picture_size"]:
        raise ValueError("the size of glyphs")
    spec = InputSpec(int(given["channels"]), (height, width), (input_height, input_width), glyph)
    names = tuple(facts["class_names"])
    score = facts["score"]
    recipe = Recipe.from_dict(facts["recipe"])
    if recipe.views not in (*VIEWS, "none"):
        raise ValueError("views")
    if not 1 <= spec.channels <= 4 or not 1 <= len(set(names)) == len(names) <= MOST_CLASSES:
        raise ValueError("channels or classes")
    listed = isinstance(facts["class_names"], list) and all(isinstance(name, str) for name in names)
    if not listed or not isinstance(score, dict | None):
        raise ValueError("class names or score")
    if min(spec.input_size) < smallest_side(recipe.net) or min(spec.picture_size) < 1:
        raise ValueError("pictures too small")
    if max(*spec.input_size, *spec.picture_size) > LARGEST_SIDE:
        raise ValueError("pictures too large")
    with torch.device("meta"):
        net = build_net(recipe.net, spec.channels, spec.input_size, len(names))
    temperature, unsure_below, views_below = (
        float(facts[key]) for key in ("temperature", "unsure_below", "views_below")
    )
    if not 0 < temperature < math.inf or not all(0 <= limit <= 1 for limit in (unsure_below, views_below)):
        raise ValueError("temperature or limits of confidence")
    return Classifier(net, names, spec, recipe, temperature, unsure_below, views_below, score)


def _fill(net: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Put a file's tensors into a network whose own are only outlines, if every name, shape and number fits."""
    outlines = net.state_dict()
    if set(outlines) != set(tensors):
        raise broken(path, f"its tensors are not those of the network ({', '.join(set(outlines) ^ set(tensors))})")
    for name, tensor in tensors.items():
        if tensor.shape != outlines[name].shape or tensor.dtype != outlines[name].dtype:
            raise broken(path, f"tensor {name} has the wrong shape or type")
        if not bool(torch.isfinite(tensor).all()):
            raise broken(path, f"tensor {name} holds numbers that are not finite")
    net.load_state_dict(tensors, assign=True)
