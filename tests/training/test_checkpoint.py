"""A run that is stopped and resumed ends as one that never was."""

import json
import random
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import imprint
from imprint import Classifier, DataError, ModelFileError, UsageError
from imprint.models.inference import predict_probabilities
from imprint.models.model_file import read_model_file, write_model_file
from imprint.models.whitening import whitening_filters
from imprint.recipes import parse_settings
from imprint.training import fit as fit_module
from imprint.training.checkpoint import Checkpoint, read_resumable_run, start_network
from imprint.training.plan import data_fingerprint, make_plan

MUON = ["epochs=4", "min_steps=0", "batch_size=64", "epoch_fraction=0.5", "elastic=0.6"]
RUNS = {
    "muon, one-cycle, hard images first": ["quick", *MUON],
    "adamw": ["quick", "epochs=4", "min_steps=3", "optimiser=adamw"],
    "rmsprop, plateau, dropout": ["tutorial", "epochs=4", "steps_per_epoch=6", "plateau_patience=1"],
    "two networks": ["quick", "networks=deep+broad", "epochs=2", "min_steps=3"],
    "a whitened network": ["quick", "networks=whitened", "epochs=4", "min_steps=3"],
    "an OOD detector": ["quick", "ood_detector=quick", "epochs=3", "min_steps=3"],  # killed while it is trained
}
SHORT = ["quick", "epochs=3", "min_steps=2"]


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the package catches it."""


def trained(images, recipe, *settings, **options):
    return imprint.train(images, recipe, device="cpu", verbose=False, **options, **parse_settings(settings))


def killed_after(epochs, images, folder, recipe, *settings, **options):
    """Train until killed within the next epoch; gives the run folder as the kill left it."""
    left, deal = [epochs], fit_module.iterate_batches

    def counted(line):
        left[0] -= line.startswith("Epoch")

    def batches(*arguments):
        for place, batch in enumerate(deal(*arguments)):
            if left[0] <= 0 and place == 1:
                shutil.copytree(folder / "run", folder / "killed")
                raise Killed
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("imprint.training.fit.say", counted)
        patch.setattr("imprint.training.fit.iterate_batches", batches)
        patch.setattr(Checkpoint, "due", lambda self: True)
        with pytest.raises(Killed):
            trained(images, recipe, *settings, run=folder / "run", **options)
    return folder / "killed"


def planned(images, recipe, *settings):
    return make_plan(images, recipe, device="cpu", **parse_settings(settings))


def test_the_first_layer_begins_with_what_whitens_the_training_images():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 3, 20, 20), dtype=np.uint8)
    images = imprint.LabelledImages(pixels, np.arange(40) % 2, ("cat", "dog"), np.arange(40).astype(str))
    plan = planned(images, "quick")
    torch.manual_seed(0)
    first = start_network(plan).network.conv2d
    prepared = torch.from_numpy(pixels[plan.training]).float() / 255
    torch.testing.assert_close(first.weight.detach(), whitening_filters(prepared, 2))
    torch.manual_seed(0)
    other = start_network(planned(images, "quick", "networks=quick")).network.conv2d
    assert other.weight.std().item() == pytest.approx((2 / 75) ** 0.5, rel=0.1)  # drawn at random, as He et al. do


@pytest.mark.parametrize("case", RUNS)
def test_a_resumed_run_ends_to_the_bit_as_one_never_stopped(digits, tmp_path, case):
    whole = trained(digits[:400], *RUNS[case])
    folder = killed_after(3, digits[:400], tmp_path, *RUNS[case])
    assert len(read_resumable_run(folder).epochs) == 3
    torch.manual_seed(99)  # another process has other random numbers
    resumed = trained(digits[:400], None, resume=folder)
    for name, values in whole.history.items():
        assert name == "seconds" or resumed.history[name] == values
    expected, found = whole.model.network.state_dict(), resumed.model.network.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    whole.model.save(tmp_path / "whole.safetensors")
    assert (tmp_path / "whole.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert not (folder / "checkpoint.safetensors").exists()


@pytest.mark.parametrize("case", ["muon, one-cycle, hard images first", "two networks"])
def test_a_run_from_an_old_model_resumes_to_the_bit_without_that(digits, tmp_path, case):
    old = trained(digits[:300], *RUNS[case], "seed=3", run=tmp_path / "old").folder
    recipe, *settings = RUNS[case]
    whole = trained(digits[:400], recipe, *settings, from_model=old)
    folder = killed_after(3, digits[:400], tmp_path, recipe, *settings, from_model=old)
    shutil.rmtree(old)
    resumed = trained(digits[:400], None, resume=folder)
    whole.model.save(tmp_path / "whole.safetensors")
    assert (tmp_path / "whole.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert resumed.parent == whole.parent
    assert not list(folder.glob("parent*"))


def test_a_stopped_run_goes_on_from_the_very_model_that_it_began_with(digits, tmp_path):
    old, other = (
        trained(digits[:300], *SHORT, f"seed={seed}", run=tmp_path / f"{seed}", validation=0.2).folder
        for seed in (1, 2)
    )
    folder = killed_after(1, digits[:400], tmp_path, *SHORT, from_model=old)
    with pytest.raises(UsageError, match=r"--from .* at --resume: .* Leave --from out"):
        trained(digits[:400], None, resume=folder, from_model=old)
    with pytest.raises(ModelFileError, match=r"its training was stopped before its end. Resume it first"):
        trained(digits[:400], "quick", from_model=folder)
    shutil.copy(other / "model.safetensors", folder / "parent.safetensors")
    with pytest.raises(ModelFileError, match="it is not what the run began from: its SHA-256 is"):
        trained(digits[:400], None, resume=folder)
    (folder / "parent.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"it kept a copy here, and that is gone. Put it back, or begin a new run"):
        trained(digits[:400], None, resume=folder)
    shutil.copy(old / "model.safetensors", folder / "parent.safetensors")
    assert trained(digits[:400], None, resume=folder).parent["model"] == str(old)


def test_the_best_score_is_remembered(digits, tmp_path):
    folder = killed_after(2, digits[:300], tmp_path, "quick", "epochs=4", "min_steps=2")
    stopped, plan = read_resumable_run(folder), planned(digits[:300], "quick", "epochs=4", "min_steps=2")
    with torch.random.fork_rng():
        state = stopped.restore(plan)
    assert state.best_accuracy == max(epoch["val_acc"] for epoch in stopped.epochs)
    best = max(range(2), key=lambda place: stopped.epochs[place]["val_acc"])
    state.network.load_state_dict(state.best_weights)
    found = predict_probabilities(state.network, plan.validation.pixels, plan.spec).argmax(1)
    accuracy = float((found == plan.validation.labels_among(plan.images.class_names)).mean())
    assert accuracy == stopped.epochs[best]["val_acc"]


def test_a_stopped_runs_folder_holds_a_model(digits, tmp_path):
    model = Classifier.load(killed_after(2, digits[:300], tmp_path, "quick", "epochs=4", "min_steps=30"))
    right = np.mean(np.array(model.predict(digits[300:]).names) == digits[300:].labels.astype(str))
    assert right > 0.5  # guessing gives 0.1
    assert (model.temperature, model.tta_below) == (1.0, 0.0)
    assert not model.predict(digits).unsure.any()


def test_before_the_first_epoch_there_is_no_model_but_a_run_to_resume(digits, tmp_path):
    words = ["quick", "epochs=2", "min_steps=2"]
    folder = killed_after(0, digits[:300], tmp_path, *words)
    with pytest.raises(ModelFileError, match=r"before its first epoch had ended. Resume it: imprint train --resume"):
        Classifier.load(folder)
    resumed = trained(digits[:300], None, resume=folder)
    assert resumed.history["loss"] == trained(digits[:300], *words).history["loss"]


def test_the_same_command_goes_on_where_its_folder_is_named(digits, tmp_path):
    words = ["quick", "epochs=3", "min_steps=2", "precision=float64"]
    folder = killed_after(1, digits[:300], tmp_path, *words)
    assert next(Classifier.load(folder).network.parameters()).dtype == torch.float32  # whatever training computes in
    with pytest.raises(UsageError, match="seed=8 at --resume: the run began with seed=7"):
        trained(digits[:300], *words, "seed=8", run=folder)
    resumed = trained(digits[:300], *words, run=folder)
    assert resumed.folder == folder
    assert resumed.history["loss"] == trained(digits[:300], *words).history["loss"]
    with pytest.raises(UsageError, match="it already holds something"):
        trained(digits[:300], *words, run=folder)


@pytest.fixture(scope="module")
def stopped_folder(digits, tmp_path_factory):
    return killed_after(1, digits[:300], tmp_path_factory.mktemp("stopped"), *SHORT)


@pytest.mark.parametrize("setting", ["epochs=4", "seed=8", "networks=deep", "validation_fraction=0.2"])
def test_another_recipe_is_refused(digits, stopped_folder, setting):
    key, _, value = setting.partition("=")
    with pytest.raises(UsageError, match=rf"{key}=.*{value}.* at --resume: the run began with {key}="):
        trained(digits[:300], None, setting, resume=stopped_folder)


def test_changed_data_is_refused(digits, stopped_folder):
    pixels = digits.pixels[:300].copy()
    pixels[7, 0, 3, 3] ^= 1
    labels = digits.labels[:300].copy()
    labels[5] = (labels[5] + 1) % 10
    for changed in (replace(digits[:300], pixels=pixels), replace(digits[:300], labels=labels), digits[:299]):
        with pytest.raises(DataError, match=r"it is not what the run in .* began with\. Give the same data"):
            trained(changed, None, resume=stopped_folder)


def test_a_run_begun_by_an_earlier_version_is_gone_on_with(digits, stopped_folder):
    resumed = read_resumable_run(stopped_folder)
    plan = planned(digits[:300], *SHORT)
    earlier = data_fingerprint(plan, earlier=True)
    assert earlier != resumed.facts["data"]
    replace(resumed, facts=resumed.facts | {"data": earlier}).check(plan)


def test_another_machine_is_told(digits, stopped_folder, monkeypatch, caplog):
    monkeypatch.setattr("imprint.training.checkpoint.machine_name", lambda device: "another")
    read_resumable_run(stopped_folder).check(planned(digits[:300], *SHORT))
    assert "begun on another machine" in caplog.text


def test_the_compute_config_of_the_beginning_is_used_again(digits, stopped_folder, monkeypatch):
    adopted = {}
    monkeypatch.setattr(
        "imprint.training.checkpoint.adopt_compute_configs", lambda device, chosen: adopted.update(chosen)
    )
    read_resumable_run(stopped_folder).check(planned(digits[:300], *SHORT))
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
    "threads of no machine": lambda tensors, facts: facts["resume"]["compute"]["auto"].update(threads=-1),
    "a machine of numbers": lambda tensors, facts: facts["resume"].update(machine=1),
    "paths of lists": lambda tensors, facts: facts["resume"]["options"].update(data=["digits"]),
    "a state of random numbers that is none": lambda tensors, facts: tensors["resume/random/cpu"].fill_(7),
    "a tensor less": lambda tensors, facts: tensors.pop("resume/losses"),
    "a tensor of another shape": lambda tensors, facts: tensors.update({"resume/losses": torch.ones(3)}),
    "weights that are no numbers": lambda tensors, facts: tensors["resume/network/dense.bias"].fill_(float("nan")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_checkpoint_that_does_not_hold_together_is_refused(digits, stopped_folder, tmp_path, change):
    tensors, facts = read_model_file(stopped_folder / "checkpoint.safetensors")
    CHANGES[change](tensors, facts)
    write_model_file(tmp_path / "checkpoint.safetensors", tensors, facts)
    plan = planned(digits[:300], *SHORT)
    with torch.random.fork_rng(), pytest.raises(ModelFileError, match="its header is inconsistent"):
        read_resumable_run(tmp_path).restore(plan)


def test_a_run_that_has_ended_is_not_resumed(model, tmp_path):
    model.save(tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match="it has ended, nothing is left to do"):
        read_resumable_run(tmp_path)
    with pytest.raises(UsageError, match="there is no checkpoint in it"):
        read_resumable_run(tmp_path / "nowhere")


def test_checkpoints_take_a_hundredth_of_the_time(digits, tmp_path):
    plan = planned(digits[:300], "quick")
    checkpoint, state = Checkpoint(tmp_path, plan, {"data": "digits"}), start_network(plan)
    checkpoint.write(state)
    assert checkpoint.due()  # the first epoch is kept at once
    state.epochs.append({"loss": 1.0})
    checkpoint.write(state)
    assert not checkpoint.due()
    checkpoint._written -= 100 * checkpoint._cost
    assert checkpoint.due()


def full(path):
    raise OSError(28, "No space left on device")


def test_a_full_disk_is_noticed_before_training(digits, tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UsageError, match=r"No space left on device.*Free some space"):
        trained(digits[:300], *SHORT, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_disk_that_fills_up_costs_checkpoints_not_the_run(digits, tmp_path, monkeypatch, caplog):
    whole = Checkpoint.write

    def fills_up(self, state):
        with pytest.MonkeyPatch.context() as patch:
            if len(state.epochs) >= 2:
                patch.setattr("os.fsync", full)
            whole(self, state)
        if len(state.epochs) == 3:
            shutil.copytree(tmp_path / "run", tmp_path / "then")

    monkeypatch.setattr(Checkpoint, "due", lambda self: True)
    monkeypatch.setattr(Checkpoint, "write", fills_up)
    run = imprint.train(digits[:300], "quick", epochs=3, min_steps=2, device="cpu", run=tmp_path / "run")
    assert len(run.history["loss"]) == 3
    assert [path.name for path in (tmp_path / "then").iterdir()] == ["checkpoint.safetensors"]
    assert len(read_resumable_run(tmp_path / "then").epochs) == 1
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_divergence_leaves_the_last_good_checkpoint(digits, tmp_path, monkeypatch):
    seen = []

    def worse(probabilities, labels):
        seen.append(0)
        return float("nan") if len(seen) == 3 else 1.0

    monkeypatch.setattr("imprint.training.fit.log_loss", worse)
    monkeypatch.setattr(Checkpoint, "due", lambda self: True)
    with pytest.raises(UsageError, match=r"loss at epoch 3: it is no longer a number: .*--set learning_rate=0.0015"):
        trained(digits[:300], "quick", "epochs=4", "min_steps=2", run=tmp_path / "run")
    assert len(read_resumable_run(tmp_path / "run").epochs) == 2
    assert Classifier.load(tmp_path / "run").predict(digits[:3]).names


def test_a_checkpoint_holds_no_code_and_no_secret(stopped_folder):
    facts = read_model_file(stopped_folder / "checkpoint.safetensors")[1]
    assert {type(value) for value in facts["resume"]["options"].values()} <= {str, float, bool}
    assert json.dumps(facts)


def test_copies_of_a_folder_can_be_resumed(stopped_folder, tmp_path):
    shutil.copytree(stopped_folder, tmp_path / "moved")
    assert len(read_resumable_run(tmp_path / "moved").epochs) == 1


def test_a_resumed_run_computes_with_the_threads_that_were_settled(digits, tmp_path, monkeypatch):
    asked = []

    def share_cores(most, settled=0):
        asked.append(settled)
        return settled or 3

    monkeypatch.setattr("imprint.training.fit.share_cores", share_cores)
    folder = killed_after(2, digits[:100], tmp_path, *SHORT)
    assert asked == [0, 0, 0]
    asked.clear()
    resumed = trained(digits[:100], None, resume=folder)
    assert asked == [3, 0]
    assert resumed.history["threads"] == [3, 3, 3]
    asked.clear()
    trained(digits[:100], *SHORT, "threads=2")
    assert set(asked) == {2}
