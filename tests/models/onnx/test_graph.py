from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from imprint.models.classifier import Classifier
from imprint.models.inference import VIEWS, predict_with_features
from imprint.models.layers import Dense
from imprint.models.networks import NETS, build_net
from imprint.models.onnx.graph import IR_VERSION, OPSET, classifier_model, network_model
from imprint.models.ood import Familiarity, guard_classes, learn_familiarity
from imprint.preprocessing.input_spec import InputSpec
from imprint.recipes import RECIPES


def taught(net, channels=1, size=(28, 28), views="none", picture_size=None, shapes=None):
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
    features = predict_with_features(built.eval(), pictures(spec, 50), spec)[1]
    usual = learn_familiarity(features, torch.arange(50) % 7, 7)
    usual = Familiarity(usual.centres, usual.whitening[:shapes])
    return Classifier(built, tuple("abcdefg"), spec, recipe, 0.5, usual, unsure_above=5.0, views_below=2.0)


def run(model):
    whole = classifier_model(model, network_model(model.net, model.spec, 7))
    onnx.checker.check_model(whole, full_check=True)
    session = onnxruntime.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {"pixels": pixels})


def pictures(spec, count):
    shape = (count, spec.channels, *spec.picture_size)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def differences(model, pixels):
    """The most by which probabilities and doubt differ from the model's own."""
    pairs = zip(run(model)(pixels), model._answers(pixels), strict=True)
    return [float(np.abs(found - expected).max()) for found, expected in pairs]


def test_a_guard_doubts_as_before():
    model = taught("tutorial", views="shifts")
    recipe = replace(model.recipe, guard="quick")
    guard = taught("quick").net
    guard.dense = Dense(64 * 9, guard_classes(recipe, (28, 28), 7))
    torch.nn.init.normal_(guard.dense.weight)
    torch.nn.init.zeros_(guard.dense.bias)
    guarded = replace(model, recipe=recipe, guard=guard)
    pixels = pictures(model.spec, 20)
    assert np.abs(guarded._answers(pixels)[1] - model._answers(pixels)[1]).max() > 0.5
    probabilities, doubt = differences(guarded, pixels)
    assert probabilities < 1e-5
    assert doubt < 1e-4


@pytest.mark.parametrize("shapes", [1, 7])
@pytest.mark.parametrize("net", [*NETS, "quick+tutorial+quick"])
def test_every_network_answers_as_before(net, shapes):
    model = taught(net, channels=3, size=(30, 36), shapes=shapes)
    assert len(model.familiarity.whitening) == (1 if net == "residual" else shapes)  # too large, one for each class
    probabilities, doubt = differences(model, pictures(model.spec, 5))
    assert probabilities < 1e-5
    assert doubt < 1e-3


@pytest.mark.parametrize("views", ["none", *VIEWS])
@pytest.mark.parametrize(("picture_size", "channels"), [((28, 28), 1), ((8, 9), 1), ((70, 50), 3)])
def test_scaling_views_and_calibration_are_inside(views, picture_size, channels):
    model = taught("quick", channels, views=views, picture_size=picture_size)
    pixels = pictures(model.spec, 9)
    confidence = replace(model, temperature=1.0, views_below=0.0)._answers(pixels)[0].max(axis=1)
    for below in (0.0, float(np.median(confidence)) + 0.003, 2.0):  # none, some of them not in full, and all
        probabilities, doubt = differences(replace(model, views_below=below), pixels)
        assert probabilities < 1e-4
        assert doubt < 1e-3
    if views != "none":
        once, again = (replace(model, views_below=below)._answers(pixels)[0] for below in (0.0, 2.0))
        assert np.abs(once - again).max() > 1e-3


@pytest.mark.parametrize("count", [0, 1, 2, 300])
def test_any_number_of_pictures(count):
    model = taught("tutorial", views="shifts")
    probabilities, doubt = run(model)(pictures(model.spec, count))
    assert (probabilities.shape, doubt.shape) == ((count, 7), (count,))
    assert np.abs(probabilities - model._answers(pictures(model.spec, 300))[0][:count]).max(initial=0) < 1e-4


def test_the_graph_is_of_standard_operators_that_old_runtimes_know():
    model = taught("residual", channels=3)
    whole = classifier_model(model, network_model(model.net, model.spec, 7))
    assert [(entry.domain, entry.version) for entry in whole.opset_import] == [("", OPSET)]
    assert whole.ir_version == IR_VERSION
    assert {node.domain for node in whole.graph.node} == {""}


def test_weights_are_kept_once(model):
    whole = classifier_model(model, network_model(model.net, model.spec, 10))
    usual = (model.familiarity.whitening, model.familiarity.centres)
    inside = sum(tensor.nbytes for tensor in (*model.net.parameters(), *usual))
    assert inside < whole.ByteSize() < inside + 60_000
