"""What a network makes of pictures before its last layer, and which pictures it finds alike."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int64, UInt8
from numpy import ndarray
from torch import Tensor, nn

from imprint.arithmetic import choose_arithmetic
from imprint.input_spec import InputSpec
from imprint.layers import Ensemble
from imprint.preparation import prepare

BATCH = 128  # pictures at once
ROWS = 512  # pictures compared at once


@torch.inference_mode()
def features(net: nn.Module, pixels: UInt8[Tensor, "n c h w"], spec: InputSpec) -> Float32[Tensor, "n features"]:
    """Give each picture as the numbers that a network's last layer decides by, scaled to length 1.

    Parameters
    ----------
    net : nn.Module
        A chain of layers, or an ensemble of them, whose features are put one behind the other.
    pixels : Tensor of uint8, shape (n, c, h, w)
        Pictures in the form that `spec` asks for.
    spec : InputSpec
        The model's input contract.

    Returns
    -------
    Tensor of float32, shape (n, features)
        On the CPU. The product of two rows is the cosine of the angle between them.

    Examples
    --------
    >>> from imprint.nets import build_net
    >>> net = build_net("tutorial", 1, (28, 28), 10)
    >>> pixels = torch.zeros(3, 1, 28, 28, dtype=torch.uint8)
    >>> features(net, pixels, InputSpec(1, (28, 28), (28, 28))).shape
    torch.Size([3, 50])
    """
    device = next(net.parameters()).device
    arithmetic = choose_arithmetic(device, "float32")
    torch.set_num_threads(arithmetic.threads)
    was_training = net.training
    net.eval()
    chains = net.members if isinstance(net, Ensemble) else [net]
    found = []
    for batch in pixels.split(BATCH):
        prepared = arithmetic.lay_out(prepare(batch.to(device), spec))
        parts = [F.normalize(_all_but_last(chain)(prepared).float().flatten(1)) for chain in chains]
        found.append(F.normalize(torch.cat(parts, dim=1)).cpu())
    net.train(was_training)
    return torch.cat(found)


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
