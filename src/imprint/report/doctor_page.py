"""The doctor's report: one self-contained HTML page with the images concerned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imprint.data.images import LabelledImages
from imprint.data.quality import KINDS, Finding, Findings
from imprint.report.pages import page_image, write_template

SHOWN = {"label": 120}  # findings with images
SHOWN_ELSE = 24
SHOWN_TOGETHER = 6  # images of one finding
REMEDIES = {
    "unreadable": "Training goes on without them. Replace them or take them away.",
    "leak": "A model that has learnt these would score too well on them. Keep each image on one side.",
    "duplicate": "Training keeps exact copies on one side of its split. Where labels differ, one of them is wrong.",
    "label": "Three networks judged each image without having learnt from it. Look, then correct or leave out.",
    "constant": "There is nothing to learn from them.",
    "polarity": "Ink and paper have changed places. Invert these images, or leave them out.",
    "size": "They are scaled like all others. Make sure that they belong here.",
    "name": "Rename the class, or take it away.",
    "imbalance": "Collect more images of these classes, and watch their own scores.",
}


def write_page(findings: Findings, collections: Sequence[LabelledImages], path: Path) -> None:
    """Write the page: what was found, the labels that are probably wrong first.

    Parameters
    ----------
    findings : Findings
        From `check`.
    collections : sequence of LabelledImages
        The data that was checked, then what it was compared with.
    path : Path
        The HTML file to write.

    Raises
    ------
    UsageError
        When the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from imprint.analysis.doctor import check
    >>> from imprint.data.load import load
    >>> twice, path = load("digits")[[0, 1, 0]], Path(tempfile.mkdtemp()) / "report.html"
    >>> write_page(check(twice, labels=False, verbose=False), [twice], path)
    >>> "the same image 2 times" in path.read_text()
    True
    """
    kinds = [kind for kind in ("label", *(k for k in KINDS if k != "label")) if findings.of(kind)]
    most = max(findings.classes.values(), default=1)
    write_template(
        "findings.html",
        path,
        findings=findings,
        sections=[_section(kind, findings.of(kind), collections) for kind in kinds],
        bars=[(name, count, 100 * count / most) for name, count in findings.classes.items()],
    )


def _section(kind: str, found: list[Finding], collections: Sequence[LabelledImages]) -> dict[str, Any]:
    """Gather what the page says of one kind."""
    shown = found[: SHOWN.get(kind, SHOWN_ELSE)]
    cards = [
        {
            "images": [_image(position, collections) for position in finding.images[:SHOWN_TOGETHER]],
            "hidden": max(len(finding.images) - SHOWN_TOGETHER, 0),
            "places": [str(place) for place in finding.where[:SHOWN_TOGETHER]],
            "finding": finding,
        }
        for finding in shown
    ]
    words, remedy = KINDS[kind], REMEDIES[kind]
    return {"kind": kind, "words": words, "remedy": remedy, "count": len(found), "cards": cards}


def _image(position: int, collections: Sequence[LabelledImages]) -> dict[str, Any]:
    """Give one image with its label and the place where it stands."""
    start = 0
    for images in collections:
        if position < start + len(images):
            break
        start += len(images)
    here = position - start
    label = "" if images.labels is None else images.class_names[images.labels[here]]
    place = f"{'row ' if images.from_pixel_table else ''}{images.sources[here]}"
    image = page_image(np.asarray(images.pixels[here]))
    return image | {"label": label, "place": place, "other": images.name if start else ""}
