"""A table of paths and labels: path,label in a CSV, with the images in files of their own."""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from imprint.core.errors import DataError
from imprint.data.decoding.image_list import ImageList
from imprint.data.decoding.image_source import File
from imprint.data.decoding.text import GZIP_START, gunzip, to_utf8

PATHS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img", "img_path")
LABELS = ("label", "class", "class_name", "target", "category")
SAVE_IT = "Save the table as CSV in UTF-8."
MISSING = ("", "nan")  # as spreadsheets and pandas leave cells without a value


@dataclass(frozen=True)
class PathTable:
    """The rows of a table of paths.

    Parameters
    ----------
    paths : list of str
        As they stand there.
    labels : list of str or None
        None where there is no such column.
    groups : list of str or None
        What stands in the column that was asked for, if there is one.

    Examples
    --------
    >>> PathTable(["cat/1.png"], ["cat"], None).paths
    ['cat/1.png']
    """

    paths: list[str]
    labels: list[str] | None
    groups: list[str] | None


def is_path_csv(start: bytes) -> bool:
    """Tell a table of paths from a table of pixels by its first line.

    Parameters
    ----------
    start : bytes
        The file's first bytes, gzipped or plain.

    Returns
    -------
    bool
        Whether a column is called path, file, filename or the like.

    Examples
    --------
    >>> is_path_csv(b"path,label"), is_path_csv(b"label,pixel0,pixel1")
    (True, False)
    """
    try:
        if start.startswith(GZIP_START):
            start = zlib.decompressobj(wbits=31).decompress(start, 2**16)
        header, _ = _header(to_utf8(start).decode("utf-8", "replace").lstrip("\r\n"))
    except (zlib.error, csv.Error):  # no table of paths; the reader of pixels says what is wrong
        return False
    pixels = any(name.startswith("pixel") or name.isdigit() for name in header)
    return not pixels and any(name in PATHS for name in header)


def read_path_csv(content: bytes, where: str, group: str | None = None) -> PathTable:
    r"""Read a table of paths.

    Parameters
    ----------
    content : bytes
        Of the file, gzipped or plain, in UTF-8 or UTF-16; commas, semicolons or tabs part the cells.
    where : str
        Its name, for messages.
    group : str or None, default=None
        A column with each image's group.

    Returns
    -------
    PathTable
        All rows but empty ones.

    Raises
    ------
    DataError
        When it is no such table, a column is there twice, or a row has more or fewer cells than the header.

    Examples
    --------
    >>> read_path_csv(b"path,label\ncat/1.png,cat\n", "pets.csv").labels
    ['cat']
    """
    try:
        text = to_utf8(gunzip(content, where)).decode("utf-8").lstrip("\r\n")
    except UnicodeDecodeError:
        raise DataError("text", where, "it is not UTF-8", SAVE_IT) from None
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

    def column(place: int | None) -> list[str] | None:
        return None if place is None else [row[place].strip() for row in rows]

    return PathTable([row[path].strip() for row in rows], column(label), column(grouping))


def list_path_csv(path: Path, group: str | None = None) -> ImageList:
    r"""Find the images that a CSV names; their paths start at the CSV's folder.

    Parameters
    ----------
    path : Path
        The CSV.
    group : str or None, default=None
        A column with each image's group.

    Returns
    -------
    ImageList
        One a row, in the order of the rows.

    Raises
    ------
    DataError
        When the table cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "pets.csv"
    >>> _ = path.write_text("path,label\ncat/1.png,cat\n")
    >>> list_path_csv(path).labels
    ['cat']
    """
    table = read_path_csv(path.read_bytes(), path.name, group)
    files: list[Path | str] = [_file(path.parent, name) for name in table.paths]
    listed = ImageList(path.name, [str(file) for file in files], files.__getitem__, files)
    return with_table(listed, table)


def _file(folder: Path, name: str) -> Path:
    """Find a row's file; a path written on Windows names the same one elsewhere."""
    file = folder / name
    return file if "\\" not in name or file.exists() else folder / name.replace("\\", "/")


def with_table(listed: ImageList, table: PathTable) -> ImageList:
    """Give images the labels and groups of a table's rows; those without a label are left out.

    Parameters
    ----------
    listed : ImageList
        One image a row.
    table : PathTable
        The rows.

    Returns
    -------
    ImageList
        With `labels`, `groups`, `paths` and more in `unreadable`.

    Examples
    --------
    >>> listed = ImageList("two", ["1.png", "2.png"], lambda i: b"", [])
    >>> with_table(listed, PathTable(["1.png", "2.png"], ["cat", ""], None)).unreadable
    (('2.png', 'its row has no label'),)
    """
    rows = range(len(table.paths))
    missing = dict[int, str]()
    for i in rows:
        if not table.paths[i]:
            missing[i] = "its row has no path"
        elif table.labels is not None and table.labels[i].lower() in MISSING:
            missing[i] = "its row has no label"
    kept = [i for i in rows if i not in missing]
    without = tuple((listed.sources[i], cause) for i, cause in missing.items())

    def some(values: list[str] | None) -> list[str] | None:
        return None if values is None else [values[i] for i in kept]

    return replace(
        listed,
        sources=[listed.sources[i] for i in kept],
        open=_at(listed.open, kept),
        files=[listed.files[i] for i in kept] if len(listed.files) == len(rows) else listed.files,
        labels=some(table.labels),
        groups=some(table.groups),
        paths=[PurePosixPath(table.paths[i]).as_posix() for i in kept],
        unreadable=(*listed.unreadable, *without),
    )


def _at(open_at: Callable[[int], File], kept: list[int]) -> Callable[[int], File]:
    return lambda i: open_at(kept[i])


def _header(text: str) -> tuple[list[str], str]:
    """Split a text's first line into lower-case names; tell the separator too."""
    line = next(iter(text.splitlines()), "")
    separator = max(",;\t", key=line.count)
    names = next(csv.reader([line.strip("\ufeff")], delimiter=separator, skipinitialspace=True), [])
    return [name.strip().lower() for name in names], separator
