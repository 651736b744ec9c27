"""Images in Parquet: image files in a column, as Hugging Face keeps them, or a column for each pixel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars
from numpy import ndarray

from imprint.core.errors import DataError, UsageError
from imprint.data.decoding.image_list import ImageList
from imprint.data.images import LabelledImages, encode_labels
from imprint.data.readers.columns import BY_NAME, LABELS, Choice, find_column, first_named, no_label_among
from imprint.data.readers.csv import read_columns, settle_columns

IMAGES = ("image", "img", "picture")
REMEDY = "Save or download it again."


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
        chosen = dict.fromkeys(name for name in (images[0], label, groups) if name)
        table = polars.read_parquet(path, columns=list(chosen))
    except (polars.exceptions.PolarsError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError("Parquet", path.name, "it is cut short, damaged or no Parquet file", REMEDY) from None
    return _listed(path, table, images[0], label, groups, class_names.get(label or ""))


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


def _listed(
    path: Path, table: polars.DataFrame, image: str, label: str | None, group: str | None, names: list[str] | None
) -> ImageList:
    """List the rows that have a label; all of them where none has."""
    struct = isinstance(table.schema[image], polars.Struct)
    content = table[image].struct.field("bytes") if struct else table[image]
    inside = table[image].struct.field("path") if struct and "path" in table[image].struct.fields else None
    labels = None if label is None else _label_names(table[label], names, path.name)
    sources = [f"{path.name}#{row}" for row in range(1, len(table) + 1)]
    if labels is not None and not any(labels):
        labels = None  # as in Hugging Face's test sets, where all are -1
    labelled = [i for i in range(len(table)) if labels is None or labels[i]]
    left_out = tuple((sources[i], "its row has no label") for i in range(len(table)) if labels and not labels[i])
    return ImageList(
        path.name,
        [sources[i] for i in labelled],
        lambda i: _image_bytes(content, sources, labelled[i]),
        [path],
        None if labels is None else [labels[i] for i in labelled],
        left_out,
        None if group is None else table[group].cast(polars.String).fill_null("").gather(labelled).to_list(),
        [sources[i] if inside is None else inside[i] or sources[i] for i in labelled],
    )


def _image_bytes(content: polars.Series, sources: list[str], i: int) -> bytes:
    found: bytes | None = content[i]
    if found is None:
        raise DataError("image", sources[i], "its bytes are missing", "Fill them in, or remove the row.")
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
            raise DataError("label", place, "it is missing", "Fill in the label, or remove the row.")
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
