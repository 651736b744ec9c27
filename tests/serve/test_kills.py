"""The script that kills the server of a project at random moments, with few of them; without arguments it has 200."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/project_kills.py"


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_no_accepted_sample_is_lost_when_the_server_is_killed():
    done = subprocess.run([sys.executable, SCRIPT, "10"], capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every accepted one is there" in done.stdout
