"""The lesson in Imprint and in Keras, in turn on one machine: medians and ratios.

    make bench-tutorial DATA=folder-with-train.csv-and-test.csv

The machines that this runs on are shared, so each figure is measured in rounds, Keras and
Imprint one after the other, and compared round by round.
"""

import argparse
import statistics
import subprocess
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from common import IMPRINT, Keras, machine, spread, timed

import imprint
from imprint.models.inference import predict_probabilities
from imprint.models.networks import tutorial
from imprint.preprocessing.input_spec import InputSpec


def imprint_epochs(train_csv, epochs):
    """Train some epochs in a process of its own, so that Keras's threads and ours never meet."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*IMPRINT, "train", train_csv, "--recipe", "tutorial", "--set", f"epochs={epochs}"]
        subprocess.run(
            [*command, "--run", f"{folder}/run"], check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        rows = (Path(folder) / "run" / "history.csv").read_text().splitlines()[1:]
    return [float(row.split(",")[1]) for row in rows][1:]  # as with Keras, the first is not counted


def seconds_to_first_step(train_csv):
    """From starting the command to the line that it prints right before its first step."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*IMPRINT, "train", train_csv, "--recipe", "tutorial", "--set", "epochs=1", "--set"]
        started = time.perf_counter()
        with subprocess.Popen(
            [*command, "steps_per_epoch=1", "--run", f"{folder}/run"],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        ) as process:
            for line in process.stderr:
                if line.startswith("1 epoch of tutorial"):
                    seconds = time.perf_counter() - started
            process.wait()
    return seconds


def largest_difference(keras):
    """Put Keras's weights into Imprint's network and compare the probabilities of 1,000 images."""
    with tempfile.TemporaryDirectory() as folder:
        keras.do(f"compare {folder}/keras.npz")
        with np.load(f"{folder}/keras.npz") as arrays:
            pixels, expected = arrays["pixels"], arrays["probabilities"]
            weights = [torch.from_numpy(arrays[f"weights{i}"]) for i in range(10)]
    network = tutorial(1, 28, 28, 10)
    # Keras: kernels (rows, columns, in, out), dense (in, out), images flattened with channels last.
    first_dense = weights[4].view(10, 10, 15, 128).permute(2, 0, 1, 3).reshape(1500, 128)
    mapped = {
        "conv2d.weight": weights[0].permute(3, 2, 0, 1),
        "conv2d.bias": weights[1],
        "conv2d_1.weight": weights[2].permute(3, 2, 0, 1),
        "conv2d_1.bias": weights[3],
        "dense.weight": first_dense,
        "dense.bias": weights[5],
        "dense_1.weight": weights[6],
        "dense_1.bias": weights[7],
        "dense_2.weight": weights[8],
        "dense_2.bias": weights[9],
    }
    network.load_state_dict(mapped)
    stack = np.rint(pixels * 255).astype(np.uint8).transpose(0, 3, 1, 2)
    ours = predict_probabilities(network, stack, InputSpec(1, (28, 28), (28, 28)))
    return float(np.abs(ours - expected).max())


def report(name, ours, theirs, target, faster=True):
    """Print both sides and the ratio, taken round by round."""
    ratios = [t / o if faster else o / t for o, t in zip(ours, theirs, strict=True)]
    print(f"{name:34} {spread(ours):>24} {spread(theirs):>24} {spread(ratios):>24}  {target}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with Kaggle's train.csv and test.csv")
    parser.add_argument("--keras", required=True, help="python of the environment that has tensorflow-cpu")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    train_csv, test_csv = arguments.data / "train.csv", arguments.data / "test.csv"
    rounds = range(arguments.rounds)

    keras = Keras(arguments.keras, "keras_lesson.py", train_csv, test_csv)
    print(f"{machine()}, polars {version('polars')}, ", end="")
    print(f"Keras {keras.version}; median (least-most) of {len(rounds)} rounds\n")
    print(f"{'':34} {'Imprint, s':>24} {'Keras or pandas, s':>24} {'ratio':>24}  target")

    keras.do("epoch")  # not counted: tracing
    epochs = [(statistics.median(imprint_epochs(train_csv, 3)), keras.do("epoch")) for _ in rounds]
    report("epoch of 640 steps of 64", *zip(*epochs, strict=True), "at least 2.5")

    images = imprint.load(test_csv)
    model = imprint.train(imprint.load(train_csv), "tutorial", epochs=1, steps_per_epoch=1, verbose=False)
    keras.do("predict")
    model.model.predict(images)
    predictions = [(timed(lambda: model.model.predict(images)), keras.do("predict")) for _ in rounds]
    report("28,000 predictions", *zip(*predictions, strict=True), "at least 4")

    reads = [(timed(lambda: imprint.load(train_csv)), keras.do("read")) for _ in rounds]
    report("train.csv to memory (ours/theirs)", *zip(*reads, strict=True), "at most 0.7", faster=False)

    starts = [seconds_to_first_step(train_csv) for _ in rounds]
    print(f"{'command to first training step':34} {spread(starts):>24} {'':>49}  under 4 s")
    helps = [timed(lambda: subprocess.run([*IMPRINT, "--help"], capture_output=True, check=True)) for _ in rounds]
    print(f"{'imprint --help':34} {spread(helps):>24} {'':>49}  under 0.3 s")
    print(f"{'largest difference in probability':34} {largest_difference(keras):24.1e} {'':>49}  at most 1e-5")


if __name__ == "__main__":
    main()
