"""Depth: numbers of more than 8 bits, or that are no bytes at all, become bytes by the range of their collection."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8
from numpy import ndarray

Range = tuple[float | int, float | int]  # the numbers that become black and white

SHARES = (0.001, 0.999)  # of a collection's numbers lie below black and white, so that a few hot pixels decide nothing
FEWEST_LEVELS = 64
AT_ONCE = 2**20  # numbers, whose floats take eight times their bytes
SAMPLED = 2**22  # numbers that decide a range


def common_range(numbers: Shaped[ndarray, ...]) -> Range:
    """Choose the range of a collection: its 0.1 and 99.9 percentiles, or the ends where nearly all numbers are one."""
    low, high = map(float, np.quantile(numbers, SHARES))
    if low == high:
        low, high = float(numbers.min()), float(numbers.max())
    return (low, high) if low < high else (low, low + 1)


def to_bytes(numbers: Shaped[ndarray, "*n"], pixel_range: Range) -> UInt8[ndarray, "*n"]:
    """Map a range to 0 … 255; what is beyond is clipped."""
    if numbers.dtype == np.uint16 and numbers.size > 2**16:
        return np.asarray(to_bytes(np.arange(2**16, dtype=np.uint16), pixel_range)[numbers])
    low, high = pixel_range
    found = np.empty(numbers.shape, dtype=np.uint8)
    flat = found.reshape(-1)
    for start in range(0, numbers.size, AT_ONCE):
        part = numbers.reshape(-1)[start : start + AT_ONCE]
        part = part.astype(np.result_type(part, np.float32))
        shares = (part / 2 - low / 2) / (high / 2 - low / 2)  # halves, since the whole may be too large for a float
        flat[start : start + AT_ONCE] = np.floor(shares.clip(0, 1) * 255 + 0.5)
    return found


def thinned_numbers(numbers: Shaped[ndarray, "h w *c"], at_most: int) -> Shaped[ndarray, " n"]:
    """Skip rows and columns of an image until few enough numbers are left."""
    every = int(np.ceil(np.sqrt(max(numbers.size / at_most, 1))))
    return np.asarray(numbers[::every, ::every].reshape(-1))


def describe_range(kind: np.dtype[Any], pixel_range: Range) -> str:
    """Say what became of numbers, such as: 16-bit, 320 to 455 became black to white."""
    low, high = (f"{end:,.0f}" if abs(end) >= 100 or end == round(end) else f"{end:.3g}" for end in pixel_range)
    return f"{8 * kind.itemsize}-bit{' float' * (kind.kind == 'f')}, {low} to {high} became black to white"


def lost_levels(numbers: Shaped[ndarray, ...], pixel_range: Range) -> str:
    """Say how few grey levels a range leaves of numbers; empty where it leaves 64, or all of them."""
    left, before = len(np.unique(to_bytes(numbers, pixel_range))), len(np.unique(numbers))
    return f"only {left} grey levels remain of {before:,}" if left < min(FEWEST_LEVELS, before) else ""
