import json
import math

import numpy as np
import pytest

from imprint import RECIPES
from imprint.schedule import OneCycle, Plateau

LESSON = RECIPES["tutorial"]


def keras_plateau(accuracies, rate=1e-3):
    """Keras's ReduceLROnPlateau with mode max, factor 0.5, patience 3, min_delta 1e-4, min_lr 1e-5, restated."""
    best, wait, rates = -math.inf, 0, []
    for accuracy in accuracies:
        if accuracy > best + 1e-4:
            best, wait = accuracy, 0
        else:
            wait += 1
            if wait >= 3:
                if rate > 1e-5:
                    rate = max(rate * 0.5, 1e-5)
                wait = 0
        rates.append(rate)
    return rates


@pytest.mark.parametrize("seed", range(20))
def test_plateau_is_kerass(seed):
    generator = np.random.default_rng(seed)
    accuracies = (0.99 + np.cumsum(generator.normal(scale=2e-4, size=80)) / 5).tolist()
    schedule = Plateau(LESSON)
    rates = []
    for accuracy in accuracies:
        schedule.end_epoch(accuracy)
        rates.append(schedule.rate(1e-3, done=0))
    assert rates == pytest.approx(keras_plateau(accuracies))
    assert min(rates) >= 1e-5


def test_plateau_stops_at_the_floor():
    schedule = Plateau(LESSON)
    rates = []
    for _ in range(40):
        schedule.end_epoch(0.5)
        rates.append(schedule.rate(1e-3, done=0))
    assert rates[:4] == [1e-3, 1e-3, 1e-3, 5e-4]
    assert rates[-1] == 1e-5


def test_a_rise_within_min_delta_is_none():
    schedule = Plateau(LESSON)
    for accuracy in (0.99, 0.99005, 0.99009, 0.9901):
        schedule.end_epoch(accuracy)
    assert schedule.rate(1e-3, done=0) == 5e-4


def test_one_cycle_rises_to_the_rate_and_falls_to_nothing():
    schedule = OneCycle(steps=100)
    rates = [schedule.rate(0.01, done) for done in range(100)]
    assert max(rates) == pytest.approx(0.01)
    assert rates[0] < 0.001
    assert rates[-1] < 2e-4
    assert rates.index(max(rates)) == 24


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5])
def test_one_cycle_of_few_steps(steps):
    assert all(0 < OneCycle(steps).rate(0.01, done) <= 0.01 for done in range(steps))


def test_a_schedule_goes_on_where_another_was():
    accuracies = [0.5, 0.6, 0.6, 0.6, 0.6, 0.7, 0.7, 0.7, 0.7]
    whole = Plateau(RECIPES["tutorial"])
    expected = []
    for accuracy in accuracies:
        whole.end_epoch(accuracy)
        expected.append(whole.rate(1e-3, 0))
    assert len(set(expected)) == 3
    for stop in range(len(accuracies)):
        first, second = Plateau(RECIPES["tutorial"]), Plateau(RECIPES["tutorial"])
        for accuracy in accuracies[:stop]:
            first.end_epoch(accuracy)
        second.go_on(*json.loads(json.dumps(first.state())))
        for accuracy, rate in zip(accuracies[stop:], expected[stop:], strict=True):
            second.end_epoch(accuracy)
            assert second.rate(1e-3, 0) == rate
    with pytest.raises(TypeError):
        OneCycle(steps=10).go_on(1.0)
    with pytest.raises(ValueError, match="unpack"):
        whole.go_on(1.0)
