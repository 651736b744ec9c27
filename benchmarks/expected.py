"""Does the accuracy that training says to expect hold on new images?

    make bench-unsure DATA=folder-with-train.csv [SEEDS=3]

A quick model is trained on 20,000 digits of train.csv; its accuracy on the other 22,000 is the truth. Samples of 300
and of 2,560 of these are drawn 2,000 times, and the interval that each sample gives is compared with the truth. Then
real runs, each trained on another 32,000 digits with 8 % of them held out: what they say to expect, beside their
accuracy on the 10,000 left.
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
    correct = model.predict(others).labels == others.labels
    for held_out in (300, 2_560):
        draws = (estimate_accuracy(rng.choice(correct, held_out)) for _ in range(2_000))
        covered = np.mean([one.interval[0] <= correct.mean() <= one.interval[1] for one in draws])
        print(f"{held_out:,} held out, 2,000 draws: {covered:.4f} of intervals contain the truth, {correct.mean():.4f}")
    for seed in range(1, arguments.seeds + 1):
        order = np.random.default_rng(seed).permutation(len(digits))
        training = digits[order[10_000:]]
        run = imprint.train(training, "quick", validation_seed=seed, seed=seed, verbose=False)
        low, high = run.expected.interval
        truth = imprint.evaluate(run.model, digits[order[:10_000]]).accuracy
        print(
            f"seed {seed}: expected {run.expected.accuracy:.4f} ({low:.4f} to {high:.4f}); on 10,000 others {truth:.4f}"
        )


if __name__ == "__main__":
    main()
