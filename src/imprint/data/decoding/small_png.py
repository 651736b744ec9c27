"""Plain small PNG files, many at once: what Pillow takes as long for each as for a photo is done once for all.

Of the time that Pillow takes for a tiny image nearly all goes into its headers. Here only files are taken that
hold nothing to decide, and all that is in them is checked; what undoes the filters of their rows is Pillow still.
Source: PNG Specification (W3C, third edition), sections 5 (chunks), 9 (filtering) and 10 (compression).
"""

from __future__ import annotations

import struct
import zlib
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

LONGEST = 64  # pixels a side; the larger an image, the less its headers weigh
HEADER = struct.Struct(">8sI4sII5sI")  # signature; length, name, width, height, ways and checksum of the first chunk
CHUNK = struct.Struct(">I4s")
SIGNATURE, END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"
# 8 bits; grey or colour; the only compression and the only set of filters that there are; not interlaced.
WAYS = {b"\x08\0\0\0\0": ("L", 1), b"\x08\2\0\0\0": ("RGB", 3)}
# Of no effect on pixels, and so long that Pillow does not complain of them.
IGNORED = {(4, b"gAMA"), (32, b"cHRM"), (1, b"sRGB"), (9, b"pHYs"), (7, b"tIME")}
FILTERS = bytes(range(5))


class Form(NamedTuple):
    """What the images of several files may have in common.

    Parameters
    ----------
    mode : str
        Pillow's, ``"L"`` for grey or ``"RGB"``.
    size : tuple of int
        Height and width.
    row : int
        Bytes of a row, its filter's number before its pixels.

    Examples
    --------
    >>> Form("L", (28, 28), 29).row
    29
    """

    mode: str
    size: tuple[int, int]
    row: int


def inflate(content: bytes) -> tuple[Form, bytes] | None:
    """Check a file through and through, and decompress its rows.

    Parameters
    ----------
    content : bytes
        What stands in a file.

    Returns
    -------
    tuple of Form and bytes, or None
        The rows, still filtered; None where it is no PNG, not small, not plain or not faultless.

    Examples
    --------
    >>> from io import BytesIO
    >>> Image.new("L", (2, 3), 7).save(file := BytesIO(), "PNG")
    >>> inflate(file.getvalue())[0]
    Form(mode='L', size=(3, 2), row=3)
    >>> inflate(file.getvalue()[:-1]) is None
    True
    """
    form = _form(content[: HEADER.size])
    if form is None:
        return None
    packed = _packed(content)
    if packed is None:
        return None
    size = form.size[0] * form.row
    inflater = zlib.decompressobj()
    try:
        rows = inflater.decompress(packed, size + 1)
    except zlib.error:
        return None
    if not inflater.eof or len(rows) != size or rows[:: form.row].strip(FILTERS):
        return None
    return form, rows


def unfilter(form: Form, filtered: list[bytes]) -> UInt8[ndarray, "n h w c"]:
    r"""Undo the filters of images of one form, all at once.

    They are laid below each other as one tall image. The row of zeros above each is what its first row is
    filtered against, as the specification has it.

    Parameters
    ----------
    form : Form
        Of all of them.
    filtered : list of bytes
        From `inflate`, at least one.

    Returns
    -------
    ndarray of uint8, shape (n, h, w, c)
        Brightness.

    Examples
    --------
    >>> sub, up = b"\1\5\1", b"\2\1\1"
    >>> unfilter(Form("L", (2, 2), 3), [sub + up]).tolist()
    [[[[5], [6]], [[6], [7]]]]
    """
    zeros = bytes(form.row)
    height, width = form.size
    tall = zlib.compress(zeros + zeros.join(filtered), level=0)
    image = Image.frombytes(form.mode, (width, (height + 1) * len(filtered)), tall, "zip", form.mode)
    return np.asarray(image).reshape(len(filtered), height + 1, width, -1)[:, 1:]


@lru_cache(maxsize=256)
def _form(start: bytes) -> Form | None:
    """Read a file's header; None where it is not that of a plain small image."""
    if len(start) < HEADER.size:
        return None
    signature, length, name, width, height, ways, checksum = HEADER.unpack(start)
    if signature != SIGNATURE or (length, name) != (13, b"IHDR") or zlib.crc32(start[12:-4]) != checksum:
        return None
    if ways not in WAYS or not (0 < width <= LONGEST and 0 < height <= LONGEST):
        return None
    mode, channels = WAYS[ways]
    return Form(mode, (height, width), 1 + width * channels)


def _packed(content: bytes) -> bytes | None:
    """Join the compressed rows of the chunks that they lie in; None unless all chunks are whole and harmless."""
    bodies, place, last = list[bytes](), HEADER.size, b""
    while not content.startswith(END, place):
        start, place = place, place + CHUNK.size
        if place > len(content):
            return None
        length, name = CHUNK.unpack_from(content, start)
        body = content[place : place + length]
        place += length + 4
        if zlib.crc32(body, zlib.crc32(name)) != int.from_bytes(content[place - 4 : place]):
            return None
        if name == b"IDAT" and (last == name or not bodies):
            bodies.append(body)
        elif (length, name) not in IGNORED:
            return None
        last = name
    return b"".join(bodies)
