"""Training: the whole loop in one function, readable from top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from imprint.augment import random_affine
from imprint.classifier import Classifier
from imprint.data.split import split
from imprint.device import choose_device, fast_layout, prepare_cpu
from imprint.errors import DataError, UsageError
from imprint.images import LabelledImages
from imprint.input_spec import InputSpec, describe, normalise, scale
from imprint.metrics import Score, log_loss, score
from imprint.nets import build_net, input_size
from imprint.optim import build_optimiser, one_cycle, reduce_on_plateau
from imprint.predict import predict_probabilities
from imprint.progress import Reporter
from imprint.recipe import Recipe, choose_recipe, find_recipe

UNSURE_SHARE = 0.01  # of the validation pictures, those with the least confidence
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
    validation: float | LabelledImages | None = None,
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
    reporter = Reporter(silent)
    settled = settle_recipe(images, recipe, settings, seed, reporter.say)
    if isinstance(validation, float | int):
        settled = settled.with_settings([f"validation_share={validation}"])
    chosen_device = choose_device(device)
    if images.labels is None or len(np.unique(images.labels)) < 2:
        raise DataError("labels", images.name, "training needs at least two classes", "Use data with labels.")
    spec = InputSpec(images.shape[0], images.shape[1:], input_size(settled.net, images.shape[1:]))
    held_out: LabelledImages | None
    if isinstance(validation, LabelledImages):
        spec.check(validation.shape, validation.name)
        training, held_out = images, validation
        settled = replace(settled, validation_share=0.0)
    else:
        training, held_out = split(images, settled.validation_share, settled.validation_seed)
    prepare_cpu()
    with torch.random.fork_rng([chosen_device] if chosen_device.type == "cuda" else []):
        torch.manual_seed(settled.seed)
        return _train(training, held_out, settled, spec, chosen_device, reporter)


def settle_recipe(
    images: LabelledImages,
    recipe: str | Recipe | None,
    settings: Sequence[str],
    seed: int | None,
    say: Callable[[str], None],
) -> Recipe:
    """Find a recipe, or choose one by the pictures and say so; then apply changes.

    Parameters
    ----------
    images : LabelledImages
        What to train on.
    recipe : str, Recipe or None
        A recipe, its name or the path of a recipe.json; None lets the pictures decide.
    settings : sequence of str
        Changes, such as ``"epochs=3"``.
    seed : int or None
        None keeps the recipe's.
    say : callable
        Takes the line that tells which recipe was chosen.

    Returns
    -------
    Recipe
        The one to train by.

    Raises
    ------
    UsageError
        When there is no such recipe, or a change makes no sense.

    Examples
    --------
    >>> from imprint import load
    >>> settle_recipe(load("digits"), None, ["epochs=3"], 1, print).epochs
    recipe quick: the default for small grey pictures
    3
    """
    if recipe is None:
        settled, reason = choose_recipe(images.shape)
        say(f"recipe {settled.name}: {reason}")
    else:
        settled = recipe if isinstance(recipe, Recipe) else find_recipe(recipe)
    seeds = () if seed is None else (f"seed={seed}",)
    return settled.with_settings([*settings, *seeds])


def _train(
    training: LabelledImages,
    validation: LabelledImages | None,
    recipe: Recipe,
    spec: InputSpec,
    device: torch.device,
    reporter: Reporter,
) -> Run:
    """Run the loop; random numbers come from torch's seeded generator alone."""
    if training.labels is None:
        raise DataError("labels", training.name, "there are none", "Use data with labels.")
    pixels = scale(torch.from_numpy(training.pixels), spec).to(device)
    labels = torch.from_numpy(training.labels).to(device)
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

    history: History = {"loss": [], "acc": [], "val_loss": [], "val_acc": [], "lr": [], "seconds": []}
    best_accuracy, best_weights, interrupted = -1.0, None, False
    batches = _shuffled_batches(len(labels), batch_size, device)
    reporter.say(_opening(training, validation, recipe, spec, device))
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
                    chosen = next(batches)
                    batch = random_affine(normalise(pixels[chosen]), recipe.rotation, recipe.zoom, recipe.shift)
                    logits = net(fast_layout(batch))
                    loss = F.cross_entropy(logits, labels[chosen], label_smoothing=recipe.label_smoothing)
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
                    if cycle is not None:
                        cycle.step()
                    loss_sum += loss.detach()
                    hits += (logits.argmax(dim=1) == labels[chosen]).sum()

                history["loss"].append(loss_sum.item() / steps)
                history["acc"].append(hits.item() / (steps * batch_size))
                history["lr"].append(rate)
                if validation is not None:
                    probabilities = predict_probabilities(net, validation_pixels, spec)
                    history["val_loss"].append(log_loss(probabilities, validation_labels))
                    history["val_acc"].append(float((probabilities.argmax(1) == validation_labels).mean()))
                history["seconds"].append(time.perf_counter() - epoch_started)
                reporter.say(_epoch_line(history, epochs))
                _stop_if_diverged(history)

                accuracy = (history["val_acc"] or history["acc"])[-1]
                if plateau is not None:
                    plateau.step(accuracy)
                if accuracy > best_accuracy:
                    best_accuracy = accuracy
                    best_weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    except KeyboardInterrupt:
        if best_weights is None:
            raise
        interrupted = True
        net.load_state_dict(best_weights)
        history = _whole_epochs(history)
        reporter.say("stopped: the best epoch so far is kept; its score chose it, so expect slightly less")
    seconds = time.perf_counter() - started

    kept = {key: values for key, values in history.items() if values}
    unsure_below, kept_score = 0.5, None
    if validation is not None:
        probabilities = predict_probabilities(net, validation_pixels, spec)
        unsure_below = float(np.quantile(probabilities.max(axis=1), UNSURE_SHARE))
        unsure = probabilities.max(axis=1) < unsure_below
        kept_score = score(probabilities, validation_labels, training.class_names, unsure)
    facts = None if kept_score is None else kept_score.facts()
    model = Classifier(net.eval(), training.class_names, spec, recipe, unsure_below, facts)
    return Run(model, recipe, kept, seconds, kept_score, interrupted)


def _shuffled_batches(count: int, batch_size: int, device: torch.device) -> Iterator[Tensor]:
    """Deal positions 0 to count - 1 in random order, pass after pass, without end."""
    waiting = torch.empty(0, dtype=torch.int64, device=device)
    while True:
        while len(waiting) < batch_size:
            waiting = torch.cat([waiting, torch.randperm(count, device=device)])
        yield waiting[:batch_size]
        waiting = waiting[batch_size:]


def _opening(
    training: LabelledImages,
    validation: LabelledImages | None,
    recipe: Recipe,
    spec: InputSpec,
    device: torch.device,
) -> str:
    """Say what is about to be trained on."""
    line = f"training on {len(training):,} pictures of {describe(training.shape)}"
    if spec.input_size != spec.picture_size:
        line += f", enlarged to {spec.input_size[1]}×{spec.input_size[0]} for the {recipe.net} network"
    line += f", {len(training.class_names)} classes; "
    line += f"{len(validation):,} held out" if validation is not None else "none held out"
    return f"{line}; recipe {recipe.name}, seed {recipe.seed}, {device.type}"


def _epoch_line(history: History, epochs: int) -> str:
    """Describe the latest epoch as Keras does."""
    last = {key: values[-1] for key, values in history.items() if values}
    line = f"Epoch {len(history['loss'])}/{epochs} - {last['seconds']:.1f}s"
    for key in ("loss", "acc", "val_loss", "val_acc"):
        line += f" - {key}: {last[key]:.4f}" if key in last else ""
    return f"{line} - lr: {last['lr']:.4g}"


def _whole_epochs(history: History) -> History:
    """Drop what an interrupted epoch had begun to note."""
    epochs = len(history["seconds"])
    return {key: values[:epochs] for key, values in history.items()}


def _stop_if_diverged(history: History) -> None:
    if not math.isfinite(history["loss"][-1]):
        raise UsageError(
            "loss",
            f"epoch {len(history['loss'])}",
            "it is no longer a number, training has diverged",
            f"Lower the rate: --set learning_rate={history['lr'][0] / 10:.2g}.",
        )
