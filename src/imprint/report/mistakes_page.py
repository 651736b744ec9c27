"""The mistakes of a model as a list to correct labels in: a CSV, or a page with the images that saves this CSV."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from imprint.core.html import page_image
from imprint.core.scores import EVALUATED, LabelledPredictions
from imprint.data.images import LabelledImages
from imprint.data.readers.corrections import GIVEN, full_sources, write_corrections
from imprint.report.pages import write_template

KEYS = "1234567890abcdefghijklmnopqrstuvwxyz"
MOST_ON_PAGE = 5_000  # about 12 MB
SIDES = ((300, 160), (2000, 96))  # so many mistakes are shown with so many pixels a side
SMALLEST_SIDE = 64  # of more


def save_mistakes(
    labelled: LabelledPredictions, images: LabelledImages, causes: Mapping[int, str], data: str, path: Path
) -> int:
    """Write a model's mistakes, the most doubtful labels first, and give their number; `data` names the data to repeat.

    A name that ends in .html gets a page, any other a CSV. `causes` are those of mistakes whose cause is known.
    """
    worst = labelled.worst()
    rows = replace(labelled, sources=np.array(full_sources(images))).evaluated(worst, causes)
    if path.suffix.lower() in (".html", ".htm"):
        _write_page(rows, images, worst.tolist(), labelled.class_names, data, path)
    else:
        write_corrections(EVALUATED, rows, path)
    return len(rows)


def _write_page(
    rows: list[list[str]],
    images: LabelledImages,
    places: list[int],
    class_names: Sequence[str],
    data: str,
    path: Path,
) -> None:
    left = len(rows) - MOST_ON_PAGE
    rows, places = rows[:MOST_ON_PAGE], places[:MOST_ON_PAGE]
    side = next((side for most, side in SIDES if len(rows) <= most), SMALLEST_SIDE)
    cards = [
        {"row": row, "image": page_image(np.asarray(images.pixels[place]), side)}
        for row, place in zip(rows, places, strict=True)
    ]
    words: Mapping[str, str] = {}
    if any(row[-1] for row in rows):  # which needs torch, as finding the causes did
        from imprint.analysis.error_analysis import CAUSES

        words = CAUSES
    write_template(
        "mistakes.html",
        path,
        title=images.name,
        scored=len(images),
        cards=cards,
        left=max(left, 0),
        classes=class_names,
        keys=class_keys(class_names),
        columns=[*EVALUATED, GIVEN],
        causes=words,
        file=f"{path.stem}.csv",
        data=shlex.quote(data),
    )


def class_keys(class_names: Sequence[str]) -> dict[str, str]:
    """Choose a key for each class, as far as there are keys: its own name where that is one, else the next free."""
    keys = dict[str, str]()
    for name in class_names:
        if name.lower() in KEYS and len(name) == 1:
            keys.setdefault(name.lower(), name)
    others = (name for name in class_names if name not in keys.values())
    free = (key for key in KEYS if key not in keys)
    return keys | dict(zip(list(free), others, strict=False))
