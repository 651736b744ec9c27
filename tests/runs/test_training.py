import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import imprint
from imprint import DataError, LabelledImages, UsageError
from imprint.core.metrics import tempered
from imprint.core.progress import details_too, shown
from imprint.data.split import split
from imprint.models.hardware import choose_compute_config
from imprint.models.inference import predict_probabilities
from imprint.models.networks import NETWORKS
from imprint.recipes import parse_settings
from imprint.runs.read_run import read_run
from imprint.runs.training import dry_run
from imprint.training.batches import iterate_batches
from imprint.training.fit import epoch_order
from imprint.training.optimisers import AdamW

FAST = ["epochs=2", "min_steps=0"]


def test_digits_are_learnt(run, digits):
    # 12 epochs of 1,653 real digits; guessing gives 0.1.
    assert run.validation.accuracy > 0.9
    assert run.validation.images == 144
    low, high = run.validation.interval
    assert low < run.validation.accuracy < high


def test_the_lesson_learns_too(digits):
    run = imprint.train(digits, recipe="tutorial", epochs=3, steps_per_epoch=50, verbose=False)
    assert run.validation.accuracy > 0.8
    assert run.model.spec.input_size == (28, 28)


def test_history_is_kerass(run):
    assert set(run.history) == {"loss", "acc", "val_loss", "val_acc", "lr", "seconds", "threads"}
    assert {len(values) for values in run.history.values()} == {12}
    assert abs(run.history["val_acc"][-1] - run.validation.accuracy) < 0.03  # the last is scored without views
    assert run.history["loss"][-1] < run.history["loss"][0]


def test_the_validation_score_is_of_images_that_were_held_out(run, digits):
    held_out = digits[split(digits, 0.08, 7)[1]]
    assert imprint.evaluate(run.model, held_out) == run.validation


def test_the_most_doubtful_of_144_validation_images_settles_the_limit(run, digits):
    assert run.validation.unsure["share"] == 0
    uncertainty = run.model.predict(digits[split(digits, 0.08, 7)[1]]).uncertainty
    assert run.model.unsure_above == pytest.approx(uncertainty.max(), rel=1e-3)


def test_what_to_expect_is_what_the_validation_images_say(run):
    assert run.expected.accuracy == run.validation.accuracy
    assert run.expected.interval == pytest.approx(run.validation.interval, rel=1e-12)
    assert "144 images held out" in run.expectation


def test_groups_widen_what_to_expect(digits):
    grouped = replace(digits, groups=(np.arange(len(digits)) // 30).astype(str))
    run = imprint.train(grouped, "quick", **parse_settings(FAST), verbose=False)
    assert run.expected.effective < run.expected.images == run.validation.images


def test_a_seed_decides_everything(digits):
    runs = [imprint.train(digits, "quick", **parse_settings(FAST), seed=seed, verbose=False) for seed in (1, 1, 2)]
    weights = [run.model.network.state_dict() for run in runs]
    same = [torch.equal(weights[0][name], weights[1][name]) for name in weights[0]]
    assert all(same)
    assert runs[0].history["loss"] == runs[1].history["loss"] != runs[2].history["loss"]


def test_the_callers_random_numbers_are_left_alone(digits):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    imprint.train(digits, "quick", epochs=1, min_steps=0, verbose=False)
    assert torch.equal(torch.rand(2), expected)


def test_validation_may_be_given(digits):
    run = imprint.train(digits[:1000], "quick", **parse_settings(FAST), validation=digits[1000:], verbose=False)
    assert run.validation.images == 797
    assert run.model.score["images"] == 797


def test_validation_labels_are_matched_by_name(digits):
    names = tuple(reversed(digits.class_names))
    turned = type(digits)(digits.pixels, 9 - digits.labels, names, digits.sources)
    run = imprint.train(digits, "quick", epochs=6, min_steps=0, validation=turned, verbose=False)
    assert run.validation.accuracy > 0.9


def test_training_that_failed_says_so_and_what_to_try_first(digits):
    senseless = replace(digits[:600], labels=np.random.default_rng(0).integers(0, 10, 600))
    short = imprint.train(senseless, "quick", epochs=1, min_steps=2, verbose=False)
    assert short.expectation.startswith("no better than guessing: always the commonest class gives 0.")
    assert "It has hardly learnt" in short.failure
    assert "first train longer (--epochs 2 --set min_steps=40)" in short.failure
    assert short.facts()["failure"] == short.failure
    untouched = {"zoom": 0, "rotation": 0, "shift": 0, "downscale": 0, "label_smoothing": 0, "hard_fraction": 0}
    known = imprint.train(senseless, "quick", epochs=20, validation=0.2, verbose=False, **untouched)
    assert "learnt its own images by heart" in known.failure
    assert "imprint check DATA" in known.failure
    rare = replace(digits[:300], labels=(np.arange(300) % 20 == 0).astype(np.int64), class_names=("often", "seldom"))
    uneven = imprint.train(rare, "quick", epochs=1, min_steps=2, validation=0.3, verbose=False)
    assert "first --set class_balance=1" in uneven.failure


def test_training_that_worked_is_not_called_failed(run):
    assert run.failure == run.facts()["failure"] == ""
    assert run.expectation.startswith("expect 0.")


def test_classes_without_images_are_dropped_and_told(digits, caplog):
    caplog.set_level("INFO", logger="imprint")
    some = digits[np.isin(digits.labels, [3, 5])]
    run = imprint.train(some, "quick", epochs=1, min_steps=2)
    assert run.model.class_names == ("3", "5")
    assert "classes '0', '1', '2', '4', '6' and 3 more: no images, so the model will not know them" in caplog.text
    assert run.validation.accuracy > 0.5


def test_a_run_on_some_classes_is_read_again(tmp_path):
    run = imprint.train("digits", "quick", classes=["3", "5"], epochs=1, min_steps=1, run=tmp_path, verbose=False)
    assert run.model.class_names == ("3", "5")
    learnt, held_out = read_run(tmp_path).read_images()
    assert len(learnt) + len(held_out) == 365
    assert learnt.class_names == ("3", "5")


def test_options_of_reading_are_refused_where_images_are_there(digits):
    for options in ({"group": "x"}, {"allow_bad": 0.5}, {"classes": ["1"]}):
        with pytest.raises(UsageError, match="the images have been loaded already"):
            imprint.train(digits, "quick", verbose=False, **options)


def test_without_validation_there_is_no_score(digits):
    for recipe in ("quick", "tutorial"):
        run = imprint.train(digits[:200], recipe, epochs=2, steps_per_epoch=3, validation=0, verbose=False)
        assert run.validation is run.expected is None
        assert "no images were held out" in run.expectation
        assert "val_acc" not in run.history


def test_images_smaller_than_a_batch(digits):
    assert imprint.train(digits[:20], "quick", **parse_settings(FAST), verbose=False).validation.images == 2


def test_small_sets_get_longer_epochs(digits, monkeypatch):
    dealt = []
    monkeypatch.setattr("imprint.training.fit.iterate_batches", lambda *given: dealt.append(0) or deal(dealt, *given))
    imprint.train(digits[:100], "quick", epochs=3, min_steps=5, verbose=False)
    assert len(dealt) == 3 + 15  # epochs and steps


def deal(dealt, *given):
    for batch in iterate_batches(*given):
        dealt.append(0)
        yield batch


def test_later_epochs_take_their_share(digits, monkeypatch):
    taken = []

    def counted(*arguments):
        taken.append(epoch_order(*arguments))
        return taken[-1]

    monkeypatch.setattr("imprint.training.fit.epoch_order", counted)
    settings = ["epochs=3", "min_steps=0", "batch_size=32", "epoch_fraction=0.25", "hard_fraction=0.6"]
    imprint.train(digits, "quick", verbose=False, **parse_settings(settings))
    assert [len(order) for order in taken] == [52 * 32, 13 * 32, 13 * 32]
    assert len(taken[1].unique()) == 13 * 32


def test_mapped_images_are_learnt_from_where_they_are(digits, tmp_path):
    digits.pixels.tofile(tmp_path / "pixels")
    mapped = np.memmap(tmp_path / "pixels", np.uint8, "c", shape=digits.pixels.shape)
    inside, outside = (
        imprint.train(images, "quick", epochs=1, min_steps=1, verbose=False).history["loss"]
        for images in (digits, replace(digits, pixels=mapped))
    )
    assert inside == outside


def test_views_are_taken_where_the_model_hesitates(run, digits):
    model = run.model
    plain = predict_probabilities(model.network, digits.pixels, model.spec)
    final = model.predict_proba(digits)
    hesitant = plain.max(axis=1) < model.tta_below
    assert 0 < hesitant.mean() < 0.2
    expected = tempered(plain, model.temperature)
    assert np.array_equal(final[~hesitant], expected[~hesitant])
    assert not np.allclose(final[hesitant], expected[hesitant], atol=1e-4)
    assert np.abs(final.sum(axis=1) - 1).max() < 1e-5
    sure = replace(model, tta_below=0.0)
    assert np.array_equal(sure.predict_proba(digits[:5]), expected[:5])


def test_confidence_fits_accuracy_on_images_not_seen(digits):
    run = imprint.train(digits[:900], "quick", epochs=4, min_steps=20, validation=0.2, verbose=False)
    calibrated = imprint.evaluate(run.model, digits[900:])
    modest = imprint.evaluate(replace(run.model, temperature=1.0), digits[900:])
    assert run.model.temperature < 1  # smoothed labels train modesty
    assert calibrated.calibration_error < modest.calibration_error / 2
    assert calibrated.log_loss < modest.log_loss
    assert calibrated.confusion == modest.confusion


def test_several_networks_make_one_model(digits, tmp_path):
    settings = ["networks=quick+tutorial+quick", "epochs=2", "min_steps=4"]
    run = imprint.train(digits, "quick", **parse_settings(settings), verbose=False)
    assert len(run.history["loss"]) == 6
    run.model.save(tmp_path / "m.safetensors")
    again = imprint.Classifier.load(tmp_path / "m.safetensors")
    assert np.array_equal(again.predict_proba(digits[:50]), run.model.predict_proba(digits[:50]))
    names = [layer.name for layer in again.summary()]
    assert {"1/conv2d", "2/conv2d", "3/dense"} <= set(names)


def test_colour_images(digits):
    colour = type(digits)(np.repeat(digits.pixels, 3, axis=1), digits.labels, digits.class_names, digits.sources)
    model = imprint.train(colour, "tutorial", epochs=1, steps_per_epoch=5, verbose=False).model
    assert model.predict_proba(colour[:5]).shape == (5, 10)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: (type(d)(d.pixels, None, (), d.sources), {}), "Training needs at least two classes"),
        (lambda d: (d[np.flatnonzero(d.labels == 1)], {}), "Training needs at least two classes"),
        (lambda d: (d[:3], {"validation": 0.9}), "none would be left to train on"),
        (lambda d: (d[:3], {"validation": 0.6}), "all images left to train on are of one class"),
        (lambda d: (d, {"validation": type(d)(d.pixels, None, (), d.sources, "v")}), "labels at v"),
        (lambda d: (d, {"device": "cuda:99"}), "device 'cuda:99' at --device"),
        (lambda d: (d, {"device": "banana"}), "device 'banana' at --device"),
        (lambda d: (d, {"recipe": "fast"}), "there is no such recipe"),
        (lambda d: (d, {"recipe": "quick", "networks": "foo"}), "there is no such network"),
        (lambda d: (d, {"epochs": 0}), "epochs=0"),
    ],
)
def test_bad_input_is_refused_before_training(digits, change, words):
    images, arguments = change(digits)
    with pytest.raises((DataError, UsageError)) as caught:
        imprint.train(images, verbose=False, **arguments)
    assert words in str(caught.value)


def endless(network):
    torch.nn.init.constant_(network.dense.weight, float("inf"))
    return network


def test_divergence_is_noticed_in_its_epoch(digits, monkeypatch):
    quick = NETWORKS["quick"]
    broken = replace(quick, build=lambda *form: endless(quick.build(*form)))
    monkeypatch.setitem(NETWORKS, "quick", broken)
    with pytest.raises(UsageError, match="loss at epoch 1: it is no longer a number: training has diverged"):
        imprint.train(digits, **parse_settings(FAST), verbose=False)


def test_a_loss_far_above_guessing_is_divergence(digits):
    settings = ["optimiser=adamw", "learning_rate=300", "epochs=3", "steps_per_epoch=6", "batch_size=16"]
    with pytest.raises(
        UsageError, match=r"far above that of guessing: training has diverged. Lower .*learning_rate=30"
    ):
        imprint.train(digits[:300], "tutorial", **parse_settings(settings), verbose=False)


def test_weights_that_end_as_no_numbers_are_divergence_too(digits, monkeypatch):
    # The loss of an epoch's last step is taken before that step's harm is done.
    update, taken = AdamW.update, []

    def last_step_fails(self, factors):
        update(self, factors)
        taken.append(factors)
        if len(taken) == 4:
            self.weights[-1].data.fill_(float("inf"))

    monkeypatch.setattr(AdamW, "update", last_step_fails)
    settings = ["optimiser=adamw", "epochs=1", "min_steps=4", "batch_size=64"]
    with pytest.raises(UsageError, match="weights at epoch 1: they are no longer numbers: training has diverged"):
        imprint.train(digits[:256], "quick", **parse_settings(settings), validation=0, verbose=False)


def test_a_mapped_file_may_vanish_while_it_is_learnt_from(digits, tmp_path, monkeypatch):
    digits.pixels.tofile(tmp_path / "pixels")
    mapped = np.memmap(tmp_path / "pixels", np.uint8, "c", shape=digits.pixels.shape)
    images = replace(digits, pixels=mapped)
    expected = imprint.train(images, "quick", epochs=2, min_steps=1, verbose=False).history["loss"]
    monkeypatch.setattr("imprint.training.fit.say", lambda line: (tmp_path / "pixels").unlink(missing_ok=True))
    assert imprint.train(images, "quick", epochs=2, min_steps=1, verbose=False).history["loss"] == expected
    assert not (tmp_path / "pixels").exists()


def press_ctrl_c(monkeypatch, step):
    """Press Ctrl-C in the middle of an epoch."""
    left = [step]

    def batches(*given):
        for batch in iterate_batches(*given):
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr("imprint.training.fit.iterate_batches", batches)


def test_ctrl_c_keeps_the_best_epoch(digits, monkeypatch):
    press_ctrl_c(monkeypatch, step=5 * 15 + 3)
    run = imprint.train(digits, "quick", epochs=30, min_steps=15, verbose=False)
    assert run.interrupted
    assert {len(values) for values in run.history.values()} == {5}
    assert abs(run.validation.accuracy - max(run.history["val_acc"])) < 0.03  # the score is taken with views
    assert run.model.predict(digits).names
    assert run.expected.tries == 5
    assert run.expected.interval[0] < run.validation.interval[0]


def test_ctrl_c_keeps_the_networks_that_are_finished(digits, monkeypatch):
    press_ctrl_c(monkeypatch, step=2 * 6 + 9)
    settings = ["networks=quick+tutorial+quick", "epochs=2", "min_steps=6"]
    run = imprint.train(digits, "quick", **parse_settings(settings), verbose=False)
    assert run.interrupted
    assert run.recipe.networks == run.model.recipe.networks == ("quick",)
    assert len(run.model.predict(digits[:3]).names) == 3
    assert run.expected.tries == 1  # no score chose it


def test_ctrl_c_while_the_ood_detector_learns_keeps_the_model_without_it(digits, monkeypatch, tmp_path):
    press_ctrl_c(monkeypatch, step=2 * 6 + 9)
    run = imprint.train(digits, "quick", ood_detector="quick", epochs=2, min_steps=6, verbose=False)
    assert run.interrupted
    assert run.recipe.ood_detector == ""
    assert run.model.ood_detector is None
    assert run.expected.tries == 1
    run.model.save(tmp_path / "model.safetensors")
    assert imprint.Classifier.load(tmp_path / "model.safetensors").predict(digits[:3]).names


def test_ctrl_c_before_the_first_epoch_leaves_nothing(digits, monkeypatch):
    press_ctrl_c(monkeypatch, step=3)
    with pytest.raises(KeyboardInterrupt):
        imprint.train(digits, "quick", verbose=False)


def test_words_go_to_stderr(digits, capsys):
    imprint.train(digits, **parse_settings(FAST))
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert not out
    assert lines[0] == "training on 1,653 images of 8×8 grey, 10 classes, 144 held out"
    assert lines[1] == "recipe quick: the default for small grey images"
    assert re.fullmatch(r"2 epochs of quick at 28×28, seed \d+, cpu: about \d+ (s|min)", lines[2])
    assert lines[3].startswith("Epoch 1/2 - ")
    assert " - val_acc: 0." in lines[4]
    assert max(map(len, lines[:3])) <= 80


def test_details_tell_all_that_was_decided(digits, capsys):
    with shown(), details_too():
        imprint.train(digits, **parse_settings(FAST))
    detail = next(line for line in capsys.readouterr().err.splitlines() if "(self-check: " in line)
    assert "scaled to 28×28 for the quick network" in detail
    assert "recipe quick (the default for small grey images), not mirrored (grey images may be signs; " in detail


def test_a_dry_run_refuses_what_training_would(digits, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for wrong, words in (
        ({"run": tmp_path / "full"}, "it already holds something"),
        ({"run": tmp_path / "full" / "file"}, "it is a file"),
        ({"resume": tmp_path}, "planned already"),
        ({"seeds": 2, "validation": 0.0}, "nothing to compare"),
        ({"epochs": 0}, "epochs"),
        ({"device": "nowhere"}, "torch can use"),
    ):
        with pytest.raises(UsageError, match=words):
            dry_run(digits, "quick", **wrong)
    planned = dry_run(digits, "quick", run=tmp_path / "new", test=digits[:7], seeds=3, epochs=1, min_steps=1)
    assert not (tmp_path / "new").exists()
    facts = planned.facts()
    assert facts["images"] == {"training": 1653, "validation": 144, "test": 7}
    assert facts["estimate"]["seconds"] == pytest.approx(3 * planned.estimate.seconds, abs=0.01)


def test_photos_are_learnt():
    # Discs, lying and standing stripes in random colours and places; guessing gives a third.
    generator = np.random.default_rng(0)
    labels = np.arange(150) % 3
    y, x = np.mgrid[:64, :64]
    drawn = []
    for label in labels:
        cy, cx, r = *generator.uniform(20, 44, 2), generator.uniform(9, 16)
        masks = [(y - cy) ** 2 + (x - cx) ** 2 < r * r, (y + cy) // 6 % 2 == 0, (x + cx) // 6 % 2 == 0]
        colours = generator.integers(0, 256, (2, 3, 1, 1))
        drawn.append(np.where(masks[label], *colours) + generator.integers(-9, 9, (3, 64, 64)))
    pixels = np.clip(np.stack(drawn), 0, 255).astype(np.uint8)
    sources = np.array([f"{i}.png" for i in range(150)])
    images = LabelledImages(pixels, labels, ("disc", "lying", "standing"), sources, "shapes")
    run = imprint.train(images, "photos", epochs=3, batch_size=16, min_steps=15, validation=0.2, verbose=False)
    assert run.recipe.hflip == "yes"
    assert run.validation.accuracy > 0.8


class DeviceAnswers(TorchDispatchMode):
    """Counts the operations for which a GPU would have to be waited for."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("recipe", ["quick", "best", "photos"])
def test_no_step_waits_for_an_answer_of_the_device(digits, recipe):
    for precision in ("auto", "float32"):
        choose_compute_config(torch.device("cpu"), precision)  # the self-check does wait
    counts = []
    for steps in (2, 8):
        settings = ["epochs=2", f"min_steps={steps}", "batch_size=16", "epoch_fraction=0.01"]
        with DeviceAnswers() as answers:
            imprint.train(digits[:32], recipe, validation=0, verbose=False, **parse_settings(settings))
        counts.append(answers.count)
    assert counts[0] == counts[1] > 0


def test_training_does_not_import_torchs_compiler():
    script = """import sys, imprint
for recipe in ("quick", "tutorial"):
    imprint.train(imprint.load("digits"), recipe, epochs=1, steps_per_epoch=2, verbose=False)
    assert "torch._dynamo" not in sys.modules, recipe"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"run": 5}, "run at train"),
        ({"run": None}, "run at train"),
        ({"resume": 5}, "resume at train"),
        ({"resume": True}, "resume at train"),
    ],
)
def test_what_is_no_path_is_refused(unchecked, digits, options, words):
    with pytest.raises(UsageError, match=words):
        imprint.train(digits, "quick", verbose=False, **options)
    with pytest.raises(UsageError, match="int is neither a name nor a Recipe"):
        imprint.train(digits, 5, verbose=False)
