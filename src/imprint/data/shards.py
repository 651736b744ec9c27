"""Shards of data that may be larger than memory: found one after another, each named by what it holds."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from urllib.parse import urlsplit

from imprint.core.errors import DataError
from imprint.core.progress import say
from imprint.data.decoding.image_list import ImageList
from imprint.data.images import LabelledImages
from imprint.data.load import find_images, parts, reading
from imprint.data.readers.collection import SHARDED, find_collection, lone_table, scan_folder
from imprint.data.readers.folder import is_system_file, list_files, may_be_image, no_images, sampled_parts, walk
from imprint.data.readers.layout import ARCHIVE_ENDINGS
from imprint.data.readers.npy import is_array_folder
from imprint.data.readers.pattern import expand, expand_address, is_pattern, kind_of_files
from imprint.data.remote import Remote, fetched_briefly, is_address, without_secrets
from imprint.data.split import TO_PREDICT
from imprint.preprocessing.input_spec import InputSpec

# Image files a shard. A shard ends after a file whose name says so, so that a new file changes one shard alone.
FEWEST, MOST, MEAN = 128, 512, 256
ASKED_AT_ONCE = 16
READ_AT_ONCE, HELD = 64, 4  # files at addresses, read together; that often they are held


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
        return Path(without_secrets(self.files[0]).rstrip("?…")).name.partition(".")[0] or "images"

    @property
    def digest(self) -> str:
        """BLAKE2b hash of its files' paths, sizes and times of change."""
        digest = hashlib.blake2b(repr((self.is_container, self.part)).encode(), digest_size=16)
        with ThreadPoolExecutor(ASKED_AT_ONCE if is_address(self.files[0]) else 1) as pool:
            for file, identity in zip(self.files, pool.map(_identity, self.files), strict=True):
                digest.update(os.fsencode(f"{file}\0{identity}\0"))
        return digest.hexdigest()

    @contextmanager
    def opened(self, spec: InputSpec) -> Iterator[ImageList | LabelledImages]:
        """List its images for a model; sources of a file's images begin with its path or address, as it was given.

        What lies at an address is copied for as long as the block lasts.
        """
        if not self.is_container:
            yield _list_remote(self.files) if is_address(self.files[0]) else list_files(self.files, self.name)
            return
        (file,) = self.files
        if is_address(file):
            with fetched_briefly(file) as copy:
                part = next((part for part in TO_PREDICT if part in parts(str(copy))), None)
                yield _placed(find_images(str(copy), part, spec), copy.name, without_secrets(file))
        else:
            yield _placed(find_images(file, self.part, spec), Path(file).name, file)


def find_shards(data: str | Sequence[str]) -> Iterator[Shard]:
    """Find the shards of data without holding them all; folders are listed one after another.

    Of divided data the part to predict is taken. Raises DataError where there is nothing.
    """
    if not isinstance(data, str):
        yield from _cut(data)
        return
    if is_address(data):
        yield from _find_remote(data)
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


def _find_remote(data: str) -> Iterator[Shard]:
    """Find the shards at an address, or at those that a pattern names, without copying what they hold."""
    addresses = expand_address(data)
    if len(addresses) == 1 and (remote := Remote.at(data)).is_folder:
        base = data if data.endswith("/") else f"{data}/"
        names = [name for name in remote.files() if not any(map(is_system_file, name.split("/")))]
        some = [name for name in names if name.lower().endswith((".parquet", *ARCHIVE_ENDINGS))]
        addresses = [f"{base}{name}" for name in some or names if some or may_be_image(name)]
        if not some:
            yield from _cut(addresses)
            return
    many = len(addresses) > 1
    if many and kind_of_files([urlsplit(one).path for one in addresses], without_secrets(data)) == "images":
        yield from _cut(addresses)
        return
    yield from (Shard((address,), True, is_one_of_many=many) for address in addresses)


def _part_of(data: str, divided: Iterable[str]) -> str | None:
    part = next((part for part in TO_PREDICT if part in divided), None)
    if part is not None:
        say(f"predicting the {part} part of {without_secrets(data)}")
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
    if is_address(file):
        with suppress(DataError):  # told when it is read
            return Remote.at(file).version()
        return ""
    try:
        if os.path.isdir(file):  # noqa: PTH112
            return " ".join(_identity(os.path.join(file, name)) for name in sorted(scan_folder(Path(file))))  # noqa: PTH118
        status = os.stat(file)  # noqa: PTH116
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def _list_remote(addresses: Sequence[str]) -> ImageList:
    """List image files at addresses, of which some are read at a time."""
    remote = [Remote.at(address) for address in addresses]
    reader, lock, held = remote[0], Lock(), dict[int, list[bytes | DataError]]()

    def open_at(i: int) -> bytes:
        number, place = divmod(i, READ_AT_ONCE)
        with lock:
            if number not in held:
                while len(held) >= HELD:
                    held.pop(next(iter(held)))
                some = remote[number * READ_AT_ONCE : (number + 1) * READ_AT_ONCE]
                held[number] = reader.read([one.path for one in some])
            content = held[number][place]
        if isinstance(content, DataError):
            raise content
        return content

    return ImageList("images", [without_secrets(address) for address in addresses], open_at, [])


def _placed(found: ImageList | LabelledImages, name: str, file: str) -> ImageList | LabelledImages:
    """Write the path of a file for its name at the start of sources."""
    if not isinstance(found, ImageList):
        return found

    def placed(source: str) -> str:
        return f"{file}{source[len(name) :]}" if source.startswith((f"{name}/", f"{name}#")) else source

    left_out = tuple((placed(source), cause) for source, cause in found.unreadable)
    return replace(found, sources=[placed(source) for source in found.sources], unreadable=left_out)
