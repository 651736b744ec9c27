"""Does the accuracy that training tells one to expect hold?

    make bench-unsure DATA=folder-with-train.csv [SEEDS=3]

One quick model is trained 20,000 digits of train.csv; how it does on the other 22,000 is the truth. From these, 2,560
are drawn 2,000 times, and the interval that each draw gives is held against the truth. Then real trainings, each on
another 32,000 digits with its own 8 % held out: what they expect, beside their accuracy on the 10,000 left.
"""

import argparse

import numpy as np
from common import machine

import imprint
from imprint.core.scores import estimate_accuracy


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("train_csv")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    digits = imprint.load(arguments.train_csv)
    print(machine(), flush=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(digits))
    model = imprint.train(digits[order[:20_000]], "quick", validation=0, verbose=False).model
    others = digits[order[20_000:]]
    right = model.predict(others).labels == others.labels
    for held_out in (300, 2_560):
        draws = (estimate_accuracy(rng.choice(right, held_out)) for _ in range(2_000))
        covered = np.mean([one.interval[0] <= right.mean() <= one.interval[1] for one in draws])
        print(f"{held_out:,} held out, 2,000 draws: {covered:.4f} of the intervals hold the truth, {right.mean():.4f}")
    for seed in range(1, arguments.seeds + 1):
        order = np.random.default_rng(seed).permutation(len(digits))
        options = {"settings": [f"validation_seed={seed}"], "seed": seed, "silent": True}
        run = imprint.train(digits[order[10_000:]], "quick", **options)
        low, high = run.expected.interval
        truth = imprint.evaluate(run.model, digits[order[:10_000]]).accuracy
        print(
            f"seed {seed}: expected {run.expected.accuracy:.4f} ({low:.4f} to {high:.4f}); on 10,000 others {truth:.4f}"
        )


if __name__ == "__main__":
    main()
