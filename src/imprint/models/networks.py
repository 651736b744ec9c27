"""The networks. Each is a flat `nn.Sequential` whose layers bear Keras's names, as `summary.py` lists them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import nn

from imprint.core.errors import DataError
from imprint.models.layers import (
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


def tutorial(channels: int, height: int, width: int, classes: int) -> nn.Sequential:
    """Build the lesson's network; 203,933 parameters for 28×28 grey pictures and 10 classes.

    ReLU stands behind the first pooling instead of before it: the larger of two numbers stays
    the larger, so the result is the same on a quarter of the numbers.

    Parameters
    ----------
    channels, height, width : int
        Form of the pictures; height and width of at least 10.
    classes : int
        Number of classes.

    Returns
    -------
    nn.Sequential
        Pictures (n, channels, height, width) to logits (n, classes), Keras's initial weights.

    Examples
    --------
    >>> sum(p.numel() for p in tutorial(1, 28, 28, 10).parameters())
    203933
    """
    features = 15 * ((height - 4) // 2 - 2) * ((width - 4) // 2 - 2)
    net = _named(
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
    return glorot_uniform(net)


def quick(channels: int, height: int, width: int, classes: int) -> nn.Sequential:
    """Build a small convolutional network that halves the picture at once and again after one more layer.

    Parameters
    ----------
    channels, height, width : int
        Form of the pictures; height and width of at least 20.
    classes : int
        Number of classes.

    Returns
    -------
    nn.Sequential
        Pictures (n, channels, height, width) to logits (n, classes).

    Examples
    --------
    >>> import torch
    >>> quick(1, 28, 28, 10)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    rows, columns = (((side - 3) // 2 - 2) // 2 - 2 for side in (height, width))
    net = _named(
        *_filters(channels, 32, 5, stride=2),
        *_filters(32, 48, 3, pool=True),
        *_filters(48, 64, 3),
        *_filters(64, 64, 3, padding=1),
        Flatten(),
        Dense(64 * rows * columns, classes),
    )
    return he_normal(net)


def deep(channels: int, height: int, width: int, classes: int) -> nn.Sequential:
    """Build `quick` with two more layers, three times its arithmetic.

    Parameters
    ----------
    channels, height, width : int
        Form of the pictures; height and width of at least 20.
    classes : int
        Number of classes.

    Returns
    -------
    nn.Sequential
        Pictures (n, channels, height, width) to logits (n, classes).

    Examples
    --------
    >>> import torch
    >>> deep(1, 28, 28, 10)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    rows, columns = (((side - 3) // 2 - 2) // 2 - 2 for side in (height, width))
    net = _named(
        *_filters(channels, 32, 5, stride=2),
        *_filters(32, 48, 3, padding=1),
        *_filters(48, 48, 3, pool=True),
        *_filters(48, 64, 3, padding=1),
        *_filters(64, 64, 3, padding=1),
        *_filters(64, 64, 3),
        Flatten(),
        Dense(64 * rows * columns, classes),
    )
    return he_normal(net)


def broad(channels: int, height: int, width: int, classes: int) -> nn.Sequential:
    """Build a network of 5×5 filters, the first at full resolution; it errs elsewhere than `deep`.

    Parameters
    ----------
    channels, height, width : int
        Form of the pictures; height and width of at least 16.
    classes : int
        Number of classes.

    Returns
    -------
    nn.Sequential
        Pictures (n, channels, height, width) to logits (n, classes).

    Examples
    --------
    >>> import torch
    >>> broad(1, 28, 28, 10)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    rows, columns = ((side - 4) // 2 // 2 - 2 for side in (height, width))
    net = _named(
        *_filters(channels, 24, 5, pool=True),
        *_filters(24, 48, 5, padding=2, pool=True),
        *_filters(48, 64, 5, padding=2),
        *_filters(64, 64, 3),
        Flatten(),
        Dense(64 * rows * columns, classes),
    )
    return he_normal(net)


def residual(channels: int, height: int, width: int, classes: int) -> nn.Sequential:
    """Build a small residual network for photos of any size.

    Parameters
    ----------
    channels, height, width : int
        Form of the pictures; height and width of at least 16. From 64 on the first layer halves them.
    classes : int
        Number of classes.

    Returns
    -------
    nn.Sequential
        Pictures (n, channels, height, width) to logits (n, classes).

    Examples
    --------
    >>> import torch
    >>> residual(3, 96, 128, 10)(torch.zeros(2, 3, 96, 128)).shape
    torch.Size([2, 10])
    """
    halved = min(height, width) >= 64
    net = _named(
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
    return he_normal(net)


def _filters(
    inputs: int, outputs: int, side: int, *, stride: int = 1, padding: int = 0, pool: bool = False
) -> Iterator[nn.Module]:
    """Give a convolution, the largest of four where wanted, batch normalisation and ReLU."""
    yield nn.Conv2d(inputs, outputs, side, stride, padding, bias=False)
    if pool:
        yield nn.MaxPool2d(2)
    yield nn.BatchNorm2d(outputs)
    yield ReLU()


def _named(*layers: nn.Module) -> nn.Sequential:
    """Chain layers under the names that Keras would give them: conv2d, conv2d_1, conv2d_2 and so on."""
    counts: Counter[str] = Counter()
    net = nn.Sequential()
    for layer in layers:
        kind = KERAS_NAMES[type(layer)]
        net.add_module(f"{kind}_{counts[kind]}" if counts[kind] else kind, layer)
        counts[kind] += 1
    return net


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
class NetKind:
    """A network that can be built for pictures of any form.

    Parameters
    ----------
    build : callable
        From channels, height, width and number of classes to the network.
    smallest_side : int
        The least height and width that it takes, in pixels.

    Examples
    --------
    >>> NETS["tutorial"].smallest_side
    10
    """

    build: Callable[[int, int, int, int], nn.Sequential]
    smallest_side: int


NETS = {
    "tutorial": NetKind(tutorial, 10),
    "quick": NetKind(quick, 20),
    "deep": NetKind(deep, 20),
    "broad": NetKind(broad, 16),
    "residual": NetKind(residual, 16),
}

USUAL_SIDE = 28  # MNIST's; pictures too small for a network are enlarged to it


def smallest_side(net: str) -> int:
    """Tell the least height and width that a network takes.

    Parameters
    ----------
    net : str
        One of `NETS`, or several joined by +.

    Returns
    -------
    int
        In pixels.

    Examples
    --------
    >>> smallest_side("tutorial+quick")
    20
    """
    return max(NETS[kind].smallest_side for kind in net.split("+"))


def input_size(net: str, picture_size: tuple[int, int], largest: int = 0) -> tuple[int, int]:
    """Tell the size at which a network takes pictures: theirs, unless they are too small or too large for it.

    Parameters
    ----------
    net : str
        One of `NETS`, or several joined by +.
    picture_size : tuple of int
        Height and width in pixels.
    largest : int, default=0
        Larger pictures are scaled down; 0 for no limit.

    Returns
    -------
    tuple of int
        Height and width in pixels. Small pictures are enlarged in proportion until their
        shorter side has 28, large ones scaled down until it has `largest`.

    Examples
    --------
    >>> input_size("tutorial", (8, 8)), input_size("tutorial", (28, 28)), input_size("residual", (300, 400), 96)
    ((28, 28), (28, 28), (96, 128))
    """
    shorter = min(picture_size)
    too_large = 0 < largest < shorter
    if shorter >= smallest_side(net) and not too_large:
        return picture_size
    target = max(largest, smallest_side(net)) if too_large else USUAL_SIDE
    height, width = (round(side * target / shorter) for side in picture_size)
    if max(height, width) > 16 * USUAL_SIDE:
        raise DataError(
            f"pictures of {picture_size[1]}×{picture_size[0]}",
            f"network {net}",
            "they are too long and thin",
            "Crop or pad them nearer to squares.",
        )
    return height, width


def build_net(net: str, channels: int, size: tuple[int, int], classes: int) -> nn.Module:
    """Build a network by name.

    Parameters
    ----------
    net : str
        One of `NETS`, or several joined by + for an ensemble of them.
    channels : int
        Of the pictures.
    size : tuple of int
        Height and width in pixels, as `input_size` gives them.
    classes : int
        Number of classes.

    Returns
    -------
    nn.Module
        Freshly drawn weights.

    Examples
    --------
    >>> [type(build_net(net, 1, (28, 28), 10)).__name__ for net in ("quick", "quick+quick")]
    ['Sequential', 'Ensemble']
    """
    built: list[nn.Module] = [NETS[kind].build(channels, *size, classes) for kind in net.split("+")]
    return built[0] if len(built) == 1 else Ensemble(built)
