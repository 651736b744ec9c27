import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from imprint import DataError, UsageError, load


def test_bundled_digits_are_scikit_learns():
    bunch, images = load_digits(), load("digits")
    assert np.array_equal(images.labels, bunch.target)
    assert np.abs(images.pixels[:, 0] - bunch.images * 255 / 16).max() <= 0.5
    assert images.sources[0] == "digits#1"


@pytest.mark.parametrize(
    ("name", "words"),
    [("missing.csv", "No such file"), ("", "no images in it"), ("notes.txt", "neither the name nor")],
)
def test_refused_in_one_line(tmp_path, name, words):
    (tmp_path / "notes.txt").write_text("label,pixel0\n")
    with pytest.raises(DataError, match=words):
        load(tmp_path / name)


def test_an_empty_name_is_not_the_folder_one_works_in(monkeypatch, tmp_path, digits):
    Image.fromarray(digits.pixels[0, 0]).save(tmp_path / "0.png")
    monkeypatch.chdir(tmp_path)
    assert len(load(".")) == 1
    with pytest.raises(DataError, match="data at '': the name is empty"):
        load("")


def test_a_zero_byte_in_a_name_is_refused():
    with pytest.raises(DataError, match="no name of a file holds a zero byte"):
        load("a\0b")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"side": 0}, "side=0 at load: images have one pixel"),
        ({"side": -3}, "side=-3"),
        ({"allow_bad": 20.0}, "allow_bad=20.0 at load: a share lies from 0 to 1"),
        ({"allow_bad": float("nan")}, "allow_bad=nan"),
    ],
)
def test_options_that_mean_nothing_are_refused(option, words):
    with pytest.raises(UsageError, match=words):
        load("digits", **option)
