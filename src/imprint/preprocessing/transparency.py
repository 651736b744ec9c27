"""Transparency: the background that transparent images are laid on, so that their ink shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

BLACK, WHITE = 0, 255
# Lightness of ink, above which its contrast to black is more than twice that to white. Else it is laid on white, as
# browsers and printers show it.
LIGHT = 170
LUMINANCE = np.array([299, 587, 114], dtype=np.float32) / 1000  # ITU-R BT.601
MEASURED = 2**16  # pixels of an image that tell its lightness


def lightness(image: UInt8[ndarray, "h w c"]) -> float | None:
    """Measure how light the visible parts of an image are, 0 to 255; its last channel is its alpha.

    None where nothing is transparent, or everything.
    """
    every = int(np.ceil(np.sqrt(max(image.shape[0] * image.shape[1] / MEASURED, 1))))
    colours, alpha = image[::every, ::every, :-1], image[::every, ::every, -1].astype(np.float32)
    if not alpha.any() or alpha.min() == 255:
        return None
    levels = colours @ LUMINANCE if colours.shape[2] == 3 else colours[..., 0]
    return float((levels * alpha).sum() / alpha.sum())


def choose_background(lights: Sequence[float]) -> int:
    """Choose what to lay images on by the lightness of each: black if their ink is light, else white."""
    return BLACK if len(lights) and sum(lights) / len(lights) > LIGHT else WHITE


def lay_on(
    colours: UInt8[ndarray, "*n c h w"], alpha: UInt8[ndarray, "*n 1 h w"], background: Float[ndarray, ...] | int
) -> UInt8[ndarray, "*n c h w"]:
    """Lay colours on a background as their alpha says."""
    share = alpha.astype(np.uint16)
    ground = np.asarray(background, dtype=np.uint16)
    return np.asarray(((colours * share + ground * (255 - share) + 127) // 255).astype(np.uint8))


def describe_background(background: int) -> str:
    """Say what became of transparent parts."""
    return f"transparent, laid on {'black' if background == BLACK else 'white'}"
