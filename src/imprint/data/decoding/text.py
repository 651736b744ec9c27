"""Unpacking what was packed, never more than a bomb could be stopped at."""

from __future__ import annotations

import gzip
import zlib
from io import BytesIO

from imprint.core.errors import DataError

MOST_TIMES = 200  # content may grow so much; deflate can reach 1,032, tables of pixels reach 10, blank ones 100
SMALL = 2**20  # bytes; below this it may grow as it likes
GZIP_START = b"\x1f\x8b"
UTF16_STARTS = (b"\xff\xfe", b"\xfe\xff")


def may_grow(packed: int, unpacked: int) -> bool:
    """Tell what packed content may grow to from what only a bomb does.

    Parameters
    ----------
    packed, unpacked : int
        Sizes in bytes.

    Returns
    -------
    bool
        Whether it is at most 200 times as large as before, or small.

    Examples
    --------
    >>> may_grow(1000, 2**20), may_grow(10**6, 10**9)
    (True, False)
    """
    return unpacked <= max(SMALL, MOST_TIMES * packed)


def gunzip(content: bytes, where: str) -> bytes:
    """Unpack a file that may be gzipped.

    Parameters
    ----------
    content : bytes
        The file's, gzipped or plain.
    where : str
        Its name, for messages.

    Returns
    -------
    bytes
        `content` itself where it is not gzipped.

    Raises
    ------
    DataError
        When it is cut short, damaged, or would grow more than 200 times.

    Examples
    --------
    >>> gunzip(gzip.compress(b"label,pixel0"), "train.csv.gz")
    b'label,pixel0'
    """
    if not content.startswith(GZIP_START):
        return content
    most = max(SMALL, MOST_TIMES * len(content))
    try:
        with gzip.GzipFile(fileobj=BytesIO(content)) as packed:
            unpacked = packed.read(most + 1)
    except (EOFError, OSError, zlib.error) as error:
        cause = f"the file is cut short or damaged ({error})"
        raise DataError("gzip data", where, cause, "Download or pack it again.") from None
    if len(unpacked) > most:
        cause = f"{len(content):,} bytes would grow to more than {most:,}"
        raise DataError("gzip data", where, cause, "Pack it again from files that you trust.")
    return unpacked


def to_utf8(content: bytes) -> bytes:
    r"""Bring the text of a table to UTF-8 without a mark at its start.

    Parameters
    ----------
    content : bytes
        UTF-8, or UTF-16 with the mark that Excel and PowerShell write.

    Returns
    -------
    bytes
        The same text.

    Examples
    --------
    >>> to_utf8("label".encode("utf-16")), to_utf8(b"\xef\xbb\xbflabel")
    (b'label', b'label')
    """
    if content.startswith(UTF16_STARTS):
        content = content.decode("utf-16", errors="replace").encode()
    return content.removeprefix(b"\xef\xbb\xbf")
