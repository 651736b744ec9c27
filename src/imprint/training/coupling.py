"""Coupling: layers that look at a batch as a whole, for a batch that several processes share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from imprint.models.layers import Dropout
from imprint.training.distributed import Crew
from imprint.training.graph import Step

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@contextmanager
def coupled(network: nn.Module, crew: Crew, batch_size: int) -> Iterator[None]:
    """Let batch normalisation and dropout see whole batches of all processes in this block; weights are shared.

    Of other layers of somebody's own network that look beyond an image, each process has its own part alone.
    """
    replaced: list[tuple[nn.Module, str, Any]] = []
    rows = crew.share(batch_size)
    for parent in network.modules() if crew.size > 1 else ():
        for name, layer in parent.named_children():
            if type(layer) in PLAIN and layer.affine and layer.track_running_stats:
                replaced.append((parent, name, layer))
            if isinstance(layer, Dropout):
                layer.whole, layer.first = batch_size, rows.start
    for parent, name, layer in replaced:
        setattr(parent, name, GlobalBatchNorm(layer, crew, batch_size))
    try:
        yield
    finally:
        for parent, name, layer in replaced:
            setattr(parent, name, layer.train(parent.training))
        for layer in network.modules():
            if isinstance(layer, Dropout):
                layer.whole, layer.first = 0, 0


def with_own_draws(step: Step, crew: Crew, device: torch.device) -> Step:
    """Let each process draw its own numbers within a step, for layers that know nothing of the others.

    What is drawn outside of it stays the same in all of them.
    """
    devices = [device] if device.type == "cuda" else []

    def apart(*inputs: Any) -> Sequence[Tensor]:
        seed = int(torch.randint(2**31, ()))
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed + crew.rank)
            return step(*inputs)

    return apart


class GlobalBatchNorm(nn.Module):
    """Batch normalisation by the mean and variance of the whole batch, of which this process has some rows.

    It has the weights and running statistics of the `plain` layer that it stands for. torch's own SyncBatchNorm does
    the same on GPUs alone, and sends each layer's numbers twice.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, plain: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d, crew: Crew, batch_size: int) -> None:
        super().__init__()
        self.weight, self.bias = plain.weight, plain.bias
        for name, buffer in plain.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        self.eps, self.momentum = plain.eps, plain.momentum
        self.crew, self.batch_size = crew, batch_size
        self.train(plain.training)

    def forward(self, activations: Float[Tensor, "n c *rest"]) -> Float[Tensor, "n c *rest"]:
        """Normalise; in evaluation by the running statistics, as `plain` does."""
        if not self.training:
            running = self.running_mean, self.running_var
            return F.batch_norm(activations, *running, weight=self.weight, bias=self.bias, eps=self.eps)
        mean, variance, count = self._statistics(activations.detach())
        with torch.no_grad():
            self.num_batches_tracked += 1
            momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), momentum)
        given = activations, self.weight, self.bias, mean, variance, self.eps, count, self.crew
        normalised: Tensor = _Normalise.apply(*given)  # type: ignore[no-untyped-call]
        return normalised

    @torch.no_grad()
    def _statistics(self, own: Float[Tensor, "n c *rest"]) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"], int]:
        """Join the mean and variance of all processes' rows, and count the numbers behind each.

        Chan et al., "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
        """
        # By the operation behind torch's own layer: `var_mean` took 4 to 85 times as long on a CPU. It adds to running
        # statistics, too, here to some that nobody needs.
        unused = torch.zeros_like(self.weight), torch.zeros_like(self.weight)
        each = self.weight.new_zeros(self.crew.size, 2, len(self.weight))
        each[self.crew.rank] = torch.stack(torch.batch_norm_update_stats(own, *unused, 0.0))
        means, variances = self.crew.add_up([each])[0].unbind(1)
        numbers = own[0, 0].numel()
        counts = [numbers * rows for rows in self.crew.shares(self.batch_size)]
        weights = each.new_tensor(counts)[:, None] / sum(counts)
        mean = (weights * means).sum(dim=0)
        return mean, (weights * (variances + (means - mean) ** 2)).sum(dim=0), sum(counts)


class _Normalise(torch.autograd.Function):
    """Normalise by statistics of the whole batch, through which the gradient flows too."""

    @staticmethod
    def forward(
        context: Any,
        activations: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        variance: Tensor,
        eps: float,
        count: int,
        crew: Crew,
    ) -> Tensor:
        context.save_for_backward(activations, weight, mean, variance)
        context.eps, context.count, context.crew = eps, count, crew
        return F.batch_norm(activations, mean, variance, weight, bias, eps=eps)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        activations, weight, mean, variance = context.saved_tensors
        # As if mean and variance were given; this gives the sums over the own rows of the gradient and of its product
        # with the normalised activations.
        direct, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, activations, weight, mean, variance, None, None, False, context.eps, [True, True, True]
        )
        # What the gradient loses through them, each an average over the whole batch (Ioffe and Szegedy,
        # arXiv:1502.03167, section 3).
        sums = torch.stack(context.crew.add_up([by_weight, by_bias])) / context.count
        scale = -weight * (variance + context.eps).rsqrt()
        lost = F.batch_norm(activations, mean, variance, scale * sums[0], scale * sums[1], eps=context.eps)
        return direct.add_(lost), by_weight, by_bias, None, None, None, None, None
