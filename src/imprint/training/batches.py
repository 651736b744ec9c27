"""Batches: images on their way to the network, taken from where they lie, augmented, and split."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from imprint.core.memmap import read_ahead, take_rows
from imprint.core.progress import say
from imprint.models.hardware import free_memory
from imprint.preprocessing.prepare import normalise, scale, standardise
from imprint.training.augmentation import Rows, augment
from imprint.training.plan import Plan

# Numbers augmented at once on a CPU: small tensor operations take longer to start than to do, large ones leave its
# cache. A GPU augments a whole epoch where memory allows, of images that are sent to it less: the next are on their way
# meanwhile.
AUGMENTED_NUMBERS = 8 * 256 * 28 * 28
SENT_NUMBERS = 16 * AUGMENTED_NUMBERS
SENT_AHEAD = 2  # lots of images
READ_AHEAD = 2  # more of them, which the system fetches from disk meanwhile
BYTES_A_NUMBER = 64  # of a GPU's memory while it augments: sixteen copies in float32
RESIDENT_SHARE = 0.4  # of a GPU's free memory that images may fill for good

Item = TypeVar("Item")


def place_images(pixels: UInt8[Tensor, "n c h w"], device: torch.device) -> UInt8[Tensor, "n c h w"]:
    """Copy images to a device; those too many for a GPU's memory stay, and are sent as they are needed."""
    if device.type == "cuda" and pixels.nbytes > RESIDENT_SHARE * free_memory(device):
        say(f"images: {pixels.nbytes / 1e9:.1f} GB, too many for the GPU's memory; sent batch by batch")
        return pixels
    return pixels.to(device)


def iterate_batches(
    pixels: UInt8[Tensor, "n c h w"],
    labels: Int64[Tensor, " n"],
    order: Int64[Tensor, " drawn"],
    batch_size: int,
    plan: Plan,
) -> Iterator[tuple[Float[Tensor, "own c h w"], Int64[Tensor, " own"]]]:
    """Yield the own rows of batches of augmented images and their labels; several batches are augmented at once."""
    crew, at_once = plan.crew, _batches_at_once(pixels, batch_size, plan)
    own = crew.own_rows(order, batch_size)  # of several processes each computes some rows of every batch
    own_size = len(own) * batch_size // len(order)
    lots = own.split(own_size * at_once)
    for images, chosen in zip(_taken(pixels, own, len(lots[0]), plan), lots, strict=True):
        total = len(chosen) // own_size * batch_size
        rows = Rows(total, None if crew.size == 1 else crew.own_rows(torch.arange(total), batch_size).to(plan.device))
        ready = normalise(scale(images, plan.spec)).to(plan.dtype)
        augmented = standardise(augment(ready, plan.recipe, rows), plan.spec)
        yield from zip(augmented.split(own_size), labels[chosen].split(own_size), strict=True)


def _batches_at_once(pixels: UInt8[Tensor, "n c h w"], batch_size: int, plan: Plan) -> int:
    """Count the batches that are augmented at once."""
    numbers = AUGMENTED_NUMBERS
    if plan.device.type == "cuda":
        # How many decides which random numbers an image gets: the same bytes twice need a number that is always the
        # same, such as the whole memory.
        memory = free_memory(plan.device, all_of_it=plan.recipe.deterministic == "yes")
        numbers = max(numbers, memory // (2 * BYTES_A_NUMBER)) if pixels.device == plan.device else SENT_NUMBERS
    return max(1, numbers // (batch_size * plan.spec.channels * math.prod(plan.spec.input_size)))


def _taken(
    pixels: UInt8[Tensor, "n c h w"], order: Int64[Tensor, " drawn"], size: int, plan: Plan
) -> Iterator[UInt8[Tensor, "some c h w"]]:
    """Yield the images in their order, so many at once, on the device that computes."""
    lots = order.to(pixels.device).split(size)
    taken = (_take(pixels, chosen, plan) for chosen in ahead(_asked_for(lots, pixels, plan), READ_AHEAD))
    return taken if pixels.device == plan.device else _sent(taken, plan.device)


def _asked_for(
    lots: Sequence[Int64[Tensor, " _"]], pixels: UInt8[Tensor, "n c h w"], plan: Plan
) -> Iterator[Int64[Tensor, " _"]]:
    """Yield the positions of lots of images; of memory-mapped ones the system fetches the pixels from then on."""
    for chosen in lots:
        if pixels.device.type == "cpu":
            read_ahead(plan.images.pixels, chosen.numpy())
        yield chosen


def _take(pixels: UInt8[Tensor, "n c h w"], chosen: Int64[Tensor, " some"], plan: Plan) -> UInt8[Tensor, "some c h w"]:
    """Copy some images; of memory-mapped ones little else is held in memory meanwhile."""
    if pixels.device.type == "cpu" and isinstance(plan.images.pixels, np.memmap):
        return torch.from_numpy(take_rows(plan.images.pixels, chosen.numpy()))
    return pixels[chosen]


def _sent(lots: Iterator[UInt8[Tensor, "some c h w"]], device: torch.device) -> Iterator[UInt8[Tensor, "some c h w"]]:
    """Send lots of images to a GPU while it computes with earlier ones, `SENT_AHEAD` at most."""
    copying, computing = torch.cuda.Stream(device), torch.cuda.current_stream(device)

    def send(images: Tensor) -> tuple[Tensor, torch.cuda.Event]:
        with torch.cuda.stream(copying):
            return images.pin_memory().to(device, non_blocking=True), copying.record_event()

    finished: deque[torch.cuda.Event] = deque()
    for images, arrived in ahead(map(send, lots), SENT_AHEAD):
        computing.wait_event(arrived)
        images.record_stream(computing)  # until when its memory is in use
        yield images
        # Python stays one lot ahead of the GPU, else all of an epoch would come to wait in its memory.
        finished.append(computing.record_event())
        if len(finished) > 1:
            finished.popleft().synchronize()


def ahead(items: Iterator[Item], count: int) -> Iterator[Item]:
    """Yield items, of which `count` more have been made by then."""
    made = deque(islice(items, count + 1))
    while made:
        yield made.popleft()
        made.extend(islice(items, 1))
