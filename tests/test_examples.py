import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import imprint
from helpers import tags

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name, folder, *arguments):
    command = [sys.executable, EXAMPLES / name, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_lesson(digits_csv, tmp_path):
    for name in ("train.csv", "test.csv"):
        (tmp_path / name).write_bytes((digits_csv / name).read_bytes())
    assert "100 predictions in result.csv" in run("lesson.py", tmp_path, "epochs=2", "steps_per_epoch=20")
    assert len((tmp_path / "result.csv").read_text().splitlines()) == 101
    assert (tmp_path / "digits.safetensors").is_file()


def test_photos(tmp_path):
    printed = run("photos.py", tmp_path)
    assert "40 images: {'disc': 20, 'square': 20}" in printed
    assert "validation " in printed
    assert "40 images" in printed.split("test ")[1]
    assert printed.count(".png: ") == 5
    assert (tmp_path / "photos.safetensors").is_file()


def test_grid_search(tmp_path):
    printed = run("grid_search.py", tmp_path, "200")
    assert printed.count("'learning_rate'") == 5
    assert "on 60 digits not searched with" in printed
    assert (tmp_path / "digits.safetensors").is_file()


EXECUTE = """
import sys
import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[2])
"""


def test_notebook(tmp_path, monkeypatch):
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    written = json.loads((EXAMPLES / "notebook.ipynb").read_text(encoding="utf-8"))
    assert not [cell for cell in written["cells"] if cell.get("outputs")]
    command = [sys.executable, "-c", EXECUTE, EXAMPLES / "notebook.ipynb", "out.ipynb"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    executed = json.loads((tmp_path / "out.ipynb").read_text(encoding="utf-8"))
    outputs = {cell["id"]: cell["outputs"] for cell in executed["cells"] if cell["cell_type"] == "code"}
    results = {cell: outs[-1].get("data", {}) for cell, outs in outputs.items()}
    for cell in ("load", "check", "train", "score", "predict", "again"):
        assert tags("".join(results[cell]["text/html"]))["div"], cell
    assert tags("".join(results["load"]["text/html"]))["img"] == 12
    assert {"plot", "curves"} <= {cell for cell, data in results.items() if data.get("image/png")}
    assert "report.html" in "".join(results["report"]["text/plain"])
    # The bar was drawn in place, and is gone; what was printed holds no control characters.
    bars = [one["data"] for one in outputs["train"] if one["output_type"] == "display_data"]
    assert ["".join("".join(words) for words in bar.values()) for bar in bars] == [""]
    printed = "".join(
        "".join(one["text"]) for outs in outputs.values() for one in outs if one["output_type"] == "stream"
    )
    assert "training on 1,437 images" in printed
    assert printed.replace("\n", "").isprintable()


@pytest.mark.skipif(sys.platform == "win32", reason="a script for bash")
def test_retrain(digits, tmp_path):
    def save(places, folder):
        for place in places:
            path = tmp_path / folder / digits.class_names[digits.labels[place]] / f"{place}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(digits.pixels[place, 0]).save(path)

    def retrain(week, *options, status=0):
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = os.environ | {"PATH": path, "WEEK": f"runs/{week}", "CHECK_OPTIONS": "--no-labels"}
        command = ["bash", EXAMPLES / "retrain.sh", "images", "test", "served", *options]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, encoding="utf-8")
        assert done.returncode == status, done.stderr
        return done.stderr

    served, some = tmp_path / "served", np.flatnonzero(digits.labels < 3)
    save(some[:200], "images")
    save(some[-200:], "test")
    short = ["--recipe", "quick", "--epochs", "1", "--set", "min_steps=1"]
    assert "week1 is in service" in retrain("week1", *short)
    first = (served / "model.onnx").read_bytes()
    save(some[200:300], "images")
    said = retrain("week2", "--epochs", "3", "--set", "min_steps=10")
    assert "starting from runs/week1" in said
    assert "184 images that it was trained on, 16 that it held out, 100 new" in said
    second = (served / "model.onnx").read_bytes()
    assert second != first
    assert (served / "run.txt").read_text() == "runs/week2\n"
    wrong = digits.select(["0", "1", "2"])
    wrong = replace(wrong, labels=(wrong.labels + 1) % 3)
    imprint.train(wrong, "quick", epochs=3, min_steps=6, run=tmp_path / "runs/wrong", verbose=False)
    said = retrain("wrong", status=1)
    assert "the model in service stays" in said
    assert (served / "model.onnx").read_bytes() == second
    assert (served / "run.txt").read_text() == "runs/week2\n"
    assert sorted(path.name for path in served.iterdir()) == ["model.onnx", "run.txt"]


def test_onnx_without_imprint(onnx_file, model, digits, tmp_path):
    Image.fromarray(digits.pixels[7, 0]).save(tmp_path / "seven.png")
    script = "import sys, runpy; sys.modules['imprint'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"
    command = [sys.executable, "-c", script, EXAMPLES / "onnx_without_imprint.py", onnx_file, "seven.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, encoding="utf-8")
    expected = model.predict(tmp_path / "seven.png")
    assert done.stdout.split() == ["seven.png", expected.names[0], f"{expected.confidence[0]:.4f}"]
