"""Where in an image an answer comes from: a heat map drawn over it, and one found by covering parts, without torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray
from PIL import Image

SHOWN_SIDE = 280  # pixels that the shorter side of what is drawn has at least
PATCHES, PATCH = 10, 3  # places along a side, and how many of them are covered at once
AT_ONCE = 16  # covered images of a call
LEAST = 0.02  # of the probability: where covering any part changes less, no place decided
ORANGE = np.array([255, 120, 0], dtype=np.float32)


def occlusion(
    image: UInt8[ndarray, "c h w"], fill: Any, probability: Callable[[UInt8[ndarray, "n c h w"]], ndarray]
) -> Float32[ndarray, "p q"] | None:
    """Cover one part after the other by `fill`; gives how much `probability` falls where each part is covered.

    A part is 3 of 10 places wide and tall, and each place has the mean of the parts that cover it (Zeiler and Fergus,
    arXiv:1311.2901). None where no part matters.
    """
    edges = [np.linspace(0, side, min(PATCHES, side) + 1).astype(int) for side in image.shape[1:]]
    rows, columns = (
        [(max(0, place), min(len(edge) - 1, place + PATCH)) for place in range(1 - PATCH, len(edge) - 1)]
        for edge in edges
    )
    boxes = [(row, column) for row in rows for column in columns]
    falls = np.empty(len(boxes), dtype=np.float32)
    before = float(probability(image[None])[0])
    for start in range(0, len(boxes), AT_ONCE):
        chosen = boxes[start : start + AT_ONCE]
        covered = np.repeat(image[None], len(chosen), axis=0)
        for one, ((top, bottom), (left, right)) in zip(covered, chosen, strict=True):
            one[:, edges[0][top] : edges[0][bottom], edges[1][left] : edges[1][right]] = np.reshape(fill, (-1, 1, 1))
        falls[start : start + len(chosen)] = before - probability(covered)
    heat, counts = (np.zeros([len(edge) - 1 for edge in edges], dtype=np.float32) for _ in range(2))
    for ((top, bottom), (left, right)), fall in zip(boxes, falls, strict=True):
        heat[top:bottom, left:right] += max(0.0, float(fall))
        counts[top:bottom, left:right] += 1
    return heat / counts if falls.max() >= LEAST else None


def drawn(image: UInt8[ndarray, "h w c"], heat: Float32[ndarray, "p q"] | None) -> Image.Image:
    """Draw an image large, the more orange the more heat."""
    pixels = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
    height, width = pixels.shape[:2]
    factor = max(1, -(-SHOWN_SIDE // max(height, width)))
    large = Image.fromarray(pixels).resize((width * factor, height * factor), Image.Resampling.NEAREST)
    if heat is None:
        return large
    share = heat / max(float(heat.max()), 1e-9)
    glow = Image.fromarray((share * 255).clip(0, 255).astype(np.uint8)).resize(large.size, Image.Resampling.BILINEAR)
    strength = np.asarray(glow, dtype=np.float32)[..., None] / 255 * 0.6
    mixed = np.asarray(large, dtype=np.float32) * (1 - strength) + ORANGE * strength
    return Image.fromarray(mixed.round().astype(np.uint8))
