"""The summary of a network, layer by layer, as Keras prints it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from imprint.models.layers import ConvNet, Dense, Dropout, Ensemble, Flatten, GlobalPool, Residual, members_of
from imprint.models.networks import build_networks
from imprint.recipes import COLOUR, Recipe

KERAS_TYPES: dict[type[nn.Module], str] = {
    nn.Conv2d: "Conv2D",
    nn.MaxPool2d: "MaxPooling2D",
    nn.BatchNorm2d: "BatchNormalization",
    Dropout: "Dropout",
    Flatten: "Flatten",
    Dense: "Dense",
    Residual: "Residual",
    GlobalPool: "GlobalPooling2D",
}  # ReLU is part of the layer before it, as in Keras's activation="relu"


@dataclass(frozen=True)
class Layer:
    """One line of a network's summary.

    Parameters
    ----------
    name : str
        Of the layer; of an ensemble after the member's number.
    type : str
        As Keras calls it, else the module's class.
    output_shape : tuple of int or None
        None for the number of images, then rows, columns and channels, or features; of a layer that was not called
        nothing else.
    parameters : int
        Numbers that it holds, running averages too.
    trainable : int
        Those that gradients change.

    Examples
    --------
    >>> Layer("conv2d", "Conv2D", (None, 24, 24, 30), 780, 780).parameters
    780
    """

    name: str
    type: str
    output_shape: tuple[int | None, ...]
    parameters: int
    trainable: int


@torch.no_grad()
def summarise(network: nn.Module, shape: tuple[int, int, int]) -> list[Layer]:
    """List the layers of a network, or of each member of an ensemble, for images of `shape` (channels, height, width).

    Of our own networks these are the layers that Keras would list, of any other its children.
    """
    was_training = network.training
    network.eval()
    images = torch.zeros(1, *shape, device=next(network.parameters()).device)
    layers = []
    for number, member in enumerate(members_of(network), start=1):
        listed = _chain(member, images) if isinstance(member, ConvNet) else _children(member, images)
        prefix = f"{number}/" if isinstance(network, Ensemble) else ""
        layers += [replace(layer, name=prefix + layer.name) for layer in listed]
    network.train(was_training)
    return layers


def summarise_recipe(recipe: Recipe) -> list[Layer]:
    """List the layers of a recipe's networks for ten classes of its usual images.

    Those are photos, digits of 28×28, or small colour images of 32×32.
    """
    side = recipe.largest_side or (32 if recipe in COLOUR.values() else 0)
    shape = (3, side, side) if side else (1, 28, 28)
    return summarise(build_networks(recipe.networks, shape[0], shape[1:], 10), shape)


def _chain(network: ConvNet, images: Tensor) -> list[Layer]:
    """List the layers of a chain by running it layer by layer."""
    layers, activations = [], images
    for name, layer in network.named_children():
        activations = layer(activations)
        if type(layer) in KERAS_TYPES:
            layers.append(_layer(name, KERAS_TYPES[type(layer)], activations, layer))
    return layers


def _children(network: nn.Module, images: Tensor) -> list[Layer]:
    """List the children of a network in the order they were first called, by hooks that are removed again.

    Of a child that is not called itself, such as a list of blocks, its own children are listed.
    """
    outputs: dict[str, Any] = {}
    children = dict(network.named_children())
    within = {
        name: {f"{name}.{inner}": one for inner, one in child.named_children()} for name, child in children.items()
    }
    hooks = [
        child.register_forward_hook(lambda module, given, output, name=name: outputs.__setitem__(name, output))
        for name, child in [*children.items(), *(pair for inner in within.values() for pair in inner.items())]
    ]
    try:
        logits = network(images)
    finally:
        for hook in hooks:
            hook.remove()
    for name in list(children):
        if name not in outputs and outputs.keys() & within[name].keys():
            del children[name]
            children |= within[name]
    called = [*(name for name in outputs if name in children), *(name for name in children if name not in outputs)]
    layers = [_layer(name, type(children[name]).__name__, outputs.get(name), children[name]) for name in called]
    own = _count(network.parameters(recurse=False))  # such as a class token
    if own:
        layers.append(Layer("(itself)", type(network).__name__, (None, *_shape(logits)), own, own))
    return layers


def _layer(name: str, kind: str, output: Any, layer: nn.Module) -> Layer:
    trainable = _count(layer.parameters())
    held = trainable + _count(buffer for buffer in layer.buffers() if buffer.is_floating_point())
    return Layer(name, kind, (None, *_shape(output)), held, trainable)


def _shape(output: Any) -> tuple[int, ...]:
    """Give the shape of an output, or of the first of several, without the images; channels last, as Keras does."""
    while isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        return ()
    return (*output.shape[2:], output.shape[1]) if output.ndim == 4 else tuple(output.shape[1:])


def _count(tensors: Iterable[Tensor]) -> int:
    return sum(math.prod(tensor.shape) for tensor in tensors)
