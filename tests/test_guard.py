"""A guard taught beside a network: what it finds, and what becomes of the model where it fails."""

from dataclasses import replace

import numpy as np
import pytest

import imprint
from imprint.errors import UsageError
from imprint.loop import run_epochs
from imprint.predict import recognised
from imprint.recipes import RECIPES, guard_recipe


@pytest.fixture(scope="module")
def guarded(digits):
    settings = ["guard=quick", "epochs=7", "min_steps=20"]
    return imprint.train(digits[:1300], "quick", settings=settings, silent=True)


def test_a_guard_knows_new_digits_and_not_their_strangers(guarded, digits):
    new = digits[1300:]
    model = guarded.model
    known = recognised(model.guard, new.pixels, model.spec, new.labels)
    assert np.median(known) > 0.8
    mirrored = recognised(model.guard, new.pixels[..., ::-1].copy(), model.spec, new.labels)
    twos_to_seven = np.isin(new.labels, [2, 3, 4, 5, 6, 7, 9])  # of 0, 1 and 8 the mirror shows another
    assert np.median(mirrored[twos_to_seven]) < 0.05


def test_many_pictures_are_asked_about_part_by_part(guarded, digits, monkeypatch):
    model, new = guarded.model, digits[1300:]
    at_once = recognised(model.guard, new.pixels, model.spec, new.labels)
    monkeypatch.setattr("imprint.predict.TOGETHER", 100)
    assert recognised(model.guard, new.pixels, model.spec, new.labels) == pytest.approx(at_once, abs=1e-6)


def test_what_the_guard_doubts_is_doubted(guarded, digits):
    model = guarded.model
    blind = replace(model, guard=None)
    new = digits[1300:]
    mirrored = replace(new, pixels=new.pixels[..., ::-1].copy())
    added = [model.predict(some).doubt - blind.predict(some).doubt for some in (new, mirrored)]
    assert np.median(added[0]) < 0.1
    assert np.median(added[1][np.isin(new.labels, [2, 3, 4, 5, 6, 7, 9])]) > 0.5
    assert np.array_equal(model.predict(new).probabilities, blind.predict(new).probabilities)


def test_a_guard_costs_no_accuracy_and_is_saved(guarded, digits, tmp_path):
    path = tmp_path / "model.safetensors"
    guarded.model.save(path)
    loaded = imprint.Classifier.load(path)
    assert np.array_equal(loaded.predict(digits).doubt, guarded.model.predict(digits).doubt)
    settings = ["epochs=7", "min_steps=20"]
    without = imprint.train(digits[:1300], "quick", settings=settings, silent=True)
    assert without.history["loss"] == guarded.history["loss"]
    assert np.array_equal(without.model.predict(digits[1300:]).labels, guarded.model.predict(digits[1300:]).labels)
    assert guarded.seconds > sum(guarded.history["seconds"])  # the guard's own counts


def test_a_guard_that_diverges_costs_the_guard_alone(digits, monkeypatch, capsys):
    def diverging(state, *rest):
        if state.plan.recipe.name == "guard":
            raise UsageError("loss", "epoch 1", "it is no longer a number: training has diverged", "Lower the rate.")
        run_epochs(state, *rest)

    monkeypatch.setattr("imprint.training.run_epochs", diverging)
    run = imprint.train(digits[:300], "quick", settings=["guard=quick", "epochs=1", "min_steps=2"])
    assert (run.model.guard, run.recipe.guard, run.interrupted) == (None, "", False)
    assert "warning: training of the guard has diverged; the model is kept without it" in capsys.readouterr().err


def test_a_guard_sees_pictures_turned_as_far_as_its_network_does():
    quick = replace(RECIPES["quick"], guard="deep", mirror="no")
    assert guard_recipe(replace(quick, rotation=0.0)).rotation == 10
    assert guard_recipe(replace(quick, rotation=180.0)).rotation == 180
