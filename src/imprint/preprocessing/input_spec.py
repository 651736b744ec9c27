"""InputSpec: what a model expects of a picture, and bringing any picture into that form."""

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
        1 for grey pictures, 3 for red, green and blue.
    picture_size : tuple of int
        Height and width in pixels of the pictures that the model was taught with.
    input_size : tuple of int
        Height and width in pixels that its network takes; pictures are scaled where this differs.
    glyph : GlyphForm or None, default=None
        How ink stood on its ground in the pictures that the model was taught with; None for photos.

    Examples
    --------
    >>> from dataclasses import asdict
    >>> spec = InputSpec(1, picture_size=(8, 8), input_size=(28, 28))
    >>> InputSpec.from_dict(asdict(spec)) == spec
    True
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
        >>> values = {"channels": 1, "picture_size": [8, 8], "input_size": [28, 28], "glyph": None}
        >>> InputSpec.from_dict(values).input_size
        (28, 28)
        """
        (height, width), (input_height, input_width) = (
            [int(side) for side in values[key]] for key in ("picture_size", "input_size")
        )
        glyph = None if values["glyph"] is None else GlyphForm(**values["glyph"])
        spec = cls(int(values["channels"]), (height, width), (input_height, input_width), glyph)
        if not 1 <= spec.channels <= 4:
            raise ValueError("channels")
        if not 1 <= min(*spec.picture_size, *spec.input_size) <= max(*spec.picture_size, *spec.input_size) <= LARGEST:
            raise ValueError("sizes of pictures")
        return spec


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
