"""Arrays mapped from files: indexed as if in memory, of which little is held at a time."""

from __future__ import annotations

import math
import mmap
import tempfile
from collections.abc import Iterator
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
from jaxtyping import Shaped, UInt64
from numpy import ndarray

from imprint.core.files import cache_folder

MIN_MAPPED = 2**26  # bytes; smaller arrays may stay in memory
ROWS_AT_ONCE = 32  # for each row that is read, the system may map 2 MB of the file
_read_only = WeakSet[mmap.mmap]()
_row_hashes = WeakKeyDictionary[mmap.mmap, ndarray]()


def mark_read_only(values: np.memmap) -> np.memmap:
    """Declare that nothing writes to these mapped values, so that `release` may drop their pages.

    Only for what Imprint itself has mapped: a user's mapped array may hold changes of its own, which would be lost.
    """
    mapping = _mapping(values)
    if mapping is not None:
        _read_only.add(mapping)
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
    rows = np.arange(len(values))[chosen]
    taken = np.empty((len(rows), *values.shape[1:]), dtype=values.dtype)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        taken[part] = values[rows[part]]
        release(values)
    return taken


def select_rows(values: ndarray, chosen: ndarray) -> ndarray:
    """Copy the rows at these positions or under this mask.

    A large copy of mapped values is mapped too, from an unnamed file in the cache folder; any other is in memory.
    """
    if not isinstance(values, np.memmap):
        return take_rows(values, chosen)
    rows = np.arange(len(values))[chosen]
    shape = (len(rows), *values.shape[1:])
    if math.prod(shape) * values.itemsize <= MIN_MAPPED:
        return take_rows(values, rows)
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache_folder()) as file:
            for part in in_chunks(values, ROWS_AT_ONCE, rows):
                file.write(part.data)
            file.flush()
            taken = mark_read_only(np.memmap(file, dtype=values.dtype, mode="c", shape=shape))
        if (hashes := kept_hashes(values)) is not None:
            kept = hashes[rows]
            kept.flags.writeable = False
            keep_hashes(taken, kept)
        return taken
    except OSError:  # no room for it
        return take_rows(values, rows)


def in_chunks(values: ndarray, size: int, chosen: ndarray | None = None) -> Iterator[ndarray]:
    """Yield `size` rows at a time, of mapped values holding only these in memory; without `chosen` all, as views."""
    for start in range(0, len(values) if chosen is None else len(chosen), size):
        part = slice(start, start + size)
        yield values[part] if chosen is None else take_rows(values, chosen[part])
        release(values)


def _may_be_dropped(mapping: mmap.mmap) -> bool:
    """Tell whether nothing that was written into a mapping lasts."""
    return mapping in _read_only and len(mapping) > MIN_MAPPED


def _mapping(values: ndarray) -> mmap.mmap | None:
    """Find the memory map at the end of an array's chain of bases."""
    base: object = values
    while isinstance(base, ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None
