"""LabelledImages: the record that every reader returns and every run takes."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64, Shaped, UInt8
from numpy import ndarray
from numpy.typing import ArrayLike

from imprint.core.errors import DataError, UsageError
from imprint.core.memmap import in_chunks, select_rows

HASHED_TOGETHER = 256  # images
MOST_NAMED = 30  # classes in a message
WHOLE_NUMBER = re.compile(r"([+-]?[0-9]{1,18})(?:\.0+)?")


@dataclass(frozen=True)
class LoadedFrom:
    """Where `load` found images: a path, absolute but for bundled sets, and what it was told of how to read it."""

    path: str
    options: dict[str, Any]


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images in memory or memory-mapped, with their labels where these are known.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (n, channels, height, width)
        Brightness from 0 (black) to 255; 1 channel is grey, 3 are red, green and blue. Not to be written to where
        they are mapped from a file, since they may be read from it again.
    labels : ndarray of int64, shape (n,), or None
        Positions in `class_names`; None when the labels are unknown.
    class_names : tuple of str
        The labels as they stood in the data: whole numbers in order of size, else words in
        alphabetical order. Empty when the labels are unknown.
    sources : ndarray, shape (n,)
        Where each image came from: whole numbers are rows of a CSV of pixels (the first
        image is row 1), anything else is text.
    name : str
        Where the data came from, for messages.
    unreadable : tuple of (str, str), default=()
        Source and cause of each image that was left out.
    groups : ndarray of str, shape (n,), or None
        Images of one person or scene bear one name; None when nobody said.
    sizes : ndarray of int32, shape (n, 2), or None
        Height and width of each image as it stood in its file; None when all are as in `pixels`.
    loaded_from : LoadedFrom or None
        Where `load` read exactly these images; None of images that were made, or picked from others.

    Raises
    ------
    DataError
        When shapes or types do not fit together.

    Examples
    --------
    >>> from imprint.data.load import load
    >>> images = load("digits")
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
    loaded_from: LoadedFrom | None = None

    def __post_init__(self) -> None:
        for what, kinds in (("pixels", "buif"), ("labels", "i"), ("sources", "iU")):
            values = getattr(self, what)
            if values is None and what == "labels":
                continue
            if not isinstance(values, ndarray) or values.dtype.kind not in kinds:
                raise self._error(what, f"{kind_of(values)} is not how they are kept")
        if self.pixels.ndim != 4 or self.pixels.dtype != np.uint8 or not self.pixels.size:
            raise self._error("pixels", f"shape {self.pixels.shape} of {self.pixels.dtype} is no stack of images")
        if self.labels is not None and self.labels.shape != (len(self),):
            raise self._error("labels", f"{len(self.labels)} labels cannot belong to {len(self)} images")
        if self.labels is not None and not 0 <= self.labels.min() <= self.labels.max() < len(self.class_names):
            raise self._error("labels", f"they point outside the {len(self.class_names)} class names")
        if self.sources.shape != (len(self),):
            raise self._error("sources", f"{len(self.sources)} sources cannot belong to {len(self)} images")
        for what, values in (("groups", self.groups), ("sizes", self.sizes)):
            if values is not None and len(values) != len(self):
                raise self._error(what, f"{len(values)} {what} cannot belong to {len(self)} images")
        if min(self.pixels.strides) < 0:  # turned or mirrored by numpy, which torch does not take
            object.__setattr__(self, "pixels", np.ascontiguousarray(self.pixels))

    def _error(self, what: str, cause: str) -> DataError:
        return DataError(
            what, self.name, cause, "Give uint8 pixels [n, channels, height, width], one label and source each."
        )

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, chosen: ArrayLike | slice | int) -> LabelledImages:
        """Pick some of the images, in the order given; the classes stay as they are."""
        places = chosen if isinstance(chosen, slice) else np.atleast_1d(chosen)
        if isinstance(places, slice) and (places.step or 1) < 0:
            places = np.arange(len(self))[places]  # mapped images stay mapped

        def pick(values: ndarray | None) -> ndarray | None:
            return None if values is None else values[places]

        return replace(
            self,
            pixels=self.pixels[places] if isinstance(places, slice) else select_rows(self.pixels, places),
            labels=pick(self.labels),
            sources=self.sources[places],
            groups=pick(self.groups),
            sizes=pick(self.sizes),
            loaded_from=None,
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of each image, in pixels.

        Returns
        -------
        tuple of int
            ``(channels, height, width)``.

        Examples
        --------
        >>> from imprint.data.load import load
        >>> load("digits").shape
        (1, 8, 8)
        """
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    @property
    def from_pixel_table(self) -> bool:
        """Whether the images are the rows of a CSV of pixels, as Kaggle hands out.

        Returns
        -------
        bool
            True when `sources` are row numbers.

        Examples
        --------
        >>> from imprint.data.load import load
        >>> load("digits").from_pixel_table
        False
        """
        return bool(self.sources.dtype.kind == "i")

    @cached_property
    def fingerprint(self) -> str:
        """Pixels, labels and class names boiled down to a few letters, which any change or other order changes.

        Returns
        -------
        str
            32 hexadecimal digits.

        Examples
        --------
        >>> from imprint.data.load import load
        >>> digits = load("digits")
        >>> digits.fingerprint == digits[::-1].fingerprint
        False
        """
        digest = hashlib.blake2b(repr((self.pixels.shape, self.class_names)).encode(), digest_size=16)
        for part in in_chunks(self.pixels, HASHED_TOGETHER):
            digest.update(np.ascontiguousarray(part).data)
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()

    def class_counts(self) -> dict[str, int]:
        """Count the images of each class.

        Returns
        -------
        dict of str to int
            In the order of `class_names`; empty when the labels are unknown.

        Examples
        --------
        >>> from imprint.data.load import load
        >>> load("digits").class_counts()["0"]
        178
        """
        if self.labels is None:
            return {}
        counts = np.bincount(self.labels, minlength=len(self.class_names))
        return dict(zip(self.class_names, counts.tolist(), strict=True))

    def labels_among(self, class_names: tuple[str, ...]) -> Int64[ndarray, " n"]:
        """Give the labels as positions in another list of classes, matched by name.

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
        >>> from imprint.data.load import load
        >>> load("digits").labels_among(("9", *"012345678"))[:3]
        array([1, 2, 3])
        """
        if self.labels is None:
            raise DataError("labels", self.name, "there are none", "Use data that has labels.")
        position = {name: i for i, name in enumerate(class_names)}
        for i in np.unique(self.labels):
            if self.class_names[i] not in position:
                first = self.sources[np.argmax(self.labels == i)]
                others = f" and {len(class_names) - MOST_NAMED:,} more" if len(class_names) > MOST_NAMED else ""
                raise DataError(
                    f"label {_in_brief(self.class_names[i])!r}",
                    f"{self.name} row {first}" if self.from_pixel_table else str(first),
                    f"the model knows only {', '.join(map(_in_brief, class_names[:MOST_NAMED]))}{others}",
                    "Correct the label, or train a model with that class.",
                )
        # A class that no image has may be unknown to the model; it is never looked up.
        table = np.array([position.get(name, -1) for name in self.class_names], dtype=np.int64)
        return np.take(table, self.labels)


def _in_brief(name: str) -> str:
    """Cut a class name that a message has no room for."""
    return name if len(name) <= 40 else f"{name[:39]}…"


def kind_of(value: object) -> str:
    """Tell what kind of thing something is, for messages.

    Parameters
    ----------
    value : object
        Anything.

    Returns
    -------
    str
        Its type, and of arrays the type of their elements.

    Examples
    --------
    >>> kind_of([1, 2]), kind_of(np.zeros(2))
    ('list', 'ndarray of float64')
    """
    return f"ndarray of {value.dtype}" if isinstance(value, ndarray) else type(value).__name__


def expect_images(given: object, where: str) -> None:
    """Refuse what is no `LabelledImages`, such as a path or an array.

    Parameters
    ----------
    given : object
        What somebody handed over.
    where : str
        To which function.

    Raises
    ------
    UsageError
        When it is something else.

    Examples
    --------
    >>> expect_images("train.csv", "train")
    Traceback (most recent call last):
    imprint.core.errors.UsageError: images at train: str is no LabelledImages. Use imprint.load(PATH), or for arrays
    imprint.ImageClassifier.
    """
    if not isinstance(given, LabelledImages):
        remedy = "Use imprint.load(PATH), or for arrays imprint.ImageClassifier."
        raise UsageError("images", where, f"{kind_of(given)} is no LabelledImages", remedy)


def encode_labels(names: Shaped[ndarray, " n"]) -> tuple[Int64[ndarray, " n"], tuple[str, ...]]:
    """Turn labels into numbers, one for each class.

    Where all are whole numbers, those of one value are one class, however they are written.

    Parameters
    ----------
    names : ndarray of str, shape (n,)
        The labels as they stand in the data.

    Returns
    -------
    labels : ndarray of int64, shape (n,)
        Position of each label in `class_names`.
    class_names : tuple of str
        Each class once: in order of size when all are whole numbers, else of the alphabet. A number that is
        written in one way keeps it, such as 07; 3.0 becomes 3.

    Examples
    --------
    >>> encode_labels(np.array(["10", "9", "10"]))
    (array([1, 0, 1]), ('9', '10'))
    >>> encode_labels(np.array(["7", "07", "3.0"]))
    (array([1, 1, 0]), ('3', '7'))
    """
    found, positions = np.unique(names, return_inverse=True)
    whole = [match for name in found.tolist() if (match := WHOLE_NUMBER.fullmatch(name))]
    if len(whole) < len(found):
        return positions.astype(np.int64), tuple(found.tolist())
    spellings: dict[int, set[str]] = {}
    for match in whole:
        spellings.setdefault(int(match[1]), set()).add(match[1])
    values = sorted(spellings)
    rank = np.array([values.index(int(match[1])) for match in whole], dtype=np.int64)
    names_of = [spellings[value].pop() if len(spellings[value]) == 1 else str(value) for value in values]
    return rank[positions], tuple(names_of)
