"""Whitening: the first layer of a network set to what makes neighbouring pixels independent of each other."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

FLOOR = 1e-4  # of the largest eigenvalue, added to all: directions that hardly vary, such as noise, stay small
NOTHING = 1e-12  # variance of images that are all alike


def whitening_filters(images: Float[Tensor, "n c h w"], side: int) -> Float[Tensor, "filters c side side"]:
    """Compute filters whose outputs on patches of `side` × `side` have variance 1 and no correlation.

    They are the eigenvectors of the patches' covariance over the roots of its eigenvalues; each comes with its opposite
    too, so that ReLU loses nothing. The least varying come first. As in Jordan, arXiv:2404.00498.
    """
    channels = images.shape[1]
    patches = images.unfold(2, side, 1).unfold(3, side, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, channels * side**2)
    # On the CPU in float64: Apple's GPU has neither, and the matrix is small.
    eigenvalues, eigenvectors = torch.linalg.eigh(torch.cov(patches.T).cpu().double())
    spread = (eigenvalues.clamp(min=0) + FLOOR * eigenvalues.max() + NOTHING).sqrt()
    filters = (eigenvectors / spread).T.reshape(-1, channels, side, side).to(images)
    return torch.cat([filters, -filters])


@torch.no_grad()
def whiten(network: nn.Module, images: Float[Tensor, "n c h w"]) -> None:
    """Set a first layer, a convolution of at most two filters a number in a patch, to whiten images around their mean.

    Of fewer filters than that, those of the most varying directions are taken.
    """
    layer = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    directions = layer.out_channels // 2
    every = whitening_filters(images, layer.kernel_size[0])
    filters = torch.cat([half[-directions:] for half in every.chunk(2)])
    layer.weight.copy_(filters)
    assert layer.bias is not None
    layer.bias.copy_(-(filters.sum(dim=(2, 3)) @ images.mean(dim=(0, 2, 3))))
