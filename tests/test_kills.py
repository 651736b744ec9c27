"""The script that kills training at random moments, with few of them; `make kills` has 200."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts/kills.py"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the script copies processes")
def test_killed_runs_end_as_those_never_stopped():
    done = subprocess.run(
        [sys.executable, SCRIPT, "3", "--runs", "quick"], capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("quick: 3 kills, ")
    assert "each ended to the bit as one never stopped" in done.stdout
