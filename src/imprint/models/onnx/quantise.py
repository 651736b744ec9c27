"""Quantising an exported network to int8: weights of 8 bits, and activations between them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from jaxtyping import Float32
from numpy import ndarray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from imprint.models.onnx.graph import PREPARED

BATCH_SIZE = 64


def quantise_network(network: onnx.ModelProto, prepared: Float32[ndarray, "n c h w"]) -> onnx.ModelProto:
    """Quantise a network from `network_model`, by the ranges of its activations on some hundred prepared images."""
    # Weights use 7 of the 8 bits: processors without VNNI add pairs of products in 16 bits, which 8 bits would
    # overflow, and the file shall predict the same everywhere ("When and why do I need to try U8U8?" in
    # https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html).
    copy = onnx.ModelProto()
    copy.CopyFrom(network)  # onnxruntime empties the model that it is given
    with TemporaryDirectory() as folder, _without_onnxruntime_logs():
        path = Path(folder) / "network.onnx"
        quantize_static(
            copy,
            path,
            _Reader(prepared),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm", "Relu", "MaxPool", "Flatten", "Add"],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(path)


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Hands images to onnxruntime, batch by batch."""

    def __init__(self, prepared: Float32[ndarray, "n c h w"]) -> None:
        starts = range(0, len(prepared), BATCH_SIZE)
        self._batches = iter([{PREPARED: prepared[start : start + BATCH_SIZE]} for start in starts])

    def get_next(self) -> dict[str, ndarray] | None:
        return next(self._batches, None)


@contextmanager
def _without_onnxruntime_logs() -> Iterator[None]:
    """Drop what onnxruntime logs to the root logger: advice to preprocess, which `network_model` has done.

    All other logging stays as it is. Without a handler, `logging.warning` would install one for the whole process;
    for that time the root logger has the one that Python uses in that case.
    """
    root = logging.getLogger()
    stand_in = None if root.handlers else logging.lastResort
    if stand_in is not None:
        root.addHandler(stand_in)
    root.addFilter(_is_not_of_onnxruntime)
    try:
        yield
    finally:
        root.removeFilter(_is_not_of_onnxruntime)
        if stand_in is not None:
            root.removeHandler(stand_in)


def _is_not_of_onnxruntime(record: logging.LogRecord) -> bool:
    return "onnxruntime" not in Path(record.pathname).parts
