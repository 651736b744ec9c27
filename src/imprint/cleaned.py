"""The cleaned list: data without the pictures that the doctor found fault with, in a form that training takes."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from imprint.checking import CONTRADICTION
from imprint.errors import UsageError
from imprint.files import written_whole
from imprint.findings import Findings
from imprint.images import LabelledImages

LEFT_OUT = ("leak", "label", "constant", "polarity")  # all pictures of such a finding are left out


def kept(images: LabelledImages, findings: Findings) -> Bool[ndarray, " n"]:
    """Choose the pictures to keep.

    Left out are pictures that leak, have one colour, are inverted or are probably labelled wrong;
    of copies all but the first, and all of them where their labels differ; and classes that a
    program made.

    Parameters
    ----------
    images : LabelledImages
        What was checked.
    findings : Findings
        What was found.

    Returns
    -------
    ndarray of bool, shape (n,)
        Whether each picture stays.

    Examples
    --------
    >>> from imprint.checking import check
    >>> from imprint.data import load
    >>> twice = load("digits")[[0, 1, 0]]
    >>> kept(twice, check(twice, labels=False, silent=True))
    array([ True,  True, False])
    """
    stays = np.ones(len(images), dtype=bool)
    for finding in findings.findings:
        own = [position for position in finding.pictures if position < len(images)]
        if finding.kind == "duplicate":
            stays[own if CONTRADICTION in finding.message else own[1:]] = False
        elif finding.kind in LEFT_OUT:
            stays[own] = False
        elif finding.kind == "name" and not finding.suggested:
            stays[np.isin(np.array(images.class_names)[images.labels], finding.where)] = False
    return stays


def write_cleaned(images: LabelledImages, findings: Findings, path: Path) -> int:
    """Write what is kept as a CSV: of path and label where every picture is a file, else of pixels.

    Several spellings of one class become the commonest one.

    Parameters
    ----------
    images : LabelledImages
        What was checked.
    findings : Findings
        What was found.
    path : Path
        The CSV; paths in it are relative to its folder.

    Returns
    -------
    int
        How many pictures it holds.

    Raises
    ------
    UsageError
        When nothing would be left, the pictures fit into neither form, or the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from imprint.checking import check
    >>> from imprint.data import load
    >>> digits, path = load("digits")[[0, 1, 0]], Path(tempfile.mkdtemp()) / "clean.csv"
    >>> write_cleaned(digits, check(digits, labels=False, silent=True), path)
    2
    >>> load(path).class_names
    ('0', '1')
    """
    chosen = images[np.flatnonzero(kept(images, findings))] if kept(images, findings).any() else None
    if chosen is None:
        raise UsageError("cleaned list", str(path), "no picture would be left", "Look at the findings first.")
    renamed = {name: finding.suggested for finding in findings.of("name") for name in finding.where}
    names = [renamed.get(name) or name for name in images.class_names]
    labels = None if chosen.labels is None else [names[label] for label in chosen.labels]
    if images.sources.dtype.kind != "i" and (files := _files(chosen)):
        _write_paths(files, labels, path)
    else:
        _write_pixels(chosen, labels, path)
    return len(chosen)


def _files(images: LabelledImages) -> list[Path]:
    """Find the file of every picture; none where a picture has no file of its own."""
    for folder in (Path(), Path(images.name)):
        files = [folder / str(source) for source in images.sources]
        if all(file.is_file() for file in files):
            return files
    return []


def _write_paths(files: list[Path], labels: list[str] | None, path: Path) -> None:
    home = path.absolute().parent
    with written_whole(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "label"][: 1 if labels is None else 2])
        for number, picture in enumerate(files):
            relative = Path(os.path.relpath(picture.absolute(), home)).as_posix()
            writer.writerow([relative] if labels is None else [relative, labels[number]])


def _write_pixels(images: LabelledImages, labels: list[str] | None, path: Path) -> None:
    import polars

    channels, height, width = images.shape
    if height != width or channels not in (1, 3):
        raise UsageError(
            "cleaned list",
            str(path),
            f"pictures of {width}×{height} that are no files of their own fit into no CSV",
            "Save them as files in class folders first.",
        )
    flat = images.pixels.transpose(0, 2, 3, 1).reshape(len(images), -1)
    table = polars.DataFrame(flat, schema=[f"pixel{i}" for i in range(flat.shape[1])])
    if labels is not None:
        table.insert_column(0, polars.Series("label", labels))
    with written_whole(path) as temporary:
        table.write_csv(temporary)
