from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from imprint.augment import VIEWS
from imprint.classifier import Classifier
from imprint.input_spec import InputSpec
from imprint.nets import NETS, build_net
from imprint.onnx_graph import IR_VERSION, OPSET, classifier_model, network_model
from imprint.recipes import RECIPES


def taught(net, channels=1, size=(28, 28), views="none", picture_size=None):
    """A network whose normalisations have seen pictures, as after training."""
    torch.manual_seed(0)
    built = build_net(net, channels, size, 7)
    for layer in built.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            for values in (layer.weight.data, layer.bias.data, layer.running_mean):
                values.normal_(0.0, 0.5)
            layer.running_var.uniform_(0.5, 2.0)
    spec = InputSpec(channels, picture_size or size, size)
    recipe = replace(RECIPES["quick"], net=net, views=views, mirror="yes")
    return Classifier(built, tuple("abcdefg"), spec, recipe, 0.5, unsure_below=0.7, views_below=2.0)


def run(model):
    whole = classifier_model(model, network_model(model.net, model.spec, 7))
    onnx.checker.check_model(whole, full_check=True)
    session = onnxruntime.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {"pixels": pixels})[0]


def pictures(model, count):
    shape = (count, model.spec.channels, *model.spec.picture_size)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("net", [*NETS, "quick+tutorial"])
def test_every_network_answers_as_before(net):
    model = taught(net, channels=3, size=(30, 36))
    pixels = pictures(model, 5)
    assert np.abs(run(model)(pixels) - model._probabilities(pixels)).max() < 1e-5


@pytest.mark.parametrize("views", ["none", *VIEWS])
@pytest.mark.parametrize(("picture_size", "channels"), [((28, 28), 1), ((8, 9), 1), ((70, 50), 3)])
def test_scaling_views_and_calibration_are_inside(views, picture_size, channels):
    model = taught("quick", channels, views=views, picture_size=picture_size)
    pixels = pictures(model, 9)
    confidence = replace(model, temperature=1.0, views_below=0.0)._probabilities(pixels).max(axis=1)
    for below in (0.0, float(np.median(confidence)) + 0.003, 2.0):  # none, some of them not in full, and all
        asked = replace(model, views_below=below)
        answer, expected = run(asked)(pixels), asked._probabilities(pixels)
        assert np.abs(answer - expected).max() < 1e-5
        assert np.abs(answer.sum(axis=1) - 1).max() < 1e-5
    if views != "none":
        assert np.abs(expected - replace(model, views_below=0.0)._probabilities(pixels)).max() > 1e-3


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_any_number_of_pictures(count):
    model = taught("tutorial", views="shifts")
    pixels = pictures(model, count)
    answer = run(model)(pixels)
    assert answer.shape == (count, 7)
    assert np.abs(answer - model._probabilities(pictures(model, 1000))[:count]).max(initial=0) < 1e-5


def test_the_graph_is_of_standard_operators_that_old_runtimes_know():
    model = taught("residual", channels=3)
    whole = classifier_model(model, network_model(model.net, model.spec, 7))
    assert [(entry.domain, entry.version) for entry in whole.opset_import] == [("", OPSET)]
    assert whole.ir_version == IR_VERSION
    assert {node.domain for node in whole.graph.node} == {""}


def test_weights_are_kept_once(model):
    whole = classifier_model(model, network_model(model.net, model.spec, 10))
    inside = sum(parameter.nbytes for parameter in model.net.parameters())
    assert inside < whole.ByteSize() < inside + 60_000
