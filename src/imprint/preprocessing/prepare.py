"""Preparation: the only code that turns images into what a network takes."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from imprint.preprocessing.input_spec import PLAIN_MEAN, PLAIN_STD, InputSpec, scaling_weights

RESIZED_AT_ONCE = 1024  # images, whose copies in float32 are four times as large
BAND = 32  # rows or columns of a scaled image that one product gives; 16 to 64 are as fast, one for all a third


def prepare(pixels: UInt8[Tensor, "n c h w"], spec: InputSpec) -> Float32[Tensor, "n c H W"]:
    """Turn images into model input: scale them, divide by 255, then standardise."""
    return standardise(normalise(scale(pixels, spec)), spec)


def scale(pixels: UInt8[Tensor, "n c h w"], spec: InputSpec) -> UInt8[Tensor, "n c H W"]:
    """Scale images to the size that the network takes; those of that size pass untouched.

    Bilinear and anti-aliased; exact on every machine, see `scaling_weights`.
    """
    if tuple(pixels.shape[2:]) == spec.input_size:
        return pixels
    (height, width), (scaled_height, scaled_width) = spec.image_size, spec.input_size
    down, across = _bands(height, scaled_height, pixels.device), _bands(width, scaled_width, pixels.device)
    scaled = []
    for part in pixels.split(RESIZED_AT_ONCE):
        wide = _rounded(torch.cat([part[..., seen].float() @ weights for seen, weights in across], dim=3))
        high = _rounded(torch.cat([weights.T @ wide[:, :, seen] for seen, weights in down], dim=2))
        scaled.append(high.to(torch.uint8))
    return torch.cat(scaled)


@lru_cache(maxsize=64)
def _bands(given: int, wanted: int, device: torch.device) -> list[tuple[slice, Float32[Tensor, "seen band"]]]:
    """Divide `scaling_weights` into bands of outputs, each with the inputs that it needs, which are few."""
    whole = scaling_weights(given, wanted)
    bands = []
    for first in range(0, wanted, BAND):
        band = whole[:, first : first + BAND]
        needed = np.flatnonzero(band.any(axis=1))
        seen = slice(int(needed[0]), int(needed[-1]) + 1)
        bands.append((seen, torch.from_numpy(band[seen].copy()).to(device)))
    return bands


def normalise(pixels: UInt8[Tensor, "n c h w"]) -> Float32[Tensor, "n c h w"]:
    """Turn brightness into floats from 0 to 1: pixel / 255. Augmentation works on these."""
    return pixels.to(torch.float32).div_(255)


def standardise(images: Float[Tensor, "n c h w"], spec: InputSpec) -> Float[Tensor, "n c h w"]:
    """Subtract the mean and divide by the standard deviation that the network asks for; nothing for 0 and 1."""
    if (spec.mean, spec.std) == (PLAIN_MEAN, PLAIN_STD):
        return images
    mean, std = (
        torch.tensor(values, dtype=images.dtype, device=images.device)[:, None, None]
        for values in (spec.mean, spec.std)
    )
    return (images - mean).div_(std)


def _rounded(pixels: Float32[Tensor, "n c h w"]) -> Float32[Tensor, "n c h w"]:
    return (pixels + 0.5).floor()
