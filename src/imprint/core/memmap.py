"""Values mapped from a file: read as if they were in memory, while little of them is held there."""

from __future__ import annotations

import math
import mmap
import tempfile
from collections.abc import Iterator
from weakref import WeakSet

import numpy as np
from numpy import ndarray

from imprint.core.files import cache_folder

WORTH = 2**26  # bytes; of a smaller file all may stay in memory
TOGETHER = 32  # rows; around each that is looked at, the system may map 2 MB of the file
_never_written = WeakSet[mmap.mmap]()


def mark_read_only(values: np.memmap) -> np.memmap:
    """Promise that mapped values are not written to, so that their memory may be given back: writing would be lost.

    Parameters
    ----------
    values : memmap
        Mapped by Imprint itself; what a user has mapped may have been changed since.

    Returns
    -------
    memmap
        The same.

    Examples
    --------
    >>> with tempfile.TemporaryFile() as file:
    ...     _ = file.write(bytes(5))
    ...     mark_read_only(np.memmap(file, mode="c")).shape
    (5,)
    """
    memory = _mapping(values)
    if memory is not None:
        _never_written.add(memory)
    return values


def release(values: ndarray) -> None:
    """Give back the memory that mapped values have taken; they are read again when next looked at.

    Parameters
    ----------
    values : ndarray
        From `mark_read_only`, or a slice of such; of others nothing is given back.

    Examples
    --------
    >>> release(np.zeros(3))
    """
    memory = _mapping(values)
    if memory is not None and memory in _never_written and len(memory) > WORTH and hasattr(mmap, "MADV_DONTNEED"):
        memory.madvise(mmap.MADV_DONTNEED)


def take_rows(values: ndarray, chosen: ndarray) -> ndarray:
    """Copy some rows into memory; of mapped values little else is held there meanwhile.

    Parameters
    ----------
    values : ndarray
        In memory or mapped.
    chosen : ndarray of int or bool
        Positions along the first axis.

    Returns
    -------
    ndarray
        A copy.

    Examples
    --------
    >>> take_rows(np.arange(5), np.array([3, 1]))
    array([3, 1])
    """
    if not isinstance(values, np.memmap):
        return np.asarray(values[chosen])
    rows = np.arange(len(values))[chosen]
    taken = np.empty((len(rows), *values.shape[1:]), dtype=values.dtype)
    for start in range(0, len(rows), TOGETHER):
        taken[start : start + TOGETHER] = values[rows[start : start + TOGETHER]]
        release(values)
    return taken


def select_rows(values: ndarray, chosen: ndarray) -> ndarray:
    """Pick some rows; many of mapped values are mapped too, from a file without a name in the cache folder.

    Parameters
    ----------
    values : ndarray
        In memory or mapped.
    chosen : ndarray of int or bool
        Positions along the first axis.

    Returns
    -------
    ndarray
        A copy: in memory, unless it is large and `values` are mapped.

    Examples
    --------
    >>> select_rows(np.arange(5), np.array([False, True, False, True, False]))
    array([1, 3])
    """
    if not isinstance(values, np.memmap):
        return take_rows(values, chosen)
    rows = np.arange(len(values))[chosen]
    shape = (len(rows), *values.shape[1:])
    if math.prod(shape) * values.itemsize <= WORTH:
        return take_rows(values, rows)
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache_folder()) as file:
            for part in in_chunks(values, TOGETHER, rows):
                file.write(part.data)
            file.flush()
            return mark_read_only(np.memmap(file, dtype=values.dtype, mode="c", shape=shape))
    except OSError:  # no room for it
        return take_rows(values, rows)


def in_chunks(values: ndarray, size: int, chosen: ndarray | None = None) -> Iterator[ndarray]:
    """Go through rows part by part; of mapped values one part at a time is held in memory.

    Parameters
    ----------
    values : ndarray
        In memory or mapped.
    size : int
        Rows of a part; the last may have fewer.
    chosen : ndarray of int or None, default=None
        Positions along the first axis; None goes through all of them, without copying any.

    Yields
    ------
    ndarray
        The next rows: where none are chosen, a view.

    Examples
    --------
    >>> list(in_chunks(np.arange(5), 2))
    [array([0, 1]), array([2, 3]), array([4])]
    >>> list(in_chunks(np.arange(5), 2, np.array([3, 1, 0])))
    [array([3, 1]), array([0])]
    """
    for start in range(0, len(values) if chosen is None else len(chosen), size):
        part = slice(start, start + size)
        yield values[part] if chosen is None else take_rows(values, chosen[part])
        release(values)


def _mapping(values: ndarray) -> mmap.mmap | None:
    """Find the mapping that values lie in."""
    memory: object = values
    while isinstance(memory, ndarray):
        memory = memory.base
    return memory if isinstance(memory, mmap.mmap) else None
