"""Compare two checkouts: do the same seeds give the same weights and predictions, bit for bit?

    .venv/bin/python scripts/same_bytes.py OTHER_CHECKOUT [--cases lesson quick ...]

Trains with the command line of both, whose options and files are a contract, on the same data and with the same choice
of arithmetic, and compares every tensor and number of the model files, and every row of the predictions. Tensors are
matched by shape and content, since names may change. Also kills a run half-way and compares the resumed one.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import safe_open

HERE = Path(__file__).resolve().parent.parent
CASES = {
    "tutorial": "--recipe tutorial --set epochs=2 --set steps_per_epoch=30",
    "quick": "--recipe quick --set epochs=3 --set min_steps=10",
    "best": "--recipe best --set epochs=2 --set min_steps=8",
    "photos": "--recipe photos --set epochs=2 --set min_steps=6",
    "no validation": "--recipe quick --set epochs=2 --set min_steps=10 --validation 0",
}


def photos(folder):
    """Write small colour photos of two kinds, of several sizes."""
    rng = np.random.default_rng(0)
    for label, angle in (("lying", 0), ("standing", 90)):
        (folder / label).mkdir(parents=True)
        for i in range(30):
            stripes = (np.arange(96) // int(rng.integers(4, 9)) % 2 * 200)[:, None, None] + rng.integers(
                0, 50, (96, 110, 3)
            )
            Image.fromarray(stripes.clip(0, 255).astype(np.uint8)).rotate(angle, expand=True).save(
                folder / label / f"{i}.png"
            )
    return folder


def imprint(checkout, *words):
    environment = os.environ | {"PYTHONPATH": str(Path(checkout) / "src")}
    return subprocess.Popen(
        [sys.executable, "-m", "imprint", *words],
        env=environment,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        cwd="/",
    )


def numbers(folder):
    """Every tensor in the order of its shape and bytes, every number of the header, and the rows of the predictions."""
    with safe_open(folder / "model.safetensors", "np") as file:
        tensors = sorted((str(t.shape), t.tobytes()) for t in (file.get_tensor(name) for name in sorted(file.keys())))
        facts = json.loads(file.metadata()["imprint"])
    found = [facts[key] for key in sorted(facts) if isinstance(facts[key], float)]
    rows = [(folder / name).read_bytes() for name in ("result.csv", "validation.csv") if (folder / name).exists()]
    return tensors, sorted(found), rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, help="another checkout of the project")
    parser.add_argument("--cases", nargs="+", default=[*CASES, "killed"])
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp())
    os.environ["IMPRINT_CACHE"] = str(root / "cache")
    images = photos(root / "photos")
    failed = 0
    for case in arguments.cases:
        words = CASES.get(case, "--recipe quick --set epochs=12 --set min_steps=60").split()
        data = str(images) if case == "photos" else "digits"
        for name, checkout in (("other", arguments.other), ("here", HERE)):
            run = root / f"{case}-{name}"
            command = ["train", data, *words, "--test", data, "--run", str(run), "--seed", "3"]
            process = imprint(checkout, *command)
            if case == "killed" and name == "here":
                while not (run / "checkpoint.safetensors").exists():
                    time.sleep(0.05)
                time.sleep(3)
                process.send_signal(signal.SIGKILL)
                process.wait()
                assert (run / "checkpoint.safetensors").exists(), "it had ended before it was killed"
                process = imprint(checkout, "train", "--resume", str(run))
            if process.wait():
                sys.exit(f"{case}: {name} failed: {command}")
            for kept in (root / "cache").glob("arithmetic-*.json"):  # what versions before 0.2 call compute-*.json
                shutil.copy(kept, kept.with_name(kept.name.replace("arithmetic", "compute")))
        same = [a == b for a, b in zip(numbers(root / f"{case}-other"), numbers(root / f"{case}-here"), strict=True)]
        failed += not all(same)
        print(f"{case}: weights {same[0]}, calibration {same[1]}, predictions {same[2]}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
