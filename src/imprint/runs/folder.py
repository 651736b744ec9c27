"""The run folder: what a training run leaves behind."""

from __future__ import annotations

import csv
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from imprint.core.scores import answers_to
from imprint.core.errors import UsageError
from imprint.core.files import UNFINISHED, written_whole
from imprint.models.model_file import MODEL_NAME, ORIGIN_NAME
from imprint.runs.provenance import Origin
from imprint.training.plan import Plan
from imprint.runs.run import Run
import contextlib
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from imprint.training.state import Checkpoint, Stopped, find_stopped
from imprint.core.errors import StoppedError, UsageError
from imprint.core.files import remove_unfinished, sole_writer
from imprint.models.model_file import CHECKPOINT_NAME, find_model

HISTORY_NAME, METRICS_NAME, RECIPE_NAME = "history.csv", "metrics.json", "recipe.json"
ANSWERS_NAME = "validation.csv"
HISTORY_COLUMNS = ("seconds", "loss", "acc", "val_loss", "val_acc", "lr")


def new_run_folder(name: str, explicit: Path | None = None, parent: Path | None = None) -> Path:
    """Make a new, empty run folder; an older one is never touched.

    Parameters
    ----------
    name : str
        Of the recipe.
    explicit : Path or None, default=None
        The folder to make; None numbers it: ``runs/0001-quick``.
    parent : Path or None, default=None
        Where numbered folders stand; None is ``runs`` in the current folder.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    UsageError
        When the folder exists and holds something, or cannot be made.

    Examples
    --------
    >>> import tempfile
    >>> parent = Path(tempfile.mkdtemp())
    >>> [new_run_folder("quick", parent=parent).name for _ in range(2)]
    ['0001-quick', '0002-quick']
    """
    try:
        if explicit is None:
            return _numbered(name, parent or Path("runs"))
        explicit.mkdir(parents=True, exist_ok=True)
        if not [entry for entry in explicit.iterdir() if not entry.name.endswith(UNFINISHED)]:
            return explicit
    except OSError as error:
        raise UsageError(
            "run folder",
            str(explicit or parent or "runs"),
            f"it cannot be made ({error.strerror or error})",
            "Choose another with --run DIR.",
        ) from None
    raise UsageError("run folder", str(explicit), "it already holds something", "Choose a new one with --run DIR.")


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


def train_facts(run: Run, folder: Path, result: Path | None) -> dict[str, Any]:
    """Sum a run up, as metrics.json and ``train --json`` do.

    Parameters
    ----------
    run : Run
        The run.
    folder : Path
        Its folder.
    result : Path or None
        The predictions it wrote, if any.

    Returns
    -------
    dict
        Plain JSON values.

    Examples
    --------
    >>> from imprint import load, train
    >>> run = train(load("digits"), recipe="quick", settings=["epochs=1", "min_steps=1"], silent=True)
    >>> sorted(train_facts(run, Path("runs/0001-quick"), None))
    ['epochs', 'expected', 'interrupted', 'model', 'recipe', 'run', 'seconds', 'validation']
    """
    facts: dict[str, Any] = {
        "run": str(folder),
        "model": str(folder / MODEL_NAME),
        "recipe": run.recipe.name,
        "seconds": round(run.seconds, 3),
        "epochs": len(run.history["loss"]),
        "interrupted": run.interrupted,
        "validation": run.model.score,
        "expected": None if run.expected is None else run.expected.facts(),
    }
    return facts if result is None else facts | {"result": str(result)}


def seeds_facts(each: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> dict[str, Any]:
    """Sum several runs up that differ in nothing but their seed.

    Parameters
    ----------
    each : sequence of mapping
        From `train_facts`, one a run; all validated on the same pictures.
    seeds : sequence of int
        Their seeds.

    Returns
    -------
    dict
        The first run's facts, and `seeds` [{`seed`, `accuracy`, `run`}] with the `mean` of their accuracies and
        `sd`, the standard deviation of one run (None for a single one).

    Examples
    --------
    >>> each = [{"run": f"runs/{i}", "validation": {"accuracy": accuracy}} for i, accuracy in ((1, 0.98), (2, 0.99))]
    >>> facts = seeds_facts(each, [7, 8])
    >>> facts["run"], facts["mean"], round(facts["sd"], 4), facts["seeds"][1]
    ('runs/1', 0.985, 0.0071, {'seed': 8, 'accuracy': 0.99, 'run': 'runs/2'})
    """
    rows = [
        {"seed": seed, "accuracy": facts["validation"]["accuracy"], "run": facts["run"]}
        for seed, facts in zip(seeds, each, strict=True)
    ]
    accuracies = [row["accuracy"] for row in rows]
    sd = statistics.stdev(accuracies) if len(accuracies) > 1 else None
    return {**each[0], "seeds": rows, "mean": statistics.mean(accuracies), "sd": sd}


def write_run(run: Run, folder: Path, facts: Mapping[str, Any]) -> None:
    """Write model, history, recipe and metrics into a run folder, each file whole.

    Parameters
    ----------
    run : Run
        The run.
    folder : Path
        From `new_run_folder`.
    facts : mapping
        From `train_facts`.

    Raises
    ------
    UsageError
        When a file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from imprint import load, train
    >>> run = train(load("digits"), recipe="quick", settings=["epochs=1", "min_steps=1"], silent=True)
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_run(run, folder, train_facts(run, folder, None))
    >>> sorted(path.name for path in folder.iterdir())
    ['history.csv', 'metrics.json', 'model.safetensors', 'recipe.json']
    """
    run.model.save(folder / MODEL_NAME)
    with written_whole(folder / HISTORY_NAME) as temporary, open(temporary, "w", newline="") as file:
        columns = [key for key in HISTORY_COLUMNS if key in run.history]
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["epoch", *columns])
        writer.writerows(history_rows(run.history, columns))
    for name, content in ((RECIPE_NAME, run.recipe.to_dict()), (METRICS_NAME, facts)):
        _write_json(folder / name, content)


def write_evidence(run: Run, plan: Plan, origin: Origin, folder: Path) -> None:
    """Write what the run came from, and what the model says of each validation picture.

    Parameters
    ----------
    run : Run
        The run.
    plan : Plan
        What it carried out.
    origin : Origin
        What it came from.
    folder : Path
        From `new_run_folder`.

    Raises
    ------
    UsageError
        When a file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from imprint import load
    >>> from imprint.runs.provenance import data_origin, origin_of
    >>> from imprint.training.plan import plan_training
    >>> from imprint.core.progress import Reporter
    >>> from imprint.runs.run import carry_out
    >>> digits, folder = load("digits"), Path(tempfile.mkdtemp())
    >>> plan = plan_training(digits, "quick", settings=["epochs=1", "min_steps=1"])
    >>> origin = origin_of(plan, "imprint train digits", data_origin(digits, "digits"))
    >>> write_evidence(carry_out(plan, Reporter(silent=True)), plan, origin, folder)
    >>> sorted(path.name for path in folder.iterdir())
    ['origin.json', 'validation.csv']
    """
    _write_json(folder / ORIGIN_NAME, origin.to_dict())
    if plan.validation is not None and run.predictions is not None:
        said, labels = run.predictions, plan.validation.labels_among(run.model.class_names)
        order = plan.held_out.argsort()
        sources, places = said.sources[order], plan.held_out[order]
        answers_to(
            said.probabilities[order], labels[order], said.class_names, said.unsure[order], sources, places
        ).write_csv(folder / ANSWERS_NAME)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def history_rows(history: Mapping[str, list[float]], columns: list[str]) -> list[list[str]]:
    """Turn a history of columns into rows that begin with the epoch.

    Parameters
    ----------
    history : mapping of str to list of float
        One value an epoch.
    columns : list of str
        Which to take, in order.

    Returns
    -------
    list of list of str
        One row an epoch, counted from 1.

    Examples
    --------
    >>> history_rows({"loss": [0.5, 0.25]}, ["loss"])
    [['1', '0.5'], ['2', '0.25']]
    """
    epochs = zip(*(history[column] for column in columns), strict=True)
    return [[str(i), *(f"{value:.6g}" for value in row)] for i, row in enumerate(epochs, start=1)]


@contextmanager
def at_work(
    folder: Path, plan: Plan, command: Mapping[str, Any], stopped: Stopped | None = None
) -> Iterator[Checkpoint]:
    """Hold a run folder while a run is going on in it, and leave it in order however the run ends.

    A run that stops after its first epoch leaves its last checkpoint; one that stops before leaves nothing.

    Parameters
    ----------
    folder : Path
        From `new_run_folder`, or that of a run that was stopped.
    plan : Plan
        What the run carries out.
    command : mapping of str to str or float
        Where its data are.
    stopped : Stopped or None, default=None
        The run that is taken up.

    Yields
    ------
    Checkpoint
        For `carry_out`.

    Raises
    ------
    StoppedError
        In place of KeyboardInterrupt, where a checkpoint is left.
    UsageError
        When another process is training in the folder.

    Examples
    --------
    >>> import tempfile
    >>> from imprint import load
    >>> from imprint.training.plan import plan_training
    >>> folder = Path(tempfile.mkdtemp())
    >>> with at_work(folder, plan_training(load("digits")), {"data": "digits"}) as checkpoint:
    ...     checkpoint.path.name
    'checkpoint.safetensors'
    >>> folder.exists()
    False
    """
    with sole_writer(folder):
        remove_unfinished(folder)
        checkpoint = Checkpoint(folder, plan, command)
        checkpoint.epochs = len(stopped.epochs) if stopped is not None else 0
        try:
            yield checkpoint
        except KeyboardInterrupt:
            if not checkpoint.epochs:
                raise
            kept = f"what was learnt by epoch {checkpoint.epochs} is kept"
            raise StoppedError("run", str(folder), f"stopped, {kept}", f"{go_on_with(folder)} goes on.") from None
        finally:
            if not checkpoint.epochs:
                with contextlib.suppress(OSError):
                    checkpoint.path.unlink(missing_ok=True)
                    folder.rmdir()  # which works only where nothing else is in it


def take_up(resume: Path | None, run: Path | None = None, seeds: int = 1) -> Stopped | None:
    """Find the run that ``--resume`` names.

    Parameters
    ----------
    resume : Path or None
        Its folder; None for a new run.
    run : Path or None, default=None
        The folder that ``--run`` names, which a resumed run cannot choose.
    seeds : int, default=1
        How many runs ``--seeds`` asks for; only one can be taken up.

    Returns
    -------
    Stopped or None
        Where that run stands.

    Raises
    ------
    ModelFileError
        When its checkpoint is damaged.
    UsageError
        When it has ended, is no run's folder, is not `run`, or is to be several.

    Examples
    --------
    >>> take_up(None) is None
    True
    """
    if resume is None:
        return None
    if run is not None and run.resolve() != resume.resolve():
        raise UsageError(f"--run {run}", "--resume", f"the run goes on in {resume}", "Leave --run out.")
    if seeds > 1:
        raise UsageError(f"--seeds {seeds}", "--resume", "one run is taken up at a time", "Leave --seeds out.")
    return find_stopped(resume)


def settle_command(given: Mapping[str, Any], stopped: Stopped | None = None) -> dict[str, Any]:
    """Settle where a run finds its data: as given now, else as given when it began.

    Parameters
    ----------
    given : mapping of str to str, float or None
        ``data``, ``validation``, ``test``, ``device``, ``group`` and ``allow_bad``; None is not given.
    stopped : Stopped or None, default=None
        The run that is taken up. Its paths are read from the folder in which it began.

    Returns
    -------
    dict of str to str or float
        What has been given, device and share included; and ``folder``, from where paths lead.

    Raises
    ------
    UsageError
        When there are no data.

    Examples
    --------
    >>> settled = settle_command({"data": "digits", "test": None})
    >>> settled["data"], "test" in settled, settled["device"]
    ('digits', False, 'auto')
    """
    before = {} if stopped is None else dict(stopped.command)
    folder = Path(before.pop("folder", Path.cwd()))
    if folder != Path.cwd():
        for key in {"data", "validation", "test"} & set(before):
            path = folder / before[key]
            before[key] = str(path) if path.exists() and before[key] != "digits" else before[key]
    now = {key: value for key, value in given.items() if value is not None}
    command = {"device": "auto", "allow_bad": 0.2, **before, **now, "folder": str(Path.cwd())}
    if "data" not in command:
        remedy = "Name the data, or a run that was stopped with --resume."
        raise UsageError("usage", "imprint train", "Missing argument DATA", remedy)
    return command


def go_on_with(folder: Path) -> str:
    """Tell the command that takes a run up.

    Parameters
    ----------
    folder : Path
        Its folder.

    Returns
    -------
    str
        For a shell.

    Examples
    --------
    >>> go_on_with(Path("runs/0001-quick"))
    'imprint train --resume runs/0001-quick'
    """
    return f"imprint train --resume {shlex.quote(str(folder))}"


def told_unfinished(path: Path) -> str:
    """Put into words that a run folder holds no model yet but a checkpoint.

    Parameters
    ----------
    path : Path
        A model file or run folder.

    Returns
    -------
    str
        Empty where there is nothing to say.

    Examples
    --------
    >>> told_unfinished(Path("digits.safetensors"))
    ''
    """
    if find_model(path).name != CHECKPOINT_NAME or not path.is_dir():
        return ""
    return f"{path} was stopped before its end: its best epoch so far is taken; {go_on_with(path)} goes on"
