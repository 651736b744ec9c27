"""The command line: one function a verb, no logic of its own."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from imprint.checkpoint import Stopped
    from imprint.images import LabelledImages
    from imprint.input_spec import InputSpec
    from imprint.origin import DataOrigin
    from imprint.plan import Plan
    from imprint.predictor import Predictor
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
    float | None,
    typer.Option(min=0, max=1, metavar="SHARE", help="Share of the pictures that may be unreadable; else 0.2."),
]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A model file, an exported .onnx, or a run folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@app.command()
def show(
    data: Data,
    save: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw labelled pictures here.")] = None,
    count: Annotated[int, typer.Option(min=1, max=400, help="How many pictures to draw.")] = 5,
    augmented: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw pictures beside versions of them as training sees them."),
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="Whose versions. Left out, the pictures decide.")] = None,
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
    if augmented is not None:
        from imprint.plan import plan_training
        from imprint.plots import save_augmented

        plan = plan_training(images, recipe)
        save_augmented(images, plan.spec, plan.recipe, augmented, count)
        _say(f"wrote {augmented}")


def _show_as(picture: str, model: Path, save: Path | None) -> None:
    """Draw what a model sees of one picture file, step by step."""
    from imprint.data.decode import decode
    from imprint.input_spec import fitting_steps
    from imprint.plots import save_steps

    steps = fitting_steps(decode(Path(picture)).pixels, _model(model).spec)
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
    from imprint.data import load
    from imprint.origin import data_origin
    from imprint.plan import picture_side, plan_training
    from imprint.progress import Reporter
    from imprint.run_at_work import settle_command, take_up
    from imprint.run_folder import seeds_facts
    from imprint.tables import seeds_table

    reporter, changes = Reporter(), settings or []
    stopped = take_up(resume, run, seeds)
    given = {"data": data, "validation": validation, "test": test}
    command = settle_command(given | {"device": device, "group": group, "allow_bad": allow_bad}, stopped)
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
        _print_json(each[0] if seeds == 1 else seeds_facts(each, [one.recipe.seed for one in plans[: len(each)]]))
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
    from imprint.origin import origin_of
    from imprint.plots import random_window, save_curves, save_predictions
    from imprint.run_at_work import at_work, go_on_with
    from imprint.run_folder import new_run_folder, train_facts, write_evidence, write_run
    from imprint.training import carry_out

    folder = new_run_folder(plan.recipe.name, folder) if stopped is None else stopped.path.parent
    with at_work(folder, plan, command, stopped) as checkpoint:
        done = carry_out(plan, reporter, checkpoint, stopped)
        facts = train_facts(done, folder, None if tested is None else folder / "result.csv")
        write_run(done, folder, facts)
        write_evidence(done, plan, origin_of(plan, _command(), *sources), folder)
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


@app.command()
def evaluate(
    model: Model,
    data: Data,
    clinic: Annotated[
        bool, typer.Option("--clinic", help="Tell why it erred on each picture that it erred on.")
    ] = False,
    training: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="What the model learnt from, for --clinic. Left out, the run tells."),
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw confusions, confidence, classes and mistakes into here.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Give the honest score on labelled pictures: accuracy with interval and baseline, and the confusions."""
    from dataclasses import asdict

    from imprint.evaluation import evaluate as run_evaluation
    from imprint.progress import Reporter
    from imprint.tables import score_table

    classifier, reporter = _model(model), Reporter()
    images = classifier.ready(data, _part_to_score(data), reporter)
    result = run_evaluation(classifier, images)
    facts, text = asdict(result), score_table(result)
    if clinic:
        from imprint.classifier import Classifier
        from imprint.clinic import diagnose
        from imprint.mistakes_table import mistakes_table
        from imprint.run_record import read_run

        learnt = training or read_run(model).read_pictures(reporter=reporter)[0]
        diagnosed = diagnose(Classifier.load(model), images, learnt, reporter=reporter)
        facts |= {"mistakes": diagnosed.to_dicts()}
        text += f"\n\n{mistakes_table(diagnosed)}"
    if pictures is not None:
        from imprint.answers import answers_to
        from imprint.score_plots import save_score_plots

        said, labels = classifier.predict(images), images.labels_among(classifier.class_names)
        answers = answers_to(said.probabilities, labels, said.class_names, said.unsure, said.sources)
        pictures.mkdir(parents=True, exist_ok=True)
        for path in save_score_plots(answers, images, pictures):
            _say(f"wrote {path}")
    if as_json:
        _print_json(facts)
    else:
        print(text)


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
    from imprint.progress import Reporter

    classifier = _model(model)
    predictions = classifier.predict(classifier.ready(data, reporter=Reporter()))
    if output is not None:
        predictions.write_csv(output)
        _say(f"wrote {len(predictions):,} predictions to {output}")
    if as_json:
        _print_json({"predictions": predictions.to_dicts()})
    elif output is None:
        print(predictions.to_csv(), end="")


@app.command()
def explain(
    model: Model,
    picture: Annotated[str, typer.Argument(metavar="PICTURE", help="A picture, or data of which --index picks one.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.png", help="Draw here. Left out, a name is made up.")
    ] = None,
    index: Annotated[int, typer.Option(help="Which picture of the data, counted from 0 as in predictions.png.")] = 0,
    network: Annotated[int, typer.Option(help="Which network of a model of several, counted from 1.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Draw where a network looked in a picture, its first filters, and what each layer makes of the picture."""
    from imprint.classifier import Classifier
    from imprint.explanation import explain as run_explanation
    from imprint.explanation_plots import save_explanation
    from imprint.progress import Reporter

    explanation = run_explanation(Classifier.load(model), picture, index, network, Reporter())
    output = output or Path(f"{Path(picture).stem}{f'-{index}' if index else ''}-explained.png")
    save_explanation(explanation, output)
    if as_json:
        _print_json(explanation.facts() | {"files": [str(output)]})
    else:
        fact = explanation.prediction.to_dicts()[0]
        unsure = ", unsure" if fact["unsure"] else ""
        print(f"{explanation.where}: {fact['label']} (confidence {fact['confidence']:.4f}{unsure})")
        print(output)


@app.command()
def compare(
    first: Model,
    second: Annotated[Path, typer.Argument(metavar="MODEL", help="Another.")],
    data: Data,
    as_json: AsJson = False,
) -> None:
    """Tell whether one of two models is really better, on labelled pictures that neither has learnt from."""
    from dataclasses import asdict

    from imprint.evaluation import compare as run_comparison
    from imprint.progress import Reporter
    from imprint.tables import comparison_table

    result = run_comparison(_model(first), _model(second), data, _part_to_score(data), Reporter())
    if as_json:
        _print_json(asdict(result) | {"verdict": result.verdict})
    else:
        print(comparison_table(str(first), str(second), result))


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.html", help="Write here instead of to report.html in the run."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="Where the run's data stands now, if it was moved.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write one HTML page about a run: what it learnt, how good and how sure it is, what it gets wrong and why."""
    from imprint.progress import Reporter
    from imprint.report import write_report

    path = write_report(run, output, data, Reporter())
    if as_json:
        _print_json({"report": str(path)})
    else:
        print(path)


@app.command()
def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model file or run folder.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.onnx", help="Left out, beside the model file.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Pictures to prove the file on. Left out, real ones that come along."),
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Weights of 8 bits; says how much accuracy that costs on --data.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write one .onnx file, pixels in and probabilities out; it is kept only if it answers as the model does."""
    from dataclasses import asdict

    from imprint.classifier import MODEL_NAME, Classifier
    from imprint.exporting import export as write
    from imprint.progress import Reporter

    path = output or (model / MODEL_NAME if model.is_dir() else model).with_suffix(".onnx")
    done = write(Classifier.load(model, device="cpu"), path, data, int8=int8, reporter=Reporter())
    if as_json:
        _print_json(asdict(done) | {"path": str(path), "bytes": path.stat().st_size})
    else:
        print(done)
        if done.rounding is not None:
            print(f"int8: {done.rounding}")
        print(path)


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


def _model(path: Path) -> Predictor:
    """Read a model in whichever form it is, and say where its training was stopped; an exported one needs no torch."""
    if path.suffix.lower() == ".onnx":
        from imprint.onnx_classifier import OnnxClassifier

        return OnnxClassifier.load(path)
    from imprint.classifier import Classifier
    from imprint.run_at_work import told_unfinished

    model, unfinished = Classifier.load(path), told_unfinished(path)
    if unfinished:
        _say(unfinished)
    return model


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


def _checked_origin(
    checked_by: float | LabelledImages | None, validation: str | None, data: str, images: LabelledImages
) -> DataOrigin | None:
    """Note where the validation data came from, where it is data of its own."""
    from imprint.images import LabelledImages
    from imprint.origin import data_origin

    if not isinstance(checked_by, LabelledImages):
        return None
    if validation is None:
        return data_origin(checked_by, data, part="validation", form=images.shape)
    return data_origin(checked_by, validation, form=images.shape)


def _command() -> str:
    """Give what was typed, so that it can be typed again."""
    return shlex.join(["imprint", *sys.argv[1:]])


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
