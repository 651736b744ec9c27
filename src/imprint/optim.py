"""Optimisers and learning-rate schedules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

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


def build_optimiser(recipe: Recipe, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Build the optimiser that a recipe names.

    Parameters
    ----------
    recipe : Recipe
        Names the optimiser, its rate and decay.
    parameters : iterable of nn.Parameter
        The weights to train.

    Returns
    -------
    Optimizer
        Ready for its first step.

    Examples
    --------
    >>> from imprint.recipe import RECIPES
    >>> type(build_optimiser(RECIPES["tutorial"], nn.Linear(2, 2).parameters())).__name__
    'KerasRMSprop'
    """
    if recipe.optimiser == "rmsprop":
        return KerasRMSprop(parameters, lr=recipe.learning_rate)
    return AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)


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
    >>> optimiser = build_optimiser(RECIPES["tutorial"], nn.Linear(2, 2).parameters())
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


def one_cycle(recipe: Recipe, optimiser: Optimizer, steps: int) -> OneCycleLR:
    """Build a schedule that rises to the recipe's rate and falls to nothing; call `step()` after each step.

    Parameters
    ----------
    recipe : Recipe
        Its learning rate is the highest.
    optimiser : Optimizer
        Whose rate to set.
    steps : int
        Steps of the whole run.

    Returns
    -------
    OneCycleLR
        At its first step.

    References
    ----------
    Smith and Topin, "Super-convergence", arXiv:1708.07120.

    Examples
    --------
    >>> from imprint.recipe import RECIPES
    >>> optimiser = build_optimiser(RECIPES["quick"], nn.Linear(2, 2).parameters())
    >>> schedule = one_cycle(RECIPES["quick"], optimiser, steps=100)
    >>> optimiser.param_groups[0]["lr"] < RECIPES["quick"].learning_rate
    True
    """
    return OneCycleLR(optimiser, max_lr=recipe.learning_rate, total_steps=max(steps, 2), cycle_momentum=False)
