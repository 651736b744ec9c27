"""A table of paths and labels of image files: CSV, TSV, JSON lines, or a list without header."""

from __future__ import annotations

import csv
import io
import json
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from PIL import Image

from imprint.core.errors import DataError, UsageError
from imprint.data.decoding.content import GZIP_START, ImageSource, gunzip, to_utf8
from imprint.data.decoding.image_list import ImageList
from imprint.data.readers.columns import (
    BOOKKEEPING,
    BY_NAME,
    IDS,
    LABELS,
    MISSING,
    PATHS,
    Choice,
    doubled,
    find_column,
    first_named,
    no_label_among,
    normalised,
    one_hot,
    refuse_several_labels,
)
from imprint.data.readers.layout import is_image_name, labels_by_pattern

SAVE_AS_CSV = "Save the table as CSV in UTF-8."
SAMPLE_ROWS = 50  # decide which column holds paths, and whether a table speaks of the images beside it
MANY_VALUES = 0.9  # of the rows have a value of their own: captions or numbers, no classes


@dataclass(frozen=True)
class PathTable:
    """The rows of a table of paths; labels, groups or ids are None where there is no such column.

    `headers` are the names of the columns of ids and of labels, empty where there is none.
    """

    paths: list[str]
    labels: list[str] | None = None
    groups: list[str] | None = None
    ids: list[str] | None = None
    headers: tuple[str, str] = ("", "")

    @classmethod
    def by_pattern(cls, paths: Sequence[str], pattern: str, where: str) -> PathTable:
        """Label images by a regular expression for their paths."""
        found = labels_by_pattern(paths, pattern, where)
        return cls(list(paths), [found.get(path, "") for path in paths])


def is_path_table(start: bytes, name: str) -> bool:
    """Tell a table of paths, gzipped or plain, from one of pixels by its first lines."""
    try:
        if start.startswith(GZIP_START):
            start = zlib.decompressobj(wbits=31).decompress(start, 2**16)
        text = to_utf8(start).decode("utf-8", "replace").strip("\r\n")
        if name.lower().endswith(".jsonl"):
            return True
        if name.lower().endswith(".json"):
            return b'"labels"' in start and b'"annotations"' not in start
        lines = text.splitlines()
        whole = lines[:-1] if len(start) >= 2**16 else lines  # the last may be cut
        header, rows, _ = parse_table("\n".join(whole[:SAMPLE_ROWS]), name, strict=False)
    except (zlib.error, csv.Error, DataError, RecursionError):  # the reader of pixels says what is wrong
        return False
    pixels = [name for name in header if re.fullmatch(r"(pixel)?[ _-]?\d+|\d+x\d+", name.strip(), re.IGNORECASE)]
    return len(pixels) < 2 and _path_column(header, rows) is not None and (bool(rows) or len(header) < 10)


def read_path_table(content: bytes, where: str, choice: Choice = BY_NAME) -> PathTable:
    """Read a table of paths, gzipped or plain, UTF-8 or UTF-16, separated by commas, semicolons or tabs; no empty rows.

    Raises DataError when a column is there twice, rows have more or fewer cells than the header, or images have several
    labels.
    """
    try:
        text = to_utf8(gunzip(content, where)).decode("utf-8").lstrip("\r\n")
    except UnicodeDecodeError:
        raise DataError("text", where, "it is not UTF-8", SAVE_AS_CSV) from None
    header, rows, named = parse_table(text, where, strict=True)
    path = _path_column(header, rows)
    if path is None:
        raise DataError("columns", where, "none holds the paths of images", "Call it path.")
    if header.count(header[path]) > 1:
        raise doubled(header[path], where)
    own = first_named(header, IDS, where) if choice.ids is None else find_column(header, choice.ids)
    if choice.ids is not None and own is None:
        cause = f"there is no such column among {', '.join(header[:8])}"
        raise UsageError(f"column {choice.ids!r}", where, cause, "Name one of them with --id.")
    grouping, label = find_column(header, choice.group), choice.label
    cells = [[row[at].strip() for row in rows] for at in range(len(header))]
    if label is not None and find_column(header, label) is None:
        labels, labelled = PathTable.by_pattern(cells[path], label, where).labels, None
    elif not named:
        labelled = next((at for at in range(len(header)) if at != path), None)
        labels = None if labelled is None else cells[labelled]
    else:
        columns = dict(enumerate(cells))
        labels, labelled = _labels(header, columns, {path, own, grouping}, label, where)
        if labelled is not None and labelled == own != path:
            own = None
    label_header = "label" if labelled is None or not named else header[labelled].strip()
    return PathTable(
        cells[path],
        labels,
        None if grouping is None else cells[grouping],
        None if own is None else [row[own] for row in rows],
        ("" if own is None else header[own].strip(), label_header),
    )


def read_path_names(content: bytes, where: str) -> tuple[list[str], list[str]]:
    """Read the names of the columns and the paths of what `is_path_table` found to be a table of paths."""
    header, rows, _ = parse_table(
        to_utf8(gunzip(content, where)).decode("utf-8", "replace").lstrip("\r\n"), where, strict=False
    )
    at = _path_column(header, rows)
    return header, [] if at is None else [row[at].strip() for row in rows if row[at].strip()]


def _labels(
    header: list[str], cells: dict[int, list[str]], taken: set[int | None], wanted: str | None, where: str
) -> tuple[list[str] | None, int | None]:
    """Choose the labels: the column that was named, one that is called so, one-hot columns, or the only one left.

    Gives their column too, None for one-hot columns or no labels at all.
    """
    chosen = find_column(header, wanted)
    if chosen is not None:
        return cells[chosen], chosen
    called = first_named(header, LABELS, where)
    free = [at for at in cells if at not in taken and normalised(header[at]) not in BOOKKEEPING]
    if called is None:
        hot = one_hot({header[at].strip(): cells[at] for at in free}, where)
        if hot is not None:
            return hot, None
        # Of an image and an id alone the id is the label, as in Kaggle's Image,Id of whales.
        likely = [at for at in free or sorted(at for at in cells if len(cells) == 2) if _repeats(cells[at])]
        if not likely:
            return None, None
        if len(likely) > 1:
            raise no_label_among([header[at].strip() for at in likely], where)
        called = likely[-1]
    refuse_several_labels(header[called], cells[called], where)
    return cells[called], called


def _repeats(values: list[str]) -> bool:
    """Tell whether values repeat, as those of classes do, and captions or numbers do not."""
    return len(set(values)) < MANY_VALUES * len(values)


def parse_table(text: str, where: str, *, strict: bool) -> tuple[list[str], list[list[str]], bool]:
    """Split text into column names and rows; the last value tells whether the names stood there.

    A list without a header, whose first line names an image, gets the names path, label and so on.
    """
    if where.lower().endswith(".json"):
        return _parse_json(text, where)
    if where.lower().removesuffix(".gz").endswith(".jsonl") or text.startswith("{"):
        return _parse_json_lines(text, where)
    line = next(iter(text.splitlines()), "")
    separator = max(",;\t", key=line.count)
    if not line.count(separator) and is_image_name(line.split(" ")[0]):
        separator = " "  # as in lists of ImageNet: path and number
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    rows = list[list[str]]()
    header = next(reader, [])
    header[:1] = [name.strip("\ufeff") for name in header[:1]]
    named = not any(is_image_name(cell.strip()) for cell in header)
    if not named:
        rows.append(header)
        at = next(i for i, cell in enumerate(header) if is_image_name(cell.strip()))
        header = [f"column {i + 1}" for i in range(len(header))]
        header[at] = "path"
    try:
        for cells in reader:
            if strict and cells and (len(cells) < len(header) or any(cells[len(header) :])):
                cause = f"the header names {len(header)} columns"
                remedy = "Give each row one cell for each column, and quote names with a comma in them."
                raise DataError(f"{len(cells)} cells", f"{where} line {reader.line_num}", cause, remedy)
            if cells and len(cells) >= len(header):
                rows.append(cells)
    except csv.Error as error:
        place = f"{where} line {reader.line_num}"
        raise DataError("quotes", place, f"they do not match ({error})", "Correct stray quotes.") from None
    return header, rows, named


def _parse_json(text: str, where: str) -> tuple[list[str], list[list[str]], bool]:
    """Read FiftyOne's labels.json: classes, and the number or name of a class for each image."""
    try:
        value = json.loads(text)
        classes, labels = value.get("classes") or [], value["labels"]
        rows = [[str(name), str(classes[at] if isinstance(at, int) and classes else at)] for name, at in labels.items()]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        cause = "it does not hold classes and labels"
        raise DataError("JSON", where, cause, "Give a table of path,label.") from None
    return ["path", "label"], rows, True


def _parse_json_lines(text: str, where: str) -> tuple[list[str], list[list[str]], bool]:
    """Read JSON lines, an object each, as Hugging Face's metadata.jsonl; nested values are left out."""
    objects = list[dict[str, object]]()
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            value = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError):
            value = 0
        if value is not None and not isinstance(value, dict):
            cause = "it is no JSON object"
            raise DataError("line", f"{where} line {number}", cause, 'Give each line as {"file_name": …, "label": …}.')
        objects += [value] if value else []
    header = list(
        dict.fromkeys(key for value in objects for key, cell in value.items() if not isinstance(cell, dict | list))
    )
    rows = [["" if value.get(key) is None else str(value[key]) for key in header] for value in objects]
    return header, rows, True


def _path_column(header: Sequence[str], rows: Sequence[Sequence[str]]) -> int | None:
    """Find the column of paths: by name, or by values that end as images do."""
    normal = [normalised(name) for name in header]
    by_name = [normal.index(name) for name in (*PATHS, *IDS) if name in normal]
    by_name = by_name or [at for at, name in enumerate(normal) if name.endswith(("path", "filename", "file_name"))]
    sample = rows[:SAMPLE_ROWS]

    def share(at: int) -> float:
        return sum(is_image_name(row[at].strip()) for row in sample if at < len(row)) / max(len(sample), 1)

    best = max(range(len(header)), key=share, default=None)
    if best is not None and sample and share(best) > 0.5 and all(share(at) <= 0.5 for at in by_name):
        return best
    ending = [at for at in by_name if sample and share(at) > 0.5]
    return next(iter(ending or by_name), None)


class Resolver:
    """Finds the file that a cell of a table means among `files`, whose paths have ``/``; the ending may be missing."""

    def __init__(self, files: Sequence[str]) -> None:
        self._exact = {path.lower(): path for path in reversed(files)}
        self._by_name: dict[str, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for path in files:
            name = path.rpartition("/")[2].lower()
            self._by_name[name].append(path)
            self._by_stem[name.rpartition(".")[0] or name].append(path)

    def find_all(self, cells: Sequence[str], home: str = "", prefer: str = "") -> list[str | None]:
        """Find the file of each cell; `home` is the table's folder, `prefer` a part that decides among several."""
        bare = _without_common_folder(cells)
        return [
            self._find(cell, home, prefer) or self._find(name, home, prefer)
            for cell, name in zip(cells, bare, strict=True)
        ]

    def of_that_name(self, cell: str) -> list[str]:
        """List the files with a cell's name, whatever their folders."""
        return self._by_name.get(_plain_path(cell).lower().rpartition("/")[2], [])

    def _find(self, cell: str, home: str, prefer: str) -> str | None:
        """Find one file.

        All folders of the cell must be the file's, or all of the file's the cell's: a cell ``dogs/1.jpg`` never is
        ``cats/1.jpg``.
        """
        wanted = _plain_path(cell).lower()
        if exact := self._exact.get(f"{home.lower()}{wanted}"):
            return exact
        *folders, name = wanted.split("/")
        candidates = self._by_name.get(name) or self._by_stem.get(name, [])
        found = [path for path in candidates if _agree(folders, path.removeprefix(home).lower().split("/")[:-1])]
        if len(found) > 1 and prefer:
            found = [path for path in found if prefer in path.lower()]
        return found[0] if len(found) == 1 else None


def _agree(first: list[str], second: list[str]) -> bool:
    """Tell whether one list of folders ends in all of the other."""
    shorter = min(len(first), len(second))
    return not shorter or first[-shorter:] == second[-shorter:]


def _plain_path(cell: str) -> str:
    """Write a path with ``/``, without a drive and the slash before all folders."""
    path = re.sub(r"^[A-Za-z]:", "", cell.strip()).replace("\\", "/")
    return PurePosixPath(path).as_posix().strip("/") if path else ""


def _without_common_folder(paths: Sequence[str]) -> list[str]:
    """Cut off the folder that all paths of another machine have in common; relative paths stay as they are."""
    if not all(re.match(r"[A-Za-z]:[\\/]|/", path.strip()) for path in paths if path):
        return list(paths)
    plain = [_plain_path(path) for path in paths]
    folders = [path.split("/")[:-1] for path in plain if path]
    shared = 0
    while folders and all(len(each) > shared and each[shared] == folders[0][shared] for each in folders):
        shared += 1
    return ["/".join(path.split("/")[shared:]) for path in plain]


def with_table(listed: ImageList, table: PathTable) -> ImageList:
    """Give listed images, one a row, what a table says of them; rows without path or label are left out."""
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
        ids=_select(table.ids, complete),
        headers=table.headers,
        paths=[PurePosixPath(table.paths[i]).as_posix() for i in complete],
        unreadable=(*listed.unreadable, *left_out),
    )


def _select(values: list[str] | None, rows: list[int]) -> list[str] | None:
    return None if values is None else [values[i] for i in rows]


Opener = Callable[[int], ImageSource | Image.Image]


def _at(open_at: Opener, positions: list[int]) -> Opener:
    return lambda i: open_at(positions[i])
