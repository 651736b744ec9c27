"""The ONNX graph of a classifier: raw pixels in, calibrated probabilities out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from imprint.core.metrics import SMALLEST
from imprint.models.classifier import Classifier
from imprint.models.inference import DETECTOR_WEIGHT, GRADUAL, LEAST, LEAST_DETECTED, NEAREST, TTA_VIEWS
from imprint.models.layers import Dense, Dropout, Ensemble, Flatten, GlobalPool, ReLU, Residual
from imprint.models.onnx.file import PIXELS, PROBABILITIES, UNCERTAINTY
from imprint.models.ood import OOD_MEMBERS, ood_detector_classes
from imprint.preprocessing.input_spec import InputSpec, scaling_weights

OPSET, IR_VERSION = 18, 9  # of May 2023: old enough for today's runtimes; with 18, sums take axes as every other
PREPARED, FEATURES = "prepared", "features"  # what goes in and out of the network inside


def network_model(network: nn.Module, spec: InputSpec, classes: int) -> ModelProto:
    """Write a network down: prepared images in, probabilities and features out.

    Parameters
    ----------
    net : nn.Module
        From `nets.build_network`, in evaluation mode.
    spec : InputSpec
        Its input contract.
    classes : int
        How many it tells apart.

    Returns
    -------
    ModelProto
        Any number of images at a time.

    Examples
    --------
    >>> from imprint.models.networks import build_network
    >>> model = network_model(build_network("quick", 1, (28, 28), 10).eval(), InputSpec(1, (8, 8), (28, 28)), 10)
    >>> [node.op_type for node in model.graph.node][:3]
    ['Conv', 'Relu', 'GlobalAveragePool']
    """
    nodes, shares, features = _Nodes(), list[str](), list[str]()
    for place, member in enumerate(network.members if isinstance(network, Ensemble) else [network]):
        noted = features if place < OOD_MEMBERS else []
        shares.append(nodes.add("Softmax", _chain(nodes, member.children(), PREPARED, noted), axis=1))
    nodes.add("Mean", *shares, output=PROBABILITIES)
    nodes.add("Concat", *features, axis=1, output=FEATURES)
    prepared = helper.make_tensor_value_info(PREPARED, TensorProto.FLOAT, ["n", spec.channels, *spec.input_size])
    return _model(nodes, prepared, {PROBABILITIES: ["n", classes], FEATURES: ["n", None]})


def classifier_model(model: Classifier, network: ModelProto) -> ModelProto:
    """Put preparation before a network, and views and calibration behind it.

    Parameters
    ----------
    model : Classifier
        Whose network it is.
    network : ModelProto
        From `network_model`, quantised or not.

    Returns
    -------
    ModelProto
        Images as uint8 (n, channels, height, width) in, probabilities (n, classes) and doubt (n) out.

    Examples
    --------
    >>> from imprint import load, train
    >>> model = train(load("digits"), recipe="quick", epochs=1, min_steps=1, verbose=False).model
    >>> whole = classifier_model(model, network_model(model.network, model.spec, 10))
    >>> [value.name for value in (*whole.graph.input, *whole.graph.output)]
    ['pixels', 'probabilities', 'doubt']
    """
    nodes, spec = _Nodes(), model.spec
    prepared = _prepare(nodes, spec)
    found, features = nodes.splice("net", network.graph, prepared, [PROBABILITIES, FEATURES])
    if model.recipe.tta != "none":
        found = _test_time_augment(nodes, network.graph, model, prepared, found)
    logits = nodes.add("Log", nodes.add("Max", found, nodes.weight(SMALLEST)))
    nodes.add("Softmax", nodes.add("Div", logits, nodes.weight(model.temperature)), axis=1, output=PROBABILITIES)
    _uncertainty(nodes, model, features, prepared)
    pixels = helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, ["n", spec.channels, *spec.image_size])
    return _model(nodes, pixels, {PROBABILITIES: ["n", len(model.class_names)], UNCERTAINTY: ["n"]})


class _Nodes:
    """A graph in the making: each operation names what it gives."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: dict[str, TensorProto] = {}

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Let an operator work on what others gave; give its output's name."""
        output = output or f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def weight(self, values: Tensor | ndarray | float | list[int]) -> str:
        """Keep numbers, as float32 unless they are whole; give their name."""
        array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
        name = f"weight_{len(self.weights)}"
        self.weights[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def splice(self, name: str, network: GraphProto, given: str, wanted: list[str]) -> list[str]:
        """Let a whole network work on what another operator gave; its weights are kept once, under its name."""
        place = f"{name}{len(self.nodes)}"
        known = {network.input[0].name: given, "": ""}
        for tensor in network.initializer:
            known[tensor.name] = f"{name}/{tensor.name}"
            self.weights[known[tensor.name]] = TensorProto()
            self.weights[known[tensor.name]].CopyFrom(tensor)
            self.weights[known[tensor.name]].name = known[tensor.name]
        for node in _needed(network, wanted):
            copy = NodeProto()
            copy.CopyFrom(node)
            for names in (copy.input, copy.output):
                names[:] = [known.setdefault(name, f"{place}/{name}") for name in names]
            copy.name = copy.output[0]
            self.nodes.append(copy)
        return [known[name] for name in wanted]


def _needed(network: GraphProto, wanted: list[str]) -> list[NodeProto]:
    """Leave out the operations that the wanted outputs do not come of."""
    names, kept = set(wanted), list[NodeProto]()
    for node in reversed(network.node):
        if names.intersection(node.output):
            names.update(node.input)
            kept.append(node)
    return kept[::-1]


def _prepare(nodes: _Nodes, spec: InputSpec) -> str:
    """Scale and normalise, as `preparation.prepare` does."""
    pixels = nodes.add("Cast", PIXELS, to=TensorProto.FLOAT)
    if spec.image_size != spec.input_size:
        down, across = (scaling_weights(*sides) for sides in zip(spec.image_size, spec.input_size, strict=True))
        half = nodes.weight(0.5)
        wide = nodes.add("MatMul", pixels, nodes.weight(across))
        wide = nodes.add("Floor", nodes.add("Add", wide, half))
        pixels = nodes.add("MatMul", nodes.weight(down.T), wide)
        pixels = nodes.add("Floor", nodes.add("Add", pixels, half))
    return nodes.add("Div", pixels, nodes.weight(255.0), output=PREPARED)


def _test_time_augment(nodes: _Nodes, network: GraphProto, model: Classifier, prepared: str, found: str) -> str:
    """Average other views where the network hesitates, as `predict.test_time_augment` does."""
    limit = nodes.weight(model.tta_below)
    confidence = nodes.add("ReduceMax", found, nodes.weight([1]), keepdims=1)
    hesitant = nodes.add("Squeeze", nodes.add("Less", confidence, limit), nodes.weight([1]))
    rows = nodes.add("Transpose", nodes.add("NonZero", hesitant), perm=[1, 0])
    before, sure = (nodes.add("GatherND", values, rows) for values in (found, confidence))
    views, count = _views(nodes, nodes.add("GatherND", prepared, rows), model)
    [seen] = nodes.splice("net", network, views, [PROBABILITIES])
    seen = nodes.add("Reshape", seen, nodes.weight([-1, count, len(model.class_names)]))
    total = nodes.add("Add", nodes.add("ReduceSum", seen, nodes.weight([1]), keepdims=0), before)
    change = nodes.add("Sub", nodes.add("Div", total, nodes.weight(count + 1.0)), before)
    share = nodes.add("Div", nodes.add("Sub", limit, sure), nodes.weight(GRADUAL))
    change = nodes.add("Mul", change, nodes.add("Min", share, nodes.weight(1.0)))
    return nodes.add("ScatterND", found, rows, nodes.add("Add", before, change))


def _views(nodes: _Nodes, chosen: str, model: Classifier) -> tuple[str, int]:
    """Give the other views of images, and how many each has: each view only moves pixels, so say from where."""
    channels, (height, width) = model.spec.channels, model.spec.input_size
    places = torch.arange(height * width, dtype=torch.float32).view(1, 1, height, width)
    views = TTA_VIEWS[model.recipe.tta](places)
    sources = torch.cat(views).flatten().to(torch.int32)
    flat = nodes.add("Reshape", chosen, nodes.weight([-1, channels, height * width]))
    moved = nodes.add("Gather", flat, nodes.weight(sources), axis=2)
    apart = nodes.add("Reshape", moved, nodes.weight([-1, channels, len(views), height * width]))
    turned = nodes.add("Transpose", apart, perm=[0, 2, 1, 3])
    return nodes.add("Reshape", turned, nodes.weight([-1, channels, height, width])), len(views)


def _uncertainty(nodes: _Nodes, model: Classifier, features: str, prepared: str) -> None:
    """Measure how far features lie from their class, and join that with confidence, as `predict.doubts` does."""
    centres, whitening = model.ood_score.centres, model.ood_score.whitening
    one, predicted = nodes.weight([1]), nodes.add("ArgMax", PROBABILITIES, axis=1, keepdims=0)
    if len(whitening) == 1:
        gap = nodes.add("Sub", features, nodes.add("Gather", nodes.weight(centres), predicted))
        white = nodes.add("MatMul", gap, nodes.weight(whitening[0]))
        distance = nodes.add("ReduceSum", nodes.add("Mul", white, white), one, keepdims=0)
    else:  # from every class, since fetching a matrix for each image takes longer
        gaps = nodes.add("Sub", features, nodes.weight(centres[:, None]))
        white = nodes.add("MatMul", gaps, nodes.weight(whitening))
        distances = nodes.add("ReduceSum", nodes.add("Mul", white, white), nodes.weight([2]), keepdims=0)
        distances = nodes.add("Transpose", distances, perm=[1, 0])
        distance = nodes.add("GatherElements", distances, nodes.add("Unsqueeze", predicted, one), axis=1)
        distance = nodes.add("Squeeze", distance, one)
    far = nodes.add("Log", nodes.add("Max", distance, nodes.weight(NEAREST)))
    confidence = nodes.add("Max", nodes.add("ReduceMax", PROBABILITIES, one, keepdims=0), nodes.weight(LEAST))
    known = nodes.add("Log", confidence)
    if model.ood_detector is not None:
        known = nodes.add("Add", known, _detected(nodes, model, model.ood_detector, prepared))
    nodes.add("Sub", far, known, output=UNCERTAINTY)


def _detected(nodes: _Nodes, model: Classifier, ood_detector: nn.Module, prepared: str) -> str:
    """Ask the guard about the predicted classes, as `predict.recognised` does, and weigh its logarithm."""
    told_apart = ood_detector_classes(model.recipe, model.spec.image_size, len(model.class_names))
    network = network_model(ood_detector, model.spec, told_apart)
    [found] = nodes.splice("ood_detector", network.graph, prepared, [PROBABILITIES])
    predicted = nodes.add("ArgMax", PROBABILITIES, axis=1, keepdims=1)
    known = nodes.add("Squeeze", nodes.add("GatherElements", found, predicted, axis=1), nodes.weight([1]))
    known = nodes.add("Max", known, nodes.weight(LEAST_DETECTED))
    return nodes.add("Mul", nodes.add("Log", known), nodes.weight(DETECTOR_WEIGHT))


def _chain(nodes: _Nodes, layers: Iterable[Any], given: str, features: list[str]) -> str:
    """Write layers down that follow each other; a convolution takes the normalisation behind it into its weights.

    Behind each activation, the mean of each channel is noted as a feature, as `familiarity.logits_and_embeddings` does.
    """
    chain: list[Any] = []
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d) and chain and isinstance(chain[-1], nn.Conv2d):
            chain[-1] = fuse_conv_bn_eval(chain[-1], layer)
        else:
            chain.append(layer)
    flat = False
    for layer in chain:
        given = LAYERS[type(layer)](nodes, layer, given)
        flat = flat or isinstance(layer, Flatten | GlobalPool)
        if isinstance(layer, ReLU | Residual):
            features.append(given if flat else nodes.add("Flatten", nodes.add("GlobalAveragePool", given)))
    return given


def _convolution(nodes: _Nodes, layer: Any, given: str) -> str:
    weights = [nodes.weight(values) for values in (layer.weight, layer.bias) if values is not None]
    form = {"strides": layer.stride, "dilations": layer.dilation, "group": layer.groups}
    return nodes.add("Conv", given, *weights, pads=layer.padding * 2, **form)


def _pooling(nodes: _Nodes, layer: Any, given: str) -> str:
    return nodes.add("MaxPool", given, kernel_shape=[layer.kernel_size] * 2, strides=[layer.stride] * 2)


def _normalisation(nodes: _Nodes, layer: Any, given: str) -> str:
    values = (layer.weight, layer.bias, layer.running_mean, layer.running_var)
    return nodes.add("BatchNormalization", given, *map(nodes.weight, values), epsilon=layer.eps)


def _residual(nodes: _Nodes, layer: Any, given: str) -> str:
    first = (layer.conv2d, layer.batch_normalization, layer.relu)
    change = _chain(nodes, (*first, layer.conv2d_1, layer.batch_normalization_1), given, [])
    return nodes.add("Relu", nodes.add("Add", given, change))


def _global_pooling(nodes: _Nodes, layer: Any, given: str) -> str:
    pooled = (nodes.add("Flatten", nodes.add(kind, given)) for kind in ("GlobalAveragePool", "GlobalMaxPool"))
    return nodes.add("Concat", *pooled, axis=1)


LAYERS: dict[type[nn.Module], Callable[[_Nodes, Any, str], str]] = {
    nn.Conv2d: _convolution,
    nn.MaxPool2d: _pooling,
    nn.BatchNorm2d: _normalisation,
    Residual: _residual,
    GlobalPool: _global_pooling,
    ReLU: lambda nodes, layer, given: nodes.add("Relu", given),
    Dropout: lambda nodes, layer, given: given,
    Flatten: lambda nodes, layer, given: nodes.add("Flatten", given),
    Dense: lambda nodes, layer, given: nodes.add("Gemm", given, nodes.weight(layer.weight), nodes.weight(layer.bias)),
}


def _model(nodes: _Nodes, given: ValueInfoProto, found: Mapping[str, list[Any]]) -> ModelProto:
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in found.items()]
    graph = helper.make_graph(nodes.nodes, "imprint", [given], outputs, list(nodes.weights.values()))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
