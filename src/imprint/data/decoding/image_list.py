"""Images in files of their own: a list of them, decoded on all cores into one array that is kept for the next run."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from jaxtyping import Shaped, UInt8
from numpy import ndarray

from imprint.core.errors import DataError, UsageError
from imprint.core.progress import say, track
from imprint.data import cache
from imprint.data.decoding.blocks import Coloured, decode_blocks, divide, is_grey
from imprint.data.decoding.decode import decode_aloud, look, quiet
from imprint.data.decoding.image_source import REMEDY, File
from imprint.data.images import LabelledImages, encode_labels
from imprint.preprocessing.input_spec import InputSpec

VERSION = 1  # of what decoding and fitting make of a file; a change there needs another, or the cache hides it
KEPT_FROM = 32  # images; fewer are not worth a file
LOOKED_AT = 100  # headers that decide the common form: 2 % of the time that 2,000 small photos take
WIDEST = 2.0  # a common form is at most twice as wide as high, or the reverse


@dataclass(frozen=True, eq=False)
class ImageList:
    """Images that have been found but not yet decoded.

    Parameters
    ----------
    name : str
        What the collection is called, for messages.
    sources : sequence of str
        Where each image is, as a reader of messages would look for it.
    open : callable
        Takes a position and gives the file's path or content.
    files : sequence of Path or str
        The files that hold the images: what must not change if decoded images are to be used again.
    labels : sequence of str or None
        The name of each image's class.
    unreadable : tuple of (str, str)
        Source and cause of what was left out already.
    groups : sequence of str or None
        What `--group` may search: a name that each image shares with those of its group.
    paths : sequence of str or None
        Where each image is within the collection; None takes `sources`.
    empty : tuple of (str, str)
        Source and cause of class folders without images; they count for none.

    Examples
    --------
    >>> ImageList("one", ["a.png"], lambda i: Path("a.png"), [Path("a.png")]).labels is None
    True
    """

    name: str
    sources: Sequence[str]
    open: Callable[[int], File]
    files: Sequence[Path | str]
    labels: Sequence[str] | None = None
    unreadable: tuple[tuple[str, str], ...] = ()
    groups: Sequence[str] | None = None
    paths: Sequence[str] | None = None
    empty: tuple[tuple[str, str], ...] = ()


def grouped(listed: ImageList, pattern: str) -> ImageList:
    r"""Name each image's group after what a regular expression finds in its path.

    Parameters
    ----------
    listed : ImageList
        The images.
    pattern : str
        Searched for in the path within the collection. What its brackets match is the group's name, or
        all that it matches if it has none; an image where nothing is found is a group of its own.

    Returns
    -------
    ImageList
        With `groups`.

    Raises
    ------
    UsageError
        When it is no regular expression, or nothing is found anywhere.

    Examples
    --------
    >>> files = ["cat/anna_1.jpg", "dog/anna_2.jpg", "dog/3.jpg"]
    >>> grouped(ImageList("pets", files, lambda i: b"", []), r"([a-z]+)_\d").groups
    ['anna', 'anna', 'dog/3.jpg']
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError(
            f"group {pattern!r}", "--group", f"it is no regular expression ({error})", "Correct it."
        ) from None
    paths = listed.sources if listed.paths is None else listed.paths
    found = [compiled.search(path) for path in paths]
    if paths and not any(found):
        raise UsageError(
            f"group {pattern!r}",
            "--group",
            f"it matches no path of {listed.name} (the first is {paths[0]}), and no column has that name",
            "Correct the regular expression.",
        )
    names = [
        path if match is None else "/".join(filter(None, match.groups())) or match[0]
        for path, match in zip(paths, found, strict=True)
    ]
    return replace(listed, groups=names)


def read_images(
    listed: ImageList,
    *,
    spec: InputSpec | None = None,
    side: int = 128,
    allow_bad: float = 0.2,
) -> LabelledImages:
    """Decode images on all cores, or find them decoded in the cache.

    Parameters
    ----------
    listed : ImageList
        The images.
    spec : InputSpec or None, default=None
        The form to bring them into; None chooses one: their own size where all have the same, else the
        median size and shape, with a shorter side of at most `side` pixels; grey if all are grey.
    side : int, default=128
        Pixels.
    allow_bad : float, default=0.2
        Share of the images that may be unreadable.

    Returns
    -------
    LabelledImages
        Those that could be read; the others are in `unreadable`.

    Raises
    ------
    DataError
        When there are no images, or too many of them cannot be read.

    Examples
    --------
    >>> import io
    >>> from PIL import Image
    >>> Image.new("RGB", (3, 2), "red").save(content := io.BytesIO(), "PNG")
    >>> listed = ImageList("two", ["a", "b"], [content.getvalue(), b""].__getitem__, [])
    >>> images = read_images(listed, allow_bad=0.5)
    >>> images.shape, images.unreadable
    ((3, 2, 3), (('b', 'it is empty'),))
    """
    if not listed.sources:
        raise _nothing(listed)
    pixels, facts = _decoded(listed, spec, side)
    bad: dict[int, str] = dict(facts["bad"])
    unreadable = (*listed.unreadable, *((listed.sources[i], cause) for i, cause in bad.items()))
    total = len(listed.sources) + len(listed.unreadable)
    if unreadable:
        source, cause = unreadable[0]
        if total == 1:
            raise DataError("image", source, cause, REMEDY)
        if len(unreadable) > allow_bad * total or not len(pixels):
            more = f", or let --allow-bad be more than {allow_bad:g}" if len(pixels) else ""
            raise DataError(
                f"{len(unreadable):,} of {total:,} images",
                listed.name,
                f"they cannot be used, first {source}: {cause}",
                f"Repair or remove them{more}.",
            )
        say(f"left out {len(unreadable):,} of {total:,} images of {listed.name}, first {source}: {cause}")
    if listed.empty:
        classes = f"{len(listed.empty):,} class{'es' * (len(listed.empty) > 1)}"
        say(f"left out {classes} of {listed.name}, first {': '.join(listed.empty[0])}")
    for note, count in facts["notes"].items():
        say(f"{count:,} image{'s' * (count > 1)} of {listed.name}: {note}")
    kept = [i for i in range(len(listed.sources)) if i not in bad]
    labels, class_names = (None, ()) if listed.labels is None else encode_labels(_picked(listed.labels, kept))
    return LabelledImages(
        pixels,
        labels,
        class_names,
        _picked(listed.sources, kept),
        listed.name,
        (*unreadable, *listed.empty),
        None if listed.groups is None else _picked(listed.groups, kept),
        None if facts["sizes"] is None else np.array(facts["sizes"], dtype=np.int32),
    )


def _picked(values: Sequence[str], places: list[int]) -> Shaped[ndarray, " n"]:
    return np.array([values[i] for i in places], dtype=str)


def _nothing(listed: ImageList) -> DataError:
    cause = "there are none"
    if left_out := listed.unreadable + listed.empty:
        cause = f"none can be used, first {': '.join(left_out[0])}"
    return DataError("images", listed.name, cause, "Name data with JPEG, PNG, WebP, BMP, GIF or TIFF images.")


Kept = tuple[UInt8[ndarray, "n c h w"], dict[str, Any]]
Add = Callable[[UInt8[ndarray, "n c h w"]], None]


def _decoded(listed: ImageList, spec: InputSpec | None, side: int) -> Kept:
    """Find decoded images in the cache; else decode them."""
    name = ""
    if len(listed.sources) >= KEPT_FROM and listed.files:
        name = cache.key(listed.files, f"{VERSION} {PIL.__version__} {spec or side} {len(listed.sources)}")
        if (found := cache.recall(name)) is not None:
            return found
    with quiet():
        form = spec or _common_form(listed, side)
        try:
            return _decode_all(listed, form, spec is None, name)
        except Coloured:
            return _decode_all(listed, replace(form, channels=3), False, name)


def _common_form(listed: ImageList, side: int) -> InputSpec:
    """Choose a form for all images from the headers of some, evenly spread, and the pixels of as few as will do."""
    total = len(listed.sources)
    sizes, grey = [], True
    for i in sorted({place * total // LOOKED_AT for place in range(LOOKED_AT)} if total > LOOKED_AT else range(total)):
        try:
            file = listed.open(i)
            size, grey_mode = look(file)
            grey = grey and (grey_mode or is_grey(decode_aloud(file).pixels))
            sizes.append(size)
        except DataError:  # named when all are decoded
            continue
    height, width = _common_size(sizes or [(1, 1)], side)
    return InputSpec(1 if grey else 3, (height, width), (height, width))


def _common_size(sizes: list[tuple[int, int]], side: int) -> tuple[int, int]:
    """Their own size, where all have the same; else the median one."""
    if len(set(sizes)) == 1 and min(sizes[0]) <= side:
        return sizes[0]
    shorter = min(side, round(statistics.median(min(size) for size in sizes)))
    shape = statistics.median(width / height for height, width in sizes)
    shape = min(max(shape, 1 / WIDEST), WIDEST)
    return (shorter, round(shorter * shape)) if shape >= 1 else (round(shorter / shape), shorter)


class _Memory:
    """Takes pixels as `pixel_file.Writer` does, and gives them back."""

    def __init__(self, count: int) -> None:
        self._count, self._filled = count, 0
        self._pixels = np.empty((0, 1, 1, 1), dtype=np.uint8)

    def add(self, block: UInt8[ndarray, "n c h w"]) -> None:
        if not self._filled:
            self._pixels = np.empty((self._count, *block.shape[1:]), dtype=np.uint8)
        self._pixels[self._filled : self._filled + len(block)] = block
        self._filled += len(block)

    @property
    def pixels(self) -> UInt8[ndarray, "n c h w"]:
        return self._pixels[: self._filled]


def _decode_all(listed: ImageList, form: InputSpec, must_be_grey: bool, name: str) -> Kept:
    """Decode into the cache under a name; without a name, or if it cannot be written, into memory."""
    decode_into = partial(_decode_into, listed, form, must_be_grey and form.channels == 1)
    if name:
        try:
            with cache.keeping(name) as writer:
                writer.facts = decode_into(writer.add)
            if (found := cache.recall(name)) is not None:
                return found
        except OSError as error:
            say(f"decoded images cannot be kept for the next run: {error.strerror} ({cache.folder()})")
    memory = _Memory(len(listed.sources))
    facts = decode_into(memory.add)
    return memory.pixels, facts


def _decode_into(listed: ImageList, form: InputSpec, must_be_grey: bool, add: Add) -> dict[str, Any]:
    """Decode all images in order; give the facts beside their pixels."""
    bad, sizes, notes, count = list[tuple[int, str]](), list[tuple[int, int]](), Counter[str](), 0
    blocks = divide(len(listed.sources), form)
    for block in track(
        decode_blocks(listed.open, blocks, form, must_be_grey=must_be_grey), "Reading images", total=len(blocks)
    ):
        bad += block.bad
        sizes += block.sizes
        notes.update(block.notes)
        if len(block.pixels):
            add(block.pixels)
        count += len(block.pixels)
    scaled = any(size != form.image_size for size in sizes)
    shape = (count, form.channels, *form.image_size)
    return {"name": listed.name, "shape": shape, "bad": bad, "notes": notes, "sizes": sizes if scaled else None}
