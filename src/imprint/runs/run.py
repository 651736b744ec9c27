"""Training: from labelled pictures to a model and its score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from imprint.models.hardware import choose_arithmetic
from imprint.training.state import Checkpoint, Stopped
from imprint.models.classifier import Classifier
from imprint.training.calibration import promise, settle_confidence
from imprint.core.errors import UsageError
from imprint.core.scores import Expected, expected_accuracy
from imprint.data.images import LabelledImages
from imprint.training.fit import run_epochs
from imprint.training.plan import Plan, plan_training
from imprint.models.predictor import Predictions
from imprint.core.progress import Reporter
from imprint.recipes import Recipe
from imprint.training.ood_detector import guard_recipe
from imprint.core.scores import Score, score
from imprint.training.ood_detector import make_strangers
from imprint.models.ood import forms_for
from imprint.training.state import TrainingState, begin, together

History = dict[str, list[float]]


@dataclass(frozen=True, eq=False)
class Run:
    """What a training run gave.

    Parameters
    ----------
    model : Classifier
        After the last epoch; after an interrupt, of the networks that had ended, else from the best epoch so far.
    recipe : Recipe
        What decided the run.
    history : dict of str to list of float
        One value an epoch, as in Keras's ``History.history``: loss, acc, val_loss, val_acc
        (these two only with validation pictures), lr and seconds.
    seconds : float
        The loop, validation and checkpoints after epochs included.
    validation : Score or None
        The kept model's score on the validation pictures.
    predictions : Predictions or None
        What it says of each validation picture.
    expected : Expected or None
        What that lets one expect of the model on new pictures.
    interrupted : bool
        Whether Ctrl-C ended it early.

    Examples
    --------
    >>> from imprint import load
    >>> run = train(load("digits"), recipe="quick", settings=["epochs=2", "min_steps=1"], silent=True)
    >>> len(run.history["val_acc"])
    2
    """

    model: Classifier
    recipe: Recipe
    history: History
    seconds: float
    validation: Score | None
    predictions: Predictions | None
    expected: Expected | None
    interrupted: bool

    @property
    def expectation(self) -> str:
        """What to expect of the model on new pictures, in words.

        Returns
        -------
        str
            One line on its accuracy, one on how many it will flag unsure.

        Examples
        --------
        >>> from imprint import load
        >>> fast = ["epochs=1", "min_steps=1"]
        >>> print(train(load("digits"), recipe="quick", settings=fast, validation=0, silent=True).expectation)
        no pictures were held out, so nothing tells what to expect on new ones; hold some out: --validation 0.08
        unsure: about 1 % of new pictures like these should be flagged; none were held out to promise it, 99 would do
        """
        nothing = (
            "no pictures were held out, so nothing tells what to expect on new ones; hold some out: --validation 0.08"
        )
        return f"{self.expected or nothing}\n{promise(self.expected.images if self.expected else 0)}"


def train(
    images: LabelledImages,
    recipe: str | Recipe | None = None,
    *,
    settings: Sequence[str] = (),
    validation: float | int | LabelledImages | None = None,
    seed: int | None = None,
    device: str = "auto",
    silent: bool = False,
) -> Run:
    """Teach a network to tell pictures apart.

    Parameters
    ----------
    images : LabelledImages
        At least two classes.
    recipe : str, Recipe or None, default=None
        A recipe, its name or the path of a recipe.json; None lets the pictures decide.
    settings : sequence of str, default=()
        Changes to the recipe, such as ``"epochs=3"``.
    validation : float, LabelledImages or None, default=None
        Share to hold out, or other pictures to validate with; None does as the recipe says.
    seed : int or None, default=None
        Of weights, order, augmentation and dropout; None takes the recipe's.
    device : str, default="auto"
        Where to compute.
    silent : bool, default=False
        Say nothing on stderr.

    Returns
    -------
    Run
        The model, its history and its score.

    Raises
    ------
    DataError
        When labels are missing or name only one class, or validation pictures do not fit.
    UsageError
        When the recipe, a setting or the device makes no sense, or training diverges.
    KeyboardInterrupt
        When Ctrl-C comes before the first epoch has ended.

    Examples
    --------
    >>> from imprint import load
    >>> run = train(load("digits"), recipe="quick", settings=["epochs=1", "min_steps=1"], silent=True)
    >>> run.model.class_names
    ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')
    """
    plan = plan_training(images, recipe, settings=settings, validation=validation, seed=seed, device=device)
    return carry_out(plan, Reporter(silent))


def carry_out(
    plan: Plan, reporter: Reporter, checkpoint: Checkpoint | None = None, stopped: Stopped | None = None
) -> Run:
    """Train as planned; torch's random numbers are the recipe's meanwhile, and the caller's again after.

    Parameters
    ----------
    plan : Plan
        From `plan_training`.
    reporter : Reporter
        Is told how far the run is.
    checkpoint : Checkpoint or None, default=None
        Keeps, as the run goes on, what another needs to take it up; None keeps nothing.
    stopped : Stopped or None, default=None
        The run to take up, from `find_stopped`; None begins at the beginning.

    Returns
    -------
    Run
        The model, its history and its score.

    Raises
    ------
    ModelFileError
        When the run to take up does not hold together.
    UsageError
        When training diverges, or the run folder cannot be written to.
    KeyboardInterrupt
        When Ctrl-C comes before the first epoch has ended.

    Examples
    --------
    >>> from imprint import load
    >>> plan = plan_training(load("digits"), settings=["epochs=1", "min_steps=1"])
    >>> carry_out(plan, Reporter(silent=True)).interrupted
    False
    """
    threads = torch.get_num_threads()
    try:
        with torch.random.fork_rng([plan.device] if plan.device.type == "cuda" else []):
            torch.manual_seed(plan.recipe.seed)
            return _teach(plan, reporter, checkpoint, stopped)
    finally:
        torch.set_num_threads(threads)


def _teach(plan: Plan, reporter: Reporter, checkpoint: Checkpoint | None, stopped: Stopped | None) -> Run:
    """Train the recipe's networks one after the other, and score what they say together."""
    recipe, class_names = plan.recipe, plan.images.class_names
    reporter.say(f"{plan}; {choose_arithmetic(plan.device, recipe.precision)}")
    for warning in plan.warnings:
        reporter.say(f"warning: {warning}")
    pixels = torch.from_numpy(plan.images.pixels).to(plan.device)
    labels = torch.from_numpy(plan.images.labels_among(class_names)).to(plan.device)
    state = begin(plan) if stopped is None else stopped.go_on(plan)
    if stopped is not None:
        reporter.say(f"taken up after epoch {len(state.epochs)}")
    if checkpoint is not None:
        checkpoint.write(state, reporter)  # a folder that cannot be written to is noticed now
    kinds, guard = recipe.net.split("+"), None
    interrupted = False
    try:
        while True:
            if len(kinds) > 1:
                place = len(state.finished)
                reporter.say(f"network {place + 1} of {len(kinds)}: {kinds[place]}")
            run_epochs(state, pixels, labels, checkpoint, reporter)
            state.finished.append(state.net)
            if len(state.finished) == len(kinds):
                break
            following = begin(plan, state.finished, state.epochs)
            following.seconds = state.seconds
            state = following
        if recipe.guard:
            guard = _guard(plan, reporter)
    except KeyboardInterrupt:
        interrupted = True
        if len(state.finished) == len(kinds):
            reporter.say("stopped: the model is kept, without its guard")
        elif state.finished:
            reporter.say(f"stopped: of {len(kinds)} networks, {len(state.finished)} kept")
        elif state.best_weights is None:
            raise
        else:
            reporter.say("stopped: the best epoch so far is kept; its score chose it, so expect slightly less")
            state.net.load_state_dict(state.best_weights)
    net, kept, seconds = together(state.finished or [state.net]), state.kept[0], state.seconds
    if guard is not None:
        kept, seconds = replace(kept, guard=recipe.guard), seconds + guard.seconds
    model = settle_confidence(net.eval(), None if guard is None else guard.net, plan, kept)
    tries = len(state.epochs) if interrupted and not state.finished else 1
    return _scored(model, plan, _history(state), seconds, interrupted, tries)


def _guard(plan: Plan, reporter: Reporter) -> TrainingState | None:
    """Teach a network to tell the training pictures from strangers made of them; None where it learns nothing."""
    strangers = make_strangers(plan.images, plan.training, plan.recipe)
    forms = ", ".join(forms_for(plan.recipe, plan.spec.picture_size))
    made = f"{forms} or joined of two" if forms else "joined of two"
    reporter.say(f"guard: {plan.recipe.guard}, learns what is none of these from such pictures {made}")
    taught = replace(
        plan, images=strangers, training=np.arange(len(strangers)), validation=None, recipe=guard_recipe(plan.recipe)
    )
    pixels = torch.from_numpy(strangers.pixels).to(plan.device)
    state = begin(taught)
    try:
        run_epochs(state, pixels, torch.from_numpy(strangers.labels).to(plan.device), None, reporter)
    except UsageError:  # what the networks have learnt is worth more than their guard
        reporter.say("warning: training of the guard has diverged; the model is kept without it")
        return None
    return state


def _scored(model: Classifier, plan: Plan, history: History, seconds: float, interrupted: bool, tries: int) -> Run:
    """Score a trained classifier, the best of so many tries, and tell what that lets one expect."""
    recipe = model.recipe
    if plan.validation is None:
        return Run(model, recipe, history, seconds, None, None, None, interrupted)
    labels = plan.validation.labels_among(model.class_names)
    predictions = model.predict(plan.validation)
    validation = score(predictions.probabilities, labels, model.class_names, predictions.unsure)
    # Temperature and limits were settled on these pictures, but neither changes an answer.
    expected = expected_accuracy(predictions.labels == labels, plan.validation.groups, tries)
    model = replace(model, score=validation.facts())
    return Run(model, recipe, history, seconds, validation, predictions, expected, interrupted)


def _history(state: TrainingState) -> History:
    """Turn the epochs' figures into columns, as in Keras's history."""
    return {key: [epoch[key] for epoch in state.epochs] for key in state.epochs[0]}
