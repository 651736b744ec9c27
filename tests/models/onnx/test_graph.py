from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from imprint.models.classifier import Classifier
from imprint.models.inference import TTA_VIEWS, predict_with_embeddings
from imprint.models.layers import Dense
from imprint.models.networks import NETWORKS, build_network
from imprint.models.onnx.graph import IR_VERSION, OPSET, classifier_model, network_model
from imprint.models.ood import MahalanobisScore, fit_mahalanobis, ood_detector_classes
from imprint.preprocessing.input_spec import InputSpec
from imprint.recipes import RECIPES


def trained(network, channels=1, size=(28, 28), tta="none", image_size=None, shapes=None):
    """A network whose normalisations have seen images, as after training."""
    torch.manual_seed(0)
    built = build_network(network, channels, size, 7)
    for layer in built.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            for values in (layer.weight.data, layer.bias.data, layer.running_mean):
                values.normal_(0.0, 0.5)
            layer.running_var.uniform_(0.5, 2.0)
    spec = InputSpec(channels, image_size or size, size)
    recipe = replace(RECIPES["quick"], network=network, views=views, hflip="yes")
    features = predict_with_embeddings(built.eval(), images(spec, 50), spec)[1]
    usual = fit_mahalanobis(features, torch.arange(50) % 7, 7)
    usual = MahalanobisScore(usual.centres, usual.whitening[:shapes])
    return Classifier(built, tuple("abcdefg"), spec, recipe, 0.5, usual, unsure_above=5.0, tta_below=2.0)


def run(model):
    whole = classifier_model(model, network_model(model.network, model.spec, 7))
    onnx.checker.check_model(whole, full_check=True)
    session = onnxruntime.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {"pixels": pixels})


def images(spec, count):
    shape = (count, spec.channels, *spec.image_size)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def differences(model, pixels):
    """The most by which probabilities and doubt differ from the model's own."""
    pairs = zip(run(model)(pixels), model._compute(pixels), strict=True)
    return [float(np.abs(found - expected).max()) for found, expected in pairs]


def test_a_guard_doubts_as_before():
    model = trained("tutorial", tta="shifts")
    recipe = replace(model.recipe, ood_detector="quick")
    ood_detector = trained("quick").network
    ood_detector.dense = Dense(64 * 9, ood_detector_classes(recipe, (28, 28), 7))
    torch.nn.init.normal_(ood_detector.dense.weight)
    torch.nn.init.zeros_(ood_detector.dense.bias)
    guarded = replace(model, recipe=recipe, ood_detector=ood_detector)
    pixels = images(model.spec, 20)
    assert np.abs(guarded._compute(pixels)[1] - model._compute(pixels)[1]).max() > 0.5
    probabilities, uncertainty = differences(guarded, pixels)
    assert probabilities < 1e-5
    assert uncertainty < 1e-4


@pytest.mark.parametrize("shapes", [1, 7])
@pytest.mark.parametrize("net", [*NETWORKS, "quick+tutorial+quick"])
def test_every_network_answers_as_before(network, shapes):
    model = trained(network, channels=3, size=(30, 36), shapes=shapes)
    assert len(model.ood_score.whitening) == (1 if network == "residual" else shapes)  # too large, one for each class
    probabilities, uncertainty = differences(model, images(model.spec, 5))
    assert probabilities < 1e-5
    assert uncertainty < 1e-3


@pytest.mark.parametrize("tta", ["none", *TTA_VIEWS])
@pytest.mark.parametrize(("image_size", "channels"), [((28, 28), 1), ((8, 9), 1), ((70, 50), 3)])
def test_scaling_views_and_calibration_are_inside(views, image_size, channels):
    model = trained("quick", channels, views=views, image_size=image_size)
    pixels = images(model.spec, 9)
    confidence = replace(model, temperature=1.0, tta_below=0.0)._compute(pixels)[0].max(axis=1)
    for below in (0.0, float(np.median(confidence)) + 0.003, 2.0):  # none, some of them not in full, and all
        probabilities, uncertainty = differences(replace(model, tta_below=below), pixels)
        assert probabilities < 1e-4
        assert uncertainty < 1e-3
    if views != "none":
        once, again = (replace(model, tta_below=below)._compute(pixels)[0] for below in (0.0, 2.0))
        assert np.abs(once - again).max() > 1e-3


@pytest.mark.parametrize("count", [0, 1, 2, 300])
def test_any_number_of_images(count):
    model = trained("tutorial", tta="shifts")
    probabilities, uncertainty = run(model)(images(model.spec, count))
    assert (probabilities.shape, uncertainty.shape) == ((count, 7), (count,))
    assert np.abs(probabilities - model._compute(images(model.spec, 300))[0][:count]).max(initial=0) < 1e-4


def test_the_graph_is_of_standard_operators_that_old_runtimes_know():
    model = trained("residual", channels=3)
    whole = classifier_model(model, network_model(model.network, model.spec, 7))
    assert [(entry.domain, entry.version) for entry in whole.opset_import] == [("", OPSET)]
    assert whole.ir_version == IR_VERSION
    assert {node.domain for node in whole.graph.node} == {""}


def test_weights_are_kept_once(model):
    whole = classifier_model(model, network_model(model.network, model.spec, 10))
    usual = (model.ood_score.whitening, model.ood_score.centres)
    inside = sum(tensor.nbytes for tensor in (*model.network.parameters(), *usual))
    assert inside < whole.ByteSize() < inside + 60_000
