"""What docs/lesson.md measures: augmentation, learning rates, seeds and the worth of layers; one JSON line a run.

    python benchmarks/lesson.py digits                  # the bundled digits: five minutes
    python benchmarks/lesson.py train.csv               # Kaggle's: an hour
    python benchmarks/lesson.py train.csv --measures augmentation --seeds 1

Lines are appended to benchmarks/lesson.jsonl; `scripts/lesson_measured.py` makes tables and drawings of them, and
tests/test_lesson.py holds the page to them. Every score is of images that neither training nor the learning rate has
seen.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
from common import machine
from torch import nn

import imprint
from imprint.models.layers import Dense, Dropout, Flatten, ReLU, glorot_uniform
from imprint.models.networks import NETWORKS, NetworkKind
from imprint.recipes import parse_settings

RESULTS = Path(__file__).with_suffix(".jsonl")
PLAIN = ["rotation=0", "zoom=0", "shift=0"]
CONSTANT = ["plateau_patience=1000"]
VARIANTS = {
    "augmentation": {"with": [], "without": PLAIN},
    "few images": {"with": [], "without": PLAIN},
    "whole lesson": {"with": [], "without": PLAIN},
    "parts": dict.fromkeys(("dropout", "ReLU", "pooling", "convolutions"), ()),  # each left out
    "learning rate": {
        "too small": [*CONSTANT, "learning_rate=1e-5"],
        "right": CONSTANT,
        "too large": [*CONSTANT, "learning_rate=0.03"],
        "falling": [],
    },
}
FEW = 500  # images to learn from

# How long the lesson's network is trained; the same for all variants. A measure is made on the data named here.
LENGTH = {
    ("digits", "augmentation"): ["epochs=30", "steps_per_epoch=24"],
    ("digits", "few images"): ["epochs=30", "steps_per_epoch=24"],
    ("digits", "learning rate"): ["epochs=30", "steps_per_epoch=24"],
    ("digits", "parts"): ["epochs=30", "steps_per_epoch=24"],
    ("kaggle", "augmentation"): ["epochs=6", "steps_per_epoch=640"],
    ("kaggle", "few images"): ["epochs=12", "steps_per_epoch=160"],
    ("kaggle", "learning rate"): ["epochs=12", "steps_per_epoch=160"],
    ("kaggle", "whole lesson"): [],
}


class Through(ReLU):
    """Stands where a ReLU would, since the OOD score takes its embeddings there, and does nothing."""

    def forward(self, values):
        return values


def lesson_without(part):
    """How to build the lesson's network with a part left out."""

    def build(channels, height, width, classes):
        relu = Through if part == "ReLU" else ReLU
        if part == "convolutions":
            maps, features = [Through()], channels * height * width
        else:
            pooled = part != "pooling"
            rows, columns = ((side - 4) // (2 if pooled else 1) - 2 for side in (height, width))
            pooling = [nn.MaxPool2d(2)] if pooled else []
            maps = [nn.Conv2d(channels, 30, 5), *pooling, relu(), nn.Conv2d(30, 15, 3), relu()]
            features = 15 * rows * columns
        dropout = [] if part == "dropout" else [Dropout(0.2)]
        dense = [Dense(features, 128), relu(), Dense(128, 50), relu(), Dense(50, classes)]
        return glorot_uniform(nn.Sequential(*maps, *dropout, Flatten(), *dense))

    return NetworkKind(build, 10)


def divided(images, measure):
    """Images to learn from (validation included) and images to score with."""
    order = np.random.default_rng(123).permutation(len(images))
    held_out = len(images) * 4 // 9 if len(images) < 10_000 else 10_000
    learn = order[held_out:]
    return images[learn[:FEW] if measure == "few images" else learn], images[order[:held_out]]


def moved(images):
    """The same images, a pixel farther to the right."""
    pixels = np.zeros_like(images.pixels)
    pixels[..., 1:] = images.pixels[..., :-1]
    return replace(images, pixels=pixels)


def run_once(images, data, measure, variant, seed):
    learn, test = divided(images, measure)
    changes = [*LENGTH[data, measure], *VARIANTS[measure][variant]]
    networks = {"tutorial": lesson_without(variant)} if measure == "parts" else {}
    with patch.dict(NETWORKS, networks):
        run = imprint.train(learn, "tutorial", seed=seed, **parse_settings(changes), verbose=False)
    score = imprint.evaluate(run.model, test)
    keys = ("loss", "acc", "val_loss", "val_acc", "lr")
    history = {key: [round(value, 6) for value in run.history[key]] for key in keys}
    return {
        "data": data,
        "measure": measure,
        "variant": variant,
        "seed": seed,
        "learnt": len(learn),
        "scored": len(test),
        "parameters": sum(tensor.numel() for tensor in run.model.network.parameters()),
        "accuracy": round(score.accuracy, 6),
        "moved": round(imprint.evaluate(run.model, moved(test)).accuracy, 6),
        "log_loss": round(score.log_loss, 5),
        "confusion": score.confusion,
        "seconds": round(run.seconds, 1),
        "settings": changes,
        "history": history,
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
    }


def table():
    """Mean and spread of all lines so far."""
    groups = defaultdict(list)
    for line in RESULTS.read_text().splitlines():
        one = json.loads(line)
        groups[one["data"], one["measure"], one["variant"], one["learnt"]].append(one["accuracy"])
    print("| data | measure | variant | learnt from | runs | accuracy ± sd (least-most) |\n|---|---|---|---|---|---|")
    for (data, measure, variant, learnt), values in sorted(groups.items()):
        sd = statistics.stdev(values) if len(values) > 1 else 0.0
        figures = f"{statistics.mean(values):.4f} ± {sd:.4f} ({min(values):.4f}-{max(values):.4f})"
        print(f"| {data} | {measure} | {variant} | {learnt:,} | {len(values)} | {figures} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", help="digits, or Kaggle's train.csv")
    parser.add_argument("--measures", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    arguments = parser.parse_args()
    images = imprint.load(arguments.data)
    data = "digits" if arguments.data == "digits" else "kaggle"
    for measure in (measure for measure in arguments.measures if (data, measure) in LENGTH):
        for seed in arguments.seeds:
            for variant in VARIANTS[measure]:
                result = run_once(images, data, measure, variant, seed)
                with open(RESULTS, "a") as file:
                    file.write(json.dumps(result) + "\n")
    table()


if __name__ == "__main__":
    main()
