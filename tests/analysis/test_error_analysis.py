import dataclasses

import numpy as np
import pytest
from PIL import Image, ImageDraw

import imprint
from imprint import DataError, LabelledImages
from imprint.analysis.error_analysis import CAUSES, analyse_errors, causes_of_unseen
from imprint.report.tables import mistakes_table


@pytest.fixture(scope="module")
def parts(digits):
    return digits[:1200], digits[1200:]


@pytest.fixture(scope="module")
def good(parts):
    return imprint.train(parts[0], recipe="quick", epochs=8, min_steps=14, validation=0.15, verbose=False).model


def planted(held_out, pixels, labels):
    """Append images to those held out."""
    names = np.array([f"planted#{i}" for i in range(len(pixels))])
    return dataclasses.replace(
        held_out,
        pixels=np.concatenate([held_out.pixels, pixels]),
        labels=np.concatenate([held_out.labels, labels]),
        sources=np.concatenate([held_out.sources, names]),
    )


def causes(analysis, first):
    return [mistake.cause for mistake in analysis.mistakes if mistake.image >= first]


def test_wrong_labels(good, parts):
    training, held_out = parts
    sure = np.flatnonzero(good.predict_proba(held_out).max(axis=1) > 0.99)[::12]
    wrong = (held_out.labels[sure] + 3) % 10
    analysis = analyse_errors(good, planted(held_out, held_out.pixels[sure], wrong), training)
    found = causes(analysis, len(held_out))
    assert len(found) == len(sure) > 20
    assert found.count("mislabelled") >= 0.8 * len(found)
    for mistake in analysis.of("mislabelled"):
        near = training.labels[list(mistake.neighbours)]
        assert (near == mistake.predicted).all()
        assert mistake.label_probability < 0.01


def test_noise_and_letters(good, parts):
    training, held_out = parts
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)
    letters = np.stack([letter(name) for name in "AEFHKMNPRWXY"])[:, None]
    unlike = np.concatenate([noise, letters])
    said = good.predict_proba(LabelledImages(unlike, None, (), np.arange(52))).argmax(axis=1)
    analysis = analyse_errors(good, planted(held_out, unlike, (said + 1) % 10), training)
    found = causes(analysis, len(held_out))
    assert found.count("unlike") >= 0.8 * len(found)
    usual = [mistake.cause for mistake in analysis.mistakes if mistake.image < len(held_out)]
    assert usual.count("unlike") <= 0.5 * len(usual)


def letter(name):
    paper = Image.new("L", (64, 64))
    ImageDraw.Draw(paper).text((32, 32), name, fill=255, anchor="mm", font_size=56)
    return np.asarray(paper.resize((8, 8), Image.Resampling.BOX))


def test_between_two_classes(good, parts):
    """Images half way from one class to another, where the model itself hesitates."""
    training, held_out = parts
    random = np.random.default_rng(0)
    one, other = (random.permutation(np.flatnonzero(held_out.labels == label)) for label in (3, 9))
    shares = np.linspace(0.3, 0.7, 21)[:, None, None, None, None]
    pairs = min(len(one), len(other))
    blends = shares * held_out.pixels[one[:pairs]] + (1 - shares) * held_out.pixels[other[:pairs]]
    blends = blends.reshape(-1, 1, 8, 8).astype(np.uint8)
    probabilities = good.predict_proba(LabelledImages(blends, None, (), np.arange(len(blends))))
    hesitant = np.flatnonzero((probabilities[:, [3, 9]] > 0.3).all(axis=1))
    labels = np.where(probabilities[hesitant].argmax(axis=1) == 3, 9, 3)
    found = causes(analyse_errors(good, planted(held_out, blends[hesitant], labels), training), len(held_out))
    assert len(found) == len(hesitant) >= 10
    assert "mislabelled" not in found
    assert found.count("ambiguous") > found.count("fault")
    assert found.count("ambiguous") >= 0.5 * len(found)


def test_ordinary_images_that_a_weak_model_errs_on(good, parts):
    training, held_out = parts
    weak = imprint.train(training, recipe="quick", epochs=1, min_steps=6, verbose=False).model
    analysis = analyse_errors(weak, held_out, training)
    assert len(analysis.mistakes) > 60
    easy = good.predict(held_out).labels == held_out.labels
    found = [mistake.cause for mistake in analysis.mistakes if easy[mistake.image]]
    assert found.count("fault") >= 0.8 * len(found)


def test_an_image_is_not_its_own_neighbour(good, parts):
    training, _ = parts
    analysis = analyse_errors(
        good, dataclasses.replace(training[:30], labels=(training.labels[:30] + 1) % 10), training
    )
    assert len(analysis.mistakes) >= 25
    assert all(min(mistake.neighbours) >= 30 for mistake in analysis.mistakes)
    with pytest.raises(DataError, match="each of them is among the images to examine"):
        analyse_errors(good, training[:30], training[:30])


def test_no_mistake_one_and_nothing_right(good, parts):
    training, held_out = parts
    right = np.flatnonzero(good.predict(held_out).labels == held_out.labels)[:2]
    none = analyse_errors(good, held_out[right], training)
    assert none.mistakes == ()
    assert mistakes_table(none) == "mistakes: 0 of 2"
    wrong = dataclasses.replace(held_out[right], labels=(held_out.labels[right] + 1) % 10)
    analysis = analyse_errors(good, wrong, training)
    assert len(analysis.mistakes) == 2
    one = analyse_errors(good, wrong[:1], training)
    assert mistakes_table(one).startswith("mistakes: 1 of 1; 1 ")
    assert set(one.counts()) == set(CAUSES)


def test_causes_are_found_for_images_that_were_not_learnt_from_alone(model, digits, caplog):
    caplog.set_level("INFO", "imprint")
    noise = np.random.default_rng(0).integers(0, 256, (8, 1, 8, 8), dtype=np.uint8)
    mixed = dataclasses.replace(digits[:48], pixels=np.concatenate([digits.pixels[:40], noise]), loaded_from=None)
    alone = analyse_errors(model, mixed[40:], digits)
    assert causes_of_unseen(model, mixed, digits) == {one.image + 40: one.cause for one in alone.mistakes} != {}
    assert "found for the 8 images that the model has not learnt from" in caplog.text
    with pytest.raises(DataError, match="the model has learnt from each of them"):
        causes_of_unseen(model, digits[:9], digits)
