"""Glyphs, grey ink on even ground: the form that training images had, and bringing any image into it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32, Float64, UInt8
from numpy import ndarray

from imprint.core.memmap import take_rows
from imprint.preprocessing.ink import NEAR, find_glyph, resample, thinned
from imprint.preprocessing.morphology import dilation, erosion

LOOKED_AT = 2000  # training images; medians over more change nothing
PIXELS = 2**23  # looked at in all; of large images fewer are
FINE = 6  # places along a pixel of the training form at which strokes are shaped
SHARPEN = 2.0  # times what a place stands out from its surroundings
ROOM = 0.83  # of training's box; strangers' bolder digits read better so, training's own no worse (docs/LOG.md)


@dataclass(frozen=True)
class GlyphForm:
    """The form in which a model was trained glyphs, in plain numbers.

    Parameters
    ----------
    height, width : int
        Of the images, in pixels.
    ground, ink : int
        Their levels, 0 to 255; ink is bright where it is above the ground.
    box : float
        The longer side of the ink's bounding box, in pixels.
    centring : {"mass", "box"}
        What of the ink stands at the centre: its centre of mass or its bounding box's.
    centre_row, centre_column : float
        Where that centre stands; 0 is the middle of the first pixel.
    stroke : float
        The width of strokes, in pixels.

    Raises
    ------
    ValueError
        When the numbers do not fit together.

    Examples
    --------
    >>> from dataclasses import asdict
    >>> form = GlyphForm(28, 28, 0, 255, 20.0, "mass", 14.0, 14.0, 2.4)
    >>> GlyphForm(**asdict(form)) == form
    True
    """

    height: int
    width: int
    ground: int
    ink: int
    box: float
    centring: Literal["mass", "box"]
    centre_row: float
    centre_column: float
    stroke: float

    def __post_init__(self) -> None:
        within = 0 <= self.centre_row < self.height and 0 <= self.centre_column < self.width
        levels = 0 <= self.ground <= 255 and 0 <= self.ink <= 255 and self.ground != self.ink
        sizes = 0 < self.stroke <= self.box <= max(self.height, self.width)
        if not (within and levels and sizes and self.centring in ("mass", "box")):
            raise ValueError("the form of glyphs")

    def holds(self, image: UInt8[ndarray, "h w c"]) -> bool:
        """Say whether an image already is in this form: size, grey, ground and polarity.

        Parameters
        ----------
        image : ndarray of uint8, shape (h, w, c)
            Any image.

        Returns
        -------
        bool
            True where it is to be left as it is.

        Examples
        --------
        >>> form = GlyphForm(28, 28, 0, 255, 20.0, "mass", 14.0, 14.0, 2.4)
        >>> black = np.zeros((28, 28, 1), dtype=np.uint8)
        >>> form.holds(black), form.holds(255 - black)
        (True, False)
        """
        if image.shape[:2] != (self.height, self.width) or (image != image[..., :1]).any():
            return False
        ground = np.abs(image[..., 0].astype(int) - self.ground) <= NEAR
        border = np.concatenate([ground[0], ground[-1], ground[:, 0], ground[:, -1]])
        return bool(border.mean() >= 0.5 and ground.mean() >= 0.25)


def learn_glyph_form(pixels: UInt8[ndarray, "n c h w"]) -> GlyphForm | None:
    """Learn the form of training images, if they are glyphs.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (n, channels, height, width)
        The training images.

    Returns
    -------
    GlyphForm or None
        None where they are not grey ink on even ground.

    Examples
    --------
    >>> from imprint.data.load import load
    >>> form = learn_glyph_form(load("digits").pixels)
    >>> form.box, form.centring, form.ground, form.ink
    (8.0, 'box', 0, 255)
    """
    n, channels, height, width = pixels.shape
    if channels != 1 or min(height, width) < 6:
        return None
    most = max(1, min(LOOKED_AT, PIXELS // (height * width)))
    some = take_rows(pixels, np.arange(0, n, -(-n // most)))[:, 0].astype(np.int16)
    ground = int(np.bincount(some.ravel(), minlength=256).argmax())
    bright = bool((some - ground).mean() > 0)
    extremes = np.sort(some.reshape(len(some), -1), axis=1)[:, -2 if bright else 1]  # one odd pixel is no ink
    ink = int(np.median(some.max(axis=(1, 2)) if bright else some.min(axis=(1, 2))))
    contrast = ink - ground
    if abs(contrast) < 2 * NEAR:
        return None
    cover = ((some - ground) / np.float32(contrast)).astype(np.float32)
    even = (np.abs(some - ground) <= NEAR).mean(axis=(1, 2)) >= 0.25
    alike = np.abs(extremes - ink) <= 0.35 * abs(contrast)
    one_sided = (cover < -0.1).mean(axis=(1, 2)) < 0.05
    glyphs = cover[even & alike & one_sided].clip(0, 1)
    if len(glyphs) < 0.8 * len(cover):
        return None
    stroke = float(np.median([stroke_width(one) for one in glyphs]))
    rows, columns = _extents(glyphs.max(axis=2)), _extents(glyphs.max(axis=1))
    box = float(np.median(np.maximum(rows[1] - rows[0], columns[1] - columns[0])))
    if stroke > 0.35 * box:
        return None  # filled shapes, such as clothes
    centres = {"mass": _centres_of_mass(glyphs), "box": (np.stack([rows.mean(0), columns.mean(0)]) - 0.5)}
    centring: Literal["mass", "box"] = "mass" if _spread(centres["mass"]) < _spread(centres["box"]) else "box"
    row, column = np.round(np.median(centres[centring], axis=1) * 2) / 2
    return GlyphForm(height, width, ground, ink, box, centring, float(row), float(column), round(stroke, 2))


def fit_glyph(
    image: UInt8[ndarray, "h w c"], form: GlyphForm, size: tuple[int, int] | None = None
) -> UInt8[ndarray, "1 H W"]:
    """Bring any image of one glyph into the form that a model was trained on.

    Parameters
    ----------
    image : ndarray of uint8, shape (h, w, 1 or 3)
        Ink on paper, a photo of it, or an image that already has the form; that one passes untouched.
    form : GlyphForm
        From `learn_glyph_form`.
    size : tuple of int, optional
        Height and width to give; the form's own if left out.

    Returns
    -------
    ndarray of uint8, shape (1, *size)
        The glyph as the training images showed theirs; plain ground where the image is blank; the image itself,
        scaled, where it shows no ink on paper, so that the model sees that it is something else.

    Examples
    --------
    >>> form = GlyphForm(28, 28, 0, 255, 20.0, "mass", 14.0, 14.0, 2.4)
    >>> paper = np.full((300, 200, 3), 230, dtype=np.uint8)
    >>> paper[40:140, 60:70] = 20
    >>> fit_glyph(paper, form).shape
    (1, 28, 28)
    """
    return glyph_steps(image, form, size)[-1][1].transpose(2, 0, 1)


def glyph_steps(
    image: UInt8[ndarray, "h w c"], form: GlyphForm, size: tuple[int, int] | None = None
) -> list[tuple[str, UInt8[ndarray, "_ _ _"]]]:
    """Show how `fit_glyph` brings an image into the form.

    Parameters
    ----------
    image : ndarray of uint8, shape (h, w, 1 or 3)
        Any image.
    form : GlyphForm
        From `learn_glyph_form`.
    size : tuple of int, optional
        Height and width to give; the form's own if left out.

    Returns
    -------
    list of tuple of str and ndarray of uint8
        Name and image, channels last, of each step; the last is what the model sees.

    Examples
    --------
    >>> form = GlyphForm(28, 28, 0, 255, 20.0, "mass", 14.0, 14.0, 2.4)
    >>> [name for name, _ in glyph_steps(np.zeros((28, 28, 1), dtype=np.uint8), form)]
    ['as given', 'as the model sees it']
    """
    size = size or (form.height, form.width)
    steps = [("as given", image)]
    if form.holds(image) and size == image.shape[:2]:
        return [*steps, ("as the model sees it", image[..., :1])]
    ink = find_glyph(image)
    if ink is None:
        return [*steps, ("as the model sees it", np.full((*size, 1), form.ground, dtype=np.uint8))]
    if not ink.on_paper:
        grey = resample(thinned(image).mean(axis=2, dtype=np.float32), size)
        return [*steps, ("as the model sees it", grey.round().astype(np.uint8)[..., None])]
    scale = min(size[0] / form.height, size[1] / form.width)
    shaped = _shape_strokes(_to_box(ink.cover, ROOM * form.box), form)
    seen = _place(shaped, form, size, scale)
    levels = [
        form.ground + (form.ink - form.ground) * cover.clip(0, 1)[..., None] for cover in (ink.cover, shaped, seen)
    ]
    drawn = [level.round().astype(np.uint8) for level in levels]
    names = ("ink without paper", "with training's pen", "as the model sees it")
    return [*steps, ("the glyph found", ink.cut), *zip(names, drawn, strict=True)]


def stroke_width(cover: Float32[ndarray, "h w"]) -> float:
    """Measure the width of strokes, in pixels: 2 × area / outline, both from grey values.

    A stroke of width b and length l covers b·l and is outlined by 2·l. The outline's length is the total
    variation, by the coarea formula (Federer 1959, Trans. Amer. Math. Soc. 93, p. 426).

    Parameters
    ----------
    cover : ndarray of float32, shape (h, w)
        How much ink covers each place, 0 to 1.

    Returns
    -------
    float
        0 where there is no ink.

    Examples
    --------
    >>> cover = np.zeros((100, 100), dtype=np.float32)
    >>> cover[10:90, 40:45] = 1
    >>> round(stroke_width(cover), 1)
    4.7
    """
    around = np.pad(cover, 1)
    outline = np.hypot(np.diff(around, axis=0)[:, :-1], np.diff(around, axis=1)[:-1]).sum()
    return float(2 * cover.sum() / outline) if outline else 0.0


def _extents(profiles: Float32[ndarray, "n side"]) -> Float64[ndarray, "2 n"]:
    """First and last edge of what is more than half covered."""
    inked = profiles > 0.5
    return np.stack([inked.argmax(axis=1), profiles.shape[1] - inked[:, ::-1].argmax(axis=1)]).astype(np.float64)


def _centres_of_mass(cover: Float32[ndarray, "n h w"]) -> Float64[ndarray, "2 n"]:
    """Row and column of each image's centre of mass; 0 is the middle of the first pixel."""
    mass = cover.sum(axis=(1, 2)).clip(1e-6)
    rows, columns = cover.sum(axis=2) @ np.arange(cover.shape[1]), cover.sum(axis=1) @ np.arange(cover.shape[2])
    return np.stack([rows / mass, columns / mass]).astype(np.float64)


def _spread(centres: Float64[ndarray, "2 n"]) -> float:
    """How far centres lie from their median, typically."""
    return float(np.abs(centres - np.median(centres, axis=1, keepdims=True)).mean())


def _to_box(cover: Float32[ndarray, "h w"], box: float) -> Float32[ndarray, "H W"]:
    """Scale ink so that the longer side of its bounding box takes `box` pixels of FINE places each."""
    (top, bottom), (left, right) = (_extents(cover.max(axis=axis)[None])[:, 0] for axis in (1, 0))
    side = max(bottom - top, right - left)
    reach = 0.8 * side  # around the box's middle
    pad = int(np.ceil(reach))
    row, column = (top + bottom) / 2 + pad, (left + right) / 2 + pad
    places = round(1.6 * box * FINE)
    return resample(
        np.pad(cover, pad), (places, places), (column - reach, row - reach, column + reach, row + reach)
    ).clip(0, 1)


def _shape_strokes(cover: Float32[ndarray, "h w"], form: GlyphForm) -> Float32[ndarray, "H W"]:
    """Give strokes the contrast and the width of training's; thick pens are thinned, thin ones thickened."""
    from scipy.ndimage import gaussian_filter

    # Adding what a place has more than its surroundings parts blurred strokes; sharp ones stay as they are.
    pen = form.stroke * FINE
    smooth = np.asarray(gaussian_filter(cover, 0.2 * pen))
    sharp = np.asarray(smooth + SHARPEN * (smooth - gaussian_filter(cover, 0.7 * pen))).clip(0, 1)
    change = (stroke_width(sharp) - pen) / 2
    shaped = erosion(sharp, change) if change > 0 else dilation(sharp, -change)
    return shaped if shaped.max() > 0.5 else sharp


def _place(
    cover: Float32[ndarray, "h w"], form: GlyphForm, size: tuple[int, int], scale: float
) -> Float32[ndarray, "H W"]:
    """Put ink where training's stood, averaged over each pixel."""
    if form.centring == "mass":
        row, column = _centres_of_mass(cover[None])[:, 0] + 0.5
    else:
        row, column = (_extents(cover.max(axis=axis)[None])[:, 0].mean() for axis in (1, 0))
    step = FINE / scale
    top = row - (form.centre_row + 0.5) * FINE - (size[0] - form.height * scale) / 2 * step
    left = column - (form.centre_column + 0.5) * FINE - (size[1] - form.width * scale) / 2 * step
    box = (left, top, left + size[1] * step, top + size[0] * step)
    pad = int(np.ceil(max(-min(box), box[2] - cover.shape[1], box[3] - cover.shape[0], 0)))
    return resample(np.pad(cover, pad), size, tuple(edge + pad for edge in box))
