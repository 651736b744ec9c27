"""The verb runs: lists run folders, and deletes them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from imprint.cli.options import AsJson, print_json
from imprint.core.errors import UsageError, did_you_mean
from imprint.core.progress import say

# What a verb needs is imported inside it: `imprint --help` must not wait for NumPy.


def runs(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[delete RUN]", help="Left out, the runs are listed.")
    ] = None,
    folder: Annotated[Path, typer.Option(metavar="DIR", help="Where the runs are.")] = Path("runs"),
    sort: Annotated[str, typer.Option(help="name, score, data, time, size or ended.")] = "name",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the runs with recipe, score, data, time and size; runs delete RUN deletes what a run wrote."""
    action, *named = words or ["list"]
    if action == "delete" and named:
        _delete([Path(name) for name in named], yes, as_json)
        return
    if action != "list" or named:
        remedy = f"{did_you_mean(action, ['list', 'delete'])}Write imprint runs, or imprint runs delete RUN."
        raise UsageError(" ".join([action, *named]), "imprint runs", "that cannot be done with runs", remedy)
    from dataclasses import asdict

    from imprint.runs.listing import SORT_KEYS, list_runs

    if sort not in SORT_KEYS:
        remedy = f"{did_you_mean(sort, SORT_KEYS)}Use {', '.join(SORT_KEYS)}."
        raise UsageError(f"--sort {sort}", "imprint runs", "there is no such column", remedy)
    found = list_runs(folder, sort)
    if as_json:
        print_json({"runs": [asdict(one) for one in found]})
    else:
        from imprint.report.tables import runs_table

        print(runs_table(found))


def _delete(folders: list[Path], yes: bool, as_json: bool) -> None:
    """Delete run folders, once somebody has agreed."""
    from imprint.runs.listing import check_deletable, delete_runs

    check_deletable(folders)
    if as_json and not yes and not (sys.stdin is not None and sys.stdin.isatty()):
        cause = "with --json, and no terminal to ask on, nobody can agree, so they are kept"
        raise UsageError("runs", "imprint runs delete", cause, "Add --yes.")
    if not yes and not _agreed(f"Delete {', '.join(map(str, folders))} for good? [y/N] "):
        raise UsageError("runs", "imprint runs delete", "nobody agreed, so they are kept", "Answer y, or add --yes.")
    delete_runs(folders)
    for folder in folders:
        say(f"deleted {folder}")
    if as_json:
        print_json({"deleted": [str(folder) for folder in folders]})


def _agreed(question: str) -> bool:
    """Ask on stderr; no answer is a no."""
    print(question, end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline() if sys.stdin is not None else ""
    if not answer.endswith("\n"):
        print(file=sys.stderr)
    return answer.strip().lower() in ("y", "yes")
