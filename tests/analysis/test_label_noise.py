import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from imprint.analysis.label_noise import likely_errors


def judged(images, labels, pixels=slice(None), folds=5):
    """Let cross-validated regression judge labels by some of the pixels."""
    rows = images.pixels.reshape(len(images), -1)[:, pixels] / 255
    return cross_val_predict(LogisticRegression(C=1.0), rows, labels, cv=folds, method="predict_proba")


def planted(labels, share, seed=1):
    random = np.random.default_rng(seed)
    wrong = random.choice(len(labels), round(share * len(labels)), replace=False)
    labels = labels.copy()
    labels[wrong] = (labels[wrong] + random.integers(1, 10, len(wrong))) % 10
    return labels, wrong


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_planted_labels_are_listed_and_the_list_says_how_far_it_can_be_trusted(digits, share):
    labels, wrong = planted(digits.labels, share)
    errors = likely_errors(labels, judged(digits, labels))
    hit = np.isin(errors.positions, wrong)
    assert hit.mean() > 0.7
    assert hit.sum() > 0.7 * len(wrong)
    assert errors.precision == pytest.approx(hit.mean(), abs=0.15)
    assert errors.recall == pytest.approx(hit.sum() / len(wrong), abs=0.1)
    assert errors.recall_alike <= errors.recall
    assert errors.rate == pytest.approx(share, abs=0.3 * share)
    assert (np.diff(errors.scores) <= 0).all()


@pytest.mark.parametrize("pixels", [slice(0, 24), slice(40, 64)])
def test_the_errors_of_judges_are_not_blamed_on_the_labels(digits, pixels):
    half_blind = judged(digits, digits.labels, pixels)
    assert (half_blind.argmax(axis=1) != digits.labels).mean() > 0.25
    assert len(likely_errors(digits.labels, half_blind).positions) < 0.01 * len(digits)


def test_right_labels_are_hardly_listed(digits):
    assert len(likely_errors(digits.labels, judged(digits, digits.labels)).positions) <= 4


def test_judges_that_know_nothing_list_nothing(digits):
    labels, _ = planted(digits.labels, 0.1)
    errors = likely_errors(labels, judged(digits, labels, pixels=slice(0, 1)))
    assert not len(errors.positions)
    assert errors.recall < 0.1


def test_two_classes(digits):
    two = digits[np.flatnonzero(np.isin(digits.labels, (4, 9)))]
    labels = (two.labels == 9).astype(np.int64)
    wrong = np.arange(0, len(labels), 20)
    labels[wrong] = 1 - labels[wrong]
    errors = likely_errors(labels, judged(two, labels))
    assert len(set(errors.positions) & set(wrong)) > 0.7 * max(len(wrong), len(errors.positions))


def test_judges_that_are_equally_sure_where_they_err_are_not_believed():
    given = np.array([1, 1, 1, *[0] * 97, *[1] * 100])
    assert not len(likely_errors(given, np.eye(2)[[0] * 100 + [1] * 100]).positions)
