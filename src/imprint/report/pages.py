"""Self-contained HTML pages: templates filled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from imprint.core.files import written_whole


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
