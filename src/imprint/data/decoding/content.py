"""The content of files that anybody may have made: read, unpacked and decoded to text, each within a limit."""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from imprint.core.errors import DataError
from imprint.data.decoding.formats import GZIP_START as GZIP_START
from imprint.data.decoding.formats import PEEK, READ, name_format, split_step

ImageSource = Path | str | bytes  # the path of an image file, or its content


@runtime_checkable
class PillowImage(Protocol):
    """A `PIL.Image.Image`, named without importing Pillow."""

    @property
    def mode(self) -> str:
        """Such as RGB."""
        ...

    def getexif(self) -> Any:
        """Read what a camera notes beside the pixels."""
        ...


MAX_PIXELS = 100_000_000  # 300 MB in colour; today's phones take at most 50 million in one file, or 200 when asked
MAX_BYTES = 512 * 2**20
EMPTY = "it is empty"
# Windows translates line ends without O_BINARY; O_NONBLOCK, so that opening a pipe does not wait for a writer.
OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)

MAX_RATIO = 200  # unpacked to packed size: deflate can reach 1,032, tables of pixels reach 10, blank ones 100
ALWAYS_ALLOWED = 2**20  # bytes that any content may unpack to
UTF16_STARTS = (b"\xff\xfe", b"\xfe\xff")


def read_content(source: ImageSource) -> bytes:
    """Read an image's file; raises DataError when it cannot be opened, is empty, no regular file or over 512 MB."""
    if isinstance(source, bytes):
        content = source
    else:
        try:
            content = _read(source)
        except DataError:
            raise
        except Exception as error:
            raise image_error(source, error) from None
    if not content:
        raise image_error(source, EMPTY)
    return content


def check_regular(file: Path | str, descriptor: int | None = None) -> os.stat_result:
    """Refuse pipes and devices, which may block or never end; folders are refused when they are opened.

    With the descriptor of the opened file it is faster, and the file cannot be exchanged in between.
    """
    status = os.stat(file if descriptor is None else descriptor)  # noqa: PTH116
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise image_error(file, "it is a pipe or a device, no file")
    return status


def image_error(source: ImageSource | PillowImage, cause: str | Exception) -> DataError:
    """Make the error that says why a source gives no image, from a text or from what Python or Pillow raised."""
    where = str(source) if isinstance(source, str | Path) else "its content"
    told = cause if isinstance(cause, str) else _explain(source, cause)
    return DataError("image", where, told, remedy_for(told))


def _read(file: Path | str) -> bytes:
    descriptor = os.open(file, OPEN_FLAGS)
    try:
        size = check_regular(file, descriptor).st_size
        if size > MAX_BYTES:
            raise image_error(file, f"it is larger than {MAX_BYTES // 2**20} MB")
        content = os.read(descriptor, size + 1)  # half the time of a file object, which counts for tiny files
    finally:
        os.close(descriptor)
    if len(content) != size:  # it grew, or the file system gave only a part
        with open(file, "rb", buffering=0) as whole:
            content = whole.readall()
    return content


def _explain(source: ImageSource | PillowImage, error: Exception) -> str:
    """Say in plain words what an exception means for the reader of the message."""
    from PIL import Image, UnidentifiedImageError  # not above: tables need no Pillow

    if isinstance(error, Image.DecompressionBombError):
        return f"it has more pixels than the {MAX_PIXELS // 10**6} million that are decoded"
    if isinstance(error, MemoryError):
        return "it does not fit into memory"
    if isinstance(error, OSError) and error.errno is not None:
        return f"it cannot be opened ({error.strerror})"
    if isinstance(error, UnidentifiedImageError):
        return _name(source)
    if "truncated" in str(error).lower():
        return "the file is cut short"
    return f"the file is damaged ({' '.join(str(error).split()) or type(error).__name__})"


def first_bytes(source: ImageSource | PillowImage) -> bytes:
    """Read as many bytes as tell a format; there are none of a PIL image."""
    if not isinstance(source, str | Path):
        return source[:PEEK] if isinstance(source, bytes) else b""
    with open(source, "rb") as file:
        return file.read(PEEK)


def _name(source: ImageSource | PillowImage) -> str:
    """Name the format of a file that is none of the image formats, as far as it tells."""
    start = first_bytes(source)
    if not start:
        return EMPTY
    known = name_format(start, str(source) if isinstance(source, str | Path) else "")
    return f"it is {known}" if known else f"it is damaged, or no {READ}"


def remedy_for(cause: str, them: str = "it") -> str:
    """Say what helps against the cause that an image cannot be read; a cause may end with it already."""
    if cause == EMPTY:
        return f"Copy {them} anew, or remove {them}."
    return "Then try again." if cause.startswith("it is ") and split_step(cause)[1] else f"Repair or replace {them}."


def is_bomb(packed: int, unpacked: int) -> bool:
    """Tell a decompression bomb by its sizes in bytes: more than 200 times as large once unpacked, and above 1 MB."""
    return unpacked > max(ALWAYS_ALLOWED, MAX_RATIO * packed)


def gunzip(content: bytes, where: str) -> bytes:
    """Unpack content that may be gzipped; raises DataError when it is damaged or a bomb."""
    if not content.startswith(GZIP_START):
        return content
    limit = max(ALWAYS_ALLOWED, MAX_RATIO * len(content))
    try:
        with gzip.GzipFile(fileobj=BytesIO(content)) as packed:
            unpacked = packed.read(limit + 1)
    except (EOFError, OSError, zlib.error) as error:
        cause = f"the file is cut short or damaged ({error})"
        raise DataError("gzip data", where, cause, "Download or pack it again.") from None
    if len(unpacked) > limit:
        cause = f"{len(content):,} bytes would grow to more than {limit:,}"
        raise DataError("gzip data", where, cause, "Pack it again from files that you trust.")
    return unpacked


def to_utf8(content: bytes) -> bytes:
    """Bring a table's text, UTF-8 or UTF-16 as Excel and PowerShell write it, to UTF-8 without a byte-order mark."""
    if content.startswith(UTF16_STARTS):
        content = content.decode("utf-16", errors="replace").encode()
    return content.removeprefix(b"\xef\xbb\xbf")
