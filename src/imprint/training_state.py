"""TrainingState: how far a training run is, with everything that decides how it goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from imprint.arithmetic import CHANNELS_LAST, Arithmetic, choose_arithmetic
from imprint.layers import Ensemble
from imprint.nets import build_net
from imprint.optim import Optimiser, build_optimisers
from imprint.plan import Plan
from imprint.recipe import Recipe
from imprint.schedule import Schedule, build_schedule


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
    >>> from imprint.plan import plan_training
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
        >>> from imprint.plan import plan_training
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
        >>> from imprint.plan import plan_training
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
        >>> from imprint.plan import plan_training
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
    >>> from imprint.plan import plan_training
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
    >>> from imprint.plan import plan_training
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
