"""Familiarity: how far a picture lies from what a network was taught with, in the network's own features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from imprint.layers import Ensemble, ReLU, Residual, dense

FEATURED_MEMBERS = 2  # of an ensemble; `best` has two, and a square matrix for `record`'s eight would outweigh them


def logits_and_features(
    net: nn.Module, prepared: Float32[Tensor, "n c h w"]
) -> tuple[Float32[Tensor, "n classes"], Float32[Tensor, "n features"]]:
    """Run a network, and note the mean of each channel behind each activation on the way.

    Where in the picture a channel answers is left out: with it, fewer strange things were found (docs/LOG.md).

    Parameters
    ----------
    net : nn.Module
        A chain of layers, or an ensemble of chains.
    prepared : Tensor of float32, shape (n, c, h, w)
        Prepared pictures.

    Returns
    -------
    logits : Tensor of float32, shape (n, classes)
        What the network gives.
    features : Tensor of float32, shape (n, features)
        Layer after layer; of an ensemble, those of its first two members.

    Examples
    --------
    >>> from imprint.nets import build_net
    >>> logits, features = logits_and_features(build_net("quick", 1, (28, 28), 10), torch.zeros(2, 1, 28, 28))
    >>> logits.shape, features.shape  # 32 + 48 + 64 + 64 channels
    (torch.Size([2, 10]), torch.Size([2, 208]))
    """
    if isinstance(net, Ensemble):
        each = [logits_and_features(member, prepared) for member in net.members]
        features = [found for _, found in each[:FEATURED_MEMBERS]]
        return net.average([logits for logits, _ in each]), torch.cat(features, dim=1)
    activations, means = prepared, []
    for layer in net.children():
        activations = layer(activations)
        if isinstance(layer, ReLU | Residual):
            means.append(_channel_means(dense(activations).float()))
    return activations.float(), torch.cat(means, dim=1)


def _channel_means(activations: Float32[Tensor, "n c h w"] | Float32[Tensor, "n c"]) -> Float32[Tensor, "n c"]:
    """Average channels over the picture; a dense layer's units are taken as they are."""
    return activations.flatten(2).mean(dim=2) if activations.ndim == 4 else activations.clone()


@dataclass(frozen=True, eq=False)
class Familiarity:
    """What the features of training pictures are like: one Gaussian a class, all of one shape.

    Parameters
    ----------
    whitening : Tensor of float32, shape (features, features)
        Turns features into numbers that scatter alike in every direction within a class.
    offset : Tensor of float32, shape (features,)
        Added after that.
    centres : Tensor of float32, shape (classes, features)
        Where each class's mean then stands.

    References
    ----------
    Lee et al., "A simple unified framework for detecting out-of-distribution samples and adversarial
    attacks", arXiv:1807.03888.

    Examples
    --------
    >>> one = Familiarity(torch.eye(2), torch.zeros(2), torch.tensor([[0.0, 0.0], [3.0, 0.0]]))
    >>> one.distances(torch.tensor([[0.0, 1.0], [3.0, 2.0]]))
    tensor([1., 4.])
    """

    whitening: Float32[Tensor, "features features"]
    offset: Float32[Tensor, " features"]
    centres: Float32[Tensor, "classes features"]

    def distances(self, features: Float32[Tensor, "n features"]) -> Float32[Tensor, " n"]:
        """Measure the squared Mahalanobis distance from the nearest class's mean.

        Parameters
        ----------
        features : Tensor of float32, shape (n, features)
            From `logits_and_features`.

        Returns
        -------
        Tensor of float32, shape (n,)
            About the number of features for a usual picture, tens to thousands of times that for a strange one.

        Examples
        --------
        >>> Familiarity(torch.eye(1), torch.zeros(1), torch.zeros(1, 1)).distances(torch.tensor([[3.0]]))
        tensor([9.])
        """
        white = features @ self.whitening + self.offset
        squares = white.square().sum(dim=1, keepdim=True) + self.centres.square().sum(dim=1)
        return (squares - 2 * white @ self.centres.T).amin(dim=1).clamp_min(0)

    def to(self, device: torch.device) -> Familiarity:
        """Move it to where a network computes.

        Parameters
        ----------
        device : torch.device
            Where.

        Returns
        -------
        Familiarity
            The same numbers there.

        Examples
        --------
        >>> one = Familiarity(torch.eye(1), torch.zeros(1), torch.zeros(1, 1))
        >>> one.to(torch.device("cpu")).centres
        tensor([[0.]])
        """
        return Familiarity(self.whitening.to(device), self.offset.to(device), self.centres.to(device))


def learn_familiarity(
    features: Float32[Tensor, "n features"], labels: Int64[Tensor, " n"], classes: int
) -> Familiarity:
    """Learn what the features of training pictures are like.

    The covariance within classes is drawn towards that of unrelated features, by the share that the features'
    number has of features and pictures together, so that it can be inverted however few pictures there are.

    Parameters
    ----------
    features : Tensor of float32, shape (n, features)
        Of training pictures as they are, not augmented.
    labels : Tensor of int64, shape (n,)
        Their classes.
    classes : int
        Number of classes; one without a picture has its mean where all pictures have theirs.

    Returns
    -------
    Familiarity
        For pictures that may be strange.

    Examples
    --------
    >>> features = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    >>> usual = learn_familiarity(features, torch.zeros(500, dtype=torch.int64), 1)
    >>> bool(usual.distances(torch.full((1, 3), 9.0)) > 50 * usual.distances(features).median())
    True
    """
    exact, number = features.double(), features.shape[1]
    middle = exact.mean(dim=0)
    sums = torch.zeros(classes, number, dtype=exact.dtype, device=exact.device).index_add_(0, labels, exact - middle)
    counts = labels.bincount(minlength=classes).clamp_min(1)
    means = sums / counts[:, None]
    within = exact - middle - means[labels]
    spread = within.std(dim=0, correction=0).clamp_min(1e-6)  # a channel that never answers still has a size
    scaled = within / spread
    share = number / (number + len(exact))
    unrelated = torch.eye(number, dtype=exact.dtype, device=exact.device)
    covariance = (1 - share) * (scaled.T @ scaled) / len(exact) + share * unrelated
    lower = torch.linalg.cholesky(covariance)
    whitening = torch.linalg.solve_triangular(lower, unrelated / spread, upper=False).T
    return Familiarity(
        whitening.float().contiguous(), (-middle @ whitening).float(), (means @ whitening).float().contiguous()
    )
