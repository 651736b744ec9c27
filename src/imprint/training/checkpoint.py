"""TrainingState, how far a run is, and Checkpoint, the file that a run which was stopped goes on from.

A checkpoint is a model file that holds, beside the model so far, all that training needs to go on: the current
weights, the optimisers' state, the latest losses and torch's random numbers. A resumed run ends with the same bytes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from imprint.core.errors import DataError, UsageError
from imprint.core.files import make_folder, similar_path
from imprint.core.progress import detail, warn
from imprint.models.backbones import EfficientNetLite, load_weights
from imprint.models.classifier import NEVER_UNSURE, RESUME, UNFITTED, Classifier
from imprint.models.hardware import (
    BLOCKED,
    CHANNELS_LAST,
    MOST_THREADS,
    ComputeConfig,
    adopt_compute_configs,
    chosen_compute_configs,
    machine_name,
)
from imprint.models.inference import network_compute_config
from imprint.models.model_file import CHECKPOINT_NAME, MODEL_NAME, broken, read_model_file, write_model_file
from imprint.models.networks import build_network, combine, network_kind
from imprint.models.whitening import whiten
from imprint.preprocessing.prepare import prepare
from imprint.recipes import Recipe
from imprint.training.optimisers import Optimiser, Schedule, build_optimisers, build_schedule
from imprint.training.plan import Plan, data_fingerprint
from imprint.training.probe import init_head
from imprint.training.workload import training_workload

RANDOM = f"{RESUME}/random/"
WHITENED_PIXELS = 2**20
LARGEST_SHARE = 0.01  # of a run's time that its checkpoints may take
# What an inconsistent header raises when it is read.
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RuntimeError)


@dataclass(eq=False)
class TrainingState:
    """How far a run is at the end of an epoch: the network being trained, and the networks finished before it.

    `losses` holds each training image's loss when last seen, `epochs` the figures of every epoch of every network,
    `initial` the weights that the network began with where the recipe keeps a share of them, `parts` in how many parts
    a batch is computed, more than one where it is too large for the device's memory, `threads` how many compute the
    next epoch, 0 where that is not settled.
    """

    plan: Plan
    compute: ComputeConfig
    network: nn.Module
    optimisers: list[Optimiser]
    schedule: Schedule
    losses: Tensor
    best_accuracy: float = -1.0
    best_weights: dict[str, Tensor] | None = None
    finished: list[nn.Module] = field(default_factory=list)
    epochs: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    initial: dict[str, Tensor] = field(default_factory=dict)
    parts: int = 1
    threads: int = 0

    @property
    def epoch(self) -> int:
        """How many epochs the network being trained has had."""
        return len(self.epochs) - len(self.finished) * self.plan.recipe.epochs

    @property
    def history(self) -> dict[str, list[float]]:
        """The epochs' figures as columns, as in Keras's history."""
        columns = self.epochs[0] if self.epochs else ("loss", "acc", "lr", "seconds")
        return {key: [epoch[key] for epoch in self.epochs] for key in columns}

    def kept_recipe(self) -> Recipe:
        """Give the recipe of what is kept if the run stops now: of the finished networks, else of the first."""
        return replace(
            self.plan.recipe, networks=self.plan.recipe.networks[: max(1, len(self.finished))], ood_detector=""
        )

    def kept_weights(self) -> dict[str, Tensor]:
        """Give the weights of what is kept if the run stops now: the finished networks, else the first's best epoch."""
        if self.finished:
            return combine(self.finished).state_dict()
        return copy_weights(self.network) if self.best_weights is None else self.best_weights

    def training_tensors(self) -> dict[str, Tensor]:
        """Name the tensors that training changes and that no model holds."""
        named = {f"network/{name}": tensor for name, tensor in self.network.state_dict().items()}
        for index, optimiser in enumerate(self.optimisers):
            named |= {f"optimiser/{index}/{name}": tensor for name, tensor in optimiser.state.items()}
        return named | {"losses": self.losses}


def start_network(
    plan: Plan,
    finished: Sequence[nn.Module] = (),
    epochs: Sequence[dict[str, float]] = (),
    seconds: float = 0.0,
) -> TrainingState:
    """Initialise the network that follows the `finished` ones, and set up what trains it."""
    name = plan.recipe.networks[len(finished)]
    network, compute = init_network(name, plan)
    if network_kind(name).whitened:
        whiten(network, _some_prepared(plan))
    load_start(network, plan.member + len(finished), plan)
    if isinstance(network, EfficientNetLite):
        started = time.perf_counter()
        init_head(network, plan)
        seconds += time.perf_counter() - started
        network.freeze(plan.recipe.frozen_blocks)
    state = state_before_training(network, compute, plan)
    state.seconds = seconds
    state.finished, state.epochs = list(finished), list(epochs)
    if plan.recipe.kept_share and isinstance(network, EfficientNetLite):
        state.initial = copy_weights(network)
    return state


def _some_prepared(plan: Plan) -> Float32[Tensor, "n c h w"]:
    """Prepare training images spread evenly over all; about as many pixels as tell how they vary."""
    count = max(2, WHITENED_PIXELS // math.prod(plan.spec.input_size))
    chosen = plan.training[:: max(1, len(plan.training) // count)][:count]
    return prepare(torch.from_numpy(plan.images.pixels[chosen]).to(plan.device), plan.spec)


def state_before_training(network: nn.Module, compute: ComputeConfig, plan: Plan) -> TrainingState:
    """Set up what trains a network."""
    optimisers = build_optimisers(plan.recipe, network)
    schedule = build_schedule(plan.recipe, sum(plan.recipe.epoch_steps(len(plan.training))))
    losses = torch.full((len(plan.training),), torch.inf, dtype=plan.dtype, device=plan.device)
    return TrainingState(plan, compute, network, optimisers, schedule, losses)


def follow_first(state: TrainingState) -> None:
    """Take over the tensors and random numbers of the first of several processes, which may have resumed a run."""
    device, random = state.plan.device, _random_state(state.plan.device)
    numbers = {name: tensor.to(device) for name, tensor in random.items()}
    kept = [*state.initial.values(), *state.kept_weights().values()]
    state.plan.crew.follow([*state.training_tensors().values(), *kept, *numbers.values()])
    if not state.plan.crew.leads:
        _set_random_state(device, {name: tensor.cpu() for name, tensor in numbers.items()})


def copy_weights(network: nn.Module) -> dict[str, Tensor]:
    """Copy a network's weights, which further training leaves alone."""
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def init_network(name: str, plan: Plan) -> tuple[nn.Module, ComputeConfig]:
    """Initialise a network, laid out in memory as training wants it, and choose how to compute it."""
    classes = len(plan.images.class_names)
    network = build_network(name, plan.spec.channels, plan.spec.input_size, classes).to(plan.device, plan.dtype)
    workload = training_workload(name, plan)
    # Of several processes one chooses: their timings would differ.
    compute = ComputeConfig(
        **plan.crew.told(lambda: asdict(network_compute_config(network, plan.device, plan.recipe.precision, workload)))
    )
    if plan.crew.size > 1:
        compute = replace(compute, threads=min(compute.threads, torch.get_num_threads()))
    if plan.crew.size > 1 and compute.layout == BLOCKED:  # in which batches cannot be normalised together
        compute = replace(compute, layout=CHANNELS_LAST)
    if plan.device.type != "cpu":
        detail(f"{name}: {compute}")
    if compute.layout == CHANNELS_LAST:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network, compute


def load_start(network: nn.Module, member: int, plan: Plan) -> None:
    """Load what training starts from, if anything: weights of the plan's parent, or pretrained ones."""
    if plan.parent is not None:
        plan.parent.fill(network, member, plan.images.class_names)
    elif isinstance(network, EfficientNetLite):
        load_weights(network, plan.recipe.networks[member - plan.member], plan.recipe.pretrained)


class Checkpoint:
    """Writes a run's state into its folder; `epochs` tells how many are in the file."""

    def __init__(self, folder: Path, plan: Plan, options: Mapping[str, str | float]) -> None:
        self.path = folder / CHECKPOINT_NAME
        self.epochs = 0
        self._written, self._cost = -1.0, 0.0
        self._facts = {
            "recipe": plan.recipe.to_dict(),
            "options": dict(options),
            "data": data_fingerprint(plan),
            "dealt": plan.dealt,
            "device": plan.device.type,
            "machine": machine_name(plan.device),
            "parent": None if plan.parent is None else plan.parent.facts(plan.leak),
        }

    def due(self) -> bool:
        """Whether another costs next to nothing by the time that has passed since the last one."""
        return not self.epochs or time.perf_counter() - self._written >= self._cost / LARGEST_SHARE

    def write(self, state: TrainingState) -> None:
        """Write a run's state at the end of an epoch; the last checkpoint stays until this one is whole.

        Raises `UsageError` where the first cannot be written; later ones, on a full disk, only warn.
        """
        started = time.perf_counter()
        try:
            make_folder(self.path.parent)  # of a network that one of several processes trains alone
            write_model_file(self.path, *self._contents(state))
            self.epochs = len(state.epochs)
        except UsageError as error:
            if self._written < 0:
                raise
            warn(f"{error} Training goes on; the checkpoint stays at epoch {self.epochs}")
        self._written = time.perf_counter()
        self._cost = self._written - started

    def _contents(self, state: TrainingState) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Lay out a checkpoint: tensors and facts."""
        plan = state.plan
        model = Classifier(
            nn.Identity(), plan.images.class_names, plan.spec, state.kept_recipe(), 1.0, UNFITTED, NEVER_UNSURE, 0.0
        )
        resume_facts = {
            "networks": len(state.finished),
            "epochs": state.epochs,
            "best_accuracy": state.best_accuracy,
            "schedule": state.schedule.state(),
            "steps": [optimiser.steps for optimiser in state.optimisers],
            "seconds": state.seconds,
            "parts": state.parts,
            "threads": state.threads,
            "compute": {asked: asdict(config) for asked, config in chosen_compute_configs(plan.device).items()},
        }
        random = {f"{RANDOM}{name}": numbers for name, numbers in _random_state(plan.device).items()}
        tensors = {f"{RESUME}/{name}": tensor for name, tensor in state.training_tensors().items()}
        kept = {name: _as_predicting(tensor) for name, tensor in state.kept_weights().items()}
        return {**kept, **tensors, **random}, {**model.facts(), RESUME: {**self._facts, **resume_facts}}


@dataclass(frozen=True, eq=False)
class ResumableRun:
    """A run that was stopped before its end, as its last checkpoint tells."""

    path: Path
    recipe: Recipe
    options: dict[str, Any]
    epochs: list[dict[str, float]]
    compute: dict[str, ComputeConfig]
    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    @classmethod
    def from_facts(cls, path: Path, facts: dict[str, Any], tensors: dict[str, Tensor]) -> ResumableRun:
        """Read what a checkpoint tells of its run; raises what a malformed one happens to raise."""
        options = dict(facts["options"])
        if not all(isinstance(value, str | float | int) for value in options.values()):
            raise ValueError("options")
        if not all(isinstance(facts[key], str) for key in ("data", "device", "machine")):
            raise ValueError("data or machine")
        recipe = Recipe.from_dict(facts["recipe"])
        epochs = [{key: float(value) for key, value in epoch.items()} for epoch in facts["epochs"]]
        compute = {precision: ComputeConfig(**config) for precision, config in facts["compute"].items()}
        return cls(path, recipe, options, epochs, compute, tensors, facts)

    @property
    def dealt(self) -> bool:
        """Whether its networks are trained each by one process, from a seed of its own."""
        return bool(self.facts.get("dealt"))

    def check(self, plan: Plan) -> None:
        """Refuse a plan that is not the one the run began with; compute with its settings, for the same rounding."""
        for key, value in self.recipe.to_dict().items():
            given = plan.recipe.to_dict()[key]
            if given != value:
                remedy = "Leave the option out, or begin a new run."
                raise UsageError(f"{key}={given}", "--resume", f"the run began with {key}={value}", remedy)
        noted = self.facts["data"]
        if data_fingerprint(plan) != noted and data_fingerprint(plan, earlier=True) != noted:
            cause = f"it is not what the run in {self.path.parent} began with"
            raise DataError("data", plan.images.name, cause, "Give the same data, or begin a new run.")
        if (plan.device.type, machine_name(plan.device)) == (self.facts["device"], self.facts["machine"]):
            adopt_compute_configs(plan.device, self.compute)
        else:
            warn("begun on another machine or version of torch: the results may differ in their last digits")

    def restore(self, plan: Plan) -> TrainingState:
        """Give the state where the checkpoint stands, and torch its random numbers of then."""
        try:
            finished = [init_network(name, plan)[0] for name in plan.recipe.networks[: self.facts["networks"]]]
            state = start_network(plan, finished, self.epochs)
            if not 0 <= state.epoch <= plan.recipe.epochs:
                raise ValueError("epochs")
            if state.epochs and not finished:
                state.best_weights = copy_weights(state.network)
            self._fill(state)
            if plan.crew.leads:  # the others take over its tensors, see `follow_first`
                self._fill_tensors(state)
        except MALFORMED as error:
            raise broken(self.path, f"its header is inconsistent ({error})") from None
        return state

    def _fill(self, state: TrainingState) -> None:
        """Copy what the file tells beside tensors into a fresh state."""
        state.schedule.restore(*self.facts["schedule"])
        for optimiser, steps in zip(state.optimisers, self.facts["steps"], strict=True):
            optimiser.steps = int(steps)
        state.seconds, state.best_accuracy = float(self.facts["seconds"]), float(self.facts["best_accuracy"])
        state.parts, state.threads = int(self.facts.get("parts", 1)), int(self.facts.get("threads", 0))
        if not 0 < state.parts < 2**32 or not 0 <= state.threads <= MOST_THREADS:
            raise ValueError("parts or threads")
        if state.plan.crew.size > 1:
            state.parts, state.threads = 1, 0

    @torch.no_grad()
    def _fill_tensors(self, state: TrainingState) -> None:
        """Copy the file's numbers into a fresh state, if every name, shape, type and number fits."""
        random = {name.removeprefix(RANDOM): tensor for name, tensor in self.tensors.items() if name.startswith(RANDOM)}
        wanted = state.kept_weights() | {
            f"{RESUME}/{name}": tensor for name, tensor in state.training_tensors().items()
        }
        for name in set(wanted) ^ {name for name in self.tensors if not name.startswith(RANDOM)}:
            raise ValueError(f"tensor {name}")
        for name, tensor in wanted.items():
            given = self.tensors[name]
            if not name.startswith(RESUME) and given.dtype == _as_predicting(tensor).dtype:
                given = given.to(tensor.dtype)
            bad = given.isnan() if name == f"{RESUME}/losses" else ~given.isfinite()  # losses not known are infinite
            if given.shape != tensor.shape or given.dtype != tensor.dtype or bool(bad.any()):
                raise ValueError(f"tensor {name}")
            tensor.copy_(given)
        _set_random_state(state.plan.device, random)


def read_resumable_run(folder: Path) -> ResumableRun:
    """Read where the run in a folder was stopped; raises `UsageError` where it was not."""
    path = folder / CHECKPOINT_NAME
    if not path.exists():
        ended = (folder / MODEL_NAME).exists()
        cause = "it has ended, nothing is left to do" if ended else "there is no checkpoint in it"
        remedy = "Use its model, or begin a new run." if ended else "Name the folder of a run that was stopped."
        remedy = remedy if folder.exists() else f"{similar_path(folder)}{remedy}"
        raise UsageError("run", str(folder), cause, remedy)
    tensors, facts = read_model_file(path)
    try:
        return ResumableRun.from_facts(path, dict(facts[RESUME]), tensors)
    except MALFORMED as error:
        raise broken(path, f"its header is inconsistent ({error})") from None


def _as_predicting(weight: Tensor) -> Tensor:
    """Give a weight in the type that models have; training may have been in float64."""
    return weight.float() if weight.dtype == torch.float64 else weight


def _random_state(device: torch.device) -> dict[str, Tensor]:
    """Give the state of torch's random numbers, on the CPU and on the device."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def _set_random_state(device: torch.device, states: Mapping[str, Tensor]) -> None:
    """Set it; a device that the run has not computed on so far keeps its own."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    if device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"])
