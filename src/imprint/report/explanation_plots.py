"""The image of an explanation: answer and where the network looked, first filters, every layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Float32, UInt8
from numpy import ndarray
from PIL import Image

from imprint.analysis.explanation import Explanation, LayerOutput
from imprint.core.plot_style import BLUE, EDGE, GREY, ORANGE, draw_image, new_figure, save_png, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BANDS = ("answer", "filters", "layers")
WIDTH = 9.0  # inches; 150 pixels each
LABEL = 1.35  # inches on the left for a layer's name
TILES = 12  # channels drawn of a layer: those that vary most
TILE, GAP = 80, 9  # pixels of a drawn map's side and of the space behind it
HEAD, FILTER_ROW = 0.75, 0.74  # inches of a band's title and of a row of filters
MOST_BARS = 10  # classes


def save_explanation(explanation: Explanation, path: Path, bands: Sequence[str] = BANDS) -> None:
    """Draw an explanation in bands, one under the other.

    Parameters
    ----------
    explanation : Explanation
        From `explain`.
    path : Path
        The PNG file to write.
    bands : sequence of {"answer", "filters", "layers"}, default=all three
        Which to draw, from top to bottom.

    Raises
    ------
    UsageError
        When the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from imprint import explain, load, train
    >>> model = train(load("digits"), recipe="quick", epochs=1, min_steps=1, verbose=False).model
    >>> save_explanation(explain(model, "digits"), Path(tempfile.mkdtemp()) / "explained.png")
    """
    heights = {
        "answer": 2.75,
        "filters": HEAD + FILTER_ROW * len(_rows_of_filters(explanation)),
        "layers": HEAD + sum(map(_layer_height, explanation.layers)),
    }
    top = sum(heights[band] for band in bands)
    with new_figure(WIDTH, top, layout=None) as figure:
        for band in bands:
            DRAW[band](figure, explanation, top)
            top -= heights[band]
    save_png(figure, path)


def _place(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Make axes without frame at a place in inches, `top` counted from the figure's bottom edge."""
    across, up = figure.get_size_inches()
    axes = figure.add_axes((left / across, (top - height) / up, width / across, height / up))
    axes.axis("off")
    return axes


def _write(figure: Figure, left: float, top: float, text: str, **how: Any) -> None:
    across, up = figure.get_size_inches()
    figure.text(left / across, top / up, text, va="top", parse_math=False, **how)


def _title(figure: Figure, top: float, title: str, note: str) -> None:
    _write(figure, 0.15, top - 0.1, title, fontsize=12, fontweight="bold")
    _write(figure, 0.15, top - 0.34, note, fontsize=9, color=GREY)


def _draw_answer(figure: Figure, explanation: Explanation, top: float) -> None:
    """Draw the image, where evidence was found for two classes, which pixels counted, and the probabilities."""
    from matplotlib.patches import Rectangle

    prediction = explanation.prediction
    answer, sure = prediction.names[0], ", but is unsure" if prediction.unsure[0] else ""
    known = "" if explanation.truth in (None, answer) else f"; it is {shorten(str(explanation.truth), 20)}"
    where = explanation.where if len(explanation.where) <= 40 else f"…{explanation.where[-39:]}"
    _title(
        figure,
        top,
        f"{where}: the model says {shorten(answer, 20)}{sure}{known}",
        "Orange glow: where it found most evidence (Grad-CAM). Pixels: orange spoke for the answer, blue against it.",
    )
    side, left, below = 1.68, 0.15, top - 0.62
    draw_image(_place(figure, left, below - 0.22, side, side), explanation.image)
    _write(figure, left, below, "what it sees", fontsize=9.5)
    for name, looked in explanation.looked:
        left += side + 0.1
        axes = _place(figure, left, below - 0.22, side, side)
        axes.imshow(_glowing(explanation.image, looked / (float(looked.max()) or 1.0)), interpolation="nearest")
        _write(figure, left, below, f"evidence for {shorten(name, 10)}", fontsize=9.5)
    left += side + 0.1
    axes = _place(figure, left, below - 0.22, side, side)
    limit = float(np.abs(explanation.weighed).max()) or 1.0
    axes.imshow(explanation.weighed, cmap=_signed(), vmin=-limit, vmax=limit, interpolation="nearest")
    axes.add_patch(Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False, edgecolor=EDGE, linewidth=1.5))
    _write(figure, left, below, "pixels for and against", fontsize=9.5)
    _draw_bars(figure, explanation, left + side + 0.1, below)


def _draw_bars(figure: Figure, explanation: Explanation, left: float, top: float) -> None:
    """Draw the likeliest classes' probabilities as bars."""
    prediction = explanation.prediction
    order = prediction.probabilities[0].argsort()[::-1][:MOST_BARS]
    names = [shorten(prediction.class_names[label], 10) for label in order]
    room = 0.09 * max(map(len, names)) + 0.12
    _write(figure, left, top, "confidence", fontsize=9.5)
    axes = _place(figure, left + room, top - 0.22, WIDTH - left - room - 0.5, 1.68)
    values = prediction.probabilities[0][order]
    axes.barh(range(len(order)), values, color=[ORANGE, *[GREY] * (len(order) - 1)], height=0.72)
    axes.set_xlim(0, 1)
    axes.set_ylim(max(len(order), 4) - 0.5, -0.5)
    for place, (name, value) in enumerate(zip(names, values, strict=True)):
        axes.text(-0.06, place, name, ha="right", va="center", fontsize=9, parse_math=False)
        axes.text(value + 0.05, place, f"{value:.2f}", va="center", fontsize=8, color=GREY)


def _draw_filters(figure: Figure, explanation: Explanation, top: float) -> None:
    """Draw the first layer's filters, numbered."""
    rows = _rows_of_filters(explanation)
    if not rows:
        _title(
            figure,
            top,
            "The filters of the first layer",
            "The network has no convolution whose filters could be drawn.",
        )
        return
    count, channels, height, width = explanation.filters.shape
    note = "Orange weights reward brightness under them, blue ones punish it, white is 0."
    note = "Red, green and blue weights as colours; mid-grey is 0." if channels == 3 else note
    form = f"{count} of {height}×{width}" + (f"×{channels}" if channels > 1 else "")
    _title(figure, top, f"The filters of {_named(explanation, explanation.filter_layer)}: {form}", note)
    limit = float(np.abs(explanation.filters).max()) or 1.0
    below = top - 0.65
    for row in rows:
        tiles = [_tile(_filter_image(explanation.filters[channel], limit)) for channel in row]
        _draw_tiles(figure, 0.15, below, WIDTH - 0.3, tiles, row, len(rows[0]))
        below -= FILTER_ROW


def _rows_of_filters(explanation: Explanation) -> list[range]:
    """Deal the filters into rows of up to sixteen, as even as they go."""
    count = len(explanation.filters)
    if not count:
        return []
    rows = -(-count // 16)
    each = -(-count // rows)
    return [range(start, min(start + each, count)) for start in range(0, count, each)]


def _filter_image(weights: Float32[ndarray, "c h w"], limit: float) -> Float[ndarray, "h w *colour"]:
    """Give a filter as numbers from -1 to 1, or as a colour image where it sees colour."""
    colour, plain = weights.transpose(1, 2, 0) / (2 * limit) + 0.5, weights.mean(axis=0) / limit
    return np.asarray(colour if len(weights) == 3 else plain)


def _draw_layers(figure: Figure, explanation: Explanation, top: float) -> None:
    """Draw what each layer turns the image into: a row of maps or a strip of numbers each."""
    _title(
        figure,
        top,
        _named(explanation, "What each layer turns the image into"),
        f"Up to {TILES} channels each, under their numbers: the liveliest. Orange is above 0, blue below, white 0.",
    )
    below, room = top - HEAD + 0.1, WIDTH - LABEL - 0.15
    for layer, channels in zip(explanation.layers, _liveliest(explanation.layers), strict=True):
        _write(figure, 0.15, below - 0.12, layer.name, fontsize=9.5, fontweight="bold")
        _write(figure, 0.15, below - 0.3, layer.form.replace(", ", "\n"), fontsize=8.5, color=GREY)
        limit = float(np.abs(layer.output).max()) or 1.0
        if layer.output.ndim == 1:
            axes = _place(figure, LABEL, below - 0.13, room, 0.28)
            axes.imshow(layer.output[None], cmap=_signed(), vmin=-limit, vmax=limit, aspect="auto")
        else:
            tiles = [_tile(layer.output[channel] / limit) for channel in channels]
            _draw_tiles(figure, LABEL, below, room, tiles, channels, TILES)
        below -= _layer_height(layer)
    names = explanation.prediction.class_names
    if len(names) <= MOST_BARS:
        for place, name in enumerate(names):  # under the last strip, the logits
            middle = LABEL + (place + 0.5) * room / len(names)
            _write(figure, middle, below + 0.06, shorten(name, 10), fontsize=8.5, color=GREY, ha="center")


def _layer_height(layer: LayerOutput) -> float:
    return 0.5 if layer.output.ndim == 1 else 0.8


def _liveliest(layers: Sequence[LayerOutput]) -> list[list[int]]:
    """Choose the channels that vary most once ReLU has cut them, the same ones from a convolution to its ReLU."""
    chosen: list[list[int]] = []
    begins = True
    for layer in reversed(layers):
        same = chosen[-1] if chosen else []
        if layer.output.ndim == 1:
            same = []
        elif not same or begins:
            variation = layer.output.std(axis=(1, 2))
            same = sorted(variation.argsort(kind="stable")[::-1][:TILES].tolist())
        begins = layer.name.startswith(("conv2d", "residual"))
        chosen.append(same)
    return chosen[::-1]


def _draw_tiles(
    figure: Figure,
    left: float,
    top: float,
    width: float,
    tiles: Sequence[Float[ndarray, "side side colour"]],
    numbers: Sequence[int],
    places: int,
) -> None:
    """Draw square tiles in a row as one image, each under its number."""
    pixel = width / (places * (TILE + GAP) - GAP)  # inches
    across = len(tiles) * (TILE + GAP) - GAP
    row = np.ones((TILE, across, 3))
    for place, (tile, number) in enumerate(zip(tiles, numbers, strict=True)):
        start = place * (TILE + GAP)
        row[:, start : start + TILE] = tile
        _write(figure, left + start * pixel, top, str(number), fontsize=7, color=GREY)
    _place(figure, left, top - 0.13, across * pixel, TILE * pixel).imshow(row, interpolation="nearest", aspect="auto")


def _tile(map_: Float[ndarray, "h w *colour"]) -> Float[ndarray, "side side colour"]:
    """Draw a map of numbers from -1 to 1, or a colour image, as a framed square with crisp pixels."""
    from matplotlib.colors import to_rgb

    colours = map_ if map_.ndim == 3 else _signed()(map_ / 2 + 0.5)[..., :3]
    height, width = colours.shape[:2]
    inner = TILE - 2
    rows, columns = (max(1, round(side * inner / max(height, width))) for side in (height, width))
    pick_rows, pick_columns = np.arange(rows) * height // rows, np.arange(columns) * width // columns
    tile = np.ones((TILE, TILE, 3))
    top, left = (TILE - rows) // 2, (TILE - columns) // 2
    tile[top - 1 : top + rows + 1, left - 1 : left + columns + 1] = to_rgb(EDGE)
    tile[top : top + rows, left : left + columns] = colours[pick_rows][:, pick_columns]
    return tile


def _glowing(image: UInt8[ndarray, "c h w"], looked: Float32[ndarray, "rows columns"]) -> Float[ndarray, "h w 3"]:
    """Lay a glow over a darkened image, as strong as the map says, 0 to 1."""
    height, width = image.shape[1:]
    smooth = Image.fromarray(looked.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    strength = np.asarray(smooth).clip(0, 1)[..., None]
    grey = image.astype(np.float64).mean(axis=0)[..., None] / 255
    glow = np.array([0.835, 0.369, 0.0])  # ORANGE
    dark, bright = 0.8 * grey.repeat(3, axis=2), glow + (1 - glow) * grey * 0.6
    return np.asarray(dark + 0.75 * strength * (bright - dark))


def _signed() -> Any:
    """Blue below 0, white at 0, orange above; colour-blind people tell them apart."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("signed", [BLUE, "#FFFFFF", ORANGE])


def _named(explanation: Explanation, what: str) -> str:
    return f"{what}, {explanation.network}" if explanation.network else what


DRAW = {"answer": _draw_answer, "filters": _draw_filters, "layers": _draw_layers}
