"""Images in memory: arrays, tensors, tables of pixels, PIL images, bytes of files, open files, and lists of these."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy import ndarray
from numpy.typing import ArrayLike

from imprint.core.errors import DataError
from imprint.data.decoding.content import MAX_BYTES, PillowImage, image_error
from imprint.data.images import LabelledImages
from imprint.data.readers.arrays import array_images, one_image

if TYPE_CHECKING:
    from imprint.data.decoding.image_list import ImageList
    from imprint.preprocessing.input_spec import InputSpec

# What needs Pillow is imported where it is used: `load` takes the type from here, and a CSV of pixels needs none.

ACCEPTED = "Give paths, PIL images, the bytes of image files, open binary files, or numbers as an array or a tensor."


@runtime_checkable
class OpenFile(Protocol):
    """A file opened in binary mode, an upload or a `BytesIO`."""

    def read(self, size: int, /) -> bytes:
        """Read at most so many bytes."""
        ...


OneImage = str | PathLike[str] | bytes | bytearray | memoryview | OpenFile | PillowImage
Data = OneImage | ArrayLike | Sequence[OneImage | ArrayLike]


def read_memory(data: object, spec: InputSpec | None = None) -> ImageList | LabelledImages:
    """Read numbers as `array_images` does, and list everything else to be decoded as files are.

    Sources are paths, else what an image is and its number from 1, such as image#1 or bytes#2.
    """
    given = numbers_or_files(data)
    if isinstance(given, ndarray):
        return array_images(given, spec)
    from imprint.data.decoding.image_list import ImageList
    from imprint.data.readers.folder import list_files

    if all(isinstance(one, str | PathLike) for one in given):
        return list_files([Path(one) for one in given], f"{len(given)} files")
    images = [_image_source(one, i, spec) for i, one in enumerate(given, start=1)]
    sources = [_name(one, i) for i, one in enumerate(given, start=1)]
    kinds = {"" if isinstance(one, str | PathLike) else _kind(one) for one in given}
    name = (kinds.pop() if len(kinds) == 1 else "") or f"{len(given)} images"
    return ImageList(name, sources, images.__getitem__, [])


def numbers_or_files(data: object) -> ndarray | list[Any]:
    """Tell numbers, given as one array, from images that are decoded, given as a list of at least one such image.

    Raises DataError for what is neither, and for lists of numbers that make no array.
    """
    if _is_one_image(data):
        return [data]
    if isinstance(data, list | tuple):
        if not data or any(map(_is_one_image, data)):
            return list(data)
        return _joined(data)
    array = _as_array(data)
    if array is None:
        raise DataError("data", "load", f"type {type(data).__name__} is neither path nor image", ACCEPTED)
    if array.ndim == 1 and array.dtype.kind in "UTO" and array.size:  # such as a column of paths
        return numbers_or_files(array.tolist())
    return array


def holds_files(data: object) -> bool:
    """Tell image files and PIL images, or a list or column of them, from numbers."""
    if getattr(data, "ndim", None) == 1 and getattr(getattr(data, "dtype", None), "kind", "") in ("U", "O", "T"):
        data = list(data)  # type: ignore[call-overload]
    return _is_one_image(data) or (isinstance(data, list | tuple) and any(map(_is_one_image, data)))


def without_tensors(data: Any) -> Any:
    """Convert tensors, also those in a list, to arrays; everything else stays."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(data, torch.Tensor):
        return _as_array(data)
    return [without_tensors(one) for one in data] if isinstance(data, list | tuple) else data


def _is_one_image(given: object) -> bool:
    return isinstance(given, str | PathLike | bytes | bytearray | memoryview) or _is_pillow(given) or _is_open(given)


def _is_pillow(given: object) -> bool:
    pillow = sys.modules.get("PIL.Image")  # without it there is no such image
    return pillow is not None and isinstance(given, pillow.Image)


def _is_open(given: object) -> bool:
    return callable(getattr(given, "read", None)) and not hasattr(given, "__array__")


def _as_array(given: object) -> ndarray | None:
    """Convert an array, a tensor on any device or a table to an array; None for anything else."""
    torch = sys.modules.get("torch")
    try:
        if torch is not None and isinstance(given, torch.Tensor):
            known = given.float() if given.dtype == torch.bfloat16 else given  # which NumPy has not
            return np.asarray(known.numpy(force=True))
        if type(given) in (ndarray, np.memmap):
            return given  # type: ignore[return-value]
        return np.asarray(given) if hasattr(given, "__array__") else None
    except (TypeError, ValueError, RuntimeError) as error:
        cause = f"type {type(given).__name__} gives no array ({' '.join(str(error).split())[:200]})"
        raise DataError("data", "load", cause, ACCEPTED) from None


def _joined(given: Sequence[Any]) -> ndarray | list[Any]:
    """Join a list of numbers, of rows or of images to one array; images of several sizes or types stay a list."""
    members = [one if (array := _as_array(one)) is None else array for one in given]
    images = all(isinstance(one, ndarray) and one.ndim in (2, 3) for one in members)
    if images and len({one.dtype for one in members}) > 1:  # bytes and shares, which have no scale in common
        return members
    try:
        return np.asarray(members)
    except ValueError:
        if images:
            return members
        cause = "its rows or images are of different lengths"
        raise DataError("data", "the list", cause, "Give rows of one length, or each image as an array.") from None
    except (TypeError, OverflowError):
        raise DataError("data", "the list", "it holds what is neither path nor image", ACCEPTED) from None


def _image_source(given: Any, number: int, spec: InputSpec | None) -> Any:
    """Give one image of a list as the decoder takes it: a path, bytes or a PIL image."""
    if isinstance(given, str | PathLike):
        return Path(given)
    if isinstance(given, bytes | bytearray | memoryview):
        return bytes(given)
    if _is_pillow(given):
        return _file_content(given) or given
    if _is_open(given):
        return _read_open(given)
    array = _as_array(given)
    if array is None:
        cause = f"type {type(given).__name__} is neither path nor image"
        raise DataError("data", f"number {number} of the list", cause, ACCEPTED)
    from PIL import Image

    return Image.fromarray(one_image(array, f"array#{number}", spec))


def _file_content(image: Any) -> bytes | None:
    """Give the file of a PIL image that was opened and not yet decoded, so that it is decoded as that file is.

    None where it has been decoded and may have been changed, shows another frame, or has a format that is not read.
    """
    from imprint.data.decoding.decode import FORMATS

    # Pillow has no public way to tell; without the attribute the image is decoded as Pillow does.
    waiting = getattr(image, "_im", image) is None and getattr(image, "fp", None) is not None
    if not waiting or image.format not in FORMATS or image.tell():
        return None
    place = image.fp.tell()
    try:
        image.fp.seek(0)
        content: bytes = image.fp.read()
        return content
    finally:
        image.fp.seek(place)


def _read_open(file: Any) -> bytes:
    """Read an open file from its start, and leave it at the place where it was."""
    name = getattr(file, "name", None)
    where = name if isinstance(name, str) else "the open file"
    try:
        place = file.tell() if getattr(file, "seekable", bool)() else None
        if place is not None:
            file.seek(0)
        content = file.read(MAX_BYTES + 1)
        if place is not None:
            file.seek(place)
    except ValueError as error:  # it is closed, or opened as text and no text
        cause = f"it cannot be read ({' '.join(str(error).split())[:200]})"
        raise DataError("image", where, cause, "Open it with open(path, 'rb').") from None
    if not isinstance(content, bytes):
        cause = f"it gives {type(content).__name__}, not bytes"
        raise DataError("image", where, cause, "Open it with open(path, 'rb').")
    if len(content) > MAX_BYTES:
        raise image_error(where, f"it is larger than {MAX_BYTES // 2**20} MB")
    return content


def _name(given: Any, number: int) -> str:
    if isinstance(given, str | PathLike):
        from imprint.data.readers.folder import list_files

        return list_files([Path(given)], "").sources[0]
    return f"{_kind(given)}#{number}"


def _kind(given: Any) -> str:
    if isinstance(given, bytes | bytearray | memoryview):
        return "bytes"
    return "image" if _is_pillow(given) else "file" if _is_open(given) else "array"
