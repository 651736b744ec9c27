"""An image's file: its content, or in plain words why there is no image to be had from it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from imprint.core.errors import DataError

File = Path | str | bytes  # where it is, or what stands in it

MOST_PIXELS = 100_000_000  # 300 MB in colour; today's phones take at most 50 million in one file, or 200 when asked
MOST_BYTES = 512 * 2**20
REMEDY = "Repair, convert or remove it."
# Windows changes line ends unless told; elsewhere a pipe must not be waited for.
READING = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)

# What comes instead of images, by how it begins.
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


def read(file: File) -> bytes:
    """Read an image's file.

    Parameters
    ----------
    file : Path, str or bytes
        Where it is, or its content, which is given back.

    Returns
    -------
    bytes
        Its content, at least one byte.

    Raises
    ------
    DataError
        When it cannot be opened, is empty, larger than 512 MB, or no file.

    Examples
    --------
    >>> read(b"")
    Traceback (most recent call last):
    imprint.core.errors.DataError: image at its content: it is empty. Repair, convert or remove it.
    """
    if isinstance(file, bytes):
        content = file
    else:
        try:
            content = _read(file)
        except DataError:
            raise
        except Exception as error:
            raise refusal(file, error) from None
    if not content:
        raise refusal(file, "it is empty")
    return content


def expect_plain(file: Path | str, opened: int | None = None) -> os.stat_result:
    """Refuse what may never end or never answer, such as pipes and devices; folders are refused when opened.

    Parameters
    ----------
    file : Path or str
        Where it is.
    opened : int, optional
        Its descriptor, where it has been opened: quicker, and no other file can have come into its place.

    Returns
    -------
    os.stat_result
        What the file system knows of it.

    Raises
    ------
    DataError
        When it is a pipe or a device.

    Examples
    --------
    >>> expect_plain(__file__).st_size > 0
    True
    """
    status = os.stat(file if opened is None else opened)  # noqa: PTH116
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise refusal(file, "it is a pipe or a device, no file")
    return status


def refusal(file: File, cause: str | Exception) -> DataError:
    """Say in plain words why no image is to be had from a file.

    Parameters
    ----------
    file : Path, str or bytes
        Where it is, or its content.
    cause : str or Exception
        Why, or what Python or Pillow raised.

    Returns
    -------
    DataError
        To be raised.

    Examples
    --------
    >>> print(refusal("cat.jpg", "it is empty"))
    image at cat.jpg: it is empty. Repair, convert or remove it.
    >>> refusal(b"<html></html>", UnidentifiedImageError()).cause
    'it is a web page'
    """
    where = "its content" if isinstance(file, bytes) else str(file)
    return DataError("image", where, cause if isinstance(cause, str) else _cause(file, cause), REMEDY)


def _read(file: Path | str) -> bytes:
    opened = os.open(file, READING)
    try:
        size = expect_plain(file, opened).st_size
        if size > MOST_BYTES:
            raise refusal(file, f"it is larger than {MOST_BYTES // 2**20} MB")
        content = os.read(opened, size + 1)  # half the time that a file object takes, which counts for tiny files
    finally:
        os.close(opened)
    if len(content) != size:  # it grew, or the file system gave only a part
        with open(file, "rb", buffering=0) as whole:
            content = whole.readall()
    return content


def _cause(file: File, error: Exception) -> str:
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


def _start(file: File) -> bytes:
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
