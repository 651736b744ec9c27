"""Score recipes on collections of photos, beside scikit-learn's regression on the same frozen features.

    .venv/bin/python benchmarks/pretrained.py NAME=FOLDER[:SHARE or COUNT]… [--seeds 5] [--recipes probe finetune]

Each split learns from a share of the images, or a count of each class, and is judged by the others; a folder with a
test part is split as it stands. With `--keras`, the python of an environment that has tensorflow-cpu, Keras's
image-classification tutorial is trained on the same splits, from random weights: peers that fine-tune cannot fetch
their weights where this was measured.
"""

import argparse
import tempfile
import time

import numpy as np
import torch
from common import Keras
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import imprint
from imprint.data.load import parts
from imprint.models.backbones import EfficientNetLite, load_weights
from imprint.preprocessing.input_spec import InputSpec
from imprint.training.plan import make_plan
from imprint.training.probe import frozen_features

SIDE = 256


def split(labels, wanted, seed):
    """Take a share or a count of each class to learn from."""
    random, learn = np.random.default_rng(seed), []
    for label in np.unique(labels):
        order = random.permutation(np.flatnonzero(labels == label))
        learn.extend(order[: round(wanted * len(order)) if wanted < 1 else int(wanted)])
    return np.sort(learn), np.setdiff1d(np.arange(len(labels)), learn)


def regression(learn, judge):
    """Accuracy of scikit-learn's regression on the 1,280 features of the last layer."""
    spec = make_plan(learn, "probe").spec
    network = EfficientNetLite("lite0", spec.channels, spec.input_size, len(learn.class_names)).eval()
    load_weights(network, "lite0")
    network.to(memory_format=torch.channels_last)
    ours, theirs = (frozen_features(network, images, spec)[:, -1280:].numpy() for images in (learn, judge))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=10 / len(ours), max_iter=1000))
    model.fit(ours, learn.labels)
    return float((model.predict(theirs) == judge.labels_among(learn.class_names)).mean())


def keras_tutorial(python, learn, judge, seed):
    """Accuracy and seconds of Keras's tutorial network after its 15 epochs."""
    with tempfile.TemporaryDirectory() as folder:
        arrays = {
            f"{part}_{key}": array
            for part, images in (("train", learn), ("test", judge))
            for key, array in (
                ("pixels", images.pixels.transpose(0, 2, 3, 1)),
                ("labels", images.labels_among(learn.class_names)),
            )
        }
        np.savez(f"{folder}/photos.npz", **arrays)
        answer = Keras(python, "keras_photos.py", f"{folder}/photos.npz").ask(f"tutorial {seed} 15")
    return answer["accuracy"], answer["seconds"]


def main():
    """Print a line for each split, and the mean and standard deviation of each recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("collections", nargs="+")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--recipes", nargs="+", default=["probe", "finetune"])
    parser.add_argument("--most", type=int, default=1000, help="judge by at most so many images")
    parser.add_argument("--keras", help="python of the environment that has tensorflow-cpu")
    options = parser.parse_args()
    for collection in options.collections:
        name, _, rest = collection.partition("=")
        folder, _, wanted = rest.partition(":")
        rows = []
        divided = "test" in parts(folder)
        whole = imprint.load(folder, side=SIDE)
        for seed in range(1, 2 if divided else options.seeds + 1):
            if divided:
                learn, judge = whole, imprint.load(folder, part="test", spec=InputSpec.from_shape(whole.shape))
            else:
                chosen, others = split(whole.labels, float(wanted or 0.5), seed)
                others = np.random.default_rng(seed).permutation(others)[: options.most]
                learn, judge = whole[chosen], whole[others]
            row = {"regression": regression(learn, judge)}
            if options.keras:
                row["Keras"], row["Keras s"] = keras_tutorial(options.keras, learn, judge, seed)
            truth = judge.labels_among(learn.class_names)
            for recipe in options.recipes:
                started = time.perf_counter()
                run = imprint.train(learn, recipe, seed=seed, verbose=False)
                row[f"{recipe} s"] = time.perf_counter() - started
                found = run.model.predict(judge)
                row[recipe] = float((found.labels == truth).mean())
                row[f"{recipe} unsure"] = float(found.unsure.mean())
                if run.expected is not None:
                    low, high = run.expected.interval
                    row[f"{recipe} said"] = run.expected.accuracy
                    row[f"{recipe} covered"] = float(low <= row[recipe] <= high)
            rows.append(row)
            print(name, wanted, seed, {key: round(value, 3) for key, value in row.items()}, flush=True)
        for key in rows[0]:
            values = np.array([row.get(key, np.nan) for row in rows])
            print(
                f"{name} {wanted} {key}: {np.nanmean(values):.3f} ± {np.nanstd(values, ddof=min(1, len(rows) - 1)):.3f}"
            )


if __name__ == "__main__":
    main()
