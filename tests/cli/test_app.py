"""What all commands have in common: refusals, Ctrl-C while they start, help, standard streams."""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from helpers import IMPRINT, refused, run_imprint
from imprint.cli.app import EXAMPLES, app

BAD_COMMANDS = {
    "no file": (["train", "missing.csv"], "No such file"),
    "no verb": (["trian"], "No such command"),
    "no argument": (["train"], "Missing argument"),
    "no option": (["train", "train.csv", "--epoch", "3"], "No such option"),
    "an option and --set": (["train", "train.csv", "--epochs", "3", "--set", "epochs=2"], "--epochs 3 at train: --set"),
    "a batch of nothing": (["train", "train.csv", "--batch-size", "0"], "batch_size=0 at any recipe"),
    "no such verb's help": (["help", "trian"], "Did you mean train?"),
    "several tables": (["predict", "model.safetensors", "train.csv", "test.csv"], "model at model.safetensors"),
    "no option, its verb's help": (["train", "train.csv", "--epoch", "3"], "Try imprint train --help"),
    "a recipe in capitals": (["train", "train.csv", "--recipe", "QUICK"], "Did you mean quick?"),
    "a file misspelt": (["show", "trian.csv"], "Did you mean train.csv?"),
    "a run misspelt": (["report", "mines"], "Did you mean mine?"),
    "two seeds": (["train", "train.csv", "--seed", "3", "--set", "seed=4"], "--seed 3 at train: --set seed=4"),
    "several in one": (["train", "train.csv", "--set", "epochs=2,seed=3"], "Write --set epochs=2 --set seed=3."),
    "what was typed": (["train", "train.csv", "--set", "epochs=two"], "error: epochs=two at --set"),
    "two shares": (
        ["train", "train.csv", "--validation", "0.1", "--set", "validation_fraction=0.2"],
        "validation_fraction=0.2 at recipe quick: --validation is 0.1",
    ),
    "a share of other data": (
        ["train", "train.csv", "--validation", "labelled.csv", "--set", "validation_fraction=0.2"],
        "other images validate",
    ),
    "the recipe that would run": (["train", "train.csv", "--set", "epochs=0"], "epochs=0 at recipe quick"),
    "a rule of all recipes": (["train", "missing.csv", "--set", "epochs=-1"], "epochs=-1 at any recipe"),
    "an option without its own": (["show", "train.csv", "--recipe", "quick"], "changes nothing without --augmented"),
    "no runs": (["runs"], "there is no such folder"),
    "no such column": (["runs", "--sort", "scores"], "Did you mean score?"),
    "no such action": (["runs", "delet", "x"], "Did you mean delete?"),
    "nothing to delete": (["runs", "delete", "mine", "--yes"], "it is no run folder"),
    "two wishes": (["cache", "--clear", "--limit", "1"], "--clear removes everything"),
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
def test_bad_input_gets_one_line(digits_csv, tmp_path, case):
    for path in digits_csv.glob("*.csv"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "mine").mkdir()
    (tmp_path / "other.csv").write_text("pixel0,pixel1,pixel2,pixel3\n0,0,0,0\n")
    (tmp_path / "bad.csv").write_text("label,pixel0,pixel1,pixel2,pixel3\n1,0,0,0,0\n2,0,0,0,256\n")
    before = sorted(tmp_path.rglob("*"))
    arguments, words = BAD_COMMANDS[case]
    assert words in refused(*arguments, cwd=tmp_path)
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != "runs"] == before


def test_a_traceback_can_be_asked_for(tmp_path):
    done = subprocess.run(
        [*IMPRINT, "show", "no.csv"], cwd=tmp_path, capture_output=True, env=os.environ | {"IMPRINT_TRACEBACK": "1"}
    )
    assert b"Traceback" in done.stderr


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


def test_help_of_a_verb(tmp_path):
    whole = run_imprint("help", cwd=tmp_path).stdout
    assert whole == run_imprint("--help", cwd=tmp_path).stdout
    told = run_imprint("help", "predict", cwd=tmp_path).stdout
    assert told == run_imprint("predict", "--help", cwd=tmp_path).stdout
    assert "  imprint predict runs/pets cat.jpg dog.jpg\n" in told


def test_each_verb_has_examples_that_it_takes(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    command = typer.main.get_command(app)
    for verb, examples in EXAMPLES.items():
        assert 2 <= len(examples) <= 4
        for example in examples:
            name, *arguments = shlex.split(example)
            assert name == verb.__name__
            command.commands[name].make_context(name, arguments)


def test_quiet_leaves_warnings_alone(digits_csv, tmp_path):
    rows = (digits_csv / "labelled.csv").read_text().splitlines()
    (tmp_path / "twice.csv").write_text("\n".join([*rows, rows[-1], ""]))
    done = run_imprint("train", "twice.csv", "--epochs", "1", "--batch-size", "50", "--quiet", cwd=tmp_path)
    assert done.stderr == "warning: 1 image is a copy of another; imprint check names them\n"
    recipe = json.loads((tmp_path / "runs/0001-quick/recipe.json").read_text())
    assert (recipe["epochs"], recipe["batch_size"]) == (1, 50)
    told = json.loads(run_imprint("train", "twice.csv", "--epochs", "1", "--json", cwd=tmp_path).stdout)
    assert told["warnings"] == ["1 image is a copy of another; imprint check names them"]
    assert "Epoch 1/1" in run_imprint("train", "twice.csv", "--epochs", "1", cwd=tmp_path).stderr


def test_runs_are_listed_and_deleted_once_somebody_agrees(run_folder, tmp_path, monkeypatch):
    shutil.copytree(run_folder, tmp_path / "runs/0001-quick")
    listed = json.loads(run_imprint("runs", "--json", cwd=tmp_path).stdout)["runs"]
    keys = "run state recipe accuracy images data seconds size ended parent leak"
    assert [set(one) for one in listed] == [set(keys.split())]
    assert run_imprint("runs", cwd=tmp_path).stdout.splitlines()[1].split()[:3] == ["runs/0001-quick", "done", "quick"]
    for answer in ("", "n\n", "what\n"):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        done = run_imprint("runs", "delete", "runs/0001-quick", cwd=tmp_path, status=2)
        assert "nobody agreed, so they are kept" in done.stderr
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    line = refused("runs", "delete", "runs/0001-quick", "--json", cwd=tmp_path)
    assert "nobody can agree, so they are kept. Add --yes." in line
    assert (tmp_path / "runs/0001-quick/model.safetensors").is_file()
    run_imprint("runs", "delete", "runs/0001-quick", cwd=tmp_path)
    assert run_imprint("runs", cwd=tmp_path).stdout == "no runs\n"


def test_no_verb_prints_the_help(tmp_path):
    done = run_imprint(cwd=tmp_path, status=2)
    assert "Usage: " in done.stdout
    assert not done.stderr


def test_letters_that_the_terminal_lacks_are_spelled(tmp_path):
    assert "8\\xd78" in run_imprint("show", "digits", cwd=tmp_path, PYTHONIOENCODING="ascii").stdout


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
    for words in ("--version", "version"):
        assert re.fullmatch(r"imprint \d+\.\d+\.\d+\n", run_imprint(words, cwd=tmp_path).stdout)


def test_shells_complete_verbs_and_options(tmp_path):
    for typed, offered in (("imprint tr", "train"), ("imprint train --see", "--seeds")):
        words = {"_IMPRINT_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
        script = "import sys; sys.argv = ['imprint']; from imprint.__main__ import main; main()"
        done = subprocess.run([sys.executable, "-c", script], env=os.environ | words, capture_output=True, text=True)
        assert offered in done.stdout.split(), done.stderr


def test_the_keys_of_json_that_others_build_on(lesson, digits_csv, divided, tmp_path):
    def keys(*arguments):
        return set(json.loads(run_imprint(*arguments, "--json", cwd=digits_csv).stdout))

    run = "runs/0001-tutorial"
    exported = "path pictures images viewed same difference flags rounding bytes"
    assert keys("export", run, "-o", tmp_path / "a.onnx") == set(exported.split())
    assert keys("report", run, "-o", tmp_path / "a.html") == {"report"}
    assert keys("check", "train.csv", "--no-labels") == {"images", "classes", "findings", "notes"}
    run_imprint("show", "images", cwd=divided)
    entry = json.loads(run_imprint("cache", "--json", cwd=divided).stdout)["entries"][0]
    assert set(entry) == {"name", "pictures", "bytes", "used"}
    compared = (
        "images accuracy difference interval only_first only_second p_value verdict notes trained_on unknown_classes"
    )
    assert keys("compare", run, run, "labelled.csv") == set(compared.split())
