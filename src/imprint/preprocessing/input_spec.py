"""InputSpec: what a model expects of an image, and bringing any image into that form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray
from PIL import Image

from imprint.core.errors import DataError, brief
from imprint.core.memmap import in_chunks
from imprint.preprocessing.depth import Range
from imprint.preprocessing.glyph import GlyphForm, fit_glyph, glyph_steps, which_hold
from imprint.preprocessing.transparency import BLACK, WHITE

VERSION = 2  # of the contract's form, within model files and ONNX files
READ_VERSIONS = (1, 2)  # 1 knew neither pixel_range nor background, which both None says
LOAD_FOR_MODEL = "Load them with spec=model.spec, or give the model their path."
MAX_CHANNELS = 4
MAX_SIDE = 4096  # pixels; a file that claims more is not believed
CPU_BATCH = 128  # 28,000 digits took 0.55 s with 64, 0.45 with 128, 0.53 with 256, which leaves the cache
MAX_CPU_NUMBERS = 2**20  # in a batch, so that one of photos has fewer images
FITTED_AT_ONCE = 1024  # images that are looked at together
PLAIN_MEAN, PLAIN_STD = (0.0,), (1.0,)  # pixels from 0 to 1 as they are


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
    mean : tuple of float, default=(0.0,)
        Subtracted from pixels from 0 to 1: one number a channel, or a single one for all.
    std : tuple of float, default=(1.0,)
        What the difference is then divided by, likewise.
    pixel_range : tuple of float or None, default=None
        Which numbers become black and white in images of more than 8 bits, or whose numbers are no bytes: the 0.1 and
        99.9 percentiles of the training images. None where those had 8 bits.
    background : int or None, default=None
        What transparent images are laid on: 0 is black, 255 white. None where no training image was transparent; then
        each is laid on what lets its own ink show.

    Attributes
    ----------
    version : int
        Of the contract's form; `from_dict` refuses another.

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
    mean: tuple[float, ...] = PLAIN_MEAN
    std: tuple[float, ...] = PLAIN_STD
    pixel_range: Range | None = None
    background: int | None = None
    version: int = field(default=VERSION, init=False)

    def __repr__(self) -> str:
        height, width = self.input_size
        kind = "" if self.glyph is None else " of glyphs"
        form = describe((self.channels, *self.image_size))
        return brief(self, f"images of {form}{kind}, for a network that takes {width}×{height}")

    def check(
        self,
        shape: tuple[int, int, int],
        where: str,
        pixel_range: Range | None = None,
        background: int | None = None,
    ) -> None:
        """Refuse images of another form than those the model was trained on.

        Parameters
        ----------
        shape : tuple of int
            Channels, height and width of the images.
        where : str
            Where the images came from, for the message.
        pixel_range : tuple of float or None, default=None
            Which of their numbers became black and white; None for images of 8 bits, which fit every model.
        background : int or None, default=None
            What they were laid on; None where none was transparent.

        Raises
        ------
        DataError
            When channels, size, range or background differ.

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
                "Give images of that form, or image files, which are brought into it.",
            )
        if pixel_range not in (None, self.pixel_range):
            cause = "the numbers that became their black and white are not those of the model"
            raise DataError("images", where, cause, LOAD_FOR_MODEL)
        if None not in (background, self.background) and background != self.background:
            cause = "they were laid on another background than those of the model"
            raise DataError("images", where, cause, LOAD_FOR_MODEL)

    @classmethod
    def from_shape(
        cls,
        shape: tuple[int, int, int],
        pixel_range: Range | None = None,
        background: int | None = None,
    ) -> InputSpec:
        """Make the contract that takes images as they are.

        Parameters
        ----------
        shape : tuple of int
            Channels, height and width.
        pixel_range : tuple of float or None, default=None
            Which numbers become black and white.
        background : int or None, default=None
            What transparent images are laid on.

        Returns
        -------
        InputSpec
            Without scaling or a form of glyphs.

        Examples
        --------
        >>> InputSpec.from_shape((3, 48, 64)).input_size
        (48, 64)
        """
        channels, height, width = shape
        return cls(channels, (height, width), (height, width), pixel_range=pixel_range, background=background)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InputSpec:
        """Build a contract from plain values, as model files hold them.

        Parameters
        ----------
        values : mapping
            Field name to value, as `dataclasses.asdict` gives them.

        Returns
        -------
        InputSpec
            The contract.

        Raises
        ------
        KeyError, TypeError, ValueError
            When the version is another, or the values do not fit together.

        Examples
        --------
        >>> values = {"version": 1, "channels": 1, "image_size": [8, 8], "input_size": [28, 28]}
        >>> InputSpec.from_dict(values | {"glyph": None, "mean": [0.5], "std": [0.5]}).input_size
        (28, 28)
        """
        if values.get("version") not in READ_VERSIONS:
            raise ValueError(f"its input contract has another version than {VERSION}, which this Imprint reads")
        (height, width), (input_height, input_width) = (
            [int(side) for side in values[key]] for key in ("image_size", "input_size")
        )
        glyph = None if values["glyph"] is None else GlyphForm(**values["glyph"])
        mean, std = (tuple(float(value) for value in values[key]) for key in ("mean", "std"))
        pixel_range, background = _range_of(values.get("pixel_range")), values.get("background")
        sizes = (height, width), (input_height, input_width)
        spec = cls(int(values["channels"]), *sizes, glyph, mean, std, pixel_range, background)
        if not 1 <= spec.channels <= MAX_CHANNELS:
            raise ValueError("channels")
        if not 1 <= min(*spec.image_size, *spec.input_size) <= max(*spec.image_size, *spec.input_size) <= MAX_SIDE:
            raise ValueError("image sizes")
        check_normalisation(mean, std, spec.channels)
        if type(background) not in (int, type(None)) or background not in (None, BLACK, WHITE):
            raise ValueError("background")
        return spec


def _range_of(values: Any) -> Range | None:
    """Read a range from plain values; raises `ValueError` where it is none."""
    if values is None:
        return None
    low, high = (float(end) for end in values)
    if not -math.inf < low < high < math.inf:
        raise ValueError("pixel_range")
    return low, high


def check_normalisation(mean: tuple[float, ...], std: tuple[float, ...], channels: int) -> None:
    """Raise `ValueError` unless there is one number a channel, or one for all, and dividing by `std` is sound."""
    if len(mean) not in (1, channels) or len(std) not in (1, channels):
        raise ValueError(f"mean and std have {len(mean)} and {len(std)} numbers for {channels} channels")
    if not all(map(math.isfinite, mean)) or not all(1e-6 <= value < math.inf for value in std):
        raise ValueError("mean or std is not a usable number")


def cpu_batch_size(spec: InputSpec) -> int:
    """Count the images that a CPU computes at once, by torch or onnxruntime; their activations stay small."""
    return max(1, min(CPU_BATCH, MAX_CPU_NUMBERS // (spec.channels * math.prod(spec.input_size))))


def describe(shape: tuple[int, int, int]) -> str:
    """Put an image's form (channels, height, width) into words, such as 28×28 grey."""
    channels, height, width = shape
    return f"{width}×{height} {'grey' if channels == 1 else 'colour' if channels == 3 else f'{channels} channels'}"


def fit(image: UInt8[ndarray, "h w k"], spec: InputSpec) -> UInt8[ndarray, "c H W"]:
    """Bring one image of any size, grey or colour, into the form that a model was trained on.

    It is scaled, bilinear and anti-aliased, to cover that form, and its middle is cut out. Colour becomes grey as
    its luminance (ITU-R BT.601), grey is repeated for colour; `DataError` where channels would have to be guessed.
    """
    if spec.glyph is not None:
        return fit_glyph(image, spec.glyph, spec.image_size)
    height, width, channels = image.shape
    if channels != spec.channels and not {channels, spec.channels} <= {1, 3}:
        remedy = "Give LabelledImages with those channels."
        cause = f"the model was trained on images of {spec.channels}"
        raise DataError(f"{channels} channel{'s' * (channels > 1)}", "an image", cause, remedy)
    if channels != 1 and spec.channels == 1:
        image = np.asarray(Image.fromarray(image).convert("L"))[..., None]
    if (height, width) != spec.image_size:
        image = _cover(image, spec.image_size)
    form: UInt8[ndarray, "k H W"] = image.transpose(2, 0, 1)
    return form if len(form) == spec.channels else form.repeat(spec.channels, axis=0)


def fit_all(pixels: UInt8[ndarray, "n k h w"], spec: InputSpec) -> UInt8[ndarray, "n c H W"]:
    """Bring images of one size into the form, each as `fit` does; the array itself where all have that form already."""
    form = (spec.channels, *spec.image_size)
    glyph = spec.glyph
    if pixels.shape[1:] == form and (
        glyph is None or all(which_hold(part, glyph).all() for part in in_chunks(pixels, FITTED_AT_ONCE))
    ):
        return pixels
    fitted = np.empty((len(pixels), *form), dtype=np.uint8)
    for i, image in enumerate(pixels):
        fitted[i] = fit(image.transpose(1, 2, 0), spec)
    return fitted


def fitting_steps(image: UInt8[ndarray, "h w k"], spec: InputSpec) -> list[tuple[str, UInt8[ndarray, "_ _ _"]]]:
    """Show how `fit` brings an image into the form: name and image, channels last, of each step."""
    if spec.glyph is not None:
        return glyph_steps(image, spec.glyph, spec.image_size)
    return [("as given", image), ("as the model sees it", fit(image, spec).transpose(1, 2, 0))]


def _cover(image: UInt8[ndarray, "h w k"], size: tuple[int, int]) -> UInt8[ndarray, "H W k"]:
    """Scale an image to cover a size and cut out its middle, in one step."""
    height, width, channels = image.shape
    share = min(height / size[0], width / size[1])
    across, down = min(share * size[1], width), min(share * size[0], height)  # rounding may exceed the image
    left, top = (width - across) / 2, (height - down) / 2
    box = (left, top, left + across, top + down)
    # What is neither grey nor colour is scaled channel by channel: Pillow would take the fourth for transparency.
    planes = [image] if channels == 3 else [image[..., channel] for channel in range(channels)]
    parts = [
        np.asarray(Image.fromarray(plane).resize(size[::-1], Image.Resampling.BILINEAR, box=box)) for plane in planes
    ]
    return np.dstack(parts)


def scaling_weights(given: int, wanted: int) -> Float32[ndarray, "given wanted"]:
    """Compute how much each pixel along a side adds to each pixel of the scaled side: bilinear, anti-aliased.

    The weights are multiples of 2^-16 (Pillow's, in src/libImaging/Resample.c, of 2^-22).
    """
    # Times whole numbers from 0 to 255 they and their sums fit float32's 24 bits, so scaling by multiplication with
    # them is exact, whatever the order of adding: torch and ONNX give the same pixels.
    step = given / wanted
    centres = (np.arange(wanted) + 0.5) * step
    distances = np.abs(np.arange(given)[:, None] + 0.5 - centres)
    weights = (1 - distances / max(step, 1)).clip(0)
    return np.asarray((weights / weights.sum(axis=0) * 2**16).round() / 2**16, dtype=np.float32)
