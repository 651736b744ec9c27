"""From an image as it came to an answer, as `imprint predict` gives it: decode, fit, run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from imprint.core.errors import DataError
from imprint.core.progress import shown
from imprint.data.decoding.decode import decode_in_thread
from imprint.data.readers.arrays import array_images
from imprint.preprocessing.glyph import which_hold
from imprint.preprocessing.input_spec import InputSpec, fit
from imprint.serve.bodies import MAX_IMAGES, Numbers, Upload, check_pixels, png_size
from imprint.serve.engine import Engine
from imprint.serve.heat import drawn, occlusion
from imprint.serve.problems import Problem

TINY_SIDE = 64  # pixels
TINY_BYTES = 2**14
# Estimated seconds of CPU (docs/log/serving.md): of a tiny image, of finding ink, and of decoding and scaling.
TINY_COST, GLYPH_COST, BYTE_COST, PIXEL_COST = 0.00015, 0.015, 1e-8, 4e-9


def estimate_cost(image: Upload | UInt8[ndarray, "k h w"], spec: InputSpec) -> float:
    """Estimate the seconds of CPU that an image takes, from its header; what is above `TINY_COST` is not tiny."""
    if isinstance(image, Upload):
        size = png_size(image.content)
        tiny = size is not None and max(size) <= TINY_SIDE and len(image.content) <= TINY_BYTES
        pixels = len(image.content) * 8 if size is None else min(size[0] * size[1], 10**8)
    else:
        size, pixels = image.shape[1:], image[0].size
        tiny = max(size) <= TINY_SIDE
    if tiny and max(spec.input_size) <= TINY_SIDE and (spec.glyph is None or size == spec.image_size):
        return TINY_COST
    network = TINY_COST if max(spec.input_size) <= TINY_SIDE else 1e-7 * spec.input_size[0] * spec.input_size[1]
    return network + pixels * PIXEL_COST + (0 if spec.glyph is None else GLYPH_COST)


def as_pixels(numbers: Numbers, spec: InputSpec) -> UInt8[ndarray, "n k h w"]:
    """Bring numbers into brightness as `imprint.load` does; raises a `Problem` for too many images."""
    with shown(verbose=False):
        images = array_images(numbers.array, spec, numbers.name or "pixels")
    if len(images) > MAX_IMAGES:
        raise Problem(413, "Too many images", f"A request has at most {MAX_IMAGES} images, and not {len(images):,}.")
    return images.pixels


def decode_for(upload: Upload, spec: InputSpec, max_pixels: int) -> UInt8[ndarray, "h w k"]:
    """Decode a file as `imprint.load` does for this model; raises `DataError`."""
    check_pixels(upload.content, max_pixels, upload.name or "the image")
    shorter = 0 if spec.glyph is not None else 2 * max(spec.image_size)
    return decode_in_thread(
        upload.content, shorter=shorter, pixel_range=spec.pixel_range, background=spec.background
    ).pixels


def slow_to_fit(images: Sequence[Any], spec: InputSpec) -> Iterator[bool]:
    """Tell for each decoded image [h, w, k] whether ink must be found in it, since it has not the model's form."""
    if spec.glyph is None:
        return iter([False] * len(images))
    slow = np.ones(len(images), dtype=bool)
    for channels in (1, 3):
        shape = (*spec.image_size, channels)
        found = [i for i, image in enumerate(images) if image.shape == shape]
        if found:  # together, which takes a tenth of the time
            slow[found] = ~which_hold(np.stack([images[i] for i in found]).transpose(0, 3, 1, 2), spec.glyph)
    return iter(slow.tolist())


def fitted(image: UInt8[ndarray, "h w k"], spec: InputSpec) -> UInt8[ndarray, "c H W"]:
    """Bring a decoded image into the model's form."""
    if spec.glyph is None and image.shape == (*spec.image_size, spec.channels):
        return image.transpose(2, 0, 1)
    return fit(image, spec)


def explain(content: bytes, engine: Engine, max_pixels: int) -> bytes | None:
    """Give a PNG of an image as a model sees it, orange where covering it takes the answer away; None where nowhere."""
    spec = engine.spec
    image = fitted(decode_for(Upload("the image", content), spec, max_pixels), spec)
    label = int(engine.probabilities(image[None])[0].argmax())
    ground = np.median(image, axis=(1, 2)) if spec.glyph is None else spec.glyph.ground
    heat = occlusion(image, ground, lambda pixels: engine.probabilities(pixels)[:, label])
    if heat is None:
        return None
    file = BytesIO()
    drawn(image.transpose(1, 2, 0), heat).save(file, "PNG")
    return file.getvalue()


def problem_entry(error: DataError, name: str) -> dict[str, Any]:
    """Tell within a batch why an image has no answer."""
    return Problem.of(error, name or "the image").to_dict()
