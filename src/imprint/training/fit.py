"""Which pictures an epoch takes, and in which order."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor, nn

from imprint.core.errors import UsageError
from imprint.core.memmap import rows_of
from imprint.core.metrics import log_loss
from imprint.core.progress import Reporter
from imprint.models.inference import predict_probabilities
from imprint.preprocessing.prepare import prepare
from imprint.recipes import Recipe
from imprint.training.augmentation import augment
from imprint.training.plan import Plan
from imprint.training.state import Checkpoint, TrainingState, copied


def epoch_order(losses: Float[Tensor, " n"], size: int, hard_share: float) -> Int64[Tensor, " size"]:
    """Deal the pictures of one epoch in random order.

    Where an epoch takes fewer pictures than there are, a share of them are the hardest, by the
    loss when last seen. After one pass most pictures are learnt and teach next to nothing; on
    digits the hard ones brought the same accuracy in a third of the steps (docs/LOG.md).

    Parameters
    ----------
    losses : Tensor of float, shape (n,)
        Each picture's latest loss; infinite for pictures not seen yet.
    size : int
        How many to deal. Beyond n, pictures come again, none more than once more often than another.
    hard_share : float
        Share of `size` that are the hardest; the others are drawn at random.

    Returns
    -------
    Tensor of int64, shape (size,)
        Positions in `losses`.

    References
    ----------
    Loshchilov and Hutter, "Online batch selection for faster training of neural networks",
    arXiv:1511.06343; Jiang et al., "Accelerating deep learning by focusing on the biggest
    losers", arXiv:1910.00762.

    Examples
    --------
    >>> epoch_order(torch.tensor([0.1, 9.0, 0.2, 8.0]), size=2, hard_share=1.0).sort().values
    tensor([1, 3])
    """
    count, device = len(losses), losses.device
    if size >= count:
        passes = [torch.randperm(count, device=device) for _ in range(-(-size // count))]
        return torch.cat(passes)[:size]
    hardest_first = losses.argsort(descending=True)
    hard, others = hardest_first.tensor_split([round(size * hard_share)])
    others = others[torch.randperm(len(others), device=device)[: size - len(hard)]]
    return torch.cat([hard, others])[torch.randperm(size, device=device)]


TOGETHER = 8 * 256 * 28 * 28  # numbers augmented at once: small tensor operations take longer to start than to do
DIVERGED = 100  # times the loss of guessing; epochs that learn stay below 2 times


def run_epochs(
    state: TrainingState,
    pixels: UInt8[Tensor, "n c h w"],
    labels: Int64[Tensor, " n"],
    checkpoint: Checkpoint | None,
    reporter: Reporter,
) -> None:
    """Train one network for the epochs that it has not had yet.

    Parameters
    ----------
    state : TrainingState
        The network and how far it is; brought up to date after each epoch.
    pixels : Tensor of uint8, shape (n, c, h, w)
        Pictures, on the plan's device.
    labels : Tensor of int64, shape (n,)
        Their classes.
    checkpoint : Checkpoint or None
        Written as the epochs end; None keeps nothing.
    reporter : Reporter
        Is told of each epoch.

    Raises
    ------
    UsageError
        When training diverges.

    Examples
    --------
    >>> from imprint import load
    >>> from imprint.training.plan import plan_training
    >>> from imprint.training.state import begin
    >>> digits = load("digits")
    >>> state = begin(plan_training(digits, "quick", settings=["epochs=2", "min_steps=1"], device="cpu"))
    >>> run_epochs(state, torch.from_numpy(digits.pixels), torch.from_numpy(digits.labels), None, Reporter(silent=True))
    >>> state.epoch
    2
    """
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


def _epoch_line(epoch: Mapping[str, float], number: int, recipe: Recipe) -> str:
    """Describe an epoch as Keras does."""
    line = f"Epoch {number}/{recipe.epochs * len(recipe.net.split('+'))} - {epoch['seconds']:.1f}s"
    for key in ("loss", "acc", "val_loss", "val_acc"):
        line += f" - {key}: {epoch[key]:.4f}" if key in epoch else ""
    return f"{line} - lr: {epoch['lr']:.4g}"


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
