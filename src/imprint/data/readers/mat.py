"""Images in MATLAB's files up to version 7: arrays of numbers and nothing else.

SVHN holds X as height × width × channels × n, and y (ufldl.stanford.edu/housenumbers, "Format 2"). The form is told in
MathWorks' "MAT-File Format", chapter 1. Not by scipy.io.loadmat: of 1,500 damaged files one ended the process by a
segmentation fault (SciPy 1.17), and what is read here may be hostile.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Shaped
from numpy import ndarray

from imprint.core.errors import DataError
from imprint.data.decoding.content import ALWAYS_ALLOWED, MAX_RATIO
from imprint.data.decoding.formats import HDF5, split_step
from imprint.data.images import LabelledImages, encode_labels
from imprint.data.readers.arrays import array_images

if TYPE_CHECKING:
    from imprint.preprocessing.input_spec import InputSpec

IMAGES = ("x", "images", "image", "imgs", "data", "fea", "pixels")
LABELS = ("y", "labels", "label", "gnd", "targets", "target", "classes")
HEADER = 128  # bytes
MATRIX, COMPRESSED = 14, 15  # miMATRIX and miCOMPRESSED
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}  # mi…
NUMBERS = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}  # mx…
OTHERS = {1: "cell", 2: "struct", 3: "object", 4: "text", 5: "sparse", 16: "function", 17: "object"}
LOGICAL, COMPLEX = 0x200, 0x800
MAX_DIMENSIONS = 8
CHANNELS = (1, 3, 4)
ROW_BY_ROW = "mldata_descr_ordering"  # in files of mldata.org, whose rows of pixels were not written by MATLAB
NAME_THEM = "Save the images as X and the labels as y, with save -v7."
DAMAGED = "it is cut short, damaged or no MATLAB file"
DOWNLOAD = "Save or download it again."


@dataclass(frozen=True)
class Stored:
    """An array as it stands in a file: MATLAB's class of it, its shape, and of numbers its data, not yet converted."""

    kind: str
    flags: int
    shape: tuple[int, ...]
    dtype: str
    content: bytes

    def array(self, order: str, where: str) -> ndarray:
        """Convert the data; raises DataError where they do not fill the shape."""
        if self.flags & COMPLEX or not self.dtype:
            raise DataError("MATLAB file", where, "its arrays hold more than plain numbers", NAME_THEM)
        stored = np.dtype(f"{order}{self.dtype}")
        if math.prod(self.shape) * stored.itemsize != len(self.content):
            raise _damaged(where)
        wanted = "?" if self.flags & LOGICAL else self.kind
        return np.frombuffer(self.content, stored).astype(wanted, copy=False).reshape(self.shape, order="F")


def read_mat(path: Path, spec: InputSpec | None = None) -> LabelledImages:
    """Read images and labels from a MATLAB file; objects, cells and structs are refused, and so is version 7.3 (HDF5).

    X is height × width × channels × n, height × width × n, or has a row or a column of pixels for each image, which
    MATLAB counts column by column. Sources are the file's name and the image's number from 1.
    """
    order, held = _read_arrays(path)
    images = _only(held, IMAGES, path.name)
    if images is None:
        listed = ", ".join(
            f"{name} ({OTHERS.get(one.flags & 0xFF, 'numbers')})" for name, one in list(held.items())[:5]
        )
        boxed = any(one.flags & 0xFF in (1, 2, 3, 17) for one in held.values())
        cause = f"no array of numbers is called X, images or data; it holds {listed or 'nothing'}"
        raise DataError("images", path.name, cause, "Take them out of the cell or struct. " * boxed + NAME_THEM)
    labels = _only(held, LABELS, path.name)
    targets = None if labels is None else _labels(held[labels].array(order, path.name), path.name)
    pixels = held[images].array(order, path.name)
    stack = _images_first(pixels, None if targets is None else len(targets), ROW_BY_ROW in held, path.name)
    found = array_images(stack, spec, path.name)
    if targets is None:
        return found
    numbers, class_names = encode_labels(targets.astype(str))
    return replace(found, labels=numbers, class_names=class_names)


def _damaged(where: str) -> DataError:
    return DataError("MATLAB file", where, DAMAGED, DOWNLOAD)


def _read_arrays(path: Path) -> tuple[str, dict[str, Stored]]:
    """Read the arrays of a file by name, unpacked but not converted; gives their byte order too."""
    content = path.read_bytes()
    if content.startswith(b"MATLAB 7.3") or b"\x89HDF\r\n\x1a\n" in (content[:8], content[512:520]):
        what, step = split_step(HDF5)
        raise DataError("MATLAB file", path.name, f"it is of version 7.3, that is {what}", step)
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None:
        cause = "it is of version 4, damaged or no MATLAB file"
        raise DataError("MATLAB file", path.name, cause, "Save or download it again, from MATLAB with save -v7.")
    arrays = dict[str, Stored]()
    for kind, element in _elements(memoryview(content)[HEADER:], order, path.name, padded=False):
        if kind == COMPRESSED:
            inner = list(_elements(memoryview(_inflated(bytes(element), path.name)), order, path.name))
            kind, element = inner[0] if len(inner) == 1 else (0, element)
        if kind == MATRIX:
            name, stored = _matrix(element, order, path.name)
            arrays[name] = stored
    return order, arrays


def _elements(content: memoryview, order: str, where: str, padded: bool = True) -> Iterator[tuple[int, memoryview]]:
    """Go through tagged data elements: type and data. Up to four bytes may stand in the tag itself."""
    place = 0
    while place + 8 <= len(content):
        first, size = struct.unpack_from(f"{order}II", content, place)
        if first >> 16:
            kind, size, start = first & 0xFFFF, first >> 16, place + 4
            end = place + 8
        else:
            kind, start = first, place + 8
            end = start + (-(-size // 8) * 8 if padded else size)
        if start + size > len(content) or (first >> 16 and size > 4):
            raise _damaged(where)
        yield kind, content[start : start + size]
        place = end
    if place < len(content) and not padded:
        raise _damaged(where)


def _matrix(content: memoryview, order: str, where: str) -> tuple[str, Stored]:
    """Read an array's flags, shape and name, and of numbers the data of the real part."""
    parts = _elements(content, order, where)
    try:
        flags = struct.unpack_from(f"{order}I", next(parts)[1])[0]
        kind = NUMBERS.get(flags & 0xFF, "")
        if not kind and flags & 0xFF == 17:  # an object has no shape
            return "", Stored("", flags, (), "", b"")
        dimensions = next(parts)[1]
        shape = struct.unpack(f"{order}{len(dimensions) // 4}i", dimensions[: len(dimensions) // 4 * 4])
        name = bytes(next(parts)[1]).decode("latin-1")
        stored, data = next(parts) if kind else (0, b"")
    except (StopIteration, struct.error):
        raise _damaged(where) from None
    if len(shape) > MAX_DIMENSIONS or min(shape, default=0) < 0 or (kind and stored not in STORED):
        raise _damaged(where)
    return name, Stored(kind, flags, shape, STORED.get(stored, "") if kind else "", bytes(data))


def _inflated(element: bytes, where: str) -> bytes:
    limit = max(ALWAYS_ALLOWED, MAX_RATIO * len(element))
    try:
        inflated = zlib.decompressobj().decompress(element, limit + 1)
    except zlib.error:
        raise _damaged(where) from None
    if len(inflated) > limit:
        cause = f"{len(element):,} bytes would grow to more than {limit:,}"
        raise DataError("MATLAB file", where, cause, "Save it again from data that you trust.")
    return inflated


def _only(held: dict[str, Stored], names: tuple[str, ...], where: str) -> str | None:
    """Find the array of numbers with one of these names."""
    found = [name for name, stored in held.items() if name.lower() in names and stored.kind]
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
