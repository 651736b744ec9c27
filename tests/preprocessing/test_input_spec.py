import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from PIL import Image

from imprint import DataError
from imprint.preprocessing.input_spec import InputSpec, describe, fit


@pytest.mark.parametrize("shape", [(3, 28, 28), (1, 27, 28), (1, 28, 29)])
def test_other_forms_are_refused(shape):
    with pytest.raises(DataError, match=r"trained on images of 28×28 grey"):
        InputSpec(1, (28, 28), (28, 28)).check(shape, "test.csv")


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_the_right_form_are_not_touched(digits, channels):
    image = digits.pixels[0].transpose(1, 2, 0).repeat(channels, axis=2)
    assert np.array_equal(fit(image, InputSpec(channels, (8, 8), (28, 28))), image.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("size", "box"), [((20, 60), (20, 0, 40, 20)), ((60, 20), (0, 20, 20, 40)), ((5, 5), (0, 0, 5, 5))]
)
def test_other_sizes_are_covered_and_cropped_as_pillow_does(size, box):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    fitted = fit(image, InputSpec(3, (10, 10), (28, 28))).transpose(1, 2, 0)
    assert np.array_equal(fitted, Image.fromarray(image).resize((10, 10), Image.Resampling.BILINEAR, box=box))


def test_colour_becomes_luminance_and_grey_is_repeated():
    image = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    grey = fit(image, InputSpec(1, (6, 6), (6, 6)))
    assert np.array_equal(grey[0], Image.fromarray(image).convert("L"))
    assert (fit(image[..., :1], InputSpec(3, (6, 6), (6, 6))) == image[..., 0]).all()


@pytest.mark.parametrize("channels", [2, 4])
def test_channels_of_any_meaning_are_scaled_each_by_itself(channels):
    image = np.random.default_rng(0).integers(0, 256, (30, 40, channels), dtype=np.uint8)
    one = InputSpec(1, (12, 12), (12, 12))
    alone = [fit(image[..., channel : channel + 1], one)[0] for channel in range(channels)]
    assert np.array_equal(fit(image, replace(one, channels=channels)), np.stack(alone))


@pytest.mark.parametrize(("given", "wanted"), [(3, 4), (1, 2), (4, 3), (4, 1)])
def test_channels_of_unknown_meaning_are_not_guessed(given, wanted):
    with pytest.raises(DataError, match=rf"{given} channels? at an image: the model was trained on images of {wanted}"):
        fit(np.zeros((9, 9, given), dtype=np.uint8), InputSpec(wanted, (9, 9), (9, 9)))


@pytest.mark.parametrize("size", [(1, 1), (10_000, 1), (1, 10_000)])
def test_slivers_are_fitted_without_growing_first(size):
    assert fit(np.full((*size, 1), 9, dtype=np.uint8), InputSpec(1, (28, 28), (28, 28))).tolist() == [[[9] * 28] * 28]


def test_any_size_is_brought_to_any_other():
    generator = np.random.default_rng(0)
    for height, width, to_height, to_width in generator.integers(1, 200, (3000, 4)).tolist():
        image = np.zeros((height, width, 1), dtype=np.uint8)
        assert fit(image, InputSpec(1, (to_height, to_width), (to_height, to_width))).shape == (
            1,
            to_height,
            to_width,
        )


@pytest.mark.parametrize(
    ("shape", "words"), [((1, 28, 20), "20×28 grey"), ((3, 2, 2), "2×2 colour"), ((4, 2, 2), "2×2 4 channels")]
)
def test_forms_in_words(shape, words):
    assert describe(shape) == words


SPEC = InputSpec(3, (8, 9), (16, 18), mean=(0.4, 0.5, 0.6), std=(0.2,), pixel_range=(320.5, 455.0), background=0)


def test_a_contract_is_the_same_after_json():
    assert InputSpec.from_dict(json.loads(json.dumps(asdict(SPEC)))) == SPEC
    assert replace(SPEC, input_size=(8, 9)).version == SPEC.version


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 3}, "another version than 2"),
        ({"version": None}, "another version than 2"),
        ({"pixel_range": [5, 5]}, "pixel_range"),
        ({"pixel_range": [0, float("inf")]}, "pixel_range"),
        ({"background": 7}, "background"),
        ({"background": True}, "background"),
        ({"channels": 5}, "channels"),
        ({"image_size": [0, 8]}, "image sizes"),
        ({"input_size": [10**6, 8]}, "image sizes"),
        ({"mean": [0.5, 0.5]}, "2 and 1 numbers for 3 channels"),
        ({"mean": []}, "0 and 1 numbers"),
        ({"mean": [float("inf")]}, "not a usable number"),
        ({"std": [0.0]}, "not a usable number"),
        ({"std": [float("nan")]}, "not a usable number"),
        ({"std": ["wide"]}, "wide"),
    ],
)
def test_a_contract_that_does_not_fit_together_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        InputSpec.from_dict(asdict(SPEC) | change)


def test_the_first_version_is_read_as_one_of_opaque_images_of_8_bits():
    older = {key: value for key, value in asdict(SPEC).items() if key not in ("pixel_range", "background")}
    spec = InputSpec.from_dict(older | {"version": 1})
    assert spec == replace(SPEC, pixel_range=None, background=None)


def test_images_in_another_range_or_on_another_background_are_refused():
    spec = InputSpec.from_shape((1, 8, 8), (0, 4095), 0)
    spec.check((1, 8, 8), "a", (0, 4095), 0)
    spec.check((1, 8, 8), "a")
    InputSpec.from_shape((1, 8, 8)).check((1, 8, 8), "a", None, 0)
    with pytest.raises(DataError, match="black and white"):
        spec.check((1, 8, 8), "a", (0, 255))
    with pytest.raises(DataError, match="black and white"):
        InputSpec.from_shape((1, 8, 8)).check((1, 8, 8), "a", (0, 255))
    with pytest.raises(DataError, match="another background"):
        spec.check((1, 8, 8), "a", (0, 4095), 255)
