"""The .onnx file: what `imprint export` writes, and the checks before anything in it is computed.

Its last bytes are one more metadata entry, with the SHA-256 of all bytes before: protobuf merges messages that are
concatenated, so any reader of ONNX takes the file, and a changed byte shows before onnx parses anything. A digest
inside the message could only be checked by parsing the file and serialising it again, for which protobuf does not
promise the same bytes (https://protobuf.dev/programming-guides/serialization-not-canonical/).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imprint.core.errors import ModelFileError, UsageError

if TYPE_CHECKING:
    from onnx import ModelProto

PIXELS, PROBABILITIES, UNCERTAINTY = "pixels", "probabilities", "uncertainty"  # the graph's input and outputs
KEY = "imprint"  # the metadata entry that holds the facts, as JSON
FORMAT, OLDEST = 3, 2  # 1 had another name for uncertainty, 2 no limit of confidence
MAX_BYTES = 512 * 2**20
DIGEST_LENGTH = 64
SEAL_LENGTH = 18 + DIGEST_LENGTH  # of what `seal` gives
# What our own graphs use, and what torch.onnx.export makes of other networks. Every operator is a plain function of
# tensors: no control flow, no sequences, no random numbers, no other files.
# fmt: off
OPERATORS = frozenset((
    "Abs", "Add", "ArgMax", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Constant",
    "ConstantOfShape", "Conv", "DequantizeLinear", "Div", "Elu", "Equal", "Erf", "Exp", "Expand", "Flatten", "Floor",
    "Gather", "GatherElements", "GatherND", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "Greater", "HardSigmoid",
    "HardSwish", "Identity", "InstanceNormalization", "LayerNormalization", "LeakyRelu", "Less", "Log", "LogSoftmax",
    "MatMul", "Max", "MaxPool", "Mean", "Min", "Mul", "Neg", "NonZero", "PRelu", "Pad", "Pow", "QuantizeLinear",
    "Reciprocal", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Resize", "ScatterND",
    "Shape", "Sigmoid", "Sign", "Slice", "Softmax", "Softplus", "Split", "Sqrt", "Squeeze", "Sub", "Tanh",
    "Transpose", "Unsqueeze", "Where",
))
# fmt: on


def serialise(model: ModelProto, facts: Mapping[str, Any]) -> bytes:
    """Give the content of a file: a model, facts as plain JSON values, and the digest of both."""
    whole = type(model)()
    whole.CopyFrom(model)
    whole.metadata_props.add(key=KEY, value=json.dumps({"format": FORMAT, **facts}, ensure_ascii=False))
    content: bytes = whole.SerializeToString(deterministic=True)
    return content + seal(content)


def seal(content: bytes | memoryview) -> bytes:
    """Give the metadata entry, serialised, that ends a file with this content; its last bytes are the digest."""
    from onnx import ModelProto, StringStringEntryProto

    entry = StringStringEntryProto(key="imprint-seal", value=hashlib.sha256(content).hexdigest())
    sealed: bytes = ModelProto(metadata_props=[entry]).SerializeToString()
    return sealed


def read_onnx_file(path: str | Path) -> tuple[bytes, dict[str, Any]]:
    """Read and check a file: its content for onnxruntime, and its facts; see `parse_facts` for what is raised."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            if size > MAX_BYTES:
                raise broken(path, f"it has {size / 2**20:,.0f} MB, and {MAX_BYTES / 2**20:,.0f} are the most")
            file.seek(max(0, size - SEAL_LENGTH))
            _check_end(file.read(), path)
            file.seek(0)
            content = file.read()
    except OSError as error:
        raise broken(path, f"it cannot be read ({error.strerror or error})") from None
    return content, parse_facts(content, path)


def parse_facts(content: bytes, path: str | Path) -> dict[str, Any]:
    """Check a file's content without computing anything, and give its facts.

    Raises `ModelFileError` for a file that is another program's, cut short, changed, or reaches beyond itself, and
    `UsageError` where the package onnx is missing.
    """
    _check_end(content[-SEAL_LENGTH:], path)
    if seal(memoryview(content)[:-SEAL_LENGTH]) != content[-SEAL_LENGTH:]:
        raise broken(path, "some of its bytes have changed since it was written")
    # The digest shows accidents; an attacker can compute it too, so what follows trusts nothing.
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.ModelProto.FromString(content)
        texts = {entry.key: entry.value for entry in model.metadata_props}
        facts = json.loads(texts[KEY])
    except (DecodeError, KeyError, ValueError, RecursionError):
        raise broken(path, "it is an ONNX file, but not one of Imprint's") from None
    version = facts.get("format") if isinstance(facts, dict) else None
    if version not in (OLDEST, FORMAT):
        raise broken(path, f"its format is {version!r}, and this Imprint reads {OLDEST} and {FORMAT}")
    if version == OLDEST:
        facts["unsure_below"] = 0.0  # as it was then: no prediction was unsure for its confidence
    for cause in _forbidden(model):
        raise broken(path, cause)
    return dict(facts)


def _check_end(end: bytes, path: str | Path) -> None:
    """Refuse most other files by their last bytes, before the rest is read."""
    try:
        expected = seal(b"")
    except ModuleNotFoundError as error:
        raise missing(error.name or "onnx") from None
    if len(end) != SEAL_LENGTH or end[:-DIGEST_LENGTH] != expected[:-DIGEST_LENGTH]:
        raise broken(path, "it is cut short, or no file of imprint export")


def _forbidden(model: ModelProto) -> Iterator[str]:
    """Name what no file of Imprint's holds: other operators, graphs inside nodes, weights in other files."""
    if model.functions or any(entry.domain for entry in model.opset_import):
        yield "it brings operators of its own"
    graph = model.graph
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    for node in graph.node:
        if node.domain or node.op_type not in OPERATORS:
            yield f"operator {node.op_type[:40]} is not among those that Imprint uses"
    if any(attribute.HasField("g") or attribute.graphs for attribute in attributes):
        yield "it holds graphs within its graph"
    if graph.sparse_initializer or any(held.HasField("sparse_tensor") or held.sparse_tensors for held in attributes):
        yield "it holds sparse weights"
    constants = [tensor for attribute in attributes for tensor in (attribute.t, *attribute.tensors)]
    if any(tensor.external_data or tensor.data_location for tensor in (*graph.initializer, *constants)):
        yield "some of its weights lie in another file"


def broken(path: str | Path, cause: str) -> ModelFileError:
    """Make the error for a file that cannot be used as an exported model."""
    return ModelFileError("model", str(path), cause, "Name a file that imprint export wrote, or export it again.")


def missing(package: str) -> UsageError:
    """Make the error for a package that Imprint does not install by itself."""
    remedy = "Install it: pip install onnx onnxruntime."
    return UsageError(f"package {package}", "this Python", "it is missing, and ONNX needs it", remedy)
