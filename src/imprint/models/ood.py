"""MahalanobisScore: how far an image lies from what a network was trained on, in the network's own features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64, UInt8
from numpy import ndarray
from torch import Tensor, nn

from imprint.models.layers import Dense, Ensemble, ReLU, Residual, dense
from imprint.recipes import Recipe

OOD_MEMBERS = 2  # of an ensemble; `best` has two, and square matrices for `record`'s eight would outweigh them
LARGEST = 3_000_000  # numbers, 12 MB, in one matrix a class; `best` on ten classes stays just below


def logits_and_embeddings(
    network: nn.Module, prepared: Float32[Tensor, "n c h w"]
) -> tuple[Float32[Tensor, "n classes"], Float32[Tensor, "n features"]]:
    """Run a network, and note the mean of each channel behind each activation on the way.

    Where in the image a channel answers is left out: with it, fewer strange things were found (docs/LOG.md).

    Parameters
    ----------
    net : nn.Module
        A chain of layers, or an ensemble of chains.
    prepared : Tensor of float32, shape (n, c, h, w)
        Prepared images.

    Returns
    -------
    logits : Tensor of float32, shape (n, classes)
        What the network gives.
    features : Tensor of float32, shape (n, features)
        Layer after layer; of an ensemble, those of its first two members.

    Examples
    --------
    >>> from imprint.models.networks import build_network
    >>> logits, features = logits_and_embeddings(build_network("quick", 1, (28, 28), 10), torch.zeros(2, 1, 28, 28))
    >>> logits.shape, features.shape  # 32 + 48 + 64 + 64 channels
    (torch.Size([2, 10]), torch.Size([2, 208]))
    """
    if isinstance(network, Ensemble):
        each = [logits_and_embeddings(member, prepared) for member in network.members]
        features = [found for _, found in each[:OOD_MEMBERS]]
        return network.average([logits for logits, _ in each]), torch.cat(features, dim=1)
    activations, means = prepared, []
    for layer in network.children():
        activations = layer(activations)
        if isinstance(layer, ReLU | Residual):
            means.append(_channel_means(dense(activations).float()))
    return activations.float(), torch.cat(means, dim=1)


def count_embeddings(network: nn.Module) -> int:
    """Count what `logits_and_embeddings` notes, without computing anything: files may claim images of any size.

    Parameters
    ----------
    net : nn.Module
        A chain of layers, or an ensemble of chains.

    Returns
    -------
    int
        Features of one image.

    Examples
    --------
    >>> from imprint.models.networks import build_network
    >>> count_embeddings(build_network("quick", 1, (28, 28), 10))  # 32 + 48 + 64 + 64 channels
    208
    """
    if isinstance(network, Ensemble):
        return sum(count_embeddings(member) for member in network.members[:OOD_MEMBERS])
    channels = features = 0
    for layer in network.children():
        if isinstance(layer, nn.Conv2d):
            channels = layer.out_channels
        elif isinstance(layer, Dense):
            channels = len(layer.bias)
        elif isinstance(layer, ReLU | Residual):
            features += channels
    return features


def _channel_means(activations: Float32[Tensor, "n c h w"] | Float32[Tensor, "n c"]) -> Float32[Tensor, "n c"]:
    """Average channels over the image; a dense layer's units are taken as they are."""
    return activations.flatten(2).mean(dim=2) if activations.ndim == 4 else activations.clone()


@dataclass(frozen=True, eq=False)
class MahalanobisScore:
    """What the features of training images are like: a Gaussian for each class.

    Parameters
    ----------
    centres : Tensor of float32, shape (classes, features)
        The mean of each class.
    whitening : Tensor of float32, shape (classes or 1, features, features)
        Turns what lies between features and their class's mean into numbers that scatter alike in every direction;
        one for all classes where one for each would be too large.

    References
    ----------
    Lee et al., "A simple unified framework for detecting out-of-distribution samples and adversarial
    attacks", arXiv:1807.03888.

    Examples
    --------
    >>> one = MahalanobisScore(torch.tensor([[0.0, 0.0], [3.0, 0.0]]), torch.eye(2)[None])
    >>> one.distances(torch.tensor([[0.0, 1.0], [3.0, 2.0]]), torch.tensor([0, 1]))
    tensor([1., 4.])
    """

    centres: Float32[Tensor, "classes features"]
    whitening: Float32[Tensor, "shapes features features"]

    def distances(
        self, features: Float32[Tensor, "n features"], predicted: Int64[Tensor, " n"]
    ) -> Float32[Tensor, " n"]:
        """Measure the squared Mahalanobis distance from the predicted class's mean.

        Parameters
        ----------
        features : Tensor of float32, shape (n, features)
            From `logits_and_embeddings`.
        predicted : Tensor of int64, shape (n,)
            Which class each image is taken for.

        Returns
        -------
        Tensor of float32, shape (n,)
            About the number of features for a usual image, tens to thousands of times that for a strange one.

        Examples
        --------
        >>> one = MahalanobisScore(torch.zeros(1, 1), torch.ones(1, 1, 1))
        >>> one.distances(torch.tensor([[3.0]]), torch.tensor([0]))
        tensor([9.])
        """
        found = features.new_empty(len(features))
        for label in predicted.unique().tolist():
            of_class = predicted == label
            whitening = self.whitening[label if len(self.whitening) > 1 else 0]
            found[of_class] = ((features[of_class] - self.centres[label]) @ whitening).square().sum(dim=1)
        return found

    def to(self, device: torch.device) -> MahalanobisScore:
        """Move it to where a network computes.

        Parameters
        ----------
        device : torch.device
            Where.

        Returns
        -------
        MahalanobisScore
            The same numbers there.

        Examples
        --------
        >>> one = MahalanobisScore(torch.zeros(1, 1), torch.ones(1, 1, 1))
        >>> one.to(torch.device("cpu")).centres
        tensor([[0.]])
        """
        return MahalanobisScore(self.centres.to(device), self.whitening.to(device))


def fit_mahalanobis(
    features: Float32[Tensor, "n features"], labels: Int64[Tensor, " n"], classes: int
) -> MahalanobisScore:
    """Learn what the features of training images are like.

    A class's covariance is drawn towards that within all classes by the weight of four images a feature, and that
    towards the covariance of unrelated features by one, so that it can be inverted however few images there are.

    Parameters
    ----------
    features : Tensor of float32, shape (n, features)
        Of training images as they are, not augmented.
    labels : Tensor of int64, shape (n,)
        Their classes.
    classes : int
        Number of classes; one without an image has its mean where all images have theirs.

    Returns
    -------
    MahalanobisScore
        For images that may be strange.

    References
    ----------
    Friedman, "Regularized discriminant analysis", JASA 84 (1989) 165-175, for the two steps.

    Examples
    --------
    >>> features, one_class = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(500).long()
    >>> usual = fit_mahalanobis(features, one_class, 1)
    >>> strange = usual.distances(torch.full((1, 3), 9.0), torch.tensor([0]))
    >>> bool(strange > 50 * usual.distances(features, one_class).median())
    True
    """
    # On the CPU, since Apple's GPUs know no float64: pytorch/pytorch issue 122602.
    exact, number = features.to("cpu", torch.float64, copy=True), features.shape[1]
    labels = labels.cpu()
    middle = exact.mean(dim=0)
    sums = torch.zeros(classes, number, dtype=exact.dtype).index_add_(0, labels, exact - middle)
    centres = middle + sums / labels.bincount(minlength=classes).clamp_min(1)[:, None]
    within = exact.sub_(centres[labels])  # in place: copies of 8,192 images' features took 0.1 GB
    spread = within.std(dim=0, correction=0).clamp_min(1e-6)  # a channel that never answers still has a size
    scaled = within.div_(spread)
    unrelated = torch.eye(number, dtype=exact.dtype)
    common = (scaled.T @ scaled + number * unrelated) / (len(exact) + number)
    each = [common] if classes * number**2 > LARGEST else [_drawn(scaled[labels == i], common) for i in range(classes)]
    lower = torch.linalg.cholesky(torch.stack(each))
    whitening = torch.linalg.solve_triangular(lower, (unrelated / spread).expand_as(lower), upper=False).mT
    return MahalanobisScore(centres.float(), whitening.float().contiguous()).to(features.device)


def _drawn(
    scaled: Float64[Tensor, "n features"], common: Float64[Tensor, "features features"]
) -> Float64[Tensor, "features features"]:
    """Give the covariance of one class, drawn towards the common one."""
    weight = 4 * len(common)
    return (scaled.T @ scaled + weight * common) / (len(scaled) + weight)


QUARTER_TURNS = {"turned left", "turned right"}  # only where height and width are the same


FORMS: dict[str, Callable[[UInt8[ndarray, "n c h w"]], UInt8[ndarray, "n c h w"]]] = {
    "turned left": lambda pixels: np.rot90(pixels, 1, axes=(2, 3)),
    "turned right": lambda pixels: np.rot90(pixels, 3, axes=(2, 3)),
    "upside down": lambda pixels: np.rot90(pixels, 2, axes=(2, 3)),
    "mirrored": lambda pixels: pixels[..., ::-1],
}


def transforms_for(recipe: Recipe, size: tuple[int, int]) -> tuple[str, ...]:
    """Tell which forms make strangers of images.

    Parameters
    ----------
    recipe : Recipe
        Where it mirrors images, or turns them so far, those are no strangers.
    size : tuple of int
        Height and width of the images.

    Returns
    -------
    tuple of str
        Some of `FORMS`.

    Examples
    --------
    >>> from imprint.recipes import RECIPES
    >>> transforms_for(RECIPES["tutorial"], (28, 20))
    ('upside down', 'mirrored')
    """
    unfit: set[str] = set()
    if size[0] != size[1] or recipe.rotation >= 90:
        unfit |= QUARTER_TURNS
    if recipe.rotation >= 180:
        unfit.add("upside down")
    if recipe.hflip == "yes":
        unfit.add("mirrored")
    return tuple(form for form in FORMS if form not in unfit)


def ood_detector_classes(recipe: Recipe, size: tuple[int, int], classes: int) -> int:
    """Count what a guard tells apart: each class as it is, each in every strange form, and halves of two classes.

    Parameters
    ----------
    recipe : Recipe
        Of the model.
    size : tuple of int
        Height and width of the images.
    classes : int
        Of the model.

    Returns
    -------
    int
        The guard's classes, of which the first are the model's.

    Examples
    --------
    >>> from imprint.recipes import RECIPES
    >>> ood_detector_classes(RECIPES["tutorial"], (28, 28), 10)
    51
    """
    return classes * (1 + len(transforms_for(recipe, size))) + 1
