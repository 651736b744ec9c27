"""The ONNX graph of a classifier: raw pixels in, calibrated probabilities out.

Our own layers are written one by one: `torch.onnx.export` took 2.8 s for the network of `quick` where this takes
0.04 s (docs/log/serving.md, "Serving"), and it cannot express test-time augmentation of some images of a batch. It
writes only networks with layers that are not in `LAYERS`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import onnx
import torch
from jaxtyping import Float32
from numpy import ndarray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from imprint.core.errors import ImprintError
from imprint.core.metrics import SMALLEST
from imprint.models.backbones import EfficientNetLite, InvertedResidual, SameConv
from imprint.models.classifier import Classifier
from imprint.models.inference import DETECTOR_WEIGHT, GRADUAL, LEAST, LEAST_DETECTED, NEAREST, TTA_VIEWS
from imprint.models.layers import ConvNet, Dense, Dropout, Ensemble, Flatten, GlobalPool, ReLU, Residual
from imprint.models.onnx.file import OPERATORS, PIXELS, PROBABILITIES, UNCERTAINTY
from imprint.models.ood import OOD_MEMBERS, logits_and_embeddings, ood_detector_classes
from imprint.preprocessing.input_spec import InputSpec, scaling_weights

OPSET, IR_VERSION = 18, 9  # of May 2023, which today's runtimes know; from 18 on, reductions take axes as an input
PREPARED, EMBEDDINGS = "prepared", "embeddings"  # input and second output of the network alone


def network_model(network: nn.Module, spec: InputSpec, classes: int) -> ModelProto:
    """Write a network in evaluation mode as a model: prepared images in, probabilities and OOD embeddings out.

    Raises `ImprintError` for a network that `torch.onnx.export` cannot write, or not with `OPERATORS` alone.
    """
    nodes, probabilities, embeddings = _Nodes(), list[str](), list[str]()
    for place, member in enumerate(_members(network)):
        kept = embeddings if place < OOD_MEMBERS else []
        if _is_known(member):
            logits = _write_layers(nodes, member.children(), PREPARED, kept)
            probabilities.append(nodes.add("Softmax", logits, axis=1))
        elif isinstance(member, EfficientNetLite):
            probabilities.append(nodes.add("Softmax", _write_lite(nodes, member, PREPARED, kept), axis=1))
        else:
            graph, outputs = _trace(member, spec), [PROBABILITIES, EMBEDDINGS]
            traced, penultimate = nodes.splice(f"member{place}", graph, PREPARED, outputs)
            probabilities.append(traced)
            kept.append(penultimate)
    nodes.add("Mean", *probabilities, output=PROBABILITIES)
    nodes.add("Concat", *embeddings, axis=1, output=EMBEDDINGS)
    prepared = helper.make_tensor_value_info(PREPARED, TensorProto.FLOAT, ["n", spec.channels, *spec.input_size])
    return _model(nodes, prepared, {PROBABILITIES: ["n", classes], EMBEDDINGS: ["n", None]})


def classifier_model(model: Classifier, network: ModelProto, plain: bool = False) -> ModelProto:
    """Put preparation before a network, and test-time augmentation, calibration and uncertainty behind it.

    In: uint8 (n, channels, height, width). Out: probabilities (n, classes) and uncertainty (n). A plain graph computes
    every view of every image, so that no shape depends on the values of pixels.
    """
    nodes, spec = _Nodes(), model.spec
    prepared = _prepare(nodes, spec)
    has_tta = model.recipe.tta != "none" and model.tta_below > 0
    if plain and has_tta:
        probabilities, embeddings = _run_with_tta(nodes, network.graph, model, prepared)
    else:
        probabilities, embeddings = nodes.splice("net", network.graph, prepared, [PROBABILITIES, EMBEDDINGS])
        if has_tta:
            probabilities = _apply_tta(nodes, network.graph, model, prepared, probabilities)
    logits = nodes.add("Log", nodes.add("Max", probabilities, nodes.weight(SMALLEST)))
    nodes.add("Softmax", nodes.add("Div", logits, nodes.weight(model.temperature)), axis=1, output=PROBABILITIES)
    _uncertainty(nodes, model, embeddings, prepared)
    pixels = helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, ["n", spec.channels, *spec.image_size])
    if plain and any(node.op_type == "NonZero" for node in nodes.nodes):
        raise _unwritable(model.network, "it needs the operator NonZero, whose shape depends on values: no plain file")
    return _model(nodes, pixels, {PROBABILITIES: ["n", len(model.class_names)], UNCERTAINTY: ["n"]})


class _Nodes:
    """A graph under construction; values are referred to by the names of the nodes that compute them."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: dict[str, TensorProto] = {}

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node; give its output's name."""
        output = output or f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def weight(self, values: Tensor | ndarray | float | list[int]) -> str:
        """Add constant values, as float32 unless they are whole numbers; give their name."""
        array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
        name = f"weight_{len(self.weights)}"
        self.weights[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def splice(self, name: str, network: GraphProto, source: str, outputs: list[str]) -> list[str]:
        """Add a whole network that works on `source`; spliced twice under one name, its weights are kept once."""
        prefix = f"{name}{len(self.nodes)}"
        renamed = {network.input[0].name: source, "": ""}
        for tensor in network.initializer:
            renamed[tensor.name] = f"{name}/{tensor.name}"
            self.weights[renamed[tensor.name]] = TensorProto()
            self.weights[renamed[tensor.name]].CopyFrom(tensor)
            self.weights[renamed[tensor.name]].name = renamed[tensor.name]
        for node in _needed(network, outputs):
            copy = NodeProto()
            copy.CopyFrom(node)
            for names in (copy.input, copy.output):
                names[:] = [renamed.setdefault(name, f"{prefix}/{name}") for name in names]
            copy.name = copy.output[0]
            self.nodes.append(copy)
        return [renamed[name] for name in outputs]


def _needed(network: GraphProto, outputs: list[str]) -> list[NodeProto]:
    """Leave out the nodes that these outputs do not depend on."""
    names, kept = set(outputs), list[NodeProto]()
    for node in reversed(network.node):
        if names.intersection(node.output):
            names.update(node.input)
            kept.append(node)
    return kept[::-1]


def _prepare(nodes: _Nodes, spec: InputSpec) -> str:
    """Scale and normalise, as `preprocessing.prepare` does."""
    pixels = nodes.add("Cast", PIXELS, to=TensorProto.FLOAT)
    if spec.image_size != spec.input_size:
        down, across = (scaling_weights(*sides) for sides in zip(spec.image_size, spec.input_size, strict=True))
        half = nodes.weight(0.5)
        wide = nodes.add("MatMul", pixels, nodes.weight(across))
        wide = nodes.add("Floor", nodes.add("Add", wide, half))
        pixels = nodes.add("MatMul", nodes.weight(down.T), wide)
        pixels = nodes.add("Floor", nodes.add("Add", pixels, half))
    prepared = nodes.add("Div", pixels, nodes.weight(255.0))
    if any(spec.mean) or any(deviation != 1 for deviation in spec.std):
        mean, deviation = (nodes.weight(np.reshape(values, (-1, 1, 1))) for values in (spec.mean, spec.std))
        prepared = nodes.add("Div", nodes.add("Sub", prepared, mean), deviation)
    return prepared


def _apply_tta(nodes: _Nodes, network: GraphProto, model: Classifier, prepared: str, found: str) -> str:
    """Average over the views of the images with low confidence, as `inference.apply_tta` does."""
    limit = nodes.weight(model.tta_below)
    confidence = nodes.add("ReduceMax", found, nodes.weight([1]), keepdims=1)
    chosen = nodes.add("Squeeze", nodes.add("Less", confidence, limit), nodes.weight([1]))
    rows = nodes.add("Transpose", nodes.add("NonZero", chosen), perm=[1, 0])
    before, confident = (nodes.add("GatherND", values, rows) for values in (found, confidence))
    views, count = _views(nodes, nodes.add("GatherND", prepared, rows), model)
    seen = _run_views(nodes, network, model, views)
    seen = nodes.add("Reshape", seen, nodes.weight([-1, count, len(model.class_names)]))
    total = nodes.add("Add", nodes.add("ReduceSum", seen, nodes.weight([1]), keepdims=0), before)
    change = nodes.add("Sub", nodes.add("Div", total, nodes.weight(count + 1.0)), before)
    share = nodes.add("Div", nodes.add("Sub", limit, confident), nodes.weight(GRADUAL))
    change = nodes.add("Mul", change, nodes.add("Min", share, nodes.weight(1.0)))
    return nodes.add("ScatterND", found, rows, nodes.add("Add", before, change))


def _run_with_tta(nodes: _Nodes, network: GraphProto, model: Classifier, prepared: str) -> tuple[str, str]:
    """Give the probabilities of `_apply_tta` and the embeddings from one batch of all images and all their views.

    An image's views count for nothing where its confidence is above the limit.
    """
    versions, count = _views(nodes, prepared, model, and_itself=True)
    outputs = nodes.splice("net", network, versions, [PROBABILITIES, EMBEDDINGS])
    widths = len(model.class_names), model.ood_score.centres.shape[1]
    seen, embedded = (
        nodes.add("Reshape", output, nodes.weight([-1, count, width]))
        for output, width in zip(outputs, widths, strict=True)
    )
    found, embeddings = (  # of the images themselves; OpenCV 4 would squeeze to the number of images that it reads with
        nodes.add("Reshape", nodes.add("Gather", output, nodes.weight([0]), axis=1), nodes.weight([-1, width]))
        for output, width in zip((seen, embedded), widths, strict=True)
    )
    change = nodes.add("Sub", nodes.add("ReduceMean", seen, nodes.weight([1]), keepdims=0), found)
    confidence = nodes.add("ReduceMax", found, nodes.weight([1]), keepdims=1)
    share = nodes.add("Div", nodes.add("Sub", nodes.weight(model.tta_below), confidence), nodes.weight(GRADUAL))
    share = nodes.add("Min", nodes.add("Max", share, nodes.weight(0.0)), nodes.weight(1.0))
    return nodes.add("Add", found, nodes.add("Mul", change, share)), embeddings


def _run_views(nodes: _Nodes, network: GraphProto, model: Classifier, views: str) -> str:
    """Give the probabilities of views, of which there may be none.

    A blank image joins those of a traced network: its Reshape to (0, groups, -1), of GroupNorm for one, fails where
    there is no image.
    """
    if all(map(_is_known, _members(model.network))):
        return nodes.splice("net", network, views, [PROBABILITIES])[0]
    blank = nodes.weight(np.zeros((1, model.spec.channels, *model.spec.input_size), dtype=np.float32))
    [seen] = nodes.splice("net", network, nodes.add("Concat", views, blank, axis=0), [PROBABILITIES])
    return nodes.add("Slice", seen, nodes.weight([0]), nodes.weight([-1]))


def _views(nodes: _Nodes, chosen: str, model: Classifier, and_itself: bool = False) -> tuple[str, int]:
    """Give the views of images, with each image before its own if asked, and how many each has.

    A view only moves pixels, so gather them from their places.
    """
    channels, (height, width) = model.spec.channels, model.spec.input_size
    places = torch.arange(height * width, dtype=torch.float32).view(1, 1, height, width)
    views = [places] * and_itself + TTA_VIEWS[model.recipe.tta](places)
    sources = torch.cat(views).flatten().to(torch.int32)
    flat = nodes.add("Reshape", chosen, nodes.weight([-1, channels, height * width]))
    moved = nodes.add("Gather", flat, nodes.weight(sources), axis=2)
    apart = nodes.add("Reshape", moved, nodes.weight([-1, channels, len(views), height * width]))
    turned = nodes.add("Transpose", apart, perm=[0, 2, 1, 3])
    return nodes.add("Reshape", turned, nodes.weight([-1, channels, height, width])), len(views)


def _uncertainty(nodes: _Nodes, model: Classifier, embeddings: str, prepared: str) -> None:
    """Join the Mahalanobis distance from the predicted class with confidence, as `inference.uncertainty_score` does."""
    centres, whitening = model.ood_score.centres, model.ood_score.whitening
    # Values of an image stay in rows of one column up to the end: OpenCV 4 takes a vector for a row or a column.
    one, predicted = nodes.weight([1]), nodes.add("ArgMax", PROBABILITIES, axis=1, keepdims=1)
    if whitening is None or len(whitening) == 1:
        one_hot = nodes.add("Equal", predicted, nodes.weight(list(range(len(centres)))))
        one_hot = nodes.add("Cast", one_hot, to=TensorProto.FLOAT)  # since OpenCV 4 gathers from no constant
        gap = nodes.add("Sub", embeddings, nodes.add("MatMul", one_hot, nodes.weight(centres)))
        if whitening is not None:
            white = nodes.add("MatMul", gap, nodes.weight(whitening[0]))
            distance = nodes.add("ReduceSum", nodes.add("Mul", white, white), one, keepdims=1)
        elif (precision := model.ood_score.precision) is not None:
            distance = nodes.add("MatMul", nodes.add("Mul", gap, gap), nodes.weight(precision[:, None]))
    else:  # from every class, since fetching a matrix for each image takes longer
        gaps = nodes.add("Sub", embeddings, nodes.weight(centres[:, None]))
        white = nodes.add("MatMul", gaps, nodes.weight(whitening))
        distances = nodes.add("ReduceSum", nodes.add("Mul", white, white), nodes.weight([2]), keepdims=0)
        distances = nodes.add("Transpose", distances, perm=[1, 0])
        distance = nodes.add("GatherElements", distances, predicted, axis=1)
    far = nodes.add("Log", nodes.add("Max", distance, nodes.weight(NEAREST)))
    if model.ood_score.decides_alone:
        nodes.add("Squeeze", far, one, output=UNCERTAINTY)
        return
    confidence = nodes.add("Max", nodes.add("ReduceMax", PROBABILITIES, one, keepdims=1), nodes.weight(LEAST))
    certainty = nodes.add("Log", confidence)
    if model.ood_detector is not None:
        certainty = nodes.add("Add", certainty, _detect(nodes, model, model.ood_detector, prepared, predicted))
    nodes.add("Squeeze", nodes.add("Sub", far, certainty), one, output=UNCERTAINTY)


def _detect(nodes: _Nodes, model: Classifier, ood_detector: nn.Module, prepared: str, predicted: str) -> str:
    """Give the weighted logarithm of the OOD detector's probability of the predicted class."""
    classes = ood_detector_classes(model.recipe, model.spec.image_size, len(model.class_names))
    network = network_model(ood_detector, model.spec, classes)
    [probabilities] = nodes.splice("ood_detector", network.graph, prepared, [PROBABILITIES])
    known = nodes.add("GatherElements", probabilities, predicted, axis=1)
    known = nodes.add("Max", known, nodes.weight(LEAST_DETECTED))
    return nodes.add("Mul", nodes.add("Log", known), nodes.weight(DETECTOR_WEIGHT))


def _members(network: nn.Module) -> Iterable[nn.Module]:
    return network.members if isinstance(network, Ensemble) else [network]


def _is_known(network: nn.Module) -> bool:
    return isinstance(network, ConvNet) and all(type(layer) in LAYERS for layer in network)


class _ProbabilitiesAndEmbeddings(nn.Module):
    """What a graph computes of a network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, prepared: Float32[Tensor, "n c h w"]
    ) -> tuple[Float32[Tensor, "n classes"], Float32[Tensor, "n features"]]:
        logits, embeddings = logits_and_embeddings(self.network, prepared)
        return logits.softmax(dim=1), embeddings


def _trace(network: nn.Module, spec: InputSpec) -> GraphProto:
    """Let torch write a network. Its older exporter, since the newer needs the package onnxscript."""
    outputs = [PROBABILITIES, EMBEDDINGS]
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        path = Path(folder) / "network.onnx"
        warnings.simplefilter("ignore")  # of the older exporter, and of sizes taken as constant: `export` compares
        try:
            torch.onnx.export(
                _ProbabilitiesAndEmbeddings(network).eval(),
                (torch.zeros(2, spec.channels, *spec.input_size),),
                path,
                dynamo=False,
                opset_version=OPSET,
                input_names=[PREPARED],
                output_names=outputs,
                dynamic_axes={name: {0: "n"} for name in (PREPARED, *outputs)},
            )
        except RuntimeError as error:  # the base of all that torch.onnx raises
            cause = " ".join(str(error).split())
            raise _unwritable(network, f"torch.onnx.export cannot write it ({cause[:200]})") from None
        graph = _fold_constants(onnx.load(path))
    forbidden = {node.op_type for node in graph.node if node.domain or node.op_type not in OPERATORS}
    if forbidden:
        raise _unwritable(network, f"it needs the operators {', '.join(sorted(forbidden))}, which no file may hold")
    return graph


def _fold_constants(model: ModelProto) -> GraphProto:
    """Compute the nodes that depend on no input, such as the 15 nodes by which torch writes the widths of a padding.

    OpenCV 4 takes them as constants only, and onnxruntime folds nothing in `OnnxClassifier`.
    """
    graph, kept = model.graph, list[NodeProto]()
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        inputs = {name: known.get(name) for name in node.input if name}
        if node.domain or node.op_type not in OPERATORS or any(value is None for value in inputs.values()):
            kept.append(node)
        else:
            values: Any = ReferenceEvaluator(node, opsets={"": OPSET}).run(None, inputs)
            known.update(zip(node.output, values, strict=True))
    used = [name for name in known if any(name in node.input for node in kept)]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(numpy_helper.from_array(known[name], name) for name in used)
    return graph


def _unwritable(network: nn.Module, cause: str) -> ImprintError:
    return ImprintError("network", type(network).__name__, cause, "Use the model file, or another network.")


def _write_layers(nodes: _Nodes, layers: Iterable[Any], source: str, embeddings: list[str]) -> str:
    """Write layers that follow each other; a normalisation is folded into the convolution before it.

    Each channel's mean behind each activation joins the embeddings, as in `ood.logits_and_embeddings`.
    """
    chain: list[Any] = []
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d) and chain and isinstance(chain[-1], nn.Conv2d):
            chain[-1] = fuse_conv_bn_eval(chain[-1], layer)
        else:
            chain.append(layer)
    flat = False
    for layer in chain:
        source = LAYERS[type(layer)](nodes, layer, source)
        flat = flat or isinstance(layer, Flatten | GlobalPool)
        if isinstance(layer, ReLU | Residual):
            embeddings.append(source if flat else nodes.add("Flatten", nodes.add("GlobalAveragePool", source)))
    return source


def _write_lite(nodes: _Nodes, network: EfficientNetLite, source: str, embeddings: list[str]) -> str:
    """Write a pretrained network, in 0.01 s where `_trace` takes 2; gives its logits.

    The mean of maps over the image is that of the maps averaged down, as `forward_features` gives them.
    """

    def convolve(layer: SameConv, source: str, clipped: bool = True) -> str:
        left, right, top, bottom = layer.sides
        weights = [nodes.weight(values) for values in (layer.weight, layer.bias) if values is not None]
        convolved = nodes.add(
            "Conv", source, *weights, strides=layer.stride, group=layer.groups, pads=[top, left, bottom, right]
        )
        return nodes.add("Clip", convolved, nodes.weight(0.0), nodes.weight(6.0)) if clipped else convolved

    def mean(maps: str) -> str:
        return nodes.add("Flatten", nodes.add("GlobalAveragePool", maps))

    def level(part: str, width: int) -> str:  # as `ood.levelled` does
        roots = nodes.add("Pow", nodes.add("Abs", part), nodes.weight(1 / 3))
        length = nodes.add("ReduceL2", roots, nodes.weight([1]), keepdims=1)
        scale = nodes.add("Div", nodes.weight(math.sqrt(width)), nodes.add("Max", length, nodes.weight(1e-12)))
        return nodes.add("Mul", nodes.add("Mul", nodes.add("Sign", part), roots), scale)

    source, means = convolve(network.stem, source), []
    for place, block in enumerate(cast(Iterable[InvertedResidual], network.blocks)):
        expanded = convolve(block.expand, source) if isinstance(block.expand, SameConv) else source
        changed = convolve(block.project, convolve(block.depthwise, expanded), clipped=False)
        source = nodes.add("Add", source, changed) if block.adds else changed
        means += [mean(source)] if place in network.embedded else []
    means.append(mean(convolve(network.last, source)))
    embeddings += [level(part, width) for part, width in zip(means, network.embedded_widths, strict=True)]
    embedding = nodes.add("Concat", *means, axis=1)
    return nodes.add("Gemm", embedding, nodes.weight(network.head.weight), nodes.weight(network.head.bias))


def _convolution(nodes: _Nodes, layer: Any, source: str) -> str:
    weights = [nodes.weight(values) for values in (layer.weight, layer.bias) if values is not None]
    attributes = {"strides": layer.stride, "dilations": layer.dilation, "group": layer.groups}
    return nodes.add("Conv", source, *weights, pads=layer.padding * 2, **attributes)


def _pooling(nodes: _Nodes, layer: Any, source: str) -> str:
    return nodes.add("MaxPool", source, kernel_shape=[layer.kernel_size] * 2, strides=[layer.stride] * 2)


def _normalisation(nodes: _Nodes, layer: Any, source: str) -> str:
    values = (layer.weight, layer.bias, layer.running_mean, layer.running_var)
    return nodes.add("BatchNormalization", source, *map(nodes.weight, values), epsilon=layer.eps)


def _residual(nodes: _Nodes, layer: Any, source: str) -> str:
    first = (layer.conv2d, layer.batch_normalization, layer.relu)
    change = _write_layers(nodes, (*first, layer.conv2d_1, layer.batch_normalization_1), source, [])
    return nodes.add("Relu", nodes.add("Add", source, change))


def _global_pooling(nodes: _Nodes, layer: Any, source: str) -> str:
    pooled = (nodes.add("Flatten", nodes.add(kind, source)) for kind in ("GlobalAveragePool", "GlobalMaxPool"))
    return nodes.add("Concat", *pooled, axis=1)


LAYERS: dict[type[nn.Module], Callable[[_Nodes, Any, str], str]] = {
    nn.Conv2d: _convolution,
    nn.MaxPool2d: _pooling,
    nn.BatchNorm2d: _normalisation,
    Residual: _residual,
    GlobalPool: _global_pooling,
    ReLU: lambda nodes, layer, source: nodes.add("Relu", source),
    Dropout: lambda nodes, layer, source: source,
    Flatten: lambda nodes, layer, source: nodes.add("Flatten", source),
    Dense: lambda nodes, layer, source: nodes.add("Gemm", source, nodes.weight(layer.weight), nodes.weight(layer.bias)),
}


def _model(nodes: _Nodes, source: ValueInfoProto, shapes: Mapping[str, list[Any]]) -> ModelProto:
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(nodes.nodes, "imprint", [source], outputs, list(nodes.weights.values()))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
