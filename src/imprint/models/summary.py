"""The summary of a network, layer by layer, as Keras prints it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from imprint.models.layers import Dense, Dropout, Ensemble, Flatten, GlobalPool, Residual

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
    name, type : str
        As Keras calls them.
    output_shape : tuple
        None for the number of images, then rows, columns and channels, or features.
    parameters : int
        Numbers that the layer holds.
    trainable : int
        Those of them that training changes by gradient.

    Examples
    --------
    >>> from imprint.models.networks import tutorial
    >>> summarise(tutorial(1, 28, 28, 10), (1, 28, 28))[0]
    Layer(name='conv2d', type='Conv2D', output_shape=(None, 24, 24, 30), parameters=780, trainable=780)
    """

    name: str
    type: str
    output_shape: tuple[int | None, ...]
    parameters: int
    trainable: int


def summarise(network: nn.Module, shape: tuple[int, int, int]) -> list[Layer]:
    """List the layers of a network.

    Parameters
    ----------
    net : nn.Module
        A chain of layers, or an ensemble of chains.
    shape : tuple of int
        Channels, height and width of its input.

    Returns
    -------
    list of Layer
        One for each layer that Keras would list.

    Examples
    --------
    >>> from imprint.models.networks import tutorial
    >>> [layer.parameters for layer in summarise(tutorial(1, 28, 28, 10), (1, 28, 28))]
    [780, 0, 4065, 0, 0, 192128, 6450, 510]
    """
    was_training = network.training
    network.eval()
    if isinstance(network, Ensemble):
        layers = [
            replace(layer, name=f"{number}/{layer.name}")
            for number, member in enumerate(network.members, start=1)
            for layer in _chain(member, shape)
        ]
    else:
        layers = _chain(network, shape)
    network.train(was_training)
    return layers


@torch.no_grad()
def _chain(network: nn.Module, shape: tuple[int, int, int]) -> list[Layer]:
    """List a chain's layers by sending one blank image through."""
    layers = []
    activations = torch.zeros(1, *shape, device=next(network.parameters()).device)
    for name, layer in network.named_children():
        activations = layer(activations)
        if type(layer) in KERAS_TYPES:
            # Keras writes channels last.
            output_shape = (None, *activations.shape[2:], activations.shape[1])
            trainable = _count(layer.parameters())
            held = trainable + _count(b for b in layer.buffers() if b.is_floating_point())
            layers.append(Layer(name, KERAS_TYPES[type(layer)], output_shape, held, trainable))
    return layers


def _count(tensors: Iterable[Tensor]) -> int:
    return sum(math.prod(tensor.shape) for tensor in tensors)
