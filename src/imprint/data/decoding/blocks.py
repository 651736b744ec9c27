"""Images decoded into one form, block by block, in as many threads as are worth it."""

from __future__ import annotations

import contextlib
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from imprint.core.errors import DataError
from imprint.data.decoding.decode import decode_many, look
from imprint.data.decoding.image_source import File
from imprint.preprocessing.input_spec import InputSpec, fit

LARGEST = 2**22  # bytes of pixels that a thread decodes at a time, at most 256 images
TINY = 64  # pixels a side


class Coloured(Exception):  # noqa: N818
    """Among images that seemed to be grey there is one with colour.

    Examples
    --------
    >>> issubclass(Coloured, Exception)
    True
    """


@dataclass(frozen=True, eq=False)
class Block:
    """Some images of one form.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (n, c, h, w)
        Those that could be read, in order.
    sizes : list of tuple of int
        Height and width of each of them as it stood in its file.
    notes : list of str
        What was decided of some of them.
    bad : list of (int, str)
        Position and cause of those that could not be read.

    Examples
    --------
    >>> Block(np.zeros((0, 1, 8, 8), dtype=np.uint8), [], [], [(0, "it is empty")]).bad
    [(0, 'it is empty')]
    """

    pixels: UInt8[ndarray, "n c h w"]
    sizes: list[tuple[int, int]]
    notes: list[str]
    bad: list[tuple[int, str]]


def divide(total: int, form: InputSpec) -> list[range]:
    """Divide positions into blocks.

    Parameters
    ----------
    total : int
        Number of images.
    form : InputSpec
        What they are brought into.

    Returns
    -------
    list of range
        At most 256 positions and 4 MB of pixels each.

    Examples
    --------
    >>> divide(300, InputSpec(1, (28, 28), (28, 28)))
    [range(0, 256), range(256, 300)]
    """
    length = max(1, min(256, LARGEST // math.prod((form.channels, *form.image_size))))
    return [range(i, min(i + length, total)) for i in range(0, total, length)]


def decode_blocks(
    open_at: Callable[[int], File], blocks: Sequence[range], form: InputSpec, *, must_be_grey: bool = False
) -> Iterator[Block]:
    """Decode images on all cores, or tiny ones on one.

    Parameters
    ----------
    open_at : callable
        Takes a position and gives the file there, or its content.
    blocks : sequence of range
        From `divide`.
    form : InputSpec
        What to bring the images into.
    must_be_grey : bool, default=False
        Stop at the first image with colour.

    Yields
    ------
    Block
        In order, with few of them waiting in memory.

    Raises
    ------
    Coloured
        When an image has colour and must not.

    Examples
    --------
    >>> form = InputSpec(1, (28, 28), (28, 28))
    >>> [block.bad for block in decode_blocks([b""].__getitem__, divide(1, form), form)]
    [[(0, 'it is empty')]]
    """
    decode = partial(_decode_block, open_at, form, must_be_grey)
    workers = _workers(open_at, blocks)
    ahead = deque[Future[Block]]()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for places in blocks:
                ahead.append(pool.submit(decode, places))
                if len(ahead) > 2 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def is_grey(pixels: UInt8[ndarray, "*n h w c"]) -> bool:
    """Tell images without colour, whatever their mode.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (h, w, c) or (n, h, w, c)
        Brightness, 0 to 255.

    Returns
    -------
    bool
        Whether all channels are the same.

    Examples
    --------
    >>> is_grey(np.zeros((2, 2, 3), dtype=np.uint8))
    True
    """
    return pixels.shape[-1] == 1 or bool((pixels[..., :1] == pixels[..., 1:]).all())


def _workers(open_at: Callable[[int], File], blocks: Sequence[range]) -> int:
    """Count the threads that are worth it, by at most ten images.

    A tiny image is mostly work for Python, which two threads only take from each other: they took
    twice the time of one.
    """
    for places in blocks[:: len(blocks) // 10 + 1]:
        with contextlib.suppress(DataError):
            if max(look(open_at(places.start))[0]) > TINY:
                return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1


def _decode_block(open_at: Callable[[int], File], form: InputSpec, must_be_grey: bool, places: range) -> Block:
    """Decode a block, in a thread: Pillow lets others run while it decodes and scales."""
    pixels = np.empty((len(places), form.channels, *form.image_size), dtype=np.uint8)
    kept, bad = dict[int, tuple[tuple[int, int], str]](), dict[int, str]()
    # Twice the size that is needed, so that the last step down is the antialiased one.
    # Of a glyph nobody knows yet how small it stands in its image.
    shorter = 2 * max(form.image_size) if form.glyph is None else 0
    for some, found in decode_many(open_at, places, shorter=shorter):
        if isinstance(found, DataError):
            bad.update(dict.fromkeys(some, found.cause))
            continue
        if must_be_grey and not is_grey(found.pixels):
            raise Coloured
        pixels[[i - places.start for i in some]] = _fitted(found.pixels, form)
        kept.update(dict.fromkeys(some, (found.size, found.note)))
    read = sorted(kept)
    if bad:
        pixels = pixels[[i - places.start for i in read]]
    return Block(pixels, [kept[i][0] for i in read], [kept[i][1] for i in read if kept[i][1]], sorted(bad.items()))


def _fitted(pixels: UInt8[ndarray, "n h w k"], form: InputSpec) -> UInt8[ndarray, "n c H W"]:
    """Bring images of one size into a form; those in that form already, all at once."""
    if form.glyph is None and pixels.shape[1:] == (*form.image_size, form.channels):
        return pixels.transpose(0, 3, 1, 2)
    return np.stack([fit(image, form) for image in pixels])
