"""Images in CIFAR's binary version: cs.toronto.edu/~kriz/cifar.html, "Binary version".

A record is one byte for the class (in CIFAR-100 two, coarse and fine), then 32 × 32 bytes each of red, green and blue.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from imprint.core.errors import DataError
from imprint.data.images import LabelledImages, encode_labels

SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32
# The label bytes before an image, the classes that the last of them may name, and the file that names these.
VERSIONS = ((1, 10, "batches.meta.txt"), (2, 100, "fine_label_names.txt"))
COARSE_CLASSES = 20
DOWNLOAD = "Download it again."


def read_cifar(paths: Sequence[Path], name: str) -> LabelledImages:
    """Read batches of CIFAR-10 or CIFAR-100 (its fine classes) as one; names of classes come from the text file beside.

    Sources are the file's name and the image's number from 1.
    """
    batches = [_read_batch(path) for path in paths]
    versions = {version for version, _ in batches}
    if len(versions) > 1:
        raise DataError("batches", name, "they are of CIFAR-10 and of CIFAR-100", "Name the folder of one.")
    records = np.concatenate([batch for _, batch in batches]) if len(batches) > 1 else batches[0][1]
    label_bytes, _, names_file = VERSIONS[versions.pop()]
    labels, class_names = encode_labels(_class_names(records[:, label_bytes - 1], paths[0].with_name(names_file)))
    counts = [len(batch) for _, batch in batches]
    sources = [f"{path.name}#{i}" for path, count in zip(paths, counts, strict=True) for i in range(1, count + 1)]
    pixels = np.ascontiguousarray(records[:, label_bytes:]).reshape(-1, *SHAPE)
    return LabelledImages(pixels, labels, class_names, np.array(sources), name)


def may_be_cifar(name: str, size: int) -> bool:
    """Tell by name and size a file that may be a batch of CIFAR."""
    return name.lower().endswith(".bin") and size > 0 and any(size % (PIXELS + count) == 0 for count, *_ in VERSIONS)


def _read_batch(path: Path) -> tuple[int, UInt8[ndarray, "n bytes"]]:
    """Read records of the one version whose size and classes fit; gives which."""
    content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    for version, (label_bytes, classes, _) in enumerate(VERSIONS):
        if content.size and content.size % (label_bytes + PIXELS) == 0:
            records = content.reshape(-1, label_bytes + PIXELS)
            coarse_fits = label_bytes == 1 or records[:, 0].max() < COARSE_CLASSES
            if coarse_fits and records[:, label_bytes - 1].max() < classes:
                return version, records
    cause = f"{content.size:,} bytes are no records of CIFAR-10 (3,073 each) or CIFAR-100 (3,074 each)"
    raise DataError("batch", path.name, cause, DOWNLOAD)


def _class_names(numbers: UInt8[ndarray, " n"], file: Path) -> ndarray:
    """Give each image's class by name, or by number where no file names the classes."""
    if not file.is_file():
        return numbers.astype(str)
    names = file.read_text(encoding="utf-8", errors="replace").split()
    if numbers.max() >= len(names):
        cause = f"it names {len(names)} classes, and a label is {numbers.max()}"
        raise DataError("class names", file.name, cause, DOWNLOAD)
    return np.take(np.array(names), numbers)
