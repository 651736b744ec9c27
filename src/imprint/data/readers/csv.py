"""Images in a CSV of pixels, as in Kaggle's digit recogniser: one image a row, its columns recognised by name."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars
from jaxtyping import Shaped, UInt8
from numpy import ndarray

from imprint.core.errors import DataError
from imprint.data.decoding.content import gunzip, to_utf8
from imprint.data.images import WHOLE_NUMBER, LabelledImages, encode_labels

NUMBERED = re.compile(r"(?:pixel)?[ _-]?(\d+)", re.IGNORECASE)  # pixel0, pixel_0000, 0
BY_PLACE = re.compile(r"(\d+)x(\d+)", re.IGNORECASE)  # 1x1 … 28x28: row x column, from 1
IGNORED = {"", "id", "imageid", "image_id", "unnamed: 0"}  # row numbers, as pandas and Kaggle add them
NAME_THE_COLUMNS = "Name the columns label, pixel0, pixel1, … as Kaggle does."
COMPRESSED = (b"\x1f\x8b", b"x\x01", b"x^", b"x\x9c", b"x\xda", b"\x28\xb5\x2f\xfd")  # gzip, zlib, Zstandard


def read_csv(path: Path) -> LabelledImages:
    """Read a CSV of pixels, plain or gzipped, separated by commas, semicolons or tabs; images are square.

    Sources are row numbers from 1, the header not counted. DataError names the first bad cell, row or column.
    """
    text = _read_text(path)
    header, _, body = text.partition(b"\n")
    separator = max(b",;\t", key=lambda mark: header.count(mark))
    columns = read_columns(_split_header(header, chr(separator), path.name), path.name)
    pixels, names = _read_fast(body, chr(separator), columns) or _read_slowly(body, chr(separator), columns, path.name)
    height, width, channels = columns.shape
    stack = pixels.reshape(-1, height, width, channels).transpose(0, 3, 1, 2)
    labels, class_names = (None, ()) if names is None else encode_labels(_checked_labels(names, path.name))
    rows = np.arange(1, len(stack) + 1)
    return LabelledImages(np.ascontiguousarray(stack), labels, class_names, rows, path.name)


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


Table = tuple[UInt8[ndarray, "n pixels"], Shaped[ndarray, " n"] | None]


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
    labels = None if columns.label is None else table[names[columns.label]]
    if not len(table) or any(column.null_count() for column in pixels) or (labels is not None and labels.null_count()):
        return None
    return pixels.to_numpy(order="c"), None if labels is None else labels.to_numpy().astype(str)


def _read_slowly(body: bytes, separator: str, columns: Columns, where: str) -> Table:
    """Read row by row: accepts what `_read_fast` does not (255.0, spaces), and names the first bad cell."""
    try:
        lines = io.StringIO(body.decode("utf-8"), newline="")
    except UnicodeDecodeError as error:
        row = body.count(b"\n", 0, error.start) + 1
        raise DataError("text", f"{where} row {row}", "it is not UTF-8", "Save the table as CSV in UTF-8.") from None
    pixels, labels = [], []
    try:
        for row, cells in enumerate(csv.reader(lines, delimiter=separator), start=1):
            if len(cells) != len(columns.names):
                raise _ragged(len(cells), len(columns.names), f"{where} row {row}")
            pixels.append(_whole_numbers([cells[i] for i in columns.pixels], columns, f"{where} row {row}"))
            labels.append("" if columns.label is None else cells[columns.label])
    except csv.Error as error:
        raise DataError(
            "quotes", f"{where} row {len(pixels) + 1}", f"they do not match ({error})", "Remove stray quotes."
        ) from None
    if not pixels:
        raise DataError("no images", where, "there is a header but no row", "Add rows of pixels below the header.")
    return np.stack(pixels), None if columns.label is None else np.array(labels)


def _ragged(cells: int, expected: int, where: str) -> DataError:
    if not cells:
        return DataError("no cells", where, "the line is empty", "Remove the line.")
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
        raise DataError("empty cell", place, "a pixel is missing", "Fill the cell, or remove the row.")
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


def _checked_labels(names: Shaped[ndarray, " n"], where: str) -> Shaped[ndarray, " n"]:
    """Strip labels; raise DataError for those that are neither whole numbers nor words."""
    known, positions = np.unique(np.char.strip(names), return_inverse=True)
    for i, name in enumerate(known.tolist()):
        place = f"{where} row {int(np.argmax(positions == i)) + 1}, column label"
        if name.lower() in ("", "nan"):
            raise DataError("label", place, "it is missing", "Fill in the label, or remove the row.")
        if re.fullmatch(r"[+-]?\d*\.\d+(e[+-]?\d+)?", name.lower()) and not WHOLE_NUMBER.fullmatch(name):
            raise DataError(f"label {name}", place, "labels are whole numbers or words", "Correct the label column.")
    return known[positions]


@dataclass(frozen=True)
class Columns:
    """The positions of labels and pixels in a table.

    `pixels` are in the image's order: row by row, a colour pixel's red, green and blue side by side; `shape` is height,
    width and channels.
    """

    names: tuple[str, ...]
    label: int | None
    pixels: tuple[int, ...]
    shape: tuple[int, int, int]


def read_columns(header: list[str], where: str) -> Columns:
    """Recognise columns by name: label, and pixel0… or pixel1…, plain numbers, or 1x1…28x28, in any order.

    Raises DataError when a name is unknown or doubled, a pixel is missing, or the images are not square.
    """
    names = tuple(name.strip() for name in header)
    first_row_is_data = sum(name.lstrip("-").replace(".", "", 1).isdigit() for name in names) > 1 and any(
        count > 1 for count in Counter(names).values()
    )
    if first_row_is_data:
        raise DataError("line 1", where, "it holds numbers instead of column names", NAME_THE_COLUMNS)
    if all(_place(name) is None and name.lower() not in ("label", *IGNORED) for name in names):
        cause = f"it names no column, neither path nor label nor pixels: it begins with {names[0]!r}"
        raise DataError("first line", where, cause, f"For image files write path,label above it. {NAME_THE_COLUMNS}")
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
            raise DataError(
                f"column {name!r}", where, "it is neither a label nor a pixel", f"Remove it. {NAME_THE_COLUMNS}"
            )
    if not places:
        raise DataError("pixels", where, "no column is named pixel0, pixel1, …", NAME_THE_COLUMNS)
    return Columns(names, label, *_image_order(places, where))


def _place(name: str) -> int | tuple[int, int] | None:
    """Read off a name which pixel a column holds: its number, or its row and column."""
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
