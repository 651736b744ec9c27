from itertools import islice

import torch

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
