"""Verbs about models and runs: evaluate, predict, explain, compare, report, export and summary."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imprint.cli.options import (
    AsJson,
    Classes,
    Data,
    Ids,
    Label,
    Labels,
    Model,
    class_list,
    is_folder,
    learnt_from,
    load_classifier,
    one_or_files,
    part_to_predict,
    part_to_score,
    print_json,
    read_model,
    set_threads,
    unused,
    writable,
    writable_or_folder,
)
from imprint.core.errors import UsageError
from imprint.core.progress import say, warn

if TYPE_CHECKING:
    from imprint.data.images import LabelledImages

PAGES = (".html", ".htm")
EVER_UNSURE = "every answer is unsure: not even the surest were right often enough on the images that settled it"
MOST_EXPLAINED = 100  # images on the page of explain, some 40 kB each

# What a verb needs is imported inside it: `imprint --help` must not wait for torch.


def evaluate(
    model: Model,
    data: Data,
    clinic: Annotated[bool, typer.Option("--clinic", help="Tell why it erred on each image that it erred on.")] = False,
    training: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="What the model learnt from, for --clinic. Left out, the run tells."),
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw confusions, confidence, classes and mistakes into here.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.csv",
            callback=writable,
            help="Write what it says of every image, and why it erred.",
        ),
    ] = None,
    per_class: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", callback=writable, help="Write the scores of every class.")
    ] = None,
    mistakes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html|FILE.csv",
            callback=writable,
            help="Write the mistakes, to correct labels in: a page, or the CSV that it saves, for train --labels.",
        ),
    ] = None,
    label: Label = None,
    classes: Classes = None,
    labels: Labels = None,
    as_json: AsJson = False,
) -> None:
    """Give the honest score on labelled images: accuracy with interval and baseline, and the confusions."""
    from dataclasses import asdict

    from imprint.analysis.evaluation import evaluate_each
    from imprint.core.files import make_folder
    from imprint.data.remote import without_secrets
    from imprint.report.tables import score_table

    if training is not None and not (clinic or output or mistakes):
        raise unused("--training", "without --clinic")
    if pictures is not None:
        make_folder(pictures)
    classifier = read_model(model, data)
    images = classifier.ready(data, part_to_score(data), label, labels=labels)
    images = images if classes is None else images.select(class_list(classes) or [])
    learnt_notes, trained_on = learnt_from(model, images)
    result, labelled = evaluate_each(classifier, images)
    facts, text = asdict(result), score_table(result)
    facts |= {"notes": [*learnt_notes, *result.notes], "trained_on": trained_on}
    causes = dict[int, str]()
    if clinic:
        from imprint.analysis.error_analysis import analyse_errors
        from imprint.report.tables import mistakes_table
        from imprint.runs.read_run import read_run

        learnt = training or read_run(model).read_images()[0]
        diagnosed = analyse_errors(load_classifier(model), images, learnt)
        causes = {one.image: one.cause for one in diagnosed.mistakes}
        facts |= {"mistakes": diagnosed.to_dicts()}
        text += f"\n\n{mistakes_table(diagnosed)}"
    elif output or mistakes:
        causes = _causes(model, images, training)
    if pictures is not None:
        from imprint.report.score_plots import save_score_plots

        for path in save_score_plots(labelled, images, pictures):
            say(f"wrote {path}")
        say("of classes and mistakes the worst are drawn; --per-class and --mistakes write all")
    if output is not None:
        labelled.write_evaluated(output, causes)
        say(f"wrote {len(labelled):,} images to {output}")
    if per_class is not None:
        result.write_per_class(per_class)
        say(f"wrote {len(result.classes):,} classes to {per_class}")
    if mistakes is not None:
        from imprint.report.mistakes_page import save_mistakes

        named = without_secrets(data)
        count = save_mistakes(labelled, images, causes, named, mistakes)
        then = f": correct their labels, then {_training_command(named, mistakes)}" if count else ""
        say(f"wrote {count:,} mistakes to {mistakes}{then}")
    if as_json:
        print_json(facts)
    else:
        print(text)
    for note in result.notes:
        say(note)


def _causes(model: Path, images: LabelledImages, training: str | None) -> dict[int, str]:
    """Find why a model erred, by position; where that cannot be found, say why, unless training data were named."""
    from imprint.core.errors import ImprintError

    try:
        if model.suffix.lower() == ".onnx":
            raise UsageError(str(model), "MODEL", "an exported model does not tell", "Name the model file or the run.")
        from imprint.analysis.error_analysis import causes_of_unseen
        from imprint.runs.read_run import read_run

        learnt = training or read_run(model).read_images()[0]
        return causes_of_unseen(load_classifier(model), images, learnt)
    except ImprintError as error:
        if training is not None:
            raise
        say(f"without the causes of mistakes: {error}")
        return {}


def _training_command(data: str, mistakes: Path) -> str:
    return f"imprint train {shlex.quote(data)} --labels {shlex.quote(str(mistakes.with_suffix('.csv')))}"


def predict(
    model: Model,
    data: Annotated[list[str], typer.Argument(metavar="DATA", help="As for show, or several files of images.")],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.csv|FOLDER/",
            callback=writable_or_folder,
            help="Write here instead of to stdout; of any number of images into a folder, going on if run again.",
        ),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(metavar="ray", help="For -o FOLDER/: predict on a Ray cluster, or on all cores.")
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Add a column for each class: its probability.")
    ] = False,
    sort_into: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Copy each image into DIR/CLASS, unsure ones into DIR/unsure."),
    ] = None,
    link: Annotated[bool, typer.Option("--link", help="For --sort-into: links to the images, no copies.")] = False,
    ids: Ids = None,
    as_json: AsJson = False,
) -> None:
    """Name each image's class: ids and labels for a table that has ids, else source, label, confidence, unsure, why."""
    if link and sort_into is None:
        raise unused("--link", "without --sort-into")
    into_folder = output is not None and is_folder(output)
    if engine is not None and not into_folder:
        raise unused("--engine", "without -o FOLDER/")
    classifier = read_model(model, data[0])
    chosen = one_or_files(data)
    if output is not None and into_folder:
        options = {"--probabilities": probabilities, "--sort-into": sort_into, "--id": ids}
        for option in (name for name, value in options.items() if value):
            raise UsageError(option, "-o FOLDER/", "a folder has five columns alone", f"Leave {option} out.")
        if classifier.unsure_below > 1:
            say(EVER_UNSURE)
        _predict_folder(model, chosen, Path(output), engine, as_json)
        return
    if sort_into is not None:
        from imprint.models.sorting import check_sorting

        check_sorting(chosen, sort_into)
    part = part_to_predict(chosen) if isinstance(chosen, str) else None
    predictions = classifier.predict(classifier.ready(chosen, part, ids=ids))
    if classifier.unsure_below > 1:
        say(EVER_UNSURE)
    if output is not None:
        predictions.write_csv(output, probabilities)
        say(f"wrote {len(predictions):,} predictions to {output}")
    facts: dict[str, Any] = {"predictions": predictions.to_dicts(probabilities)} if as_json else {}
    if sort_into is not None:
        from imprint.data.load import find_originals
        from imprint.models.sorting import sort_into as sort

        counts = sort(predictions, find_originals(chosen, part, ids), sort_into, link)
        facts["sorted"] = counts
        listed = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        say(f"sorted {len(predictions):,} images into {sort_into}: {listed}")
    if as_json:
        print_json(facts)
    elif output is None:
        print(predictions.to_csv(probabilities), end="")


def _predict_folder(model: Path, data: str | list[str], out: Path, engine: str | None, as_json: bool) -> None:
    """Predict into a folder of Parquet files, on this machine or by an engine."""
    from imprint.models.bulk import predict_folder

    run = None
    if engine is not None:
        if engine != "ray":
            raise UsageError(f"engine {engine!r}", "--engine", "there is no such engine", "Give ray, or leave it out.")
        from imprint.ray import on_cluster

        run = on_cluster(model, out)
    summary = predict_folder(model, data, out, run)
    if as_json:
        print_json(summary)


def explain(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model file or run folder.")],
    data: Annotated[str, typer.Argument(metavar="IMAGE|DATA", help="An image, or a folder or other data of several.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            callback=writable,
            help="A .png of one image or a .html page of several. Left out, a name is made up.",
        ),
    ] = None,
    index: Annotated[
        int | None, typer.Option(help="Draw this image of the data, counted from 0 as in predictions.png.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help=f"Images on a page at most; {MOST_EXPLAINED} if left out.")
    ] = None,
    network: Annotated[int, typer.Option(help="Which network of a model of several, counted from 1.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Draw where a network looked in an image, its filters and layers; of several images, make a page."""
    from imprint.analysis.explanation import explain as run_explanation
    from imprint.analysis.explanation import explain_briefly
    from imprint.data.remote import without_secrets
    from imprint.report.explanation_page import write_explanations
    from imprint.report.explanation_plots import save_explanation

    kind = "" if output is None else output.suffix.lower()
    if index is not None and kind in PAGES:
        remedy = "Name a .png, or leave --index out."
        raise UsageError(f"--output {output}", "--index", "a single image is drawn, not put on a page", remedy)
    classifier = load_classifier(model)
    part = part_to_predict(data) if index is None else None
    images, data = classifier.ready(data, part), without_secrets(data)
    if index is None and (kind in PAGES or (len(images) > 1 and not kind)):
        shown = images[: limit or MOST_EXPLAINED]
        explained = explain_briefly(classifier, shown, network)
        output = output or Path(f"{Path(data).name.split('.')[0] or 'images'}-explained.html")
        write_explanations(explained, images.name, len(images), output, data.rstrip("/"))
        if len(shown) < len(images):
            say(f"the first {len(shown):,} of {len(images):,} images; --limit shows more")
        if as_json:
            listed = [one.prediction | {"truth": one.truth} for one in explained]
            print_json({"images": len(images), "explained": listed, "files": [str(output)]})
        else:
            print(output)
        return
    if limit is not None:
        raise unused("--limit", "where one image is drawn")
    if index is None and len(images) > 1:
        say(f"drawing the first of {len(images):,} images; -o FILE.html makes a page of them")
    explanation = run_explanation(classifier, images, index or 0, network)
    output = output or Path(f"{Path(data).stem}{f'-{index}' if index else ''}-explained.png")
    save_explanation(explanation, output)
    if as_json:
        print_json(explanation.facts() | {"files": [str(output)]})
    else:
        fact = explanation.prediction.to_dicts()[0]
        unsure = f", unsure: {fact['why']}" if fact["unsure"] else ""
        print(f"{explanation.where}: {fact['label']} (confidence {fact['confidence']:.4f}{unsure})")
        print(output)


def compare(
    first: Model,
    second: Annotated[Path, typer.Argument(metavar="MODEL", help="Another.")],
    data: Data,
    strict: Annotated[
        bool, typer.Option("--strict", help="End with status 1 unless the second is better, on images new to it.")
    ] = False,
    no_worse: Annotated[bool, typer.Option("--no-worse", help="For --strict: unless the first is better.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tell whether one of two models is really better, on labelled images that neither has learnt from."""
    from dataclasses import asdict

    from imprint.analysis.evaluation import comparison, named_rightly, unknown_classes
    from imprint.report.tables import comparison_table

    if no_worse and not strict:
        raise unused("--no-worse", "without --strict")
    models, part, right = (read_model(first, data), read_model(second, data)), part_to_score(data), list[Any]()
    notes, trained_on, unknown = list[str](), list[int | None](), list[tuple[str, ...]]()
    for path, one, other in zip((first, second), models, reversed(models), strict=True):
        images = one.ready(data, part)
        learnt_notes, count = learnt_from(path, images)
        notes, trained_on = [*notes, *learnt_notes], [*trained_on, count]
        right.append(named_rightly(one, images, other.class_names))
        unknown.append(unknown_classes(one, images))
        if unknown[-1]:
            missing, wrong = ", ".join(map(repr, unknown[-1])), len(images.select(unknown[-1]))
            note = f"{path} does not know {missing}: {wrong:,} of {len(images):,} images, which count as wrong for it"
            warn(note)
            notes.append(note)
    result = comparison(right[0], right[1], (unknown[0], unknown[1]))
    if as_json:
        print_json(asdict(result) | {"verdict": result.verdict, "notes": notes, "trained_on": trained_on})
    else:
        print(comparison_table(str(first), str(second), result))
    passed = result.verdict != "the first is better" if no_worse else result.verdict == "the second is better"
    if strict and trained_on[1]:
        warn(f"not passed: {second} was trained on {trained_on[1]:,} of the images that were to judge it")
    if strict and (trained_on[1] or not passed):
        raise typer.Exit(1)


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.html",
            callback=writable,
            help="Write here instead of to report.html in the run.",
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="Where the run's data stands now, if it was moved.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write one HTML page about a run: what it learnt, how good and how sure it is, what it gets wrong and why."""
    from imprint.report.run_report import write_report

    set_threads()
    path = write_report(run, output, data)
    if as_json:
        print_json({"report": str(path)})
    else:
        print(path)


def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model file or run folder.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE.onnx", callback=writable, help="Left out, beside the model file."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Images to prove the file on. Left out, real ones that come along."),
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Weights of 8 bits; says how much accuracy that costs on --data.")
    ] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="Only operators that OpenCV, onnxruntime-web and TensorRT have.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write one .onnx file, pixels in and probabilities out; it is kept only if it answers as the model does."""
    from dataclasses import asdict

    from imprint.models.model_file import MODEL_NAME
    from imprint.models.onnx.exporting import export as write

    path = output or (model / MODEL_NAME if model.is_dir() else model).with_suffix(".onnx")
    classifier = load_classifier(model, device="cpu")
    done = write(classifier, path, data, int8=int8, plain=plain)
    if plain and classifier.recipe.tta != "none" and classifier.tta_below > 0:
        say("plain: test-time augmentation is computed for every image, not only for those that need it")
    if as_json:
        facts = asdict(done)
        facts["pictures"] = facts.pop("proved_on")  # keys that others build on stay as they were
        print_json(facts | {"path": str(path), "bytes": path.stat().st_size})
    else:
        print(done)
        if done.rounding is not None:
            print(f"int8: {done.rounding}")
        print(path)


def summary(
    what: Annotated[str, typer.Argument(metavar="MODEL|RECIPE", help="A model file, run folder or recipe name.")],
    as_json: AsJson = False,
) -> None:
    """List a network's layers, as Keras does, and the fields of its recipe with their meaning."""
    from dataclasses import asdict

    from imprint.core.errors import did_you_mean
    from imprint.core.files import similar_path
    from imprint.models.summary import summarise_recipe
    from imprint.recipes import COLOUR, RECIPES, SMALL_SIDE
    from imprint.report.tables import fields_table, summary_table

    if what in RECIPES:
        recipe = RECIPES[what]
        layers = summarise_recipe(recipe)
    elif Path(what).exists():
        model = load_classifier(what)
        recipe, layers = model.recipe, model.summary()
    else:
        remedy = f"{did_you_mean(what, RECIPES) or similar_path(what)}Name a model or one of {', '.join(RECIPES)}."
        raise UsageError(what, "MODEL|RECIPE", "it is neither a file nor a recipe", remedy)
    if recipe.ood_detector:
        say(f"not counted: the OOD detector, a network {recipe.ood_detector}")
    if as_json:
        total, trainable = (sum(getattr(layer, key) for layer in layers) for key in ("parameters", "trainable"))
        counts = {"total": total, "trainable": trainable, "non_trainable": total - trainable}
        print_json({"layers": [asdict(layer) for layer in layers], **counts})
    else:
        print(summary_table(what, layers), fields_table(recipe), sep="\n\n")
        if what in COLOUR:
            title = f"{what} on colour images of at most {SMALL_SIDE} pixels"
            print("", summary_table(title, summarise_recipe(COLOUR[what])), fields_table(COLOUR[what]), sep="\n\n")
