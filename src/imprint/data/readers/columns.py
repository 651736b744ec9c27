"""Columns of tables by name: which hold paths, ids and labels; one list of names for every format.

Names are compared in lower case, with spaces, dots and hyphens as underscores.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from imprint.core.errors import DataError

# The first that is there is taken.
LABELS = (
    *("label", "labels", "class", "class_name", "classname", "class_label", "label_name", "target", "targets"),
    *("category", "category_name", "classes", "class_id", "classid", "label_id", "category_id", "y"),
    *("species", "breed", "character", "emotion", "level", "diagnosis", "finding_labels", "tag", "tags"),
)
PATHS = (
    *("path", "file", "filename", "file_name", "filepath", "file_path", "fname", "image_path", "img_path"),
    *("image_name", "img_name", "imagename", "image_file", "image_filename", "image_index", "image", "img", "picture"),
)
IDS = ("id", "imageid", "image_id", "img_id", "index")
BOOKKEEPING = ("", "unnamed_0", "usage", "split", "fold", "set")  # no label, whatever they hold
MANY_NAMES = ("tags", "labels", "classes", "attributes", "finding_labels", "categories")  # more than one by their name
MISSING = ("", "nan")  # as spreadsheets and pandas leave cells without a value
ONE_LABEL = "Imprint gives one label an image"


@dataclass(frozen=True)
class Choice:
    """Which columns a person chose, None where their names decide; `label` may be a regular expression for paths."""

    label: str | None = None
    group: str | None = None
    ids: str | None = None


BY_NAME = Choice()


def normalised(name: str) -> str:
    """Bring a column's name into the form in which names are compared."""
    return re.sub(r"[ .:-]+", "_", name.strip().lower()).strip("_")


def find_column(header: Sequence[str], name: str | None) -> int | None:
    """Find the column that a person named; None where there is none. Raises DataError where it is there twice."""
    if name is None:
        return None
    found = [i for i, column in enumerate(header) if column.strip() == name] or [
        i for i, column in enumerate(header) if normalised(column) == normalised(name)
    ]
    if len(found) > 1:
        raise doubled(name, "the table")
    return found[0] if found else None


def doubled(name: str, where: str) -> DataError:
    """Make the error for a column that is there twice."""
    return DataError(f"column {name}", where, "it is there twice", "Rename one of the two.")


def first_named(header: Sequence[str], names: Sequence[str], where: str) -> int | None:
    """Find the column with the earliest of some names; raises DataError where it is there twice."""
    normal = [normalised(name) for name in header]
    for name in names:
        if normal.count(name) > 1:
            raise doubled(name, where)
        if name in normal:
            return normal.index(name)
    return None


def no_label_among(columns: Sequence[str], where: str) -> DataError:
    """Make the error for a table in which several columns could hold the labels."""
    shown = ", ".join(columns[:8]) + (f" and {len(columns) - 8:,} more" if len(columns) > 8 else "")
    cause = f"none is called label, class or the like, and {shown} are there"
    return DataError("labels", where, cause, f"Say which column holds them: --label {columns[0]!r}.")


def one_hot(columns: Mapping[str, Sequence[str]], where: str) -> list[str] | None:
    """Turn columns of zeros with a single one in each row into the names of those columns; None where they are not.

    A row without a one has no label (empty). Raises DataError where rows have several ones.
    """
    if len(columns) < 2:
        return None
    values = {name: [_zero_or_one(cell) for cell in cells] for name, cells in columns.items()}
    if any(value is None for cells in values.values() for value in cells):
        return None
    names, labels, several = list(values), list[str](), 0
    for row in zip(*values.values(), strict=True):
        ones = [name for name, value in zip(names, row, strict=True) if value]
        several += len(ones) > 1
        labels.append(ones[0] if ones else "")
    if several:
        what = f"{several:,} of {len(labels):,} rows have a 1 in several of the columns {', '.join(names[:5])}"
        raise _several_labels(where, what, names[0])
    return labels if any(labels) else None


def _zero_or_one(cell: str) -> int | None:
    return {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}.get(cell.strip().lower())


def refuse_several_labels(name: str, labels: Sequence[str], where: str) -> None:
    """Raise DataError where labels are several names joined by ``|``, a space or a comma.

    Those are joined names that also stand alone, or share parts, or any in a column that says so by its name.
    """
    counts = Counter(label.strip() for label in labels if label.strip().lower() not in MISSING)
    many = normalised(name) in MANY_NAMES
    for separator in ("|", ",", " "):
        joined = {label: [part.strip() for part in label.split(separator)] for label in counts if separator in label}
        joined = {label: parts for label, parts in joined.items() if all(parts)}
        if not joined:
            continue
        shared = Counter(part for parts in joined.values() for part in set(parts))
        if separator == "|":
            clear = many or any(part in counts or shared[part] > 1 for part in shared)
        elif separator == " " and normalised(name) != "tags":
            clear = any(all(part in counts for part in parts) for parts in joined.values())
        else:
            clear = many or any(all(part in counts for part in parts) for parts in joined.values())
        if clear:
            example = max(joined, key=lambda label: counts[label])
            rows = sum(counts[label] for label in joined)
            raise _several_labels(where, f"{rows:,} cells of column {name} join several names, as {example!r}", name)


def _several_labels(where: str, what: str, column: str) -> DataError:
    remedy = f"Choose a column with one name an image: --label {column!r} takes that one as it stands."
    return DataError("several labels an image", where, f"{what}; {ONE_LABEL}", remedy)
