"""The networks. Each is a flat `nn.Sequential` whose layers bear Keras's names, as `summary.py` lists them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from imprint.errors import DataError


def _dense(activations: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Bring a tensor from oneDNN's own layout into torch's; see `device.fast_layout`."""
    return activations.to_dense() if activations.is_mkldnn else activations


class Dropout(nn.Module):
    """Set a share of the activations to zero while training and scale up the rest.

    Draws 16 random bits for each activation, so the share is exact to 1/65536; torch's own
    `bernoulli_` took five times as long on a CPU.

    Parameters
    ----------
    share : float
        Share to drop, from 0 to below 1.

    References
    ----------
    Srivastava et al., "Dropout", JMLR 15 (2014).

    Examples
    --------
    >>> Dropout(0.2).eval()(torch.ones(3))
    tensor([1., 1., 1.])
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, activations: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Drop while training; pass through otherwise."""
        if not self.training:
            return activations
        activations = _dense(activations)
        bits = torch.empty(-(-activations.numel() // 4), dtype=torch.int64, device=activations.device)
        bits = bits.random_(-(2**63), None).view(torch.int16)
        # A dense tensor's memory may run channels last: follow its strides.
        drawn = bits.as_strided(activations.shape, activations.stride())
        kept = drawn >= round(self.share * 2**16) - 2**15
        return activations * (kept * (1 / (1 - self.share)))


class Flatten(nn.Module):
    """Join channels, rows and columns, of torch's tensors and of oneDNN's.

    Examples
    --------
    >>> Flatten()(torch.zeros(2, 15, 10, 10)).shape
    torch.Size([2, 1500])
    """

    def forward(self, activations: Float[Tensor, "n c h w"]) -> Float[Tensor, "n chw"]:
        """Give one row a picture."""
        return _dense(activations).flatten(1)


class ReLU(nn.Module):
    """Set negative activations to zero; in place where no gradient will ask for them again.

    Examples
    --------
    >>> ReLU()(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """

    def forward(self, activations: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Give `max(activations, 0)`."""
        return F.relu(activations, inplace=not torch.is_grad_enabled())


class Dense(nn.Module):
    """Multiply by a matrix and add a bias, as `nn.Linear`, with the matrix the way Keras holds it.

    With rows for inputs and columns for outputs, the lesson's largest layer takes 0.52 ms for
    forward and backward on two cores; with `nn.Linear`'s transposed matrix it took 1.1 ms.

    Parameters
    ----------
    inputs : int
        Features that come in.
    outputs : int
        Features that go out.

    Examples
    --------
    >>> Dense(1500, 128)(torch.zeros(2, 1500)).shape
    torch.Size([2, 128])
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, features: Float[Tensor, "n inputs"]) -> Float[Tensor, "n outputs"]:
        """Give `features @ weight + bias`."""
        return torch.addmm(self.bias, features, self.weight)


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
    net = nn.Sequential()
    net.add_module("conv2d", nn.Conv2d(channels, 30, 5))
    net.add_module("max_pooling2d", nn.MaxPool2d(2))
    net.add_module("relu", ReLU())
    net.add_module("conv2d_1", nn.Conv2d(30, 15, 3))
    net.add_module("relu_1", ReLU())
    net.add_module("dropout", Dropout(0.2))
    net.add_module("flatten", Flatten())
    net.add_module("dense", Dense(features, 128))
    net.add_module("relu_2", ReLU())
    net.add_module("dense_1", Dense(128, 50))
    net.add_module("relu_3", ReLU())
    net.add_module("dense_2", Dense(50, classes))
    return glorot_uniform(net)


def quick(channels: int, height: int, width: int, classes: int) -> nn.Sequential:
    """Build a small convolutional network with batch normalisation.

    Parameters
    ----------
    channels, height, width : int
        Form of the pictures; height and width of at least 24.
    classes : int
        Number of classes.

    Returns
    -------
    nn.Sequential
        Pictures (n, channels, height, width) to logits (n, classes).

    Examples
    --------
    >>> quick(1, 28, 28, 10)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    rows, columns = (((side - 4) // 2 - 4) // 2 - 2 for side in (height, width))
    net = nn.Sequential()
    net.add_module("conv2d", nn.Conv2d(channels, 16, 5, bias=False))
    net.add_module("max_pooling2d", nn.MaxPool2d(2))
    net.add_module("batch_normalization", nn.BatchNorm2d(16))
    net.add_module("relu", ReLU())
    net.add_module("conv2d_1", nn.Conv2d(16, 32, 3, bias=False))
    net.add_module("batch_normalization_1", nn.BatchNorm2d(32))
    net.add_module("relu_1", ReLU())
    net.add_module("conv2d_2", nn.Conv2d(32, 32, 3, bias=False))
    net.add_module("max_pooling2d_1", nn.MaxPool2d(2))
    net.add_module("batch_normalization_2", nn.BatchNorm2d(32))
    net.add_module("relu_2", ReLU())
    net.add_module("conv2d_3", nn.Conv2d(32, 64, 3, bias=False))
    net.add_module("batch_normalization_3", nn.BatchNorm2d(64))
    net.add_module("relu_3", ReLU())
    net.add_module("flatten", Flatten())
    net.add_module("dense", Dense(64 * rows * columns, classes))
    return glorot_uniform(net)


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


NETS = {"tutorial": NetKind(tutorial, 10), "quick": NetKind(quick, 24)}

USUAL_SIDE = 28  # MNIST's; pictures too small for a network are enlarged to it


def input_size(net: str, picture_size: tuple[int, int]) -> tuple[int, int]:
    """Tell the size at which a network takes pictures: theirs, unless they are too small for it.

    Parameters
    ----------
    net : str
        One of `NETS`.
    picture_size : tuple of int
        Height and width in pixels.

    Returns
    -------
    tuple of int
        Height and width in pixels; small pictures are enlarged in proportion until their
        shorter side has 28.

    Examples
    --------
    >>> input_size("tutorial", (8, 8)), input_size("tutorial", (28, 28))
    ((28, 28), (28, 28))
    """
    shorter = min(picture_size)
    if shorter >= NETS[net].smallest_side:
        return picture_size
    height, width = (round(side * USUAL_SIDE / shorter) for side in picture_size)
    if max(height, width) > 16 * USUAL_SIDE:
        raise DataError(
            f"pictures of {picture_size[1]}×{picture_size[0]}",
            f"network {net}",
            "they are too long and thin to be enlarged",
            "Crop or pad them nearer to squares.",
        )
    return height, width


def build_net(net: str, channels: int, size: tuple[int, int], classes: int) -> nn.Sequential:
    """Build a network by name.

    Parameters
    ----------
    net : str
        One of `NETS`.
    channels : int
        Of the pictures.
    size : tuple of int
        Height and width in pixels, as `input_size` gives them.
    classes : int
        Number of classes.

    Returns
    -------
    nn.Sequential
        Freshly drawn weights.

    Examples
    --------
    >>> type(build_net("quick", 1, (28, 28), 10)).__name__
    'Sequential'
    """
    return NETS[net].build(channels, *size, classes)


def glorot_uniform(net: nn.Sequential) -> nn.Sequential:
    """Draw weights as Keras does by default: uniform within ±sqrt(6 / (fan_in + fan_out)), biases 0.

    A convolution's fans are its input and output channels times the kernel's area.

    Parameters
    ----------
    net : nn.Sequential
        Changed in place.

    Returns
    -------
    nn.Sequential
        The same network.

    References
    ----------
    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural
    networks", AISTATS 2010; keras.io/api/layers/initializers.

    Examples
    --------
    >>> layer = glorot_uniform(nn.Sequential(Dense(3, 3)))[0]
    >>> bool(layer.weight.abs().max() <= 1), layer.bias.tolist()
    (True, [0.0, 0.0, 0.0])
    """
    for layer in net:
        if isinstance(layer, nn.Conv2d | Dense):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return net
