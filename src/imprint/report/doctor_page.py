"""The doctor's report: one self-contained HTML page with the images concerned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imprint.core.html import page_image
from imprint.data.images import LabelledImages
from imprint.data.quality import KINDS, Finding, Findings
from imprint.report.pages import write_template

MOST_LABEL_ERRORS = 120  # shown at once, the others unfolded; they are to be looked at one by one
MOST_FINDINGS = 24  # of each other kind
MOST_IMAGES = 6  # drawn of one finding
MOST_LISTED = 10_000  # of each kind
MOST_DRAWN = 2_000  # images of a page, about 10 MB; what is beyond is listed by its sources
REMEDIES = {
    "orientation": "Turn all images as the model has learnt them, or train one on these.",
    "unreadable": "Training leaves them out. Repair or replace them; each line says how where that is known.",
    "leak": "A model trained on these images scores too well on them. Keep each image on one side.",
    "duplicate": "Training keeps exact copies on one side of its split. Where labels differ, one of them is wrong.",
    "label": "Each was judged without its own image. Not all are wrong: look, then correct the label or leave it out.",
    "constant": "There is nothing to learn from them. Leave them out.",
    "polarity": "Ink and paper are swapped. Invert these images, or leave them out.",
    "size": "They are scaled like all others. Check that they belong here.",
    "name": "Rename the class, or move its images to the one that is meant.",
    "imbalance": "Collect more images of these classes, and watch their own scores.",
}


def write_page(findings: Findings, collections: Sequence[LabelledImages], path: Path) -> None:
    """Write the page: what was found, probable label errors first.

    `collections` holds the data that was checked, then what it was compared with.
    """
    kinds = [kind for kind in ("label", *(k for k in KINDS if k != "label")) if findings.of(kind)]
    most = max(findings.classes.values(), default=1)
    left = _Budget(MOST_DRAWN)
    write_template(
        "findings.html",
        path,
        findings=findings,
        sections=[_section(kind, findings.of(kind), collections, left) for kind in kinds],
        bars=[(name, count, 100 * count / most) for name, count in findings.classes.items()],
    )


class _Budget:
    """How many images may still be drawn on a page."""

    def __init__(self, left: int) -> None:
        self.left = left

    def take(self, wanted: int) -> int:
        taken = min(wanted, self.left)
        self.left -= taken
        return taken


def _section(kind: str, found: list[Finding], collections: Sequence[LabelledImages], budget: _Budget) -> dict[str, Any]:
    cards = [_card(finding, collections, budget) for finding in found[:MOST_LISTED]]
    shown = MOST_LABEL_ERRORS if kind == "label" else MOST_FINDINGS
    facts = {"kind": kind, "title": KINDS[kind], "remedy": REMEDIES[kind], "count": len(found)}
    return facts | {"cards": cards[:shown], "others": cards[shown:], "left": len(found) - len(cards)}


def _card(finding: Finding, collections: Sequence[LabelledImages], budget: _Budget) -> dict[str, Any]:
    """Draw the first images of a finding, and name the others."""
    drawn = budget.take(min(len(finding.images), MOST_IMAGES))
    return {
        "images": [_image(position, collections) for position in finding.images[:drawn]],
        "sources": [str(source) for source in finding.where[drawn:]],
        "finding": finding,
    }


def _image(position: int, collections: Sequence[LabelledImages]) -> dict[str, Any]:
    """Embed one image with its label, its source and, where it is of the data compared with, their name."""
    start = 0
    for images in collections:
        if position < start + len(images):
            break
        start += len(images)
    index = position - start
    label = "" if images.labels is None else images.class_names[images.labels[index]]
    source = f"{'row ' if images.from_pixel_table else ''}{images.sources[index]}"
    image = page_image(np.asarray(images.pixels[index]))
    return image | {"label": label, "source": source, "other": images.name if start else ""}
