"""What each recipe reaches on Kaggle's digits, beside the lesson in Keras on the same machine.

    make bench-recipes DATA=folder-with-train.csv-and-test.csv [RECIPES="quick best record"] [SEEDS=5]

Accuracy is measured on 10,000 digits of train.csv that training never sees (it learns from the
other 32,000), seconds by training on all 42,000. The lesson takes 30 times Keras's epoch, which
is measured before and after each run. `record` takes some 20 minutes a seed.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import torch
from common import IMPRINT, Keras, machine, metered, spread, timed
from torch.utils.flop_counter import FlopCounterMode

import imprint
from imprint.models.hardware import choose_compute_config
from imprint.models.networks import build_network
from imprint.training.ood_detector import ood_detector_recipe

HELD_OUT = 10_000
COLUMNS = (
    "recipe",
    "accuracy on 10,000 held out, mean ± sd (least-most, seeds)",
    "loop on 42,000, s",
    "Keras's lesson, s; times as fast",
    "share of peak, float32; bfloat16",
    "around the loop, s",
    "28,000 predictions, s; Keras",
    "peak memory, MB",
)


def halves(train_csv, folder):
    """Write the images to learn from and those to score with."""
    table = pl.read_csv(train_csv)
    order = np.random.default_rng(123).permutation(len(table))
    paths = folder / "learn.csv", folder / "score.csv"
    for path, rows in zip(paths, (order[HELD_OUT:], order[:HELD_OUT]), strict=True):
        table[rows.tolist()].write_csv(path)
    return paths


def train(data, recipe, *options):
    """Run the command in a process of its own; what it says, its seconds and its peak memory in MB."""
    return metered([*IMPRINT, "train", data, "--recipe", recipe, "--json", *options])


def training_gflop(recipe, images):
    """Count the arithmetic of a run: three times that of seeing each image, in all networks and the OOD detector."""
    forward = 0
    for kind in recipe.networks:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            build_network(kind, 1, (28, 28), 10).eval()(torch.zeros(1, 1, 28, 28))
        forward += counter.get_total_flops()
    of_guard = training_gflop(ood_detector_recipe(recipe), images) if recipe.ood_detector else 0
    return 3 * forward * sum(recipe.epoch_steps(images)) * recipe.batch_size / 1e9 + of_guard


def peak(precision):
    """Measure the machine's GFLOP/s in products of matrices."""
    matrix = torch.randn(2048, 2048).to(getattr(torch, precision))
    return 2 * 2048**3 / 1e9 / min(timed(lambda: matrix @ matrix) for _ in range(10))


def accuracies(recipe, learn, held_out, seeds, folder):
    """Give the accuracy on the held-out digits, learning from the others, once a seed."""
    labelled = (
        train(learn, recipe, "--validation", held_out, "--seed", seed, "--run", folder / f"{recipe}-{seed}")[0]
        for seed in range(1, seeds + 1)
    )
    return [answer["validation"]["accuracy"] for answer in labelled]


def shares_of_peak(recipe, seconds):
    """Give the fastest run's arithmetic as a share of the machine's peak in float32 and in bfloat16."""
    fastest = training_gflop(imprint.RECIPES[recipe], 42_000) / min(seconds)
    return tuple(fastest / peak(precision) for precision in ("float32", "bfloat16"))


def measured(recipe, data, learn_and_held_out, seeds, keras, folder):
    """Measure one recipe; its row of the table."""
    train_csv, test_csv = data / "train.csv", data / "test.csv"
    accuracy = accuracies(recipe, *learn_and_held_out, seeds, folder)
    epochs, runs = [keras.do("epoch")], []
    for number in range(min(3, seeds)):
        run = folder / f"{recipe}-all-{number}"
        runs.append(train(train_csv, recipe, "--validation", 0, "--test", test_csv, "--run", run))
        epochs.append(keras.do("epoch"))
    loops = [answer["seconds"] for answer, _, _ in runs]
    lesson = 30 * statistics.median(epochs)
    float32, bfloat16 = shares_of_peak(recipe, loops)

    test, model = imprint.load(test_csv), imprint.Classifier.load(folder / f"{recipe}-1")
    model.predict(test)  # not counted: laying out the weights
    ours, theirs = zip(*((timed(lambda: model.predict(test)), keras.do("predict")) for _ in range(5)), strict=True)
    sd = statistics.stdev(accuracy) if seeds > 1 else 0.0
    return (
        recipe,
        f"{statistics.mean(accuracy):.4f} ± {sd:.4f} ({min(accuracy):.4f}-{max(accuracy):.4f}, {seeds})",
        spread(loops),
        f"{lesson:.0f}; {lesson / statistics.median(loops):.1f}",
        f"{float32:.2f}; {bfloat16:.2f}",
        spread([wall - answer["seconds"] for answer, wall, _ in runs]),
        f"{spread(ours)}; {spread(theirs)}",
        f"{max(memory for _, _, memory in runs):.0f}",
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with Kaggle's train.csv and test.csv")
    parser.add_argument("--keras", required=True, help="python of the environment that has tensorflow-cpu")
    parser.add_argument("--recipes", nargs="+", default=["quick", "best", "record"])
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    train_csv, test_csv = arguments.data / "train.csv", arguments.data / "test.csv"
    keras = Keras(arguments.keras, "keras_lesson.py", train_csv, test_csv)
    arithmetic = choose_compute_config(torch.device("cpu"))
    print(f"{machine()}, Keras {keras.version}; {arithmetic}\n")
    keras.do("epoch")  # not counted: tracing

    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        learn_and_held_out = halves(train_csv, folder)
        for recipe in arguments.recipes:
            row = measured(recipe, arguments.data, learn_and_held_out, arguments.seeds, keras, folder)
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
