"""Images that the data holds more than once: to the bit, or as copies that were worked on a little."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32, Int64, Shaped, UInt8, UInt64
from numpy import ndarray
from torch import Tensor

from imprint.core.memmap import in_chunks

COARSE = 8  # pixels a side of the versions that are compared all with all
ALIKE_COARSE = 0.94  # correlation there
# Pixels a side of the versions that are laid over each other, and the correlation that sends a pair on. Measured on
# 2,062 photos of hands (benchmarks/doctor.py): 99 of 100 copies, cropped by up to 4 % a side, re-encoded, resized and
# brightened, reach 0.942, 0.97 and 0.984 in the end; the most alike photos that are no copies reach 0.977.
FINER = ((16, 0.965), (32, 0.983))
# Where hundreds resemble each other, as upright ones do among digits, strangers laid over each other reach 0.997.
CROWD = 32  # an image that resembles more others than this stands in a crowd
ALIKE_IN_CROWD = 0.9975
TIES = 8  # of hundreds of hardly changed copies each is laid over only so many
SMALL = 16  # pixels a side; smaller images hold too little to tell a cropped copy from a stranger
ROWS = 2048  # images compared with all others at once
READ_TOGETHER = 256  # images
PAIRS = 1024  # pairs laid over each other at once
STEPS = 4  # of Gauss and Newton; more change nothing
FRAME = 1 / 16  # of the side: what a crop has cut off at an edge is not compared
MOST_STRETCH, MOST_SHIFT = 0.15, 0.12  # of the side; a crop by 4 % at each edge stretches by 0.087


def fingerprints(pixels: UInt8[ndarray, "n c h w"]) -> UInt64[ndarray, " n"]:
    """Boil each image's bytes down to one number; different images share one by chance in 1 of 2⁶⁴ pairs.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (n, c, h, w)
        Images, in memory or mapped from a file.

    Returns
    -------
    ndarray of uint64, shape (n,)
        The same number for the same pixels.

    Examples
    --------
    >>> first, second = fingerprints(np.zeros((2, 1, 8, 8), dtype=np.uint8))
    >>> bool(first == second)
    True
    """
    parts = in_chunks(pixels, READ_TOGETHER)
    digests = [hashlib.blake2b(image.tobytes(), digest_size=8).digest() for part in parts for image in part]
    return np.frombuffer(b"".join(digests), dtype=np.uint64)


def first_copies(prints: UInt64[ndarray, " n"]) -> Int64[ndarray, " n"]:
    """Find images that are the same to the bit; 0.2 s for 70,000 of 28×28, fingerprints included.

    Parameters
    ----------
    prints : ndarray of uint64, shape (n,)
        From `fingerprints`.

    Returns
    -------
    ndarray of int64, shape (n,)
        For each image the position of the first that has the same pixels; its own where it is the first.
        As `groups` of `split` it keeps copies on one side.

    Examples
    --------
    >>> pixels = np.array([5, 6, 5], dtype=np.uint8).reshape(3, 1, 1, 1)
    >>> first_copies(fingerprints(pixels))
    array([0, 1, 0])
    """
    _, first, number = np.unique(prints, return_index=True, return_inverse=True)
    return np.asarray(first[number], dtype=np.int64)


def connect(
    groupings: Sequence[Shaped[ndarray, " n"]], pairs: Int64[ndarray, "pairs 2"] | None = None
) -> Int64[ndarray, " n"]:
    """Join images into groups: those that share a value in any grouping or are a pair, and who is joined to those.

    Parameters
    ----------
    groupings : sequence of ndarray, shape (n,)
        At least one; images with equal values belong together.
    pairs : ndarray of int64, shape (pairs, 2), or None, default=None
        Positions of images that belong together.

    Returns
    -------
    ndarray of int64, shape (n,)
        For each image the position of the first of its group.

    Examples
    --------
    >>> persons = np.array(["ann", "bob", "ann", "cid"])
    >>> connect([persons], np.array([[1, 2]]))
    array([0, 0, 0, 3])
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(groupings[0])
    edges = [] if pairs is None else [pairs]
    for grouping in groupings:
        _, first, number = np.unique(grouping, return_index=True, return_inverse=True)
        edges.append(np.stack([np.arange(count), first[number]], axis=1))
    rows, columns = np.concatenate(edges).T
    graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(count, count))
    _, component = connected_components(graph, directed=False)
    _, first = np.unique(component, return_index=True)
    return np.asarray(first[component], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class NearCopies:
    """Pairs of images that show the same, re-encoded, resized, slightly cropped or brightened.

    Parameters
    ----------
    pairs : ndarray of int64, shape (pairs, 2)
        Positions; where several stacks were searched, they run on from one stack to the next.
    likeness : ndarray of float32, shape (pairs,)
        Correlation of the two once one is laid over the other; 1 is the same.

    Examples
    --------
    >>> near_copies(np.zeros((2, 1, 8, 8), dtype=np.uint8)).pairs.shape
    (0, 2)
    """

    pairs: Int64[ndarray, "pairs 2"]
    likeness: Float32[ndarray, " pairs"]


def near_copies(*stacks: UInt8[ndarray, "_ _ _ _"]) -> NearCopies:
    """Find images that are copies of others, changed in size, light, encoding or slightly in what they take in.

    Small grey versions are compared all with all, in products of matrices. Pairs that correlate
    are laid over each other, moved and stretched until they fit best, and must then correlate
    nearly wholly: so that images that are merely alike are not taken for copies. Where very
    many images are alike or they are very small, only hardly changed copies count. Images of
    one colour have none.

    Parameters
    ----------
    *stacks : ndarray of uint8, shape (n, c, h, w)
        Images; stacks may differ in size and channels.

    Returns
    -------
    NearCopies
        Each pair once, exact copies included.

    References
    ----------
    Baker and Matthews, "Lucas-Kanade 20 years on", IJCV 56 (2004), section 3.2: laying one image over the other.

    Examples
    --------
    >>> from imprint.data.load import load
    >>> digits = load("digits").pixels
    >>> darker = (digits[:1] * 0.9).astype(np.uint8)
    >>> near_copies(digits[:100], darker).pairs
    array([[  0, 100]])
    """
    count = sum(len(stack) for stack in stacks)
    coarse = [
        _standardise(_shrink(stacks, block, COARSE).mean(dim=1, keepdim=True)).flatten(1)
        for block in np.split(np.arange(count), range(ROWS, count, ROWS))
    ]
    pairs, crowded = _candidates(torch.cat(coarse))
    crowded |= min(side for stack in stacks for side in stack.shape[2:]) < SMALL
    likeness = np.empty(0, dtype=np.float32)
    for side, alike in FINER:
        likeness = _likeness(stacks, pairs, side)
        kept = likeness >= np.where(crowded, ALIKE_IN_CROWD if side == FINER[-1][0] else alike, alike)
        pairs, crowded, likeness = pairs[kept], crowded[kept], likeness[kept]
    return NearCopies(pairs, likeness)


def _shrink(
    stacks: Sequence[UInt8[ndarray, "_ _ _ _"]], positions: Int64[ndarray, " some"], side: int
) -> Float32[Tensor, "some c side side"]:
    """Bring some images to one small size; grey ones become colour where other stacks have colour."""
    channels = max(stack.shape[1] for stack in stacks)
    shrunk = torch.empty(len(positions), channels, side, side)
    start = 0
    for stack in stacks:
        here = np.flatnonzero((positions >= start) & (positions < start + len(stack)))
        parts = (torch.from_numpy(part).float() for part in in_chunks(stack, READ_TOGETHER, positions[here] - start))
        small = [F.interpolate(part, size=(side, side), mode="bilinear", antialias=True) for part in parts]
        if small:
            shrunk[here] = torch.cat(small)
        start += len(stack)
    return shrunk


def _standardise(images: Float32[Tensor, "n c s s"]) -> Float32[Tensor, "n c s s"]:
    """Take brightness and contrast away, so that the product of two images is their correlation."""
    centred = images - images.mean(dim=(1, 2, 3), keepdim=True)
    norm = centred.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()
    return torch.where(norm > 1, centred / norm.clamp(min=1), torch.zeros(()))


def _candidates(coarse: Float32[Tensor, "n d"]) -> tuple[Int64[ndarray, "pairs 2"], Bool[ndarray, " pairs"]]:
    """Find pairs worth laying over each other, and whether one of the two stands in a crowd."""
    count = len(coarse)
    partners = np.zeros(count, dtype=np.int64)
    found = [np.empty((0, 2), dtype=np.int64)]
    hardly_changed = [np.empty(0, dtype=bool)]
    for start in range(0, count, ROWS):
        alike = (coarse[start : start + ROWS] @ coarse[start:].T).numpy()
        first, second = np.divmod(np.flatnonzero(alike >= ALIKE_COARSE), alike.shape[1])
        first, second = first[second > first], second[second > first]
        close = alike[first, second] >= ALIKE_IN_CROWD
        pairs = np.stack([first, second], axis=1) + start
        partners += np.bincount(pairs.ravel(), minlength=count)
        kept = np.where(close, _rank(first, close) < TIES, np.bincount(first)[first] <= CROWD) if len(first) else close
        found.append(pairs[kept])
        hardly_changed.append(close[kept])
    pairs, close = np.concatenate(found), np.concatenate(hardly_changed)
    crowded = (partners[pairs] > CROWD).any(axis=1)
    kept = close | ~crowded
    return pairs[kept], crowded[kept]


def _rank(rows: Int64[ndarray, " pairs"], close: Bool[ndarray, " pairs"]) -> Int64[ndarray, " pairs"]:
    """Count for each pair how many close ones stand before it in its row; rows are sorted."""
    before = np.cumsum(close) - close
    return np.asarray(before - before[np.searchsorted(rows, rows)])


def _likeness(
    stacks: Sequence[UInt8[ndarray, "_ _ _ _"]], pairs: Int64[ndarray, "pairs 2"], side: int
) -> Float32[ndarray, " pairs"]:
    """Tell how pairs correlate once they are laid over each other."""
    parts = [pairs[start : start + PAIRS].T for start in range(0, len(pairs), PAIRS)]
    found = [_lay_over(_shrink(stacks, first, side), _shrink(stacks, second, side)) for first, second in parts]
    return torch.cat([torch.empty(0), *found]).numpy()


def _lay_over(still: Float32[Tensor, "n c s s"], moving: Float32[Tensor, "n c s s"]) -> Float32[Tensor, " n"]:
    """Move and stretch each second image until it fits the first best, and give their correlation then."""
    count, _, side, _ = still.shape
    frame = round(FRAME * side)
    inner = slice(frame, side - frame)
    middles = torch.linspace(1 / side - 1, 1 - 1 / side, side)[inner]
    still = _standardise(still[..., inner, inner])
    down, right = torch.gradient(still, spacing=2 / side, dim=(2, 3))
    # How the still image changes as it is stretched and moved along the width, then along the height.
    slopes = torch.stack([right * middles, right, down * middles[:, None], down], dim=1).flatten(2)
    curvature = slopes @ slopes.transpose(1, 2) + 1e-4 * torch.eye(4)
    stretch, shift = torch.ones(count, 2), torch.zeros(count, 2)
    best = torch.full((count,), -1.0)
    for _ in range(STEPS):
        placed = torch.cat([torch.diag_embed(stretch), shift[:, :, None]], dim=2)
        grid = F.affine_grid(placed, list(moving.shape), align_corners=False)[:, inner, inner]
        moved = _standardise(F.grid_sample(moving, grid, padding_mode="border", align_corners=False))
        small = ((stretch - 1).abs() < MOST_STRETCH).all(dim=1) & (shift.abs() < MOST_SHIFT).all(dim=1)
        likeness = (moved * still).sum(dim=(1, 2, 3))
        best = torch.where(small, torch.maximum(best, likeness), best)
        step = torch.linalg.solve(curvature, slopes @ (moved - still).flatten(1)[:, :, None]).view(count, 2, 2)
        stretch = stretch / (1 + step[:, :, 0])
        shift = shift - stretch * step[:, :, 1]
    return best
