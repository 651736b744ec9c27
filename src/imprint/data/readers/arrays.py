"""Arrays as images: stacks, single images and rows of pixels in numbers of any type, with their labels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Shaped, UInt8
from numpy import ndarray

from imprint.core.errors import DataError
from imprint.core.progress import say, warn
from imprint.data.images import LabelledImages, encode_labels
from imprint.preprocessing.depth import SAMPLED, Range, common_range, describe_range, lost_levels, to_bytes
from imprint.preprocessing.transparency import choose_background, describe_background, lay_on, lightness

if TYPE_CHECKING:
    from imprint.preprocessing.input_spec import InputSpec

GIVE_STACK = "Give n × height × width, with 1, 3 or 4 channels last or first, or n rows of pixels."
MIN_ROW_SIDE = 4  # pixels of the square images that rows hold
MAX_IMAGE_ASPECT = 2  # of a single grey image, when nothing else tells it from rows
LOOKED_AT = 512  # rows that tell a picture from rows of pixels
Shape = tuple[int, ...]
CHANNELS = (1, 3)


def array_images(array: ndarray, spec: InputSpec | None = None, where: str = "array") -> LabelledImages:
    """Make unlabelled images of an array as `as_stack` reads it.

    Numbers beyond 0 to 255 get the range of `spec`, else of their percentiles.
    """
    return labelled_arrays({"images": array}, where, spec)


def one_image(array: ndarray, where: str, spec: InputSpec | None) -> Shaped[ndarray, "h w *c"]:
    """Give a single image of many as the decoder takes it, so that it finds one range and one background for all.

    That is bytes, with alpha where there is any, or deep grey numbers. Raises DataError for several images, and for
    deep numbers in colour without a range.
    """
    stack = channels_first(as_stack(array, where, spec), where)
    if len(stack) > 1:
        raise DataError(f"shape {array.shape}", where, f"it holds {len(stack):,} images", "Give each on its own.")
    deep = stack.dtype.kind in "iuf" and bool(stack.min() < 0 or stack.max() > 255)
    if deep and stack.shape[1] == 1:
        return np.asarray(stack[0, 0], np.uint16 if stack.dtype == np.uint16 else np.float32)
    if deep and spec is None:
        cause = "its numbers go beyond 0 to 255, and nothing says which is white in colour images of several sizes"
        raise DataError("pixels", where, cause, "Bring them to 0 … 255, or as floats to 0 … 1.")
    image = stack_to_bytes(stack, where, spec)[0][0].transpose(1, 2, 0)
    return np.asarray(image[..., 0] if image.shape[2] == 1 else image)


def has_alpha(images: object, size: Shape | None = None) -> bool:
    """Tell images of four channels, also one alone where `size` is that of a model's images."""
    shape: Shape = getattr(images, "shape", ())
    if isinstance(images, list | tuple) and images:
        shape = (len(images), *getattr(images[0], "shape", ()))
    if len(shape) == 3:
        return size is not None and shape[2] == 4 and tuple(shape[1:]) != size
    return len(shape) == 4 and 4 in shape[1::2] and not set(CHANNELS) & set(shape[1::2])


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


def labelled_arrays(arrays: Mapping[str, ndarray], where: str, spec: InputSpec | None) -> LabelledImages:
    """Make images of arrays by their roles: images, and if they are there, labels and names."""
    several = "labels" in arrays and arrays["labels"].shape[:1] == arrays["images"].shape[:1]
    pixels, pixel_range = stack_to_bytes(as_stack(arrays["images"], where, spec, several=several), where, spec)
    pixels, background = laid_on_background(channels_first(pixels, where), where, spec)
    labels, class_names = None, tuple[str, ...]()
    if "labels" in arrays:
        labels, class_names = encode_labels(_label_names(arrays["labels"], arrays.get("names"), len(pixels), where))
    sources = np.array([f"{where}#{i}" for i in range(1, len(pixels) + 1)])
    settled: dict[str, Any] = {"pixel_range": pixel_range, "background": background}
    return LabelledImages(pixels, labels, class_names, sources, where, **settled)


def stack_to_bytes(array: ndarray, where: str, spec: InputSpec | None) -> tuple[UInt8[ndarray, ...], Range | None]:
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


def channels_first(array: Shaped[ndarray, ...], where: str) -> Shaped[ndarray, "n c h w"]:
    """Bring the channels to their place; raises DataError where an array is no stack of images."""
    if array.ndim == 3 and array.shape[2] not in (3, 4):  # else it is one colour image
        array = array[..., None]
    if array.ndim == 4 and array.shape[3] in (1, 3, 4):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3, 4) or not array.size:
        raise DataError(f"shape {array.shape}", where, "that is no stack of images", GIVE_STACK)
    return array


def laid_on_background(
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
    if labels.dtype.kind == "T":
        labels = np.array(labels.tolist(), dtype=str)
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
