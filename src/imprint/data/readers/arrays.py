"""Images in arrays: NumPy's files (.npz, or .npy with labels in a file beside), arrays in memory, and rows of numbers.

Rows are how scikit-learn's data sets hold images; `ImageClassifier` takes them.
"""

from __future__ import annotations

import math
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
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

IMAGES = ("images", "image", "imgs", "pixels", "pictures", "data", "x", "arr_0")
LABELS = ("labels", "label", "targets", "target", "classes", "y", "arr_1")
NAMES = ("class_names", "label_names", "names")
PAIRS = {"x": ("y",), "images": ("labels",), "image": ("label",)}  # of a .npy; other names take whichever is there
ROLE, PART = "|".join(IMAGES[:-1] + LABELS[:-1]), "|".join(PARTS)
GLUED = re.compile(f"({ROLE})({PART})|({PART})({ROLE})")  # trainX, Xtrain
QUICK_DRAW = re.compile(r"^(?:full(?:_|%2F))?numpy_bitmap(?:_|%2F)")  # before the class in the name of its files
NAME_THE_ARRAYS = "Call the arrays images and labels."
GIVE_STACK = "Give n × height × width, with 1, 3 or 4 channels last or first, or n rows of pixels."
MIN_ROW_SIDE = 4  # pixels of the square images that rows hold
MAX_IMAGE_ASPECT = 2  # of a single grey image, when nothing else tells it from rows
LOOKED_AT = 512  # rows that tell a picture from rows of pixels

Shape = tuple[int, ...]
CHANNELS = (1, 3)
NOTES = (".txt", ".md", ".json", ".csv", ".pdf", ".html", ".ini", ".db")  # what may lie beside arrays
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
    images = _labelled(arrays, path.name, spec)
    if "labels" not in arrays and path.suffix.lower() == ".npy" and QUICK_DRAW.match(path.stem):
        return _of_one_class(images, path)
    groups = None if group is None else _groups(path, group, len(images))
    return replace(images, groups=groups)


def array_images(array: ndarray, spec: InputSpec | None = None, where: str = "array") -> LabelledImages:
    """Make unlabelled images of an array as `as_stack` reads it, in brightness as `read_arrays`."""
    return _labelled({"images": array}, where, spec)


def one_image(array: ndarray, where: str, spec: InputSpec | None) -> Shaped[ndarray, "h w *c"]:
    """Give a single image of many as the decoder takes it, so that it finds one range and one background for all.

    That is bytes, with alpha where there is any, or deep grey numbers. Raises DataError for several images, and for
    deep numbers in colour without a range.
    """
    stack = _stacked(as_stack(array, where, spec), where)
    if len(stack) > 1:
        raise DataError(f"shape {array.shape}", where, f"it holds {len(stack):,} images", "Give each on its own.")
    deep = stack.dtype.kind in "iuf" and bool(stack.min() < 0 or stack.max() > 255)
    if deep and stack.shape[1] == 1:
        return np.asarray(stack[0, 0], np.uint16 if stack.dtype == np.uint16 else np.float32)
    if deep and spec is None:
        cause = "its numbers go beyond 0 to 255, and nothing says which is white in colour images of several sizes"
        raise DataError("pixels", where, cause, "Bring them to 0 … 255, or as floats to 0 … 1.")
    image = _to_bytes(stack, where, spec)[0][0].transpose(1, 2, 0)
    return np.asarray(image[..., 0] if image.shape[2] == 1 else image)


def has_alpha(images: object, size: Shape | None = None) -> bool:
    """Tell images of four channels, also one alone where `size` is that of a model's images."""
    shape: Shape = getattr(images, "shape", ())
    if isinstance(images, list | tuple) and images:
        shape = (len(images), *getattr(images[0], "shape", ()))
    if len(shape) == 3:
        return size is not None and shape[2] == 4 and tuple(shape[1:]) != size
    return len(shape) == 4 and 4 in shape[1::2] and not set(CHANNELS) & set(shape[1::2])


def is_array_folder(root: Path) -> bool:
    """Tell a folder that holds ``.npy`` files and nothing else but notes."""
    found = False
    with os.scandir(root) as entries:
        for name in (entry.name.lower() for entry in entries if not entry.name.startswith(".")):
            if not name.endswith((".npy", *NOTES)):
                return False  # at the first of 60,000 images
            found = found or name.endswith(".npy")
    return found


def read_array_folder(root: Path, part: str | None = None, spec: InputSpec | None = None) -> LabelledImages:
    """Read the ``.npy`` files of a folder as if they were the arrays of a ``.npz``.

    Where none is called images or labels, each is a class of its file's name, as Quick, Draw! comes.
    """
    files = _arrays_of(root)
    if len(files) == 1:
        return read_arrays(next(iter(files.values())), part, None, spec)
    if any(_part_and_role(name)[1] in ("images", "labels") for name in files):
        chosen = _chosen(list(files), part, root.name)
        if "images" not in chosen:
            raise DataError("images", root.name, "no file is called images.npy, x.npy or x_train.npy", NAME_THE_ARRAYS)
        return _labelled({role: _array(files[name]) for role, name in chosen.items()}, root.name, spec)
    if part is not None:
        raise _no_part(part, root.name, ())
    stacks = {file: _stacked(as_stack(_array(file), file.name, spec), file.name) for file in files.values()}
    if all(len(stack) == 1 for stack in stacks.values()):
        cause = f"each of its {len(stacks):,} files holds one image, but stands for a class of many"
        raise DataError(
            "arrays", root.name, cause, "Join them with numpy.stack, and save them and their labels as .npz."
        )
    first, *others = stacks
    for file in others:
        _refuse_unlike(stacks[file], stacks[first], file.name, first.name, root.name)
    joined = np.concatenate(list(stacks.values()))  # so that one range and one background hold for all classes
    pixels, pixel_range = _to_bytes(joined, root.name, spec)
    pixels, background = _laid(pixels, root.name, spec)
    labels, names = encode_labels(np.concatenate([np.full(len(stacks[file]), _class_of(file)) for file in stacks]))
    sources = np.array([f"{file.name}#{i}" for file, stack in stacks.items() for i in range(1, len(stack) + 1)])
    settled: dict[str, Any] = {"pixel_range": pixel_range, "background": background}
    return LabelledImages(pixels, labels, names, sources, root.name, **settled)


def _refuse_unlike(stack: ndarray, first: ndarray, name: str, first_name: str, where: str) -> None:
    """Raise DataError where the images of two classes differ in size, channels or type of numbers."""
    if stack.shape[1:] != first.shape[1:]:
        from imprint.preprocessing.input_spec import describe

        cause = f"its images are {describe(stack.shape[1:])}, those of {first_name} are {describe(first.shape[1:])}"
        raise DataError(f"images of {name}", where, cause, "Keep files of one size, a class in each.")
    if stack.dtype != first.dtype:
        cause = f"its numbers are {stack.dtype}, those of {first_name} are {first.dtype}"
        raise DataError(f"images of {name}", where, cause, "Save all of them in one type, such as uint8.")


def as_stack(array: ndarray, where: str, spec: InputSpec | None = None, *, several: bool = False) -> ndarray:
    """Give a stack of images, a single image, or rows of pixels (channels last), as n × height × width (× channels).

    What could be either is what the model of `spec` takes; without one, rows are square images. `several` says that the
    first dimension counts images. Raises DataError where nothing fits.
    """
    if array.dtype.kind not in "buif":
        raise DataError(f"type {array.dtype}", where, "pixels are numbers", "Give whole numbers from 0 to 255.")
    size = None if spec is None else spec.image_size
    if array.ndim == 2 and array.size:
        shape = None if array.shape == size and not several else _row_shape(array, where, spec, several)
        return array[None] if shape is None else array.reshape(len(array), *shape)
    if array.ndim == 3 and not several:
        has_channels_last = array.shape[2] in (1, 3, 4) and array.shape[1:] != size
        return array[None] if has_channels_last or _has_channels_first(array, where, spec) else array
    return array


def _has_channels_first(array: ndarray, where: str, spec: InputSpec | None) -> bool:
    """Tell one image with channels first from as many grey ones."""
    colour = spec is not None and spec.channels > 1
    if colour and len(array) == 3:
        return True
    if (spec is None and len(array) == 3) or (colour and len(array) == 4):
        cause = f"it may be one image with channels first, or {len(array)} grey ones"
        raise DataError(f"shape {array.shape}", where, cause, "Give array[None] for one, array[:, None] for grey ones.")
    return False


def _row_shape(array: ndarray, where: str, spec: InputSpec | None, several: bool) -> Shape | None:
    """Give height, width and channels of the image in each row; None where the array is one grey image."""
    count, width = array.shape
    fitting = _square(width) if spec is None else _shape_for(width, spec)
    if fitting is not None and (several or spec is not None):
        return fitting
    near = [width - extra for extra in range(3) if extra < width]  # such as a label and an id before the pixels
    doubtful = any(_square(one) or (spec is not None and _shape_for(one, spec)) for one in near)
    doubtful = doubtful or count == 1 or max(array.shape) > MAX_IMAGE_ASPECT * min(array.shape)
    if not several and (count == width or not doubtful or _is_picture(array)):
        return None
    if fitting is not None:
        return fitting
    if spec is None:
        cause = f"that is no stack of images, and rows of {width:,} numbers are no square ones"
        raise DataError(f"shape {array.shape}", where, cause, GIVE_STACK)
    from imprint.preprocessing.input_spec import describe

    form = (spec.channels, *spec.image_size)
    raise DataError(
        f"rows of {width:,} numbers",
        where,
        f"an image of the model, {describe(form)}, has {math.prod(form):,}",
        f"Give n × {math.prod(form):,} without labels or ids, or n × height × width; one grey image as array[None].",
    )


def _square(width: int) -> Shape | None:
    """Shape of the square image, grey or colour, that has so many numbers."""
    for channels in CHANNELS:
        side = math.isqrt(width // channels)
        if side >= MIN_ROW_SIDE and channels * side * side == width:
            return side, side, channels
    return None


def _shape_for(width: int, spec: InputSpec) -> Shape | None:
    """Shape of the image of a model's size, in its channels or in others, that has so many numbers."""
    pixels = math.prod(spec.image_size)
    return next(((*spec.image_size, k) for k in (spec.channels, *CHANNELS) if k * pixels == width), None)


def _is_picture(array: ndarray) -> bool:
    """Tell a grey image from rows of pixels: its neighbouring rows are far more alike than others."""
    rows = array[:LOOKED_AT].astype(np.float32)
    near, far = np.abs(np.diff(rows, axis=0)), np.abs(rows - np.roll(rows, len(rows) // 2, axis=0))
    return len(rows) > 1 and bool(near.mean() < 0.5 * far.mean())


def _labelled(arrays: Mapping[str, ndarray], where: str, spec: InputSpec | None) -> LabelledImages:
    """Make images of arrays by their roles: images, and if they are there, labels and names."""
    several = "labels" in arrays and arrays["labels"].shape[:1] == arrays["images"].shape[:1]
    pixels, pixel_range = _to_bytes(as_stack(arrays["images"], where, spec, several=several), where, spec)
    pixels, background = _laid(_stacked(pixels, where), where, spec)
    labels, class_names = None, tuple[str, ...]()
    if "labels" in arrays:
        labels, class_names = encode_labels(_label_names(arrays["labels"], arrays.get("names"), len(pixels), where))
    sources = np.array([f"{where}#{i}" for i in range(1, len(pixels) + 1)])
    settled: dict[str, Any] = {"pixel_range": pixel_range, "background": background}
    return LabelledImages(pixels, labels, class_names, sources, where, **settled)


def _of_one_class(images: LabelledImages, file: Path) -> LabelledImages:
    """Label images with the class that their file is named after: cat for full_numpy_bitmap_cat.npy."""
    return replace(images, labels=np.zeros(len(images), dtype=np.int64), class_names=(_class_of(file),))


def _class_of(file: Path) -> str:
    return QUICK_DRAW.sub("", file.stem)


def array_parts(path: Path) -> tuple[str, ...]:
    """Name the parts that a ``.npz`` or a folder of ``.npy`` is divided into; empty where it is not."""
    if path.is_dir():
        return in_part_order(part for part, _ in map(_part_and_role, _arrays_of(path)) if part)
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
    words = _words(key)
    part = next((PARTS[word] for word in words if word in PARTS), "")
    rest = "_".join(word for word in words if word not in PARTS)
    roles = (("images", IMAGES), ("labels", LABELS), ("names", NAMES))
    return part, next((role for role, names in roles if rest in names), "")


def _words(key: str) -> list[str]:
    """Split a name into words in lower case, also where nothing stands between: trainX is train and x."""
    words = list[str]()
    for word in re.split(r"[_\W]+", key.lower()):
        glued = GLUED.fullmatch(word)
        words += [part for part in glued.groups() if part] if glued else [word]
    return words


def _load(path: Path, part: str | None) -> dict[str, ndarray]:
    """Read the arrays that matter: images, labels and names."""
    if path.suffix.lower() == ".npy":
        if part is not None:
            raise _no_part(part, path.name, ())
        beside = _labels_beside(path)
        found = {"images": _array(path)}
        return found if beside is None else {**found, "labels": _array(beside)}
    with _opened(path) as stored:
        chosen = _chosen(list(stored), part, path.name)
        return {role: _member(stored, key, path.name) for role, key in chosen.items()}


def _chosen(keys: Sequence[str], part: str | None, where: str) -> dict[str, str]:
    """Choose the arrays of a part (None is the first) by name: their roles and names."""
    parts = in_part_order(of for of, _ in map(_part_and_role, keys) if of)
    if part is not None and part not in parts:
        raise _no_part(part, where, parts)
    wanted = (part or parts[0]) if parts else ""
    chosen = dict[str, str]()
    for key in keys:
        of, role = _part_and_role(key)
        if role and (of == wanted or (role == "names" and not of)):
            if role in chosen:
                raise DataError(f"array {key}", where, f"it is not the only one with {role}", NAME_THE_ARRAYS)
            chosen[role] = key
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


def _arrays_of(folder: Path) -> dict[str, Path]:
    """Find the .npy files of a folder, by their names without ending, in alphabetical order."""
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".npy" and path.name[0] != ".")
    return {path.stem: path for path in found if path.is_file()}


def _labels_beside(path: Path) -> Path | None:
    """Find the labels that belong to a .npy of images, whatever the case: y_train.npy for X_train.npy."""
    words = _words(path.stem)
    role = next((word for word in words if word in IMAGES), None)
    if role is None:
        return None
    others = [word for word in words if word != role]
    found = dict[str, Path]()
    for name, file in _arrays_of(path.parent).items():
        label = next((word for word in _words(name) if word in LABELS), None)
        if label is not None and [word for word in _words(name) if word != label] == others:
            found[label] = file
    natural = [found[label] for label in PAIRS.get(role, ()) if label in found]
    if len(found) > 1 and not natural:
        cause = f"{' and '.join(file.name for file in found.values())} could be theirs"
        raise DataError("labels", path.name, cause, "Call images and labels x.npy and y.npy.")
    return next(iter(natural or found.values()), None)


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
        raise DataError(f"pixel {low + high:g}", f"{where}#{first}", cause, "Fill it in, or leave that image out.")
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


def _stacked(array: Shaped[ndarray, ...], where: str) -> Shaped[ndarray, "n c h w"]:
    """Bring the channels to their place; raises DataError where an array is no stack of images."""
    if array.ndim == 3 and array.shape[2] not in (3, 4):  # else it is one colour image
        array = array[..., None]
    if array.ndim == 4 and array.shape[3] in (1, 3, 4):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3, 4) or not array.size:
        raise DataError(f"shape {array.shape}", where, "that is no stack of images", GIVE_STACK)
    return array


def _laid(
    array: UInt8[ndarray, "n k h w"], where: str, spec: InputSpec | None
) -> tuple[UInt8[ndarray, "n c h w"], int | None]:
    """Lay transparent images on a background, which is given too."""
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
    if labels.shape in ((count, 1), (1, count)):
        labels = labels.reshape(count)
    elif labels.ndim == 2 and len(labels) == count and labels.dtype.kind in "buif":
        labels = _from_one_hot(labels, names, where)
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


def _from_one_hot(labels: ndarray, names: ndarray | None, where: str) -> ndarray:
    """Convert one-hot labels to positions; raises DataError for rows with no one or several, and for shares."""
    if not ((labels == 0) | (labels == 1)).all():
        cause = f"shape {labels.shape} has a number for each class, and not only 0 and 1"
        raise DataError("labels", where, cause, "Give the class of each image, such as labels.argmax(axis=1).")
    ones = labels.astype(bool).sum(axis=1)
    for wrong, cause, remedy in (
        (ones > 1, "it has several labels; Imprint gives one label an image", "Give each image one label."),
        (ones == 0, "none of its classes is 1", "Correct its label, or leave that image out."),
    ):
        if wrong.any():
            count = int(wrong.sum())
            others = f", and {count - 1:,} more" if count > 1 else ""
            raise DataError("labels", f"{where}#{1 + int(wrong.argmax())}{others}", cause, remedy)
    if names is not None and len(names) != labels.shape[1]:
        cause = f"they have {labels.shape[1]} columns for {len(names)} class names"
        raise DataError("labels", where, cause, "Give a name for each column.")
    return np.asarray(labels.argmax(axis=1))


def as_rows(
    images: ArrayLike | LabelledImages, where: str, spec: InputSpec | None = None
) -> tuple[ArrayLike, Shape | None]:
    """Flatten images (n × height × width, or with channels last or first) to rows; gives their shape, None for a table.

    Rows hold channels last; the shape leaves out a single channel. With the `spec` of a model, single images are taken
    as `as_stack` does. Raises DataError for other shapes.
    """
    if isinstance(images, LabelledImages):
        raise DataError(where, "LabelledImages", "it is no array", "Give its pixels and labels, or use imprint.train.")
    if isinstance(images, list | tuple):
        try:
            images = np.asarray(images)
        except ValueError:
            raise DataError(where, "its shape", "its images or rows are of different sizes", GIVE_IMAGES) from None
    dimensions = getattr(images, "ndim", None)
    single = spec is not None and getattr(images, "shape", None) == spec.image_size and spec.image_size[0] > 1
    if not isinstance(dimensions, int) or (dimensions < 3 and not single):
        return images, None
    array = np.asarray(images)
    if spec is not None and array.size and array.dtype.kind in "buif":
        array = as_stack(array, where, spec)
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


def range_like(rows: Shaped[ndarray, "n pixels"], pixel_range: Range) -> Range:
    """Decide the numbers for black and white in new rows: those of training, but fractions and bytes for each other.

    Raises DataError for numbers above both where training had fractions.
    """
    least, greatest = float(rows.min()), float(rows.max())
    if pixel_range == (0, 255) and rows.dtype.kind == "f" and least >= 0 and 0 < greatest <= 1:
        return 0.0, 1.0
    if pixel_range == (0, 1) and greatest > 16:
        if least >= 0 and greatest <= 255:
            return 0.0, 255.0
        low, high = pixel_range
        cause = f"they reach {greatest:g}, but went from {low:g} to {high:g} in training"
        raise DataError("pixels", "X", cause, "Give them as in training, or from 0 to 255.")
    return pixel_range


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
