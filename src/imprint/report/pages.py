"""Self-contained HTML pages: templates filled, and images embedded as data URIs."""

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
CRISP = 64  # pixels; smaller images are shown with sharp pixels, as PNG


def write_template(name: str, path: Path, **values: Any) -> None:
    """Fill a template of `templates/` and write it; every value is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("imprint.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    page = environment.get_template(name).render(values)
    with written_whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


def page_image(pixels: UInt8[ndarray, "c h w"], side: int = SIDE) -> dict[str, Any]:
    """Embed an image: `src`, a data URI of at most `side` pixels, and `crisp`, whether to show sharp pixels."""
    from PIL import Image

    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.thumbnail((side, side))
    kind = "PNG" if max(image.size) < CRISP else "JPEG"  # a page of photos as PNG would be too large
    content = io.BytesIO()
    image.save(content, kind, quality=85)
    uri = f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"
    return {"src": uri, "crisp": max(pixels.shape) < CRISP}
