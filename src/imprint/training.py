"""Training: the whole loop in one function, readable from top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor, nn

from imprint.arithmetic import choose_arithmetic
from imprint.augment import augment
from imprint.checkpoint import Checkpoint, Stopped
from imprint.classifier import Classifier
from imprint.confidence import promise, settle_confidence
from imprint.errors import UsageError
from imprint.expected import Expected, expected_accuracy
from imprint.images import LabelledImages
from imprint.mapped import rows_of
from imprint.metrics import log_loss
from imprint.plan import Plan, plan_training
from imprint.predict import predict_probabilities
from imprint.predictions import Predictions
from imprint.preparation import prepare
from imprint.progress import Reporter
from imprint.recipe import Recipe
from imprint.sampling import epoch_order
from imprint.score import Score, score
from imprint.training_state import TrainingState, begin, copied, together

TOGETHER = 8 * 256 * 28 * 28  # numbers augmented at once: small tensor operations take longer to start than to do
DIVERGED = 100  # times the loss of guessing; epochs that learn stay below 2 times
History = dict[str, list[float]]


@dataclass(frozen=True, eq=False)
class Run:
    """What a training run gave.

    Parameters
    ----------
    model : Classifier
        After the last epoch; after an interrupt, from the best epoch so far.
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
    kinds = recipe.net.split("+")
    interrupted = False
    try:
        while True:
            if len(kinds) > 1:
                place = len(state.finished)
                reporter.say(f"network {place + 1} of {len(kinds)}: {kinds[place]}")
            _loop(state, pixels, labels, checkpoint, reporter)
            state.finished.append(state.net)
            if len(state.finished) == len(kinds):
                break
            following = begin(plan, state.finished, state.epochs)
            following.seconds = state.seconds
            state = following
    except KeyboardInterrupt:
        interrupted = True
        if state.finished:
            reporter.say(f"stopped: of {len(kinds)} networks, {len(state.finished)} kept")
        elif state.best_weights is None:
            raise
        else:
            reporter.say("stopped: the best epoch so far is kept; its score chose it, so expect slightly less")
            state.net.load_state_dict(state.best_weights)
    net = together(state.finished or [state.net])
    return _scored(net.eval(), plan, state.kept[0], _history(state), state.seconds, interrupted)


def _loop(
    state: TrainingState,
    pixels: UInt8[Tensor, "n c h w"],
    labels: Int64[Tensor, " n"],
    checkpoint: Checkpoint | None,
    reporter: Reporter,
) -> None:
    """Train one network for the epochs that it has not had yet."""
    plan, arithmetic, net = state.plan, state.arithmetic, state.net
    recipe, spec, validation = plan.recipe, plan.spec, plan.validation
    if validation is not None:
        validation_labels = validation.labels_among(plan.images.class_names)

    training = torch.from_numpy(plan.training).to(plan.device)
    batch_size = min(recipe.batch_size, len(training))
    steps = recipe.epoch_steps(len(training))
    done = sum(steps[: state.epoch])
    started = time.perf_counter() - state.seconds
    torch.set_num_threads(arithmetic.threads)
    with reporter.job("training", total=sum(steps) - done):
        for epoch_steps in steps[state.epoch :]:
            epoch_started = time.perf_counter()
            loss_sum = torch.zeros((), device=plan.device)
            hits = torch.zeros((), dtype=torch.int64, device=plan.device)
            rate = state.schedule.rate(state.optimisers[0].rate, done)
            order = epoch_order(state.losses, epoch_steps * batch_size, recipe.hard_share)
            net.train()
            batches = _batches(pixels, labels, training[order], batch_size, plan)
            for chosen, (batch, targets) in zip(order.split(batch_size), reporter.steps(batches), strict=True):
                with arithmetic.autocast(plan.device):
                    logits = net(arithmetic.lay_out(batch)).float()
                loss = F.cross_entropy(logits, targets, reduction="none", label_smoothing=recipe.label_smoothing)
                state.losses[chosen] = loss.detach()
                net.zero_grad()
                loss.mean().backward()
                for optimiser in state.optimisers:
                    optimiser.step(state.schedule.rate(optimiser.rate, done))
                done += 1
                loss_sum += loss.detach().mean()
                hits += (logits.argmax(dim=1) == targets).sum()

            epoch = {"loss": loss_sum.item() / epoch_steps, "acc": hits.item() / len(order)}
            if validation is not None:
                probabilities = predict_probabilities(net, validation.pixels, spec)
                torch.set_num_threads(arithmetic.threads)
                epoch["val_loss"] = log_loss(probabilities, validation_labels)
                epoch["val_acc"] = float((probabilities.argmax(1) == validation_labels).mean())
            epoch |= {"lr": rate, "seconds": time.perf_counter() - epoch_started}
            reporter.say(_epoch_line(epoch, len(state.epochs) + 1, recipe))
            _stop_if_diverged(epoch, len(state.epochs) + 1, net, plan)

            accuracy = epoch.get("val_acc", epoch["acc"])
            if accuracy > state.best_accuracy:
                state.best_accuracy = accuracy
                state.best_weights = copied(net)
            state.schedule.end_epoch(accuracy)
            state.seconds = time.perf_counter() - started
            state.epochs.append(epoch)
            if checkpoint is not None and (checkpoint.due() or state.epoch == recipe.epochs):
                checkpoint.write(state, reporter)


def _batches(
    pixels: UInt8[Tensor, "n c h w"],
    labels: Int64[Tensor, " n"],
    order: Int64[Tensor, " dealt"],
    batch_size: int,
    plan: Plan,
) -> Iterator[tuple[Float32[Tensor, "batch c h w"], Int64[Tensor, " batch"]]]:
    """Deal augmented pictures and their labels."""
    at_once = max(1, TOGETHER // (batch_size * plan.spec.channels * math.prod(plan.spec.input_size)))
    for chosen in order.split(batch_size * at_once):
        augmented = augment(prepare(_taken(pixels, chosen, plan), plan.spec), plan.recipe)
        yield from zip(augmented.split(batch_size), labels[chosen].split(batch_size), strict=True)


def _taken(pixels: UInt8[Tensor, "n c h w"], chosen: Int64[Tensor, " some"], plan: Plan) -> UInt8[Tensor, "some c h w"]:
    """Copy some pictures; of those mapped from a file little else is held in memory meanwhile."""
    if pixels.device.type == "cpu" and isinstance(plan.images.pixels, np.memmap):
        return torch.from_numpy(rows_of(plan.images.pixels, chosen.numpy()))
    return pixels[chosen]


def _scored(net: nn.Module, plan: Plan, recipe: Recipe, history: History, seconds: float, interrupted: bool) -> Run:
    """Make a classifier of a trained network, score it, and tell what that lets one expect."""
    model = settle_confidence(net, plan, recipe)
    if plan.validation is None:
        return Run(model, recipe, history, seconds, None, None, None, interrupted)
    labels = plan.validation.labels_among(model.class_names)
    predictions = model.predict(plan.validation)
    validation = score(predictions.probabilities, labels, model.class_names, predictions.unsure)
    # Temperature and limits were settled on these pictures, but neither changes an answer.
    tries = len(history["loss"]) if interrupted else 1
    expected = expected_accuracy(predictions.labels == labels, plan.validation.groups, tries)
    model = replace(model, score=validation.facts())
    return Run(model, recipe, history, seconds, validation, predictions, expected, interrupted)


def _epoch_line(epoch: Mapping[str, float], number: int, recipe: Recipe) -> str:
    """Describe an epoch as Keras does."""
    line = f"Epoch {number}/{recipe.epochs * len(recipe.net.split('+'))} - {epoch['seconds']:.1f}s"
    for key in ("loss", "acc", "val_loss", "val_acc"):
        line += f" - {key}: {epoch[key]:.4f}" if key in epoch else ""
    return f"{line} - lr: {epoch['lr']:.4g}"


def _history(state: TrainingState) -> History:
    """Turn the epochs' figures into columns, as in Keras's history."""
    return {key: [epoch[key] for epoch in state.epochs] for key in state.epochs[0]}


def _stop_if_diverged(epoch: Mapping[str, float], number: int, net: nn.Module, plan: Plan) -> None:
    """Refuse losses and weights that are no numbers, or a loss far above that of guessing."""
    losses = [epoch[key] for key in ("loss", "val_loss") if key in epoch]
    if not all(map(math.isfinite, losses)):
        what, cause = "loss", "it is no longer a number"
    elif not torch.stack([tensor.isfinite().all() for tensor in net.state_dict().values()]).all():
        what, cause = "weights", "they are no longer numbers"
    elif max(losses) > DIVERGED * math.log(len(plan.images.class_names)):
        what, cause = "loss", f"it is {max(losses):.3g}, far above that of guessing"
    else:
        return
    rates = ("learning_rate", "filter_rate") if plan.recipe.optimiser == "muon" else ("learning_rate",)
    lower = " ".join(f"--set {rate}={getattr(plan.recipe, rate) / 10:.2g}" for rate in rates)
    raise UsageError(what, f"epoch {number}", f"{cause}: training has diverged", f"Lower the rate: {lower}.")
