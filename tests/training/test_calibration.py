from dataclasses import replace

import numpy as np
import pytest

import imprint
from imprint import LabelledImages
from imprint.training.calibration import conformal_limit, coverage_statement


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


@pytest.mark.parametrize(
    ("held_out", "words"), [(99, "at most 1 %"), (98, "98 held out are too few"), (0, "none were")]
)
def test_nothing_is_promised_that_does_not_hold(held_out, words):
    assert words in coverage_statement(held_out)


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
