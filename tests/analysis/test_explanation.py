"""Explanations, compared with captum and with what each figure must be by its definition."""

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients, LayerGradCam
from torch import nn

import imprint
from imprint.analysis.explanation import explain, first_filters, grad_cam, integrated_gradients, layer_outputs
from imprint.core.errors import UsageError
from imprint.models.layers import Ensemble
from imprint.models.networks import build_network, combine
from imprint.models.ood import MahalanobisScore, logits_and_embeddings
from imprint.preprocessing.input_spec import InputSpec
from imprint.recipes import RECIPES
from imprint.report.explanation_plots import save_explanation


@pytest.fixture(scope="module")
def prepared():
    return torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(7))


def fresh(network, channels=1, size=(28, 28)):
    """A network whose normalisation and biases are not those it begins with."""
    torch.manual_seed(7)
    built = build_network(network, channels, size, 10).eval()
    for tensor in built.state_dict().values():
        if tensor.ndim == 1:
            tensor.uniform_(0.2, 1.0)
    return built


LATE = {"tutorial": "relu_1", "quick": "relu_1", "deep": "relu_4", "broad": "relu_2", "residual": "residual_1"}
LATE |= dict.fromkeys(("whitened", "whitened_broad", "whitened_photos"), "conv2d_5")  # before they are pooled


@pytest.mark.parametrize("network", LATE)
def test_grad_cam_is_captums(network, prepared):
    built = fresh(network)
    reference = LayerGradCam(built, getattr(built, LATE[network]))
    strongest = 0.0
    for label in range(10):
        expected = reference.attribute(prepared, target=label, relu_attributions=True)
        found = grad_cam(built, prepared, label)
        assert min(found.shape[1:]) >= 5
        torch.testing.assert_close(found, expected[:, 0].detach(), rtol=1e-4, atol=1e-6)
        strongest = max(strongest, found.max().item())
    assert strongest > 0


def test_grad_cam_at_the_very_last_maps(prepared):
    built = fresh("quick")
    expected = LayerGradCam(built, built.relu_3).attribute(prepared, target=0, relu_attributions=True)
    torch.testing.assert_close(grad_cam(built, prepared, 0, coarsest=1), expected[:, 0].detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("names", [["tutorial"], ["quick", "broad"]], ids=str)
def test_integrated_gradients_are_captums(names, prepared):
    built = combine([fresh(name) for name in names])
    reference = IntegratedGradients(lambda pixels: built(pixels).log_softmax(1))
    expected = reference.attribute(prepared, target=4, method="riemann_middle", n_steps=32)
    found = integrated_gradients(built, prepared, 4, steps=32)
    torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=1e-5)


def test_pixels_sum_to_the_lift_over_a_blank_image(model, digits):
    found = explain(model, digits, index=8)
    with torch.no_grad():
        two = torch.stack([torch.from_numpy(found.image) / 255, torch.zeros(found.image.shape)])
        logs = model.network(two).log_softmax(1)[:, int(found.prediction.labels[0])]
    assert found.weighed.sum() == pytest.approx(float(logs[0] - logs[1]), abs=0.15)  # 64 steps of a path with kinks


def test_layers_are_those_of_the_network(model, digits):
    found = explain(model, digits, index=3)
    with torch.no_grad():
        logits = model.network(torch.from_numpy(found.image)[None] / 255)[0].numpy()
    np.testing.assert_allclose(found.layers[-1].output, logits, atol=1e-5)
    assert [layer.name for layer in found.layers][:4] == ["conv2d", "relu", "conv2d_1", "max_pooling2d"]
    assert found.layers[0].output.min() < 0 <= found.layers[1].output.min()  # ReLU did not overwrite its input
    assert np.array_equal(found.filters, model.network.conv2d.weight.detach().numpy())


def test_layer_outputs_change_nothing(prepared):
    built = fresh("tutorial")
    before = {name: tensor.clone() for name, tensor in built.state_dict().items()}
    outputs = layer_outputs(built, prepared)
    torch.testing.assert_close(outputs["dense_2"], built(prepared).detach())
    assert outputs["max_pooling2d"].shape == (2, 30, 12, 12)
    assert not outputs["conv2d"].requires_grad
    assert all(torch.equal(before[name], tensor) for name, tensor in built.state_dict().items())
    assert all(parameter.grad is None for parameter in built.parameters())
    name, filters = first_filters(built)
    assert (name, filters.shape) == ("conv2d", (30, 1, 5, 5))


def test_the_rival_is_the_truth_where_the_model_errs(model, digits):
    wrong = np.flatnonzero(model.predict(digits).labels != digits.labels)
    assert len(wrong)
    found = explain(model, digits, index=int(wrong[0]))
    names = [name for name, _ in found.looked]
    assert names == [found.prediction.names[0], found.truth]
    assert found.facts()["compared"] == names
    right = explain(model, digits, index=0)
    assert right.prediction.names == [right.truth] == [right.looked[0][0]]
    second = right.prediction.probabilities[0].argsort()[-2]
    assert right.looked[1][0] == model.class_names[second]


def test_colour_images_of_another_size_and_several_networks():
    rng = np.random.default_rng(7)
    pixels = rng.integers(0, 256, (6, 3, 40, 60), dtype=np.uint8)
    names = np.array([f"{i}.png" for i in range(6)])
    photos = imprint.LabelledImages(pixels, np.arange(6) % 2, ("cat", "dog"), names)
    fast = {"epochs": 1, "min_steps": 1, "networks": "residual+broad", "largest_side": 24}
    model = imprint.train(photos, "photos", validation=0, verbose=False, **fast).model
    assert isinstance(model.network, Ensemble)
    for network, first in ((1, (32, 3, 3, 3)), (2, (24, 3, 5, 5))):
        found = explain(model, photos, index=2, network=network)
        assert found.network == f"network {network} of 2"
        assert found.filters.shape == first
        assert found.image.shape == (3, 24, 36)
        assert found.weighed.shape == (24, 36)
        assert found.where == "2.png"


def test_what_is_not_there_is_refused(model, digits):
    for index, network, words in (
        (1797, 1, r"index 1797 at digits: it holds 1,797 images"),
        (-1, 1, "index -1"),
        (0, 2, "network 2 at the model: it has 1"),
    ):
        with pytest.raises(UsageError, match=words):
            explain(model, digits, index=index, network=network)


def test_a_row_of_a_csv(digits_csv, model):
    assert explain(model, digits_csv / "test.csv", index=5).where == "row 6 of test.csv"
    assert explain(model, digits_csv / "test.csv", index=5).truth is None


class Handmade(nn.Module):
    """A network that Imprint does not know: no chain of layers, and of layers that Imprint has none of."""

    num_features = 12

    def __init__(self):
        super().__init__()
        self.classify = nn.Linear(self.num_features, 10)  # the order of the children says nothing about their use
        self.norm = nn.GroupNorm(3, self.num_features)
        self.stem = nn.Sequential(nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.GELU())
        self.mix = nn.ModuleDict({"wide": nn.Conv2d(6, 12, 3, padding=1), "narrow": nn.Conv2d(6, 12, 1)})

    def forward_features(self, pixels):
        stem = self.stem(pixels)
        return self.norm(self.mix["wide"](stem) + self.mix["narrow"](stem))

    def forward_head(self, features, pre_logits=False):
        embedding = features.relu_().mean(dim=(2, 3))  # in place, as timm's networks may
        return embedding if pre_logits else self.classify(embedding)

    def forward(self, pixels):
        return self.forward_head(self.forward_features(pixels))


class WithoutConvolution(nn.Module):
    num_features = 64

    def __init__(self):
        super().__init__()
        self.classify = nn.Linear(self.num_features, 10)

    def forward_features(self, pixels):
        return pixels.flatten(2).transpose(1, 2)  # tokens, as of a transformer

    def forward_head(self, features, pre_logits=False):
        embedding = features.flatten(1).tanh()
        return embedding if pre_logits else self.classify(embedding)

    def forward(self, pixels):
        return self.forward_head(self.forward_features(pixels))


def classifier_of(network):
    torch.manual_seed(7)
    network = network().eval()
    _, embeddings = logits_and_embeddings(network, torch.zeros(1, 1, 8, 8))
    size = embeddings.shape[1]
    ood_score = MahalanobisScore(torch.zeros(10, size), torch.eye(size)[None])
    spec, names = InputSpec(1, (8, 8), (8, 8)), tuple("0123456789")
    return imprint.Classifier(network, names, spec, RECIPES["quick"], 1.0, ood_score, unsure_above=1e9, tta_below=0.0)


def test_any_network_with_timms_protocol(digits, tmp_path):
    model = classifier_of(Handmade)
    found = explain(model, digits, index=3)
    pixels = torch.from_numpy(digits.pixels[3:4]) / 255
    predicted = int(found.prediction.labels[0])
    reference = LayerGradCam(model.network, model.network.norm)
    expected = reference.attribute(pixels, target=predicted, relu_attributions=True)[0, 0].detach()
    assert found.looked[0][0] == digits.class_names[predicted]
    np.testing.assert_allclose(found.looked[0][1], expected, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        features = model.network.forward_features(pixels)
        logits = model.network(pixels)[0]
        lift = (logits.log_softmax(0) - model.network(pixels * 0)[0].log_softmax(0))[predicted]
    assert found.weighed.sum() == pytest.approx(float(lift), abs=0.05)
    assert [layer.form for layer in found.layers] == ["4×4, 12 channels", "12 numbers", "10 numbers"]
    np.testing.assert_allclose(found.layers[0].output, features[0], atol=1e-6)
    np.testing.assert_allclose(found.layers[2].output, logits, atol=1e-6)
    assert (found.filter_layer, found.filters.shape) == ("stem.0", (6, 1, 3, 3))
    save_explanation(found, tmp_path / "explained.png")
    assert (tmp_path / "explained.png").stat().st_size > 10_000


def test_a_network_without_convolution_or_maps(digits, tmp_path):
    found = explain(classifier_of(WithoutConvolution), digits)
    assert found.filters.size == 0
    assert found.looked == ()
    assert [layer.name for layer in found.layers] == ["embedding", "logits"]
    save_explanation(found, tmp_path / "explained.png")
    save_explanation(found, tmp_path / "filters.png", bands=["filters"])
    assert (tmp_path / "filters.png").stat().st_size > 1000
