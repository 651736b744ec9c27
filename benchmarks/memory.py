"""How much memory a folder of photos takes whose images, decoded, take 2 GB.

    make bench-memory                    31,000 made-up photos of 170×128 in ten class folders

Peak resident memory of whole commands: trained the first time, which decodes, and again from the cache; then
evaluated and predicted. Shared libraries and the pages of mapped files count. Ends with status 1 above the target.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import IMPRINT, machine, metered
from PIL import Image

SIZE = (170, 128)
TARGET = 1000  # MB
SHORT = ["--set", "epochs=1", "--set", "steps_per_epoch=60"]


def make(folder, count):
    """Write photos of soft patches of colour, one of its three colours duller."""
    rng = np.random.default_rng(0)
    for i in range(count):
        patches = rng.integers(0, 256, (8, 11, 3), np.uint8)
        patches[..., i % 3] //= 2
        path = folder / f"class{i % 10}" / f"{i:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(patches).resize(SIZE, Image.Resampling.BILINEAR).save(path, quality=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=31_000)
    count = parser.parse_args().images
    with tempfile.TemporaryDirectory() as work:
        os.environ["IMPRINT_CACHE"] = f"{work}/cache"
        photos, model = f"{work}/photos", f"{work}/first"
        make(Path(photos), count)
        print(f"{machine()}; {count:,} photos, {count * 3 * SIZE[0] * SIZE[1] / 1e6:,.0f} MB decoded", flush=True)
        train = [*IMPRINT, "train", photos, *SHORT, "--json", "--run"]
        commands = {
            "trained, decoding": [*train, model],
            "trained, from the cache": [*train, f"{work}/second"],
            "evaluated": [*IMPRINT, "evaluate", model, photos, "--json"],
            "predicted": [*IMPRINT, "predict", model, photos, "--json"],
        }
        peaks = []
        for name, command in commands.items():
            _, seconds, memory = metered(command)
            peaks.append(memory)
            print(f"{name:24} {memory:7,.0f} MB of at most {TARGET:,}, {seconds:6.1f} s", flush=True)
        sys.exit(max(peaks) > TARGET)


if __name__ == "__main__":
    main()
