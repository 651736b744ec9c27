"""Batches: many pictures through a network, a few at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Float32, Int64, Shaped, UInt8
from numpy import ndarray
from torch import Tensor, nn

from imprint.arithmetic import choose_arithmetic
from imprint.input_spec import InputSpec
from imprint.mapped import in_parts
from imprint.preparation import prepare

CPU_BATCH = 128  # 28,000 digits took 0.55 s with 64, 0.45 with 128, 0.53 with 256, which leaves the cache
CPU_NUMBERS = 2**19  # in a batch at most, so that one of photos has fewer
GPU_BATCH = 4096
LayOut = Callable[[Float[Tensor, "n c h w"]], Tensor]
Look = Callable[[Float32[Tensor, "n c h w"], LayOut], Sequence[Shaped[Tensor, "n ..."]]]


@torch.inference_mode()
def in_batches(
    net: nn.Module,
    pixels: UInt8[ndarray, "n c h w"],
    spec: InputSpec,
    look: Look,
    chosen: Int64[ndarray, " m"] | None = None,
) -> list[Shaped[Tensor, "m ..."]]:
    """Prepare pictures batch by batch, and gather what is made of each by a network that is not taught meanwhile.

    What is made of a batch is copied to its place at once. Kept batch by batch, it came to lie between the network's
    large tensors, whose memory could then not be used again: that of photos grew from 0.6 to 1.6 GB.

    Parameters
    ----------
    net : nn.Module
        The network, on any device; its training mode is left as it was.
    pixels : ndarray of uint8, shape (n, c, h, w)
        Pictures in the form that `spec` asks for, in memory or mapped from a file.
    spec : InputSpec
        The model's input contract.
    look : callable
        From a prepared batch, and a function that lays one out in memory as the network is fastest with, to tensors
        with a row for each picture.
    chosen : ndarray of int64, shape (m,), or None, default=None
        Positions of the pictures to take; None takes all n of them.

    Returns
    -------
    list of Tensor
        As `look` gives them, for all pictures together; on the network's device.

    Examples
    --------
    >>> import numpy as np
    >>> pixels, spec = np.full((300, 1, 2, 2), 255, dtype=np.uint8), InputSpec(1, (2, 2), (2, 2))
    >>> brightness = in_batches(nn.Linear(1, 1), pixels, spec, lambda batch, lay_out: [batch.mean(dim=(1, 2, 3))])
    >>> len(brightness), brightness[0].shape, float(brightness[0].min())
    (1, torch.Size([300]), 1.0)
    """
    device = next(net.parameters()).device
    arithmetic = choose_arithmetic(device, "float32")
    if torch.get_num_threads() != arithmetic.threads:
        torch.set_num_threads(arithmetic.threads)
    was_training = net.training
    if was_training:  # only while it is being taught, which one thread does
        net.eval()
    gathered: list[Tensor] = []
    done, count = 0, len(pixels) if chosen is None else len(chosen)
    for batch in in_parts(pixels, _batch_size(device, spec), chosen):
        found = look(prepare(torch.from_numpy(batch).to(device), spec), arithmetic.lay_out)
        gathered = gathered or [one.new_empty(count, *one.shape[1:]) for one in found]
        for rows, one in zip(gathered, found, strict=True):
            rows[done : done + len(one)] = one
        done += len(batch)
    if was_training:
        net.train()
    return gathered


def _batch_size(device: torch.device, spec: InputSpec) -> int:
    """Choose how many pictures to take at once."""
    if device.type != "cpu":
        return GPU_BATCH
    return max(1, min(CPU_BATCH, CPU_NUMBERS // (spec.channels * math.prod(spec.input_size))))
