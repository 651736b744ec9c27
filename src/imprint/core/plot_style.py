"""How Imprint's images look, and how a drawn figure becomes a PNG file or a part of a page."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
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
# A page gives these names to a light and a dark tone (templates/base.html).
NAMES = {BLUE: "blue", ORANGE: "orange", GREEN: "green", GREY: "soft", INK: "ink", EDGE: "edge", GRID: "line"}


@contextmanager
def new_figure(
    width: float | int, height: float | int, layout: Literal["constrained"] | None = "constrained"
) -> Iterator[Figure]:
    """Make an empty figure in Imprint's style; what is drawn in the block has that style.

    Parameters
    ----------
    width, height : float
        In inches.
    layout : {"constrained"} or None, default="constrained"
        None where the margins are set by hand: finding them takes longer than most drawings.

    Yields
    ------
    Figure
        Of matplotlib.

    Examples
    --------
    >>> with new_figure(3, 2) as figure:
    ...     figure.subplots().set_title("nothing yet")
    Text(0.0, 1.0, 'nothing yet')
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        yield Figure(figsize=(width, height), layout=layout)


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure to a PNG file, on white.

    Parameters
    ----------
    figure : Figure
        From `new_figure`.
    path : Path
        The file.

    Raises
    ------
    UsageError
        When the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with new_figure(3, 2) as figure:
    ...     save_png(figure, Path(tempfile.mkdtemp()) / "empty.png")
    """
    from matplotlib import rc_context

    with rc_context(STYLE), written_whole(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a box stands for it
        figure.savefig(temporary, format="png", facecolor="white")


def to_svg(figure: Figure, name: str, description: str) -> str:
    """Turn a figure into SVG that stands within a page and takes the page's colours and font.

    Parameters
    ----------
    figure : Figure
        From `new_figure`.
    name : str
        Unlike that of other images on the page; a word.
    description : str
        What there is to see, for those who cannot.

    Returns
    -------
    str
        An element ``svg`` without ground. Text in it is escaped.

    Examples
    --------
    >>> with new_figure(3, 2) as figure:
    ...     to_svg(figure, "empty", "Nothing yet")[:57]
    '<svg role="img" aria-label="Nothing yet" viewBox="0 0 216'
    """
    from html import escape

    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({**STYLE, "svg.fonttype": "none", "font.sans-serif": ["DejaVu Sans"]}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser has other fonts
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawn = text.getvalue()
    found = re.search(r'<svg [^>]*viewBox="([^"]+)"[^>]*>', drawn)
    assert found is not None
    drawn = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</defs>", "", drawn[found.end() :], flags=re.DOTALL)
    drawn = re.sub(r' id="\w+?_\d+"', "", drawn)  # of groups, which nothing refers to
    drawn = re.sub(r'( id="|href="#|url\(#)', rf"\1{name}-", drawn)
    for colour, variable in NAMES.items():
        drawn = re.sub(f"(fill|stroke): {colour}", rf"\1: var(--{variable})", drawn, flags=re.IGNORECASE)
    drawn = re.sub(r"(font(?:-family)?: [^;\"]*?)'DejaVu Sans'[^;\"]*", r"\1system-ui, sans-serif", drawn)
    return f'<svg role="img" aria-label="{escape(description)}" viewBox="{found[1]}">{drawn}'


def draw_image(axes: Axes, image: UInt8[ndarray, "c h w"]) -> None:
    """Draw one image with crisp pixels, grey or in colour, and nothing around it.

    Parameters
    ----------
    axes : Axes
        Where.
    image : ndarray of uint8, shape (c, h, w)
        Brightness, 0 to 255; c is 1 for grey, 3 for colour.

    Examples
    --------
    >>> import numpy as np
    >>> with new_figure(1, 1) as figure:
    ...     draw_image(figure.subplots(), np.zeros((1, 8, 8), dtype=np.uint8))
    """
    axes.axis("off")
    channels_last = image.transpose(1, 2, 0)
    if channels_last.shape[2] == 1:
        axes.imshow(channels_last[..., 0], cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    else:
        axes.imshow(channels_last, interpolation="nearest")


def image_height(shape: tuple[int, int, int], width: float) -> float:
    """Tell how high an image is drawn; very wide and very high ones get some room more, or less.

    Parameters
    ----------
    shape : tuple of int
        Channels, height and width in pixels.
    width : float
        In inches.

    Returns
    -------
    float
        In inches.

    Examples
    --------
    >>> image_height((3, 100, 200), 1.6), image_height((1, 10, 1000), 1.6)
    (0.8, 0.4)
    """
    return width * min(max(shape[1] / shape[2], 0.25), 1.5)


def shorten(text: str, most: int = 18) -> str:
    """Leave out the middle of each line that is too long for an image, since names often differ at their ends.

    Parameters
    ----------
    text : str
        One line or several.
    most : int, default=18
        Characters of a line.

    Returns
    -------
    str
        As many lines.

    Examples
    --------
    >>> shorten("a class with a long name", most=8)
    'a cl…ame'
    """
    tail = (most - 1) // 2
    return "\n".join(
        line if len(line) <= most else f"{line[: most - 1 - tail]}…{line[-tail:]}" for line in text.split("\n")
    )
