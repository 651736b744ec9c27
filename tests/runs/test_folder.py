import csv
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import imprint
from helpers import pixel_table
from imprint import RECIPES, Classifier, UsageError
from imprint.core.errors import StoppedError
from imprint.core.scores import read_labelled_predictions
from imprint.models.model_file import CHECKPOINT_NAME
from imprint.recipes import find_recipe
from imprint.runs.folder import merge_options, new_run_folder, run_session, unfinished_note
from imprint.runs.read_run import read_run
from imprint.training.checkpoint import ResumableRun, start_network
from imprint.training.plan import make_plan


@pytest.fixture
def plan(digits):
    return make_plan(digits[:300], "quick", epochs=3, min_steps=2, device="cpu")


def test_nobody_else_trains_in_a_folder_where_a_run_is_at_work(plan, tmp_path):
    with run_session(tmp_path, plan, {"data": "digits"}) as checkpoint:
        checkpoint.write(start_network(plan))
        with pytest.raises(UsageError, match="another process is training in it"), run_session(tmp_path, plan, {}):
            pass
        assert checkpoint.path.is_file()


def test_a_run_at_work_is_told_from_one_that_was_killed(plan, tmp_path):
    with run_session(tmp_path, plan, {"data": "digits"}) as checkpoint:
        state = start_network(plan)
        checkpoint.write(state)
        random = "0 of 3 epochs have ended: its weights are still random, so predictions mean nothing"
        assert unfinished_note(tmp_path) == f"{tmp_path} is still training, {random}"
        state.epochs.append({"loss": 1.0})
        checkpoint.write(state)
        so_far = "is still training, 1 of 3 epochs have ended: its best epoch so far is taken"
        assert unfinished_note(tmp_path) == f"{tmp_path} {so_far}"
        with pytest.raises(UsageError, match=r"it is still training\. Wait"):
            read_run(tmp_path)
    note = unfinished_note(tmp_path)  # the lock ends with its process, however that ends
    assert note.startswith(f"{tmp_path} was stopped before its end: its best epoch so far is taken; imprint train")


def test_what_a_killed_run_was_writing_stands_in_nobodys_way(plan, tmp_path):
    (tmp_path / ".checkpoint.safetensors.123.part").write_text("half")
    assert new_run_folder("quick", tmp_path) == tmp_path
    with run_session(tmp_path, plan, {}):
        assert not list(tmp_path.iterdir())


def test_a_second_ctrl_c_leaves_the_checkpoint_and_says_how_to_resume(digits, plan, tmp_path, monkeypatch):
    def ctrl_c(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("imprint.training.checkpoint.Checkpoint.due", lambda self: True)
    monkeypatch.setattr("imprint.runs.training.calibrate", ctrl_c)
    folder = tmp_path / "run"
    words = rf"run at {folder}: stopped, what was learnt by epoch 3 is kept\. imprint train --resume {folder} goes on\."
    with pytest.raises(StoppedError, match=words):
        imprint.train(digits[:300], plan.recipe, run=folder, device="cpu", verbose=False)
    assert [path.name for path in folder.iterdir()] == [CHECKPOINT_NAME]
    assert f"{folder} was stopped before its end" in unfinished_note(folder)
    assert Classifier.load(folder).predict(digits[:2]).names
    with pytest.raises(UsageError, match=r"it was stopped before its end\. Resume it: imprint train --resume"):
        read_run(folder)


def test_ctrl_c_before_the_first_epoch_leaves_no_folder(plan, tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(KeyboardInterrupt), run_session(tmp_path / "run", plan, {}) as checkpoint:
        checkpoint.write(start_network(plan))
        raise KeyboardInterrupt
    assert not (tmp_path / "run").exists()


def test_options_left_out_are_those_of_the_beginning(tmp_path, monkeypatch):
    (tmp_path / "train.csv").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["/somewhere/imprint", "train", "train.csv"])
    begun = merge_options({"data": "train.csv", "group": None, "allow_bad": 0.5, "test": None})
    command = "imprint train train.csv"
    expected = {"data": "train.csv", "allow_bad": 0.5, "device": "auto", "folder": str(tmp_path), "command": command}
    assert begun == expected
    stopped = ResumableRun(tmp_path, RECIPES["quick"], begun, [], {}, {}, {})
    assert merge_options({"data": None, "test": "test.csv"}, stopped) == begun | {"test": "test.csv"}
    monkeypatch.chdir("/")
    assert merge_options({"data": None}, stopped)["data"] == str(tmp_path / "train.csv")
    assert merge_options({"data": "digits"}, stopped)["data"] == "digits"
    with pytest.raises(UsageError, match="Missing argument DATA"):
        merge_options({"data": None})


def test_numbers_rise_and_nothing_is_overwritten(tmp_path):
    (tmp_path / "0041-best").mkdir()
    (tmp_path / "notes").mkdir()
    assert new_run_folder("quick", True, parent=tmp_path).name == "0042-quick"
    assert new_run_folder("tutorial", True, parent=tmp_path).name == "0043-tutorial"


def test_a_folder_that_holds_something_is_refused(tmp_path):
    assert new_run_folder("quick", tmp_path / "mine") == tmp_path / "mine"
    (tmp_path / "mine" / "model.safetensors").write_text("precious")
    with pytest.raises(UsageError, match="it already holds something"):
        new_run_folder("quick", tmp_path / "mine")
    assert (tmp_path / "mine" / "model.safetensors").read_text() == "precious"


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(UsageError, match="it cannot be made"):
        new_run_folder("quick", tmp_path / "runs" / "x")


def test_nothing_is_written_unless_asked(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = imprint.train(digits[:100], "quick", epochs=1, min_steps=1, verbose=False)
    assert run.folder is None
    assert not list(tmp_path.iterdir())


def test_python_writes_the_whole_folder_too(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = imprint.train(digits[:100], "quick", test=digits[:20], run=True, epochs=1, min_steps=1, verbose=False)
    assert str(run.folder) == "runs/0001-quick"
    names = "curves.png history.csv metrics.json model.safetensors origin.json predictions.png recipe.json result.csv"
    assert sorted(path.name for path in run.folder.iterdir()) == [*names.split(), "seen.safetensors", "validation.csv"]
    assert (run.folder / "result.csv").read_text() == run.result.to_csv()


def test_contents(run, run_folder):
    facts = run.facts()
    assert json.loads((run_folder / "metrics.json").read_text()) == json.loads(json.dumps(facts))
    assert set(facts["validation"]) == {
        "images",
        "accuracy",
        "balanced_accuracy",
        "macro_f1",
        "interval",
        "baseline",
        "method",
        "log_loss",
        "calibration_error",
        "brier",
        "top_5",
    }
    assert find_recipe(str(run_folder / "recipe.json")) == run.recipe
    with open(run_folder / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == [str(i) for i in range(1, 13)]
    assert [float(row["val_acc"]) for row in rows] == pytest.approx(run.history["val_acc"], rel=1e-5)


def test_evidence_is_what_the_model_says_of_the_images_held_out(run_folder, model, digits):
    labelled = read_labelled_predictions(run_folder / "validation.csv", model.class_names)
    held_out = digits[labelled.places]
    said = model.predict(held_out)
    assert (np.diff(labelled.places) > 0).all()
    assert np.array_equal(labelled.sources, held_out.sources)
    assert np.array_equal(labelled.labels, held_out.labels)
    assert np.array_equal(labelled.predicted, said.labels)
    assert np.array_equal(labelled.unsure, said.unsure)
    assert np.abs(labelled.confidence - said.probabilities.max(axis=1)).max() < 1e-5


def test_runs_that_begin_at_once_get_folders_of_their_own(tmp_path):
    with ThreadPoolExecutor(8) as threads:
        folders = list(threads.map(lambda _: new_run_folder("quick", True, parent=tmp_path / "runs"), range(40)))
    assert sorted(folder.name for folder in folders) == [f"{place:04}-quick" for place in range(1, 41)]


def killed_in_the_second_epoch(images, folder, monkeypatch, **options):
    def killed(*arguments):
        raise SystemExit

    monkeypatch.setattr("imprint.runs.training.calibrate", killed)
    with pytest.raises(SystemExit):
        imprint.train(images, "quick", epochs=1, min_steps=2, run=folder, device="cpu", verbose=False, **options)
    monkeypatch.undo()


def test_images_loaded_in_python_are_found_again_with_their_groups(digits, tmp_path, monkeypatch):
    (tmp_path / "train.csv").write_text(pixel_table(digits[:200]))
    killed_in_the_second_epoch(imprint.load(tmp_path / "train.csv"), tmp_path / "run", monkeypatch)
    resumed = imprint.train(resume=tmp_path / "run", verbose=False)
    assert resumed.validation.images == 16
    folder = tmp_path / "images"
    for place in range(60):
        target = folder / digits.class_names[digits.labels[place]] / f"person{place % 6}-{place}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.pixels[place, 0]).save(target)
    grouped = imprint.load(folder, group=r"person(\d)", side=64)
    killed_in_the_second_epoch(grouped, tmp_path / "second", monkeypatch, validation=0.3)
    assert imprint.train(resume=tmp_path / "second", verbose=False).expected.images > 10


def test_a_part_is_not_divided_once_more(digits, tmp_path, monkeypatch):
    for part, places in (("train", range(0, 80)), ("val", range(80, 120))):
        for place in places:
            target = tmp_path / "d" / part / digits.class_names[digits.labels[place]] / f"{place}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(digits.pixels[place, 0]).save(target)
    images = imprint.load(tmp_path / "d")
    killed_in_the_second_epoch(images, tmp_path / "run", monkeypatch)
    assert imprint.train(resume=tmp_path / "run", verbose=False).validation.images < 10


def test_images_made_in_python_must_be_given_again(digits, tmp_path, monkeypatch):
    killed_in_the_second_epoch(digits[:100], tmp_path / "run", monkeypatch)
    with pytest.raises(UsageError, match=r"its data images were made in Python.*imprint\.train\(images, resume"):
        imprint.train(resume=tmp_path / "run", verbose=False)
    assert imprint.train(digits[:100], resume=tmp_path / "run", verbose=False).validation.images == 8


def parts_of_digits(digits, folder):
    for part, places in (("train", range(0, 80)), ("val", range(80, 120)), ("test", range(120, 150))):
        for place in places:
            target = folder / part / digits.class_names[digits.labels[place]] / f"{place}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(digits.pixels[place, 0]).save(target)
    return folder


def test_each_part_is_found_again(digits, tmp_path, monkeypatch):
    folder = parts_of_digits(digits, tmp_path / "d")
    images = imprint.load(folder)
    spec = imprint.InputSpec.from_shape(images.shape)
    validation, test = (imprint.load(folder, part=part, spec=spec) for part in ("validation", "test"))
    killed_in_the_second_epoch(images, tmp_path / "run", monkeypatch, validation=validation, test=test)
    resumed = imprint.train(resume=tmp_path / "run", verbose=False)
    assert resumed.validation.images == 40
    assert resumed.result.sources.tolist() == test.sources.tolist()
    assert len((tmp_path / "run" / "result.csv").read_text().splitlines()) == 31


@pytest.mark.parametrize("lost", ["validation", "test"])
def test_other_images_made_in_python_must_be_given_again_too(digits, tmp_path, monkeypatch, lost):
    killed_in_the_second_epoch(imprint.load("digits"), tmp_path / "run", monkeypatch, **{lost: digits[:50]})
    with pytest.raises(UsageError, match=rf"its {lost} images were made in Python.*{lost}=images"):
        imprint.train(resume=tmp_path / "run", verbose=False)
    again = imprint.train(resume=tmp_path / "run", verbose=False, **{lost: digits[:50]})
    assert (again.validation.images == 50) if lost == "validation" else (len(again.result) == 50)


def test_a_resumed_run_leaves_the_compute_configs_as_they_were(tmp_path, monkeypatch):
    from imprint.models import hardware

    killed_in_the_second_epoch("digits", tmp_path / "run", monkeypatch)
    before = dict(hardware._chosen)
    monkeypatch.setitem(hardware._chosen, ("cpu", 0, "float32"), replace(before["cpu", 0, "float32"], speed=99.0))
    imprint.train(resume=tmp_path / "run", verbose=False)
    assert hardware._chosen["cpu", 0, "float32"].speed == 99.0
