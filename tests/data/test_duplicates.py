import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance

from imprint.data.duplicates import connect, first_copies, near_copies
from imprint.data.images import LabelledImages


def scene(seed, side=100):
    """Draw a photo-like image: a sky of two colours and a dozen soft shapes."""
    random = np.random.default_rng(seed)
    colours = random.integers(0, 256, (14, 3))
    image = Image.new("RGB", (2, 2))
    image.putdata([tuple(colours[i].tolist()) for i in (0, 0, 1, 1)])
    image = image.resize((side, side), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(image)
    for colour in colours[2:]:
        x, y, w, h = random.integers(0, side, 4) * np.array([1, 1, 0.4, 0.4])
        draw.ellipse((x, y, x + w + 5, y + h + 5), fill=tuple(colour.tolist()))
    return image


def encoded(image, random):
    content = io.BytesIO()
    image.save(content, "JPEG", quality=75)
    return Image.open(content).convert("RGB")


def resized(image, random):
    side = round(100 * np.exp(random.uniform(np.log(0.7), np.log(1.5))))
    return image.resize((side, side), Image.Resampling.BICUBIC)


def cropped(image, random):
    left, top, right, bottom = (random.uniform(0, 0.04, 4) * 100).round().astype(int)
    return image.crop((left, top, 100 - right, 100 - bottom))


def brightened(image, random):
    return ImageEnhance.Brightness(image).enhance(random.uniform(0.85, 1.15))


def stack(images, side=100):
    return np.stack([np.asarray(each.resize((side, side))).transpose(2, 0, 1) for each in images])


@pytest.fixture(scope="module")
def scenes():
    return [scene(seed) for seed in range(80)]


def hashes_of(pixels):
    return LabelledImages(pixels, None, (), np.arange(len(pixels))).pixel_hashes


def test_the_first_copy_is_named():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 4), dtype=np.uint8)
    hashes = hashes_of(pixels[[3, 1, 3, 3, 2]])
    assert first_copies(hashes).tolist() == [0, 1, 0, 0, 4]
    assert len(np.unique(hashes)) == 3


def test_one_changed_pixel_makes_another_image():
    pixels = np.zeros((2, 1, 28, 28), dtype=np.uint8)
    pixels[1, 0, 27, 27] = 1
    assert first_copies(hashes_of(pixels)).tolist() == [0, 1]


@pytest.mark.parametrize("change", [encoded, resized, cropped, brightened])
def test_changed_copies_are_found_and_nothing_else(scenes, change):
    random = np.random.default_rng(1)
    copies = stack([change(each, random) for each in scenes])
    pairs = near_copies(stack(scenes), copies).pairs
    right = pairs[:, 1] - pairs[:, 0] == len(scenes)
    assert right.sum() >= 0.95 * len(scenes)
    assert right.all()


def test_copies_are_found_across_sizes_and_colours(scenes):
    grey = [each.convert("L").convert("RGB") for each in scenes[:20]]
    small = stack(grey, 40)[:, :1]
    found = near_copies(stack(grey), small)
    assert found.pairs.tolist() == [[i, i + 20] for i in range(20)]
    assert found.likeness.min() > 0.98


def test_the_same_drawing_in_other_colours_is_no_copy():
    one, other = (Image.new("RGB", (64, 64), "white") for _ in range(2))
    ImageDraw.Draw(one).ellipse((16, 16, 48, 48), fill=(200, 40, 40))
    ImageDraw.Draw(other).ellipse((16, 16, 48, 48), fill=(40, 60, 200))
    assert not len(near_copies(stack([one, other], 64)).pairs)


def test_distinct_digits_are_no_copies(digits):
    assert not len(near_copies(digits.pixels).pairs)
    found = near_copies(digits.pixels, digits.pixels[:50])
    assert found.pairs.tolist() == [[i, i + len(digits)] for i in range(50)]


def test_many_copies_of_one_image_stay_one_group_and_stay_cheap():
    pixels = stack([scene(1, 32)], 32).repeat(600, axis=0)
    found = near_copies(pixels)
    assert not connect([np.arange(600)], found.pairs).any()


def test_images_of_one_colour_have_no_near_copies():
    assert not len(near_copies(np.full((4, 1, 28, 28), 7, dtype=np.uint8)).pairs)


def test_groups_are_joined_over_several_steps():
    persons = np.array(["a", "b", "c", "a", "d"])
    assert connect([persons, np.array([0, 1, 2, 3, 2])]).tolist() == [0, 1, 2, 0, 2]
    assert connect([persons], np.array([[3, 4], [4, 2]])).tolist() == [0, 1, 0, 0, 0]
