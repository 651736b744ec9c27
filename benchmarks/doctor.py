"""How much of what is wrong with data the data doctor finds, and how long it takes.

    make bench-doctor DATA=folder-with-train.csv PHOTOS=folder-of-class-folders [SEEDS=3]
    python benchmarks/doctor.py --labels FOLDER [FOLDER ...] [--seeds 3]

Copies: four are made of every photo, re-encoded, resized, cropped and brightened; found are pairs of a photo and its
own copy, false are all others. The digits are distinct, so every pair among them is false. Labels: a share of
train.csv's is changed, to a random other class or always to the next one, and the changed labels among the first
findings are counted. With --labels, wrong labels are planted in collections of photos: by chance, and from class to
class as often as cross-validated regression on the right labels confuses them.
"""

import argparse
import dataclasses
import io
import time
from pathlib import Path

import numpy as np
from common import machine, spread, timed
from photos import read
from PIL import Image, ImageEnhance

import imprint
from imprint.analysis.label_errors import _probabilities_by_features, find_label_errors
from imprint.data.duplicates import connect, first_copies, near_copies
from imprint.data.images import LabelledImages
from imprint.data.split import deal_folds

SIDE = 100


def encoded(image, random):
    content = io.BytesIO()
    image.save(content, "JPEG", quality=75)
    return Image.open(content)


def resized(image, random):
    side = round(SIDE * np.exp(random.uniform(np.log(0.7), np.log(1.5))))
    return image.resize((side, side), Image.Resampling.BICUBIC)


def cropped(image, random):
    left, top, right, bottom = (random.uniform(0, 0.04, 4) * SIDE).round()
    return image.crop((left, top, SIDE - right, SIDE - bottom))


def brightened(image, random):
    return ImageEnhance.Brightness(image).enhance(random.uniform(0.85, 1.15))


def copies(pixels, change, random):
    """Change every image, and scale it back to the common size."""
    changed = (change(Image.fromarray(image.transpose(1, 2, 0)), random) for image in pixels)
    same_size = (each.resize((SIDE, SIDE), Image.Resampling.BILINEAR) for each in changed)
    return np.stack([np.asarray(each).transpose(2, 0, 1) for each in same_size])


def photos_found(pixels):
    print(f"{len(pixels):,} photos: {len(near_copies(pixels).pairs)} pairs reported as copies")
    for change in (encoded, resized, cropped, brightened):
        started = time.perf_counter()
        found = near_copies(pixels, copies(pixels, change, np.random.default_rng(0))).pairs
        own = found[:, 1] - found[:, 0] == len(pixels)
        seconds = time.perf_counter() - started
        print(f"  {change.__name__:10}  found {own.sum() / len(pixels):.4f}, false {(~own).sum()}, {seconds:.1f} s")


def digits_found(images, rounds):
    seventy = np.resize(images.pixels, (70_000, *images.shape))

    def exact_copies():
        return first_copies(LabelledImages(seventy, None, (), np.arange(len(seventy))).pixel_hashes)

    exact = [timed(exact_copies) for _ in range(rounds)]
    print(f"exact copies among 70,000 digits, s  {spread(exact)}")
    started = time.perf_counter()
    found = near_copies(images.pixels)
    seconds = time.perf_counter() - started
    print(f"near copies among {len(images):,} distinct digits  {len(found.pairs)} pairs, {seconds:.1f} s")


def labels_found(images, share, to_next, seed):
    """Change labels; give the recall among the first findings, the precision, the number of findings, and seconds."""
    random, classes = np.random.default_rng(seed), len(images.class_names)
    changed = random.choice(len(images), round(share * len(images)), replace=False)
    labels = images.labels.copy()
    step = 1 if to_next else random.integers(1, classes, len(changed))
    labels[changed] = (labels[changed] + step) % classes
    noisy, started = dataclasses.replace(images, labels=labels), time.perf_counter()
    found, _ = find_label_errors(noisy, np.arange(len(images)), seed=seed)
    seconds = time.perf_counter() - started
    listed = np.array([finding.images[0] for finding in found], dtype=int)
    right = np.isin(listed, changed)
    first = right[: round((share + 0.01) * len(images))].sum()
    return first / max(len(changed), 1), right.mean() if len(right) else 0.0, len(found), seconds


def planted(labels, share, confusion, seed):
    """Change labels by chance, or as `confusion` (a row a class) has it; give the labels and which were changed."""
    random, classes = np.random.default_rng(seed), int(labels.max()) + 1
    changed = random.choice(len(labels), round(share * len(labels)), replace=False)
    labels = labels.copy()
    if confusion is None:
        labels[changed] = (labels[changed] + random.integers(1, classes, len(changed))) % classes
    else:
        labels[changed] = [random.choice(classes, p=confusion[label]) for label in labels[changed]]
    return labels, changed


def confusions(images, groups):
    """Give the judges' mean probabilities of the other classes, a row for each class."""
    deals = [deal_folds(images.labels, groups, 5, 99)]
    probabilities = _probabilities_by_features(images, deals, 99, "auto")
    mean = np.stack([probabilities[images.labels == label].mean(axis=0) for label in range(len(images.class_names))])
    np.fill_diagonal(mean, 0)
    mean = mean.astype(float)
    return mean / mean.sum(axis=1, keepdims=True)


def photo_labels_found(folder, seeds):
    """Plant wrong labels in a collection, and print what is listed and what the list says of itself."""
    images = imprint.load(folder, allow_bad=1.0)
    groups = connect([images.pixel_hashes], near_copies(images.pixels).pairs)
    confusion = confusions(images, groups)
    print(f"\n{len(images):,} photos of {Path(folder).name}, {len(images.class_names)} classes")
    print("planted how    seeds  listed        precision       recall          s  said at the last seed")
    for share in (0.0, 0.024, 0.05, 0.1):
        for how in ("chance", "alike") if share else ("none",):
            rows = []
            for seed in range(1, (seeds if share else 1) + 1):
                labels, changed = planted(images.labels, share, confusion if how == "alike" else None, seed)
                started = time.perf_counter()
                found, notes = find_label_errors(dataclasses.replace(images, labels=labels), groups, seed=seed)
                seconds = time.perf_counter() - started
                right = np.isin([finding.images[0] for finding in found], changed).sum()
                rows.append(
                    (len(found), right / len(found) if found else np.nan, right / max(len(changed), 1), seconds)
                )
            listed, precision, recall, seconds = np.array(rows).T
            some = precision[listed > 0] if listed.any() else np.array([np.nan])
            counts = ",".join(f"{count:.0f}" for count in listed)
            print(
                f"{share:6.1%}  {how:6} {len(rows):5}  {counts:12}  {some.mean():.2f} (>= {some.min():.2f})"
                f"  {recall.mean():.2f} (>= {recall.min():.2f})  {seconds.mean():.0f}  {notes[0]}",
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train_csv", type=Path, nargs="?")
    parser.add_argument("--labels", nargs="+", default=[], help="folders of class folders to plant wrong labels in")
    parser.add_argument("--photos", type=Path, help="folder of class folders")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{machine()}\n")
    for folder in arguments.labels:
        photo_labels_found(folder, arguments.seeds)
    if not arguments.train_csv:
        return
    images = imprint.load(arguments.train_csv)
    digits_found(images, arguments.seeds)
    if arguments.photos:
        photos_found(read(arguments.photos, SIDE).pixels)
    print(f"\nwrong labels among {len(images):,} digits; found: among as many findings as were changed and 1 % more")
    print(f"{'changed':>8} {'to':>6} {'seed':>5} {'found':>7} {'precision':>9} {'listed':>7} {'s':>6}")
    for share, to_next in ((0.02, False), (0.02, True), (0.1, False), (0.1, True), (0.0, False)):
        for seed in range(1, (arguments.seeds if share == 0.02 and not to_next else 1) + 1):
            found, precision, listed, seconds = labels_found(images, share, to_next, seed)
            to = "next" if to_next else "any"
            print(f"{share:8.0%} {to:>6} {seed:5} {found:7.4f} {precision:9.4f} {listed:7,} {seconds:6.1f}", flush=True)


if __name__ == "__main__":
    main()
