"""The cache of decoded images and of their features: one memory-mapped file each, the least recently used goes first.

A file is named after all that decides its content, so it is either right or not found. The numbers stand at its start,
so that they can be mapped; behind them facts of each image as arrays, the other facts as JSON, and a trailer with the
length of that, its checksum and the file version.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import secrets
import shutil
import struct
import time
import zlib
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO
from weakref import WeakValueDictionary

import numpy as np
from jaxtyping import Shaped
from numpy import ndarray

from imprint.core.errors import UsageError
from imprint.core.files import cache_folder, room_on_disk
from imprint.core.memmap import keep_hashes, mark_read_only
from imprint.core.progress import say

FORMAT_VERSION = 2  # of the file; one with another version counts as broken, and its images are decoded anew
TRAILER = struct.Struct("<QI8s")  # the length and checksum of the facts as JSON, then:
SIGNATURE, OUTDATED = b"imprint%d" % FORMAT_VERSION, (b"imprint1",)
COLUMNS = "columns"  # among the facts: type, shape and checksum of each array before them
PATHS_AT_ONCE = 2**14  # hashed together

LIMIT_VARIABLE = "IMPRINT_CACHE_GB"
DEFAULT_LIMIT = 10.0  # GB: two collections of 100,000 photos of 128×128 pixels, two hundred of sign-digits
WORTH_A_LINE = 10**9  # bytes; to decode so many again takes minutes
ENDING, UNFINISHED = ".images", ".part"
ABANDONED = 3600  # seconds since an unfinished file last grew; a writer adds to its own several times a second
LATEST = 2**63 - 1  # ns, in the year 2262; clocks that are wrong date files later
TICK = 0.05  # seconds; file systems date changes by the kernel's clock, in steps of up to 0.01
_in_use = WeakValueDictionary[Path, Any]()  # the memory maps of this process


@dataclass(frozen=True)
class Entry:
    """One collection in the cache: `size` in bytes on disk, `used` last in seconds since 1970."""

    path: Path
    name: str
    images: int
    size: int
    used: float


def folder() -> Path:
    """Give the folder of the decoded images; it need not exist yet."""
    return cache_folder() / "images"


def remote_folder() -> Path:
    """Give the folder of what was copied from other machines; it need not exist yet."""
    return cache_folder() / "remote"


def key(files: Iterable[Path | str], form: str) -> str:
    """Hash all that decides the decoded pixels: the form, and each file's path, size and times of change.

    Where a file has just changed, this waits until a further change would show in its times.
    """
    paths = [os.fspath(file) for file in files]
    numbers = chain.from_iterable(map(_identity, paths))
    identities = np.fromiter(numbers, dtype=np.int64, count=3 * len(paths)).reshape(-1, 3)
    digest = hashlib.sha256(os.fsencode(form))
    for start in range(0, len(paths), PATHS_AT_ONCE):
        digest.update(os.fsencode("\0".join(["", *paths[start : start + PATHS_AT_ONCE]])))
    digest.update(identities.tobytes())
    age = time.time() - identities[:, 1:].max(initial=0) / 1e9
    if 0 <= age < TICK:
        time.sleep(TICK - age)
    return digest.hexdigest()[:40]


def _identity(path: str) -> tuple[int, int, int]:
    """Size in bytes, and times in ns of a file's last change in content and in its entry."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return -1, 0, 0
    return status.st_size, min(status.st_mtime_ns, LATEST), min(status.st_ctime_ns, LATEST)


def lookup(key: str) -> tuple[Shaped[ndarray, "n ..."], dict[str, Any]] | None:
    """Find images or features by their key: memory-mapped, not to be written to, and facts; None if not whole.

    Facts of each image are arrays, not to be written to either.
    """
    path = folder() / f"{key}{ENDING}"
    facts = read_facts(path)
    if facts is None:
        return None
    shape, kind = tuple(facts["shape"]), np.dtype(facts.get("dtype", "uint8"))
    try:
        with contextlib.suppress(OSError):
            os.utime(path)
        with open(path, "rb") as file:
            columns = _read_columns(file, facts)
            try:
                pixels = np.memmap(file, dtype=kind, mode="c", shape=shape)
            except OSError:  # larger than what one process may reserve: then not writable, which torch warns of
                pixels = np.memmap(file, dtype=kind, mode="r", shape=shape)
            _in_use[path] = pixels.base
            pixels = mark_read_only(pixels, file)
    except OSError:  # removed meanwhile, or it cannot be mapped
        return None
    if columns is None:
        return None
    if "hashes" in columns:
        keep_hashes(pixels, columns["hashes"])
    return pixels, facts | columns


def matching(network: str) -> Iterator[tuple[Shaped[ndarray, "n ..."], dict[str, Any]]]:
    """Yield the features that one network has computed, of any images, the latest used first."""
    for entry in reversed(entries()):
        facts = read_facts(entry.path)
        if facts is not None and facts.get("network") == network:
            found = lookup(entry.path.name.removesuffix(ENDING))
            if found is not None:
                yield found


@contextmanager
def sole_decoder(key: str) -> Iterator[None]:
    """Wait until no other process of this machine decodes the images of a key; then they may be in the cache.

    Without effect where files cannot be locked, as on Windows.
    """
    try:
        import fcntl

        folder().mkdir(parents=True, exist_ok=True)
        path = folder() / f"{key}.lock"
        file = open(path, "w")  # noqa: SIM115
    except (ImportError, OSError):
        yield
        return
    with file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)  # who has it open already finds the images


@contextmanager
def writing(key: str, size: int = 0) -> Iterator[Writer]:
    """Write decoded images or features under a key, `size` bytes at most; they appear in the cache once they are whole.

    The block adds numbers and sets `facts`: `name`, `shape`, `dtype` where that is not uint8, and arrays of facts of
    the images. Raises OSError when the disk refuses, and before anything is written where so many bytes would fill it.
    """
    folder().mkdir(parents=True, exist_ok=True)
    _make_room(size)
    path = folder() / f"{key}{ENDING}"
    temporary = folder() / f"{key}.{os.getpid()}.{secrets.token_hex(4)}{UNFINISHED}"
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


class Writer:
    """Writes the pixels or features of a collection block by block; all blocks have one shape."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.images = 0
        self.facts: dict[str, Any] = {}

    def add(self, block: Shaped[ndarray, "n ..."]) -> None:
        """Append some images."""
        self._file.write(np.ascontiguousarray(block).data)
        self.images += len(block)

    def finish(self) -> None:
        """Write the facts behind the pixels, arrays first; without them the file counts as broken."""
        columns = {name: np.ascontiguousarray(fact) for name, fact in self.facts.items() if isinstance(fact, ndarray)}
        described = {
            name: {"dtype": column.dtype.str, "shape": column.shape, "checksum": zlib.crc32(column.data)}
            for name, column in columns.items()
        }
        others = {name: fact for name, fact in self.facts.items() if name not in columns}
        facts = json.dumps(others | ({COLUMNS: described} if described else {})).encode()
        for column in columns.values():
            self._file.write(column.data)
        self._file.write(facts)
        self._file.write(TRAILER.pack(len(facts), zlib.crc32(facts), SIGNATURE))


def read_facts(path: Path) -> dict[str, Any] | None:
    """Read the facts at a file's end; None unless all there fits together, the version of the format included."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(-TRAILER.size, os.SEEK_END)
            length, checksum, signature = TRAILER.unpack(file.read(TRAILER.size))
            if signature != SIGNATURE or length > size - TRAILER.size:
                return None
            file.seek(-TRAILER.size - length, os.SEEK_END)
            content = file.read(length)
    except OSError:
        return None
    if zlib.crc32(content) != checksum:
        return None
    facts: dict[str, Any] = json.loads(content)
    held = sum(map(_size, (facts, *facts.get(COLUMNS, {}).values())))
    return facts if held + length + TRAILER.size == size else None


def _size(described: Mapping[str, Any]) -> int:
    """Give the bytes of an array that a file describes."""
    return int(math.prod(described["shape"]) * np.dtype(described.get("dtype", "uint8")).itemsize)


def _read_columns(file: BinaryIO, facts: dict[str, Any]) -> dict[str, ndarray] | None:
    """Read the facts of each image, in place of what describes them; None where a checksum does not fit."""
    file.seek(_size(facts))
    columns = dict[str, ndarray]()
    for name, column in facts.pop(COLUMNS, {}).items():
        content = file.read(_size(column))
        if zlib.crc32(content) != column["checksum"]:
            return None
        columns[name] = np.frombuffer(content, dtype=column["dtype"]).reshape(column["shape"])
    return columns


def _signature(path: Path) -> bytes:
    """Read how a file ends; empty where it cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(-len(SIGNATURE), os.SEEK_END)
            return file.read()
    except OSError:
        return b""


def entries() -> list[Entry]:
    """List the collections, the least recently used first; broken files have the name ``"broken"``."""
    found = []
    for path in folder().glob(f"*{ENDING}"):
        facts = read_facts(path) or {"name": "broken", "shape": [0]}
        with contextlib.suppress(OSError):  # another process has just removed it
            status = path.stat()
            found.append(Entry(path, facts["name"], facts["shape"][0], status.st_size, status.st_mtime))
    for path in remote_folder().glob("*/*"):
        with contextlib.suppress(OSError):
            files = [path, *path.rglob("*")]
            size = sum(file.stat().st_size for file in files if file.is_file())
            found.append(Entry(path.parent, path.name, len(files), size, path.parent.stat().st_mtime))
    return sorted(found, key=lambda entry: (entry.used, entry.path))


def limit() -> int:
    """Give the most bytes to keep, from ``$IMPRINT_CACHE_GB``, else 10 GB; raises UsageError if it is no number."""
    text = os.environ.get(LIMIT_VARIABLE) or f"{DEFAULT_LIMIT}"
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = math.nan
    if not 0 <= gigabytes < math.inf:
        cause = "it is no number of gigabytes"
        raise UsageError(f"{LIMIT_VARIABLE}={text}", "environment", cause, "Set it to 10, for example.")
    return int(gigabytes * 1e9)


def bound(bytes_at_most: int | None = None, spare: Path | None = None) -> int:
    """Remove the least recently used until the rest fits, and what killed runs left unfinished; gives bytes removed.

    None takes `limit`, leaves what this process has mapped, and says what it did where that was much. `spare` stays
    whatever its size, because it is about to be used.
    """
    removed = sum(_remove(path) for path in folder().glob(f"*{ENDING}") if _signature(path) in OUTDATED)
    present, most = entries(), limit() if bytes_at_most is None else bytes_at_most
    total = sum(entry.size for entry in present)
    kept = {spare} if bytes_at_most is not None else {spare, *_in_use}
    gone = _remove_oldest(present, total - most, kept)
    removed += sum(gone.values())
    if bytes_at_most is None:
        allowed = f"at most {most / 1e9:g} GB are kept ({LIMIT_VARIABLE})"
        _tell_removed(gone, allowed)
        if (left := total - sum(gone.values())) > max(most, WORTH_A_LINE):
            in_use = f"{left / 1e9:.1f} GB are in use"
            say(f"cache: {in_use}, which stay until others need the room; otherwise {allowed}")
    for path in (cache_folder() / "pictures").glob("*.pictures"):  # of versions before 0.2, which none can read now
        removed += _remove(path)
    for path in (*folder().glob(f"*{UNFINISHED}"), *remote_folder().glob(f"*{UNFINISHED}")):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED:
                removed += _remove(path)
    return removed


def _remove_oldest(present: Iterable[Entry], wanted: int, kept: Container[Path | None]) -> dict[str, int]:
    """Remove the least recently used until so many bytes are gone; gives the bytes by name."""
    gone = dict[str, int]()
    for entry in present:
        if sum(gone.values()) < wanted and entry.path not in kept:
            gone[entry.name] = gone.get(entry.name, 0) + _remove(entry.path)
    return gone


def _tell_removed(gone: Mapping[str, int], why: str) -> None:
    """Say what was removed, where it takes long to decode again."""
    if (size := sum(gone.values())) > WORTH_A_LINE:
        say(f"cache: removed {', '.join(gone)} ({size / 1e9:.1f} GB), the least recently used: {why}")


def _make_room(size: int) -> None:
    """Remove the least recently used where the disk has too little room; raises OSError if that is not enough."""
    room, present = room_on_disk(folder()), [entry for entry in entries() if entry.path not in _in_use]
    if room < size <= room + sum(entry.size for entry in present):
        _tell_removed(_remove_oldest(present, size - room, ()), f"{size / 1e9:.1f} GB are needed on the disk")
        room = room_on_disk(folder())
    if size > room:
        cause = f"they take {size / 1e9:.1f} GB, and there is room for {room / 1e9:.1f}"
        raise OSError(errno.ENOSPC, cause, str(folder()))


def clear() -> int:
    """Remove all collections, and give the bytes removed; runs that have one mapped can still read it."""
    return bound(0)


def _remove(path: Path) -> int:
    """Remove a file; gives its size, or 0 where it stays (Windows, while it is mapped) or was gone."""
    try:
        if path.is_dir():
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            shutil.rmtree(path)
            return size
        size = path.stat().st_size
        path.unlink()
    except OSError:
        return 0
    return size
