"""The parts of a saved model, read from its file and checked against each other before anything is computed."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32, UInt8
from numpy import ndarray
from torch import Tensor, nn

from imprint.core.files import make_folder
from imprint.core.metrics import tempered
from imprint.models.hardware import choose_device
from imprint.models.hub import download, upload, write_card
from imprint.models.inference import (
    TTA_VIEWS,
    in_distribution,
    predict_with_embeddings,
    test_time_augment,
    uncertainty_score,
)
from imprint.models.model_file import MODEL_NAME, broken, find_model, read_model_file, write_model_file
from imprint.models.networks import build_network, build_networks, smallest_side
from imprint.models.ood import MahalanobisScore, count_embeddings, ood_detector_classes
from imprint.models.predictor import Predictor
from imprint.models.summary import Layer, summarise
from imprint.preprocessing.input_spec import InputSpec
from imprint.recipes import Recipe

RESUME = "resume"  # the fact, and the start of tensors' names, that a checkpoint holds beyond a model
OOD_PREFIX = "familiarity."  # before the names of its tensors in the file
OOD_TENSORS = ("centres", "whitening")
GUARD = "guard."  # before the names of its tensors
MOST_CLASSES = 100_000  # a file that claims more is not believed


def read_parts(path: Path) -> dict[str, Any]:
    """Read what a model file holds.

    Parameters
    ----------
    path : Path
        A model file, or a checkpoint, of which the best epoch is taken.

    Returns
    -------
    dict
        Every field of a `Classifier`.

    Raises
    ------
    ModelFileError
        When the file is not a whole model.

    Examples
    --------
    >>> read_parts(Path("pyproject.toml"))
    Traceback (most recent call last):
    imprint.core.errors.ModelFileError: model at pyproject.toml: ...
    """
    tensors, facts = read_model_file(path)
    try:
        parts = _parts(facts)
        begun = RESUME not in facts or bool(facts[RESUME]["epochs"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
        raise broken(path, f"its header does not hold together ({error})") from None
    if not begun:
        remedy = f"Go on with imprint train --resume {path.parent}."
        raise broken(path, "training was stopped before its first epoch had ended", remedy)
    usual = {name: tensors.pop(f"{OOD_PREFIX}{name}", None) for name in OOD_TENSORS}
    network, ood_detector, classes = parts["network"], parts["ood_detector"], len(parts["class_names"])
    if ood_detector is not None:
        of_guard = [name for name in tensors if name.startswith(GUARD)]
        _fill(ood_detector, {name.removeprefix(GUARD): tensors.pop(name) for name in of_guard}, path)
    _fill(network, {name: tensor for name, tensor in tensors.items() if not name.startswith(f"{RESUME}/")}, path)
    features = count_embeddings(network)
    ood_score = _unknown(classes, features) if RESUME in facts else _ood_score(usual, classes, features, path)
    return parts | {"ood_score": ood_score}


def _parts(facts: dict[str, Any]) -> dict[str, Any]:
    """Check a model file's facts; the network's weights are not yet there."""
    spec = InputSpec.from_dict(facts["input_spec"])
    if spec.glyph is not None and (spec.glyph.height, spec.glyph.width) != spec.image_size:
        raise ValueError("the size of glyphs")
    names, score = tuple(facts["class_names"]), facts["score"]
    recipe = Recipe.from_dict(facts["recipe"])
    if recipe.tta not in (*TTA_VIEWS, "none"):
        raise ValueError("tta")
    if not 1 <= len(set(names)) == len(names) <= MOST_CLASSES:
        raise ValueError("classes")
    listed = isinstance(facts["class_names"], list) and all(isinstance(name, str) for name in names)
    if not listed or not isinstance(score, dict | None):
        raise ValueError("class names or score")
    if min(spec.input_size) < smallest_side(recipe.all_networks):
        raise ValueError("images too small")
    with torch.device("meta"):
        network = build_networks(recipe.networks, spec.channels, spec.input_size, len(names))
        told_apart = ood_detector_classes(recipe, spec.image_size, len(names))
        ood_detector = (
            build_network(recipe.ood_detector, spec.channels, spec.input_size, told_apart)
            if recipe.ood_detector
            else None
        )
    temperature, unsure_above, tta_below = (float(facts[key]) for key in ("temperature", "unsure_above", "tta_below"))
    if not 0 < temperature < math.inf:
        raise ValueError("temperature")
    notes = facts.get("notes")
    if not isinstance(notes, dict | None):
        raise ValueError("notes")
    if not (math.isfinite(unsure_above) and math.isfinite(tta_below)):
        raise ValueError("limits")
    return {
        "network": network,
        "ood_detector": ood_detector,
        "class_names": names,
        "spec": spec,
        "recipe": recipe,
        "temperature": temperature,
        "unsure_above": unsure_above,
        "tta_below": tta_below,
        "score": score,
        "notes": notes,
    }


def _ood_score(given: Mapping[str, Tensor | None], classes: int, features: int, path: Path) -> MahalanobisScore:
    """Check what a file says of usual features against the network whose features they are."""
    each_or_one = [(count, features, features) for count in (classes, 1)]
    shapes: dict[str, Sequence[tuple[int, ...]]] = {"centres": [(classes, features)], "whitening": each_or_one}
    for name, tensor in given.items():
        if tensor is None or tuple(tensor.shape) not in shapes[name] or tensor.dtype != torch.float32:
            raise broken(path, f"tensor {OOD_PREFIX}{name} is missing, or has the wrong shape or type")
        if not bool(torch.isfinite(tensor).all()):
            raise broken(path, f"tensor {OOD_PREFIX}{name} holds numbers that are not finite")
    return MahalanobisScore(**{name: tensor for name, tensor in given.items() if tensor is not None})


def _unknown(classes: int, features: int) -> MahalanobisScore:
    """Stand in for what a run that was stopped has not measured yet: everything lies near."""
    return MahalanobisScore(torch.zeros(classes, features), torch.zeros(1, features, features))


def _fill(network: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Put a file's tensors into a network whose own are only outlines, if every name, shape and number fits."""
    outlines = network.state_dict()
    if set(outlines) != set(tensors):
        differ = sorted(set(outlines) ^ set(tensors))
        raise broken(path, f"its tensors are not those of the network ({', '.join(differ[:3])}; {len(differ)} in all)")
    for name, tensor in tensors.items():
        if tensor.shape != outlines[name].shape or tensor.dtype != outlines[name].dtype:
            raise broken(path, f"tensor {name} has the wrong shape or type")
        if not bool(torch.isfinite(tensor).all()):
            raise broken(path, f"tensor {name} holds numbers that are not finite")
    network.load_state_dict(tensors, assign=True)


UNFITTED = MahalanobisScore(torch.empty(0, 0), torch.empty(0, 0, 0))  # until it is known
NEVER_UNSURE = 1e9  # more doubt than there is


@dataclass(frozen=True, eq=False)
class Classifier(Predictor):
    """A trained network with all that is needed to use it.

    Parameters
    ----------
    net : nn.Module
        From prepared images to logits.
    class_names : tuple of str
        As the labels stood in the training data.
    spec : InputSpec
        What it expects of an image.
    recipe : Recipe
        How it was trained.
    temperature : float
        What the network's logits are divided by, so that confidence fits accuracy. Training fits
        it on the validation images, and leaves it at 1 where there are none.
    familiarity : MahalanobisScore
        What the network's features are like for images as it was trained on.
    unsure_above : float
        Predictions with more doubt than this are flagged unsure; see `confidence.conformal_limit` for what that
        promises, and `predict.doubts` for what doubt is.
    tta_below : float
        Images that the network is less sure of than this are looked at again in the recipe's
        other views. Training sets it so that 5 % of the validation images are.
    guard : nn.Module or None, default=None
        Tells images from strangers made of them; see `strangers.make_synthetic_ood`. None where the recipe has none.
    score : dict or None
        How it did on the validation images, for information.
    notes : dict or None, default=None
        What a program that uses the model wants to keep with it, as plain JSON values.

    Examples
    --------
    >>> from imprint import load, train
    >>> model = train(load("digits"), recipe="quick", epochs=1, min_steps=1, verbose=False).model
    >>> len(model.predict(load("digits")))
    1797
    """

    network: nn.Module
    class_names: tuple[str, ...]
    spec: InputSpec
    recipe: Recipe
    temperature: float
    ood_score: MahalanobisScore
    unsure_above: float
    tta_below: float
    ood_detector: nn.Module | None = None
    score: dict[str, Any] | None = None
    notes: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self.network.eval()  # here and not when asked, since two threads may ask at once
        if self.ood_detector is not None:
            self.ood_detector.eval()

    def _compute(
        self, pixels: UInt8[ndarray, "n c h w"]
    ) -> tuple[Float32[ndarray, "n classes"], Float32[ndarray, " n"]]:
        found, features = predict_with_embeddings(self.network, pixels, self.spec)
        found = test_time_augment(self.network, pixels, self.spec, self.recipe.tta, found, self.tta_below)
        probabilities = tempered(found, self.temperature)
        predicted = probabilities.argmax(axis=1)
        ood_score = self.ood_score.to(features.device)
        distances = ood_score.distances(features, torch.from_numpy(predicted).to(features.device))
        known = None if self.ood_detector is None else in_distribution(self.ood_detector, pixels, self.spec, predicted)
        return probabilities, uncertainty_score(probabilities, distances, known)

    def summary(self) -> list[Layer]:
        """List the network's layers as Keras would.

        Returns
        -------
        list of Layer
            Name, type, output shape and parameters of each.

        Examples
        --------
        >>> from imprint import load, train
        >>> model = train(load("digits"), recipe="quick", epochs=1, min_steps=1, verbose=False).model
        >>> model.summary()[-1].output_shape
        (None, 10)
        """
        return summarise(self.network, (self.spec.channels, *self.spec.input_size))

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
        >>> model = train(load("digits"), recipe="quick", epochs=1, min_steps=1, verbose=False).model
        >>> path = Path(tempfile.mkdtemp()) / "digits.safetensors"
        >>> model.save(path)
        >>> Classifier.load(path).class_names == model.class_names
        True
        """
        usual = {f"{OOD_PREFIX}{name}": getattr(self.ood_score, name) for name in OOD_TENSORS}
        ood_detector = {} if self.ood_detector is None else self.ood_detector.state_dict(prefix=GUARD)
        write_model_file(path, self.network.state_dict() | usual | ood_detector, self.facts())

    def facts(self) -> dict[str, Any]:
        """Give everything but the weights, as a model file holds it.

        Returns
        -------
        dict
            Plain JSON values.

        Examples
        --------
        >>> from imprint import load, train
        >>> model = train(load("digits"), recipe="quick", epochs=1, min_steps=1, verbose=False).model
        >>> model.facts()["recipe"]["name"]
        'quick'
        """
        return {
            "class_names": list(self.class_names),
            "input_spec": asdict(self.spec),
            "recipe": self.recipe.to_dict(),
            "temperature": self.temperature,
            "unsure_above": self.unsure_above,
            "tta_below": self.tta_below,
            "score": self.score,
            "notes": self.notes,
        }

    @classmethod
    def load(cls, path: str | Path, device: str = "auto") -> Classifier:
        """Read a model.

        Parameters
        ----------
        path : str or Path
            A model file or run folder. Of a run that was stopped before its model was written, the last
            checkpoint is taken: its best epoch, not calibrated, without views, and never unsure.
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
        imprint.core.errors.ModelFileError: model at pyproject.toml: ...
        """
        classifier = cls(**read_parts(find_model(path)))
        where = choose_device(device)
        classifier.network.to(where)
        if classifier.ood_detector is not None:
            classifier.ood_detector.to(where)
        return classifier

    def save_pretrained(self, folder: str | Path, *, license: str | None = None) -> None:
        """Write the model and a card that tells what it is into a folder, as Hugging Face lays them out.

        Parameters
        ----------
        folder : str or Path
            Made where it does not exist; ``model.safetensors`` and ``README.md`` in it are replaced.
        license : str or None, default=None
            For the card, as the Hub names licenses, such as ``"mit"``; None leaves it to you.

        Raises
        ------
        UsageError
            When a file cannot be written.

        Examples
        --------
        >>> import tempfile
        >>> from imprint import load, train
        >>> model = train(load("digits"), recipe="quick", epochs=1, min_steps=1, verbose=False).model
        >>> folder = Path(tempfile.mkdtemp()) / "digits"
        >>> model.save_pretrained(folder)
        >>> sorted(file.name for file in folder.iterdir())
        ['README.md', 'model.safetensors']
        """
        self._write_folder(Path(folder), Path(folder).name, license)

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, revision: str | None = None, token: str | None = None, device: str = "auto"
    ) -> Classifier:
        """Read a model from a folder, or from a repository of Hugging Face's Hub.

        Parameters
        ----------
        source : str or Path
            What `save_pretrained` wrote, or any model file or run folder; where nothing is there, a
            repository such as ``"me/digits"``, which needs the extra ``hub``.
        revision : str or None, default=None
            Branch, tag or commit of the repository; None is its main branch.
        token : str or None, default=None
            For a private repository; None takes what ``hf auth login`` keeps.
        device : str, default="auto"
            Where to compute.

        Returns
        -------
        Classifier
            As it was saved.

        Raises
        ------
        ModelFileError
            When there is no such model, or it is not whole.
        UsageError
            When huggingface_hub is missing.

        Examples
        --------
        >>> import tempfile
        >>> from imprint import load, train
        >>> model = train(load("digits"), recipe="quick", epochs=1, min_steps=1, verbose=False).model
        >>> folder = tempfile.mkdtemp()
        >>> model.save_pretrained(folder)
        >>> Classifier.from_pretrained(folder).class_names == model.class_names
        True
        """
        if Path(source).exists():
            return cls.load(source, device)
        return cls.load(download(str(source), MODEL_NAME, revision, token), device)

    def push_to_hub(
        self, repository: str, *, private: bool | None = None, token: str | None = None, license: str | None = None
    ) -> str:
        """Publish the model and its card on Hugging Face's Hub; needs the extra ``hub``.

        Parameters
        ----------
        repository : str
            Such as ``"me/digits"``; made where it does not exist.
        private : bool or None, default=None
            Whether a new repository can be seen by you only; None does as your settings there say.
        token : str or None, default=None
            One that may write; None takes what ``hf auth login`` keeps.
        license : str or None, default=None
            For the card, as the Hub names licenses, such as ``"mit"``; None leaves it to you.

        Returns
        -------
        str
            Where it can be seen.

        Raises
        ------
        UsageError
            When the name is none, huggingface_hub is missing, or the Hub refuses.

        Examples
        --------
        >>> from imprint import load, train
        >>> model = train(load("digits"), recipe="quick", epochs=1, min_steps=1, verbose=False).model
        >>> model.push_to_hub("digits")
        Traceback (most recent call last):
        imprint.core.errors.UsageError: repository 'digits' at Hugging Face: it is no name of one. Write it as me/digits.
        """
        with tempfile.TemporaryDirectory() as folder:
            self._write_folder(Path(folder), repository, license)
            return upload(folder, repository, private=private, token=token)

    def _write_folder(self, folder: Path, source: str, license: str | None) -> None:
        """Write model and card; the card says to load the model from `source`."""
        make_folder(folder)
        self.save(folder / MODEL_NAME)
        parameters = sum(parameter.numel() for parameter in self.network.parameters())
        write_card(folder, self.facts(), self.spec, parameters, source, license)
