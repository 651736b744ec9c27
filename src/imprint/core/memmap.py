"""Arrays mapped from files: indexed as if in memory, of which little is held at a time."""

from __future__ import annotations

import contextlib
import errno
import math
import mmap
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from weakref import WeakKeyDictionary, finalize

import numpy as np
from jaxtyping import Shaped, UInt64
from numpy import ndarray

from imprint.core.errors import DataError
from imprint.core.files import cache_folder, room_on_disk

MIN_MAPPED = 2**26  # bytes; smaller arrays may stay in memory
MEMORY_SHARE = 0.7  # of what is free, that images may take
MORE_ROOM = "Free some space, or name a folder on a larger disk: IMPRINT_CACHE=FOLDER."
ROWS_AT_ONCE = 32  # for each row that is read, the system may map 2 MB of the file
_row_hashes = WeakKeyDictionary[mmap.mmap, ndarray]()


@dataclass(frozen=True)
class _File:
    """The file behind a map: a descriptor of its own, and the address at which byte 0 is mapped."""

    name: str
    descriptor: int
    origin: int


_read_only = WeakKeyDictionary[mmap.mmap, _File | None]()


def mark_read_only(values: np.memmap, file: IO[bytes] | None = None) -> np.memmap:
    """Declare that nothing writes to these mapped values, so that `release` may drop their pages.

    Only for what Imprint itself has mapped: a user's mapped array may hold changes of its own, which would be lost.
    Rows are read from `file` rather than through the map: one at random is so in memory once, and not by pages.
    """
    mapping = _mapping(values)
    if mapping is not None:
        _read_only[mapping] = None
        if file is not None and hasattr(os, "preadv") and len(mapping) > MIN_MAPPED:
            descriptor = os.dup(file.fileno())
            finalize(mapping, os.close, descriptor)
            _read_only[mapping] = _File(str(file.name), descriptor, values.ctypes.data - values.offset)
    return values


def release(values: ndarray) -> None:
    """Give back the memory of values marked read-only, or of a slice of such; they are read again when next used."""
    mapping = _mapping(values)
    if mapping is not None and _may_be_dropped(mapping) and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


def keep_hashes(values: Shaped[ndarray, "n ..."], hashes: UInt64[ndarray, " n"]) -> None:
    """Remember the hash of each row of large values marked read-only; without effect on others, which may change."""
    mapping = _mapping(values)
    if mapping is not None and _may_be_dropped(mapping) and values.nbytes == len(mapping):
        _row_hashes[mapping] = hashes


def kept_hashes(values: Shaped[ndarray, "n ..."]) -> UInt64[ndarray, " n"] | None:
    """Give what `keep_hashes` was told of these values; None for a part of them, or another order, and for others."""
    mapping = _mapping(values)
    hashes = None if mapping is None else _row_hashes.get(mapping)
    same = hashes is not None and len(hashes) == len(values) and values.flags.c_contiguous
    return hashes if same and mapping is not None and values.nbytes == len(mapping) else None


def take_rows(values: ndarray, chosen: ndarray) -> ndarray:
    """Copy the rows at these positions or under this mask into memory; of mapped values little else is held meanwhile.

    Numpy's own indexing would leave the pages of all these rows in memory.
    """
    if not isinstance(values, np.memmap):
        return np.asarray(values[chosen])
    rows = _positions(chosen, len(values))
    file = _file_of(values)
    if file is not None:
        return _read_rows(values, rows, file)
    taken = np.empty((len(rows), *values.shape[1:]), dtype=values.dtype)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        taken[part] = values[rows[part]]
        release(values)
    return taken


def read_ahead(values: ndarray, rows: ndarray) -> None:
    """Let the system fetch the rows at these positions from disk meanwhile; without effect on values in memory.

    At random, a disk fetched 194 rows of 48 kB a second through the map, since it reads megabytes around each, and
    24,200 that had been asked for (docs/log/scale.md).
    """
    file = _file_of(values)
    if file is not None and hasattr(os, "posix_fadvise"):
        size = values[:1].nbytes
        with contextlib.suppress(OSError):  # by file systems that take no advice
            for position in _places(values, rows, file):
                os.posix_fadvise(file.descriptor, position, size, os.POSIX_FADV_WILLNEED)


def select_rows(values: ndarray, chosen: ndarray) -> ndarray:
    """Copy the rows at these positions or under this mask.

    A large copy of mapped values is mapped too, from an unnamed file in the cache folder; any other is in memory.
    """
    if not isinstance(values, np.memmap):
        return take_rows(values, chosen)
    rows = _positions(chosen, len(values))
    shape = (len(rows), *values.shape[1:])
    if math.prod(shape) * values.itemsize <= MIN_MAPPED:
        return take_rows(values, rows)
    size = math.prod(shape) * values.itemsize
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        if size > room_on_disk(cache_folder()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with tempfile.TemporaryFile(dir=cache_folder()) as file:
            for part in in_chunks(values, ROWS_AT_ONCE, rows):
                file.write(part.data)
            file.flush()
            taken = mark_read_only(np.memmap(file, dtype=values.dtype, mode="c", shape=shape), file)
    except OSError as error:
        if size <= available_memory():
            return take_rows(values, rows)
        what, cause = f"{len(rows):,} images", f"a copy takes {size / 1e9:.1f} GB, more than disk and memory hold"
        raise DataError(what, str(cache_folder()), f"{cause} ({error.strerror})", MORE_ROOM) from None
    if (hashes := kept_hashes(values)) is not None:
        kept = hashes[rows]
        kept.flags.writeable = False
        keep_hashes(taken, kept)
    return taken


def in_chunks(values: ndarray, size: int, chosen: ndarray | None = None) -> Iterator[ndarray]:
    """Yield `size` rows at a time, of mapped values holding only these in memory; without `chosen` all, as views."""
    if chosen is not None:
        read_ahead(values, chosen[:size])
    for start in range(0, len(values) if chosen is None else len(chosen), size):
        part = slice(start, start + size)
        if chosen is not None:
            read_ahead(values, chosen[start + size : start + 2 * size])
        yield values[part] if chosen is None else take_rows(values, chosen[part])
        release(values)


def _may_be_dropped(mapping: mmap.mmap) -> bool:
    """Tell whether nothing that was written into a mapping lasts."""
    return mapping in _read_only and len(mapping) > MIN_MAPPED


def _positions(chosen: ndarray, count: int) -> ndarray:
    """Turn a mask or positions, which may count from the end, into positions from the start."""
    if chosen.dtype.kind not in "iu" or (len(chosen) and not -count <= chosen.min() <= chosen.max() < count):
        return np.asarray(np.arange(count)[chosen])  # which raises IndexError where it must
    return np.asarray(np.where(chosen < 0, chosen + count, chosen))


def _mapping(values: ndarray) -> mmap.mmap | None:
    """Find the memory map at the end of an array's chain of bases."""
    base: object = values
    while isinstance(base, ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None


def _file_of(values: ndarray) -> _File | None:
    """Find the file that rows of these values can be read from; None of values in memory, and of scattered rows."""
    mapping = _mapping(values)
    file = None if mapping is None else _read_only.get(mapping)
    return file if file is not None and values[:1].transpose(_axes(values)).flags.c_contiguous else None


def _axes(values: ndarray) -> tuple[int, ...]:
    """Give the axes in the order in which they lie in the file: channels may come last there."""
    return (0, *sorted(range(1, values.ndim), key=lambda axis: -values.strides[axis]))


def _places(values: ndarray, rows: ndarray, file: _File) -> list[int]:
    """Give where rows begin in the file."""
    places: list[int] = (values.ctypes.data - file.origin + rows.astype(np.int64) * values.strides[0]).tolist()
    return places


def _read_rows(values: ndarray, rows: ndarray, file: _File) -> ndarray:
    """Read rows of mapped values from their file."""
    axes = _axes(values)
    taken = np.empty((len(rows), *(values.shape[axis] for axis in axes[1:])), dtype=values.dtype)
    if taken.size:
        for row, place in zip(taken.reshape(len(rows), -1).view(np.uint8), _places(values, rows, file), strict=True):
            _read_bytes(row.data, place, file)
    return np.ascontiguousarray(taken.transpose(np.argsort(axes)))


def _read_bytes(into: memoryview, place: int, file: _File) -> None:
    """Fill memory from a file; raises DataError where the bytes are no longer there."""
    while into:
        try:
            read = os.preadv(file.descriptor, [into], place)
        except OSError as error:
            cause = f"they cannot be read ({error.strerror})"
            raise DataError("images", file.name, cause, "Check the disk, then run again.") from None
        if not read:
            raise DataError("images", file.name, "the file has become shorter meanwhile", "Run again.")
        into, place = into[read:], place + read


def available_memory() -> int:
    """Give the bytes of memory that images may take: a share of what is free, or of what a container is allowed."""
    found = [sys.maxsize]
    with contextlib.suppress(OSError, AttributeError, ValueError):  # as on Windows
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(OSError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                root = Path("/sys/fs/cgroup", controllers)
                groups = [root / group for group in (path[1:], *map(str, Path(path[1:]).parents))]
                for limit in (group / name for group in groups for name in ("memory.max", "memory.limit_in_bytes")):
                    with contextlib.suppress(OSError, ValueError):  # not there, or "max"
                        found.append(int(limit.read_text()))
    return int(MEMORY_SHARE * min(found))
