"""The one image decoder: a file of any of nine formats and any of Pillow's modes to grey or colour of 8 bits."""

from __future__ import annotations

import struct
import sys
import warnings
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path
from threading import Lock
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Shaped, UInt8
from numpy import ndarray
from PIL import Image, ImageChops
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from imprint.core.errors import DataError
from imprint.data.decoding.content import MAX_PIXELS, ImageSource, check_regular, image_error, read_content, remedy_for
from imprint.data.decoding.formats import HEIC_PHOTO, PEEK, RAW, RAW_ENDINGS, can_read_heic, is_heic
from imprint.preprocessing.depth import Range, describe_range, lost_levels, thinned_numbers, to_bytes
from imprint.preprocessing.transparency import choose_background, describe_background, lightness

# Each more is a parser that can be attacked; HEIC comes on top where its decoder is installed.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")  # further images in a JPEG or TIFF are previews, depths or pages
PNG_START = b"\x89PNG\r\n\x1a\n"
ORIENTATION_TAG = 274  # TIFF 6.0, section 8, as the following ones
BIT_DEPTH_TAG, PLANES_TAG, SUBFILE_TAG = 258, 284, 254
SUB_IFDS_TAG, DNG_TAG = 330, 50706  # of a camera's RAW: its first image is a preview of another
REDUCED, MASK = 1, 4  # bits of SUBFILE_TAG: a preview, and what is visible of another page
MAX_PAGES = 1000  # counted
MEASURED = 2**16  # numbers of an image, by which its range is checked

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
    `deep` tells more than 8 bits; `ink` how light what shows of a transparent image is, and None of an opaque one.
    """

    pixels: UInt8[ndarray, "h w c"]
    size: tuple[int, int]
    note: str
    deep: bool = False
    ink: float | None = None


class Header(NamedTuple):
    """What an image's header tells: upright height and width; whether it is grey, deep, and perhaps transparent."""

    size: tuple[int, int]
    grey: bool
    deep: bool
    transparent: bool


class NoRangeError(DataError):
    """Nothing says which of an image's numbers are black and white."""


def decode(
    source: ImageSource | Image.Image,
    *,
    shorter: int = 0,
    pixel_range: Range | None = None,
    background: int | None = None,
) -> Decoded:
    """Decode a file or PIL image as a person would see it; raises DataError when damaged, none or over 100 megapixels.

    Upright by EXIF; the first frame or page; of deep images `pixel_range`, else the whole depth, becomes 0 to 255;
    transparent ones lie on `background`, else on what shows their ink; a JPEG at 1/2 to 1/8 if it keeps `shorter`.
    """
    with without_warnings():
        return decode_in_thread(source, shorter=shorter, pixel_range=pixel_range, background=background)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Suppress Pillow's warnings; to be put around threads, never inside them, since they share the filters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def decode_in_thread(
    source: ImageSource | Image.Image,
    *,
    shorter: int = 0,
    pixel_range: Range | None = None,
    background: int | None = None,
) -> Decoded:
    """Do as `decode`, but without its own `without_warnings`: the caller puts one around all threads."""
    given = isinstance(source, Image.Image)
    content = b"" if isinstance(source, Image.Image) else read_content(source)
    try:  # not by `_opened`, which would take 1.5 µs of the 35 that a tiny image takes
        with (
            _given(source)
            if isinstance(source, Image.Image)
            else _open_file(BytesIO(content), content, source) as image
        ):
            size = _checked_size(image, source)
            if content.startswith(PNG_START):
                _check_png(content, source)
            if shorter and not given and isinstance(image, JpegImageFile) and min(size) >= 2 * shorter:
                image.draft(None, (shorter, shorter))
            narrow: Image.Image = image
            deep, mapped = is_deep(image), ""
            if deep:
                numbers, depth = _read_numbers(image, content, source), _bit_depth(image)
                narrow, mapped = _narrowed(numbers, depth, pixel_range, source)
            else:
                image.load()
            transpose = _exif_transpose(image)
            pixels, note, ink = eight_bits(narrow, source, background)
            several = _first_of_several(image, content)
            if mapped or several:
                note = "; ".join(filter(None, (mapped, note, several)))
    except DataError:
        raise
    except Exception as error:  # Pillow's parsers raise anything on bytes made to break them
        raise image_error(source, error) from None
    if transpose is not None:
        upright = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).transpose(transpose)
        pixels = np.asarray(upright).reshape(upright.height, upright.width, -1)
        size = size[::-1] if transpose in SWAP_SIDES else size
    return Decoded(pixels, size, note, deep, ink)


def read_numbers(source: ImageSource | Image.Image) -> Shaped[ndarray, "h w c"]:
    """Read a deep image's numbers as they stand in its file, its alpha left out."""
    content = b"" if isinstance(source, Image.Image) else read_content(source)
    with _opened(BytesIO(content), source) as image:
        _checked_size(image, source)
        numbers = _read_numbers(image, content, source)
    return numbers[..., : -1 if numbers.shape[2] in (2, 4) else None]


@contextmanager
def _opened(file: BytesIO | Path | str, source: ImageSource | Image.Image) -> Iterator[Image.Image]:
    try:
        if isinstance(source, Image.Image):
            with _given(source) as image:
                yield image
            return
        with file if isinstance(file, BytesIO) else open(file, "rb") as opened:
            start = opened.read(PEEK)
            opened.seek(0)
            with _open_file(opened, start, source) as image:
                yield image
    except DataError:
        raise
    except Exception as error:
        raise image_error(source, error) from None


def _open_file(file: BytesIO | BufferedReader, start: bytes, source: ImageSource) -> Image.Image:
    """Open an image without decoding it; nothing is registered with Pillow, which others in the process may use."""
    if is_heic(start):
        if not can_read_heic():
            raise image_error(source, f"it is {HEIC_PHOTO}")
        from pillow_heif import HeifImageFile

        return cast(Image.Image, HeifImageFile(file))  # type: ignore[no-untyped-call]
    image = Image.open(file, formats=FORMATS)
    if isinstance(image, TiffImageFile):
        tags, name = image.tag_v2, "" if isinstance(source, bytes) else str(source).lower()
        preview = tags.get(SUBFILE_TAG) == REDUCED and SUB_IFDS_TAG in tags
        if preview or DNG_TAG in tags or name.endswith(RAW_ENDINGS):
            raise image_error(source, f"it is {RAW}")
    return image


def _given(image: Image.Image) -> AbstractContextManager[Image.Image]:
    """Load a PIL image, of whose colours Pillow has kept 8 bits; its owner keeps it, so it is not closed."""
    _checked_size(image, image)
    with LOADING:
        image.load()
    return nullcontext(image)


def read_header(source: ImageSource | Image.Image) -> Header:
    """Read what an image's header tells, without decoding it."""
    file: BytesIO | Path | str = BytesIO()
    if isinstance(source, bytes):
        file = BytesIO(source)
    elif not isinstance(source, Image.Image):
        file = source
        try:
            check_regular(source)
        except (OSError, ValueError) as error:
            raise error if isinstance(error, DataError) else image_error(source, error) from None
    with _opened(file, source) as image:
        height, width = _checked_size(image, source)
        deep = is_deep(image)  # first, since looking for a PNG's EXIF loads it
        swapped = image.format != "TIFF" and _exif_transpose(image) in SWAP_SIDES
        size = (width, height) if swapped else (height, width)
        return Header(size, image.mode[0] in "1LIF", deep, image.has_transparency_data)


def is_image(source: ImageSource) -> bool:
    """Tell an image by its first bytes, whatever the file is called."""
    with without_warnings():
        try:
            read_header(source)
        except DataError:
            return False
    return True


def eight_bits(
    image: Image.Image, source: ImageSource | Image.Image, background: int | None
) -> tuple[UInt8[ndarray, "h w c"], str, float | None]:
    """Convert a loaded image of 8 bits, of any mode, to 1 or 3 channels.

    The text says what was decided on the way, and is empty where nothing was; the number is that of `Decoded.ink`.
    """
    if image.mode == "LAB":
        raise image_error(source, "its pixels (LAB) have no range that says what is white")
    if image.mode in ("RGBa", "La"):
        image = image.convert(image.mode.upper())  # premultiplied
    if image.mode == "CMYK" and isinstance(image, JpegImageFile) and "adobe" not in image.info:
        image = ImageChops.invert(image)  # Pillow takes every CMYK JPEG for Adobe's, which are inverted
    if image.has_transparency_data:
        return _on_background(image, background)
    if image.mode != "L" and image.mode != "RGB":
        image = image.convert("L" if image.mode == "1" else "RGB")
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels, "", None


def is_deep(image: Image.Image) -> bool:
    """Tell by an image's header whether it has more than 8 bits a channel, or numbers that are no bytes."""
    if image.mode not in ("RGB", "RGBA"):
        return image.mode[0] in "IF"
    if not isinstance(image, ImageFile) or not image.tile:  # it has been loaded, and Pillow keeps the upper 8 bits
        return False
    return (image.format == "PNG" and ";16" in _raw_mode(image)) or (image.format == "TIFF" and _bit_depth(image) > 8)


def _bit_depth(image: Image.Image) -> int:
    return int(getattr(image, "tag_v2", {}).get(BIT_DEPTH_TAG, (16,))[0])


def _raw_mode(image: Image.Image) -> str:
    """Say how the numbers lie in the file, as Pillow calls it."""
    arguments = image.tile[0].args if isinstance(image, ImageFile) and image.tile else ""
    return arguments if isinstance(arguments, str) else str((arguments or ("",))[0])


def _read_numbers(image: Image.Image, content: bytes, source: ImageSource | Image.Image) -> Shaped[ndarray, "h w c"]:
    """Read all bits of an image that has been opened, its alpha too; of 16 bits in colour, Pillow keeps the upper 8."""
    raw_mode = _raw_mode(image)
    image.load()
    if image.mode[0] in "IF":
        numbers = np.asarray(image)
        pgm = image.format == "PPM" and image.mode == "I"  # which Pillow brings to 0 to 65,535
        wanted = np.dtype(np.uint16) if pgm else numbers.dtype
        numbers = numbers.astype(wanted.newbyteorder("="))[..., None]
    elif raw_mode == "LA;16B":
        halves = _read_as(content, "RGBA").astype(np.uint16)
        numbers = halves[..., ::2] << 8 | halves[..., 1::2]
    elif raw_mode[-4:-1] != ";16" or getattr(image, "tag_v2", {}).get(PLANES_TAG, 1) != 1:
        raise image_error(source, "its 16 bits a channel lie in a way that is not read")
    else:  # in the other order of bytes, the upper 8 bits are the lower ones
        channels, order = raw_mode[:-1].replace("RGBa", "RGBA"), raw_mode[-1]
        little = order == "L" or (order == "N" and sys.byteorder == "little")
        upper, lower = _read_as(content, channels + order), _read_as(content, channels + ("B" if little else "L"))
        numbers = upper.astype(np.uint16) << 8 | lower
        if raw_mode.startswith("RGBa"):  # premultiplied
            wide, alpha = numbers[..., :3].astype(np.uint32), numbers[..., 3:].clip(1)
            numbers[..., :3] = (wide * 65535 // alpha).clip(max=65535)
    if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
        raise image_error(source, "some of its pixels are no numbers (NaN or infinite)")
    return numbers


def _read_as(content: bytes, raw_mode: str) -> UInt8[ndarray, "h w c"]:
    """Let Pillow read an image as if its numbers lay in another way."""
    with Image.open(BytesIO(content), formats=FORMATS) as image:
        assert isinstance(image, ImageFile)
        image.tile = [
            tile._replace(args=raw_mode if isinstance(tile.args, str) else (raw_mode, *(tile.args or ())[1:]))
            for tile in image.tile
        ]
        return np.asarray(image)


def _narrowed(
    numbers: Shaped[ndarray, "h w c"], depth: int, pixel_range: Range | None, source: ImageSource | Image.Image
) -> tuple[Image.Image, str]:
    """Map numbers to an image of 8 bits, by a range or else by their whole depth, and say so."""
    if pixel_range is None and numbers.dtype != np.uint16:
        where = str(source) if isinstance(source, str | Path) else "its content"
        cause = f"its pixels ({numbers.dtype}) have no range that says what is white"
        raise NoRangeError("image", where, cause, remedy_for(cause))
    used = pixel_range or (0, 2**depth - 1)
    colours = numbers[..., : -1 if numbers.shape[2] in (2, 4) else None]
    narrow = to_bytes(colours, used)
    if colours.shape[2] < numbers.shape[2]:
        narrow = np.concatenate([narrow, to_bytes(numbers[..., -1:], (0, 2**depth - 1))], axis=2)
    note, some = describe_range(numbers.dtype, used), thinned_numbers(colours, MEASURED)
    if pixel_range is None and lost_levels(some, used):
        note += ", which leaves fewer than 64 grey levels"
    elif ((some < used[0]) | (some > used[1])).mean() > 0.5:
        note += ", beyond which most of it lies"
    return Image.fromarray(narrow[..., 0] if narrow.shape[2] == 1 else narrow), note


def _on_background(image: Image.Image, background: int | None) -> tuple[UInt8[ndarray, "h w c"], str, float | None]:
    """Lay an image with transparent parts on a background, else on the one that lets its ink show."""
    grey = image.mode in ("1", "L", "LA")
    layers = image.convert("RGBA")
    if layers.getchannel("A").getextrema() == (255, 255):
        flat, note, ink = layers.convert("RGB"), "", None
    else:
        ink = lightness(np.asarray(layers))
        ground = choose_background([] if ink is None else [ink]) if background is None else background
        below = Image.new("RGBA", image.size, (ground, ground, ground, 255))
        flat, note = Image.alpha_composite(below, layers).convert("RGB"), describe_background(ground)
        if ink is not None and (np.asarray(flat) == np.asarray(flat)[0, 0]).all():
            note += ", where nothing of it shows"
    pixels = np.asarray(flat)
    return (pixels[..., :1] if grey else pixels), note, ink


def _first_of_several(image: Image.Image, content: bytes) -> str:
    """Say where a file holds more than the image that was read."""
    if image.format in ANIMATED:
        return "animated, first frame" if getattr(image, "is_animated", False) and not image.tell() else ""
    if isinstance(image, TiffImageFile) and image.tag_v2.next and (pages := count_pages(content)) > 1:
        return f"{pages:,} pages, first read"
    return ""


def count_pages(content: bytes) -> int:
    """Count the pages of a TIFF, previews and masks left out, up to 1,000 (TIFF 6.0, section 2; BigTIFF)."""
    order, big = "<" if content.startswith(b"II") else ">", content[2:4] in (b"+\0", b"\0+")
    number, entry, offset = ("Q", 20, "Q") if big else ("H", 12, "I")
    pages, seen = 0, set[int]()
    try:
        (place,) = struct.unpack_from(order + offset, content, 8 if big else 4)
        while place and place not in seen and len(seen) < MAX_PAGES:
            seen.add(place)
            (count,) = struct.unpack_from(order + number, content, place)
            start = place + struct.calcsize(number)
            (tag,) = struct.unpack_from(order + "H", content, start)  # tags are sorted, so this would be the first
            (value,) = struct.unpack_from(order + "I", content, start + entry - struct.calcsize(offset))
            pages += tag != SUBFILE_TAG or not value & (REDUCED | MASK)
            (place,) = struct.unpack_from(order + offset, content, start + count * entry)
    except struct.error:  # the chain ends beyond the file; Pillow has read the first page
        pass
    return pages


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
