"""Find the ink of one glyph in an image of paper: uneven light, other marks and its colours do not matter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from numpy import ndarray
from PIL import Image

from imprint.preprocessing.components import DARKEST, FAINTEST, WIDEST, find_components, light_of
from imprint.preprocessing.morphology import closing, max_filter, opening

GLANCE, CLOSE = 256, 192  # longer side in pixels at which marks are sought, and at which one is looked at
SMALL = 64  # pixels of the longer side
NEAR = 24  # levels of 255 that still count as ground: paper that went through JPEG
BAND = 24  # a margin of the longer side over this is none
FLAT = 16  # levels of 255 between the ends of even ground
LEGIBLE = 5  # pixels of the longer side; the smallest fonts draw digits so high
UNEVEN = 0.1  # of all that varies; squared paper and tight crops seldom reach it, photos of things do (docs/LOG.md)
FRAMED = 0.4  # of the ink's contrast, by which the paper of a small image may vary that is given a frame of one shade
SHADED = 0.2  # of the ink's contrast; scans and drawings stay below it, shadows and walls behind things do not
PATCHY = 0.19  # of the ink's contrast; of ink that is cut off on shaded paper 1 in 30 reaches it, of hands 19 in 20


@dataclass(frozen=True, eq=False)
class Ink:
    """One glyph, cut out of its image.

    Parameters
    ----------
    cut : ndarray of uint8, shape (h, w, c)
        The glyph as it stood on its paper, with a margin around it.
    cover : ndarray of float32, shape (H, W)
        How much ink covers each place of the cut, scaled: 0 is paper, 1 is ink; other marks are gone.
    box : tuple of int
        Where the cut stood in the image: left, top, right, bottom; beyond its edges where the margin is.
    unevenness : float
        How much of what varies in the cut varies beside the ink, 0 to 1: next to nothing on paper, much in a photo of
        a thing.
    shading : float
        How far the paper's brightness ranges, as a share of the ink's contrast: much in a shadow and before a wall.
    patchiness : float
        How far the contrast of what is more than half covered scatters, as a share of full ink's: strokes are alike but
        for their soft edges, a thing's surface is not.

    Examples
    --------
    >>> image = np.full((40, 40, 1), 220, dtype=np.uint8)
    >>> image[10:30, 18:22] = 30
    >>> find_ink(image).cover.max()
    np.float32(1.0)
    """

    cut: UInt8[ndarray, "h w c"]
    cover: Float32[ndarray, "H W"]
    box: tuple[int, int, int, int]
    unevenness: float
    shading: float
    patchiness: float

    @property
    def on_paper(self) -> bool:
        """Whether this is ink: no speck, not on uneven paper, no arm, patchy and running out of a shaded image."""
        arm = self.runs_out and self.shading > SHADED and self.patchiness > PATCHY
        return self.side >= LEGIBLE and self.unevenness <= UNEVEN and not arm

    @property
    def side(self) -> float:
        """The ink's longer side, in pixels of the image."""
        inked = self.cover > 0.5
        lengths = (inked.any(axis=axis).sum() * self.cut.shape[1 - axis] / inked.shape[1 - axis] for axis in (0, 1))
        return float(max(lengths))

    @property
    def runs_out(self) -> bool:
        """Whether the image ends where there still is ink; at the cut's other edges there is a margin."""
        edges = self.cover[0], self.cover[-1], self.cover[:, 0], self.cover[:, -1]
        return any(edge.max() > 0.5 for edge in edges)


def find_ink(image: UInt8[ndarray, "H W c"]) -> Ink | None:
    """Find the glyph in an image, whatever the light, the paper and the pen.

    Two looks: the first, at all of the image, finds the most distinct group of marks; the second, at that group
    alone, takes the paper from around its strokes and measures how much ink covers each place.

    Parameters
    ----------
    image : ndarray of uint8, shape (height, width, 1 or 3)
        Dark ink on bright paper or bright on dark, of any colours and size.

    Returns
    -------
    Ink or None
        None where the image is blank.

    Examples
    --------
    >>> find_ink(np.full((100, 80, 3), 200, dtype=np.uint8)) is None
    True
    """
    glance = _look(image, GLANCE)
    marks = find_components(glance)
    if marks is None:
        return None
    box = _with_margin(marks, (image.shape[0] / glance.shape[0], image.shape[1] / glance.shape[1]))
    cut = _cut(image, box)
    close = _look(cut, CLOSE)
    there = tuple(
        edge * side / whole
        for edge, side, whole in zip(_clipped(image, box), glance.shape[1::-1] * 2, image.shape[1::-1] * 2, strict=True)
    )
    found = _cover(close, resample(marks.astype(np.float32), close.shape[:2], there) > 0.5)
    return None if found is None else Ink(cut, found[0], box, *found[1:])


def find_glyph(image: UInt8[ndarray, "h w c"]) -> Ink | None:
    """Find the glyph as `find_ink` does, in an image that is given room around it where it needs some.

    Of a few dozen pixels a side, strokes have too few places to be told from paper, so small images are scaled up. A
    glyph that fills its image has no paper around it to be measured against, so tight crops on even ground and small
    images are given a frame; but no small image whose ground is too shaded for one.

    Parameters
    ----------
    image : ndarray of uint8, shape (h, w, 1 or 3)
        Any image; its ground is what most of it shows beside the ink.

    Returns
    -------
    Ink or None
        None where the image is blank.

    Examples
    --------
    >>> small = np.zeros((8, 8, 1), dtype=np.uint8)
    >>> small[:, 3:5] = 255
    >>> find_ink(small).runs_out, find_glyph(small).runs_out
    (True, False)
    """
    if max(image.shape[:2]) > SMALL:
        found, ground = find_ink(image), _ground_of_tight(image)
        # A thing on wood is met all around too; what stands on uneven paper does so in a frame.
        if ground is None or found is None or found.unevenness > UNEVEN:
            return found
        return find_ink(_framed(thinned(image), ground))
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    found = find_ink(_enlarged(_framed(image, np.median(border, axis=0))))
    # Before a wall, in a shadow, or of a gradient the frame itself would be what stands out.
    return found if found is None or found.shading <= FRAMED else find_ink(_enlarged(image))


def _enlarged(image: UInt8[ndarray, "h w c"]) -> UInt8[ndarray, "H W c"]:
    """Scale a small image up, smoothly."""
    size = _longer_side(image, GLANCE)
    scaled = [
        np.asarray(Image.fromarray(one).resize(size[::-1], Image.Resampling.BICUBIC))
        for one in image.transpose(2, 0, 1)
    ]
    return np.stack(scaled, axis=2)


def _ground_of_tight(image: UInt8[ndarray, "h w c"]) -> Float32[ndarray, " k"] | None:
    """Give the ground of an image that is cut tightly around ink on even ground; None of any other.

    Going once around such an image, ink is met twice or more; an arm, a shadow or a table's edge is met once. Where
    ink takes so much of it that either could be the ground, it is what the corners show.
    """
    seen = _look(image, GLANCE // 2)
    levels = light_of(seen).round().astype(np.uint8)
    window = int(WIDEST[-1] * max(levels.shape)) | 1
    grounds = []
    for paper in (closing(levels, window), opening(levels, window)):
        ink = opening(np.abs(levels - paper.astype(np.int16)) > 2 * NEAR, 3)  # without specks
        if ink.all() or int(paper.max()) - int(paper.min()) > FLAT:
            continue
        band = -(-max(ink.shape) // BAND)
        turned = ink[::-1, ::-1]
        sides = [side for half in (ink, turned) for side in (half[:band].any(axis=0), half[:, -band:].any(axis=1))]
        around = np.concatenate(sides)
        corners = int(ink[[0, 0, -1, -1], [0, -1, 0, -1]].sum())
        if corners <= 2 and (around & ~np.roll(around, 1)).sum() >= 2:
            grounds.append((corners, np.asarray(np.median(seen[~ink], axis=0))))
    return min(grounds, key=lambda ground: ground[0])[1] if grounds else None


def _framed(image: UInt8[ndarray, "h w c"], ground: Float[ndarray, " k"]) -> UInt8[ndarray, "H W c"]:
    """Put a quarter of the longer side around an image."""
    height, width, channels = image.shape
    room = -(-max(height, width) // 4)
    around = np.empty((height + 2 * room, width + 2 * room, channels), dtype=np.uint8)
    around[:] = ground.round()
    around[room : room + height, room : room + width] = image
    return around


def thinned(image: UInt8[ndarray, "h w c"], side: int = GLANCE) -> UInt8[ndarray, "H W c"]:
    """Take of many megapixels four for each place that is looked at, so that the time does not grow with them.

    Parameters
    ----------
    image : ndarray of uint8, shape (h, w, c)
        Any image.
    side : int, default=256
        Places along its longer side that are looked at.

    Returns
    -------
    ndarray of uint8, shape (H, W, c)
        Each so-manieth row and column; the image itself where its longer side has fewer than four times as many.

    Examples
    --------
    >>> thinned(np.zeros((3000, 4000, 3), dtype=np.uint8)).shape
    (429, 572, 3)
    """
    every = max(max(image.shape[:2]) // (2 * side), 1)
    return image[::every, ::every]


def resample(
    values: Float32[ndarray, "h w *c"], shape: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> Float32[ndarray, "H W *c"]:
    """Scale values to another shape: averages where they shrink, bilinear samples where they grow.

    Parameters
    ----------
    values : ndarray of float32, shape (h, w) or (h, w, c)
        What to scale.
    shape : tuple of int
        Height and width to scale to.
    box : tuple of float, optional
        Left, top, right and bottom of the part to scale; all of it if left out.

    Returns
    -------
    ndarray of float32, shape (*shape) or (*shape, c)
        Scaled values.

    Examples
    --------
    >>> resample(np.array([[0, 1], [2, 3]], dtype=np.float32), (1, 1))
    array([[1.5]], dtype=float32)
    """
    if values.ndim == 3:
        return np.stack([resample(channel, shape, box) for channel in np.moveaxis(values, 2, 0)], axis=2)
    left, top, right, bottom = box or (0, 0, values.shape[1], values.shape[0])
    grows = shape[0] > bottom - top or shape[1] > right - left
    method = Image.Resampling.BILINEAR if grows else Image.Resampling.BOX
    image = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    return np.asarray(image.resize(shape[::-1], method, box=(left, top, right, bottom)))


def _look(image: UInt8[ndarray, "h w c"], side: int) -> Float32[ndarray, "H W k"]:
    """Scale an image so that its longer side is about so long, with one channel if it is grey."""
    some = thinned(image, side)
    if (some == some[..., :1]).all():
        some = some[..., :1]
    return resample(some.astype(np.float32), _longer_side(some, side))


def _longer_side(image: ndarray, side: int) -> tuple[int, int]:
    """Give the shape of an image scaled so that its longer side is so long; small ones grow to half of it at most."""
    height, width = image.shape[:2]
    longer = max(height, width)
    scale = min(side, max(longer, side // 2)) / longer
    return max(round(height * scale), 1), max(round(width * scale), 1)


def _with_margin(mask: Bool[ndarray, "h w"], scale: tuple[float, float]) -> tuple[int, int, int, int]:
    """Draw a box around a mask, in the image's own pixels and wider by a third: left, top, right, bottom."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom = rows[0] * scale[0], (rows[-1] + 1) * scale[0]
    left, right = columns[0] * scale[1], (columns[-1] + 1) * scale[1]
    margin = max(bottom - top, right - left) / 3 + 1
    return int(left - margin), int(top - margin), int(np.ceil(right + margin)), int(np.ceil(bottom + margin))


def _clipped(image: ndarray, box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    left, top, right, bottom = box
    return max(left, 0), max(top, 0), min(right, image.shape[1]), min(bottom, image.shape[0])


def _cut(image: UInt8[ndarray, "H W c"], box: tuple[int, int, int, int]) -> UInt8[ndarray, "h w c"]:
    left, top, right, bottom = _clipped(image, box)
    return image[top:bottom, left:right]


def _cover(
    cut: Float32[ndarray, "h w c"], ink: Bool[ndarray, "h w"]
) -> tuple[Float32[ndarray, "h w"], float, float, float] | None:
    """Measure how much ink covers each place of a cut, by its contrast to the paper, and how even both of them are."""
    around = 2 * max(cut.shape[0] // 24, 3) + 1
    near = max_filter(ink, around)
    for _ in range(2):  # the second paper is free of the first one's faint ink
        if not ink.any():
            return None
        paper = _paper_beside(cut, ink)
        apart = (cut - paper) / (light_of(paper)[..., None] + np.float32(DARKEST))
        direction = apart[ink].mean(axis=0)
        contrast = apart @ (direction / np.linalg.norm(direction).clip(1e-6))
        level = _ink_level(contrast[near])
        if level < FAINTEST / 2:
            return None
        ink = near & (contrast > 0.1 * level)
    kept = max_filter(near & (contrast > 0.4 * level), around)
    cover = np.where(kept & near, contrast / level, 0).clip(0, 1).astype(np.float32)
    beside, all_of_it = ((cut - paper)[~near] ** 2).sum(), ((cut - cut.mean(axis=(0, 1))) ** 2).sum()
    low, high = np.quantile(light_of(paper[::4, ::4]), (0.02, 0.98))
    shading = (high - low) / (high + DARKEST) / level
    return cover, float(beside / all_of_it), float(shading), float(contrast[cover > 0.5].std() / level)


def _ink_level(contrast: Float32[ndarray, " n"]) -> float:
    """Measure the contrast of full ink, short of its brightest specks."""
    strong = contrast[contrast > 0.5 * np.quantile(contrast, 0.98)]
    return float(np.quantile(strong, 0.8)) if strong.size else 0.0


def _paper_beside(cut: Float32[ndarray, "h w c"], ink: Bool[ndarray, "h w"]) -> Float32[ndarray, "h w c"]:
    """Put paper where the ink is: the nearest paper's, smoothed; it follows even a shadow's edge."""
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    wide = max_filter(ink, 2 * max(cut.shape[0] // 20, 2) + 1)
    if wide.all():
        return np.broadcast_to(cut[~ink].mean(axis=0) if not ink.all() else cut.mean(axis=(0, 1)), cut.shape)
    half = -(-cut.shape[0] // 2), -(-cut.shape[1] // 2)  # paper is smooth: half the places do in a quarter of the time
    small = resample(np.where(wide[..., None], 0, cut), half)
    share = resample((~wide).astype(np.float32), half)
    rows, columns = distance_transform_edt(share == 0, return_distances=False, return_indices=True)
    nearest = small[rows, columns] / share[rows, columns, None]
    return resample(np.asarray(gaussian_filter(nearest, sigma=(2.5, 2.5, 0), mode="nearest")), cut.shape[:2])
