"""Grey-scale morphology with windows and discs: maxima, minima, and what is built of them; edges are repeated.

Our own, since on bytes it takes a fifth to an eighth of the time of scipy's filters: a window is made of two
overlapping ones half as wide, those again of halves, which is log2(side) maxima of whole arrays an axis. (van Herk,
Pattern Recognition Letters 13 (1992) 517, needs only three, but goes through the places one by one.)
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray


def max_filter(values: ndarray, side: int) -> ndarray:
    """Maximum within a square window around each place, its odd side in places, channels each by themselves."""
    return _within_window(np.maximum, values, side)


def min_filter(values: ndarray, side: int) -> ndarray:
    """Minimum within a square window around each place; see `max_filter`."""
    return _within_window(np.minimum, values, side)


def closing(values: ndarray, side: int) -> ndarray:
    """Fill valleys narrower than a square window; edges of wider ones stay in place (Serra 1982, chapter II)."""
    return min_filter(max_filter(values, side), side)


def opening(values: ndarray, side: int) -> ndarray:
    """Cut off peaks narrower than a square window."""
    return max_filter(min_filter(values, side), side)


def dilation(values: ndarray, radius: float) -> ndarray:
    """Maximum within a disc around each place, its radius in places: bright regions grow by that."""
    return _within_disc(np.maximum, values, radius)


def erosion(values: ndarray, radius: float) -> ndarray:
    """Minimum within a disc around each place, its radius in places: bright regions shrink by that."""
    return _within_disc(np.minimum, values, radius)


def _within_disc(extreme: np.ufunc, values: ndarray, radius: float) -> ndarray:
    """Take the extreme of all copies of the image that are shifted within the disc."""
    (height, width), reach = values.shape, int(radius)
    padded, found = np.pad(values, reach, mode="edge"), values.copy()
    for row, column in np.argwhere(np.hypot(*np.ogrid[-reach : reach + 1, -reach : reach + 1]) <= radius):
        extreme(found, padded[row : row + height, column : column + width], out=found)
    return found


def _within_window(extreme: np.ufunc, values: ndarray, side: int) -> ndarray:
    """Take the extreme over columns, then over rows."""
    for axis in (0, 1):
        values = _along(axis, extreme, values, min(side // 2, values.shape[axis] - 1))
    return values


def _along(axis: int, extreme: np.ufunc, values: ndarray, reach: int) -> ndarray:
    """Take the extreme of what lies up to `reach` places away along an axis."""
    count, side, span = values.shape[axis], 2 * reach + 1, 1
    # Repeating the first and the last place adds nothing to a window that holds them anyway; np.pad took 3 of 20 ms.
    padded = np.empty([length + 2 * reach * (each == axis) for each, length in enumerate(values.shape)], values.dtype)
    padded[_part(axis, reach, reach + count)] = values
    padded[_part(axis, 0, reach)] = values[_part(axis, 0, 1)]
    padded[_part(axis, reach + count, count + 2 * reach)] = values[_part(axis, count - 1, count)]
    while 2 * span <= side:  # each place of `padded` holds the extreme of `span` places from there on
        length = padded.shape[axis] - span
        padded = extreme(padded[_part(axis, 0, length)], padded[_part(axis, span, span + length)])
        span *= 2
    return np.asarray(extreme(padded[_part(axis, 0, count)], padded[_part(axis, side - span, side - span + count)]))


def _part(axis: int, start: int, stop: int) -> tuple[slice, ...]:
    return (slice(None),) * axis + (slice(start, stop),)
