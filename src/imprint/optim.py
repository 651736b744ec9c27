"""Optimisers and learning-rate schedules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from imprint.recipe import Recipe


class KerasRMSprop(Optimizer):
    """RMSprop as Keras defines it: epsilon stands inside the square root.

    ``v = rho · v + (1 - rho) · g²`` and ``w = w - rate · g / sqrt(v + epsilon)``; torch's own
    RMSprop adds epsilon outside the root, which makes the first steps of small gradients larger.

    Parameters
    ----------
    parameters : iterable of nn.Parameter
        The weights to train.
    lr : float, default=1e-3
        Learning rate.
    rho : float, default=0.9
        Memory of the squared gradients.
    epsilon : float, default=1e-7
        Added to them.

    References
    ----------
    keras/src/optimizers/rmsprop.py, version 3.

    Examples
    --------
    >>> weight = nn.Parameter(torch.tensor([1.0]))
    >>> weight.grad = torch.tensor([2.0])
    >>> KerasRMSprop([weight], lr=0.1).step()
    >>> round(weight.item(), 5)  # 1 - 0.1 · 2 / sqrt(0.1 · 4)
    0.68377
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float = 1e-3, rho: float = 0.9, epsilon: float = 1e-7
    ) -> None:
        super().__init__(parameters, {"lr": lr, "rho": rho, "epsilon": epsilon})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step along the gradients."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                if "velocity" not in self.state[weight]:
                    self.state[weight]["velocity"] = torch.zeros_like(weight)
                velocity = self.state[weight]["velocity"]
                velocity.mul_(group["rho"]).addcmul_(weight.grad, weight.grad, value=1 - group["rho"])
                weight.addcdiv_(weight.grad, (velocity + group["epsilon"]).sqrt_(), value=-group["lr"])


class Muon(Optimizer):
    """Momentum whose every step is made orthogonal: all directions of a filter bank learn at one speed.

    A convolution's gradient counts as a matrix with a row for each filter; see `orthogonal`.

    Parameters
    ----------
    filters : iterable of nn.Parameter
        Weights of convolutions, shape (out, in, rows, columns).
    lr : float
        Learning rate.
    momentum : float, default=0.9
        Share of the past in the running mean of gradients; Nesterov's form.
    weight_decay : float, default=0
        Decoupled decay.

    References
    ----------
    Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024,
    kellerjordan.github.io/posts/muon, with its coefficients.

    Examples
    --------
    >>> weight = nn.Parameter(torch.zeros(2, 2, 1, 1))
    >>> weight.grad = torch.tensor([[3.0, 0.0], [0.0, 0.5]]).view(2, 2, 1, 1)
    >>> Muon([weight], lr=0.1).step()
    >>> [round(value, 2) for value in weight.detach().flatten().tolist()]
    [-0.07, 0.0, 0.0, -0.09]
    """

    def __init__(
        self, filters: Iterable[nn.Parameter], lr: float, momentum: float = 0.9, weight_decay: float = 0.0
    ) -> None:
        super().__init__(filters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step along the orthogonal momentum."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                if "momentum" not in self.state[weight]:
                    self.state[weight]["momentum"] = torch.zeros_like(weight)
                momentum = self.state[weight]["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                ahead = weight.grad.lerp(momentum, group["momentum"]).flatten(1)
                # Taller than wide, a matrix of singular values 1 has small entries; see the source.
                rate = group["lr"] * max(1, ahead.shape[0] / ahead.shape[1]) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(orthogonal(ahead).view(weight.shape), alpha=-rate)


def orthogonal(matrix: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """Move a matrix's singular values towards 1 by three Newton-Schulz iterations.

    The largest end between 0.7 and 1.2, the smallest short of that: with five iterations digits
    were learnt no better, and a step took longer (docs/LOG.md).

    Parameters
    ----------
    matrix : Tensor of float, shape (rows, columns)
        Of any scale.

    Returns
    -------
    Tensor of float, shape (rows, columns)
        With the same singular vectors.

    References
    ----------
    Jordan et al., "Muon", 2024, whose coefficients trade exactness for speed.

    Examples
    --------
    >>> values = torch.linalg.svdvals(orthogonal(torch.tensor([[2.0, 1.0], [0.0, 1.0]])))
    >>> bool(((values > 0.6) & (values < 1.3)).all())
    True
    """
    wide: Tensor = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(3):
        square = wide @ wide.mT
        wide = 3.4445 * wide + (-4.7750 * square + 2.0315 * square @ square) @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.mT


def build_optimisers(recipe: Recipe, net: nn.Module) -> list[Optimizer]:
    """Build the optimisers that a recipe names.

    Parameters
    ----------
    recipe : Recipe
        Names the optimiser, its rates and decay.
    net : nn.Module
        The network to train.

    Returns
    -------
    list of Optimizer
        One, or for ``"muon"`` two: Muon for the filters behind the first layer's, AdamW for the rest.

    Examples
    --------
    >>> from imprint.nets import build_net
    >>> from imprint.recipe import RECIPES
    >>> [type(o).__name__ for o in build_optimisers(RECIPES["quick"], build_net("quick", 1, (28, 28), 10))]
    ['AdamW', 'Muon']
    """
    weights = list(net.parameters())
    if recipe.optimiser == "rmsprop":
        return [KerasRMSprop(weights, lr=recipe.learning_rate)]
    filters = [weight for weight in weights if weight.ndim == 4][1:] if recipe.optimiser == "muon" else []
    chosen = {id(weight) for weight in filters}
    others = [weight for weight in weights if id(weight) not in chosen]
    decay = recipe.weight_decay
    adamw = AdamW(others, lr=recipe.learning_rate, betas=(0.9, 0.99), weight_decay=decay, fused=True)
    return [adamw, Muon(filters, lr=recipe.filter_rate, weight_decay=decay)] if filters else [adamw]


def reduce_on_plateau(recipe: Recipe, optimiser: Optimizer) -> ReduceLROnPlateau:
    """Build Keras's ReduceLROnPlateau (mode max): cut the rate when accuracy has stopped rising.

    Keras cuts once `patience` epochs have brought no rise, torch once more than its patience
    have, hence the minus one; call `step(accuracy)` after each epoch.

    Parameters
    ----------
    recipe : Recipe
        Its four plateau fields.
    optimiser : Optimizer
        Whose rate to cut.

    Returns
    -------
    ReduceLROnPlateau
        At its first epoch.

    References
    ----------
    keras/src/callbacks/reduce_lr_on_plateau.py, version 3.

    Examples
    --------
    >>> from imprint.recipe import RECIPES
    >>> optimiser = KerasRMSprop(nn.Linear(2, 2).parameters(), lr=1e-3)
    >>> schedule = reduce_on_plateau(RECIPES["tutorial"], optimiser)
    >>> for accuracy in (0.9, 0.9, 0.9, 0.9):
    ...     schedule.step(accuracy)
    >>> optimiser.param_groups[0]["lr"]
    0.0005
    """
    return ReduceLROnPlateau(
        optimiser,
        mode="max",
        factor=recipe.plateau_factor,
        patience=recipe.plateau_patience - 1,
        threshold=recipe.plateau_min_delta,
        threshold_mode="abs",
        min_lr=recipe.plateau_floor,
        eps=0,
    )


def one_cycle(optimiser: Optimizer, steps: int) -> LambdaLR:
    """Build a schedule that rises to the optimiser's rate for a quarter of the steps and falls to nothing.

    Parameters
    ----------
    optimiser : Optimizer
        Its rate is the highest; call `step()` after each of its steps.
    steps : int
        Steps of the whole run.

    Returns
    -------
    LambdaLR
        At its first step.

    References
    ----------
    Smith and Topin, "Super-convergence", arXiv:1708.07120; the fall is linear, as in
    Defazio et al., "Optimal linear decay learning rate schedules", arXiv:2310.07831.

    Examples
    --------
    >>> optimiser = AdamW(nn.Linear(2, 2).parameters(), lr=0.01)
    >>> schedule = one_cycle(optimiser, steps=100)
    >>> optimiser.param_groups[0]["lr"]
    0.0004
    """
    rise = max(1, steps // 4)
    return LambdaLR(optimiser, lambda done: min((done + 1) / rise, (steps - done) / (steps - rise + 1)))
