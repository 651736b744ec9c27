import numpy as np
import pytest
import torch
from PIL import Image

from imprint.preprocessing.input_spec import InputSpec, scaling_weights
from imprint.preprocessing.prepare import normalise, prepare, scale


def test_training_form_passes_untouched(digits):
    pixels = torch.from_numpy(digits.pixels)
    assert scale(pixels, InputSpec(1, (8, 8), (8, 8))) is pixels


@pytest.mark.parametrize("side", [28, 4])
def test_scaling_is_pillows(digits, side):
    pixels = torch.from_numpy(digits.pixels[:20])
    ours = scale(pixels, InputSpec(1, (8, 8), (side, side)))[:, 0].numpy()
    for image, expected in zip(ours, digits.pixels[:20, 0], strict=True):
        pillows = np.asarray(Image.fromarray(expected).resize((side, side), Image.Resampling.BILINEAR))
        assert np.abs(image.astype(int) - pillows).max() <= 1


def test_prepared_pixels_are_shares_of_255():
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    prepared = prepare(pixels, InputSpec(1, (16, 16), (16, 16)))
    assert np.array_equal(prepared.numpy().ravel(), (np.arange(256) / 255).astype(np.float32))


@pytest.mark.parametrize(("given", "wanted"), [(8, 28), (28, 20), (300, 96), (96, 97), (1, 30), (4000, 1)])
def test_scaling_is_exact_in_any_order_of_adding(given, wanted):
    weights = scaling_weights(given, wanted)
    assert np.abs(weights.sum(axis=0) - 1).max() < 2e-3
    pixels = np.random.default_rng(0).integers(0, 256, (50, given)).astype(np.float32)
    exact = pixels.astype(np.float64) @ weights.astype(np.float64)
    backwards = sum((pixels[:, i, None] * weights[i] for i in reversed(range(given))), np.zeros(1, np.float32))
    assert backwards.dtype == np.float32
    assert np.array_equal(exact, backwards)
    assert np.array_equal(exact, pixels @ weights)


def test_a_plain_image_stays_plain():
    white = torch.full((1, 3, 300, 200), 255, dtype=torch.uint8)
    assert (scale(white, InputSpec(3, (300, 200), (28, 19))) == 255).all()


def test_pixels_are_standardised_as_the_network_asks():
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 3, 4, 4), dtype=np.uint8))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    prepared = prepare(pixels, InputSpec(3, (4, 4), (4, 4), mean=mean, std=std)).numpy()
    expected = (pixels.numpy() / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    assert prepared == pytest.approx(expected, abs=1e-6)
    for_all = prepare(pixels, InputSpec(3, (4, 4), (4, 4), mean=(0.5,), std=(0.25,))).numpy()
    assert for_all == pytest.approx((pixels.numpy() / 255 - 0.5) / 0.25, abs=1e-6)


def test_a_plain_mean_and_std_change_no_bit():
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(prepare(pixels, InputSpec(1, (16, 16), (16, 16))), normalise(pixels))
