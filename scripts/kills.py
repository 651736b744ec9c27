"""Kills training at random moments, resumes it, and compares the end with a run that was never stopped.

python scripts/kills.py [KILLS] [--seed N]: after every kill the run folder must hold a model that loads, or a run
that can be resumed, or nothing; and no leftover that stands in the way of the next run.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # a process that has begun no threads can be copied by fork

import argparse
import collections
import csv
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

RUNS = {
    "quick": "--recipe quick --set epochs=12 --set min_steps=6 --set batch_size=64 --set epoch_fraction=0.5",
    "two networks": "--recipe quick --set networks=deep+broad --set epochs=4 --set min_steps=3 --set batch_size=64",
    "tutorial": "--recipe tutorial --set epochs=12 --set steps_per_epoch=8 --set plateau_patience=1",
}


def start(arguments):
    """Run `imprint train` in a copy of this process, which has imported everything and computed nothing."""
    pid = os.fork()
    if pid:
        return pid
    log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["imprint", "train", *arguments]
    try:
        main()
    except SystemExit as end:
        os._exit(end.code or 0)
    except BaseException:  # this copy must not go on as if it were the first process
        traceback.print_exc()
    os._exit(9)


def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed(pid, seconds):
    """Kill after some time; tell whether the process had ended by then."""
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    status = ended(pid)
    assert status in (0, -signal.SIGKILL), f"status {status}: {Path('log').read_text()[-2000:]}"
    return status == 0


def found(folder):
    """Tell what a kill left; raises where that is neither a model, nor a run to resume, nor nothing."""
    if not folder.exists() or not [path for path in folder.iterdir() if path.suffix != ".part"]:
        return "nothing yet"
    if not (folder / "checkpoint.safetensors").exists():
        Classifier.load(folder)
        return "all"
    if read_resumable_run(folder).epochs or (folder / "model.safetensors").exists():
        Classifier.load(folder)
        return "model and checkpoint" if (folder / "model.safetensors").exists() else "checkpoint with a model"
    return "checkpoint before the first epoch"


def contents(folder):
    """Everything that must be the same to the bit; of the history all but the seconds."""
    with open(folder / "history.csv") as file:
        history = [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]
    files = [(folder / name).read_bytes() for name in ("model.safetensors", "result.csv", "recipe.json")]
    return history, *files, sorted(path.name for path in folder.iterdir())


def torture(name, kills, generator, counts):
    options = ["train.csv", "--test", "test.csv", "--validation", "0.1", *RUNS[name].split()]
    started = time.perf_counter()
    whole = Path(f"whole-{name}")
    assert ended(start([*options, "--run", str(whole)])) == 0, Path("log").read_text()[-2000:]
    seconds = time.perf_counter() - started
    expected, runs = contents(whole), 0
    while kills > 0:
        runs += 1
        folder = Path(f"run-{name}-{runs}")
        while True:
            resumed = (folder / "checkpoint.safetensors").exists()
            pid = start(["--resume", str(folder)] if resumed else [*options, "--run", str(folder)])
            if kills <= 0:  # let the last one reach its end
                assert ended(pid) == 0, Path("log").read_text()[-2000:]
                break
            if killed(pid, generator.uniform(0, seconds)):
                break
            kills -= 1
            counts[found(folder)] += 1
            if not (folder / "checkpoint.safetensors").exists() and (folder / "model.safetensors").exists():
                break
        assert contents(folder) == expected, f"{folder} differs from {whole}"
        shutil.rmtree(folder)
    return runs, seconds


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", type=int, nargs="?", default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", nargs="+", default=RUNS, help=", ".join(RUNS))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="imprint-kills-") as folder:
        os.environ["IMPRINT_CACHE"] = f"{folder}/cache"
        os.chdir(folder)
        import matplotlib.backends.backend_agg  # what a run needs is imported here, once, not in every copy
        import matplotlib.figure  # noqa: F401
        import polars  # noqa: F401
        import torch

        import imprint.report.plots
        import imprint.runs.run
        import imprint.training.checkpoint
        from imprint import Classifier, load
        from imprint.__main__ import main
        from imprint.training.checkpoint import read_resumable_run

        torch.set_num_threads(1)
        imprint.training.checkpoint.LARGEST_SHARE = 1e9  # a checkpoint after every epoch
        digits = load("digits")
        header = ",".join(f"pixel{place}" for place in range(64))
        rows = [",".join(map(str, image.ravel())) for image in digits.pixels[:500]]
        labelled = [f"{label},{row}" for label, row in zip(digits.labels, rows[:400], strict=False)]
        Path("train.csv").write_text("\n".join([f"label,{header}", *labelled]) + "\n")
        Path("test.csv").write_text("\n".join([header, *rows[400:]]) + "\n")
        generator, counts = random.Random(given.seed), collections.Counter()
        for place, name in enumerate(given.runs):
            kills = (given.kills + place) // len(given.runs)
            runs, seconds = torture(name, kills, generator, counts)
            print(f"{name}: {kills} kills, {runs} runs of {seconds:.1f} s, each ended to the bit as one never stopped")
        print("found after a kill: " + ", ".join(f"{what} {count}" for what, count in counts.most_common()))
