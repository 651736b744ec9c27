"""What several tests use."""

from dataclasses import replace

import numpy as np

import imprint

BAD_NAME = "<script>alert(1)</script>"


def pixel_table(images, labelled=True):
    """Lay images out as Kaggle's CSV does."""
    flat = images.pixels.transpose(0, 2, 3, 1).reshape(len(images), -1)
    header = [f"pixel{i}" for i in range(flat.shape[1])]
    rows = [",".join(map(str, row)) for row in flat]
    if labelled:
        header.insert(0, "label")
        rows = [f"{images.class_names[label]},{row}" for label, row in zip(images.labels, rows, strict=True)]
    return "\n".join([",".join(header), *rows, ""])


def random_images(classes, count, shape=(1, 8, 8), name=BAD_NAME):
    """Images of noise, whose names and sources hold HTML."""
    random = np.random.default_rng(0)
    names = tuple(f"{name} {i:03}" for i in range(classes))
    pixels = random.integers(0, 256, (count, *shape), dtype=np.uint8)
    sources = np.array([f"/home/someone/{name}/{i}.png" for i in range(count)])
    return imprint.LabelledImages(pixels, np.arange(count) % classes, names, sources, name)


def write_short_run(images, folder, validation, epochs=3):
    """A run folder of a network trained for one epoch, with a made-up history of any length."""
    from imprint.runs.folder import write_run
    from imprint.training.plan import make_plan

    fields = {"epochs": 1, "min_steps": 1, "validation": validation}
    run = imprint.train(images, "quick", verbose=False, **fields)
    history = dict.fromkeys(run.history, np.geomspace(2, 0.1, epochs).tolist())
    folder.mkdir(exist_ok=True)
    plan = make_plan(images, "quick", **fields)
    write_run(replace(run, history=history, folder=folder), plan, {"command": "imprint train <b>"})
