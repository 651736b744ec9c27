"""How well a digit model knows what it does not know: calibration, and the share of OOD images flagged unsure.

    make bench-unsure DATA=folder-with-train.csv PHOTOS=sign-digits [SEEDS=3]

A recipe is trained on 32,000 digits of train.csv; 10,000 others are in distribution and new to it. OOD images are
hands, letters, textures and blanks, never trained on; the method was chosen on those "tried", others (hands of other
signs, serif fonts, other textures) are "unseen". `make` measures quick and best.
"""

import argparse
import statistics
from dataclasses import replace

import numpy as np
from common import machine, timed
from strange import LETTERS, LOOKALIKES, ood_images

import imprint
from imprint.models.inference import apply_tta, predict_probabilities
from imprint.recipes import parse_settings

HELD_OUT = 10_000
KINDS = ("hands", "letters", "noise", "textures", "blank")


def images(pixels):
    return imprint.LabelledImages(pixels, None, (), np.arange(1, len(pixels) + 1))


def without_ood_score(model, images):
    """Predict without computing how uncertain each prediction is."""
    found = predict_probabilities(model.network, images.pixels, model.spec)
    return apply_tta(model.network, images.pixels, model.spec, model.recipe.tta, found, model.tta_below)


def flagged(row, part, lookalikes):
    """Average the shares of OOD images flagged: each kind counts alike, and its rows as much as its files."""
    found = {name: share for name, share in row.items() if name.endswith(f"({part})")}
    for form in ("rows", "files"):
        similar, others = (found.pop(f"{kind}, {form} ({part})") for kind in ("lookalikes", "letters"))
        weight = len(LOOKALIKES) / len(LETTERS) if lookalikes else 0
        found[f"letters, {form} ({part})"] = weight * similar + (1 - weight) * others
    return statistics.mean(found[f"{kind}, {form} ({part})"] for kind in KINDS for form in ("rows", "files"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("train_csv")
    parser.add_argument("--photos", required=True, help="sign-digits")
    parser.add_argument("--recipe", default="quick")
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--validation", type=float)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    digits = imprint.load(arguments.train_csv)
    order = np.random.default_rng(123).permutation(len(digits))
    training, genuine = digits[order[HELD_OUT:]], digits[order[:HELD_OUT]]
    fields = parse_settings(arguments.settings)
    if arguments.validation is not None:
        fields["validation_fraction"] = arguments.validation
    print(machine(), flush=True)
    rows, unlike = [], None
    for seed in range(1, arguments.seeds + 1):
        model = imprint.train(training, arguments.recipe, verbose=False, **fields | {"seed": seed}).model
        if unlike is None:
            parts = {part: ood_images(part, model.spec.glyph, arguments.photos) for part in ("tried", "unseen")}
            unlike = {(kind, part): images(parts[part][kind]) for kind in parts["tried"] for part in parts}
        scored, raw = (imprint.evaluate(one, genuine) for one in (model, replace(model, temperature=1.0)))
        row = {
            "temperature": model.temperature,
            "calibration error": scored.calibration_error,
            "uncalibrated": raw.calibration_error,
            "accuracy": scored.accuracy,
            "genuine flagged": scored.unsure["share"],
            "accuracy on the rest": scored.unsure["accuracy_when_sure"],
        }
        row |= {f"{kind} ({part})": float(model.predict(some).unsure.mean()) for (kind, part), some in unlike.items()}
        both = [
            (timed(lambda m=model: m.predict(genuine)), timed(lambda m=model: without_ood_score(m, genuine)))
            for _ in range(5)
        ]
        row["time of predictions, ratio"] = statistics.median(ours / plain for ours, plain in both)
        rows.append(row)
    print(f"| {arguments.recipe}, {arguments.seeds} seeds | mean | each |", "|---|---|---|", sep="\n")
    for name in rows[0]:
        each = [row[name] for row in rows]
        print(f"| {name} | {statistics.mean(each):.4f} | {', '.join(f'{value:.4f}' for value in each)} |")
    for part in ("tried", "unseen"):
        for lookalikes in (False, True):
            name = f"mean of five kinds ({part}), {'all letters' if lookalikes else 'without lookalikes'}; target 0.95"
            each = [flagged(row, part, lookalikes) for row in rows]
            print(f"| {name} | {statistics.mean(each):.4f} | {', '.join(f'{value:.4f}' for value in each)} |")


if __name__ == "__main__":
    main()
