"""RunRecord: what a run folder holds, read back."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from imprint.core.errors import DataError, ImprintError, UsageError
from imprint.core.files import has_writer, similar_path
from imprint.core.scores import AccuracyEstimate, LabelledPredictions, Score, read_labelled_predictions, restored_score
from imprint.data.images import LabelledImages
from imprint.models.classifier import Classifier
from imprint.models.model_file import CHECKPOINT_NAME, MODEL_NAME, PROVENANCE_NAME, find_model
from imprint.runs.listing import HISTORY_NAME, METRICS_NAME, VALIDATION_NAME, resume_command
from imprint.runs.provenance import Provenance
from imprint.training.calibration import ConfidenceLimit

Part = TypeVar("Part")


@dataclass(frozen=True, eq=False)
class RunRecord:
    """What a run folder holds; empty or None where a file is missing, which `notes` tells."""

    folder: Path
    model: Classifier
    history: dict[str, list[float]]
    metrics: dict[str, Any]
    provenance: Provenance | None
    labelled: LabelledPredictions | None
    notes: tuple[str, ...]

    @property
    def cross_validated(self) -> bool:
        """Whether `labelled` are predictions of models that were trained on the other images of the training data."""
        score: dict[str, Any] = self.metrics.get("validation") or {}
        return bool(score.get("method", "held-out") != "held-out")

    def score(self) -> Score | None:
        """Rebuild the score on the validation images; raises `UsageError` where files do not fit together."""
        labelled, facts = self.labelled, self.metrics.get("validation")
        if labelled is None or facts is None:
            return None
        if facts["images"] != len(labelled):
            raise _inconsistent(self.folder, f"{VALIDATION_NAME} has not as many images as it scored")
        return _checked(self.folder, lambda: restored_score(labelled, facts))

    def expected(self) -> AccuracyEstimate | None:
        """Rebuild what to expect on new images, as `score` does the score."""
        if self.metrics.get("expected") is None or self.metrics.get("validation") is None:
            return None
        facts = {"effective": self.metrics["validation"]["images"], "tries": 1} | self.metrics["expected"]
        scored = self.metrics["validation"]
        return _checked(
            self.folder,
            lambda: AccuracyEstimate(
                float(facts["accuracy"]),
                facts["interval"],
                scored["images"],
                float(facts["effective"]),
                int(facts["tries"]),
                str(scored.get("method", "held-out")),
            ),
        )

    def limit(self) -> ConfidenceLimit | None:
        """Rebuild the limit of confidence, as `score` does the score."""
        facts = self.metrics.get("trust")
        return None if facts is None else _checked(self.folder, lambda: ConfidenceLimit.from_facts(facts))

    def read_images(self, data: str | None = None) -> tuple[LabelledImages, LabelledImages | None]:
        """Read again the images that the run learnt from, and those held out in the order of `labelled`, if any.

        `data` tells where they stand now, if they were moved. Raises `DataError` where the run does not tell them, or
        they cannot be read, or are others by now.
        """
        provenance, labelled = self.provenance, self.labelled
        if provenance is None:
            cause = "the run does not tell it"
            raise DataError("training data", str(self.folder), cause, "Train again, or name the data with --training.")
        given = provenance.training.read_again(data)
        if labelled is None or self.cross_validated:
            return given, None
        checked = given
        if provenance.validation is not None:
            together = provenance.validation.path == provenance.training.path
            checked = provenance.validation.read_again(data if together else None)
        if labelled.places.min() < 0 or labelled.places.max() >= len(checked):
            cause = "it names images that the data does not have"
            raise DataError(VALIDATION_NAME, str(self.folder), cause, "Use a run folder as train left it.")
        learnt = np.arange(len(given))
        if provenance.validation is None:
            learnt = np.setdiff1d(learnt, labelled.places)
        return given[learnt], checked[labelled.places]


def read_run(folder: Path) -> RunRecord:
    """Read a run folder.

    Raises `UsageError` where there is none or a file is broken, `ModelFileError` where it holds no whole model.
    """
    if not folder.is_dir():
        cause, which = ("it is a file", "a folder") if folder.exists() else ("there is no such folder", "one")
        remedy = f"{similar_path(folder)}Name {which} that imprint train made."
        raise UsageError("run folder", str(folder), cause, remedy)
    if find_model(folder).name == CHECKPOINT_NAME:
        if has_writer(folder):
            remedy = "Wait until that has ended; predict and evaluate take its best epoch so far."
            raise UsageError("run", str(folder), "it is still training", remedy)
        raise UsageError("run", str(folder), "it was stopped before its end", f"Resume it: {resume_command(folder)}.")
    model = Classifier.load(folder / MODEL_NAME)
    notes: list[str] = []
    metrics = _part(folder / METRICS_NAME, _read_metrics, notes, "") or {}
    validated = metrics.get("validation") is not None
    return RunRecord(
        folder,
        model,
        _part(folder / HISTORY_NAME, _read_history, notes, "there are no curves") or {},
        metrics,
        _part(
            folder / PROVENANCE_NAME,
            lambda path: Provenance.from_dict(_read_object(path)),
            notes,
            "data and command are not known, as in runs of older versions; train again to have them",
        ),
        _part(
            folder / VALIDATION_NAME,
            lambda path: read_labelled_predictions(path, model.class_names),
            notes,
            "mistakes cannot be told" if validated else "",
        ),
        tuple(notes),
    )


def _part(path: Path, read: Callable[[Path], Part], notes: list[str], missing: str) -> Part | None:
    """Read one file if it is there; note what its lack means."""
    if not path.is_file():
        if missing:
            notes.append(f"the file {path.name} is missing, so {missing}")
        return None
    try:
        return read(path)
    except ImprintError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        cause = f"it is inconsistent ({error})"
        raise UsageError(path.name, str(path.parent), cause, "Take the file away to do without it.") from None


def _checked(folder: Path, build: Callable[[], Part]) -> Part:
    """Build a part from metrics.json; raises `UsageError` where a figure is missing or none."""
    try:
        return build()
    except (ValueError, KeyError, TypeError, OverflowError, ZeroDivisionError) as error:
        raise _inconsistent(folder, str(error)) from None


def _inconsistent(folder: Path, why: str) -> UsageError:
    return UsageError(METRICS_NAME, str(folder), f"it is inconsistent ({why})", "Use a run folder as train left it.")


def _read_object(path: Path) -> dict[str, Any]:
    values = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    if not isinstance(values, dict):
        raise ValueError("no object")
    return values


def _refuse(constant: str) -> float:
    """Refuse NaN and the infinities, which Python's json would read."""
    raise ValueError(f"{constant} is no figure")


def _read_metrics(path: Path) -> dict[str, Any]:
    """Read metrics.json, the score of it checked."""
    metrics = _read_object(path)
    for key in ("validation", "expected"):
        if metrics.get(key) is not None:
            low, high = metrics[key]["interval"]
            metrics[key]["interval"] = float(low), float(high)
    if (score := metrics.get("validation")) is not None:
        score |= {"accuracy": float(score["accuracy"]), "baseline": float(score["baseline"])}
        score |= {"images": int(score["images"])}
    if metrics.get("trust") is not None and not isinstance(metrics["trust"]["says"], str):
        raise ValueError("trust")
    if not isinstance(metrics.get("warnings", []), list):
        raise ValueError("warnings")
    if metrics.get("seconds") is not None:
        metrics["seconds"] = float(metrics["seconds"])
    return metrics


def _read_history(path: Path) -> dict[str, list[float]]:
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    if not rows and {"loss", "acc", "lr"} <= set(reader.fieldnames or ()):  # a linear head on frozen features
        return {}
    if not rows or not {"loss", "acc", "lr"} <= set(rows[0]):
        raise ValueError("loss, acc or lr is missing")
    history = {key: [float(row[key]) for row in rows] for key in rows[0] if key != "epoch"}
    if not np.isfinite(list(history.values())).all() or min(history["lr"]) <= 0:
        raise ValueError("a figure is not finite, or a learning rate not above 0")
    return history
