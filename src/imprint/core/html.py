"""HTML of single objects as notebooks show it, and images embedded in pages.

A function takes plain text, which it escapes, or HTML that another one here made. Styles are inline, since hosts drop
`<style>`; colours are the text's own or half transparent, so that one form serves light and dark notebooks.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from imprint.core.errors import spelled
from imprint.core.plot_style import shorten, to_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

SIDE = 160  # pixels; larger images are scaled down to keep the page light
CRISP = 64  # pixels; smaller images are shown with sharp pixels, as PNG
TILES = 12  # images that a notebook shows of many
TILE = 88  # pixels of an image's side in a notebook
MOST_BARS = 12  # classes
MOST_CELLS = 15  # classes of a confusion matrix
MOST_LETTERS = 40  # of a name
SOFT = "opacity:.7"
CELL = "padding:2px 8px;text-align:left;border:0;background:none"
NUMBER = f"{CELL};text-align:right;font-variant-numeric:tabular-nums"
# Blue and orange of the plots between their tones for light pages and for dark ones: a contrast of 3 on both.
BLUE, ORANGE = "#2b8ac6", "#d9661f"
BLUE_RGB, ORANGE_RGB = "43,138,198", "217,102,31"
MAX_OPACITY = 0.6  # of a cell, so that black or white text on it stays legible


def page_image(pixels: UInt8[ndarray, "c h w"], side: int = SIDE) -> dict[str, Any]:
    """Embed an image: `src`, a data URI of at most `side` pixels, and `crisp`, whether to show sharp pixels."""
    image = _to_pillow(pixels)
    image.thumbnail((side, side))
    kind = "PNG" if max(image.size) < CRISP else "JPEG"  # a page of photos as PNG would be too large
    content = io.BytesIO()
    image.save(content, kind, quality=85)
    uri = f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"
    return {"src": uri, "crisp": max(pixels.shape) < CRISP}


def _to_pillow(pixels: UInt8[ndarray, "c h w"]) -> Image:
    from PIL import Image

    if len(pixels) < 3:  # a second channel has no colour of its own
        return Image.fromarray(np.ascontiguousarray(pixels[0]))
    return Image.fromarray(np.ascontiguousarray(pixels[:3].transpose(1, 2, 0)))


def text(value: object, most: int = MOST_LETTERS) -> str:
    """Escape a text, unprintable characters spelled out and the middle of a long one left out."""
    return escape(shorten(spelled(str(value).replace("\u00a0", " ")), most))


def block(title: str, summary: str, *parts: str) -> str:
    """Lay parts of HTML out under a title and one line of text."""
    head = f'<div style="margin:0 0 6px"><b>{text(title)}</b> <span style="{SOFT}">{text(summary, 300)}</span></div>'
    frame = "font:14px/1.45 system-ui,sans-serif;text-align:left;max-width:62rem;overflow-wrap:anywhere"
    return f'<div style="{frame}">{head}{"".join(parts)}</div>'


def line(words: object, colour: str = "") -> str:
    """Give a line of small text; a colour marks it as a warning."""
    style = f"border-left:3px solid {colour};padding-left:6px" if colour else SOFT
    return f'<div style="font-size:12px;margin:4px 0;{style}">{text(words, 600)}</div>'


def headline(words: object) -> str:
    """Show the one figure that is looked for first."""
    return f'<div style="font-size:26px;line-height:1.2;font-weight:600">{text(words)}</div>'


def drawing(figure: Figure, description: str) -> str:
    """Embed a figure as SVG, whose ink is the colour of the text around it."""
    tones = (
        f"--blue:{BLUE};--orange:{ORANGE};--green:#1a9f76;--soft:#7f8a94;--ink:currentColor;--edge:#8889;--line:#8884"
    )
    svg = to_svg(figure, f"f{uuid4().hex}", description)  # a notebook may hold many
    return f'<div style="max-width:46rem;{tones}">{svg}</div>'


def tiles(each: Sequence[str]) -> str:
    """Lay tiles out in rows of six, fewer where the page is narrow."""
    return f'<div style="max-width:{6 * (TILE + 20)}px">{"".join(each)}</div>'


def tile(pixels: UInt8[ndarray, "c h w"], title: str, note: str = "", hint: str = "", warning: str = "") -> str:
    """Show an image above its title and a note; `hint` appears under the mouse, a `warning` frames it too."""
    image = page_image(pixels, 2 * TILE)  # twice, for dense screens
    frame = f"outline:2px solid {ORANGE};" if warning else ""
    below = f'<div style="color:{ORANGE};font-weight:600">{text(warning, 60)}</div>' if warning else ""
    crisp = "image-rendering:pixelated;" if image["crisp"] else ""
    box = (
        f"display:inline-block;vertical-align:top;width:{TILE}px;margin:3px 12px 8px 3px;font-size:12px;line-height:1.3"
    )
    size = f"width:{TILE}px;height:{TILE}px;max-width:none;object-fit:contain;margin:0 0 3px"
    return (
        f'<div style="{box}" title="{text(hint, 200)}"><img src="{image["src"]}" alt="{text(title)}" '
        f'style="{frame}{crisp}{size};background:#8883;border-radius:4px"><div style="font-weight:600">'
        f'{text(title, 24)}</div><div style="{SOFT}">{text(note, 60)}</div>{below}</div>'
    )


def table(header: Sequence[str], rows: Sequence[Sequence[object]], words: int = 1) -> str:
    """Lay a table out; the first columns, as many as `words`, hold words, the others numbers."""
    styles = [CELL] * words + [NUMBER] * (len(header) - words)
    cells = [
        "".join(f'<td style="{style}">{text(cell, 120)}</td>' for style, cell in zip(styles, row, strict=True))
        for row in rows
    ]
    head = "".join(f'<th style="{style};{SOFT}">{text(name)}</th>' for style, name in zip(styles, header, strict=True))
    return _table(head, cells)


def _table(head: str, rows: Sequence[str]) -> str:
    body = "".join(f'<tr style="background:none">{row}</tr>' for row in rows)
    whole = "border-collapse:collapse;font-size:12px;margin:4px 0;border:0;line-height:1.3;overflow-wrap:break-word"
    return f'<table style="{whole}"><thead><tr style="background:none">{head}</tr></thead><tbody>{body}</tbody></table>'


def count_bars(counts: Mapping[str, int]) -> str:
    """Show how many images each class has; of many classes the largest and the smallest."""
    order = list(counts)
    if len(order) > MOST_BARS:
        by_count = sorted(order, key=lambda name: -counts[name])
        order = by_count[: MOST_BARS // 2] + by_count[-MOST_BARS // 2 :]
    most = max(counts.values(), default=0) or 1
    bar = f"height:8px;border-radius:4px;background:{BLUE}"
    rows = [
        f'<td style="{CELL}">{text(name, 30)}</td><td style="{NUMBER}">{counts[name]:,}</td><td style="{CELL};'
        f'width:160px"><div style="{bar};width:{math.ceil(100 * counts[name] / most)}%"></div></td>'
        for name in order
    ]
    if len(order) < len(counts):
        between = f'<td colspan="3" style="{CELL};{SOFT}">… {len(counts) - len(order):,} more classes between …</td>'
        rows.insert(MOST_BARS // 2, between)
    head = f'<th style="{CELL};{SOFT}">class</th><th style="{NUMBER};{SOFT}">images</th><th style="{CELL}"></th>'
    return _table(head, rows)


def confusion_table(names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Show a confusion matrix: rows are true classes, columns predictions; correct ones blue, mistakes orange."""
    mistakes = max((n for i, row in enumerate(counts) for j, n in enumerate(row) if i != j), default=0)
    head = f'<th style="{CELL};{SOFT}">true \\ predicted</th>'
    head += "".join(f'<th style="{NUMBER};font-weight:400">{text(name, 10)}</th>' for name in names)
    rows = []
    for i, (name, row) in enumerate(zip(names, counts, strict=True)):
        cells = [_confusion_cell(n, i == j, sum(row) if i == j else mistakes) for j, n in enumerate(row)]
        rows.append(f'<td style="{CELL}">{text(name, 20)}</td>{"".join(cells)}')
    return _table(head, rows)


def _confusion_cell(count: int, correct: bool, most: int) -> str:
    if not count:
        return f'<td style="{CELL}"></td>'
    # Mistakes are few beside correct predictions; without the root single ones would be invisible.
    colour, opacity = (BLUE_RGB, count / most) if correct else (ORANGE_RGB, math.sqrt(count / most))
    return f'<td style="{NUMBER};background:rgba({colour},{MAX_OPACITY * opacity:.2f})">{count:,}</td>'
