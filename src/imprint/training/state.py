"""TrainingState: how far a training run is, with everything that decides how it goes on."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from imprint.core.errors import DataError, UsageError
from imprint.core.progress import Reporter
from imprint.models.classifier import NEVER_UNSURE, NOTHING_USUAL, RESUME, Classifier
from imprint.models.hardware import CHANNELS_LAST, Arithmetic, adopt_arithmetic, choose_arithmetic, machine_name
from imprint.models.layers import Ensemble
from imprint.models.model_file import CHECKPOINT_NAME, MODEL_NAME, broken, read_model_file, write_model_file
from imprint.models.networks import build_net
from imprint.recipes import Recipe
from imprint.training.optimisers import Optimiser, Schedule, build_optimisers, build_schedule
from imprint.training.plan import Plan, data_fingerprint


@dataclass(eq=False)
class TrainingState:
    """How far a training run is, seen from the end of an epoch.

    Parameters
    ----------
    plan : Plan
        What it carries out.
    arithmetic : Arithmetic
        How it computes.
    net : nn.Module
        The network under way.
    optimisers : list of Optimiser
        Its optimisers.
    schedule : Schedule
        Its learning-rate schedule.
    losses : Tensor of float32, shape (n,)
        Each training picture's latest loss; infinite for those not seen yet.
    best_accuracy : float, default=-1
        Of its epochs so far.
    best_weights : dict of str to Tensor, or None
        After that epoch; None before the first.
    finished : list of nn.Module
        Networks before it, which have had all their epochs.
    epochs : list of dict of str to float
        The figures of every epoch, those of the finished networks first.
    seconds : float, default=0
        Spent so far.

    Examples
    --------
    >>> from imprint import load
    >>> from imprint.training.plan import plan_training
    >>> state = begin(plan_training(load("digits"), "quick", device="cpu"))
    >>> state.epoch, len(state.losses)
    (0, 1653)
    """

    plan: Plan
    arithmetic: Arithmetic
    net: nn.Module
    optimisers: list[Optimiser]
    schedule: Schedule
    losses: Tensor
    best_accuracy: float = -1.0
    best_weights: dict[str, Tensor] | None = None
    finished: list[nn.Module] = field(default_factory=list)
    epochs: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def epoch(self) -> int:
        """How many epochs the network under way has had.

        Returns
        -------
        int
            From 0 to the recipe's number.

        Examples
        --------
        >>> from imprint import load
        >>> from imprint.training.plan import plan_training
        >>> begin(plan_training(load("digits"))).epoch
        0
        """
        return len(self.epochs) - len(self.finished) * self.plan.recipe.epochs

    @property
    def kept(self) -> tuple[Recipe, dict[str, Tensor]]:
        """What is kept if the run stops now: its finished networks, else the best epoch of the first.

        Returns
        -------
        recipe : Recipe
            With the networks that are kept; the guard is taught when they all have ended.
        weights : dict of str to Tensor
            Of `build_net` for that recipe.

        Examples
        --------
        >>> from imprint import load
        >>> from imprint.training.plan import plan_training
        >>> begin(plan_training(load("digits"), "best")).kept[0].net
        'deep'
        """
        kinds = self.plan.recipe.net.split("+")[: max(1, len(self.finished))]
        recipe = replace(self.plan.recipe, net="+".join(kinds), guard="")
        if self.finished:
            return recipe, together(self.finished).state_dict()
        return recipe, copied(self.net) if self.best_weights is None else self.best_weights

    def memory(self) -> dict[str, Tensor]:
        """Name the tensors that training changes and that no model holds.

        Returns
        -------
        dict of str to Tensor
            The tensors themselves: of the network under way, its optimisers, and the losses.

        Examples
        --------
        >>> from imprint import load
        >>> from imprint.training.plan import plan_training
        >>> [name for name in begin(plan_training(load("digits"), "quick")).memory() if "dense" in name]
        ['net/dense.weight', 'net/dense.bias']
        """
        named = {f"net/{name}": tensor for name, tensor in self.net.state_dict().items()}
        for place, optimiser in enumerate(self.optimisers):
            named |= {f"optimiser/{place}/{name}": tensor for name, tensor in optimiser.memory.items()}
        return named | {"losses": self.losses}


def begin(plan: Plan, finished: Iterable[nn.Module] = (), epochs: Iterable[dict[str, float]] = ()) -> TrainingState:
    """Draw the weights of a run's next network, and set up what trains it.

    Parameters
    ----------
    plan : Plan
        What to carry out.
    finished : iterable of nn.Module, default=()
        The networks before it.
    epochs : iterable of dict, default=()
        The figures of their epochs.

    Returns
    -------
    TrainingState
        Before the network's first epoch.

    Examples
    --------
    >>> from imprint import load
    >>> from imprint.training.plan import plan_training
    >>> begin(plan_training(load("digits"), "quick")).schedule.steps
    280
    """
    finished, recipe = list(finished), plan.recipe
    arithmetic = choose_arithmetic(plan.device, recipe.precision)
    net = build_for(recipe.net.split("+")[len(finished)], plan, arithmetic)
    schedule = build_schedule(recipe, sum(recipe.epoch_steps(len(plan.training))))
    losses = torch.full((len(plan.training),), torch.inf, device=plan.device)
    state = TrainingState(plan, arithmetic, net, build_optimisers(recipe, net), schedule, losses)
    state.finished, state.epochs = finished, list(epochs)
    return state


def together(nets: list[nn.Module]) -> nn.Module:
    """Make one network of several.

    Parameters
    ----------
    nets : list of nn.Module
        At least one.

    Returns
    -------
    nn.Module
        The one, or an `Ensemble`.

    Examples
    --------
    >>> together([nn.Identity()])
    Identity()
    """
    return nets[0] if len(nets) == 1 else Ensemble(nets)


def copied(net: nn.Module) -> dict[str, Tensor]:
    """Copy a network's weights, which further training leaves alone.

    Parameters
    ----------
    net : nn.Module
        A network.

    Returns
    -------
    dict of str to Tensor
        Weights and buffers by name.

    Examples
    --------
    >>> list(copied(nn.Linear(2, 3)))
    ['weight', 'bias']
    """
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def build_for(kind: str, plan: Plan, arithmetic: Arithmetic) -> nn.Module:
    """Draw a network's weights, laid out as training wants them.

    Parameters
    ----------
    kind : str
        One of `nets.NETS`.
    plan : Plan
        Tells the form of pictures, the classes and the device.
    arithmetic : Arithmetic
        Tells the layout.

    Returns
    -------
    nn.Module
        To be trained.

    Examples
    --------
    >>> from imprint import load
    >>> from imprint.training.plan import plan_training
    >>> plan = plan_training(load("digits"), "quick", device="cpu")
    >>> len(build_for("quick", plan, choose_arithmetic(plan.device)).dense.bias)
    10
    """
    net = build_net(kind, plan.spec.channels, plan.spec.input_size, len(plan.images.class_names)).to(plan.device)
    if arithmetic.layout == CHANNELS_LAST:
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Give the state of torch's random numbers, on the CPU and on the device.

    Parameters
    ----------
    device : torch.device
        Where the run computes.

    Returns
    -------
    dict of str to Tensor of uint8
        By type of device.

    Examples
    --------
    >>> list(random_state(torch.device("cpu")))
    ['cpu']
    """
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_random_state(device: torch.device, states: Mapping[str, Tensor]) -> None:
    """Set it; a device that the run has not computed on so far keeps its own.

    Parameters
    ----------
    device : torch.device
        Where the run computes.
    states : mapping of str to Tensor of uint8
        From `random_state`.

    Raises
    ------
    RuntimeError
        When that is no state of random numbers.

    Examples
    --------
    >>> set_random_state(torch.device("cpu"), random_state(torch.device("cpu")))
    """
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    if device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"])


RANDOM = f"{RESUME}/random/"
WORTH = 0.01  # share of a run's time that its checkpoints may take


class Checkpoint:
    """Writes a run's state into its folder.

    Parameters
    ----------
    folder : Path
        The run folder.
    plan : Plan
        What the run carries out.
    command : mapping of str to str or float
        Where its data are, for `Stopped.command`.

    Examples
    --------
    >>> import tempfile
    >>> from imprint import load
    >>> from imprint.training.plan import plan_training
    >>> plan, folder = plan_training(load("digits"), "quick", device="cpu"), Path(tempfile.mkdtemp())
    >>> Checkpoint(folder, plan, {"data": "digits"}).write(begin(plan), Reporter(silent=True))
    >>> find_stopped(folder).command
    {'data': 'digits'}
    """

    def __init__(self, folder: Path, plan: Plan, command: Mapping[str, str | float]) -> None:
        self.path = folder / CHECKPOINT_NAME
        self.epochs = 0  # in the file
        self._written, self._cost = -1.0, 0.0
        self._facts = {
            "recipe": plan.recipe.to_dict(),
            "command": dict(command),
            "data": data_fingerprint(plan),
            "device": plan.device.type,
            "machine": machine_name(plan.device),
        }

    def due(self) -> bool:
        """Whether another costs next to nothing by the time that has passed since the last one.

        Returns
        -------
        bool
            True when the last one took less than 1 % of that time, and as long as none holds an epoch.

        Examples
        --------
        >>> from imprint import load
        >>> from imprint.training.plan import plan_training
        >>> Checkpoint(Path("."), plan_training(load("digits")), {}).due()
        True
        """
        return not self.epochs or time.perf_counter() - self._written >= self._cost / WORTH

    def write(self, state: TrainingState, reporter: Reporter) -> None:
        """Write a run's state at the end of an epoch; the last checkpoint stays until this one is whole.

        Parameters
        ----------
        state : TrainingState
            To be written.
        reporter : Reporter
            Is warned where the folder can no longer be written to: the run goes on without.

        Raises
        ------
        UsageError
            When the first checkpoint cannot be written.

        Examples
        --------
        >>> import tempfile
        >>> from imprint import load
        >>> from imprint.training.plan import plan_training
        >>> plan, folder = plan_training(load("digits"), "quick", device="cpu"), Path(tempfile.mkdtemp())
        >>> Checkpoint(folder, plan, {"data": "digits"}).write(begin(plan), Reporter(silent=True))
        >>> [path.name for path in folder.iterdir()]
        ['checkpoint.safetensors']
        """
        started = time.perf_counter()
        try:
            write_model_file(self.path, *_contents(state, self._facts))
            self.epochs = len(state.epochs)
        except UsageError as error:
            if self._written < 0:
                raise
            reporter.say(f"warning: {error} Training goes on; the checkpoint stays at epoch {self.epochs}")
        self._written = time.perf_counter()
        self._cost = self._written - started


def _contents(state: TrainingState, constant: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Lay out a checkpoint: tensors and facts."""
    plan, (recipe, weights) = state.plan, state.kept
    names, spec = plan.images.class_names, plan.spec
    model = Classifier(nn.Identity(), names, spec, recipe, 1.0, NOTHING_USUAL, NEVER_UNSURE, 0.0)  # its weights apart
    ways = (plan.recipe.precision, "float32")
    further = {
        "networks": len(state.finished),
        "epochs": state.epochs,
        "best_accuracy": state.best_accuracy,
        "schedule": state.schedule.state(),
        "steps": [optimiser.steps for optimiser in state.optimisers],
        "seconds": state.seconds,
        "arithmetic": {way: asdict(choose_arithmetic(plan.device, way)) for way in ways},
    }
    random = {f"{RANDOM}{name}": numbers for name, numbers in random_state(plan.device).items()}
    memory = {f"{RESUME}/{name}": tensor for name, tensor in state.memory().items()}
    return {**weights, **memory, **random}, {**model.facts(), RESUME: {**constant, **further}}


@dataclass(frozen=True, eq=False)
class Stopped:
    """A run that was stopped before its end, as its last checkpoint tells.

    Parameters
    ----------
    path : Path
        The checkpoint.
    recipe : Recipe
        What decides the run.
    command : dict
        Where its data are, as `Checkpoint` was told.
    epochs : list of dict of str to float
        The figures of those that it has had.
    arithmetic : dict of str to Arithmetic
        What the self-check chose then, by the precision asked for.
    tensors : dict of str to Tensor
        All that the file holds.
    facts : dict
        What it holds beyond a model's facts.

    Examples
    --------
    >>> find_stopped(Path("runs/none"))
    Traceback (most recent call last):
    imprint.core.errors.UsageError: run at runs/none: there is no checkpoint in it. ...
    """

    path: Path
    recipe: Recipe
    command: dict[str, Any]
    epochs: list[dict[str, float]]
    arithmetic: dict[str, Arithmetic]
    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    def check(self, plan: Plan, reporter: Reporter) -> None:
        """Refuse a plan that is not the one which the run began with; adopt the arithmetic that it began with.

        Parameters
        ----------
        plan : Plan
            To go on with.
        reporter : Reporter
            Is told where the machine is another one, whose results differ in the last digits.

        Raises
        ------
        DataError
            When the data are not those that the run began with.
        UsageError
            When the recipe is not.

        Examples
        --------
        >>> import tempfile
        >>> from imprint import load
        >>> from imprint.training.plan import plan_training
        >>> plan, folder = plan_training(load("digits"), "quick", device="cpu"), Path(tempfile.mkdtemp())
        >>> Checkpoint(folder, plan, {"data": "digits"}).write(begin(plan), Reporter(silent=True))
        >>> find_stopped(folder).check(plan_training(load("digits"), "quick", seed=8), Reporter(silent=True))
        Traceback (most recent call last):
        imprint.core.errors.UsageError: seed=8 at --resume: the run began with seed=7. ...
        """
        for key, value in self.recipe.to_dict().items():
            given = getattr(plan.recipe, key)
            if given != value:
                remedy = "Leave the option out, or begin a new run."
                raise UsageError(f"{key}={given}", "--resume", f"the run began with {key}={value}", remedy)
        if data_fingerprint(plan) != self.facts["data"]:
            cause = f"it is not what the run in {self.path.parent} began with"
            raise DataError("data", plan.images.name, cause, "Give the same data, or begin a new run.")
        if (plan.device.type, machine_name(plan.device)) == (self.facts["device"], self.facts["machine"]):
            adopt_arithmetic(plan.device, self.arithmetic)
        else:
            reporter.say("warning: begun on another machine or version of torch; expect other last digits than there")

    def go_on(self, plan: Plan) -> TrainingState:
        """Take up the run where its checkpoint stands; sets torch's random numbers.

        Parameters
        ----------
        plan : Plan
            That `check` has let pass.

        Returns
        -------
        TrainingState
            As it was written.

        Raises
        ------
        ModelFileError
            When the checkpoint does not hold together.

        Examples
        --------
        >>> import tempfile
        >>> from imprint import load
        >>> from imprint.training.plan import plan_training
        >>> plan, folder = plan_training(load("digits"), "quick", device="cpu"), Path(tempfile.mkdtemp())
        >>> first = begin(plan)
        >>> Checkpoint(folder, plan, {"data": "digits"}).write(first, Reporter(silent=True))
        >>> again = find_stopped(folder).go_on(plan)
        >>> bool((again.net.dense.weight == first.net.dense.weight).all())
        True
        """
        arithmetic = choose_arithmetic(plan.device, plan.recipe.precision)
        try:
            kinds = plan.recipe.net.split("+")[: self.facts["networks"]]
            state = begin(plan, [build_for(kind, plan, arithmetic) for kind in kinds], self.epochs)
            if not 0 <= state.epoch <= plan.recipe.epochs:
                raise ValueError("epochs")
            if state.epochs and not kinds:
                state.best_weights = copied(state.net)
            self._fill(state)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RuntimeError) as error:
            raise broken(self.path, f"its header does not hold together ({error})") from None
        return state

    @torch.no_grad()
    def _fill(self, state: TrainingState) -> None:
        """Copy the file's numbers into a fresh state, if every name, shape, type and number fits."""
        state.schedule.go_on(*self.facts["schedule"])
        for optimiser, steps in zip(state.optimisers, self.facts["steps"], strict=True):
            optimiser.steps = int(steps)
        state.seconds, state.best_accuracy = float(self.facts["seconds"]), float(self.facts["best_accuracy"])
        random = {name.removeprefix(RANDOM): tensor for name, tensor in self.tensors.items() if name.startswith(RANDOM)}
        wanted = state.kept[1] | {f"{RESUME}/{name}": tensor for name, tensor in state.memory().items()}
        for name in set(wanted) ^ {name for name in self.tensors if not name.startswith(RANDOM)}:
            raise ValueError(f"tensor {name}")
        for name, tensor in wanted.items():
            given = self.tensors[name]
            bad = given.isnan() if name == f"{RESUME}/losses" else ~given.isfinite()  # losses not known are infinite
            if given.shape != tensor.shape or given.dtype != tensor.dtype or bool(bad.any()):
                raise ValueError(f"tensor {name}")
            tensor.copy_(given)
        set_random_state(state.plan.device, random)


def find_stopped(folder: Path) -> Stopped:
    """Read where a run was stopped.

    Parameters
    ----------
    folder : Path
        The run folder.

    Returns
    -------
    Stopped
        Its last checkpoint.

    Raises
    ------
    ModelFileError
        When the checkpoint is damaged.
    UsageError
        When the run has ended, or the folder is none of a run.

    Examples
    --------
    >>> find_stopped(Path("runs/none"))
    Traceback (most recent call last):
    imprint.core.errors.UsageError: run at runs/none: there is no checkpoint in it. ...
    """
    path = folder / CHECKPOINT_NAME
    if not path.exists():
        ended = (folder / MODEL_NAME).exists()
        cause = "it has ended, nothing is left to do" if ended else "there is no checkpoint in it"
        remedy = "Use its model, or begin a new run." if ended else "Name the folder of a run that was stopped."
        raise UsageError("run", str(folder), cause, remedy)
    tensors, facts = read_model_file(path)
    try:
        further = dict(facts[RESUME])
        command = dict(further["command"])
        if not all(isinstance(value, str | float | int) for value in command.values()):
            raise ValueError("command")
        if not all(isinstance(further[key], str) for key in ("data", "device", "machine")):
            raise ValueError("data or machine")
        recipe = Recipe.from_dict(further["recipe"])
        epochs = [{key: float(value) for key, value in epoch.items()} for epoch in further["epochs"]]
        arithmetic = {way: Arithmetic(**how) for way, how in further["arithmetic"].items()}
        return Stopped(path, recipe, command, epochs, arithmetic, tensors, further)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise broken(path, f"its header does not hold together ({error})") from None
