from dataclasses import replace
from itertools import product

import numpy as np
import pytest

import imprint
from imprint import DataError
from imprint.analysis.orientation import ORIENTATIONS, Orientation, find_better_orientation

UNDONE_BY = {
    "turned by 90° clockwise": "turned by 90° anticlockwise",
    "turned by 90° anticlockwise": "turned by 90° clockwise",
}


def changed(images, orientation):
    return replace(images, pixels=orientation.apply(images.pixels))


@pytest.mark.parametrize(("key", "inverted"), [*product(ORIENTATIONS, (False, True))][1:])
def test_every_orientation_is_recognised(model, digits, key, inverted):
    images = digits[900:1100]
    better = find_better_orientation(model, changed(images, Orientation(*key, inverted)))
    name = ORIENTATIONS[key]
    expected = [UNDONE_BY.get(name, name)] * bool(name) + ["inverted"] * inverted
    assert str(better.orientation) == " and ".join(expected)
    assert better.accuracy > 0.9 > 0.5 > better.before
    assert better.images == 168
    assert f"much better {better.orientation}: accuracy {better.accuracy:.4f} instead of {better.before:.4f}" in str(
        better
    )


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("key", ORIENTATIONS)
def test_the_expression_does_the_same(key, inverted):
    pixels = np.arange(48, dtype=np.uint8).reshape(2, 2, 3, 4)
    orientation = Orientation(*key, inverted)
    assert (eval(orientation.expression()) == orientation.apply(pixels)).all()


def test_turning_means_what_it_says():
    pixels = np.arange(12, dtype=np.uint8).reshape(1, 1, 3, 4)
    turns = {"turned by 90° clockwise": -1, "turned by 180°": 2, "turned by 90° anticlockwise": 1}
    found = {name: Orientation(*key, False).apply(pixels) for key, name in ORIENTATIONS.items()}
    assert all((found[name] == np.rot90(pixels, count, (2, 3))).all() for name, count in turns.items())
    assert (found["mirrored left to right"][0, 0] == np.fliplr(pixels[0, 0])).all()
    assert (found["mirrored top to bottom"][0, 0] == np.flipud(pixels[0, 0])).all()


def test_evaluate_notes_it_and_says_nothing_of_images_that_are_right(model, digits):
    assert imprint.evaluate(model, digits).notes == ()
    [note] = imprint.evaluate(model, changed(digits[900:1100], Orientation(True, False, False, False))).notes
    assert "pixels.swapaxes(2, 3)" in note


def test_a_weak_model_or_wrong_labels_do_not_raise_it(model, digits):
    weak = imprint.train(digits[:900], "quick", epochs=1, min_steps=2, verbose=False).model
    assert imprint.evaluate(weak, digits[900:]).accuracy < 0.8
    assert find_better_orientation(weak, digits[900:]) is None
    shuffled = replace(digits, labels=np.random.default_rng(0).permutation(digits.labels))
    assert find_better_orientation(model, shuffled) is None


def test_few_images_tell_nothing_and_labels_are_needed(model, digits):
    assert find_better_orientation(model, changed(digits[:29], Orientation(True, False, False, False))) is None
    with pytest.raises(DataError, match="labels"):
        find_better_orientation(model, replace(digits, labels=None, class_names=()))
