"""The verb train."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imprint.cli.options import AllowBad, AsJson, Group, form_of, print_json

if TYPE_CHECKING:
    from imprint.core.progress import Reporter
    from imprint.data.images import LabelledImages
    from imprint.runs.provenance import DataOrigin
    from imprint.training.plan import Plan
    from imprint.training.state import Stopped

# What a verb needs is imported inside it: `imprint --help` must not wait for torch.


def train(
    data: Annotated[
        str | None,
        typer.Argument(metavar="DATA", help="As for show; may be left out with --resume.", show_default=False),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="tutorial, quick, best, record, photos, or a recipe.json. Left out, the pictures decide."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a field of the recipe.")
    ] = None,
    validation: Annotated[
        str | None, typer.Option(metavar="SHARE|DATA", help="Share to hold out, or other data to validate with.")
    ] = None,
    test: Annotated[
        str | None, typer.Option(metavar="DATA", help="Predict this too: result.csv and predictions.png.")
    ] = None,
    run: Annotated[Path | None, typer.Option(metavar="DIR", help="The run folder. Left out, runs/0001-…")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order, augmentation and dropout.")] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Train so many runs, each with the next seed and a folder of its own.")
    ] = 1,
    device: Annotated[str | None, typer.Option(help="auto (if left out), cpu, cuda or mps.")] = None,
    group: Group = None,
    allow_bad: AllowBad = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Go on with a run that was stopped; ends as if it never had been."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Teach a network; writes a new run folder with model, history, scores and curves."""
    from imprint.core.progress import Reporter
    from imprint.data.load import load
    from imprint.report.tables import seeds_table
    from imprint.runs.folder import seeds_facts, settle_command, take_up
    from imprint.runs.provenance import data_origin
    from imprint.training.plan import picture_side, plan_training

    reporter, changes = Reporter(), settings or []
    stopped = take_up(resume, run, seeds)
    given = {"data": data, "validation": validation, "test": test}
    command = settle_command(given | {"device": device, "group": group, "allow_bad": allow_bad}, stopped)
    command.setdefault("typed", _command())  # a run that was taken up keeps what it began with
    where, group, test = command["data"], command.get("group"), command.get("test")
    base = stopped.recipe if stopped is not None and recipe is None else recipe
    side, bad = picture_side(base, changes), command["allow_bad"]
    images = load(where, side=side, group=group, allow_bad=bad, reporter=reporter)
    checked_by = _share_or_data(command.get("validation"), where, images, reporter)
    plan = plan_training(images, base, settings=changes, validation=checked_by, seed=seed, device=command["device"])
    plans = plan.with_seeds(seeds)
    tested = None if test is None else load(test, spec=plan.spec, allow_bad=1.0, reporter=reporter)
    if tested is not None:
        plan.spec.check(tested.shape, tested.name)
    if stopped is not None:
        stopped.check(plan, reporter)
    origin = data_origin(images, where, side=side, group=group, allow_bad=bad)
    sources = origin, _checked_origin(checked_by, command.get("validation"), where, images)
    each: list[dict[str, Any]] = []
    for one in plans:
        folder = run if run is None or seeds == 1 else run / f"seed-{one.recipe.seed}"
        each.append(_train_one(one, sources, command, stopped, folder, tested, reporter, as_json))
        if each[-1]["interrupted"]:
            break
    if as_json:
        print_json(each[0] if seeds == 1 else seeds_facts(each, [one.recipe.seed for one in plans[: len(each)]]))
    elif seeds > 1:
        print(seeds_table(seeds_facts(each, [one.recipe.seed for one in plans[: len(each)]])))


def _train_one(
    plan: Plan,
    sources: tuple[DataOrigin, DataOrigin | None],
    command: dict[str, Any],
    stopped: Stopped | None,
    folder: Path | None,
    tested: LabelledImages | None,
    reporter: Reporter,
    as_json: bool,
) -> dict[str, Any]:
    """Carry a plan out, write its run folder, and give the facts of it."""
    from imprint.report.plots import random_window, save_curves, save_predictions
    from imprint.runs.folder import at_work, go_on_with, new_run_folder, train_facts, write_evidence, write_run
    from imprint.runs.provenance import origin_of
    from imprint.runs.run import carry_out

    folder = new_run_folder(plan.recipe.name, folder) if stopped is None else stopped.path.parent
    with at_work(folder, plan, command, stopped) as checkpoint:
        done = carry_out(plan, reporter, checkpoint, stopped)
        facts = train_facts(done, folder, None if tested is None else folder / "result.csv")
        write_run(done, folder, facts)
        write_evidence(done, plan, origin_of(plan, command["typed"], *sources), folder)
        save_curves(done.history, folder / "curves.png")
        if tested is not None:
            predictions = done.model.predict(tested)
            predictions.write_csv(folder / "result.csv")
            window = random_window(len(tested), plan.recipe.seed)
            save_predictions(tested, predictions, folder / "predictions.png", window)
        if done.interrupted:
            reporter.say(f"{go_on_with(folder)} goes on from epoch {checkpoint.epochs}")
        else:
            checkpoint.path.unlink()
    if not as_json:
        print(f"trained in {done.seconds:.1f} s")
        if done.validation is not None:
            print(f"validation accuracy {done.validation}")
        for path in sorted(folder.iterdir()):
            print(path)
        print(done.expectation)
    return facts


def _share_or_data(
    text: str | None, data: str, images: LabelledImages, reporter: Reporter
) -> float | LabelledImages | None:
    """Read --validation: a number is a share, anything else is data; left out, the data's own part is taken."""
    from imprint.data.load import load, parts

    spec = form_of(images)
    if text is None:
        given = "validation" in parts(data)
        return load(data, part="validation", spec=spec, reporter=reporter) if given else None
    try:
        return float(text)
    except ValueError:
        return load(text, spec=spec, reporter=reporter)


def _checked_origin(
    checked_by: float | LabelledImages | None, validation: str | None, data: str, images: LabelledImages
) -> DataOrigin | None:
    """Note where the validation data came from, where it is data of its own."""
    from imprint.data.images import LabelledImages
    from imprint.runs.provenance import data_origin

    if not isinstance(checked_by, LabelledImages):
        return None
    if validation is None:
        return data_origin(checked_by, data, part="validation", form=images.shape)
    return data_origin(checked_by, validation, form=images.shape)


def _command() -> str:
    """Give what was typed, so that it can be typed again."""
    return shlex.join(["imprint", *sys.argv[1:]])
