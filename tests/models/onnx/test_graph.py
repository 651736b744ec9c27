from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from imprint import ImprintError, OnnxClassifier, export
from imprint.models.backbones import SOURCES, SameConv
from imprint.models.classifier import Classifier
from imprint.models.inference import TTA_VIEWS, predict_with_embeddings
from imprint.models.layers import ConvNet, Dense, Ensemble
from imprint.models.networks import NETWORKS, build_networks
from imprint.models.onnx.graph import IR_VERSION, OPSET, classifier_model, network_model
from imprint.models.ood import fit_mahalanobis, ood_detector_classes
from imprint.preprocessing.input_spec import InputSpec
from imprint.preprocessing.prepare import prepare
from imprint.recipes import RECIPES


def trained(names, channels=1, size=(28, 28), tta="none", image_size=None, matrices=None):
    """A classifier whose normalisations have seen images, as after training."""
    torch.manual_seed(0)
    network = build_networks(names, channels, size, 7)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            for values in (layer.weight.data, layer.bias.data, layer.running_mean):
                values.normal_(0.0, 0.5)
            layer.running_var.uniform_(0.5, 2.0)
        elif isinstance(layer, SameConv):  # else all images would have the same embedding but for rounding
            nn.init.kaiming_normal_(layer.weight.data)
    recipe = replace(RECIPES["quick"], networks=names, tta=tta, hflip="yes")
    return classifier(network, InputSpec(channels, image_size or size, size), recipe, matrices)


def classifier(network, spec, recipe=RECIPES["quick"], matrices=None):
    embeddings = predict_with_embeddings(network.eval(), images(spec, 50), spec)[1]
    score = fit_mahalanobis(embeddings, torch.arange(50) % 7, 7)
    if score.whitening is not None:
        score = replace(score, whitening=score.whitening[:matrices])
    return Classifier(network, tuple("abcdefg"), spec, recipe, 0.5, score, unsure_above=5.0, tta_below=2.0)


def run(model, plain=False):
    whole = classifier_model(model, network_model(model.network, model.spec, 7), plain)
    onnx.checker.check_model(whole, full_check=True)
    session = onnxruntime.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {"pixels": pixels})


def images(spec, count):
    shape = (count, spec.channels, *spec.image_size)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def differences(model, pixels, plain=False):
    """The most by which probabilities and uncertainty differ from the model's own."""
    pairs = zip(run(model, plain)(pixels), model._compute(pixels), strict=True)
    return [float(np.abs(found - expected).max()) for found, expected in pairs]


def test_an_ood_detector_adds_the_same_uncertainty():
    model = trained(("tutorial",), tta="shifts")
    recipe = replace(model.recipe, ood_detector="quick")
    ood_detector = trained(("quick",)).network
    ood_detector.dense = Dense(64 * 9, ood_detector_classes(recipe, (28, 28), 7))
    torch.nn.init.normal_(ood_detector.dense.weight)
    torch.nn.init.zeros_(ood_detector.dense.bias)
    detecting = replace(model, recipe=recipe, ood_detector=ood_detector)
    pixels = images(model.spec, 20)
    assert np.abs(detecting._compute(pixels)[1] - model._compute(pixels)[1]).max() > 0.5
    probabilities, uncertainty = differences(detecting, pixels)
    assert probabilities < 1e-5
    assert uncertainty < 1e-4


@pytest.mark.parametrize("matrices", [1, 7])
@pytest.mark.parametrize("names", [*((name,) for name in NETWORKS), ("quick", "tutorial", "quick")], ids="+".join)
def test_every_network_predicts_as_before(names, matrices):
    model = trained(names, channels=3, size=(30, 36) if names[0] not in SOURCES else (32, 36), matrices=matrices)
    if names[0] in SOURCES:
        assert model.ood_score.whitening is None
    else:  # one a class is too large
        assert len(model.ood_score.whitening) == (1 if names[0].startswith(("residual", "whitened")) else matrices)
    probabilities, uncertainty = differences(model, images(model.spec, 5))
    assert probabilities < 1e-5
    assert uncertainty < 1e-3


@pytest.mark.parametrize("tta", ["none", *TTA_VIEWS])
@pytest.mark.parametrize(("image_size", "channels"), [((28, 28), 1), ((8, 9), 1), ((70, 50), 3)])
def test_scaling_tta_and_calibration_are_inside(tta, image_size, channels):
    model = trained(("quick",), channels, tta=tta, image_size=image_size)
    pixels = images(model.spec, 9)
    confidence = replace(model, temperature=1.0, tta_below=0.0)._compute(pixels)[0].max(axis=1)
    for below in (0.0, float(np.median(confidence)) + 0.003, 2.0):  # none, some of them not in full, and all
        for plain in (False, True):
            probabilities, uncertainty = differences(replace(model, tta_below=below), pixels, plain)
            assert probabilities < 1e-4
            assert uncertainty < 1e-3
    if tta != "none":
        once, again = (replace(model, tta_below=below)._compute(pixels)[0] for below in (0.0, 2.0))
        assert np.abs(once - again).max() > 1e-3


def operators(model, plain):
    whole = classifier_model(model, network_model(model.network, model.spec, 7), plain)
    return {node.op_type for node in whole.graph.node}


def test_no_shape_in_a_plain_graph_depends_on_values():
    model = trained(("lite0",), channels=3, size=(32, 36), tta="hflip")
    assert operators(model, plain=False) >= {"NonZero", "GatherND", "ScatterND"}
    assert not operators(model, plain=True) & {"NonZero", "GatherND", "ScatterND", "Slice", "Shape", "ConstantOfShape"}


def test_a_network_that_needs_such_shapes_is_refused():
    class Selecting(nn.Module):
        num_features = 3

        def forward_features(self, images):
            return images

        def forward_head(self, features, pre_logits=False):
            return features.mean(dim=(2, 3)) if pre_logits else self(features)

        def forward(self, images):
            means = images.mean(dim=(2, 3))
            return torch.cat([means, means, means[:, :1]], dim=1) + means.reshape(-1)[means.reshape(-1).nonzero()].sum()

    model = replace(trained(("quick",), channels=3), network=Selecting())
    operators(model, plain=False)
    with pytest.raises(ImprintError, match="network at Selecting: it needs the operator NonZero"):
        operators(model, plain=True)


@pytest.mark.parametrize("count", [0, 1, 2, 300])
def test_any_number_of_images(count):
    model = trained(("tutorial",), tta="shifts")
    probabilities, uncertainty = run(model)(images(model.spec, count))
    assert (probabilities.shape, uncertainty.shape) == ((count, 7), (count,))
    assert np.abs(probabilities - model._compute(images(model.spec, 300))[0][:count]).max(initial=0) < 1e-4


def test_the_graph_is_of_standard_operators_that_old_runtimes_know():
    model = trained(("residual",), channels=3)
    whole = classifier_model(model, network_model(model.network, model.spec, 7))
    assert [(entry.domain, entry.version) for entry in whole.opset_import] == [("", OPSET)]
    assert whole.ir_version == IR_VERSION
    assert {node.domain for node in whole.graph.node} == {""}


def test_weights_are_kept_once(model):
    whole = classifier_model(model, network_model(model.network, model.spec, 10))
    score = (model.ood_score.whitening, model.ood_score.centres)
    inside = sum(tensor.nbytes for tensor in (*model.network.parameters(), *score))
    assert inside < whole.ByteSize() < inside + 60_000


class ForeignNet(nn.Module):
    """A network that follows timm's protocol, of layers that Imprint does not know."""

    def __init__(self, channels=1, classes=7):
        super().__init__()
        self.num_features = 24
        self.stem = nn.Conv2d(channels, 16, 3, stride=2, padding=1)
        self.stem_norm = nn.GroupNorm(4, 16)
        self.block = nn.Conv2d(16, 24, 3, padding=1, groups=8)
        self.block_norm = nn.BatchNorm2d(24)
        self.head_norm = nn.LayerNorm(24)
        self.head = nn.Linear(24, classes)

    def forward_features(self, images):
        features = F.avg_pool2d(F.gelu(self.stem_norm(self.stem(images))), 2)
        return F.silu(self.block_norm(self.block(features)))

    def forward_head(self, features, pre_logits=False):
        embeddings = self.head_norm(features.mean((2, 3)))
        return embeddings if pre_logits else self.head(embeddings)

    def forward(self, images):
        return self.forward_head(self.forward_features(images))


@pytest.fixture(scope="module")
def foreign(digits):
    """That network, after 20 steps on real images."""
    torch.manual_seed(0)
    network, spec = ForeignNet(), InputSpec(1, (8, 8), (28, 28))
    prepared, labels = prepare(torch.from_numpy(digits.pixels[:400]), spec), torch.from_numpy(digits.labels[:400] % 7)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(20):
        optimiser.zero_grad()
        F.cross_entropy(network(prepared), labels).backward()
        optimiser.step()
    return classifier(network, spec)


@pytest.mark.parametrize("tta", ["none", "shifts"])
def test_a_network_of_unknown_layers_predicts_as_before(foreign, digits, tmp_path, recwarn, capfd, tta):
    model = replace(foreign, recipe=replace(foreign.recipe, tta=tta))
    confidence = replace(model, tta_below=0.0).predict(digits).confidence
    model = replace(model, tta_below=float(np.quantile(confidence, 0.3)))
    exported = export(model, tmp_path / "foreign.onnx", digits)
    assert exported.same == 1
    assert exported.difference < 1e-4
    assert (exported.viewed > 0) == (tta != "none")
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    written = OnnxClassifier.load(tmp_path / "foreign.onnx")
    assert np.ptp(written.predict_proba(digits), axis=0).max() > 0.5
    for start in range(0, 100, 5):
        for images in (digits[start : start + 1], digits[start : start + 5]):
            assert np.abs(written.predict_proba(images) - model.predict_proba(images)).max() < 1e-4


def test_an_unknown_layer_among_known_ones(digits):
    torch.manual_seed(0)
    known = build_networks(("quick",), 1, (28, 28), 7)
    mixed = ConvNet()
    for name, layer in known.named_children():
        mixed.add_module(name, nn.GELU() if name == "relu_2" else layer)
    assert any(isinstance(layer, nn.GELU) for layer in mixed)
    for network in (mixed, Ensemble([ForeignNet(), known, mixed])):
        model = classifier(network, InputSpec(1, (8, 8), (28, 28)))
        probabilities, uncertainty = differences(model, digits.pixels[:20])
        assert probabilities < 1e-4
        assert uncertainty < 1e-3


def test_mean_and_std_are_inside():
    plain = trained(("quick",), channels=3)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    model = replace(plain, spec=replace(plain.spec, mean=mean, std=std), temperature=1.0)
    pixels = images(model.spec, 9)
    normalised = (torch.from_numpy(pixels) / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.inference_mode():
        expected = model.network(normalised).softmax(dim=1).numpy()
    assert np.abs(run(model)(pixels)[0] - expected).max() < 1e-5


def test_a_network_that_no_file_may_hold_is_refused():
    class Sorting(ForeignNet):
        def forward_features(self, images):
            return super().forward_features(images.sort(dim=3).values)

    class Complex(ForeignNet):
        def forward_features(self, images):
            return super().forward_features(torch.fft.fft(images).real)

    spec = InputSpec(1, (28, 28), (28, 28))
    with pytest.raises(ImprintError, match="network at Sorting: it needs the operators TopK, which no file may hold"):
        network_model(Sorting().eval(), spec, 7)
    with pytest.raises(ImprintError, match=r"network at Complex: torch\.onnx\.export cannot write it \("):
        network_model(Complex().eval(), spec, 7)
