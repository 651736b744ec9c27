"""Samples on disk: images decoded and encoded again, without metadata, each under the SHA-256 of its new bytes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray
from PIL import Image

from imprint.core.errors import DataError
from imprint.core.files import UNFINISHED
from imprint.data.decoding.content import image_error
from imprint.data.decoding.decode import PNG_START, decode, read_header

MAX_PIXELS = 40_000_000  # as serve's --max-pixels has it by default
LARGEST_SHORT_SIDE = 1024  # pixels that are kept; networks take 256
LARGEST_PNG = 400_000  # bytes; a photo that takes more without loss is kept as a JPEG
JPEG_QUALITY = 95
THUMBNAIL = 96  # pixels
JPEG_START = b"\xff\xd8\xff"
LOSSY_STARTS = (JPEG_START, b"RIFF")
# What our own encoder writes, and so what an archive may bring: no metadata, no previews, nothing behind the end.
JPEG_SEGMENTS = {0xE0, 0xDB, 0xC0, 0xC4, 0xDA}
PNG_CHUNKS = {b"IHDR", b"IDAT", b"IEND"}


@dataclass(frozen=True)
class Look:
    """What is remembered of a sample, so that hints need not decode it again.

    `light` is the 99th percentile of brightness, `print` 64 bits that tell which parts are brighter than their right
    neighbour.
    """

    width: int
    height: int
    channels: int
    light: int
    print: int
    size: int
    kind: str

    def to_dict(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Sample:
    """An image as it is stored."""

    sha: str
    content: bytes
    look: Look


def encode(content: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Sample:
    """Decode an image of any format that `load` reads, and encode it as PNG or JPEG without metadata.

    Upright, at most 1,024 pixels along its shorter side. Raises `DataError` for what is no image, damaged, or has more
    pixels than allowed, which its header tells.
    """
    height, width = read_header(content).size
    if height * width > max_pixels:
        cause = f"{width:,}×{height:,} pixels are more than the {max_pixels / 1e6:g} million that are taken"
        raise image_error(name, cause)
    pixels = decode(content, shorter=LARGEST_SHORT_SIDE).pixels
    return encode_pixels(pixels, lossy=content.startswith(LOSSY_STARTS))


def encode_pixels(pixels: ndarray, lossy: bool = False) -> Sample:
    """Encode pixels of 1 or 3 channels, the last: as a PNG, or where they came from a lossy file as a JPEG."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if min(image.size) > LARGEST_SHORT_SIDE:
        share = LARGEST_SHORT_SIDE / min(image.size)
        image = image.resize((round(image.width * share), round(image.height * share)), Image.Resampling.LANCZOS)
    encoded, kind = b"", "jpg"
    if not lossy:
        encoded, kind = _saved(image, "PNG"), "png"
    if not encoded or len(encoded) > LARGEST_PNG:
        encoded, kind = _saved(image, "JPEG", quality=JPEG_QUALITY, subsampling=0), "jpg"
    return Sample(hashlib.sha256(encoded).hexdigest(), encoded, look_at(np.asarray(image), len(encoded), kind))


def check_encoded(content: bytes, sha: str) -> Look:
    """Check that bytes of an archive are what `encode` writes; raises `DataError` where they are anything else."""
    if hashlib.sha256(content).hexdigest() != sha:
        raise DataError("sample", sha[:12], "its bytes have changed since it was saved", "Save the project again.")
    if not (_is_plain_jpeg(content) or _is_plain_png(content)):
        cause = "it is not an image as Imprint stores it"
        raise DataError("sample", sha[:12], cause, "Add the image itself instead.")
    height, width = read_header(content).size
    if height * width > MAX_PIXELS:
        raise DataError("sample", sha[:12], "it has more than 40 million pixels", "Add a smaller image instead.")
    pixels = decode(content).pixels
    kind = "png" if content.startswith(PNG_START) else "jpg"
    return look_at(pixels[..., 0] if pixels.shape[2] == 1 else pixels, len(content), kind)


def look_at(pixels: ndarray, size: int, kind: str) -> Look:
    """Measure what hints need."""
    grey = Image.fromarray(pixels).convert("L")
    small = np.asarray(grey.resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    bits = (small[:, :-1] > small[:, 1:] + 1).ravel()
    light = int(np.percentile(np.asarray(grey.resize((32, 32), Image.Resampling.BOX)), 99))
    number = int.from_bytes(np.packbits(bits).tobytes())
    channels = 1 if pixels.ndim == 2 else 3
    return Look(pixels.shape[1], pixels.shape[0], channels, light, number, size, kind)


class SampleStore:
    """The folder of samples: files are written whole and synced, and never changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)

    def path(self, sha: str, kind: str) -> Path:
        """Where a sample lies; both come from the journal, never from a request."""
        return self.folder / f"{sha}.{kind}"

    def write(self, samples: Iterable[Sample], at_once: bool = True) -> None:
        """Write samples and wait until they are on disk; raises OSError, and leaves none of the new ones, if not.

        Thousands are faster with ``at_once=False``, which leaves the waiting to the caller's `os.sync`.
        """
        written: list[Path] = []
        try:
            for sample in samples:
                path = self.path(sample.sha, sample.look.kind)
                if path.exists():
                    continue
                temporary = path.with_name(f".{path.name}{UNFINISHED}")
                written += [temporary, path]
                with open(temporary, "wb") as file:
                    file.write(sample.content)
                    file.flush()
                    if at_once:
                        os.fsync(file.fileno())
                temporary.replace(path)
            self._sync()
        except OSError:
            for path in written:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
            raise

    def read(self, sha: str, kind: str) -> bytes:
        """Read a sample's file."""
        return self.path(sha, kind).read_bytes()

    def thumbnail(self, sha: str, kind: str) -> bytes:
        """Make a JPEG of at most 96 pixels a side; a PNG of what is small already."""
        with Image.open(BytesIO(self.read(sha, kind))) as image:
            if max(image.size) <= THUMBNAIL:
                return _saved(image, "PNG")
            image.draft(None, (THUMBNAIL, THUMBNAIL))
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            return _saved(image.convert("RGB"), "JPEG", quality=80)

    def keep_only(self, names: set[str]) -> None:
        """Remove files that no line of the journal names: of a kill between writing and noting them."""
        for path in self.folder.iterdir():
            if path.name not in names:
                path.unlink(missing_ok=True)

    def _sync(self) -> None:
        if not hasattr(os, "O_DIRECTORY"):  # Windows cannot open a folder
            return
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _saved(image: Image.Image, form: str, **options: Any) -> bytes:
    file = BytesIO()
    plain = Image.new(image.mode, image.size)  # which has no EXIF, no colour profile and no text to write
    plain.paste(image)
    plain.save(file, form, **options)
    return file.getvalue()


def _is_plain_jpeg(content: bytes) -> bool:
    """Whether a JPEG holds only the segments that decoding needs, and ends with its end marker."""
    if not content.startswith(JPEG_START) or not content.endswith(b"\xff\xd9"):
        return False
    place = 2
    while place + 4 <= len(content):
        marker, length = content[place + 1], struct.unpack_from(">H", content, place + 2)[0]
        if content[place] != 0xFF or marker not in JPEG_SEGMENTS:
            return False
        if marker == 0xE0 and content[place + 4 : place + 9] != b"JFIF\0":
            return False
        place += 2 + length
        if marker == 0xDA:  # after it only compressed pixels, in which a marker can only be the end
            scan = content[place:-2]
            return all(part[:1] == b"\0" for part in scan.split(b"\xff")[1:])
    return False


def _is_plain_png(content: bytes) -> bool:
    """Whether a PNG holds only the chunks that decoding needs, and nothing behind its end."""
    if not content.startswith(PNG_START):
        return False
    place = len(PNG_START)
    while place + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        if kind not in PNG_CHUNKS:
            return False
        place += 12 + length
        if kind == b"IEND":
            return bool(place == len(content))
    return False
