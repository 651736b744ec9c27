"""InputSpec: what a model expects of a picture, and the only code that turns one into model input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8
from numpy import ndarray
from PIL import Image
from torch import Tensor

from imprint.errors import DataError
from imprint.glyph import GlyphForm, fit_glyph, glyph_steps


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
    glyph : GlyphForm or None, default=None
        How ink stood on its ground in the pictures that the model was taught with; None for photos.

    Examples
    --------
    >>> spec = InputSpec(1, picture_size=(8, 8), input_size=(28, 28))
    >>> prepare(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), spec).shape
    torch.Size([5, 1, 28, 28])
    """

    channels: int
    picture_size: tuple[int, int]
    input_size: tuple[int, int]
    glyph: GlyphForm | None = None

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
                "Give pictures of that form, or files of pictures, which are brought into it.",
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


def fit(picture: UInt8[ndarray, "h w k"], spec: InputSpec) -> UInt8[ndarray, "c H W"]:
    """Bring one picture of any size into the form that a model was taught with.

    It is scaled until it covers that form, and its middle is cut out. A picture of that size
    passes untouched.

    Parameters
    ----------
    picture : ndarray of uint8, shape (h, w, k)
        Brightness, 0 to 255; k is 1 for grey, 3 for colour.
    spec : InputSpec
        The model's input contract.

    Returns
    -------
    ndarray of uint8, shape (spec.channels, *spec.picture_size)
        Bilinear samples, anti-aliased where the picture shrinks. Colour becomes grey as its
        luminance (0.299 red, 0.587 green, 0.114 blue: ITU-R BT.601), grey is repeated for colour.

    Examples
    --------
    >>> wide = np.full((50, 80, 3), 200, dtype=np.uint8)
    >>> fit(wide, InputSpec(1, (28, 28), (28, 28))).shape
    (1, 28, 28)
    """
    if spec.glyph is not None:
        return fit_glyph(picture, spec.glyph, spec.picture_size)
    height, width, channels = picture.shape
    if channels != 1 and spec.channels == 1:
        picture = np.asarray(Image.fromarray(picture).convert("L"))[..., None]
    if (height, width) != spec.picture_size:
        picture = _cover(picture, spec.picture_size)
    form: UInt8[ndarray, "k H W"] = picture.transpose(2, 0, 1)
    return form if len(form) == spec.channels else form.repeat(spec.channels, axis=0)


def fitting_steps(picture: UInt8[ndarray, "h w k"], spec: InputSpec) -> list[tuple[str, UInt8[ndarray, "_ _ _"]]]:
    """Show how `fit` brings a picture into the form.

    Parameters
    ----------
    picture : ndarray of uint8, shape (h, w, k)
        Brightness, 0 to 255; k is 1 for grey, 3 for colour.
    spec : InputSpec
        The model's input contract.

    Returns
    -------
    list of tuple of str and ndarray of uint8
        Name and picture, channels last, of each step; the last is what the model sees.

    Examples
    --------
    >>> wide = np.full((50, 80, 3), 200, dtype=np.uint8)
    >>> [name for name, _ in fitting_steps(wide, InputSpec(1, (28, 28), (28, 28)))]
    ['as given', 'as the model sees it']
    """
    if spec.glyph is not None:
        return glyph_steps(picture, spec.glyph, spec.picture_size)
    return [("as given", picture), ("as the model sees it", fit(picture, spec).transpose(1, 2, 0))]


def _cover(picture: UInt8[ndarray, "h w k"], size: tuple[int, int]) -> UInt8[ndarray, "H W k"]:
    """Scale a picture to cover a size and cut out its middle, in one step."""
    height, width, channels = picture.shape
    share = min(height / size[0], width / size[1])
    across, down = min(share * size[1], width), min(share * size[0], height)  # rounding may lead out
    left, top = (width - across) / 2, (height - down) / 2
    whole = Image.fromarray(picture[..., 0] if channels == 1 else picture)
    box = (left, top, left + across, top + down)
    part = whole.resize(size[::-1], Image.Resampling.BILINEAR, box=box)
    return np.asarray(part).reshape(*size, channels)


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
