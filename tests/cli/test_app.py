import csv
import io
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
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pexpect
import pytest
from PIL import Image

from helpers import pixel_table
from imprint.__main__ import main
from imprint.cli.app import app
from imprint.report.run_report import write_report

IMPRINT = [sys.executable, "-m", "imprint"]
FAST = ["--set", "epochs=3", "--set", "min_steps=0"]


def imprint(*arguments, cwd, status=0, **environment):
    """Run a command within this process, which spares it seconds of imports."""
    encoding = environment.pop("PYTHONIOENCODING", "utf-8")
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True) for _ in range(2))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        patch.setattr("sys.argv", ["imprint", *map(str, arguments)])
        patch.setattr("sys.stdout", out)
        patch.setattr("sys.stderr", err)
        for name, value in environment.items():
            patch.setenv(name, value)
        try:
            with pytest.raises(SystemExit) as caught:
                main()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    stdout, stderr = (stream.buffer.getvalue().decode(encoding) for stream in (out, err))
    assert (caught.value.code or 0) == status, stderr
    assert "Traceback" not in stderr
    return SimpleNamespace(returncode=caught.value.code or 0, stdout=stdout, stderr=stderr)


@pytest.fixture
def refused(monkeypatch, capsys):
    """Run a command that must fail within this process, and give its one line."""

    def run(*arguments, cwd):
        monkeypatch.chdir(cwd)
        monkeypatch.setattr("sys.argv", ["imprint", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == 2
        out, err = capsys.readouterr()
        lines = err.splitlines()
        assert len(lines) == 1
        assert re.fullmatch(r"error: .+ at .+: .+\. .+\.", lines[0])
        assert not out or "--save" in arguments  # the table of the data comes before its image
        return lines[0]

    return run


@pytest.fixture(scope="module")
def lesson(digits_csv):
    """The whole lesson on small real data, once, in a process of its own as users have it."""
    arguments = ["train", "train.csv", "--recipe", "tutorial", "--set", "epochs=4", "--set", "steps_per_epoch=40"]
    command = [*IMPRINT, *arguments, "--test", "test.csv"]
    return subprocess.run(command, cwd=digits_csv, capture_output=True, encoding="utf-8", check=True)


def test_the_run_folder(lesson, digits_csv):
    folder = digits_csv / "runs" / "0001-tutorial"
    names = (
        "curves.png history.csv metrics.json model.safetensors origin.json "
        "predictions.png recipe.json result.csv validation.csv"
    )
    assert sorted(path.name for path in folder.iterdir()) == names.split()
    for name in names.split():
        assert f"runs/0001-tutorial/{name}" in lesson.stdout.splitlines()


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


def test_predict_repeats_what_train_wrote(lesson, digits_csv, tmp_path):
    imprint("predict", "runs/0001-tutorial", "test.csv", "-o", tmp_path / "again.csv", cwd=digits_csv)
    written = (digits_csv / "runs/0001-tutorial/result.csv").read_bytes()
    assert (tmp_path / "again.csv").read_bytes() == written
    printed = imprint("predict", "runs/0001-tutorial/model.safetensors", "test.csv", cwd=digits_csv).stdout
    assert printed.encode() == written


def test_predict_json(lesson, digits_csv):
    content = json.loads(imprint("predict", "runs/0001-tutorial", "test.csv", "--json", cwd=digits_csv).stdout)
    assert len(content["predictions"]) == 100
    assert set(content["predictions"][0]) == {"source", "label", "confidence", "unsure"}
    assert content["predictions"][4]["source"] == 5


def test_predict_other_data_gives_all_facts(model_file, tmp_path):
    lines = imprint("predict", model_file, "digits", cwd=tmp_path).stdout.splitlines()
    assert lines[0] == "source,label,confidence,unsure"
    assert re.fullmatch(r"digits#1,\d,[01]\.\d{4},(yes|no)", lines[1])
    assert len(lines) == 1798


def test_evaluate(lesson, digits_csv):
    content = json.loads(imprint("evaluate", "runs/0001-tutorial", "labelled.csv", "--json", cwd=digits_csv).stdout)
    keys = "images accuracy interval baseline log_loss calibration_error confusion classes unsure"
    assert set(content) >= set(keys.split())
    assert content["images"] == np.sum(content["confusion"]) == 100
    assert content["accuracy"] == np.trace(content["confusion"]) / 100
    text = imprint("evaluate", "runs/0001-tutorial", "labelled.csv", cwd=digits_csv).stdout
    assert text.startswith(f"accuracy {content['accuracy']:.4f} (95 % interval ")


def test_a_score_on_what_was_learnt_is_called_that(lesson, digits_csv):
    told = {
        data: imprint("evaluate", "runs/0001-tutorial", data, cwd=digits_csv) for data in ("train.csv", "labelled.csv")
    }
    assert "has learnt from this very data" in told["train.csv"].stderr
    assert not told["labelled.csv"].stderr


def test_explain(lesson, digits_csv, digits, tmp_path, refused):
    explain = ["explain", digits_csv / "runs/0001-tutorial"]
    done = imprint(*explain, digits_csv / "test.csv", "--index", "5", "--json", cwd=tmp_path)
    content = json.loads(done.stdout)
    assert content["files"] == ["test-5-explained.png"]
    assert (content["source"], content["truth"], len(content["compared"])) == (6, None, 2)
    assert content["layers"][0] == {"name": "conv2d", "shape": [30, 24, 24]}
    assert f"6,{content['label']}" in (digits_csv / "runs/0001-tutorial/result.csv").read_text().splitlines()
    Image.fromarray(digits.pixels[0, 0]).resize((90, 90)).save(tmp_path / "zero.png")
    lines = imprint(*explain, "zero.png", "-o", "why.png", cwd=tmp_path).stdout.splitlines()
    assert re.fullmatch(r"zero\.png: \d \(confidence [01]\.\d{4}(, unsure)?\)", lines[0])
    assert lines[1] == "why.png"
    with Image.open(tmp_path / "why.png") as image:
        assert image.width == 1350
    assert "it holds 100 images" in refused(*explain, digits_csv / "test.csv", "--index", "100", cwd=tmp_path)
    for wrong in (["nowhere.png"], ["zero.png", "--network", "2"], ["zero.png", "-o", "no/such/folder.png"]):
        refused(*explain, *wrong, cwd=tmp_path)


def test_compare(lesson, digits_csv, refused):
    both = ["compare", "runs/0001-tutorial", "runs/0001-tutorial", "labelled.csv"]
    content = json.loads(imprint(*both, "--json", cwd=digits_csv).stdout)
    assert (content["difference"], content["p_value"]) == (0, 1)
    assert content["interval"][0] < 0 < content["interval"][1]
    assert imprint(*both, cwd=digits_csv).stdout.splitlines()[-1] == "no difference beyond noise"
    told = imprint(*both[:3], "train.csv", cwd=digits_csv).stderr
    assert told.count("runs/0001-tutorial has learnt from this very data") == 2
    refused("compare", "runs/0001-tutorial", "nowhere", "labelled.csv", cwd=digits_csv)


def test_train_json_and_numbering(digits_csv, tmp_path):
    arguments = ["train", digits_csv / "train.csv", *FAST, "--seed", "5", "--validation", "0.2", "--json"]
    contents = [json.loads(imprint(*arguments, cwd=tmp_path).stdout) for _ in range(2)]
    assert [content["run"] for content in contents] == ["runs/0001-quick", "runs/0002-quick"]
    assert {"run", "model", "recipe", "seconds", "validation"} <= set(contents[0])
    assert set(contents[0]["validation"]) == {"images", "accuracy", "interval", "baseline"}
    assert contents[0]["validation"]["images"] == 120
    assert contents[0]["validation"] == contents[1]["validation"]
    models = [(tmp_path / content["model"]).read_bytes() for content in contents]
    assert models[0] == models[1]


def test_several_seeds_show_what_chance_does(digits_csv, tmp_path):
    arguments = ["train", digits_csv / "train.csv", *FAST, "--seeds", "2", "--seed", "5", "--run", "mine"]
    facts = json.loads(imprint(*arguments, "--json", cwd=tmp_path).stdout)
    assert [row["seed"] for row in facts["seeds"]] == [5, 6]
    accuracies = [row["accuracy"] for row in facts["seeds"]]
    assert facts["mean"] == pytest.approx(statistics.mean(accuracies))
    assert facts["sd"] == pytest.approx(statistics.stdev(accuracies))
    assert facts["run"] == facts["seeds"][0]["run"] == "mine/seed-5"
    kept = json.loads((tmp_path / "mine/seed-6/metrics.json").read_text())
    assert kept["validation"]["accuracy"] == accuracies[1]
    assert kept["expected"]["interval"][0] < accuracies[1] <= kept["expected"]["interval"][1]
    assert json.loads((tmp_path / "mine/seed-6/recipe.json").read_text())["seed"] == 6


def test_train_with_given_validation_and_folder(digits_csv, tmp_path, refused):
    arguments = ["train", digits_csv / "train.csv", *FAST, "--validation", digits_csv / "labelled.csv", "--run", "mine"]
    assert "100 held out" in imprint(*arguments, cwd=tmp_path).stderr
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
    imprint(*arguments, "--test", digits_csv / "test.csv", cwd=tmp_path)
    for name in ("model.safetensors", "result.csv", "recipe.json"):
        assert (tmp_path / "again" / name).read_bytes() == (first / name).read_bytes()
    assert without_seconds(tmp_path / "again/history.csv") == without_seconds(first / "history.csv")


def test_show(digits_csv, tmp_path):
    done = imprint("show", digits_csv / "train.csv", "--save", "five.png", cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert lines[0] == "train.csv: 600 images of 8×8 grey, 1 channel, 10 classes"
    assert lines[-6].split()[:3] == ["row", "label", "pixel0"]
    assert (tmp_path / "five.png").stat().st_size > 1000
    content = json.loads(imprint("show", digits_csv / "test.csv", "--json", cwd=tmp_path).stdout)
    assert content == {"images": 100, "channels": 1, "height": 8, "width": 8, "classes": {}}


def test_summary(lesson, digits_csv):
    text = imprint("summary", "tutorial", cwd=digits_csv).stdout
    assert "Total params: 203,933" in text
    of_run = imprint("summary", "runs/0001-tutorial", cwd=digits_csv).stdout
    (layers, fields), (layers_of_run, fields_of_run) = (
        one.split("\n", 1)[1].split("\n\nfield ") for one in (text, of_run)
    )
    assert layers_of_run == layers
    assert re.search(r"^epochs +30 +How many epochs to train", fields, re.MULTILINE)
    assert re.search(r"^epochs +4 ", fields_of_run, re.MULTILINE)
    assert "OOD detector" in imprint("summary", "best", cwd=digits_csv).stderr
    assert "OOD detector" not in imprint("summary", "tutorial", cwd=digits_csv).stderr
    content = json.loads(imprint("summary", "tutorial", "--json", cwd=digits_csv).stdout)
    assert (content["total"], content["trainable"], content["non_trainable"]) == (203_933, 203_933, 0)
    assert len(content["layers"]) == 8


BAD_COMMANDS = {
    "no file": (["train", "missing.csv"], "No such file"),
    "no verb": (["trian"], "No such command"),
    "no argument": (["train"], "Missing argument"),
    "no option": (["train", "train.csv", "--epochs", "3"], "No such option"),
    "no number": (["train", "train.csv", "--seed", "x"], "valid integer"),
    "a setting that is an option": (["train", "train.csv", "--set", "device=cpu"], "field 'device' at --set"),
    "no network": (["train", "train.csv", "--set", "networks=foo"], "network 'foo' at networks"),
    "the last of the seeds": (["train", "train.csv", "--seeds", "2", "--seed", "4294967295"], "seed=4294967296"),
    "a bad setting": (["train", "train.csv", "--set", "epochs=0"], "epochs=0"),
    "a bad share": (["train", "train.csv", "--validation", "2"], "validation_fraction"),
    "no labels": (["train", "test.csv"], "Training needs at least two classes"),
    "test of another form": (["train", "train.csv", "--test", "other.csv"], "images of 2×2 grey at other.csv"),
    "a bad cell": (["train", "bad.csv"], "pixel 256 at bad.csv row 2, column pixel3"),
    "a folder": (["show", "."], "there are no images in it"),
    "no model": (["predict", "train.csv", "test.csv"], "model at train.csv"),
    "no folder": (["show", "train.csv", "--save", "no/a.png"], "cannot be written"),
    "a folder for a file": (["predict", "train.csv", "test.csv", "-o", "."], "output at .: it is a folder"),
    "a file for a folder": (["evaluate", "train.csv", "train.csv", "--pictures", "bad.csv"], "it cannot be made"),
    "no recipe": (["train", "train.csv", "--recipe", "fast"], "there is no such recipe"),
    "no such summary": (["summary", "fast"], "fast at MODEL|RECIPE"),
    "no run": (["report", "nowhere"], "run folder at nowhere: there is no such folder"),
    "no training data": (["evaluate", "model.safetensors", "train.csv", "--clinic"], "model at model.safetensors"),
    "seeds without validation": (["train", "train.csv", "--seeds", "2", "--validation", "0"], "nothing to compare"),
    "no seed": (["check", "train.csv", "--seed", "-1"], "it lies from 0 to 4294967295"),
    "no such device": (["train", "train.csv", "--device", "cuda:9"], "device 'cuda:9'"),
}


@pytest.mark.parametrize("case", BAD_COMMANDS)
def test_bad_input_gets_one_line(digits_csv, tmp_path, refused, case):
    for path in digits_csv.glob("*.csv"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "other.csv").write_text("pixel0,pixel1,pixel2,pixel3\n0,0,0,0\n")
    (tmp_path / "bad.csv").write_text("label,pixel0,pixel1,pixel2,pixel3\n1,0,0,0,0\n2,0,0,0,256\n")
    before = sorted(tmp_path.rglob("*"))
    arguments, words = BAD_COMMANDS[case]
    assert words in refused(*arguments, cwd=tmp_path)
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != "runs"] == before


def test_a_former_result_survives_a_failure(model_file, tmp_path, refused):
    (tmp_path / "result.csv").write_text("former")
    (tmp_path / "bad.csv").write_text("pixel0\n1\nx\n")
    refused("predict", model_file, "bad.csv", "-o", "result.csv", cwd=tmp_path)
    refused("predict", model_file, "missing.csv", "-o", "result.csv", cwd=tmp_path)
    assert (tmp_path / "result.csv").read_text() == "former"


def test_a_traceback_can_be_asked_for(tmp_path):
    done = subprocess.run(
        [*IMPRINT, "show", "no.csv"], cwd=tmp_path, capture_output=True, env=os.environ | {"IMPRINT_TRACEBACK": "1"}
    )
    assert b"Traceback" in done.stderr


@contextmanager
def long_run(digits_csv, folder):
    """A run of 500 epochs, of which the third has ended."""
    arguments = ["train", digits_csv / "train.csv", "--set", "epochs=500", "--test", digits_csv / "test.csv"]
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
    assert facts["validation"]["accuracy"] == pytest.approx(best, abs=0.05)  # the score is taken with views
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


def test_killed_and_taken_up(digits_csv, tmp_path, refused):
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
    predicted = imprint("predict", "run", "test.csv", cwd=tmp_path)
    assert "run was stopped before its end" in predicted.stderr
    assert predicted.stdout.count("\n") == 101
    done = imprint("train", "--resume", "run", cwd=tmp_path)
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


# Ctrl-C is pressed when so many modules have begun to be imported, the command line's own being the first.
INTERRUPTED = """import os, signal, sys
class Moments:
    left, begun = int(sys.argv.pop()), False
    def find_spec(self, name, path=None, target=None):
        Moments.begun |= name == "imprint.cli.app"
        Moments.left -= Moments.begun
        if Moments.left == 0:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Moments())
from imprint.__main__ import main
main()
"""


def test_ctrl_c_while_python_imports_ends_in_one_line(tmp_path):
    for moment in (1, 9, 60, 150, 500):
        command = [sys.executable, "-c", INTERRUPTED, "train", "digits", str(moment)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (130, ""), done.stderr
        line = "error: run at Ctrl-C: stopped before there was anything to keep. Nothing was lost.\n"
        assert done.stderr == line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("moment", [1, 60])
def test_ctrl_c_is_not_for_what_a_script_has_put_into_the_background(tmp_path, moment):
    """A shell without job control starts `imprint … &` with SIGINT ignored."""
    ignored = INTERRUPTED.replace("class", "signal.signal(signal.SIGINT, signal.SIG_IGN)\nclass", 1)
    command = [sys.executable, "-c", ignored, "summary", "quick", str(moment)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Total params" in done.stdout


def test_a_terminal_gets_a_bar_with_the_time_left(digits_csv, tmp_path):
    arguments = ["-m", "imprint", "train", str(digits_csv / "train.csv"), *FAST, "--set", "steps_per_epoch=60"]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    child = pexpect.spawn(sys.executable, arguments, cwd=tmp_path, env=environment, encoding="utf-8", timeout=300)
    child.expect(r"training .*?%.*?left")
    child.expect(r"Epoch 1/3 - ")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_help_is_light(tmp_path):
    script = (
        "import sys; sys.argv = ['imprint', '--help']\n"
        "from imprint.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'polars', 'sklearn', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    for verb in ("show", "train", "evaluate", "predict", "summary"):
        assert verb in done.stdout


def test_no_verb_prints_the_help(tmp_path):
    done = imprint(cwd=tmp_path, status=2)
    assert "Usage: " in done.stdout
    assert not done.stderr


def test_letters_that_the_terminal_lacks_are_spelled(tmp_path):
    assert "8\\xd78" in imprint("show", "digits", cwd=tmp_path, PYTHONIOENCODING="ascii").stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_under_stdout_gets_one_line(tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run([*IMPRINT, "--version"], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "error: file at standard output: No space left on device. Check its permissions and the space left.\n"
    )


def test_without_stderr_words_are_kept_back(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr", None)
    app(["show", "digits", "--save", str(tmp_path / "digits.png"), "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["images"] == 1797


def test_version(tmp_path):
    assert re.fullmatch(r"imprint \d+\.\d+\.\d+\n", imprint("--version", cwd=tmp_path).stdout)


def test_words_as_labels(digits, tmp_path):
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    spelled = type(digits)(digits.pixels[:300], digits.labels[:300], names, digits.sources[:300])
    Path(tmp_path / "words.csv").write_text(pixel_table(spelled))
    imprint("train", "words.csv", *FAST, "--test", "words.csv", cwd=tmp_path)
    with open(tmp_path / "runs/0001-quick/result.csv") as file:
        assert {row["Label"] for row in csv.DictReader(file)} <= set(names)


@pytest.fixture
def divided(tmp_path, digits):
    """A folder of divided PNG files: digits 0 and 1, six times as large."""
    for part, places in (("train", range(0, 300)), ("val", range(300, 380)), ("test", range(380, 460))):
        for place in places:
            name = digits.class_names[digits.labels[place]]
            if name in "01":
                folder = tmp_path / "images" / part / name
                folder.mkdir(parents=True, exist_ok=True)
                enlarged = np.kron(digits.pixels[place, 0], np.ones((6, 6), dtype=np.uint8))
                Image.fromarray(enlarged).save(folder / f"{place}.png")
    return tmp_path


def test_divided_folders_from_training_to_predictions(divided):
    (divided / "images/train/0/broken.png").write_bytes(b"no image")
    done = imprint("train", "images", *FAST, "--test", "images/test/0", "--json", cwd=divided)
    assert "left out 1 of " in done.stderr
    facts = json.loads(done.stdout)
    assert facts["validation"]["images"] == len(list(divided.glob("images/val/*/*.png")))
    scored = imprint("evaluate", facts["model"], "images", "--json", cwd=divided)
    assert "scoring the test part" in scored.stderr
    assert json.loads(scored.stdout)["images"] == len(list(divided.glob("images/test/*/*.png")))
    assert "cannot be shown" not in write_report(divided / facts["run"]).read_text(encoding="utf-8")
    result = (divided / facts["result"]).read_text().splitlines()
    assert result[0] == "source,label,confidence,unsure"
    assert len(result) == 1 + len(list(divided.glob("images/test/0/*.png")))
    listed = json.loads(imprint("cache", "--json", cwd=divided).stdout)
    assert {"folder", "limit", "entries"} == set(listed)
    assert imprint("cache", "--clear", cwd=divided).stdout.count("\n") == 1


def test_check_finds_what_leaks_between_parts(divided):
    leaking = next(divided.glob("images/train/0/*.png"))
    (divided / "images/test/0/again.png").write_bytes(leaking.read_bytes())
    done = imprint("check", "images", "--no-labels", "--json", "--strict", cwd=divided, status=1)
    leaks = [finding for finding in json.loads(done.stdout)["findings"] if finding["kind"] == "leak"]
    assert len(leaks) == 1
    assert [Path(source).name for source in leaks[0]["where"]] == [leaking.name, "again.png"]


def test_show_what_a_model_sees(model_file, divided, refused):
    expected = "error: --as at .: it draws one image, and that is no file. Name the file of an image."
    assert refused("show", ".", "--as", model_file, cwd=divided) == expected
    image = next(divided.glob("images/test/1/*.png"))
    done = imprint("show", image, "--as", model_file, "--json", cwd=divided)
    written = f"{image.stem}-seen.png"
    assert json.loads(done.stdout) == {"files": [written]}
    assert (divided / written).is_file()


def test_report(lesson, digits_csv, tmp_path):
    done = imprint("report", "runs/0001-tutorial", "-o", tmp_path / "report.html", cwd=digits_csv)
    assert done.stdout.strip() == str(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "imprint train train.csv --recipe tutorial --set epochs=4 --set steps_per_epoch=40 --test test.csv" in page
    assert "note:" not in done.stderr


def test_evaluate_with_the_clinic_and_images(lesson, digits_csv, tmp_path):
    arguments = ["evaluate", "runs/0001-tutorial", "labelled.csv", "--clinic", "--pictures", tmp_path / "drawn"]
    content = json.loads(imprint(*arguments, "--json", cwd=digits_csv).stdout)
    assert len(content["mistakes"]) == round((1 - content["accuracy"]) * 100)
    assert {mistake["cause"] for mistake in content["mistakes"]} <= {"unlike", "mislabelled", "ambiguous", "fault"}
    assert all(len(mistake["nearest"]) == 3 for mistake in content["mistakes"])
    names = ["classes.png", "confusion.png", "coverage.png", "mistakes.png", "reliability.png"]
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == names


def test_show_augmented(digits_csv, tmp_path):
    imprint("show", digits_csv / "train.csv", "--augmented", "a.png", "--recipe", "tutorial", cwd=tmp_path)
    with Image.open(tmp_path / "a.png") as drawn:
        assert drawn.width > 800


def test_shells_complete_verbs_and_options(tmp_path):
    for typed, offered in (("imprint tr", "train"), ("imprint train --see", "--seeds")):
        words = {"_IMPRINT_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
        script = "import sys; sys.argv = ['imprint']; from imprint.__main__ import main; main()"
        done = subprocess.run([sys.executable, "-c", script], env=os.environ | words, capture_output=True, text=True)
        assert offered in done.stdout.split(), done.stderr


def test_the_keys_of_json_that_others_build_on(lesson, digits_csv, divided, tmp_path):
    def keys(*arguments):
        return set(json.loads(imprint(*arguments, "--json", cwd=digits_csv).stdout))

    run = "runs/0001-tutorial"
    exported = "path pictures images viewed same difference flags rounding bytes"
    assert keys("export", run, "-o", tmp_path / "a.onnx") == set(exported.split())
    assert keys("report", run, "-o", tmp_path / "a.html") == {"report"}
    assert keys("check", "train.csv", "--no-labels") == {"images", "classes", "findings", "notes"}
    imprint("show", "images", cwd=divided)
    entry = json.loads(imprint("cache", "--json", cwd=divided).stdout)["entries"][0]
    assert set(entry) == {"name", "pictures", "bytes", "used"}
    compared = "images accuracy difference interval only_first only_second p_value verdict"
    assert keys("compare", run, run, "labelled.csv") == set(compared.split())
