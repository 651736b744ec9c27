"""OnnxClassifier: an exported model, computed by onnxruntime without torch."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray

from imprint.core.errors import brief
from imprint.core.memmap import release
from imprint.core.plot_style import shorten
from imprint.models.onnx.file import PIXELS, PROBABILITIES, UNCERTAINTY, broken, missing, read_onnx_file
from imprint.models.predictor import Predictor
from imprint.preprocessing.input_spec import InputSpec, cpu_batch_size, describe


@dataclass(frozen=True, eq=False)
class OnnxClassifier(Predictor):
    """A model as `imprint export` wrote it, for use without torch.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        What computes it.
    class_names : tuple of str
        As the labels stood in the training data.
    spec : InputSpec
        What it expects of an image.
    unsure_above : float
        Predictions whose uncertainty is above this are flagged unsure.
    recipe : str
        The name of the recipe that trained it.
    label_header : str, default="label"
        What the table that it was trained on calls its column of labels.
    unsure_below : float, default=0
        Predictions whose confidence is below this are flagged unsure too.

    Examples
    --------
    >>> import tempfile
    >>> from imprint import export, load, train
    >>> model = train(load("digits"), recipe="quick", epochs=1, min_steps=1, verbose=False).model
    >>> path = Path(tempfile.mkdtemp()) / "digits.onnx"
    >>> _ = export(model, path)
    >>> OnnxClassifier.load(path).predict("digits").names == model.predict("digits").names
    True
    """

    session: Any
    class_names: tuple[str, ...]
    spec: InputSpec
    unsure_above: float
    recipe: str
    label_header: str = "label"
    unsure_below: float = 0.0

    def __repr__(self) -> str:
        form = describe((self.spec.channels, *self.spec.image_size))
        return brief(self, f"{shorten(self.recipe, 40)}: {len(self.class_names):,} classes, {form}")

    def _compute(
        self, pixels: UInt8[ndarray, "n c h w"]
    ) -> tuple[Float32[ndarray, "n classes"], Float32[ndarray, " n"]]:
        # One thread a batch: two within one wait for each other at every layer (docs/log/serving.md, "Serving").
        size = cpu_batch_size(self.spec)
        batches = [pixels[start : start + size] for start in range(0, len(pixels), size)]
        if len(batches) == 1:
            return self._run(batches[0])
        with ThreadPoolExecutor(_count_cores()) as pool:
            probabilities, uncertainty = zip(*pool.map(self._run, batches), strict=True)
        return np.concatenate(probabilities), np.concatenate(uncertainty)

    def _run(self, pixels: UInt8[ndarray, "n c h w"]) -> tuple[Float32[ndarray, "n classes"], Float32[ndarray, " n"]]:
        probabilities, uncertainty = self.session.run([PROBABILITIES, UNCERTAINTY], {PIXELS: pixels})
        release(pixels)
        return probabilities, uncertainty

    @classmethod
    def load(cls, path: str | Path) -> OnnxClassifier:
        """Read a file that `imprint export` wrote.

        Parameters
        ----------
        path : str or Path
            The file.

        Returns
        -------
        OnnxClassifier
            Ready to predict.

        Raises
        ------
        ModelFileError
            When the file is missing, another program's, cut short or changed; nothing in it has been computed then.
        UsageError
            When onnx or onnxruntime is missing.

        Examples
        --------
        >>> OnnxClassifier.load("pyproject.toml")
        Traceback (most recent call last):
        imprint.core.errors.ModelFileError: model at pyproject.toml: ...
        """
        content, facts = read_onnx_file(path)
        try:
            spec = InputSpec.from_dict(facts["input_spec"])
            names = tuple(str(name) for name in facts["class_names"])
            limits, recipe = [float(facts[key]) for key in ("unsure_above", "unsure_below")], str(facts["recipe"])
            if not 1 <= len(set(names)) == len(names) or not all(map(math.isfinite, limits)):
                raise ValueError("classes or threshold")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise broken(path, f"its facts are inconsistent ({error})") from None
        session = _start_session(content, path)
        shapes = {value.name: value.shape[1:] for value in (*session.get_inputs(), *session.get_outputs())}
        if shapes != {PIXELS: [spec.channels, *spec.image_size], PROBABILITIES: [len(names)], UNCERTAINTY: []}:
            raise broken(path, "its graph does not fit its facts")
        header = str(facts.get("label_header", "label"))
        return cls(session, names, spec, limits[0], recipe, header, limits[1])


def _start_session(content: bytes, path: str | Path) -> Any:
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise missing("onnxruntime") from None
    onnxruntime.disable_telemetry_events()  # of Windows, where the environment says nothing
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # fatal alone: errors come as exceptions, and would be printed as well
    try:
        return onnxruntime.InferenceSession(
            content,
            options,
            providers=["CPUExecutionProvider"],
            enable_fallback=0,  # the fallback prints, and tries the same again
            # A small file could unfold to a gigabyte while loading, and folding made no prediction faster
            # (docs/log/robustness.md, "Nothing breaks it").
            disabled_optimizers=["ConstantFolding"],
        )
    except Exception as error:  # onnxruntime's errors share no other base
        cause = " ".join(str(error).split())
        raise broken(path, f"onnxruntime does not take it ({cause[:200]})") from None


def _count_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
