"""Connected components of ink on paper, and which belong together: strokes, not a shadow's edge or a sheet's corner."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64, Integer, Shaped, UInt8
from numpy import ndarray

from imprint.preprocessing.morphology import closing, max_filter, min_filter, opening

WINDOWS = (0.08, 0.25, 0.8)  # of the longer side: strokes up to so wide are sought, anything wider is paper
BLACK_OFFSET = 24.0  # levels; added to the paper's, so that noise on black ground has no infinite contrast
MIN_CONTRAST = 0.1  # of the paper's brightness; a weaker component counts as even paper
MAX_GAP = 0.35  # of what two parts span together: the bar of a 5, the dots of ä
MIN_EVEN_OUTLINE = 0.75  # of a component's outline runs over even paper
MIN_PEN = 0.45  # of the main part's stroke width; thinner components beside it are dirt
OUTLINE_REACH = 3  # places around ink on which its outline and the paper beside it lie
MAX_COMPONENTS = 64  # in one image, so that their numbers fit a byte; beyond so many it is texture
MAX_GROUPS = 8  # in one image
MIN_EDGES = 0.03  # of the most distinct group's; a fainter one does not stand in its place


def find_components(image: Float32[ndarray, "h w c"]) -> Bool[ndarray, "h w"] | None:
    """Find the most distinct group of components, whatever the light, the paper and the pen; None on blank paper.

    `image` holds levels from 0 to 255, some 256 places a side.
    """
    gradient = _gradient(image)
    group = _most_distinct([group for top_hat in _top_hats(image) for group in _groups(*top_hat, gradient)])
    if group is None:
        return None
    mask = np.zeros(image.shape[:2], dtype=bool)
    mask[group.place] = group.mask
    return mask


@dataclass(frozen=True, eq=False)
class _Group:
    """Components that belong together, in the part of the image at `place`.

    With the sum of their edges' strength, whether even paper surrounds them, and whether none touches the border.
    """

    place: tuple[slice, slice]
    mask: Bool[ndarray, "h w"]
    edges: float
    closed: bool
    inside: bool


def light_of(image: Float32[ndarray, "h w c"]) -> Float32[ndarray, "h w"]:
    """Average the channels, in a quarter of the time that numpy's mean takes over an axis of three."""
    channels = image.shape[2]
    return image @ np.full(channels, 1 / channels, dtype=np.float32)


def _top_hats(
    image: Float32[ndarray, "h w c"],
) -> Iterator[tuple[Float32[ndarray, "h w"], UInt8[ndarray, "h w c"]]]:
    """Yield the contrast of each place to its surroundings, as a share of the light, and these surroundings: paper.

    Dark from bright, then bright from dark, for each window. Closing fills dark strokes narrower than the window and
    leaves the edges of shadows and tables in place (Serra 1982, Image Analysis and Mathematical Morphology, ch. XII).
    """
    levels = image.round().astype(np.uint8)  # a quarter of the memory, and of the time, of floats
    papers: list[UInt8[ndarray, "h w c"]] = []
    for share in WINDOWS:
        window = int(share * max(image.shape[:2])) | 1
        for paper in (closing(levels, window), opening(levels, window)):
            if any(np.array_equal(paper, other) for other in papers):  # even paper: a wider window finds nothing new
                continue
            papers.append(paper)
            # Relative to the light at that very place: ink has the same contrast in the shade as in the sun.
            yield _rms((image - paper) / (np.maximum(image, paper) + np.float32(BLACK_OFFSET))), paper


def _rms(values: Float32[ndarray, "*n c"]) -> Float32[ndarray, "*n"]:
    """Root mean square over channels."""
    return np.asarray(np.sqrt(np.einsum("...c,...c->...", values, values) / np.float32(values.shape[-1])))


def _most_distinct(groups: list[_Group]) -> _Group | None:
    """Choose the group with the strongest edges among those on even paper; one at the border only if all are."""
    best = max(groups, key=lambda group: group.edges, default=None)
    closed = [group for group in groups if group.closed]
    for candidates in ([group for group in closed if group.inside], closed):
        found = max(candidates, key=lambda group: group.edges, default=None)
        if best is not None and found is not None and found.edges > MIN_EDGES * best.edges:
            return found
    return best


def _groups(
    contrast: Float32[ndarray, "h w"], paper: UInt8[ndarray, "h w c"], gradient: Float32[ndarray, "h w"]
) -> list[_Group]:
    """Group components that are close together for their size and were drawn with the same pen."""
    from scipy.ndimage import find_objects, label

    everywhere = contrast > _threshold(contrast)
    if not everywhere.any():
        return []
    place = _around(everywhere)
    ink, strength = everywhere[place], gradient[place]
    labels, count = label(ink, structure=np.ones((3, 3)))
    labels, edges = _strongest(labels, _sums(strength[ink] ** 2, labels[ink], count))
    places = find_objects(labels)
    corner = [each.start for each in place]
    boxes = np.array([[s.start for s in one] + [s.stop for s in one] for one in places]) + np.array(corner * 2)
    pens = _pens(labels, places)
    at_border = (boxes[:, :2] == 0).any(1) | (boxes[:, 2:] == contrast.shape).any(1)
    closed = _even_outline(labels, contrast[place], paper[place]) >= MIN_EVEN_OUTLINE
    left = list(range(len(edges)))
    groups: list[_Group] = []
    while left and len(groups) < MAX_GROUPS:
        first = left[0]
        alike = (pens >= MIN_PEN * pens[first]) & (at_border <= at_border[first]) & (closed >= closed[first])
        members = _joined(first, [i for i in left[1:] if alike[i]], boxes)
        left = [i for i in left if i not in members]
        chosen = np.zeros(len(edges) + 1, dtype=bool)
        chosen[np.add(members, 1)] = True
        inside = not at_border[members].any()
        groups.append(_Group(place, chosen[labels], float(edges[members].sum()), bool(closed[first]), inside))
    return groups


def _around(ink: Bool[ndarray, "h w"]) -> tuple[slice, slice]:
    """Find the part of the image that holds all ink and as much around it as the outline is measured on."""
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    top, left = (max(int(one[0]) - OUTLINE_REACH, 0) for one in (rows, columns))
    return slice(top, int(rows[-1]) + 1 + OUTLINE_REACH), slice(left, int(columns[-1]) + 1 + OUTLINE_REACH)


def _threshold(contrast: Float32[ndarray, "h w"]) -> float:
    """Contrast above the noise of paper and well below that of full ink."""
    some, noise = contrast[::2, ::2], 0.0
    if 2 * np.count_nonzero(some) >= some.size - 1:  # else both medians are 0
        usual = float(np.median(some))
        noise = usual + 4 * float(np.median(np.abs(some - usual)))
    return max(MIN_CONTRAST, noise, 0.22 * _high_quantile(contrast, 0.999))


def _high_quantile(values: Float32[ndarray, "h w"], share: float) -> float:
    """Compute `np.quantile` of values of which most are 0, a tenth of its time: only the others are sorted."""
    position = share * (values.size - 1)
    below, weight = int(position), position % 1
    some = values[values > 0]
    place = below - (values.size - some.size)
    if not 0 <= place < some.size - 1:
        return float(np.quantile(values, share))
    low, high = np.partition(some, (place, place + 1))[place : place + 2]
    return float(low + (high - low) * weight if weight < 0.5 else high - (high - low) * (1 - weight))


def _pens(labels: UInt8[ndarray, "h w"], places: list[tuple[slice, slice]]) -> Int32[ndarray, " n"]:
    """Half the width of each component's widest stroke."""
    from scipy.ndimage import distance_transform_cdt

    components = (np.pad(labels[place] == i, 1) for i, place in enumerate(places, 1))
    return np.array([distance_transform_cdt(component, "chessboard").max() for component in components])


def _strongest(
    labels: Int32[ndarray, "h w"], edges: Float64[ndarray, " count"]
) -> tuple[UInt8[ndarray, "h w"], Float64[ndarray, " n"]]:
    """Keep the MAX_COMPONENTS components with the strongest edges, numbered from the strongest on."""
    order = np.argsort(-edges, kind="stable")[:MAX_COMPONENTS]
    ranks = np.zeros(len(edges) + 1, dtype=np.uint8)
    ranks[order + 1] = np.arange(1, len(order) + 1)
    return ranks[labels], edges[order]


def _joined(first: int, others: list[int], boxes: Int64[ndarray, "n 4"]) -> list[int]:
    """Collect the components that are near the first, or near those collected so far."""
    members = [first]
    while True:
        own = np.concatenate([boxes[members, :2].min(axis=0), boxes[members, 2:].max(axis=0)])
        near = [i for i in others if i not in members and _near(own, boxes[i])]
        if not near:
            return members
        members += near


def _gradient(image: Float32[ndarray, "h w c"]) -> Float32[ndarray, "h w"]:
    """Contrast between the two sides of each place, per pixel."""
    light = max_filter(light_of(image), 15) + BLACK_OFFSET
    framed = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    down = framed[2:, 1:-1] - framed[:-2, 1:-1]
    across = framed[1:-1, 2:] - framed[1:-1, :-2]
    return np.asarray(np.hypot(_rms(down), _rms(across)) / light / 2)


def _even_outline(
    labels: UInt8[ndarray, "h w"], contrast: Float32[ndarray, "h w"], paper: UInt8[ndarray, "h w c"]
) -> Float64[ndarray, " n"]:
    """Share of each component's outline that runs over even paper; at a sheet's corner it is the paper that changes."""
    ink, count = labels > 0, int(labels.max())
    usual = _sums(contrast[ink], labels[ink], count) / _sums(None, labels[ink], count)
    grown = max_filter(labels, 3)
    outline = (grown > 0) & (min_filter(labels, 3) == 0)
    owners = grown[outline]
    brightest = max_filter(paper, 5)[outline]
    change = _rms((brightest - min_filter(paper, 5)[outline]) / (brightest + np.float32(BLACK_OFFSET)))
    even = _sums(change < 0.3 * usual[owners - 1], owners, count)
    places = _sums(None, owners, count).clip(1)  # a speck inside another component has no outline
    return np.asarray(even / places)


def _sums(values: Shaped[ndarray, " n"] | None, owners: Integer[ndarray, " n"], count: int) -> Float64[ndarray, " c"]:
    """Sum the values of each component, or count its places."""
    return np.bincount(owners, weights=values, minlength=count + 1)[1:].astype(np.float64)


def _near(one: ndarray, other: ndarray) -> bool:
    """Whether the gap between two boxes (top, left, bottom, right) is small for what they span together."""
    gap = np.maximum(np.maximum(one[:2] - other[2:], other[:2] - one[2:]), 0)
    span = np.maximum(one[2:], other[2:]) - np.minimum(one[:2], other[:2])
    return float(np.hypot(*gap)) <= MAX_GAP * float(span.max())
