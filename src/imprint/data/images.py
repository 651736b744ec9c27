"""LabelledImages: the record that every reader returns and every run takes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int32, Int64, Shaped, UInt8, UInt64
from numpy import ndarray
from numpy.typing import ArrayLike

from imprint.core.errors import DataError, UsageError, brief, did_you_mean
from imprint.core.memmap import in_chunks, keep_hashes, kept_hashes, select_rows
from imprint.core.texts import text_array
from imprint.preprocessing.depth import Range
from imprint.preprocessing.input_spec import MAX_CHANNELS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HASH_CHUNK = 256  # images
MAX_CLASSES_SHOWN = 30  # in a message
MAX_NAME_SHOWN = 40  # characters of a class name
WHOLE_NUMBER = re.compile(r"([+-]?[0-9]{1,18})(?:\.0+)?")


@dataclass(frozen=True)
class LoadedFrom:
    """Where `load` read images.

    Parameters
    ----------
    path : str
        Absolute, but for bundled sets.
    options : dict
        What `load` was told: `part`, `side`, `label`, `group`, `ids`, `allow_bad`, `classes`, `labels`, and as `form`
        the channels, height and width that the images were brought into, with `pixel_range` and `background` where
        these were given.

    Examples
    --------
    >>> from imprint import load
    >>> load("digits").loaded_from.path
    'digits'
    """

    path: str
    options: dict[str, Any]

    def __repr__(self) -> str:
        told = [f"{key}={value}" for key, value in self.options.items() if value is not None]
        return brief(self, _shortened(", ".join([self.path, *told]), 200))


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images in memory or memory-mapped, with their labels where these are known.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (n, channels, height, width)
        Brightness from 0 (black) to 255; 1 channel is grey, 3 are red, green and blue, and 2 or 4 may be anything. Do
        not write to them where they are mapped from a file, since they may be read from it again.
    labels : ndarray of int64, shape (n,), or None
        Positions in `class_names`; None when the labels are unknown.
    class_names : tuple of str
        The classes as the data name them: whole numbers in order of size, else words in alphabetical order. Empty when
        the labels are unknown.
    sources : ndarray, shape (n,)
        Where each image came from: whole numbers are rows of a CSV of pixels (the first image is row 1), anything else
        is text, of numpy's ``StringDType``. ``sources.tolist()`` gives plain numbers or str; ``np.savez`` takes
        ``np.array(sources.tolist())``.
    name : str, default="images"
        What the data are called in messages.
    unreadable : tuple of (str, str), default=()
        Source and cause of each image that was left out.
    groups : ndarray of str, shape (n,), or None, default=None
        Images of one person or scene have the same name; None when that is unknown.
    sizes : ndarray of int32, shape (n, 2), or None, default=None
        Height and width of each image in its file, in pixels; None when all are as in `pixels`.
    ids : ndarray of str, shape (n,), or None, default=None
        What a table calls each image in its column of ids, unchanged; None without such a column.
    headers : tuple of str, default=("", "")
        The names of a table's columns of ids and of labels; empty where it has none.
    loaded_from : LoadedFrom or None, default=None
        Where `load` read exactly these images; None for images that were made, or selected from others.
    pixel_range : tuple of float or None, default=None
        Which numbers of their files became black and white; None when these were bytes.
    background : int or None, default=None
        What they were laid on, 0 for black or 255 for white; None when none was transparent.

    Raises
    ------
    DataError
        When shapes or types do not fit together.

    Examples
    --------
    >>> import imprint
    >>> images = imprint.load("digits")
    >>> len(images), images.pixels.shape, images.class_names[:3]
    (1797, (1797, 1, 8, 8), ('0', '1', '2'))
    """

    pixels: UInt8[ndarray, "n c h w"]
    labels: Int64[ndarray, " n"] | None
    class_names: tuple[str, ...]
    sources: Shaped[ndarray, " n"]
    name: str = "images"
    unreadable: tuple[tuple[str, str], ...] = ()
    groups: Shaped[ndarray, " n"] | None = None
    sizes: Int32[ndarray, "n 2"] | None = None
    ids: Shaped[ndarray, " n"] | None = None
    headers: tuple[str, str] = ("", "")
    loaded_from: LoadedFrom | None = None
    pixel_range: Range | None = None
    background: int | None = None

    def __post_init__(self) -> None:
        for what in ("sources", "groups", "ids"):
            if isinstance(values := getattr(self, what), ndarray) and values.dtype.kind == "U":
                object.__setattr__(self, what, text_array(values.tolist()))
        for what, kinds in (("pixels", "buif"), ("labels", "i"), ("sources", "iT")):
            values = getattr(self, what)
            if values is None and what == "labels":
                continue
            if not isinstance(values, ndarray) or values.dtype.kind not in kinds:
                raise self._error(what, f"{kind_of(values)} is not the right type")
        if self.pixels.ndim != 4 or self.pixels.dtype != np.uint8 or not self.pixels.size:
            raise self._error("pixels", f"shape {self.pixels.shape} of {self.pixels.dtype} is no stack of images")
        if (channels := self.pixels.shape[1]) > MAX_CHANNELS:
            raise self._error("pixels", f"{channels} channels are more than {MAX_CHANNELS}")
        if self.labels is not None and self.labels.shape != (len(self),):
            raise self._error("labels", f"{len(self.labels)} labels cannot belong to {len(self)} images")
        if self.labels is not None and not 0 <= self.labels.min() <= self.labels.max() < len(self.class_names):
            raise self._error("labels", f"they point outside the {len(self.class_names)} class names")
        if self.sources.shape != (len(self),):
            raise self._error("sources", f"{len(self.sources)} sources cannot belong to {len(self)} images")
        for what, values in (("groups", self.groups), ("sizes", self.sizes), ("ids", self.ids)):
            if values is not None and len(values) != len(self):
                raise self._error(what, f"{len(values)} {what} cannot belong to {len(self)} images")
        if min(self.pixels.strides) < 0:  # turned or mirrored by NumPy; torch has no negative strides
            object.__setattr__(self, "pixels", np.ascontiguousarray(self.pixels))

    def _error(self, what: str, cause: str) -> DataError:
        return DataError(
            what, self.name, cause, "Give uint8 pixels [n, channels, height, width], one label and source each."
        )

    def __len__(self) -> int:
        return len(self.pixels)

    def __repr__(self) -> str:
        return brief(self, f"{_shortened(self.name)}: {self._summary()}")

    def _repr_html_(self) -> str:
        from imprint.core.html import ORANGE, TILES, block, count_bars, line, tile, tiles

        shown = some_of_each(self, TILES)
        names = image_titles(shown)
        names = [name.rsplit("/", 1)[-1] for name in names] if self.labels is None else names
        titled = zip(shown.pixels, names, shown.sources, strict=True)
        each = [tile(np.asarray(image), title, hint=str(source)) for image, title, source in titled]
        left_out = [line(f"{len(self.unreadable):,} could not be read", ORANGE)] if self.unreadable else []
        counts = [] if self.labels is None else [count_bars(self.class_counts())]
        return block(self.name, self._summary(), tiles(each), *left_out, *counts)

    def _summary(self) -> str:
        from imprint.preprocessing.input_spec import describe

        classes = "no labels" if self.labels is None else _counted(len(self.class_names), "class", "classes")
        return f"{_counted(len(self), 'image', 'images')} of {describe(self.shape)}, {classes}"

    def __getitem__(self, chosen: ArrayLike | slice | int) -> LabelledImages:
        """Select images, in the order given; the classes stay as they are."""
        rows = chosen if isinstance(chosen, slice) else np.atleast_1d(chosen)
        if isinstance(rows, slice) and (rows.step or 1) < 0:
            rows = np.arange(len(self))[rows]  # mapped images stay mapped
        return replace(
            self,
            pixels=self.pixels[rows] if isinstance(rows, slice) else select_rows(self.pixels, rows),
            labels=None if self.labels is None else self.labels[rows],
            sources=self.sources[rows],
            groups=None if self.groups is None else self.groups[rows],
            sizes=None if self.sizes is None else self.sizes[rows],
            ids=None if self.ids is None else self.ids[rows],
            loaded_from=None,
        )

    def select(self, classes: Sequence[str]) -> LabelledImages:
        """Select the images of some classes; the other classes are gone.

        ``images[mask]`` keeps the classes as they are, also those that no image is left of.

        Parameters
        ----------
        classes : sequence of str
            Names of classes.

        Returns
        -------
        LabelledImages
            Their images; classes and images in the order that they had.

        Raises
        ------
        DataError
            When the labels are unknown, or no class has one of the names.

        Examples
        --------
        >>> import imprint
        >>> imprint.load("digits").select(classes=["7", "1"]).class_counts()
        {'1': 182, '7': 179}
        """
        wanted = [classes] if isinstance(classes, str) else [str(name) for name in classes]
        if self.labels is None:
            raise DataError("classes", self.name, "there are no labels", "Use data that has labels.")
        for name in wanted or [""]:
            if name not in self.class_names:
                shown = ", ".join(map(_shortened, self.class_names[:MAX_CLASSES_SHOWN]))
                remedy = f"{did_you_mean(name, self.class_names)}Its classes: {shown}."
                raise DataError(f"class {_shortened(name)!r}", self.name, "there is no such class", remedy)
        kept = tuple(name for name in self.class_names if name in wanted)
        loaded = self.loaded_from
        loaded = None if loaded is None else replace(loaded, options={**loaded.options, "classes": list(kept)})
        if kept == self.class_names:
            return replace(self, loaded_from=loaded)
        chosen = self[np.flatnonzero(np.isin(self.labels, [self.class_names.index(name) for name in kept]))]
        if not len(chosen):
            raise DataError("images", self.name, f"there are none of {', '.join(wanted)}", "Name other classes.")
        renumbered = np.array([kept.index(name) if name in kept else -1 for name in self.class_names], dtype=np.int64)
        return replace(chosen, labels=renumbered[chosen.labels], class_names=kept, loaded_from=loaded)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of each image, in pixels.

        Returns
        -------
        tuple of int
            ``(channels, height, width)``.

        Examples
        --------
        >>> import imprint
        >>> imprint.load("digits").shape
        (1, 8, 8)
        """
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    @property
    def from_pixel_table(self) -> bool:
        """Whether the images are rows of a CSV of pixels, as in Kaggle's digit recogniser.

        Returns
        -------
        bool
            True when `sources` are row numbers.

        Examples
        --------
        >>> import imprint
        >>> imprint.load("digits").from_pixel_table
        False
        """
        return bool(self.sources.dtype.kind == "i")

    @cached_property
    def pixel_hashes(self) -> UInt64[ndarray, " n"]:
        """BLAKE2b hash of each image's pixels; two different images share one by chance in 1 of 2⁶⁴ pairs.

        Returns
        -------
        ndarray of uint64, shape (n,)
            Read-only.

        Examples
        --------
        >>> import imprint
        >>> digits = imprint.load("digits")
        >>> len(set(digits.pixel_hashes.tolist()))
        1797
        """
        hashes = kept_hashes(self.pixels)
        if hashes is None:
            hashes = np.frombuffer(b"".join(map(hash_images, in_chunks(self.pixels, HASH_CHUNK))), dtype=np.uint64)
            keep_hashes(self.pixels, hashes)
        return hashes

    @cached_property
    def fingerprint(self) -> str:
        """BLAKE2b hash of `pixel_hashes`, labels and class names, in their order.

        Returns
        -------
        str
            40 hexadecimal digits.

        Examples
        --------
        >>> import imprint
        >>> digits = imprint.load("digits")
        >>> digits.fingerprint == digits[::-1].fingerprint
        False
        """
        return _digest(self, [self.pixel_hashes], size=20)

    def plot(self, count: int = 10) -> Figure:
        """Draw images of as many classes as possible, each under its label, or its source where labels are unknown.

        Parameters
        ----------
        count : int, default=10
            How many to draw, at most.

        Returns
        -------
        matplotlib.figure.Figure
            A notebook shows it; ``figure.savefig("images.png")`` writes it. pyplot does not keep it.

        Raises
        ------
        UsageError
            When `count` is below 1.

        Examples
        --------
        >>> import imprint
        >>> len(imprint.load("digits").plot(count=5).axes)
        5
        """
        from imprint.core.plot_style import draw_grid

        if count < 1:
            raise UsageError(f"count {count}", "plot", "there is nothing to draw", "Give 1 or more.")
        shown = some_of_each(self, count)
        return draw_grid(shown.pixels, image_titles(shown))

    def class_counts(self) -> dict[str, int]:
        """Count the images of each class.

        Returns
        -------
        dict of str to int
            In the order of `class_names`; empty when the labels are unknown.

        Examples
        --------
        >>> import imprint
        >>> imprint.load("digits").class_counts()["0"]
        178
        """
        if self.labels is None:
            return {}
        counts = np.bincount(self.labels, minlength=len(self.class_names))
        return dict(zip(self.class_names, counts.tolist(), strict=True))

    def labels_among(self, class_names: tuple[str, ...]) -> Int64[ndarray, " n"]:
        """Convert the labels to positions in another list of classes, matched by name.

        Parameters
        ----------
        class_names : tuple of str
            The classes of a model.

        Returns
        -------
        ndarray of int64, shape (n,)
            Positions in the given `class_names`.

        Raises
        ------
        DataError
            When the labels are unknown or one of them is no class of the model.

        Examples
        --------
        >>> import imprint
        >>> imprint.load("digits").labels_among(("9", *"012345678"))[:3]
        array([1, 2, 3])
        """
        if self.labels is None:
            raise DataError("labels", self.name, "there are none", "Use data that has labels.")
        position = {name: i for i, name in enumerate(class_names)}
        for i in np.unique(self.labels):
            if self.class_names[i] not in position:
                first = self.sources[np.argmax(self.labels == i)]
                others = (
                    f" and {len(class_names) - MAX_CLASSES_SHOWN:,} more"
                    if len(class_names) > MAX_CLASSES_SHOWN
                    else ""
                )
                raise DataError(
                    f"label {_shortened(self.class_names[i])!r}",
                    f"{self.name} row {first}" if self.from_pixel_table else str(first),
                    f"the model knows only {', '.join(map(_shortened, class_names[:MAX_CLASSES_SHOWN]))}{others}",
                    "Correct the label, or train a model with that class.",
                )
        # A class that no image has may be unknown to the model; it is never looked up.
        table = np.array([position.get(name, -1) for name in self.class_names], dtype=np.int64)
        return np.take(table, self.labels)


def earlier_fingerprint(images: LabelledImages) -> str:
    """Compute a fingerprint as versions up to 0.2 did: of the pixels themselves, all of which are read; 32 digits."""
    return _digest(images, in_chunks(images.pixels, HASH_CHUNK), size=16)


def has_fingerprint(images: LabelledImages, noted: str) -> bool:
    """Tell whether a noted fingerprint is that of images, whichever version noted it."""
    return noted == (earlier_fingerprint(images) if len(noted) == 32 else images.fingerprint)


def _digest(images: LabelledImages, parts: Iterable[ndarray], size: int) -> str:
    digest = hashlib.blake2b(repr((images.pixels.shape, images.class_names)).encode(), digest_size=size)
    for part in parts if images.labels is None else chain(parts, [images.labels]):
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def hash_images(pixels: UInt8[ndarray, "n c h w"]) -> bytes:
    """Hash each image's pixels, as `LabelledImages.pixel_hashes` gives them; eight bytes each."""
    return b"".join(hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in pixels)


def one_of_each(labels: Int64[ndarray, " n"], count: int) -> Int64[ndarray, " chosen"]:
    """Choose the positions of images to show: the first of each class, then the second of each, and so on.

    At most `count`, by class where one of each is enough.
    """
    by_class = np.argsort(labels, kind="stable")
    _, start = np.unique(labels[by_class], return_index=True)
    turn = np.arange(len(labels)) - np.repeat(start, np.diff(np.append(start, len(labels))))
    return np.asarray(by_class[np.argsort(turn, kind="stable")][:count])


def some_of_each(images: LabelledImages, count: int) -> LabelledImages:
    """Select images to show: of as many classes as possible, else the first."""
    return images[:count] if images.labels is None else images[one_of_each(images.labels, count)]


def image_titles(images: LabelledImages) -> list[str]:
    """Name each image for people: by its label, else by where it came from."""
    if images.labels is None:
        return [f"{'row ' if images.from_pixel_table else ''}{source}" for source in images.sources]
    return [images.class_names[label] for label in images.labels]


def _counted(count: int, one: str, several: str) -> str:
    return f"{count:,} {one if count == 1 else several}"


def _shortened(name: str, most: int = MAX_NAME_SHOWN) -> str:
    """Cut a class name that is too long for a message."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def kind_of(value: object) -> str:
    """Name the type of a value for messages, and of arrays the type of their elements."""
    return f"ndarray of {value.dtype}" if isinstance(value, ndarray) else type(value).__name__


def expect_images(given: object, where: str) -> None:
    """Raise UsageError for what is no `LabelledImages`, such as a path or an array; `where` names the function."""
    if not isinstance(given, LabelledImages):
        remedy = "Use imprint.load(PATH), or for arrays imprint.ImageClassifier."
        raise UsageError("images", where, f"{kind_of(given)} is no LabelledImages", remedy)


def encode_labels(names: Shaped[ndarray, " n"] | Sequence[str]) -> tuple[Int64[ndarray, " n"], tuple[str, ...]]:
    """Convert labels to positions in the class names: whole numbers in order of size, else words in alphabetical order.

    Where all are whole numbers, spellings of one value are one class. A value that is spelled in one way keeps it, such
    as 07; 3.0 becomes 3.
    """
    if isinstance(names, ndarray):
        names = names.tolist()
    found = sorted(set(names))
    place = {name: i for i, name in enumerate(found)}  # np.unique sorts all of them, which takes seven times as long
    positions = np.fromiter(map(place.__getitem__, names), dtype=np.int64, count=len(names))
    whole = [match for name in found if (match := WHOLE_NUMBER.fullmatch(name))]
    if len(whole) < len(found):
        return positions, tuple(found)
    spellings: dict[int, set[str]] = {}
    for match in whole:
        spellings.setdefault(int(match[1]), set()).add(match[1])
    values = sorted(spellings)
    rank = np.array([values.index(int(match[1])) for match in whole], dtype=np.int64)
    names_of = [spellings[value].pop() if len(spellings[value]) == 1 else str(value) for value in values]
    return rank[positions], tuple(names_of)
