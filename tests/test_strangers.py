from dataclasses import replace

import numpy as np
import pytest

from imprint.recipes import RECIPES
from imprint.strangers import FORMS, forms_for, guard_classes, make_strangers

RECIPE = replace(RECIPES["quick"], mirror="no")
TURN_BACK = {
    "turned left": lambda pixels: np.rot90(pixels, -1, axes=(1, 2)),
    "turned right": lambda pixels: np.rot90(pixels, 1, axes=(1, 2)),
    "upside down": lambda pixels: np.rot90(pixels, 2, axes=(1, 2)),
    "mirrored": lambda pixels: np.flip(pixels, 2),
}


@pytest.fixture(scope="module")
def strangers(digits):
    return make_strangers(digits, np.arange(len(digits)), RECIPE)


def test_half_stay_as_they_are_and_the_others_are_turned_as_their_class_says(digits, strangers):
    counts = np.bincount(strangers.labels // 10, minlength=6) / len(strangers)
    assert counts[0] == pytest.approx(0.5, abs=0.05)
    assert counts[1:] == pytest.approx(0.1, abs=0.03)
    where = {source: place for place, source in enumerate(digits.sources)}
    for made, label, source in zip(strangers.pixels, strangers.labels, strangers.sources, strict=True):
        form, known = divmod(label, 10)
        if form <= len(FORMS):
            back = TURN_BACK[list(FORMS)[form - 1]](made) if form else made
            assert np.array_equal(back, digits.pixels[where[source]])
            assert known == digits.labels[where[source]]


def test_halves_are_of_two_classes(digits, strangers):
    where = {source: place for place, source in enumerate(digits.sources)}
    for place in np.flatnonzero(strangers.labels == 50):
        made, of = strangers.pixels[place], where[strangers.sources[place]]
        others = digits.pixels[digits.labels != digits.labels[of]]
        joined = []
        for turn in (0, 1):  # cut across, or along; where exactly, chance decides
            some = (digits.pixels[of], made, others)
            own, made_so, others_so = (np.swapaxes(one, -1, -2) if turn else one for one in some)
            of_another = (others_so[:, :, :3] == made_so[:, :3]).all(axis=(1, 2, 3)).any()
            joined.append(of_another and np.array_equal(made_so[:, 5:], own[:, 5:]))
        assert any(joined)


def test_the_pictures_themselves_are_left_alone_and_the_seed_decides(digits):
    before = digits.pixels.copy()
    first, again = (make_strangers(digits, np.arange(100, 300), RECIPE) for _ in range(2))
    assert np.array_equal(digits.pixels, before)
    assert np.array_equal(first.pixels, again.pixels)
    assert len(first) == 200
    other = make_strangers(digits, np.arange(100, 300), replace(RECIPE, seed=8))
    assert not np.array_equal(first.labels, other.labels)


def test_too_many_pictures_are_left_out(digits, monkeypatch):
    monkeypatch.setattr("imprint.strangers.LARGEST", 64 * 50)
    assert len(make_strangers(digits, np.arange(1000), RECIPE)) == 50


TURNED = {"turned left", "turned right"}


@pytest.mark.parametrize(
    ("settings", "size", "missing"),
    [
        ({}, (8, 8), set()),
        ({}, (8, 9), TURNED),
        ({"mirror": "yes"}, (8, 8), {"mirrored"}),
        ({"rotation": 89.0}, (8, 8), set()),
        ({"rotation": 90.0}, (8, 8), TURNED),
        ({"rotation": 180.0}, (8, 8), {*TURNED, "upside down"}),
        ({"rotation": 180.0, "mirror": "yes"}, (8, 8), set(FORMS)),
    ],
)
def test_what_is_no_stranger_is_left_out(digits, settings, size, missing):
    recipe = replace(RECIPE, **settings)
    assert set(FORMS) - set(forms_for(recipe, size)) == missing
    assert guard_classes(recipe, size, 7) == 7 * (5 - len(missing)) + 1
    if size == (8, 8):
        made = make_strangers(digits, np.arange(len(digits)), recipe)
        assert len(np.unique(made.labels)) == guard_classes(recipe, size, 10)
