"""Rows of numbers as images, as scikit-learn's data sets hold them; `ImageClassifier` takes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Shaped, UInt8
from numpy import ndarray
from numpy.typing import ArrayLike

from imprint.core.errors import DataError, UsageError
from imprint.data.images import LabelledImages
from imprint.data.readers.arrays import CHANNELS, Shape, as_stack
from imprint.preprocessing.depth import Range, to_bytes

if TYPE_CHECKING:
    from imprint.preprocessing.input_spec import InputSpec

QUANTILE_ROWS = 2000  # rows that decide the quantiles of standardised numbers
GIVE_IMAGES = "Give n × height × width, with 1 or 3 channels last or first, or rows of pixels."


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
