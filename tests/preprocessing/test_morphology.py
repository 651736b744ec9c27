import numpy as np
import pytest
from scipy import ndimage

from imprint.preprocessing.morphology import closing, dilation, erosion, max_filter, min_filter, opening

PAIRS = [
    (max_filter, ndimage.maximum_filter),
    (min_filter, ndimage.minimum_filter),
    (closing, ndimage.grey_closing),
    (opening, ndimage.grey_opening),
]


@pytest.mark.parametrize(("ours", "reference"), PAIRS, ids=[ours.__name__ for ours, _ in PAIRS])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 30, 3), (17, 9, 3), (40, 60, 1)])
@pytest.mark.parametrize("side", [1, 3, 5, 15, 77])
def test_windows_agree_with_scipy(ours, reference, shape, side):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    assert np.array_equal(ours(values, side), reference(values, size=(side, side, 1), mode="nearest"))


def test_ink_grows_by_dilation(digits):
    ink = digits.pixels[0, 0] > 100
    assert np.array_equal(max_filter(ink, 5), ndimage.binary_dilation(ink, np.ones((3, 3)), iterations=2))


@pytest.mark.parametrize("radius", [0.0, 1.0, 2.5, 6.0])
def test_discs_agree_with_scipy(digits, radius):
    cover = digits.pixels[0, 0]
    places = np.arange(-int(radius), int(radius) + 1)
    disc = np.hypot(places[:, None], places) <= radius
    assert np.array_equal(dilation(cover, radius), ndimage.grey_dilation(cover, footprint=disc, mode="nearest"))
    assert np.array_equal(erosion(cover, radius), ndimage.grey_erosion(cover, footprint=disc, mode="nearest"))
