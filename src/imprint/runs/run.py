"""Run: what training gave."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imprint.core.scores import FEWEST_TO_TELL, AccuracyEstimate, Score
from imprint.models.classifier import Classifier
from imprint.models.model_file import MODEL_NAME
from imprint.models.predictor import Predictions
from imprint.recipes import Recipe
from imprint.training.calibration import ConfidenceLimit, coverage_statement

RESULT_NAME = "result.csv"
UNEVEN = 0.8  # share of the commonest class from which accuracy tells little
NOTHING_HELD_OUT = (
    "no images were held out, so nothing tells what to expect on new ones; hold some out: --validation 0.08"
)


@dataclass(frozen=True, eq=False)
class Run:
    """What training gave.

    Parameters
    ----------
    model : Classifier
        After the last epoch; after an interrupt, of the networks that had ended, else from the best epoch so far.
    recipe : Recipe
        What decided the run.
    history : dict of str to list of float
        One value an epoch, as in Keras's ``History.history``: loss, acc, val_loss, val_acc
        (these two only with validation images), lr and seconds.
    seconds : float
        The loop, validation and checkpoints after epochs included.
    interrupted : bool, default=False
        Whether Ctrl-C ended it early.
    validation : Score or None, default=None
        The kept model's score on the validation images.
    predictions : Predictions or None, default=None
        What it says of each validation image.
    expected : AccuracyEstimate or None, default=None
        What that lets one expect of the model on new images.
    result : Predictions or None, default=None
        What it says of each test image, where there were any.
    folder : Path or None, default=None
        The run folder, where one was written.
    no_score_because : str, default=""
        Why there is no score, where photos are too few for one.
    limit : ConfidenceLimit or None, default=None
        Below which confidence the model is unsure, and what that rests on.
    parent : dict of str to str, or None, default=None
        The model that training started from: `model` (its path), `sha256`, and `leak`, why the score is an upper
        estimate; empty where it is not.

    Examples
    --------
    >>> import imprint
    >>> run = imprint.train("digits", "quick", epochs=2, min_steps=1, verbose=False)
    >>> len(run.history["val_acc"])
    2
    """

    model: Classifier
    recipe: Recipe
    history: dict[str, list[float]]
    seconds: float
    interrupted: bool = False
    validation: Score | None = None
    predictions: Predictions | None = None
    expected: AccuracyEstimate | None = None
    result: Predictions | None = None
    folder: Path | None = None
    no_score_because: str = ""
    limit: ConfidenceLimit | None = None
    parent: dict[str, str] | None = None

    @property
    def leak(self) -> str:
        """Why the score is an upper estimate, in words; empty where it is not."""
        return "" if self.parent is None or self.validation is None else self.parent["leak"]

    @property
    def expectation(self) -> str:
        """What to expect of the model on new images, in words."""
        failure = f"{self.failure}\n" if self.failure else ""
        images = self.expected.images if self.expected else 0
        split_off = not self.no_score_because and (self.expected is None or self.expected.method == "held-out")
        coverage = coverage_statement(images, split_off)
        no_score = f"no score: {self.no_score_because}" if self.no_score_because else NOTHING_HELD_OUT
        low = "" if self.limit is None else f"\n{self.limit}"
        leak = f"{self.leak}\n" if self.leak else ""
        return f"{failure}{leak}{self.expected or no_score}\n{coverage}{low}"

    @property
    def failure(self) -> str:
        """What to try first where the model is no better than guessing, in words; empty where it is."""
        if self.validation is None or self.expected is None or self.validation.images < FEWEST_TO_TELL:
            return ""
        if self.expected.interval[0] > self.validation.baseline:
            return ""
        known = (
            f"{self.validation.baseline:.4f}, and {self.validation.accuracy:.4f} is not above it by more than chance"
        )
        return (
            f"no better than guessing: always the commonest class gives {known}. {self._first_remedy(self.validation)}"
        )

    def _first_remedy(self, validation: Score) -> str:
        """Tell a network that has learnt nothing from one that knows its training images alone."""
        labels = "whether the labels are right (imprint check DATA), then add images of each class"
        if validation.baseline >= UNEVEN:
            chance = 1 / sum(one["images"] > 0 for one in validation.per_class.values())
            balanced = f"balanced accuracy ({validation.balanced_accuracy:.4f}; guessing gives {chance:.4f})"
            return (
                f"Accuracy tells little of classes as uneven as these: see {balanced}, and first --set class_balance=1."
            )
        accuracies, epochs = self.history.get("acc") or [], self.recipe.epochs
        if not accuracies:
            return f"First see {labels}."
        learnt = f"{accuracies[-1]:.4f} on its training images"
        if accuracies[-1] >= (1 + validation.baseline) / 2:
            return f"It has learnt its own images by heart ({learnt}) and no rule: first see {labels}."
        steps = f"--epochs {2 * epochs}" + ("" if self.recipe.min_steps >= 10 else " --set min_steps=40")
        rate = "with a --learning-rate ten times lower or higher"
        return f"It has hardly learnt ({learnt}): first train longer ({steps}), then {rate}; then see {labels}."

    def facts(self) -> dict[str, Any]:
        """Sum the run up as plain JSON values, as metrics.json and ``imprint train --json`` do.

        Returns
        -------
        dict
            `run` and `model` (paths, where a folder was written), `recipe`, `seconds`, `epochs`, `interrupted`,
            `validation`, `expected`, `failure` (what to try first; empty where the model is better than guessing),
            `unsure` (shares of the validation images), `trust` (the limit of confidence), `result` with test images,
            and with `from_model` `parent` (`model`, `sha256`, `leak`).

        Examples
        --------
        >>> import imprint
        >>> run = imprint.train("digits", "quick", epochs=1, min_steps=1, verbose=False)
        >>> run.facts()["validation"]["images"]
        144
        """
        paths = {} if self.folder is None else {"run": str(self.folder), "model": str(self.folder / MODEL_NAME)}
        facts = paths | {
            "recipe": self.recipe.name,
            "seconds": round(self.seconds, 3),
            "epochs": len(self.history["loss"]),
            "interrupted": self.interrupted,
            "validation": None if self.validation is None else self.validation.facts(),
            "expected": None if self.expected is None else self.expected.facts(),
            "failure": self.failure,
            "unsure": None if self.validation is None else self.validation.unsure,
            "trust": None if self.limit is None else self.limit.facts(),
        }
        if self.parent is not None:
            facts["parent"] = self.parent
        if self.folder is not None and self.result is not None:
            facts["result"] = str(self.folder / RESULT_NAME)
        return facts


def seeds_facts(runs: Sequence[Run]) -> dict[str, Any]:
    """Sum up runs that differ in nothing but their seed.

    Gives the first run's facts, and `seeds` [{`seed`, `accuracy`, `run`}] with the `mean` of their accuracies and `sd`,
    the standard deviation of one run (None for a single one).
    """
    each = [run.facts() for run in runs]
    rows = [
        {"seed": run.recipe.seed, "accuracy": facts["validation"]["accuracy"], "run": facts.get("run")}
        for run, facts in zip(runs, each, strict=True)
    ]
    accuracies = [row["accuracy"] for row in rows]
    sd = statistics.stdev(accuracies) if len(accuracies) > 1 else None
    return {**each[0], "seeds": rows, "mean": statistics.mean(accuracies), "sd": sd}
