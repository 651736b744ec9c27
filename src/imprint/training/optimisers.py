"""Optimisers.

They are not torch's: whatever derives from `torch.optim.Optimizer` imports torch's compiler at
its first call, a second that a run of eight seconds would notice (docs/LOG.md).
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

    Parameters
    ----------
    weights : iterable of nn.Parameter
        The weights to train; those without a gradient stay as they are.
    rate : float
        Learning rate at its full height; `step` is told the share of it that holds.

    Examples
    --------
    >>> Muon([nn.Parameter(torch.zeros(2, 2, 1, 1))], rate=0.1).rate
    0.1
    """

    def __init__(self, weights: Iterable[nn.Parameter], rate: float) -> None:
        self.weights = list(weights)
        self.rate = rate
        self.steps = 0
        self.memory: dict[str, Tensor] = {}

    def _remembered(self, name: str) -> list[Tensor]:
        """Give a tensor of zeros for each weight, and note it in `memory`, which a checkpoint keeps."""
        zeros = [torch.zeros_like(weight) for weight in self.weights]
        self.memory |= {f"{name}.{place}": tensor for place, tensor in enumerate(zeros)}
        return zeros

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Take one step along the gradients.

        Parameters
        ----------
        rate : float
            Learning rate of this step.

        Examples
        --------
        >>> weight = nn.Parameter(torch.tensor([1.0]))
        >>> weight.grad = torch.tensor([2.0])
        >>> KerasRMSprop([weight], rate=0.1).step(0.1)
        >>> round(weight.item(), 5)  # 1 - 0.1 · 2 / sqrt(0.1 · 4)
        0.68377
        """
        self.steps += 1
        for place, weight in enumerate(self.weights):
            if weight.grad is not None:
                self._update(place, weight, weight.grad, rate)

    @abstractmethod
    def _update(self, place: int, weight: Tensor, gradient: Tensor, rate: float) -> None:
        """Change one weight in place; `place` is its position in `weights`."""


class KerasRMSprop(Optimiser):
    """RMSprop as Keras defines it: epsilon stands inside the square root.

    ``v = rho · v + (1 - rho) · g²`` and ``w = w - rate · g / sqrt(v + epsilon)``; torch's own
    RMSprop adds epsilon outside the root, which makes the first steps of small gradients larger.

    Parameters
    ----------
    weights : iterable of nn.Parameter
        The weights to train.
    rate : float, default=1e-3
        Learning rate at its full height.
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
    >>> KerasRMSprop([weight]).step(rate=0.1)
    >>> round(weight.item(), 5)  # 1 - 0.1 · 2 / sqrt(0.1 · 4)
    0.68377
    """

    def __init__(
        self, weights: Iterable[nn.Parameter], rate: float = 1e-3, rho: float = 0.9, epsilon: float = 1e-7
    ) -> None:
        super().__init__(weights, rate)
        self.rho, self.epsilon = rho, epsilon
        self.squares = self._remembered("squares")

    def _update(self, place: int, weight: Tensor, gradient: Tensor, rate: float) -> None:
        """Step along the gradient, over the root of its running mean square."""
        square = self.squares[place].mul_(self.rho).addcmul_(gradient, gradient, value=1 - self.rho)
        weight.addcdiv_(gradient, (square + self.epsilon).sqrt_(), value=-rate)


class AdamW(Optimiser):
    """Adam with decoupled weight decay.

    Parameters
    ----------
    weights : iterable of nn.Parameter
        The weights to train.
    rate : float
        Learning rate at its full height.
    weight_decay : float, default=0
        Share of a weight, times the rate, that each step takes away.
    betas : tuple of float, default=(0.9, 0.99)
        Memory of the gradients and of their squares.
    epsilon : float, default=1e-8
        Added to the root of the mean square.

    References
    ----------
    Loshchilov and Hutter, "Decoupled weight decay regularization", arXiv:1711.05101.

    Examples
    --------
    >>> weight = nn.Parameter(torch.tensor([1.0]))
    >>> weight.grad = torch.tensor([5.0])
    >>> AdamW([weight], rate=0.1).step(0.1)
    >>> round(weight.item(), 5)  # the first step is as large as the rate, whatever the gradient
    0.9
    """

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
        """Step along the running mean of gradients, over the root of their mean square."""
        for_mean, for_square = self.betas
        mean = self.means[place].lerp_(gradient, 1 - for_mean)
        square = self.squares[place].mul_(for_square).addcmul_(gradient, gradient, value=1 - for_square)
        # Both began at 0 and are too small by these factors.
        spread = square.sqrt().div_((1 - for_square**self.steps) ** 0.5).add_(self.epsilon)
        weight.mul_(1 - rate * self.weight_decay)
        weight.addcdiv_(mean, spread, value=-rate / (1 - for_mean**self.steps))


class Muon(Optimiser):
    """Momentum whose every step is made orthogonal: all directions of a filter bank learn at one speed.

    A convolution's gradient counts as a matrix with a row for each filter; see `orthogonal`.

    Parameters
    ----------
    weights : iterable of nn.Parameter
        Filters of convolutions, shape (out, in, rows, columns).
    rate : float
        Learning rate at its full height.
    weight_decay : float, default=0
        Share of a weight, times the rate, that each step takes away.
    momentum : float, default=0.9
        Share of the past in the running mean of gradients; Nesterov's form.

    References
    ----------
    Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024,
    kellerjordan.github.io/posts/muon, with its coefficients.

    Examples
    --------
    >>> weight = nn.Parameter(torch.zeros(2, 2, 1, 1))
    >>> weight.grad = torch.tensor([[3.0, 0.0], [0.0, 0.5]]).view(2, 2, 1, 1)
    >>> Muon([weight], rate=0.1).step(0.1)
    >>> [round(value, 2) for value in weight.detach().flatten().tolist()]
    [-0.07, 0.0, 0.0, -0.09]
    """

    def __init__(
        self, weights: Iterable[nn.Parameter], rate: float, weight_decay: float = 0.0, momentum: float = 0.9
    ) -> None:
        super().__init__(weights, rate)
        self.weight_decay, self.momentum = weight_decay, momentum
        self.means = self._remembered("means")

    def _update(self, place: int, weight: Tensor, gradient: Tensor, rate: float) -> None:
        """Step along the orthogonal momentum."""
        mean = self.means[place].lerp_(gradient, 1 - self.momentum)
        ahead = gradient.lerp(mean, self.momentum).flatten(1)
        # Taller than wide, a matrix of singular values 1 has small entries; see the source.
        stretch = max(1, ahead.shape[0] / ahead.shape[1]) ** 0.5
        weight.mul_(1 - rate * self.weight_decay)
        weight.add_(orthogonal(ahead).view(weight.shape), alpha=-rate * stretch)


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

    Parameters
    ----------
    recipe : Recipe
        Names the optimiser, its rates and decay.
    net : nn.Module
        The network to train.

    Returns
    -------
    list of Optimiser
        One, or for ``"muon"`` two: Muon for the filters behind the first layer's, AdamW for the rest.

    Examples
    --------
    >>> from imprint.models.networks import build_network
    >>> from imprint.recipes import RECIPES
    >>> [type(o).__name__ for o in build_optimisers(RECIPES["quick"], build_network("quick", 1, (28, 28), 10))]
    ['AdamW', 'Muon']
    """
    weights = list(network.parameters())
    if recipe.optimiser == "rmsprop":
        return [KerasRMSprop(weights, recipe.learning_rate)]
    filters = [weight for weight in weights if weight.ndim == 4][1:] if recipe.optimiser == "muon" else []
    chosen = {id(weight) for weight in filters}
    others = [weight for weight in weights if id(weight) not in chosen]
    adamw = AdamW(others, recipe.learning_rate, recipe.weight_decay)
    return [adamw, Muon(filters, recipe.muon_learning_rate, recipe.weight_decay)] if filters else [adamw]


class Schedule(ABC):
    """How the learning rate goes from step to step.

    Examples
    --------
    >>> issubclass(OneCycle, Schedule)
    True
    """

    @abstractmethod
    def rate(self, highest: float, done: int) -> float:
        """Give the learning rate of the next step.

        Parameters
        ----------
        highest : float
            The rate at its full height.
        done : int
            Steps taken so far.

        Returns
        -------
        float
            Above 0.

        Examples
        --------
        >>> OneCycle(steps=100).rate(0.01, done=24)
        0.01
        """

    def end_epoch(self, accuracy: float) -> None:  # noqa: B027 (most schedules need not know)
        """Take note of an epoch's accuracy.

        Parameters
        ----------
        accuracy : float
            On the validation images, where there are any.

        Examples
        --------
        >>> OneCycle(steps=100).end_epoch(accuracy=0.5)
        """

    def state(self) -> list[float]:
        """Give what it has taken note of, for a checkpoint.

        Returns
        -------
        list of float
            Empty where it takes note of nothing.

        Examples
        --------
        >>> OneCycle(steps=100).state()
        []
        """
        return []

    def restore(self, *state: float) -> None:
        """Go on from where another schedule of this kind was.

        Parameters
        ----------
        *state : float
            From that one's `state`.

        Raises
        ------
        TypeError
            When there are more or fewer numbers than it knows.

        Examples
        --------
        >>> OneCycle(steps=100).go_on()
        """
        if state:
            raise TypeError(f"{len(state)} numbers too many")


class Plateau(Schedule):
    """Keras's ReduceLROnPlateau (mode max): cut the rate when accuracy has stopped rising.

    Parameters
    ----------
    recipe : Recipe
        Its four plateau fields.

    References
    ----------
    keras/src/callbacks/reduce_lr_on_plateau.py, version 3.

    Examples
    --------
    >>> from imprint.recipes import RECIPES
    >>> schedule = Plateau(RECIPES["tutorial"])
    >>> for accuracy in (0.9, 0.9, 0.9, 0.9):
    ...     schedule.end_epoch(accuracy)
    >>> schedule.rate(1e-3, done=2560)
    0.0005
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.share, self.best, self.waited = 1.0, -math.inf, 0

    def rate(self, highest: float, done: int) -> float:
        """Give the rate that the accuracies so far have left."""
        return max(highest * self.share, min(highest, self.recipe.plateau_min_learning_rate))

    def end_epoch(self, accuracy: float) -> None:
        """Take note of an epoch's accuracy."""
        if accuracy > self.best + self.recipe.plateau_min_delta:
            self.best, self.waited = accuracy, 0
            return
        self.waited += 1
        if self.waited >= self.recipe.plateau_patience:
            self.share, self.waited = self.share * self.recipe.plateau_factor, 0

    def state(self) -> list[float]:
        """Give the share of the rate that is left, the best accuracy and the epochs since; nothing before the first."""
        return [] if self.best == -math.inf else [self.share, self.best, float(self.waited)]

    def restore(self, *state: float) -> None:
        """Go on from that."""
        if state:
            self.share, self.best, waited = state
            self.waited = int(waited)


class OneCycle(Schedule):
    """A rate that rises for a quarter of the steps and falls to nothing.

    Parameters
    ----------
    steps : int
        Steps of the whole run.

    References
    ----------
    Smith and Topin, "Super-convergence", arXiv:1708.07120; the fall is linear, as in
    Defazio et al., "Optimal linear decay learning rate schedules", arXiv:2310.07831.

    Examples
    --------
    >>> schedule = OneCycle(steps=100)
    >>> [round(schedule.rate(0.01, done), 4) for done in (0, 24, 99)]
    [0.0004, 0.01, 0.0001]
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def rate(self, highest: float, done: int) -> float:
        """Give the rate for this place in the cycle."""
        rise = max(1, self.steps // 4)
        return highest * min((done + 1) / rise, (self.steps - done) / (self.steps - rise + 1))


def build_schedule(recipe: Recipe, steps: int) -> Schedule:
    """Build the learning-rate schedule that a recipe names.

    Parameters
    ----------
    recipe : Recipe
        Names the schedule.
    steps : int
        Steps of the whole run.

    Returns
    -------
    Schedule
        At its first step.

    Examples
    --------
    >>> from imprint.recipes import RECIPES
    >>> type(build_schedule(RECIPES["tutorial"], steps=19_200)).__name__
    'Plateau'
    """
    return Plateau(recipe) if recipe.schedule == "plateau" else OneCycle(steps)
