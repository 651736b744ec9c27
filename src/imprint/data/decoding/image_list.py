"""ImageList: image files that have been found, and their decoding on all cores into one cached array."""

from __future__ import annotations

import contextlib
import math
import os
import re
import statistics
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from jaxtyping import Shaped, UInt8
from numpy import ndarray
from PIL import Image

from imprint.core.errors import DataError, UsageError
from imprint.core.memmap import MIN_MAPPED, MORE_ROOM, available_memory
from imprint.core.progress import say, track, warn
from imprint.core.texts import text_array
from imprint.data import cache
from imprint.data.decoding.content import ImageSource, remedy_for
from imprint.data.decoding.decode import NoRangeError, decode_in_thread, read_header, read_numbers, without_warnings
from imprint.data.decoding.formats import READ, can_read_heic
from imprint.data.images import LabelledImages, encode_labels, hash_images
from imprint.preprocessing.depth import SAMPLED, common_range, lost_levels, thinned_numbers
from imprint.preprocessing.input_spec import InputSpec, fit
from imprint.preprocessing.transparency import choose_background

DECODER_VERSION = 3  # raise it when decoding or fitting gives other pixels, or the cache hides the change
MIN_CACHED = 32  # images; fewer are not worth a file
LAYERS_READ = 20  # of these, images decoded to see what is transparent
HEADERS_READ = 100  # decide the common form: 2 % of the time that 2,000 small photos take
MAX_ASPECT = 2.0  # a common form is at most twice as wide as high, or the reverse
BLOCK_BYTES = 2**22  # of pixels that a thread decodes at a time
BLOCK_IMAGES = 256
TINY = 64  # pixels a side
MOST_NOTES = 10  # lines


@dataclass(frozen=True, eq=False)
class ImageList:
    """Image files that have been found but not yet decoded.

    `open` gives the source at a position; `files` are what the cache watches for changes. `unreadable` and `skipped`
    are (source, cause) of images that were left out and of folders that were passed by. `groups` are names from a
    column, `ids` too, and `paths` what a regular expression searches (None: `sources`).
    """

    name: str
    sources: Sequence[str]
    open: Callable[[int], ImageSource | Image.Image]
    files: Sequence[Path | str]
    labels: Sequence[str] | None = None
    unreadable: tuple[tuple[str, str], ...] = ()
    groups: Sequence[str] | None = None
    paths: Sequence[str] | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    ids: Sequence[str] | None = None
    headers: tuple[str, str] = ("", "")


def join_lists(lists: Sequence[ImageList], name: str) -> ImageList:
    """Join lists of images into one; labels, groups and ids stay where all have them."""
    starts = [0, *accumulate(len(one.sources) for one in lists)]

    def open_at(i: int) -> ImageSource | Image.Image:
        among = bisect_right(starts, i) - 1
        return lists[among].open(i - starts[among])

    def joined(field: str) -> list[str] | None:
        columns = [getattr(one, field) for one in lists]
        return None if any(column is None for column in columns) else [value for column in columns for value in column]

    return ImageList(
        name,
        [source for one in lists for source in one.sources],
        open_at,
        [file for one in lists for file in one.files],
        joined("labels"),
        tuple(left_out for one in lists for left_out in one.unreadable),
        joined("groups"),
        joined("paths"),
        tuple(skipped for one in lists for skipped in one.skipped),
        joined("ids"),
        lists[0].headers,
    )


def with_groups(listed: ImageList, pattern: str) -> ImageList:
    """Name each image's group after what a regular expression matches in its path, or its brackets if it has any.

    An image without a match is a group of its own. Raises UsageError when nothing matches anywhere.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        cause = f"it is no regular expression ({error})"
        raise UsageError(f"group {pattern!r}", "--group", cause, "Correct it.") from None
    paths = listed.sources if listed.paths is None else listed.paths
    matches = [compiled.search(path) for path in paths]
    if paths and not any(matches):
        cause = f"it matches no path of {listed.name} (the first is {paths[0]}), and no column has that name"
        raise UsageError(f"group {pattern!r}", "--group", cause, "Correct the regular expression.")
    names = [
        path if match is None else "/".join(filter(None, match.groups())) or match[0]
        for path, match in zip(paths, matches, strict=True)
    ]
    return replace(listed, groups=names)


def read_images(
    listed: ImageList, *, spec: InputSpec | None = None, side: int = 128, allow_bad: float = 0.2
) -> LabelledImages:
    """Decode images, or find them decoded in the cache; raises DataError when more than `allow_bad` are unreadable.

    Without `spec` the form is their common size, else the median size with a shorter side of at most `side` pixels;
    grey if all are. Without it, deep images get one range and transparent ones one background, too.
    """
    if not listed.sources:
        raise _no_images(listed)
    pixels, facts = _cached_or_decoded(listed, spec, side)
    bad: dict[int, str] = dict(facts["bad"])
    unreadable = (*listed.unreadable, *((listed.sources[i], cause) for i, cause in bad.items()))
    if unreadable:
        _report_unreadable(listed, unreadable, len(pixels), allow_bad)
    if listed.skipped:
        more = f", and {len(listed.skipped) - 1:,} more" if len(listed.skipped) > 1 else ""
        say(f"passed by in {listed.name}: {': '.join(listed.skipped[0])}{more}")
    for warning in facts["warnings"]:
        warn(f"{listed.name}: {warning}")
    for note, count in list(facts["notes"].items())[:MOST_NOTES]:
        say(f"{count:,} image{'s' * (count > 1)} of {listed.name}: {note}")
    if len(facts["notes"]) > MOST_NOTES:
        say(f"{len(facts['notes']) - MOST_NOTES:,} more such lines about {listed.name} are left out")
    every = range(len(listed.sources))
    good = [i for i in every if i not in bad] if bad else every
    labels, class_names = (None, ()) if listed.labels is None else encode_labels([listed.labels[i] for i in good])
    return LabelledImages(
        pixels,
        labels,
        class_names,
        _select(listed.sources, good),
        listed.name,
        (*unreadable, *listed.skipped),
        None if listed.groups is None else _select(listed.groups, good),
        facts["sizes"],
        ids=None if listed.ids is None else _select(listed.ids, good),
        headers=listed.headers,
        pixel_range=None if facts["pixel_range"] is None else tuple(facts["pixel_range"]),
        background=facts["background"],
    )


def _report_unreadable(
    listed: ImageList, unreadable: tuple[tuple[str, str], ...], readable: int, allow_bad: float
) -> None:
    """Say how many images are left out; raise DataError where these are too many."""
    total = len(listed.sources) + len(listed.unreadable)
    (source, cause), alike = _commonest(unreadable)
    if total == 1:
        raise DataError("image", source, cause, remedy_for(cause))
    most = "" if alike == len(unreadable) else f"{alike:,} of them for one cause, "
    if len(unreadable) > allow_bad * total or not readable:
        remedy = remedy_for(cause, "them").removesuffix(".")
        more = f", or let --allow-bad be more than {allow_bad:g}" if readable else ""
        what = f"{len(unreadable):,} of {total:,} images"
        raise DataError(what, listed.name, f"they cannot be used, {most}first {source}: {cause}", f"{remedy}{more}.")
    say(f"left out {len(unreadable):,} of {total:,} images of {listed.name}, {most}first {source}: {cause}")


def _commonest(unreadable: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], int]:
    """Find the first source with the commonest cause, and how many have it; their numbers and details may differ."""
    kinds = [re.sub(r"\(.*\)|[\d,×]+", "", cause) for _, cause in unreadable]
    kind, count = Counter(kinds).most_common(1)[0]
    return unreadable[kinds.index(kind)], count


def _select(values: Sequence[str], positions: Sequence[int]) -> Shaped[ndarray, " n"]:
    return text_array([values[i] for i in positions])


def _no_images(listed: ImageList) -> DataError:
    cause = "there are none"
    if left_out := listed.unreadable + listed.skipped:
        cause = f"none can be used, first {': '.join(left_out[0])}"
    return DataError("images", listed.name, cause, f"Name data with {READ} images.")


PixelsAndFacts = tuple[UInt8[ndarray, "n c h w"], dict[str, Any]]
AddPixels = Callable[[UInt8[ndarray, "n c h w"]], None]


def _cached_or_decoded(listed: ImageList, spec: InputSpec | None, side: int) -> PixelsAndFacts:
    key = ""
    if len(listed.sources) >= MIN_CACHED and listed.files:
        decoders = f"{DECODER_VERSION} {PIL.__version__}{' heic' * can_read_heic()}"
        form = side if spec is None else asdict(spec)  # whole, where its repr is short
        wanted = f"{decoders} {form} {len(listed.sources)}"
        key = cache.key(listed.files, wanted)
        if (found := cache.lookup(key)) is not None:
            return found
        with cache.sole_decoder(key):
            found = cache.lookup(key)  # another process may have decoded them meanwhile
            return _decoded(listed, spec, side, key) if found is None else found
    return _decoded(listed, spec, side, key)


def _decoded(listed: ImageList, spec: InputSpec | None, side: int, key: str) -> PixelsAndFacts:
    """Decode a list of images in the form that is given, or that they ask for."""
    with without_warnings():
        if spec is not None:
            return _decode_all(listed, _Settled(spec), key)
        settled, decoded = _settle_form(listed, side), None
        while decoded is None:
            try:
                decoded = _decode_all(listed, settled, key)
            except ColourFound:
                settled = replace(settled, form=replace(settled.form, channels=3), must_be_grey=False)
            except UndecidedFound:  # by images that were not among those looked at
                settled = _settle_again(listed, settled)
        return decoded


@dataclass(frozen=True)
class _Settled:
    """The form to bring images into; what would change it, if one of them should show it; what to warn of."""

    form: InputSpec
    must_be_grey: bool = False
    must_be_decided: bool = False
    warnings: tuple[str, ...] = ()


def _settle_form(listed: ImageList, side: int) -> _Settled:
    """Choose a form for all images from the headers of some, evenly spread, and the pixels of as few as will do."""
    total = len(listed.sources)
    spread = [place * total // HEADERS_READ for place in range(HEADERS_READ)]
    seen = _look_at(listed, spread if total > HEADERS_READ else range(total), LAYERS_READ)
    height, width = _common_size(seen.sizes or [(1, 1)], side)
    form = InputSpec(1 if seen.grey else 3, (height, width), (height, width))
    return _Settled(seen.decide(form), seen.grey, True, seen.warnings)


def _settle_again(listed: ImageList, settled: _Settled) -> _Settled:
    """Decide range and background by all images; where that tells nothing, each image's own do."""
    total = len(listed.sources)
    seen = _look_at(listed, range(total), total)
    form = seen.decide(settled.form)
    return replace(settled, form=form, must_be_decided=form != settled.form, warnings=seen.warnings)


@dataclass(frozen=True, eq=False)
class _Seen:
    """What was seen of some images: sizes, whether all are grey, numbers of deep ones, ink of transparent ones."""

    sizes: list[tuple[int, int]]
    grey: bool
    numbers: list[Shaped[ndarray, " _"]]
    inks: list[float]

    def decide(self, form: InputSpec) -> InputSpec:
        """Decide range and background, where there are images that need them."""
        pixel_range = common_range(np.concatenate(self.numbers)) if self.numbers else None
        return replace(form, pixel_range=pixel_range, background=choose_background(self.inks) if self.inks else None)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warn where the range leaves few grey levels."""
        if not self.numbers:
            return ()
        together = np.concatenate(self.numbers)
        lost = lost_levels(together, common_range(together))
        return (f"{lost}, since few pixels are far brighter or darker than the others; clip them",) if lost else ()


def _look_at(listed: ImageList, positions: Sequence[int], layers_read: int) -> _Seen:
    """Look at some images in random order, and at the pixels of some where the header leaves a question.

    Of those that may be transparent, `layers_read` are decoded.
    """
    share = SAMPLED // min(len(positions), HEADERS_READ)
    sizes, grey, numbers, inks = list[tuple[int, int]](), True, list[Shaped[ndarray, " n"]](), list[float]()
    for i in np.random.RandomState(0).permutation(np.asarray(positions)).tolist():
        try:
            source, pixel_range = listed.open(i), None
            header = read_header(source)
            if header.deep and len(numbers) < HEADERS_READ:
                numbers.append(thinned_numbers(read_numbers(source), share))
                pixel_range = common_range(numbers[-1])
            layered = header.transparent and layers_read > 0 and len(inks) < HEADERS_READ
            if layered or (grey and not header.grey):
                layers_read -= layered
                decoded = decode_in_thread(source, pixel_range=pixel_range)
                grey = grey and (header.grey or is_grey(decoded.pixels))
                inks += [] if decoded.ink is None else [decoded.ink]
            sizes.append(header.size)
        except DataError:  # reported when all images are decoded
            continue
    return _Seen(sizes, grey, numbers, inks)


def _common_size(sizes: list[tuple[int, int]], side: int) -> tuple[int, int]:
    """Their own height and width, where all have the same and it is not too large; else the median ones."""
    if len(set(sizes)) == 1 and min(sizes[0]) <= side:
        return sizes[0]
    shorter = min(side, round(statistics.median(min(size) for size in sizes)))
    aspect = statistics.median(width / height for height, width in sizes)
    aspect = min(max(aspect, 1 / MAX_ASPECT), MAX_ASPECT)
    return (shorter, round(shorter * aspect)) if aspect >= 1 else (round(shorter / aspect), shorter)


class _InMemory:
    """Takes pixels as `cache.Writer` does, and gives them back."""

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


def _decode_all(listed: ImageList, settled: _Settled, key: str) -> PixelsAndFacts:
    """Decode into the cache under a key; without a key, or if it cannot be written, into memory if they fit there."""
    decode_into, why = partial(_decode_into, listed, settled), ""
    size = len(listed.sources) * math.prod((settled.form.channels, *settled.form.image_size))
    if key:
        try:
            with cache.writing(key, size) as writer:
                writer.facts = decode_into(writer.add)
            if (found := cache.lookup(key)) is not None:
                return found
        except OSError as error:
            why = f"{error.strerror} ({cache.folder()})"
    if size > MIN_MAPPED and size > available_memory():
        cause = f"decoded they take {size / 1e9:.1f} GB, more than the memory holds"
        cause += f", and the cache does not take them: {why}" if why else ""
        raise DataError(f"{len(listed.sources):,} images", listed.name, cause, MORE_ROOM)
    if why:
        say(f"decoded images cannot be kept for the next run: {why}")
    memory = _InMemory(len(listed.sources))
    facts = decode_into(memory.add)
    return memory.pixels, facts


def _decode_into(listed: ImageList, settled: _Settled, add: AddPixels) -> dict[str, Any]:
    """Decode all images in order; give the facts beside their pixels."""
    form, demands = settled.form, {"must_be_grey": settled.must_be_grey, "must_be_decided": settled.must_be_decided}
    bad, notes = list[tuple[int, str]](), Counter[str]()
    sizes, hashes = [np.empty((0, 2), dtype=np.int32)], list[bytes]()
    blocks = block_ranges(len(listed.sources), form)
    decoded = decode_blocks(listed.open, blocks, form, **demands)
    for block in track(decoded, "Reading images", total=len(blocks)):
        bad += block.bad
        notes.update(block.notes)
        if len(block.pixels):
            add(block.pixels)
            sizes.append(np.array(block.sizes, dtype=np.int32))
            hashes.append(hash_images(block.pixels))
    each = np.concatenate(sizes)
    scaled = bool((each != form.image_size).any())
    shape = (len(each), form.channels, *form.image_size)
    facts = {"name": listed.name, "shape": shape, "bad": bad, "notes": notes, "sizes": each if scaled else None}
    facts["hashes"] = np.frombuffer(b"".join(hashes), dtype=np.uint64)
    decided = {"pixel_range": form.pixel_range, "background": form.background, "warnings": settled.warnings}
    return facts | decided


class ColourFound(Exception):  # noqa: N818
    """Among images that all seemed to be grey there is one with colour."""


class UndecidedFound(Exception):  # noqa: N818
    """Among images that needed no range, or no background, there is one that does."""


@dataclass(frozen=True, eq=False)
class Block:
    """Decoded images in order; `sizes` are height and width in their files, `bad` position and cause of the others."""

    pixels: UInt8[ndarray, "n c h w"]
    sizes: list[tuple[int, int]]
    notes: list[str]
    bad: list[tuple[int, str]]


def block_ranges(total: int, form: InputSpec) -> list[range]:
    """Divide positions into blocks of at most 256 images and 4 MB of pixels."""
    length = max(1, min(BLOCK_IMAGES, BLOCK_BYTES // math.prod((form.channels, *form.image_size))))
    return [range(i, min(i + length, total)) for i in range(0, total, length)]


def decode_blocks(
    open_at: Callable[[int], ImageSource | Image.Image],
    blocks: Sequence[range],
    form: InputSpec,
    *,
    must_be_grey: bool = False,
    must_be_decided: bool = False,
) -> Iterator[Block]:
    """Decode blocks in order, on all cores (tiny images on one), with few of them waiting in memory.

    Raises ColourFound at the first image with colour if all must be grey, UndecidedFound at the first one that is deep
    or transparent if the form must decide what becomes of it, but does not.
    """
    decode = partial(_decode_block, open_at, form, must_be_grey, must_be_decided)
    workers = _thread_count(open_at, blocks)
    pending = deque[Future[Block]]()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for positions in blocks:
                pending.append(pool.submit(decode, positions))
                if len(pending) > 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def is_grey(pixels: UInt8[ndarray, "h w c"]) -> bool:
    """Tell whether all channels are the same, whatever the mode."""
    return pixels.shape[-1] == 1 or bool((pixels[..., :1] == pixels[..., 1:]).all())


def _thread_count(open_at: Callable[[int], ImageSource | Image.Image], blocks: Sequence[range]) -> int:
    """Count the threads that are worth it, by the headers of at most ten images.

    Tiny images are mostly work for Python, which only one thread can do at a time: two took twice the time of one.
    """
    for positions in blocks[:: len(blocks) // 10 + 1]:
        with contextlib.suppress(DataError):
            if max(read_header(open_at(positions.start))[0]) > TINY:
                return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1


def _decode_block(
    open_at: Callable[[int], ImageSource | Image.Image],
    form: InputSpec,
    must_be_grey: bool,
    must_be_decided: bool,
    positions: range,
) -> Block:
    """Decode a block, in a thread: Pillow lets others run while it decodes and scales."""
    pixels = np.empty((len(positions), form.channels, *form.image_size), dtype=np.uint8)
    sizes, notes, bad = list[tuple[int, int]](), list[str](), list[tuple[int, str]]()
    # Twice the size that is needed, so that the last step down is the antialiased one.
    # Of a glyph nobody knows yet how small it stands in its image.
    shorter = 2 * max(form.image_size) if form.glyph is None else 0
    for position in positions:
        try:
            decoded = decode_in_thread(
                open_at(position), shorter=shorter, pixel_range=form.pixel_range, background=form.background
            )
        except DataError as error:
            if must_be_decided and isinstance(error, NoRangeError):
                raise UndecidedFound from None
            bad.append((position, error.cause))
            continue
        if must_be_grey and not is_grey(decoded.pixels):
            raise ColourFound
        undecided = decoded.deep and form.pixel_range is None, decoded.ink is not None and form.background is None
        if must_be_decided and any(undecided):
            raise UndecidedFound
        pixels[len(sizes)] = _fitted(decoded.pixels, form)
        sizes.append(decoded.size)
        notes += [decoded.note] if decoded.note else []
    return Block(pixels[: len(sizes)], sizes, notes, bad)


def _fitted(pixels: UInt8[ndarray, "h w k"], form: InputSpec) -> UInt8[ndarray, "c H W"]:
    """Bring an image into a form; one in that form already passes untouched."""
    if form.glyph is None and pixels.shape == (*form.image_size, form.channels):
        return pixels.transpose(2, 0, 1)
    return fit(pixels, form)
