"""The style of Imprint's plots, and how a figure becomes a PNG file or SVG within a page."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jaxtyping import UInt8
from numpy import ndarray

from imprint.core.files import written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind people tell apart: jfly.uni-koeln.de/color
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#5F6B76"
INK, EDGE, GRID = "#1F2933", "#B8C0C8", "#E6EAEE"
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": EDGE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlesize": 12,
    "grid.color": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "savefig.dpi": 150,
}
# Of each variable a page has a light and a dark tone (templates/base.html).
CSS_VARIABLES = {BLUE: "blue", ORANGE: "orange", GREEN: "green", GREY: "soft", INK: "ink", EDGE: "edge", GRID: "line"}


@contextmanager
def new_figure(
    width: float | int, height: float | int, layout: Literal["constrained"] | None = "constrained"
) -> Iterator[Figure]:
    """Make an empty figure of so many inches; what is drawn within the block gets Imprint's style.

    Set `layout` to None where margins are set by hand: computing them takes longer than most drawings.
    """
    from matplotlib import rc_context

    from imprint.core.figure import NotebookFigure

    with rc_context(STYLE):
        yield NotebookFigure(figsize=(width, height), layout=layout)


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure to a PNG file, on white; raises `UsageError` when the file cannot be written."""
    from matplotlib import rc_context

    with rc_context(STYLE), written_whole(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # matplotlib draws a box for it
        figure.savefig(temporary, format="png", facecolor="white")


def to_svg(figure: Figure, name: str, description: str) -> str:
    """Turn a figure into an ``svg`` element that takes the colours and the font of the page around it.

    `name`, a word that no other figure of the page has, keeps ids apart; `description` is for screen readers.
    """
    from html import escape

    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({**STYLE, "svg.fonttype": "none", "font.sans-serif": ["DejaVu Sans"]}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser has other fonts
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    found = re.search(r'<svg [^>]*viewBox="([^"]+)"[^>]*>', svg)
    assert found is not None
    svg = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</defs>", "", svg[found.end() :], flags=re.DOTALL)
    svg = re.sub(r' id="\w+?_\d+"', "", svg)  # of groups; nothing refers to them
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\1{name}-", svg)
    for colour, variable in CSS_VARIABLES.items():
        svg = re.sub(f"(fill|stroke): {colour}", rf"\1: var(--{variable})", svg, flags=re.IGNORECASE)
    svg = re.sub(r"(font(?:-family)?: [^;\"]*?)'DejaVu Sans'[^;\"]*", r"\1system-ui, sans-serif", svg)
    return f'<svg role="img" aria-label="{escape(description)}" viewBox="{found[1]}">{svg}'


def draw_image(axes: Axes, image: UInt8[ndarray, "c h w"]) -> None:
    """Draw one image, grey or in colour, with crisp pixels and without axes."""
    axes.axis("off")
    channels_last = image.transpose(1, 2, 0)
    if channels_last.shape[2] == 1:
        axes.imshow(channels_last[..., 0], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    else:
        axes.imshow(channels_last, interpolation="nearest")


def draw_grid(pixels: UInt8[ndarray, "n c h w"], titles: Sequence[str]) -> Figure:
    """Draw images in rows of five, more than ten in rows of ten, each under its title."""
    columns = 5 if len(pixels) <= 10 else 10
    rows = math.ceil(len(pixels) / columns)
    lines = max(title.count("\n") + 1 for title in titles)
    side = 1.5 if columns == 5 else 0.95
    longest = max(len(line) for title in titles for line in title.split("\n"))
    size = 11 if columns == 5 and longest <= 15 else 9
    height = image_height(pixels.shape[1:], side) + 0.24 * lines
    with new_figure(columns * side + 0.2, rows * height) as figure:
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in grid:
            axes.axis("off")
        for axes, image, title in zip(grid, pixels, titles, strict=False):
            draw_image(axes, image)
            shown = shorten(title, 18 if columns == 5 else 11)
            axes.set_title(shown, fontsize=size, fontweight="normal", loc="center", parse_math=False)
    return figure


def image_height(shape: tuple[int, int, int], width: float) -> float:
    """Height of an image, (channels, height, width), drawn `width` wide; extreme aspect ratios are bounded."""
    return width * min(max(shape[1] / shape[2], 0.25), 1.5)


def shorten(text: str, most: int = 18) -> str:
    """Leave out the middle of each line longer than `most` characters, since names often differ at their ends."""
    tail = (most - 1) // 2
    return "\n".join(
        line if len(line) <= most else f"{line[: most - 1 - tail]}…{line[-tail:]}" for line in text.split("\n")
    )
