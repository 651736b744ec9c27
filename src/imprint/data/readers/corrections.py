"""A list of corrected labels: the mistakes of a model, edited by a person, and laid over the data's own labels."""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from imprint.core.errors import DataError, did_you_mean
from imprint.core.files import similar_path, written_whole
from imprint.core.progress import say
from imprint.data.decoding.content import gunzip, to_utf8
from imprint.data.images import WHOLE_NUMBER, LabelledImages, encode_labels
from imprint.data.readers.columns import LABELS, MISSING, PATHS, find_column, first_named
from imprint.data.readers.path_table import SAVE_AS_CSV, parse_table

GIVEN = "given"  # the column of the labels as the data had them, by which a list for other data is recognised


@dataclass(frozen=True)
class Correction:
    """One row of a list: the label of a source, empty where the image is to be left out; `given` may be unknown."""

    source: str
    label: str
    given: str | None = None


def full_sources(images: LabelledImages) -> list[str]:
    """Name each image as a list of corrections does: a row of a table of pixels with the table's name before it."""
    return [f"{images.name} row {row}" if images.from_pixel_table else str(row) for row in images.sources.tolist()]


def write_corrections(header: Sequence[str], rows: Iterable[Sequence[str]], path: Path) -> None:
    """Write a list to be edited: rows of `header`, which holds source and label; `GIVEN` repeats the label."""
    label = list(header).index("label")
    with (
        written_whole(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*header, GIVEN])
        writer.writerows([*row, row[label]] for row in rows)


def read_corrections(path: Path) -> list[Correction]:
    """Read a list: CSV, TSV or JSON lines with a column source (or path) and one label; others are passed over.

    Raises `DataError` where it is no such list, or names an image twice with different labels.
    """
    try:
        text = to_utf8(gunzip(path.read_bytes(), path.name)).decode("utf-8").lstrip("\r\n")
    except UnicodeDecodeError:
        raise DataError("text", path.name, "it is not UTF-8", SAVE_AS_CSV) from None
    except OSError as error:
        cause = f"it cannot be read ({error.strerror or error})"
        remedy = f"{similar_path(path)}Name a list of source,label; --label names a column of labels."
        raise DataError("labels", str(path), cause, remedy) from None
    header, rows, named = parse_table(text, path.name, strict=True)
    source = first_named(header, ("source", *PATHS), path.name)
    label = first_named(header, LABELS, path.name)
    if source is None or label is None or not named:
        cause = f"no column is called {'label' if source is not None and named else 'source'}"
        remedy = "Give a list of source,label, as imprint evaluate --mistakes writes it."
        raise DataError("columns", path.name, cause, remedy)
    given, found = find_column(header, GIVEN), dict[str, Correction]()
    for row in rows:
        one = Correction(row[source].strip(), row[label].strip(), None if given is None else row[given].strip())
        if found.setdefault(one.source, one).label != one.label:
            cause = f"it is there twice, as {found[one.source].label!r} and {one.label!r}"
            raise DataError(f"source {one.source}", path.name, cause, "Leave one of the two rows.")
    return list(found.values())


def with_corrections(
    images: LabelledImages, path: Path, others: Iterable[tuple[Sequence[str], Sequence[str]]] = ()
) -> LabelledImages:
    """Lay a list of corrected labels over the data's own, by source; images without a label there are left out.

    `others` are sources and labels of the data's other parts, which a list may name too. Says how many labels changed.
    Raises `DataError` where a source or a label is none of the data's, or the list was made for other data.
    """
    corrections = read_corrections(path)
    if images.labels is None:
        raise DataError("labels", images.name, "there are none to correct", "Use data that has labels.")
    places = _find_places(full_sources(images), corrections, path)
    complete = all(places) and {one.label for one in corrections} <= {"", *images.class_names}
    known = [] if complete else list(others)
    elsewhere = _find_places([source for sources, _ in known for source in sources], corrections, path)
    unknown = [one.source for one, own, other in zip(corrections, places, elsewhere, strict=True) if not (own or other)]
    if unknown:
        more = f" and {len(unknown) - 1:,} more" if len(unknown) > 1 else ""
        remedy = "Give the data that the list is about, under the name that it had."
        raise DataError(f"source {unknown[0]}{more}", path.name, f"{images.name} has no such image", remedy)
    names = [*images.class_names, *(name for _, labels in known for name in labels)]
    labels = np.array(images.class_names, dtype=object)[images.labels]
    before = labels.copy()
    for one, own in zip(corrections, places, strict=True):
        wanted = _known_label(one, names, path, images.name) if own else ""
        for at in own:
            if one.given is not None and before[at] != wanted and not _same_class(before[at], one.given):
                cause = f"the list says that its label was {one.given!r}, and it is {before[at]!r}"
                raise DataError(f"source {one.source}", path.name, cause, "Give the data that the list is about.")
            labels[at] = wanted
    kept = np.flatnonzero(labels != "")
    changed, left_out = int((labels != before)[kept].sum()), len(images) - len(kept)
    said = f"labels of {path.name}: {changed:,} of {len(images):,} changed"
    say(said + (f", {left_out:,} image{'s' if left_out > 1 else ''} without a label left out" if left_out else ""))
    if not len(kept):
        raise DataError("labels", path.name, "no image would be left", "Write labels into the list.")
    chosen, texts = images[kept] if left_out else images, labels[kept].astype(str)
    class_names = images.class_names
    if set(texts.tolist()) - set(class_names):
        class_names = encode_labels(np.array(list({*class_names, *texts.tolist()})))[1]
    position = {name: i for i, name in enumerate(class_names)}
    numbers = np.array([position[name] for name in texts.tolist()], dtype=np.int64)
    return replace(chosen, labels=numbers, class_names=class_names)


def _find_places(sources: Sequence[str], corrections: Sequence[Correction], path: Path) -> list[list[int]]:
    """Find the positions of each correction's source: as it is written, else as the same file by another path."""
    exact = _by_name(sources)
    if all(one.source in exact for one in corrections):
        return [exact[one.source] for one in corrections]
    same_file, home = _by_name([os.path.abspath(source) for source in sources]), path.absolute().parent  # noqa: PTH100
    return [
        exact.get(one.source)
        or same_file.get(os.path.abspath(one.source))  # noqa: PTH100
        or same_file.get(os.path.abspath(home / one.source), [])  # noqa: PTH100
        for one in corrections
    ]


def _by_name(sources: Sequence[str]) -> dict[str, list[int]]:
    places = defaultdict[str, list[int]](list)
    for i, source in enumerate(sources):
        places[source].append(i)
    return dict(places)


def _known_label(one: Correction, names: Sequence[str], path: Path, data: str) -> str:
    """Give the class that a label means: of its name, else the same whole number; empty stays empty."""
    if one.label in names:
        return one.label
    if one.label.lower() in MISSING:
        return ""
    if same := next((name for name in names if _same_class(name, one.label)), None):
        return same
    cause = f"{data} has no such class, and a misspelling would make one"
    remedy = f"{did_you_mean(one.label, names)}Write one of its classes, or nothing to leave the image out."
    raise DataError(f"label {one.label!r} of {one.source}", path.name, cause, remedy)


def _same_class(name: str, written: str) -> bool:
    """Tell whether a class is meant by what a spreadsheet may have made of its name."""
    first, second = WHOLE_NUMBER.fullmatch(name), WHOLE_NUMBER.fullmatch(written)
    return name.strip() == written or bool(first and second and int(first[1]) == int(second[1]))
