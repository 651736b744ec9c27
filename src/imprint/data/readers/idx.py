"""Images in IDX files, MNIST's original format: yann.lecun.com/exdb/mnist, "The IDX file format"."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy import ndarray

from imprint.core.errors import DataError
from imprint.data.decoding.content import gunzip
from imprint.data.images import LabelledImages, encode_labels

UNSIGNED_BYTE = 0x08
REMEDY = "Download it again, or name the right file."


def read_idx(path: Path) -> LabelledImages:
    """Read an IDX file of images, plain or gzipped; beside ``train-images-idx3…`` it finds ``train-labels-idx1…``.

    n × height × width, or with 3 channels last. Sources are the file's name and the image's number from 1.
    """
    array = _read_array(path)
    if array.ndim == 1:
        raise DataError("labels", path.name, "the file holds labels, not images", "Name the file of the images.")
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[3] not in (1, 3) or not array.size:
        raise DataError(
            f"shape {array.shape}", path.name, "that is no stack of images", "Give n × height × width bytes."
        )
    labels, class_names = None, tuple[str, ...]()
    beside = _labels_beside(path)
    if beside is not None:
        numbers = _read_array(beside)
        if numbers.shape != (len(array),):
            raise DataError(
                f"{numbers.size} labels", beside.name, f"{path.name} holds {len(array)} images", "Pair the files."
            )
        labels, class_names = encode_labels(numbers.astype(str))
    sources = np.array([f"{path.name}#{i}" for i in range(1, len(array) + 1)])
    pixels = array.transpose(0, 3, 1, 2).copy()  # the file's own bytes are read-only, which torch warns of
    return LabelledImages(pixels, labels, class_names, sources, path.name)


def is_idx(path: Path) -> bool:
    """Tell an existing IDX file by its name or first bytes."""
    if "-idx" in path.name or ".idx" in path.name:
        return True
    with open(path, "rb") as file:
        start = file.read(4)
    return start[:3] == bytes([0, 0, UNSIGNED_BYTE]) and len(start) == 4


def _labels_beside(path: Path) -> Path | None:
    """Find the file of labels that belongs to a file of images."""
    name = path.name.removesuffix(".gz").replace("images", "labels")
    for dimensions in ("idx3", "idx4"):
        name = name.replace(dimensions, "idx1")
    candidates = [path.with_name(name), path.with_name(f"{name}.gz")]
    return next((file for file in candidates if file.is_file() and file.name != path.name), None)


def _read_array(path: Path) -> ndarray:
    """Read the one array that an IDX file holds."""
    content = gunzip(path.read_bytes(), path.name)
    if len(content) < 4 or content[:2] != b"\0\0":
        raise DataError("first bytes", path.name, "they are not those of an IDX file", REMEDY)
    if content[2] != UNSIGNED_BYTE:
        raise DataError(f"type {content[2]:#04x}", path.name, "only unsigned bytes (0x08) are pixels", REMEDY)
    dimensions = content[3]
    start = 4 + 4 * dimensions
    shape = np.frombuffer(content[4:start][: 4 * (len(content[4:start]) // 4)], dtype=">u4").tolist()
    if len(shape) < dimensions or len(content) != start + math.prod(shape):
        claim = f"its header claims {' × '.join(map(str, shape))} bytes, {max(len(content) - start, 0):,} are there"
        raise DataError("length", path.name, claim, REMEDY)
    if dimensions > 4 or 0 in shape:
        form = " × ".join(map(str, shape[:9]))
        raise DataError(f"shape {form}", path.name, "that is no stack of images", "Give n × height × width bytes.")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)
