"""Pillow's modes: what a file's numbers mean, as grey or colour of 8 bits."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image, ImageChops
from PIL.JpegImagePlugin import JpegImageFile

from imprint.core.errors import DataError
from imprint.data.decoding import small_png
from imprint.data.decoding.image_source import MOST_PIXELS, File, expect_plain, read, refusal

PAPER = 255  # transparent parts lie on white, as browsers and printers show them
DEPTH_TAG = 258  # TIFF 6.0, section 4


def eight_bits(image: Image.Image, file: File) -> tuple[UInt8[ndarray, "h w c"], str]:
    """Bring an image of any mode to grey or colour of 8 bits.

    Parameters
    ----------
    image : Image
        Loaded.
    file : Path, str or bytes
        Where it came from, for messages.

    Returns
    -------
    pixels : ndarray of uint8, shape (h, w, 1) or (h, w, 3)
        Brightness from 0 (black) to 255.
    note : str
        What was decided on the way; empty where nothing was.

    Raises
    ------
    DataError
        When nothing says which number is white.

    Examples
    --------
    >>> eight_bits(Image.new("LA", (1, 1), (0, 0)), b"")
    (array([[[255]]], dtype=uint8), 'transparent, laid on white')
    """
    if image.mode.startswith("I;16"):
        return _scaled_by_depth(image), ""
    if image.mode in ("I", "F", "LAB"):
        raise refusal(file, f"its pixels ({image.mode}) have no range that says what is white")
    if image.mode in ("RGBa", "La"):
        image = image.convert(image.mode.upper())  # premultiplied
    if image.mode == "CMYK" and isinstance(image, JpegImageFile) and "adobe" not in image.info:
        image = ImageChops.invert(image)  # Pillow takes every CMYK JPEG for Adobe's, which are inverted
    if image.has_transparency_data:
        return _on_paper(image)
    if image.mode != "L" and image.mode != "RGB":
        image = image.convert("L" if image.mode == "1" else "RGB")
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels, ""


def _scaled_by_depth(image: Image.Image) -> UInt8[ndarray, "h w 1"]:
    depth = getattr(image, "tag_v2", {}).get(DEPTH_TAG, (16,))[0]
    wide = np.asarray(image).astype(np.float32)
    narrow: UInt8[ndarray, "h w"] = np.minimum(wide * (255 / (2**depth - 1)) + 0.5, 255).astype(np.uint8)
    return narrow[..., None]


def _on_paper(image: Image.Image) -> tuple[UInt8[ndarray, "h w c"], str]:
    """Lay an image with transparency on white."""
    grey = image.mode in ("1", "L", "LA")
    layers = image.convert("RGBA")
    if layers.getchannel("A").getextrema() == (255, 255):
        seen, note = layers.convert("RGB"), ""
    else:
        paper = Image.new("RGBA", image.size, (PAPER, PAPER, PAPER, 255))
        seen, note = Image.alpha_composite(paper, layers).convert("RGB"), "transparent, laid on white"
    pixels = np.asarray(seen)
    return (pixels[..., :1] if grey else pixels), note


FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # each more is a parser that strangers can attack
ANIMATED = ("GIF", "PNG", "WEBP")  # further images in a JPEG or TIFF are previews, depths or pages
PNG_START = b"\x89PNG\r\n\x1a\n"
ORIENTATION_TAG = 274  # TIFF 6.0, section 8

# EXIF 2.32, section 4.6.4: how the rows and columns of the file stand in the scene.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, eq=False)
class Decoded:
    """An image out of its file.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (h, w, 1) or (h, w, 3)
        Brightness from 0 (black) to 255, upright.
    size : tuple of int
        Height and width as it stood in its file, upright.
    note : str
        What was decided on the way, such as ``"animated, first frame"``; empty where nothing was.

    Examples
    --------
    >>> Decoded(np.zeros((2, 3, 1), dtype=np.uint8), (2, 3), "").size
    (2, 3)
    """

    pixels: UInt8[ndarray, "h w c"]
    size: tuple[int, int]
    note: str


@dataclass(frozen=True, eq=False)
class Alike:
    """Images of one size out of their files.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (n, h, w, 1) or (n, h, w, 3)
        As in `Decoded`.
    size : tuple of int
        As in `Decoded`.
    note : str
        As in `Decoded`.

    Examples
    --------
    >>> len(Alike(np.zeros((5, 2, 3, 1), dtype=np.uint8), (2, 3), "").pixels)
    5
    """

    pixels: UInt8[ndarray, "n h w c"]
    size: tuple[int, int]
    note: str


def decode(file: File, *, shorter: int = 0) -> Decoded:
    """Read an image as a person would see it.

    Turned upright by its EXIF; 16 bits scaled to 8 by their depth; palettes, CMYK and YCCK as red,
    green and blue; transparent parts on white; of an animation the first frame.

    Parameters
    ----------
    file : Path, str or bytes
        A JPEG, PNG, WebP, BMP, GIF or TIFF file, or its content. The name's ending does not count.
    shorter : int, default=0
        Let a JPEG be decoded at a half, quarter or eighth of its size, if its shorter side keeps
        at least so many pixels; 0 decodes whole.

    Returns
    -------
    Decoded
        Pixels with 1 channel where the file's mode is grey, else 3.

    Raises
    ------
    DataError
        When it is no image, cut short, damaged, or has more than 100 million pixels.

    Examples
    --------
    >>> content = BytesIO()
    >>> Image.new("1", (3, 2), 1).save(content, "PNG")
    >>> decode(content.getvalue()).pixels[..., 0].tolist()
    [[255, 255, 255], [255, 255, 255]]
    """
    with quiet():
        return decode_aloud(file, shorter=shorter)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Pillow's warnings from the reader; not for use in threads, whose warnings are shared.

    Yields
    ------
    None
        Warnings are ignored while the block runs.

    Examples
    --------
    >>> with quiet():
    ...     warnings.warn("never seen")
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def decode_aloud(file: File, *, shorter: int = 0) -> Decoded:
    """Do as `decode`, but let Pillow warn: for threads, around all of which `quiet` stands.

    Parameters
    ----------
    file : Path, str or bytes
        As for `decode`.
    shorter : int, default=0
        As for `decode`.

    Returns
    -------
    Decoded
        As from `decode`.

    Raises
    ------
    DataError
        As `decode`.

    Examples
    --------
    >>> decode_aloud(b"")
    Traceback (most recent call last):
    imprint.core.errors.DataError: image at its content: it is empty. Repair, convert or remove it.
    """
    return _decoded(read(file), file, shorter)


def decode_many(
    open_at: Callable[[int], File], places: Iterable[int], *, shorter: int = 0
) -> Iterator[tuple[list[int], Alike | DataError]]:
    """Decode images as `decode_aloud` does, plain small ones all at once.

    Parameters
    ----------
    open_at : callable
        Takes a place and gives the file there, or its content.
    places : iterable of int
        Which to decode.
    shorter : int, default=0
        As for `decode`.

    Yields
    ------
    tuple of list of int and Alike or DataError
        Some of the places with their images, or with why there is none; in any order.

    Examples
    --------
    >>> for some, error in decode_many([b"", b"%PDF"].__getitem__, range(2)):
    ...     print(some, error.cause)
    [0] it is empty
    [1] it is PDF
    """
    small: dict[small_png.Form, dict[int, bytes]] = {}
    for place in places:
        found: Alike | DataError
        try:
            file = open_at(place)
            content = read(file)
            if inflated := small_png.inflate(content):
                form, rows = inflated
                small.setdefault(form, {})[place] = rows
                continue
            one = _decoded(content, file, shorter)
            found = Alike(one.pixels[None], one.size, one.note)
        except DataError as error:
            found = error
        yield [place], found
    for form, filtered in small.items():
        yield list(filtered), Alike(small_png.unfilter(form, list(filtered.values())), form.size, "")


def look(file: File) -> tuple[tuple[int, int], bool]:
    """Tell an image's size and mode from its first bytes, without decoding it.

    Parameters
    ----------
    file : Path, str or bytes
        As for `decode`.

    Returns
    -------
    size : tuple of int
        Height and width, upright.
    grey : bool
        Whether the mode has no colour.

    Raises
    ------
    DataError
        When it is no image or has too many pixels.

    Examples
    --------
    >>> content = BytesIO()
    >>> Image.new("L", (3, 2)).save(content, "PNG")
    >>> look(content.getvalue())
    ((2, 3), True)
    """
    try:
        if not isinstance(file, bytes):
            expect_plain(file)
        with Image.open(BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS) as image:
            height, width = _checked_size(image, file)
            turned = image.format != "TIFF" and _turn(image) in (TURNS[5], TURNS[6], TURNS[7], TURNS[8])
            return (width, height) if turned else (height, width), image.mode[0] in "1LI"
    except DataError:
        raise
    except Exception as error:
        raise refusal(file, error) from None


def is_image(file: File) -> bool:
    """Tell an image by its first bytes, whatever it is called.

    Parameters
    ----------
    file : Path, str or bytes
        As for `decode`.

    Returns
    -------
    bool
        Whether its header is that of a JPEG, PNG, WebP, BMP, GIF or TIFF.

    Examples
    --------
    >>> is_image(__file__)
    False
    """
    with quiet():
        try:
            look(file)
        except DataError:
            return False
    return True


def _decoded(content: bytes, file: File, shorter: int) -> Decoded:
    """Decode by Pillow alone."""
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as image:
            size = _checked_size(image, file)
            if content.startswith(PNG_START):
                _check_png(content, file)
            if shorter and isinstance(image, JpegImageFile) and min(size) >= 2 * shorter:
                image.draft(None, (shorter, shorter))
            image.load()
            turn = _turn(image)
            pixels, note = eight_bits(image, file)
            if image.format in ANIMATED and getattr(image, "is_animated", False):
                note = f"{note}; animated, first frame".removeprefix("; ")
    except DataError:
        raise
    except Exception as error:  # Pillow's parsers raise anything on bytes made to break them
        raise refusal(file, error) from None
    if turn is not None:
        upright = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).transpose(turn)
        pixels = np.asarray(upright).reshape(upright.height, upright.width, -1)
        size = size[::-1] if turn in (TURNS[5], TURNS[6], TURNS[7], TURNS[8]) else size
    return Decoded(pixels, size, note)


def _checked_size(image: Image.Image, file: File) -> tuple[int, int]:
    width, height = image.size
    if width * height > MOST_PIXELS:
        cause = f"{width:,}×{height:,} pixels are more than the {MOST_PIXELS // 10**6} million that are decoded"
        raise refusal(file, cause)
    return height, width


def _check_png(content: bytes, file: File) -> None:
    """Compare every chunk's checksum, which Pillow does not for the pixels' own."""
    place = len(PNG_START)
    while True:
        length = int.from_bytes(content[place : place + 4])
        end = place + 8 + length
        if end + 4 > len(content):
            raise refusal(file, "the file is cut short")
        if zlib.crc32(memoryview(content)[place + 4 : end]) != int.from_bytes(content[end : end + 4]):
            raise refusal(file, "a checksum is wrong, so the file is damaged")
        if content[place + 4 : place + 8] == b"IEND":
            return
        place = end + 4


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Tell how to turn an image upright; not at all where its EXIF is broken."""
    try:
        return TURNS.get(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # EXIF comes from any camera and editor; no error in it harms the pixels
        return None
