import tracemalloc

import numpy as np
import pytest

import imprint
from imprint import DataError, UsageError
from imprint.analysis.evaluation import comparison, evaluate_each, named_rightly
from imprint.models import predictor


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


@pytest.fixture
def in_parts(monkeypatch):
    monkeypatch.setattr(predictor, "MOST_AT_ONCE", 256)


def test_in_parts_the_score_is_the_same(model, digits, in_parts, monkeypatch):
    in_parts = imprint.evaluate(model, digits)
    right = named_rightly(model, digits)
    said = model.predict(digits)
    monkeypatch.undo()
    whole = imprint.evaluate(model, digits)
    assert in_parts.confusion == whole.confusion
    for name in ("accuracy", "interval", "log_loss", "brier", "calibration_error"):
        assert getattr(in_parts, name) == pytest.approx(getattr(whole, name), rel=1e-5)
    assert in_parts.unsure == whole.unsure
    assert np.array_equal(right, named_rightly(model, digits))
    for name in ("probabilities", "uncertainty"):
        assert np.allclose(getattr(said, name), getattr(model.predict(digits), name), atol=1e-4)


class Guessing(predictor.Predictor):
    """Knows 256 classes, and says of each image the one that its first pixel is."""

    class_names = tuple(map(str, range(256)))
    spec = imprint.InputSpec.from_shape((1, 2, 2))
    unsure_above, unsure_below, label_header = 1.0, 0.0, "label"

    def _compute(self, pixels):
        probabilities = np.full((len(pixels), 256), 0.5 / 256, dtype=np.float32)
        probabilities[np.arange(len(pixels)), pixels[:, 0, 0, 0]] += 0.5
        return probabilities, np.zeros(len(pixels), dtype=np.float32)


def test_memory_grows_with_the_images_but_not_with_their_classes(in_parts, monkeypatch):
    monkeypatch.setattr(predictor, "FEWEST_AT_ONCE", 256)
    count = 40_000
    pixels = np.random.default_rng(0).integers(0, 256, (count, 1, 2, 2), np.uint8)
    labels = pixels[:, 0, 0, 0].astype(np.int64)
    images = imprint.LabelledImages(pixels, labels, Guessing.class_names, np.arange(1, count + 1))
    tracemalloc.start()
    try:
        result, each = evaluate_each(Guessing(), images)
        grown = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result.accuracy == result.top_5 == 1
    assert result.log_loss == pytest.approx(-np.log(0.5 + 0.5 / 256), rel=1e-4)
    assert (each.predicted == labels).all()
    assert grown < 400 * count  # all probabilities would take 1,024 bytes an image, and thrice that to be scored
