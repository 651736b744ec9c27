"""InputSpec: what a model expects of a picture, and the only code that turns one into model input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8
from torch import Tensor

from imprint.errors import DataError


@dataclass(frozen=True)
class InputSpec:
    """The input contract of a model, kept in its file.

    Parameters
    ----------
    channels : int
        1 for grey pictures, 3 for red, green and blue.
    picture_size : tuple of int
        Height and width in pixels of the pictures that the model was taught with.
    input_size : tuple of int
        Height and width in pixels that its network takes; pictures are scaled where this differs.

    Examples
    --------
    >>> spec = InputSpec(1, picture_size=(8, 8), input_size=(28, 28))
    >>> prepare(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), spec).shape
    torch.Size([5, 1, 28, 28])
    """

    channels: int
    picture_size: tuple[int, int]
    input_size: tuple[int, int]

    def check(self, shape: tuple[int, int, int], where: str) -> None:
        """Refuse pictures of another form than those the model was taught with.

        Parameters
        ----------
        shape : tuple of int
            Channels, height and width of the pictures.
        where : str
            Where the pictures came from, for the message.

        Raises
        ------
        DataError
            When channels or size differ.

        Examples
        --------
        >>> InputSpec(1, (28, 28), (28, 28)).check((1, 28, 28), "train.csv")
        """
        expected = (self.channels, *self.picture_size)
        if shape != expected:
            raise DataError(
                f"pictures of {describe(shape)}",
                where,
                f"the model was taught with pictures of {describe(expected)}",
                "Give pictures of that form, or train a model on these.",
            )


def describe(shape: tuple[int, int, int]) -> str:
    """Put a picture's form into words.

    Parameters
    ----------
    shape : tuple of int
        Channels, height and width.

    Returns
    -------
    str
        Width × height and the kind of colour.

    Examples
    --------
    >>> describe((1, 28, 28))
    '28×28 grey'
    """
    channels, height, width = shape
    return f"{width}×{height} {'grey' if channels == 1 else 'colour' if channels == 3 else f'{channels} channels'}"


def scale(pixels: UInt8[Tensor, "n c h w"], spec: InputSpec) -> UInt8[Tensor, "n c H W"]:
    """Bring pictures to the size that the network takes; those of that size pass untouched.

    Parameters
    ----------
    pixels : Tensor of uint8, shape (n, c, h, w)
        Brightness, 0 to 255.
    spec : InputSpec
        The model's input contract.

    Returns
    -------
    Tensor of uint8, shape (n, c, *spec.input_size)
        Bilinear samples, anti-aliased where the picture shrinks.

    Examples
    --------
    >>> scale(torch.full((1, 1, 8, 8), 200, dtype=torch.uint8), InputSpec(1, (8, 8), (2, 2)))
    tensor([[[[200, 200],
              [200, 200]]]], dtype=torch.uint8)
    """
    if tuple(pixels.shape[2:]) == spec.input_size:
        return pixels
    parts = [
        F.interpolate(part.float(), size=spec.input_size, mode="bilinear", antialias=True).round().to(torch.uint8)
        for part in pixels.split(1024)
    ]
    return torch.cat(parts)


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
    """Turn pictures into model input: scale, then normalise.

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
