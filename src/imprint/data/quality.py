"""Finding and Findings: what is wrong with data, and the checks of single images and of classes."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray

from imprint.core.errors import brief
from imprint.core.memmap import in_chunks
from imprint.data.images import WHOLE_NUMBER, LabelledImages

KINDS = {
    "orientation": "turned, mirrored or inverted",
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

RARE = 0.1  # of the largest class's images; a class with fewer is hard to learn
# Even paper: so much of an image's rim lies within so many grey levels of the rim's median.
EVEN_FRACTION, EVEN_LEVELS = 0.6, 32
MAJORITY = 0.9  # of the images on paper agree on ink and paper, or none of them is called inverted
UNUSUAL_FACTOR = 4.0  # a side so many times longer or shorter than the median is unusual
IMAGES_AT_ONCE = 256
HIDDEN = (".", "__MACOSX", "__pycache__")  # prefixes of what file managers and notebooks leave behind


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or may be, with images or a class.

    Parameters
    ----------
    kind : str
        ``"orientation"``, ``"unreadable"``, ``"leak"``, ``"duplicate"``, ``"label"``, ``"constant"``, ``"polarity"``,
        ``"size"``, ``"name"`` or ``"imbalance"``.
    where : tuple of str or int
        Sources of the images concerned, or names of the classes; of an orientation the name of the data.
    message : str
        What is wrong with them, without a full stop.
    score : float
        From 0 to 1; the higher, the more certain or the worse.
    images : tuple of int, default=()
        Positions of the images; those of the data compared with are counted on after the data itself.
    suggested : str, default=""
        The right label or class name, where one is known.

    Examples
    --------
    >>> from imprint import Finding
    >>> Finding("constant", (17,), "every pixel is 0", 1.0).to_dict()
    {'kind': 'constant', 'where': [17], 'message': 'every pixel is 0', 'score': 1.0}
    """

    kind: str
    where: tuple[str | int, ...]
    message: str
    score: float
    images: tuple[int, ...] = ()
    suggested: str = ""

    def __repr__(self) -> str:
        places = [str(place) for place in self.where[:3]] + ["…"] * (len(self.where) > 3)
        return brief(self, f"{self.kind}: {self.message} ({', '.join(places)})")

    def to_dict(self) -> dict[str, Any]:
        """Convert the finding to plain JSON values.

        Returns
        -------
        dict
            `kind`, `where`, `message` and `score`.

        Examples
        --------
        >>> from imprint import Finding
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
        Number of images that could be read.
    classes : dict of str to int
        Number of images of each class.
    findings : tuple of Finding
        Sorted by kind, the most serious first; the worst of each kind first.
    notes : tuple of str, default=()
        How far the list of wrong labels can be trusted; checks that could not be made, and why.

    Examples
    --------
    >>> from imprint import Finding, Findings
    >>> findings = Findings("a.csv", 2, {"cat": 2}, (Finding("constant", (2,), "every pixel is 0", 1.0),))
    >>> len(findings.of("constant")), len(findings.of("label"))
    (1, 0)
    """

    name: str
    images: int
    classes: dict[str, int]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return brief(self, f"{self.name}: {self._summary()}")

    def _repr_html_(self) -> str:
        from imprint.core.html import block, line, table

        kinds = [(kind, self.of(kind)) for kind in KINDS if self.of(kind)]
        rows = [(kind, f"{KINDS[kind]}: {found[0].message}", f"{len(found):,}") for kind, found in kinds]
        body = [table(("kind", "what", "findings"), rows, words=2)] if rows else []
        return block(self.name, self._summary(), *body, *map(line, self.notes))

    def _summary(self) -> str:
        counts = [f"{len(self.of(kind)):,} {kind}" for kind in KINDS if self.of(kind)]
        found = "nothing found" if not counts else f"found: {', '.join(counts)}"
        return f"{self.images:,} images, {len(self.classes):,} classes; {found}"

    def of(self, kind: str) -> list[Finding]:
        """Select the findings of one kind.

        Parameters
        ----------
        kind : str
            As in `Finding`.

        Returns
        -------
        list of Finding
            The worst first.

        Examples
        --------
        >>> from imprint import Findings
        >>> Findings("a.csv", 2, {"cat": 2}, ()).of("leak")
        []
        """
        return [finding for finding in self.findings if finding.kind == kind]

    def to_dict(self) -> dict[str, Any]:
        """Convert the findings to plain JSON values, as ``check --json`` prints them.

        Returns
        -------
        dict
            `images`, `classes`, `findings` and `notes`.

        Examples
        --------
        >>> from imprint import Findings
        >>> Findings("a.csv", 2, {"cat": 2}, ()).to_dict()
        {'images': 2, 'classes': {'cat': 2}, 'findings': [], 'notes': []}
        """
        found = [finding.to_dict() for finding in self.findings]
        return {"images": self.images, "classes": self.classes, "findings": found, "notes": list(self.notes)}


def find_faults(images: LabelledImages) -> list[Finding]:
    """Check single images and classes: kinds unreadable, constant, polarity, size, name and imbalance."""
    return [
        *_unreadable(images),
        *_constant(images),
        *_inverted(images),
        *_unusual_sizes(images),
        *_odd_names(images),
        *_rare_classes(images),
    ]


def spelt_alike(names: Iterable[str]) -> list[list[str]]:
    """Group names that differ only by what people vary by mistake: case, spaces, dashes, compatible letters."""
    spelt: dict[str, list[str]] = defaultdict(list)
    for name in names:
        # -1 and 1 differ by more than a dash.
        spelt[name if WHOLE_NUMBER.fullmatch(name) else _normalised(name)].append(name)
    return list(spelt.values())


def _findings(
    images: LabelledImages, kind: str, positions: Int64[ndarray, " found"], messages: list[str]
) -> list[Finding]:
    """Make a finding of each image."""
    sources = images.sources.tolist()
    found = zip(positions.tolist(), messages, strict=True)
    return [Finding(kind, (sources[i],), message, 1.0, (i,)) for i, message in found]


def _unreadable(images: LabelledImages) -> list[Finding]:
    return [Finding("unreadable", (source,), cause, 1.0) for source, cause in images.unreadable]


def _constant(images: LabelledImages) -> list[Finding]:
    parts = in_chunks(images.pixels, IMAGES_AT_ONCE)
    flat = [(part.min(axis=(2, 3)) == part.max(axis=(2, 3))).all(axis=1) for part in parts]
    one_colour = np.flatnonzero(np.concatenate(flat))
    colours = [" ".join(map(str, images.pixels[i, :, 0, 0])) for i in one_colour]
    return _findings(images, "constant", one_colour, [f"every pixel is {colour}" for colour in colours])


def _inverted(images: LabelledImages) -> list[Finding]:
    """Find grey images of ink on even paper where ink and paper are exchanged."""
    if images.shape[0] != 1 or min(images.shape[1:]) < 3:
        return []
    contrast = np.concatenate([_ink_above_paper(part[:, 0]) for part in in_chunks(images.pixels, IMAGES_AT_ONCE)])
    bright, dark = contrast > 0, contrast < 0
    few, word = (dark, "dark on bright") if bright.sum() >= dark.sum() else (bright, "bright on dark")
    on_paper = bright.sum() + dark.sum()
    if on_paper < len(images) / 2 or few.sum() > (1 - MAJORITY) * on_paper:
        return []
    message = f"{word}, where {1 - few.sum() / on_paper:.1%} of the images are the other way about"
    return _findings(images, "polarity", np.flatnonzero(few), [message] * int(few.sum()))


def _ink_above_paper(pixels: ndarray) -> Float64[ndarray, " n"]:
    """Mean brightness of each image above its paper; 0 where its rim is no even paper."""
    rim = np.concatenate([pixels[:, 0], pixels[:, -1], pixels[:, 1:-1, 0], pixels[:, 1:-1, -1]], axis=1).astype(int)
    paper = np.median(rim, axis=1)
    even = (np.abs(rim - paper[:, None]) <= EVEN_LEVELS).mean(axis=1) >= EVEN_FRACTION
    return np.asarray(np.where(even, pixels.mean(axis=(1, 2)) - paper, 0.0))


def _unusual_sizes(images: LabelledImages) -> list[Finding]:
    sizes = images.sizes
    if sizes is None:
        return []
    sides = np.log(np.maximum(sizes, 1))
    off = np.abs(sides - np.median(sides, axis=0))
    # Where sizes vary anyway, unusual is what stands out from that.
    limit = np.maximum(np.log(UNUSUAL_FACTOR), 4 * 1.4826 * np.median(off, axis=0))
    unusual: Bool[ndarray, " n"] = (off > limit).any(axis=1)
    height, width = np.median(sizes, axis=0).astype(int)
    messages = [f"{w}×{h} pixels, where {width}×{height} is usual" for h, w in sizes[unusual].tolist()]
    return _findings(images, "size", np.flatnonzero(unusual), messages)


def _odd_names(images: LabelledImages) -> list[Finding]:
    """Find classes that are one class spelled in several ways, and names that nobody gave on purpose."""
    counts = images.class_counts()
    found = []
    for names in spelt_alike(counts):
        usual, *others = sorted(names, key=lambda name: (-counts[name], name != name.strip(), name))
        if others:
            message = f"probably one class in {len(names)} spellings; {usual!r} has most images"
            found.append(Finding("name", (usual, *others), message, 1.0, suggested=usual.strip()))
        elif usual.startswith(HIDDEN):
            found.append(Finding("name", (usual,), "a folder that a program made, hardly a class", 1.0))
        elif not usual.strip():
            found.append(Finding("name", (usual,), "the name is empty", 1.0))
        elif usual != usual.strip():
            found.append(Finding("name", (usual,), "blanks around the name", 0.5, suggested=usual.strip()))
    return found


def _normalised(name: str) -> str:
    """Spell a name without what people vary by mistake: case, spaces, dashes and compatible letters."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return " ".join(folded.replace("_", " ").replace("-", " ").split()) if any(c.isalnum() for c in folded) else name


def _rare_classes(images: LabelledImages) -> list[Finding]:
    counts = images.class_counts()
    if len(counts) == 1:
        return [Finding("imbalance", tuple(counts), "the only class; there is nothing to tell apart", 1.0)]
    most = max(counts.values(), default=0)
    largest = next((name for name, count in counts.items() if count == most), "")
    return [
        Finding("imbalance", (name,), f"{count:,} images, where class {largest!r} has {most:,}", 1 - count / most)
        for name, count in counts.items()
        if count < RARE * most
    ]
