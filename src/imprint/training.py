"""Training: the whole loop in one function, readable from top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from imprint.augment import random_affine
from imprint.classifier import Classifier
from imprint.device import fast_layout, prepare_cpu
from imprint.errors import UsageError
from imprint.images import LabelledImages
from imprint.input_spec import normalise, scale
from imprint.metrics import Score, log_loss, score
from imprint.nets import build_net
from imprint.optim import build_optimiser, one_cycle, reduce_on_plateau
from imprint.plan import Plan, plan_training
from imprint.predict import predict_probabilities
from imprint.progress import Reporter
from imprint.recipe import Recipe

UNSURE_SHARE = 0.01  # of the validation pictures, those with the least confidence
TOGETHER = 8  # batches augmented at once: small tensor operations take longer to start than to do
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
        The loop, validation after each epoch included.
    validation : Score or None
        The kept model's score on the validation pictures.
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
    interrupted: bool


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


def carry_out(plan: Plan, reporter: Reporter) -> Run:
    """Train as planned; torch's random numbers are the recipe's meanwhile, and the caller's again after.

    Parameters
    ----------
    plan : Plan
        From `plan_training`.
    reporter : Reporter
        Is told how far the run is.

    Returns
    -------
    Run
        The model, its history and its score.

    Raises
    ------
    UsageError
        When training diverges.
    KeyboardInterrupt
        When Ctrl-C comes before the first epoch has ended.

    Examples
    --------
    >>> from imprint import load
    >>> plan = plan_training(load("digits"), settings=["epochs=1", "min_steps=1"])
    >>> carry_out(plan, Reporter(silent=True)).interrupted
    False
    """
    prepare_cpu()
    with torch.random.fork_rng([plan.device] if plan.device.type == "cuda" else []):
        torch.manual_seed(plan.recipe.seed)
        return _loop(plan, reporter)


def _loop(plan: Plan, reporter: Reporter) -> Run:
    """Run the epochs, and score the model that they leave."""
    training, validation, recipe, spec, device = plan.training, plan.validation, plan.recipe, plan.spec, plan.device
    pixels = scale(torch.from_numpy(training.pixels), spec).to(device)
    labels = torch.from_numpy(training.labels_among(training.class_names)).to(device)
    if validation is not None:
        validation_pixels = torch.from_numpy(validation.pixels)
        validation_labels = validation.labels_among(training.class_names)

    batch_size = min(recipe.batch_size, len(labels))
    steps = recipe.steps_per_epoch or max(1, round(len(labels) / batch_size))
    epochs = max(recipe.epochs, math.ceil(recipe.min_steps / steps))

    net = build_net(recipe.net, spec.channels, spec.input_size, len(training.class_names)).to(device)
    optimiser = build_optimiser(recipe, net.parameters())
    cycle = one_cycle(recipe, optimiser, epochs * steps) if recipe.schedule == "one-cycle" else None
    plateau = reduce_on_plateau(recipe, optimiser) if recipe.schedule == "plateau" else None

    history: History = {}
    best_accuracy, best_weights, interrupted = -1.0, None, False
    batches = _augmented_batches(pixels, labels, batch_size, recipe)
    reporter.say(str(plan))
    started = time.perf_counter()
    try:
        with reporter.job("training", total=epochs * steps):
            for _ in range(epochs):
                epoch_started = time.perf_counter()
                loss_sum = torch.zeros((), device=device)
                hits = torch.zeros((), dtype=torch.int64, device=device)
                rate = optimiser.param_groups[0]["lr"]
                net.train()
                for _ in reporter.steps(range(steps)):
                    batch, targets = next(batches)
                    logits = net(fast_layout(batch))
                    loss = F.cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing)
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
                    if cycle is not None:
                        cycle.step()
                    loss_sum += loss.detach()
                    hits += (logits.argmax(dim=1) == targets).sum()

                epoch = {"loss": loss_sum.item() / steps, "acc": hits.item() / (steps * batch_size)}
                if validation is not None:
                    probabilities = predict_probabilities(net, validation_pixels, spec)
                    epoch["val_loss"] = log_loss(probabilities, validation_labels)
                    epoch["val_acc"] = float((probabilities.argmax(1) == validation_labels).mean())
                epoch |= {"lr": rate, "seconds": time.perf_counter() - epoch_started}

                accuracy = epoch.get("val_acc", epoch["acc"])
                if accuracy > best_accuracy:
                    best_accuracy = accuracy
                    best_weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
                if plateau is not None:
                    plateau.step(accuracy)
                history = {key: [*history.get(key, []), value] for key, value in epoch.items()}
                reporter.say(_epoch_line(history, epochs))
                _stop_if_diverged(history)
    except KeyboardInterrupt:
        if best_weights is None or not history:
            raise
        interrupted = True
        net.load_state_dict(best_weights)
        reporter.say("stopped: the best epoch so far is kept; its score chose it, so expect slightly less")
    seconds = time.perf_counter() - started

    unsure_below, kept_score = 0.5, None
    if validation is not None:
        probabilities = predict_probabilities(net, validation_pixels, spec)
        unsure_below = float(np.quantile(probabilities.max(axis=1), UNSURE_SHARE))
        unsure = probabilities.max(axis=1) < unsure_below
        kept_score = score(probabilities, validation_labels, training.class_names, unsure)
    facts = None if kept_score is None else kept_score.facts()
    model = Classifier(net.eval(), training.class_names, spec, recipe, unsure_below, facts)
    return Run(model, recipe, history, seconds, kept_score, interrupted)


def _augmented_batches(
    pixels: UInt8[Tensor, "n c h w"], labels: Int64[Tensor, " n"], batch_size: int, recipe: Recipe
) -> Iterator[tuple[Float32[Tensor, "batch c h w"], Int64[Tensor, " batch"]]]:
    """Deal augmented pictures and labels in random order, pass after pass, without end."""
    waiting = torch.empty(0, dtype=torch.int64, device=labels.device)
    while True:
        while len(waiting) < batch_size * TOGETHER:
            waiting = torch.cat([waiting, torch.randperm(len(labels), device=labels.device)])
        chosen, waiting = waiting[: batch_size * TOGETHER], waiting[batch_size * TOGETHER :]
        augmented = random_affine(normalise(pixels[chosen]), recipe.rotation, recipe.zoom, recipe.shift)
        yield from zip(augmented.split(batch_size), labels[chosen].split(batch_size), strict=True)


def _epoch_line(history: History, epochs: int) -> str:
    """Describe the latest epoch as Keras does."""
    last = {key: values[-1] for key, values in history.items()}
    line = f"Epoch {len(history['loss'])}/{epochs} - {last['seconds']:.1f}s"
    for key in ("loss", "acc", "val_loss", "val_acc"):
        line += f" - {key}: {last[key]:.4f}" if key in last else ""
    return f"{line} - lr: {last['lr']:.4g}"


def _stop_if_diverged(history: History) -> None:
    if not math.isfinite(history["loss"][-1]):
        raise UsageError(
            "loss",
            f"epoch {len(history['loss'])}",
            "it is no longer a number, training has diverged",
            f"Lower the rate: --set learning_rate={history['lr'][0] / 10:.2g}.",
        )
