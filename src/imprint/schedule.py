"""Learning-rate schedules."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from imprint.recipe import Recipe


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
            On the validation pictures, where there are any.

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

    def go_on(self, *state: float) -> None:
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
        return max(highest * self.share, min(highest, self.recipe.plateau_floor))

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

    def go_on(self, *state: float) -> None:
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
