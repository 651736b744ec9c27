import numpy as np
import pytest
import torch
from torch import nn

from imprint.models.networks import build_network
from imprint.models.whitening import FLOOR, whiten, whitening_filters


def correlated(count=40, channels=3, side=12):
    """Images whose neighbouring pixels and channels are alike."""
    noise = np.random.default_rng(0).random((count, channels, side + 2, side + 2), dtype=np.float32)
    noise = noise + noise.mean(axis=1, keepdims=True)
    smooth = noise[..., 1:, 1:] + noise[..., :-1, 1:] + noise[..., 1:, :-1] + noise[..., :-1, :-1]
    return torch.from_numpy(smooth / 4)


def patches_of(images, side):
    windows = np.lib.stride_tricks.sliding_window_view(images.numpy(), (side, side), axis=(2, 3))
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, images.shape[1] * side**2)


@pytest.mark.parametrize("side", [2, 3])
def test_filters_whiten_as_numpy_does(side):
    images = correlated()
    filters = whitening_filters(images, side).flatten(1).numpy()
    assert len(filters) == 2 * 3 * side**2
    half = len(filters) // 2
    np.testing.assert_array_equal(filters[half:], -filters[:half])
    patches = patches_of(images, side).astype(np.float64)
    values, vectors = np.linalg.eigh(np.cov(patches.T))
    expected = (vectors / np.sqrt(values + FLOOR * values.max())).T
    signs = np.sign((expected * filters[:half]).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(signs * filters[:half], expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    whitened = np.cov((patches @ filters[:half].T).T)
    np.testing.assert_allclose(whitened, np.diag(values / (values + FLOOR * values.max())), atol=1e-3)


def test_outputs_of_the_layer_are_centred():
    layer, images = nn.Conv2d(3, 24, 2), correlated()
    whiten(layer, images)
    # Of all patches, where the bias is by the mean of all pixels: edges take part in fewer patches.
    assert layer(images).mean(dim=(0, 2, 3)).abs().max() < 0.1
    assert torch.cov(layer(images).transpose(0, 1).flatten(1)[:12]).diagonal().max() < 1.01


def test_a_layer_of_few_filters_takes_the_most_varying_directions():
    images = correlated()
    few, every = nn.Conv2d(3, 10, 2), nn.Conv2d(3, 24, 2)
    whiten(few, images)
    whiten(every, images)
    chosen = [7, 8, 9, 10, 11, 19, 20, 21, 22, 23]  # the last five of both halves
    assert torch.equal(few.weight, every.weight[chosen])
    torch.testing.assert_close(few.bias, every.bias[chosen])
    assert torch.equal(few.weight[:5], -few.weight[5:])


@pytest.mark.parametrize("kind", ["one colour each", "grey as colour", "all alike"])
def test_images_that_hardly_vary_give_finite_filters(kind):
    images = torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images = images[:, :, :1, :1].expand(20, 3, 16, 16) if kind == "one colour each" else images
    images = images[:, :1].expand(20, 3, 16, 16) if kind == "grey as colour" else images
    images = torch.full_like(images, 0.5) if kind == "all alike" else images
    layer = nn.Conv2d(3, 24, 2)
    whiten(layer, images)
    assert layer(images).isfinite().all()
    assert layer(images).abs().max() < 20


@pytest.mark.parametrize("name", ["whitened", "whitened_broad", "whitened_photos"])
@pytest.mark.parametrize("size", [(16, 16), (17, 64), (32, 32), (48, 50), (64, 64), (96, 128)])
@pytest.mark.parametrize(("channels", "classes"), [(3, 2), (4, 100), (1, 3)])
def test_whitened_networks_take_any_small_size(name, size, channels, classes):
    network = build_network(name, channels, size, classes).eval()
    whiten(network, torch.rand(3, channels, *size))
    logits = network(torch.rand(2, channels, *size))
    assert logits.shape == (2, classes)
    assert logits.isfinite().all()
