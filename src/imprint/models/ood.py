"""OOD score: the Mahalanobis distance of an image's embedding from those of the training images of its class.

Also the transforms that make synthetic OOD images, for an OOD detector to learn from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Float64, Int64, UInt8
from numpy import ndarray
from torch import Tensor, nn

from imprint.core.errors import brief
from imprint.models.layers import ConvNet, Dense, Ensemble, ReLU, Residual, dense
from imprint.recipes import Recipe

OOD_MEMBERS = 2  # of an ensemble; `best` has two, and square matrices for `record`'s eight would outweigh them
WIDE = 1200  # numbers in an embedding; a whole matrix of more would outweigh the network
# Of wide embeddings: the weight of the mean of all images in a class's mean, in images, and the least deviation of a
# number, in medians: that a channel hardly answered to a hundred photos proves nothing of the next one.
CENTRE_WEIGHT, LEAST_SPREAD = 30, 0.2
MAX_MATRIX_NUMBERS = 3_000_000  # 12 MB, in one matrix a class; `best` on ten classes stays just below


def logits_and_embeddings(
    network: nn.Module, prepared: Float32[Tensor, "n c h w"]
) -> tuple[Float32[Tensor, "n classes"], Float32[Tensor, "n features"]]:
    """Run a network over prepared images for its logits, and the embedding that the OOD score is computed from.

    Of our own networks that is each channel's mean behind each activation; where in the image a channel answers is left
    out, since with it fewer OOD images were found (docs/log). Of any other it is the penultimate layer's, `levelled`.
    """
    if isinstance(network, Ensemble):
        each = [logits_and_embeddings(member, prepared) for member in network.members]
        embeddings = [embedding for _, embedding in each[:OOD_MEMBERS]]
        return network.average([logits for logits, _ in each]), torch.cat(embeddings, dim=1)
    if not isinstance(network, ConvNet):
        follows_protocol = cast(Any, network)
        features = follows_protocol.forward_features(prepared)
        embedding = follows_protocol.forward_head(features, pre_logits=True).float().flatten(1)
        widths = getattr(network, "embedded_widths", (int(embedding.shape[1]),))
        return follows_protocol.forward_head(features).float(), levelled(embedding, widths)
    activations, means = prepared, []
    for layer in network.children():
        activations = layer(activations)
        if isinstance(layer, ReLU | Residual):
            means.append(_channel_means(dense(activations).float()))
    return activations.float(), torch.cat(means, dim=1)


def levelled(embeddings: Float32[Tensor, "n features"], widths: Sequence[int]) -> Float32[Tensor, "n features"]:
    """Take the cube roots of wide embeddings, and give those of each depth a mean square of 1; narrow ones stay.

    Few photos tell little of channels that answer seldom and strongly, which would outweigh all others, as the last of
    the depths, `widths` numbers each, would the first (docs/log/photos.md).
    """
    if embeddings.shape[1] <= WIDE:
        return embeddings
    roots = embeddings.sign() * embeddings.abs() ** (1 / 3)
    parts = [F.normalize(part, dim=1) * math.sqrt(part.shape[1]) for part in roots.split(list(widths), dim=1)]
    return torch.cat(parts, dim=1)


def count_embeddings(network: nn.Module) -> int:
    """Count the numbers in an embedding of `logits_and_embeddings` without running the network.

    A model file may claim images of any size, which are not to be computed with before it has been checked.
    """
    if isinstance(network, Ensemble):
        return sum(count_embeddings(member) for member in network.members[:OOD_MEMBERS])
    if not isinstance(network, ConvNet):
        return int(cast(Any, network).num_features)
    channels = total = 0
    for layer in network.children():
        if isinstance(layer, nn.Conv2d):
            channels = layer.out_channels
        elif isinstance(layer, Dense):
            channels = len(layer.bias)
        elif isinstance(layer, ReLU | Residual):
            total += channels
    return total


def _channel_means(activations: Float32[Tensor, "n c h w"] | Float32[Tensor, "n c"]) -> Float32[Tensor, "n c"]:
    """Average channels over the image; a dense layer's units are copied."""
    return activations.flatten(2).mean(dim=2) if activations.ndim == 4 else activations.clone()


@dataclass(frozen=True, eq=False)
class MahalanobisScore:
    """A Gaussian of the training images' embeddings for each class.

    Parameters
    ----------
    centres : Tensor of float32, shape (classes, features)
        The mean embedding of each class; of wide ones shrunk towards that of all images.
    whitening : Tensor of float32, shape (classes or 1, features, features), or None, default=None
        Turns the difference between an embedding and its class's mean into uncorrelated numbers of unit variance; one
        matrix for all classes where one for each would be too large.
    precision : Tensor of float32, shape (features,), or None, default=None
        For wide embeddings instead: the inverse variance of each number.

    References
    ----------
    Lee et al., "A simple unified framework for detecting out-of-distribution samples and adversarial attacks",
    arXiv:1807.03888.

    Examples
    --------
    >>> import torch
    >>> one = MahalanobisScore(torch.tensor([[0.0, 0.0], [3.0, 0.0]]), torch.eye(2)[None])
    >>> one.distances(torch.tensor([[0.0, 1.0], [3.0, 2.0]]), torch.tensor([0, 1]))
    tensor([1., 4.])
    """

    centres: Float32[Tensor, "classes features"]
    whitening: Float32[Tensor, "shapes features features"] | None = None
    precision: Float32[Tensor, " features"] | None = None

    @property
    def decides_alone(self) -> bool:
        """Whether low confidence adds nothing to it, since distances of wide embeddings vary less than that."""
        return self.precision is not None

    def __repr__(self) -> str:
        classes, features = self.centres.shape
        return brief(self, f"{classes:,} classes, {features:,} features")

    def distances(
        self, embeddings: Float32[Tensor, "n features"], predicted: Int64[Tensor, " n"]
    ) -> Float32[Tensor, " n"]:
        """Compute the squared Mahalanobis distance from the predicted class's mean.

        Parameters
        ----------
        embeddings : Tensor of float32, shape (n, features)
            Of images.
        predicted : Tensor of int64, shape (n,)
            The class that each is taken for.

        Returns
        -------
        Tensor of float32, shape (n,)
            About the number of features for an image like those trained on, tens to thousands of times that for others.

        Examples
        --------
        >>> import torch
        >>> one = MahalanobisScore(torch.zeros(1, 2), torch.eye(2)[None])
        >>> one.distances(torch.tensor([[3.0, 4.0]]), torch.tensor([0]))
        tensor([25.])
        """
        found = self._of_each_class if embeddings.device.type == "cpu" else self._of_all_at_once
        return found(embeddings, predicted)

    def _of_each_class(
        self, embeddings: Float32[Tensor, "n features"], predicted: Int64[Tensor, " n"]
    ) -> Float32[Tensor, " n"]:
        """Compute the distances class by class, of its own images alone."""
        found = embeddings.new_empty(len(embeddings))
        for label in predicted.unique().tolist():
            of_class = predicted == label
            found[of_class] = self._squared(embeddings[of_class] - self.centres[label], label)
        return found

    def _of_all_at_once(
        self, embeddings: Float32[Tensor, "n features"], predicted: Int64[Tensor, " n"]
    ) -> Float32[Tensor, " n"]:
        """Compute them without asking a GPU which classes there are: Python would have to wait for it."""
        if self.whitening is None or len(self.whitening) == 1:
            return self._squared(embeddings - self.centres[predicted], 0)
        each = [self._squared(embeddings - centre, label) for label, centre in enumerate(self.centres)]
        return torch.stack(each).gather(0, predicted[None])[0]

    def _squared(self, gaps: Float32[Tensor, "n features"], label: int) -> Float32[Tensor, " n"]:
        """Compute the squared lengths of differences from class means, by a class's matrix or the only one."""
        if self.precision is not None:
            return gaps.square() @ self.precision
        whitening = cast(Tensor, self.whitening)
        return (gaps @ whitening[label if len(whitening) > 1 else 0]).square().sum(dim=1)

    def to(self, device: torch.device) -> MahalanobisScore:
        """Copy it to another device.

        Parameters
        ----------
        device : torch.device
            Where to compute.

        Returns
        -------
        MahalanobisScore
            The same numbers there.

        Examples
        --------
        >>> import torch
        >>> MahalanobisScore(torch.zeros(1, 2), torch.eye(2)[None]).to(torch.device("cpu")).centres.device
        device(type='cpu')
        """
        each = (self.centres, self.whitening, self.precision)
        return MahalanobisScore(*(cast(Tensor, None if one is None else one.to(device)) for one in each))


def fit_mahalanobis(
    embeddings: Float32[Tensor, "n features"], labels: Int64[Tensor, " n"], classes: int
) -> MahalanobisScore:
    """Fit a Gaussian a class to the embeddings of training images as they are, not augmented."""
    # A class's covariance is shrunk towards that within all classes by the weight of four images a feature, and that
    # towards that of uncorrelated features by the weight of one (Friedman, JASA 84, 1989), so that it can be inverted
    # however few images there are. A class without an image has the mean of all images.
    # On the CPU, since Apple's GPUs know no float64: pytorch/pytorch issue 122602. Of wide ones float32 will do, since
    # differences from the mean of all are taken before those from the class's, and no covariances, of which a hundred
    # photos tell less than of variances.
    number, labels = embeddings.shape[1], labels.cpu()
    exact = embeddings.to("cpu", torch.float32 if number > WIDE else torch.float64, copy=True)
    middle = exact.mean(dim=0)
    within = exact.sub_(middle)  # in place: copies of 8,192 images' embeddings took 0.1 GB
    sums = torch.zeros(classes, number, dtype=exact.dtype).index_add_(0, labels, within)
    counts = labels.bincount(minlength=classes)[:, None]
    gaps = sums / (counts + CENTRE_WEIGHT if number > WIDE else counts.clamp_min(1))
    centres, within = middle + gaps, within.sub_(gaps[labels])
    spread = within.square().mean(dim=0).sqrt()
    least = LEAST_SPREAD * float(spread.median()) if number > WIDE else 0.0
    spread = spread.clamp_min(max(least, 1e-6))  # a channel that is always 0 still has a size
    if number > WIDE:
        return MahalanobisScore(centres, precision=spread.square().reciprocal()).to(embeddings.device)
    scaled = within.div_(spread)
    unrelated = torch.eye(number, dtype=exact.dtype)
    common = (scaled.T @ scaled + number * unrelated) / (len(exact) + number)
    one_for_all = classes * number**2 > MAX_MATRIX_NUMBERS
    each = [common] if one_for_all else [_shrunk(scaled[labels == i], common) for i in range(classes)]
    lower = torch.linalg.cholesky(torch.stack(each))
    whitening = torch.linalg.solve_triangular(lower, (unrelated / spread).expand_as(lower), upper=False).mT
    return MahalanobisScore(centres.float(), whitening.float().contiguous()).to(embeddings.device)


def _shrunk(
    scaled: Float64[Tensor, "n features"], common: Float64[Tensor, "features features"]
) -> Float64[Tensor, "features features"]:
    """Compute the covariance of one class, shrunk towards the common one."""
    weight = 4 * len(common)
    return (scaled.T @ scaled + weight * common) / (len(scaled) + weight)


# Transforms whose results belong to no class.
FORMS: dict[str, Callable[[UInt8[ndarray, "n c h w"]], UInt8[ndarray, "n c h w"]]] = {
    "turned left": lambda pixels: np.rot90(pixels, 1, axes=(2, 3)),
    "turned right": lambda pixels: np.rot90(pixels, 3, axes=(2, 3)),
    "upside down": lambda pixels: np.rot90(pixels, 2, axes=(2, 3)),
    "mirrored": lambda pixels: pixels[..., ::-1],
}
QUARTER_TURNS = {"turned left", "turned right"}  # only where height and width are the same


def transforms_for(recipe: Recipe, size: tuple[int, int]) -> tuple[str, ...]:
    """Name those of `FORMS` that make OOD images of images of `size` (height, width).

    Where training mirrors images, or turns them so far, those are genuine images.
    """
    genuine: set[str] = set()
    if size[0] != size[1] or recipe.rotation >= 90:
        genuine |= QUARTER_TURNS
    if recipe.rotation >= 180:
        genuine.add("upside down")
    if recipe.hflip == "yes":
        genuine.add("mirrored")
    return tuple(form for form in FORMS if form not in genuine)


def ood_detector_classes(recipe: Recipe, size: tuple[int, int], classes: int) -> int:
    """Count an OOD detector's classes: each class as it is and transformed in every way, and one for halves of two."""
    return classes * (1 + len(transforms_for(recipe, size))) + 1
