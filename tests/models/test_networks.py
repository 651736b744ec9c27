import math

import pytest
import torch

from imprint import DataError
from imprint.models.hardware import BLOCKED, CHANNELS_LAST, ComputeConfig
from imprint.models.layers import Dropout
from imprint.models.networks import build_network, input_size, tutorial


def test_initial_weights_are_glorot_uniform():
    torch.manual_seed(0)
    network = tutorial(1, 28, 28, 10)
    fans = {"conv2d": 25 * 31, "conv2d_1": 9 * 45, "dense": 1628, "dense_1": 178, "dense_2": 60}
    for name, fan_in_and_out in fans.items():
        weight, limit = getattr(network, name).weight, math.sqrt(6 / fan_in_and_out)
        assert weight.abs().max() <= limit
        assert weight.abs().max() > 0.95 * limit
        # A uniform distribution's standard deviation is limit / sqrt(3); its estimate strays by ~ 0.63 / sqrt(n).
        assert abs(weight.std() / (limit / math.sqrt(3)) - 1) < 4 * 0.63 / math.sqrt(weight.numel())
        assert not getattr(network, name).bias.any()


def test_relu_behind_pooling_changes_nothing():
    torch.manual_seed(0)
    convolved = torch.randn(4, 30, 24, 24)
    pool = torch.nn.MaxPool2d(2)
    assert torch.equal(pool(convolved).relu(), pool(convolved.relu()))


@pytest.mark.parametrize("channels_last", [False, True])
def test_dropout_drops_its_share_and_keeps_the_mean(channels_last):
    torch.manual_seed(0)
    ones = torch.ones(64, 15, 10, 10, requires_grad=True)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    dropped = Dropout(0.2)(ones.contiguous(memory_format=layout))
    count = ones.numel()
    assert set(dropped.unique().tolist()) == {0.0, 1.25}
    assert abs((dropped == 0).float().mean().item() - 0.2) < 4 * math.sqrt(0.2 * 0.8 / count)
    dropped.sum().backward()
    assert torch.equal(ones.grad, dropped.detach())


def test_dropout_rests_when_predicting():
    pixels = torch.rand(3, 5)
    assert Dropout(0.9).eval()(pixels) is pixels


@pytest.mark.parametrize("layout", [BLOCKED, CHANNELS_LAST])
@pytest.mark.parametrize("name", ["tutorial", "quick"])
def test_layout_changes_no_output_and_no_gradient(name, layout):
    torch.manual_seed(0)
    built = build_network(name, 1, (28, 28), 10)
    if name == "tutorial":
        built.dropout = torch.nn.Identity()
    pixels = torch.rand(16, 1, 28, 28)
    for batch in (pixels, ComputeConfig("float32", layout, 2, 1.0, 0.0).to_layout(pixels)):
        built.zero_grad()
        logits = built(batch)
        logits.square().sum().backward()
        gradients = [p.grad.clone() for p in built.parameters()]
        if batch is pixels:
            expected, expected_gradients = logits.detach(), gradients
    assert torch.allclose(logits, expected, atol=1e-5)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        assert torch.allclose(gradient, other, rtol=1e-3, atol=1e-3)


def test_small_images_are_enlarged_in_proportion():
    assert input_size(("quick",), (8, 8)) == (28, 28)
    assert input_size(("quick",), (8, 16)) == (28, 56)
    assert input_size(("tutorial",), (10, 10)) == (10, 10)
    for network in ("tutorial", "quick"):
        assert build_network(network, 1, input_size((network,), (9, 9)), 3)(torch.zeros(2, 1, 28, 28)).shape == (2, 3)


def test_slivers_are_refused():
    with pytest.raises(DataError, match="too long and thin"):
        input_size(("quick",), (1, 200))
