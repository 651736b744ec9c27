"""The file of a collection: pixels, then facts as JSON, then the facts' length and checksum.

Written front to back, it is whole if its end is.
"""

from __future__ import annotations

import json
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

END = struct.Struct("<QI8s")  # the facts' length and checksum, and a mark
MARK = b"imprint1"


class Writer:
    """Takes the pixels of a collection, block by block.

    Parameters
    ----------
    file : binary file
        Where they go.

    Examples
    --------
    >>> import io
    >>> writer = Writer(io.BytesIO())
    >>> writer.add(np.zeros((5, 1, 2, 2), dtype=np.uint8))
    >>> writer.pictures
    5
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self.pictures = 0
        self.facts: dict[str, Any] = {}

    def add(self, block: UInt8[ndarray, "n c h w"]) -> None:
        """Append some pictures.

        Parameters
        ----------
        block : ndarray of uint8, shape (n, c, h, w)
            All blocks have one form.

        Examples
        --------
        >>> import io
        >>> Writer(io.BytesIO()).add(np.zeros((5, 1, 2, 2), dtype=np.uint8))
        """
        self._file.write(np.ascontiguousarray(block).data)
        self.pictures += len(block)

    def finish(self) -> None:
        """Write the facts behind the pixels; without them the file counts as broken.

        Examples
        --------
        >>> import io
        >>> Writer(io.BytesIO()).finish()
        """
        facts = json.dumps(self.facts).encode()
        self._file.write(facts)
        self._file.write(END.pack(len(facts), zlib.crc32(facts), MARK))


def read_facts(path: Path) -> dict[str, Any] | None:
    """Read what stands at a file's end.

    Parameters
    ----------
    path : Path
        A file that a `Writer` may have written.

    Returns
    -------
    dict or None
        Its facts, among them `shape`; None unless everything there fits together.

    Examples
    --------
    >>> read_facts(Path("pyproject.toml")) is None
    True
    """
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(-END.size, os.SEEK_END)
            length, checksum, mark = END.unpack(file.read(END.size))
            if mark != MARK or length > size - END.size:
                return None
            file.seek(-END.size - length, os.SEEK_END)
            content = file.read(length)
    except OSError:
        return None
    if zlib.crc32(content) != checksum:
        return None
    facts: dict[str, Any] = json.loads(content)
    return facts if math.prod(facts["shape"]) + length + END.size == size else None
