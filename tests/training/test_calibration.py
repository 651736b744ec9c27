from dataclasses import replace

import numpy as np
import pytest

import imprint
from imprint import LabelledImages, Predictions
from imprint.training.calibration import (
    EVER_UNSURE,
    confidence_limit,
    conformal_limit,
    coverage_statement,
    likely_limit,
    normal_limit,
    unknown_limit,
)


@pytest.mark.parametrize("count", [99, 150, 400])
def test_a_new_image_exceeds_the_limit_with_the_chance_promised(count):
    generator = np.random.default_rng(0)
    drawn = generator.lognormal(size=(20_000, count + 1)).astype(np.float32)
    flagged = np.mean([row[-1] > conformal_limit(row[:-1], 0.01) for row in drawn])
    assert flagged == pytest.approx(1 - np.ceil((count + 1) * 0.99) / (count + 1), abs=0.002)
    assert flagged <= 0.012


@pytest.mark.parametrize("count", [2, 6, 50])
def test_of_few_images_few_are_flagged(count):
    drawn = np.random.default_rng(0).normal(size=(4_000, count + 1)).astype(np.float32)
    assert np.mean([row[-1] > conformal_limit(row[:-1], 0.01) for row in drawn]) < 0.02


def test_the_share_itself_comes_to_count_with_the_number_of_images():
    drawn = np.random.default_rng(0).lognormal(size=400).astype(np.float32)  # far from normal
    both = [(normal_limit(drawn[:count], 0.01), conformal_limit(drawn[:count], 0.01)) for count in (100, 150, 200)]
    found = [likely_limit(drawn[:count], 0.01) for count in (100, 150, 200)]
    assert found == pytest.approx([both[0][0], sum(both[1]) / 2, both[2][1]])
    assert abs(both[1][0] - both[1][1]) > 0.1


@pytest.mark.parametrize(
    ("held_out", "words"), [(99, "at most 1 %"), (98, "98 held out are too few"), (0, "none were")]
)
def test_nothing_is_promised_that_does_not_hold(held_out, words):
    assert words in coverage_statement(held_out)


def answers(confidence, strange=()):
    """Predictions of two classes with these confidences, of which those at some positions are strange."""
    confidence = np.asarray(confidence, dtype=np.float32)
    uncertainty = np.isin(np.arange(len(confidence)), strange).astype(np.float32)
    both = np.stack([confidence, 1 - confidence], axis=1)
    return Predictions(both, ("a", "b"), np.arange(len(confidence)), uncertainty, unsure_above=0.5)


HONEST, MODEST, BOASTFUL = (lambda c: c), (lambda c: np.clip(c + 0.1, 0, 0.99)), (lambda c: np.clip(c - 0.04, 0, 1))


@pytest.mark.parametrize("accuracy", [HONEST, MODEST, BOASTFUL, lambda c: np.full(len(c), 0.949)])
def test_a_certified_limit_is_too_low_in_one_of_twenty_at_most(accuracy):
    generator = np.random.default_rng(0)
    drawn = np.sort(0.5 + generator.beta(3, 0.8, 100_000) / 2)
    above = accuracy(drawn)[::-1].cumsum()[::-1] / np.arange(len(drawn), 0, -1)
    too_low, certified = 0, 0
    for _ in range(200):
        confidence = 0.5 + generator.beta(3, 0.8, 1000) / 2
        found = confidence_limit(answers(confidence), generator.random(1000) < accuracy(confidence), 0.95)
        if found.basis == "certified":
            certified += 1
            too_low += above[min(np.searchsorted(drawn, found.below), len(drawn) - 1)] < 0.95
    assert too_low / 200 <= 0.07  # 5 %, and what 200 draws scatter
    assert certified > 100 or accuracy is not HONEST


def test_sure_answers_are_right_as_often_as_wanted():
    confidence = np.repeat([0.98, 0.8, 0.6], 200)
    correct = np.r_[np.arange(200) >= 2, np.arange(200) >= 40, np.arange(200) >= 80]
    found = confidence_limit(answers(confidence), correct, 0.95)
    assert (found.basis, found.answered, found.right) == ("certified", 200, 198)
    assert 0.8 < found.below <= 0.98
    assert "of new ones at least 95 % with 95 % certainty" in str(found)
    less = confidence_limit(answers(confidence), correct, 0.8)
    assert (less.answered, less.basis) == (400, "certified")


def test_too_few_images_certify_nothing_and_groups_count_for_less():
    confidence, correct = np.repeat([0.98, 0.6], 58), np.arange(116) < 58 + 29
    few = confidence_limit(answers(confidence), correct, 0.95)
    assert (few.basis, few.answered) == ("estimated", 58)  # 0.95 to the power of 58 is above 0.05
    assert "too few to certify 95 %; they settled it too, so expect slightly less" in str(few)
    doubled = np.repeat(confidence, 2), np.repeat(correct, 2)
    assert confidence_limit(answers(doubled[0]), doubled[1], 0.95).basis == "certified"
    assert confidence_limit(answers(doubled[0]), doubled[1], 0.95, weight=0.5).basis == "estimated"
    assert confidence_limit(answers(doubled[0]), doubled[1], 0.95, tries=30).basis == "estimated"


def test_a_strong_model_needs_no_limit_whether_it_can_be_certified_or_not():
    for count, errors, basis in ((144, 5, "estimated"), (2560, 13, "certified")):
        confidence = np.random.default_rng(0).uniform(0.9, 1, count)
        found = confidence_limit(answers(confidence), np.arange(count) >= errors, 0.95)
        assert (found.below, found.basis, found.right) == (0.0, basis, count - errors)
        assert "none is flagged for it" in str(found)


def test_where_even_the_surest_err_every_answer_is_unsure_and_that_is_said():
    generator = np.random.default_rng(0)
    said = answers(generator.uniform(0.5, 1, 300))
    found = confidence_limit(said, generator.random(300) < 0.7, 0.95)
    assert (found.below, found.basis) == (EVER_UNSURE, "unreached")
    assert "every answer is flagged" in str(found)
    assert replace(said, unsure_below=found.below).unsure.all()


def test_strange_images_say_nothing_of_confidence():
    correct = np.arange(200) >= 40
    found = confidence_limit(answers(np.full(200, 0.99), strange=range(40)), correct, 0.95)
    assert (found.below, found.answered, found.right, found.basis) == (0.0, 160, 160, "certified")


@pytest.mark.parametrize(
    ("trust", "below", "basis"), [(0.95, 0.5, "unknown"), (0.3, 0.3, "unknown"), (0.0, 0.0, "off")]
)
def test_too_few_to_tell(trust, below, basis):
    for found in (unknown_limit(trust, 2), confidence_limit(answers([0.9]), np.array([True]), trust)):
        assert (found.below, found.basis) == (below, basis)


def test_trust_decides_what_is_unsure_for_its_confidence(digits):
    weak = {"epochs": 2, "min_steps": 1, "verbose": False}
    runs = {trust: imprint.train(digits, "quick", trust=trust, **weak) for trust in (0.0, 0.9)}
    assert runs[0.0].validation.unsure["low_confidence"] == runs[0.0].model.unsure_below == 0
    run, unsure = runs[0.9], runs[0.9].validation.unsure
    assert run.validation.accuracy < 0.9
    assert unsure["low_confidence"] > 0.05
    assert unsure["share"] == pytest.approx(unsure["strange"] + unsure["low_confidence"])
    assert run.model.predict(digits).unsure.mean() > 0.05
    assert run.facts()["trust"]["says"] in run.expectation
    assert run.facts()["unsure"] == unsure == run.model.score["unsure"]
    if unsure["accuracy_when_sure"] is not None:
        assert unsure["accuracy_when_sure"] >= 0.9


def images(pixels):
    return LabelledImages(pixels.astype(np.uint8), None, (), np.array([str(i) for i in range(len(pixels))]))


@pytest.fixture(scope="module")
def strange(digits):
    """Noise, blanks, stripes and inverted digits in the form of the bundled digits."""
    generator = np.random.default_rng(0)
    stripes = np.where(np.arange(8) // 2 % 2, 255, 0)[None, None, None] + np.zeros((1, 1, 8, 8))
    return {
        "noise": images(generator.integers(0, 256, (100, 1, 8, 8))),
        "blank": images(np.stack([np.full((1, 8, 8), level) for level in range(0, 256, 15)])),
        "stripes": images(np.concatenate([stripes, stripes.transpose(0, 1, 3, 2)])),
        "inverted": images(255 - digits.pixels[:100]),
    }


def test_strange_things_are_flagged_and_digits_are_not(model, digits, strange):
    for kind, things in strange.items():
        assert model.predict(things).unsure.mean() > 0.95, kind
    assert model.predict(digits).unsure.mean() < 0.02


def test_without_validation_new_digits_are_seldom_flagged_and_confidence_fits(digits, strange):
    run = imprint.train(digits[:900], "quick", epochs=4, validation=0, verbose=False)
    unseen = imprint.evaluate(run.model, digits[900:])
    assert unseen.unsure["share"] < 0.08
    assert unseen.calibration_error < 0.03
    assert (
        unseen.calibration_error < imprint.evaluate(replace(run.model, temperature=1.0), digits[900:]).calibration_error
    )
    assert run.model.predict(strange["noise"]).unsure.mean() > 0.5  # 0.67, 0.79 and 0.91 were seen on three machines


def test_doubt_counts_confidence_too(model, digits):
    predictions = model.predict(digits)
    modest = replace(model, temperature=5.0).predict(digits)
    assert np.array_equal(predictions.labels, modest.labels)
    assert modest.uncertainty.mean() > predictions.uncertainty.mean() + 0.1
    assert modest.unsure.mean() >= predictions.unsure.mean()
