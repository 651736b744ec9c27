"""Classifier: a trained network with all that is needed to use it, saved to and loaded from one file."""

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

from imprint.core.errors import ModelFileError, brief
from imprint.core.files import make_folder
from imprint.core.metrics import tempered
from imprint.models.hardware import choose_device
from imprint.models.hub import download, upload, write_card
from imprint.models.inference import (
    TTA_VIEWS,
    apply_tta,
    in_distribution,
    predict_with_embeddings,
    uncertainty_score,
)
from imprint.models.model_file import MODEL_NAME, broken, find_model, inconsistent, read_model_file, write_model_file
from imprint.models.networks import BUILT_IN, NETWORKS, build_networks, smallest_side
from imprint.models.ood import WIDE, MahalanobisScore, count_embeddings, ood_detector_classes
from imprint.models.predictor import Predictor
from imprint.models.summary import Layer, summarise
from imprint.preprocessing.input_spec import InputSpec, describe
from imprint.recipes import Recipe

RESUME = "resume"  # the fact, and the start of tensors' names, that a checkpoint holds beyond a model
# Starts of tensors' names in the file; a network's own begin with neither, since names of modules have no slash.
SCORE_PREFIX, DETECTOR_PREFIX = "ood_score/", "ood_detector/"
SCORE_TENSORS = ("centres", "whitening", "precision")
MAX_CLASSES = 100_000  # a file that claims more is not believed
MAX_HEADER_LENGTH = 200  # characters of a column's name
UNFITTED = MahalanobisScore(torch.empty(0, 0))  # until it is fitted
NEVER_UNSURE = 1e9  # more uncertainty than there is


@dataclass(frozen=True, eq=False)
class Classifier(Predictor):
    """A trained network with all that is needed to use it. Several threads may use one at once.

    Parameters
    ----------
    network : nn.Module
        From prepared images to logits.
    class_names : tuple of str
        As the labels stood in the training data.
    spec : InputSpec
        What it expects of an image.
    recipe : Recipe
        How it was trained.
    temperature : float
        What the network's logits are divided by, so that confidence fits accuracy. Training fits it on the validation
        images, or on augmented training images where there are none.
    ood_score : MahalanobisScore
        Measures how far an image's embedding lies from those of the training images of its class.
    unsure_above : float
        Predictions with more uncertainty than this are flagged unsure, since their images are strange. Training sets it
        so that at most 1 % of new images like the validation images are.
    tta_below : float
        Images that the network is less confident of than this get test-time augmentation, as the recipe's `tta` says.
        Training sets it so that 5 % of the validation images do.
    ood_detector : nn.Module or None, default=None
        Tells images from synthetic out-of-distribution ones made of them. None where the recipe has none.
    score : dict or None, default=None
        How it did on the validation images, for information.
    notes : dict or None, default=None
        What a program that uses the model wants to keep with it, as plain JSON values.
    label_header : str, default="label"
        What the table that it was trained on calls its column of labels.
    unsure_below : float, default=0
        Predictions with less confidence than this are flagged unsure too. Training sets it so that of those which are
        not flagged the share of the recipe's `trust` is right.
    parent : dict of str to str, or None, default=None
        Of a model whose training started from another one: `sha256`, the digest in that one's file, and `leak`, why
        `score` is an upper estimate, empty where it is not.

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
    label_header: str = "label"
    unsure_below: float = 0.0
    parent: dict[str, str] | None = None

    def __post_init__(self) -> None:
        self.network.eval()  # here and not when asked, since two threads may ask at once
        if self.ood_detector is not None:
            self.ood_detector.eval()

    def __repr__(self) -> str:
        numbers = sum(parameter.numel() for parameter in self.network.parameters())
        form = describe((self.spec.channels, *self.spec.image_size))
        return brief(self, f"{self.recipe.name}: {len(self.class_names):,} classes, {form}, {numbers:,} parameters")

    def _compute(
        self, pixels: UInt8[ndarray, "n c h w"]
    ) -> tuple[Float32[ndarray, "n classes"], Float32[ndarray, " n"]]:
        found, embeddings = predict_with_embeddings(self.network, pixels, self.spec)
        found = apply_tta(self.network, pixels, self.spec, self.recipe.tta, found, self.tta_below)
        probabilities = tempered(found, self.temperature)
        predicted = probabilities.argmax(axis=1)
        ood_score = self.ood_score.to(embeddings.device)
        distances = ood_score.distances(embeddings, torch.from_numpy(predicted).to(embeddings.device))
        known = None if self.ood_detector is None else in_distribution(self.ood_detector, pixels, self.spec, predicted)
        return probabilities, uncertainty_score(ood_score, probabilities, distances, known)

    def summary(self) -> list[Layer]:
        """List the network's layers as Keras would; of networks that a program registered, their children.

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
        """Write the model to one file, of which the same model gives the same bytes.

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
        given = {f"{SCORE_PREFIX}{name}": getattr(self.ood_score, name) for name in SCORE_TENSORS}
        tensors = {name: tensor for name, tensor in given.items() if tensor is not None}
        if self.ood_detector is not None:
            tensors |= self.ood_detector.state_dict(prefix=DETECTOR_PREFIX)
        write_model_file(path, self.network.state_dict() | tensors, self.facts())

    def facts(self) -> dict[str, Any]:
        """Collect everything but the weights, as a model file holds it.

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
            "unsure_below": self.unsure_below,
            "tta_below": self.tta_below,
            "score": self.score,
            "notes": self.notes,
            "label_header": self.label_header,
            **({} if self.parent is None else {"parent": self.parent}),
        }

    @classmethod
    def load(cls, path: str | Path, device: str = "auto") -> Classifier:
        """Read a model. A network of your own must have been registered first, see `imprint.register_network`.

        Parameters
        ----------
        path : str or Path
            A model file or run folder. Of a run that was stopped before its model was written, the last checkpoint is
            taken: its best epoch, neither calibrated nor augmented at test time, and never unsure.
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
        """Write the model and a card that describes it into a folder, as Hugging Face lays them out.

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
            repository such as ``"me/digits"``, which needs the library huggingface_hub.
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
        """Publish the model and its card on Hugging Face's Hub; needs the library huggingface_hub.

        Parameters
        ----------
        repository : str
            Such as ``"me/digits"``; made where it does not exist.
        private : bool or None, default=None
            Whether a new repository can be seen by you only; None does as your settings there say.
        token : str or None, default=None
            With the right to write; None takes what ``hf auth login`` keeps.
        license : str or None, default=None
            For the card, as the Hub names licenses, such as ``"mit"``; None leaves it to you.

        Returns
        -------
        str
            Where it can be seen.

        Raises
        ------
        UsageError
            When the name is not one of a repository, huggingface_hub is missing, or the Hub refuses.

        Examples
        --------
        >>> from imprint import load, train
        >>> model = train(load("digits"), recipe="quick", epochs=1, min_steps=1, verbose=False).model
        >>> model.push_to_hub("digits")
        Traceback (most recent call last):
        imprint.core.errors.UsageError: repository 'digits' at Hugging Face: it names none. Write it as me/digits.
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


def read_parts(path: Path) -> dict[str, Any]:
    """Read every field of a `Classifier` from a model file, or from a checkpoint, of which the best epoch is taken.

    All of it is checked against each other before anything is computed. Raises `ModelFileError` where it does not fit.
    """
    return parts_of(*read_model_file(path), path)


def parts_of(tensors: dict[str, Tensor], facts: dict[str, Any], path: Path) -> dict[str, Any]:
    """Check the contents of a model file against each other; gives every field of a `Classifier`."""
    try:
        parts = _parts(facts, path)
        resumable = RESUME in facts
        if resumable and not facts[RESUME]["epochs"]:
            remedy = f"Resume it: imprint train --resume {path.parent}."
            raise broken(path, "training was stopped before its first epoch had ended", remedy)
        score_tensors = {name: tensors.pop(f"{SCORE_PREFIX}{name}", None) for name in SCORE_TENSORS}
        detector_tensors = _take_prefix(tensors, DETECTOR_PREFIX)
        _take_prefix(tensors, f"{RESUME}/")
        recipe, spec, classes = parts["recipe"], parts["spec"], len(parts["class_names"])
        network = _filled_network(recipe.networks, spec, classes, tensors, path)
        detector = None
        if recipe.ood_detector:
            detected = ood_detector_classes(recipe, spec.image_size, classes)
            detector = _filled_network((recipe.ood_detector,), spec, detected, detector_tensors, path)
        elif detector_tensors:
            raise broken(path, "it holds an OOD detector, which its recipe does not name")
    except ModelFileError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
        raise inconsistent(path, error) from None
    size = count_embeddings(network)
    ood_score = _never_far(classes, size) if resumable else _ood_score(score_tensors, classes, size, path)
    return parts | {"network": network, "ood_detector": detector, "ood_score": ood_score}


def _parts(facts: dict[str, Any], path: Path) -> dict[str, Any]:
    """Check a model file's facts and give the fields that come from them alone."""
    spec = InputSpec.from_dict(facts["input_spec"])
    if spec.glyph is not None and (spec.glyph.height, spec.glyph.width) != spec.image_size:
        raise ValueError("the size of glyphs")
    names, score, notes = facts["class_names"], facts["score"], facts.get("notes")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("class names")
    if not 1 <= len(set(names)) == len(names) <= MAX_CLASSES:
        raise ValueError("classes")
    if not isinstance(score, dict | None) or not isinstance(notes, dict | None):
        raise ValueError("score or notes")
    parent = facts.get("parent")
    parent = None if parent is None else {key: str(parent[key]) for key in ("sha256", "leak")}
    recipe = Recipe.from_dict(facts["recipe"])
    for name in recipe.all_networks:
        if name not in NETWORKS:
            cause = f"its network {name[:50]!r} is none of Imprint's"
            raise broken(path, cause, "Register it first with imprint.register_network.")
    if recipe.tta not in (*TTA_VIEWS, "none"):
        raise ValueError("tta")
    if min(spec.input_size) < smallest_side(recipe.all_networks):
        raise ValueError("images too small")
    limits = {key: float(facts[key]) for key in ("temperature", "unsure_above", "unsure_below", "tta_below")}
    if not all(map(math.isfinite, limits.values())) or limits["temperature"] <= 0:
        raise ValueError("temperature or limits")
    header = str(facts.get("label_header", "label"))[:MAX_HEADER_LENGTH]
    known = {"class_names": tuple(names), "spec": spec, "recipe": recipe, "score": score, "notes": notes}
    return {**known, "label_header": header, "parent": parent, **limits}


def _take_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Remove the tensors whose names begin with a prefix, and give them without it."""
    names = [name for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors.pop(name) for name in names}


def _filled_network(
    names: Sequence[str], spec: InputSpec, classes: int, tensors: dict[str, Tensor], path: Path
) -> nn.Module:
    """Build a network or an ensemble with a file's tensors, once every name, shape, type and number is checked.

    They are compared with a network on the meta device, which takes no memory, whatever size the file claims.
    """
    with torch.random.fork_rng(devices=[]):  # a network that a program registered may draw numbers even there
        with torch.device("meta"):
            outline = build_networks(names, spec.channels, spec.input_size, classes)
        _check_tensors(outline.state_dict(), tensors, path)
        if BUILT_IN.issuperset(names):
            outline.load_state_dict(tensors, assign=True)
            return outline
        # Others may have tensors that no file holds, such as a grid of positions.
        network = build_networks(names, spec.channels, spec.input_size, classes)
        network.load_state_dict(tensors)
        return network


def _check_tensors(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path) -> None:
    if set(wanted) != set(tensors):
        differ = sorted(set(wanted) ^ set(tensors))
        raise broken(path, f"its tensors are not those of the network ({', '.join(differ[:3])}; {len(differ)} in all)")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape or tensor.dtype != wanted[name].dtype:
            raise broken(path, f"tensor {name} has the wrong shape or type")
        if not bool(torch.isfinite(tensor).all()):
            raise broken(path, f"tensor {name} holds numbers that are not finite")


def _ood_score(given: Mapping[str, Tensor | None], classes: int, size: int, path: Path) -> MahalanobisScore:
    """Check the tensors of the OOD score against the embeddings of the network, which have `size` numbers."""
    shapes: dict[str, Sequence[tuple[int, ...]]] = {"centres": [(classes, size)]}
    if size > WIDE:
        shapes["precision"] = [(size,)]
    else:
        shapes["whitening"] = [(count, size, size) for count in (classes, 1)]
    for name, tensor in given.items():
        if tensor is None and name not in shapes:
            continue
        if name not in shapes:
            raise broken(path, f"it holds tensor {SCORE_PREFIX}{name}, which its network has no use for")
        if tensor is None or tuple(tensor.shape) not in shapes[name] or tensor.dtype != torch.float32:
            raise broken(path, f"tensor {SCORE_PREFIX}{name} is missing, or has the wrong shape or type")
        if not bool(torch.isfinite(tensor).all()):
            raise broken(path, f"tensor {SCORE_PREFIX}{name} holds numbers that are not finite")
    return MahalanobisScore(**{name: tensor for name, tensor in given.items() if tensor is not None})


def _never_far(classes: int, size: int) -> MahalanobisScore:
    """Make the OOD score of a stopped run, which has fitted none yet: all distances are 0."""
    if size > WIDE:
        return MahalanobisScore(torch.zeros(classes, size), precision=torch.zeros(size))
    return MahalanobisScore(torch.zeros(classes, size), torch.zeros(1, size, size))
