"""What a run's report says of its score: figures, plots and mistakes, as plain values for its template."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from imprint.analysis.error_analysis import CAUSES, ErrorAnalysis, Mistake
from imprint.core.metrics import calibration_error, class_scores, log_loss
from imprint.core.plot_style import shorten, to_svg
from imprint.core.scores import LabelledPredictions
from imprint.data.images import LabelledImages
from imprint.models.classifier import Classifier
from imprint.preprocessing.input_spec import describe
from imprint.recipes import RECIPES, Recipe
from imprint.report.pages import page_image
from imprint.report.plots import one_of_each, training_versions
from imprint.report.score_plots import NUMBERED, confusion_plot, coverage_plot, reliability_plot
from imprint.runs.figures import CURVES, curve_plot
from imprint.runs.provenance import DataProvenance, Provenance

NEAR_SIDE = 80  # pixels
CARDS = 12  # mistakes of one cause
LISTED = 20  # mistakes without images
RULES = {
    "unlike": "Their three nearest training images are farther away than those of 199 of 200 images that were "
    "named rightly. What the model says of such images means little; if they belong here, it needs more like them.",
    "mislabelled": "The label has a probability below 1 %, and the three nearest training images all bear the "
    "prediction. Look: if the label is wrong, the model was right.",
    "ambiguous": "The label was the runner-up with 20 % or more, and the model hesitated as it does over 1 in 20 of "
    "the images that it named rightly. A person may hesitate too.",
    "fault": "None of the other rules holds. More training images like these are what usually helps.",
}


def percent(share: float, count: int = 0) -> str:
    r"""Write a share as a percentage, with as many digits as a count of images bears.

    Parameters
    ----------
    share : float
        From 0 to 1.
    count : int, default=0
        Images that it was measured with; 0 for none.

    Returns
    -------
    str
        With the sign.

    Examples
    --------
    >>> percent(0.99612, 3360), percent(0.985, 200)
    ('99.61\xa0%', '98.5\xa0%')
    """
    text = f"{share * 100:.{2 if count >= 1000 else 1}f}"
    if text.startswith("100") and share < 1:
        text = "99.99"  # no rounding makes a mistake vanish
    return f"{text}\u00a0%"


def score_section(labelled: LabelledPredictions, settled_here: bool) -> dict[str, Any]:
    """Tell how good the model is, class by class, and how far its confidence can be trusted.

    Parameters
    ----------
    answers : LabelledPredictions
        To the validation images.
    settled_here : bool
        Whether confidence was fitted, and the limit of unsure chosen, on these same images.

    Returns
    -------
    dict
        Words, plots as SVG and rows.

    Examples
    --------
    >>> from imprint.core.scores import label_predictions
    >>> sure, flagged = np.eye(2, dtype=np.float32), np.array([False, False])
    >>> score_section(label_predictions(sure, np.array([0, 1]), ("cat", "dog"), flagged), settled_here=True)["about"]
    'It named 2 of 2 images rightly that it had not learnt from.'
    """
    count, right = len(labelled), int(labelled.correct.sum())
    error, rows = calibration_error(labelled.confidence, labelled.correct), _class_rows(labelled)
    lost = log_loss(labelled.label_probability[:, None], np.zeros(count, dtype=np.int64))
    confused = _commonest(labelled)
    about = f"It named {right:,} of {count:,} images rightly that it had not learnt from."
    about += f" Most often it took {confused}." if confused else ""
    confidence = (
        f"On average its confidence is off by {error * 100:.1f} percentage points (calibration error {error:.4f}; "
        f"log loss {lost:.4f}). " + _unsure(labelled)
    )
    if settled_here:
        confidence += " Confidence was fitted to these same images, so expect slightly less of others."
    return {
        "about": about,
        "confidence": confidence,
        "large": len(labelled.class_names) > NUMBERED,
        "confusion": to_svg(confusion_plot(labelled), "confusion", f"Confusion matrix. {about}"),
        "reliability": to_svg(reliability_plot(labelled), "reliability", f"Reliability diagram. {confidence}"),
        "coverage": to_svg(coverage_plot(labelled), "coverage", f"Accuracy against coverage. {_unsure(labelled)}"),
        "hardest": rows[:NUMBERED],
        "easier": rows[NUMBERED:],
    }


def _unsure(labelled: LabelledPredictions) -> str:
    sure = ~labelled.unsure
    if not sure.any():
        return "It was unsure of every image."
    text = f"It was unsure of {percent(float(labelled.unsure.mean()), len(labelled))} of the images"
    return f"{text}; of the others it named {percent(float(labelled.correct[sure].mean()), len(labelled))} rightly."


def _commonest(labelled: LabelledPredictions) -> str:
    """Name the commonest confusion, if any came twice."""
    mistakes = labelled.confusion()
    np.fill_diagonal(mistakes, 0)
    label, predicted = np.unravel_index(mistakes.argmax(), mistakes.shape)
    often = int(mistakes[label, predicted])
    names = labelled.class_names
    return f"{names[label]} for {names[predicted]} ({often:,} times)" if often > 1 else ""


def _class_rows(labelled: LabelledPredictions) -> list[dict[str, Any]]:
    """Score each class that there are images of, the hardest first."""
    mistakes = labelled.confusion()
    scored, met = class_scores(mistakes), mistakes.sum(axis=1).nonzero()[0]
    np.fill_diagonal(mistakes, 0)
    rows = []
    for i in sorted(met, key=lambda i: scored[i]["f1"]):
        often = int(mistakes[i].max())
        rows.append(
            {
                "name": labelled.class_names[i],
                "images": int(scored[i]["images"]),
                **{key: percent(scored[i][key]) for key in ("recall", "precision", "f1")},
                "taken_for": f"{labelled.class_names[int(mistakes[i].argmax())]} ({often:,})" if often else "",
            }
        )
    return rows


def error_analysis_section(clinic: ErrorAnalysis, root: str) -> dict[str, Any]:
    """Sort the mistakes by cause, each with its image and the nearest training images.

    Parameters
    ----------
    clinic : ErrorAnalysis
        From `analyse_errors`.
    root : str
        Where the data stands; it is left out of names.

    Returns
    -------
    dict
        `about` and `groups`.

    Examples
    --------
    >>> from imprint import load, train
    >>> from imprint.analysis.error_analysis import analyse_errors
    >>> digits = load("digits")
    >>> model = train(digits[:900], recipe="quick", epochs=1, min_steps=1, verbose=False).model
    >>> error_analysis_section(analyse_errors(model, digits[900:], digits[:900]), "digits")["about"]
    'It erred on ... of 897 images. ...
    """
    count = len(clinic.mistakes)
    about = f"It erred on {count:,} of {len(clinic.images):,} images. Each stands under the first rule that holds."
    groups = [
        {
            "cause": cause,
            "title": title[0].upper() + title[1:],
            "rule": RULES[cause],
            "count": len(found),
            "cards": [_card(mistake, clinic, root) for mistake in found[:CARDS]],
        }
        for cause, title in CAUSES.items()
        if (found := clinic.of(cause))
    ]
    return {"about": about if count else "It made none.", "groups": groups}


def _card(mistake: Mistake, clinic: ErrorAnalysis, root: str) -> dict[str, Any]:
    """Show one mistake."""
    names = clinic.labelled.class_names
    labels = clinic.training.labels_among(names)
    return {
        "image": page_image(np.asarray(clinic.images.pixels[mistake.image])),
        "place": place_text(clinic.images.sources[mistake.image], root),
        "label": names[mistake.label],
        "predicted": names[mistake.predicted],
        "confidence": percent(mistake.confidence),
        "near": [
            {
                "image": page_image(np.asarray(clinic.training.pixels[i]), NEAR_SIDE),
                "label": names[labels[i]],
                "short": shorten(names[labels[i]], 16),
            }
            for i in mistake.neighbours
        ],
    }


def mistake_rows(labelled: LabelledPredictions, root: str) -> list[dict[str, str]]:
    r"""List the worst mistakes without images.

    Parameters
    ----------
    answers : LabelledPredictions
        To the validation images.
    root : str
        Where the data stood; it is left out of names.

    Returns
    -------
    list of dict
        With `place`, `label`, `predicted` and `confidence`.

    Examples
    --------
    >>> from imprint.core.scores import label_predictions
    >>> sure, flagged = np.eye(2, dtype=np.float32), np.array([False, False])
    >>> mistake_rows(label_predictions(sure, np.array([0, 0]), ("cat", "dog"), flagged), "")
    [{'place': 'row 2', 'label': 'cat', 'predicted': 'dog', 'confidence': '100.0\xa0%'}]
    """
    names = labelled.class_names
    return [
        {
            "place": place_text(labelled.sources[i], root),
            "label": names[labelled.labels[i]],
            "predicted": names[labelled.predicted[i]],
            "confidence": percent(float(labelled.confidence[i])),
        }
        for i in labelled.worst()[:LISTED]
    ]


def place_text(source: Any, root: str) -> str:
    """Name where an image stands: the row of a table, or a path within the data.

    Parameters
    ----------
    source : int or str
        From `LabelledImages.sources`.
    root : str
        Where the data stands; it is left out.

    Returns
    -------
    str
        Short.

    Examples
    --------
    >>> place_text(np.int64(7), "a.csv"), place_text("/home/me/photos/cat/1.jpg", "/home/me/photos")
    ('row 7', 'cat/1.jpg')
    """
    if isinstance(source, int | np.integer):
        return f"row {source}"
    text = str(source)
    if root and text.startswith((f"{root}/", f"{root}\\")):
        return text[len(root) + 1 :]
    return Path(text).name if Path(text).is_absolute() else text  # where a person's folders stand is nobody's business


SEEN = 6  # images beside their augmented versions
SEEN_SIDE = 96  # pixels
EPOCHS = 40  # rows of the table of epochs
SETTLED = {"hflip", "tta", "validation_fraction"}  # settings that the data decides


def data_section(data: DataProvenance, training: LabelledImages | None, model: Classifier) -> dict[str, Any]:
    """Tell what the images are, and what the network sees of them.

    Parameters
    ----------
    data : DataProvenance
        Where they came from.
    training : LabelledImages or None
        The images learnt from, where they can be read.
    model : Classifier
        Which learnt from them.

    Returns
    -------
    dict
        `about`, `bars`, `seen` and `how`.

    Examples
    --------
    >>> from imprint import load, train
    >>> from imprint.runs.provenance import data_provenance
    >>> digits = load("digits")
    >>> model = train(digits, recipe="quick", epochs=1, min_steps=1, verbose=False).model
    >>> data_section(data_provenance(digits, "digits"), digits, model)["about"]
    'digits: 1,797 images of 8×8 grey in 10 classes, 174 to 183 in each.'
    """
    counts = data.classes.values()
    each = f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"
    about = f"{data.name}: {data.images:,} images of {describe(data.shape)} in {len(counts):,} classes, {each} in each."
    bars = [(name, count, 100 * count / max(counts)) for name, count in data.classes.items()]
    seen = [] if training is None else _seen(training, model)
    return {"about": about, "bars": bars, "seen": seen, "how": "" if training is None else _how(model.recipe)}


def _seen(training: LabelledImages, model: Classifier) -> list[dict[str, Any]]:
    """Show some images, each with versions as training makes them."""
    chosen = training[one_of_each(training.labels_among(training.class_names), SEEN)]
    versions = training_versions(chosen.pixels, model.spec, model.recipe)
    labels = chosen.labels_among(chosen.class_names)
    return [
        {
            "label": chosen.class_names[label],
            "images": [page_image(image, SEEN_SIDE) for image in (np.asarray(given), *changed)],
        }
        for given, changed, label in zip(chosen.pixels, versions, labels, strict=True)
    ]


def _how(recipe: Recipe) -> str:
    """Put into words how training changes images."""
    ways = [
        f"turned by up to {recipe.rotation:g}°" if recipe.rotation else "",
        f"stretched by up to {recipe.zoom:.0%}" if recipe.zoom else "",
        f"moved by up to {recipe.shift:.0%}" if recipe.shift else "",
        "bent" if recipe.elastic else "",
        f"cropped to {recipe.min_crop_area:.0%} of the area or more" if recipe.min_crop_area < 1 else "",
        "mirrored or not" if recipe.hflip == "yes" else "",
        "in other light" if recipe.color_jitter else "",
    ]
    return ", ".join(way for way in ways if way) + "." if any(ways) else "this recipe changes none."


def curves_section(history: Mapping[str, Sequence[float]], seconds: float | None) -> dict[str, Any]:
    """Draw how the run went, and lay its epochs out.

    Parameters
    ----------
    history : mapping of str to sequence of float
        As `Run.history`.
    seconds : float or None
        The whole loop.

    Returns
    -------
    dict
        Words, plots as SVG and rows.

    Examples
    --------
    >>> history = {"loss": [1.0, 0.5], "acc": [0.7, 0.9], "lr": [1e-3, 1e-3]}
    >>> curves_section(history, 12.0)["about"]
    '2 epochs in 12.0 seconds.'
    """
    epochs = len(history["loss"])
    about = f"{epochs:,} epoch{'s' if epochs > 1 else ''}" + (f" in {seconds:,.1f} seconds." if seconds else ".")
    if "val_acc" in history:
        about += " Accuracy on held-out images, with one look at each, went from "
        first, last = (percent(history["val_acc"][i]) for i in (0, -1))
        about += f"{first} after the first epoch to {last} after the last."
    words = {
        what: f"{CURVES[what]} over the epochs, from {history[what][0]:.4g} to {history[what][-1]:.4g}"
        for what in CURVES
    }
    columns = [key for key in ("loss", "acc", "val_loss", "val_acc", "lr", "seconds") if key in history]
    shown = np.unique(np.linspace(0, epochs - 1, min(epochs, EPOCHS)).round().astype(int))
    return {
        "about": about,
        "plots": [to_svg(curve_plot(_thinned(history), what), what, words[what]) for what in CURVES],
        "header": ["epoch", *columns],
        "rows": [[f"{i + 1:,}", *(f"{history[key][i]:.4g}" for key in columns)] for i in shown],
        "whole": epochs <= EPOCHS,
    }


def _thinned(history: Mapping[str, Sequence[float]], most: int = 1000) -> Mapping[str, Sequence[float]]:
    """Leave out epochs that could not be told apart in an image."""
    step = -(-len(history["loss"]) // most)
    return history if step == 1 else {key: values[::step] for key, values in history.items()}


def recipe_section(model: Classifier, settled: str) -> dict[str, Any]:
    """Tell how a model was trained.

    Parameters
    ----------
    model : Classifier
        The model.
    settled : str
        What was decided for the run; empty where that is not known.

    Returns
    -------
    dict
        Words, settings and layers.

    Examples
    --------
    >>> from imprint import load, train
    >>> settings = ["epochs=1", "min_steps=1"]
    >>> model = train(load("digits"), recipe="quick", settings=settings, verbose=False).model
    >>> recipe_section(model, "")["about"][:39]
    'Recipe quick, with epochs=1, min_steps='
    """
    recipe, layers = model.recipe, model.summary()
    named = RECIPES.get(recipe.name)
    changed = [
        f"{field.name}={getattr(recipe, field.name)}"
        for field in fields(recipe)
        if named and field.name not in SETTLED and getattr(recipe, field.name) != getattr(named, field.name)
    ]
    about = f"Recipe {recipe.name}{', with ' + ', '.join(changed) if changed else ''}: "
    about += f"network {'+'.join(recipe.networks)} with {sum(layer.parameters for layer in layers):,} parameters, {recipe.epochs} epochs "
    about += f"in batches of {recipe.batch_size}, optimiser {recipe.optimiser}."
    about += f" {settled[0].upper()}{settled[1:]}." if settled else ""
    shapes = [" × ".join("n" if side is None else str(side) for side in layer.output_shape) for layer in layers]
    return {
        "about": about,
        "fields": list(recipe.to_dict().items()),
        "layers": [
            {"name": layer.name, "type": layer.type, "output": shape, "parameters": layer.parameters}
            for layer, shape in zip(layers, shapes, strict=True)
        ],
    }


def repeat_section(folder: str, provenance: Provenance | None) -> dict[str, Any]:
    """Tell how to repeat a run, and with what it was made.

    Parameters
    ----------
    folder : str
        The run folder's name.
    origin : Provenance or None
        What the run came from, where it is known.

    Returns
    -------
    dict
        Commands and rows.

    Examples
    --------
    >>> repeat_section("runs/0001-quick", None)["by_recipe"]
    'imprint train DATA --recipe runs/0001-quick/recipe.json'
    """
    rows = []
    if provenance is not None:
        rows = [
            ("trained", provenance.made.replace("T", " ").replace("+00:00", " UTC")),
            ("machine", provenance.machine),
            ("versions", ", ".join(f"{name} {number}" for name, number in provenance.versions.items())),
            ("data", f"{provenance.training.name}, fingerprint {provenance.training.fingerprint}"),
        ]
        if provenance.validation is not None:
            rows.append(
                ("validation data", f"{provenance.validation.name}, fingerprint {provenance.validation.fingerprint}")
            )
    return {
        "command": provenance.command if provenance else "",
        "by_recipe": f"imprint train DATA --recipe {shlex.quote(f'{folder}/recipe.json')}",
        "predict": f"imprint predict {shlex.quote(folder)} image.png",
        "rows": rows,
    }
