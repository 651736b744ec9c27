"""The doctor's report: one self-contained HTML page with the pictures concerned."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from imprint.files import written_whole
from imprint.findings import KINDS, Finding, Findings
from imprint.images import LabelledImages

SIDE = 160  # pixels; larger pictures are scaled down to keep the page light
CRISP = 64  # pixels; smaller pictures are shown with sharp pixels
SHOWN = {"label": 120}  # findings with pictures
SHOWN_ELSE = 24
SHOWN_TOGETHER = 6  # pictures of one finding
REMEDIES = {
    "unreadable": "Training goes on without them. Replace them or take them away.",
    "leak": "A model that has learnt these would score too well on them. Keep each picture on one side.",
    "duplicate": "Training keeps exact copies on one side of its split. Where labels differ, one of them is wrong.",
    "label": "Three networks judged each picture without having learnt from it. Look, then correct or leave out.",
    "constant": "There is nothing to learn from them.",
    "polarity": "Ink and paper have changed places. Invert these pictures, or leave them out.",
    "size": "They are scaled like all others. Make sure that they belong here.",
    "name": "Rename the class, or take it away.",
    "imbalance": "Collect more pictures of these classes, and watch their own scores.",
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
    >>> from imprint.checking import check
    >>> from imprint.data import load
    >>> twice, path = load("digits")[[0, 1, 0]], Path(tempfile.mkdtemp()) / "report.html"
    >>> write_page(check(twice, labels=False, silent=True), [twice], path)
    >>> "the same picture 2 times" in path.read_text()
    True
    """
    from jinja2 import Environment, PackageLoader

    template = Environment(
        loader=PackageLoader("imprint"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    ).get_template("findings.html")
    kinds = [kind for kind in ("label", *(k for k in KINDS if k != "label")) if findings.of(kind)]
    most = max(findings.classes.values(), default=1)
    page = template.render(
        findings=findings,
        sections=[_section(kind, findings.of(kind), collections) for kind in kinds],
        bars=[(name, count, 100 * count / most) for name, count in findings.classes.items()],
    )
    with written_whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _section(kind: str, found: list[Finding], collections: Sequence[LabelledImages]) -> dict[str, Any]:
    """Gather what the page says of one kind."""
    shown = found[: SHOWN.get(kind, SHOWN_ELSE)]
    cards = [
        {
            "pictures": [_picture(position, collections) for position in finding.pictures[:SHOWN_TOGETHER]],
            "hidden": max(len(finding.pictures) - SHOWN_TOGETHER, 0),
            "places": [str(place) for place in finding.where[:SHOWN_TOGETHER]],
            "finding": finding,
        }
        for finding in shown
    ]
    words, remedy = KINDS[kind], REMEDIES[kind]
    return {"kind": kind, "words": words, "remedy": remedy, "count": len(found), "cards": cards}


def _picture(position: int, collections: Sequence[LabelledImages]) -> dict[str, Any]:
    """Give one picture with its label and the place where it stands."""
    start = 0
    for images in collections:
        if position < start + len(images):
            break
        start += len(images)
    here = position - start
    label = "" if images.labels is None else images.class_names[images.labels[here]]
    place = f"{'row ' if images.from_pixel_table else ''}{images.sources[here]}"
    pixels = np.asarray(images.pixels[here])
    return {
        "src": _data_uri(pixels),
        "crisp": max(pixels.shape) < CRISP,
        "label": label,
        "place": place,
        "other": images.name if start else "",
    }


def _data_uri(pixels: UInt8[ndarray, "c h w"]) -> str:
    from PIL import Image

    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    picture.thumbnail((SIDE, SIDE))
    kind = "PNG" if max(picture.size) < CRISP else "JPEG"  # small drawings stay crisp, photos stay light
    content = io.BytesIO()
    picture.save(content, kind, quality=85)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"
