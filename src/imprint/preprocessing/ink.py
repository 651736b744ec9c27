"""Find the ink of one glyph on paper, whatever the light, the colours, and what else is on the paper."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from numpy import ndarray
from PIL import Image

from imprint.preprocessing.components import BLACK_OFFSET, MIN_CONTRAST, WINDOWS, find_components, light_of
from imprint.preprocessing.morphology import closing, max_filter, opening

OVERVIEW, DETAIL = 256, 192  # longer side in pixels at which ink is sought in an image, and measured in the cut
SMALL_SIDE = 64  # pixels of the longer side; smaller images are scaled up
GROUND_TOLERANCE = 24  # levels of 255 that still count as ground: paper that went through JPEG
MARGIN_DIVISOR = 24  # the margin is the longer side over this; ink within it touches the border
MAX_GROUND_RANGE = 16  # levels of 255 between the ends of even ground
MIN_GLYPH_SIDE = 5  # pixels of the longer side; the smallest fonts draw digits so high
# Of all that varies; squared paper and tight crops seldom reach it, photos of things do (docs/log/ink.md, "No ink, no
# glyph").
MAX_UNEVENNESS = 0.1
MAX_FRAMED_SHADING = 0.4  # of the ink's contrast; with more, the frame that a small image is given would stand out
MAX_SHADING = 0.2  # of the ink's contrast; scans and drawings stay below it, shadows and walls behind things do not
MAX_PATCHINESS = 0.19  # of the ink's contrast; 1 in 30 of cut-off ink on shaded paper reaches it, of hands 19 in 20


@dataclass(frozen=True, eq=False)
class Ink:
    """One glyph, cut out of its image with a margin.

    `cover` says how much ink covers each place of the scaled cut, from 0 (paper) to 1 (ink), without other components;
    `box` where the cut lies in the image (left, top, right, bottom), beyond its border where the margin is.
    `unevenness` is the share of the cut's variance that lies beside the ink: near 0 on paper, high in photos of things.
    `shading` is the range of the paper's brightness, relative to the ink's contrast: much in a shadow or before a wall.
    `patchiness` is the relative scatter of the ink's contrast: strokes are uniform, the surface of a thing is not.
    """

    cut: UInt8[ndarray, "h w c"]
    cover: Float32[ndarray, "H W"]
    box: tuple[int, int, int, int]
    unevenness: float
    shading: float
    patchiness: float

    @property
    def on_paper(self) -> bool:
        """Whether this is ink: no speck, not on uneven paper, and no arm, patchy and cut off by a shaded image."""
        arm = self.runs_out and self.shading > MAX_SHADING and self.patchiness > MAX_PATCHINESS
        return self.side >= MIN_GLYPH_SIDE and self.unevenness <= MAX_UNEVENNESS and not arm

    @property
    def side(self) -> float:
        """The ink's longer side, in pixels of the image."""
        inked = self.cover > 0.5
        lengths = (inked.any(axis=axis).sum() * self.cut.shape[1 - axis] / inked.shape[1 - axis] for axis in (0, 1))
        return float(max(lengths))

    @property
    def runs_out(self) -> bool:
        """Whether the image's border cuts the ink off; at the cut's other edges there is a margin."""
        edges = self.cover[0], self.cover[-1], self.cover[:, 0], self.cover[:, -1]
        return any(edge.max() > 0.5 for edge in edges)


def find_ink(image: UInt8[ndarray, "H W c"]) -> Ink | None:
    """Find the glyph in an image of any size and colours, dark on bright or bright on dark; None in a blank one.

    Two passes: the whole image gives the most distinct group of components; the part around that gives the paper beside
    the strokes, and from it how much ink covers each place.
    """
    overview = _reduced(image, OVERVIEW)
    components = find_components(overview)
    if components is None:
        return None
    box = _with_margin(components, (image.shape[0] / overview.shape[0], image.shape[1] / overview.shape[1]))
    cut = _cut(image, box)
    detail = _reduced(cut, DETAIL)
    sides, whole_sides = overview.shape[1::-1] * 2, image.shape[1::-1] * 2
    part = tuple(
        edge * side / whole for edge, side, whole in zip(_clipped(image, box), sides, whole_sides, strict=True)
    )
    found = _cover(detail, resample(components.astype(np.float32), detail.shape[:2], part) > 0.5)
    return None if found is None else Ink(cut, found[0], box, *found[1:])


def find_glyph(image: UInt8[ndarray, "h w c"]) -> Ink | None:
    """Find the glyph as `find_ink` does, with paper added around the image where it needs some.

    At a few dozen pixels a side, strokes have too few places to be told from paper, so small images are scaled up.
    """
    # A glyph that fills its image has no paper around it to be measured against, so small images and tight crops on
    # even ground are given a frame of it; not those whose ground is too shaded for one.
    if max(image.shape[:2]) > SMALL_SIDE:
        found, ground = find_ink(image), _ground_of_tight(image)
        # The grain of wood meets the border several times too, and uneven paper stays uneven within a frame.
        if ground is None or found is None or found.unevenness > MAX_UNEVENNESS:
            return found
        return find_ink(_framed(thinned(image), ground))
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    found = find_ink(_enlarged(_framed(image, np.median(border, axis=0))))
    # Around a wall, a shadow or a gradient the frame itself would be the most distinct component.
    return found if found is None or found.shading <= MAX_FRAMED_SHADING else find_ink(_enlarged(image))


def _enlarged(image: UInt8[ndarray, "h w c"]) -> UInt8[ndarray, "H W c"]:
    """Scale a small image up, smoothly."""
    size = _scaled_shape(image, OVERVIEW)
    scaled = [
        np.asarray(Image.fromarray(one).resize(size[::-1], Image.Resampling.BICUBIC))
        for one in image.transpose(2, 0, 1)
    ]
    return np.stack(scaled, axis=2)


def _ground_of_tight(image: UInt8[ndarray, "h w c"]) -> Float32[ndarray, " k"] | None:
    """Find the ground of a tight crop on even ground; None of any other image.

    Going once around a tight crop, one meets ink twice or more; an arm, a shadow or a table's edge only once. Where ink
    takes so much of the image that either could be the ground, it is the one that the corners show.
    """
    seen = _reduced(image, OVERVIEW // 2)
    levels = light_of(seen).round().astype(np.uint8)
    window = int(WINDOWS[-1] * max(levels.shape)) | 1
    grounds = []
    for paper in (closing(levels, window), opening(levels, window)):
        ink = opening(np.abs(levels - paper.astype(np.int16)) > 2 * GROUND_TOLERANCE, 3)  # without specks
        if ink.all() or int(paper.max()) - int(paper.min()) > MAX_GROUND_RANGE:
            continue
        border = _border_of(ink)
        corners = int(ink[[0, 0, -1, -1], [0, -1, 0, -1]].sum())
        if corners <= 2 and (border & ~np.roll(border, 1)).sum() >= 2:
            grounds.append((corners, np.asarray(np.median(seen[~ink], axis=0))))
    return min(grounds, key=lambda ground: ground[0])[1] if grounds else None


def _border_of(ink: Bool[ndarray, "h w"]) -> Bool[ndarray, " n"]:
    """Whether ink lies within the margin, for each place once around the image."""
    margin = -(-max(ink.shape) // MARGIN_DIVISOR)
    halves = ink, ink[::-1, ::-1]
    return np.concatenate(
        [side for half in halves for side in (half[:margin].any(axis=0), half[:, -margin:].any(axis=1))]
    )


def _framed(image: UInt8[ndarray, "h w c"], ground: Float[ndarray, " k"]) -> UInt8[ndarray, "H W c"]:
    """Frame an image by a quarter of its longer side."""
    height, width, channels = image.shape
    room = -(-max(height, width) // 4)
    around = np.empty((height + 2 * room, width + 2 * room, channels), dtype=np.uint8)
    around[:] = ground.round()
    around[room : room + height, room : room + width] = image
    return around


def thinned(image: UInt8[ndarray, "h w c"], side: int = OVERVIEW) -> UInt8[ndarray, "H W c"]:
    """Skip rows and columns of large images, leaving two or more for each of `side` places, to bound the time."""
    every = max(max(image.shape[:2]) // (2 * side), 1)
    return image[::every, ::every]


def resample(
    values: Float32[ndarray, "h w *c"], shape: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> Float32[ndarray, "H W *c"]:
    """Scale values, or the part in `box` (left, top, right, bottom): averages to shrink, bilinear samples to grow."""
    if values.ndim == 3:
        return np.stack([resample(channel, shape, box) for channel in np.moveaxis(values, 2, 0)], axis=2)
    left, top, right, bottom = box or (0, 0, values.shape[1], values.shape[0])
    grows = shape[0] > bottom - top or shape[1] > right - left
    method = Image.Resampling.BILINEAR if grows else Image.Resampling.BOX
    image = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    return np.asarray(image.resize(shape[::-1], method, box=(left, top, right, bottom)))


def _reduced(image: UInt8[ndarray, "h w c"], side: int) -> Float32[ndarray, "H W k"]:
    """Scale an image so that its longer side has about `side` pixels, with one channel if it is grey."""
    some = thinned(image, side)
    if all(np.array_equal(some[..., 0], some[..., channel]) for channel in range(1, some.shape[2])):
        some = some[..., :1]
    return resample(some.astype(np.float32), _scaled_shape(some, side))


def _scaled_shape(image: ndarray, side: int) -> tuple[int, int]:
    """Shape of an image scaled so that its longer side has `side` pixels; small ones grow to half of it at most."""
    height, width = image.shape[:2]
    longer = max(height, width)
    scale = min(side, max(longer, side // 2)) / longer
    return max(round(height * scale), 1), max(round(width * scale), 1)


def _with_margin(mask: Bool[ndarray, "h w"], scale: tuple[float, float]) -> tuple[int, int, int, int]:
    """Box around a mask, a third of its longer side wider all around: left, top, right, bottom in image pixels."""
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
    """Measure the cover, unevenness, shading and patchiness of an `Ink`, by the contrast of the cut to its paper."""
    around = 2 * max(cut.shape[0] // 24, 3) + 1
    near = max_filter(ink, around)
    for _ in range(2):  # the second paper is free of the first one's faint ink
        if not ink.any():
            return None
        paper = _paper_beside(cut, ink)
        apart = (cut - paper) / (light_of(paper)[..., None] + np.float32(BLACK_OFFSET))
        direction = apart[ink].mean(axis=0)
        contrast = apart @ (direction / np.linalg.norm(direction).clip(1e-6))
        level = _ink_level(contrast[near])
        if level < MIN_CONTRAST / 2:
            return None
        ink = near & (contrast > 0.1 * level)
    kept = max_filter(near & (contrast > 0.4 * level), around)
    cover = np.where(kept & near, contrast / level, 0).clip(0, 1).astype(np.float32)
    beside, total = ((cut - paper)[~near] ** 2).sum(), ((cut - cut.mean(axis=(0, 1))) ** 2).sum()
    low, high = np.quantile(light_of(paper[::4, ::4]), (0.02, 0.98))
    shading = (high - low) / (high + BLACK_OFFSET) / level
    return cover, float(beside / total), float(shading), float(contrast[cover > 0.5].std() / level)


def _ink_level(contrast: Float32[ndarray, " n"]) -> float:
    """Contrast of full ink, short of its strongest specks."""
    strong = contrast[contrast > 0.5 * np.quantile(contrast, 0.98)]
    return float(np.quantile(strong, 0.8)) if strong.size else 0.0


def _paper_beside(cut: Float32[ndarray, "h w c"], ink: Bool[ndarray, "h w"]) -> Float32[ndarray, "h w c"]:
    """Fill in the paper below the ink: the nearest, smoothed, so that it follows even a shadow's edge."""
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    wide = max_filter(ink, 2 * max(cut.shape[0] // 20, 2) + 1)
    if wide.all():
        return np.broadcast_to(cut[~ink].mean(axis=0) if not ink.all() else cut.mean(axis=(0, 1)), cut.shape)
    # Paper is smooth: half the resolution takes a quarter of the time.
    half = -(-cut.shape[0] // 2), -(-cut.shape[1] // 2)
    small = resample(np.where(wide[..., None], 0, cut), half)
    share = resample((~wide).astype(np.float32), half)
    rows, columns = distance_transform_edt(share == 0, return_distances=False, return_indices=True)
    nearest = small[rows, columns] / share[rows, columns, None]
    return resample(np.asarray(gaussian_filter(nearest, sigma=(2.5, 2.5, 0), mode="nearest")), cut.shape[:2])
