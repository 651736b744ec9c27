"""The run folder: created, locked while a run writes to it, written, and left in order however the run ends."""

from __future__ import annotations

import contextlib
import csv
import importlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from imprint.core.errors import StoppedError, UsageError, missing_package
from imprint.core.files import UNFINISHED, has_writer, remove_unfinished, sole_writer, written_whole
from imprint.core.progress import say
from imprint.core.scores import label_predictions
from imprint.data.images import LabelledImages, LoadedFrom
from imprint.models.classifier import RESUME
from imprint.models.model_file import (
    CHECKPOINT_NAME,
    MODEL_NAME,
    PROVENANCE_NAME,
    SEEN_NAME,
    check_model_file,
    find_model,
)
from imprint.runs.dealing import remove_network_folders
from imprint.runs.figures import random_window, save_curves, save_predictions
from imprint.runs.listing import HISTORY_NAME, METRICS_NAME, RECIPE_NAME, VALIDATION_NAME, resume_command
from imprint.runs.provenance import command_line, provenance_of
from imprint.runs.run import RESULT_NAME, Run
from imprint.training.checkpoint import Checkpoint, ResumableRun
from imprint.training.parent import PARENT_NAME, PARENT_SEEN_NAME
from imprint.training.plan import Plan

CURVES_NAME, PREDICTIONS_NAME = "curves.png", "predictions.png"
NEEDED = ("matplotlib", "safetensors")  # for figures, and for models and checkpoints
DATA = ("data", "validation", "test")  # options of a run that name images
HISTORY_COLUMNS = ("seconds", "loss", "acc", "val_loss", "val_acc", "lr", "threads")


def new_run_folder(name: str, run: str | Path | bool, parent: Path | None = None) -> Path | None:
    """Make a new, empty run folder, `run` or with True the next number in `parent` (``runs``); None for False.

    An older run is never touched: raises `UsageError` where the folder holds something or cannot be made.
    """
    if run is False:
        return None
    for needed in NEEDED:
        try:
            importlib.import_module(needed)
        except ModuleNotFoundError as error:  # now, rather than when training has been paid for
            raise missing_package(error, "run folder", "train without one: run=False") from None
    try:
        if run is True:
            return _numbered(name, parent or Path("runs"))
        folder = Path(run)
        folder.mkdir(parents=True, exist_ok=True)
        check_run_folder(folder)
        return folder
    except OSError as error:
        where = str(parent or "runs") if run is True else str(run)
        cause = f"it cannot be made ({error.strerror or error})"
        raise UsageError("run folder", where, cause, "Choose another with --run DIR.") from None


def check_run_folder(run: str | Path | bool) -> None:
    """Refuse a folder that holds something; makes none."""
    if isinstance(run, bool) or not Path(run).exists():
        return
    if not Path(run).is_dir() or [entry for entry in Path(run).iterdir() if not entry.name.endswith(UNFINISHED)]:
        cause = "it already holds something" if Path(run).is_dir() else "it is a file"
        raise UsageError("run folder", str(run), cause, "Choose a new one with --run DIR.")


def _numbered(name: str, parent: Path) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        taken = [int(match[0]) for entry in parent.iterdir() if (match := re.match(r"\d{4,}(?=-)", entry.name))]
        folder = parent / f"{max(taken, default=0) + 1:04}-{name}"
        try:
            folder.mkdir()
        except FileExistsError:  # another run took the number meanwhile
            continue
        return folder


def merge_options(given: Mapping[str, Any], resumed: ResumableRun | None = None) -> dict[str, Any]:
    """Settle a run's options: as given now, else when it began, else by default; raises `UsageError` without data."""
    before = {} if resumed is None else dict(resumed.options)
    in_memory = str(before.pop("in_memory", "")).split()
    for key in DATA:
        if (load_options := before.pop(f"{key}_options", None)) is not None:
            before[key] = LoadedFrom(str(before[key]), json.loads(load_options))
    folder = Path(before.pop("folder", Path.cwd()))
    if folder != Path.cwd():
        for key in set(DATA) & {key for key, value in before.items() if isinstance(value, str)}:
            path = folder / str(before[key])
            before[key] = str(path) if path.exists() and before[key] != "digits" else before[key]
    now = {key: value for key, value in given.items() if value is not None}
    defaults = {"device": "auto", "allow_bad": 0.2, "command": command_line()}
    options = {**defaults, **before, **now, "folder": str(Path.cwd())}
    for key in in_memory:
        if key not in now and resumed is not None:
            cause = f"its {key} images were made in Python, so nothing tells where they are"
            given_again = "images" if key == "data" else f"{key}=images"
            remedy = f"Give them again: imprint.train({given_again}, resume=FOLDER)."
            raise UsageError("run", str(resumed.path.parent), cause, remedy)
    if "data" not in options:
        remedy = "Name the data, or a run that was stopped with --resume."
        raise UsageError("usage", "imprint train", "Missing argument DATA", remedy)
    return options


def storable(options: Mapping[str, Any]) -> dict[str, str | float]:
    """Give what a checkpoint can hold: numbers, paths, how images were loaded; `in_memory` names those of Python."""
    stored: dict[str, str | float] = {}
    in_memory = []
    for key, value in options.items():
        loaded = value.loaded_from if isinstance(value, LabelledImages) else value
        if isinstance(loaded, LoadedFrom):
            stored |= {key: loaded.path, f"{key}_options": json.dumps(loaded.options)}
        elif isinstance(loaded, str | float | int):
            stored[key] = loaded
        elif isinstance(loaded, os.PathLike):
            stored[key] = os.fspath(loaded)
        elif key in DATA:  # made in Python, so they must be given again
            in_memory.append(key)
    if in_memory:
        stored["in_memory"] = " ".join(in_memory)
    if isinstance(options.get("data"), LabelledImages) and "validation" not in options:
        stored["ignore_parts"] = True  # a share of the images was held out, whatever other parts their data has
    return stored


@contextmanager
def run_session(
    folder: Path | None, plan: Plan, options: Mapping[str, Any], resumed: ResumableRun | None = None
) -> Iterator[Checkpoint | None]:
    """Lock a run folder while a run writes to it, and leave it in order however the run ends; nothing for None.

    Gives the checkpoint to write. Raises `UsageError` where another process trains in it, `StoppedError` where Ctrl-C
    ended the run with something kept to go on from.
    """
    if folder is None:
        yield None
        return
    with sole_writer(folder):
        remove_unfinished(folder)
        checkpoint = Checkpoint(folder, plan, storable(options))
        checkpoint.epochs = len(resumed.epochs) if resumed is not None else 0
        try:
            if plan.parent is not None and resumed is None:
                plan.parent.keep(folder)
            yield checkpoint
        except KeyboardInterrupt:
            if not checkpoint.epochs:
                raise
            kept = f"what was learnt by epoch {checkpoint.epochs} is kept"
            raise StoppedError("run", str(folder), f"stopped, {kept}", f"{resume_command(folder)} goes on.") from None
        finally:
            if not checkpoint.epochs:
                with contextlib.suppress(OSError):
                    _remove_checkpoint(checkpoint)
                    folder.rmdir()  # which works only where nothing else is in it


def end_session(checkpoint: Checkpoint, interrupted: bool) -> None:
    """Remove the checkpoint of a run that has ended; after Ctrl-C keep it, and say how to go on."""
    if interrupted:
        say(f"{resume_command(checkpoint.path.parent)} goes on from epoch {checkpoint.epochs}")
    else:
        _remove_checkpoint(checkpoint)


def _remove_checkpoint(checkpoint: Checkpoint) -> None:
    """Remove all that only a resumed run needs, the checkpoint first: without it nothing else is looked for."""
    for name in (CHECKPOINT_NAME, PARENT_NAME, PARENT_SEEN_NAME):
        checkpoint.path.with_name(name).unlink(missing_ok=True)
    remove_network_folders(checkpoint.path.parent)


def unfinished_note(path: Path) -> str:
    """Put into words that a run folder holds no model yet but a checkpoint; empty where it does not."""
    if find_model(path).name != CHECKPOINT_NAME or not path.is_dir():
        return ""
    ended, whole = _epochs_so_far(path / CHECKPOINT_NAME)
    taken = "its best epoch so far is taken" if ended else "its weights are still random, so predictions mean nothing"
    if has_writer(path):
        return f"{path} is still training, {ended} of {whole} epochs have ended: {taken}"
    return f"{path} was stopped before its end: {taken}; {resume_command(path)} goes on"


def _epochs_so_far(checkpoint: Path) -> tuple[int, int]:
    """Count the epochs that have ended, of all networks, and how many there will be."""
    facts = check_model_file(checkpoint)[0][RESUME]
    return len(facts["epochs"]), int(facts["recipe"]["epochs"]) * len(facts["recipe"]["networks"])


def write_run(run: Run, plan: Plan, options: Mapping[str, Any], with_result: bool = False) -> None:
    """Write what a run leaves into its folder, each file whole: model, history, recipe, scores and figures.

    `with_result` says that `write_result` will follow.
    """
    folder = run.folder
    assert folder is not None
    run.model.save(folder / MODEL_NAME)
    if plan.seen is not None:
        plan.seen.save(folder / SEEN_NAME, str(check_model_file(folder / MODEL_NAME)[0]["sha256"]))
    _write_history(run, folder / HISTORY_NAME)
    provenance = provenance_of(plan, str(options["command"]))
    for name, content in (
        (RECIPE_NAME, run.recipe.to_dict()),
        (METRICS_NAME, run.facts() | ({"result": str(folder / RESULT_NAME)} if with_result else {})),
        (PROVENANCE_NAME, provenance.to_dict()),
    ):
        with written_whole(folder / name) as temporary:
            temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if run.predictions is not None:
        _write_validation(run, plan, folder / VALIDATION_NAME)
    if run.history["loss"]:  # a linear head on frozen features has no epochs
        save_curves(run.history, folder / CURVES_NAME, plan.recipe)


def write_result(run: Run, test_images: LabelledImages) -> None:
    """Write result.csv, the predictions of the test images, and draw some of them; nothing where there is no folder."""
    if run.folder is not None and run.result is not None:
        run.result.write_csv(run.folder / RESULT_NAME)
        window = random_window(len(test_images), run.recipe.seed)
        save_predictions(test_images, run.result, run.folder / PREDICTIONS_NAME, window)


def _write_history(run: Run, path: Path) -> None:
    """Write one row an epoch, counted from 1."""
    columns = [key for key in HISTORY_COLUMNS if key in run.history]
    epochs = zip(*(run.history[column] for column in columns), strict=True)
    with written_whole(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["epoch", *columns])
        writer.writerows([str(i), *(f"{value:.6g}" for value in row)] for i, row in enumerate(epochs, start=1))


def _write_validation(run: Run, plan: Plan, path: Path) -> None:
    """Write what the model says of each validation image, in the order of the data."""
    assert run.predictions is not None
    validated, places = plan.images if plan.validation is None else plan.validation, plan.held_out
    places = np.arange(len(validated)) if plan.validation is None else places
    predictions, labels = run.predictions, validated.labels_among(run.model.class_names)
    order = places.argsort()
    label_predictions(
        predictions.probabilities[order],
        labels[order],
        predictions.class_names,
        predictions.why[order],
        predictions.sources[order],
        places[order],
    ).write_csv(path)
