"""Plot of an explanation in bands: the answer and where the network looked, first filters, and every layer's output."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Float32, UInt8
from numpy import ndarray
from PIL import Image

from imprint.analysis.explanation import Explanation, LayerOutput
from imprint.core.plot_style import BLUE, EDGE, GREY, ORANGE, draw_image, image_height, new_figure, save_png, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BANDS = ("prediction", "filters", "layers")
WIDTH = 9.0  # inches; 150 pixels each
LAYER_LABEL = 1.35  # inches on the left for a layer's name
MOST_TILES = 12  # channels drawn of a layer: those that vary most
TILE, GAP = 80, 9  # pixels of a drawn map's side and of the space to its right
TITLE, FILTER_ROW = 0.75, 0.74  # inches of a band's title and of a row of filters
PANEL, LARGE = 1.9, 3.0  # inches of the side of a drawn image: small, and of the two that come first
HEADLINE, PANEL_ROOM = 1.12, 0.42  # inches of the first band's text, and of a row of panels beside the images
MOST_BARS = 10  # classes


def save_explanation(explanation: Explanation, path: Path, bands: Sequence[str] = BANDS) -> None:
    """Draw bands of an explanation, from top to bottom."""
    heights = {
        "prediction": HEADLINE + 2 * PANEL_ROOM + _height(explanation, LARGE) + _height(explanation, PANEL),
        "filters": TITLE + FILTER_ROW * len(_rows_of_filters(explanation)),
        "layers": TITLE + sum(map(_layer_height, explanation.layers)),
    }
    top = sum(heights[band] for band in bands)
    with new_figure(WIDTH, top, layout=None) as figure:
        for band in bands:
            DRAW[band](figure, explanation, top)
            top -= heights[band]
    save_png(figure, path)


def _add_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Add axes without frame at a position in inches, `top` counted from the figure's bottom edge."""
    whole_width, whole_height = figure.get_size_inches()
    bottom = (top - height) / whole_height
    axes = figure.add_axes((left / whole_width, bottom, width / whole_width, height / whole_height))
    axes.axis("off")
    return axes


def _write(figure: Figure, left: float, top: float, text: str, **style: Any) -> None:
    whole_width, whole_height = figure.get_size_inches()
    figure.text(left / whole_width, top / whole_height, text, va="top", parse_math=False, **style)


def _title(figure: Figure, top: float, title: str, note: str) -> None:
    _write(figure, 0.15, top - 0.1, title, fontsize=12, fontweight="bold")
    _write(figure, 0.15, top - 0.34, note, fontsize=9, color=GREY)


def _draw_prediction(figure: Figure, explanation: Explanation, top: float) -> None:
    """Draw the answer, large what the network saw and where it looked, then what speaks for and against."""
    _draw_headline(figure, explanation, top)
    left, top = 0.15, top - HEADLINE
    large, small = _height(explanation, LARGE), _height(explanation, PANEL)
    draw_image(_panel(figure, left, top, "what it sees", LARGE, large), explanation.image)
    left += LARGE + 0.15
    looked, rivals = explanation.looked[:1], explanation.looked[1:]
    for name, evidence in looked:
        title = f"where it looked for {shorten(name, 20)}"
        shown = overlay(explanation.image, evidence)
        _panel(figure, left, top, title, LARGE, large).imshow(shown, interpolation="nearest")
        left += LARGE + 0.15
    _draw_bars(figure, explanation, left, top, large)
    left, top = 0.15, top - large - PANEL_ROOM
    for name, evidence in rivals:
        shown = overlay(explanation.image, evidence)
        axes = _panel(figure, left, top, f"where, for {shorten(name, 16)}", PANEL, small)
        axes.imshow(shown, interpolation="nearest")
        left += PANEL + 0.15
    _draw_attributions(_panel(figure, left, top, "pixels for and against", PANEL, small), explanation.weighed)
    notes = "Orange glow: where the network found\nmost evidence for a class (Grad-CAM).\n\n"
    notes += "Pixels: orange ones spoke for its answer,\nblue ones against it (integrated gradients)."
    _write(figure, left + PANEL + 0.25, top - 0.3, notes, fontsize=9.5, color=GREY, linespacing=1.35)


def _draw_headline(figure: Figure, explanation: Explanation, top: float) -> None:
    """Write the answer large, under it confidence, doubts, and which image it is."""
    prediction, truth = explanation.prediction, explanation.truth
    predicted, confidence = prediction.names[0], float(prediction.confidence[0])
    known = "" if truth is None else "; so its label" if truth == predicted else f"; its label is {shorten(truth, 24)}"
    unsure = f", unsure: {prediction.why[0]}" if prediction.unsure[0] else ""
    where = explanation.where if len(explanation.where) <= 80 else f"…{explanation.where[-79:]}"
    share = "over 99" if confidence >= 0.995 else f"{100 * confidence:.0f}"
    _write(figure, 0.15, top - 0.15, f"The model says {shorten(predicted, 30)}", fontsize=20, fontweight="bold")
    _write(figure, 0.15, top - 0.55, f"confidence {share} %{unsure}{known}", fontsize=12)
    _write(figure, 0.15, top - 0.8, where, fontsize=9, color=GREY)


def _height(explanation: Explanation, width: float) -> float:
    """Give the height of the image's panel, so wide; no panel is higher than wide."""
    return min(image_height(explanation.image.shape, width), width)


def _panel(figure: Figure, left: float, top: float, title: str, width: float, height: float) -> Axes:
    """Add axes under a small title."""
    _write(figure, left, top, title, fontsize=10)
    return _add_axes(figure, left, top - 0.24, width, height)


def _draw_attributions(axes: Axes, attributions: Float32[ndarray, "h w"]) -> None:
    from matplotlib.patches import Rectangle

    limit = float(np.abs(attributions).max()) or 1.0
    axes.imshow(attributions, cmap=_signed_colours(), vmin=-limit, vmax=limit, interpolation="nearest")
    axes.add_patch(Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False, edgecolor=EDGE, linewidth=1.5))


def _draw_bars(figure: Figure, explanation: Explanation, left: float, top: float, height: float) -> None:
    """Draw the probabilities of the likeliest classes as bars."""
    prediction = explanation.prediction
    order = prediction.probabilities[0].argsort()[::-1][:MOST_BARS]
    names = [shorten(prediction.class_names[label], 10) for label in order]
    room = 0.09 * max(map(len, names)) + 0.12
    _write(figure, left, top, "confidence", fontsize=10)
    axes = _add_axes(figure, left + room, top - 0.24, WIDTH - left - room - 0.5, height)
    values = prediction.probabilities[0][order]
    axes.barh(range(len(order)), values, color=[ORANGE, *[GREY] * (len(order) - 1)], height=0.72)
    axes.set_xlim(0, 1)
    axes.set_ylim(max(len(order), round(height / 0.3)) - 0.5, -0.5)
    for place, (name, value) in enumerate(zip(names, values, strict=True)):
        axes.text(-0.06, place, name, ha="right", va="center", fontsize=9, parse_math=False)
        axes.text(value + 0.05, place, f"{value:.2f}", va="center", fontsize=8, color=GREY, parse_math=False)


def _draw_filters(figure: Figure, explanation: Explanation, top: float) -> None:
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
    signed_note = (
        "Orange weights are above 0: bright pixels under them raise the output. Blue ones lower it, white is 0."
    )
    note = "Red, green and blue weights as colours; mid-grey is 0." if channels == 3 else signed_note
    form = f"{count} of {height}×{width}" + (f"×{channels}" if channels > 1 else "")
    _title(figure, top, f"The filters of {_with_network(explanation, explanation.filter_layer)}: {form}", note)
    limit = float(np.abs(explanation.filters).max()) or 1.0
    below = top - 0.65
    for row in rows:
        tiles = [_tile(_filter_image(explanation.filters[channel], limit)) for channel in row]
        _draw_tiles(figure, 0.15, below, WIDTH - 0.3, tiles, row, len(rows[0]))
        below -= FILTER_ROW


def _rows_of_filters(explanation: Explanation) -> list[range]:
    """Divide the filters into rows of up to sixteen, as even as possible."""
    count = len(explanation.filters)
    if not count:
        return []
    rows = -(-count // 16)
    each = -(-count // rows)
    return [range(start, min(start + each, count)) for start in range(0, count, each)]


def _filter_image(weights: Float32[ndarray, "c h w"], limit: float) -> Float[ndarray, "h w *colour"]:
    """Give a filter as numbers from -1 to 1, or as a colour image where its input has colour."""
    colour, plain = weights.transpose(1, 2, 0) / (2 * limit) + 0.5, weights.mean(axis=0) / limit
    return np.asarray(colour if len(weights) == 3 else plain)


def _draw_layers(figure: Figure, explanation: Explanation, top: float) -> None:
    """Draw the output of each layer: a row of maps, or a strip of numbers."""
    note = f"Up to {MOST_TILES} numbered channels each, those that vary most. Orange: above 0, blue: below, white: 0."
    _title(figure, top, _with_network(explanation, "What each layer turns the image into"), note)
    below, room = top - TITLE + 0.1, WIDTH - LAYER_LABEL - 0.15
    for layer, channels in zip(explanation.layers, _varying_channels(explanation.layers), strict=True):
        _write(figure, 0.15, below - 0.12, layer.name, fontsize=9.5, fontweight="bold")
        _write(figure, 0.15, below - 0.3, layer.form.replace(", ", "\n"), fontsize=8.5, color=GREY)
        limit = float(np.abs(layer.output).max()) or 1.0
        if layer.output.ndim == 1:
            axes = _add_axes(figure, LAYER_LABEL, below - 0.13, room, 0.28)
            axes.imshow(layer.output[None], cmap=_signed_colours(), vmin=-limit, vmax=limit, aspect="auto")
        else:
            tiles = [_tile(layer.output[channel] / limit) for channel in channels]
            _draw_tiles(figure, LAYER_LABEL, below, room, tiles, channels, MOST_TILES)
        below -= _layer_height(layer)
    names = explanation.prediction.class_names
    if len(names) <= MOST_BARS:
        for place, name in enumerate(names):  # under the last strip, the logits
            middle = LAYER_LABEL + (place + 0.5) * room / len(names)
            _write(figure, middle, below + 0.06, shorten(name, 10), fontsize=8.5, color=GREY, ha="center")


def _layer_height(layer: LayerOutput) -> float:
    return 0.5 if layer.output.ndim == 1 else 0.8


def _varying_channels(layers: Sequence[LayerOutput]) -> list[list[int]]:
    """Choose the channels that vary most after their ReLU, the same ones from a convolution to its ReLU."""
    chosen: list[list[int]] = []
    following = None
    for layer in reversed(layers):
        if layer.output.ndim == 1:
            chosen.append([])
        elif following is not None and _same_channels(layer, following):
            chosen.append(chosen[-1])
        else:
            variation = layer.output.std(axis=(1, 2))
            chosen.append(sorted(variation.argsort(kind="stable")[::-1][:MOST_TILES].tolist()))
        following = layer
    return chosen[::-1]


def _same_channels(layer: LayerOutput, following: LayerOutput) -> bool:
    """Tell whether a layer (ReLU, pooling) works on each channel of the one before by itself."""
    mixing = following.name.startswith(("conv2d", "residual")) or following.output.ndim == 1
    return not mixing and len(following.output) == len(layer.output)


def _draw_tiles(
    figure: Figure,
    left: float,
    top: float,
    width: float,
    tiles: Sequence[Float[ndarray, "side side colour"]],
    numbers: Sequence[int],
    places: int,
) -> None:
    """Draw square tiles, each under its number, in a row with room for `places`; as one image, since axes are slow."""
    pixel = width / (places * (TILE + GAP) - GAP)  # inches
    across = len(tiles) * (TILE + GAP) - GAP
    row = np.ones((TILE, across, 3))
    for place, (tile, number) in enumerate(zip(tiles, numbers, strict=True)):
        start = place * (TILE + GAP)
        row[:, start : start + TILE] = tile
        _write(figure, left + start * pixel, top, str(number), fontsize=7, color=GREY)
    axes = _add_axes(figure, left, top - 0.13, across * pixel, TILE * pixel)
    axes.imshow(row, interpolation="nearest", aspect="auto")


def _tile(map_: Float[ndarray, "h w *colour"]) -> Float[ndarray, "side side colour"]:
    """Draw a map of numbers from -1 to 1, or a colour image, with crisp pixels and a frame in a square."""
    from matplotlib.colors import to_rgb

    colours = map_ if map_.ndim == 3 else _signed_colours()(map_ / 2 + 0.5)[..., :3]
    height, width = colours.shape[:2]
    inner = TILE - 2
    rows, columns = (max(1, round(side * inner / max(height, width))) for side in (height, width))
    pick_rows, pick_columns = np.arange(rows) * height // rows, np.arange(columns) * width // columns
    tile = np.ones((TILE, TILE, 3))
    top, left = (TILE - rows) // 2, (TILE - columns) // 2
    tile[top - 1 : top + rows + 1, left - 1 : left + columns + 1] = to_rgb(EDGE)
    tile[top : top + rows, left : left + columns] = colours[pick_rows][:, pick_columns]
    return tile


def overlay(image: UInt8[ndarray, "c h w"], evidence: Float32[ndarray, "rows columns"]) -> Float[ndarray, "h w 3"]:
    """Lay an orange glow over a darkened image, strongest where there is most evidence."""
    height, width = image.shape[1:]
    strength = (evidence / (float(evidence.max()) or 1.0)).astype(np.float32)
    enlarged = np.asarray(Image.fromarray(strength).resize((width, height), Image.Resampling.BICUBIC)).clip(0, 1)
    grey = image.astype(np.float64).mean(axis=0)[..., None] / 255
    glow = np.array([0.835, 0.369, 0.0])  # ORANGE
    dark, bright = 0.8 * grey.repeat(3, axis=2), glow + (1 - glow) * grey * 0.6
    return np.asarray(dark + 0.75 * enlarged[..., None] * (bright - dark)).clip(0, 1)


def _signed_colours() -> Any:
    """Give a colour map, blue below 0, white at 0 and orange above, which colour-blind people can read."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("signed", [BLUE, "#FFFFFF", ORANGE])


def _with_network(explanation: Explanation, title: str) -> str:
    return f"{title}, {explanation.network}" if explanation.network else title


DRAW = {"prediction": _draw_prediction, "filters": _draw_filters, "layers": _draw_layers}
