"""Dealing: the networks of one recipe trained each by one of several processes, which need not talk to each other."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxtyping import Int64, UInt8
from torch import Tensor

from imprint.core.progress import say, stage
from imprint.models.model_file import CHECKPOINT_NAME
from imprint.training.checkpoint import Checkpoint, TrainingState, init_network, read_resumable_run, start_network
from imprint.training.estimate import Estimate
from imprint.training.fit import fit
from imprint.training.plan import Plan, dealt_to, network_plan, seed_random_numbers

NETWORK_FOLDER = "network-"  # with its number: where the checkpoint of one network is, in the run folder


def fit_dealt(
    state: TrainingState,
    pixels: UInt8[Tensor, "n c h w"],
    labels: Int64[Tensor, " n"],
    folder: Path | None,
    checkpoint: Checkpoint | None,
    options: Mapping[str, str | float],
    estimate: Estimate,
) -> None:
    """Train the networks that are dealt to this process, and exchange all of them: `state` is then that of all.

    Each has a seed and, in `folder`, a checkpoint of its own, so that the number of processes does not matter. After
    Ctrl-C, which goes on from here, `state` has those that had ended; `checkpoint` is told how many epochs are kept.
    """
    plan = state.plan
    crew, names = plan.crew, plan.recipe.networks
    trained: dict[int, TrainingState] = {}
    interrupted = False
    try:
        for place in dealt_to(crew.rank, crew.size, len(names)):
            say(f"network {place + 1} of {len(names)}: {names[place]}")
            with stage(estimate.features[place] + estimate.networks[place]):
                trained[place] = _fit_alone(network_plan(plan, place), pixels, labels, folder, options)
    except KeyboardInterrupt:
        interrupted = True
        crew.name_missing()  # torchrun stops the others where one has ended
    own = {place: [one.epochs, one.seconds] for place, one in trained.items()}
    every = crew.gather([own, interrupted])
    ended = {int(place): (rank, *told) for rank, (found, _) in enumerate(every) for place, told in found.items()}
    interrupted = any(stopped for _, stopped in every)
    finished = sorted(ended)
    if checkpoint is not None:
        checkpoint.epochs = _epochs_kept(folder)
    if finished:
        with crew.joined(plan.device):
            state.finished = [_exchanged(plan, place, trained.get(place), ended[place][0]) for place in finished]
        state.network = state.finished[-1]
        state.epochs = [epoch for place in finished for epoch in ended[place][1]]
        state.seconds = max(sum(seconds for _, seconds in found.values()) for found, _ in every)
        state.plan = replace(plan, recipe=replace(plan.recipe, networks=tuple(names[place] for place in finished)))
    if interrupted:
        raise KeyboardInterrupt
    seed_random_numbers(plan)  # for what follows, which all do together


def _fit_alone(
    plan: Plan,
    pixels: UInt8[Tensor, "n c h w"],
    labels: Int64[Tensor, " n"],
    folder: Path | None,
    options: Mapping[str, str | float],
) -> TrainingState:
    """Train one network from its own seed, or go on with it from its own checkpoint."""
    seed_random_numbers(plan)
    own = None if folder is None else folder / f"{NETWORK_FOLDER}{plan.member + 1}"
    if own is not None and (own / CHECKPOINT_NAME).exists():
        stopped = read_resumable_run(own)
        stopped.check(plan)
        state = stopped.restore(plan)
        say(f"resumed after epoch {len(state.epochs)} of it")
    else:
        state = start_network(plan)
    fit(state, pixels, labels, None if own is None else Checkpoint(own, plan, options))
    return state


def _exchanged(plan: Plan, place: int, trained: TrainingState | None, rank: int) -> Any:
    """Give a network that one process has trained to all."""
    alone = network_plan(plan, place)
    network = init_network(alone.recipe.networks[0], alone)[0] if trained is None else trained.network
    plan.crew.follow(list(network.state_dict().values()), rank)
    return network


def _epochs_kept(folder: Path | None) -> int:
    """Count the epochs in the checkpoints of single networks."""
    found = [] if folder is None else folder.glob(f"{NETWORK_FOLDER}*/{CHECKPOINT_NAME}")
    return sum(len(read_resumable_run(path.parent).epochs) for path in found)


def remove_network_folders(folder: Path) -> None:
    """Remove the checkpoints of single networks, once the model is written."""
    for path in folder.glob(f"{NETWORK_FOLDER}*/{CHECKPOINT_NAME}"):
        shutil.rmtree(path.parent, ignore_errors=True)
