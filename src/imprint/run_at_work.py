"""A run at work in its folder: begun, taken up again, and left in order however it ends."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imprint.checkpoint import Checkpoint, Stopped, find_stopped
from imprint.errors import StoppedError, UsageError
from imprint.files import remove_unfinished, sole_writer
from imprint.model_file import CHECKPOINT_NAME, find_model
from imprint.plan import Plan


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
    >>> from imprint.plan import plan_training
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
