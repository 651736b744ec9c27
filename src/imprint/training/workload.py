"""Workload: one network's training step, timed in each way that a GPU may compute it."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from torch import Tensor

from imprint.models.hardware import CHANNELS_LAST, ComputeConfig, Workload
from imprint.models.networks import build_network
from imprint.training.graph import WARM_UP, RecordedStep, Step
from imprint.training.plan import Plan

TIMED_SECONDS, MOST_STEPS = 0.03, 100  # of each way


def training_workload(name: str, plan: Plan) -> Workload:
    """Give the forward and backward passes of a recipe's network, by its own batches, sizes and classes."""
    batch_size, classes = min(plan.recipe.batch_size, len(plan.training)), len(plan.images.class_names)
    shape = (batch_size, plan.spec.channels, *plan.spec.input_size)

    def seconds(config: ComputeConfig) -> float:
        with torch.random.fork_rng([plan.device] if plan.device.type == "cuda" else []):
            try:
                return _time_passes(name, shape, classes, config, plan.device)
            except RuntimeError:  # not on this GPU, or not enough memory
                return float("inf")

    return Workload(f"{name}-{'x'.join(map(str, (*shape, classes)))}", seconds)


def _time_passes(name: str, shape: tuple[int, ...], classes: int, config: ComputeConfig, device: torch.device) -> float:
    """Time a step that is replayed as training will replay it, without its start from Python."""
    network = build_network(name, shape[1], (shape[2], shape[3]), classes).to(device)
    if config.layout == CHANNELS_LAST:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def passes(batch: Tensor, targets: Tensor) -> list[Tensor]:
        network.zero_grad()
        with config.autocast(device):
            logits = network(config.to_layout(batch)).float()
        loss = F.cross_entropy(logits, targets)
        loss.backward()
        return [loss.detach()]

    step: Step = RecordedStep(passes, device) if device.type == "cuda" else passes
    inputs = torch.rand(shape, device=device), torch.randint(classes, shape[:1], device=device)

    def timed(steps: int) -> float:
        started = time.perf_counter()
        for _ in range(steps):
            (loss,) = step(*inputs)
        float(loss)  # makes Python wait until the GPU is done
        return time.perf_counter() - started

    timed(WARM_UP + 1)
    steps = int(max(1, min(MOST_STEPS, TIMED_SECONDS / timed(1))))
    return timed(steps) / steps
