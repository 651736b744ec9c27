"""Glyphs, grey ink on even ground: the form of the training images, and bringing any other image into it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int16, UInt8
from numpy import ndarray

from imprint.core.memmap import take_rows
from imprint.preprocessing.ink import GROUND_TOLERANCE, find_glyph, resample, thinned
from imprint.preprocessing.morphology import dilation, erosion

MAX_IMAGES = 2000  # of those trained on; medians over more change nothing
MAX_PIXELS = 2**23  # of these images together: of large ones fewer are measured
SUBPIXELS = 6  # along a pixel of the training form, at which strokes are shaped
SHARPENING = 2.0  # times the difference of a place to its surroundings
# Of the training images' box: the bolder digits of other pens are read better so, the training images' own no worse
# (docs/log/ink.md, "Any paper, any pen, again").
BOX_SCALE = 0.83


@dataclass(frozen=True)
class GlyphForm:
    """The form of the glyphs that a model was trained on.

    Parameters
    ----------
    height, width : int
        Of the training images, in pixels; other lengths are in these pixels too.
    ground, ink : int
        Levels from 0 to 255.
    box : float
        Longer side of the ink's bounding box.
    centring : {"mass", "box"}
        Which centre the glyphs have in common.
    centre_row, centre_column : float
        Where that lies; 0 is the middle of the first pixel.
    stroke : float
        Width of strokes.

    Raises
    ------
    ValueError
        When the numbers are impossible.

    Examples
    --------
    >>> GlyphForm(28, 28, 0, 255, 20.0, "mass", 13.5, 13.5, 2.4).box
    20.0
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
        """Whether an image has this form already: size, grey, ground and polarity.

        Parameters
        ----------
        image : ndarray of uint8, shape (h, w, c)
            The image.

        Returns
        -------
        bool
            True where nothing is to be done.

        Examples
        --------
        >>> import numpy as np
        >>> GlyphForm(28, 28, 0, 255, 20.0, "mass", 13.5, 13.5, 2.4).holds(np.zeros((28, 28, 1), np.uint8))
        True
        """
        return bool(which_hold(image.transpose(2, 0, 1)[None], self)[0])


def which_hold(pixels: UInt8[ndarray, "n c h w"], form: GlyphForm) -> Bool[ndarray, " n"]:
    """Tell for each image whether it has a form already, see `GlyphForm.holds`."""
    if pixels.shape[2:] != (form.height, form.width):
        return np.zeros(len(pixels), dtype=bool)
    ground = np.abs(pixels[:, 0].astype(np.int16) - form.ground) <= GROUND_TOLERANCE
    border = np.concatenate([ground[:, 0], ground[:, -1], ground[:, :, 0], ground[:, :, -1]], axis=1)
    grey = (pixels == pixels[:, :1]).all(axis=(1, 2, 3))
    return np.asarray(grey & (border.mean(axis=1) >= 0.5) & (ground.mean(axis=(1, 2)) >= 0.25))


def learn_glyph_form(pixels: UInt8[ndarray, "n c h w"]) -> GlyphForm | None:
    """Measure the form of training images; None where they are not grey ink on even ground."""
    n, channels, height, width = pixels.shape
    if channels != 1 or min(height, width) < 6:
        return None
    step = -(-n // max(1, min(MAX_IMAGES, MAX_PIXELS // (height * width))))
    images = take_rows(pixels, np.arange(0, n, step))[:, 0].astype(np.int16)
    ground = int(np.bincount(images.ravel(), minlength=256).argmax())
    bright = bool((images - ground).mean() > 0)
    ink = int(np.median(images.max(axis=(1, 2)) if bright else images.min(axis=(1, 2))))
    if abs(ink - ground) < 2 * GROUND_TOLERANCE:
        return None
    glyphs = _covers_of_glyphs(images, ground, ink)
    if len(glyphs) < 0.8 * len(images):
        return None
    stroke = float(np.median([stroke_width(glyph) for glyph in glyphs]))
    rows, columns = _extents(glyphs.max(axis=2)), _extents(glyphs.max(axis=1))
    box = float(np.median(np.maximum(rows[1] - rows[0], columns[1] - columns[0])))
    if stroke > 0.35 * box:
        return None  # filled shapes, such as clothes
    centres = {"mass": _centres_of_mass(glyphs), "box": (np.stack([rows.mean(0), columns.mean(0)]) - 0.5)}
    centring: Literal["mass", "box"] = "mass" if _spread(centres["mass"]) < _spread(centres["box"]) else "box"
    row, column = np.round(np.median(centres[centring], axis=1) * 2) / 2
    return GlyphForm(height, width, ground, ink, box, centring, float(row), float(column), round(stroke, 2))


def _covers_of_glyphs(images: Int16[ndarray, "n h w"], ground: int, ink: int) -> Float32[ndarray, "m h w"]:
    """How much ink covers each place, 0 to 1, of those images that are ink of this level on even ground."""
    contrast = ink - ground
    # The second strongest level of each image: one odd pixel is no ink.
    extremes = np.sort(images.reshape(len(images), -1), axis=1)[:, -2 if contrast > 0 else 1]
    covers = ((images - ground) / np.float32(contrast)).astype(np.float32)
    even = (np.abs(images - ground) <= GROUND_TOLERANCE).mean(axis=(1, 2)) >= 0.25
    of_this_ink = np.abs(extremes - ink) <= 0.35 * abs(contrast)
    one_sided = (covers < -0.1).mean(axis=(1, 2)) < 0.05
    return np.asarray(covers[even & of_this_ink & one_sided].clip(0, 1))


def fit_glyph(
    image: UInt8[ndarray, "h w c"], form: GlyphForm, size: tuple[int, int] | None = None
) -> UInt8[ndarray, "1 H W"]:
    """Bring any image of one glyph into the form that a model was trained on, or into that form at another `size`.

    An image in that form passes unchanged, a blank one becomes plain ground, and one without ink on paper is only
    scaled, so that the model sees that it is something else.
    """
    return glyph_steps(image, form, size)[-1][1].transpose(2, 0, 1)


def glyph_steps(
    image: UInt8[ndarray, "h w c"], form: GlyphForm, size: tuple[int, int] | None = None
) -> list[tuple[str, UInt8[ndarray, "_ _ _"]]]:
    """Give name and image, channels last, of each step of `fit_glyph`; the last is what the model sees."""
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
    shaped = _shape_strokes(_to_box(ink.cover, BOX_SCALE * form.box), form)
    placed = _place(shaped, form, size, scale)
    names = ("ink without paper", "strokes reshaped", "as the model sees it")
    drawn = [_as_levels(cover, form) for cover in (ink.cover, shaped, placed)]
    return [*steps, ("the glyph found", ink.cut), *zip(names, drawn, strict=True)]


def _as_levels(cover: Float32[ndarray, "h w"], form: GlyphForm) -> UInt8[ndarray, "h w 1"]:
    levels = form.ground + (form.ink - form.ground) * cover.clip(0, 1)[..., None]
    return levels.round().astype(np.uint8)


def stroke_width(cover: Float32[ndarray, "h w"]) -> float:
    """Measure the width of strokes in pixels, 0 without ink: 2 × area / outline, both from grey values.

    A stroke of width b and length l covers b·l and has an outline of 2·l, whose length is the total variation by the
    coarea formula (Federer 1959, Trans. Amer. Math. Soc. 93, p. 426).
    """
    padded = np.pad(cover, 1)
    outline = np.hypot(np.diff(padded, axis=0)[:, :-1], np.diff(padded, axis=1)[:-1]).sum()
    return float(2 * cover.sum() / outline) if outline else 0.0


def _extents(profiles: Float32[ndarray, "n side"]) -> Float64[ndarray, "2 n"]:
    """First and last edge of the places that are more than half covered."""
    inked = profiles > 0.5
    return np.stack([inked.argmax(axis=1), profiles.shape[1] - inked[:, ::-1].argmax(axis=1)]).astype(np.float64)


def _centres_of_mass(cover: Float32[ndarray, "n h w"]) -> Float64[ndarray, "2 n"]:
    """Row and column of each image's centre of mass; 0 is the middle of the first pixel."""
    mass = cover.sum(axis=(1, 2)).clip(1e-6)
    rows, columns = cover.sum(axis=2) @ np.arange(cover.shape[1]), cover.sum(axis=1) @ np.arange(cover.shape[2])
    return np.stack([rows / mass, columns / mass]).astype(np.float64)


def _spread(centres: Float64[ndarray, "2 n"]) -> float:
    """Mean absolute distance of centres from their median."""
    return float(np.abs(centres - np.median(centres, axis=1, keepdims=True)).mean())


def _to_box(cover: Float32[ndarray, "h w"], box: float) -> Float32[ndarray, "H W"]:
    """Scale ink so that the longer side of its bounding box takes `box` pixels, of SUBPIXELS each."""
    (top, bottom), (left, right) = (_extents(cover.max(axis=axis)[None])[:, 0] for axis in (1, 0))
    side = max(bottom - top, right - left)
    reach = 0.8 * side  # around the box's middle
    pad = int(np.ceil(reach))
    row, column = (top + bottom) / 2 + pad, (left + right) / 2 + pad
    places = round(1.6 * box * SUBPIXELS)
    return resample(
        np.pad(cover, pad), (places, places), (column - reach, row - reach, column + reach, row + reach)
    ).clip(0, 1)


def _shape_strokes(cover: Float32[ndarray, "h w"], form: GlyphForm) -> Float32[ndarray, "H W"]:
    """Sharpen strokes, then thin or thicken them to the width that they have in the training images."""
    from scipy.ndimage import gaussian_filter

    # Unsharp masking separates strokes that are blurred into each other, and leaves sharp ones as they are.
    pen = form.stroke * SUBPIXELS
    smooth = np.asarray(gaussian_filter(cover, 0.2 * pen))
    sharp = np.asarray(smooth + SHARPENING * (smooth - gaussian_filter(cover, 0.7 * pen))).clip(0, 1)
    change = (stroke_width(sharp) - pen) / 2
    shaped = erosion(sharp, change) if change > 0 else dilation(sharp, -change)
    return shaped if shaped.max() > 0.5 else sharp


def _place(
    cover: Float32[ndarray, "h w"], form: GlyphForm, size: tuple[int, int], scale: float
) -> Float32[ndarray, "H W"]:
    """Put the ink where it lies in the training images, averaged over each pixel."""
    if form.centring == "mass":
        row, column = _centres_of_mass(cover[None])[:, 0] + 0.5
    else:
        row, column = (_extents(cover.max(axis=axis)[None])[:, 0].mean() for axis in (1, 0))
    step = SUBPIXELS / scale
    top = row - (form.centre_row + 0.5) * SUBPIXELS - (size[0] - form.height * scale) / 2 * step
    left = column - (form.centre_column + 0.5) * SUBPIXELS - (size[1] - form.width * scale) / 2 * step
    box = (left, top, left + size[1] * step, top + size[0] * step)
    pad = int(np.ceil(max(-min(box), box[2] - cover.shape[1], box[3] - cover.shape[0], 0)))
    return resample(np.pad(cover, pad), size, tuple(edge + pad for edge in box))
