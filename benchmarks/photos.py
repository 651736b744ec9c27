"""Photos in folders, one a class: Imprint's recipe beside Keras's image-classification tutorial.

    make bench-photos PHOTOS=folder-of-class-folders [SEEDS=3]

A fifth of the photos is held out, the same for both. Keras's time is that of `fit` with all
photos decoded and scaled in memory, Imprint's that of its loop.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
from common import Keras, machine
from PIL import Image, ImageOps

import imprint
from imprint import LabelledImages
from imprint.data.split import split


def read(folder, side=180):
    """Read every image, scaled and cropped to one square size."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    paths = [path for name in names for path in sorted((folder / name).iterdir())]
    pixels = np.empty((len(paths), 3, side, side), np.uint8)
    for row, path in enumerate(paths):
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
        pixels[row] = np.asarray(ImageOps.fit(upright, (side, side))).transpose(2, 0, 1)
    labels = np.array([names.index(path.parent.name) for path in paths], dtype=np.int64)
    return LabelledImages(pixels, labels, tuple(names), np.array([str(path) for path in paths]), str(folder))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, help="folder of class folders")
    parser.add_argument("--keras", required=True, help="python of the environment that has tensorflow-cpu")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    photos = read(arguments.photos)
    training, held_out = (photos[side] for side in split(photos, 0.2, seed=123))
    with tempfile.TemporaryDirectory() as folder:
        arrays = {
            f"{part}_{key}": array
            for part, images in (("train", training), ("test", held_out))
            for key, array in (("pixels", images.pixels.transpose(0, 2, 3, 1)), ("labels", images.labels))
        }
        np.savez(f"{folder}/photos.npz", **arrays)
        keras = Keras(arguments.keras, "keras_photos.py", f"{folder}/photos.npz")
        print(
            f"{machine()}, Keras {keras.version}; {len(training):,} photos to learn from, {len(held_out):,} held out\n"
        )
        print(f"{'':6} {'Keras':>8} {'s':>6} {'Imprint':>8} {'s':>6}")
        rows = []
        for seed in range(1, arguments.seeds + 1):
            theirs = keras.ask(f"tutorial {seed} 15")
            run = imprint.train(training, "photos", validation=held_out, seed=seed, verbose=False)
            rows.append((theirs["accuracy"], theirs["seconds"], run.validation.accuracy, run.seconds))
            print("seed {:1} {:8.4f} {:6.1f} {:8.4f} {:6.1f}".format(seed, *rows[-1]), flush=True)
    keras_accuracy, keras_seconds, accuracy, seconds = map(statistics.mean, zip(*rows, strict=True))
    print(f"mean   {keras_accuracy:8.4f} {keras_seconds:6.1f} {accuracy:8.4f} {seconds:6.1f}")
    print(f"error {(1 - accuracy) / (1 - keras_accuracy):.2f} and time {seconds / keras_seconds:.2f} of Keras's")


if __name__ == "__main__":
    main()
