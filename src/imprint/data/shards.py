"""Shards of data that may be larger than memory: found one after another, each named by what it holds."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from imprint.core.progress import say
from imprint.data.decoding.image_list import ImageList
from imprint.data.images import LabelledImages
from imprint.data.load import find_images, parts, reading
from imprint.data.readers.arrays import is_array_folder
from imprint.data.readers.collection import SHARDED, find_collection, lone_table, scan_folder
from imprint.data.readers.folder import list_files, no_images, sampled_parts, walk
from imprint.data.readers.pattern import expand, is_pattern, kind_of_files
from imprint.data.split import TO_PREDICT
from imprint.preprocessing.input_spec import InputSpec

# Image files a shard. A shard ends after a file whose name says so, so that a new file changes one shard alone.
FEWEST, MOST, MEAN = 256, 1024, 256


@dataclass(frozen=True)
class Shard:
    """What one task predicts: some image files, or a file that holds many images, of whose parts `part` is meant.

    It can be sent to any process. A damaged file of many images does not end the rest where it `is_one_of_many`.
    """

    files: tuple[str, ...]
    is_container: bool = False
    part: str | None = None
    is_one_of_many: bool = False

    @property
    def name(self) -> str:
        """The name of its first file, without folders and endings."""
        return Path(self.files[0]).name.partition(".")[0] or "images"

    @property
    def digest(self) -> str:
        """BLAKE2b hash of its files' paths, sizes and times of change."""
        digest = hashlib.blake2b(repr((self.is_container, self.part)).encode(), digest_size=16)
        for file in self.files:
            digest.update(os.fsencode(f"{file}\0{_identity(file)}\0"))
        return digest.hexdigest()

    def open(self, spec: InputSpec) -> ImageList | LabelledImages:
        """List its images for a model; sources of a file's images begin with its path, as it was given."""
        if not self.is_container:
            return list_files(self.files, self.name)
        (file,) = self.files
        found, name = find_images(file, self.part, spec), Path(file).name
        if not isinstance(found, ImageList):
            return found
        left_out = tuple((_placed(source, name, file), cause) for source, cause in found.unreadable)
        return replace(found, sources=[_placed(source, name, file) for source in found.sources], unreadable=left_out)


def find_shards(data: str | Sequence[str]) -> Iterator[Shard]:
    """Find the shards of data without holding them all; folders are listed one after another.

    Of divided data the part to predict is taken. Raises DataError where there is nothing.
    """
    if not isinstance(data, str):
        yield from _cut(data)
        return
    if is_pattern(data):
        files = expand(data)
        whole = len(files) == 1 or kind_of_files(files, data) != "images"
        several = len(files) > 1
        yield from (Shard((file,), True, is_one_of_many=several) for file in files) if whole else _cut(files)
        return
    root = Path(data)
    if data == "digits" or not root.is_dir():
        with reading(data):
            if data != "digits":
                root.stat()
        yield Shard((data,), True, _part_of(data, parts(data)))
        return
    sizes = scan_folder(root)
    if (found := find_collection(sizes, data)) and found.kind in SHARDED:
        part = _part_of(data, found.parts)
        for file in found.choose(part, data):
            yield Shard((str(root / file),), True, is_one_of_many=True)
        return
    if found or is_array_folder(root) or lone_table(sizes):
        yield Shard((data,), True, _part_of(data, parts(data)))
        return
    divided = sampled_parts(root)
    part = _part_of(data, divided)
    shards = _cut(walk(str(root if part is None else root / divided[part])))
    if (first := next(shards, None)) is None:
        raise no_images(root)
    yield first
    yield from shards


def _part_of(data: str, divided: Iterable[str]) -> str | None:
    part = next((part for part in TO_PREDICT if part in divided), None)
    if part is not None:
        say(f"predicting the {part} part of {data}")
    return part


def _cut(files: Iterable[str]) -> Iterator[Shard]:
    held = list[str]()
    for file in files:
        held.append(file)
        ends = len(held) >= FEWEST and zlib.crc32(os.fsencode(file)) % MEAN == 0
        if ends or len(held) == MOST:
            yield Shard(tuple(held))
            held = []
    if held:
        yield Shard(tuple(held))


def _identity(file: str) -> str:
    """Tell a file's content by size and time of change; of a folder that is one data set, that of its files."""
    try:
        if os.path.isdir(file):  # noqa: PTH112
            return " ".join(_identity(os.path.join(file, name)) for name in sorted(scan_folder(Path(file))))  # noqa: PTH118
        status = os.stat(file)  # noqa: PTH116
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def _placed(source: str, name: str, file: str) -> str:
    """Write the path of a file for its name at the start of a source."""
    return f"{file}{source[len(name) :]}" if source.startswith((f"{name}/", f"{name}#")) else source
