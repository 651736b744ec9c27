import numpy as np
import pytest
import sklearn.metrics
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest

from imprint.core import metrics


@pytest.mark.parametrize(("hits", "count"), [(0, 1), (1, 1), (3, 7), (994, 1000), (27_832, 28_000), (28_000, 28_000)])
def test_interval_is_scipys_wilson(hits, count):
    expected = binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert metrics.wilson_interval(hits, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_calibration_error_is_the_weighted_gap_of_its_bins(predictions):
    probabilities, labels = predictions
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    expected = 0.0
    for i in range(15):
        inside = (confidence >= i / 15) & (confidence < (i + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert metrics.calibration_error(confidence, correct) == pytest.approx(expected, abs=1e-6)


def test_a_perfectly_sure_mistake_costs_a_finite_loss():
    assert metrics.log_loss(np.array([[1.0, 0.0]], dtype=np.float32), np.array([1])) == pytest.approx(15.94, abs=0.01)


def test_brier_loss_is_the_squared_distance_from_the_truth(predictions):
    probabilities, labels = predictions
    expected = np.square(probabilities - np.eye(4)[labels]).sum(axis=1).mean()
    assert metrics.brier_loss(probabilities, labels) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_top_k_is_scikit_learns(predictions, k):
    probabilities, labels = predictions
    expected = 1.0 if k == 4 else sklearn.metrics.top_k_accuracy_score(labels, probabilities, k=k)
    assert metrics.top_k_score(probabilities, labels, k) == expected


def test_class_scores_are_scikit_learns(predictions):
    probabilities, labels = predictions
    predicted = np.minimum(probabilities.argmax(1), 2)  # the last class is never predicted
    found = metrics.class_scores(metrics.confusion(labels, predicted, 4))
    expected = sklearn.metrics.precision_recall_fscore_support(labels, predicted, zero_division=0)
    for key, column in zip(("precision", "recall", "f1", "images"), expected, strict=True):
        assert [scores[key] for scores in found] == pytest.approx(column.tolist())


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 5), (5, 0), (7, 12), (1, 1), (4000, 4300)])
def test_mcnemar_is_a_fair_coin(first, second):
    flips = np.random.default_rng(0).binomial(first + second, 0.5, size=200_000)
    as_uneven = np.abs(flips - (first + second) / 2) >= abs(first - second) / 2
    assert metrics.mcnemar(first, second) == pytest.approx(as_uneven.mean(), abs=0.005)


def test_difference_interval_covers_the_truth_in_95_of_100():
    generator = np.random.default_rng(0)
    draws = generator.multinomial(300, [0.05, 0.02, 0.93], size=4000)  # only first, only second, no difference
    intervals = [metrics.difference_interval(first, second, 300) for first, second, _ in draws.tolist()]
    covered = np.mean([low <= 0.03 <= high for low, high in intervals])
    assert 0.94 < covered < 0.97


@pytest.mark.parametrize("true_temperature", [0.3, 1.0, 3.0])
def test_temperature_minimises_the_log_loss(true_temperature):
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(20_000, 5)) * 2
    truth, stated = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (logits, logits * true_temperature))
    labels = (truth.cumsum(axis=1) < generator.random((20_000, 1))).sum(axis=1)
    stated = stated.astype(np.float32)
    found = metrics.fit_temperature(stated, labels)
    assert found == pytest.approx(true_temperature, rel=0.05)
    least = minimize_scalar(
        lambda t: metrics.log_loss(metrics.tempered(stated, t), labels), bounds=(0.1, 10), method="bounded"
    )
    assert found == pytest.approx(least.x, rel=0.01)


def test_a_few_faultless_images_prove_no_certainty():
    faultless = np.full((10, 2), 0.1, dtype=np.float32)
    faultless[:, 0] = 0.9
    temperature = metrics.fit_temperature(faultless, np.zeros(10, dtype=np.int64))
    assert metrics.tempered(faultless, temperature).max() < 0.98


@pytest.mark.parametrize("count", [1, 6, 20, 60, 300])
@pytest.mark.parametrize("stated", [0.6, 0.9, 0.999])
def test_calibration_on_few_images_is_never_worse_than_none(count, stated):
    # A model that is right in 97 of 100 with a confidence of `stated` in each: underconfident, or overconfident.
    generator = np.random.default_rng(0)
    probabilities = np.tile(np.array([[stated, 1 - stated]], dtype=np.float32), (count, 1))
    for _ in range(20):
        labels = (generator.random(count) > 0.97).astype(np.int64)
        temperature = metrics.fit_temperature(probabilities, labels)
        assert 0.1 <= temperature <= 10
        confidence = float(metrics.tempered(probabilities[:1], temperature)[0, 0])
        wrong = (labels == 1).mean()
        assert min(stated, 1 - wrong) - 1e-3 <= confidence <= max(stated, 1 - wrong) + 1e-3
        if not wrong:
            assert confidence < 1 - (1 - stated) * 10 / (10 + count) * 0.9  # a few faultless images prove little


def test_temperature_changes_no_prediction(predictions):
    probabilities, _ = predictions
    for temperature in (0.1, 10.0):
        changed = metrics.tempered(probabilities, temperature)
        assert np.array_equal(changed.argmax(1), probabilities.argmax(1))
        assert np.abs(changed.sum(1) - 1).max() < 1e-6
    assert np.allclose(metrics.tempered(probabilities, 1.0), probabilities, atol=1e-7)
