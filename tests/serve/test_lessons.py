"""What the child says of a comparison, and when it claims a score."""

import numpy as np
import pytest

from imprint.data.images import LabelledImages
from imprint.serve.lessons import ONE_TAKE, TOO_FEW, _no_score_because, comparison_facts


def compared(mended, newly_wrong, both=30):
    new = np.array([True] * mended + [False] * newly_wrong + [True] * both)
    old = np.array([False] * mended + [True] * newly_wrong + [True] * both)
    return comparison_facts(new, old, [f"{place}" for place in range(len(new))])


def test_better_but_perhaps_by_luck():
    found = compared(5, 2)
    assert found["text"] == "Better by 8 in 100 (−6 to 22): could still be luck."
    assert found["mended"] == ["0", "1", "2", "3", "4"]
    assert found["newly_wrong"] == ["5", "6"]
    assert found["keep"] == "new"


def test_worse_beyond_chance_keeps_the_old():
    found = compared(0, 12)
    assert found["text"].startswith("Worse by 29 in 100")
    assert found["text"].endswith("more than luck.")
    assert found["keep"] == "old"
    assert compared(0, 3)["keep"] == "new"  # worse, but by chance


def test_under_twenty_pictures_nothing_is_proven():
    found = compared(0, 12, both=2)
    assert found["text"] == "Cannot be proven yet: the exam has 14 pictures, and needs 20."
    assert found["keep"] == "new"
    assert compared(0, 0)["text"].startswith("As good as before")


@pytest.mark.parametrize(
    ("counts", "scenes", "because"),
    [((2, 2), 2, TOO_FEW), ((4, 40), 2, TOO_FEW), ((5, 14), 2, TOO_FEW), ((10, 10), 1, ONE_TAKE), ((5, 15), 2, "")],
)
def test_no_score_is_claimed_of_too_few_pictures_or_of_one_take(counts, scenes, because):
    labels = np.repeat([0, 1], counts)
    groups = np.array([f"{label} {place % scenes}" for place, label in enumerate(labels)])
    pixels = np.zeros((len(labels), 1, 4, 4), dtype=np.uint8)
    images = LabelledImages(pixels, labels, ("a", "b"), np.arange(len(labels)).astype(str), groups=groups)
    assert _no_score_because(images) == because
