"""The mistake clinic as a table of text."""

from __future__ import annotations

from imprint.clinic import CAUSES, Clinic
from imprint.tables import table

SHOWN = 10  # mistakes of one cause


def mistakes_table(clinic: Clinic) -> str:
    """List the mistakes by cause, each with the labels of its nearest training pictures.

    Parameters
    ----------
    clinic : Clinic
        From `diagnose`.

    Returns
    -------
    str
        Several lines.

    Examples
    --------
    >>> from imprint import load, train
    >>> from imprint.clinic import diagnose
    >>> digits = load("digits")
    >>> model = train(digits[:900], recipe="quick", settings=["epochs=1", "min_steps=1"], silent=True).model
    >>> print(mistakes_table(diagnose(model, digits[900:], digits[:900])).splitlines()[0])
    mistakes: ... of 897; ... the model's fault
    """
    counts = clinic.counts()
    listed = ", ".join(f"{counts[cause]:,} {words}" for cause, words in CAUSES.items() if counts[cause])
    lines = [f"mistakes: {len(clinic.mistakes):,} of {len(clinic.images):,}" + (f"; {listed}" if listed else "")]
    facts = clinic.to_dicts()
    for cause, words in CAUSES.items():
        found = [fact for fact in facts if fact["cause"] == cause]
        if found:
            rows = [
                [
                    str(fact["source"]),
                    fact["label"],
                    fact["prediction"],
                    f"{fact['confidence']:.4f}",
                    ", ".join(near["label"] for near in fact["nearest"]),
                ]
                for fact in found[:SHOWN]
            ]
            header = [
                "row" if clinic.images.from_pixel_table else "source",
                "label",
                "predicted",
                "confidence",
                "nearest in training",
            ]
            lines += ["", words, table(header, rows)]
            if len(found) > SHOWN:
                lines.append(f"… and {len(found) - SHOWN:,} more")
    return "\n".join(lines)
