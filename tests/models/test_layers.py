import pytest
import torch

from imprint.models.layers import Ensemble, GlobalPool, Residual
from imprint.models.networks import build_network


def test_an_ensemble_averages_probabilities():
    torch.manual_seed(0)
    members = [build_network(kind, 1, (28, 28), 5).eval() for kind in ("quick", "tutorial", "quick")]
    pixels = torch.rand(7, 1, 28, 28)
    averaged = Ensemble(members)(pixels).softmax(dim=1)
    assert torch.allclose(averaged, sum(member(pixels).softmax(dim=1) for member in members) / 3, atol=1e-6)


def test_a_residual_layer_begins_as_the_identity_behind_relu():
    pixels = torch.randn(1, 2, 3, 3)
    assert torch.equal(Residual(2)(pixels), pixels.relu())


def test_global_pooling_joins_means_and_largest_values():
    assert GlobalPool()(torch.tensor([[[[1.0, 2.0, 6.0]]]])).tolist() == [[3.0, 6.0]]


@pytest.mark.parametrize("name", ["tutorial", "quick", "residual"])
def test_our_own_networks_follow_the_protocol(name):
    torch.manual_seed(0)
    network, pixels = build_network(name, 1, (28, 28), 5).eval(), torch.rand(3, 1, 28, 28)
    features = network.forward_features(pixels)
    embedding = network.forward_head(features, pre_logits=True)
    assert features.ndim == 4
    assert embedding.shape == (3, network.num_features)
    assert torch.equal(network.forward_head(features), network(pixels))
    assert torch.equal(network[-1](embedding), network(pixels))
