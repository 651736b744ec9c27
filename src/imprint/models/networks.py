"""The networks. Each is a flat `nn.Sequential` whose layers bear Keras's names, as `summary.py` lists them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from imprint.core.errors import DataError, UsageError
from imprint.models.layers import (
    ConvNet,
    Dense,
    Dropout,
    Ensemble,
    Flatten,
    GlobalPool,
    ReLU,
    Residual,
    glorot_uniform,
    he_normal,
)


def tutorial(channels: int, height: int, width: int, classes: int) -> ConvNet:
    """Build the lesson's network; 203,933 parameters for 28×28 grey images and 10 classes.

    ReLU stands behind the first pooling instead of before it: the larger of two numbers stays
    the larger, so the result is the same on a quarter of the numbers.

    Parameters
    ----------
    channels, height, width : int
        Form of the images; height and width of at least 10.
    classes : int
        Number of classes.

    Returns
    -------
    ConvNet
        Images (n, channels, height, width) to logits (n, classes), Keras's initial weights.

    Examples
    --------
    >>> sum(p.numel() for p in tutorial(1, 28, 28, 10).parameters())
    203933
    """
    features = 15 * ((height - 4) // 2 - 2) * ((width - 4) // 2 - 2)
    network = _named(
        nn.Conv2d(channels, 30, 5),
        nn.MaxPool2d(2),
        ReLU(),
        nn.Conv2d(30, 15, 3),
        ReLU(),
        Dropout(0.2),
        Flatten(),
        Dense(features, 128),
        ReLU(),
        Dense(128, 50),
        ReLU(),
        Dense(50, classes),
    )
    return glorot_uniform(network)


def quick(channels: int, height: int, width: int, classes: int) -> ConvNet:
    """Build a small convolutional network that halves the image at once and again after one more layer.

    Parameters
    ----------
    channels, height, width : int
        Form of the images; height and width of at least 20.
    classes : int
        Number of classes.

    Returns
    -------
    ConvNet
        Images (n, channels, height, width) to logits (n, classes).

    Examples
    --------
    >>> import torch
    >>> quick(1, 28, 28, 10)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    rows, columns = (((side - 3) // 2 - 2) // 2 - 2 for side in (height, width))
    network = _named(
        *_filters(channels, 32, 5, stride=2),
        *_filters(32, 48, 3, pool=True),
        *_filters(48, 64, 3),
        *_filters(64, 64, 3, padding=1),
        Flatten(),
        Dense(64 * rows * columns, classes),
    )
    return he_normal(network)


def deep(channels: int, height: int, width: int, classes: int) -> ConvNet:
    """Build `quick` with two more layers, three times its arithmetic.

    Parameters
    ----------
    channels, height, width : int
        Form of the images; height and width of at least 20.
    classes : int
        Number of classes.

    Returns
    -------
    ConvNet
        Images (n, channels, height, width) to logits (n, classes).

    Examples
    --------
    >>> import torch
    >>> deep(1, 28, 28, 10)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    rows, columns = (((side - 3) // 2 - 2) // 2 - 2 for side in (height, width))
    network = _named(
        *_filters(channels, 32, 5, stride=2),
        *_filters(32, 48, 3, padding=1),
        *_filters(48, 48, 3, pool=True),
        *_filters(48, 64, 3, padding=1),
        *_filters(64, 64, 3, padding=1),
        *_filters(64, 64, 3),
        Flatten(),
        Dense(64 * rows * columns, classes),
    )
    return he_normal(network)


def broad(channels: int, height: int, width: int, classes: int) -> ConvNet:
    """Build a network of 5×5 filters, the first at full resolution; it errs elsewhere than `deep`.

    Parameters
    ----------
    channels, height, width : int
        Form of the images; height and width of at least 16.
    classes : int
        Number of classes.

    Returns
    -------
    ConvNet
        Images (n, channels, height, width) to logits (n, classes).

    Examples
    --------
    >>> import torch
    >>> broad(1, 28, 28, 10)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    rows, columns = ((side - 4) // 2 // 2 - 2 for side in (height, width))
    network = _named(
        *_filters(channels, 24, 5, pool=True),
        *_filters(24, 48, 5, padding=2, pool=True),
        *_filters(48, 64, 5, padding=2),
        *_filters(64, 64, 3),
        Flatten(),
        Dense(64 * rows * columns, classes),
    )
    return he_normal(network)


def residual(channels: int, height: int, width: int, classes: int) -> ConvNet:
    """Build a small residual network for photos of any size.

    Parameters
    ----------
    channels, height, width : int
        Form of the images; height and width of at least 16. From 64 on the first layer halves them.
    classes : int
        Number of classes.

    Returns
    -------
    ConvNet
        Images (n, channels, height, width) to logits (n, classes).

    Examples
    --------
    >>> import torch
    >>> residual(3, 96, 128, 10)(torch.zeros(2, 3, 96, 128)).shape
    torch.Size([2, 10])
    """
    halved = min(height, width) >= 64
    network = _named(
        *_filters(channels, 32, 6 if halved else 3, stride=2 if halved else 1, padding=2 if halved else 1),
        *_filters(32, 64, 3, stride=2, padding=1),
        Residual(64),
        *_filters(64, 128, 3, stride=2, padding=1),
        Residual(128),
        *_filters(128, 256, 3, stride=2, padding=1),
        Residual(256),
        GlobalPool(),
        Dense(512, classes),
    )
    return he_normal(network)


def _filters(
    inputs: int, outputs: int, side: int, *, stride: int = 1, padding: int = 0, pool: bool = False
) -> Iterator[nn.Module]:
    """Give a convolution, the largest of four where wanted, batch normalisation and ReLU."""
    yield nn.Conv2d(inputs, outputs, side, stride, padding, bias=False)
    if pool:
        yield nn.MaxPool2d(2)
    yield nn.BatchNorm2d(outputs)
    yield ReLU()


def _named(*layers: nn.Module) -> ConvNet:
    """Chain layers under the names that Keras would give them: conv2d, conv2d_1, conv2d_2 and so on."""
    counts: Counter[str] = Counter()
    network = ConvNet()
    for layer in layers:
        kind = KERAS_NAMES[type(layer)]
        network.add_module(f"{kind}_{counts[kind]}" if counts[kind] else kind, layer)
        counts[kind] += 1
    return network


KERAS_NAMES: dict[type[nn.Module], str] = {
    nn.Conv2d: "conv2d",
    nn.MaxPool2d: "max_pooling2d",
    nn.BatchNorm2d: "batch_normalization",
    ReLU: "relu",
    Dropout: "dropout",
    Flatten: "flatten",
    Dense: "dense",
    Residual: "residual",
    GlobalPool: "global_pooling",
}


@dataclass(frozen=True)
class NetworkKind:
    """How a network is built for images of any form, and what it expects of them.

    `build` takes channels, height, width and classes. `mean` and `std`, one number a channel or one for all, are what
    pixels from 0 to 1 are normalised by.
    """

    build: Callable[[int, int, int, int], nn.Module]
    smallest_side: int = 1
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


NETWORKS = {
    "tutorial": NetworkKind(tutorial, 10),
    "quick": NetworkKind(quick, 20),
    "deep": NetworkKind(deep, 20),
    "broad": NetworkKind(broad, 16),
    "residual": NetworkKind(residual, 16),
}

USUAL_SIDE = 28  # MNIST's; images too small for a network are enlarged to it


def network_kind(name: str) -> NetworkKind:
    """Find a network by name; raises `UsageError` where there is none."""
    if name not in NETWORKS:
        remedy = f"Use {', '.join(NETWORKS)}, or imprint.register_network."
        raise UsageError(f"network {name!r}", "networks", "there is no such network", remedy)
    return NETWORKS[name]


def smallest_side(names: Sequence[str]) -> int:
    """Tell the least height and width in pixels that all of these networks take."""
    return max(network_kind(name).smallest_side for name in names)


def input_size(names: Sequence[str], image_size: tuple[int, int], largest: int = 0) -> tuple[int, int]:
    """Tell the size at which networks take images: theirs, unless they are too small or too large for it.

    Small images are enlarged in proportion until their shorter side has 28 pixels, large ones scaled down until it has
    `largest` (0 for no limit).
    """
    shorter = min(image_size)
    too_large = 0 < largest < shorter
    if shorter >= smallest_side(names) and not too_large:
        return image_size
    target = max(largest, smallest_side(names)) if too_large else max(USUAL_SIDE, smallest_side(names))
    height, width = (round(side * target / shorter) for side in image_size)
    if max(height, width) > 16 * max(USUAL_SIDE, target):
        raise DataError(
            f"images of {image_size[1]}×{image_size[0]}",
            f"network {'+'.join(names)}",
            "they are too long and thin",
            "Crop or pad them nearer to squares.",
        )
    return height, width


def build_network(name: str, channels: int, size: tuple[int, int], classes: int) -> nn.Module:
    """Build a network with freshly drawn weights for images of `size` (height, width)."""
    return network_kind(name).build(channels, *size, classes)


def build_networks(names: Sequence[str], channels: int, size: tuple[int, int], classes: int) -> nn.Module:
    """Build one network, or an ensemble of several, as `build_network` does."""
    return combine([build_network(name, channels, size, classes) for name in names])


def combine(networks: Sequence[nn.Module]) -> nn.Module:
    """Make one network of several: an ensemble, or the only one itself."""
    return networks[0] if len(networks) == 1 else Ensemble(list(networks))
