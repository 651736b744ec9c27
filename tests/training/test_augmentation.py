import math

import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform, map_coordinates

from imprint.models.inference import mirrored, shifted
from imprint.training.augmentation import (
    Rows,
    affine_matrices,
    augment,
    random_bend,
    random_color_jitter,
    random_downscale,
    random_warp,
    warp,
)
from imprint.training.plan import make_plan


def keras_warp(image, theta, tx, ty, zx, zy):
    """Keras's apply_affine_transform for one channel, restated from its formula: scipy samples it.

    The matrix is rotation · shift · zoom about the centre; it maps output (row, column) to input.
    """
    rotation = np.array([[np.cos(theta), -np.sin(theta), 0], [np.sin(theta), np.cos(theta), 0], [0, 0, 1]])
    shift = np.array([[1, 0, tx], [0, 1, ty], [0, 0, 1]])
    zoom = np.diag([zx, zy, 1])
    height, width = image.shape
    to_centre = np.array([[1, 0, width / 2 - 0.5], [0, 1, height / 2 - 0.5], [0, 0, 1]])
    matrix = to_centre @ rotation @ shift @ zoom @ np.linalg.inv(to_centre)
    swap = [1, 0]  # scipy counts rows first
    return affine_transform(image, matrix[:2, :2][swap][:, swap], matrix[:2, 2][swap], order=1, mode="nearest")


@pytest.mark.parametrize("side", [(28, 28), (20, 33)])
def test_warp_is_keras_and_scipys(side):
    generator = np.random.default_rng(0)
    images = generator.random((40, *side)).astype(np.float32)
    theta = generator.uniform(-math.radians(10), math.radians(10), 40)
    tx, ty = generator.uniform(-3, 3, (2, 40))
    zx, zy = generator.uniform(0.9, 1.1, (2, 40))
    matrices = affine_matrices(*map(as_float, [theta]), (as_float(zx), as_float(zy)), (as_float(tx), as_float(ty)))
    ours = warp(torch.from_numpy(images)[:, None], matrices)[:, 0].numpy()
    for i in range(40):
        assert np.abs(ours[i] - keras_warp(images[i], theta[i], tx[i], ty[i], zx[i], zy[i])).max() < 1e-4


def as_float(values):
    return torch.from_numpy(values.astype(np.float32))


def test_real_digits_are_warped_alike(digits):
    images = digits.pixels[:30, 0].astype(np.float32)
    theta = np.linspace(-0.17, 0.17, 30)
    one, none = torch.ones(30), torch.zeros(30)
    ours = warp(torch.from_numpy(images)[:, None], affine_matrices(as_float(theta), (one, one), (none, none)))
    for i in range(30):
        assert np.abs(ours[i, 0].numpy() - keras_warp(images[i], theta[i], 0, 0, 1, 1)).max() < 0.02


def recovered(rotation, zoom, shift, count=20_000):
    """Draw random maps over an image of coordinates and read the amounts back from it."""
    torch.manual_seed(0)
    height, width = 21, 31
    y, x = torch.meshgrid(torch.arange(height) - 10.0, torch.arange(width) - 15.0, indexing="ij")
    warped = random_warp(torch.stack([x, y]).expand(count, 2, height, width).contiguous(), rotation, zoom, shift)
    centre, right, below = warped[:, :, 10, 15], warped[:, :, 10, 16], warped[:, :, 11, 15]
    return centre.numpy(), (right - centre).numpy(), (below - centre).numpy()


def assert_uniform(values, low, high):
    assert values.min() >= low - 1e-4
    assert values.max() <= high + 1e-4
    expected = np.linspace(low, high, 11)
    assert np.abs(np.quantile(values, np.linspace(0, 1, 11)) - expected).max() < 0.02 * (high - low)


def test_rotation_is_uniform():
    _, right, _ = recovered(10.0, 0.0, 0.0)
    assert_uniform(np.degrees(np.arctan2(right[:, 1], right[:, 0])), -10, 10)


def test_zoom_is_uniform_and_drawn_for_each_axis():
    _, right, below = recovered(0.0, 0.1, 0.0)
    assert_uniform(right[:, 0], 0.9, 1.1)
    assert_uniform(below[:, 1], 0.9, 1.1)
    assert abs(np.corrcoef(right[:, 0], below[:, 1])[0, 1]) < 0.03


def test_shift_is_uniform_and_a_share_of_each_side():
    centre, _, _ = recovered(1e-6, 0.0, 0.1)  # turned as good as not
    assert_uniform(centre[:, 0], -3.1, 3.1)
    assert_uniform(centre[:, 1], -2.1, 2.1)


def test_images_that_are_shifted_only_are_so_by_whole_pixels():
    centre, right, _ = recovered(0.0, 0.0, 2.5 / 31)
    columns, counts = np.unique(centre[:, 0].round(3) + 0.0, return_counts=True)
    assert columns.tolist() == [-2, -1, 0, 1, 2]
    np.testing.assert_allclose(counts / counts.sum(), 0.2, atol=0.02)
    np.testing.assert_allclose(right, np.broadcast_to([1, 0], right.shape), atol=1e-4)


def test_beyond_the_edge_stands_the_nearest_pixel():
    ones = torch.ones(8, 1, 28, 28)
    assert torch.allclose(random_warp(ones, 10.0, 0.1, 0.1), ones, atol=1e-5)


def test_nothing_asked_nothing_done():
    pixels = torch.rand(2, 1, 5, 5)
    assert random_warp(pixels, 0.0, 0.0, 0.0) is pixels


def test_bending_is_what_scipy_samples(digits):
    torch.manual_seed(0)
    images = torch.from_numpy(digits.pixels[:10].astype(np.float32))
    one, none = torch.ones(10), torch.zeros(10)
    bend = random_bend(torch.zeros(10, 1, 8, 8), 2.0, Rows(10))
    ours = warp(images, affine_matrices(none, (one, one), (none, none)), bend)
    y, x = np.mgrid[:8, :8]
    for i in range(10):
        moved = [y + bend[i, 1].numpy(), x + bend[i, 0].numpy()]
        expected = map_coordinates(images[i, 0].numpy(), moved, order=1, mode="nearest")
        assert np.abs(ours[i, 0].numpy() - expected).max() < 1e-3


def test_bends_are_smooth_and_of_the_size_that_was_asked():
    torch.manual_seed(0)
    bend = random_bend(torch.zeros(2000, 1, 28, 56), 0.7, Rows(2000))
    corners = bend[:, :, ::27, ::55]  # four of the 25 points, where nothing is interpolated
    assert corners[:, 0].std().item() == pytest.approx(1.4, rel=0.05)
    assert corners[:, 1].std().item() == pytest.approx(0.7, rel=0.05)
    assert bend.diff(dim=2).abs().max() < 0.28 * bend.abs().max()


def test_views_are_moved_and_mirrored_images():
    pixels = torch.rand(2, 1, 28, 28)
    views = shifted(pixels)
    assert len(views) == 8
    assert torch.equal(views[1][:, :, 1:], pixels[:, :, :-1])
    assert torch.equal(views[6][:, :, :-1], pixels[:, :, 1:])
    assert torch.equal(shifted(torch.rand(1, 1, 56, 56).round())[0].unique(), torch.tensor([0.0, 1.0]))
    assert torch.equal(mirrored(pixels)[0][..., 0], pixels[..., -1])


def test_mirroring_turns_half_of_the_images_about():
    torch.manual_seed(0)
    pixels = torch.rand(1, 1, 6, 6).expand(2000, 1, 6, 6).contiguous()
    warped = random_warp(pixels, 0.0, 0.0, 0.0, hflip=True)
    turned = (warped - pixels.flip(3)).abs().amax(dim=(1, 2, 3)) < 1e-5
    same = (warped - pixels).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert (turned ^ same).all()
    assert abs(turned.float().mean().item() - 0.5) < 0.05


def test_crops_lie_within_the_image_and_take_at_least_their_share():
    torch.manual_seed(0)
    y, x = torch.meshgrid(torch.arange(21) - 10.0, torch.arange(31) - 15.0, indexing="ij")
    maps = torch.stack([x, y]).expand(5000, 2, 21, 31).contiguous()
    warped = random_warp(maps, 0.0, 0.0, 0.0, min_crop_area=0.5)
    width = (warped[:, 0, 10, 30] - warped[:, 0, 10, 0]) / 30
    height = (warped[:, 1, 20, 15] - warped[:, 1, 0, 15]) / 20
    assert warped[:, 0].abs().max() <= 15 + 1e-3
    assert warped[:, 1].abs().max() <= 10 + 1e-3
    assert 0.43 < (width * height).min() < 0.55  # a side may not pass 1, so a stretched min_crop_area can lose a little
    assert (width * height).max() <= 1 + 1e-5
    assert ((width / height).log().abs() <= math.log(4 / 3) + 1e-3).all()
    assert warped[:, 0, 10, 0].min() < -14.9  # some reach the edges
    assert warped[:, 0, 10, 30].max() > 14.9


def test_light_changes_grey_images_mean_by_its_factor():
    torch.manual_seed(0)
    pixels = torch.full((5000, 3, 2, 2), 0.5)
    factors = random_color_jitter(pixels, 0.3)[:, 0, 0, 0] * 2
    assert_uniform(factors.numpy(), 0.7, 1.3)


def test_light_keeps_to_its_range_and_leaves_grey_grey():
    torch.manual_seed(0)
    pixels = torch.rand(100, 1, 5, 5).expand(100, 3, 5, 5).contiguous()
    lit = random_color_jitter(pixels, 0.5)
    assert lit.min() >= 0
    assert lit.max() <= 1
    assert torch.allclose(lit[:, 0], lit[:, 2], atol=1e-6)
    assert random_color_jitter(pixels, 0.0) is pixels


def test_digits_are_never_mirrored(digits):
    # An image whose left half is bright keeps it left under every recipe for grey images.
    torch.manual_seed(0)
    halves = torch.zeros(200, 1, 28, 28)
    halves[..., :14] = 1.0
    for name in ("tutorial", "quick", "best"):
        recipe = make_plan(digits, name).recipe
        changed = augment(halves, recipe)
        assert (changed[..., :14].mean(dim=(1, 2, 3)) > changed[..., 14:].mean(dim=(1, 2, 3))).all()


def test_coarse_images_are_spread_and_lose_their_detail():
    torch.manual_seed(0)
    checks = (torch.arange(28)[:, None] + torch.arange(28)) % 2
    images = checks.float().expand(1000, 1, 28, 28)
    seen = random_downscale(images, 0.3)
    changed = (seen != images).flatten(1).any(1)
    assert 0.28 <= changed.float().mean() <= 0.32
    assert changed[:100].sum() > 25
    assert changed[-100:].sum() > 25
    detail = (seen[changed][..., 1:] - seen[changed][..., :-1]).abs().mean()
    assert detail < 0.3  # of 1 in the images as they are
    assert 0 <= seen.min() <= seen.max() <= 1
    assert random_downscale(images, 0.0) is images
    assert random_downscale(images[:1], 0.3).shape == (1, 1, 28, 28)
