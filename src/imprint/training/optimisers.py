"""Optimisers and learning-rate schedules.

Not torch's: whatever derives from `torch.optim.Optimizer` imports torch's compiler at its first call, a second that a
run of eight seconds would notice (docs/log/speed.md).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from imprint.recipes import Recipe

Tensors = list[Tensor] | tuple[Tensor, ...]
# The numbers in an update that change from step to step: Python's, or of a step that a GPU replays, in its memory.
Factors = Sequence[float] | Float[Tensor, " _"]


class Optimiser(ABC):
    """An update rule for some weights of a network.

    `rate` is the learning rate at its peak, `steps` counts the steps taken, `state` holds the tensors that a checkpoint
    keeps.
    """

    def __init__(self, weights: Iterable[nn.Parameter], rate: float, remembered: Sequence[str]) -> None:
        self.weights = list(weights)
        self.rate = rate
        self.steps = 0
        self.memories = [[torch.zeros_like(weight) for weight in self.weights] for _ in remembered]
        self.state = {
            f"{name}.{place}": tensor
            for name, memory in zip(remembered, self.memories, strict=True)
            for place, tensor in enumerate(memory)
        }

    def step(self, rate: float) -> None:
        """Take one step along the gradients; weights without one stay as they are."""
        self.update(self.factors(rate))

    def factors(self, rate: float) -> Sequence[float]:
        """Count a step, and give what `update` needs for it beside tensors."""
        self.steps += 1
        return self._factors(rate)

    @torch.no_grad()
    def update(self, factors: Factors) -> None:
        """Move the weights along their gradients, by the numbers that `factors` gave."""
        used = [place for place, weight in enumerate(self.weights) if weight.grad is not None]
        weights: list[Tensor] = [self.weights[place] for place in used]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        if used:
            self._update(factors, weights, gradients, *([memory[place] for place in used] for memory in self.memories))

    @abstractmethod
    def _factors(self, rate: float) -> Sequence[float]:
        """Give the numbers of the step that was counted last."""

    @abstractmethod
    def _update(self, factors: Factors, weights: Tensors, gradients: Tensors, *memories: Tensors) -> None:
        """Change weights and memories in place, all at once: a GPU takes longer to start an operation than to do it."""


class KerasRMSprop(Optimiser):
    """RMSprop as Keras defines it (keras/src/optimizers/rmsprop.py, version 3): epsilon stands inside the root.

    ``v = rho · v + (1 - rho) · g²`` and ``w = w - rate · g / sqrt(v + epsilon)``; torch's own RMSprop adds epsilon
    outside the root, which makes the first steps of small gradients larger.
    """

    def __init__(
        self, weights: Iterable[nn.Parameter], rate: float = 1e-3, rho: float = 0.9, epsilon: float = 1e-7
    ) -> None:
        super().__init__(weights, rate, ["squares"])
        self.rho, self.epsilon = rho, epsilon

    def _factors(self, rate: float) -> Sequence[float]:
        return (-rate,)

    def _update(self, factors: Factors, weights: Tensors, gradients: Tensors, *memories: Tensors) -> None:
        (scale,), (squares,) = factors, memories
        torch._foreach_mul_(squares, self.rho)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - self.rho)
        roots = torch._foreach_add(squares, self.epsilon)
        torch._foreach_sqrt_(roots)
        _add_quotients(weights, scale, gradients, roots)


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
        super().__init__(weights, rate, ["means", "squares"])
        self.weight_decay, self.betas, self.epsilon = weight_decay, betas, epsilon

    def _factors(self, rate: float) -> Sequence[float]:
        # Means and squares began at 0 and are too small by 1 - beta ** steps.
        short_mean, short_square = (1 - beta**self.steps for beta in self.betas)
        return 1 - rate * self.weight_decay, short_square**0.5, -rate / short_mean

    def _update(self, factors: Factors, weights: Tensors, gradients: Tensors, *memories: Tensors) -> None:
        (decay, root, scale), (means, squares) = factors, memories
        for_mean, for_square = self.betas
        torch._foreach_lerp_(means, gradients, 1 - for_mean)
        torch._foreach_mul_(squares, for_square)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - for_square)
        spreads = torch._foreach_sqrt(squares)
        torch._foreach_div_(spreads, root)
        torch._foreach_add_(spreads, self.epsilon)
        torch._foreach_mul_(weights, decay)
        _add_quotients(weights, scale, means, spreads)


class Muon(Optimiser):
    """Momentum (Nesterov's) whose every step is made orthogonal: all directions of a filter bank learn at one speed.

    A convolution's gradient counts as a matrix with a row for each filter. Source: Jordan et al., "Muon: an optimizer
    for hidden layers in neural networks", 2024, kellerjordan.github.io/posts/muon.
    """

    def __init__(
        self, weights: Iterable[nn.Parameter], rate: float, weight_decay: float = 0.0, momentum: float = 0.9
    ) -> None:
        super().__init__(weights, rate, ["means"])
        self.weight_decay, self.momentum = weight_decay, momentum

    def _factors(self, rate: float) -> Sequence[float]:
        return 1 - rate * self.weight_decay, -rate

    def _update(self, factors: Factors, weights: Tensors, gradients: Tensors, *memories: Tensors) -> None:
        decay, scale = factors
        for own, slopes, means in _by_shape(weights, gradients, *memories):
            torch._foreach_lerp_(means, slopes, 1 - self.momentum)
            ahead = [one.flatten(1) for one in torch._foreach_lerp(slopes, means, self.momentum)]
            alone, (rows, columns) = len(ahead) == 1, ahead[0].shape
            moves = [orthogonal(ahead[0])] if alone else orthogonal(torch.stack(ahead)).unbind()
            # Taller than wide, a matrix of singular values 1 has small entries; see the source.
            stretch = max(1, rows / columns) ** 0.5
            torch._foreach_mul_(own, decay)
            _add(own, scale * stretch, [move.view(weight.shape) for move, weight in zip(moves, own, strict=True)])


def _by_shape(weights: Tensors, *others: Tensors) -> list[tuple[Tensors, ...]]:
    """Group weights of one shape, with what belongs to them, to be computed at once; on a CPU each stays alone.

    There the products of several at once took as long as one after the other (docs/log/gpu.md).
    """
    groups: dict[object, list[tuple[Tensor, ...]]] = {}
    for place, row in enumerate(zip(weights, *others, strict=True)):
        groups.setdefault(place if row[0].device.type == "cpu" else row[0].shape, []).append(row)
    return [tuple(map(list, zip(*rows, strict=True))) for rows in groups.values()]


def orthogonal(matrices: Float[Tensor, "*n rows columns"]) -> Float[Tensor, "*n rows columns"]:
    """Move matrices' singular values towards 1 by three Newton-Schulz iterations, with Muon's coefficients.

    The largest end between 0.7 and 1.2, the smallest short of that: with five iterations digits were learnt no better,
    and a step took longer (docs/log/recipes.md).
    """
    rows, columns = matrices.shape[-2:]
    wide: Tensor = matrices if rows <= columns else matrices.mT
    wide = wide / (torch.linalg.vector_norm(wide, dim=(-2, -1), keepdim=True) + 1e-7)
    # Each iteration multiplies by a polynomial of wide · wideᵀ from the left; all three are gathered on that square
    # matrix, so that the wide one takes part in two products instead of six.
    square = wide @ wide.mT
    factor = torch.eye(square.shape[-1], dtype=square.dtype, device=square.device).expand_as(square)
    for _ in range(3):
        step = (2.0315 * square @ square).sub_(square, alpha=4.7750)
        step.diagonal(dim1=-2, dim2=-1).add_(3.4445)
        factor = step @ factor
        square = step @ square @ step
    wide = factor @ wide
    return wide if rows <= columns else wide.mT


def _add(weights: Tensors, scale: float | Tensor, directions: Tensors) -> None:
    """Add scaled directions to weights; a scale in the device's memory cannot be an ``alpha``."""
    if isinstance(scale, Tensor):
        torch._foreach_add_(weights, torch._foreach_mul(directions, scale))
    else:
        torch._foreach_add_(weights, directions, alpha=scale)


def _add_quotients(weights: Tensors, scale: float | Tensor, directions: Tensors, divisors: Tensors) -> None:
    """Add scaled quotients to weights."""
    if isinstance(scale, Tensor):
        torch._foreach_addcdiv_(weights, torch._foreach_mul(directions, scale), divisors)
    else:
        torch._foreach_addcdiv_(weights, directions, divisors, value=scale)


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
