"""The .onnx file: what `imprint export` writes, and the checks before anything in it is computed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imprint.core.errors import ModelFileError, UsageError

if TYPE_CHECKING:
    from onnx import ModelProto

PIXELS, PROBABILITIES, UNCERTAINTY = "pixels", "probabilities", "doubt"  # what goes in, and what comes out
KEY = "imprint"  # the entry of the metadata that holds the facts, as JSON
FORMAT = 1
LARGEST = 512 * 2**20  # bytes
# The last bytes: one more entry of the metadata, ModelProto's field 14, with the digest of all that comes before.
SEAL = b"\x72\x50\x0a\x0cimprint-seal\x12\x40"
SEAL_LENGTH = len(SEAL) + 64
# fmt: off
OPERATORS = frozenset((
    "Add", "ArgMax", "BatchNormalization", "Cast", "Concat", "Conv", "DequantizeLinear", "Div", "Flatten", "Floor",
    "Gather", "GatherElements", "GatherND", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "Less", "Log", "MatMul",
    "Max", "MaxPool", "Mean", "Min", "Mul", "NonZero", "QuantizeLinear", "ReduceMax", "ReduceSum", "Relu", "Reshape",
    "ScatterND", "Softmax", "Squeeze", "Sub", "Transpose", "Unsqueeze",
))
# fmt: on


def sealed(model: ModelProto, facts: Mapping[str, Any]) -> bytes:
    """Lay a model out as a file, with facts and a digest of it all.

    Parameters
    ----------
    model : ModelProto
        From `onnx_graph.classifier_model`.
    facts : mapping
        All else that is needed to use it, as plain JSON values.

    Returns
    -------
    bytes
        The file's content.

    Examples
    --------
    >>> from onnx import helper
    >>> model = helper.make_model(helper.make_graph([], "none", [], []))
    >>> opened(sealed(model, {"recipe": "quick"}), "none.onnx")["recipe"]
    'quick'
    """
    whole = type(model)()
    whole.CopyFrom(model)
    text = json.dumps({"format": FORMAT, **facts}, ensure_ascii=False)
    whole.metadata_props.add(key=KEY, value=text)
    content: bytes = whole.SerializeToString(deterministic=True)
    return content + SEAL + hashlib.sha256(content).hexdigest().encode()


def read_onnx_file(path: str | Path) -> tuple[bytes, dict[str, Any]]:
    """Read a file that `imprint export` wrote, and check it without computing anything.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    content : bytes
        For onnxruntime.
    facts : dict
        What else the file says.

    Raises
    ------
    ModelFileError
        When it is missing, another program's, cut short or changed, or reaches beyond itself.
    UsageError
        When the package onnx is missing.

    Examples
    --------
    >>> read_onnx_file("pyproject.toml")
    Traceback (most recent call last):
    imprint.core.errors.ModelFileError: model at pyproject.toml: it is cut short, or no file of imprint export. ...
    """
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            if size > LARGEST:
                raise broken(path, f"it has {size / 2**20:,.0f} MB, and {LARGEST / 2**20:,.0f} are the most")
            file.seek(max(0, size - SEAL_LENGTH))
            _check_seal(file.read(), path)
            file.seek(0)
            content = file.read()
    except OSError as error:
        raise broken(path, f"it cannot be read ({error.strerror or error})") from None
    return content, opened(content, path)


def opened(content: bytes, path: str | Path) -> dict[str, Any]:
    """Check a file's content without computing anything, and give its facts.

    Parameters
    ----------
    content : bytes
        All of the file.
    path : str or Path
        Where it came from, for messages.

    Returns
    -------
    dict
        What the file says beside its graph.

    Raises
    ------
    ModelFileError
        When it is another program's, cut short or changed, or reaches beyond itself.
    UsageError
        When the package onnx is missing.

    Examples
    --------
    >>> opened(b"", "a.onnx")
    Traceback (most recent call last):
    imprint.core.errors.ModelFileError: model at a.onnx: it is cut short, or no file of imprint export. ...
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ModuleNotFoundError as error:
        raise missing(error.name or "onnx") from None
    _check_seal(content[-SEAL_LENGTH:], path)
    if hashlib.sha256(content[:-SEAL_LENGTH]).hexdigest().encode() != content[-64:]:
        raise broken(path, "some of its bytes have changed since it was written")
    # The seal shows accidents; whoever means harm can make one, so what follows trusts nothing.
    try:
        model = onnx.ModelProto.FromString(content)
        texts = {entry.key: entry.value for entry in model.metadata_props}
        facts = json.loads(texts[KEY])
    except (DecodeError, KeyError, ValueError, RecursionError):
        raise broken(path, "it is an ONNX file, but not one of Imprint's") from None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        version = facts.get("format") if isinstance(facts, dict) else None
        raise broken(path, f"its format is {version!r}, and this Imprint reads {FORMAT}")
    for cause in _strange(model):
        raise broken(path, cause)
    return facts


def _check_seal(end: bytes, path: str | Path) -> None:
    if len(end) != SEAL_LENGTH or not end.startswith(SEAL):
        raise broken(path, "it is cut short, or no file of imprint export")


def _strange(model: ModelProto) -> Iterator[str]:
    """Name what no file of Imprint's has: operators that are not in its graphs, code, weights in other files."""
    if model.functions or any(entry.domain for entry in model.opset_import):
        yield "it brings operators of its own"
    graph = model.graph
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    for node in graph.node:
        if node.domain or node.op_type not in OPERATORS:
            yield f"operator {node.op_type[:40]} is not among those that Imprint uses"
    if any(held.HasField("g") or held.graphs for held in attributes):
        yield "it holds graphs within its graph"
    if graph.sparse_initializer or any(held.HasField("sparse_tensor") or held.sparse_tensors for held in attributes):
        yield "it holds sparse weights"
    constants = [tensor for held in attributes for tensor in (held.t, *held.tensors)]
    if any(tensor.external_data or tensor.data_location for tensor in (*graph.initializer, *constants)):
        yield "some of its weights lie in another file"


def broken(path: str | Path, cause: str) -> ModelFileError:
    """Make the error for a file that cannot be used as an exported model.

    Parameters
    ----------
    path : str or Path
        The file.
    cause : str
        What is wrong with it.

    Returns
    -------
    ModelFileError
        To be raised.

    Examples
    --------
    >>> print(broken("a.onnx", "it is cut short"))
    model at a.onnx: it is cut short. Name a file that imprint export wrote, or write it again.
    """
    return ModelFileError("model", str(path), cause, "Name a file that imprint export wrote, or write it again.")


def missing(package: str) -> UsageError:
    """Make the error for a package that Imprint does not bring along.

    Parameters
    ----------
    package : str
        Its name.

    Returns
    -------
    UsageError
        To be raised.

    Examples
    --------
    >>> print(missing("onnxruntime"))
    package onnxruntime at this Python: it is missing, and ONNX needs it. Install it: pip install 'imprint[export]'.
    """
    remedy = "Install it: pip install 'imprint[export]'."
    return UsageError(f"package {package}", "this Python", "it is missing, and ONNX needs it", remedy)
