"""InputSpec: what a model expects of an image, and bringing any image into that form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray
from PIL import Image

from imprint.core.errors import DataError
from imprint.preprocessing.glyph import GlyphForm, fit_glyph, glyph_steps

LARGEST = 4096  # pixels of a side; a file that claims more is not believed


@dataclass(frozen=True)
class InputSpec:
    """The input contract of a model, kept in its file.

    Parameters
    ----------
    channels : int
        1 for grey images, 3 for red, green and blue.
    image_size : tuple of int
        Height and width in pixels of the images that the model was trained on.
    input_size : tuple of int
        Height and width in pixels that its network takes; images are scaled where this differs.
    glyph : GlyphForm or None, default=None
        How ink stood on its ground in the images that the model was trained on; None for photos.

    Examples
    --------
    >>> from dataclasses import asdict
    >>> spec = InputSpec(1, image_size=(8, 8), input_size=(28, 28))
    >>> InputSpec.from_dict(asdict(spec)) == spec
    True
    """

    channels: int
    image_size: tuple[int, int]
    input_size: tuple[int, int]
    glyph: GlyphForm | None = None

    def check(self, shape: tuple[int, int, int], where: str) -> None:
        """Refuse images of another form than those the model was trained on.

        Parameters
        ----------
        shape : tuple of int
            Channels, height and width of the images.
        where : str
            Where the images came from, for the message.

        Raises
        ------
        DataError
            When channels or size differ.

        Examples
        --------
        >>> InputSpec(1, (28, 28), (28, 28)).check((1, 28, 28), "train.csv")
        """
        expected = (self.channels, *self.image_size)
        if shape != expected:
            raise DataError(
                f"images of {describe(shape)}",
                where,
                f"the model was trained on images of {describe(expected)}",
                "Give images of that form, or files of images, which are brought into it.",
            )

    @classmethod
    def from_shape(cls, shape: tuple[int, int, int]) -> InputSpec:
        """Give the contract of images as they are: channels, height and width."""
        channels, height, width = shape
        return cls(channels, (height, width), (height, width))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InputSpec:
        """Build a contract from plain values, as model files hold them.

        Parameters
        ----------
        values : mapping
            Field name to value.

        Returns
        -------
        InputSpec
            The contract.

        Raises
        ------
        KeyError, TypeError, ValueError
            When the values do not hold together.

        Examples
        --------
        >>> values = {"channels": 1, "image_size": [8, 8], "input_size": [28, 28], "glyph": None}
        >>> InputSpec.from_dict(values).input_size
        (28, 28)
        """
        (height, width), (input_height, input_width) = (
            [int(side) for side in values[key]] for key in ("image_size", "input_size")
        )
        glyph = None if values["glyph"] is None else GlyphForm(**values["glyph"])
        spec = cls(int(values["channels"]), (height, width), (input_height, input_width), glyph)
        if not 1 <= spec.channels <= 4:
            raise ValueError("channels")
        if not 1 <= min(*spec.image_size, *spec.input_size) <= max(*spec.image_size, *spec.input_size) <= LARGEST:
            raise ValueError("sizes of images")
        return spec


def describe(shape: tuple[int, int, int]) -> str:
    """Put an image's form into words.

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


def fit(image: UInt8[ndarray, "h w k"], spec: InputSpec) -> UInt8[ndarray, "c H W"]:
    """Bring one image of any size into the form that a model was trained on.

    It is scaled until it covers that form, and its middle is cut out. An image of that size
    passes untouched.

    Parameters
    ----------
    image : ndarray of uint8, shape (h, w, k)
        Brightness, 0 to 255; k is 1 for grey, 3 for colour.
    spec : InputSpec
        The model's input contract.

    Returns
    -------
    ndarray of uint8, shape (spec.channels, *spec.image_size)
        Bilinear samples, anti-aliased where the image shrinks. Colour becomes grey as its
        luminance (0.299 red, 0.587 green, 0.114 blue: ITU-R BT.601), grey is repeated for colour.

    Examples
    --------
    >>> wide = np.full((50, 80, 3), 200, dtype=np.uint8)
    >>> fit(wide, InputSpec(1, (28, 28), (28, 28))).shape
    (1, 28, 28)
    """
    if spec.glyph is not None:
        return fit_glyph(image, spec.glyph, spec.image_size)
    height, width, channels = image.shape
    if channels != 1 and spec.channels == 1:
        image = np.asarray(Image.fromarray(image).convert("L"))[..., None]
    if (height, width) != spec.image_size:
        image = _cover(image, spec.image_size)
    form: UInt8[ndarray, "k H W"] = image.transpose(2, 0, 1)
    return form if len(form) == spec.channels else form.repeat(spec.channels, axis=0)


def fitting_steps(image: UInt8[ndarray, "h w k"], spec: InputSpec) -> list[tuple[str, UInt8[ndarray, "_ _ _"]]]:
    """Show how `fit` brings an image into the form.

    Parameters
    ----------
    image : ndarray of uint8, shape (h, w, k)
        Brightness, 0 to 255; k is 1 for grey, 3 for colour.
    spec : InputSpec
        The model's input contract.

    Returns
    -------
    list of tuple of str and ndarray of uint8
        Name and image, channels last, of each step; the last is what the model sees.

    Examples
    --------
    >>> wide = np.full((50, 80, 3), 200, dtype=np.uint8)
    >>> [name for name, _ in fitting_steps(wide, InputSpec(1, (28, 28), (28, 28)))]
    ['as given', 'as the model sees it']
    """
    if spec.glyph is not None:
        return glyph_steps(image, spec.glyph, spec.image_size)
    return [("as given", image), ("as the model sees it", fit(image, spec).transpose(1, 2, 0))]


def _cover(image: UInt8[ndarray, "h w k"], size: tuple[int, int]) -> UInt8[ndarray, "H W k"]:
    """Scale an image to cover a size and cut out its middle, in one step."""
    height, width, channels = image.shape
    share = min(height / size[0], width / size[1])
    across, down = min(share * size[1], width), min(share * size[0], height)  # rounding may lead out
    left, top = (width - across) / 2, (height - down) / 2
    whole = Image.fromarray(image[..., 0] if channels == 1 else image)
    box = (left, top, left + across, top + down)
    part = whole.resize(size[::-1], Image.Resampling.BILINEAR, box=box)
    return np.asarray(part).reshape(*size, channels)


def scaling_weights(given: int, wanted: int) -> Float32[ndarray, "given wanted"]:
    """Tell how much each pixel along a side gives to each pixel of the scaled side: bilinear, anti-aliased.

    The weights are multiples of 2^-16. Times whole numbers from 0 to 255 they and their sums fit float32's 24 bits, so
    scaling by multiplication with them is exact, whatever the order of adding: torch and ONNX give the same pixels.

    Parameters
    ----------
    given : int
        Pixels along the side.
    wanted : int
        Pixels after scaling.

    Returns
    -------
    ndarray of float32, shape (given, wanted)
        Columns sum to 1.

    References
    ----------
    Pillow's src/libImaging/Resample.c, whose weights are multiples of 2^-22, in whole numbers.

    Examples
    --------
    >>> scaling_weights(4, 2)[:, 0].tolist()
    [0.4285736083984375, 0.4285736083984375, 0.142852783203125, 0.0]
    """
    step = given / wanted
    centres = (np.arange(wanted) + 0.5) * step
    distances = np.abs(np.arange(given)[:, None] + 0.5 - centres)
    weights = (1 - distances / max(step, 1)).clip(0)
    return np.asarray((weights / weights.sum(axis=0) * 2**16).round() / 2**16, dtype=np.float32)
