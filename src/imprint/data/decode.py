"""The one decoder: a picture file's bytes to pixels, whatever its format, mode, depth and orientation."""

from __future__ import annotations

import os
import stat
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image, ImageChops, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from imprint.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # each more is a parser that strangers can attack
ANIMATED = ("GIF", "PNG", "WEBP")  # further pictures in a JPEG or TIFF are previews, depths or pages
MOST_PIXELS = 100_000_000  # 300 MB in colour; today's phones take at most 50 million in one file, or 200 when asked
MOST_BYTES = 512 * 2**20
PAPER = 255  # transparent parts lie on white, as browsers and printers show them
REMEDY = "Repair, convert or remove it."
PNG_START = b"\x89PNG\r\n\x1a\n"
DEPTH_TAG, ORIENTATION_TAG = 258, 274  # TIFF 6.0, sections 4 and 8

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
# What comes instead of pictures, by how it begins.
STRANGERS = (
    (b"<svg", "SVG, a drawing"),
    (b"<!doctype", "a web page"),
    (b"<html", "a web page"),
    (b"<?xml", "XML"),
    (b"%!ps", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"%pdf", "PDF"),
    (b"version https://git-lfs", "a Git LFS pointer; run git lfs pull"),
)


@dataclass(frozen=True, eq=False)
class Decoded:
    """A picture out of its file.

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


def decode(file: Path | bytes, *, shorter: int = 0) -> Decoded:
    """Read a picture as a person would see it.

    Turned upright by its EXIF; 16 bits scaled to 8 by their depth; palettes, CMYK and YCCK as red,
    green and blue; transparent parts on white; of an animation the first frame.

    Parameters
    ----------
    file : Path or bytes
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
        When it is no picture, cut short, damaged, or has more than 100 million pixels.

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


def decode_aloud(file: Path | bytes, *, shorter: int = 0) -> Decoded:
    """Do as `decode`, but let Pillow warn: for threads, around all of which `quiet` stands.

    Parameters
    ----------
    file : Path or bytes
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
    imprint.errors.DataError: picture at its content: it is empty. Repair, convert or remove it.
    """
    try:
        content = _content(file)
        with Image.open(BytesIO(content), formats=FORMATS) as picture:
            size = _checked_size(picture, file)
            if content.startswith(PNG_START):
                _check_png(content, file)
            if shorter and isinstance(picture, JpegImageFile) and min(size) >= 2 * shorter:
                picture.draft(None, (shorter, shorter))
            picture.load()
            turn = _turn(picture)
            pixels, note = _pixels(picture, file)
            if picture.format in ANIMATED and getattr(picture, "is_animated", False):
                note = f"{note}; animated, first frame".removeprefix("; ")
    except DataError:
        raise
    except Exception as error:  # Pillow's parsers raise anything on bytes made to break them
        raise _refusal(file, _cause(file, error)) from None
    if turn is not None:
        upright = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).transpose(turn)
        pixels = np.asarray(upright).reshape(upright.height, upright.width, -1)
        size = size[::-1] if turn in (TURNS[5], TURNS[6], TURNS[7], TURNS[8]) else size
    return Decoded(pixels, size, note)


def look(file: Path | bytes) -> tuple[tuple[int, int], bool]:
    """Tell a picture's size and mode from its first bytes, without decoding it.

    Parameters
    ----------
    file : Path or bytes
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
        When it is no picture or has too many pixels.

    Examples
    --------
    >>> content = BytesIO()
    >>> Image.new("L", (3, 2)).save(content, "PNG")
    >>> look(content.getvalue())
    ((2, 3), True)
    """
    try:
        if not isinstance(file, bytes):
            _check_plain(file, file.stat())
        with Image.open(BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS) as picture:
            height, width = _checked_size(picture, file)
            turned = picture.format != "TIFF" and _turn(picture) in (TURNS[5], TURNS[6], TURNS[7], TURNS[8])
            return (width, height) if turned else (height, width), picture.mode[0] in "1LI"
    except DataError:
        raise
    except Exception as error:
        raise _refusal(file, _cause(file, error)) from None


def is_picture(file: Path) -> bool:
    """Tell a picture by its first bytes, whatever it is called.

    Parameters
    ----------
    file : Path
        An existing file.

    Returns
    -------
    bool
        Whether its header is that of a JPEG, PNG, WebP, BMP, GIF or TIFF.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "notes"
    >>> path.write_text("just words")
    10
    >>> is_picture(path)
    False
    """
    with quiet():
        try:
            look(file)
        except DataError:
            return False
    return True


def _content(file: Path | bytes) -> bytes:
    if isinstance(file, bytes):
        content = file
    else:
        status = file.stat()
        _check_plain(file, status)
        if status.st_size > MOST_BYTES:
            raise _refusal(file, f"it is larger than {MOST_BYTES // 2**20} MB")
        with open(file, "rb", buffering=0) as opened:
            content = opened.readall()
    if not content:
        raise _refusal(file, "it is empty")
    return content


def _check_plain(file: Path, status: os.stat_result) -> None:
    """Refuse what may never end or never answer, such as pipes and devices; folders are refused when opened."""
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise _refusal(file, "it is a pipe or a device, no file")


def _checked_size(picture: Image.Image, file: Path | bytes) -> tuple[int, int]:
    width, height = picture.size
    if width * height > MOST_PIXELS:
        raise _too_many(file, f"{width:,}×{height:,} pixels")
    return height, width


def _check_png(content: bytes, file: Path | bytes) -> None:
    """Compare every chunk's checksum, which Pillow does not for the pixels' own."""
    place = len(PNG_START)
    while True:
        length = int.from_bytes(content[place : place + 4])
        end = place + 8 + length
        if end + 4 > len(content):
            raise _refusal(file, "the file is cut short")
        if zlib.crc32(memoryview(content)[place + 4 : end]) != int.from_bytes(content[end : end + 4]):
            raise _refusal(file, "a checksum is wrong, so the file is damaged")
        if content[place + 4 : place + 8] == b"IEND":
            return
        place = end + 4


def _turn(picture: Image.Image) -> Image.Transpose | None:
    """Tell how to turn a picture upright; not at all where its EXIF is broken."""
    try:
        return TURNS.get(picture.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # EXIF comes from any camera and editor; no error in it harms the pixels
        return None


def _pixels(picture: Image.Image, file: Path | bytes) -> tuple[UInt8[ndarray, "h w c"], str]:
    """Bring any mode to grey or colour of 8 bits."""
    if picture.mode.startswith("I;16"):
        return _scaled_by_depth(picture), ""
    if picture.mode in ("I", "F", "LAB"):
        raise _refusal(file, f"its pixels ({picture.mode}) have no range that says what is white")
    if picture.mode in ("RGBa", "La"):
        picture = picture.convert(picture.mode.upper())  # premultiplied
    if picture.mode == "CMYK" and isinstance(picture, JpegImageFile) and "adobe" not in picture.info:
        picture = ImageChops.invert(picture)  # Pillow takes every CMYK JPEG for Adobe's, which are inverted
    if picture.has_transparency_data:
        return _on_paper(picture)
    if picture.mode != "L" and picture.mode != "RGB":
        picture = picture.convert("L" if picture.mode == "1" else "RGB")
    pixels = np.asarray(picture)
    return pixels[..., None] if pixels.ndim == 2 else pixels, ""


def _scaled_by_depth(picture: Image.Image) -> UInt8[ndarray, "h w 1"]:
    depth = getattr(picture, "tag_v2", {}).get(DEPTH_TAG, (16,))[0]
    wide = np.asarray(picture).astype(np.float32)
    narrow: UInt8[ndarray, "h w"] = np.minimum(wide * (255 / (2**depth - 1)) + 0.5, 255).astype(np.uint8)
    return narrow[..., None]


def _on_paper(picture: Image.Image) -> tuple[UInt8[ndarray, "h w c"], str]:
    """Lay a picture with transparency on white."""
    grey = picture.mode in ("1", "L", "LA")
    layers = picture.convert("RGBA")
    if layers.getchannel("A").getextrema() == (255, 255):
        seen, note = layers.convert("RGB"), ""
    else:
        paper = Image.new("RGBA", picture.size, (PAPER, PAPER, PAPER, 255))
        seen, note = Image.alpha_composite(paper, layers).convert("RGB"), "transparent, laid on white"
    pixels = np.asarray(seen)
    return (pixels[..., :1] if grey else pixels), note


def _refusal(file: Path | bytes, cause: str) -> DataError:
    return DataError("picture", "its content" if isinstance(file, bytes) else str(file), cause, REMEDY)


def _too_many(file: Path | bytes, size: str) -> DataError:
    return _refusal(file, f"{size} are more than the {MOST_PIXELS // 10**6} million that are decoded")


def _cause(file: Path | bytes, error: Exception) -> str:
    """Say in plain words why a picture could not be read."""
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more pixels than the {MOST_PIXELS // 10**6} million that are decoded"
    if isinstance(error, MemoryError):
        return "it does not fit into memory"
    if isinstance(error, OSError) and error.errno is not None:
        return f"it cannot be opened ({error.strerror})"
    if isinstance(error, UnidentifiedImageError):
        return _stranger(_start(file))
    if "truncated" in str(error).lower():
        return "the file is cut short"
    return f"the file is damaged ({' '.join(str(error).split()) or type(error).__name__})"


def _start(file: Path | bytes) -> bytes:
    if isinstance(file, bytes):
        return file[:512]
    with open(file, "rb") as opened:
        return opened.read(512)


def _stranger(start: bytes) -> str:
    """Name what stands in a file that is none of the formats."""
    if not start:
        return "it is empty"
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<?xml") and b"<svg" in text:
        text = b"<svg"
    known = next((name for mark, name in STRANGERS if text.startswith(mark)), None)
    if start[4:8] == b"ftyp":
        known = "HEIC, AVIF or a film"
    return f"it is {known}" if known else "it is damaged, or no JPEG, PNG, WebP, BMP, GIF or TIFF"
