"""The training loop: one network through all its epochs, readable from top to bottom.

`fit` is the only loop there is: each network of a recipe passes through it, and so does the OOD detector. A
`Recipe` holds the hyperparameters, a `TrainingState` the progress.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from numpy import ndarray
from torch import Tensor, nn

from imprint.core.errors import UsageError
from imprint.core.metrics import class_weights, log_loss
from imprint.core.progress import progress_bar, say
from imprint.data.images import LabelledImages
from imprint.models.backbones import EfficientNetLite
from imprint.models.hardware import is_out_of_memory, share_cores
from imprint.models.inference import predict_probabilities
from imprint.models.layers import ConvNet
from imprint.recipes import Recipe
from imprint.training.batches import iterate_batches
from imprint.training.checkpoint import Checkpoint, TrainingState, copy_weights
from imprint.training.coupling import coupled, with_own_draws
from imprint.training.graph import WORTH_RECORDING, RecordedStep, Step
from imprint.training.optimisers import Factors
from imprint.training.plan import Plan

SMALLEST_PART = 2  # images, since batch normalisation needs several
DIVERGED = 100  # times the loss of uniform guessing, ln(classes); epochs that learn stay below 2 times


def fit(
    state: TrainingState,
    pixels: UInt8[Tensor, "n c h w"],
    labels: Int64[Tensor, " n"],
    checkpoint: Checkpoint | None = None,
) -> None:
    """Train one network for the epochs that it has not had yet.

    Changes `state` and torch's random numbers, and writes `checkpoint` at the end of epochs where it is due. On Ctrl-C,
    which may come at any step, `state` holds the best epoch's weights. Raises `UsageError` where training diverges.
    """
    plan, network = state.plan, state.network
    recipe, validation = plan.recipe, plan.validation
    if validation is not None:
        validation_labels = validation.labels_among(plan.images.class_names)
    train_indices = torch.from_numpy(plan.training).to(plan.device)  # positions of the images that are not held out
    balance = None
    if recipe.class_balance:
        weights = class_weights(labels[train_indices].cpu().numpy(), len(plan.images.class_names), recipe.class_balance)
        balance = torch.from_numpy(weights).to(plan.device, plan.dtype)
    crew, batch_size = plan.crew, plan.batch_size
    steps = recipe.epoch_steps(len(train_indices))  # one number an epoch: a resumed run knows where it stands
    step = _step_for_device(state, balance, sum(steps))
    steps_done = sum(steps[: state.epoch])
    fixed_threads = recipe.threads or (torch.get_num_threads() if crew.size > 1 else 0)  # all round alike
    threads = share_cores(state.compute.threads, settled=fixed_threads or state.threads)
    started = time.perf_counter() - state.seconds
    with progress_bar("training", total=sum(steps) - steps_done) as advance, coupled(network, crew, batch_size):
        for epoch_steps in steps[state.epoch :]:
            epoch_started = time.perf_counter()
            # Sums stay on the device: asking a GPU for a number makes Python wait until it has caught up.
            loss_sum = torch.zeros((), device=plan.device)
            correct = torch.zeros((), dtype=torch.int64, device=plan.device)
            epoch_rate = state.schedule.rate(state.optimisers[0].rate, steps_done)
            epoch_indices = epoch_order(state.losses, epoch_steps * batch_size, recipe.hard_fraction)
            network.train()  # turns dropout on, and batch normalisation by each batch's own mean and variance
            batches = iterate_batches(pixels, labels, train_indices[epoch_indices], batch_size, plan)
            each_factors = step_factors(state, steps_done, epoch_steps)
            for batch_indices, (batch, targets), factors in zip(
                epoch_indices.split(batch_size), batches, each_factors, strict=True
            ):
                losses, hits = _within_memory(state, step, batch, targets, *factors)
                # Each image's loss is kept, so that the next epoch can take the hardest again (online hard example
                # mining, arXiv:1604.03540).
                state.losses[batch_indices] = losses
                loss_sum += losses.mean()
                correct += hits.sum()
                steps_done += 1
                advance()
            epoch = {"loss": loss_sum.item() / epoch_steps, "acc": correct.item() / len(epoch_indices)}
            crew.check_same(network, f"epoch {len(state.epochs) + 1}")
            # Images held out are never learnt from: the accuracy on them estimates that on new ones.
            if validation is not None:
                probabilities = _predict_shared(network, validation, plan)
                epoch["val_loss"] = log_loss(probabilities, validation_labels)
                epoch["val_acc"] = float((probabilities.argmax(1) == validation_labels).mean())
            epoch |= {"lr": epoch_rate, "seconds": time.perf_counter() - epoch_started, "threads": threads}
            say(_epoch_line(epoch, len(state.epochs) + 1, recipe))
            _stop_if_diverged(epoch, len(state.epochs) + 1, network, plan)
            accuracy = epoch.get("val_acc", epoch["acc"])
            if accuracy > state.best_accuracy:
                state.best_accuracy = accuracy
                state.best_weights = copy_weights(network)
            state.schedule.end_epoch(accuracy)  # Keras's plateau schedule lowers the rate when this stops rising
            # A step waits for its slowest thread: two that share a core with another program are slower than one alone.
            threads = state.threads = share_cores(state.compute.threads, settled=fixed_threads)
            state.seconds = time.perf_counter() - started
            state.epochs.append(epoch)
            if checkpoint is not None and (checkpoint.due() or state.epoch == recipe.epochs):
                checkpoint.write(state)
    # A pretrained network moves back towards where it began, which generalises better (WiSE-FT, arXiv:2109.01903).
    with torch.no_grad():
        for name, weight in network.state_dict().items() if state.initial else ():
            weight.lerp_(state.initial[name], recipe.kept_share)


def _predict_shared(network: nn.Module, images: LabelledImages, plan: Plan) -> Float32[ndarray, "n classes"]:
    """Compute the probabilities of images, each by one of the processes that train together."""

    def own(rows: slice) -> Float32[ndarray, "own classes"]:
        return predict_probabilities(network, images.pixels[rows], plan.spec)

    return plan.crew.whole(len(images), own, plan.device)


def train_step(
    state: TrainingState,
    batch: Float[Tensor, "own c h w"],
    targets: Int64[Tensor, " own"],
    factors: Sequence[Factors],
    balance: Float[Tensor, " classes"] | None = None,
) -> tuple[Float[Tensor, " batch"], Bool[Tensor, " batch"]]:
    """Take one step of training; gives each image's loss, and whether its class came out as the likeliest.

    Of a batch that several processes share, each gets its own rows, and gives the losses of all. A GPU may record it
    and replay it: nothing asks the device for a number, and what changes from step to step is an argument.
    """
    plan, network, compute = state.plan, state.network, state.compute
    network.zero_grad()
    seen = []
    # All at once, but where memory is too small: parts whose gradients add up to the same.
    for images, classes in zip(batch.chunk(state.parts), targets.chunk(state.parts), strict=True):
        # Forward: from pixels to one number a class, in the precision that this machine is fastest in.
        with compute.autocast(plan.device):
            logits = network(compute.to_layout(images)).to(plan.dtype)
        # The loss is the cross-entropy of each image's label.
        smoothing = plan.recipe.label_smoothing
        losses = F.cross_entropy(logits, classes, balance, reduction="none", label_smoothing=smoothing)
        # Backward: how the whole batch's mean loss would change with each weight.
        (losses.sum() / plan.batch_size).backward()
        seen.append((losses.detach(), logits.argmax(dim=1) == classes))
    losses, hits = (torch.cat(column) for column in zip(*seen, strict=True))
    losses, hits = plan.crew.add_up_step(network, losses, hits, plan.batch_size)
    # Step: move each weight a little against that, by the rate that the schedule gives for this step.
    for optimiser, own in zip(state.optimisers, factors, strict=True):
        optimiser.update(own)
    return losses, hits


def _step_for_device(state: TrainingState, balance: Float[Tensor, " classes"] | None, steps: int) -> Step:
    """Give the training step as a function of tensors alone; on a GPU, for many steps, one that replays itself."""

    def step(batch: Tensor, targets: Tensor, *factors: Factors) -> Sequence[Tensor]:
        return train_step(state, batch, targets, factors, balance)

    # Networks that others wrote may do what cannot be recorded, such as asking for a number.
    ours, crew, device = isinstance(state.network, ConvNet | EfficientNetLite), state.plan.crew, state.plan.device
    if crew.size > 1:  # what processes say to each other is not recorded
        return step if ours else with_own_draws(step, crew, device)
    return RecordedStep(step, device) if device.type == "cuda" and ours and steps >= WORTH_RECORDING else step


def _within_memory(state: TrainingState, step: Step, batch: Tensor, *others: Tensor | Factors) -> Sequence[Tensor]:
    """Take a step; where a batch is too much for the device's memory, by smaller parts of it from now on."""
    while True:
        try:
            return step(batch, *others)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Out here the error is gone, and with it what it held of that memory. No weight has changed: the forward and
        # backward passes need the most. Batch normalisation has counted a part once more, and goes by parts now.
        if state.plan.crew.size > 1:  # the others wait for this one: not even where it stopped is sure
            what, remedy = f"{len(batch)} images a process", "Use more processes or a smaller --batch-size."
            raise UsageError(what, f"device {state.plan.device}", "they do not fit into its memory", remedy)
        if 2 * state.parts > len(batch) // SMALLEST_PART:
            what, remedy = f"batches of {len(batch)} images", "Make the images smaller, or use --device cpu."
            raise UsageError(what, f"device {state.plan.device}", "its memory does not hold a part of them", remedy)
        state.parts *= 2
        if isinstance(step, RecordedStep):
            step.forget()
        if state.plan.device.type == "cuda":
            torch.cuda.empty_cache()
        size = -(-len(batch) // state.parts)
        say(f"memory of the device is too small: batches of {len(batch)} images are computed {size} at a time")


def step_factors(state: TrainingState, steps_done: int, count: int) -> list[Sequence[Factors]]:
    """Give what each optimiser's update takes beside tensors, for `count` steps; a GPU has all of it sent at once."""
    each: list[Sequence[Factors]] = []
    device = state.plan.device
    for optimiser in state.optimisers:
        rates = [state.schedule.rate(optimiser.rate, step) for step in range(steps_done, steps_done + count)]
        factors = [optimiser.factors(rate) for rate in rates]
        each.append(torch.tensor(factors, device=device).unbind() if device.type == "cuda" else factors)
    return list(zip(*each, strict=True))


def epoch_order(losses: Float[Tensor, " n"], size: int, hard_fraction: float) -> Int64[Tensor, " size"]:
    """Draw which images an epoch of `size` takes, in random order.

    An epoch of all images, or more, passes through them again and again. A smaller one takes the hardest by their
    latest `losses`, a share of `hard_fraction` of it, and fills up with others drawn at random.
    """
    # Unseen images have infinite loss.
    count, device = len(losses), losses.device
    if size >= count:
        passes = [torch.randperm(count, device=device) for _ in range(-(-size // count))]
        return torch.cat(passes)[:size]
    hardest_first = losses.argsort(descending=True)
    hard, others = hardest_first.tensor_split([round(size * hard_fraction)])
    others = others[torch.randperm(len(others), device=device)[: size - len(hard)]]
    return torch.cat([hard, others])[torch.randperm(size, device=device)]


def _epoch_line(epoch: Mapping[str, float], number: int, recipe: Recipe) -> str:
    """Describe an epoch as Keras does."""
    line = f"Epoch {number}/{recipe.epochs * len(recipe.networks)} - {epoch['seconds']:.1f}s"
    for key in ("loss", "acc", "val_loss", "val_acc"):
        line += f" - {key}: {epoch[key]:.4f}" if key in epoch else ""
    return f"{line} - lr: {epoch['lr']:.4g}"


def _stop_if_diverged(epoch: Mapping[str, float], number: int, network: nn.Module, plan: Plan) -> None:
    """Refuse losses and weights that are no numbers, or a loss far above that of guessing."""
    losses = [epoch[key] for key in ("loss", "val_loss") if key in epoch]
    if not all(map(math.isfinite, losses)):
        what, cause = "loss", "it is no longer a number"
    elif not torch.stack([tensor.isfinite().all() for tensor in network.state_dict().values()]).all():
        what, cause = "weights", "they are no longer numbers"
    elif max(losses) > DIVERGED * math.log(len(plan.images.class_names)):
        what, cause = "loss", f"it is {max(losses):.3g}, far above that of guessing"
    else:
        return
    rates = ("learning_rate", "muon_learning_rate") if plan.recipe.optimiser == "muon" else ("learning_rate",)
    lower = " ".join(f"--set {rate}={getattr(plan.recipe, rate) / 10:.2g}" for rate in rates)
    raise UsageError(what, f"epoch {number}", f"{cause}: training has diverged", f"Lower the rate: {lower}.")
