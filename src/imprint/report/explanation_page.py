"""The page of `imprint explain` for several images: what a model says of each, and where it looked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imprint.analysis.explanation import BriefExplanation
from imprint.core.html import page_image
from imprint.report.explanation_plots import overlay
from imprint.report.pages import write_template
from imprint.report.sections import short_source

SIDE = 240  # pixels of an image


def write_explanations(
    explained: Sequence[BriefExplanation], name: str, images: int, path: Path, root: str = ""
) -> None:
    """Write the page about the first of so many images of the data called `name`, which stand in the folder `root`."""
    counts = {
        "unsure": sum(one.prediction["unsure"] for one in explained),
        "wrong": sum(one.truth not in (None, one.prediction["label"]) for one in explained),
    }
    labelled = any(one.truth is not None for one in explained)
    cards = [_card(one, root) for one in explained]
    about = {"data": name, "images": images, "counts": counts, "labelled": labelled}
    write_template("explanations.html", path, cards=cards, **about)


def _card(one: BriefExplanation, root: str) -> dict[str, Any]:
    """Embed an image as the network gets it, and with a glow where it looked."""
    shown = [page_image(one.image, SIDE)]
    if one.evidence is not None:
        glow = (overlay(one.image, one.evidence) * 255).round().astype(np.uint8)
        shown.append(page_image(glow.transpose(2, 0, 1), SIDE))
    confidence = one.prediction["confidence"]
    share = "over 99" if confidence >= 0.995 else f"{100 * confidence:.0f}"
    wrong = one.truth not in (None, one.prediction["label"])
    source = short_source(one.prediction["source"], root)
    own = {"source": source, "truth": one.truth, "wrong": wrong, "shown": shown, "share": f"{share} %"}
    return one.prediction | own
