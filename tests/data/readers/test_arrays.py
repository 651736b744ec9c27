import math
import re

import numpy as np
import pytest

from imprint import DataError, load
from imprint.data.readers.arrays import array_images
from imprint.preprocessing.input_spec import InputSpec

STACK = np.random.default_rng(0).integers(0, 256, (6, 5, 7, 3), dtype=np.uint8)


GREY, RGB = InputSpec(1, (28, 28), (28, 28)), InputSpec(3, (28, 28), (28, 28))


WIDE = InputSpec(1, (10, 30), (10, 30))


RANDOM = np.random.default_rng(5).integers(0, 256, 10**6, dtype=np.uint8)


SMOOTH = np.add.outer(np.arange(1200), np.arange(1200)).astype(float) % 200  # as a photo, row by row


def numbers(*shape):
    return RANDOM[: math.prod(shape)].reshape(shape)


def test_a_models_range_is_that_of_all_deeper_arrays():
    spec = InputSpec.from_shape((3, 5, 7), (0.0, 4095.0))
    for kind in (np.uint16, np.int32, np.float32):
        images = load(STACK.astype(kind), spec=spec)
        assert images.pixel_range == spec.pixel_range
        assert images.pixels.max() <= 16
    assert np.array_equal(load(STACK, spec=spec).pixels, STACK.transpose(0, 3, 1, 2))


def test_a_model_of_bytes_keeps_to_bytes(caplog):
    spec = InputSpec.from_shape((3, 5, 7))
    for array in (STACK / 255, STACK.astype(np.float32), STACK.astype(np.uint16) * 257):
        images = load(array, spec=spec)
        assert images.pixel_range is None or images.pixel_range == (0, 65535)
        assert np.abs(images.pixels.astype(int) - STACK.transpose(0, 3, 1, 2)).max() <= 0
    load(STACK.astype(np.uint16) * 9, spec=spec)
    assert re.search(r"only \d+ grey levels remain of", caplog.text)
    for array, words in ((STACK / 127.5 - 1, "go from -1 to 1"), (STACK.astype(np.int32) * 9, "trained on bytes")):
        with pytest.raises(DataError, match=words):
            load(array, spec=spec)


@pytest.mark.parametrize(("ink", "ground"), [(255, 0), (0, 255)])
def test_transparent_arrays_are_laid_on_what_shows_their_ink(caplog, ink, ground):
    caplog.set_level("INFO", logger="imprint")
    layers = np.zeros((2, 9, 9, 4), np.uint8)
    layers[:, 3:6, 3:6] = [ink, ink, ink, 255]
    images = load(layers)
    assert images.background == ground
    assert images.pixels[0, :, 0, 0].tolist() == [ground] * 3
    assert images.pixels[0, :, 4, 4].tolist() == [ink] * 3
    assert "2 images of array: transparent, laid on" in caplog.text
    assert (load(layers, spec=InputSpec.from_shape((3, 9, 9), background=ink)).pixels == ink).all()


@pytest.mark.parametrize(
    ("array", "spec", "shape"),
    [
        (numbers(200, 784), GREY, (200, 1, 28, 28)),
        (numbers(784, 784), GREY, (784, 1, 28, 28)),
        (numbers(1, 784), GREY, (1, 1, 28, 28)),
        (numbers(200, 784), None, (200, 1, 28, 28)),
        (numbers(200, 300), WIDE, (200, 1, 10, 30)),
        (numbers(9, 3 * 784), RGB, (9, 3, 28, 28)),
        (numbers(9, 3 * 784), GREY, (9, 3, 28, 28)),
        (numbers(9, 784), RGB, (9, 1, 28, 28)),
        (numbers(9, 3072), None, (9, 3, 32, 32)),
        (numbers(28, 28), GREY, (1, 1, 28, 28)),
        (numbers(60, 80), GREY, (1, 1, 60, 80)),
        (numbers(64, 64), GREY, (1, 1, 64, 64)),
        (numbers(64, 64), None, (1, 1, 64, 64)),
        (SMOOTH[:768, :1024], GREY, (1, 1, 768, 1024)),
        (SMOOTH[:768, :1024], None, (1, 1, 768, 1024)),
        (SMOOTH[:30, :400], GREY, (1, 1, 30, 400)),
        (numbers(3, 28, 28), GREY, (3, 1, 28, 28)),
        (numbers(3, 28, 28), RGB, (1, 3, 28, 28)),
        (numbers(3, 60, 80), RGB, (1, 3, 60, 80)),
        (numbers(1, 60, 80), None, (1, 1, 60, 80)),
        (numbers(4, 60, 80), None, (4, 1, 60, 80)),
        (numbers(60, 80, 3), None, (1, 3, 60, 80)),
        (numbers(5, 60, 80), RGB, (5, 1, 60, 80)),
        (numbers(5, 3, 60, 80), None, (5, 3, 60, 80)),
        (numbers(5, 60, 80, 4), None, (5, 3, 60, 80)),
    ],
)
def test_what_an_array_holds(array, spec, shape):
    found = array_images(array, spec).pixels
    assert found.shape == shape
    if array.ndim == 2 and array.dtype == np.uint8:
        assert np.array_equal(found.transpose(0, 2, 3, 1).ravel(), array.ravel())


@pytest.mark.parametrize(
    ("array", "spec", "words"),
    [
        (numbers(200, 785), GREY, "rows of 785 numbers at array: an image of the model, 28×28 grey, has 784"),
        (numbers(600, 785), GREY, "rows of 785 numbers"),
        (numbers(200, 64), GREY, "rows of 64 numbers"),
        (numbers(500, 784), WIDE, "rows of 784 numbers"),
        (numbers(200, 50), GREY, "rows of 50 numbers"),
        (numbers(1, 90), GREY, "rows of 90 numbers"),
        (numbers(200, 785), None, "no stack of images, and rows of 785 numbers are no square ones"),
        (numbers(784), GREY, "no stack of images"),
        (numbers(0, 784), GREY, "no stack of images"),
        (numbers(3, 28, 28), None, "one image with channels first, or 3 grey ones"),
        (numbers(4, 28, 28), RGB, "one image with channels first, or 4 grey ones"),
        (numbers(9, 784) * 1j, GREY, "type complex128"),
        (numbers(9, 784).astype(object), GREY, "type object"),
        (np.full((9, 784), np.nan), GREY, "pixel nan"),
        (np.full((9, 784), np.inf), GREY, "pixel inf"),
    ],
)
def test_arrays_that_fit_nothing_are_refused(array, spec, words):
    with pytest.raises(DataError, match=words):
        array_images(array, spec)
