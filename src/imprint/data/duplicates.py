"""Images that the data holds more than once: as exact copies, or as near copies that were edited a little.

Near copies are found by registration: Baker and Matthews, "Lucas-Kanade 20 years on", IJCV 56 (2004), section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float32, Int64, Shaped, UInt8, UInt64
from numpy import ndarray
from torch import Tensor

from imprint.core.memmap import in_chunks

COARSE_SIDE = 8  # pixels of the versions that are all compared with all
COARSE_CORRELATION = 0.94
# Pixels a side of the versions that are registered, and the correlation that keeps a pair. Measured on 2,062 photos of
# hands (benchmarks/doctor.py): 99 of 100 copies, cropped by up to 4 % a side, re-encoded, resized and brightened, reach
# 0.942, 0.97 and 0.984 in the end; the most similar photos that are no copies reach 0.977.
FINER = ((16, 0.965), (32, 0.983))
# Where hundreds resemble each other, as upright ones do among digits, registered images that are no copies reach 0.997.
CROWD = 32  # an image that resembles more others than this is crowded
CROWDED_CORRELATION = 0.9975
MAX_PARTNERS = 8  # of hundreds of hardly changed copies each is registered with only so many
SMALL = 16  # pixels a side; smaller images hold too little to tell a cropped copy from another image
# Frames of one burst: crops of one photo reach it in chains, of 57 to 94 % of 15; photos of flowers, rubbish, eggs and
# hands in chains of at most 11 % of a class.
BURST_CORRELATION = 0.95
BURST_SAMPLES = 16  # pixels along each side of a coarse one that are looked at; of 8, correlations are off by 0.008
ROWS_AT_ONCE = 2048  # images compared with all others
IMAGES_AT_ONCE = 256  # read together
PAIRS_AT_ONCE = 1024  # registered together
STEPS = 4  # of Gauss and Newton; more change nothing
MARGIN = 1 / 16  # of the side: what a crop has cut off at an edge is not compared
MAX_STRETCH, MAX_SHIFT = 0.15, 0.12  # of the side; a crop by 4 % at each edge stretches by 0.087


def first_copies(pixel_hashes: UInt64[ndarray, " n"]) -> Int64[ndarray, " n"]:
    """Give for each image the position of the first with its hash; with hashing 0.2 s for 70,000 digits."""
    _, first, number = np.unique(pixel_hashes, return_index=True, return_inverse=True)
    return np.asarray(first[number], dtype=np.int64)


def connect(
    groupings: Sequence[Shaped[ndarray, " n"]], pairs: Int64[ndarray, "pairs 2"] | None = None
) -> Int64[ndarray, " n"]:
    """Join images that share a value in any grouping, or are a pair, and all that are joined to those.

    Gives for each image the position of the first of its group.
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
    """Pairs of near copies, and the correlation of each once registered; positions run on from stack to stack."""

    pairs: Int64[ndarray, "pairs 2"]
    likeness: Float32[ndarray, " pairs"]


def near_copies(*stacks: UInt8[ndarray, "_ _ _ _"]) -> NearCopies:
    """Find images that are re-encoded, resized, slightly cropped or brightened copies of others; exact copies included.

    Small grey versions are compared all with all; pairs that correlate are registered and must then correlate nearly
    fully. Where very many images are similar, or they are very small, only hardly changed copies count.
    """
    count = sum(len(stack) for stack in stacks)
    coarse = [
        _standardised(_downscaled(stacks, block, COARSE_SIDE).mean(dim=1, keepdim=True)).flatten(1)
        for block in np.split(np.arange(count), range(ROWS_AT_ONCE, count, ROWS_AT_ONCE))
    ]
    pairs, crowded = _candidates(torch.cat(coarse))
    crowded |= min(side for stack in stacks for side in stack.shape[2:]) < SMALL
    likeness = np.empty(0, dtype=np.float32)
    for side, least in FINER:
        likeness = _correlations(stacks, pairs, side)
        kept = likeness >= np.where(crowded, CROWDED_CORRELATION if side == FINER[-1][0] else least, least)
        pairs, crowded, likeness = pairs[kept], crowded[kept], likeness[kept]
    return NearCopies(pairs, likeness)


def burst_share(pixels: UInt8[ndarray, "n c h w"], chosen: Int64[ndarray, " some"]) -> float:
    """Tell which share of the chosen images is one chain, each of which shows nearly the same view as the next."""
    from scipy.sparse.csgraph import connected_components

    step = max(1, min(pixels.shape[2:]) // (BURST_SAMPLES * COARSE_SIDE))
    thinned = pixels[..., ::step, ::step]
    coarse = _standardised(_downscaled([thinned], chosen, COARSE_SIDE).mean(dim=1, keepdim=True)).flatten(1)
    _, chain = connected_components((coarse @ coarse.T >= BURST_CORRELATION).numpy(), directed=False)
    return float(np.bincount(chain).max() / len(chosen))


def _downscaled(
    stacks: Sequence[UInt8[ndarray, "_ _ _ _"]], positions: Int64[ndarray, " some"], side: int
) -> Float32[Tensor, "some c side side"]:
    """Bring some images to one small size; grey ones become colour where other stacks have colour."""
    channels = max(stack.shape[1] for stack in stacks)
    shrunk = torch.empty(len(positions), channels, side, side)
    start = 0
    for stack in stacks:
        here = np.flatnonzero((positions >= start) & (positions < start + len(stack)))
        parts = (torch.from_numpy(part).float() for part in in_chunks(stack, IMAGES_AT_ONCE, positions[here] - start))
        small = [F.interpolate(part, size=(side, side), mode="bilinear", antialias=True) for part in parts]
        if small:
            shrunk[here] = torch.cat(small)
        start += len(stack)
    return shrunk


def _standardised(images: Float32[Tensor, "n c s s"]) -> Float32[Tensor, "n c s s"]:
    """Remove brightness and contrast, so that the product of two images is their correlation."""
    centred = images - images.mean(dim=(1, 2, 3), keepdim=True)
    norm = centred.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()
    return torch.where(norm > 1, centred / norm.clamp(min=1), torch.zeros(()))


def _candidates(coarse: Float32[Tensor, "n d"]) -> tuple[Int64[ndarray, "pairs 2"], Bool[ndarray, " pairs"]]:
    """Find pairs worth registering, and whether one of the two is crowded."""
    count = len(coarse)
    partners = np.zeros(count, dtype=np.int64)
    found = [np.empty((0, 2), dtype=np.int64)]
    hardly_changed = [np.empty(0, dtype=bool)]
    for start in range(0, count, ROWS_AT_ONCE):
        correlation = (coarse[start : start + ROWS_AT_ONCE] @ coarse[start:].T).numpy()
        first, second = np.divmod(np.flatnonzero(correlation >= COARSE_CORRELATION), correlation.shape[1])
        first, second = first[second > first], second[second > first]
        close = correlation[first, second] >= CROWDED_CORRELATION
        pairs = np.stack([first, second], axis=1) + start
        partners += np.bincount(pairs.ravel(), minlength=count)
        kept = (
            np.where(close, _rank(first, close) < MAX_PARTNERS, np.bincount(first)[first] <= CROWD)
            if len(first)
            else close
        )
        found.append(pairs[kept])
        hardly_changed.append(close[kept])
    pairs, close = np.concatenate(found), np.concatenate(hardly_changed)
    crowded = (partners[pairs] > CROWD).any(axis=1)
    kept = close | ~crowded
    return pairs[kept], crowded[kept]


def _rank(rows: Int64[ndarray, " pairs"], close: Bool[ndarray, " pairs"]) -> Int64[ndarray, " pairs"]:
    """Count for each pair how many close ones come before it in its row; rows are sorted."""
    before = np.cumsum(close) - close
    return np.asarray(before - before[np.searchsorted(rows, rows)])


def _correlations(
    stacks: Sequence[UInt8[ndarray, "_ _ _ _"]], pairs: Int64[ndarray, "pairs 2"], side: int
) -> Float32[ndarray, " pairs"]:
    """Correlate pairs once they are registered."""
    parts = [pairs[start : start + PAIRS_AT_ONCE].T for start in range(0, len(pairs), PAIRS_AT_ONCE)]
    found = [_register(_downscaled(stacks, first, side), _downscaled(stacks, second, side)) for first, second in parts]
    return torch.cat([torch.empty(0), *found]).numpy()


def _register(still: Float32[Tensor, "n c s s"], moving: Float32[Tensor, "n c s s"]) -> Float32[Tensor, " n"]:
    """Shift and stretch each second image until it fits the first best, and give their correlation then."""
    count, _, side, _ = still.shape
    frame = round(MARGIN * side)
    inner = slice(frame, side - frame)
    middles = torch.linspace(1 / side - 1, 1 - 1 / side, side)[inner]
    still = _standardised(still[..., inner, inner])
    down, right = torch.gradient(still, spacing=2 / side, dim=(2, 3))
    # How the still image changes as it is stretched and moved along the width, then along the height.
    slopes = torch.stack([right * middles, right, down * middles[:, None], down], dim=1).flatten(2)
    curvature = slopes @ slopes.transpose(1, 2) + 1e-4 * torch.eye(4)
    stretch, shift = torch.ones(count, 2), torch.zeros(count, 2)
    best = torch.full((count,), -1.0)
    for _ in range(STEPS):
        placed = torch.cat([torch.diag_embed(stretch), shift[:, :, None]], dim=2)
        grid = F.affine_grid(placed, list(moving.shape), align_corners=False)[:, inner, inner]
        moved = _standardised(F.grid_sample(moving, grid, padding_mode="border", align_corners=False))
        small = ((stretch - 1).abs() < MAX_STRETCH).all(dim=1) & (shift.abs() < MAX_SHIFT).all(dim=1)
        likeness = (moved * still).sum(dim=(1, 2, 3))
        best = torch.where(small, torch.maximum(best, likeness), best)
        step = torch.linalg.solve(curvature, slopes @ (moved - still).flatten(1)[:, :, None]).view(count, 2, 2)
        stretch = stretch / (1 + step[:, :, 0])
        shift = shift - stretch * step[:, :, 1]
    return best
