import numpy as np
import pytest
import torch
from sklearn.covariance import EmpiricalCovariance

from imprint.models.layers import ReLU, Residual
from imprint.models.networks import BUILT_IN, build_network, build_networks
from imprint.models.ood import (
    LEAST_SPREAD,
    WIDE,
    count_embeddings,
    fit_mahalanobis,
    levelled,
    logits_and_embeddings,
)


@pytest.mark.parametrize(
    "names", [*[(name,) for name in sorted(BUILT_IN)], ("quick", "tutorial", "quick")], ids="+".join
)
def test_logits_are_the_networks_own(names):
    torch.manual_seed(0)
    built = build_networks(names, 1, (28, 28), 10).eval()
    pixels = torch.rand(5, 1, 28, 28)
    with torch.inference_mode():
        logits, embeddings = logits_and_embeddings(built, pixels)
        assert torch.allclose(logits, built(pixels), atol=1e-6)
    assert embeddings.shape == (5, count_embeddings(built))
    assert bool(embeddings.isfinite().all())


def test_our_own_embeddings_are_channel_means_behind_each_activation():
    torch.manual_seed(0)
    built = build_network("residual", 1, (28, 28), 10).eval()
    noted = []
    for layer in built.children():
        if isinstance(layer, ReLU | Residual):
            layer.register_forward_hook(lambda module, given, result: noted.append(result.mean(dim=(2, 3)).clone()))
    with torch.inference_mode():
        features = logits_and_embeddings(built, torch.rand(3, 1, 28, 28))[1]
    assert torch.allclose(features, torch.cat(noted, dim=1), atol=1e-6)


def test_distances_are_scikit_learns_mahalanobis():
    generator = np.random.default_rng(0)
    labels = generator.integers(3, size=60_000)
    mixing = np.eye(6) + 0.2 * generator.normal(size=(3, 6, 6))  # each class has its own shape
    noise = np.einsum("ni,nij->nj", generator.normal(size=(60_000, 6)), mixing[labels])
    mixed = noise + 5 * generator.normal(size=(3, 6))[labels]
    fitted = fit_mahalanobis(torch.tensor(mixed, dtype=torch.float32), torch.from_numpy(labels), 3)
    other = generator.normal(size=(50, 6)) * 20
    for label in range(3):
        expected = EmpiricalCovariance().fit(mixed[labels == label]).mahalanobis(other)
        predicted = torch.full((50,), label)
        found = fitted.distances(torch.tensor(other, dtype=torch.float32), predicted).numpy()
        assert found == pytest.approx(expected, rel=0.02)  # it is shrunk by the weight of 30 images of 20,000


def test_many_classes_share_one_shape(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(900, 4, generator=generator), torch.arange(900) % 3
    monkeypatch.setattr("imprint.models.ood.MAX_MATRIX_NUMBERS", 3 * 4 * 4 - 1)
    shared = fit_mahalanobis(features, labels, 3)
    assert shared.whitening.shape == (1, 4, 4)
    within = features - torch.stack([features[labels == i].mean(dim=0) for i in range(3)])[labels]
    expected = EmpiricalCovariance(assume_centered=True).fit(within.numpy()).mahalanobis(within.numpy())
    assert shared.distances(features, labels).numpy() == pytest.approx(expected, rel=0.02)


def test_few_images_and_silent_channels_do_no_harm():
    features = torch.zeros(4, 50)
    features[:, :10] = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    fitted = fit_mahalanobis(features, torch.tensor([0, 0, 1, 1]), 3)  # the third class has no image
    for predicted in range(3):
        found = fitted.distances(torch.cat([features, features + 100]), torch.full((8,), predicted))
        assert bool(found.isfinite().all())
        assert found[4:].min() > 100 * found[:4].max()


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="only a CPU here")
def test_a_gpu_learns_what_the_cpu_learns():
    features, labels = torch.randn(200, 5), torch.arange(200) % 2
    device = torch.accelerator.current_accelerator()
    fitted, there = fit_mahalanobis(features, labels, 2), fit_mahalanobis(features.to(device), labels, 2)
    assert there.whitening.device.type == device.type
    assert torch.equal(there.whitening.cpu(), fitted.whitening)
    assert torch.equal(there.centres.cpu(), fitted.centres)


def test_wide_embeddings_have_the_variances_within_classes():
    """Against the formula, written out; a class's mean counts with 30 images at the mean of all."""
    random = np.random.default_rng(0)
    number, labels = WIDE + 6, np.arange(120) % 2
    found = random.normal(size=(120, number)) + labels[:, None]
    found[:, :5] *= 1e-3  # channels that hardly answer
    score = fit_mahalanobis(torch.from_numpy(found).float(), torch.from_numpy(labels), 2)
    centres = np.stack([(found[labels == label].sum(0) + 30 * found.mean(0)) / 90 for label in (0, 1)])
    spread = np.sqrt(((found - centres[labels]) ** 2).mean(0))
    spread = np.maximum(spread, LEAST_SPREAD * np.median(spread))
    new = random.normal(size=(5, number))
    distances = score.distances(torch.from_numpy(new).float(), torch.ones(5, dtype=torch.int64)).numpy()
    assert score.whitening is None
    assert np.allclose(distances, (((new - centres[1]) / spread) ** 2).sum(1), rtol=1e-4)


def test_no_depth_of_a_wide_embedding_outweighs_another():
    wide = torch.randn(3, WIDE + 40, generator=torch.Generator().manual_seed(0)) ** 3
    wide[:, 40:] *= 1000
    level = levelled(wide, (40, WIDE))
    assert torch.allclose(level[:, :40].square().mean(dim=1), torch.ones(3))
    assert torch.allclose(level[:, 40:].square().mean(dim=1), torch.ones(3))
    assert torch.equal(level.sign(), wide.sign())
    assert torch.allclose(levelled(wide * 8, (40, WIDE)), level, atol=1e-5)
    assert bool(levelled(torch.zeros(2, WIDE + 1), (WIDE + 1,)).isfinite().all())
    assert torch.equal(levelled(wide[:, :WIDE], (WIDE,)), wide[:, :WIDE])


@pytest.mark.parametrize(("classes", "features"), [(3, 12), (3, WIDE + 40), (400, 90)], ids=["each", "wide", "shared"])
def test_a_gpu_computes_the_same_distances_without_asking_for_the_classes(classes, features):
    torch.manual_seed(0)
    embeddings, labels = torch.randn(500, features), torch.randint(classes, (500,))
    fitted = fit_mahalanobis(embeddings, labels, classes)
    shapes = None if fitted.whitening is None else len(fitted.whitening)
    assert shapes == {12: classes, 90: 1}.get(features)
    seen, predicted = torch.randn(60, features) * 2, torch.randint(classes - 1, (60,))
    expected = fitted._of_each_class(seen, predicted)
    assert torch.allclose(fitted._of_all_at_once(seen, predicted), expected, rtol=1e-4)
