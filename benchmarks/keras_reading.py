"""Keras's `image_dataset_from_directory`, driven line by line over stdin so that another program can time it in turn.

Run by benchmarks/reading.py in an environment with tensorflow-cpu.

    read BATCH FOLDER   list a folder of class folders of grey images of 28×28, and go through them once, in batches
"""

import json
import os
import sys
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras


def read(batch, folder):
    images = keras.utils.image_dataset_from_directory(
        folder, color_mode="grayscale", image_size=(28, 28), batch_size=batch, verbose=False
    )
    return sum(len(labels) for _, labels in images)


def main():
    print(json.dumps({"keras": keras.__version__}), flush=True)
    for line in sys.stdin:
        _, batch, folder = line.rstrip("\n").split(" ", 2)
        started = time.perf_counter()
        images = read(int(batch), folder)
        print(json.dumps({"seconds": time.perf_counter() - started, "images": images}), flush=True)


if __name__ == "__main__":
    main()
