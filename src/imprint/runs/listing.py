"""RunFacts: what a run folder tells of itself in its small files, read without torch; listing and deleting runs."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from imprint.core.errors import UsageError
from imprint.core.files import UNFINISHED, has_writer, similar_path
from imprint.models.model_file import CHECKPOINT_NAME, MODEL_NAME, PROVENANCE_NAME

METRICS_NAME, RECIPE_NAME = "metrics.json", "recipe.json"
HISTORY_NAME, VALIDATION_NAME = "history.csv", "validation.csv"
# All that Imprint writes into a run folder; a folder that holds anything else is never deleted.
WRITTEN = {
    *(MODEL_NAME, CHECKPOINT_NAME, PROVENANCE_NAME, METRICS_NAME, RECIPE_NAME, HISTORY_NAME, VALIDATION_NAME),
    *("curves.png", "result.csv", "predictions.png", "report.html", "model.onnx"),
    *("seen.safetensors", "parent.safetensors", "parent-seen.safetensors"),
}


@dataclass(frozen=True)
class RunFacts:
    """What a run folder tells of itself; None where it does not.

    `state` is done, training or stopped; `images` were scored, `size` is in bytes, `ended` a time with its zone,
    `parent` the model that it started from, with the first digits of its SHA-256, `leak` why its score is an upper
    estimate.
    """

    run: str
    state: str
    recipe: str | None
    accuracy: float | None
    images: int | None
    data: str | None
    seconds: float | None
    size: int
    ended: str
    parent: str | None = None
    leak: str | None = None


SORT_KEYS = ("name", "score", "data", "time", "size", "ended")


def list_runs(parent: Path, sort: str = "name") -> list[RunFacts]:
    """List the runs in a folder, those of several seeds too; the best, longest, largest or latest first, else by name.

    Raises `UsageError` where there is no such folder.
    """
    if not parent.is_dir():
        remedy = f"{similar_path(parent)}Name the folder of runs with --folder."
        raise UsageError("runs", str(parent), "there is no such folder", remedy)
    folders = sorted(path.parent for path in [*parent.glob("*/*.safetensors"), *parent.glob("*/seed-*/*.safetensors")])
    runs = [run_facts(folder) for folder in dict.fromkeys(folders) if is_run(folder)]
    if sort in ("name", "data"):
        return sorted(runs, key=lambda run: (run.data or "", run.run)) if sort == "data" else runs
    field = {"score": "accuracy", "time": "seconds"}.get(sort, sort)
    known = [run for run in runs if getattr(run, field) is not None]
    return sorted(known, key=lambda run: getattr(run, field), reverse=True) + [run for run in runs if run not in known]


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run: a model beside its recipe, or a checkpoint."""
    whole = (folder / MODEL_NAME).is_file() and (folder / RECIPE_NAME).is_file()
    return whole or (folder / CHECKPOINT_NAME).is_file()


def resume_command(folder: Path) -> str:
    """Tell the command that resumes a run."""
    return f"imprint train --resume {shlex.quote(str(folder))}"


def run_facts(folder: Path) -> RunFacts:
    """Read what a run folder tells of itself; a file that is broken tells nothing."""
    metrics, origin = _read(folder / METRICS_NAME), _read(folder / PROVENANCE_NAME)
    score, training = metrics.get("validation"), origin.get("training")
    score = score if isinstance(score, dict) else {}
    stopped = "training" if has_writer(folder) else "stopped"
    ended = max(path.stat().st_mtime for path in folder.iterdir())
    return RunFacts(
        run=str(folder),
        state=stopped if (folder / CHECKPOINT_NAME).is_file() else "done",
        recipe=_typed(metrics.get("recipe"), str),
        accuracy=_typed(score.get("accuracy"), float),
        images=_typed(score.get("images"), int),
        data=_typed(training.get("name"), str) if isinstance(training, dict) else None,
        seconds=_typed(metrics.get("seconds"), float),
        size=sum(path.stat().st_size for path in folder.iterdir() if path.is_file()),
        ended=datetime.fromtimestamp(ended).astimezone().isoformat(timespec="seconds"),
        parent=_parent(origin.get("parent")),
        leak=_leak(origin.get("parent")) if score else None,
    )


def _parent(facts: Any) -> str | None:
    known = isinstance(facts, dict) and all(isinstance(facts.get(key), str) for key in ("model", "sha256"))
    return f"{facts['model']} ({facts['sha256'][:8]})" if known else None


def _leak(facts: Any) -> str | None:
    return _typed(facts.get("leak"), str) or None if isinstance(facts, dict) else None


def _read(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        values = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(values, dict):
            return values
    return {}


def _typed(value: Any, kind: type) -> Any:
    return value if isinstance(value, kind) else None


def check_deletable(folders: Sequence[Path]) -> None:
    """Refuse what is no run folder, holds what no run wrote, or is at work; raises `UsageError`."""
    for folder in folders:
        if folder.is_symlink() or not folder.is_dir() or not is_run(folder):
            cause = "it is no run folder" if folder.exists() else "there is no such folder"
            raise UsageError("run", str(folder), cause, f"{similar_path(folder)}imprint runs lists them.")
        if has_writer(folder):
            raise UsageError("run", str(folder), "it is still training", "Stop that first, or wait until it has ended.")
        others = [path.name for path in folder.iterdir() if not _is_written(path)]
        if others:
            cause = f"it also holds {others[0]}, which no run wrote"
            raise UsageError("run", str(folder), cause, "Move that elsewhere first.")


def delete_runs(folders: Sequence[Path]) -> None:
    """Delete run folders, all or, where `check_deletable` refuses one, none."""
    check_deletable(folders)
    for folder in folders:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def _is_written(path: Path) -> bool:
    known = path.name in WRITTEN or (path.name.startswith(".") and path.name.endswith(UNFINISHED))
    return known and path.is_file() and not path.is_symlink()
