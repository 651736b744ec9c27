"""An OOD detector trained beside a network: what it finds, and what becomes of the model where it fails."""

from dataclasses import replace

import numpy as np
import pytest

import imprint
from imprint.core.errors import UsageError
from imprint.models.inference import in_distribution
from imprint.models.ood import FORMS, ood_detector_classes, transforms_for
from imprint.recipes import RECIPES
from imprint.training.fit import fit
from imprint.training.ood_detector import make_synthetic_ood, ood_detector_recipe


@pytest.fixture(scope="module")
def detecting(digits):
    return imprint.train(digits[:1300], "quick", ood_detector="quick", epochs=5, min_steps=20, verbose=False)


def test_it_knows_new_digits_and_not_synthetic_ood_images(detecting, digits):
    new = digits[1300:]
    model = detecting.model
    known = in_distribution(model.ood_detector, new.pixels, model.spec, new.labels)
    assert np.median(known) > 0.8
    mirrored = in_distribution(model.ood_detector, new.pixels[..., ::-1].copy(), model.spec, new.labels)
    twos_to_seven = np.isin(new.labels, [2, 3, 4, 5, 6, 7, 9])  # of 0, 1 and 8 the mirror shows another
    assert np.median(mirrored[twos_to_seven]) < 0.05


def test_many_images_are_asked_about_part_by_part(detecting, digits, monkeypatch):
    model, new = detecting.model, digits[1300:]
    at_once = in_distribution(model.ood_detector, new.pixels, model.spec, new.labels)
    monkeypatch.setattr("imprint.models.inference.DETECTED_AT_ONCE", 100)
    assert in_distribution(model.ood_detector, new.pixels, model.spec, new.labels) == pytest.approx(at_once, abs=1e-6)


def test_what_it_takes_for_ood_is_uncertain(detecting, digits):
    model = detecting.model
    blind = replace(model, ood_detector=None)
    new = digits[1300:]
    mirrored = replace(new, pixels=new.pixels[..., ::-1].copy())
    added = [model.predict(some).uncertainty - blind.predict(some).uncertainty for some in (new, mirrored)]
    assert np.median(added[0]) < 0.1
    assert np.median(added[1][np.isin(new.labels, [2, 3, 4, 5, 6, 7, 9])]) > 0.5
    assert np.array_equal(model.predict(new).probabilities, blind.predict(new).probabilities)


def test_it_costs_no_accuracy_and_is_saved(detecting, digits, tmp_path):
    path = tmp_path / "model.safetensors"
    detecting.model.save(path)
    loaded = imprint.Classifier.load(path)
    assert np.array_equal(loaded.predict(digits).uncertainty, detecting.model.predict(digits).uncertainty)
    without = imprint.train(digits[:1300], "quick", epochs=5, min_steps=20, verbose=False)
    assert without.history["loss"] == detecting.history["loss"]
    assert np.array_equal(without.model.predict(digits[1300:]).labels, detecting.model.predict(digits[1300:]).labels)
    assert detecting.seconds > sum(detecting.history["seconds"])  # its own count


def test_divergence_costs_the_detector_alone(digits, monkeypatch, capsys):
    def diverging(state, *rest):
        if state.plan.recipe.name == "ood_detector":
            raise UsageError("loss", "epoch 1", "it is no longer a number: training has diverged", "Lower the rate.")
        fit(state, *rest)

    monkeypatch.setattr("imprint.training.ood_detector.fit", diverging)
    run = imprint.train(digits[:300], "quick", ood_detector="quick", epochs=1, min_steps=2)
    assert (run.model.ood_detector, run.recipe.ood_detector, run.interrupted) == (None, "", False)
    assert "warning: training of the OOD detector has diverged; the model is kept without it" in capsys.readouterr().err


def test_it_sees_images_turned_as_far_as_its_network_does():
    quick = replace(RECIPES["quick"], ood_detector="deep", hflip="no")
    assert ood_detector_recipe(replace(quick, rotation=0.0)).rotation == 10
    assert ood_detector_recipe(replace(quick, rotation=180.0)).rotation == 180


RECIPE = replace(RECIPES["quick"], hflip="no")
TURN_BACK = {
    "turned left": lambda pixels: np.rot90(pixels, -1, axes=(1, 2)),
    "turned right": lambda pixels: np.rot90(pixels, 1, axes=(1, 2)),
    "upside down": lambda pixels: np.rot90(pixels, 2, axes=(1, 2)),
    "mirrored": lambda pixels: np.flip(pixels, 2),
}


@pytest.fixture(scope="module")
def synthetic_ood(digits):
    return make_synthetic_ood(digits, np.arange(len(digits)), RECIPE)


def test_half_stay_as_they_are_and_the_others_are_turned_as_their_class_says(digits, synthetic_ood):
    counts = np.bincount(synthetic_ood.labels // 10, minlength=6) / len(synthetic_ood)
    assert counts[0] == pytest.approx(0.5, abs=0.05)
    assert counts[1:] == pytest.approx(0.1, abs=0.03)
    where = {source: place for place, source in enumerate(digits.sources)}
    for made, label, source in zip(synthetic_ood.pixels, synthetic_ood.labels, synthetic_ood.sources, strict=True):
        form, known = divmod(label, 10)
        if form <= len(FORMS):
            back = TURN_BACK[list(FORMS)[form - 1]](made) if form else made
            assert np.array_equal(back, digits.pixels[where[source]])
            assert known == digits.labels[where[source]]


def test_halves_are_of_two_classes(digits, synthetic_ood):
    where = {source: place for place, source in enumerate(digits.sources)}
    for place in np.flatnonzero(synthetic_ood.labels == 50):
        made, of = synthetic_ood.pixels[place], where[synthetic_ood.sources[place]]
        others = digits.pixels[digits.labels != digits.labels[of]]
        joined = []
        for turn in (0, 1):  # cut across, or along; where exactly, chance decides
            some = (digits.pixels[of], made, others)
            own, made_so, others_so = (np.swapaxes(one, -1, -2) if turn else one for one in some)
            of_another = (others_so[:, :, :3] == made_so[:, :3]).all(axis=(1, 2, 3)).any()
            joined.append(of_another and np.array_equal(made_so[:, 5:], own[:, 5:]))
        assert any(joined)


def test_the_images_themselves_are_left_alone_and_the_seed_decides(digits):
    before = digits.pixels.copy()
    first, again = (make_synthetic_ood(digits, np.arange(100, 300), RECIPE) for _ in range(2))
    assert np.array_equal(digits.pixels, before)
    assert np.array_equal(first.pixels, again.pixels)
    assert len(first) == 200
    other = make_synthetic_ood(digits, np.arange(100, 300), replace(RECIPE, seed=8))
    assert not np.array_equal(first.labels, other.labels)


def test_too_many_images_are_left_out(digits, monkeypatch):
    monkeypatch.setattr("imprint.training.ood_detector.MAX_BYTES", 64 * 50)
    assert len(make_synthetic_ood(digits, np.arange(1000), RECIPE)) == 50


TURNED = {"turned left", "turned right"}


@pytest.mark.parametrize(
    ("settings", "size", "missing"),
    [
        ({}, (8, 8), set()),
        ({}, (8, 9), TURNED),
        ({"hflip": "yes"}, (8, 8), {"mirrored"}),
        ({"rotation": 89.0}, (8, 8), set()),
        ({"rotation": 90.0}, (8, 8), TURNED),
        ({"rotation": 180.0}, (8, 8), {*TURNED, "upside down"}),
        ({"rotation": 180.0, "hflip": "yes"}, (8, 8), set(FORMS)),
    ],
)
def test_transforms_that_change_nothing_are_left_out(digits, settings, size, missing):
    recipe = replace(RECIPE, **settings)
    assert set(FORMS) - set(transforms_for(recipe, size)) == missing
    assert ood_detector_classes(recipe, size, 7) == 7 * (5 - len(missing)) + 1
    if size == (8, 8):
        made = make_synthetic_ood(digits, np.arange(len(digits)), recipe)
        assert len(np.unique(made.labels)) == ood_detector_classes(recipe, size, 10)
