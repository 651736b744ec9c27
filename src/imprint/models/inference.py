"""Inference: many images through a network for probabilities, embeddings, uncertainty and test-time augmentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64, Shaped, UInt8
from numpy import ndarray
from torch import Tensor, nn

from imprint.core.memmap import in_chunks
from imprint.models.backbones import EfficientNetLite
from imprint.models.hardware import (
    CHANNELS_LAST,
    ROWS,
    ComputeConfig,
    Workload,
    choose_compute_config,
    is_out_of_memory,
)
from imprint.models.layers import ConvNet, members_of
from imprint.models.ood import MahalanobisScore, logits_and_embeddings
from imprint.preprocessing.input_spec import InputSpec, cpu_batch_size
from imprint.preprocessing.prepare import prepare

GPU_BATCH = 4096
DETECTED_AT_ONCE = 8192  # images: of 1,000 classes an OOD detector gives 20 kB for each
COMPARED_AT_ONCE = 512  # images
GRADUAL = 0.01  # of confidence below the limit, over which the other versions of an image come to count in full
NEAREST = 1e-12  # distance that still has a logarithm
LEAST = 0.5  # confidence; less adds no more uncertainty
DETECTOR_WEIGHT = 0.2  # of the OOD detector's uncertainty; 0.1 to 0.3 found as much (docs/log)
LEAST_DETECTED = 1e-3  # probability of being in-distribution; less adds no more uncertainty

ToLayout = Callable[[Float[Tensor, "n c h w"]], Tensor]
RunBatch = Callable[[Float32[Tensor, "n c h w"], ToLayout], Sequence[Shaped[Tensor, "n ..."]]]


def network_compute_config(
    network: nn.Module, device: torch.device, precision: str = "float32", workload: Workload | None = None
) -> ComputeConfig:
    """Choose how to compute a network: as the machine is fastest, in any memory layout, where all of it is our own.

    Of networks that others wrote, images stay rows first: their operations may not know oneDNN's own layout, and
    ``view`` fails channels last. EfficientNet runs twice as fast channels last, its depthwise convolutions above all.
    """
    members = members_of(network)
    known = all(isinstance(member, ConvNet | EfficientNetLite) for member in members)
    exact = next(network.parameters()).dtype == torch.float64  # while it is being trained so
    config = choose_compute_config(device, "float64" if exact else precision, workload if known else None)
    if all(isinstance(member, ConvNet) for member in members):
        return config
    return replace(config, layout=CHANNELS_LAST if known else ROWS)


@torch.inference_mode()
def in_batches(
    network: nn.Module,
    pixels: UInt8[ndarray, "n c h w"],
    spec: InputSpec,
    run: RunBatch,
    chosen: Int64[ndarray, " m"] | None = None,
) -> list[Shaped[Tensor, "m ..."]]:
    """Prepare images (all, or those at the positions `chosen`) batch by batch, and gather what `run` makes of each.

    `run` gets a prepared batch and a function that lays it out in memory as the network is fastest with, and gives
    tensors with a row for each image. The network is in evaluation mode meanwhile.
    """
    # Results of a batch are copied to their place at once. Kept batch by batch, they came to lie between the network's
    # large tensors, whose memory could then not be used again: that of photos grew from 0.6 to 1.6 GB.
    weight = next(network.parameters())
    device = weight.device
    compute = network_compute_config(network, device)

    def to_layout(prepared: Float32[Tensor, "n c h w"]) -> Tensor:
        return compute.to_layout(prepared.to(weight.dtype))

    was_training = network.training
    if was_training:  # only while it is being trained, which one thread does
        network.eval()
    gathered: list[Tensor] = []
    done, count = 0, len(pixels) if chosen is None else len(chosen)
    size = cpu_batch_size(spec) if device.type == "cpu" else GPU_BATCH
    for batch in in_chunks(pixels, size, chosen):
        found = _within_memory(run, torch.from_numpy(batch).to(device), spec, to_layout)
        gathered = gathered or [one.new_empty(count, *one.shape[1:]) for one in found]
        for rows, one in zip(gathered, found, strict=True):
            rows[done : done + len(one)] = one
        done += len(batch)
    if was_training:
        network.train()
    return gathered


def _within_memory(
    run: RunBatch, pixels: UInt8[Tensor, "n c h w"], spec: InputSpec, to_layout: ToLayout
) -> Sequence[Shaped[Tensor, "n ..."]]:
    """Run a batch; where it is too much for the device's memory, one half after the other."""
    try:
        return run(prepare(pixels, spec), to_layout)
    except RuntimeError as error:
        if len(pixels) < 2 or not is_out_of_memory(error):
            raise
    halves = [_within_memory(run, half, spec, to_layout) for half in pixels.chunk(2)]
    return [torch.cat(parts) for parts in zip(*halves, strict=True)]


def predict_probabilities(
    network: nn.Module, pixels: UInt8[ndarray, "n c h w"], spec: InputSpec
) -> Float32[ndarray, "n classes"]:
    """Compute the softmax of a network's logits, without augmentation or dropout, in float32."""
    return _mean_probabilities(network, pixels, spec, None, other_versions=lambda prepared: [])


def predict_with_embeddings(
    network: nn.Module,
    pixels: UInt8[ndarray, "n c h w"],
    spec: InputSpec,
    chosen: Int64[ndarray, " m"] | None = None,
) -> tuple[Float32[ndarray, "m classes"], Float32[Tensor, "m features"]]:
    """Compute probabilities as `predict_probabilities` does, and on the way the embeddings for the OOD score.

    The embeddings, see `ood.logits_and_embeddings`, stay on the network's device.
    """
    run = partial(_probabilities_and_embeddings, network)
    probabilities, embeddings = in_batches(network, pixels, spec, run, chosen)
    return probabilities.cpu().numpy(), embeddings


def _probabilities_and_embeddings(network: nn.Module, prepared: Tensor, to_layout: ToLayout) -> Sequence[Tensor]:
    logits, embeddings = logits_and_embeddings(network, to_layout(prepared))
    return logits.softmax(dim=1), embeddings


def apply_tta(
    network: nn.Module,
    pixels: UInt8[ndarray, "n c h w"],
    spec: InputSpec,
    views: str,
    found: Float32[ndarray, "n classes"],
    tta_below: float,
) -> Float32[ndarray, "n classes"]:
    """Average the probabilities `found` with those of an image's other versions where confidence is below `tta_below`.

    Just below the limit the average comes in gradually: were it a switch, another machine's rounding could turn an
    answer about. `views` is a key of `TTA_VIEWS`, or "none".
    """
    confidence = found.max(axis=1)
    hesitant = np.flatnonzero(confidence < tta_below)
    if views == "none" or not len(hesitant):
        return found
    averaged = _mean_probabilities(network, pixels, spec, hesitant, TTA_VIEWS[views])
    share = ((tta_below - confidence[hesitant, None]) / GRADUAL).clip(max=1)
    probabilities = found.copy()
    probabilities[hesitant] += share * (averaged - found[hesitant])
    return probabilities


def _mean_probabilities(
    network: nn.Module,
    pixels: UInt8[ndarray, "n c h w"],
    spec: InputSpec,
    chosen: Int64[ndarray, " m"] | None,
    other_versions: Callable[[Float32[Tensor, "n c h w"]], list[Float32[Tensor, "n c h w"]]],
) -> Float32[ndarray, "m classes"]:
    """Average the probabilities of each prepared image and its other versions."""
    run = partial(_mean_of_versions, network, other_versions)
    return in_batches(network, pixels, spec, run, chosen)[0].cpu().numpy()


def _mean_of_versions(
    network: nn.Module,
    other_versions: Callable[[Float32[Tensor, "n c h w"]], list[Float32[Tensor, "n c h w"]]],
    prepared: Tensor,
    to_layout: ToLayout,
) -> Sequence[Tensor]:
    versions = (prepared, *other_versions(prepared))
    each = [network(to_layout(version)).float().softmax(dim=1) for version in versions]
    return [torch.stack(each).mean(dim=0)]


def in_distribution(
    ood_detector: nn.Module, pixels: UInt8[ndarray, "n c h w"], spec: InputSpec, predicted: Int64[ndarray, " n"]
) -> Float32[ndarray, " n"]:
    """Compute an OOD detector's probability that each image is of its predicted class, neither of another nor OOD."""
    parts = zip(in_chunks(pixels, DETECTED_AT_ONCE), in_chunks(predicted, DETECTED_AT_ONCE), strict=True)
    known = [predict_probabilities(ood_detector, part, spec)[np.arange(len(part)), classes] for part, classes in parts]
    return np.concatenate(known)


def uncertainty_score(
    score: MahalanobisScore,
    probabilities: Float32[ndarray, "n classes"],
    distances: Float32[Tensor, " n"],
    known: Float32[ndarray, " n"] | None = None,
) -> Float32[ndarray, " n"]:
    """Join the reasons to be unsure: a class no likelier than others, and an image unlike those trained on.

    ``ln(distance / max(confidence, 1/2))``, with calibrated `probabilities` and the score's `distances`; the distance
    alone where the score decides alone.
    """
    # Below one half another class may be as likely, and uncertainty rises no further; else OOD images would hide behind
    # a weak model's hard ones. With an OOD detector, ``-ln(max(known, 1/1000)) / 5`` of `in_distribution` is added.
    # Nothing in it is fitted: only the limit is chosen.
    far = distances.clamp_min(NEAREST).log().cpu().numpy()
    uncertainty = far if score.decides_alone else far - np.log(probabilities.max(axis=1).clip(min=LEAST))
    return np.asarray(
        uncertainty if known is None else uncertainty - DETECTOR_WEIGHT * np.log(known.clip(min=LEAST_DETECTED))
    )


def features(
    network: nn.Module,
    pixels: UInt8[ndarray, "n c h w"],
    spec: InputSpec,
    chosen: Int64[ndarray, " m"] | None = None,
) -> Float32[Tensor, "m features"]:
    """Compute each image's penultimate-layer embedding, scaled to length 1, on the CPU.

    The product of two rows is the cosine of the angle between them. The members' of an ensemble are concatenated.
    """
    return in_batches(network, pixels, spec, partial(_unit_embeddings, network), chosen)[0].cpu()


def head_inputs(
    network: nn.Module, pixels: UInt8[ndarray, "n c h w"], spec: InputSpec, chosen: Int64[ndarray, " m"]
) -> Float32[Tensor, "m features"]:
    """Compute what the last layer of a network gets of each image, on the CPU."""

    def run(prepared: Tensor, to_layout: ToLayout) -> Sequence[Tensor]:
        return [_penultimate(network, to_layout(prepared))]

    return in_batches(network, pixels, spec, run, chosen)[0].cpu()


def _unit_embeddings(network: nn.Module, prepared: Tensor, to_layout: ToLayout) -> Sequence[Tensor]:
    parts = [F.normalize(_penultimate(member, to_layout(prepared))) for member in members_of(network)]
    return [F.normalize(torch.cat(parts, dim=1))]


def _penultimate(network: nn.Module, prepared: Tensor) -> Float32[Tensor, "n features"]:
    follows_protocol = cast(Any, network)
    embedding: Tensor = follows_protocol.forward_head(follows_protocol.forward_features(prepared), pre_logits=True)
    return embedding.float().flatten(1)


def nearest(
    of: Float32[Tensor, "n features"], among: Float32[Tensor, "m features"], count: int
) -> tuple[Int64[ndarray, "n count"], Float32[ndarray, "n count"]]:
    """Find the images whose embeddings of `features` are most alike: positions in `among`, the nearest first.

    Their distances go from 0 (the same) to 2 (opposite). There are fewer than `count` where `among` has no more.
    """
    count = min(count, len(among))
    found = [(rows @ among.T).topk(count, dim=1) for rows in of.split(COMPARED_AT_ONCE)]
    cosines = torch.cat([values for values, _ in found]).clamp(max=1)
    return torch.cat([places for _, places in found]).numpy(), (2 - 2 * cosines).sqrt().numpy()


def shifted(images: Float[Tensor, "n c h w"]) -> list[Float[Tensor, "n c h w"]]:
    """Shift images by a 28th of their height and width, at least a pixel, in the eight directions; edges repeat."""
    height, width = images.shape[2:]
    down, across = max(1, round(height / 28)), max(1, round(width / 28))
    padded = F.pad(images, (across, across, down, down), mode="replicate")
    shifts = [(y, x) for y in (-down, 0, down) for x in (-across, 0, across) if (y, x) != (0, 0)]
    return [padded[:, :, down + y :, across + x :][:, :, :height, :width] for y, x in shifts]


def mirrored(images: Float[Tensor, "n c h w"]) -> list[Float[Tensor, "n c h w"]]:
    """Flip images horizontally."""
    return [images.flip(3)]


TTA_VIEWS = {"shifts": shifted, "hflip": mirrored}
