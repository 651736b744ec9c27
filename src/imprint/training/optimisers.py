"""Optimisers and learning-rate schedules.

Not torch's: whatever derives from `torch.optim.Optimizer` imports torch's compiler at its first call, a second that a
run of eight seconds would notice (docs/log/speed.md).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from imprint.recipes import Recipe


class Optimiser(ABC):
    """An update rule for some weights of a network.

    `rate` is the learning rate at its peak, `state` holds the tensors that a checkpoint keeps.
    """

    def __init__(self, weights: Iterable[nn.Parameter], rate: float) -> None:
        self.weights = list(weights)
        self.rate = rate
        self.steps = 0
        self.state: dict[str, Tensor] = {}

    def _remembered(self, name: str) -> list[Tensor]:
        """Give a tensor of zeros for each weight, noted in `state`."""
        zeros = [torch.zeros_like(weight) for weight in self.weights]
        self.state |= {f"{name}.{place}": tensor for place, tensor in enumerate(zeros)}
        return zeros

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Take one step along the gradients; weights without one stay as they are."""
        self.steps += 1
        for place, weight in enumerate(self.weights):
            if weight.grad is not None:
                self._update(place, weight, weight.grad, rate)

    @abstractmethod
    def _update(self, place: int, weight: Tensor, gradient: Tensor, rate: float) -> None:
        """Change one weight in place; `place` is its position in `weights`."""


class KerasRMSprop(Optimiser):
    """RMSprop as Keras defines it (keras/src/optimizers/rmsprop.py, version 3): epsilon stands inside the root.

    ``v = rho · v + (1 - rho) · g²`` and ``w = w - rate · g / sqrt(v + epsilon)``; torch's own RMSprop adds epsilon
    outside the root, which makes the first steps of small gradients larger.
    """

    def __init__(
        self, weights: Iterable[nn.Parameter], rate: float = 1e-3, rho: float = 0.9, epsilon: float = 1e-7
    ) -> None:
        super().__init__(weights, rate)
        self.rho, self.epsilon = rho, epsilon
        self.squares = self._remembered("squares")

    def _update(self, place: int, weight: Tensor, gradient: Tensor, rate: float) -> None:
        square = self.squares[place].mul_(self.rho).addcmul_(gradient, gradient, value=1 - self.rho)
        weight.addcdiv_(gradient, (square + self.epsilon).sqrt_(), value=-rate)


class AdamW(Optimiser):
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101)."""

    def __init__(
        self,
        weights: Iterable[nn.Parameter],
        rate: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.99),
        epsilon: float = 1e-8,
    ) -> None:
        super().__init__(weights, rate)
        self.weight_decay, self.betas, self.epsilon = weight_decay, betas, epsilon
        self.means = self._remembered("means")
        self.squares = self._remembered("squares")

    def _update(self, place: int, weight: Tensor, gradient: Tensor, rate: float) -> None:
        for_mean, for_square = self.betas
        mean = self.means[place].lerp_(gradient, 1 - for_mean)
        square = self.squares[place].mul_(for_square).addcmul_(gradient, gradient, value=1 - for_square)
        # Both began at 0 and are too small by these factors.
        spread = square.sqrt().div_((1 - for_square**self.steps) ** 0.5).add_(self.epsilon)
        weight.mul_(1 - rate * self.weight_decay)
        weight.addcdiv_(mean, spread, value=-rate / (1 - for_mean**self.steps))


class Muon(Optimiser):
    """Momentum (Nesterov's) whose every step is made orthogonal: all directions of a filter bank learn at one speed.

    A convolution's gradient counts as a matrix with a row for each filter. Source: Jordan et al., "Muon: an optimizer
    for hidden layers in neural networks", 2024, kellerjordan.github.io/posts/muon.
    """

    def __init__(
        self, weights: Iterable[nn.Parameter], rate: float, weight_decay: float = 0.0, momentum: float = 0.9
    ) -> None:
        super().__init__(weights, rate)
        self.weight_decay, self.momentum = weight_decay, momentum
        self.means = self._remembered("means")

    def _update(self, place: int, weight: Tensor, gradient: Tensor, rate: float) -> None:
        mean = self.means[place].lerp_(gradient, 1 - self.momentum)
        ahead = gradient.lerp(mean, self.momentum).flatten(1)
        # Taller than wide, a matrix of singular values 1 has small entries; see the source.
        stretch = max(1, ahead.shape[0] / ahead.shape[1]) ** 0.5
        weight.mul_(1 - rate * self.weight_decay)
        weight.add_(orthogonal(ahead).view(weight.shape), alpha=-rate * stretch)


def orthogonal(matrix: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """Move a matrix's singular values towards 1 by three Newton-Schulz iterations, with Muon's coefficients.

    The largest end between 0.7 and 1.2, the smallest short of that: with five iterations digits were learnt no better,
    and a step took longer (docs/log/recipes.md).
    """
    wide: Tensor = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    wide = wide / (wide.norm() + 1e-7)
    # Each iteration multiplies by a polynomial of wide · wideᵀ from the left; all three are gathered on that square
    # matrix, so that the wide one takes part in two products instead of six.
    square = wide @ wide.mT
    factor = torch.eye(len(square), device=square.device)
    for _ in range(3):
        step = (2.0315 * square @ square).sub_(square, alpha=4.7750)
        step.diagonal().add_(3.4445)
        factor = step @ factor
        square = step @ square @ step
    wide = factor @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.mT


def build_optimisers(recipe: Recipe, network: nn.Module) -> list[Optimiser]:
    """Build the optimisers that a recipe names.

    For muon two: Muon for all filters but the first layer's, AdamW for the rest.
    """
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    if recipe.optimiser == "rmsprop":
        return [KerasRMSprop(weights, recipe.learning_rate)]
    filters = [weight for weight in weights if weight.ndim == 4][1:] if recipe.optimiser == "muon" else []
    chosen = {id(weight) for weight in filters}
    others = [weight for weight in weights if id(weight) not in chosen]
    adamw = AdamW(others, recipe.learning_rate, recipe.weight_decay)
    return [adamw, Muon(filters, recipe.muon_learning_rate, recipe.weight_decay)] if filters else [adamw]


class Plateau:
    """Keras's ReduceLROnPlateau (mode max) by a recipe's plateau fields: cut the rate when accuracy stops rising.

    Source: keras/src/callbacks/reduce_lr_on_plateau.py, version 3.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.share, self.best, self.waited = 1.0, -math.inf, 0

    def rate(self, peak: float, done: int) -> float:
        """Give the rate that the accuracies so far have left of `peak`."""
        return max(peak * self.share, min(peak, self.recipe.plateau_min_learning_rate))

    def end_epoch(self, accuracy: float) -> None:
        """Take note of an epoch's accuracy."""
        if accuracy > self.best + self.recipe.plateau_min_delta:
            self.best, self.waited = accuracy, 0
            return
        self.waited += 1
        if self.waited >= self.recipe.plateau_patience:
            self.share, self.waited = self.share * self.recipe.plateau_factor, 0

    def state(self) -> list[float]:
        """Give, for a checkpoint, the share of the rate that is left, the best accuracy and the epochs since it."""
        return [] if self.best == -math.inf else [self.share, self.best, float(self.waited)]

    def restore(self, *state: float) -> None:
        """Go on from another's `state`; raises `ValueError` where that has other numbers."""
        if state:
            self.share, self.best, waited = state
            self.waited = int(waited)


class OneCycle:
    """A rate that rises for a quarter of a run's `steps` and falls to nothing.

    Sources: Smith and Topin, arXiv:1708.07120; the fall is linear, as in Defazio et al., arXiv:2310.07831.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def rate(self, peak: float, done: int) -> float:
        """Give the rate of the step after `done` ones."""
        rise = max(1, self.steps // 4)
        return peak * min((done + 1) / rise, (self.steps - done) / (self.steps - rise + 1))

    def end_epoch(self, accuracy: float) -> None:
        """Do nothing: the steps alone decide."""

    def state(self) -> list[float]:
        """Give nothing, since the steps are in the recipe."""
        return []

    def restore(self, *state: float) -> None:
        """Refuse a `state` of another schedule, by `ValueError`."""
        if state:
            raise ValueError(f"{len(state)} numbers too many")


Schedule = Plateau | OneCycle


def build_schedule(recipe: Recipe, steps: int) -> Schedule:
    """Build the learning-rate schedule that a recipe names, for a run of so many steps."""
    return Plateau(recipe) if recipe.schedule == "plateau" else OneCycle(steps)
