"""Images in MATLAB's files up to version 7: arrays of numbers and nothing else.

SVHN holds X as height × width × channels × n, and y (ufldl.stanford.edu/housenumbers, "Format 2").
"""

from __future__ import annotations

import math
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from numpy import ndarray

from imprint.core.errors import DataError
from imprint.data.decoding.content import ALWAYS_ALLOWED, MAX_RATIO
from imprint.data.decoding.formats import HDF5, split_step
from imprint.data.images import LabelledImages, encode_labels
from imprint.data.readers.arrays import array_images

IMAGES = ("x", "images", "image", "imgs", "data", "fea", "pixels")
LABELS = ("y", "labels", "label", "gnd", "targets", "target", "classes")
NUMBERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "single", "double", "logical")
CONTAINERS = ("cell", "struct", "object", "function", "opaque")
CHANNELS = (1, 3, 4)
HEADER = 128  # bytes; "MAT-File Format", MathWorks, chapter 1
COMPRESSED = 15  # miCOMPRESSED
ROW_BY_ROW = "mldata_descr_ordering"  # in files of mldata.org, whose rows of pixels were not written by MATLAB
NAME_THEM = "Save the images as X and the labels as y, with save -v7."
DAMAGED = "it is cut short, damaged or no MATLAB file"
DOWNLOAD = "Save or download it again."


def read_mat(path: Path) -> LabelledImages:
    """Read images and labels from a MATLAB file; objects, cells and structs are refused, and so is version 7.3 (HDF5).

    X is height × width × channels × n, height × width × n, or has a row or a column of pixels for each image, which
    MATLAB counts column by column. Sources are the file's name and the image's number from 1.
    """
    content = _unpacked(path)
    kinds = _kinds(content, path.name)
    images = _only(kinds, IMAGES, path.name)
    if images is None:
        held = ", ".join(f"{name} ({kind})" for name, (_, kind) in list(kinds.items())[:5]) or "nothing"
        boxed = any(kind in CONTAINERS for _, kind in kinds.values())
        cause = f"no array of numbers is called X, images or data; it holds {held}"
        raise DataError("images", path.name, cause, "Take them out of the cell or struct. " * boxed + NAME_THEM)
    labels = _only(kinds, LABELS, path.name)
    arrays = _load(content, [name for name in (images, labels) if name], path.name)
    targets = None if labels is None else _labels(arrays[labels], path.name)
    pixels = arrays[images].astype(bool) if kinds[images][1] == "logical" else arrays[images]
    stack = _images_first(pixels, None if targets is None else len(targets), ROW_BY_ROW in kinds, path.name)
    try:
        found = array_images(stack)
    except DataError as error:
        raise DataError(error.what, path.name, error.cause, error.remedy) from None
    sources = np.array([f"{path.name}#{i}" for i in range(1, len(found) + 1)])
    found = replace(found, sources=sources, name=path.name)
    if targets is None:
        return found
    numbers, class_names = encode_labels(targets.astype(str))
    return replace(found, labels=numbers, class_names=class_names)


def _unpacked(path: Path) -> bytes:
    """Read a file with all its arrays unpacked, each within the limit of other packed data."""
    content = path.read_bytes()
    if content.startswith(b"MATLAB 7.3") or content[512:520] == b"\x89HDF\r\n\x1a\n" or content[:4] == b"\x89HDF":
        what, step = split_step(HDF5)
        raise DataError("MATLAB file", path.name, f"it is of version 7.3, that is {what}", step)
    order = {b"IM": "little", b"MI": "big"}.get(content[126:128])
    if order is None or len(content) < HEADER + 8:
        return content  # version 4, or none
    pieces, place = [content[:HEADER]], HEADER
    while place + 8 <= len(content):
        kind, size = (int.from_bytes(content[i : i + 4], order) for i in (place, place + 4))  # type: ignore[arg-type]
        element = content[place + 8 : place + 8 + size]
        if len(element) < size:
            raise DataError("MATLAB file", path.name, DAMAGED, DOWNLOAD)
        pieces.append(_inflated(element, path.name) if kind == COMPRESSED else content[place : place + 8 + size])
        place += 8 + size
    return b"".join(pieces)


def _inflated(element: bytes, where: str) -> bytes:
    limit = max(ALWAYS_ALLOWED, MAX_RATIO * len(element))
    try:
        inflated = zlib.decompressobj().decompress(element, limit + 1)
    except zlib.error:
        raise DataError("MATLAB file", where, DAMAGED, DOWNLOAD) from None
    if len(inflated) > limit:
        cause = f"{len(element):,} bytes would grow to more than {limit:,}"
        raise DataError("MATLAB file", where, cause, "Save it again from data that you trust.")
    return inflated


def _kinds(content: bytes, where: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """List the shape and MATLAB's class of each array."""
    from scipy.io import whosmat

    try:
        return {name: (shape, kind) for name, shape, kind in whosmat(BytesIO(content))}
    except Exception:  # the parser raises anything on bytes made to break it
        raise DataError("MATLAB file", where, DAMAGED, DOWNLOAD) from None


def _load(content: bytes, names: list[str], where: str) -> dict[str, ndarray]:
    from scipy.io import loadmat

    try:
        loaded: dict[str, Any] = loadmat(BytesIO(content), variable_names=names)
        arrays = {name: np.asarray(loaded[name]) for name in names}
    except Exception:
        raise DataError("MATLAB file", where, DAMAGED, DOWNLOAD) from None
    if any(array.dtype.kind not in "buif" for array in arrays.values()):
        raise DataError("MATLAB file", where, "its arrays hold more than plain numbers", NAME_THEM)
    return arrays


def _only(kinds: dict[str, tuple[tuple[int, ...], str]], names: tuple[str, ...], where: str) -> str | None:
    """Find the array of numbers with one of these names."""
    found = [name for name, (_, kind) in kinds.items() if name.lower() in names and kind in NUMBERS]
    if len(found) > 1:
        raise DataError("arrays", where, f"{' and '.join(found)} could both be meant", NAME_THEM)
    return found[0] if found else None


def _labels(array: ndarray, where: str) -> Shaped[ndarray, " n"]:
    """Bring a row or a column of labels to a list of whole numbers."""
    whole = np.isfinite(array).all() and (array == np.floor(array)).all()
    if array.size != max(array.shape, default=0) or not array.size or not whole or np.abs(array).max() > 2**31:
        raise DataError("labels", where, "they are no list of whole numbers, one for each image", NAME_THEM)
    return array.ravel().astype(np.int64)


def _images_first(array: ndarray, count: int | None, row_by_row: bool, where: str) -> Shaped[ndarray, "n h w c"]:
    """Bring an array to n × height × width × channels, by the number of labels and MATLAB's habit of n last."""
    shape = array.shape
    if array.ndim == 2:
        return _from_rows(array, count, row_by_row, where)
    if array.ndim in (3, 4):
        last = count in (None, shape[-1]) and (array.ndim == 3 or shape[2] in CHANNELS)
        if last and (array.ndim == 4 or count is not None or shape[0] == shape[1]):
            array = array if array.ndim == 4 else array[:, :, None]
            return np.moveaxis(array, -1, 0)
        if count in (None, shape[0]) and (array.ndim == 3 or shape[3] in CHANNELS):
            return array if array.ndim == 4 else array[..., None]
    raise _no_stack(shape, count, where)


def _from_rows(array: ndarray, count: int | None, row_by_row: bool, where: str) -> Shaped[ndarray, "n h w c"]:
    """Shape rows, or columns, of pixels into square grey images."""
    if count is not None and array.shape[0] != count:
        array = array.T
    side = math.isqrt(array.shape[1])
    if count not in (None, array.shape[0]) or side < 2 or side * side != array.shape[1]:
        raise _no_stack(array.shape, count, where)
    images = array.reshape(-1, side, side, 1)
    return images if row_by_row else images.transpose(0, 2, 1, 3)


def _no_stack(shape: tuple[int, ...], count: int | None, where: str) -> DataError:
    beside = "" if count is None else f" beside {count:,} labels"
    return DataError(
        f"shape {shape}", where, f"that is no stack of images{beside}", "Save X as height × width × channels × n."
    )
