import numpy as np
import pytest

import imprint
from imprint import DataError, UsageError
from imprint.analysis.evaluation import comparison, named_rightly


@pytest.fixture(scope="module")
def weak(digits):
    return imprint.train(digits[:900], "quick", epochs=1, min_steps=2, verbose=False).model


def test_compare_counts_where_only_one_model_is_right(model, weak, digits):
    result = imprint.compare(model, weak, digits[900:])
    first, second = (named_rightly(one, digits[900:]) for one in (model, weak))
    assert result.images == 897
    assert result.accuracy == (first.mean(), second.mean())
    assert result.difference == pytest.approx(first.mean() - second.mean())
    assert (result.only_first, result.only_second) == ((first & ~second).sum(), (second & ~first).sum())
    assert result.interval[0] < result.difference < result.interval[1]
    assert result.p_value < 1e-6
    assert result.verdict == "the first is better"
    assert imprint.compare(weak, model, digits[900:]).verdict == "the second is better"


def test_compare_reads_data_by_path(model, digits_csv):
    result = imprint.compare(model, model, digits_csv / "labelled.csv")
    assert (result.images, result.p_value, result.verdict) == (100, 1.0, "no difference beyond noise")
    assert result.accuracy == (imprint.evaluate(model, digits_csv / "labelled.csv").accuracy,) * 2


def test_a_comparison_by_hand():
    result = comparison(np.array([True, True, True]), np.array([True, False, False]))
    assert result.difference == pytest.approx(2 / 3)
    assert (result.only_first, result.only_second) == (2, 0)


def test_what_is_no_model_or_has_no_labels_is_refused(model, digits, digits_csv, unchecked):
    with pytest.raises(UsageError, match=r"model at compare: .* is no model\. Give imprint\.Classifier"):
        imprint.compare(model, digits, digits)
    with pytest.raises(DataError, match="labels"):
        imprint.compare(model, model, digits_csv / "test.csv")
