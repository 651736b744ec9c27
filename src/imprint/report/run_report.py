"""The report: one self-contained HTML page about a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from imprint.analysis.error_analysis import ErrorAnalysis, analyse_errors
from imprint.core.errors import ImprintError
from imprint.core.metrics import calibration_error, wilson_interval
from imprint.core.progress import say
from imprint.core.scores import LabelledPredictions
from imprint.data.images import LabelledImages
from imprint.report.pages import write_template
from imprint.report.sections import (
    curves_section,
    data_section,
    error_analysis_section,
    mistake_rows,
    percent,
    recipe_section,
    repeat_section,
    score_section,
)
from imprint.runs.record import RunRecord, read_run

REPORT_NAME = "report.html"  # within a run folder


def write_report(folder: Path | str, path: Path | None = None, data: str | None = None) -> Path:
    """Write a page about a run: what was learnt, how good it is, how sure, what went wrong, how to repeat it.

    The images are read again from where they stood. Where they cannot be, or are others by now,
    the page does without them and says so.

    Parameters
    ----------
    folder : Path or str
        A run folder.
    path : Path or None, default=None
        The HTML file to write; None is report.html in the run folder.
    data : str or None, default=None
        Where the run's data stands now; None is where it stood.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    UsageError
        When there is no such run, a file of it is broken, or the page cannot be written.
    ModelFileError
        When it holds no whole model.

    Examples
    --------
    >>> import tempfile
    >>> from imprint import load, train
    >>> from imprint.runs.folder import train_facts, write_run
    >>> run = train(load("digits"), recipe="quick", epochs=1, min_steps=1, verbose=False)
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_run(run, folder, train_facts(run, folder, None))
    >>> write_report(folder).name
    'report.html'
    """
    record = read_run(Path(folder))
    notes = list(record.notes)
    clinic, training = None, None
    if record.provenance is not None:
        try:
            training, held_out = record.read_images(data)
            clinic = None if held_out is None else analyse_errors(record.model, held_out, training)
        except ImprintError as error:
            notes.append(f"images cannot be shown: {error}")
    labelled = clinic.labelled if clinic else record.labelled
    if record.metrics.get("interrupted"):
        notes.append(_stopped_early(record))
    for note in notes:
        say(f"note: {note}")
    path = Path(folder) / REPORT_NAME if path is None else path
    write_template("report.html", path, **_page(record, labelled, clinic, training, data, notes))
    return path


def _stopped_early(record: RunRecord) -> str:
    """Say what an interrupt has kept: the networks that had ended, else the best epoch of the first."""
    if len(record.history.get("loss", ())) >= record.model.recipe.epochs:
        return "training was stopped early; the model holds the networks that had ended by then"
    return "training was stopped early, and the best epoch chosen by this very score: expect slightly less"


def _page(
    record: RunRecord,
    labelled: LabelledPredictions | None,
    clinic: ErrorAnalysis | None,
    training: LabelledImages | None,
    data: str | None,
    notes: list[str],
) -> dict[str, Any]:
    """Gather what the page says."""
    provenance, seconds = record.provenance, record.metrics.get("seconds")
    root = "" if provenance is None else str(Path(data).absolute()) if data else provenance.training.path or ""
    score = _score(record, labelled)
    facts: dict[str, Any] = {
        "headline": _headline(record, score),
        "lead": _lead(record, score, clinic),
        "notes": [f"{note[0].upper()}{note[1:].rstrip('.')}." for note in notes],
        "tiles": _tiles(record, score, labelled),
        "data": data_section(provenance.training, training, record.model) if provenance else None,
        "score": score_section(labelled, settled_here=True) if labelled else None,
        "clinic": error_analysis_section(clinic, root) if clinic else None,
        "mistakes": mistake_rows(labelled, root) if labelled else [],
        "curves": curves_section(record.history, seconds) if record.history else None,
        "recipe": recipe_section(record.model, provenance.settled if provenance else ""),
        "repeat": repeat_section(str(record.folder), provenance),
        "interrupted": record.metrics.get("interrupted"),
    }
    titles = {
        "data": "The images",
        "score": "How good",
        "confidence": "How sure",
        "mistakes": "The mistakes",
        "training": "How it learnt",
        "recipe": "The recipe",
        "repeat": "Doing it again",
    }
    there = {
        "data": facts["data"],
        "score": labelled,
        "confidence": labelled,
        "mistakes": facts["clinic"] or facts["mistakes"],
        "training": facts["curves"],
        "recipe": True,
        "repeat": True,
    }
    return facts | {"sections": [(id, title) for id, title in titles.items() if there[id]]}


def _score(record: RunRecord, labelled: LabelledPredictions | None) -> dict[str, Any] | None:
    """Give the figures of the score, from the answers or else from what the run noted; None without a score."""
    noted: dict[str, Any] | None = record.metrics.get("validation")
    if labelled is not None:
        right, count = int(labelled.correct.sum()), len(labelled)
        baseline = float(np.bincount(labelled.labels).max() / count)
        interval = wilson_interval(right, count)
        noted = {"images": count, "accuracy": right / count, "interval": interval, "baseline": baseline}
    # What the run said to expect is wider where groups err together, or where the images chose the epoch.
    return noted and noted | {"interval": (record.metrics.get("expected") or noted)["interval"]}


def _headline(record: RunRecord, score: dict[str, Any] | None) -> str:
    """Say in one sentence what was learnt, and how well."""
    classes = len(record.model.class_names)
    of = f" of {record.provenance.training.name}" if record.provenance else ""
    if score is None:
        return f"A network that learnt {classes:,} classes{of}, and was not scored: no images were held out"
    if score["interval"][0] <= score["baseline"]:
        return f"A network that learnt {classes:,} classes{of}, and is not shown to do better than guessing"
    accuracy = percent(score["accuracy"], score["images"])
    return f"A network that tells the {classes:,} classes{of} apart, and is right {accuracy} of the time"


def _lead(record: RunRecord, score: dict[str, Any] | None, clinic: ErrorAnalysis | None) -> str:
    """Say how sure that is."""
    if score is None:
        return "How good it is on images that it has not seen is not known."
    low, high = (percent(bound, score["images"]) for bound in score["interval"])
    text = (
        f"That is measured on {score['images']:,} images that it had not learnt from. Of other images like these, "
        f"expect {low} to {high} to be named rightly (95 % interval)."
    )
    if record.provenance and record.provenance.validation is None and record.provenance.training.options.get("group"):
        text += " Images of one group err together and so tell less, which the interval heeds."
    if clinic and (doubted := len(clinic.of("mislabelled"))):
        wrong = "a wrong label" if doubted == 1 else "wrong labels"
        text += f" Of its {len(clinic.mistakes):,} mistakes, {doubted:,} may be {wrong}."
    return text


def _tiles(
    record: RunRecord, score: dict[str, Any] | None, labelled: LabelledPredictions | None
) -> list[dict[str, str]]:
    """Give the figures that a reader looks for first."""
    tiles = []
    if score is not None:
        count = score["images"]
        low, high = (percent(bound, count) for bound in score["interval"])
        tiles += [
            ("accuracy", percent(score["accuracy"], count), f"{low} to {high}"),
            ("always naming the commonest class", percent(score["baseline"], count), "what accuracy must beat"),
        ]
    if labelled is not None:
        sure = ~labelled.unsure
        when_sure = percent(float(labelled.correct[sure].mean()), len(labelled)) if sure.any() else "–"
        error = calibration_error(labelled.confidence, labelled.correct)
        tiles += [
            ("accuracy when sure", when_sure, f"unsure of {percent(float(labelled.unsure.mean()), len(labelled))}"),
            ("calibration error", f"{error:.4f}", "0 is perfect"),
        ]
    if seconds := record.metrics.get("seconds"):
        tiles.append(("training", f"{seconds:,.1f} s", f"recipe {record.model.recipe.name}"))
    return [{"name": name, "value": value, "about": about} for name, value, about in tiles]
