"""Run: what training gave, in memory or read back from its folder."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imprint.core.errors import UsageError, brief
from imprint.core.html import ORANGE, block, drawing, headline, line
from imprint.core.scores import FEWEST_TO_TELL, AccuracyEstimate, Score
from imprint.models.classifier import Classifier
from imprint.models.model_file import MODEL_NAME
from imprint.models.predictor import Predictions
from imprint.recipes import Recipe
from imprint.runs.figures import curves_plot
from imprint.runs.read_run import read_run
from imprint.training.calibration import ConfidenceLimit, coverage_statement

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
    warnings : tuple of str, default=()
        What was found wrong with the images before training, such as copies.

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
    warnings: tuple[str, ...] = ()

    @property
    def leak(self) -> str:
        """Why the score is an upper estimate, in words; empty where it is not."""
        return "" if self.parent is None or self.validation is None else self.parent["leak"]

    def __repr__(self) -> str:
        scored = "no score" if self.validation is None else f"validation accuracy {self.validation}"
        where = "" if self.folder is None else f", {self.folder}"
        return brief(self, f"{self.recipe.name}: {scored}, trained in {self.seconds:.1f} s{where}")

    def _repr_html_(self) -> str:
        scored = headline("no score") if self.validation is None else self.validation.headline_html()
        parts = [line(words, ORANGE if words == self.failure else "") for words in self.expectation.splitlines()]
        if self.history.get("loss"):
            parts.append(drawing(curves_plot(self.history), "loss, accuracy and learning rate over the epochs"))
        if self.folder is not None:
            names: list[str] = []
            with contextlib.suppress(OSError):  # it may have been moved meanwhile
                names = sorted(path.name for path in self.folder.iterdir())
            parts.append(line(f"in {self.folder}: {', '.join(names) or 'nothing any more'}"))
        return block(f"Run of recipe {self.recipe.name}", f"trained in {self.seconds:.1f} s", scored, *parts)

    @classmethod
    def load(cls, folder: str | Path) -> Run:
        """Read a run back from its folder.

        Parameters
        ----------
        folder : str or Path
            The run folder, as `train` wrote it.

        Returns
        -------
        Run
            As it was, but that `predictions` and `result` are None: of these the folder holds tables, validation.csv
            and result.csv. Figures that a run of an older version does not tell are nan or None.

        Raises
        ------
        UsageError
            When there is no such folder, the run has not ended, or a file in it is broken.
        ModelFileError
            When its model is not whole.

        Examples
        --------
        >>> import tempfile
        >>> import imprint
        >>> folder = Path(tempfile.mkdtemp()) / "first"
        >>> run = imprint.train("digits", "quick", epochs=1, min_steps=1, run=folder, verbose=False)
        >>> Run.load(folder).facts() == run.facts()
        True
        """
        record = read_run(Path(folder))
        metrics = record.metrics
        return cls(
            record.model,
            record.model.recipe,
            record.history or {"loss": []},
            float(metrics.get("seconds") or 0.0),
            bool(metrics.get("interrupted")),
            validation=record.score(),
            expected=record.expected(),
            folder=record.folder,
            no_score_because=str(metrics.get("no_score_because") or ""),
            limit=record.limit(),
            parent=metrics.get("parent"),
            warnings=tuple(map(str, metrics.get("warnings", ()))),
        )

    def plot(self) -> Figure:
        """Draw loss, accuracy and learning rate over the epochs.

        Returns
        -------
        matplotlib.figure.Figure
            A notebook shows it; ``figure.savefig("curves.png")`` writes it. pyplot does not keep it.

        Raises
        ------
        UsageError
            When the run had no epochs, as that of a linear head on frozen features.

        Examples
        --------
        >>> import imprint
        >>> run = imprint.train("digits", "quick", epochs=2, min_steps=1, verbose=False)
        >>> [axes.get_title(loc="left") for axes in run.plot().axes]
        ['Loss', 'Accuracy', 'Learning rate']
        """
        if not self.history.get("loss"):
            cause = "its history has no epochs"
            raise UsageError("curves", f"recipe {self.recipe.name}", cause, "See run.validation for its score.")
        return curves_plot(self.history)

    def report(self, path: str | Path | None = None, data: str | None = None) -> Path:
        """Write a page about the run: score, confidence, mistakes with their images, curves and recipe.

        Parameters
        ----------
        path : str, Path or None, default=None
            The file to write; None is ``report.html`` in the run folder.
        data : str or None, default=None
            Where the training images are now, if they were moved. Where they cannot be read, as images made in Python
            cannot, the page says so and does without.

        Returns
        -------
        Path
            The page, one file that needs no other.

        Raises
        ------
        UsageError
            When the run has no folder, or the page cannot be written.

        Examples
        --------
        >>> import tempfile
        >>> import imprint
        >>> folder = Path(tempfile.mkdtemp()) / "first"
        >>> run = imprint.train("digits", "quick", epochs=1, min_steps=1, run=folder, verbose=False)
        >>> run.report().name
        'report.html'
        """
        import imprint  # the page is made on a floor above, so a run asks for it by its public name, as its user would

        if self.folder is None:
            cause = "it wrote no folder, which the page is made of"
            raise UsageError("run", "report", cause, "Train with run=True, or name a folder: run='runs/first'.")
        return imprint.write_report(self.folder, path, data)

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
            `unsure` (shares of the validation images), `trust` (the limit of confidence), `no_score_because`, `result`
            with test images, with `from_model` `parent` (`model`, `sha256`, `leak`), and `warnings`.

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
            "epochs": len(self.history.get("loss", ())),
            "interrupted": self.interrupted,
            "validation": None if self.validation is None else self.validation.facts() | _losses(self.validation),
            "expected": None if self.expected is None else self.expected.facts(),
            "failure": self.failure,
            "unsure": None if self.validation is None else self.validation.unsure,
            "trust": None if self.limit is None else self.limit.facts(),
            "no_score_because": self.no_score_because,
            "warnings": list(self.warnings),
        }
        if self.parent is not None:
            facts["parent"] = self.parent
        if self.folder is not None and self.result is not None:
            facts["result"] = str(self.folder / RESULT_NAME)
        return facts


def _losses(score: Score) -> dict[str, float | None]:
    """Give the figures that need every probability, which no other file of a run folder tells."""
    keys = ("log_loss", "calibration_error", "brier", "top_5")
    known = {key: getattr(score, key) for key in keys}
    return {key: value for key, value in known.items() if value is None or not math.isnan(value)}


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
