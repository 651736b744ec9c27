from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from imprint.models.classifier import Classifier
from imprint.models.inference import TTA_VIEWS, predict_with_embeddings
from imprint.models.layers import Dense
from imprint.models.networks import NETWORKS, build_networks
from imprint.models.onnx.graph import IR_VERSION, OPSET, classifier_model, network_model
from imprint.models.ood import MahalanobisScore, fit_mahalanobis, ood_detector_classes
from imprint.preprocessing.input_spec import InputSpec
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
    spec = InputSpec(channels, image_size or size, size)
    recipe = replace(RECIPES["quick"], networks=names, tta=tta, hflip="yes")
    embeddings = predict_with_embeddings(network.eval(), images(spec, 50), spec)[1]
    score = fit_mahalanobis(embeddings, torch.arange(50) % 7, 7)
    score = MahalanobisScore(score.centres, score.whitening[:matrices])
    return Classifier(network, tuple("abcdefg"), spec, recipe, 0.5, score, unsure_above=5.0, tta_below=2.0)


def run(model):
    whole = classifier_model(model, network_model(model.network, model.spec, 7))
    onnx.checker.check_model(whole, full_check=True)
    session = onnxruntime.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {"pixels": pixels})


def images(spec, count):
    shape = (count, spec.channels, *spec.image_size)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def differences(model, pixels):
    """The most by which probabilities and uncertainty differ from the model's own."""
    pairs = zip(run(model)(pixels), model._compute(pixels), strict=True)
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
    model = trained(names, channels=3, size=(30, 36), matrices=matrices)
    assert len(model.ood_score.whitening) == (1 if names == ("residual",) else matrices)  # one a class is too large
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
        probabilities, uncertainty = differences(replace(model, tta_below=below), pixels)
        assert probabilities < 1e-4
        assert uncertainty < 1e-3
    if tta != "none":
        once, again = (replace(model, tta_below=below)._compute(pixels)[0] for below in (0.0, 2.0))
        assert np.abs(once - again).max() > 1e-3


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
