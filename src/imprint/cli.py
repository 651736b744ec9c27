"""The command line: one function a verb, no logic of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from imprint.images import LabelledImages
    from imprint.input_spec import InputSpec
    from imprint.progress import Reporter

# What a verb needs is imported inside it: `imprint --help` must not wait for torch.

app = typer.Typer(
    help="Teach a machine to recognise images: labelled pictures in, a trained network and an honest score out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A folder of class folders, pictures, .csv, .npz, .parquet, IDX file, .zip of these, or digits (bundled).",
    ),
]
Group = Annotated[
    str | None,
    typer.Option(metavar="REGEX|COLUMN", help="What pictures share that must stay on one side of a split."),
]
AllowBad = Annotated[
    float, typer.Option(min=0, max=1, metavar="SHARE", help="Share of the pictures that may be unreadable.")
]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A model file or run folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@app.command()
def show(
    data: Data,
    save: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw labelled pictures here.")] = None,
    count: Annotated[int, typer.Option(min=1, max=400, help="How many pictures to draw.")] = 5,
    seen_by: Annotated[
        Path | None, typer.Option("--as", metavar="MODEL", help="Draw what a model sees of a picture, step by step.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what the data is: count, size, channels, classes and first rows."""
    if seen_by is not None:
        _show_as(data, seen_by, save)
        return
    from imprint.data import load
    from imprint.progress import Reporter
    from imprint.tables import preview

    images = load(data, reporter=Reporter())
    if as_json:
        channels, height, width = images.shape
        facts = {"images": len(images), "channels": channels, "height": height, "width": width}
        _print_json(facts | {"classes": images.class_counts()})
    else:
        print(preview(images))
    if save is not None:
        from imprint.plots import save_samples

        save_samples(images, save, count)
        _say(f"wrote {save}")


def _show_as(picture: str, model: Path, save: Path | None) -> None:
    """Draw what a model sees of one picture file, step by step."""
    from imprint.classifier import Classifier
    from imprint.data.decode import decode
    from imprint.input_spec import fitting_steps
    from imprint.plots import save_steps

    steps = fitting_steps(decode(Path(picture)).pixels, Classifier.load(model).spec)
    save = save or Path(f"{Path(picture).stem}-seen.png")
    save_steps(steps, save)
    print(save)


@app.command()
def check(
    data: Data,
    against: Annotated[
        str | None, typer.Option(metavar="DATA", help="Other data, such as a test set, that must share no picture.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="End with status 1 if anything was found.")] = False,
    save: Annotated[Path | None, typer.Option(metavar="REPORT.html", help="Write a page with pictures.")] = None,
    fix: Annotated[
        Path | None, typer.Option(metavar="OUT.csv", help="Write the data without what was found, for train.")
    ] = None,
    labels: Annotated[bool, typer.Option(help="Look for wrong labels, which trains three networks.")] = True,
    seed: Annotated[int, typer.Option(help="Of those networks.")] = 7,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    group: Group = None,
    as_json: AsJson = False,
) -> None:
    """Find what is wrong with pictures and labels: unreadable, doubled, leaking, wrongly labelled and more."""
    from imprint.checking import check as examine
    from imprint.data import load, parts
    from imprint.progress import Reporter
    from imprint.tables import findings_table

    reporter = Reporter()
    images = load(data, group=group, allow_bad=1.0, reporter=reporter)
    form = _form(images)
    others = [load(data, part=part, spec=form, allow_bad=1.0, reporter=reporter) for part in parts(data)[1:]]
    others += [] if against is None else [load(against, spec=form, allow_bad=1.0, reporter=reporter)]
    findings = examine(images, against=others, labels=labels, seed=seed, device=device)
    if as_json:
        _print_json(findings.to_dict())
    else:
        print(findings_table(findings))
    for note in findings.notes:
        _say(note)
    if save is not None:
        from imprint.findings_page import write_page

        write_page(findings, [images, *others], save)
        _say(f"wrote {save}")
    if fix is not None:
        from imprint.cleaned import write_cleaned

        _say(f"wrote {write_cleaned(images, findings, fix):,} of {len(images):,} pictures to {fix}")
    if strict and findings.findings:
        raise typer.Exit(1)


@app.command()
def train(
    data: Data,
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
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    group: Group = None,
    allow_bad: AllowBad = 0.2,
    as_json: AsJson = False,
) -> None:
    """Teach a network; writes a new run folder with model, history, scores and curves."""
    from imprint.data import load
    from imprint.plan import picture_side, plan_training
    from imprint.progress import Reporter
    from imprint.run_folder import discard_empty, new_run_folder, train_facts, write_run
    from imprint.training import carry_out

    reporter, changes = Reporter(), settings or []
    images = load(data, side=picture_side(recipe, changes), group=group, allow_bad=allow_bad, reporter=reporter)
    checked_by = _share_or_data(validation, data, images, reporter)
    plan = plan_training(images, recipe, settings=changes, validation=checked_by, seed=seed, device=device)
    tested = None if test is None else load(test, spec=plan.spec, allow_bad=1.0, reporter=reporter)
    if tested is not None:
        plan.spec.check(tested.shape, tested.name)
    folder = new_run_folder(plan.recipe.name, run)
    try:
        done = carry_out(plan, reporter)
        facts = train_facts(done, folder, None if tested is None else folder / "result.csv")
        write_run(done, folder, facts)
    finally:
        discard_empty(folder)
    from imprint.plots import random_window, save_curves, save_predictions

    save_curves(done.history, folder / "curves.png")
    if tested is not None:
        predictions = done.model.predict(tested)
        predictions.write_csv(folder / "result.csv")
        window = random_window(len(tested), plan.recipe.seed)
        save_predictions(tested, predictions, folder / "predictions.png", window)
    if as_json:
        _print_json(facts)
    else:
        print(f"trained in {done.seconds:.1f} s")
        if done.validation is not None:
            print(f"validation accuracy {done.validation}")
        for path in sorted(folder.iterdir()):
            print(path)


@app.command()
def evaluate(model: Model, data: Data, as_json: AsJson = False) -> None:
    """Give the honest score on labelled pictures: accuracy with interval and baseline, and the confusions."""
    from dataclasses import asdict

    from imprint.classifier import Classifier
    from imprint.evaluation import evaluate as run_evaluation
    from imprint.progress import Reporter
    from imprint.tables import score_table

    result = run_evaluation(Classifier.load(model), data, _part_to_score(data), Reporter())
    if as_json:
        _print_json(asdict(result))
    else:
        print(score_table(result))


@app.command()
def predict(
    model: Model,
    data: Data,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.csv", help="Write here instead of to stdout.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Name each picture's class: ImageId,Label for a CSV of pixels, else source, label, confidence, unsure."""
    from imprint.classifier import Classifier
    from imprint.progress import Reporter

    classifier = Classifier.load(model)
    predictions = classifier.predict(classifier.ready(data, reporter=Reporter()))
    if output is not None:
        predictions.write_csv(output)
        _say(f"wrote {len(predictions):,} predictions to {output}")
    if as_json:
        _print_json({"predictions": predictions.to_dicts()})
    elif output is None:
        print(predictions.to_csv(), end="")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="MODEL", help="A model file or run folder.")],
    second: Annotated[Path, typer.Argument(metavar="MODEL", help="Another.")],
    data: Data,
    as_json: AsJson = False,
) -> None:
    """Tell whether one of two models is really better, on labelled pictures that neither has learnt from."""
    from dataclasses import asdict

    from imprint.classifier import Classifier
    from imprint.evaluation import compare as run_comparison
    from imprint.progress import Reporter
    from imprint.tables import comparison_table

    result = run_comparison(Classifier.load(first), Classifier.load(second), data, _part_to_score(data), Reporter())
    if as_json:
        _print_json(asdict(result) | {"verdict": result.verdict})
    else:
        print(comparison_table(str(first), str(second), result))


@app.command()
def summary(
    what: Annotated[str, typer.Argument(metavar="MODEL|RECIPE", help="A model file, run folder or recipe name.")],
    as_json: AsJson = False,
) -> None:
    """List a network's layers, output shapes and parameters, as Keras does."""
    from dataclasses import asdict

    from imprint.classifier import Classifier
    from imprint.nets import build_net
    from imprint.recipes import RECIPES
    from imprint.summary import summarise
    from imprint.tables import summary_table

    if what in RECIPES:
        side = RECIPES[what].largest_side
        shape = (3, side, side) if side else (1, 28, 28)
        layers = summarise(build_net(RECIPES[what].net, shape[0], shape[1:], 10), shape)
    else:
        layers = Classifier.load(what).summary()
    if as_json:
        total, trainable = (sum(getattr(layer, key) for layer in layers) for key in ("parameters", "trainable"))
        counts = {"total": total, "trainable": trainable, "non_trainable": total - trainable}
        _print_json({"layers": [asdict(layer) for layer in layers], **counts})
    else:
        print(summary_table(what, layers))


@app.command()
def cache(
    limit: Annotated[
        float | None, typer.Option(min=0, metavar="GB", help="Remove what was used longest ago until the rest fits.")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove everything.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the decoded pictures kept for the next run; bound them, or clear them."""
    from imprint.data import cache as kept
    from imprint.tables import cache_table

    if clear or limit is not None:
        removed = kept.clear() if clear else kept.bound(int((limit or 0) * 1e9))
        _say(f"removed {removed / 1e6:,.1f} MB")
    entries = kept.entries()
    if as_json:
        facts = [{"name": one.name, "pictures": one.pictures, "bytes": one.size, "used": one.used} for one in entries]
        _print_json({"folder": str(kept.folder()), "limit": kept.limit(), "entries": facts})
    else:
        print(cache_table(str(kept.folder()), kept.limit(), entries))


@app.callback(invoke_without_command=True)
def version(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Teach a machine to recognise images: labelled pictures in, a trained network and an honest score out."""
    if show_version:
        from imprint import __version__

        print(f"imprint {__version__}")
        raise typer.Exit


def _share_or_data(
    text: str | None, data: str, images: LabelledImages, reporter: Reporter
) -> float | LabelledImages | None:
    """Read --validation: a number is a share, anything else is data; left out, the data's own part is taken."""
    from imprint.data import load, parts

    spec = _form(images)
    if text is None:
        given = "validation" in parts(data)
        return load(data, part="validation", spec=spec, reporter=reporter) if given else None
    try:
        return float(text)
    except ValueError:
        return load(text, spec=spec, reporter=reporter)


def _form(images: LabelledImages) -> InputSpec:
    """Tell the form of pictures, for reading others alike."""
    from imprint.input_spec import InputSpec

    channels, height, width = images.shape
    return InputSpec(channels, (height, width), (height, width))


def _part_to_score(data: str) -> str | None:
    """Tell which part of divided data was kept for scoring."""
    from imprint.data import parts

    part = next((part for part in ("test", "validation") if part in parts(data)), None)
    if part is not None:
        _say(f"scoring the {part} part of {data}")
    return part


def _say(line: str) -> None:
    from imprint.progress import Reporter

    Reporter().say(line)


def _print_json(content: dict[str, Any]) -> None:
    print(json.dumps(content, ensure_ascii=False))
