"""The layers that torch lacks or computes more slowly, networks made of them, and their initial weights.

Measured on two cores: `Dropout` takes a fifth of torch's time, `Dense` half of `nn.Linear`'s on the lesson's largest
layer.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def dense(activations: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Bring a tensor from oneDNN's own layout into torch's."""
    return activations.to_dense() if activations.is_mkldnn else activations


class Dropout(nn.Module):
    """Set a share of the activations to zero while training and scale up the rest (Srivastava et al., JMLR 15, 2014).

    Draws 16 random bits for each activation, so the share is exact to 1/65536; torch's own `bernoulli_` took five times
    as long on a CPU.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self.whole, self.first = 0, 0  # rows of a batch that several processes share, 0 for those given; the own first

    def forward(self, activations: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Drop while training; pass through otherwise."""
        if not self.training:
            return activations
        activations = dense(activations)
        a_row = activations[0].numel()
        drawn_for = (self.whole or len(activations)) * a_row
        bits = torch.empty(-(-drawn_for // 4), dtype=torch.int64, device=activations.device)
        bits = bits.random_(-(2**63), None).view(torch.int16)
        # A dense tensor's memory may run channels last: follow its strides.
        drawn = bits.as_strided(activations.shape, activations.stride(), self.first * a_row)
        kept = drawn >= round(self.share * 2**16) - 2**15
        return activations * (kept * (1 / (1 - self.share)))


class Flatten(nn.Module):
    """Join channels, rows and columns, of torch's tensors and of oneDNN's."""

    def forward(self, activations: Float[Tensor, "n c h w"]) -> Float[Tensor, "n chw"]:
        """Give one row an image."""
        return dense(activations).flatten(1)


class ReLU(nn.Module):
    """Set negative activations to zero; in place where no gradient needs them."""

    def forward(self, activations: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Give `max(activations, 0)`."""
        return F.relu(activations, inplace=not torch.is_grad_enabled())


class Dense(nn.Module):
    """Multiply by a matrix and add a bias, as `nn.Linear`, with the matrix stored as Keras stores it.

    With rows for inputs and columns for outputs, the lesson's largest layer takes 0.52 ms for forward and backward on
    two cores; with `nn.Linear`'s transposed matrix it took 1.1 ms.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, features: Float[Tensor, "n inputs"]) -> Float[Tensor, "n outputs"]:
        """Give `features @ weight + bias`."""
        return torch.addmm(self.bias, features, self.weight)


class Residual(nn.Module):
    """Add the output of two convolutions to their input (He et al., arXiv:1512.03385).

    Begins as the identity behind ReLU, since the last normalisation's scale begins at 0 (arXiv:1706.02677).
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
    """Join each channel's mean and largest value over the whole image."""

    def forward(self, activations: Float[Tensor, "n c h w"]) -> Float[Tensor, "n twice_c"]:
        """Give one row an image: all means, then all largest values."""
        activations = dense(activations)
        return torch.cat([activations.mean(dim=(2, 3)), activations.amax(dim=(2, 3))], dim=1)


class ConvNet(nn.Sequential):
    """A flat chain of named layers that follows timm's protocol: convolutions, then a head that begins with flattening.

    All that Imprint builds itself is one, so its layers may be run one by one, in any memory layout.
    """

    @property
    def num_features(self) -> int:
        """The size of the penultimate-layer embedding."""
        return len(cast(Dense, self[-1]).weight)

    def forward_features(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k rows columns"]:
        """Run the convolutions: feature maps."""
        for layer in self._layers(head=False):
            images = layer(images)
        return images

    def forward_head(
        self, features: Float[Tensor, "n k rows columns"], pre_logits: bool = False
    ) -> Float[Tensor, "n numbers"]:
        """Run the rest: logits, or with `pre_logits` the embedding that the last layer gets."""
        head = self._layers(head=True)
        for layer in head[:-1] if pre_logits else head:
            features = layer(features)
        return features

    def _layers(self, head: bool) -> list[nn.Module]:
        layers = list(self)
        start = next(place for place, layer in enumerate(layers) if isinstance(layer, Flatten | GlobalPool))
        return layers[start:] if head else layers[:start]


class Ensemble(nn.Module):
    """Average the probabilities of several networks, which take the same images to logits of the same classes."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Float[Tensor, "n c h w"] | Float[Tensor, "n features"]) -> Float[Tensor, "n classes"]:
        """Give the logarithms of the mean probabilities, which are logits of them."""
        return self.average([member(images) for member in self.members])

    def average(self, each: list[Float[Tensor, "n classes"]]) -> Float[Tensor, "n classes"]:
        """Give the logarithms of the mean probabilities, from each member's logits."""
        logs = torch.stack([logits.log_softmax(dim=1) for logits in each])
        return logs.logsumexp(dim=0) - math.log(len(each))


def members_of(network: nn.Module) -> list[nn.Module]:
    """Give the members of an ensemble, or the network itself."""
    return list(network.members) if isinstance(network, Ensemble) else [network]


def glorot_uniform(network: ConvNet) -> ConvNet:
    """Draw weights in place as Keras does by default: uniform within ±sqrt(6 / (fan_in + fan_out)), biases 0.

    Glorot and Bengio, AISTATS 2010; keras.io/api/layers/initializers. A convolution's fans are its input and output
    channels times the kernel's area.
    """
    for layer in network:
        if isinstance(layer, nn.Conv2d | Dense):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network


def he_normal(network: ConvNet) -> ConvNet:
    """Draw weights in place for layers before a ReLU: normal with variance 2 / fan_in, biases 0 (arXiv:1502.01852)."""
    for layer in network.modules():
        # On the meta device there is nothing to draw; torch's normal_ would import its compiler there: 1 s and 76 MB.
        if isinstance(layer, nn.Conv2d | Dense) and not layer.weight.is_meta:
            fan_in = layer.weight[0].numel() if isinstance(layer, nn.Conv2d) else len(layer.weight)
            nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_in))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network
