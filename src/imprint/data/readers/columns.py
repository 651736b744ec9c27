"""Which columns of a table hold labels and pixels; the same for CSV and Parquet."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from imprint.core.errors import DataError

NUMBERED = re.compile(r"(?:pixel)?[ _-]?(\d+)", re.IGNORECASE)  # pixel0, pixel_0000, 0
BY_PLACE = re.compile(r"(\d+)x(\d+)", re.IGNORECASE)  # 1x1 … 28x28: row x column, from 1
IGNORED = {"", "id", "imageid", "image_id", "unnamed: 0"}  # row numbers, as pandas and Kaggle add them
NAME_IT = "Name the columns label, pixel0, pixel1, … as Kaggle does."


@dataclass(frozen=True)
class Columns:
    """Where a table keeps its images.

    Parameters
    ----------
    names : tuple of str
        Every column, in the file's order.
    label : int or None
        Position of the labels.
    pixels : tuple of int
        Positions of the pixels, in the order of the image: row by row, a colour pixel's red,
        green and blue side by side.
    shape : tuple of int
        Height, width and channels.

    Examples
    --------
    >>> read_columns(["label", "pixel0", "pixel1", "pixel2", "pixel3"], "a.csv").shape
    (2, 2, 1)
    """

    names: tuple[str, ...]
    label: int | None
    pixels: tuple[int, ...]
    shape: tuple[int, int, int]


def read_columns(header: list[str], where: str) -> Columns:
    """Recognise a table's columns by their names.

    Parameters
    ----------
    header : list of str
        The names as they stand in the file.
    where : str
        The file's name, for messages.

    Returns
    -------
    Columns
        Where labels and pixels stand.

    Raises
    ------
    DataError
        When a name is unknown or doubled, a pixel is missing, or the images are not square.

    Examples
    --------
    >>> read_columns(["3", "2", "1", "0", "Label"], "a.csv").pixels
    (3, 2, 1, 0)
    """
    names = tuple(name.strip() for name in header)
    first_row_is_data = sum(name.lstrip("-").replace(".", "", 1).isdigit() for name in names) > 1 and any(
        count > 1 for count in Counter(names).values()
    )
    if first_row_is_data:
        raise DataError("line 1", where, "it holds numbers instead of column names", NAME_IT)
    if all(_place(name) is None and name.lower() not in ("label", *IGNORED) for name in names):
        cause = f"it names no column, neither path nor label nor pixels: it begins with {names[0]!r}"
        raise DataError("first line", where, cause, f"For image files write path,label above it. {NAME_IT}")
    label, places = None, dict[int | tuple[int, int], int]()
    for position, name in enumerate(names):
        place = _place(name)
        if place is not None:
            if place in places:
                raise _doubled(name, where)
            places[place] = position
        elif name.lower() == "label":
            if label is not None:
                raise _doubled(name, where)
            label = position
        elif name.lower() not in IGNORED:
            raise DataError(f"column {name!r}", where, "it is neither a label nor a pixel", f"Remove it. {NAME_IT}")
    if not places:
        raise DataError("pixels", where, "no column is named pixel0, pixel1, …", NAME_IT)
    return Columns(names, label, *_image_order(places, where))


def _place(name: str) -> int | tuple[int, int] | None:
    """Tell which pixel a column holds: its number, or its row and column."""
    if numbered := NUMBERED.fullmatch(name):
        return int(numbered[1])
    if placed := BY_PLACE.fullmatch(name):
        return int(placed[1]), int(placed[2])
    return None


def _doubled(name: str, where: str) -> DataError:
    return DataError(f"column {name}", where, "it is there twice", "Remove or rename one of the two.")


def _image_order(places: dict[int | tuple[int, int], int], where: str) -> tuple[tuple[int, ...], tuple[int, int, int]]:
    """Put the pixel columns into the image's order and work out its shape."""
    numbers = [place for place in places if isinstance(place, int)]
    pairs = [place for place in places if isinstance(place, tuple)]
    if numbers and pairs:
        raise DataError("columns", where, f"pixels are named both like {numbers[0]} and {pairs[0]}", NAME_IT)
    wanted: Iterable[int | tuple[int, int]]
    if pairs:
        side = max(max(pair) for pair in pairs)
        wanted = ((row, column) for row in range(1, side + 1) for column in range(1, side + 1))
    else:
        first = min(1, *numbers)  # numbered from 0 or from 1
        wanted = range(first, max(numbers) + 1)
    order = []
    for place in wanted:
        if place not in places:
            name = f"{place[0]}x{place[1]}" if isinstance(place, tuple) else f"pixel{place}"
            raise DataError(f"column {name}", where, f"it is missing among {len(places)} pixels", "Add the column.")
        order.append(places[place])
    shape = _shape_of(len(order))
    if not shape[0]:
        raise DataError(
            f"{len(order)} pixels",
            where,
            "they make no square image, neither grey (size × size) nor colour (3 × size × size)",
            "Pad or scale the images to squares.",
        )
    return tuple(order), shape


def _shape_of(count: int) -> tuple[int, int, int]:
    """Height, width and channels of a square image with so many numbers; zeros if there is none."""
    for channels in (1, 3):
        side = math.isqrt(count // channels)
        if side * side * channels == count:
            return side, side, channels
    return 0, 0, 0
