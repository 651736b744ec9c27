"""Quantising an exported network: weights of 8 bits, and activations between them."""

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

BATCH = 64


def quantised(network: onnx.ModelProto, prepared: Float32[ndarray, "n c h w"]) -> onnx.ModelProto:
    """Quantise a network by the ranges that its activations have on some images.

    Parameters
    ----------
    network : ModelProto
        From `onnx_graph.network_model`.
    prepared : ndarray of float32, shape (n, c, h, w)
        Images as the network takes them, some hundred like those that it will see.

    Returns
    -------
    ModelProto
        With a scale for each filter. Weights use 7 of the 8 bits: processors without VNNI add pairs of products
        in 16 bits, which 8 bits would overflow, and the file shall answer the same everywhere.

    References
    ----------
    onnxruntime.ai/docs/performance/model-optimizations/quantization.html, "When and why do I need to try U8U8?".

    Examples
    --------
    >>> import numpy as np
    >>> from imprint.preprocessing.input_spec import InputSpec
    >>> from imprint.models.networks import build_network
    >>> from imprint.models.onnx.graph import network_model
    >>> network = network_model(build_network("quick", 1, (28, 28), 10).eval(), InputSpec(1, (28, 28), (28, 28)), 10)
    >>> small = quantised(network, np.random.default_rng(0).random((8, 1, 28, 28), dtype=np.float32))
    >>> network.ByteSize() > 2 * small.ByteSize()
    True
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(network)  # onnxruntime empties what it is given
    with TemporaryDirectory() as folder, _quiet():
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
        starts = range(0, len(prepared), BATCH)
        self._batches = iter([{PREPARED: prepared[start : start + BATCH]} for start in starts])

    def get_next(self) -> dict[str, ndarray] | None:
        return next(self._batches, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep onnxruntime's advice to preprocess from the reader: `network_model` has done it."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
