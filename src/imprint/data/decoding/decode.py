"""The one image decoder: a file in any of six formats and any of Pillow's modes to grey or colour of 8 bits."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from io import BytesIO
from threading import Lock

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image, ImageChops
from PIL.JpegImagePlugin import JpegImageFile

from imprint.core.errors import DataError
from imprint.data.decoding.content import MAX_PIXELS, ImageSource, check_regular, image_error, read_content

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # each more is a parser that can be attacked
ANIMATED = ("GIF", "PNG", "WEBP")  # further images in a JPEG or TIFF are previews, depths or pages
PNG_START = b"\x89PNG\r\n\x1a\n"
WHITE = 255  # transparent parts are laid on white, as browsers and printers show them
ORIENTATION_TAG = 274  # TIFF 6.0, section 8
BIT_DEPTH_TAG = 258  # TIFF 6.0, section 4

# EXIF 2.32, section 4.6.4: how the rows and columns of the file stand in the scene.
TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
LOADING = Lock()  # one PIL image may be given to several threads
SWAP_SIDES = {TRANSPOSES[orientation] for orientation in (5, 6, 7, 8)}


@dataclass(frozen=True, eq=False)
class Decoded:
    """An upright image of 1 or 3 channels, 0 (black) to 255.

    `size` is height and width as in its file, but upright; `note` says what was decided on the way, else it is empty.
    """

    pixels: UInt8[ndarray, "h w c"]
    size: tuple[int, int]
    note: str


def decode(source: ImageSource | Image.Image, *, shorter: int = 0) -> Decoded:
    """Decode a file or PIL image as a person would see it; raises DataError when damaged, none or over 100 megapixels.

    Upright by its EXIF; 16 bits scaled to 8; palettes, CMYK and YCCK as RGB; transparent parts on white; an animation's
    first frame. With `shorter`, a JPEG is decoded at 1/2, 1/4 or 1/8 if its shorter side keeps so many pixels.
    """
    with without_warnings():
        return decode_in_thread(source, shorter=shorter)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Suppress Pillow's warnings; to be put around threads, never inside them, since they share the filters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def decode_in_thread(source: ImageSource | Image.Image, *, shorter: int = 0) -> Decoded:
    """Do as `decode`, but without its own `without_warnings`: the caller puts one around all threads."""
    given = source if isinstance(source, Image.Image) else None  # which its owner keeps: neither closed nor drafted
    content = b"" if isinstance(source, Image.Image) else read_content(source)
    try:
        with nullcontext(given) if given else Image.open(BytesIO(content), formats=FORMATS) as image:
            size = _checked_size(image, source)
            if content.startswith(PNG_START):
                _check_png(content, source)
            if shorter and not given and isinstance(image, JpegImageFile) and min(size) >= 2 * shorter:
                image.draft(None, (shorter, shorter))
            with LOADING if given else nullcontext():
                image.load()
            transpose = _exif_transpose(image)
            pixels, note = eight_bits(image, source)
            if image.format in ANIMATED and getattr(image, "is_animated", False):
                note = f"{note}; animated, first frame".removeprefix("; ")
    except DataError:
        raise
    except Exception as error:  # Pillow's parsers raise anything on bytes made to break them
        raise image_error(source, error) from None
    if transpose is not None:
        upright = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).transpose(transpose)
        pixels = np.asarray(upright).reshape(upright.height, upright.width, -1)
        size = size[::-1] if transpose in SWAP_SIDES else size
    return Decoded(pixels, size, note)


def read_header(source: ImageSource | Image.Image) -> tuple[tuple[int, int], bool]:
    """Read an image's upright height and width, and whether its mode is grey, without decoding it."""
    try:
        if isinstance(source, Image.Image):
            opened: AbstractContextManager[Image.Image] = nullcontext(source)
        else:
            if not isinstance(source, bytes):
                check_regular(source)
            opened = Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
        with opened as image:
            height, width = _checked_size(image, source)
            swapped = image.format != "TIFF" and _exif_transpose(image) in SWAP_SIDES
            return (width, height) if swapped else (height, width), image.mode[0] in "1LI"
    except DataError:
        raise
    except Exception as error:
        raise image_error(source, error) from None


def is_image(source: ImageSource) -> bool:
    """Tell an image by its first bytes, whatever the file is called."""
    with without_warnings():
        try:
            read_header(source)
        except DataError:
            return False
    return True


def eight_bits(image: Image.Image, source: ImageSource | Image.Image) -> tuple[UInt8[ndarray, "h w c"], str]:
    """Convert a loaded image of any mode to 1 or 3 channels of 8 bits; raises DataError when no number means white.

    The text says what was decided on the way, and is empty where nothing was.
    """
    if image.mode.startswith("I;16"):
        return _scaled_by_depth(image), ""
    if image.mode in ("I", "F", "LAB"):
        raise image_error(source, f"its pixels ({image.mode}) have no range that says what is white")
    if image.mode in ("RGBa", "La"):
        image = image.convert(image.mode.upper())  # premultiplied
    if image.mode == "CMYK" and isinstance(image, JpegImageFile) and "adobe" not in image.info:
        image = ImageChops.invert(image)  # Pillow takes every CMYK JPEG for Adobe's, which are inverted
    if image.has_transparency_data:
        return _on_white(image)
    if image.mode != "L" and image.mode != "RGB":
        image = image.convert("L" if image.mode == "1" else "RGB")
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels, ""


def _scaled_by_depth(image: Image.Image) -> UInt8[ndarray, "h w 1"]:
    depth = getattr(image, "tag_v2", {}).get(BIT_DEPTH_TAG, (16,))[0]
    wide = np.asarray(image).astype(np.float32)
    narrow: UInt8[ndarray, "h w"] = np.minimum(wide * (255 / (2**depth - 1)) + 0.5, 255).astype(np.uint8)
    return narrow[..., None]


def _on_white(image: Image.Image) -> tuple[UInt8[ndarray, "h w c"], str]:
    grey = image.mode in ("1", "L", "LA")
    layers = image.convert("RGBA")
    if layers.getchannel("A").getextrema() == (255, 255):
        flat, note = layers.convert("RGB"), ""
    else:
        background = Image.new("RGBA", image.size, (WHITE, WHITE, WHITE, 255))
        flat, note = Image.alpha_composite(background, layers).convert("RGB"), "transparent, laid on white"
    pixels = np.asarray(flat)
    return (pixels[..., :1] if grey else pixels), note


def _checked_size(image: Image.Image, source: ImageSource | Image.Image) -> tuple[int, int]:
    width, height = image.size
    if width * height > MAX_PIXELS:
        cause = f"{width:,}×{height:,} pixels are more than the {MAX_PIXELS // 10**6} million that are decoded"
        raise image_error(source, cause)
    return height, width


def _check_png(content: bytes, source: ImageSource | Image.Image) -> None:
    """Compare the checksum of every chunk; Pillow skips those of the chunks that hold the pixels."""
    position = len(PNG_START)
    while True:
        length = int.from_bytes(content[position : position + 4])
        end = position + 8 + length
        if end + 4 > len(content):
            raise image_error(source, "the file is cut short")
        if zlib.crc32(memoryview(content)[position + 4 : end]) != int.from_bytes(content[end : end + 4]):
            raise image_error(source, "a checksum is wrong, so the file is damaged")
        if content[position + 4 : position + 8] == b"IEND":
            return
        position = end + 4


def _exif_transpose(image: Image.Image) -> Image.Transpose | None:
    """Look up how to turn an image upright; not at all where its EXIF is broken."""
    try:
        return TRANSPOSES.get(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # EXIF comes from any camera and editor; no error in it harms the pixels
        return None
