"""The model file: weights, and all that is needed to use them, in one safetensors file that is checked before use.

Its header begins with the format's number and the SHA-256 of the whole file, in which the digest's own
place counts as zeros: a file that is cut short, damaged or pieced together is refused before any of it is used.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from imprint.core.errors import ModelFileError, UsageError
from imprint.core.files import written_whole

if TYPE_CHECKING:
    from torch import Tensor

# Within a run folder.
MODEL_NAME, CHECKPOINT_NAME, PROVENANCE_NAME = "model.safetensors", "checkpoint.safetensors", "origin.json"
KEY = "imprint"  # the one entry of the safetensors metadata: a JSON text
FORMAT = 3  # 1 had no familiarity, 2 no digest
UNSIGNED = "0" * 64  # where the digest will stand
START = re.compile(rb'\{"__metadata__":\{"imprint":"\{\\"format\\": (\d{1,9})(?:, \\"sha256\\": \\"([0-9a-f]{64})\\")?')
# What a file may claim before its digest has been checked: 100,000 classes need 2 MB of header, eight networks for
# photos 0.06 GB. A digest of 1 GB takes a second.
MOST_HEADER, MOST_BYTES = 4 * 2**20, 2**30
BLOCK = 2**20


def find_model(path: str | Path) -> Path:
    """Find the model's file.

    Parameters
    ----------
    path : str or Path
        A model file or run folder.

    Returns
    -------
    Path
        In a run folder its model, or its checkpoint where there is no model yet.

    Examples
    --------
    >>> find_model("digits.safetensors").name
    'digits.safetensors'
    """
    path = Path(path)
    if not path.is_dir():
        return path
    stopped = (path / CHECKPOINT_NAME).is_file() and not (path / MODEL_NAME).exists()
    return path / (CHECKPOINT_NAME if stopped else MODEL_NAME)


def write_model_file(path: str | Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and facts to one file, which appears once it is whole.

    The same tensors and facts give the same bytes.

    Parameters
    ----------
    path : str or Path
        The file; an existing one is replaced.
    tensors : mapping of str to Tensor
        Weights and buffers by name.
    facts : mapping
        Everything else, as plain JSON values; neither NaN nor infinity.

    Raises
    ------
    UsageError
        When the file cannot be written, or would be larger than `read_model_file` takes.

    Examples
    --------
    >>> import tempfile, torch
    >>> path = Path(tempfile.mkdtemp()) / "m.safetensors"
    >>> write_model_file(path, {"w": torch.ones(2)}, {"classes": ["a", "b"]})
    >>> read_model_file(path)[1]["classes"]
    ['a', 'b']
    """
    from safetensors.torch import save

    text = json.dumps({"format": FORMAT, "sha256": UNSIGNED, **facts}, ensure_ascii=False, allow_nan=False)
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = bytearray(save(whole, metadata={KEY: text}))
    if int.from_bytes(content[:8], "little") > MOST_HEADER or len(content) > MOST_BYTES:
        cause = f"a model file holds {MOST_BYTES:,} bytes and a header of {MOST_HEADER:,} at most"
        raise UsageError("size", str(path), cause, "Use fewer classes, or smaller images.")
    place = content.index(UNSIGNED.encode())  # the first: `START` begins the file
    content[place : place + 64] = hashlib.sha256(content).hexdigest().encode()
    with written_whole(path) as temporary:
        temporary.write_bytes(content)


def read_model_file(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file that `write_model_file` wrote, to the bit.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    tensors : dict of str to Tensor
        Weights and buffers by name.
    facts : dict
        Everything else.

    Raises
    ------
    ModelFileError
        When the file is missing, damaged, or not a model of Imprint's.

    Examples
    --------
    >>> read_model_file("pyproject.toml")
    Traceback (most recent call last):
    imprint.core.errors.ModelFileError: model at pyproject.toml: ...
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    facts, content = check_model_file(path)
    try:
        tensors = load(content)
    except (SafetensorError, LookupError, ValueError, TypeError, AssertionError, RuntimeError) as error:
        raise broken(path, f"its header does not hold together ({error})") from None
    del facts["format"], facts["sha256"]
    return tensors, facts


def check_model_file(path: str | Path) -> tuple[dict[str, Any], bytes]:
    """Check a file's start, sizes and digest, without importing torch, which takes longer than refusing.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    facts : dict
        What it says beside its tensors.
    content : bytes
        All of it.

    Raises
    ------
    ModelFileError
        When the file is missing, damaged, or not a model of Imprint's.

    Examples
    --------
    >>> check_model_file("pyproject.toml")
    Traceback (most recent call last):
    imprint.core.errors.ModelFileError: model at pyproject.toml: ...
    """
    try:
        header, content = _checked(Path(path))
        return _parsed(header["__metadata__"][KEY]), content
    except ModelFileError:
        raise
    except OSError as error:
        raise broken(path, f"it cannot be read ({error.strerror or error})") from None
    except (LookupError, ValueError, TypeError, RuntimeError) as error:
        raise broken(path, f"its header does not hold together ({error})") from None


def _checked(path: Path) -> tuple[dict[str, Any], bytes]:
    """Give a file's header and content once its start, its sizes and its digest have been found right."""
    status = path.stat()
    if path.suffix.lower() == ".onnx":
        remedy = "Name the model.safetensors or run folder that it was made from."
        raise broken(path, "it is an exported model, which predict, evaluate and compare alone can use", remedy)
    if not stat.S_ISREG(status.st_mode):
        raise broken(path, "it is a folder or device, not a file")
    with open(path, "rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if not length or length + 8 > status.st_size:
            raise broken(path, "it is no whole safetensors file")
        if length > MOST_HEADER or status.st_size > MOST_BYTES:
            raise broken(path, f"it claims a header of {length:,} bytes and holds {status.st_size:,}, too many")
        text = file.read(length)
        found = START.match(text)
        if found is None:
            raise broken(path, "it is not one of Imprint's")
        if int(found[1]) != FORMAT or found[2] is None:
            raise broken(path, f"its format is {int(found[1])}, and this Imprint reads {FORMAT}")
        header = _parsed(text.decode())
        size = (
            8 + length + max((header[name]["data_offsets"][1] for name in header if name != "__metadata__"), default=0)
        )
        if size != status.st_size:
            raise broken(path, f"it holds {status.st_size:,} bytes, of the {size:,} that its header speaks of")
        digest = hashlib.sha256(start + text[: found.start(2)] + UNSIGNED.encode() + text[found.end(2) :])
        while block := file.read(BLOCK):
            digest.update(block)
        if digest.hexdigest() != found[2].decode():
            raise broken(path, "it is damaged: its content is not what was written")
        file.seek(0)
        return header, file.read()


def _parsed(text: str) -> dict[str, Any]:
    """Read a JSON object whose numbers are finite; one nested too deeply is a RecursionError, a RuntimeError."""
    values = json.loads(text, parse_constant=_not_finite, parse_float=_finite)
    if not isinstance(values, dict):
        raise ValueError("no JSON object")
    return values


def _finite(text: str) -> float:
    return float(text) if math.isfinite(float(text)) else _not_finite(text)


def _not_finite(text: str) -> NoReturn:
    raise ValueError(f"{text[:20]} is no number")


def broken(path: str | Path, cause: str, remedy: str = "") -> ModelFileError:
    """Make the error for a file that cannot be used as a model.

    Parameters
    ----------
    path : str or Path
        The file.
    cause : str
        What is wrong with it.
    remedy : str, default=""
        What to do about it; left out, to name another file.

    Returns
    -------
    ModelFileError
        To be raised.

    Examples
    --------
    >>> print(broken("a.csv", "it is a table"))
    model at a.csv: it is a table. Name a model.safetensors or run folder that imprint train wrote.
    """
    remedy = remedy or "Name a model.safetensors or run folder that imprint train wrote."
    return ModelFileError("model", str(path), cause, remedy)
