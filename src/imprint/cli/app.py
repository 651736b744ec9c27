"""The command line: its verbs, in the order of the help."""

from __future__ import annotations

from typing import Annotated

import typer

from imprint.cli.data import cache, check, show
from imprint.cli.models import compare, evaluate, explain, export, predict, report, summary
from imprint.cli.training import train

DESCRIPTION = "Train a network to recognise images: labelled images in, a trained model and an honest score out."

app = typer.Typer(
    help=DESCRIPTION,
    rich_markup_mode=None,  # plain help: importing what draws it in boxes took half of the 0.18 s
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True, help=DESCRIPTION)
def version(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Print the version, where asked; the help of the program itself is `DESCRIPTION`."""
    if show_version:
        from imprint import __version__

        print(f"imprint {__version__}")
        raise typer.Exit


for verb in (show, check, train, evaluate, predict, explain, compare, report, export, summary, cache):
    app.command(short_help=verb.__doc__)(verb)  # whole, where the list of verbs would cut it
