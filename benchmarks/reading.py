"""How fast pictures in files are read: against a plain Pillow loop, and against the second time.

    make bench-reading PHOTOS=folder-of-class-folders

The plain loop opens each picture, converts it to RGB and scales it to the same form, in as many threads
as there are cores. Both are run in turns in one process; the files have been read once before.
"""

import argparse
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from common import machine, spread, timed
from PIL import Image

import imprint
from imprint.data import cache


def plain(files, size):
    """Read all files with the few lines that anybody would write."""

    def read(file):
        return np.asarray(Image.open(file).convert("RGB").resize(size))

    with ThreadPoolExecutor(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    ) as pool:
        return np.stack(list(pool.map(read, files)))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()
    os.environ["IMPRINT_CACHE"] = tempfile.mkdtemp(prefix="imprint-reading-")
    images = imprint.load(arguments.photos)
    height, width = images.shape[1:]
    print(f"{machine()}, Pillow {Image.__version__}; {len(images):,} pictures, read as {width}×{height}\n")
    first, loop, again, touched = [], [], [], []
    for _ in range(arguments.runs):
        cache.clear()
        first.append(timed(lambda: imprint.load(arguments.photos)))
        loop.append(timed(lambda: plain(images.sources, (width, height))))
        again.append(timed(lambda: imprint.load(arguments.photos)))
        touched.append(timed(lambda: imprint.load(arguments.photos).pixels.max()))
    cache.clear()
    print(f"plain loop              {spread(loop)} s")
    print(f"first read              {spread(first)} s")
    print(f"second read             {spread(again)} s")
    print(f"  and every pixel seen  {spread(touched)} s\n")
    ratios = [a / b for a, b in zip(loop, first, strict=True)]
    print(f"first read: {spread(ratios)} times as fast as the plain loop, target at least 1.5")
    ratios = [a / b for a, b in zip(first, again, strict=True)]
    print(f"second read: {spread(ratios)} times as fast as the first, target at least 10")


if __name__ == "__main__":
    main()
