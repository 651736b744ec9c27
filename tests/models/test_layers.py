import torch

from imprint.models.layers import Ensemble
from imprint.models.networks import build_network


def test_an_ensemble_averages_probabilities():
    torch.manual_seed(0)
    members = [build_network(kind, 1, (28, 28), 5).eval() for kind in ("quick", "tutorial", "quick")]
    pixels = torch.rand(7, 1, 28, 28)
    together = Ensemble(members)(pixels).softmax(dim=1)
    assert torch.allclose(together, sum(member(pixels).softmax(dim=1) for member in members) / 3, atol=1e-6)
