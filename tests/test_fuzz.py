"""The script that damages files, with few of them and by seed; `make fuzz` has 10,000 a reader, by atheris."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts/fuzz.py"


def test_every_damaged_file_is_taken_or_refused():
    command = [sys.executable, SCRIPT, "--cases", "40", "--seed", "7", "--engine", "mutation"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    results = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    names = [
        "image",
        "model",
        "checkpoint",
        "onnx",
        "csv",
        "idx",
        "cifar",
        "mat",
        "text",
        "tar",
        "tgz",
        "zip",
        "format",
    ]
    assert [line.split(":")[0] for line in results] == names
    assert all(": 40 damaged files, " in line for line in results)
