import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

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


def test_onnx_without_imprint(onnx_file, model, digits, tmp_path):
    Image.fromarray(digits.pixels[7, 0]).save(tmp_path / "seven.png")
    script = "import sys, runpy; sys.modules['imprint'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"
    command = [sys.executable, "-c", script, EXAMPLES / "onnx_without_imprint.py", onnx_file, "seven.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, encoding="utf-8")
    expected = model.predict(tmp_path / "seven.png")
    assert done.stdout.split() == ["seven.png", expected.names[0], f"{expected.confidence[0]:.4f}"]
