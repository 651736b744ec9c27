"""The report: one self-contained HTML page about a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from imprint.analysis.error_analysis import Clinic, diagnose
from imprint.core.errors import ImprintError
from imprint.core.metrics import calibration_error, wilson_interval
from imprint.core.progress import Reporter
from imprint.core.scores import Answers
from imprint.data.images import LabelledImages
from imprint.report.pages import write_template
from imprint.report.sections import (
    clinic_section,
    curves_section,
    data_section,
    mistake_rows,
    percent,
    recipe_section,
    repeat_section,
    score_section,
)
from imprint.runs.record import RunRecord, read_run

REPORT_NAME = "report.html"  # within a run folder


def write_report(
    folder: Path | str, path: Path | None = None, data: str | None = None, reporter: Reporter | None = None
) -> Path:
    """Write a page about a run: what was learnt, how good it is, how sure, what went wrong, how to repeat it.

    The pictures are read again from where they stood. Where they cannot be, or are others by now,
    the page does without them and says so.

    Parameters
    ----------
    folder : Path or str
        A run folder.
    path : Path or None, default=None
        The HTML file to write; None is report.html in the run folder.
    data : str or None, default=None
        Where the run's data stands now; None is where it stood.
    reporter : Reporter or None, default=None
        Told what is read and what could not be shown; None keeps silent.

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
    >>> run = train(load("digits"), recipe="quick", settings=["epochs=1", "min_steps=1"], silent=True)
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_run(run, folder, train_facts(run, folder, None))
    >>> write_report(folder).name
    'report.html'
    """
    reporter = reporter or Reporter(silent=True)
    record = read_run(Path(folder))
    notes = list(record.notes)
    clinic, training = None, None
    if record.origin is not None:
        try:
            training, held_out = record.read_pictures(data, reporter)
            clinic = None if held_out is None else diagnose(record.model, held_out, training)
        except ImprintError as error:
            notes.append(f"pictures cannot be shown: {error}")
    answers = clinic.answers if clinic else record.answers
    if record.metrics.get("interrupted"):
        notes.append(_stopped_early(record))
    for note in notes:
        reporter.say(f"note: {note}")
    path = Path(folder) / REPORT_NAME if path is None else path
    write_template("report.html", path, **_page(record, answers, clinic, training, data, notes))
    return path


def _stopped_early(record: RunRecord) -> str:
    """Say what an interrupt has kept: the networks that had ended, else the best epoch of the first."""
    if len(record.history.get("loss", ())) >= record.model.recipe.epochs:
        return "training was stopped early; the model holds the networks that had ended by then"
    return "training was stopped early, and the best epoch chosen by this very score: expect slightly less"


def _page(
    record: RunRecord,
    answers: Answers | None,
    clinic: Clinic | None,
    training: LabelledImages | None,
    data: str | None,
    notes: list[str],
) -> dict[str, Any]:
    """Gather what the page says."""
    origin, seconds = record.origin, record.metrics.get("seconds")
    root = "" if origin is None else str(Path(data).absolute()) if data else origin.training.path
    score = _score(record, answers)
    facts: dict[str, Any] = {
        "headline": _headline(record, score),
        "lead": _lead(record, score, clinic),
        "notes": [f"{note[0].upper()}{note[1:].rstrip('.')}." for note in notes],
        "tiles": _tiles(record, score, answers),
        "data": data_section(origin.training, training, record.model) if origin else None,
        "score": score_section(answers, settled_here=True) if answers else None,
        "clinic": clinic_section(clinic, root) if clinic else None,
        "mistakes": mistake_rows(answers, root) if answers else [],
        "curves": curves_section(record.history, seconds) if record.history else None,
        "recipe": recipe_section(record.model, origin.settled if origin else ""),
        "repeat": repeat_section(str(record.folder), origin),
        "interrupted": record.metrics.get("interrupted"),
    }
    titles = {
        "data": "The pictures",
        "score": "How good",
        "confidence": "How sure",
        "mistakes": "The mistakes",
        "training": "How it learnt",
        "recipe": "The recipe",
        "repeat": "Doing it again",
    }
    there = {
        "data": facts["data"],
        "score": answers,
        "confidence": answers,
        "mistakes": facts["clinic"] or facts["mistakes"],
        "training": facts["curves"],
        "recipe": True,
        "repeat": True,
    }
    return facts | {"sections": [(id, title) for id, title in titles.items() if there[id]]}


def _score(record: RunRecord, answers: Answers | None) -> dict[str, Any] | None:
    """Give the figures of the score, from the answers or else from what the run noted; None without a score."""
    noted: dict[str, Any] | None = record.metrics.get("validation")
    if answers is not None:
        right, count = int(answers.correct.sum()), len(answers)
        baseline = float(np.bincount(answers.labels).max() / count)
        interval = wilson_interval(right, count)
        noted = {"images": count, "accuracy": right / count, "interval": interval, "baseline": baseline}
    # What the run said to expect is wider where groups err together, or where the pictures chose the epoch.
    return noted and noted | {"interval": (record.metrics.get("expected") or noted)["interval"]}


def _headline(record: RunRecord, score: dict[str, Any] | None) -> str:
    """Say in one sentence what was learnt, and how well."""
    classes = len(record.model.class_names)
    of = f" of {record.origin.training.name}" if record.origin else ""
    if score is None:
        return f"A network that learnt {classes:,} classes{of}, and was not scored: no pictures were held out"
    if score["interval"][0] <= score["baseline"]:
        return f"A network that learnt {classes:,} classes{of}, and is not shown to do better than guessing"
    accuracy = percent(score["accuracy"], score["images"])
    return f"A network that tells the {classes:,} classes{of} apart, and is right {accuracy} of the time"


def _lead(record: RunRecord, score: dict[str, Any] | None, clinic: Clinic | None) -> str:
    """Say how sure that is."""
    if score is None:
        return "How good it is on pictures that it has not seen is not known."
    low, high = (percent(bound, score["images"]) for bound in score["interval"])
    text = (
        f"That is measured on {score['images']:,} pictures that it had not learnt from. Of other pictures like these, "
        f"expect {low} to {high} to be named rightly (95 % interval)."
    )
    if record.origin and record.origin.validation is None and record.origin.training.options.get("group"):
        text += " Pictures of one group err together and so tell less, which the interval heeds."
    if clinic and (doubted := len(clinic.of("mislabelled"))):
        wrong = "a wrong label" if doubted == 1 else "wrong labels"
        text += f" Of its {len(clinic.mistakes):,} mistakes, {doubted:,} may be {wrong}."
    return text


def _tiles(record: RunRecord, score: dict[str, Any] | None, answers: Answers | None) -> list[dict[str, str]]:
    """Give the figures that a reader looks for first."""
    tiles = []
    if score is not None:
        count = score["images"]
        low, high = (percent(bound, count) for bound in score["interval"])
        tiles += [
            ("accuracy", percent(score["accuracy"], count), f"{low} to {high}"),
            ("always naming the commonest class", percent(score["baseline"], count), "what accuracy must beat"),
        ]
    if answers is not None:
        sure = ~answers.unsure
        when_sure = percent(float(answers.correct[sure].mean()), len(answers)) if sure.any() else "–"
        error = calibration_error(answers.confidence, answers.correct)
        tiles += [
            ("accuracy when sure", when_sure, f"unsure of {percent(float(answers.unsure.mean()), len(answers))}"),
            ("calibration error", f"{error:.4f}", "0 is perfect"),
        ]
    if seconds := record.metrics.get("seconds"):
        tiles.append(("training", f"{seconds:,.1f} s", f"recipe {record.model.recipe.name}"))
    return [{"name": name, "value": value, "about": about} for name, value, about in tiles]
