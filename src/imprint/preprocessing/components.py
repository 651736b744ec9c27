"""The marks on paper, and which of them belong together: a pen's strokes, not a shadow's edge or a sheet's corner."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64, Integer, Shaped, UInt8
from numpy import ndarray

from imprint.preprocessing.morphology import closing, max_filter, min_filter, opening

WIDEST = (0.08, 0.25, 0.8)  # of the longer side: strokes up to so wide are sought, anything wider is paper
DARKEST = 24.0  # levels; added to the paper's, so that black ground does not make noise of its own infinite
FAINTEST = 0.1  # of the paper's brightness; a weaker mark counts as even paper
REACH = 0.35  # parts belong together whose gap is a smaller share of what they span: the bar of a 5, the dots of ä
CLOSED = 0.75  # of a mark's outline runs over even paper
SAME_PEN = 0.45  # of the main part's stroke; thinner marks beside it are dirt
MOST = 64  # marks of one look, their numbers fit a byte; beyond so many it is texture


def find_components(image: Float32[ndarray, "h w c"]) -> Bool[ndarray, "h w"] | None:
    """Find the most distinct group of marks, whatever the light, the paper and the pen.

    Parameters
    ----------
    image : ndarray of float32, shape (h, w, c)
        Levels from 0 to 255, some 256 places a side.

    Returns
    -------
    ndarray of bool, shape (h, w), or None
        Where the marks are; None where there are none.

    Examples
    --------
    >>> image = np.full((60, 60, 1), 200, dtype=np.float32)
    >>> image[20:40, 28:32] = 30
    >>> np.argwhere(find_components(image)).min(axis=0).tolist()
    [20, 28]
    """
    steps = _steps(image)
    group = _most_distinct([group for top_hat in _top_hats(image) for group in _groups(*top_hat, steps)])
    return None if group is None else group.mask


@dataclass(frozen=True, eq=False)
class _Group:
    """Marks that belong together: where, how sharp and strong their edges are in all, whether its outline is one."""

    mask: Bool[ndarray, "h w"]
    edges: float
    closed: bool

    @property
    def inside(self) -> bool:
        """Whether none of it runs out of the image."""
        return not (self.mask[0].any() or self.mask[-1].any() or self.mask[:, 0].any() or self.mask[:, -1].any())


def light_of(image: Float32[ndarray, "h w c"]) -> Float32[ndarray, "h w"]:
    """Average the channels.

    Parameters
    ----------
    image : ndarray of float32, shape (h, w, c)
        Levels.

    Returns
    -------
    ndarray of float32, shape (h, w)
        As numpy's mean, whose sums over an axis of three take four times as long.

    Examples
    --------
    >>> light_of(np.array([[[30, 60, 90]]], dtype=np.float32))
    array([[60.]], dtype=float32)
    """
    channels = image.shape[2]
    return image @ np.full(channels, 1 / channels, dtype=np.float32)


def _top_hats(
    image: Float32[ndarray, "h w c"],
) -> Iterator[tuple[Float32[ndarray, "h w"], UInt8[ndarray, "h w c"]]]:
    """How far each place stands out from wider surroundings, as a share of the light, and these surroundings: paper.

    Dark from bright, then bright from dark. Closing fills dark marks narrower than its window, and leaves the edge of
    a shadow or a table where it is (Serra 1982, Image Analysis and Mathematical Morphology, chapter XII).
    """
    levels = image.round().astype(np.uint8)  # a quarter of the memory, and of the time, of floats
    papers: list[UInt8[ndarray, "h w c"]] = []
    for share in WIDEST:
        window = int(share * max(image.shape[:2])) | 1
        for paper in (closing(levels, window), opening(levels, window)):
            if any(np.array_equal(paper, other) for other in papers):  # even paper: a wider window shows nothing new
                continue
            papers.append(paper)
            # Of the light at that place alone: ink in the shade stands out from its paper as much as in the sun.
            yield _strength((image - paper) / (np.maximum(image, paper) + np.float32(DARKEST))), paper


def _strength(values: Float32[ndarray, "*n c"]) -> Float32[ndarray, "*n"]:
    """Join the channels: the root of their mean square."""
    return np.asarray(np.sqrt(np.einsum("...c,...c->...", values, values) / np.float32(values.shape[-1])))


def _most_distinct(groups: list[_Group]) -> _Group | None:
    """Choose of marks outlined all around the most distinct; one that runs out of the image only if all do."""
    best = max(groups, key=lambda group: group.edges, default=None)
    outlined = [group for group in groups if group.closed]
    for some in ([group for group in outlined if group.inside], outlined):
        found = max(some, key=lambda group: group.edges, default=None)
        if best is not None and found is not None and found.edges > 0.03 * best.edges:
            return found
    return best


def _groups(
    contrast: Float32[ndarray, "h w"], paper: UInt8[ndarray, "h w c"], steps: Float32[ndarray, "h w"]
) -> list[_Group]:
    """Join marks that stand close together for their size and were drawn with the same pen."""
    from scipy.ndimage import distance_transform_cdt, find_objects, label

    some = contrast[::2, ::2]
    usual = float(np.median(some))
    noise = usual + 4 * float(np.median(np.abs(some - usual)))
    marks = contrast > max(FAINTEST, noise, 0.22 * float(np.quantile(contrast, 0.999)))
    labels, count = label(marks, structure=np.ones((3, 3)))
    if not count:
        return []
    labels, weights = _heaviest(labels, _sums(steps[marks] ** 2, labels[marks], count))
    places = find_objects(labels)
    boxes = np.array([[s.start for s in place] + [s.stop for s in place] for place in places])
    pens = np.array(
        [distance_transform_cdt(np.pad(labels[place] == i, 1), "chessboard").max() for i, place in enumerate(places, 1)]
    )
    edge = (boxes[:, :2] == 0).any(1) | (boxes[:, 2:] == marks.shape).any(1)
    closed = _closed(labels, contrast, paper) >= CLOSED
    left = list(range(len(weights)))
    groups: list[_Group] = []
    while left and len(groups) < 8:
        first = left[0]
        alike = (pens >= SAME_PEN * pens[first]) & (edge <= edge[first]) & (closed >= closed[first])
        members = _joined(first, [i for i in left[1:] if alike[i]], boxes)
        left = [i for i in left if i not in members]
        chosen = np.zeros(len(weights) + 1, dtype=bool)
        chosen[np.add(members, 1)] = True
        groups.append(_Group(chosen[labels], float(weights[members].sum()), bool(closed[first])))
    return groups


def _heaviest(
    labels: Int32[ndarray, "h w"], weights: Float64[ndarray, " count"]
) -> tuple[UInt8[ndarray, "h w"], Float64[ndarray, " n"]]:
    """Keep the marks that weigh most, numbered from the heaviest on."""
    order = np.argsort(-weights, kind="stable")[:MOST]
    ranks = np.zeros(len(weights) + 1, dtype=np.uint8)
    ranks[order + 1] = np.arange(1, len(order) + 1)
    return ranks[labels], weights[order]


def _joined(first: int, others: list[int], boxes: Int64[ndarray, "n 4"]) -> list[int]:
    """Collect the marks that stand near the first or near those collected before."""
    members = [first]
    while True:
        own = np.concatenate([boxes[members, :2].min(axis=0), boxes[members, 2:].max(axis=0)])
        near = [i for i in others if i not in members and _near(own, boxes[i])]
        if not near:
            return members
        members += near


def _steps(image: Float32[ndarray, "h w c"]) -> Float32[ndarray, "h w"]:
    """How steep the image is at each place: the contrast between the two sides of it, per pixel."""
    light = max_filter(light_of(image), 15) + DARKEST
    framed = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    down = framed[2:, 1:-1] - framed[:-2, 1:-1]
    across = framed[1:-1, 2:] - framed[1:-1, :-2]
    return np.asarray(np.hypot(_strength(down), _strength(across)) / light / 2)


def _closed(
    labels: UInt8[ndarray, "h w"], contrast: Float32[ndarray, "h w"], paper: UInt8[ndarray, "h w c"]
) -> Float64[ndarray, " n"]:
    """Measure how much of each mark's outline runs over even paper; at a sheet's corner what changes is the paper."""
    marks, count = labels > 0, int(labels.max())
    usual = _sums(contrast[marks], labels[marks], count) / _sums(None, labels[marks], count)
    reached = max_filter(labels, 3)
    outline = (reached > 0) & (min_filter(labels, 3) == 0)
    owners = reached[outline]
    brightest = max_filter(paper, 5)[outline]
    change = _strength((brightest - min_filter(paper, 5)[outline]) / (brightest + np.float32(DARKEST)))
    even = _sums(change < 0.3 * usual[owners - 1], owners, count)
    places = _sums(None, owners, count).clip(1)  # a speck inside another mark has no outline
    return np.asarray(even / places)


def _sums(values: Shaped[ndarray, " n"] | None, owners: Integer[ndarray, " n"], count: int) -> Float64[ndarray, " c"]:
    """Add up the values, or the places, that each mark owns."""
    return np.bincount(owners, weights=values, minlength=count + 1)[1:].astype(np.float64)


def _near(one: ndarray, other: ndarray) -> bool:
    """Whether the gap between two boxes (top, left, bottom, right) is small for what they span together."""
    gap = np.maximum(np.maximum(one[:2] - other[2:], other[:2] - one[2:]), 0)
    span = np.maximum(one[2:], other[2:]) - np.minimum(one[:2], other[:2])
    return float(np.hypot(*gap)) <= REACH * float(span.max())
