"""Finding and Findings: what the data doctor has to say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

KINDS = {
    "unreadable": "cannot be read",
    "leak": "also in the other data",
    "duplicate": "there more than once",
    "label": "probably mislabelled",
    "constant": "of one colour",
    "polarity": "inverted",
    "size": "of unusual size",
    "name": "oddly named",
    "imbalance": "short of pictures",
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or may be, with pictures or a class.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    where : tuple of str or int
        Sources of the pictures concerned, or names of the classes.
    message : str
        What is wrong with them, without a full stop.
    score : float
        From 0 to 1; the higher, the surer or the worse.
    pictures : tuple of int, default=()
        Positions of the pictures; those in the data compared with run on behind the data itself.
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
    pictures: tuple[int, ...] = ()
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
        How many pictures could be read.
    classes : dict of str to int
        Pictures of each class.
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
