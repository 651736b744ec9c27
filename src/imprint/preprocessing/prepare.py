"""Preparation: the only code that turns images into what a network takes."""

from __future__ import annotations

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from imprint.preprocessing.input_spec import PLAIN_MEAN, PLAIN_STD, InputSpec, scaling_weights

RESIZED_AT_ONCE = 1024  # images, whose copies in float32 are four times as large


def prepare(pixels: UInt8[Tensor, "n c h w"], spec: InputSpec) -> Float32[Tensor, "n c H W"]:
    """Turn images into model input: scale them, divide by 255, then standardise."""
    return standardise(normalise(scale(pixels, spec)), spec)


def scale(pixels: UInt8[Tensor, "n c h w"], spec: InputSpec) -> UInt8[Tensor, "n c H W"]:
    """Scale images to the size that the network takes; those of that size pass untouched.

    Bilinear and anti-aliased; exact on every machine, see `scaling_weights`.
    """
    if tuple(pixels.shape[2:]) == spec.input_size:
        return pixels
    down, across = (
        torch.from_numpy(scaling_weights(*sides)).to(pixels.device)
        for sides in zip(spec.image_size, spec.input_size, strict=True)
    )
    parts = [
        _rounded(down.T @ _rounded(part.float() @ across)).to(torch.uint8) for part in pixels.split(RESIZED_AT_ONCE)
    ]
    return torch.cat(parts)


def normalise(pixels: UInt8[Tensor, "n c h w"]) -> Float32[Tensor, "n c h w"]:
    """Turn brightness into floats from 0 to 1: pixel / 255. Augmentation works on these."""
    return pixels.to(torch.float32).div_(255)


def standardise(images: Float32[Tensor, "n c h w"], spec: InputSpec) -> Float32[Tensor, "n c h w"]:
    """Subtract the mean and divide by the standard deviation that the network asks for; nothing for 0 and 1."""
    if (spec.mean, spec.std) == (PLAIN_MEAN, PLAIN_STD):
        return images
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=images.device)[:, None, None]
        for values in (spec.mean, spec.std)
    )
    return (images - mean).div_(std)


def _rounded(pixels: Float32[Tensor, "n c h w"]) -> Float32[Tensor, "n c h w"]:
    return (pixels + 0.5).floor()
