import numpy as np
import pytest
import torch
from PIL import Image

from imprint.input_spec import InputSpec
from imprint.preparation import prepare, scale


def test_training_form_passes_untouched(digits):
    pixels = torch.from_numpy(digits.pixels)
    assert scale(pixels, InputSpec(1, (8, 8), (8, 8))) is pixels


@pytest.mark.parametrize("side", [28, 4])
def test_scaling_is_pillows(digits, side):
    pixels = torch.from_numpy(digits.pixels[:20])
    ours = scale(pixels, InputSpec(1, (8, 8), (side, side)))[:, 0].numpy()
    for picture, expected in zip(ours, digits.pixels[:20, 0], strict=True):
        pillows = np.asarray(Image.fromarray(expected).resize((side, side), Image.Resampling.BILINEAR))
        assert np.abs(picture.astype(int) - pillows).max() <= 1


def test_prepared_pixels_are_shares_of_255():
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    prepared = prepare(pixels, InputSpec(1, (16, 16), (16, 16)))
    assert np.array_equal(prepared.numpy().ravel(), (np.arange(256) / 255).astype(np.float32))
