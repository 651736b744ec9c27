"""Images in a CSV of pixels, as in Kaggle's digit recogniser: one image a row, its columns recognised by name."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars
from jaxtyping import Shaped, UInt8
from numpy import ndarray

from imprint.core.errors import DataError, UsageError
from imprint.core.progress import say
from imprint.data.decoding.content import gunzip, to_utf8
from imprint.data.images import WHOLE_NUMBER, LabelledImages, encode_labels
from imprint.data.readers.columns import (
    BOOKKEEPING,
    BY_NAME,
    IDS,
    LABELS,
    Choice,
    doubled,
    find_column,
    first_named,
    no_label_among,
    normalised,
)

NUMBERED = re.compile(r"(?:pixel)?[ _-]?(\d+)", re.IGNORECASE)  # pixel0, pixel_0000, 0
BY_PLACE = re.compile(r"(\d+)x(\d+)", re.IGNORECASE)  # 1x1 … 28x28: row x column, from 1
SMALLEST_WITHOUT_HEADER = 8  # pixels a side; a smaller image is told to have a header
NAME_THE_COLUMNS = "Name the columns label, pixel0, pixel1, … as Kaggle does."
COMPRESSED = (b"\x1f\x8b", b"x\x01", b"x^", b"x\x9c", b"x\xda", b"\x28\xb5\x2f\xfd")  # gzip, zlib, Zstandard


def read_csv(path: Path, choice: Choice = BY_NAME) -> LabelledImages:
    """Read a CSV of pixels, plain or gzipped, separated by commas, semicolons or tabs; images are square.

    Sources are row numbers from 1, the header not counted. DataError names the first bad cell, row or column.
    """
    where, text = path.name, _read_text(path)
    header, _, body = text.partition(b"\n")
    separator = max(b",;\t", key=lambda mark: header.count(mark))
    names = _split_header(header, chr(separator), where)
    if first := _first_row(names):
        names, body = (
            _names_of_row(len(first)),
            b",".join(map(str.encode, first)).replace(b",", chr(separator).encode()) + b"\n" + body,
        )
    columns = read_columns(names, where, choice)
    pixels, cells = _read_fast(body, chr(separator), columns) or _read_slowly(body, chr(separator), columns, where)
    if first:
        columns = _label_of_row(columns, cells, where)
    columns = settle_columns(columns, cells, where)
    if columns.unused:
        say(f"columns {', '.join(columns.names[at] for at in columns.unused[:8])} of {where} are not used")
    height, width, channels = columns.shape
    stack = np.ascontiguousarray(pixels.reshape(-1, height, width, channels).transpose(0, 3, 1, 2))
    labels, class_names = None, tuple[str, ...]()
    if columns.label is not None:
        labels, class_names = encode_labels(_checked_labels(cells[columns.label], where, columns.names[columns.label]))
    return LabelledImages(
        stack,
        labels,
        class_names,
        np.arange(1, len(stack) + 1),
        where,
        groups=None if columns.group is None else cells[columns.group],
        ids=None if columns.ids is None else cells[columns.ids],
        headers=columns.headers,
    )


def _first_row(names: list[str]) -> list[str] | None:
    """Give the values of a first line that holds an image instead of names; None where it holds names.

    pandas numbers doubled names, so that 0, 0, 7, 0 became 0, 0.1, 7, 0.2.
    """
    cells = [name.strip() for name in names]
    square = _shape_of(len(cells))[0] or _shape_of(len(cells) - 1)[0]
    if square < SMALLEST_WITHOUT_HEADER or not all(re.fullmatch(r"\d+(\.\d+)?", cell) for cell in cells[1:-1]):
        return None
    values = [re.sub(r"(?<=\d)\.\d+$", "", cell) for cell in cells]
    if len(set(cells)) == len(cells) == len(set(values)):
        return None  # 0 to 783: names of pixels
    return values


def _names_of_row(count: int) -> list[str]:
    """Name the columns of a table without a header: all pixels, or one column more, which `_label_of_row` places."""
    if _shape_of(count)[0]:
        return [f"pixel{i}" for i in range(count)]
    return ["first", *(f"pixel{i}" for i in range(count - 1))]


def _label_of_row(columns: Columns, cells: dict[int, ndarray], where: str) -> Columns:
    """Take the first column for the labels."""
    if columns.unused:
        say(f"{where} has no line of names: its first column is taken for the labels, the others for pixels")
        return replace(columns, names=("label", *columns.names[1:]), label=0, unused=())
    say(f"{where} has no line of names: all columns are taken for pixels")
    return columns


def _read_text(path: Path) -> bytes:
    """Read a file as UTF-8 without byte-order mark, blank lines at its ends or carriage returns in its header."""
    text = to_utf8(gunzip(path.read_bytes(), path.name)).strip(b"\r\n")
    if not text.strip():
        raise DataError("no content", path.name, "the file is empty", NAME_THE_COLUMNS)
    if b"\n" not in text:
        text = text.replace(b"\r", b"\n")  # line ends of old Macs
    return text


def _split_header(header: bytes, separator: str, where: str) -> list[str]:
    try:
        line = header.decode("utf-8")
    except UnicodeDecodeError:
        line = "\0"
    if "\0" in line:
        raise DataError("line 1", where, "it is not text", "Save the table as CSV in UTF-8.")
    try:
        return next(csv.reader([line.rstrip("\r")], delimiter=separator, skipinitialspace=True))
    except csv.Error as error:
        raise DataError("line 1", where, f"it is no line of names ({error})", NAME_THE_COLUMNS) from None


Table = tuple[UInt8[ndarray, "n pixels"], dict[int, Shaped[ndarray, " n"]]]  # pixels, and the text of other columns


def _read_fast(body: bytes, separator: str, columns: Columns) -> Table | None:
    """Read all rows at once; None if any cell is not a plain whole number from 0 to 255."""
    names = [f"{i}" for i in range(len(columns.names))]
    schema: dict[str, type[polars.DataType]] = dict.fromkeys(names, polars.String)
    schema |= {names[i]: polars.UInt8 for i in columns.pixels}
    # Polars unpacks content that begins as a packed stream does, such as the label x^2, and panics over an open quote.
    if body.startswith(COMPRESSED) or body.count(b'"') % 2:
        return None
    try:
        table = polars.read_csv(body, has_header=False, separator=separator, schema=schema)
    except (polars.exceptions.PolarsError, polars.exceptions.PanicException, OSError):
        return None
    pixels = table.select(names[i] for i in columns.pixels)
    others = {at: table[names[at]] for at in columns.others}
    if not len(table) or any(column.null_count() for column in pixels):
        return None
    if columns.label is not None and others[columns.label].null_count():
        return None
    return pixels.to_numpy(order="c"), {at: cells.fill_null("").to_numpy().astype(str) for at, cells in others.items()}


def _read_slowly(body: bytes, separator: str, columns: Columns, where: str) -> Table:
    """Read row by row: accepts what `_read_fast` does not (255.0, spaces), and names the first bad cell."""
    try:
        lines = io.StringIO(body.decode("utf-8"), newline="")
    except UnicodeDecodeError as error:
        row = body.count(b"\n", 0, error.start) + 1
        raise DataError("text", f"{where} row {row}", "it is not UTF-8", "Save the table as CSV in UTF-8.") from None
    pixels, others = [], dict[int, list[str]]((at, []) for at in columns.others)
    try:
        for row, cells in enumerate(csv.reader(lines, delimiter=separator), start=1):
            if len(cells) != len(columns.names):
                raise _ragged(len(cells), len(columns.names), f"{where} row {row}")
            pixels.append(_whole_numbers([cells[i] for i in columns.pixels], columns, f"{where} row {row}"))
            for at, values in others.items():
                values.append(cells[at])
    except csv.Error as error:
        raise DataError(
            "quotes", f"{where} row {len(pixels) + 1}", f"they do not match ({error})", "Remove stray quotes."
        ) from None
    if not pixels:
        raise DataError("no images", where, "there is a header but no row", "Add rows of pixels below the header.")
    return np.stack(pixels), {at: np.array(values) for at, values in others.items()}


def _ragged(cells: int, expected: int, where: str) -> DataError:
    if not cells:
        return DataError("no cells", where, "the line is empty", "Remove the empty line.")
    return DataError(
        f"{cells} cells", where, f"the header names {expected} columns", "Give each row one cell for each column."
    )


def _whole_numbers(cells: list[str], columns: Columns, where: str) -> UInt8[ndarray, " pixels"]:
    """Convert one row's cells to pixels; raise DataError for the first that is none."""
    try:
        values = np.array([float(cell) for cell in cells])
        plain = (values >= 0) & (values <= 255) & (values == np.floor(values))
        if plain.all() and not any("_" in cell for cell in cells):
            return values.astype(np.uint8)
    except ValueError:
        pass
    bad = next(i for i, cell in enumerate(cells) if not _is_pixel(cell))
    place = f"{where}, column {columns.names[columns.pixels[bad]]}"
    cell = cells[bad].strip()
    if not cell:
        raise DataError("empty cell", place, "a pixel is missing", "Fill the cell, or leave that row out.")
    shown = cell if len(cell) <= 24 else f"{cell[:24]}…"
    remedy = "Divide or clip the column, then run again."
    if _is_share(cell):
        remedy = "Multiply pixels from 0 to 1 by 255 and round them, then run again."
    raise DataError(f"pixel {shown}", place, "pixels are whole numbers from 0 to 255", remedy)


def _is_pixel(cell: str) -> bool:
    try:
        return float(cell) in range(256) and "_" not in cell
    except ValueError:
        return False


def _is_share(cell: str) -> bool:
    try:
        return 0 < float(cell) < 1
    except ValueError:
        return False


def _checked_labels(names: Shaped[ndarray, " n"], where: str, column: str) -> Shaped[ndarray, " n"]:
    """Strip labels; raise DataError for those that are neither whole numbers nor words."""
    known, positions = np.unique(np.char.strip(names), return_inverse=True)
    for i, name in enumerate(known.tolist()):
        place = f"{where} row {int(np.argmax(positions == i)) + 1}, column {column}"
        if name.lower() in ("", "nan"):
            raise DataError("label", place, "it is missing", "Fill in the label, or leave that row out.")
        if re.fullmatch(r"[+-]?\d*\.\d+(e[+-]?\d+)?", name.lower()) and not WHOLE_NUMBER.fullmatch(name):
            raise DataError(f"label {name}", place, "labels are whole numbers or words", "Correct the label column.")
    return known[positions]


@dataclass(frozen=True)
class Columns:
    """The positions of labels, groups, ids and pixels in a table.

    `pixels` are in the image's order: row by row, a colour pixel's red, green and blue side by side; `shape` is height,
    width and channels. `unused` are columns whose names say nothing.
    """

    names: tuple[str, ...]
    label: int | None
    pixels: tuple[int, ...]
    shape: tuple[int, int, int]
    group: int | None = None
    ids: int | None = None
    unused: tuple[int, ...] = ()

    @property
    def others(self) -> tuple[int, ...]:
        """The columns that are read as text."""
        return (*(at for at in (self.label, self.group, self.ids) if at is not None), *self.unused)

    @property
    def headers(self) -> tuple[str, str]:
        """The names of the columns of ids and of labels; empty where there is none."""
        ids, label = ("" if at is None else self.names[at] for at in (self.ids, self.label))
        return ids, label


def read_columns(header: list[str], where: str, choice: Choice = BY_NAME) -> Columns:
    """Recognise columns by name: label, ids, and pixel0… or pixel1…, plain numbers, or 1x1…28x28, in any order.

    Raises DataError when a name is doubled, a pixel is missing, or the images are not square.
    """
    names = tuple(name.strip() for name in header)
    first_row_is_data = sum(name.lstrip("-").replace(".", "", 1).isdigit() for name in names) > 1 and any(
        count > 1 for count in Counter(names).values()
    )
    if first_row_is_data:
        raise DataError("line 1", where, "it holds numbers instead of column names", NAME_THE_COLUMNS)
    places = dict[int | tuple[int, int], int]()
    rest = list[int]()
    for position, name in enumerate(names):
        place = _place(name)
        if place is None:
            rest.append(position)
        elif place in places:
            raise doubled(name, where)
        else:
            places[place] = position
    if len(rest) == len(names) and first_named(names, (*LABELS, *IDS), where) is None:
        cause = f"it names no column, neither path nor label nor pixels: it begins with {names[0]!r}"
        raise DataError("first line", where, cause, f"For image files write path,label above it. {NAME_THE_COLUMNS}")
    label, group, ids = (_chosen(names, name, option, where) for name, option in _options(choice))
    free = [at for at in rest if at not in (label, group, ids)]
    named = [names[at] for at in free]
    if label is None and (at := first_named(named, LABELS, where)) is not None:
        label = free[at]
    if ids is None and (at := first_named(named, IDS, where)) is not None:
        ids = free[at]
    if not places:
        raise DataError("pixels", where, "no column is named pixel0, pixel1, …", NAME_THE_COLUMNS)
    unused = tuple(at for at in free if at not in (label, ids) and normalised(names[at]) not in BOOKKEEPING)
    return Columns(names, label, *_image_order(places, where), group, ids, unused)


def _options(choice: Choice) -> tuple[tuple[str | None, str], ...]:
    return (choice.label, "--label"), (choice.group, "--group"), (choice.ids, "--id")


def _chosen(names: Sequence[str], name: str | None, option: str, where: str) -> int | None:
    """Find the column that an option names."""
    found = find_column(names, name)
    if name is not None and found is None:
        others = [column for column in names if _place(column) is None]
        cause = f"there is no such column, beside the pixels {', '.join(others[:8]) or 'there is none'}"
        raise UsageError(f"column {name!r}", where, cause, f"Name one of them with {option}, or leave it out.")
    return found


def settle_columns(columns: Columns, cells: Mapping[int, Sequence[str] | ndarray], where: str) -> Columns:
    """Take a column whose name says nothing for the ids where each row has its own value, else for the labels."""
    unique = [at for at in columns.unused if len(set(cells[at])) == len(cells[at])]
    repeated = [at for at in columns.unused if at not in unique]
    if columns.label is None and repeated:
        if len(repeated) > 1:
            raise no_label_among([columns.names[at] for at in repeated], where)
        columns = replace(columns, label=repeated[0])
    if columns.ids is None and unique and (len(unique) > 1 or len(cells[unique[0]]) > 1):
        columns = replace(columns, ids=unique[0])
    return replace(columns, unused=tuple(at for at in columns.unused if at not in (columns.label, columns.ids)))


def _place(name: str) -> int | tuple[int, int] | None:
    """Read off a name which pixel a column holds: its number, or its row and column."""
    if numbered := NUMBERED.fullmatch(name):
        return int(numbered[1])
    if placed := BY_PLACE.fullmatch(name):
        return int(placed[1]), int(placed[2])
    return None


def _image_order(places: dict[int | tuple[int, int], int], where: str) -> tuple[tuple[int, ...], tuple[int, int, int]]:
    """Put the pixel columns into the image's order and work out its shape."""
    numbers = [place for place in places if isinstance(place, int)]
    pairs = [place for place in places if isinstance(place, tuple)]
    if numbers and pairs:
        raise DataError("columns", where, f"pixels are named both like {numbers[0]} and {pairs[0]}", NAME_THE_COLUMNS)
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
