import dataclasses
import re

import numpy as np
import pytest

from imprint.analysis import label_errors
from imprint.analysis.label_errors import (
    can_be_judged,
    cross_validated_probabilities,
    find_label_errors,
    judging_recipe,
)
from imprint.core.progress import logger
from imprint.data.split import deal_folds


def test_the_networks_neither_memorise_hard_images_nor_see_copies(digits):
    assert judging_recipe((1, 28, 28)).hard_fraction == 0
    groups = np.arange(len(digits)) // 2
    folds = deal_folds(digits.labels, groups, 3, seed=7)
    assert np.array_equal(folds[::2][: len(digits) // 2], folds[1::2])
    assert np.bincount(folds).min() > 0.3 * len(digits)
    assert np.bincount(deal_folds(np.zeros(30, dtype=np.int64), np.arange(30), 3, seed=7)).tolist() == [10, 10, 10]


def as_labelled(images, *rest):
    return np.eye(10, dtype=np.float32)[images.labels]


def test_what_cannot_be_judged_is_said_and_not_listed(digits, monkeypatch):
    monkeypatch.setattr(label_errors, "cross_validated_probabilities", as_labelled)
    few = digits[np.r_[np.flatnonzero(digits.labels < 2), np.flatnonzero(digits.labels == 2)[:3]]]
    found, notes = find_label_errors(few, np.arange(len(few)))
    assert notes[1:] == ["3 labels were not judged: too few images or groups of their classes"]
    assert not found


def test_a_class_of_one_person_is_not_called_wrong(digits):
    two = digits[np.flatnonzero(digits.labels < 2)]
    persons = np.where(two.labels == 0, 0, np.arange(len(two)) % 9)
    quickly = dataclasses.replace(judging_recipe((1, 8, 8)), epochs=2, min_steps=5)
    found, notes = find_label_errors(two, persons, recipe=quickly)
    assert "were not" in notes[0]
    assert not {two.labels[finding.images[0]] for finding in found} & {0}


def test_one_person_alone_cannot_be_judged(digits):
    found, notes = find_label_errors(digits, np.zeros(len(digits)))
    assert not found
    assert "too few images or groups" in notes[0]


def test_a_class_needs_enough_images_in_the_other_folds():
    labels, fold = np.array([0] * 6 + [1] * 6 + [2]), np.array([0, 0, 1, 1, 2, 2] * 2 + [0])
    assert can_be_judged(labels, fold).tolist() == [True] * 12 + [False]


def test_a_fold_whose_network_would_know_one_class_is_left_at_zero(digits):
    two = digits[np.r_[np.flatnonzero(digits.labels == 0)[:20], np.flatnonzero(digits.labels == 1)[:10]]]
    fold = np.r_[np.arange(20) % 3, np.zeros(10, dtype=np.int64)]
    quickly = dataclasses.replace(judging_recipe((1, 8, 8)), epochs=1, min_steps=1)
    probabilities = cross_validated_probabilities(two, fold, quickly, seed=7, device="cpu")
    sums = probabilities.sum(axis=1)
    assert (sums[fold == 0] == 0).all()
    assert sums[fold > 0] == pytest.approx(1, abs=1e-5)


def test_progress_goes_to_the_log_without_that_of_the_networks(digits, caplog):
    caplog.set_level("INFO", logger=logger.name)
    quickly = dataclasses.replace(judging_recipe((1, 8, 8)), epochs=1, min_steps=1)
    find_label_errors(digits[:90], np.arange(90), recipe=quickly)
    line = r"looking for wrong labels: training network [123] of 3 on \d\d images"
    assert len(caplog.messages) == 3
    assert all(re.fullmatch(line, message) for message in caplog.messages)
