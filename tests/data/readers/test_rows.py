import math

import numpy as np
import pytest

from imprint import DataError, UsageError
from imprint.data.readers.rows import as_rows, range_like, settle_range, settle_shape, to_pixels

RANDOM = np.random.default_rng(5).integers(0, 256, 10**6, dtype=np.uint8)


def numbers(*shape):
    return RANDOM[: math.prod(shape)].reshape(shape)


@pytest.mark.parametrize(
    "shape", [(5, 8, 9), (5, 8, 9, 1), (5, 1, 8, 9), (5, 8, 9, 3), (5, 3, 8, 9), (5, 8, 3), (5, 3, 3, 3)]
)
def test_rows_and_back(shape):
    given = np.random.default_rng(7).integers(0, 256, shape).astype(np.uint8)
    rows, form = as_rows(given, "X")
    pixels = to_pixels(rows, form, (0, 255))
    as_kept = given[:, None] if given.ndim == 3 else given
    if given.ndim == 4 and shape[3] in (1, 3):
        as_kept = given.transpose(0, 3, 1, 2)
    assert np.array_equal(pixels, as_kept)


def test_a_table_passes_untouched():
    table = np.zeros((4, 9))
    assert as_rows(table, "X") == (table, None)


@pytest.mark.parametrize("shape", [(2, 8, 8, 2), (0, 8, 8), (2, 8, 8, 3, 1), (2, 0, 8)])
def test_what_is_no_stack_of_images_is_refused(shape):
    with pytest.raises(DataError, match=r"that is no stack of images. Give n × height × width"):
        as_rows(np.zeros(shape), "X")


def test_images_of_several_sizes_are_refused():
    with pytest.raises(DataError, match="its images or rows are of different sizes"):
        as_rows([np.zeros((2, 2)), np.zeros((3, 3))], "X")


@pytest.mark.parametrize(
    ("wanted", "given", "features", "shape"),
    [
        (None, None, 49, (7, 7)),
        (None, (5, 4), 20, (5, 4)),
        ((5, 4), None, 20, (5, 4)),
        ([5, 4, 1], (5, 4), 20, (5, 4)),
        ((-1, 4), None, 20, (5, 4)),
        ((2, 2, -1), None, 12, (2, 2, 3)),
    ],
)
def test_shapes_of_rows(wanted, given, features, shape):
    assert settle_shape(wanted, given, features) == shape


@pytest.mark.parametrize(
    "wanted", [(5, 5), (-1, -1), (-1, 3), (0, 20), (20,), (2, 5, 2), (4, 5), "54", 20, (2.0, 10.0)]
)
def test_shapes_that_do_not_fit_are_refused(wanted, unchecked):
    with pytest.raises(UsageError, match=r"image_shape .* at ImageClassifier"):
        settle_shape(wanted, (5, 4), 20)


def test_rows_of_no_square_need_a_shape():
    with pytest.raises(DataError, match=r"rows of 20 numbers at X: .* Give image_shape=\(height, width\)"):
        settle_shape(None, None, 20)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (np.array([[3, 9]], np.uint8), (0, 255)),
        (np.array([[3, 9]]), (3, 9)),
        (np.array([[0.2, 0.9]]), (0, 1)),
        (np.array([[True, False]]), (0, 1)),
        (np.array([[-1.0, *range(99)]]), (-0.01, 97.01)),
        (np.array([[-2.0] * 3]), (-2, -1)),
        (np.array([[4.0, 4.0]]), (4, 5)),
    ],
)
def test_black_and_white(rows, expected):
    assert settle_range(None, rows) == pytest.approx(expected)
    assert to_pixels(rows, (1, rows.size), expected).dtype == np.uint8


@pytest.mark.parametrize("wanted", [(1, 0), (0, 0), (0, float("inf")), (float("nan"), 1), (0, 1, 2), 5, "ab"])
def test_a_range_that_is_none_is_refused(wanted, unchecked):
    with pytest.raises(UsageError, match="it is no pair of a lower and a higher number"):
        settle_range(wanted, np.zeros((1, 4)))


def test_numbers_are_scaled_rounded_and_clipped():
    assert to_pixels(np.array([[-9, -1, 0, 1, 3, 9]]), (2, 3), (-1, 3)).ravel().tolist() == [0, 0, 64, 128, 255, 255]
    large = np.array([[-1.7e308, 1.7e308]])
    assert to_pixels(large, (1, 2), (-1.7e308, 1.7e308)).ravel().tolist() == [0, 255]


def test_black_images_and_slight_excess_are_no_other_scale():
    for rows, pixel_range in (
        (np.zeros((2, 4)), (0, 255)),
        (np.array([[0.0, 1.2]]), (0, 1)),
        (np.array([[0.0, 1.0]]), (-1, 4)),
    ):
        assert range_like(rows, pixel_range) == pixel_range


def test_what_is_read_only_is_copied():
    rows = np.zeros((2, 4), np.uint8)
    rows.flags.writeable = False
    assert to_pixels(rows, (2, 2), (0, 255)).flags.writeable
