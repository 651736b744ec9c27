import numpy as np
import pytest
from PIL import Image

from imprint import RECIPES, InputSpec
from imprint.report.plots import save_samples, training_versions


def read_png(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def dark_share(pixels):
    return (pixels < 128).mean()


def test_samples_show_the_images(digits, tmp_path):
    save_samples(digits, tmp_path / "five.png")
    five = read_png(tmp_path / "five.png")
    assert five.shape[1] > 3 * five.shape[0]  # one row of five
    assert 0.2 < dark_share(five) < 0.8
    save_samples(digits, tmp_path / "forty.png", count=40)
    assert read_png(tmp_path / "forty.png").shape[0] > five.shape[0]


def test_images_sorted_by_class_show_one_of_each(digits, tmp_path):
    by_class = digits[np.argsort(digits.labels, kind="stable")]
    firsts = [np.flatnonzero(digits.labels == label)[0] for label in range(5)]
    save_samples(by_class, tmp_path / "sorted.png")
    save_samples(digits[firsts], tmp_path / "firsts.png")
    assert (read_png(tmp_path / "sorted.png") == read_png(tmp_path / "firsts.png")).all()


@pytest.mark.parametrize("count", [1, 3, 7, 12])
def test_any_number_of_samples(digits, tmp_path, count):
    save_samples(digits[:count], tmp_path / "some.png", count=40)
    assert read_png(tmp_path / "some.png").size


def test_awkward_labels(digits, tmp_path):
    names = ("$x", "a_very_long_name_that_has_no_end", "<b>", "日本", "%", "{}", "\\", "7", "8", "9")
    save_samples(
        type(digits)(digits.pixels, digits.labels, names[:3] + names[4:] + ("z",), digits.sources), tmp_path / "a.png"
    )
    assert read_png(tmp_path / "a.png").size


def test_training_versions_are_the_same_at_every_call(digits):
    spec = InputSpec(1, image_size=(8, 8), input_size=(28, 28))
    versions = training_versions(digits.pixels[:3], spec, RECIPES["quick"])
    assert versions.shape == (3, 5, 1, 28, 28)
    assert np.array_equal(versions, training_versions(digits.pixels[:3], spec, RECIPES["quick"]))
