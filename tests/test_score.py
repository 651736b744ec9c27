import numpy as np
import pytest
import sklearn.metrics
from sklearn.dummy import DummyClassifier

from imprint.score import score


def test_scores_are_scikit_learns(predictions):
    probabilities, labels = predictions
    result = score(probabilities, labels, ("a", "b", "c", "d"), probabilities.max(1) < 0.5)
    predicted = probabilities.argmax(1)
    assert result.images == 500
    assert result.accuracy == sklearn.metrics.accuracy_score(labels, predicted)
    assert result.log_loss == pytest.approx(sklearn.metrics.log_loss(labels, probabilities), rel=1e-4)
    assert result.confusion == sklearn.metrics.confusion_matrix(labels, predicted).tolist()
    dummy = DummyClassifier(strategy="most_frequent").fit(probabilities, labels)
    assert result.baseline == dummy.score(probabilities, labels)
    for key, value in result.macro.items():
        one = getattr(sklearn.metrics, f"{key}_score")
        assert value == pytest.approx(one(labels, predicted, average="macro"))
    assert list(result.per_class) == ["a", "b", "c", "d"]
    assert result.top_5 is None
    sure = probabilities.max(1) >= 0.5
    assert result.unsure["share"] == pytest.approx(1 - sure.mean())
    assert result.unsure["accuracy_when_sure"] == (predicted == labels)[sure].mean()


def test_a_class_without_pictures_does_not_count_in_the_mean():
    result = score(np.eye(3, dtype=np.float32)[:2], np.array([0, 1]), ("a", "b", "c"), np.array([False, False]))
    assert result.macro == {"precision": 1.0, "recall": 1.0, "f1": 1.0}


def test_nobody_left_when_all_are_unsure():
    result = score(np.eye(2, dtype=np.float32), np.array([0, 1]), ("a", "b"), np.array([True, True]))
    assert result.unsure == {"share": 1.0, "accuracy_when_sure": None}


def test_many_classes_have_a_score_of_the_five_likeliest():
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(12), size=200).astype(np.float32)
    labels = generator.integers(12, size=200)
    result = score(probabilities, labels, tuple("abcdefghijkl"), np.zeros(200, bool))
    assert result.top_5 == sklearn.metrics.top_k_accuracy_score(labels, probabilities, k=5)
