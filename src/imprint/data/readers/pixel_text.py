"""Images in a CSV column whose cells hold all pixels of an image, between spaces, as in FER-2013 (Kaggle, 2013)."""

from __future__ import annotations

import csv
import io
import math
import zlib
from pathlib import Path

import numpy as np
import polars
from jaxtyping import UInt8
from numpy import ndarray

from imprint.core.errors import DataError, UsageError
from imprint.core.progress import say
from imprint.data.decoding.content import GZIP_START, gunzip, to_utf8
from imprint.data.images import LabelledImages, encode_labels
from imprint.data.readers.columns import BY_NAME, IDS, LABELS, MISSING, Choice, find_column, first_named, normalised
from imprint.data.readers.layout import is_image_name
from imprint.data.split import PARTS, in_part_order

USAGE = ("usage", "split", "part", "subset", "set", "fold")  # columns that may tell the part of a row
MIN_PIXELS = 16  # numbers in a cell; fewer may be a box or a list of tags
ROWS_AT_ONCE = 2048
# FER-2013 calls the images of its public leaderboard PublicTest, those of the final score PrivateTest.
PART_WORDS = PARTS | {"publictest": "validation", "privatetest": "test"}
PACKED = (b"\x1f\x8b", b"x\x01", b"x^", b"x\x9c", b"x\xda", b"\x28\xb5\x2f\xfd")  # gzip, zlib, Zstandard
PIXEL_RULE = "pixels are whole numbers from 0 to 255"


def is_pixel_text(start: bytes) -> bool:
    """Tell by the first bytes of a CSV, gzipped or plain, that a column holds many numbers between spaces."""
    try:
        if start.startswith(GZIP_START):
            start = zlib.decompressobj(wbits=31).decompress(start, 2**16)
        text = to_utf8(start).decode("utf-8", "replace")
        rows = csv.reader(io.StringIO(text.lstrip("\r\n"), newline=""), delimiter=_separator(text))
        header, first = next(rows, []), next(rows, [])
    except (zlib.error, csv.Error):
        return False
    return _pixel_column(header, first) is not None and not any(map(is_image_name, first))


def read_pixel_text(path: Path, part: str | None = None, choice: Choice = BY_NAME) -> LabelledImages:
    """Read a table whose cells hold the pixels of square images, row by row; a column Usage divides it into parts.

    The label's column is one called label, class or emotion, or the only one left. Sources are the file's name and the
    row from 1, the header not counted.
    """
    table, pixel_column = _read_table(path)
    usage = _usage_column(table, pixel_column)
    others = [name for name in table.columns if name not in (pixel_column, usage)]
    label, groups, ids = (_chosen(others, name, option, path.name) for name, option in _options(choice))
    if ids is None and (at := first_named(others, IDS, path.name)) is not None and others[at] not in (label, groups):
        ids = others[at]
    label = label or _label_column([name for name in others if name not in (groups, ids)], path.name)
    rows = np.arange(len(table))
    if usage is not None:
        found = _parts_of(table[usage], path.name)
        divided = in_part_order(found.tolist())
        if part is not None and part not in divided:
            raise _no_part(part, path.name, divided)
        rows = np.flatnonzero(found == (part or divided[0]))
    elif part is not None:
        raise _no_part(part, path.name, ())
    pixels = _read_pixels(table[pixel_column], rows, path.name)
    labels, class_names = None, tuple[str, ...]()
    if label is not None:
        names = table[label].fill_null("").gather(rows).str.strip_chars()
        missing = names.str.to_lowercase().is_in(list(MISSING)).arg_true()
        if len(missing):
            place = f"{path.name} row {rows[missing[0]] + 1}, column {label}"
            raise DataError("label", place, "it is missing", "Fill in the label.")
        labels, class_names = encode_labels(names.to_numpy().astype(str))
    sources = np.array([f"{path.name}#{row + 1}" for row in rows])

    def texts(column: str | None) -> ndarray | None:
        return None if column is None else table[column].fill_null("").gather(rows).to_numpy().astype(str)

    headers = ids or "", label or ""
    return LabelledImages(
        pixels, labels, class_names, sources, path.name, groups=texts(groups), ids=texts(ids), headers=headers
    )


def pixel_text_parts(path: Path) -> tuple[str, ...]:
    """Name the parts that such a table is divided into; empty where it is not."""
    table, pixel_column = _read_table(path)
    usage = _usage_column(table, pixel_column)
    return () if usage is None else in_part_order(_parts_of(table[usage], path.name).tolist())


def _read_table(path: Path) -> tuple[polars.DataFrame, str]:
    """Read all cells as text; gives the name of the column of pixels too."""
    content = to_utf8(gunzip(path.read_bytes(), path.name)).lstrip(b"\r\n")
    separator = _separator(content[: 2**16].decode("utf-8", "replace"))
    try:
        # Polars unpacks what begins as a packed stream does, however much that gives, and panics over some quotes.
        packed = content.startswith(PACKED)
        table = polars.DataFrame() if packed else polars.read_csv(content, separator=separator, infer_schema=False)
    except (polars.exceptions.PolarsError, polars.exceptions.PanicException, OSError) as error:
        cause = f"its rows cannot be told apart ({str(error).splitlines()[0]})"
        raise DataError("table", path.name, cause, "Give each row one cell for each column, in UTF-8.") from None
    table = table.rename({name: name.strip() for name in table.columns}) if _distinct(table.columns) else table
    column = _pixel_column(table.columns, [str(table[name][0]) for name in table.columns] if len(table) else [])
    if column is None:
        raise DataError("pixels", path.name, "no column holds the pixels of images", "Save the table anew as CSV.")
    return table, table.columns[column]


def _distinct(names: list[str]) -> bool:
    return len({name.strip() for name in names}) == len(names)


def _separator(text: str) -> str:
    header = next(iter(text.lstrip("\r\n").splitlines()), "")
    return max(",;\t", key=header.count)


def _pixel_column(header: list[str], cells: list[str]) -> int | None:
    """Find the column with many numbers in a cell; the last number may be cut off."""
    for place, (_, cell) in enumerate(zip(header, cells, strict=False)):
        numbers = cell.split()
        if len(numbers) >= MIN_PIXELS and all(number.replace(".", "", 1).isdigit() for number in numbers):
            return place
    return None


def _usage_column(table: polars.DataFrame, pixels: str) -> str | None:
    """Find the column that says to which part a row belongs."""
    for name in table.columns:
        if normalised(name) in USAGE and name != pixels:
            words = table[name].str.strip_chars().str.to_lowercase()
            if words.is_in(list(PART_WORDS)).any():
                return name
    return None


def _options(choice: Choice) -> tuple[tuple[str | None, str], ...]:
    return (choice.label, "--label"), (choice.group, "--group"), (choice.ids, "--id")


def _chosen(columns: list[str], name: str | None, option: str, where: str) -> str | None:
    """Find the column that an option names."""
    found = find_column(columns, name)
    if name is not None and found is None:
        cause = f"there is no such column; others are {', '.join(columns) or 'none'}"
        raise UsageError(f"column {name!r}", where, cause, f"Name one of these with {option}, or leave it out.")
    return None if found is None else columns[found]


def _label_column(columns: list[str], where: str) -> str | None:
    """Find the column of the classes by its name, or as the only one; of several others none is taken."""
    named = first_named(columns, LABELS, where)
    if named is not None or len(columns) == 1:
        return columns[named or 0]
    if columns:
        listed = ", ".join(columns)
        say(f"no column of {where} is called label, so its images have none; unused are {listed} (--label takes one)")
    return None


def _parts_of(usage: polars.Series, where: str) -> ndarray:
    """Give each row's part; raises DataError for a word that names none."""
    words = usage.fill_null("").str.strip_chars().str.to_lowercase()
    for word in words.unique().to_list():
        if word not in PART_WORDS:
            row = int((words == word).arg_true()[0]) + 1
            cause = "it names no part"
            remedy = "Write Training, PublicTest or PrivateTest, or train, validation or test."
            raise DataError(f"part {word!r}", f"{where} row {row}, column {usage.name}", cause, remedy)
    return np.array([PART_WORDS[word] for word in words])


def _no_part(part: str, where: str, divided: tuple[str, ...]) -> DataError:
    have = f"it has {' and '.join(divided)}" if divided else "it is not divided into parts"
    return DataError(f"part {part}", where, have, "Add a column Usage with Training, PublicTest or PrivateTest.")


def _read_pixels(cells: polars.Series, rows: ndarray, where: str) -> UInt8[ndarray, "n c h w"]:
    """Read the chosen rows' pixels; all must hold as many numbers, which make a square."""
    count = len((cells[int(rows[0])] or "").split())
    height, width, channels = _shape_of(count, f"{where} row {rows[0] + 1}")
    pixels = np.empty((len(rows), count), dtype=np.uint8)
    names = [f"{i}" for i in range(count)]
    for start in range(0, len(rows), ROWS_AT_ONCE):
        chosen = rows[start : start + ROWS_AT_ONCE]
        texts = [" ".join((cell or "").split()) for cell in cells.gather(chosen)]
        for row, text in zip(chosen, texts, strict=True):
            if text.count(" ") + 1 != count or not text:
                cause = f"its cell holds {len(text.split()):,} numbers, and that of the first {count:,}"
                raise DataError("pixels", f"{where} row {row + 1}", cause, "Give each row an image of the same size.")
        block = _whole_numbers(texts, names)
        pixels[start : start + len(chosen)] = _one_by_one(texts, chosen, where) if block is None else block
    return np.ascontiguousarray(pixels.reshape(-1, height, width, channels).transpose(0, 3, 1, 2))


def _whole_numbers(texts: list[str], names: list[str]) -> UInt8[ndarray, "n pixels"] | None:
    """Read rows of whole numbers from 0 to 255 at once; None where one is not."""
    body = "\n".join(texts).encode()
    if not body.replace(b" ", b"").replace(b"\n", b"").isdigit():
        return None
    try:
        schema = dict.fromkeys(names, polars.UInt8)
        table = polars.read_csv(body, has_header=False, separator=" ", schema=schema)
    except (polars.exceptions.PolarsError, polars.exceptions.PanicException, OSError):
        return None
    if table.shape != (len(texts), len(names)) or any(column.null_count() for column in table):
        return None
    return table.to_numpy(order="c")


def _one_by_one(texts: list[str], rows: ndarray, where: str) -> UInt8[ndarray, "n pixels"]:
    """Read numbers such as 255.0 too, and name the first that is no pixel."""
    pixels = list[list[int]]()
    for row, text in zip(rows, texts, strict=True):
        numbers = list[int]()
        for place, number in enumerate(text.split(), start=1):
            try:
                value = float(number)
            except ValueError:
                value = math.nan
            if value not in range(256) or "_" in number:
                shown = number if len(number) <= 24 else f"{number[:24]}…"
                place_in = f"{where} row {row + 1}, number {place}"
                raise DataError(f"pixel {shown}", place_in, PIXEL_RULE, "Divide or clip the numbers, then run again.")
            numbers.append(int(value))
        pixels.append(numbers)
    return np.array(pixels, dtype=np.uint8)


def _shape_of(count: int, where: str) -> tuple[int, int, int]:
    """Height, width and channels of a square image with so many numbers."""
    for channels in (1, 3):
        side = math.isqrt(count // channels)
        if side and side * side * channels == count:
            return side, side, channels
    cause = "they make no square image, neither grey (size × size) nor colour (3 × size × size)"
    raise DataError(f"{count:,} pixels", where, cause, "Pad or scale the images to squares.")
