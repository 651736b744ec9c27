"""Small colour images: `quick` or `best` beside Keras's own example for them, in the same run.

    make bench-colour COLOUR=cifar10/train.zip [RECIPES="quick best"] [SEEDS=1] [EPOCHS=50]

Every fifth image is held out, by a fixed seed and the same for both. Imprint's seconds are those of the whole command
`train`, from reading the data to the run folder; Keras's those of `fit` alone, with all images in memory. With fewer
than its 50 epochs, Keras's time for all of them is extrapolated and its accuracy is that of the last one run.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from common import Keras, machine

import imprint

HELD_OUT, WHOLE = 0.2, 50  # share; epochs that the example's own text names


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="what `imprint train` takes")
    parser.add_argument("--keras", help="python of the environment that has tensorflow-cpu; without it Imprint alone")
    parser.add_argument("--recipes", nargs="+", default=["quick"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=WHOLE, help="epochs of Keras's example")
    arguments = parser.parse_args()
    started = time.perf_counter()
    images = imprint.load(arguments.data)
    reading = time.perf_counter() - started
    order = np.random.default_rng(20).permutation(len(images))
    held_out, training = (images[part] for part in np.split(order, [round(HELD_OUT * len(images))]))
    print(f"{machine()}; {len(training):,} images to learn from, {len(held_out):,} held out", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for recipe in arguments.recipes:
            for seed in range(1, arguments.seeds + 1):
                started = time.perf_counter()
                run = imprint.train(training, recipe, seed=seed, run=Path(folder) / f"{recipe}-{seed}", verbose=False)
                seconds = reading + time.perf_counter() - started
                accuracy = imprint.evaluate(run.model, held_out).accuracy
                print(f"{recipe}, seed {seed}: {accuracy:.4f}, {seconds:.0f} s, loop {run.seconds:.0f} s", flush=True)
        if arguments.keras:
            arrays = {
                f"{part}_{key}": values
                for part, images in (("train", training), ("test", held_out))
                for key, values in (("pixels", images.pixels.transpose(0, 2, 3, 1)), ("labels", images.labels))
            }
            np.savez(f"{folder}/both.npz", **arrays)
            keras = Keras(arguments.keras, "keras_colour.py", f"{folder}/both.npz")
            theirs = keras.ask(f"train 1 {arguments.epochs}")
            whole = theirs["seconds"] * WHOLE / arguments.epochs
            reached = f"{theirs['accuracy'][-1]:.4f} after {arguments.epochs} epochs, {theirs['seconds']:.0f} s"
            print(f"Keras {keras.version}: {reached}; {WHOLE} epochs take {whole:.0f} s")


if __name__ == "__main__":
    main()
