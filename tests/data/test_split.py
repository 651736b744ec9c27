import dataclasses
import time

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from imprint import UsageError
from imprint.data.split import held_out_groups, split, split_further


def sides(images, share, groups, seed=7):
    training, validation = (images[side] for side in split(images, share, seed, groups))
    group_of = dict(zip(images.sources.tolist(), groups, strict=True))
    return training, validation, *({group_of[source] for source in part.sources} for part in (training, validation))


def test_copies_stay_on_one_side_and_the_share_is_kept(digits):
    groups = np.arange(len(digits))
    groups[1::3] = groups[::3]  # pairs
    training, validation, learnt, held = sides(digits, 0.2, groups)
    assert not learnt & held
    assert len(training) + len(validation) == len(digits)
    shares = np.array(list(validation.class_counts().values())) / np.array(list(digits.class_counts().values()))
    assert np.abs(shares - 0.2).max() < 0.01


def test_persons_who_gave_every_class_stay_on_one_side(digits):
    persons = np.random.default_rng(0).integers(0, 25, len(digits)).astype(str)
    _, validation, learnt, held = sides(digits, 0.2, persons)
    assert not learnt & held
    assert abs(len(validation) / len(digits) - 0.2) < 0.03
    assert min(validation.class_counts().values()) > 20


def test_other_seeds_hold_out_others(digits):
    groups = np.arange(len(digits)) // 2
    chosen = [held_out_groups(digits.labels, groups, 0.2, seed) for seed in (1, 1, 2)]
    assert np.array_equal(chosen[0], chosen[1])
    assert not np.array_equal(chosen[0], chosen[2])


def test_without_labels_the_share_is_of_all_images(digits):
    unlabelled = dataclasses.replace(digits, labels=None, class_names=())
    _, held_out = split(unlabelled, 0.25, 7, np.arange(len(digits)) // 3)
    assert abs(len(held_out) / len(digits) - 0.25) < 0.01


def test_one_group_cannot_be_divided(digits):
    with pytest.raises(UsageError, match="groups of images that must stay together"):
        split(digits, 0.2, 7, np.zeros(len(digits)))


def test_42_000_groups_take_little_time():
    labels = np.random.default_rng(0).integers(0, 10, 42_000)
    started = time.perf_counter()
    held_out_groups(labels, np.arange(42_000), 0.08, 7)
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize(("share", "seed"), [(0.08, 7), (0.2, 1), (0.333, 0)])
def test_split_is_scikit_learns(digits, share, seed):
    training, validation = (digits[side] for side in split(digits, share, seed))
    expected = train_test_split(np.arange(len(digits)), test_size=share, random_state=seed)
    assert np.array_equal(training.sources, digits.sources[expected[0]])
    assert np.array_equal(validation.sources, digits.sources[expected[1]])
    assert np.array_equal(validation.labels, digits.labels[expected[1]])


def test_a_further_split_keeps_what_was_held_out_and_never_holds_out_what_was_learnt():
    places = np.arange(1000)
    learnt, before = places < 500, (places >= 500) & (places < 560)
    training, held_out = split_further(0.1, 7, places, learnt, before)
    assert sorted([*training, *held_out]) == places.tolist()
    assert set(held_out) >= set(places[before])
    assert not set(held_out) & set(places[learnt])
    assert len(held_out) == 60 + 44  # a tenth of the 440 new ones
    other = split_further(0.1, 8, places, learnt, before)[1]
    assert len(set(held_out) & set(other)) < 80
    assert len(split_further(0.0, 7, places, learnt, before)[1]) == 0
    assert len(split_further(0.5, 7, places, places >= 0, before)[1]) == 0


def test_a_further_split_keeps_groups_whole():
    places = np.arange(1000)
    learnt, before = places < 500, (places >= 500) & (places < 560)
    groups = places // 20 * 20
    training, held_out = split_further(0.1, 7, groups, learnt, before)
    assert not set(groups[training]) & set(groups[held_out])
    assert len(held_out) == 60 + 40
    assert held_out.min() >= 500
    wide = np.where(places >= 480, 480, places)  # all new ones belong to a group that was learnt
    assert len(split_further(0.1, 7, wide, learnt, before)[1]) == 0
    large = np.where(places < 560, places, places // 200 * 200 + 1000)  # groups above the share: the smallest
    assert (split_further(0.1, 7, large, places < 560, before)[1] >= 560).all()


def test_nothing_held_out(digits):
    training, held_out = split(digits, 0.0, 7)
    assert np.array_equal(training, np.arange(len(digits)))
    assert len(held_out) == 0


def test_holding_out_everything_is_refused(digits):
    with pytest.raises(UsageError, match="none would be left"):
        split(digits[:3], 0.9, 7)
