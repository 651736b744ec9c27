"""The data doctor: what is wrong with labelled images, found before a network is trained on them."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Shaped
from numpy import ndarray

from imprint.analysis.label_errors import find_label_errors
from imprint.analysis.label_noise import MIN_WRONG
from imprint.core.errors import UsageError
from imprint.core.files import written_whole
from imprint.core.progress import say, shown
from imprint.data.duplicates import NearCopies, connect, near_copies
from imprint.data.images import LabelledImages, expect_images
from imprint.data.quality import KINDS, Finding, Findings, find_faults
from imprint.recipes import Recipe

REMOVED = ("leak", "constant")  # kinds of finding whose images are all left out of a cleaned list


def check(
    images: LabelledImages,
    *,
    against: LabelledImages | Sequence[LabelledImages] = (),
    labels: bool = True,
    recipe: str | Recipe | None = None,
    seed: int = 7,
    device: str = "auto",
    verbose: bool = True,
) -> Findings:
    """Find what is wrong with labelled images before training on them.

    Looks for unreadable, duplicate, mislabelled, one-coloured, inverted and unusually large or small images, for images
    that `against` holds too, and for classes that are misspelt, too small or missing.

    Parameters
    ----------
    images : LabelledImages
        The data.
    against : LabelledImages or sequence of LabelledImages, default=()
        Other data, such as validation and test images, that must share no image with `images`.
    labels : bool, default=True
        Whether to look for wrong labels too. They are judged by linear heads on the features of the pretrained
        network, small grey images by three networks trained for it.
    recipe : str, Recipe or None, default=None
        How to train three networks that judge. None takes the heads or, for small grey images and where the pretrained
        weights are missing, the default recipe for such images, on larger ones with at most 8 epochs and 48 pixels,
        and in it no image more often than others.
    seed : int, default=7
        Of those heads or networks, from 0 to 4294967295.
    device : {"auto", "cpu", "cuda", "mps"}, default="auto"
        Where to compute.
    verbose : bool, default=True
        Whether to report progress on stderr.

    Returns
    -------
    Findings
        Most serious kinds first, and within a kind the worst. Its `notes` say how far the list of wrong labels can be
        trusted, and what could not be looked for, and why.

    Raises
    ------
    UsageError
        When the data are no LabelledImages, or the recipe, the seed or the device makes no sense.

    Examples
    --------
    >>> from imprint import load
    >>> digits = load("digits")
    >>> findings = check(digits[:400], against=digits[399:], labels=False, verbose=False)
    >>> [finding.to_dict() for finding in findings.findings]
    [{'kind': 'leak', 'where': ['digits#400', 'digits#400'],
      'message': 'the same image in digits', 'score': 1.0}]
    """
    collections = [images, *([against] if isinstance(against, LabelledImages) else against)]
    for collection in collections:
        expect_images(collection, "check")
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed {seed}", "check", "it lies from 0 to 4294967295", "Choose another.")
    with shown(verbose):
        found = [*find_faults(images), *(each for other in collections[1:] for each in _missing_classes(images, other))]
        say(f"looking for copies among {sum(map(len, collections)):,} images")
        prints = np.concatenate([each.pixel_hashes for each in collections])
        near = near_copies(*(each.pixels for each in collections))
        found += _copy_findings(collections, prints, near)
        notes: list[str] = []
        if labels:
            groupings = [prints[: len(images)], *([] if images.groups is None else [images.groups])]
            groups = connect(groupings, near.pairs[(near.pairs < len(images)).all(axis=1)])
            wrong, notes = find_label_errors(images, groups, recipe=recipe, seed=seed, device=device)
            found += wrong
    order = list(KINDS)
    found.sort(key=lambda finding: order.index(finding.kind))
    return Findings(images.name, len(images), images.class_counts(), tuple(found), tuple(notes))


def _missing_classes(images: LabelledImages, other: LabelledImages) -> list[Finding]:
    """Report classes that only the other data have."""
    if images.labels is None:
        return []
    message = "no image to learn from, where the other data have"
    return [
        Finding("imbalance", (name,), f"{message} {count:,}", 1.0)
        for name, count in other.class_counts().items()
        if count and name not in images.class_names
    ]


def _copy_findings(collections: Sequence[LabelledImages], prints: ndarray, near: NearCopies) -> list[Finding]:
    """Report each image that occurs more than once, within the data or in the other data too."""
    images = collections[0]
    groups = connect([prints], near.pairs)
    likeness = np.ones(len(groups))
    np.minimum.at(likeness, groups[near.pairs[:, 0]], near.likeness)
    by_group = np.argsort(groups, kind="stable")
    members = np.split(by_group, np.flatnonzero(np.diff(groups[by_group])) + 1)
    found = []
    for copies in (group for group in members if len(group) > 1):
        exact = len(np.unique(prints[copies])) == 1
        score = 1.0 if exact else float(likeness[copies[0]])
        own = copies[copies < len(images)]
        if len(own) > 1:
            found.append(_duplicate(images, own, exact, score))
        if 0 < len(own) < len(copies):
            found.append(_leak(collections, copies, exact, score))
    # Copies with different labels come first: one of the labels is wrong.
    return sorted(found, key=lambda finding: (not _is_contradiction(images, finding), -finding.score))


def _is_contradiction(images: LabelledImages, finding: Finding) -> bool:
    """Whether a finding is of copies with different labels."""
    if finding.kind != "duplicate" or images.labels is None:
        return False
    return len(np.unique(images.labels[list(finding.images)])) > 1


def _duplicate(images: LabelledImages, own: Int64[ndarray, " copies"], exact: bool, score: float) -> Finding:
    names = {} if images.labels is None else {images.class_names[label]: None for label in images.labels[own]}
    message = f"{'the same' if exact else 'nearly the same'} image {len(own)} times"
    message += f", with different labels: {', '.join(names)}" if len(names) > 1 else ""
    return Finding("duplicate", tuple(images.sources[own].tolist()), message, score, tuple(own.tolist()))


def _leak(
    collections: Sequence[LabelledImages], copies: Int64[ndarray, " copies"], exact: bool, score: float
) -> Finding:
    ends = np.cumsum([len(each) for each in collections])
    where: list[str | int] = []
    others: dict[str, None] = {}
    for position in copies.tolist():
        which = int(np.searchsorted(ends, position, side="right"))
        images = collections[which]
        source = images.sources.item(position - (ends[which] - len(images)))
        where.append(f"{images.name} row {source}" if which and images.from_pixel_table else source)
        if which:
            others[images.name] = None
    message = f"{'the same' if exact else 'nearly the same'} image in {' and '.join(others)}"
    return Finding("leak", tuple(where), message, score, tuple(copies.tolist()))


def reasons_to_drop(images: LabelledImages, findings: Findings, labels: bool = False) -> Shaped[ndarray, " n"]:
    """Name for each image the kind of finding for which a cleaned list leaves it out; "" where it is kept.

    Left out are images that leak or have one colour; all but the first of copies, all of copies with different labels;
    classes that a program made; and, with `labels`, those whose own label is more probably wrong than right.
    """
    reasons = np.full(len(images), "", dtype=f"<U{max(map(len, KINDS))}")
    for finding in findings.findings:
        own = np.array([position for position in finding.images if position < len(images)], dtype=np.int64)
        if finding.kind == "duplicate":
            own = own if _is_contradiction(images, finding) else own[1:]
        elif finding.kind == "name" and not finding.suggested:
            own = np.flatnonzero(np.isin(np.array(images.class_names)[images.labels], finding.where))
        elif finding.kind == "label":
            own = own if labels and finding.score > MIN_WRONG else own[:0]
        elif finding.kind not in REMOVED:
            continue
        reasons[own[reasons[own] == ""]] = finding.kind
    return reasons


def write_cleaned(images: LabelledImages, findings: Findings, path: Path, labels: bool = False) -> dict[str, int]:
    """Write the images to keep as a CSV that `load` reads; gives how many are kept ("") and left out, by kind.

    Of path and label where every image is a file, with paths relative to the CSV's folder, else of pixels. Several
    spellings of one class become the commonest one. With `labels`, those probably mislabelled are left out too.
    """
    # Raises `UsageError` where nothing would be left, the images fit into neither form, or the file cannot be written.
    reasons = reasons_to_drop(images, findings, labels)
    kept = np.flatnonzero(reasons == "")
    if not len(kept):
        raise UsageError("cleaned list", str(path), "no image would be left", "Look at the findings first.")
    chosen = images[kept]
    renamed = {name: finding.suggested for finding in findings.of("name") for name in finding.where}
    names = [renamed.get(name) or name for name in images.class_names]
    class_names = None if chosen.labels is None else [names[label] for label in chosen.labels]
    if images.sources.dtype.kind != "i" and (files := _files(chosen)):
        _write_paths(files, class_names, path)
    else:
        _write_pixels(chosen, class_names, path)
    return {kind: int((reasons == kind).sum()) for kind in ("", *KINDS) if kind in reasons}


def _files(images: LabelledImages) -> list[Path]:
    """Give the file of every image; no files where one image has none of its own."""
    for folder in (Path(), Path(images.name)):
        files = [folder / str(source) for source in images.sources]
        if all(file.is_file() for file in files):
            return files
    return []


def _write_paths(files: list[Path], labels: list[str] | None, path: Path) -> None:
    home = path.absolute().parent
    with written_whole(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "label"][: 1 if labels is None else 2])
        for number, image in enumerate(files):
            relative = Path(os.path.relpath(image.absolute(), home)).as_posix()
            writer.writerow([relative] if labels is None else [relative, labels[number]])


def _write_pixels(images: LabelledImages, labels: list[str] | None, path: Path) -> None:
    import polars

    channels, height, width = images.shape
    if height != width or channels not in (1, 3):
        raise UsageError(
            "cleaned list",
            str(path),
            f"images of {width}×{height} that are not files of their own do not fit into a CSV",
            "Save them as files in class folders first.",
        )
    flat = images.pixels.transpose(0, 2, 3, 1).reshape(len(images), -1)
    table = polars.DataFrame(flat, schema=[f"pixel{i}" for i in range(flat.shape[1])])
    if labels is not None:
        table.insert_column(0, polars.Series("label", labels))
    with written_whole(path) as temporary:
        table.write_csv(temporary)
