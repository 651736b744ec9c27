"""Classifier: what training returns and a model file holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32, UInt8
from numpy import ndarray
from torch import Tensor, nn

from imprint.device import choose_device
from imprint.familiarity import Familiarity, logits_and_features
from imprint.input_spec import InputSpec
from imprint.metrics import tempered
from imprint.model_file import broken, read_model_file, write_model_file
from imprint.nets import build_net, smallest_side
from imprint.predict import doubts, look_again, predict_with_features
from imprint.predictor import Predictor
from imprint.recipe import Recipe
from imprint.summary import Layer, summarise

MODEL_NAME = "model.safetensors"  # within a run folder
FAMILIARITY = "familiarity."  # before the names of its tensors in the file
FAMILIARITY_TENSORS = ("centres", "whitening")
MOST_CLASSES = 100_000  # a file that claims more is not believed


@dataclass(frozen=True, eq=False)
class Classifier(Predictor):
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
    familiarity : Familiarity
        What the network's features are like for pictures as it was taught with.
    unsure_above : float
        Predictions with more doubt than this are flagged unsure; see `confidence.conformal_limit` for what that
        promises, and `predict.doubts` for what doubt is.
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
    familiarity: Familiarity
    unsure_above: float
    views_below: float
    score: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self.net.eval()  # here and not when asked, since two threads may ask at once

    def _answers(
        self, pixels: UInt8[ndarray, "n c h w"]
    ) -> tuple[Float32[ndarray, "n classes"], Float32[ndarray, " n"]]:
        given = torch.from_numpy(pixels)
        found, features = predict_with_features(self.net, given, self.spec)
        found = look_again(self.net, given, self.spec, self.recipe.views, found, self.views_below)
        probabilities = tempered(found, self.temperature)
        predicted = torch.from_numpy(probabilities.argmax(axis=1)).to(features.device)
        return probabilities, doubts(probabilities, self.familiarity.to(features.device).distances(features, predicted))

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
        facts = {
            "class_names": list(self.class_names),
            "input_spec": asdict(self.spec),
            "recipe": self.recipe.to_dict(),
            "temperature": self.temperature,
            "unsure_above": self.unsure_above,
            "views_below": self.views_below,
            "score": self.score,
        }
        usual = {f"{FAMILIARITY}{name}": getattr(self.familiarity, name) for name in FAMILIARITY_TENSORS}
        write_model_file(path, self.net.state_dict() | usual, facts)

    @classmethod
    def load(cls, path: str | Path, device: str = "auto") -> Classifier:
        """Read a model.

        Parameters
        ----------
        path : str or Path
            A model file or run folder.
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
        path = Path(path)
        path = path / MODEL_NAME if path.is_dir() else path
        tensors, facts = read_model_file(path)
        try:
            classifier = _from_facts(facts)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise broken(path, f"its header does not hold together ({error})") from None
        usual = {name: tensors.pop(f"{FAMILIARITY}{name}", None) for name in FAMILIARITY_TENSORS}
        _fill(classifier.net, tensors, path)
        classifier.net.to(choose_device(device)).eval()
        return replace(classifier, familiarity=_familiarity(usual, classifier, path))


def _from_facts(facts: dict[str, Any]) -> Classifier:
    """Rebuild a classifier from a model file's facts, its weights not yet there."""
    spec = InputSpec.from_dict(facts["input_spec"])
    names = tuple(str(name) for name in facts["class_names"])
    recipe = Recipe.from_dict(facts["recipe"])
    if not 1 <= len(set(names)) == len(names) <= MOST_CLASSES:
        raise ValueError("classes")
    if min(spec.input_size) < smallest_side(recipe.net):
        raise ValueError("pictures too small")
    with torch.device("meta"):
        net = build_net(recipe.net, spec.channels, spec.input_size, len(names))
    temperature, unsure_above, views_below = (
        float(facts[key]) for key in ("temperature", "unsure_above", "views_below")
    )
    if not 0 < temperature < math.inf:
        raise ValueError("temperature")
    if not (math.isfinite(unsure_above) and math.isfinite(views_below)):
        raise ValueError("limits")
    empty = Familiarity(torch.empty(0, 0), torch.empty(0, 0, 0))
    return Classifier(net, names, spec, recipe, temperature, empty, unsure_above, views_below, facts.get("score"))


def _familiarity(given: Mapping[str, Tensor | None], classifier: Classifier, path: Path) -> Familiarity:
    """Check what a file says of usual features against the network whose features they are."""
    spec = classifier.spec
    blank = torch.zeros(1, spec.channels, *spec.input_size, device=next(classifier.net.parameters()).device)
    with torch.inference_mode():
        features = logits_and_features(classifier.net, blank)[1].shape[1]
    classes = len(classifier.class_names)
    each_or_one = [(count, features, features) for count in (classes, 1)]
    shapes: dict[str, Sequence[tuple[int, ...]]] = {"centres": [(classes, features)], "whitening": each_or_one}
    for name, tensor in given.items():
        if tensor is None or tuple(tensor.shape) not in shapes[name] or tensor.dtype != torch.float32:
            raise broken(path, f"tensor {FAMILIARITY}{name} is missing, or has the wrong shape or type")
        if not bool(torch.isfinite(tensor).all()):
            raise broken(path, f"tensor {FAMILIARITY}{name} holds numbers that are not finite")
    return Familiarity(**{name: tensor for name, tensor in given.items() if tensor is not None})


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
