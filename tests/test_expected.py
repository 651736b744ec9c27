import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.naive_bayes import GaussianNB

from imprint.expected import expected_accuracy


def share_holding(truth, draws):
    return np.mean([low <= truth <= high for low, high in (one.interval for one in draws)])


@pytest.fixture(scope="module")
def right(digits):
    """Whether a fast classifier, taught 300 digits, names each of the others rightly."""
    pixels = digits.pixels.reshape(len(digits), -1)
    return (
        GaussianNB(var_smoothing=0.1).fit(pixels[:300], digits.labels[:300]).predict(pixels[300:])
        == digits.labels[300:]
    )


@pytest.mark.parametrize("held_out", [50, 150, 600])
def test_the_interval_holds_the_truth_in_95_of_100_repeats(right, held_out):
    generator = np.random.default_rng(0)
    draws = [expected_accuracy(generator.choice(right, held_out)) for _ in range(3000)]
    assert 0.935 < share_holding(right.mean(), draws) < 0.97
    assert np.mean([one.accuracy for one in draws]) == pytest.approx(right.mean(), abs=0.002)


def test_pictures_without_groups_have_wilsons_interval():
    expected = expected_accuracy(np.arange(1000) >= 6)
    wilson = binomtest(994, 1000).proportion_ci(0.95, method="wilson")
    assert expected.interval == pytest.approx((wilson.low, wilson.high), abs=1e-9)
    assert (expected.images, expected.effective, expected.tries) == (1000, 1000.0, 1)


def in_groups(generator, groups, size):
    """Photos of persons, some of whom the model finds hard: right with a chance of 0.9 on average."""
    chance = generator.beta(9, 1, groups)
    number = np.repeat(np.arange(groups), size)
    return generator.random(groups * size) < chance[number], number


def test_groups_that_err_together_count_as_fewer():
    generator = np.random.default_rng(0)
    drawn = [in_groups(generator, 40, 15) for _ in range(2000)]
    together = [expected_accuracy(correct, number) for correct, number in drawn]
    assert 0.92 < share_holding(0.9, together) < 0.98
    assert share_holding(0.9, [expected_accuracy(correct) for correct, _ in drawn]) < 0.85
    assert 100 < np.median([one.effective for one in together]) < 400
    assert "worth" in str(together[0])


def test_groups_that_do_not_matter_cost_little():
    generator = np.random.default_rng(0)
    correct, number = generator.random(2000) < 0.9, np.repeat(np.arange(1000), 2)
    assert expected_accuracy(correct, number).effective > 1700


def test_one_group_is_one_picture():
    assert expected_accuracy(np.ones(50, dtype=bool), np.zeros(50)).interval[0] < 0.3


def test_the_best_of_several_epochs_has_a_wider_interval():
    generator = np.random.default_rng(0)
    truth, tries, draws = 0.95, 20, []
    for _ in range(2000):  # epochs that are all equally good: the best looks better than it is
        epochs = generator.random((tries, 200)) < truth
        draws.append(epochs[epochs.sum(axis=1).argmax()])
    assert share_holding(truth, [expected_accuracy(best) for best in draws]) < 0.9
    widened = [expected_accuracy(best, tries=tries) for best in draws]
    assert share_holding(truth, widened) > 0.95
    assert "the best of 20 epochs" in str(widened[0])
