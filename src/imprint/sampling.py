"""Which pictures an epoch takes, and in which order."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def epoch_order(losses: Float[Tensor, " n"], size: int, hard_share: float) -> Int64[Tensor, " size"]:
    """Deal the pictures of one epoch in random order.

    Where an epoch takes fewer pictures than there are, a share of them are the hardest, by the
    loss when last seen. After one pass most pictures are learnt and teach next to nothing; on
    digits the hard ones brought the same accuracy in a third of the steps (docs/LOG.md).

    Parameters
    ----------
    losses : Tensor of float, shape (n,)
        Each picture's latest loss; infinite for pictures not seen yet.
    size : int
        How many to deal. Beyond n, pictures come again, none more than once more often than another.
    hard_share : float
        Share of `size` that are the hardest; the others are drawn at random.

    Returns
    -------
    Tensor of int64, shape (size,)
        Positions in `losses`.

    References
    ----------
    Loshchilov and Hutter, "Online batch selection for faster training of neural networks",
    arXiv:1511.06343; Jiang et al., "Accelerating deep learning by focusing on the biggest
    losers", arXiv:1910.00762.

    Examples
    --------
    >>> epoch_order(torch.tensor([0.1, 9.0, 0.2, 8.0]), size=2, hard_share=1.0).sort().values
    tensor([1, 3])
    """
    count, device = len(losses), losses.device
    if size >= count:
        passes = [torch.randperm(count, device=device) for _ in range(-(-size // count))]
        return torch.cat(passes)[:size]
    hardest_first = losses.argsort(descending=True)
    hard, others = hardest_first.tensor_split([round(size * hard_share)])
    others = others[torch.randperm(len(others), device=device)[: size - len(hard)]]
    return torch.cat([hard, others])[torch.randperm(size, device=device)]
