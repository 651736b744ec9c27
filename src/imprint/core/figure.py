"""NotebookFigure: a matplotlib figure that a notebook shows by itself, without pyplot, which would keep it."""

from __future__ import annotations

import io
import warnings

from matplotlib.figure import Figure


class NotebookFigure(Figure):
    """A figure as any other; `savefig` writes it."""

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # matplotlib draws a box for it
            self.savefig(content, format="png", dpi=100, facecolor="white")
        return content.getvalue()
