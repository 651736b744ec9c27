"""A run that is stopped and taken up ends as one that never was."""

import json
import random
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import imprint
from imprint import Classifier, DataError, ModelFileError, UsageError
from imprint.models.model_file import read_model_file, write_model_file
from imprint.runs.folder import run_session
from imprint.runs.run import carry_out
from imprint.training.plan import make_plan
from imprint.training.state import Checkpoint, begin, read_resumable_run

QUIET = Reporter(verbose=False)
RUNS = {
    "muon, one-cycle, hard images first": [
        "quick",
        "epochs=4",
        "min_steps=0",
        "batch_size=64",
        "epoch_fraction=0.5",
        "elastic=0.6",
    ],
    "adamw": ["quick", "epochs=4", "min_steps=3", "optimiser=adamw"],
    "rmsprop, plateau, dropout": ["tutorial", "epochs=4", "steps_per_epoch=6", "plateau_patience=1"],
    "two networks": ["quick", "net=deep+broad", "epochs=2", "min_steps=3"],
    "a guard": ["quick", "guard=quick", "epochs=3", "min_steps=3"],  # killed while it is trained
}


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the package catches it."""


class KillAt(Reporter):
    """Dies when so many epochs have been told, within the following epoch."""

    def __init__(self, epochs):
        super().__init__(verbose=False)
        self.left = epochs

    def say(self, line):
        self.left -= line.startswith("Epoch")

    def steps(self, items):
        for place, item in enumerate(items):
            if self.left <= 0 and place == 1:
                raise Killed
            yield item


def planned(digits, recipe, *settings):
    return make_plan(digits, recipe, settings=settings, device="cpu")


def stopped_after(epochs, plan, folder):
    """Train until killed; a checkpoint is written after every epoch."""
    checkpoint = Checkpoint(folder, plan, {"data": "digits"})
    checkpoint.due = lambda: True
    with pytest.raises(Killed):
        carry_out(plan, KillAt(epochs), checkpoint)
    return read_resumable_run(folder)


@pytest.mark.parametrize("case", RUNS)
def test_a_resumed_run_ends_to_the_bit_as_one_never_stopped(digits, tmp_path, case):
    plan = planned(digits[:400], *RUNS[case])
    whole = carry_out(plan, QUIET)
    stopped = stopped_after(3, plan, tmp_path)
    assert len(stopped.epochs) == 3
    torch.manual_seed(99)  # another process has other random numbers
    again = planned(digits[:400], *RUNS[case])
    stopped.check(again, QUIET)
    resumed = carry_out(again, QUIET, stopped=stopped)
    for name, values in whole.history.items():
        assert name == "seconds" or resumed.history[name] == values
    expected, found = whole.model.network.state_dict(), resumed.model.network.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    whole.model.save(tmp_path / "whole.safetensors")
    resumed.model.save(tmp_path / "resumed.safetensors")
    assert (tmp_path / "whole.safetensors").read_bytes() == (tmp_path / "resumed.safetensors").read_bytes()


def test_the_best_score_is_remembered(digits, tmp_path):
    plan = planned(digits[:300], "quick", "epochs=4", "min_steps=2")
    stopped = stopped_after(2, plan, tmp_path)
    state = stopped.go_on(plan)
    assert state.best_accuracy == max(epoch["val_acc"] for epoch in stopped.epochs)
    best = max(range(2), key=lambda place: stopped.epochs[place]["val_acc"])
    state.network.load_state_dict(state.best_weights)
    found = imprint.models.inference.predict_probabilities(state.network, plan.validation.pixels, plan.spec).argmax(1)
    accuracy = float((found == plan.validation.labels_among(plan.images.class_names)).mean())
    assert accuracy == stopped.epochs[best]["val_acc"]


def test_a_stopped_runs_folder_holds_a_model(digits, tmp_path):
    stopped_after(2, planned(digits[:300], "quick", "epochs=4", "min_steps=30"), tmp_path)
    model = Classifier.load(tmp_path)
    right = np.mean(np.array(model.predict(digits[300:]).names) == digits[300:].labels.astype(str))
    assert right > 0.5  # guessing gives 0.1
    assert (model.temperature, model.tta_below) == (1.0, 0.0)
    assert not model.predict(digits).unsure.any()


def test_before_the_first_epoch_there_is_no_model_but_a_run_to_take_up(digits, tmp_path):
    plan = planned(digits[:300], "quick", "epochs=2", "min_steps=2")
    stopped = stopped_after(0, plan, tmp_path)
    with pytest.raises(ModelFileError, match=r"before its first epoch had ended. Go on with imprint train --resume"):
        Classifier.load(tmp_path)
    assert carry_out(plan, QUIET, stopped=stopped).history["loss"] == carry_out(plan, QUIET).history["loss"]


@pytest.fixture(scope="module")
def stopped_folder(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped")
    stopped_after(1, planned(digits[:300], "quick", "epochs=3", "min_steps=2"), folder)
    return folder


@pytest.mark.parametrize("setting", ["epochs=4", "seed=8", "net=deep", "validation_fraction=0.2"])
def test_another_recipe_is_refused(digits, stopped_folder, setting):
    other = planned(digits[:300], "quick", "epochs=3", "min_steps=2", setting)
    with pytest.raises(UsageError, match=f"{setting} at --resume: the run began with "):
        read_resumable_run(stopped_folder).check(other, QUIET)


def test_changed_data_is_refused(digits, stopped_folder):
    pixels = digits.pixels[:300].copy()
    pixels[7, 0, 3, 3] ^= 1
    labels = digits.labels[:300].copy()
    labels[5] = (labels[5] + 1) % 10
    for changed in (replace(digits[:300], pixels=pixels), replace(digits[:300], labels=labels), digits[:299]):
        with pytest.raises(DataError, match=r"it is not what the run in .* began with\. Give the same data"):
            read_resumable_run(stopped_folder).check(planned(changed, "quick", "epochs=3", "min_steps=2"), QUIET)


def test_another_machine_is_told(digits, stopped_folder, monkeypatch, capsys):
    monkeypatch.setattr("imprint.training.state.machine_name", lambda device: "another")
    read_resumable_run(stopped_folder).check(planned(digits[:300], "quick", "epochs=3", "min_steps=2"))
    assert "begun on another machine" in capsys.readouterr().err


def test_the_arithmetic_of_the_beginning_is_used_again(digits, stopped_folder, monkeypatch):
    adopted = {}
    monkeypatch.setattr("imprint.training.state.adopt_compute_configs", lambda device, chosen: adopted.update(chosen))
    read_resumable_run(stopped_folder).check(planned(digits[:300], "quick", "epochs=3", "min_steps=2"), QUIET)
    assert set(adopted) == {"auto", "float32"}


def test_a_damaged_checkpoint_is_refused(stopped_folder, tmp_path):
    content = bytearray((stopped_folder / "checkpoint.safetensors").read_bytes())
    generator = random.Random(5)
    for _ in range(50):
        damaged = content.copy()
        damaged[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        (tmp_path / "checkpoint.safetensors").write_bytes(damaged)
        with pytest.raises(ModelFileError):
            read_resumable_run(tmp_path)


CHANGES = {
    "no progress": lambda tensors, facts: facts.pop("resume"),
    "no data": lambda tensors, facts: facts["resume"].pop("schedule"),
    "epochs of words": lambda tensors, facts: facts["resume"].update(epochs=[{"loss": "low"}]),
    "too many epochs": lambda tensors, facts: facts["resume"].update(epochs=[{"loss": 1.0}] * 9),
    "too many networks": lambda tensors, facts: facts["resume"].update(networks=3),
    "steps of another optimiser": lambda tensors, facts: facts["resume"].update(steps=[1]),
    "threads of no machine": lambda tensors, facts: facts["resume"]["arithmetic"]["auto"].update(threads=-1),
    "a machine of numbers": lambda tensors, facts: facts["resume"].update(machine=1),
    "paths of lists": lambda tensors, facts: facts["resume"]["command"].update(data=["digits"]),
    "a state of random numbers that is none": lambda tensors, facts: tensors["resume/random/cpu"].fill_(7),
    "a tensor less": lambda tensors, facts: tensors.pop("resume/losses"),
    "a tensor of another shape": lambda tensors, facts: tensors.update({"resume/losses": torch.ones(3)}),
    "weights that are no numbers": lambda tensors, facts: tensors["resume/net/dense.bias"].fill_(float("nan")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_checkpoint_that_does_not_hold_together_is_refused(digits, stopped_folder, tmp_path, change):
    tensors, facts = read_model_file(stopped_folder / "checkpoint.safetensors")
    CHANGES[change](tensors, facts)
    write_model_file(tmp_path / "checkpoint.safetensors", tensors, facts)
    plan = planned(digits[:300], "quick", "epochs=3", "min_steps=2")
    with torch.random.fork_rng(), pytest.raises(ModelFileError, match="its header does not hold together"):
        read_resumable_run(tmp_path).go_on(plan)


def test_a_run_that_has_ended_is_not_taken_up(model, tmp_path):
    model.save(tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match="it has ended, nothing is left to do"):
        read_resumable_run(tmp_path)
    with pytest.raises(UsageError, match="there is no checkpoint in it"):
        read_resumable_run(tmp_path / "nowhere")


def test_checkpoints_take_a_hundredth_of_the_time(digits, tmp_path):
    plan = planned(digits[:300], "quick")
    checkpoint, state = Checkpoint(tmp_path, plan, {"data": "digits"}), begin(plan)
    checkpoint.write(state, QUIET)
    assert checkpoint.due()  # the first epoch is kept at once
    state.epochs.append({"loss": 1.0})
    checkpoint.write(state, QUIET)
    assert not checkpoint.due()
    checkpoint._written -= 100 * checkpoint._cost
    assert checkpoint.due()


def full(path):
    raise OSError(28, "No space left on device")


def test_a_full_disk_is_noticed_before_training(digits, tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", full)
    plan = planned(digits[:300], "quick", "epochs=2", "min_steps=2")
    (tmp_path / "run").mkdir()
    with (
        pytest.raises(UsageError, match=r"No space left on device.*Free some space"),
        run_session(tmp_path / "run", plan, {}) as checkpoint,
    ):
        carry_out(plan, QUIET, checkpoint)
    assert not (tmp_path / "run").exists()


def test_a_disk_that_fills_up_costs_checkpoints_not_the_run(digits, tmp_path, monkeypatch, capsys):
    plan = planned(digits[:300], "quick", "epochs=3", "min_steps=2")
    checkpoint = Checkpoint(tmp_path, plan, {"data": "digits"})
    checkpoint.due = lambda: True
    whole = checkpoint.write

    def fills_up(state):
        if len(state.epochs) == 2:
            monkeypatch.setattr("os.fsync", full)
        whole(state)

    checkpoint.write = fills_up
    run = carry_out(plan, checkpoint)
    assert len(run.history["loss"]) == 3
    assert "No space left on device" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]
    assert len(read_resumable_run(tmp_path).epochs) == 1


def test_divergence_leaves_the_last_good_checkpoint(digits, tmp_path, monkeypatch):
    plan = planned(digits[:300], "quick", "epochs=4", "min_steps=2")
    tmp_path = tmp_path / "run"
    tmp_path.mkdir()
    seen = []

    def worse(probabilities, labels):
        seen.append(0)
        return float("nan") if len(seen) == 3 else 1.0

    monkeypatch.setattr("imprint.training.fit.log_loss", worse)
    with (
        pytest.raises(UsageError, match=r"loss at epoch 3: it is no longer a number: .*--set learning_rate=0.0015"),
        run_session(tmp_path, plan, {"data": "digits"}) as checkpoint,
    ):
        checkpoint.due = lambda: True
        carry_out(plan, QUIET, checkpoint)
    assert len(read_resumable_run(tmp_path).epochs) == 2
    assert Classifier.load(tmp_path).predict(digits[:3]).names


def test_a_checkpoint_holds_no_code_and_no_secret(stopped_folder):
    facts = read_model_file(stopped_folder / "checkpoint.safetensors")[1]
    assert {type(value) for value in facts["resume"]["command"].values()} <= {str, float}
    assert json.dumps(facts)


def test_copies_of_a_folder_can_be_taken_up(digits, stopped_folder, tmp_path):
    shutil.copytree(stopped_folder, tmp_path / "moved")
    assert len(read_resumable_run(tmp_path / "moved").epochs) == 1
