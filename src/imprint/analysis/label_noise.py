"""How many labels are wrong, and which: a model of labels that are right as judges see it, or wrong by chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from numpy import ndarray

RATES = np.r_[0.0, np.geomspace(0.0005, 0.5, 43)]  # of wrong labels
SHARPNESS = np.geomspace(0.1, 10, 47)  # by which the logarithms of the judges' probabilities are multiplied
# The rate taken is the lowest whose likelihood is within this of the best one's: one standard deviation below it.
WITHIN = 0.5
MIN_WRONG, SURE = 0.5, 0.8  # probability that a label is wrong; share of a list that is
ASSUMED_RATE = 0.02  # of wrong labels, to tell what judges would find where they find none
FLOOR, TINY = 1e-7, 1e-300  # of a judge's probability; against dividing by 0


@dataclass(frozen=True, eq=False)
class LikelyErrors:
    """Positions of labels that are probably wrong, the worst first, and how far the list can be trusted.

    By estimate, `rate` of all labels are wrong, and `precision` of those listed; each with a probability in `scores`.
    Of labels that are wrong by chance `recall` are listed, of those mistaken as the judges mistake them `recall_alike`;
    of an empty list they say what it would hold if `ASSUMED_RATE` of the labels were wrong.
    """

    positions: Int64[ndarray, " m"]
    scores: Float64[ndarray, " m"]
    rate: float
    precision: float
    recall: float
    recall_alike: float


def likely_errors(given: Int64[ndarray, " n"], probabilities: Float[ndarray, "n classes"]) -> LikelyErrors:
    """List the labels that are probably wrong; none where the judges are too weak to tell.

    Listed is what is wrong with a probability of at least one half, and more as long as four in five of the list are.
    `probabilities` are those of judges that were not fitted to the images they judge, of two classes or more.
    """
    rate, right = _fit_rate(given, probabilities)
    rows = np.arange(len(given))
    wrong = _probability_wrong(right, rate)
    scores = wrong[rows, given]
    # Every wrong label that an image could bear is planted: as none of the judges was fitted to the image that it
    # judges, they need not be fitted again to tell how many would be listed.
    planted = np.sort(np.delete(wrong.ravel(), rows * wrong.shape[1] + given))
    order = np.argsort(-scores, kind="stable")
    number = rows + 1
    recall = 1 - np.searchsorted(planted, scores[order]) / len(planted)
    # Two estimates, the one a little high and the other a little low on the collections tried (docs/log/doctor.md):
    # what the scores say, and how many wrong labels such a list holds if the cautious rate is the true one.
    precision = (np.cumsum(scores[order]) / number + np.minimum(rate * recall * len(given) / number, 1)) / 2
    sure = np.flatnonzero(precision >= SURE)
    count = max(int((scores > MIN_WRONG).sum()), int(sure[-1]) + 1 if len(sure) else 0)
    if not count or precision[count - 1] < MIN_WRONG:
        assumed = _probability_wrong(right, max(rate, ASSUMED_RATE))
        return LikelyErrors(order[:0], scores[:0], rate, 0.0, *_planted_recall(given, right, assumed > MIN_WRONG))
    found = order[:count]
    recalls = _planted_recall(given, right, wrong >= scores[found[-1]])
    return LikelyErrors(found, scores[found], rate, float(precision[count - 1]), *recalls)


def _planted_recall(
    given: Int64[ndarray, " n"], right: Float64[ndarray, "n classes"], listed: Bool[ndarray, "n classes"]
) -> tuple[float, float]:
    """Tell the share of planted wrong labels that are listed: planted by chance, and where classes look alike.

    Then as often as the judges see the one class in images of the other.
    """
    rows = np.arange(len(given))
    missed = ~listed
    missed[rows, given] = False
    mistaken = np.zeros((right.shape[1],) * 2)
    np.add.at(mistaken, given, right)
    np.fill_diagonal(mistaken, 0)
    mistaken /= mistaken.sum(axis=1, keepdims=True) + FLOOR
    by_chance = float(missed.sum() / (missed.size - len(given)))
    return 1 - by_chance, 1 - float((mistaken[given] * missed).sum() / len(given))


def _fit_rate(
    given: Int64[ndarray, " n"], probabilities: Float[ndarray, "n classes"]
) -> tuple[float, Float64[ndarray, "n classes"]]:
    """Estimate the rate of wrong labels, and calibrate what the judges think to be right, by maximum likelihood.

    A label is drawn from the calibrated probabilities, or, at that rate, from the other classes with equal chances: a
    lapse rate, as of psychometric curves (Wichmann and Hill, Perception & Psychophysics 63 (2001) 1293-1313).
    """
    # Judges err where they are unsure, and calibration says how often; labels that are wrong by chance contradict sure
    # judges as often as unsure ones. So the two are told apart without knowing a single right label.
    logits = np.log(probabilities.astype(np.float64) + FLOOR)
    likelihood = np.empty((len(RATES), len(SHARPNESS)))
    for column, sharpness in enumerate(SHARPNESS):
        right = _softmax(sharpness * logits)[np.arange(len(given)), given]
        wrong = (1 - right) / (probabilities.shape[1] - 1)
        for row, rate in enumerate(RATES):
            likelihood[row, column] = np.log((1 - rate) * right + rate * wrong + TINY).sum()
    row = int(np.flatnonzero(likelihood.max(axis=1) >= likelihood.max() - WITHIN)[0])
    return float(RATES[row]), _softmax(SHARPNESS[likelihood[row].argmax()] * logits)


def _probability_wrong(right: Float64[ndarray, "n classes"], rate: float) -> Float64[ndarray, "n classes"]:
    """Compute for each label that an image could bear the probability that it would be wrong, by Bayes' rule."""
    by_chance = rate * (1 - right) / (right.shape[1] - 1)
    return np.asarray(by_chance / (by_chance + (1 - rate) * right + TINY))


def _softmax(logits: Float64[ndarray, "n classes"]) -> Float64[ndarray, "n classes"]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
