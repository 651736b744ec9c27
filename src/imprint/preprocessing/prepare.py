"""Preparation: the only code that turns images into what a network takes."""

from __future__ import annotations

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from imprint.preprocessing.input_spec import InputSpec, scaling_weights


def scale(pixels: UInt8[Tensor, "n c h w"], spec: InputSpec) -> UInt8[Tensor, "n c H W"]:
    """Bring images to the size that the network takes; those of that size pass untouched.

    Parameters
    ----------
    pixels : Tensor of uint8, shape (n, c, h, w)
        Brightness, 0 to 255.
    spec : InputSpec
        The model's input contract.

    Returns
    -------
    Tensor of uint8, shape (n, c, *spec.input_size)
        Bilinear samples, anti-aliased where the image shrinks; exact, see `input_spec.scaling_weights`.

    Examples
    --------
    >>> scale(torch.full((1, 1, 8, 8), 200, dtype=torch.uint8), InputSpec(1, (8, 8), (2, 2)))
    tensor([[[[200, 200],
              [200, 200]]]], dtype=torch.uint8)
    """
    if tuple(pixels.shape[2:]) == spec.input_size:
        return pixels
    down, across = (
        torch.from_numpy(scaling_weights(*sides)).to(pixels.device)
        for sides in zip(spec.image_size, spec.input_size, strict=True)
    )
    parts = [_rounded(down.T @ _rounded(part.float() @ across)).to(torch.uint8) for part in pixels.split(1024)]
    return torch.cat(parts)


def _rounded(pixels: Float32[Tensor, "n c h w"]) -> Float32[Tensor, "n c h w"]:
    return (pixels + 0.5).floor()


def normalise(pixels: UInt8[Tensor, "n c h w"]) -> Float32[Tensor, "n c h w"]:
    """Turn brightness into floats from 0 to 1: pixel / 255.

    Parameters
    ----------
    pixels : Tensor of uint8, shape (n, c, h, w)
        Brightness, 0 to 255.

    Returns
    -------
    Tensor of float32, shape (n, c, h, w)
        From 0 to 1.

    Examples
    --------
    >>> normalise(torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8))
    tensor([[[[0.0000, 0.2000, 1.0000]]]])
    """
    return pixels.to(torch.float32).div_(255)


def prepare(pixels: UInt8[Tensor, "n c h w"], spec: InputSpec) -> Float32[Tensor, "n c H W"]:
    """Turn images into model input: scale, then normalise.

    Parameters
    ----------
    pixels : Tensor of uint8, shape (n, c, h, w)
        Brightness, 0 to 255.
    spec : InputSpec
        The model's input contract.

    Returns
    -------
    Tensor of float32, shape (n, c, *spec.input_size)
        What the network takes.

    Examples
    --------
    >>> prepare(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8), InputSpec(1, (2, 2), (1, 1)))
    tensor([[[[1.]]]])
    """
    return normalise(scale(pixels, spec))
