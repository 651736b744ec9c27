"""A CSV of paths and labels, with the images in files of their own."""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from PIL import Image

from imprint.core.errors import DataError
from imprint.data.decoding.content import GZIP_START, ImageSource, gunzip, to_utf8
from imprint.data.decoding.image_list import ImageList

PATHS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img", "img_path")
LABELS = ("label", "class", "class_name", "target", "category")
SAVE_AS_CSV = "Save the table as CSV in UTF-8."
MISSING = ("", "nan")  # as spreadsheets and pandas leave cells without a value


@dataclass(frozen=True)
class PathTable:
    """The rows of a CSV of paths; labels or groups are None where there is no such column."""

    paths: list[str]
    labels: list[str] | None
    groups: list[str] | None


def is_path_csv(start: bytes) -> bool:
    """Tell a CSV of paths, gzipped or plain, from one of pixels by its header: path, file or the like."""
    try:
        if start.startswith(GZIP_START):
            start = zlib.decompressobj(wbits=31).decompress(start, 2**16)
        header, _ = _header(to_utf8(start).decode("utf-8", "replace").lstrip("\r\n"))
    except (zlib.error, csv.Error):  # the reader of pixels says what is wrong
        return False
    pixels = any(name.startswith("pixel") or name.isdigit() for name in header)
    return not pixels and any(name in PATHS for name in header)


def read_path_csv(content: bytes, where: str, group: str | None = None) -> PathTable:
    """Read a CSV of paths, gzipped or plain, UTF-8 or UTF-16, separated by commas, semicolons or tabs; no empty rows.

    Raises DataError when a column is there twice, or a row has more or fewer cells than the header.
    """
    try:
        text = to_utf8(gunzip(content, where)).decode("utf-8").lstrip("\r\n")
    except UnicodeDecodeError:
        raise DataError("text", where, "it is not UTF-8", SAVE_AS_CSV) from None
    header, separator = _header(text)
    path = next(header.index(name) for name in header if name in PATHS)
    label = next((header.index(name) for name in LABELS if name in header), None)
    grouping = header.index(group.lower()) if group and group.lower() in header else None
    for name in (header[at] for at in (path, label, grouping) if at is not None):
        if header.count(name) > 1:
            raise DataError(f"column {name}", where, "it is there twice", "Remove or rename one of the two.")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    next(reader)
    rows = list[list[str]]()
    try:
        for cells in reader:
            if cells and (len(cells) < len(header) or any(cells[len(header) :])):
                cause = f"the header names {len(header)} columns"
                remedy = "Give each row one cell for each column, and quote names with a comma in them."
                raise DataError(f"{len(cells)} cells", f"{where} line {reader.line_num}", cause, remedy)
            rows += [cells] if cells else []
    except csv.Error as error:
        place = f"{where} line {reader.line_num}"
        raise DataError("quotes", place, f"they do not match ({error})", "Remove stray quotes.") from None
    columns = [None if at is None else [row[at].strip() for row in rows] for at in (label, grouping)]
    return PathTable([row[path].strip() for row in rows], *columns)


def list_path_csv(path: Path, group: str | None = None) -> ImageList:
    """List the images that a CSV names, one a row; paths are relative to the CSV's folder, `group` is a column."""
    table = read_path_csv(path.read_bytes(), path.name, group)
    files: list[Path | str] = [_file(path.parent, name) for name in table.paths]
    listed = ImageList(path.name, [str(file) for file in files], files.__getitem__, files)
    return with_table(listed, table)


def _file(folder: Path, name: str) -> Path:
    """Resolve a row's path; one written on Windows names the same file elsewhere."""
    file = folder / name
    return file if "\\" not in name or file.exists() else folder / name.replace("\\", "/")


def with_table(listed: ImageList, table: PathTable) -> ImageList:
    """Give listed images, one a row, a table's labels, groups and paths; rows without path or label are left out."""
    rows = range(len(table.paths))
    missing = dict[int, str]()
    for i in rows:
        if not table.paths[i]:
            missing[i] = "its row has no path"
        elif table.labels is not None and table.labels[i].lower() in MISSING:
            missing[i] = "its row has no label"
    complete = [i for i in rows if i not in missing]
    left_out = tuple((listed.sources[i], cause) for i, cause in missing.items())
    return replace(
        listed,
        sources=[listed.sources[i] for i in complete],
        open=_at(listed.open, complete),
        files=[listed.files[i] for i in complete] if len(listed.files) == len(rows) else listed.files,
        labels=_select(table.labels, complete),
        groups=_select(table.groups, complete),
        paths=[PurePosixPath(table.paths[i]).as_posix() for i in complete],
        unreadable=(*listed.unreadable, *left_out),
    )


def _select(values: list[str] | None, rows: list[int]) -> list[str] | None:
    return None if values is None else [values[i] for i in rows]


Opener = Callable[[int], ImageSource | Image.Image]


def _at(open_at: Opener, positions: list[int]) -> Opener:
    return lambda i: open_at(positions[i])


def _header(text: str) -> tuple[list[str], str]:
    """Split a text's first line into lower-case names; gives the separator too."""
    line = next(iter(text.splitlines()), "")
    separator = max(",;\t", key=line.count)
    names = next(csv.reader([line.strip("\ufeff")], delimiter=separator, skipinitialspace=True), [])
    return [name.strip().lower() for name in names], separator
