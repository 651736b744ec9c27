"""`imprint train` and what its runs leave behind."""

import csv
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pexpect
import pytest

from helpers import FAST, IMPRINT, pixel_table, refused, run_imprint
from imprint.report.run_report import write_report


def test_the_run_folder(lesson, digits_csv):
    folder = digits_csv / "runs" / "0001-tutorial"
    names = (
        "curves.png history.csv metrics.json model.safetensors origin.json "
        "predictions.png recipe.json result.csv seen.safetensors validation.csv"
    )
    assert sorted(path.name for path in folder.iterdir()) == names.split()
    lines = lesson.stdout.splitlines()  # the score first, the folder last
    assert lines[0].startswith("validation accuracy ")
    assert lines[1].startswith("expect ")
    written = r"runs/0001-tutorial: model, scores and curves; predictions in result.csv; trained in \d+\.\d s"
    assert re.fullmatch(written, lines[-1])


def test_a_dry_run_tells_the_plan_and_writes_nothing(digits_csv, tmp_path):
    arguments = ["train", digits_csv / "train.csv", "--dry-run", "--test", digits_csv / "test.csv", *FAST]
    done = run_imprint(*arguments, cwd=tmp_path)
    rows = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert rows["recipe"] == "quick, the default for small grey images"
    assert rows["training"] == "552 images of 8×8 grey"
    assert rows["validation"] == "48"
    assert rows["test"] == "100 images"
    assert rows["work"] == "3 epochs of quick at 28×28, seed 7, cpu"
    assert rows["time"].startswith("about ")
    facts = json.loads(run_imprint(*arguments, "--json", cwd=tmp_path).stdout)
    assert (facts["dry_run"], facts["recipe"], facts["epochs"], facts["networks"]) == (True, "quick", 3, ["quick"])
    assert facts["images"] == {"training": 552, "validation": 48, "test": 100}
    assert sum(facts["classes"].values()) == 600
    assert facts["estimate"]["seconds"] > 0
    assert not list(tmp_path.iterdir())
    assert "it already holds something" in refused(*arguments, "--run", digits_csv, cwd=tmp_path)


def test_details_stand_behind_verbose(digits_csv, tmp_path):
    arguments = ["train", digits_csv / "train.csv", "--epochs", "1", "--set", "min_steps=1"]
    told = run_imprint(*arguments, cwd=tmp_path).stderr
    assert "self-check" not in told
    assert max(map(len, told.splitlines()[:3])) <= 100
    assert "self-check" in run_imprint(*arguments, "--verbose", cwd=tmp_path).stderr
    assert "self-check" not in run_imprint(*arguments, "--verbose", "--quiet", cwd=tmp_path).stderr


def test_corrected_labels_are_learnt(divided):
    wrong = next(divided.glob("images/train/0/*.png")).relative_to(divided)
    held_out = next(divided.glob("images/val/1/*.png")).relative_to(divided)
    (divided / "list.csv").write_text(f"source,label,given\n{wrong},1,0\n{held_out},,1\n")
    arguments = ["train", "images", "--recipe", "quick", *FAST, "--run", "run"]
    done = run_imprint(*arguments, "--labels", "list.csv", cwd=divided)
    assert re.search(r"labels of list\.csv: 1 of \d+ changed\n", done.stderr)
    assert re.search(r"labels of list\.csv: 0 of \d+ changed, 1 image without a label left out\n", done.stderr)
    origin = json.loads((divided / "run/origin.json").read_text())
    counts = [origin[part]["classes"] for part in ("training", "validation")]
    files = [
        {name: len(list((divided / "images" / part / name).iterdir())) for name in "01"} for part in ("train", "val")
    ]
    assert counts[0] == {"0": files[0]["0"] - 1, "1": files[0]["1"] + 1}
    assert counts[1] == {"0": files[1]["0"], "1": files[1]["1"] - 1}
    assert "images cannot be shown" not in run_imprint("report", "run", cwd=divided).stderr
    (divided / "other.csv").write_text("source,label\nimages/nowhere.png,1\n")
    line = refused("train", "images", "--recipe", "quick", "--labels", "other.csv", "--run", "none", cwd=divided)
    assert line.startswith("error: source images/nowhere.png at other.csv: images has no such image.")
    assert not (divided / "none").exists()


def test_epoch_lines_are_kerass(lesson):
    epochs = [line for line in lesson.stderr.splitlines() if line.startswith("Epoch")]
    number = r"\d+\.\d{4}"
    form = (
        rf"Epoch \d/4 - \d+\.\d+s - loss: {number} - acc: {number} - val_loss: {number} - val_acc: {number} - lr: 0.001"
    )
    assert len(epochs) == 4
    assert all(re.fullmatch(form, line) for line in epochs)


def test_the_score_has_interval_images_and_baseline(lesson):
    interval = r"95 % interval 0\.\d{4} to [01]\.\d{4}"
    form = rf"validation accuracy [01]\.\d{{4}} \({interval}; 48 images; always the commonest class: 0\.\d{{4}}\)"
    assert any(re.fullmatch(form, line) for line in lesson.stdout.splitlines())


def test_result_csv_is_what_kaggle_takes(lesson, digits_csv, digits):
    with open(digits_csv / "runs/0001-tutorial/result.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["ImageId", "Label"]
    assert [row[0] for row in rows[1:]] == [str(i) for i in range(1, 101)]
    right = np.mean([int(row[1]) == label for row, label in zip(rows[1:], digits.labels[600:700], strict=True)])
    assert right > 0.6  # guessing gives 0.1


def test_train_json_and_numbering(digits_csv, tmp_path):
    arguments = ["train", digits_csv / "train.csv", *FAST, "--seed", "5", "--validation", "0.2", "--json"]
    arguments += ["--trust", "0.8"]
    contents = [json.loads(run_imprint(*arguments, cwd=tmp_path).stdout) for _ in range(2)]
    assert [content["run"] for content in contents] == ["runs/0001-quick", "runs/0002-quick"]
    assert {"run", "model", "recipe", "seconds", "validation", "unsure", "trust"} <= set(contents[0])
    assert contents[0]["trust"]["trust"] == 0.8
    assert set(contents[0]["unsure"]) == {"share", "accuracy_when_sure", "strange", "low_confidence"}
    assert set(contents[0]["validation"]) == {
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
    assert contents[0]["validation"]["images"] == 120
    assert contents[0]["validation"] == contents[1]["validation"]
    models = [(tmp_path / content["model"]).read_bytes() for content in contents]
    assert models[0] == models[1]


def test_several_seeds_show_what_chance_does(digits_csv, tmp_path):
    arguments = ["train", digits_csv / "train.csv", *FAST, "--seeds", "2", "--seed", "5", "--run", "mine"]
    facts = json.loads(run_imprint(*arguments, "--json", cwd=tmp_path).stdout)
    assert [row["seed"] for row in facts["seeds"]] == [5, 6]
    accuracies = [row["accuracy"] for row in facts["seeds"]]
    assert facts["mean"] == pytest.approx(statistics.mean(accuracies))
    assert facts["sd"] == pytest.approx(statistics.stdev(accuracies))
    assert facts["run"] == facts["seeds"][0]["run"] == "mine/seed-5"
    kept = json.loads((tmp_path / "mine/seed-6/metrics.json").read_text())
    assert kept["validation"]["accuracy"] == accuracies[1]
    assert kept["expected"]["interval"][0] < accuracies[1] <= kept["expected"]["interval"][1]
    assert json.loads((tmp_path / "mine/seed-6/recipe.json").read_text())["seed"] == 6


def test_train_with_given_validation_and_folder(digits_csv, tmp_path):
    arguments = ["train", digits_csv / "train.csv", *FAST, "--validation", digits_csv / "labelled.csv", "--run", "mine"]
    assert "100 held out" in run_imprint(*arguments, cwd=tmp_path).stderr
    assert (tmp_path / "mine" / "model.safetensors").is_file()
    page = write_report(tmp_path / "mine").read_text(encoding="utf-8")
    assert "validation data" in page
    assert "of 100 images. Each stands under" in page
    line = refused(*arguments, cwd=tmp_path)
    assert "run folder at mine: it already holds something" in line


def without_seconds(history):
    with open(history) as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def test_a_runs_recipe_repeats_it(lesson, digits_csv, tmp_path):
    first = digits_csv / "runs/0001-tutorial"
    arguments = ["train", digits_csv / "train.csv", "--recipe", first / "recipe.json", "--run", "again"]
    run_imprint(*arguments, "--test", digits_csv / "test.csv", cwd=tmp_path)
    for name in ("model.safetensors", "result.csv", "recipe.json"):
        assert (tmp_path / "again" / name).read_bytes() == (first / name).read_bytes()
    assert without_seconds(tmp_path / "again/history.csv") == without_seconds(first / "history.csv")


def test_words_as_labels(digits, tmp_path):
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    spelled = type(digits)(digits.pixels[:300], digits.labels[:300], names, digits.sources[:300])
    Path(tmp_path / "words.csv").write_text(pixel_table(spelled))
    run_imprint("train", "words.csv", *FAST, "--test", "words.csv", cwd=tmp_path)
    with open(tmp_path / "runs/0001-quick/result.csv") as file:
        assert {row["Label"] for row in csv.DictReader(file)} <= set(names)


def test_divided_folders_from_training_to_predictions(divided):
    (divided / "images/train/0/broken.png").write_bytes(b"no image")
    done = run_imprint("train", "images", *FAST, "--test", "images/test/0", "--json", cwd=divided)
    assert "left out 1 of " in done.stderr
    facts = json.loads(done.stdout)
    assert facts["validation"]["images"] == len(list(divided.glob("images/val/*/*.png")))
    scored = run_imprint("evaluate", facts["model"], "images", "--json", cwd=divided)
    assert "scoring the test part" in scored.stderr
    assert json.loads(scored.stdout)["images"] == len(list(divided.glob("images/test/*/*.png")))
    assert "cannot be shown" not in write_report(divided / facts["run"]).read_text(encoding="utf-8")
    result = (divided / facts["result"]).read_text().splitlines()
    assert result[0] == "source,label,confidence,unsure,why"
    assert len(result) == 1 + len(list(divided.glob("images/test/0/*.png")))
    listed = json.loads(run_imprint("cache", "--json", cwd=divided).stdout)
    assert {"folder", "limit", "entries"} == set(listed)
    assert run_imprint("cache", "--clear", cwd=divided).stdout.count("\n") == 1


def test_a_share_is_refused_where_the_data_have_a_validation_part(divided):
    line = refused("train", "images", "--set", "validation_fraction=0.3", cwd=divided)
    assert "validation_fraction=0.3 at train: the data have a validation part" in line


def test_a_run_is_named_after_its_day(digits_csv, tmp_path):
    before = date.today()
    train = ["train", digits_csv / "train.csv", "--epochs", "1", "--set", "min_steps=1", "--run", "weekly-{date}"]
    run = json.loads(run_imprint(*train, "--json", cwd=tmp_path).stdout)["run"]
    assert run in {f"weekly-{day}" for day in (before, date.today())}


def test_a_weekly_run_starts_from_the_one_before(digits, digits_csv, tmp_path):
    old = ["train", digits_csv / "train.csv", "--recipe", "quick", *FAST, "--run", "runs/week1"]
    run_imprint(*old, cwd=tmp_path)
    (tmp_path / "more.csv").write_text(pixel_table(digits[:800]))
    done = run_imprint("train", "more.csv", "--from", "runs/week1", "--run", "runs/week2", "--json", cwd=tmp_path)
    facts = json.loads(done.stdout)
    assert "552 images that it was trained on, 48 that it held out, 200 new" in done.stderr
    assert facts["validation"]["images"] == 48 + 16
    assert facts["parent"]["model"] == "runs/week1"
    assert facts["parent"]["leak"] == ""
    listed = json.loads(run_imprint("runs", "--json", cwd=tmp_path).stdout)["runs"]
    assert [one["parent"] for one in listed] == [None, f"runs/week1 ({facts['parent']['sha256'][:8]})"]
    assert [one["leak"] for one in listed] == [None, None]
    assert "started from" in run_imprint("runs", cwd=tmp_path).stdout.splitlines()[0]
    assert "≤" not in run_imprint("runs", cwd=tmp_path).stdout
    (tmp_path / "runs/week1/seen.safetensors").unlink()
    printed = run_imprint("train", "more.csv", "--from", "runs/week1", cwd=tmp_path).stdout
    assert "(upper estimate)" in next(line for line in printed.splitlines() if line.startswith("validation accuracy"))
    leak = "the old model may have been trained on the 64 images held out"
    assert leak in printed
    listed = json.loads(run_imprint("runs", "--sort", "ended", "--json", cwd=tmp_path).stdout)["runs"]
    unknown = next(one for one in listed if one["leak"])
    assert unknown["leak"].startswith(leak)
    assert f"≤{unknown['accuracy']:.4f}" in run_imprint("runs", cwd=tmp_path).stdout
    again = ["train", "more.csv", "--from", "runs/week1", "--dry-run"]
    planned = json.loads(run_imprint(*again, "--json", cwd=tmp_path).stdout)
    assert planned["leak"] == planned["parent"]["leak"] == unknown["leak"]
    assert planned["parent"]["model"] == "runs/week1"
    assert f"warning: {leak}" in run_imprint(*again, cwd=tmp_path).stdout
    (tmp_path / "some.csv").write_text(pixel_table(digits[:50]))
    told = run_imprint("evaluate", unknown["run"], "some.csv", cwd=tmp_path).stderr
    assert f"warning: nothing tells which images {unknown['run']} was trained on" in told
    wide = replace(digits[:100], pixels=digits.pixels[:100].repeat(2, axis=3).repeat(2, axis=2))
    (tmp_path / "wide.csv").write_text(pixel_table(wide))
    assert "model was trained on images of 8×8 grey" in refused(
        "train", "wide.csv", "--from", "runs/week1", cwd=tmp_path
    )


def test_some_classes_are_learnt_scored_and_checked(digits_csv, tmp_path):
    data = digits_csv / "train.csv"
    train = ["train", data, "--classes", "3, 5", *FAST, "--validation", digits_csv / "labelled.csv", "--run", "two"]
    images = json.loads(run_imprint(*train, "--json", cwd=tmp_path).stdout)["validation"]["images"]
    assert 0 < images < 40
    scored = run_imprint("evaluate", "two", digits_csv / "labelled.csv", "--classes", "3,5", "--json", cwd=tmp_path)
    assert json.loads(scored.stdout)["images"] == images
    checked = run_imprint("check", data, "--classes", '["3","5"]', "--no-labels", "--json", cwd=tmp_path)
    assert set(json.loads(checked.stdout)["classes"]) == {"3", "5"}
    assert "class 'x' at train.csv: there is no such class" in refused("train", data, "--classes", "3,x", cwd=tmp_path)


@contextmanager
def long_run(digits_csv, folder):
    """A run of 500 epochs, of which the third has ended."""
    arguments = [
        "train",
        digits_csv / "train.csv",
        "--set",
        "epochs=500",
        "--set",
        "min_steps=20",
        "--test",
        digits_csv / "test.csv",
    ]
    with subprocess.Popen(
        [*IMPRINT, *map(str, arguments)], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        for line in process.stderr:
            if line.startswith("Epoch 3/"):
                break
        yield process


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_the_best_model(digits_csv, tmp_path, sent):
    with long_run(digits_csv, tmp_path) as process:
        process.send_signal(sent)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "stopped: the best epoch so far is kept" in err
    assert "imprint train --resume runs/0001-quick goes on from epoch " in err
    facts = json.loads((tmp_path / "runs/0001-quick/metrics.json").read_text())
    assert facts["interrupted"]
    with open(tmp_path / "runs/0001-quick/history.csv") as file:
        history = list(csv.DictReader(file))
    assert len(history) == facts["epochs"] < 500
    best = max(float(row["val_acc"]) for row in history)
    assert facts["validation"]["accuracy"] >= best - 0.05  # with views, after one epoch far better than without
    assert len((tmp_path / "runs/0001-quick/result.csv").read_text().splitlines()) == 101


def test_ctrl_c_again_and_again_ends_in_one_line(digits_csv, tmp_path):
    with long_run(digits_csv, tmp_path) as process:
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.05)
        err = process.stderr.read()
    assert process.returncode in (0, 130), err
    assert "Traceback" not in err
    left = sorted(path.name for path in (tmp_path / "runs/0001-quick").iterdir())
    assert "checkpoint.safetensors" in left
    assert not [name for name in left if name.endswith(".part")]
    if process.returncode:
        words = r"error: run at runs/0001-quick: stopped, what was learnt by epoch \d+ is kept\. imprint train --resume"
        assert re.match(words, err.splitlines()[-1])


def test_killed_and_taken_up(digits_csv, tmp_path):
    shutil.copytree(digits_csv, tmp_path, dirs_exist_ok=True)
    options = ["--set", "epochs=6", "--set", "min_steps=10", "--test", "test.csv", "--run", "run"]
    with subprocess.Popen(
        [*IMPRINT, "train", "train.csv", *options], cwd=tmp_path, text=True, stderr=subprocess.PIPE
    ) as process:
        for line in process.stderr:
            if line.startswith("Epoch 3/"):
                break
        process.kill()
    labelled = (tmp_path / "train.csv").read_bytes()
    (tmp_path / "train.csv").unlink()
    assert "data at train.csv: it cannot be read" in refused("train", "--resume", "run", cwd=tmp_path)
    (tmp_path / "train.csv").write_bytes(labelled.replace(b",255,", b",254,", 1))
    assert "it is not what the run in run began with" in refused("train", "--resume", "run", cwd=tmp_path)
    (tmp_path / "train.csv").write_bytes(labelled)
    assert "epochs=9 at --resume" in refused("train", "--resume", "run", "--set", "epochs=9", cwd=tmp_path)
    predicted = run_imprint("predict", "run", "test.csv", cwd=tmp_path)
    assert "run was stopped before its end" in predicted.stderr
    assert predicted.stdout.count("\n") == 101
    done = run_imprint("train", "--resume", "run", cwd=tmp_path)
    assert "Epoch 6/6" in done.stderr
    assert (tmp_path / "run/result.csv").read_text().count("\n") == 101
    assert len(without_seconds(tmp_path / "run/history.csv")) == 6
    typed = f"imprint train train.csv {' '.join(options)}"  # which repeats the run, as --resume would not
    assert json.loads((tmp_path / "run/origin.json").read_text())["command"] == typed
    assert "run at run: it has ended" in refused("train", "--resume", "run", cwd=tmp_path)


def test_ctrl_c_before_the_first_epoch_leaves_no_run(digits_csv, tmp_path):
    arguments = ["train", digits_csv / "train.csv", "--set", "steps_per_epoch=100000"]
    with subprocess.Popen(
        [*IMPRINT, *map(str, arguments)], cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        for line in process.stderr:
            if line.startswith("training on"):
                break
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert not list((tmp_path / "runs").iterdir())


def test_a_terminal_gets_a_bar_with_the_time_left(digits_csv, tmp_path):
    arguments = ["-m", "imprint", "train", str(digits_csv / "train.csv"), *FAST, "--set", "steps_per_epoch=60"]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    child = pexpect.spawn(sys.executable, arguments, cwd=tmp_path, env=environment, encoding="utf-8", timeout=300)
    child.expect(r"training .*?%.*?left")
    child.expect(r"Epoch 1/3 - ")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
