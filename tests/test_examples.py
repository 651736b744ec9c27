import subprocess
import sys
from pathlib import Path

from PIL import Image

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_lesson(digits_csv, tmp_path):
    for name in ("train.csv", "test.csv"):
        (tmp_path / name).write_bytes((digits_csv / name).read_bytes())
    command = [sys.executable, EXAMPLES / "lesson.py", "epochs=2", "steps_per_epoch=20"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, encoding="utf-8")
    assert "100 predictions in result.csv" in done.stdout
    assert len((tmp_path / "result.csv").read_text().splitlines()) == 101
    assert (tmp_path / "digits.safetensors").is_file()


def test_onnx_without_imprint(onnx_file, model, digits, tmp_path):
    Image.fromarray(digits.pixels[7, 0]).save(tmp_path / "seven.png")
    script = "import sys, runpy; sys.modules['imprint'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"
    command = [sys.executable, "-c", script, EXAMPLES / "onnx_without_imprint.py", onnx_file, "seven.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, encoding="utf-8")
    expected = model.predict(tmp_path / "seven.png")
    assert done.stdout.split() == ["seven.png", expected.names[0], f"{expected.confidence[0]:.4f}"]
