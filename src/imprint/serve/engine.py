"""The engine: one exported model, loaded once; and Served, which holds the one that answers at present."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray

from imprint.core.errors import ImprintError, ModelFileError
from imprint.core.scores import SURE
from imprint.data.decoding.decode import decode
from imprint.models.onnx.classifier import OnnxClassifier
from imprint.models.onnx.file import PIXELS, PROBABILITIES, UNCERTAINTY
from imprint.models.predictor import Predictions
from imprint.preprocessing.input_spec import cpu_batch_size, fit

Status = Literal["none", "preparing", "ready", "failed"]
REMEDY = "The model before stays; export it again."


class Engine:
    """A model as `imprint export` wrote it; immutable, and used by several threads at once.

    `digest` is the SHA-256 of its file, `recipe` the name of what trained it.
    """

    def __init__(self, path: Path) -> None:
        self.digest = _digest(path)
        self._model = OnnxClassifier.load(path)
        if _digest(path) != self.digest:
            raise ModelFileError("model", path.name, "it changed while it was read", "Write it whole, then move it.")
        self.class_names, self.spec, self.recipe = self._model.class_names, self._model.spec, self._model.recipe
        self._batch_size = cpu_batch_size(self.spec)

    def predict(self, pixels: UInt8[ndarray, "n c h w"]) -> list[dict[str, Any]]:
        """Answer images of the form of `spec`: label, confidence, unsure, why and the probability of each class."""
        size = self._batch_size
        parts = [self._run(pixels[start : start + size]) for start in range(0, len(pixels), size)]
        one = parts[0] if len(parts) == 1 else tuple(map(np.concatenate, zip(*parts, strict=True)))
        model = self._model
        limits = model.unsure_above, model.unsure_below
        found = Predictions(one[0], self.class_names, np.zeros(len(pixels), np.int8), one[1], *limits)
        rows = zip(found.names, found.confidence.tolist(), found.why.tolist(), one[0].tolist(), strict=True)
        return [
            {
                "label": name,
                "confidence": confidence,
                "unsure": why != SURE,
                "why": why,
                "probabilities": dict(zip(self.class_names, row, strict=True)),
            }
            for name, confidence, why, row in rows
        ]

    def probabilities(self, pixels: UInt8[ndarray, "n c h w"]) -> Float32[ndarray, "n k"]:
        """Give the probability of each class alone."""
        size = self._batch_size
        return np.concatenate([self._run(pixels[at : at + size])[0] for at in range(0, len(pixels), size)])

    def _run(self, pixels: UInt8[ndarray, "n c h w"]) -> Sequence[ndarray]:
        result: list[ndarray] = self._model.session.run([PROBABILITIES, UNCERTAINTY], {PIXELS: pixels})
        return result

    def check(self, images: Iterable[bytes] = ()) -> None:
        """Raise `ModelFileError` unless it gives probabilities for black, white and some stored images."""
        spec = self.spec
        form = (spec.channels, *spec.image_size)
        pixels = [np.full(form, level, dtype=np.uint8) for level in (0, 255)]
        for content in images:
            pixels.append(fit(decode(content, pixel_range=spec.pixel_range, background=spec.background).pixels, spec))
        for answer in self.predict(np.stack(pixels)):
            total = math.fsum(answer["probabilities"].values())
            if not math.isclose(total, 1, abs_tol=1e-3):
                cause = f"the probabilities of an image add up to {total:g}"
                raise ModelFileError("model", "its answers", cause, REMEDY)


class Served:
    """The engine that answers at present; a new one replaces it between two requests."""

    def __init__(self) -> None:
        self.current: Engine | None = None
        self.status: Status = "none"
        self.cause = ""  # why it failed, in words
        self.swaps = self.failed_swaps = 0
        self._lock = Lock()

    def swap(self, path: Path, check_images: Sequence[bytes] = ()) -> Engine:
        """Load a model, check it on stored images, and let it answer from now on; requests under way keep the old one.

        Where it cannot be used, the error is raised and the old one stays.
        """
        with self._lock:
            try:
                engine = Engine(path)
                engine.check(check_images)
            except ImprintError as error:
                self.failed(str(error))
                raise
            self.current, self.status, self.cause = engine, "ready", ""
            self.swaps += 1
            return engine

    def failed(self, cause: str) -> None:
        """Note that a model could not be made ready; the old one, if any, goes on."""
        self.failed_swaps += 1
        self.cause = cause
        if self.current is None:
            self.status = "failed"

    def preparing(self) -> None:
        """Note that the first model is being made ready."""
        if self.current is None:
            self.status = "preparing"


def _digest(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        cause = f"it cannot be read ({error.strerror or error})"
        raise ModelFileError("model", str(path), cause, "Check the path and its permissions.") from None
