"""Sections of a run's report, as plain values for its template: words, rows, plots as SVG, and images as data URIs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64
from numpy import ndarray

from imprint.analysis.error_analysis import CAUSES, ErrorAnalysis, Mistake
from imprint.core.html import page_image
from imprint.core.metrics import calibration_error, class_scores, log_loss, percent
from imprint.core.plot_style import shorten, to_svg
from imprint.core.scores import LabelledPredictions
from imprint.data.images import LabelledImages, one_of_each
from imprint.models.classifier import Classifier
from imprint.preprocessing.input_spec import describe
from imprint.recipes import RECIPES, Recipe, recipe_for
from imprint.report.plots import training_versions
from imprint.report.score_plots import MOST_NUMBERED, confusion_plot, coverage_plot, reliability_plot
from imprint.report.tables import field_text
from imprint.runs.figures import CURVES, curve_plot
from imprint.runs.provenance import DataProvenance, Provenance

AUGMENTED = 6  # images shown beside augmented versions
AUGMENTED_SIDE = 96  # pixels
NEAREST_SIDE = 80  # pixels
MOST_CARDS = 12  # mistakes of one cause shown at once, the others unfolded
MOST_DRAWN = 600  # mistakes with images, 4 each; the others are listed
MOST_LISTED = 20  # mistakes without images, likewise
MOST_UNFOLDED = 10_000  # mistakes of a page without images, 2 MB; the run's validation.csv holds more
MOST_EPOCHS = 1_000  # rows of the table of epochs; history.csv holds more
MOST_POINTS = 1000  # of a curve; more cannot be told apart
DATA_FIELDS = {"hflip", "tta", "validation_fraction"}  # fields that the data may decide
RULES = {
    "unlike": "Their three nearest training images are farther away than those of 199 of 200 images that it classified "
    "correctly. Such predictions mean little; if these images belong here, the model needs more like them.",
    "mislabelled": "The label has a probability below 1 %, and the three nearest training images are all of the "
    "predicted class. Look: if the label is wrong, the model was right.",
    "ambiguous": "The label came second with 20 % or more, and the model hesitated as it does over 1 in 20 of the "
    "images that it classified correctly. A person may hesitate too.",
    "fault": "None of the other rules applies. More training images like these usually help.",
}


def short_source(source: Any, root: str) -> str:
    """Name an image of `LabelledImages.sources`: the row of a table, or its path within the data at `root`."""
    if isinstance(source, int | np.integer):
        return f"row {source}"
    text = str(source)
    if root and text.startswith((f"{root}/", f"{root}\\")):
        return text[len(root) + 1 :]
    return Path(text).name if Path(text).is_absolute() else text  # a page may be shared: it names no private folders


def data_section(data: DataProvenance, training: LabelledImages | None, model: Classifier) -> dict[str, Any]:
    """Describe the data and, where the training images can be read, show what the network sees of them."""
    counts, changes = data.classes.values(), _augmentation_text(model.recipe)
    each = f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"
    return {
        "about": f"{data.name}: {data.images:,} images of {describe(data.shape)} in {len(counts):,} classes, "
        f"{each} in each.",
        "bars": [(name, count, 100 * count / max(counts)) for name, count in data.classes.items()],
        "augmented": [] if training is None or not changes else _augmented_rows(training, model),
        "changes": changes,
    }


def _augmented_rows(training: LabelledImages, model: Classifier) -> list[dict[str, Any]]:
    """Show some images, each with versions as training makes them."""
    chosen = training[one_of_each(training.labels_among(training.class_names), AUGMENTED)]
    versions = training_versions(chosen.pixels, model.spec, model.recipe)
    labels = chosen.labels_among(chosen.class_names)
    return [
        {
            "label": chosen.class_names[label],
            "images": [page_image(image, AUGMENTED_SIDE) for image in (np.asarray(given), *augmented)],
        }
        for given, augmented, label in zip(chosen.pixels, versions, labels, strict=True)
    ]


def _augmentation_text(recipe: Recipe) -> str:
    changes = [
        f"rotated by up to {recipe.rotation:g}°" if recipe.rotation else "",
        f"stretched by up to {recipe.zoom:.0%}" if recipe.zoom else "",
        f"shifted by up to {recipe.shift:.0%}" if recipe.shift else "",
        "bent" if recipe.elastic else "",
        f"{recipe.downscale:.0%} of them blurred" if recipe.downscale else "",
        f"cropped to {recipe.min_crop_area:.0%} of the area or more" if recipe.min_crop_area < 1 else "",
        "mirrored or not" if recipe.hflip == "yes" else "",
        "changed in colour and brightness" if recipe.color_jitter else "",
    ]
    return ", ".join(change for change in changes if change) + "." if any(changes) else ""


def score_section(labelled: LabelledPredictions, cross_validated: bool = False, limit: str = "") -> dict[str, Any]:
    """Tell how good the model is on its validation images, class by class, and how far to trust its confidence."""
    count, correct = len(labelled), int(labelled.correct.sum())
    error, rows = calibration_error(labelled.confidence, labelled.correct), _class_rows(labelled)
    loss = log_loss(labelled.label_probability[:, None], np.zeros(count, dtype=np.int64))
    about = f"Of {count:,} images that it was not trained on, it classified {correct:,} correctly."
    if cross_validated:
        about = f"Of {count:,} images, {correct:,} were classified correctly by models trained on the others."
    about += _commonest_mistake(labelled)
    confidence = (
        f"On average its confidence is off by {error * 100:.1f} percentage points (calibration error {error:.4f}; "
        f"log loss {loss:.4f}). {_unsure_text(labelled)} "
        "Confidence was calibrated, and what is unsure was settled, on these same images, so expect both to be "
        f"slightly less exact on others. {limit}"
    )
    return {
        "about": about,
        "confidence": confidence,
        "large": len(labelled.class_names) > MOST_NUMBERED,
        "confusion": to_svg(confusion_plot(labelled), "confusion", f"Confusion matrix. {about}"),
        "reliability": to_svg(reliability_plot(labelled), "reliability", f"Reliability diagram. {confidence}"),
        "coverage": to_svg(coverage_plot(labelled), "coverage", f"Accuracy against coverage. {_unsure_text(labelled)}"),
        "hardest": rows[:MOST_NUMBERED],
        "easier": rows[MOST_NUMBERED:],
    }


def _unsure_text(labelled: LabelledPredictions) -> str:
    sure = ~labelled.unsure
    if not sure.any():
        return f"It was unsure of every image ({labelled.causes})."
    share, accuracy = (percent(float(part.mean()), len(labelled)) for part in (labelled.unsure, labelled.correct[sure]))
    of_others = f"of the others it classified {accuracy} correctly"
    return f"It was unsure of {share} of the images ({labelled.causes}); {of_others}."


def _commonest_mistake(labelled: LabelledPredictions) -> str:
    """Name the commonest confusion, if any came twice."""
    mistakes = labelled.confusion()
    np.fill_diagonal(mistakes, 0)
    label, predicted = np.unravel_index(mistakes.argmax(), mistakes.shape)
    often, names = int(mistakes[label, predicted]), labelled.class_names
    return f" Most often it took {names[label]} for {names[predicted]} ({often:,} times)." if often > 1 else ""


def _class_rows(labelled: LabelledPredictions) -> list[dict[str, Any]]:
    """Score each class that has images, the hardest first."""
    mistakes = labelled.confusion()
    scored, present = class_scores(mistakes), mistakes.sum(axis=1).nonzero()[0]
    np.fill_diagonal(mistakes, 0)
    rows = []
    for i in sorted(present, key=lambda i: scored[i]["f1"]):
        often = int(mistakes[i].max())
        rows.append(
            {
                "name": labelled.class_names[i],
                "images": int(scored[i]["images"]),
                **{key: percent(scored[i][key]) for key in ("recall", "precision", "f1")},
                "mistaken_for": f"{labelled.class_names[int(mistakes[i].argmax())]} ({often:,})" if often else "",
            }
        )
    return rows


def error_analysis_section(analysis: ErrorAnalysis, root: str) -> dict[str, Any]:
    """Sort the mistakes by cause, each with its image and the nearest training images."""
    count = len(analysis.mistakes)
    about = f"It erred on {count:,} of {len(analysis.images):,} images. Each stands under the first rule that applies."
    groups, drawn = list[dict[str, Any]](), 0
    for cause, title in CAUSES.items():
        if not (found := analysis.of(cause)):
            continue
        pictured = found[: max(MOST_DRAWN - drawn, 0)]
        drawn += len(pictured)
        cards = [_mistake_card(mistake, analysis, root) for mistake in pictured]
        listed = np.array([mistake.image for mistake in found[len(pictured) :]], dtype=np.int64)
        title = title[0].upper() + title[1:]
        groups.append(
            {
                "cause": cause,
                "title": title,
                "rule": RULES[cause],
                "count": len(found),
                "cards": cards[:MOST_CARDS],
                "others": cards[MOST_CARDS:],
                "listed": _listed(analysis.labelled, listed[:MOST_UNFOLDED], root),
                "left": max(len(listed) - MOST_UNFOLDED, 0),
            }
        )
    return {"about": about if count else "It made none.", "groups": groups}


def _mistake_card(mistake: Mistake, analysis: ErrorAnalysis, root: str) -> dict[str, Any]:
    names = analysis.labelled.class_names
    labels = analysis.training.labels_among(names)
    return {
        "image": page_image(np.asarray(analysis.images.pixels[mistake.image])),
        "source": short_source(analysis.images.sources[mistake.image], root),
        "label": names[mistake.label],
        "predicted": names[mistake.predicted],
        "confidence": percent(mistake.confidence),
        "nearest": [
            {
                "image": page_image(np.asarray(analysis.training.pixels[i]), NEAREST_SIDE),
                "label": names[labels[i]],
                "short": shorten(names[labels[i]], 16),
            }
            for i in mistake.neighbours
        ],
    }


def mistake_rows(labelled: LabelledPredictions, root: str) -> dict[str, Any]:
    """List the mistakes without images, the worst first: `first` to be shown, `others`, and how many are `left`."""
    wrong = int((~labelled.correct).sum())
    rows = _listed(labelled, labelled.worst()[:MOST_UNFOLDED], root)
    return {"first": rows[:MOST_LISTED], "others": rows[MOST_LISTED:], "left": max(wrong - MOST_UNFOLDED, 0)}


def _listed(labelled: LabelledPredictions, chosen: Int64[ndarray, " m"], root: str) -> list[dict[str, str]]:
    names = labelled.class_names
    return [
        {
            "source": short_source(labelled.sources[i], root),
            "label": names[labelled.labels[i]],
            "predicted": names[labelled.predicted[i]],
            "confidence": percent(float(labelled.confidence[i])),
        }
        for i in chosen
    ]


def curves_section(
    history: Mapping[str, Sequence[float]], seconds: float | None, recipe: Recipe | None = None
) -> dict[str, Any]:
    """Draw a `Run.history`, and list its epochs; `seconds` are those of the whole loop, `recipe` tells its networks."""
    epochs = len(history["loss"])
    about = f"{epochs:,} epoch{'s' if epochs > 1 else ''}" + (f" in {seconds:,.1f} seconds." if seconds else ".")
    if "val_acc" in history:
        first, last = (percent(history["val_acc"][i]) for i in (0, -1))
        about += f" Validation accuracy, without test-time augmentation, went from {first} after the first epoch "
        about += f"to {last} after the last."
    descriptions = {
        what: f"{CURVES[what]} over the epochs, from {history[what][0]:.4g} to {history[what][-1]:.4g}"
        for what in CURVES
    }
    columns = [key for key in ("loss", "acc", "val_loss", "val_acc", "lr", "seconds") if key in history]
    shown = np.unique(np.linspace(0, epochs - 1, min(epochs, MOST_EPOCHS)).round().astype(int))
    step = -(-epochs // MOST_POINTS)
    drawn = {key: values[::step] for key, values in history.items()} if step > 1 else history
    return {
        "about": about,
        "plots": [
            to_svg(curve_plot(drawn, what, recipe if step == 1 else None), what, descriptions[what]) for what in CURVES
        ],
        "header": ["epoch", *columns],
        "rows": [[f"{i + 1:,}", *(f"{history[key][i]:.4g}" for key in columns)] for i in shown],
        "whole": epochs <= MOST_EPOCHS,
    }


def recipe_section(model: Classifier, settled: str) -> dict[str, Any]:
    """Tell how a model was trained; `settled` is the plan of its run in words, where that is known."""
    recipe, layers = model.recipe, model.summary()
    named, parameters = RECIPES.get(recipe.name), sum(layer.parameters for layer in layers)
    named = named and recipe_for((model.spec.channels, *model.spec.image_size), named)
    values = {field.name: field_text(getattr(recipe, field.name)) for field in fields(recipe)}
    changed = [
        f"{name}={value}"
        for name, value in values.items()
        if named and name not in DATA_FIELDS and getattr(recipe, name) != getattr(named, name)
    ]
    about = (
        f"Recipe {recipe.name}{', with ' + ', '.join(changed) if changed else ''}: "
        f"network {values['networks']} with {parameters:,} parameters, {recipe.epochs} epochs "
        f"in batches of {recipe.batch_size}, optimiser {recipe.optimiser}."
    )
    shapes = [" × ".join("n" if side is None else str(side) for side in layer.output_shape) for layer in layers]
    return {
        "about": about + (f" {settled[0].upper()}{settled[1:]}." if settled else ""),
        "fields": list(values.items()),
        "layers": [
            {"name": layer.name, "type": layer.type, "output": shape, "parameters": layer.parameters}
            for layer, shape in zip(layers, shapes, strict=True)
        ],
    }


def repeat_section(folder: str, provenance: Provenance | None) -> dict[str, Any]:
    """Give the commands that repeat a run and use its model, and what the run was made with."""
    rows = []
    if provenance is not None:
        training, validation = provenance.training, provenance.validation
        rows = [
            ("trained", provenance.made.replace("T", " ").replace("+00:00", " UTC")),
            ("machine", provenance.machine),
            ("versions", ", ".join(f"{name} {number}" for name, number in provenance.versions.items())),
            ("data", f"{training.name}, fingerprint {training.fingerprint}"),
        ]
        if provenance.parent is not None:
            rows.append(("started from", f"{provenance.parent['model']}, SHA-256 {provenance.parent['sha256']}"))
        if validation is not None:
            rows.append(("validation data", f"{validation.name}, fingerprint {validation.fingerprint}"))
    return {
        "command": provenance.command if provenance else "",
        "by_recipe": f"imprint train DATA --recipe {shlex.quote(f'{folder}/recipe.json')}",
        "predict": f"imprint predict {shlex.quote(folder)} image.png",
        "rows": rows,
    }
