"""Holding out images for validation."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Int64, Shaped
from numpy import ndarray

from imprint.core.errors import UsageError
from imprint.data.images import LabelledImages


def split(
    images: LabelledImages,
    share: float,
    seed: int,
    groups: Shaped[ndarray, " n"] | None = None,
    copies: Int64[ndarray, " n"] | None = None,
) -> tuple[Int64[ndarray, " learn"], Int64[ndarray, " held_out"]]:
    """Hold out a random share of the images.

    Without groups, the same images in the same order as scikit-learn's ``train_test_split(
    test_size=share, random_state=seed)``, without its import, which takes longer than reading
    42,000 digits. With groups, see `held_out_groups`.

    Parameters
    ----------
    images : LabelledImages
        What to divide.
    share : float
        Share to hold out, from 0 to below 1, rounded up to whole images.
    seed : int
        Which images.
    groups : ndarray, shape (n,), or None, default=None
        Images with the same value, such as photos of one person, stay on one side.
    copies : ndarray of int64, shape (n,), or None, default=None
        From `duplicates.first_copies`: of copies that would stand on both sides, none is held out.

    Returns
    -------
    training : ndarray of int64, shape (learn,)
        Positions of those to learn from, in random order; in their own order when the share is 0.
    validation : ndarray of int64, shape (held_out,)
        Positions of those held out.

    Raises
    ------
    UsageError
        When nothing would be left to train on.

    Examples
    --------
    >>> from imprint.data.load import load
    >>> training, validation = split(load("digits"), share=0.08, seed=7)
    >>> len(training), len(validation)
    (1653, 144)
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


def held_out_groups(
    labels: Int64[ndarray, " n"], groups: Shaped[ndarray, " n"], share: float, seed: int
) -> Bool[ndarray, " n"]:
    """Choose groups at random so that their images make up a share of every class, as nearly as they can.

    The largest groups are dealt first: one is held out where that brings the counts of the
    classes held out nearer to the wanted ones, by the sum of squares. Single images then fill up.

    Parameters
    ----------
    labels : ndarray of int64, shape (n,)
        Class of each image.
    groups : ndarray, shape (n,)
        Images with the same value stay together.
    share : float
        Of each class to hold out, between 0 and 1.
    seed : int
        Which groups.

    Returns
    -------
    ndarray of bool, shape (n,)
        Whether each image is held out.

    Examples
    --------
    >>> labels, persons = np.array([0, 0, 1, 1, 0, 1]), np.array(["ann", "bob", "ann", "bob", "cid", "cid"])
    >>> persons[held_out_groups(labels, persons, share=1 / 3, seed=7)].tolist()
    ['cid', 'cid']
    """
    _, number, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.RandomState(seed).permutation(len(labels))
    by_group = order[np.argsort(number[order], kind="stable")]
    members = np.split(by_group, np.cumsum(sizes)[:-1])
    classes = int(labels.max()) + 1
    out = np.zeros(len(labels), dtype=bool)
    alone = sizes[number] == 1
    wanted = share * np.bincount(labels[~alone], minlength=classes)
    together = [group for group in np.random.RandomState(seed).permutation(len(sizes)) if sizes[group] > 1]
    for group in sorted(together, key=lambda group: -int(sizes[group])):
        counts = np.bincount(labels[members[group]], minlength=classes)
        if counts @ counts < 2 * wanted @ counts:
            out[members[group]] = True
            wanted = wanted - counts
    missing = share * np.bincount(labels, minlength=classes) - np.bincount(labels[out], minlength=classes)
    single = order[alone[order]]
    for label, count in enumerate(np.round(missing).astype(int)):
        out[single[labels[single] == label][: max(count, 0)]] = True
    return out
