"""The networks by name: our own, flat chains whose layers have Keras's names, and those that a program registers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise
from typing import Any, cast

import torch
from torch import nn

from imprint.core.errors import DataError, UsageError, did_you_mean
from imprint.models.backbones import MEAN, SMALLEST_SIDE, SOURCES, STD, EfficientNetLite
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
from imprint.preprocessing.input_spec import PLAIN_MEAN, PLAIN_STD, InputSpec, check_normalisation

# What everything after training asks of a network besides being called: timm's names.
PROTOCOL = ("forward_features", "forward_head", "num_features")


def tutorial(channels: int, height: int, width: int, classes: int) -> ConvNet:
    """Build the lesson's network with Keras's initial weights; 203,933 parameters for 28×28 grey images and 10 classes.

    ReLU stands behind the first pooling instead of before it: the larger of two numbers stays the larger, so the result
    is the same on a quarter of the numbers. Height and width of at least 10.
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
    """Build a small convolutional network that halves the image in its first layer and again after one more."""
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
    """Build `quick` with two more layers, three times its arithmetic."""
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
    """Build a network of 5×5 filters, the first at full resolution; its errors differ from those of `deep`."""
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
    """Build a small residual network for photos of any size; from 64 pixels on the first layer halves them."""
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


def whitened(channels: int, height: int, width: int, classes: int) -> ConvNet:
    """Build a network for small colour images, in the form of cifar10-airbench (Jordan, arXiv:2404.00498) but narrower.

    The first layer sees pairs of pixels, from 48 pixels on every second one; `whiten` sets its weights.
    """
    return _whitened(_every_direction(channels, height, width), classes, widths=(48, 128, 192))


def whitened_broad(channels: int, height: int, width: int, classes: int) -> ConvNet:
    """Build `whitened` with the widths of its model, two and a half times its arithmetic."""
    return _whitened(_every_direction(channels, height, width), classes, widths=(64, 256, 256))


def whitened_photos(channels: int, height: int, width: int, classes: int) -> ConvNet:
    """Build `whitened` narrower, for photos of any size; from 64 pixels on the first layer halves them.

    That sees patches of 3×3 or 4×4 pixels in the 16 directions in which they vary most.
    """
    side, stride = (4, 2) if min(height, width) >= 64 else (3, 1)
    directions = min(16, channels * side**2)
    first = nn.Conv2d(channels, 2 * directions, side, stride, padding=1)
    return _whitened(first, classes, widths=(48, 96, 192))


def _every_direction(channels: int, height: int, width: int) -> nn.Conv2d:
    """Build a first layer with a filter and its opposite for each number in a patch."""
    side, stride = (3, 2) if min(height, width) >= 48 else (2, 1)
    return nn.Conv2d(channels, 2 * channels * side**2, side, stride)


def _whitened(first: nn.Conv2d, classes: int, widths: tuple[int, int, int]) -> ConvNet:
    blocks = (
        (*_filters(inputs, outputs, 3, padding=1, pool=True), *_filters(outputs, outputs, 3, padding=1))
        for inputs, outputs in pairwise((first.out_channels, *widths))
    )
    head = (GlobalPool(), Dense(2 * widths[-1], classes))
    return he_normal(_named(first, ReLU(), *chain.from_iterable(blocks), *head))


def _filters(
    inputs: int, outputs: int, side: int, *, stride: int = 1, padding: int = 0, pool: bool = False
) -> Iterator[nn.Module]:
    """Yield a convolution, max pooling where wanted, batch normalisation and ReLU."""
    yield nn.Conv2d(inputs, outputs, side, stride, padding, bias=False)
    if pool:
        yield nn.MaxPool2d(2)
    yield nn.BatchNorm2d(outputs)
    yield ReLU()


def _named(*layers: nn.Module) -> ConvNet:
    """Chain layers under the names that Keras gives them: conv2d, conv2d_1, conv2d_2 and so on."""
    counts: Counter[str] = Counter()
    network = ConvNet()
    for layer in layers:
        kind = KERAS_NAMES[type(layer)]
        network.add_module(f"{kind}_{counts[kind]}" if counts[kind] else kind, layer)
        counts[kind] += 1
    return network


def _pretrained(name: str, channels: int, height: int, width: int, classes: int) -> EfficientNetLite:
    """Build a pretrained network without its weights, which `backbones.load_weights` loads."""
    return EfficientNetLite(name, channels, (height, width), classes)


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
    """How a network is built for images of any form (channels, height, width, classes), and what it expects of them.

    `mean` and `std`, one number a channel or one for all, standardise pixels from 0 to 1. `whitened` tells that its
    first layer begins with what `whiten` makes of the images.
    """

    build: Callable[[int, int, int, int], nn.Module]
    smallest_side: int = 1
    mean: tuple[float, ...] = PLAIN_MEAN
    std: tuple[float, ...] = PLAIN_STD
    whitened: bool = False


NETWORKS = {
    "tutorial": NetworkKind(tutorial, 10),
    "quick": NetworkKind(quick, 20),
    "deep": NetworkKind(deep, 20),
    "broad": NetworkKind(broad, 16),
    "residual": NetworkKind(residual, 16),
    "whitened": NetworkKind(whitened, 16, whitened=True),
    "whitened_broad": NetworkKind(whitened_broad, 16, whitened=True),
    "whitened_photos": NetworkKind(whitened_photos, 16, whitened=True),
    **{name: NetworkKind(partial(_pretrained, name), SMALLEST_SIDE, MEAN, STD) for name in SOURCES},
}
BUILT_IN = frozenset(NETWORKS)

USUAL_SIDE = 28  # pixels, MNIST's; images too small for a network are enlarged to it
MAX_ENLARGED = 5  # times, for `smallest`; more pixels gained nothing on images of 32×32 (docs/log/photos.md)
MAX_ASPECT = 16  # times `USUAL_SIDE` or the wanted side; what is longer is refused


def register_network(
    name: str,
    build: Callable[[int, int, int, int], nn.Module],
    *,
    smallest_side: int = 1,
    mean: Sequence[float] = PLAIN_MEAN,
    std: Sequence[float] = PLAIN_STD,
) -> None:
    """Make a network of your own known by name, so that recipes and model files can use it.

    It must follow timm's protocol: `forward_features` gives its feature maps, `forward_head(features,
    pre_logits=False)` logits of them or with `pre_logits` the embedding that its last layer gets, `num_features` is the
    embedding's length, and `forward` is the one after the other. `build` is tried on blank images at once. A model file
    holds weights and the name: a program that loads it registers the network first. A name registered before is
    replaced.

    Parameters
    ----------
    name : str
        For the field `networks` of a recipe; letters, digits, ``-``, ``_`` and ``.``.
    build : callable
        From channels, height, width and number of classes to an `nn.Module` with freshly drawn weights, which takes
        images (n, channels, height, width) and gives logits (n, classes). It must not depend on anything else, nor on
        values of tensors: model files are checked against networks built on torch's meta device.
    smallest_side : int, default=1
        Least height and width in pixels; smaller images are enlarged.
    mean : sequence of float, default=(0.0,)
        Subtracted from pixels from 0 to 1: one number a channel, or a single one for all. In an ensemble, Imprint's own
        networks take what this one asks for.
    std : sequence of float, default=(1.0,)
        What the difference is then divided by, likewise.

    Raises
    ------
    UsageError
        When the name is one of Imprint's own, or the network lacks part of the protocol.

    Examples
    --------
    >>> import imprint
    >>> from torch import nn
    >>> class Linear(nn.Module):
    ...     def __init__(self, channels, height, width, classes):
    ...         super().__init__()
    ...         self.num_features = channels * height * width
    ...         self.head = nn.Linear(self.num_features, classes)
    ...     def forward_features(self, images):
    ...         return images
    ...     def forward_head(self, features, pre_logits=False):
    ...         return features.flatten(1) if pre_logits else self.head(features.flatten(1))
    ...     def forward(self, images):
    ...         return self.forward_head(self.forward_features(images))
    >>> imprint.register_network("linear", Linear, mean=(0.5,), std=(0.5,))
    >>> run = imprint.train("digits", "quick", networks="linear", epochs=1, min_steps=1, verbose=False)
    >>> run.model.spec.mean
    (0.5,)
    """
    where = "register_network"
    if name in BUILT_IN:
        raise UsageError(f"network {name!r}", where, "Imprint has one of that name", "Choose another name.")
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
        cause = "a name has letters, digits, -, _ and . only"
        raise UsageError(f"network {name!r}", where, cause, "Choose another name.")
    try:
        kind = NetworkKind(build, int(smallest_side), tuple(map(float, mean)), tuple(map(float, std)))
        channels = max(len(kind.mean), len(kind.std))
        check_normalisation(kind.mean, kind.std, channels)
        if kind.smallest_side < 1:
            raise ValueError("smallest_side is at least 1")
    except (TypeError, ValueError) as error:
        raise UsageError(f"network {name!r}", where, str(error), "Give mean and std one number a channel.") from None
    faults = [_protocol_fault(kind, tried) for tried in ((1, 3) if channels == 1 else (channels,))]
    if all(faults):  # a network may be for grey or for colour images only
        remedy = "See imprint.register_network for what it must do."
        raise UsageError(f"network {name!r}", where, faults[0], remedy)
    NETWORKS[name] = kind


def _protocol_fault(kind: NetworkKind, channels: int) -> str:
    """Try a network on blank images; say what it lacks of the protocol, or nothing."""
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            return _protocol_lack(kind, channels)
    except Exception as error:  # whatever somebody's own code raises
        return f"with {channels}-channel images it raises {type(error).__name__} ({error})"


def _protocol_lack(kind: NetworkKind, channels: int) -> str:
    side, classes = max(kind.smallest_side, USUAL_SIDE), 3
    try:
        with torch.device("meta"):  # where a model file is compared with the network before anything is computed
            kind.build(channels, side, side, classes)
    except (RuntimeError, NotImplementedError) as error:
        return f"it cannot be built on torch's meta device ({error})"
    network = kind.build(channels, side, side, classes)
    if not isinstance(network, nn.Module):
        return "its build gives no nn.Module"
    missing = [name for name in PROTOCOL if not hasattr(network, name)]
    if missing:
        return f"it has no {' and no '.join(missing)}"
    network.eval()
    images = torch.zeros(2, channels, side, side)
    features = cast(Any, network).forward_features(images)
    embedding = cast(Any, network).forward_head(features, pre_logits=True)
    logits = cast(Any, network).forward_head(features)
    if embedding.flatten(1).shape != (2, network.num_features):
        return f"forward_head with pre_logits gives {embedding.flatten(1).shape[1]} numbers, not its num_features"
    if logits.shape != (2, classes) or not torch.allclose(network(images), logits, atol=1e-4):
        return "forward_head gives other logits than forward, or not one a class"
    return ""


def network_kind(name: str) -> NetworkKind:
    """Find a network by name; raises `UsageError` where there is none."""
    if name not in NETWORKS:
        meant = did_you_mean(name, NETWORKS)
        remedy = f"{meant}Use {', '.join(NETWORKS)}, or register it first with imprint.register_network."
        raise UsageError(f"network {name!r}", "networks", "there is no such network", remedy)
    return NETWORKS[name]


def normalisation(names: Sequence[str], channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Give the mean and std that networks of one recipe ask for.

    Those trained from random weights take any. Raises `UsageError` where others disagree, or ask for another
    number of channels.
    """
    free = BUILT_IN.difference(SOURCES)
    wanted = {(network_kind(name).mean, network_kind(name).std) for name in names if name not in free}
    if len(wanted) > 1:
        cause = "they ask for images of different mean and std"
        raise UsageError("+".join(names), "networks", cause, "Train them one by one.")
    mean, std = next(iter(wanted), (PLAIN_MEAN, PLAIN_STD))
    try:
        check_normalisation(mean, std, channels)
    except ValueError as error:
        raise UsageError("+".join(names), "networks", str(error), "Choose another network.") from None
    return mean, std


def smallest_side(names: Sequence[str]) -> int:
    """Find the least height and width in pixels that all of these networks take."""
    return max(network_kind(name).smallest_side for name in names)


def input_size(
    names: Sequence[str], image_size: tuple[int, int], largest: int = 0, smallest: int = 0
) -> tuple[int, int]:
    """Choose the size at which networks take images: their own, or in proportion with a shorter side within limits.

    Up to 28 pixels, or `smallest` (at most fivefold); down to `largest`, 0 for none. `DataError` if too long and thin.
    """
    shorter = min(image_size)
    too_large = 0 < largest < shorter
    wanted = min(smallest, MAX_ENLARGED * shorter)
    if shorter < wanted and not too_large:
        height, width = (round(side * wanted / shorter) for side in image_size)
        if max(height, width) <= MAX_ASPECT * wanted:
            return height, width
    if shorter >= smallest_side(names) and not too_large:
        return image_size
    target = max(largest, smallest_side(names)) if too_large else max(USUAL_SIDE, smallest_side(names))
    height, width = (round(side * target / shorter) for side in image_size)
    if max(height, width) > MAX_ASPECT * max(USUAL_SIDE, target):
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


def class_axes(name: str, spec: InputSpec) -> dict[str, int]:
    """Find which tensors of a network have a row for each class, and along which axis.

    Raises `UsageError` where classes shape a registered network in another way.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        few, more = (build_network(name, spec.channels, spec.input_size, classes).state_dict() for classes in (2, 3))
    axes: dict[str, int] = {}
    for tensor in few.keys() | more.keys():
        shapes = tuple(few[tensor].shape if tensor in few else ()), tuple(more[tensor].shape if tensor in more else ())
        differing = [axis for axis, sides in enumerate(zip(*shapes, strict=False)) if sides[0] != sides[1]]
        if len(shapes[0]) != len(shapes[1]) or any((shapes[0][axis], shapes[1][axis]) != (2, 3) for axis in differing):
            cause = f"its tensor {tensor} has no rows for classes, but changes with them"
            raise UsageError(f"network {name}", "--from", cause, "Train on the same classes, or without --from.")
        axes |= dict.fromkeys([tensor] if differing else [], differing[0] if differing else 0)
    return axes


def build_networks(names: Sequence[str], channels: int, size: tuple[int, int], classes: int) -> nn.Module:
    """Build one network, or an ensemble of several, as `build_network` does."""
    return combine([build_network(name, channels, size, classes) for name in names])


def combine(networks: Sequence[nn.Module]) -> nn.Module:
    """Make an ensemble of several networks; a single one stays itself."""
    return networks[0] if len(networks) == 1 else Ensemble(list(networks))
