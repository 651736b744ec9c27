"""Training, validation and test parts: the names that divided data give them, and holding out images by chance."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Int64, Shaped
from numpy import ndarray

from imprint.core.errors import UsageError
from imprint.data.images import LabelledImages

# What people call the parts of data that come divided.
PARTS = {
    "train": "train",
    "training": "train",
    "trainval": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "tests": "test",
}


TO_PREDICT = ("prediction", "test")  # the part that there is to be predicted, the first that divided data have


def in_part_order(parts: Iterable[str]) -> tuple[str, ...]:
    """Sort names of parts: train, validation, test, prediction."""
    found = set(parts)
    return tuple(part for part in (*dict.fromkeys(PARTS.values()), "prediction") if part in found)


def split(
    images: LabelledImages,
    share: float,
    seed: int,
    groups: Shaped[ndarray, " n"] | None = None,
    copies: Int64[ndarray, " n"] | None = None,
) -> tuple[Int64[ndarray, " training"], Int64[ndarray, " held_out"]]:
    """Hold out a random share of the images, rounded up; gives positions for training and for validation.

    Without groups as scikit-learn's ``train_test_split``, whose import takes longer than reading 42,000 digits. Groups
    stay on one side; of `copies` (`duplicates.first_copies`) that would be on both sides, none is held out.
    """
    if not share:
        return np.arange(len(images)), np.arange(0)
    held_out = math.ceil(share * len(images))
    if held_out >= len(images):
        raise UsageError(
            f"validation share {share}",
            images.name,
            f"of {len(images)} images none would be left to train on",
            "Use --validation 0, a smaller share, or more images.",
        )
    order = np.random.RandomState(seed).permutation(len(images)).astype(np.int64)
    if groups is None:
        out = np.arange(len(images)) < held_out
    else:
        labels = np.zeros(len(images), dtype=np.int64) if images.labels is None else images.labels
        out = held_out_groups(labels, groups, share, seed)[order]
    if copies is not None:
        out &= ~np.isin(copies[order], copies[order][~out])
    if not out.any() or out.all():
        raise UsageError(
            f"validation share {share}",
            images.name,
            "the groups of images that must stay together cannot be divided so",
            "Use another share, or more groups.",
        )
    return order[~out], order[out]


def split_further(
    share: float,
    seed: int,
    groups: Int64[ndarray, " n"],
    trained_on: Bool[ndarray, " n"],
    held_out: Bool[ndarray, " n"],
) -> tuple[Int64[ndarray, " training"], Int64[ndarray, " held_out"]]:
    """Hold out what an earlier run held out, and a share of the images new since then; never what it was trained on.

    Groups stay together: one with an image that was trained on is trained on again. Gives positions as `split` does.
    """
    order = np.random.RandomState(seed).permutation(len(groups)).astype(np.int64)
    learnt = np.isin(groups, groups[trained_on])
    out = np.isin(groups, groups[held_out]) & ~learnt
    new = order[~(learnt | out)[order]]
    names, first, sizes = np.unique(groups[new], return_index=True, return_counts=True)
    wanted, chosen = min(math.ceil(share * len(new)), len(new) - 1), []
    for number in np.argsort(first):
        if sizes[number] <= wanted:
            chosen.append(names[number])
            wanted -= int(sizes[number])
    if not chosen and not out.any() and len(names) > 1:  # larger groups than the share, of which one is held out
        chosen.append(names[sizes.argmin()])
    out = (out | np.isin(groups, chosen)) & (share > 0)
    return order[~out[order]], order[out[order]]


def held_out_groups(
    labels: Int64[ndarray, " n"], groups: Shaped[ndarray, " n"], share: float, seed: int
) -> Bool[ndarray, " n"]:
    """Choose whole groups at random so that their images make up a share of every class, as nearly as they can.

    The largest groups come first: one is held out where that brings the counts of the classes nearer to the wanted
    ones, by the sum of squares. Single images then fill up.
    """
    _, number, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.RandomState(seed).permutation(len(labels))
    by_group = order[np.argsort(number[order], kind="stable")]
    members = np.split(by_group, np.cumsum(sizes)[:-1])
    classes = int(labels.max()) + 1
    out = np.zeros(len(labels), dtype=bool)
    alone = sizes[number] == 1
    wanted = share * np.bincount(labels[~alone], minlength=classes)
    larger = [group for group in np.random.RandomState(seed).permutation(len(sizes)) if sizes[group] > 1]
    for group in sorted(larger, key=lambda group: -int(sizes[group])):
        counts = np.bincount(labels[members[group]], minlength=classes)
        if counts @ counts < 2 * wanted @ counts:
            out[members[group]] = True
            wanted = wanted - counts
    missing = share * np.bincount(labels, minlength=classes) - np.bincount(labels[out], minlength=classes)
    single = order[alone[order]]
    for label, count in enumerate(np.round(missing).astype(int)):
        out[single[labels[single] == label][: max(count, 0)]] = True
    return out


def deal_folds(
    labels: Int64[ndarray, " n"], groups: Shaped[ndarray, " n"], folds: int, seed: int
) -> Int64[ndarray, " n"]:
    """Divide images into folds, from 0 to ``folds - 1``, with groups whole and classes even."""
    fold = np.zeros(len(labels), dtype=np.int64)
    for number in range(folds - 1, 0, -1):
        rest = np.flatnonzero(fold == 0)
        out = held_out_groups(labels[rest], groups[rest], 1 / (number + 1), seed)
        fold[rest[out]] = number
    return fold
