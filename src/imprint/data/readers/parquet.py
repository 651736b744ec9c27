"""Images in Parquet: image files in a column, as Hugging Face keeps them, or a column for each pixel."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import polars
from numpy import ndarray

from imprint.core.errors import DataError, UsageError
from imprint.data.decoding.image_list import ImageList, join_lists
from imprint.data.images import LabelledImages, encode_labels
from imprint.data.readers.columns import BY_NAME, LABELS, Choice, find_column, first_named, no_label_among
from imprint.data.readers.csv import read_columns, settle_columns

IMAGES = ("image", "img", "picture")
PATH = "imprint: path"  # of an image within the file, beside other columns of any name
READ_AT_ONCE, HELD = 2**25, 4  # bytes of a file that are read together; that often they are held
REMEDY = "Save or download it again."
NAME_ONE = "Name one file, or the folder of files that belong together."


def read_parquet(path: Path, choice: Choice = BY_NAME) -> ImageList | LabelledImages:
    """Read a Parquet file of image files (bytes, or a struct of bytes and path), yet to be decoded, or of pixels.

    Hugging Face's metadata may name the classes; `group` is a column if it has it. Sources are name and row from 1.
    """
    group = choice.group
    try:
        schema = polars.read_parquet_schema(path)
        structs = {name for name, kind in schema.items() if isinstance(kind, polars.Struct) and "bytes" in dict(kind)}
        images = [name for name, kind in schema.items() if name in structs or kind == polars.Binary]
        images = images or [name for name in schema if name.lower() in IMAGES and schema[name] == polars.Null]
        if not images:
            return _from_pixels(polars.read_parquet(path), path.name, choice)
        class_names = _class_names(path)
        label = _label_column(list(schema), class_names, path.name, choice.label)
        groups = group if group in schema else None
        struct = schema[images[0]] if images[0] in structs else None
        content = polars.col(images[0]) if struct is None else polars.col(images[0]).struct.field("bytes")
        inside = struct is not None and "path" in dict(struct)  # type: ignore[call-overload]
        chosen = [polars.col(name) for name in dict.fromkeys((label, groups)) if name]
        chosen += [polars.col(images[0]).struct.field("path").alias(PATH)] if inside else []
        counted = polars.scan_parquet(path).select(polars.len()).collect().item()
        table = polars.scan_parquet(path).select(chosen).collect(engine="streaming") if chosen else polars.DataFrame()
    except (polars.exceptions.PolarsError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError("Parquet", path.name, "it is cut short, damaged or no Parquet file", REMEDY) from None
    cells = _Cells(path, content, counted)
    return _listed(path, table, cells, label, groups, class_names.get(label or ""))


def read_shards(paths: Sequence[Path], name: str, choice: Choice = BY_NAME) -> ImageList | LabelledImages:
    """Read Parquet files as one, in the order given; raises DataError where they differ in form or in class names."""
    shards = [read_parquet(path, choice) for path in paths]
    first = shards[0]
    for path, shard in zip(paths[1:], shards[1:], strict=True):
        if type(shard) is not type(first) or (shard.labels is None) != (first.labels is None):
            raise DataError("shard", path.name, f"its columns differ from those of {paths[0].name}", NAME_ONE)
        if _class_names(path) != _class_names(paths[0]):
            cause = f"its metadata name other classes than those of {paths[0].name}"
            raise DataError("class names", path.name, cause, NAME_ONE)
    if len(shards) == 1:
        return replace(first, name=name)
    lists = [shard for shard in shards if isinstance(shard, ImageList)]
    return join_lists(lists, name) if lists else _joined_pixels(shards, name)  # type: ignore[arg-type]


def _joined_pixels(shards: Sequence[LabelledImages], name: str) -> LabelledImages:
    if len({shard.shape for shard in shards}) > 1:
        shapes = " and ".join(sorted({"×".join(map(str, shard.shape)) for shard in shards}))
        raise DataError("shards", name, f"their images have shapes {shapes}", NAME_ONE)
    labels, class_names = None, tuple[str, ...]()
    if all(shard.labels is not None for shard in shards):
        texts = [np.take(np.array(shard.class_names), shard.labels) for shard in shards if shard.labels is not None]
        labels, class_names = encode_labels(np.concatenate(texts))
    groups = [shard.groups for shard in shards if shard.groups is not None]
    ids = [shard.ids for shard in shards if shard.ids is not None]
    return LabelledImages(
        np.concatenate([shard.pixels for shard in shards]),
        labels,
        class_names,
        np.concatenate([shard.sources for shard in shards]),
        name,
        groups=np.concatenate(groups) if len(groups) == len(shards) else None,
        ids=np.concatenate(ids) if len(ids) == len(shards) else None,
        headers=shards[0].headers,
    )


def _class_names(path: Path) -> dict[str, list[str]]:
    """Read the class names of each column from the metadata that Hugging Face writes."""
    try:
        facts: dict[str, Any] = json.loads(polars.read_parquet_metadata(path).get("huggingface", "{}"))
        features = facts["info"]["features"].items()
        return {column: feature["names"] for column, feature in features if feature.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, AttributeError, TypeError):
        return {}


def _label_column(columns: list[str], class_names: dict[str, list[str]], where: str, wanted: str | None) -> str | None:
    chosen = find_column(columns, wanted)
    if wanted is not None and chosen is None:
        cause = f"there is no such column among {', '.join(columns[:8])}"
        raise UsageError(f"label {wanted!r}", where, cause, "Name one of them with --label.")
    if chosen is None:
        chosen = first_named(columns, LABELS, where)
    if chosen is not None:
        return columns[chosen]
    named = [name for name in columns if name in class_names]
    if len(named) > 1:
        raise no_label_among(named, where)
    return named[0] if named else None


class _Cells:
    """The image files in a column, read some rows at a time, of which a few are held."""

    def __init__(self, path: Path, content: polars.Expr, count: int) -> None:
        self._path, self._content, self._count = path, content.cast(polars.Binary).alias(PATH), count
        self._at_once = max(1, READ_AT_ONCE * count // max(1, path.stat().st_size))
        self._lock, self._held = Lock(), dict[int, polars.Series]()

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: int) -> bytes | None:
        number, place = divmod(row, self._at_once)
        with self._lock:
            if number not in self._held:
                rows = polars.scan_parquet(self._path).slice(number * self._at_once, self._at_once)
                while len(self._held) >= HELD:
                    self._held.pop(next(iter(self._held)))
                self._held[number] = rows.select(self._content).collect().to_series()
            found: bytes | None = self._held[number][place]
        return found


def _listed(
    path: Path, table: polars.DataFrame, cells: _Cells, label: str | None, group: str | None, names: list[str] | None
) -> ImageList:
    """List the rows that have a label; all of them where none has."""
    inside = table[PATH] if PATH in table.columns else None
    labels = None if label is None else _label_names(table[label], names, path.name)
    sources = [f"{path.name}#{row}" for row in range(1, len(cells) + 1)]
    if labels is not None and not any(labels):
        labels = None  # as in Hugging Face's test sets, where all are -1
    labelled = [i for i in range(len(cells)) if labels is None or labels[i]]
    left_out = tuple((sources[i], "its row has no label") for i in range(len(cells)) if labels and not labels[i])
    return ImageList(
        path.name,
        [sources[i] for i in labelled],
        lambda i: _image_bytes(cells, sources, labelled[i]),
        [path],
        None if labels is None else [labels[i] for i in labelled],
        left_out,
        None if group is None else table[group].cast(polars.String).fill_null("").gather(labelled).to_list(),
        [sources[i] if inside is None else inside[i] or sources[i] for i in labelled],
    )


def _image_bytes(cells: _Cells, sources: list[str], i: int) -> bytes:
    try:
        found = cells[i]
    except (polars.exceptions.PolarsError, OSError) as error:
        cause = f"its row cannot be read ({str(error).splitlines()[0]})"
        raise DataError("image", sources[i], cause, REMEDY) from None
    if found is None:
        raise DataError("image", sources[i], "its bytes are missing", "Fill them in.")
    return found


def _label_names(labels: polars.Series, names: list[str] | None, where: str) -> list[str]:
    """Give each row's label as text, empty where it has none."""
    if labels.dtype.is_integer() and names is not None:
        known = [None if value is None or value < 0 else value for value in labels]
        if any(value is not None and value >= len(names) for value in known):
            raise DataError("labels", where, f"they point outside the {len(names)} class names", REMEDY)
        return ["" if value is None else names[value] for value in known]
    if not (labels.dtype.is_integer() or labels.dtype in (polars.String, polars.Categorical, polars.Boolean)):
        raise DataError(f"column {labels.name}", where, f"type {labels.dtype} is no label", "Use numbers or text.")
    texts = labels.cast(polars.Int64 if labels.dtype == polars.Boolean else labels.dtype).cast(polars.String)
    return [text.strip() for text in texts.fill_null("")]


def _from_pixels(table: polars.DataFrame, where: str, choice: Choice) -> LabelledImages:
    """Read a table with a column for each pixel, as the same table in a CSV is read."""
    columns = read_columns(table.columns, where, choice)
    cells = {at: _texts(table[table.columns[at]]) for at in columns.others}
    columns = settle_columns(columns, cells, where)
    pixels = table.select(table.columns[i] for i in columns.pixels)
    if not len(table):
        raise DataError("no images", where, "there are columns but no row", "Add rows of pixels.")
    for column in pixels:
        low, high = (column.min(), column.max()) if column.dtype.is_numeric() else (None, None)
        whole = column.dtype.is_integer() or (low is not None and bool((column.round() == column).all()))
        if column.null_count() or not whole or not (0 <= _number(low) <= _number(high) <= 255):
            cause = "pixels are whole numbers from 0 to 255"
            raise DataError(f"column {column.name}", where, cause, "Fill, divide or clip the column, then run again.")
    height, width, channels = columns.shape
    stack: ndarray = pixels.cast(polars.UInt8).to_numpy().reshape(-1, height, width, channels).transpose(0, 3, 1, 2)
    labels, class_names = None, tuple[str, ...]()
    if columns.label is not None:
        names = _label_names(table[table.columns[columns.label]], None, where)
        if not all(names):
            place = f"{where} row {names.index('') + 1}"
            raise DataError("label", place, "it is missing", "Fill in the label.")
        labels, class_names = encode_labels(np.array(names, dtype=str))
    sources = np.array([f"{where}#{row}" for row in range(1, len(stack) + 1)])
    return LabelledImages(
        np.ascontiguousarray(stack),
        labels,
        class_names,
        sources,
        where,
        groups=None if columns.group is None else cells[columns.group],
        ids=None if columns.ids is None else cells[columns.ids],
        headers=columns.headers,
    )


def _texts(values: polars.Series) -> ndarray:
    return np.asarray(values.cast(polars.String).fill_null("").to_numpy().astype(str))


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
