"""Heat maps: what is found by covering parts, and how it is drawn."""

import numpy as np

from imprint.serve.heat import drawn, occlusion


def bright_corner(pixels):
    """A model that looks at nothing but the lower right corner."""
    return pixels[:, :, -6:, -8:].mean(axis=(1, 2, 3)) / 255


def test_what_the_answer_needs_is_found():
    image = np.full((3, 30, 40), 200, dtype=np.uint8)
    heat = occlusion(image, 0, bright_corner)
    assert heat.shape == (10, 10)
    assert heat[8:, 8:].min() > 3 * heat[:7, :7].max()
    assert heat[:5].max() == heat[:, :5].max() == 0


def test_where_nothing_matters_no_place_decided():
    assert occlusion(np.zeros((1, 30, 40), dtype=np.uint8), 0, bright_corner) is None  # covered by what is there


def test_images_smaller_than_the_grid_are_covered_too():
    heat = occlusion(np.full((1, 2, 1), 255, dtype=np.uint8), 0, lambda pixels: pixels[:, 0, 1, 0] / 255)
    assert heat.shape == (2, 1)
    assert heat[1, 0] > 0


def test_the_hottest_place_is_orange_and_the_image_is_large_enough_to_see():
    heat = np.zeros((10, 10), dtype=np.float32)
    heat[9, 9] = 0.3
    image = np.asarray(drawn(np.full((28, 28, 1), 100, dtype=np.uint8), heat))
    assert image.shape == (280, 280, 3)
    assert image[0, 0].tolist() == [100, 100, 100]
    assert image[-1, -1, 0] > 150 > 60 > image[-1, -1, 2]
