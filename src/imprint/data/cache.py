"""Decoded images kept between runs: one memory-mapped file a collection, the least recently used goes first.

A file is named after all that decides its content, so it is either right or not found.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
import struct
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from imprint.core.errors import UsageError
from imprint.core.files import cache_folder
from imprint.core.memmap import mark_read_only

LIMIT = "IMPRINT_CACHE_GB"
DEFAULT_LIMIT = 10.0  # GB: three or four collections of 100,000 photos of 128×128 pixels, two hundred of sign-digits
ENDING, UNFINISHED = ".images", ".part"
ABANDONED = 3600  # seconds since an unfinished file last grew; a writer adds to its own several times a second
LATEST = 2**63 - 1  # ns, in the year 2262; clocks that are wrong date files later
TICK = 0.05  # seconds; file systems date changes by the kernel's clock, in steps of up to 0.01


@dataclass(frozen=True)
class Entry:
    """One collection in the cache.

    Parameters
    ----------
    path : Path
        Its file.
    name : str
        What the collection is called.
    images : int
        How many it holds.
    size : int
        Bytes on disk.
    used : float
        When it was last used, in seconds since 1970.

    Examples
    --------
    >>> Entry(Path("ab.images"), "photos", 200, 9_830_500, 1.8e9).images
    200
    """

    path: Path
    name: str
    images: int
    size: int
    used: float


def folder() -> Path:
    """Tell where decoded images are kept; it need not exist yet.

    Returns
    -------
    Path
        A folder in `files.cache_folder`.

    Examples
    --------
    >>> folder().name
    'images'
    """
    return cache_folder() / "images"


def key(files: Iterable[Path | str], form: str) -> str:
    """Name a collection after all that decides its decoded pixels.

    A file is known by its path, size, and the times its content and its entry last changed. Where one
    has just changed, this waits until a further change would show in its times.

    Parameters
    ----------
    files : iterable of Path or str
        The files, in order; one that cannot be found counts as such.
    form : str
        What is made of them.

    Returns
    -------
    str
        A name for a file.

    Examples
    --------
    >>> key([], "3×64×64") == key([], "3×64×64"), key([], "1×64×64") == key([], "3×64×64")
    (True, False)
    """
    paths = [os.fspath(file) for file in files]
    identities = np.array([_identity(path) for path in paths], dtype=np.int64).reshape(-1, 3)
    digest = hashlib.sha256(os.fsencode("\0".join([form, *paths])))
    digest.update(identities.tobytes())
    age = time.time() - identities[:, 1:].max(initial=0) / 1e9
    if 0 <= age < TICK:
        time.sleep(TICK - age)
    return digest.hexdigest()[:40]


def _identity(path: str) -> tuple[int, int, int]:
    """Size in bytes, and times in ns of a file's last change in content and in its entry."""
    try:
        facts = os.stat(path)  # noqa: PTH116
    except OSError:
        return -1, 0, 0
    return facts.st_size, min(facts.st_mtime_ns, LATEST), min(facts.st_ctime_ns, LATEST)


def recall(name: str) -> tuple[UInt8[ndarray, "n c h w"], dict[str, Any]] | None:
    """Find decoded images.

    Parameters
    ----------
    name : str
        From `key`.

    Returns
    -------
    tuple of ndarray and dict, or None
        The pixels, memory-mapped (not to be written to: they may be read from the file again), and the facts
        beside them; None where there are none, or none that are whole.

    Examples
    --------
    >>> recall("never kept") is None
    True
    """
    path = folder() / f"{name}{ENDING}"
    facts = read_facts(path)
    if facts is None:
        return None
    try:
        with contextlib.suppress(OSError):
            os.utime(path)
        try:
            pixels = np.memmap(path, dtype=np.uint8, mode="c", shape=tuple(facts["shape"]))
        except OSError:  # more than may be promised to one process: then not writable, which torch warns of
            pixels = np.memmap(path, dtype=np.uint8, mode="r", shape=tuple(facts["shape"]))
    except OSError:  # gone, or no mapping to be had
        return None
    return mark_read_only(pixels), facts


@contextmanager
def keeping(name: str) -> Iterator[Writer]:
    """Write decoded images; they appear in the cache once they are whole.

    Parameters
    ----------
    name : str
        From `key`.

    Yields
    ------
    Writer
        Takes pixels, and facts in its dictionary, among them `shape`.

    Raises
    ------
    OSError
        When the cache cannot be written to.

    Examples
    --------
    >>> with keeping("doctest") as writer:
    ...     writer.add(np.zeros((5, 1, 2, 2), dtype=np.uint8))
    ...     writer.facts = {"name": "five", "shape": (5, 1, 2, 2)}
    >>> pixels, facts = recall("doctest")
    >>> pixels.shape, facts["name"]
    ((5, 1, 2, 2), 'five')
    """
    folder().mkdir(parents=True, exist_ok=True)
    path = folder() / f"{name}{ENDING}"
    temporary = folder() / f"{name}.{os.getpid()}.{secrets.token_hex(4)}{UNFINISHED}"
    try:
        with open(temporary, "wb") as file:
            writer = Writer(file)
            yield writer
            writer.finish()
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    bound(spare=path)


def entries() -> list[Entry]:
    """List what is kept.

    Returns
    -------
    list of Entry
        The least recently used first. Broken files bear the name ``"broken"``.

    Examples
    --------
    >>> all(entry.path.suffix == ".images" for entry in entries())
    True
    """
    found = []
    for path in folder().glob(f"*{ENDING}"):
        facts = read_facts(path) or {"name": "broken", "shape": [0]}
        with contextlib.suppress(OSError):  # another process has just removed it
            status = path.stat()
            found.append(Entry(path, facts["name"], facts["shape"][0], status.st_size, status.st_mtime))
    return sorted(found, key=lambda entry: (entry.used, entry.path))


def limit() -> int:
    """Tell how much may be kept.

    Returns
    -------
    int
        Bytes: ``$IMPRINT_CACHE_GB`` times 10⁹, else 10 GB.

    Raises
    ------
    UsageError
        When the environment variable is no number from 0.

    Examples
    --------
    >>> limit()
    10000000000
    """
    text = os.environ.get(LIMIT) or f"{DEFAULT_LIMIT}"
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = math.nan
    if not 0 <= gigabytes < math.inf:
        raise UsageError(f"{LIMIT}={text}", "environment", "it is no number of gigabytes", "Set it to 10, for example.")
    return int(gigabytes * 1e9)


def bound(bytes_at_most: int | None = None, spare: Path | None = None) -> int:
    """Remove what was least recently used until the rest fits, and what killed runs left unfinished.

    Parameters
    ----------
    bytes_at_most : int or None, default=None
        What may stay; None takes `limit`.
    spare : Path or None, default=None
        A file that stays whatever its size, because it is about to be used.

    Returns
    -------
    int
        Bytes removed.

    Examples
    --------
    >>> bound(10**15)
    0
    """
    kept = entries()
    excess = sum(entry.size for entry in kept) - (limit() if bytes_at_most is None else bytes_at_most)
    removed = 0
    for entry in kept:
        if removed < excess and entry.path != spare:
            removed += _remove(entry.path)
    for path in folder().glob(f"*{UNFINISHED}"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED:
                removed += _remove(path)
    return removed


def clear() -> int:
    """Remove everything that is kept; runs that have it mapped go on.

    Returns
    -------
    int
        Bytes removed.

    Examples
    --------
    >>> clear() >= 0, entries()
    (True, [])
    """
    return bound(0)


def _remove(path: Path) -> int:
    """Remove a file; tell its size, or 0 where it stays (Windows, while it is mapped) or was gone."""
    try:
        size = path.stat().st_size
        path.unlink()
    except OSError:
        return 0
    return size


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
    >>> writer.images
    5
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self.images = 0
        self.facts: dict[str, Any] = {}

    def add(self, block: UInt8[ndarray, "n c h w"]) -> None:
        """Append some images.

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
        self.images += len(block)

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
