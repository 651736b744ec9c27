"""Bulk prediction under fire: by Ray, with actors killed and 5 % of the files bad, each input comes out exactly once.

    python scripts/scale_bulk.py [--images 4000] [--kills 4]

Then the same by `imprint.ray.Predict` in a pipeline of Ray Data, and on one process, whose labels are compared.
Ends with status 1 where anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import polars
from PIL import Image

import imprint

BAD = 20  # one file in so many


def make_files(folder: Path, count: int) -> None:
    """Write the bundled digits again and again, enlarged, one file in twenty cut short."""
    digits = imprint.load("digits")
    for i in range(count):
        path = folder / f"{i % 10}" / f"{i:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.kron(digits.pixels[i % len(digits), 0], np.ones((6, 6), dtype=np.uint8))).save(path)
        if i % BAD == 0:
            path.write_bytes(path.read_bytes()[:40])


def kill_actors(times: int, stop: threading.Event) -> list[int]:
    """Kill the oldest actor of this machine, now and then."""
    killed = list[int]()

    def kill() -> None:
        while len(killed) < times and not stop.wait(2.0):
            actors = subprocess.run(["pgrep", "-f", "^ray::.*PredictShards"], capture_output=True, text=True).stdout
            pids = [int(pid) for pid in actors.split() if int(pid) not in killed]
            if pids:
                os.kill(pids[0], signal.SIGKILL)
                killed.append(pids[0])

    threading.Thread(target=kill, daemon=True).start()
    return killed


def check(rows: polars.DataFrame, files: list[str], what: str) -> bool:
    """Say whether each file is there exactly once, bad ones with their cause."""
    counts = Counter(rows["source"])
    bad = {file for file in files if int(Path(file).stem) % BAD == 0}
    failed = set(rows.filter(polars.col("error").is_not_null())["source"])
    right = counts == Counter(files) and failed == bad
    told = "as it must be" if right else "NOT AS IT MUST BE"
    print(f"{what}: {len(rows):,} rows for {len(files):,} files, {len(failed):,} failed, {told}")
    return right


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--kills", type=int, default=4)
    arguments = parser.parse_args()
    import ray
    import ray.data

    folder = Path(tempfile.mkdtemp(prefix="imprint-scale-"))
    make_files(folder / "data", arguments.images)
    files = sorted(map(str, folder.glob("data/*/*.png")))
    model = folder / "digits.safetensors"
    imprint.train("digits", "quick", epochs=8, verbose=False).model.save(model)

    from imprint.models.bulk import predict_folder
    from imprint.ray import Predict, on_cluster

    ray.init(num_cpus=2, log_to_driver=False, logging_level="ERROR")
    stop = threading.Event()
    killed = kill_actors(arguments.kills, stop)
    started = time.monotonic()
    summary = predict_folder(model, str(folder / "data"), folder / "out", on_cluster(model, folder / "out"))
    seconds = time.monotonic() - started
    stop.set()
    rows = polars.read_parquet(folder / "out/*.parquet")
    fine = check(rows, files, f"shards by Ray, {len(killed)} actors killed, {seconds:.0f} s")
    fine &= len(killed) == arguments.kills and json.loads((folder / "out/summary.json").read_text()) == summary

    dataset = ray.data.read_binary_files(str(folder / "data"), include_paths=True)
    step = dataset.map_batches(
        Predict, fn_constructor_args=(str(model),), batch_size=256, compute=ray.data.ActorPoolStrategy(size=1)
    )
    started = time.monotonic()
    step.write_parquet(str(folder / "pipeline"))
    pipeline = polars.read_parquet(folder / "pipeline/*.parquet")
    fine &= check(pipeline, files, f"imprint.ray.Predict, {time.monotonic() - started:.0f} s")
    ray.shutdown()

    started = time.monotonic()
    predict_folder(model, str(folder / "data"), folder / "alone")
    alone = polars.read_parquet(folder / "alone/*.parquet")
    fine &= check(alone, files, f"one process, {time.monotonic() - started:.0f} s")
    for other in (rows, pipeline):
        both = alone.join(other, on="source", suffix="_other")
        fine &= both["label"].equals(both["label_other"]) and len(both) == len(files)
    print("all labels agree" if fine else "something differs")
    sys.exit(not fine)


if __name__ == "__main__":
    main()
