"""The command line: its verbs, in the order of the help."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from imprint.cli.data import cache, check, show
from imprint.cli.models import compare, evaluate, explain, export, predict, report, summary
from imprint.cli.runs import runs
from imprint.cli.serve import serve
from imprint.cli.training import train
from imprint.core.errors import UsageError, did_you_mean
from imprint.core.progress import warnings_only

DESCRIPTION = "Train a network to recognise images: labelled images in, a trained model and an honest score out."
EXAMPLES: dict[Callable[..., None], tuple[str, ...]] = {
    show: ("show photos", "show train.csv --save digits.png", "show photos --augmented seen.png --recipe finetune"),
    check: ("check photos", "check train.csv --against test.csv --strict", "check photos --save report.html"),
    train: (
        "train photos",
        "train train.csv --test test.csv",
        "train photos --recipe finetune --epochs 5 --dry-run",
        "train --resume runs/0001-quick",
    ),
    evaluate: (
        "evaluate runs/0001-quick labelled.csv",
        "evaluate runs/pets photos/test -o all.csv --per-class classes.csv",
        "evaluate runs/pets photos/test --mistakes mistakes.html",
        "evaluate model.onnx photos/test --json",
    ),
    predict: (
        "predict runs/0001-quick test.csv -o result.csv",
        "predict runs/pets cat.jpg dog.jpg",
        "predict runs/pets holiday --sort-into sorted --probabilities -o result.csv",
        "predict model.onnx archive -o predicted/",
    ),
    explain: (
        "explain runs/pets cat.jpg",
        "explain runs/pets holiday --limit 300 -o holiday.html",
        "explain runs/0001-quick test.csv --index 7 -o seven.png",
    ),
    compare: (
        "compare runs/0001-quick runs/0002-best labelled.csv",
        "compare deployed.onnx runs/pets photos/test --strict --no-worse",
        "compare old.onnx runs/pets photos/test --json",
    ),
    report: ("report runs/0001-quick", "report runs/pets -o pets.html --data photos"),
    export: ("export runs/0001-quick", "export runs/pets -o pets.onnx --data photos/test --int8"),
    serve: ("serve", "serve runs/0001-quick", "serve model.onnx --port 9000 --no-browser", "serve --host 0.0.0.0"),
    summary: ("summary quick", "summary runs/0001-quick --json"),
    runs: ("runs --sort score", "runs --folder experiments --json", "runs delete runs/0001-quick"),
    cache: ("cache", "cache --limit 5", "cache --clear"),
}

app = typer.Typer(
    help=DESCRIPTION,
    rich_markup_mode=None,  # plain help: importing what draws it in boxes took half of the 0.18 s
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True, help=DESCRIPTION)
def callback(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Print the version, where asked; the help of the program itself is `DESCRIPTION`."""
    if show_version:
        version()
        raise typer.Exit


def _with_quiet(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the option --quiet."""

    @wraps(verb)
    def run(*, quiet: bool, **options: Any) -> None:
        with warnings_only(quiet):
            verb(**options)

    option = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing on stderr but warnings and errors.")]
    signature = inspect.signature(verb, eval_str=True)
    last = inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=option)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), last])  # type: ignore[attr-defined]
    run.__annotations__ = {name: one.annotation for name, one in signature.parameters.items()} | {"quiet": option}
    return run


for verb, examples in EXAMPLES.items():
    listed = "\n\n".join(["Examples:", "\b\n" + "\n".join(f"  imprint {line}" for line in examples)])
    app.command(short_help=verb.__doc__, epilog=listed)(_with_quiet(verb))  # whole, where the list would cut it


@app.command(name="help")
def show_help(
    verb: Annotated[str, typer.Argument(metavar="VERB", help="Left out, the list of verbs.")] = "",
) -> None:
    """Print the help of a verb."""
    verbs = [*(one.__name__ for one in EXAMPLES), "help", "version"]
    if verb and verb not in verbs:
        raise UsageError(verb, "imprint help", "there is no such verb", f"{did_you_mean(verb, verbs)}See imprint help.")
    app([*([verb] if verb else []), "--help"], standalone_mode=False)


@app.command()
def version() -> None:
    """Print the version."""
    from imprint import __version__

    print(f"imprint {__version__}")
