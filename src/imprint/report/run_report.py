"""The report of a training run: one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from imprint.analysis.error_analysis import ErrorAnalysis, analyse_errors
from imprint.core.errors import ImprintError
from imprint.core.metrics import calibration_error, percent, wilson_interval
from imprint.core.progress import say
from imprint.core.scores import FEWEST_TO_TELL, LabelledPredictions
from imprint.data.images import LabelledImages
from imprint.report.pages import write_template
from imprint.report.sections import (
    curves_section,
    data_section,
    error_analysis_section,
    mistake_rows,
    recipe_section,
    repeat_section,
    score_section,
)
from imprint.runs.read_run import RunRecord, read_run

REPORT_NAME = "report.html"  # within a run folder
TITLES = {
    "data": "The images",
    "score": "How good it is",
    "confidence": "How sure it is",
    "mistakes": "The mistakes",
    "training": "Training",
    "recipe": "The recipe",
    "repeat": "How to repeat it",
}


def write_report(folder: str | Path, path: str | Path | None = None, data: str | None = None) -> Path:
    """Write a page about a run: score, confidence, mistakes with their images, curves and recipe.

    The images are read again; where they cannot be, or have changed, the page says so and does without.

    Parameters
    ----------
    folder : str or Path
        The run folder.
    path : str, Path or None, default=None
        The file to write; None is ``report.html`` in the run folder.
    data : str or None, default=None
        Where the training images are now, if they were moved.

    Returns
    -------
    Path
        The page, one file that needs no other.

    Raises
    ------
    UsageError
        When the folder holds no whole run, or the page cannot be written.
    ModelFileError
        When its model is not whole.

    Examples
    --------
    >>> import tempfile
    >>> import imprint
    >>> folder = Path(tempfile.mkdtemp()) / "first"
    >>> run = imprint.train("digits", "quick", epochs=1, min_steps=1, run=folder, verbose=False)
    >>> write_report(folder).name
    'report.html'
    """
    record = read_run(Path(folder))
    notes = list(record.notes)
    analysis, training = None, None
    if record.provenance is not None:
        try:
            training, held_out = record.read_images(data)
            analysis = None if held_out is None else analyse_errors(record.model, held_out, training)
        except ImprintError as error:
            notes.append(f"images cannot be shown: {error}")
    if record.metrics.get("interrupted"):
        notes.append(_interrupted_note(record))
    for note in notes:
        say(f"note: {note}")
    path = Path(folder) / REPORT_NAME if path is None else Path(path)
    write_template("report.html", path, **_page(record, analysis, training, data, notes))
    return path


def _interrupted_note(record: RunRecord) -> str:
    if len(record.history.get("loss", ())) >= record.model.recipe.epochs:
        return "training was stopped early; the model holds the networks that were finished by then"
    return "training was stopped early, and this very score chose the best epoch: expect slightly less"


def _page(
    record: RunRecord,
    analysis: ErrorAnalysis | None,
    training: LabelledImages | None,
    data: str | None,
    notes: list[str],
) -> dict[str, Any]:
    """Gather what the template shows."""
    provenance, seconds = record.provenance, record.metrics.get("seconds")
    labelled = analysis.labelled if analysis else record.labelled
    root = "" if provenance is None else str(Path(data).absolute()) if data else provenance.training.path or ""
    score = _score(record, labelled)
    sections: dict[str, Any] = {
        "data": data_section(provenance.training, training, record.model) if provenance else None,
        "score": score_section(labelled, record.cross_validated, _limit_text(record)) if labelled else None,
        "error_analysis": error_analysis_section(analysis, root) if analysis else None,
        "mistakes": mistake_rows(labelled, root) if labelled and not labelled.correct.all() else None,
        "curves": curves_section(record.history, seconds, record.model.recipe) if record.history else None,
        "recipe": recipe_section(record.model, provenance.settled if provenance else ""),
        "repeat": repeat_section(str(record.folder), provenance),
    }
    return sections | {
        "headline": _headline(record, score),
        "lead": _lead(record, score, analysis),
        "notes": [f"{note[0].upper()}{note[1:].rstrip('.')}." for note in notes],
        "tiles": _tiles(record, score, labelled),
        "interrupted": record.metrics.get("interrupted"),
        "titles": _titles(sections),
    }


def _titles(sections: dict[str, Any]) -> dict[str, str]:
    """Give id and title of each section that the page has."""
    missing = {
        "data": not sections["data"],
        "score": not sections["score"],
        "confidence": not sections["score"],
        "mistakes": not (sections["error_analysis"] or sections["mistakes"]),
        "training": not sections["curves"],
    }
    return {id: title for id, title in TITLES.items() if not missing.get(id)}


def _score(record: RunRecord, labelled: LabelledPredictions | None) -> dict[str, Any] | None:
    """Give the score of the predictions, or else the one in metrics.json; None without a score."""
    score: dict[str, Any] | None = record.metrics.get("validation")
    if labelled is not None:
        correct, count = int(labelled.correct.sum()), len(labelled)
        baseline = float(np.bincount(labelled.labels).max() / count)
        interval = wilson_interval(correct, count)
        score = {"images": count, "accuracy": correct / count, "interval": interval, "baseline": baseline}
    # The run's own estimate is wider where groups err together, or where the images chose the epoch.
    return score and score | {"interval": (record.metrics.get("expected") or score)["interval"]}


def _headline(record: RunRecord, score: dict[str, Any] | None) -> str:
    of = f" of {record.provenance.training.name}" if record.provenance else ""
    classes = f"the {len(record.model.class_names):,} classes{of}"
    if score is None:
        because = record.metrics.get("no_score_because") or "no images were held out"
        return f"A network trained on {classes}, and not scored: {because}"
    if score["interval"][0] <= score["baseline"]:
        return f"A network trained on {classes}, and not shown to do better than guessing"
    if score["images"] < FEWEST_TO_TELL:
        return f"A network trained on {classes}, with too few images held out to tell how good it is"
    accuracy = percent(score["accuracy"], score["images"])
    return f"A network that tells {classes} apart, and is right {accuracy} of the time"


def _lead(record: RunRecord, score: dict[str, Any] | None, analysis: ErrorAnalysis | None) -> str:
    """Say how sure the headline is."""
    if score is None:
        return "How good it is on new images is not known."
    low, high = (percent(bound, score["images"]) for bound in score["interval"])
    leak = (record.provenance.parent or {}).get("leak") if record.provenance else ""
    unseen = ", each by a model that was trained on others" if record.cross_validated else " that it was not trained on"
    unseen = " that were held out" if leak else unseen
    measured = "That is" if score["images"] >= FEWEST_TO_TELL else "It was"
    text = (
        f"{measured} measured on {score['images']:,} images{unseen}. Of other images like these, "
        f"expect {low} to {high} to be classified correctly (95 % interval)."
    )
    if record.provenance and record.provenance.validation is None and record.provenance.training.options.get("group"):
        text += " Images of one group err together and so tell less; the interval takes that into account."
    if leak:
        text += f" But {leak}."
    if analysis and (suspected := len(analysis.of("mislabelled"))):
        wrong = "a wrong label" if suspected == 1 else "wrong labels"
        text += f" Of its {len(analysis.mistakes):,} mistakes, {suspected:,} may be {wrong}."
    return text


def _limit_text(record: RunRecord) -> str:
    """Tell what the limit of confidence rests on, as training said."""
    trust = record.metrics.get("trust")
    return f"{trust['says'][:1].upper()}{trust['says'][1:]}." if trust else ""


def _unsure_about(labelled: LabelledPredictions) -> str:
    share = percent(float(labelled.unsure.mean()), len(labelled))
    return f"unsure of {share}: {labelled.causes}"


def _tiles(
    record: RunRecord, score: dict[str, Any] | None, labelled: LabelledPredictions | None
) -> list[dict[str, str]]:
    """Give the figures that a reader looks for first."""
    tiles = []
    if score is not None:
        count = score["images"]
        low, high = (percent(bound, count) for bound in score["interval"])
        tiles += [
            ("accuracy", percent(score["accuracy"], count) if count >= FEWEST_TO_TELL else "?", f"{low} to {high}"),
            ("always the commonest class", percent(score["baseline"], count), "what accuracy must beat"),
        ]
    if labelled is not None:
        sure = ~labelled.unsure
        when_sure = percent(float(labelled.correct[sure].mean()), len(labelled)) if sure.any() else "–"
        error = calibration_error(labelled.confidence, labelled.correct)
        tiles += [
            ("accuracy when sure", when_sure, _unsure_about(labelled)),
            ("calibration error", f"{error:.4f}", "0 is perfect"),
        ]
    if seconds := record.metrics.get("seconds"):
        tiles.append(("training", f"{seconds:,.1f} s", f"recipe {record.model.recipe.name}"))
    return [{"name": name, "value": value, "about": about} for name, value, about in tiles]
