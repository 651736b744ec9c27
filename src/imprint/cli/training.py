"""The verb train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from imprint.cli.options import (
    AllowBad,
    AsJson,
    Classes,
    Group,
    Ids,
    Label,
    Labels,
    Processes,
    class_list,
    dated,
    joined_fields,
    print_json,
    share_or_data,
    share_out,
)

# What a verb needs is imported inside it: `imprint --help` must not wait for torch.


def train(
    data: Annotated[
        str | None,
        typer.Argument(metavar="DATA", help="As for show; may be left out with --resume.", show_default=False),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="tutorial, quick, best, record, photos, probe, finetune, a recipe.json or run. Else images decide."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a field of the recipe; imprint summary RECIPE lists them with their meaning.",
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="As --set epochs=N; so are the next two.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images in a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The highest rate, or that of the beginning.")] = None,
    validation: Annotated[
        str | None, typer.Option(metavar="SHARE|DATA", help="Share to hold out, or other data to validate with.")
    ] = None,
    test: Annotated[
        str | None, typer.Option(metavar="DATA", help="Predict this too: result.csv and predictions.png.")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="The run folder, {date} for today's; goes on with one stopped. Else runs/0001-…."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order, augmentation and dropout.")] = None,
    trust: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", help="Share of the sure answers that must be right, 0.95 if left out; 0 for any."
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Train so many runs, each with the next seed and its own folder.")
    ] = 1,
    device: Annotated[str | None, typer.Option(help="auto (if left out), cpu, cuda or mps.")] = None,
    processes: Processes = None,
    label: Label = None,
    group: Group = None,
    ids: Ids = None,
    allow_bad: AllowBad = None,
    classes: Classes = None,
    from_model: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="MODEL",
            help="Start from this model or run, of the same recipe; what it held out stays so.",
        ),
    ] = None,
    labels: Labels = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Go on with a run that was stopped; the result is that of an uninterrupted run."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would be trained and how long it takes; nothing is written.")
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="Tell on stderr all that was decided, and how this machine computes."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a network; writes a new run folder with model, history, scores and curves."""
    share_out(processes)
    from imprint.core.progress import details_too
    from imprint.recipes import parse_settings
    from imprint.report.tables import plan_lines, run_lines, seeds_table
    from imprint.runs.run import seeds_facts
    from imprint.runs.training import dry_run as plan_run
    from imprint.runs.training import train as train_run
    from imprint.runs.training import train_seeds
    from imprint.training.launching import crew_of_torchrun

    own = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed, "trust": trust}
    fields = joined_fields(parse_settings(settings or []), own)
    options: dict[str, Any] = {"label": label, "group": group, "ids": ids, "allow_bad": allow_bad}
    options |= {"labels": labels, "device": device, "resume": resume, "test": test, "classes": class_list(classes)}
    options |= {"from_model": from_model}
    validation_given, folder = share_or_data(validation), True if run is None else dated(run)
    options |= {"validation": validation_given, "run": folder}
    if dry_run:
        with crew_of_torchrun():
            planned = plan_run(data, recipe, seeds=seeds, **options, **fields)
        if as_json:
            print_json(planned.facts())
        else:
            print(plan_lines(planned))
        return
    finished = []
    with details_too(verbose), crew_of_torchrun():
        if seeds == 1:
            runs = iter([train_run(data, recipe, **options, **fields)])
        else:
            runs = train_seeds(data, recipe, seeds=seeds, **options, **fields)
        for finished_run in runs:
            finished.append(finished_run)
            if not as_json:
                print(run_lines(finished_run), flush=True)
    finished.sort(key=lambda one: one.recipe.seed)  # several processes may have trained them
    facts = finished[0].facts() if seeds == 1 else seeds_facts(finished)
    if as_json:
        print_json(facts)
    elif seeds > 1:
        print(seeds_table(facts))
