"""Finding and Findings: what the data doctor has to say."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from imprint.core.memmap import in_chunks
from imprint.data.images import WHOLE_NUMBER, LabelledImages

KINDS = {
    "unreadable": "cannot be read",
    "leak": "also in the other data",
    "duplicate": "there more than once",
    "label": "probably mislabelled",
    "constant": "of one colour",
    "polarity": "inverted",
    "size": "of unusual size",
    "name": "oddly named",
    "imbalance": "short of images",
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or may be, with images or a class.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    where : tuple of str or int
        Sources of the images concerned, or names of the classes.
    message : str
        What is wrong with them, without a full stop.
    score : float
        From 0 to 1; the higher, the surer or the worse.
    images : tuple of int, default=()
        Positions of the images; those in the data compared with run on behind the data itself.
    suggested : str, default=""
        The label or class name that would be right, where there is one.

    Examples
    --------
    >>> Finding("constant", (17,), "every pixel is 0", 1.0).to_dict()
    {'kind': 'constant', 'where': [17], 'message': 'every pixel is 0', 'score': 1.0}
    """

    kind: str
    where: tuple[str | int, ...]
    message: str
    score: float
    images: tuple[int, ...] = ()
    suggested: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Give the finding as plain JSON values.

        Returns
        -------
        dict
            `kind`, `where`, `message` and `score`.

        Examples
        --------
        >>> Finding("name", (".cache",), "it begins with a dot", 1.0).to_dict()["where"]
        ['.cache']
        """
        return {"kind": self.kind, "where": list(self.where), "message": self.message, "score": round(self.score, 4)}


@dataclass(frozen=True)
class Findings:
    """All that the data doctor found.

    Parameters
    ----------
    name : str
        Of the data.
    images : int
        How many images could be read.
    classes : dict of str to int
        Images of each class.
    findings : tuple of Finding
        In the order of `KINDS`, the worst of each first.
    notes : tuple of str, default=()
        What could not be looked for, and why.

    Examples
    --------
    >>> findings = Findings("a.csv", 2, {"cat": 2}, (Finding("constant", (2,), "every pixel is 0", 1.0),))
    >>> len(findings.of("constant")), len(findings.of("label"))
    (1, 0)
    """

    name: str
    images: int
    classes: dict[str, int]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    def of(self, kind: str) -> list[Finding]:
        """Pick the findings of one kind.

        Parameters
        ----------
        kind : str
            One of `KINDS`.

        Returns
        -------
        list of Finding
            The worst first.

        Examples
        --------
        >>> Findings("a.csv", 2, {"cat": 2}, ()).of("leak")
        []
        """
        return [finding for finding in self.findings if finding.kind == kind]

    def to_dict(self) -> dict[str, Any]:
        """Give the findings as plain JSON values, as ``check --json`` prints them.

        Returns
        -------
        dict
            `images`, `classes`, `findings` and `notes`.

        Examples
        --------
        >>> Findings("a.csv", 2, {"cat": 2}, ()).to_dict()
        {'images': 2, 'classes': {'cat': 2}, 'findings': [], 'notes': []}
        """
        found = [finding.to_dict() for finding in self.findings]
        return {"images": self.images, "classes": self.classes, "findings": found, "notes": list(self.notes)}


FEW = 0.1  # of the largest class's images; with fewer a class is hard to learn
EVEN, NEAR_PAPER = 0.6, 32  # paper: so much of an image's rim lies within so many grey levels of the rim's median
MAJORITY = 0.9  # of the images on paper agree on ink and paper, or none of them is called inverted
FACTOR = 4.0  # a side so many times longer or shorter than usual is unusual
ROWS = 256  # images looked at together
HIDDEN = (".", "__MACOSX", "__pycache__")  # what file managers and notebooks leave behind begins so


def find_faults(images: LabelledImages) -> list[Finding]:
    """Look for what is wrong with single images or with classes.

    Parameters
    ----------
    images : LabelledImages
        The data.

    Returns
    -------
    list of Finding
        Of the kinds unreadable, constant, polarity, size, name and imbalance.

    Examples
    --------
    >>> from imprint.data.load import load
    >>> find_faults(load("digits"))
    []
    """
    return [
        *_unreadable(images),
        *_constant(images),
        *_inverted(images),
        *_sizes(images),
        *_names(images),
        *_few(images),
    ]


def spelt_alike(names: Iterable[str]) -> list[list[str]]:
    """Gather names that differ only by what people vary by mistake: case, blanks, dashes, kinds of letters.

    Parameters
    ----------
    names : iterable of str
        Names of classes.

    Returns
    -------
    list of list of str
        Every name once, beside those that are spelt like it.

    Examples
    --------
    >>> spelt_alike(["Cat", "cat ", "dog", "1", "-1"])
    [['Cat', 'cat '], ['dog'], ['1'], ['-1']]
    """
    spelt: dict[str, list[str]] = defaultdict(list)
    for name in names:
        # -1 and 1 differ by more than a dash.
        spelt[name if WHOLE_NUMBER.fullmatch(name) else _plain(name)].append(name)
    return list(spelt.values())


def _each(images: LabelledImages, kind: str, positions: Int64[ndarray, " found"], say: list[str]) -> list[Finding]:
    """Make a finding of each image."""
    sources = images.sources.tolist()
    return [Finding(kind, (sources[i],), words, 1.0, (i,)) for i, words in zip(positions.tolist(), say, strict=True)]


def _unreadable(images: LabelledImages) -> list[Finding]:
    left_out = images.unreadable
    return [Finding("unreadable", (source,), cause, 1.0) for source, cause in left_out]


def _constant(images: LabelledImages) -> list[Finding]:
    parts = in_chunks(images.pixels, ROWS)
    flat = [(part.min(axis=(2, 3)) == part.max(axis=(2, 3))).all(axis=1) for part in parts]
    one_colour = np.flatnonzero(np.concatenate(flat))
    colours = [" ".join(map(str, images.pixels[i, :, 0, 0])) for i in one_colour]
    return _each(images, "constant", one_colour, [f"every pixel is {colour}" for colour in colours])


def _inverted(images: LabelledImages) -> list[Finding]:
    """Find grey images of ink on even paper where ink and paper have changed places."""
    if images.shape[0] != 1 or min(images.shape[1:]) < 3:
        return []
    contrast = np.concatenate([_ink_above_paper(part[:, 0]) for part in in_chunks(images.pixels, ROWS)])
    bright, dark = contrast > 0, contrast < 0
    few, word = (dark, "dark on bright") if bright.sum() >= dark.sum() else (bright, "bright on dark")
    on_paper = bright.sum() + dark.sum()
    if on_paper < len(images) / 2 or few.sum() > (1 - MAJORITY) * on_paper:
        return []
    words = f"{word}, where {1 - few.sum() / on_paper:.1%} of the images are the other way about"
    return _each(images, "polarity", np.flatnonzero(few), [words] * int(few.sum()))


def _ink_above_paper(pixels: ndarray) -> Float64[ndarray, " n"]:
    """Tell how much brighter than its paper an image is on the whole; 0 where its rim is no even paper."""
    rim = np.concatenate([pixels[:, 0], pixels[:, -1], pixels[:, 1:-1, 0], pixels[:, 1:-1, -1]], axis=1).astype(int)
    paper = np.median(rim, axis=1)
    even = (np.abs(rim - paper[:, None]) <= NEAR_PAPER).mean(axis=1) >= EVEN
    return np.asarray(np.where(even, pixels.mean(axis=(1, 2)) - paper, 0.0))


def _sizes(images: LabelledImages) -> list[Finding]:
    sizes = images.sizes
    if sizes is None:
        return []
    sides = np.log(np.maximum(sizes, 1))
    off = np.abs(sides - np.median(sides, axis=0))
    # Where sizes vary anyway, unusual is what stands out from that.
    limit = np.maximum(np.log(FACTOR), 4 * 1.4826 * np.median(off, axis=0))
    unusual: Bool[ndarray, " n"] = (off > limit).any(axis=1)
    height, width = np.median(sizes, axis=0).astype(int)
    words = [f"{w}×{h} pixels, where {width}×{height} is usual" for h, w in sizes[unusual].tolist()]
    return _each(images, "size", np.flatnonzero(unusual), words)


def _names(images: LabelledImages) -> list[Finding]:
    """Find classes that are one class spelt in several ways, and names that no one gave on purpose."""
    counts = images.class_counts()
    found = []
    for names in spelt_alike(counts):
        usual, *others = sorted(names, key=lambda name: (-counts[name], name != name.strip(), name))
        if others:
            words = f"probably one class in {len(names)} spellings; {usual!r} has most images"
            found.append(Finding("name", (usual, *others), words, 1.0, suggested=usual.strip()))
        elif usual.startswith(HIDDEN):
            found.append(Finding("name", (usual,), "a folder that a program made, hardly a class", 1.0))
        elif not usual.strip():
            found.append(Finding("name", (usual,), "the name is empty", 1.0))
        elif usual != usual.strip():
            found.append(Finding("name", (usual,), "blanks around the name", 0.5, suggested=usual.strip()))
    return found


def _plain(name: str) -> str:
    """Spell a name without what people vary by mistake: case, blanks, dashes and kinds of letters."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return " ".join(folded.replace("_", " ").replace("-", " ").split()) if any(c.isalnum() for c in folded) else name


def _few(images: LabelledImages) -> list[Finding]:
    counts = images.class_counts()
    if len(counts) == 1:
        return [Finding("imbalance", tuple(counts), "the only class; there is nothing to tell apart", 1.0)]
    most = max(counts.values(), default=0)
    largest = next((name for name, count in counts.items() if count == most), "")
    return [
        Finding("imbalance", (name,), f"{count:,} images, where class {largest!r} has {most:,}", 1 - count / most)
        for name, count in counts.items()
        if count < FEW * most
    ]
