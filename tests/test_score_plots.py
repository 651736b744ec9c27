import dataclasses

import numpy as np
import pytest
from PIL import Image

from imprint import LabelledImages
from imprint.answers import answers_to
from imprint.drawing import to_svg
from imprint.score_plots import (
    class_plot,
    confusion_plot,
    coverage_plot,
    mistakes_plot,
    reliability_plot,
    save_score_plots,
)

LONG = "a very long name of a class that has no end and still goes on"
CASES = {
    "two pictures": (2, ("cat", "dog"), 1.0),
    "long names": (60, tuple(f"{LONG} {i}" for i in range(4)), 3.0),
    "odd names": (40, ("$x", "<b>", "%", "\\", "{}"), 3.0),
    "many classes": (2000, tuple(f"class {i}" for i in range(120)), 7.0),
    "no mistake": (50, ("0", "1"), 100.0),
}


def answered(count, names, skill, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, len(names), count)
    logits = random.normal(size=(count, len(names)))
    logits[np.arange(count), labels] += skill
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return answers_to(probabilities, labels, names, probabilities.max(axis=1) < 0.4)


@pytest.mark.parametrize("case", CASES)
def test_every_plot(case):
    answers = answered(*CASES[case])
    for plot in (confusion_plot, reliability_plot, coverage_plot, class_plot):
        drawn = to_svg(plot(answers), "one", "")
        assert 2_000 < len(drawn) < 120_000


def test_confusion_holds_the_counts():
    answers = answered(300, ("a", "b", "c"), 2.0)
    shown = [text.get_text() for text in confusion_plot(answers).axes[0].texts]
    assert sorted(map(int, shown)) == sorted(answers.confusion()[answers.confusion() > 0].tolist())


def test_reliability_is_scikit_learns():
    from sklearn.calibration import calibration_curve

    answers = answered(3000, ("a", "b"), 1.0)
    points = reliability_plot(answers).axes[0].lines[1]
    right, mean = calibration_curve(answers.correct, answers.confidence, n_bins=15)
    assert np.allclose(points.get_ydata(), right)
    assert np.allclose(points.get_xdata(), mean, atol=1e-6)


def test_coverage_ends_at_the_accuracy_and_shows_the_limit_of_unsure():
    answers = answered(500, ("a", "b", "c"), 2.0)
    curve, point = coverage_plot(answers).axes[0].lines
    assert curve.get_ydata()[-1] == answers.correct.mean()
    sure = ~answers.unsure
    assert (point.get_xdata()[0], point.get_ydata()[0]) == (sure.mean(), answers.correct[sure].mean())


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 40, 60), (1, 20, 400)])
def test_mistakes_of_any_form(shape, tmp_path):
    answers = answered(80, ("a", LONG, "c"), 1.0)
    pixels = np.random.default_rng(0).integers(0, 256, (80, *shape), dtype=np.uint8)
    images = LabelledImages(pixels, answers.labels, answers.class_names, np.arange(80))
    paths = save_score_plots(answers, images, tmp_path)
    for path in paths:
        with Image.open(path) as drawn:
            assert max(drawn.size) < 2_000
    axes = mistakes_plot(answers, images).axes[0]
    worst = answers.worst()[0]
    assert np.array_equal(
        axes.images[0].get_array(), pixels[worst, 0] if shape[0] == 1 else pixels[worst].transpose(1, 2, 0)
    )
    assert axes.get_title().splitlines()[2] == f"{100 * answers.confidence[worst]:.1f} % sure"


def test_one_mistake_and_none():
    answers = answered(60, ("a", "b"), 3.0)
    images = LabelledImages(np.zeros((60, 1, 8, 8), dtype=np.uint8), answers.labels, ("a", "b"), np.arange(60))
    one = [*np.flatnonzero(answers.correct)[:5], answers.worst()[0]]
    fields = [field.name for field in dataclasses.fields(answers) if field.name != "class_names"]
    few = dataclasses.replace(answers, **{name: getattr(answers, name)[one] for name in fields})
    assert sum(bool(axes.images) for axes in mistakes_plot(few, images[one]).axes) == 1
    none = dataclasses.replace(few, **{name: getattr(few, name)[:5] for name in fields})
    assert mistakes_plot(none, images[one[:5]]).axes[0].texts[0].get_text() == "no mistakes"
