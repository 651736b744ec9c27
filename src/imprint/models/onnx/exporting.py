"""Exporting a classifier to one .onnx file, which is kept only if it predicts as the classifier does."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray

from imprint.core import __version__
from imprint.core.errors import DataError, ImprintError, UsageError, brief
from imprint.core.files import written_whole
from imprint.core.metrics import difference_interval
from imprint.data.images import LabelledImages
from imprint.data.load import Data, load
from imprint.models.classifier import Classifier
from imprint.models.onnx.classifier import OnnxClassifier
from imprint.models.onnx.file import missing, serialise
from imprint.models.predictor import Predictions
from imprint.preprocessing.input_spec import InputSpec, fit
from imprint.preprocessing.prepare import prepare

TOLERANCE = 1e-4  # the most that a probability may differ
UNCERTAINTY_TOLERANCE = 1e-3  # the same of uncertainty, which ranges from some units to tens
MAX_CALIBRATION_IMAGES = 300  # whose activations set the ranges of int8; onnxruntime's examples take some hundred
SAMPLE_IMAGES = 300  # taken of those that scikit-learn brings along
MAX_ACCURACY_LOSS = 0.01  # by int8; a file that loses more is not kept


@dataclass(frozen=True)
class Rounding:
    """What weights of 8 bits do to a model, on labelled images that did not set its ranges.

    Parameters
    ----------
    images : int
        How many.
    accuracy : float
        Of the file.
    before : float
        Of the model.
    interval : tuple of float
        95 % interval of the accuracy lost.

    Examples
    --------
    >>> round(Rounding(1000, 0.988, 0.99, (-0.001, 0.005)).loss, 3)
    0.002
    """

    images: int
    accuracy: float
    before: float
    interval: tuple[float, float]

    @property
    def loss(self) -> float:
        """Lost accuracy; below 0 where some was gained."""
        return self.before - self.accuracy

    def __repr__(self) -> str:
        return brief(self, str(self))

    def __str__(self) -> str:
        gain, lowest, highest = (0 - lost for lost in (self.loss, *reversed(self.interval)))
        return (
            f"accuracy {self.accuracy:.4f} instead of {self.before:.4f}, difference {gain:+.4f} "
            f"(95 % interval {lowest:+.4f} to {highest:+.4f}; {self.images:,} images)"
        )


@dataclass(frozen=True)
class Exported:
    """A written .onnx file, and how its predictions were compared with the model's.

    Parameters
    ----------
    path : Path
        The file.
    proved_on : str
        The data whose images were compared.
    images : int
        How many images.
    viewed : int
        How many of them had test-time augmentation, since the model's confidence was low.
    same : float
        Share of the images that the file and the model give the same class.
    difference : float
        The most that any probability differs.
    flags : float
        Share of the images that both flag as unsure, or neither.
    rounding : Rounding or None
        What int8 costs in accuracy; None without int8.

    Examples
    --------
    >>> print(Exported(Path("a.onnx"), "digits", 300, 14, 1.0, 4e-7, 1.0, None))
    300 images of digits (14 with test-time augmentation): all classes agree, probabilities differ by at most 4.0e-07
    """

    path: Path
    proved_on: str
    images: int
    viewed: int
    same: float
    difference: float
    flags: float
    rounding: Rounding | None

    def __repr__(self) -> str:
        return brief(self, f"{self.path}: {self}")

    def __str__(self) -> str:
        agreement = "all classes agree" if self.same == 1 else f"{self.same * 100:.2f} % of the classes agree"
        return (
            f"{self.images:,} images of {self.proved_on} ({self.viewed:,} with test-time augmentation): "
            f"{agreement}, probabilities differ by at most {self.difference:.1e}"
        )


def export(
    model: Classifier,
    path: str | Path,
    data: LabelledImages | Data | None = None,
    *,
    int8: bool = False,
    plain: bool = False,
) -> Exported:
    """Write a model to one .onnx file, and keep the file only if its predictions are the model's.

    Networks of Imprint's own layers are written directly; any other that has timm's `forward_features` and
    `forward_head` is written by `torch.onnx.export`.

    Parameters
    ----------
    model : Classifier
        The model.
    path : str or Path
        The file; it appears once its predictions have been compared, and replaces an older one.
    data : LabelledImages, or data as `load` takes it, or None, default=None
        Images to compare on; None takes real ones that scikit-learn brings along: digits for a model of
        glyphs, else parts of two photos.
    int8 : bool, default=False
        Store weights as 8 bits. That changes predictions, so `data` must be labelled: up to half of the images,
        at most 300, set the ranges, the others measure the loss of accuracy.
    plain : bool, default=False
        Write no operator whose shape depends on values, such as NonZero, which OpenCV's `dnn`, onnxruntime-web and
        TensorRT lack. Test-time augmentation is then computed for every image, also where confidence is high and it
        counts for nothing: predictions are the same, and take longer.

    Returns
    -------
    Exported
        The file, and how it compares.

    Raises
    ------
    ImprintError
        When the file does not give the same classes, or probabilities differ by more than 1e-4; with int8, when
        more than 0.01 of accuracy is lost. Also when `torch.onnx.export` cannot write the network.
    DataError
        When int8 is asked without labelled images.
    UsageError
        When the packages for ONNX are missing, the file cannot be written or does not end in .onnx, or int8 and plain
        are both asked.

    Examples
    --------
    >>> import tempfile
    >>> from imprint import load, train
    >>> model = train(load("digits"), recipe="quick", epochs=1, min_steps=1, verbose=False).model
    >>> export(model, Path(tempfile.mkdtemp()) / "digits.onnx").difference < 1e-4
    True
    """
    try:
        from imprint.models.onnx.graph import classifier_model, network_model
    except ModuleNotFoundError as error:
        raise missing(error.name or "onnx") from None
    if Path(path).suffix.lower() != ".onnx":
        cause = "an exported model is recognised by the end of its name"
        raise UsageError("output", str(path), cause, "Let the name end in .onnx.")
    if int8 and plain:
        cause = "OpenCV 4 computes weights of 8 bits wrongly, and OpenCV 5 not at all"
        raise UsageError("int8", "a plain export", cause, "Leave one of the two out.")
    model = replace(model, network=deepcopy(model.network).cpu())  # a GPU rounds convolutions to 10 bits
    images = sample_images(model.spec) if data is None else model.ready(data)
    if int8 and (images.labels is None or data is None or len(images) < 2):
        remedy = "Give labelled images with --data, or leave --int8 out."
        raise DataError("int8", images.name, "without labels its loss of accuracy cannot be measured", remedy)
    network = network_model(model.network, model.spec, len(model.class_names))
    if int8:
        from imprint.models.onnx.quantise import quantise_network

        calibration = np.arange(len(images)) % max(2, -(-len(images) // MAX_CALIBRATION_IMAGES)) == 0
        prepared = prepare(torch.from_numpy(images[calibration].pixels), model.spec).numpy()
        network, images = quantise_network(network, prepared), images[~calibration]
    with written_whole(path) as temporary:
        temporary.write_bytes(serialise(classifier_model(model, network, plain), _facts(model, int8)))
        return _compare(model, OnnxClassifier.load(temporary), images, Path(path), int8)


def _facts(model: Classifier, int8: bool) -> dict[str, Any]:
    return {
        "imprint": __version__,
        "class_names": list(model.class_names),
        "input_spec": asdict(model.spec),
        "unsure_above": model.unsure_above,
        "unsure_below": model.unsure_below,
        "recipe": model.recipe.name,
        "label_header": model.label_header,
        "precision": "int8" if int8 else "float32",
    }


def _compare(model: Classifier, written: OnnxClassifier, images: LabelledImages, path: Path, int8: bool) -> Exported:
    """Compare the written file's predictions with the model's; refuse the file where they differ too much."""
    expected, found = model.predict(images), written.predict(images)
    plain = expected if model.recipe.tta == "none" else replace(model, tta_below=0.0).predict(images)
    difference = float(np.abs(expected.probabilities - found.probabilities).max())
    rounding = _rounding(model, expected, found, images) if int8 else None
    exported = Exported(
        path=path,
        proved_on=images.name,
        images=len(images),
        viewed=int((plain.probabilities != expected.probabilities).any(axis=1).sum()),
        same=float((expected.labels == found.labels).mean()),
        difference=difference,
        flags=float((expected.unsure == found.unsure).mean()),
        rounding=rounding,
    )
    close = difference <= TOLERANCE and np.abs(expected.uncertainty - found.uncertainty).max() <= UNCERTAINTY_TOLERANCE
    if rounding is None and not (exported.same == 1 and close):
        raise ImprintError("model", str(path), f"its predictions are not the model's ({exported})", "It was not kept.")
    if rounding is not None and not rounding.loss <= MAX_ACCURACY_LOSS:
        raise ImprintError("int8", str(path), f"{rounding}", "It was not kept; leave --int8 out.")
    return exported


def _rounding(model: Classifier, expected: Predictions, found: Predictions, images: LabelledImages) -> Rounding:
    labels = images.labels_among(model.class_names)
    before, after = (predictions.labels == labels for predictions in (expected, found))
    interval = difference_interval(int((before & ~after).sum()), int((after & ~before).sum()), len(labels))
    return Rounding(len(labels), float(after.mean()), float(before.mean()), interval)


def sample_images(spec: InputSpec) -> LabelledImages:
    """Take 300 real images that scikit-learn brings along, without labels, and bring them into the form of `spec`.

    Digits where the model reads glyphs, else parts of photos.
    """
    if spec.glyph is None:
        colours = [0, 1, 2] if spec.channels in (1, 3) else [i % 3 for i in range(spec.channels)]
        name, images = "two photos", [part[..., colours] for part in _parts_of_photos()]
    else:
        digits = load("digits").pixels
        name = "digits"
        images = [digits[i * len(digits) // SAMPLE_IMAGES].transpose(1, 2, 0) for i in range(SAMPLE_IMAGES)]
    plain = replace(spec, glyph=None)  # looking for ink takes long, and any image shows whether predictions agree
    pixels = np.stack([fit(image, plain) for image in images])
    return LabelledImages(pixels, None, (), np.array([f"{name}#{i}" for i in range(1, SAMPLE_IMAGES + 1)]), name)


def _parts_of_photos() -> list[UInt8[ndarray, "h w c"]]:
    """Cut parts of random size and place out of scikit-learn's photos of a temple and a flower."""
    from sklearn.datasets import load_sample_images

    random, parts = np.random.default_rng(0), []
    photos = load_sample_images().images
    for i in range(SAMPLE_IMAGES):
        photo = photos[i % len(photos)]
        side = int(random.integers(32, min(photo.shape[:2])))
        top, left = (int(random.integers(0, length - side + 1)) for length in photo.shape[:2])
        parts.append(photo[top : top + side, left : left + side])
    return parts
