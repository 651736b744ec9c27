"""How fast image files are read: photos against a plain Pillow loop, tiny ones against Keras, both against the cache.

    make bench-reading PHOTOS=folder-of-class-folders DATA=folder-of-train.csv

The plain loop opens each image, converts it to RGB and resizes it to the same size, in one thread per core. The tiny
ones are 60,000 PNG files of 28×28, made of the digits of train.csv; Keras lists them and iterates over them once, in
its default batches of 32 and in batches of 1,000. What is compared runs in turns; the files have been read once before.
For the first read of tiny files there is no target: Pillow spends 50 µs in Python on each, and a decoder of our own
that avoided it saved no more than 3 s, once.
"""

import argparse
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from common import Keras, machine, metered, spread, timed
from PIL import Image

import imprint
from imprint.data import cache

TINY = 60_000
BATCHES = (32, 1000)


def pillow_loop(files, size):
    """Read all files with the few lines that anybody would write."""

    def read(file):
        return np.asarray(Image.open(file).convert("RGB").resize(size))

    with ThreadPoolExecutor(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    ) as pool:
        return np.stack(list(pool.map(read, files)))


def photos(folder, runs):
    images = imprint.load(folder)
    height, width = images.shape[1:]
    print(f"{len(images):,} images, read as {width}×{height}\n")
    first, loop, second, touched = [], [], [], []
    for _ in range(runs):
        cache.clear()
        first.append(timed(lambda: imprint.load(folder)))
        loop.append(timed(lambda: pillow_loop(images.sources, (width, height))))
        second.append(timed(lambda: imprint.load(folder)))
        touched.append(timed(lambda: imprint.load(folder).pixels.max()))
    cache.clear()
    print(f"plain loop              {spread(loop)} s")
    print(f"first read              {spread(first)} s")
    print(f"second read             {spread(second)} s")
    print(f"  and every pixel read  {spread(touched)} s\n")
    ratios = [a / b for a, b in zip(loop, first, strict=True)]
    print(f"first read: {spread(ratios)} times as fast as the plain loop, target at least 1.5")
    ratios = [a / b for a, b in zip(first, second, strict=True)]
    print(f"second read: {spread(ratios)} times as fast as the first, target at least 10\n")


def write_tiny(digits, folder):
    """Write the digits as PNG files in class folders, repeated until there are enough."""
    for i in range(TINY):
        label = folder / digits.class_names[digits.labels[i % len(digits)]]
        label.mkdir(exist_ok=True)
        Image.fromarray(digits.pixels[i % len(digits), 0]).save(label / f"{i:05}.png")


def tiny(digits, python, runs):
    keras = Keras(python, "keras_reading.py")
    print(f"{TINY:,} PNG files of 28×28; Keras {keras.version}\n")
    with tempfile.TemporaryDirectory() as folder:
        write_tiny(imprint.load(digits), Path(folder))
        expected = imprint.load(folder).pixels.nbytes
        first, second, theirs = [], [], {batch: [] for batch in BATCHES}
        for _ in range(runs):
            cache.clear()
            first.append(timed(lambda: imprint.load(folder)))
            second.append(timed(lambda: imprint.load(folder)))
            for batch in BATCHES:
                theirs[batch].append(keras.do(f"read {batch} {folder}"))
        cache.clear()
        reading = f"import imprint; print(len(imprint.load({folder!r}).pixels.copy()))"
        memory = metered([sys.executable, "-c", reading])[2]
        cache.clear()
    for batch in BATCHES:
        print(f"Keras, batches of {batch:<6,}{spread(theirs[batch])} s")
    print(f"first read              {spread(first)} s")
    print(f"second read             {spread(second)} s\n")
    for batch in BATCHES:
        ratios = [a / b for a, b in zip(theirs[batch], first, strict=True)]
        print(f"first read: {spread(ratios)} times as fast as Keras in batches of {batch:,}")
    print(f"peak memory of a process that reads them and copies them: {memory:.0f} MB")
    print(f"  target at most twice {expected / 1e6:.0f} MB and 500: {2 * expected / 1e6 + 500:.0f} MB")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, nargs="?", help="folder of class folders")
    parser.add_argument("--digits", type=Path, help="Kaggle's train.csv")
    parser.add_argument("--keras", help="python of the environment that has tensorflow-cpu")
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()
    os.environ["IMPRINT_CACHE"] = tempfile.mkdtemp(prefix="imprint-reading-")
    print(f"{machine()}, Pillow {Image.__version__}\n")
    if arguments.photos:
        photos(arguments.photos, arguments.runs)
    if arguments.digits:
        tiny(arguments.digits, arguments.keras, arguments.runs)


if __name__ == "__main__":
    main()
