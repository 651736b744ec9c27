"""What the data doctor found, as a table of text."""

from __future__ import annotations

from collections.abc import Sequence

from imprint.errors import spelled
from imprint.findings import KINDS, Findings
from imprint.tables import table

SHOWN_FINDINGS = 5  # of each kind
SHOWN_SOURCES = 4  # of each finding


def findings_table(findings: Findings) -> str:
    """Sum up what the data doctor found: how much of each kind, and the worst of each.

    Parameters
    ----------
    findings : Findings
        From `check`.

    Returns
    -------
    str
        Several lines.

    Examples
    --------
    >>> from imprint.findings import Finding
    >>> constant = Finding("constant", (17,), "every pixel is 0", 1.0)
    >>> print(findings_table(Findings("a.csv", 2, {"cat": 2}, (constant,))))
    a.csv: 2 pictures, 1 class; 1 finding
    <BLANKLINE>
    constant: 1 of one colour
      17  every pixel is 0
    """
    classes, found = len(findings.classes), len(findings.findings)
    pictures = f"{findings.images:,} picture{'' if findings.images == 1 else 's'}"
    lines = [
        f"{spelled(findings.name)}: {pictures}, {classes} class{'' if classes == 1 else 'es'}; "
        + ("nothing found" if not found else f"{found:,} finding{'' if found == 1 else 's'}")
    ]
    for kind, words in KINDS.items():
        of_kind = findings.of(kind)
        if of_kind:
            rows = [[_places(finding.where), finding.message] for finding in of_kind[:SHOWN_FINDINGS]]
            body = table(["", ""], rows).splitlines()[1:]
            lines += ["", f"{kind}: {len(of_kind):,} {words}", *(f"  {line}" for line in body)]
            if len(of_kind) > SHOWN_FINDINGS:
                lines.append(f"  … and {len(of_kind) - SHOWN_FINDINGS:,} more")
    return "\n".join(lines)


def _places(where: Sequence[str | int]) -> str:
    """Name the first of some places, and say how many more there are."""
    # A row of a CSV is a bare number; a name is shown so that blanks and line ends in it can be seen.
    places = [
        str(place) if isinstance(place, int) or place == " ".join(place.split()) else repr(place)
        for place in where[:SHOWN_SOURCES]
    ]
    more = len(where) - len(places)
    return ", ".join(places) + (f" and {more:,} more" if more else "")
