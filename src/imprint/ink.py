"""Find the ink of one glyph in a picture of paper: uneven light, other marks and its colours do not matter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64, UInt8
from numpy import ndarray
from PIL import Image

GLANCE, CLOSE = 256, 192  # longer side in pixels at which marks are sought, and at which one is looked at
WIDEST = (0.08, 0.25, 0.8)  # of the longer side: strokes up to so wide are sought, anything wider is paper
SMALL = 64  # pixels of the longer side
DARKEST = 24.0  # levels; added to the paper's, so that black ground does not make noise of its own infinite
FAINTEST = 0.1  # of the paper's brightness; a weaker mark counts as even paper
REACH = 0.35  # parts belong together whose gap is a smaller share of what they span: the bar of a 5, the dots of ä
CLOSED = 0.75  # of a mark's outline runs over even paper
SAME_PEN = 0.45  # of the main part's stroke; thinner marks beside it are dirt
UNEVEN = 0.1  # of all that varies; squared paper and tight crops seldom reach it, photos of things do (docs/LOG.md)


@dataclass(frozen=True, eq=False)
class Ink:
    """One glyph, cut out of its picture.

    Parameters
    ----------
    cut : ndarray of uint8, shape (h, w, c)
        The glyph as it stood on its paper, with a margin around it.
    cover : ndarray of float32, shape (H, W)
        How much ink covers each place of the cut, scaled: 0 is paper, 1 is ink; other marks are gone.
    box : tuple of int
        Where the cut stood in the picture: left, top, right, bottom; beyond its edges where the margin is.
    unevenness : float
        How much of what varies in the cut varies beside the ink, 0 to 1: next to nothing on paper, much in a photo of
        a thing.

    Examples
    --------
    >>> picture = np.full((40, 40, 1), 220, dtype=np.uint8)
    >>> picture[10:30, 18:22] = 30
    >>> find_ink(picture).cover.max()
    np.float32(1.0)
    """

    cut: UInt8[ndarray, "h w c"]
    cover: Float32[ndarray, "H W"]
    box: tuple[int, int, int, int]
    unevenness: float

    @property
    def on_paper(self) -> bool:
        """Whether the paper is even enough that what stands on it is ink."""
        return self.unevenness <= UNEVEN


def find_ink(picture: UInt8[ndarray, "H W c"]) -> Ink | None:
    """Find the glyph in a picture, whatever the light, the paper and the pen.

    Two looks: the first, at all of the picture, finds the most distinct group of marks; the second, at that group
    alone, takes the paper from around its strokes and measures how much ink covers each place.

    Parameters
    ----------
    picture : ndarray of uint8, shape (height, width, 1 or 3)
        Dark ink on bright paper or bright on dark, of any colours and size.

    Returns
    -------
    Ink or None
        None where the picture is blank.

    Examples
    --------
    >>> find_ink(np.full((100, 80, 3), 200, dtype=np.uint8)) is None
    True
    """
    if (picture == picture[..., :1]).all():
        picture = picture[..., :1]
    glance = resample(picture.astype(np.float32), _longer_side(picture, GLANCE))
    steps = _steps(glance)
    group = _most_distinct([group for top_hat in _top_hats(glance) for group in _groups(*top_hat, steps)])
    if group is None:
        return None
    box = _with_margin(group.mask, (picture.shape[0] / glance.shape[0], picture.shape[1] / glance.shape[1]))
    cut = _cut(picture, box)
    close = resample(cut.astype(np.float32), _longer_side(cut, CLOSE))
    there = tuple(
        edge * side / whole
        for edge, side, whole in zip(
            _clipped(picture, box), glance.shape[1::-1] * 2, picture.shape[1::-1] * 2, strict=True
        )
    )
    found = _cover(close, resample(group.mask.astype(np.float32), close.shape[:2], there) > 0.5)
    return None if found is None else Ink(cut, found[0], box, found[1])


def with_room(picture: UInt8[ndarray, "h w c"]) -> UInt8[ndarray, "H W c"]:
    """Enlarge a small picture, and put more of its ground around it.

    Of a few dozen pixels a side, strokes have too few places to be told from paper, and a glyph that fills its
    picture has no paper around it to be measured against.

    Parameters
    ----------
    picture : ndarray of uint8, shape (h, w, 1 or 3)
        Any picture; its ground is what most of its border shows.

    Returns
    -------
    ndarray of uint8, shape (H, W, 1 or 3)
        The picture itself where its longer side has more than 64 pixels.

    Examples
    --------
    >>> with_room(np.zeros((8, 8, 1), dtype=np.uint8)).shape
    (128, 128, 1)
    """
    height, width = picture.shape[:2]
    if max(height, width) > SMALL:
        return picture
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    ground = np.median(border, axis=0).astype(np.uint8)
    room = -(-max(height, width) // 4)
    around = np.broadcast_to(ground, (height + 2 * room, width + 2 * room, len(ground))).copy()
    around[room : room + height, room : room + width] = picture
    size = _longer_side(around, GLANCE)
    scaled = [
        np.asarray(Image.fromarray(one).resize(size[::-1], Image.Resampling.BICUBIC))
        for one in around.transpose(2, 0, 1)
    ]
    return np.stack(scaled, axis=2)


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
    picture = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    return np.asarray(picture.resize(shape[::-1], method, box=(left, top, right, bottom)))


@dataclass(frozen=True, eq=False)
class _Group:
    """Marks that belong together: where, how sharp and strong their edges are in all, whether its outline is one."""

    mask: Bool[ndarray, "h w"]
    edges: float
    closed: bool

    @property
    def inside(self) -> bool:
        """Whether none of it runs out of the picture."""
        return not (self.mask[0].any() or self.mask[-1].any() or self.mask[:, 0].any() or self.mask[:, -1].any())


def _longer_side(picture: ndarray, side: int) -> tuple[int, int]:
    """Give the shape of a picture scaled so that its longer side is so long; small ones grow to half of it at most."""
    height, width = picture.shape[:2]
    longer = max(height, width)
    scale = min(side, max(longer, side // 2)) / longer
    return max(round(height * scale), 1), max(round(width * scale), 1)


def _top_hats(
    picture: Float32[ndarray, "h w c"],
) -> Iterator[tuple[Float32[ndarray, "h w"], Float32[ndarray, "h w"]]]:
    """How far each place stands out from wider surroundings, and how far the paper changes there; shares of the light.

    Dark from bright, then bright from dark. Closing fills dark marks narrower than its window, and leaves the edge of
    a shadow or a table where it is (Serra 1982, Image Analysis and Mathematical Morphology, chapter XII).
    """
    from scipy.ndimage import grey_closing, grey_opening, maximum_filter, minimum_filter

    for share in WIDEST:
        window = (int(share * max(picture.shape[:2])) | 1,) * 2 + (1,)
        for paper in (grey_closing(picture, window, mode="nearest"), grey_opening(picture, window, mode="nearest")):
            # Of the light at that place alone: ink in the shade stands out from its paper as much as in the sun.
            contrast = (picture - paper) / (np.maximum(picture, paper) + DARKEST)
            brightest = maximum_filter(paper, (5, 5, 1))
            change = (brightest - minimum_filter(paper, (5, 5, 1))) / (brightest + DARKEST)
            yield np.sqrt((contrast**2).mean(axis=2)), np.sqrt((change**2).mean(axis=2))


def _most_distinct(groups: list[_Group]) -> _Group | None:
    """Choose of marks outlined all around the most distinct; one that runs out of the picture only if all do."""
    best = max(groups, key=lambda group: group.edges, default=None)
    outlined = [group for group in groups if group.closed]
    for some in ([group for group in outlined if group.inside], outlined):
        found = max(some, key=lambda group: group.edges, default=None)
        if best is not None and found is not None and found.edges > 0.03 * best.edges:
            return found
    return best


def _groups(
    contrast: Float32[ndarray, "h w"], paper_change: Float32[ndarray, "h w"], steps: Float32[ndarray, "h w"]
) -> list[_Group]:
    """Join marks that stand close together for their size and were drawn with the same pen."""
    from scipy.ndimage import distance_transform_cdt, find_objects, label

    noise = float(np.median(contrast)) + 4 * float(np.median(np.abs(contrast - np.median(contrast))))
    marks = contrast > max(FAINTEST, noise, 0.22 * float(np.quantile(contrast, 0.999)))
    labels, count = label(marks, structure=np.ones((3, 3)))
    if not count:
        return []
    weights = _sums(steps**2, labels, count)
    pens = np.zeros(count + 1, dtype=np.int32)
    np.maximum.at(pens, labels.ravel(), distance_transform_cdt(np.pad(marks, 1), "chessboard")[1:-1, 1:-1].ravel())
    pens = pens[1:]
    boxes = np.array([[s.start for s in place] + [s.stop for s in place] for place in find_objects(labels)])
    edge = (boxes[:, :2] == 0).any(1) | (boxes[:, 2:] == marks.shape).any(1)
    closed = _closed(labels, count, contrast, paper_change) >= CLOSED
    left = np.argsort(-weights, kind="stable")[:64].tolist()  # beyond so many it is texture
    groups: list[_Group] = []
    while left and len(groups) < 8:
        first = left[0]
        alike = (pens >= SAME_PEN * pens[first]) & (edge <= edge[first]) & (closed >= closed[first])
        members = _joined(first, [i for i in left[1:] if alike[i]], boxes)
        left = [i for i in left if i not in members]
        mask = np.isin(labels, np.add(members, 1))
        groups.append(_Group(mask, float(weights[members].sum()), bool(closed[first])))
    return groups


def _joined(first: int, others: list[int], boxes: Int64[ndarray, "n 4"]) -> list[int]:
    """Collect the marks that stand near the first or near those collected before."""
    members = [first]
    while True:
        own = np.concatenate([boxes[members, :2].min(axis=0), boxes[members, 2:].max(axis=0)])
        near = [i for i in others if i not in members and _near(own, boxes[i])]
        if not near:
            return members
        members += near


def _steps(picture: Float32[ndarray, "h w c"]) -> Float32[ndarray, "h w"]:
    """How steep the picture is at each place: the contrast between the two sides of it, per pixel."""
    from scipy.ndimage import maximum_filter

    light = maximum_filter(picture.mean(axis=2), 15, mode="nearest") + DARKEST
    framed = np.pad(picture, ((1, 1), (1, 1), (0, 0)), mode="edge")
    down = framed[2:, 1:-1] - framed[:-2, 1:-1]
    across = framed[1:-1, 2:] - framed[1:-1, :-2]
    return np.asarray(np.sqrt((down**2 + across**2).mean(axis=2)) / light / 2)


def _closed(
    labels: Int32[ndarray, "h w"],
    count: int,
    contrast: Float32[ndarray, "h w"],
    paper_change: Float32[ndarray, "h w"],
) -> Float64[ndarray, " n"]:
    """Measure how much of each mark's outline runs over even paper; at a sheet's corner what changes is the paper."""
    from scipy.ndimage import maximum_filter, minimum_filter

    outline = np.where((labels == 0) | (minimum_filter(labels, 3) == 0), maximum_filter(labels, 3), 0)
    usual = np.concatenate([[0], _sums(contrast, labels, count) / _sums(np.ones_like(contrast), labels, count)])
    even = _sums(paper_change < 0.3 * usual[outline], outline, count)
    places = _sums(np.ones_like(contrast), outline, count).clip(1)  # a speck inside another mark has no outline
    return np.asarray(even / places)


def _sums(values: ndarray, labels: Int32[ndarray, "h w"], count: int) -> ndarray:
    """Add up the values of each mark; scipy's function sorts the labels first, an eighth of all the time."""
    return np.bincount(labels.ravel(), weights=values.ravel(), minlength=count + 1)[1:]


def _near(one: ndarray, other: ndarray) -> bool:
    """Whether the gap between two boxes (top, left, bottom, right) is small for what they span together."""
    gap = np.maximum(np.maximum(one[:2] - other[2:], other[:2] - one[2:]), 0)
    span = np.maximum(one[2:], other[2:]) - np.minimum(one[:2], other[:2])
    return float(np.hypot(*gap)) <= REACH * float(span.max())


def _with_margin(mask: Bool[ndarray, "h w"], scale: tuple[float, float]) -> tuple[int, int, int, int]:
    """Draw a box around a mask, in the picture's own pixels and wider by a third: left, top, right, bottom."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom = rows[0] * scale[0], (rows[-1] + 1) * scale[0]
    left, right = columns[0] * scale[1], (columns[-1] + 1) * scale[1]
    margin = max(bottom - top, right - left) / 3 + 1
    return int(left - margin), int(top - margin), int(np.ceil(right + margin)), int(np.ceil(bottom + margin))


def _clipped(picture: ndarray, box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    left, top, right, bottom = box
    return max(left, 0), max(top, 0), min(right, picture.shape[1]), min(bottom, picture.shape[0])


def _cut(picture: UInt8[ndarray, "H W c"], box: tuple[int, int, int, int]) -> UInt8[ndarray, "h w c"]:
    left, top, right, bottom = _clipped(picture, box)
    return picture[top:bottom, left:right]


def _cover(cut: Float32[ndarray, "h w c"], ink: Bool[ndarray, "h w"]) -> tuple[Float32[ndarray, "h w"], float] | None:
    """Measure how much ink covers each place of a cut, by its contrast to the paper beside it, and its unevenness."""
    from scipy.ndimage import binary_dilation

    reach = max(cut.shape[0] // 24, 3)
    near = binary_dilation(ink, np.ones((3, 3)), iterations=reach)
    for _ in range(2):  # the second paper is free of the first one's faint ink
        if not ink.any():
            return None
        paper = _paper_beside(cut, ink)
        apart = (cut - paper) / (paper.mean(axis=2, keepdims=True) + DARKEST)
        direction = apart[ink].mean(axis=0)
        contrast = apart @ (direction / np.linalg.norm(direction).clip(1e-6))
        level = _ink_level(contrast[near])
        if level < FAINTEST / 2:
            return None
        ink = near & (contrast > 0.1 * level)
    kept = binary_dilation(near & (contrast > 0.4 * level), np.ones((3, 3)), iterations=reach)
    cover = np.where(kept & near, contrast / level, 0).clip(0, 1).astype(np.float32)
    beside, all_of_it = ((cut - paper)[~near] ** 2).sum(), ((cut - cut.mean(axis=(0, 1))) ** 2).sum()
    return cover, float(beside / all_of_it)


def _ink_level(contrast: Float32[ndarray, " n"]) -> float:
    """Measure the contrast of full ink, short of its brightest specks."""
    strong = contrast[contrast > 0.5 * np.quantile(contrast, 0.98)]
    return float(np.quantile(strong, 0.8)) if strong.size else 0.0


def _paper_beside(cut: Float32[ndarray, "h w c"], ink: Bool[ndarray, "h w"]) -> Float32[ndarray, "h w c"]:
    """Put paper where the ink is: the nearest paper's, smoothed; it follows even a shadow's edge."""
    from scipy.ndimage import binary_dilation, distance_transform_edt, gaussian_filter

    wide = binary_dilation(ink, np.ones((3, 3)), iterations=max(cut.shape[0] // 20, 2))
    if wide.all():
        return np.broadcast_to(cut[~ink].mean(axis=0) if not ink.all() else cut.mean(axis=(0, 1)), cut.shape)
    rows, columns = distance_transform_edt(wide, return_distances=False, return_indices=True)
    return np.asarray(gaussian_filter(cut[rows, columns], sigma=(5, 5, 0), mode="nearest"))
