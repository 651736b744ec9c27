"""The model file: weights, and all that is needed to use them, in one safetensors file that is checked before use.

Its header holds the SHA-256 of the whole file, in which the digest's own place counts as zeros: a file that is cut
short, damaged or pieced together is refused before any of it is used.
"""

from __future__ import annotations

import hashlib
import json
import math
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from imprint.core.errors import ModelFileError, UsageError
from imprint.core.files import similar_path, written_whole

if TYPE_CHECKING:
    from torch import Tensor

# Within a run folder.
MODEL_NAME, CHECKPOINT_NAME, PROVENANCE_NAME = "model.safetensors", "checkpoint.safetensors", "origin.json"
SEEN_NAME = "seen.safetensors"  # which images a run's model was trained on
METADATA, KEY = "__metadata__", "imprint"  # safetensors' entry for texts, and our one text there: JSON
# 1 had no OOD score, 2 no digest, 3 older names of recipe fields and tensors, 4 no limit of confidence.
FORMAT, OLDEST = 5, 4
NAME_A_MODEL = "Name a model.safetensors or run folder that imprint train wrote."
UNSIGNED = "0" * 64  # where the digest will stand
# What a file may claim before its digest has been checked: 100,000 classes need 2 MB of header, eight networks for
# photos 0.06 GB. A digest of 1 GB takes a second.
MAX_HEADER, MAX_BYTES = 4 * 2**20, 2**30


def find_model(path: str | Path) -> Path:
    """Find the model's file: the path itself, or in a run folder its model, else its checkpoint."""
    path = Path(path)
    if not path.is_dir():
        return path
    stopped = (path / CHECKPOINT_NAME).is_file() and not (path / MODEL_NAME).exists()
    return path / (CHECKPOINT_NAME if stopped else MODEL_NAME)


def write_model_file(path: str | Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors by name, and facts as JSON values, to one file, which appears once it is whole.

    The same contents give the same bytes. Raises `UsageError` where the file cannot be written or would be larger than
    `read_model_file` takes.
    """
    from safetensors.torch import save

    text = json.dumps({"format": FORMAT, "sha256": UNSIGNED, **facts}, ensure_ascii=False, allow_nan=False)
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = bytearray(save(whole, metadata={KEY: text}))
    if int.from_bytes(content[:8], "little") > MAX_HEADER or len(content) > MAX_BYTES:
        cause = f"a model file holds {MAX_BYTES:,} bytes and a header of {MAX_HEADER:,} at most"
        raise UsageError("size", str(path), cause, "Use fewer classes, or smaller images.")
    place = content.index(UNSIGNED.encode())  # the first: safetensors puts the metadata before the tensors' names
    content[place : place + len(UNSIGNED)] = hashlib.sha256(content).hexdigest().encode()
    with written_whole(path) as temporary:
        temporary.write_bytes(content)


def read_model_file(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and facts that `write_model_file` wrote, to the bit.

    Raises `ModelFileError` where the file is missing, damaged, or not a model of Imprint's.
    """
    facts, content = check_model_file(path)
    tensors = parse_tensors(content, path)
    del facts["format"], facts["sha256"]
    return tensors, facts


def parse_tensors(content: bytes, path: str | Path) -> dict[str, Tensor]:
    """Parse the tensors of a file that `check_model_file` has read; raises `ModelFileError` where they are none."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(content)
    except (SafetensorError, LookupError, ValueError, TypeError, AssertionError, RuntimeError) as error:
        raise inconsistent(path, error) from None


def check_model_file(path: str | Path) -> tuple[dict[str, Any], bytes]:
    """Check a file's sizes and digest without importing torch, which takes longer than that; gives facts and content.

    Raises `ModelFileError` as `read_model_file` does.
    """
    try:
        start, header = _read_header(Path(path))
        facts = _parse(header[METADATA][KEY]) if KEY in header.get(METADATA, ()) else {}
        _check_format(path, facts)
        if facts["format"] < FORMAT:
            facts["unsure_below"] = 0.0  # as it was then: no prediction was unsure for its confidence
        content = _read_content(Path(path), start, header)
        _check_digest(path, content, len(start), str(facts["sha256"]))
        return facts, content
    except ModelFileError:
        raise
    except OSError as error:
        gone = (
            isinstance(error, FileNotFoundError) and Path(path).name != MODEL_NAME
        )  # beside it lie other files of its run
        meant = similar_path(path) if gone else ""
        raise broken(path, f"it cannot be read ({error.strerror or error})", f"{meant}{NAME_A_MODEL}") from None
    except (LookupError, ValueError, TypeError, RuntimeError) as error:
        raise inconsistent(path, error) from None


def _read_header(path: Path) -> tuple[bytes, dict[str, Any]]:
    """Read the length and the JSON that a safetensors file begins with, once the sizes have been found believable."""
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
        if length > MAX_HEADER or status.st_size > MAX_BYTES:
            raise broken(path, f"it claims a header of {length:,} bytes and holds {status.st_size:,}, too many")
        start += file.read(length)
    return start, _parse(start[8:].decode())


def _check_format(path: str | Path, facts: Mapping[str, Any]) -> None:
    version = facts.get("format")
    if type(version) is not int:
        raise broken(path, "it is not one of Imprint's")
    if version < OLDEST:
        cause = f"an older Imprint wrote it: its format is {version}, and this one reads {OLDEST} and {FORMAT}"
        raise broken(path, cause, "Train again with imprint train.")
    if version > FORMAT:
        cause = f"a newer Imprint wrote it: its format is {version}, and this one reads {OLDEST} and {FORMAT}"
        raise broken(path, cause, "Update Imprint.")


def _read_content(path: Path, start: bytes, header: Mapping[str, Any]) -> bytes:
    """Read all of a file that holds as many bytes as its header says."""
    size = len(start) + max((header[name]["data_offsets"][1] for name in header if name != METADATA), default=0)
    held = path.stat().st_size
    if size != held:
        raise broken(path, f"it holds {held:,} bytes, of the {size:,} that its header speaks of")
    with open(path, "rb") as file:
        return file.read(size)


def _check_digest(path: str | Path, content: bytes, start: int, signed: str) -> None:
    """Compare the digest of the content with the one that stands in its first `start` bytes."""
    place = content.find(signed.encode(), 0, start)
    if len(signed) != len(UNSIGNED) or place < 0:
        raise ValueError("sha256")
    whole = memoryview(content)
    digest = hashlib.sha256(whole[:place])
    digest.update(UNSIGNED.encode())
    digest.update(whole[place + len(UNSIGNED) :])
    if digest.hexdigest() != signed:
        raise broken(path, "it is damaged: its content is not what was written")


def _parse(text: str) -> dict[str, Any]:
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
    """Make the error for a file that cannot be used as a model; the remedy left out is to name another."""
    return ModelFileError("model", str(path), cause, remedy or NAME_A_MODEL)


def inconsistent(path: str | Path, error: Exception) -> ModelFileError:
    """Make the error for a file whose header is malformed or contradicts itself."""
    return broken(path, f"its header is inconsistent ({error})")
