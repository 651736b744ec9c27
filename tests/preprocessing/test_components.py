import numpy as np
import pytest

from imprint.preprocessing.components import find_components, light_of


def sheet(shadow=0.0, channels=1):
    """A tall stroke with a short bar beside it, on paper whose right half may be in the shade; and where the ink is."""
    ink = np.zeros((200, 200), dtype=bool)
    ink[60:140, 90:100] = ink[60:70, 105:130] = True
    light = np.where(np.arange(200) < 115, 1.0, 1.0 - shadow)
    image = np.where(ink, 40.0, 210.0) * light + np.random.default_rng(0).normal(0, 2, ink.shape)
    return image[..., None].repeat(channels, axis=2).astype(np.float32), ink


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shadow", [0.0, 0.5])
def test_parts_of_one_glyph_are_found_together_in_light_and_shade(channels, shadow):
    image, ink = sheet(shadow, channels)
    found = find_components(image)
    assert (found & ink).sum() >= 0.9 * ink.sum()
    assert (found & ~ink).sum() <= 0.1 * ink.sum()


def test_bright_ink_is_found_as_dark_ink_is():
    image, ink = sheet()
    assert (find_components(255 - image) == ink).mean() > 0.99


def test_blank_paper_and_the_edge_of_a_shadow_have_no_components():
    assert find_components(np.full((100, 80, 1), 200, dtype=np.float32)) is None
    shade = np.where(np.arange(200) < 100, 200, 90).astype(np.float32)
    assert find_components(np.broadcast_to(shade[:, None], (200, 200, 1))) is None


def test_distant_dirt_and_scratches_finer_than_the_pen_are_left_out():
    image, _ = sheet()
    image[10:12, 10:12] = image[150:190, 105:107] = 40
    found = find_components(image)
    assert not found[:50].any()
    assert not found[150:].any()


def test_light_is_the_channels_mean():
    image = np.random.default_rng(0).uniform(0, 255, (5, 7, 3)).astype(np.float32)
    np.testing.assert_allclose(light_of(image), image.mean(axis=2), rtol=1e-5)
