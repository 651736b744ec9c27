"""The one image decoder: a file of any of nine formats and any of Pillow's modes to grey or colour of 8 bits."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from typing import cast

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image, ImageChops
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from imprint.core.errors import DataError
from imprint.data.decoding.content import MAX_PIXELS, ImageSource, check_regular, image_error, read_content
from imprint.data.decoding.formats import HEIC_PHOTO, PEEK, RAW, RAW_ENDINGS, can_read_heic, is_heic

# Each more is a parser that can be attacked; HEIC comes on top where its decoder is installed.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")  # further images in a JPEG or TIFF are previews, depths or pages
PNG_START = b"\x89PNG\r\n\x1a\n"
WHITE = 255  # transparent parts are laid on white, as browsers and printers show them
ORIENTATION_TAG = 274  # TIFF 6.0, section 8
BIT_DEPTH_TAG = 258  # TIFF 6.0, section 4
SUBFILE_TAG, SUB_IFDS_TAG, DNG_TAG = 254, 330, 50706  # of a RAW: its first image is a preview of another

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
SWAP_SIDES = {TRANSPOSES[orientation] for orientation in (5, 6, 7, 8)}


@dataclass(frozen=True, eq=False)
class Decoded:
    """An upright image of 1 or 3 channels, 0 (black) to 255.

    `size` is height and width as in its file, but upright; `note` says what was decided on the way, else it is empty.
    """

    pixels: UInt8[ndarray, "h w c"]
    size: tuple[int, int]
    note: str


def decode(source: ImageSource, *, shorter: int = 0) -> Decoded:
    """Decode an image as a person would see it; raises DataError when it is no image, damaged or over 100 megapixels.

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


def decode_in_thread(source: ImageSource, *, shorter: int = 0) -> Decoded:
    """Do as `decode`, but without its own `without_warnings`: the caller puts one around all threads."""
    content = read_content(source)
    try:
        with _opened(BytesIO(content), source) as image:
            size = _checked_size(image, source)
            if content.startswith(PNG_START):
                _check_png(content, source)
            if shorter and isinstance(image, JpegImageFile) and min(size) >= 2 * shorter:
                image.draft(None, (shorter, shorter))
            image.load()
            transpose = _exif_transpose(image)
            pixels, note = eight_bits(_as_sixteen_bits(image), source)
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


def read_header(source: ImageSource) -> tuple[tuple[int, int], bool]:
    """Read an image's upright height and width, and whether its mode is grey, without decoding it."""
    try:
        if not isinstance(source, bytes):
            check_regular(source)
        with (
            BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file,
            _opened(file, source) as image,
        ):
            height, width = _checked_size(image, source)
            swapped = image.format != "TIFF" and _exif_transpose(image) in SWAP_SIDES
            return (width, height) if swapped else (height, width), image.mode[0] in "1LI"
    except DataError:
        raise
    except Exception as error:
        raise image_error(source, error) from None


def _opened(file: BytesIO | BufferedReader, source: ImageSource) -> Image.Image:
    """Open an image without decoding it; nothing is registered with Pillow, which others in the process may use."""
    start = file.read(PEEK)
    file.seek(0)
    if is_heic(start):
        if not can_read_heic():
            raise image_error(source, f"it is {HEIC_PHOTO}")
        from pillow_heif import HeifImageFile

        return cast(Image.Image, HeifImageFile(file))  # type: ignore[no-untyped-call]
    if not isinstance(source, bytes) and str(source).lower().endswith(RAW_ENDINGS):
        raise image_error(source, f"it is {RAW}")
    image = Image.open(file, formats=FORMATS)
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    if DNG_TAG in tags or (tags.get(SUBFILE_TAG) == 1 and SUB_IFDS_TAG in tags):
        raise image_error(source, f"it is {RAW}")
    return image


def _as_sixteen_bits(image: Image.Image) -> Image.Image:
    """Say by the mode that a PGM of more than 8 bits goes to 65535, whatever its greatest value was."""
    return image.convert("I;16") if image.format == "PPM" and image.mode == "I" else image


def is_image(source: ImageSource) -> bool:
    """Tell an image by its first bytes, whatever the file is called."""
    with without_warnings():
        try:
            read_header(source)
        except DataError:
            return False
    return True


def eight_bits(image: Image.Image, source: ImageSource) -> tuple[UInt8[ndarray, "h w c"], str]:
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


def _checked_size(image: Image.Image, source: ImageSource) -> tuple[int, int]:
    width, height = image.size
    if width * height > MAX_PIXELS:
        cause = f"{width:,}×{height:,} pixels are more than the {MAX_PIXELS // 10**6} million that are decoded"
        raise image_error(source, cause)
    return height, width


def _check_png(content: bytes, source: ImageSource) -> None:
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
