"""The named recipes: data only, each with the evidence for it; and how one is chosen."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from imprint.errors import UsageError
from imprint.recipe import Recipe

# The classic Kaggle lesson, kept as it is; Keras's names and defaults (keras.io, version 3).
# Evidence: 0.9942 ± 0.0005 on 3,360 held-out digits of Kaggle's 42,000, 3 seeds, 116 to 159 s on
# two virtual Zen 4 cores, torch 2.13.0; Keras 0.9939 ± 0.0006 (docs/LOG.md, "The lesson, whole"). On the 10,000 digits
# of the recipes below 0.9947 ± 0.0004, 3 seeds (docs/LOG.md, "The whole lesson, with and without augmentation").
TUTORIAL = Recipe(
    name="tutorial",
    net="tutorial",
    epochs=30,
    steps_per_epoch=640,
    batch_size=64,
    optimiser="rmsprop",
    learning_rate=1e-3,
    schedule="plateau",
    rotation=10.0,
    zoom=0.1,
    shift=0.1,
    validation_share=0.08,
    precision="float32",
)

# The default on small grey pictures. Evidence: 0.9955 ± 0.0004 on 10,000 held-out digits of Kaggle's 42,000, learning
# from the others, 5 seeds; 5.4 s (5.3 to 5.4, 3 runs) on all 42,000, a 57th of Keras's lesson in the same run; two
# Sapphire Rapids cores, torch 2.13.0 (docs/LOG.md, "The recipes on a third machine").
QUICK = Recipe(
    name="quick",
    net="quick",
    epochs=7,
    min_steps=40,
    epoch_share=0.25,
    hard_share=0.6,
    batch_size=256,
    optimiser="muon",
    learning_rate=1.5e-2,
    filter_rate=0.12,
    weight_decay=0.01,
    schedule="one-cycle",
    rotation=10.0,
    zoom=0.2,
    shift=0.1,
    coarse=0.3,
    mirror="auto",
    label_smoothing=0.1,
    views="shifts",
    validation_share=0.08,
)

# The best single file that minutes on two cores give: two networks that err in different places.
# Evidence: 0.9972 ± 0.0003 as above, 5 seeds; 146 s with its guard (1 run) on all 42,000, where Keras's lesson took
# 260 s (docs/LOG.md, "The recipes on a third machine", "A guard and the ink rules together, and small pictures").
BEST = dataclasses.replace(
    QUICK,
    name="best",
    net="deep+broad",
    epochs=27,
    epoch_share=0.5,
    learning_rate=1e-2,
    filter_rate=0.1,
    zoom=0.1,
    elastic=0.6,
    coarse=0.0,
    guard="quick",
)

# The highest accuracy that an hour on two cores gives: four times the two of `best`, taught twice as long.
# Evidence: 0.9975 and 0.9973 as above, seeds 1 and 2, 1,230 and 1,110 s for 32,000 digits (docs/LOG.md, "The recipes on
# a third machine").
RECORD = dataclasses.replace(BEST, name="record", net="+".join(["deep+broad"] * 4), epochs=54)

# The default on colour photos. Evidence: on 413 of 2,062 photos of hands 0.9952 with each of 5 seeds in 57 to 60 s,
# where Keras's tutorial had 0.8684 in the mean of 3, in 147 s undisturbed; two Sapphire Rapids cores (docs/LOG.md, "The
# recipes on a third machine"). Before, on Zen 4: 0.9976 and 0.9927, 2 seeds, 103 and 109 s, Keras's 235 s.
PHOTOS = Recipe(
    name="photos",
    net="residual",
    largest_side=96,
    epochs=14,
    min_steps=25,
    batch_size=64,
    optimiser="muon",
    learning_rate=5e-3,
    filter_rate=0.05,
    weight_decay=0.02,
    schedule="one-cycle",
    rotation=10.0,
    crop=0.5,
    mirror="auto",
    light=0.3,
    label_smoothing=0.1,
    views="auto",
    validation_share=0.1,
)

RECIPES = {recipe.name: recipe for recipe in (TUTORIAL, QUICK, BEST, RECORD, PHOTOS)}


def guard_recipe(recipe: Recipe) -> Recipe:
    """Give the recipe by which a model's guard is taught: that of `quick`, or shorter where the model's is.

    Guards taught five times as long found no more (docs/LOG.md). Pictures are turned as far as the model's, or further.

    Parameters
    ----------
    recipe : Recipe
        The model's, settled, with a guard.

    Returns
    -------
    Recipe
        The guard's.

    Examples
    --------
    >>> guard_recipe(dataclasses.replace(BEST, mirror="no")).epochs
    7
    """
    taken = {name: getattr(recipe, name) for name in ("mirror", "precision", "min_steps", "seed")}
    taken |= {"epochs": min(recipe.epochs, QUICK.epochs), "rotation": max(recipe.rotation, QUICK.rotation)}
    return dataclasses.replace(QUICK, name="guard", net=recipe.guard, validation_share=0.0, **taken)


def find_recipe(name: str) -> Recipe:
    """Find a recipe by name, or read one from a recipe.json.

    Parameters
    ----------
    name : str
        One of `RECIPES`, or the path of a JSON file that a run wrote.

    Returns
    -------
    Recipe
        The recipe.

    Raises
    ------
    UsageError
        When there is no such recipe, or the file is not one.

    Examples
    --------
    >>> find_recipe("tutorial").epochs
    30
    """
    if name in RECIPES:
        return RECIPES[name]
    try:
        values = json.loads(Path(name).read_text(encoding="utf-8")) if name.endswith(".json") else None
    except (OSError, ValueError) as error:
        raise UsageError(
            f"recipe {name!r}", "--recipe", f"it cannot be read ({error})", "Name the recipe.json of a run."
        ) from None
    if not isinstance(values, dict):
        raise UsageError(
            f"recipe {name!r}",
            "--recipe",
            "there is no such recipe",
            f"Use {', '.join(RECIPES)}, or the recipe.json of a run.",
        )
    return Recipe.from_dict(values, where=name)


def choose_recipe(shape: tuple[int, int, int]) -> tuple[Recipe, str]:
    """Choose a recipe for pictures of a given form, where nobody named one.

    Parameters
    ----------
    shape : tuple of int
        Channels, height and width.

    Returns
    -------
    recipe : Recipe
        The choice.
    reason : str
        Why, in a few words.

    Examples
    --------
    >>> choose_recipe((1, 28, 28))[1]
    'the default for small grey pictures'
    """
    channels, height, width = shape
    if channels == 3:
        return PHOTOS, "the default for colour pictures"
    if max(height, width) <= 64:
        return QUICK, "the default for small grey pictures"
    return PHOTOS, "the default for larger pictures"
