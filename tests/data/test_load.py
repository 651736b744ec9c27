import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from imprint import DataError, UsageError, load
from imprint.data.split import split


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


@pytest.mark.parametrize(("share", "seed"), [(0.08, 7), (0.2, 1), (0.333, 0)])
def test_split_is_scikit_learns(digits, share, seed):
    training, validation = (digits[side] for side in split(digits, share, seed))
    expected = train_test_split(np.arange(len(digits)), test_size=share, random_state=seed)
    assert np.array_equal(training.sources, digits.sources[expected[0]])
    assert np.array_equal(validation.sources, digits.sources[expected[1]])
    assert np.array_equal(validation.labels, digits.labels[expected[1]])


def test_nothing_held_out(digits):
    training, held_out = split(digits, 0.0, 7)
    assert np.array_equal(training, np.arange(len(digits)))
    assert len(held_out) == 0


def test_holding_out_everything_is_refused(digits):
    with pytest.raises(UsageError, match="none would be left"):
        split(digits[:3], 0.9, 7)
