"""Images in arrays: NumPy's files (.npz, or .npy with labels in a file beside), arrays in memory, and rows of numbers.

Rows are how scikit-learn's data sets hold images; `ImageClassifier` takes them.
"""

from __future__ import annotations

import math
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Shaped, UInt8
from numpy import ndarray
from numpy.typing import ArrayLike

from imprint.core.errors import DataError, UsageError
from imprint.core.memmap import mark_read_only
from imprint.core.progress import say, warn
from imprint.data.images import LabelledImages, encode_labels
from imprint.data.split import PARTS, in_part_order
from imprint.preprocessing.depth import SAMPLED, Range, common_range, describe_range, lost_levels, to_bytes
from imprint.preprocessing.transparency import choose_background, describe_background, lay_on, lightness

if TYPE_CHECKING:
    from imprint.preprocessing.input_spec import InputSpec

IMAGES = ("images", "image", "pixels", "pictures", "data", "x", "arr_0")
LABELS = ("labels", "label", "targets", "target", "classes", "y", "arr_1")
NAMES = ("class_names", "label_names", "names")
BESIDE = (("images", "labels"), ("pixels", "labels"), ("data", "labels"), ("x", "y"), ("X", "y"))
NAME_THE_ARRAYS = "Call the arrays images and labels."
GIVE_STACK = "Give n × height × width, with 1, 3 or 4 channels last or first."

Shape = tuple[int, ...]
CHANNELS = (1, 3)
QUANTILE_ROWS = 2000  # rows that decide the quantiles of standardised numbers
GIVE_IMAGES = "Give n × height × width, with 1 or 3 channels last or first, or rows of pixels."


def read_arrays(
    path: Path, part: str | None = None, group: str | None = None, spec: InputSpec | None = None
) -> LabelledImages:
    """Read a ``.npz`` or ``.npy`` of images, with labels, class names and groups where it has them.

    Arrays are known by name: images and labels, x_train and y_train, test_images; x.npy finds y.npy. Numbers beyond 0
    to 255 get the range of `spec`, else of their percentiles. Sources are the file's name and a number from 1.
    """
    arrays = _load(path, part)
    if "images" not in arrays:
        raise DataError("images", path.name, "no array is called images, x or pixels", NAME_THE_ARRAYS)
    pixels, pixel_range = _to_bytes(arrays["images"], path.name, spec)
    pixels, background = _channels_first(pixels, path.name, spec)
    labels, class_names = None, tuple[str, ...]()
    if "labels" in arrays:
        labels, class_names = encode_labels(_label_names(arrays["labels"], arrays.get("names"), len(pixels), path.name))
    groups = None if group is None else _groups(path, group, len(pixels))
    sources = np.array([f"{path.name}#{i}" for i in range(1, len(pixels) + 1)])
    settled: dict[str, Any] = {"pixel_range": pixel_range, "background": background}
    return LabelledImages(pixels, labels, class_names, sources, path.name, groups=groups, **settled)


def array_images(array: ndarray, spec: InputSpec | None = None) -> LabelledImages:
    """Make unlabelled images of an array as for `read_arrays`, or of a single image; raises DataError if it is none."""
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4)):
        array = array[None]
    pixels, pixel_range = _to_bytes(array, "array", spec)
    pixels, background = _channels_first(pixels, "array", spec)
    sources = np.array([f"array#{i}" for i in range(1, len(pixels) + 1)])
    return LabelledImages(pixels, None, (), sources, "array", pixel_range=pixel_range, background=background)


def array_parts(path: Path) -> tuple[str, ...]:
    """Name the parts that a ``.npz`` is divided into; empty where it is not."""
    if path.suffix.lower() != ".npz":
        return ()
    try:
        with zipfile.ZipFile(path) as archive:
            keys = [name.removesuffix(".npy") for name in archive.namelist()]
    except zipfile.BadZipFile:
        return ()
    return in_part_order(part for part, _ in map(_part_and_role, keys) if part)


def _part_and_role(key: str) -> tuple[str, str]:
    """Split an array's name into part and role: x_train and train_images are images of train."""
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
        beside = _labels_beside(path)
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
                    raise DataError(f"array {key}", path.name, f"it is not the only one with {role}", NAME_THE_ARRAYS)
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
    """Map a .npy into memory; not to be written to, as `LabelledImages` says."""
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


def _labels_beside(path: Path) -> Path | None:
    """Find the labels that belong to a .npy of images: y_train.npy for x_train.npy."""
    for images, labels in BESIDE:
        name = re.sub(rf"(?<![A-Za-z]){images}(?![A-Za-z])", labels, path.stem)
        if name != path.stem and path.with_stem(name).is_file():
            return path.with_stem(name)
    return None


def _groups(path: Path, key: str, count: int) -> ndarray:
    """Read the array of groups."""
    if path.suffix.lower() == ".npz":
        with _opened(path) as stored:
            if key in stored:
                groups = _member(stored, key, path.name).astype(str)
                if groups.shape == (count,):
                    return groups
                raise DataError(f"array {key}", path.name, f"it has not one group for each of {count:,} images", "")
    raise DataError(f"group {key}", path.name, "no array has that name", "Name an array of the file with --group.")


def _to_bytes(array: ndarray, where: str, spec: InputSpec | None) -> tuple[UInt8[ndarray, ...], Range | None]:
    """Bring brightness of any type to 0 … 255; gives the range that became black and white, where it was no bytes."""
    if array.ndim < 3:
        raise DataError(f"shape {array.shape}", where, "that is no stack of images", GIVE_STACK)
    if array.dtype == np.uint8 or not array.size:
        return array.astype(np.uint8, copy=False), None
    if array.dtype.kind not in "buif":
        raise DataError(f"type {array.dtype}", where, "pixels are numbers", "Save whole numbers from 0 to 255.")
    low, high = float(array.min()), float(array.max())
    if not math.isfinite(low + high):
        first = 1 + int((~np.isfinite(array)).reshape(len(array), -1).any(axis=1).argmax())
        cause = "it is no number" if math.isnan(low + high) else "it is infinite"
        raise DataError(f"pixel {low + high:g}", f"{where}#{first}", cause, "Fill it in, or remove the image.")
    pixel_range = None if array.dtype.kind == "b" else _range_of(array, (low, high), where, spec)
    parts = np.array_split(array, 1 + len(array) // 1024)
    if pixel_range is None:
        scale = 255 if array.dtype.kind in "bf" and high <= 1 else 1.0
        return np.concatenate([np.round(part * scale).astype(np.uint8) for part in parts]), None
    say(f"{len(array):,} image{'s' * (len(array) > 1)} of {where}: {describe_range(array.dtype, pixel_range)}")
    return np.concatenate([to_bytes(part, pixel_range) for part in parts]), pixel_range


def _range_of(array: ndarray, ends: Range, where: str, spec: InputSpec | None) -> Range | None:
    """Settle which numbers become black and white: the model's, none for bytes and shares, else the percentiles."""
    if spec is not None and spec.pixel_range is not None:
        return spec.pixel_range
    low, high = ends
    if low >= 0 and (high <= 255 or (array.dtype.kind == "f" and high <= 1)):
        return None
    some = array[:: 1 + array.size // SAMPLED]
    if array.ndim == 4 and 4 in (array.shape[3], array.shape[1]):  # without alpha
        some = some[..., :3] if array.shape[3] == 4 else some[:, :3]
    if spec is None:
        pixel_range = common_range(some)
    elif array.dtype == np.uint16:
        pixel_range = 0.0, 65535.0
    else:
        cause = f"its numbers go from {low:g} to {high:g}, and the model was trained on bytes"
        raise DataError("pixels", where, cause, "Bring them to 0 … 255, or as floats to 0 … 1.")
    if lost := lost_levels(some, pixel_range):
        warn(f"{where}: {lost}, {'clip what is far brighter or darker' if spec is None else 'as the model had bytes'}")
    return pixel_range


def _channels_first(
    array: UInt8[ndarray, ...], where: str, spec: InputSpec | None
) -> tuple[UInt8[ndarray, "n c h w"], int | None]:
    """Bring the channels to their place, and lay transparent images on a background, which is given too."""
    if array.ndim == 3 and array.shape[2] not in (3, 4):  # else it is one colour image
        array = array[..., None]
    if array.ndim == 4 and array.shape[3] in (1, 3, 4):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3, 4) or not array.size:
        raise DataError(f"shape {array.shape}", where, "that is no stack of images", GIVE_STACK)
    if array.shape[1] != 4:
        return np.ascontiguousarray(array), None
    inks = [lightness(image.transpose(1, 2, 0)) for image in array]
    background = None if spec is None else spec.background
    if (seen := [ink for ink in inks if ink is not None]) and spec is None:
        background = choose_background(seen)
    grounds = [choose_background([] if ink is None else [ink]) if background is None else background for ink in inks]
    laid = Counter(ground for ground, ink in zip(grounds, inks, strict=True) if ink is not None)
    for below, count in laid.items():
        say(f"{count:,} image{'s' * (count > 1)} of {where}: {describe_background(below)}")
    ground = np.array(grounds, dtype=np.uint16)[:, None, None, None]
    return np.ascontiguousarray(lay_on(array[:, :3], array[:, 3:], ground)), background


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


def as_rows(images: ArrayLike | LabelledImages, where: str) -> tuple[ArrayLike, Shape | None]:
    """Flatten images (n × height × width, or with channels last or first) to rows; gives their shape, None for a table.

    Rows hold channels last; the shape leaves out a single channel. Raises DataError for other shapes.
    """
    if isinstance(images, LabelledImages):
        raise DataError(where, "LabelledImages", "it is no array", "Give its pixels and labels, or use imprint.train.")
    if isinstance(images, list | tuple):
        try:
            images = np.asarray(images)
        except ValueError:
            raise DataError(where, "its shape", "its images or rows are of different sizes", GIVE_IMAGES) from None
    dimensions = getattr(images, "ndim", None)
    if not isinstance(dimensions, int) or dimensions < 3:
        return images, None
    array = np.asarray(images)
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or not array.size or not (array.shape[3] in CHANNELS or array.shape[1] in CHANNELS):
        raise DataError(where, f"its shape {np.shape(images)}", "that is no stack of images", GIVE_IMAGES)
    if array.shape[3] not in CHANNELS:
        array = np.moveaxis(array, 1, 3)
    return array.reshape(len(array), -1), _without_single_channel(array.shape[1:])


def settle_shape(wanted: Sequence[int] | None, given: Shape | None, features: int) -> Shape:
    """Decide the shape of the images that rows hold: the one wanted (one side may be -1), the one given, or a square.

    Raises UsageError when the wanted shape does not fit, DataError when nothing tells it.
    """
    if wanted is None:
        side = math.isqrt(features)
        if given is None and side * side != features:
            raise DataError(
                f"rows of {features} numbers",
                "X",
                "they are no squares, and nothing tells their shape",
                "Give image_shape=(height, width) or (height, width, channels).",
            )
        return given or (side, side)
    remedy = "Give image_shape=(height, width) or (height, width, channels)."
    sides = tuple(wanted) if isinstance(wanted, Sequence) and not isinstance(wanted, str) else ()
    if len(sides) not in (2, 3) or not all(isinstance(side, int | np.integer) for side in sides):
        raise UsageError(f"image_shape {wanted!r}", "ImageClassifier", "it is no shape of an image", remedy)
    known = math.prod(side for side in sides if side != -1)
    if sides.count(-1) == 1 and known > 0 and features % known == 0:
        sides = tuple(features // known if side == -1 else int(side) for side in sides)
    if min(sides) < 1 or math.prod(sides) != features or (len(sides) == 3 and sides[2] not in CHANNELS):
        raise UsageError(f"image_shape {wanted!r}", "ImageClassifier", f"images have {features} numbers", remedy)
    shape = _without_single_channel(sides)
    if given not in (None, shape):
        raise UsageError(f"image_shape {wanted!r}", "ImageClassifier", f"the images are {given}", "Leave it out.")
    return shape


def settle_range(wanted: Range | None, rows: Shaped[ndarray, "n pixels"]) -> Range:
    """Decide the numbers for black and white: those wanted, 0 and 255 for uint8, 0 and 1 for others in between.

    Else the least and the greatest; where some are below 0, as standardised ones, the 1 % and 99 % quantiles.
    """
    if wanted is None:
        if rows.dtype == np.uint8:
            return 0.0, 255.0
        low, high = float(rows.min()), float(rows.max())
        if low >= 0 and high <= 1:
            return 0.0, 1.0
        if low < 0:  # one pixel that is hardly ever inked may reach 30 deviations, and leave the others no range
            low, high = map(float, np.quantile(rows[:: 1 + len(rows) // QUANTILE_ROWS], (0.01, 0.99)))
        return (low, high) if low < high else (low, low + 1)
    try:
        low, high = map(float, wanted)
    except (TypeError, ValueError):
        low = high = math.nan
    if not -math.inf < low < high < math.inf:
        cause = "it is no pair of a lower and a higher number"
        raise UsageError(f"pixel_range {wanted!r}", "ImageClassifier", cause, "Give it as (0, 255).")
    return low, high


def refuse_another_scale(rows: Shaped[ndarray, "n pixels"], pixel_range: Range) -> None:
    """Raise DataError for pixels from 0 to 255 where training had 0 to 1, and the other way round."""
    greatest = float(rows.max())
    fraction = rows.dtype.kind == "f" and 0 < greatest <= 1 and float(rows.min()) >= 0
    if (pixel_range == (0, 1) and greatest > 16) or (pixel_range == (0, 255) and fraction):
        low, high = pixel_range
        cause = f"they reach {greatest:g}, but went from {low:g} to {high:g} in training"
        raise DataError("pixels", "X", cause, "Give them as in training.")


def to_pixels(rows: Shaped[ndarray, "n pixels"], shape: Shape, pixel_range: Range) -> UInt8[ndarray, "n c h w"]:
    """Convert rows, channels last, to uint8 images: `pixel_range` becomes 0 and 255, what is beyond is clipped."""
    if rows.dtype != np.uint8 or pixel_range != (0, 255):
        rows = to_bytes(rows, pixel_range)
    height, width, channels = shape if len(shape) == 3 else (*shape, 1)
    pixels = np.ascontiguousarray(rows.reshape(-1, height, width, channels).transpose(0, 3, 1, 2))
    return pixels if pixels.flags.writeable else pixels.copy()  # torch warns of what it might overwrite


def _without_single_channel(shape: Sequence[int]) -> Shape:
    """Leave out the channel where there is only one."""
    height, width, *channels = (int(side) for side in shape)
    return (height, width) if channels in ([], [1]) else (height, width, *channels)
