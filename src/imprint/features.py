"""What a network makes of pictures before its last layer, and which pictures it finds alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int64, UInt8
from numpy import ndarray
from torch import Tensor, nn

from imprint.batches import LayOut, in_batches
from imprint.input_spec import InputSpec
from imprint.layers import Ensemble

ROWS = 512  # pictures compared at once


def features(
    net: nn.Module,
    pixels: UInt8[ndarray, "n c h w"],
    spec: InputSpec,
    chosen: Int64[ndarray, " m"] | None = None,
) -> Float32[Tensor, "m features"]:
    """Give each picture as the numbers that a network's last layer decides by, scaled to length 1.

    Parameters
    ----------
    net : nn.Module
        A chain of layers, or an ensemble of them, whose features are put one behind the other.
    pixels : ndarray of uint8, shape (n, c, h, w)
        Pictures in the form that `spec` asks for, in memory or mapped from a file.
    spec : InputSpec
        The model's input contract.
    chosen : ndarray of int64, shape (m,), or None, default=None
        Positions of the pictures to look at; None looks at all n of them.

    Returns
    -------
    Tensor of float32, shape (m, features)
        On the CPU. The product of two rows is the cosine of the angle between them.

    Examples
    --------
    >>> import numpy as np
    >>> from imprint.nets import build_net
    >>> net = build_net("tutorial", 1, (28, 28), 10)
    >>> pixels = np.zeros((3, 1, 28, 28), dtype=np.uint8)
    >>> features(net, pixels, InputSpec(1, (28, 28), (28, 28))).shape
    torch.Size([3, 50])
    """
    chains = net.members if isinstance(net, Ensemble) else [net]

    def look(prepared: Tensor, lay_out: LayOut) -> Sequence[Tensor]:
        parts = [F.normalize(_all_but_last(chain)(lay_out(prepared)).float().flatten(1)) for chain in chains]
        return [F.normalize(torch.cat(parts, dim=1))]

    return in_batches(net, pixels, spec, look, chosen)[0].cpu()


def _all_but_last(chain: nn.Module) -> nn.Sequential:
    assert isinstance(chain, nn.Sequential)
    return nn.Sequential(*list(chain)[:-1])


def nearest(
    of: Float32[Tensor, "n features"], among: Float32[Tensor, "m features"], count: int
) -> tuple[Int64[ndarray, "n count"], Float32[ndarray, "n count"]]:
    """Find the pictures whose features are most alike.

    Parameters
    ----------
    of : Tensor of float32, shape (n, features)
        From `features`.
    among : Tensor of float32, shape (m, features)
        From `features`.
    count : int
        How many for each; fewer where there are no more.

    Returns
    -------
    positions : ndarray of int64, shape (n, count)
        In `among`, the nearest first.
    distances : ndarray of float32, shape (n, count)
        Distances of the features, from 0 (the same) to 2 (opposite).

    Examples
    --------
    >>> corners = torch.eye(3)
    >>> nearest(corners[:1], corners, count=2)
    (array([[0, 1]]), array([[0.       , 1.4142135]], dtype=float32))
    """
    count = min(count, len(among))
    found = [(rows @ among.T).topk(count, dim=1) for rows in of.split(ROWS)]
    cosines = torch.cat([values for values, _ in found]).clamp(max=1)
    return torch.cat([places for _, places in found]).numpy(), (2 - 2 * cosines).sqrt().numpy()
