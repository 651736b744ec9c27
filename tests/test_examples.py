import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_lesson(digits_csv, tmp_path):
    for name in ("train.csv", "test.csv"):
        (tmp_path / name).write_bytes((digits_csv / name).read_bytes())
    command = [sys.executable, EXAMPLES / "lesson.py", "epochs=2", "steps_per_epoch=20"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, encoding="utf-8")
    assert "100 predictions in result.csv" in done.stdout
    assert len((tmp_path / "result.csv").read_text().splitlines()) == 101
    assert (tmp_path / "digits.safetensors").is_file()
