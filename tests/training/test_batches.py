from dataclasses import replace
from itertools import islice

import numpy as np
import torch

from imprint.core.memmap import mark_read_only
from imprint.preprocessing.prepare import prepare
from imprint.training.batches import ahead, iterate_batches, place_images
from imprint.training.plan import make_plan


def test_some_are_made_before_they_are_wanted():
    made = []

    def items():
        for number in range(5):
            made.append(number)
            yield number

    given = ahead(items(), 2)
    assert next(given) == 0
    assert made == [0, 1, 2]
    assert list(given) == [1, 2, 3, 4]
    assert list(ahead(iter(()), 2)) == []


def test_batches_are_the_images_in_their_order(digits):
    plain = {"rotation": 0, "zoom": 0, "shift": 0, "downscale": 0}
    plan = make_plan(digits[:300], "quick", device="cpu", **plain)
    pixels, labels = place_images(torch.from_numpy(digits.pixels), plan.device), torch.from_numpy(digits.labels)
    order = torch.randperm(300)[:70]
    batches = list(iterate_batches(pixels, labels, order, 20, plan))
    assert [len(images) for images, _ in batches] == [20, 20, 20, 10]
    assert torch.equal(torch.cat([images for images, _ in batches]), prepare(pixels[order], plan.spec))
    assert torch.equal(torch.cat([targets for _, targets in batches]), labels[order])
    assert len(list(islice(iterate_batches(pixels, labels, order, 20, plan), 2))) == 2


def test_mapped_images_are_read_ahead_and_give_the_same_batches(digits, tmp_path, monkeypatch):
    np.save(tmp_path / "digits.npy", digits.pixels)
    monkeypatch.setattr("imprint.core.memmap.MIN_MAPPED", 1000)
    with open(tmp_path / "digits.npy", "rb") as file:
        mapped = mark_read_only(np.load(tmp_path / "digits.npy", mmap_mode="c"), file)
    asked, labels, order = [], torch.from_numpy(digits.labels[:300]), torch.randperm(300)[:80]
    read = []
    monkeypatch.setattr("imprint.training.batches.AUGMENTED_NUMBERS", 1)
    monkeypatch.setattr("imprint.training.batches.read_ahead", lambda values, rows: asked.extend(rows.tolist()))
    batches = {}
    for images in (digits, replace(digits, pixels=mapped)):
        plan = make_plan(images[:300], "quick", device="cpu")
        asked.clear()
        torch.manual_seed(1)
        batches[images] = []
        for batch, _ in iterate_batches(torch.from_numpy(plan.images.pixels), labels, order, 20, plan):
            read.append(len(asked))
            batches[images].append(batch)
    assert all(map(torch.equal, *batches.values()))
    assert read[4:] == [60, 80, 80, 80]
    assert asked == order.tolist()
