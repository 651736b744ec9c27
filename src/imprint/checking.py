"""The data doctor: what is wrong with labelled pictures, told before they cost anything."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from imprint.data.duplicates import NearCopies, connect, fingerprints, near_copies
from imprint.data.faults import find_faults
from imprint.errors import UsageError
from imprint.findings import KINDS, Finding, Findings
from imprint.images import LabelledImages, expect_images
from imprint.mislabelled import find_mislabelled
from imprint.progress import Reporter
from imprint.recipe import Recipe

CONTRADICTION = "with different labels"


def check(
    images: LabelledImages,
    *,
    against: LabelledImages | Sequence[LabelledImages] = (),
    labels: bool = True,
    recipe: str | Recipe | None = None,
    seed: int = 7,
    device: str = "auto",
    silent: bool = False,
) -> Findings:
    """Examine labelled pictures before anything is learnt from them.

    Parameters
    ----------
    images : LabelledImages
        The data.
    against : LabelledImages or sequence of LabelledImages, default=()
        Other data, such as validation and test pictures, that must share no picture with `images`.
    labels : bool, default=True
        Look for wrong labels too, which trains three networks.
    recipe : str, Recipe or None, default=None
        How to teach those networks; None is `mislabelled.judging_recipe`.
    seed : int, default=7
        Of those networks.
    device : str, default="auto"
        Where to compute.
    silent : bool, default=False
        Say nothing on stderr.

    Returns
    -------
    Findings
        Most serious kinds first, and within a kind the worst.

    Raises
    ------
    UsageError
        When the data are no LabelledImages, or the recipe, the seed or the device makes no sense.

    Examples
    --------
    >>> from imprint.data import load
    >>> digits = load("digits")
    >>> findings = check(digits[:400], against=digits[399:], labels=False, silent=True)
    >>> [finding.to_dict() for finding in findings.findings]
    [{'kind': 'leak', 'where': ['digits#400', 'digits#400'],
      'message': 'the same picture in digits', 'score': 1.0}]
    """
    reporter = Reporter(silent)
    collections = [images, *([against] if isinstance(against, LabelledImages) else against)]
    for collection in collections:
        expect_images(collection, "check")
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed {seed}", "check", "it lies from 0 to 4294967295", "Choose another.")
    found = [*find_faults(images), *(finding for other in collections[1:] for finding in _unlearnt(images, other))]
    reporter.say(f"looking for copies among {sum(map(len, collections)):,} pictures")
    prints = np.concatenate([fingerprints(each.pixels) for each in collections])
    near = near_copies(*(each.pixels for each in collections))
    found += _copies(collections, prints, near)
    notes: list[str] = []
    if labels:
        persons = images.groups
        groupings = [prints[: len(images)], *([] if persons is None else [persons])]
        groups = connect(groupings, near.pairs[(near.pairs < len(images)).all(axis=1)])
        wrong, notes = find_mislabelled(images, groups, recipe=recipe, seed=seed, device=device, reporter=reporter)
        found += wrong
    order = list(KINDS)
    found.sort(key=lambda finding: order.index(finding.kind))
    return Findings(images.name, len(images), images.class_counts(), tuple(found), tuple(notes))


def _unlearnt(images: LabelledImages, other: LabelledImages) -> list[Finding]:
    """Tell of classes that only the other data have."""
    if images.labels is None:
        return []
    words = "no picture to learn from, where the other data have"
    return [
        Finding("imbalance", (name,), f"{words} {count:,}", 1.0)
        for name, count in other.class_counts().items()
        if count and name not in images.class_names
    ]


def _copies(collections: Sequence[LabelledImages], prints: ndarray, near: NearCopies) -> list[Finding]:
    """Tell of each picture that is there more than once, within the data or in the other data too."""
    groups = connect([prints], near.pairs)
    likeness = np.ones(len(groups))
    np.minimum.at(likeness, groups[near.pairs[:, 0]], near.likeness)
    by_group = np.argsort(groups, kind="stable")
    members = np.split(by_group, np.flatnonzero(np.diff(groups[by_group])) + 1)
    found = []
    for together in (group for group in members if len(group) > 1):
        exact = len(np.unique(prints[together])) == 1
        sure = 1.0 if exact else float(likeness[together[0]])
        own = together[together < len(collections[0])]
        if len(own) > 1:
            found.append(_duplicate(collections[0], own, exact, sure))
        if 0 < len(own) < len(together):
            found.append(_leak(collections, together, exact, sure))
    # Copies whose labels contradict each other stand first: one of them is wrong.
    return sorted(found, key=lambda finding: (CONTRADICTION not in finding.message, -finding.score))


def _duplicate(images: LabelledImages, own: Int64[ndarray, " copies"], exact: bool, sure: float) -> Finding:
    names = {} if images.labels is None else {images.class_names[label]: None for label in images.labels[own]}
    words = f"{'the same' if exact else 'nearly the same'} picture {len(own)} times"
    words += f", {CONTRADICTION}: {', '.join(names)}" if len(names) > 1 else ""
    return Finding("duplicate", tuple(images.sources[own].tolist()), words, sure, tuple(own.tolist()))


def _leak(
    collections: Sequence[LabelledImages], together: Int64[ndarray, " copies"], exact: bool, sure: float
) -> Finding:
    ends = np.cumsum([len(each) for each in collections])
    where: list[str | int] = []
    others: dict[str, None] = {}
    for position in together.tolist():
        which = int(np.searchsorted(ends, position, side="right"))
        images = collections[which]
        source = images.sources[position - (ends[which] - len(images))].item()
        where.append(f"{images.name} row {source}" if which and images.from_pixel_table else source)
        if which:
            others[images.name] = None
    words = f"{'the same' if exact else 'nearly the same'} picture in {' and '.join(others)}"
    return Finding("leak", tuple(where), words, sure, tuple(together.tolist()))
