"""Expected: the accuracy to expect on new pictures, and how far that can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped
from numpy import ndarray

from imprint.metrics import Z_95, wilson_interval


@dataclass(frozen=True)
class Expected:
    """What a model will score on new pictures.

    Parameters
    ----------
    accuracy : float
        Its accuracy on the pictures held out.
    interval : tuple of float
        Holds, in 95 of 100 runs, the share that this very model would name rightly of endlessly many new
        pictures from the same source. A score on `m` new pictures scatters around that share by chance, and another
        seed makes another model.
    images : int
        Number of pictures held out.
    effective : float
        How many unrelated pictures they are worth; fewer than `images` where groups err together.
    tries : int
        Among how many epochs these pictures chose the model; 1 where they did not choose.

    Examples
    --------
    >>> print(expected_accuracy(np.arange(1000) >= 5))
    expect 0.9950 on new pictures like these, from 0.9883 to 0.9979 (95 % interval, from 1,000 pictures held out)
    """

    accuracy: float
    interval: tuple[float, float]
    images: int
    effective: float
    tries: int

    def __str__(self) -> str:
        low, high = self.interval
        because = f"95 % interval, from {self.images:,} picture{'' if self.images == 1 else 's'} held out"
        if round(self.effective) < self.images:
            because += f", worth {self.effective:,.0f} unrelated ones since groups err together"
        if self.tries > 1:
            because += f"; widened, since they chose the best of {self.tries} epochs: rather less than more"
        return f"expect {self.accuracy:.4f} on new pictures like these, from {low:.4f} to {high:.4f} ({because})"

    def facts(self) -> dict[str, Any]:
        """Give what `train --json` tells of it.

        Returns
        -------
        dict
            `accuracy` and `interval`.

        Examples
        --------
        >>> sorted(expected_accuracy(np.array([True, False])).facts())
        ['accuracy', 'interval']
        """
        return {"accuracy": self.accuracy, "interval": list(self.interval)}


def expected_accuracy(
    correct: Bool[ndarray, " n"], groups: Shaped[ndarray, " n"] | None = None, tries: int = 1
) -> Expected:
    """Tell what accuracy to expect on new pictures from those held out.

    Wilson's interval, with two corrections. Pictures of one group, such as photos of one person, tend to be right
    or wrong together, so that they count as fewer: their number is divided by the design effect, the variance
    between groups against that of unrelated pictures. Where the same pictures chose the best of several
    epochs, each epoch's interval gets its share of the 5 % (Bonferroni), so that all of them hold at once.

    Parameters
    ----------
    correct : ndarray of bool, shape (n,)
        Whether each picture held out was named rightly.
    groups : ndarray, shape (n,), or None, default=None
        Pictures with the same value belong together.
    tries : int, default=1
        Among how many epochs these pictures chose.

    Returns
    -------
    Expected
        Accuracy and interval.

    References
    ----------
    Wilson, JASA 22 (1927) 209-212; Kish, "Survey sampling", 1965, for the design effect; Korn and
    Graubard, Survey Methodology 24 (1998) 193-201, for Student's t where groups are few.

    Examples
    --------
    >>> right = np.repeat([True, True, True, False], 25)
    >>> alone = expected_accuracy(right)
    >>> together = expected_accuracy(right, groups=np.repeat(np.arange(4), 25))
    >>> alone.effective, together.effective  # and that of four only roughly known
    (100.0, 1.5...)
    """
    accuracy = float(correct.mean())
    effective = float(len(correct)) if groups is None else _effective_number(correct, groups)
    z = NormalDist().inv_cdf(1 - 0.025 / tries)
    interval = wilson_interval(accuracy * effective, effective, z)
    return Expected(accuracy, interval, len(correct), effective, tries)


def _students_point(freedom: int) -> float:
    """Give the 97.5 % point of Student's t: a variance estimated from few groups is itself uncertain."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))


def _effective_number(correct: Bool[ndarray, " n"], groups: Shaped[ndarray, " n"]) -> float:
    """Tell how many unrelated pictures groups are worth, never fewer than if each group were one picture."""
    _, number = np.unique(groups, return_inverse=True)
    sizes = np.bincount(number).astype(float)
    n, accuracy = len(correct), correct.mean()
    fewest = float(n**2 / (sizes**2).sum())
    if accuracy in (0, 1) or len(sizes) == 1:
        return fewest  # nothing shows whether they err together
    surplus = np.bincount(number, weights=correct - accuracy)
    variance = len(sizes) / (len(sizes) - 1) * (surplus**2).sum() / n**2
    return float(
        np.clip(accuracy * (1 - accuracy) / variance, fewest, n) * (Z_95 / _students_point(len(sizes) - 1)) ** 2
    )
