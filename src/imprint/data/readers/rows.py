"""Rows of numbers, as scikit-learn's data sets hold images, and the images that they mean."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped, UInt8
from numpy import ndarray
from numpy.typing import ArrayLike

from imprint.core.errors import DataError, UsageError
from imprint.data.images import LabelledImages

Shape = tuple[int, ...]
Range = tuple[float | int, float | int]
CHANNELS = (1, 3)
LOOKED_AT = 2000  # images that tell how far standardised numbers go
GIVE = "Give n × height × width, with 1 or 3 channels last or first, or rows of pixels."


def as_rows(images: ArrayLike | LabelledImages, where: str) -> tuple[ArrayLike, Shape | None]:
    """Lay images out as one row each, and remember their shape; what is rows already passes untouched.

    Parameters
    ----------
    images : array, shape (n, height, width), (n, height, width, channels) or (n, channels, height, width)
        Images; or anything of less dimensions, such as a table.
    where : str
        What it is called, for messages.

    Returns
    -------
    rows : array, shape (n, pixels)
        Channels last.
    shape : tuple of int or None
        Height, width and, if not grey, channels; None where no image's shape was given.

    Raises
    ------
    DataError
        When the array has more dimensions than images have, or images are of different sizes.

    Examples
    --------
    >>> rows, shape = as_rows(np.zeros((5, 3, 8, 9)), "X")
    >>> rows.shape, shape
    ((5, 216), (8, 9, 3))
    """
    if isinstance(images, LabelledImages):
        raise DataError(where, "LabelledImages", "it is no array", "Give its pixels and labels, or use imprint.train.")
    if isinstance(images, list | tuple):
        try:
            images = np.asarray(images)
        except ValueError:
            raise DataError(where, "its shape", "its images or rows are of different sizes", GIVE) from None
    dimensions = getattr(images, "ndim", None)
    if not isinstance(dimensions, int) or dimensions < 3:
        return images, None
    array = np.asarray(images)
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or not array.size or not (array.shape[3] in CHANNELS or array.shape[1] in CHANNELS):
        raise DataError(where, f"its shape {np.shape(images)}", "that is no stack of images", GIVE)
    if array.shape[3] not in CHANNELS:
        array = np.moveaxis(array, 1, 3)
    return array.reshape(len(array), -1), _without_grey(array.shape[1:])


def settle_shape(wanted: Sequence[int] | None, given: Shape | None, features: int) -> Shape:
    """Find the shape of the images that rows hold.

    Parameters
    ----------
    wanted : sequence of int or None
        Height, width and, if not grey, channels; one may be -1. None leaves it to the rest.
    given : tuple of int or None
        The shape that the images came in; None when they came as rows.
    features : int
        Numbers in a row.

    Returns
    -------
    tuple of int
        Height, width and, if not grey, channels.

    Raises
    ------
    UsageError
        When the shape makes no sense or does not fit.
    DataError
        When nothing tells it and rows are no squares.

    Examples
    --------
    >>> settle_shape(None, None, 784), settle_shape((32, -1, 3), None, 3072)
    ((28, 28), (32, 32, 3))
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
    shape = _without_grey(sides)
    if given not in (None, shape):
        raise UsageError(f"image_shape {wanted!r}", "ImageClassifier", f"the images are {given}", "Leave it out.")
    return shape


def settle_range(wanted: Range | None, rows: Shaped[ndarray, "n pixels"]) -> Range:
    """Find the numbers that mean black and white.

    Parameters
    ----------
    wanted : tuple of float or None
        Black and white; None looks at the rows.
    rows : ndarray, shape (n, pixels)
        Training images.

    Returns
    -------
    tuple of float
        0 and 255 for uint8; 0 and 1 for other types that lie between; where some are below 0, as
        standardised ones, what 1 % lie below and 1 % above; else the least and the greatest.

    Raises
    ------
    UsageError
        When the range makes no sense.

    Examples
    --------
    >>> settle_range(None, np.array([[0.1, 0.7]])), settle_range(None, np.array([[0, 5], [16, 9]]))
    ((0.0, 1.0), (0.0, 16.0))
    """
    if wanted is None:
        if rows.dtype == np.uint8:
            return 0.0, 255.0
        low, high = float(rows.min()), float(rows.max())
        if low >= 0 and high <= 1:
            return 0.0, 1.0
        if (
            low < 0
        ):  # one pixel that is hardly ever inked may reach 30 deviations, which would leave the others no range
            low, high = map(float, np.quantile(rows[:: 1 + len(rows) // LOOKED_AT], (0.01, 0.99)))
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
    """Refuse pixels from 0 to 255 where training had 0 to 1, and the other way round.

    Parameters
    ----------
    rows : ndarray, shape (n, pixels)
        Images to predict.
    pixel_range : tuple of float
        What black and white were in training.

    Raises
    ------
    DataError
        When the numbers are of the other scale.

    Examples
    --------
    >>> refuse_another_scale(np.array([[0.0, 200.0]]), (0, 1))
    Traceback (most recent call last):
    imprint.core.errors.DataError: pixels at X: they reach 200, but went from 0 to 1 in training. Give...
    """
    greatest = float(rows.max())
    fraction = rows.dtype.kind == "f" and 0 < greatest <= 1 and float(rows.min()) >= 0
    if (pixel_range == (0, 1) and greatest > 16) or (pixel_range == (0, 255) and fraction):
        low, high = pixel_range
        cause = f"they reach {greatest:g}, but went from {low:g} to {high:g} in training"
        raise DataError("pixels", "X", cause, "Give them as in training.")


def to_pixels(rows: Shaped[ndarray, "n pixels"], shape: Shape, pixel_range: Range) -> UInt8[ndarray, "n c h w"]:
    """Turn rows into images of brightness from 0 to 255.

    Parameters
    ----------
    rows : ndarray, shape (n, pixels)
        Any numbers, channels last.
    shape : tuple of int
        Height, width and, if not grey, channels.
    pixel_range : tuple of float
        The numbers that become 0 and 255; those beyond are clipped.

    Returns
    -------
    ndarray of uint8, shape (n, channels, height, width)
        Rounded.

    Examples
    --------
    >>> to_pixels(np.array([[0.0, 0.5, 1.0, 2.0]]), (2, 2), (0, 1)).tolist()
    [[[[0, 128], [255, 255]]]]
    """
    if rows.dtype != np.uint8 or pixel_range != (0, 255):
        parts = np.array_split(rows, 1 + len(rows) // 1024)
        rows = np.concatenate([_scaled(part, pixel_range) for part in parts])
    height, width, channels = shape if len(shape) == 3 else (*shape, 1)
    pixels = np.ascontiguousarray(rows.reshape(-1, height, width, channels).transpose(0, 3, 1, 2))
    return pixels if pixels.flags.writeable else pixels.copy()  # torch warns of what it might overwrite


def _scaled(rows: Shaped[ndarray, "n pixels"], pixel_range: Range) -> UInt8[ndarray, "n pixels"]:
    low, high = pixel_range
    shares = (rows / 2 - low / 2) / (high / 2 - low / 2)  # halves, since the whole may be too large for a float
    return np.asarray(np.floor(shares.clip(0, 1) * 255 + 0.5).astype(np.uint8))


def _without_grey(shape: Sequence[int]) -> Shape:
    """Leave out the channel where there is only one."""
    height, width, *channels = (int(side) for side in shape)
    return (height, width) if channels in ([], [1]) else (height, width, *channels)
