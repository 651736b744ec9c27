"""The layers that torch lacks or that it computes more slowly, and the weights that layers begin with."""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def dense(activations: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Bring a tensor from oneDNN's own layout into torch's; see `device.fast_layout`.

    Parameters
    ----------
    activations : Tensor of float
        In either layout.

    Returns
    -------
    Tensor of float
        The same numbers in torch's.

    Examples
    --------
    >>> dense(torch.ones(2).to_mkldnn())
    tensor([1., 1.])
    """
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
        activations = dense(activations)
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
        """Give one row an image."""
        return dense(activations).flatten(1)


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


class Residual(nn.Module):
    """Add what two convolutions make of their input to the input itself.

    Begins as the identity behind ReLU, since the last normalisation's scale begins at 0.

    Parameters
    ----------
    channels : int
        Of input and output.

    References
    ----------
    He et al., "Deep residual learning for image recognition", arXiv:1512.03385; Goyal et al.,
    "Accurate, large minibatch SGD", arXiv:1706.02677, for the zero.

    Examples
    --------
    >>> layer = Residual(2)
    >>> pixels = torch.randn(1, 2, 3, 3)
    >>> torch.equal(layer(pixels), pixels.relu())
    True
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv2d = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.batch_normalization = nn.BatchNorm2d(channels)
        self.relu = ReLU()
        self.conv2d_1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.batch_normalization_1 = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.batch_normalization_1.weight)

    def forward(self, activations: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Give `relu(x + f(x))`."""
        change = self.relu(self.batch_normalization(self.conv2d(activations)))
        changed: Tensor = self.relu(activations + self.batch_normalization_1(self.conv2d_1(change)))
        return changed


class GlobalPool(nn.Module):
    """Join each channel's mean and largest value over the whole image.

    Examples
    --------
    >>> GlobalPool()(torch.tensor([[[[1.0, 2.0, 6.0]]]]))
    tensor([[3., 6.]])
    """

    def forward(self, activations: Float[Tensor, "n c h w"]) -> Float[Tensor, "n twice_c"]:
        """Give one row an image: all means, then all largest."""
        activations = dense(activations)
        return torch.cat([activations.mean(dim=(2, 3)), activations.amax(dim=(2, 3))], dim=1)


class ConvNet(nn.Sequential):
    """A flat chain of named layers that answers to timm's protocol: convolutions, then a head that begins by flattening."""

    @property
    def num_features(self) -> int:
        """How many numbers the last layer decides by: the size of the penultimate-layer embeddings."""
        return len(cast(Dense, self[-1]).weight)

    def forward_features(self, pixels: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k rows columns"]:
        """Run the convolutions: maps of features."""
        for layer in self._layers(head=False):
            pixels = layer(pixels)
        return pixels

    def forward_head(
        self, features: Float[Tensor, "n k rows columns"], pre_logits: bool = False
    ) -> Float[Tensor, "n numbers"]:
        """Run the rest: logits, or with `pre_logits` the embeddings that the last layer gets."""
        head = self._layers(head=True)
        for layer in head[:-1] if pre_logits else head:
            features = layer(features)
        return features

    def _layers(self, head: bool) -> list[nn.Module]:
        layers = list(self)
        start = next(place for place, layer in enumerate(layers) if isinstance(layer, Flatten | GlobalPool))
        return layers[start:] if head else layers[:start]


class Ensemble(nn.Module):
    """Average the probabilities of several networks.

    Parameters
    ----------
    members : list of nn.Module
        From images to logits of the same classes.

    Examples
    --------
    >>> sure, unsure = Dense(1, 2), Dense(1, 2)
    >>> for member, gap in ((sure, 2.0), (unsure, 0.0)):
    ...     member.load_state_dict({"weight": torch.tensor([[gap, 0.0]]), "bias": torch.zeros(2)})
    <All keys matched successfully>
    <All keys matched successfully>
    >>> Ensemble([sure, unsure])(torch.ones(1, 1)).softmax(1)  # the mean of 0.88 and 0.50
    tensor([[0.6904, 0.3096]], grad_fn=<SoftmaxBackward0>)
    """

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, pixels: Float[Tensor, "n c h w"] | Float[Tensor, "n features"]) -> Float[Tensor, "n classes"]:
        """Give the logarithms of the mean probabilities, which are logits of them."""
        return self.average([member(pixels) for member in self.members])

    def average(self, each: list[Float[Tensor, "n classes"]]) -> Float[Tensor, "n classes"]:
        """Average what the members say.

        Parameters
        ----------
        each : list of Tensor of float, shape (n, classes)
            Each member's logits.

        Returns
        -------
        Tensor of float, shape (n, classes)
            The logarithms of the mean probabilities.

        Examples
        --------
        >>> even = torch.zeros(1, 2)
        >>> Ensemble([]).average([even, even]).exp()
        tensor([[0.5000, 0.5000]])
        """
        logs = torch.stack([logits.log_softmax(dim=1) for logits in each])
        return logs.logsumexp(dim=0) - math.log(len(each))


def glorot_uniform(network: ConvNet) -> ConvNet:
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
    for layer in network:
        if isinstance(layer, nn.Conv2d | Dense):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network


def he_normal(network: ConvNet) -> ConvNet:
    """Draw weights for layers that ReLU follows: normal with variance 2 / fan_in, biases 0.

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
    He et al., "Delving deep into rectifiers", arXiv:1502.01852.

    Examples
    --------
    >>> layer = he_normal(nn.Sequential(nn.Conv2d(1, 500, 5)))[0]
    >>> 0.27 < layer.weight.std().item() < 0.3  # sqrt(2 / 25) is 0.283
    True
    """
    for layer in network.modules():
        # An outline, on the meta device, has nothing to draw; asking it to costs an import of 1 s and 76 MB.
        if isinstance(layer, nn.Conv2d | Dense) and not layer.weight.is_meta:
            fan_in = layer.weight[0].numel() if isinstance(layer, nn.Conv2d) else len(layer.weight)
            if not layer.weight.is_meta:  # an outline, of which torch's normal_ would import its compiler: 0.8 s
                nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_in))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network
