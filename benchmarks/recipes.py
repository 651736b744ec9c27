"""What each recipe reaches on Kaggle's digits, beside the lesson in Keras on the same machine.

    make bench-recipes DATA=folder-with-train.csv-and-test.csv [RECIPES="quick best"] [SEEDS=5]

Accuracy is measured on 10,000 digits of train.csv that training never sees (it learns from the
other 32,000), seconds by training on all 42,000. The lesson takes 30 times Keras's epoch, which
is measured before and after each recipe.
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
from imprint.arithmetic import choose_arithmetic
from imprint.nets import build_net

HELD_OUT = 10_000


def halves(train_csv, folder):
    """Write the pictures to learn from and those to score with."""
    table = pl.read_csv(train_csv)
    order = np.random.default_rng(123).permutation(len(table))
    paths = folder / "learn.csv", folder / "score.csv"
    for path, rows in zip(paths, (order[HELD_OUT:], order[:HELD_OUT]), strict=True):
        table[rows.tolist()].write_csv(path)
    return paths


def train(data, recipe, *options):
    """Run the command in a process of its own; what it says, its seconds and its peak memory in MB."""
    return metered([*IMPRINT, "train", data, "--recipe", recipe, "--json", *options])


def training_gflop(recipe, pictures):
    """Count the arithmetic of a run: three times that of seeing each picture, all networks together."""
    forward = 0
    for kind in recipe.net.split("+"):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            build_net(kind, 1, (28, 28), 10).eval()(torch.zeros(1, 1, 28, 28))
        forward += counter.get_total_flops()
    return 3 * forward * sum(recipe.epoch_steps(pictures)) * recipe.batch_size / 1e9


def peak(precision):
    """Measure the machine's GFLOP/s in products of matrices."""
    matrix = torch.randn(2048, 2048).to(getattr(torch, precision))
    return 2 * 2048**3 / 1e9 / min(timed(lambda: matrix @ matrix) for _ in range(10))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with Kaggle's train.csv and test.csv")
    parser.add_argument("--keras", required=True, help="python of the environment that has tensorflow-cpu")
    parser.add_argument("--recipes", nargs="+", default=["quick", "best"])
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    train_csv, test_csv = arguments.data / "train.csv", arguments.data / "test.csv"
    keras = Keras(arguments.keras, "keras_lesson.py", train_csv, test_csv)
    arithmetic = choose_arithmetic(torch.device("cpu"))
    print(f"{machine()}, Keras {keras.version}; {arithmetic}\n")
    keras.do("epoch")  # not counted: tracing
    test = imprint.load(test_csv)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        learn, held_out = halves(train_csv, folder)
        for name in arguments.recipes:
            seeds = range(1, arguments.seeds + 1)
            scores = [
                train(learn, name, "--validation", held_out, "--seed", seed, "--run", folder / f"{name}-{seed}")[0]
                for seed in seeds
            ]
            accuracy = [score["validation"]["accuracy"] for score in scores]
            epochs = [keras.do("epoch")]
            runs = []
            for number in range(min(3, arguments.seeds)):
                run = folder / f"{name}-all-{number}"
                runs.append(train(train_csv, name, "--validation", 0, "--test", test_csv, "--run", run))
                epochs.append(keras.do("epoch"))
            loops = [answer["seconds"] for answer, _, _ in runs]
            lesson = 30 * statistics.median(epochs)
            gflops = [training_gflop(imprint.RECIPES[name], 42_000) / seconds for seconds in loops]
            fastest, best_float32, best_bfloat16 = max(gflops), peak("float32"), peak("bfloat16")
            model = imprint.Classifier.load(folder / f"{name}-1")
            model.predict(test)
            ours, theirs = zip(
                *((timed(lambda m=model: m.predict(test)), keras.do("predict")) for _ in seeds), strict=True
            )
            around = [wall - answer["seconds"] for answer, wall, _ in runs]
            mean, sd = statistics.mean(accuracy), statistics.stdev(accuracy) if len(accuracy) > 1 else 0.0
            print(f"{name}")
            print(f"  accuracy on {HELD_OUT:,} held-out digits  {mean:.4f} ± {sd:.4f} of {len(accuracy)} seeds", end="")
            print(f" ({min(accuracy):.4f}-{max(accuracy):.4f})")
            print(f"  loop on 42,000, s                {spread(loops)}")
            print(f"  Keras lesson, s                  {lesson:.0f}; ratio {lesson / statistics.median(loops):.1f}")
            print(
                f"  GFLOP/s                          {spread(gflops)}; {fastest / best_float32:.2f} of float32's",
                end="",
            )
            print(f" peak {best_float32:.0f}, {fastest / best_bfloat16:.2f} of bfloat16's {best_bfloat16:.0f}")
            print(f"  around the loop, s               {spread(around)}")
            print(f"  28,000 predictions, s            {spread(ours)}; Keras {spread(theirs)}")
            print(f"  peak memory, MB                  {max(memory for _, _, memory in runs):.0f}", flush=True)


if __name__ == "__main__":
    main()
