"""What a run's report says of data, training and recipe, as plain values for its template."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from imprint.classifier import Classifier
from imprint.drawing import to_svg
from imprint.images import LabelledImages
from imprint.input_spec import describe
from imprint.origin import DataOrigin, Origin
from imprint.pages import page_picture
from imprint.plots import CURVES, curve_plot, one_of_each, training_versions
from imprint.recipe import Recipe
from imprint.recipes import RECIPES
from imprint.score_sections import percent

SEEN = 6  # pictures beside their augmented versions
SEEN_SIDE = 96  # pixels
EPOCHS = 40  # rows of the table of epochs
SETTLED = {"mirror", "views", "validation_share"}  # settings that the data decides


def data_section(data: DataOrigin, training: LabelledImages | None, model: Classifier) -> dict[str, Any]:
    """Tell what the pictures are, and what the network sees of them.

    Parameters
    ----------
    data : DataOrigin
        Where they came from.
    training : LabelledImages or None
        The pictures learnt from, where they can be read.
    model : Classifier
        Which learnt from them.

    Returns
    -------
    dict
        `about`, `bars`, `seen` and `how`.

    Examples
    --------
    >>> from imprint import load, train
    >>> from imprint.origin import data_origin
    >>> digits = load("digits")
    >>> model = train(digits, recipe="quick", settings=["epochs=1", "min_steps=1"], silent=True).model
    >>> data_section(data_origin(digits, "digits"), digits, model)["about"]
    'digits: 1,797 pictures of 8×8 grey in 10 classes, 174 to 183 in each.'
    """
    counts = data.classes.values()
    each = f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"
    about = (
        f"{data.name}: {data.images:,} pictures of {describe(data.shape)} in {len(counts):,} classes, {each} in each."
    )
    bars = [(name, count, 100 * count / max(counts)) for name, count in data.classes.items()]
    seen = [] if training is None else _seen(training, model)
    return {"about": about, "bars": bars, "seen": seen, "how": "" if training is None else _how(model.recipe)}


def _seen(training: LabelledImages, model: Classifier) -> list[dict[str, Any]]:
    """Show some pictures, each with versions as training makes them."""
    chosen = training[one_of_each(training.labels_among(training.class_names), SEEN)]
    versions = training_versions(chosen.pixels, model.spec, model.recipe)
    labels = chosen.labels_among(chosen.class_names)
    return [
        {
            "label": chosen.class_names[label],
            "pictures": [page_picture(picture, SEEN_SIDE) for picture in (np.asarray(given), *changed)],
        }
        for given, changed, label in zip(chosen.pixels, versions, labels, strict=True)
    ]


def _how(recipe: Recipe) -> str:
    """Put into words how training changes pictures."""
    ways = [
        f"turned by up to {recipe.rotation:g}°" if recipe.rotation else "",
        f"stretched by up to {recipe.zoom:.0%}" if recipe.zoom else "",
        f"moved by up to {recipe.shift:.0%}" if recipe.shift else "",
        "bent" if recipe.elastic else "",
        f"cropped to {recipe.crop:.0%} of the area or more" if recipe.crop < 1 else "",
        "mirrored or not" if recipe.mirror == "yes" else "",
        "in other light" if recipe.light else "",
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
        about += " Accuracy on held-out pictures, with one look at each, went from "
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
    """Leave out epochs that could not be told apart in a picture."""
    step = -(-len(history["loss"]) // most)
    return history if step == 1 else {key: values[::step] for key, values in history.items()}


def recipe_section(model: Classifier, settled: str) -> dict[str, Any]:
    """Tell how a model was taught.

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
    >>> model = train(load("digits"), recipe="quick", settings=settings, silent=True).model
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
    about += (
        f"network {recipe.net} with {sum(layer.parameters for layer in layers):,} parameters, {recipe.epochs} epochs "
    )
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


def repeat_section(folder: str, origin: Origin | None) -> dict[str, Any]:
    """Tell how to repeat a run, and with what it was made.

    Parameters
    ----------
    folder : str
        The run folder's name.
    origin : Origin or None
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
    if origin is not None:
        rows = [
            ("trained", origin.made.replace("T", " ").replace("+00:00", " UTC")),
            ("machine", origin.machine),
            ("versions", ", ".join(f"{name} {number}" for name, number in origin.versions.items())),
            ("data", f"{origin.training.name}, fingerprint {origin.training.fingerprint}"),
        ]
        if origin.validation is not None:
            rows.append(("validation data", f"{origin.validation.name}, fingerprint {origin.validation.fingerprint}"))
    return {
        "command": origin.command if origin else "",
        "by_recipe": f"imprint train DATA --recipe {shlex.quote(f'{folder}/recipe.json')}",
        "predict": f"imprint predict {shlex.quote(folder)} picture.png",
        "rows": rows,
    }
