import dataclasses
import re
from importlib import resources

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from imprint import LabelledImages
from imprint.core.metrics import wilson_interval
from imprint.core.plot_style import BLUE, INK, ORANGE, to_svg
from imprint.core.scores import label_predictions
from imprint.report.score_plots import (
    MAX_OPACITY,
    class_plot,
    confusion_plot,
    coverage_plot,
    mistakes_plot,
    reliability_plot,
    save_score_plots,
)

LONG = "a very long name of a class that has no end and still goes on"
CASES = {
    "two images": (2, ("cat", "dog"), 1.0),
    "long names": (60, tuple(f"{LONG} {i}" for i in range(4)), 3.0),
    "odd names": (40, ("$x", "<b>", "%", "\\", "{}"), 3.0),
    "many classes": (2000, tuple(f"class {i}" for i in range(120)), 7.0),
    "no mistake": (50, ("0", "1"), 100.0),
}


def predicted(count, names, skill, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, len(names), count)
    logits = random.normal(size=(count, len(names)))
    logits[np.arange(count), labels] += skill
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return label_predictions(probabilities, labels, names, np.where(probabilities.max(axis=1) < 0.4, "strange", ""))


@pytest.mark.parametrize("case", CASES)
def test_every_plot(case):
    labelled = predicted(*CASES[case])
    for plot in (confusion_plot, reliability_plot, coverage_plot, class_plot):
        drawn = to_svg(plot(labelled), "one", "")
        assert 2_000 < len(drawn) < 120_000


def test_confusion_holds_the_counts():
    labelled = predicted(300, ("a", "b", "c"), 2.0)
    shown = [text.get_text() for text in confusion_plot(labelled).axes[0].texts]
    assert sorted(map(int, shown)) == sorted(labelled.confusion()[labelled.confusion() > 0].tolist())


def test_numbers_on_the_confusion_matrix_have_enough_contrast_in_light_and_dark():
    """WCAG 1.4.3: 4.5 to 1 between a number and its cell, with the page's ink and ground."""
    style = resources.files("imprint").joinpath("report/templates/base.html").read_text(encoding="utf-8")
    pages = [dict(re.findall(r"--(\w+): (#\w+)", part)) for part in style.split("@media")[:2]]
    cells = [(BLUE, MAX_OPACITY), (ORANGE, MAX_OPACITY), (ORANGE, 0.1)]
    for page in pages:
        ink, ground = (np.array(to_rgb(page[name])) for name in ("ink", "ground"))
        for colour, opacity in cells:
            assert contrast(ink, opacity * np.array(to_rgb(colour)) + (1 - opacity) * ground) >= 4.5
        for name in ("ink", "soft", "blue", "orange", "green", "bad"):
            for behind in ("ground", "card"):
                if page.get(name, "").startswith("#"):
                    assert contrast(*(np.array(to_rgb(page[one])) for one in (name, behind))) >= 4.5
    drawn = confusion_plot(predicted(300, ("a", "b", "c"), 2.0)).axes[0]
    assert drawn.images[0].get_array()[..., 3].max() <= MAX_OPACITY
    assert {text.get_color() for text in drawn.texts} == {INK}


def contrast(one, other):
    """WCAG's ratio of two colours: www.w3.org/TR/WCAG22/#dfn-contrast-ratio."""
    linear = [np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for c in (one, other)]
    dark, light = sorted(float(c @ (0.2126, 0.7152, 0.0722)) for c in linear)
    return (light + 0.05) / (dark + 0.05)


def test_classes_without_images_are_not_called_the_hardest():
    labelled = predicted(20, tuple("abc"), 3.0)
    labelled = dataclasses.replace(labelled, class_names=(*labelled.class_names, "never met"))
    names = [label.get_text() for label in class_plot(labelled).axes[0].get_yticklabels()]
    assert len(names) == 3
    assert not any("never" in name for name in names)


def test_the_interval_of_a_perfect_model_is_drawn_whole():
    labelled = predicted(*CASES["no mistake"])
    lowest, _ = wilson_interval(50, 50)
    assert coverage_plot(labelled).axes[0].get_ylim()[0] < lowest


def test_reliability_is_scikit_learns():
    from sklearn.calibration import calibration_curve

    labelled = predicted(3000, ("a", "b"), 1.0)
    points = reliability_plot(labelled).axes[0].lines[1]
    right, mean = calibration_curve(labelled.correct, labelled.confidence, n_bins=15)
    assert np.allclose(points.get_ydata(), right)
    assert np.allclose(points.get_xdata(), mean, atol=1e-6)


def test_coverage_ends_at_the_accuracy_and_shows_the_limit_of_unsure():
    labelled = predicted(500, ("a", "b", "c"), 2.0)
    curve, point = coverage_plot(labelled).axes[0].lines
    assert curve.get_ydata()[-1] == labelled.correct.mean()
    sure = ~labelled.unsure
    assert (point.get_xdata()[0], point.get_ydata()[0]) == (sure.mean(), labelled.correct[sure].mean())


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 40, 60), (1, 20, 400)])
def test_mistakes_of_any_shape(shape, tmp_path):
    labelled = predicted(80, ("a", LONG, "c"), 1.0)
    pixels = np.random.default_rng(0).integers(0, 256, (80, *shape), dtype=np.uint8)
    images = LabelledImages(pixels, labelled.labels, labelled.class_names, np.arange(80))
    paths = save_score_plots(labelled, images, tmp_path)
    for path in paths:
        with Image.open(path) as drawn:
            assert max(drawn.size) < 2_000
    axes = mistakes_plot(labelled, images).axes[0]
    worst = labelled.worst()[0]
    assert np.array_equal(
        axes.images[0].get_array(), pixels[worst, 0] if shape[0] == 1 else pixels[worst].transpose(1, 2, 0)
    )
    assert axes.get_title().splitlines()[2] == f"{100 * labelled.confidence[worst]:.1f} % sure"


def test_one_mistake_and_none():
    labelled = predicted(60, ("a", "b"), 3.0)
    images = LabelledImages(np.zeros((60, 1, 8, 8), dtype=np.uint8), labelled.labels, ("a", "b"), np.arange(60))
    one = [*np.flatnonzero(labelled.correct)[:5], labelled.worst()[0]]
    fields = [field.name for field in dataclasses.fields(labelled) if field.name != "class_names"]
    few = dataclasses.replace(labelled, **{name: getattr(labelled, name)[one] for name in fields})
    assert sum(bool(axes.images) for axes in mistakes_plot(few, images[one]).axes) == 1
    none = dataclasses.replace(few, **{name: getattr(few, name)[:5] for name in fields})
    assert mistakes_plot(none, images[one[:5]]).axes[0].texts[0].get_text() == "no mistakes"
