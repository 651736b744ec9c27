"""Images in NumPy's files: .npz with labels beside the images, or .npy with labels in a file beside."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from imprint.core.errors import DataError
from imprint.core.memmap import mark_read_only
from imprint.data.images import LabelledImages, encode_labels
from imprint.data.readers.layout import PARTS

IMAGES = ("images", "image", "pixels", "images", "data", "x", "arr_0")
LABELS = ("labels", "label", "targets", "target", "classes", "y", "arr_1")
NAMES = ("class_names", "label_names", "names")
BESIDE = (("images", "labels"), ("pixels", "labels"), ("data", "labels"), ("x", "y"), ("X", "y"))
CALL_THEM = "Call the arrays images and labels."
STACK = "Give n × height × width, with 1, 3 or 4 channels last or first."


def read_arrays(path: Path, part: str | None = None, group: str | None = None) -> LabelledImages:
    """Read images from a ``.npz`` or ``.npy`` file.

    In ``.npz``, arrays are known by name: ``images`` and ``labels``, ``x`` and ``y``, ``x_train`` and
    ``y_train``, ``test_images`` and ``test_labels``; ``class_names`` may name whole-number labels. Beside
    ``x.npy`` stands ``y.npy``, beside ``images.npy`` ``labels.npy``.

    Parameters
    ----------
    path : Path
        Whole numbers from 0 to 255, 16 bits up to 65535, or floats, all from 0 to 1 or all from 0 to 255;
        n × height × width, or with 1, 3 or 4 channels last or first.
    part : str or None, default=None
        ``"train"``, ``"validation"`` or ``"test"``; None takes the training part, or all.
    group : str or None, default=None
        An array of the ``.npz`` with each image's group.

    Returns
    -------
    LabelledImages
        Sources are the file's name and the image's number from 1.

    Raises
    ------
    DataError
        When the file is damaged or holds pickled objects, or arrays do not fit together.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "two.npz"
    >>> np.savez(path, images=np.zeros((2, 8, 8, 3), np.uint8), labels=["cat", "dog"])
    >>> images = read_arrays(path)
    >>> images.shape, images.class_names
    ((3, 8, 8), ('cat', 'dog'))
    """
    arrays = _load(path, part)
    if "images" not in arrays:
        raise DataError("images", path.name, "no array is called images, x or pixels", CALL_THEM)
    pixels = _channels_first(_to_bytes(arrays["images"], path.name), path.name)
    labels, class_names = None, tuple[str, ...]()
    if "labels" in arrays:
        labels, class_names = encode_labels(_label_names(arrays["labels"], arrays.get("names"), len(pixels), path.name))
    groups = None if group is None else _beside(path, group, len(pixels))
    sources = np.array([f"{path.name}#{i}" for i in range(1, len(pixels) + 1)])
    return LabelledImages(pixels, labels, class_names, sources, path.name, groups=groups)


def array_images(array: ndarray) -> LabelledImages:
    """Take images from an array in memory.

    Parameters
    ----------
    array : ndarray
        Brightness as for `read_arrays`. One image, height × width or with 1, 3 or 4 channels last; or several,
        n × height × width or with channels last or first.

    Returns
    -------
    LabelledImages
        Without labels.

    Raises
    ------
    DataError
        When its shape or its numbers are no images.

    Examples
    --------
    >>> array_images(np.zeros((8, 9, 3), np.uint8)).shape, len(array_images(np.zeros((5, 8, 9))))
    ((3, 8, 9), 5)
    """
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4)):
        array = array[None]
    pixels = _channels_first(_to_bytes(array, "array"), "array")
    sources = np.array([f"array#{i}" for i in range(1, len(pixels) + 1)])
    return LabelledImages(pixels, None, (), sources, "array")


def array_parts(path: Path) -> tuple[str, ...]:
    """Tell into which parts a ``.npz`` is divided.

    Parameters
    ----------
    path : Path
        An existing file.

    Returns
    -------
    tuple of str
        Among ``"train"``, ``"validation"`` and ``"test"``; empty where it is not divided.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "two.npz"
    >>> np.savez(path, x_train=np.zeros((2, 8, 8)), x_test=np.zeros((2, 8, 8)))
    >>> array_parts(path)
    ('train', 'test')
    """
    if path.suffix.lower() != ".npz":
        return ()
    try:
        with zipfile.ZipFile(path) as archive:
            keys = [name.removesuffix(".npy") for name in archive.namelist()]
    except zipfile.BadZipFile:
        return ()
    found = {part for part, _ in map(_part_and_role, keys) if part}
    return tuple(part for part in dict.fromkeys(PARTS.values()) if part in found)


def _part_and_role(key: str) -> tuple[str, str]:
    """Tell an array's part and what it holds by its name: x_train, train_images, images."""
    words = re.split(r"[_\W]+", key.lower())
    part = next((PARTS[word] for word in words if word in PARTS), "")
    rest = "_".join(word for word in words if word not in PARTS)
    roles = (("images", IMAGES), ("labels", LABELS), ("names", NAMES))
    return part, next((role for role, names in roles if rest in names), "")


def _load(path: Path, part: str | None) -> dict[str, ndarray]:
    """Read the arrays that matter: images, labels and names."""
    if path.suffix.lower() == ".npy":
        if part is not None:
            raise _no_part(part, path.name, ())
        beside = _file_beside(path)
        found = {"images": _array(path)}
        return found if beside is None else {**found, "labels": _array(beside)}
    parts = array_parts(path)
    if part is not None and part not in parts:
        raise _no_part(part, path.name, parts)
    wanted = (part or parts[0]) if parts else ""
    with _opened(path) as stored:
        chosen = dict[str, ndarray]()
        for key in stored:
            of, role = _part_and_role(key)
            if role and (of == wanted or (role == "names" and not of)):
                if role in chosen:
                    raise DataError(f"array {key}", path.name, f"it is not the only one with {role}", CALL_THEM)
                chosen[role] = _member(stored, key, path.name)
    return chosen


def _no_part(part: str, where: str, parts: tuple[str, ...]) -> DataError:
    have = f"it has {' and '.join(parts)}" if parts else "it is not divided into parts"
    return DataError(f"part {part}", where, have, "Call the arrays x_train, y_train, x_test and so on.")


@contextmanager
def _opened(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    with open(path, "rb") as file:
        try:
            opened = np.load(file, allow_pickle=False)
        except (zipfile.BadZipFile, ValueError, EOFError):
            raise _damaged(path.name) from None
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise _damaged(path.name)
        with opened:
            yield opened


def _array(path: Path) -> ndarray:
    """Read a .npy, memory-mapped; not to be written to, as `LabelledImages` says."""
    try:
        return mark_read_only(np.lib.format.open_memmap(path, mode="c"))
    except (ValueError, EOFError, OSError) as error:
        raise _no_array(error, path.name) from None


def _member(stored: np.lib.npyio.NpzFile, key: str, where: str) -> ndarray:
    try:
        array: ndarray = stored[key]
        return array
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise _no_array(error, f"{where}, array {key}") from None


def _no_array(error: Exception, where: str) -> DataError:
    if "Object arrays" in str(error) or "Python objects" in str(error):
        cause = "it holds pickled objects, which could run code when they are read"
        return DataError("array", where, cause, "Save it as numbers, or as text with dtype=str.")
    if isinstance(error, OSError) and error.errno is not None:
        return DataError("array", where, f"it cannot be opened ({error.strerror})", "Check the path.")
    return _damaged(where)


def _damaged(where: str) -> DataError:
    return DataError("array", where, "it is cut short, damaged or no NumPy file", "Save or download it again.")


def _file_beside(path: Path) -> Path | None:
    """Find the labels that belong to a .npy of images: y_train.npy for x_train.npy."""
    for images, labels in BESIDE:
        name = re.sub(rf"(?<![A-Za-z]){images}(?![A-Za-z])", labels, path.stem)
        if name != path.stem and path.with_stem(name).is_file():
            return path.with_stem(name)
    return None


def _beside(path: Path, key: str, count: int) -> ndarray:
    """Read the array that names groups."""
    if path.suffix.lower() == ".npz":
        with _opened(path) as stored:
            if key in stored:
                groups = _member(stored, key, path.name).astype(str)
                if groups.shape == (count,):
                    return groups
                raise DataError(f"array {key}", path.name, f"it has not one group for each of {count:,} images", "")
    raise DataError(f"group {key}", path.name, "no array has that name", "Name an array of the file with --group.")


def _to_bytes(array: ndarray, where: str) -> UInt8[ndarray, ...]:
    """Bring brightness of any type to 0 … 255."""
    if array.ndim < 3:
        raise DataError(f"shape {array.shape}", where, "that is no stack of images", STACK)
    if array.dtype == np.uint8 or not array.size:
        return array.astype(np.uint8, copy=False)
    if array.dtype.kind not in "buif":
        raise DataError(f"type {array.dtype}", where, "pixels are numbers", "Save whole numbers from 0 to 255.")
    low, high = float(array.min()), float(array.max())
    if np.isnan(low):
        first = 1 + int(np.isnan(array).reshape(len(array), -1).any(axis=1).argmax())
        raise DataError("pixel nan", f"{where}#{first}", "it is no number", "Fill it in, or remove the image.")
    scale = 1.0
    if array.dtype.kind in "bf" and high <= 1:
        scale = 255
    elif array.dtype == np.uint16 and high > 255:
        scale = 255 / 65535
    if not (low >= 0 and high * scale <= 255):
        cause = f"its numbers go from {low:g} to {high:g}, and nothing says which is white"
        raise DataError("pixels", where, cause, "Bring them to 0 … 255, or as floats to 0 … 1.")
    return np.concatenate(
        [np.round(part * scale).astype(np.uint8) for part in np.array_split(array, 1 + len(array) // 1024)]
    )


def _channels_first(array: UInt8[ndarray, ...], where: str) -> UInt8[ndarray, "n c h w"]:
    if array.ndim == 3 and array.shape[2] not in (3, 4):  # else it is one colour image
        array = array[..., None]
    if array.ndim == 4 and array.shape[3] in (1, 3, 4):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3, 4) or not array.size:
        raise DataError(f"shape {array.shape}", where, "that is no stack of images", STACK)
    if array.shape[1] == 4:  # on white, as `decode` lays images
        share = array[:, 3:].astype(np.uint16)
        array = ((array[:, :3] * share + 255 * (255 - share) + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(array)


def _label_names(labels: ndarray, names: ndarray | None, count: int, where: str) -> ndarray:
    """Give each image's label as text."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (count,):
        cause = f"{count:,} images cannot have labels of shape {labels.shape}"
        raise DataError("labels", where, cause, "Give one label for each image.")
    if labels.dtype.kind == "f":
        if not (np.isfinite(labels).all() and (labels == np.floor(labels)).all()):
            raise DataError("labels", where, "they are neither whole numbers nor words", "Correct the labels.")
        labels = labels.astype(np.int64)
    if labels.dtype.kind == "b":
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "iuUS":
        raise DataError("labels", where, f"type {labels.dtype} is no label", "Save whole numbers or text.")
    if names is None or labels.dtype.kind not in "iu":
        return np.char.decode(labels, "utf-8") if labels.dtype.kind == "S" else labels.astype(str)
    if not (labels.min() >= 0 and labels.max() < len(names)):
        raise DataError("labels", where, f"they point outside the {len(names)} class names", "Correct the labels.")
    return np.take(names.astype(str), labels)
