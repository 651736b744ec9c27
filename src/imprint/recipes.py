"""Recipe: everything that decides a training run, as one frozen record."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imprint.core.errors import UsageError

NET_KINDS = ("tutorial", "quick", "deep", "broad", "residual")
CHOICES = {
    "optimiser": ("rmsprop", "adamw", "muon"),
    "schedule": ("plateau", "one-cycle"),
    "precision": ("auto", "float32", "bfloat16"),
    "mirror": ("auto", "yes", "no"),
    "views": ("none", "shifts", "mirror", "auto"),
}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run.

    Parameters
    ----------
    name : str
        What the run folder is named after.
    net : {"tutorial", "quick", "deep", "broad", "residual"}
        The network, or several joined by + that are trained one after the other and whose
        probabilities are averaged.
    epochs : int
        How many epochs to train.
    batch_size : int
        Pictures in a step.
    optimiser : {"rmsprop", "adamw", "muon"}
        Keras's RMSprop, AdamW, or Muon for filters and AdamW for the rest.
    learning_rate : float
        The first rate of the plateau schedule, the highest of the one-cycle schedule.
    schedule : {"plateau", "one-cycle"}
        Keras's ReduceLROnPlateau on validation accuracy, or a rise and fall over the whole run.
    validation_share : float
        Share of the pictures held out to score epochs; 0 for none.
    largest_side : int, default=0
        Larger pictures are scaled down until their shorter side has so many pixels; 0 for no limit.
    steps_per_epoch : int, default=0
        Steps in an epoch; 0 means one pass through the training pictures.
    min_steps : int, default=0
        An epoch has at least so many steps; small data sets are passed through several times.
    epoch_share : float, default=1
        Share of the pictures that an epoch takes; the first takes all.
    hard_share : float, default=0
        Share of an epoch's pictures that are those with the highest loss when last seen; the
        others are drawn at random.
    filter_rate : float, default=0.1
        Muon's learning rate, where `learning_rate` is AdamW's.
    weight_decay : float, default=0
        Decoupled decay of AdamW and Muon.
    plateau_factor : float, default=0.5
        Multiply the rate by this when validation accuracy has stopped rising.
    plateau_patience : int, default=3
        After so many epochs without a rise.
    plateau_min_delta : float, default=1e-4
        A rise is more than this.
    plateau_floor : float, default=1e-5
        The rate never falls below this.
    rotation : float, default=0
        Turn training pictures by up to this many degrees either way.
    zoom : float, default=0
        Stretch height and width separately by up to this share.
    shift : float, default=0
        Move by up to this share of height and width.
    elastic : float, default=0
        Bend by random displacements of this standard deviation at 5×5 points, in 28ths of the side.
    coarse : float, default=0
        Share of the training pictures that are shown as if enlarged from a third to six tenths of their side.
    crop : float, default=1
        Take a random part of this share of the area at least, and enlarge it to the whole.
    mirror : {"auto", "yes", "no"}, default="no"
        Turn left and right about in half of the pictures; ``"auto"`` asks `plan.may_mirror`.
    light : float, default=0
        Change saturation, contrast and brightness by up to this share.
    label_smoothing : float, default=0
        Share of the target spread evenly over all classes.
    guard : {"", "tutorial", "quick", "deep", "broad", "residual"}, default=""
        A further network that learns to tell the pictures from such turned, mirrored or joined of two, and joins in
        what makes a prediction unsure; empty for none.
    views : {"none", "shifts", "mirror", "auto"}, default="none"
        Where the model hesitates, average what it says of the picture as it is and moved by a
        28th of its side in eight directions, or mirrored; ``"auto"`` mirrors where training did.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Of the arithmetic in training; ``"auto"`` asks the self-check. Predictions are always float32.
    validation_seed : int, default=7
        Which pictures are held out.
    seed : int, default=7
        Weights, order, augmentation and dropout.

    Raises
    ------
    UsageError
        When a value makes no sense.

    Examples
    --------
    >>> from dataclasses import replace
    >>> from imprint.recipes import RECIPES
    >>> replace(RECIPES["tutorial"], epochs=3).epochs
    3
    """

    name: str
    net: str
    epochs: int
    batch_size: int
    optimiser: str
    learning_rate: float
    schedule: str
    validation_share: float
    largest_side: int = 0
    steps_per_epoch: int = 0
    min_steps: int = 0
    epoch_share: float = 1.0
    hard_share: float = 0.0
    filter_rate: float = 0.1
    weight_decay: float = 0.0
    plateau_factor: float = 0.5
    plateau_patience: int = 3
    plateau_min_delta: float = 1e-4
    plateau_floor: float = 1e-5
    rotation: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    elastic: float = 0.0
    coarse: float = 0.0
    crop: float = 1.0
    mirror: str = "no"
    light: float = 0.0
    label_smoothing: float = 0.0
    guard: str = ""
    views: str = "none"
    precision: str = "auto"
    validation_seed: int = 7
    seed: int = 7

    def __post_init__(self) -> None:
        for key, allowed in CHOICES.items():
            self._require(key, getattr(self, key) in allowed, f"it is one of {', '.join(allowed)}")
        known = len(self.net) > 0 and all(kind in NET_KINDS for kind in self.net.split("+"))
        self._require("net", known and self.net.count("+") < 32, f"it is {', '.join(NET_KINDS)}, or some joined by +")
        self._require("guard", self.guard in ("", *NET_KINDS), f"it is empty, {', '.join(NET_KINDS)}")
        for key in ("epochs", "batch_size", "plateau_patience"):
            self._require(key, getattr(self, key) >= 1, "it is at least 1")
        at_least_0 = (
            "largest_side steps_per_epoch min_steps weight_decay plateau_min_delta plateau_floor rotation elastic"
        )
        for key in at_least_0.split():
            self._require(key, getattr(self, key) >= 0, "it is at least 0")
        for key in ("zoom", "shift", "label_smoothing", "validation_share", "hard_share", "light", "coarse"):
            self._require(key, 0 <= getattr(self, key) < 1, "it lies from 0 to below 1")
        for key in ("seed", "validation_seed"):
            self._require(key, 0 <= getattr(self, key) < 2**32, "it lies from 0 to 4294967295")
        self._require("rotation", self.rotation <= 180, "it is at most 180 degrees")
        for key in ("learning_rate", "filter_rate"):
            self._require(key, 0 < getattr(self, key) < 1000, "it is above 0 and below 1000")
        for key in ("epoch_share", "crop"):
            self._require(key, 0 < getattr(self, key) <= 1, "it lies above 0 and is at most 1")
        self._require("plateau_factor", 0 < self.plateau_factor < 1, "it lies between 0 and 1")
        turned = self.views == "mirror" and self.mirror == "no"
        self._require("views", not turned, "mirrored views need mirror=yes, which changes what signs mean")
        safe = bool(self.name) and all(c.isalnum() or c in "-_" for c in self.name)
        self._require("name", safe, "it holds letters, digits, - and _ only")

    def _require(self, key: str, holds: bool, rule: str) -> None:
        if not holds:
            raise UsageError(
                f"{key}={getattr(self, key)!r}", f"recipe {self.name}", rule, f"Change it with --set {key}=…."
            )

    @property
    def every_net(self) -> str:
        """The networks and the guard, joined by +: pictures must be large enough for all of them.

        Returns
        -------
        str
            As `net` is written.

        Examples
        --------
        >>> from imprint.recipes import RECIPES
        >>> RECIPES["best"].every_net
        'deep+broad+quick'
        """
        return f"{self.net}+{self.guard}" if self.guard else self.net

    def epoch_steps(self, pictures: int) -> list[int]:
        """Tell how many steps each epoch of one network takes; a step is at most `pictures` large.

        Parameters
        ----------
        pictures : int
            How many there are to learn from.

        Returns
        -------
        list of int
            One for each epoch.

        Examples
        --------
        >>> from imprint.recipes import RECIPES
        >>> RECIPES["quick"].epoch_steps(42_000)
        [164, 41, 41, 41, 41, 41, 41]
        """
        one_pass = self.steps_per_epoch or max(1, round(pictures / min(self.batch_size, pictures)))
        shares = [1.0, *[self.epoch_share] * (self.epochs - 1)]
        return [max(self.min_steps, math.ceil(share * one_pass)) for share in shares]

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as plain values, as recipe.json and model files hold them.

        Returns
        -------
        dict
            Field name to value.

        Examples
        --------
        >>> from imprint.recipes import RECIPES
        >>> RECIPES["tutorial"].to_dict()["batch_size"]
        64
        """
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "recipe") -> Recipe:
        """Build a recipe from plain values.

        Parameters
        ----------
        values : mapping
            Field name to value; fields with a default may be left out.
        where : str, default="recipe"
            Where the values came from, for messages.

        Returns
        -------
        Recipe
            The recipe.

        Raises
        ------
        UsageError
            When a field is unknown, missing or of the wrong type.

        Examples
        --------
        >>> from imprint.recipes import RECIPES
        >>> Recipe.from_dict(RECIPES["quick"].to_dict()) == RECIPES["quick"]
        True
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        required = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
        for name in sorted(required - set(values)):
            raise UsageError(f"field {name}", where, "it is missing", "Start from a whole recipe.json.")
        typed = {name: _typed(name, value, where) for name, value in values.items()}
        return cls(**typed)

    def with_settings(self, settings: Iterable[str]) -> Recipe:
        """Change fields by `key=value` texts, as ``--set`` takes them.

        Parameters
        ----------
        settings : iterable of str
            For instance ``["epochs=3", "learning_rate=5e-4"]``.

        Returns
        -------
        Recipe
            A changed copy.

        Raises
        ------
        UsageError
            When a key is unknown or a value does not fit.

        Examples
        --------
        >>> from imprint.recipes import RECIPES
        >>> RECIPES["tutorial"].with_settings(["epochs=3"]).epochs
        3
        """
        changes: dict[str, Any] = {}
        for setting in settings:
            key, equals, text = setting.partition("=")
            if not equals:
                raise UsageError(setting, "--set", "it has no =", "Write --set key=value, such as --set epochs=3.")
            changes[key.strip()] = _typed(key.strip(), text.strip(), "--set")
        return dataclasses.replace(self, **changes)


def _typed(key: str, value: Any, where: str) -> Any:
    """Turn a text or JSON value into the type of its field."""
    types = {field.name: field.type for field in dataclasses.fields(Recipe)}
    if key not in types:
        raise UsageError(f"field {key!r}", where, "recipes have none of that name", f"Fields: {', '.join(types)}.")
    kind = {"str": str, "int": int, "float": float}[str(types[key])]
    try:
        typed = kind(value)
        if isinstance(value, bool) or (kind is int and not isinstance(value, str) and typed != value):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        wanted = {str: "a word", int: "a whole number", float: "a number"}[kind]
        raise UsageError(f"{key}={value}", where, f"{key} is {wanted}", f"Write {key} as {wanted}.") from None
    return typed


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
