"""How time and memory grow with the number of images and with their size, for recipe quick.

    make bench-growth DATA=folder-with-train.csv

Kaggle's digits, once, 4 and 16 times over, and enlarged to 56 and 112 pixels; one epoch each, in
a process of its own. Draws docs/images/growth.png.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from common import machine, metered

CASES = [(1, 28), (4, 28), (16, 28), (1, 56), (1, 112)]  # times the images, side in pixels
IMAGE = Path(__file__).parents[1] / "docs" / "images" / "growth.png"


def one_epoch(train_csv, times, side):
    """Train one epoch and print its seconds and its pixels."""
    import imprint

    digits = imprint.load(train_csv)
    pixels = np.tile(digits.pixels, (times, 1, 1, 1)).repeat(side // 28, axis=2).repeat(side // 28, axis=3)
    images = imprint.LabelledImages(
        pixels, np.tile(digits.labels, times), digits.class_names, np.arange(len(pixels)), "digits"
    )
    run = imprint.train(images, "quick", epochs=1, validation=0, verbose=False)
    print(json.dumps({"seconds": run.seconds, "pixels": pixels.size}))


def measured(train_csv, times, side):
    """Run one case in a process of its own."""
    answer, _, memory = metered([sys.executable, __file__, train_csv, "--case", times, side])
    return answer | {"times": times, "side": side, "memory": memory}


def draw(rows):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    names = [f"{42 * row['times']:,},000\n{row['side']}×{row['side']}" for row in rows]
    per_pixel = [row["seconds"] / row["pixels"] * 1e9 for row in rows]
    axes[0].bar(names, per_pixel, color="#0072B2")
    axes[0].axhline(1.3 * min(per_pixel), color="#555555", linestyle="--", label="1.3 times the least")
    axes[0].set(ylabel="ns a pixel and epoch", ylim=(0, 1.6 * min(per_pixel)))
    axes[1].bar(names, [row["memory"] for row in rows], color="#0072B2", label="peak memory")
    limits = [3 * row["pixels"] / 2**20 + 700 for row in rows]
    places = np.arange(len(rows))
    axes[1].hlines(limits, places - 0.35, places + 0.35, color="#D55E00", linewidth=2, label="3 × data + 700 MB")
    axes[1].set(ylabel="MB", ylim=(0, 1.3 * max(limits)))
    for ax in axes:
        ax.legend(frameon=False, loc="upper right", ncols=2, handlelength=1.2)
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(IMAGE, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train_csv", type=Path)
    parser.add_argument("--case", nargs=2, type=int, help="only this one, in this process")
    arguments = parser.parse_args()
    if arguments.case:
        one_epoch(arguments.train_csv, *arguments.case)
        return
    print(f"{machine()}\n")
    rows = []
    for case in CASES:
        rows.append(measured(arguments.train_csv, *case))
        row = rows[-1]
        print(
            f"{row['times']:3} × 42,000 of {row['side']:3}×{row['side']:<3} {row['seconds']:7.2f} s"
            f" {row['seconds'] / row['pixels'] * 1e9:6.1f} ns a pixel, {row['memory']:6.0f} MB"
            f" of {3 * row['pixels'] / 2**20 + 700:6.0f} allowed",
            flush=True,
        )
    costs = [row["seconds"] / row["pixels"] for row in rows]
    print(f"most over least: {max(costs) / min(costs):.2f}, target at most 1.3")
    draw(rows)


if __name__ == "__main__":
    main()
