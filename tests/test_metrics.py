import numpy as np
import pytest
import sklearn.metrics
from scipy.stats import binomtest
from sklearn.dummy import DummyClassifier

from imprint import metrics


@pytest.mark.parametrize(("hits", "count"), [(0, 1), (1, 1), (3, 7), (994, 1000), (27_832, 28_000), (28_000, 28_000)])
def test_interval_is_scipys_wilson(hits, count):
    expected = binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert metrics.wilson_interval(hits, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.fixture
def predictions():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(500, 4)) * 3
    probabilities = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)
    return probabilities, generator.choice(4, size=500, p=[0.5, 0.3, 0.1, 0.1])


def test_scores_are_scikit_learns(predictions):
    probabilities, labels = predictions
    result = metrics.score(probabilities, labels, ("a", "b", "c", "d"), probabilities.max(1) < 0.5)
    predicted = probabilities.argmax(1)
    assert result.images == 500
    assert result.accuracy == sklearn.metrics.accuracy_score(labels, predicted)
    assert result.log_loss == pytest.approx(sklearn.metrics.log_loss(labels, probabilities), rel=1e-4)
    assert result.confusion == sklearn.metrics.confusion_matrix(labels, predicted).tolist()
    dummy = DummyClassifier(strategy="most_frequent").fit(probabilities, labels)
    assert result.baseline == dummy.score(probabilities, labels)
    sure = probabilities.max(1) >= 0.5
    assert result.unsure["share"] == pytest.approx(1 - sure.mean())
    assert result.unsure["accuracy_when_sure"] == (predicted == labels)[sure].mean()


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


def test_nobody_left_when_all_are_unsure():
    result = metrics.score(np.eye(2, dtype=np.float32), np.array([0, 1]), ("a", "b"), np.array([True, True]))
    assert result.unsure == {"share": 1.0, "accuracy_when_sure": None}
