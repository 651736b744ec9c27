"""Trains where the disk is full, fills up, or cannot be written to, on real file systems; needs root on Linux.

python scripts/disk.py: every failure must be one plain line, must come before training where it can, and must leave
what earlier runs wrote as it was.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

TRAIN = ["train", "digits", "--recipe", "quick", "--set", "epochs=3", "--set", "min_steps=2"]


def train(*arguments):
    """Run imprint; give its status, its epochs and warnings, and its last line where it failed."""
    done = subprocess.run([sys.executable, "-m", "imprint", *TRAIN, *arguments], capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    lines = done.stderr.splitlines()
    epochs, warnings = (sum(line.startswith(start) for line in lines) for start in ("Epoch", "warning"))
    return done.returncode, epochs, warnings, lines[-1] if done.returncode else "results written"


def mounted(folder, *options):
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", *options, str(folder)], check=True)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="imprint-disk-") as name:
        os.chdir(name)
        Path("earlier").mkdir()
        small, readonly = Path("small").absolute(), Path("readonly").absolute()
        # A checkpoint of quick takes 1.3 MB, a model 0.35.
        sizes = (("1m", "full at once"), ("1400k", "full at the results"), ("2200k", "full at the second checkpoint"))
        for size, what in (*sizes, ("16m", "large enough")):
            mounted(small, "-t", "tmpfs", "-o", f"size={size}", "tmpfs")
            try:
                (small / "earlier.csv").write_text("precious")
                status, epochs, warnings, line = train("--run", str(small / "run"))
                assert (small / "earlier.csv").read_text() == "precious"
                left = (
                    sorted(path.name for path in (small / "run").glob("*")) if (small / "run").exists() else "nothing"
                )
                print(f"{what} ({size}): status {status}, {epochs} epochs, {warnings} warnings, {left} left; {line}")
                assert not [name for name in left if name.endswith(".part")]
            finally:
                subprocess.run(["umount", str(small)], check=True)
        assert train("--run", "earlier/run")[0] == 0
        before = contents(Path("earlier"))
        mounted(readonly, "--bind", "earlier")
        try:
            subprocess.run(["mount", "-o", "remount,ro,bind", str(readonly)], check=True)
            status, epochs, _, line = train("--run", str(readonly / "another"))
            print(f"read-only: status {status}, {epochs} epochs; {line}")
            assert (status, epochs) == (2, 0)
        finally:
            subprocess.run(["umount", str(readonly)], check=True)
        assert contents(Path("earlier")) == before
        print("what earlier runs wrote is as it was")
