"""HTML pages that stand alone: how they are made of templates, and how images come into them."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from imprint.core.files import written_whole

SIDE = 160  # pixels; larger images are scaled down to keep the page light
CRISP = 64  # pixels; smaller images are shown with sharp pixels


def write_template(name: str, path: Path, **facts: Any) -> None:
    """Fill a template of `templates/` and write it; whatever it is given is escaped.

    Parameters
    ----------
    name : str
        The template's file name.
    path : Path
        The HTML file to write.
    **facts : object
        What it speaks of.

    Raises
    ------
    UsageError
        When the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from imprint.data.quality import Findings
    >>> path = Path(tempfile.mkdtemp()) / "page.html"
    >>> write_template("findings.html", path, findings=Findings("<b>", 0, {}, ()), sections=[], bars=[])
    >>> "<h1>&lt;b&gt;</h1>" in path.read_text()
    True
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("imprint.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    page = environment.get_template(name).render(facts)
    with written_whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


def page_image(pixels: UInt8[ndarray, "c h w"], side: int = SIDE) -> dict[str, Any]:
    """Put an image into the page itself.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (c, h, w)
        Brightness, 0 to 255; c is 1 for grey, 3 for colour.
    side : int, default=160
        Pixels of the longer side at most.

    Returns
    -------
    dict
        ``src``, a data URI, and ``crisp``, whether its pixels should be seen.

    Examples
    --------
    >>> page_image(np.zeros((1, 8, 8), dtype=np.uint8))["src"][:22]
    'data:image/png;base64,'
    """
    from PIL import Image

    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.thumbnail((side, side))
    kind = "PNG" if max(image.size) < CRISP else "JPEG"  # small drawings stay crisp, photos stay light
    content = io.BytesIO()
    image.save(content, kind, quality=85)
    uri = f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"
    return {"src": uri, "crisp": max(pixels.shape) < CRISP}
