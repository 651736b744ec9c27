"""Images in a .zip or .tar: class folders, a CSV of paths, or a data set of another format.

Nothing is unpacked beside it. Images of a .zip or .tar are read where they lie. A packed .tar can only be read from its
start, so it is unpacked once, into a file without a name in the cache folder.
"""

from __future__ import annotations

import bz2
import gzip
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory, TemporaryFile
from threading import Lock
from typing import IO, Any, Protocol
from weakref import finalize

from imprint.core.errors import DataError
from imprint.core.files import cache_folder
from imprint.core.progress import say
from imprint.data.decoding.content import ALWAYS_ALLOWED, GZIP_START, MAX_RATIO, is_bomb
from imprint.data.decoding.image_list import ImageList
from imprint.data.images import LabelledImages
from imprint.data.readers.collection import find_collection
from imprint.data.readers.columns import Choice
from imprint.data.readers.folder import find_table, is_system_file, may_be_image, refuse_detection
from imprint.data.readers.layout import (
    ARCHIVE_ENDINGS,
    CSV_ENDINGS,
    DATA_ENDINGS,
    TABLE_ENDINGS,
    TAR_ENDINGS,
    find_parts,
    infer_layout,
    is_image_name,
)
from imprint.data.readers.path_table import is_path_table, with_table

CLASS_FILE = ".cls"  # holds the class of an image of the same name, as WebDataset has it
MAX_CLASS_NAME = 1000  # bytes
REPACK = "Pack it again from files that you trust."
DAMAGED = "it is cut short, damaged or no "
MAX_MEMBERS = 5_000_000  # each takes some 500 bytes of memory; ImageNet has 1.3 million images
CHUNK = 2**20


@dataclass(frozen=True)
class Member:
    """A file or folder in an archive; `refusal` says why it is not read, `handle` is for its container."""

    name: str
    is_folder: bool
    packed: int
    size: int
    handle: Any
    refusal: str = ""


class Container(Protocol):
    """A .zip or .tar: lists its members, and reads one of them."""

    def members(self) -> Iterator[Member]:
        """Go through the members in their order."""

    def read(self, handle: Any) -> bytes:
        """Read the member with this handle; thread-safe."""


class Zip:
    """The members of a .zip."""

    def __init__(self, path: Path) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, ValueError, NotImplementedError):
            raise DataError("archive", path.name, f"{DAMAGED}.zip", REPACK) from None

    def members(self) -> Iterator[Member]:
        """List what the directory at the end of the file names."""
        for found in self._zip.infolist():
            yield Member(found.filename, found.is_dir(), found.compress_size, found.file_size, found)

    def read(self, handle: Any) -> bytes:
        """Unpack a member, and compare its checksum."""
        return self._zip.read(handle)


class Tar:
    """The members of a .tar, read at their places in the file."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, Lock()
        self._file = _unpacked_tar(path)
        finalize(self, self._file.close)

    def members(self) -> Iterator[Member]:
        """Go through the headers, which hold the places; raises DataError for a .tar that does not reach its end."""
        try:
            yield from self._headers()
        except (DataError, GeneratorExit):
            raise
        except Exception:  # tarfile raises anything on bytes made to break it
            raise DataError("archive", self._path.name, f"{DAMAGED}.tar", REPACK) from None

    def _headers(self) -> Iterator[Member]:
        listed = tarfile.TarFile(fileobj=self._file)
        place = -1
        while (found := listed.next()) is not None:
            listed.members.clear()  # type: ignore[attr-defined]  # they would fill memory
            if found.size < 0 or listed.offset <= place:
                raise tarfile.ReadError
            place = listed.offset
            refusal = "" if found.isreg() or found.isdir() else "it is a link or a device, no file"
            handle = (found.offset_data, found.size)
            refusal = "it is stored with holes (sparse)" if found.issparse() else refusal
            yield Member(found.name, found.isdir(), found.size, found.size, handle, refusal)
        self._file.seek(listed.offset)  # tarfile takes a damaged header for the end
        end = self._file.read(tarfile.BLOCKSIZE)
        if end.strip(b"\0"):
            raise tarfile.ReadError
        if not end:
            say(f"{self._path.name} has no mark at its end, so it may be cut short")

    def read(self, handle: Any) -> bytes:
        """Read a member at its place."""
        offset, size = handle
        with self._lock:
            self._file.seek(offset)
            content = self._file.read(size)
        if len(content) < size:
            raise EOFError("cut short")
        return content


def _unpacked_tar(path: Path) -> IO[bytes]:
    """Open a .tar; a packed one is unpacked in one pass into a nameless file, within limits."""
    with open(path, "rb") as file:
        start = file.read(3)
    if not start.startswith((GZIP_START, b"BZh")):
        return open(path, "rb")
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    packed = path.stat().st_size
    limit, room = max(ALWAYS_ALLOWED, MAX_RATIO * packed), shutil.disk_usage(folder).free // 2
    unpacked = TemporaryFile(dir=folder)  # noqa: SIM115
    try:
        with gzip.open(path) if start.startswith(GZIP_START) else bz2.open(path) as stream:
            while chunk := stream.read(CHUNK):
                if unpacked.tell() + len(chunk) > limit:
                    cause = f"{packed:,} bytes would grow to more than {limit:,}"
                    raise DataError("archive", path.name, cause, REPACK)
                if unpacked.tell() + len(chunk) > room:
                    cause = f"unpacked it would take more than half of the free space in {folder}"
                    raise DataError("archive", path.name, cause, "Unpack it yourself, and name the folder.")
                unpacked.write(chunk)
    except BaseException as error:
        unpacked.close()
        if isinstance(error, EOFError | zlib.error | OSError) and getattr(error, "errno", None) is None:
            raise DataError("archive", path.name, f"{DAMAGED}.tar", REPACK) from None
        raise
    unpacked.seek(0)
    return unpacked


class Archive:
    """The members of an archive, checked but not unpacked; `left_out` is source and cause of those that are unsafe.

    Raises DataError when it is not whole, or a decompression bomb.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._container: Container = Tar(path) if path.name.lower().endswith(TAR_ENDINGS) else Zip(path)
        inside, total = dict[str, Member](), 0
        left_out = list[tuple[str, str]]()
        for count, member in enumerate(self._container.members()):
            parts = PurePosixPath(member.name.replace("\\", "/")).parts
            if count >= MAX_MEMBERS:
                raise DataError("archive", path.name, f"it has more than {MAX_MEMBERS:,} members", REPACK)
            if not parts or any(is_system_file(part) and part != ".." for part in parts):
                continue
            refusal = member.refusal
            if ".." in parts or parts[0].startswith("/") or ":" in parts[0] or "\0" in member.name:
                refusal = "its path leads out of the archive"
            if refusal:
                left_out.append((f"{path.name}/{member.name}", refusal))
                continue
            total += member.size
            if is_bomb(member.packed, member.size):
                cause = f"{member.packed:,} bytes would grow to {member.size:,}"
                raise DataError(f"member {member.name}", path.name, cause, REPACK)
            inside["/".join(parts) + ("/" if member.is_folder else "")] = member
        if is_bomb(path.stat().st_size, total):  # many members may share the same packed bytes
            cause = f"{path.stat().st_size:,} bytes would grow to {total:,}"
            raise DataError("archive", path.name, cause, REPACK)
        self.left_out = tuple(left_out)
        top = _wrapper(inside)
        self.members = {name.removeprefix(top): member for name, member in inside.items() if name != top}

    @property
    def folders(self) -> list[str]:
        """The paths of the folders inside, without a slash at the end."""
        return [name[:-1] for name in self.members if name.endswith("/")]

    @property
    def sizes(self) -> dict[str, int]:
        """The files inside with their sizes."""
        return {name: member.size for name, member in self.members.items() if not name.endswith("/")}

    def read(self, name: str) -> bytes:
        """Read a member into memory (thread-safe); raises DataError when it is missing, damaged or locked."""
        place = f"{self.path.name}/{name}"
        if name not in self.members:
            raise DataError("image", place, "the archive has no such file", "Correct the path.")
        try:
            return self._container.read(self.members[name].handle)
        except RuntimeError:
            raise DataError("image", place, "it is locked with a password", "Unlock the archive.") from None
        except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, zlib.error) as error:
            raise DataError("image", place, f"the archive is damaged there ({error})", REPACK) from None


def _wrapper(names: Iterable[str]) -> str:
    """Name the one folder around everything, which says nothing of an image; empty where images lie in it directly."""
    tops = {name.partition("/")[0] for name in names}
    top = f"{tops.pop()}/" if len(tops) == 1 else ""
    return "" if any(_may_be_image(name) for name in names if name.count("/") < 2 and name != top) else top


ReadFile = Callable[[Path], ImageList | LabelledImages]


def read_archive(path: Path, part: str | None, choice: Choice, read_file: ReadFile) -> ImageList | LabelledImages:
    """Find the images of an archive: class folders, a table of paths beside images, or a set that `read_file` can read.

    Only the latter is unpacked, into a folder that is removed at once.
    """
    archive = Archive(path)
    if found := find_collection(archive.sizes, path.name):
        names = found.needed(part, path.name, archive.sizes)
        with _unpacked(archive, {name: name for name in names}) as folder:
            return _renamed(read_file(folder), archive)
    if data := _data_files(archive):
        with _unpacked_data(archive, data) as unpacked:
            return _renamed(read_file(unpacked), archive)
    images = [name for name in archive.sizes if _may_be_image(name)]
    others = [name for name in archive.sizes if not _may_be_image(name)]
    named = any(map(is_image_name, images))
    if named and choice.label is None and any(name.endswith(CLASS_FILE) for name in others):
        return _with_class_files(archive, images, part)
    packed = [name for name in images if name.lower().endswith(ARCHIVE_ENDINGS)]
    if packed and not named:
        cause = f"it holds archives, first {packed[0]}"
        raise DataError("archive", path.name, cause, "Unpack it, and then them, each into a folder of its name.")
    layout = infer_layout(images, archive.folders, part=part, where=path.name)
    tables = [name for name in others if name.lower().endswith(TABLE_ENDINGS)]
    chosen = find_table(layout, tables, archive.read, choice)
    if chosen is not None:
        table, rows, left = chosen
        names = [name if row is None else row for name, row in zip(table.paths, rows, strict=True)]
        skipped = (*_named(archive, layout.skipped), *_named(archive, left))
        return with_table(replace(_list_members(archive, names), skipped=skipped), table)
    if choice.label is not None:
        layout = infer_layout(images, archive.folders, part=part, where=path.name, label=choice.label)
    elif layout.labels is None or len(set(layout.labels)) < 2:
        refuse_detection(layout.paths, others, archive.read, path.name)
    listed = _list_members(archive, list(layout.paths))
    labels = None if layout.labels is None else list(layout.labels)
    unreadable = archive.left_out + _named(archive, layout.left_out)
    return replace(listed, labels=labels, unreadable=unreadable, skipped=_named(archive, layout.skipped))


def archive_parts(path: Path, parts_of: Callable[[Path], tuple[str, ...]]) -> tuple[str, ...]:
    """Name the parts that an archive is divided into; empty where it is not. `parts_of` tells those of a table."""
    archive = Archive(path)
    if found := find_collection(archive.sizes, path.name):
        return found.parts
    if data := _data_files(archive):
        with _unpacked_data(archive, data) as unpacked:
            return parts_of(unpacked)
    return tuple(find_parts([name for name in archive.sizes if _may_be_image(name)], path.name)[1])


def _may_be_image(name: str) -> bool:
    return may_be_image(name.rpartition("/")[2]) and not name.lower().endswith((*DATA_ENDINGS, CLASS_FILE))


def _data_files(archive: Archive) -> list[str]:
    """Name the tables or arrays that an archive holds in place of images; files without an ending may be notes."""
    data = [name for name in archive.sizes if name.lower().endswith(DATA_ENDINGS)]
    images = [name for name in archive.sizes if _may_be_image(name)]
    if not data or any(map(is_image_name, images)):
        return []
    tables = [name for name in data if name.lower().endswith(CSV_ENDINGS)]
    return [] if images and any(is_path_table(archive.read(name)[: 2**16], name) for name in tables) else data


def _named(archive: Archive, some: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple((f"{archive.path.name}/{member}", cause) for member, cause in some)


def _list_members(archive: Archive, names: list[str]) -> ImageList:
    sources = [f"{archive.path.name}/{name}" for name in names]
    return ImageList(
        archive.path.name,
        sources,
        lambda i: archive.read(names[i]),
        [archive.path],
        unreadable=archive.left_out,
        paths=names,
    )


def _with_class_files(archive: Archive, names: Sequence[str], part: str | None) -> ImageList:
    """Read the class of each image from the file beside it, as in WebDataset: 0001.jpg and 0001.cls."""
    if part is not None:
        cause = "it is not divided into parts"
        raise DataError(f"part {part}", archive.path.name, cause, "Name the archive that holds this part.")
    classes = {name.removesuffix(CLASS_FILE): name for name in archive.sizes if name.endswith(CLASS_FILE)}
    labels = dict[str, str]()
    left_out = list[tuple[str, str]]()
    for name in sorted(names):
        folder, slash, file = name.rpartition("/")
        class_file = classes.get(f"{folder}{slash}{file.partition('.')[0]}")  # 0001.left.jpg is of 0001 too
        if class_file is None or archive.sizes[class_file] > MAX_CLASS_NAME:
            left_out.append((f"{archive.path.name}/{name}", "there is no class beside it"))
            continue
        labels[name] = archive.read(class_file).decode("utf-8", "replace").strip()
    listed = _list_members(archive, list(labels))
    return replace(listed, labels=list(labels.values()), unreadable=(*archive.left_out, *left_out))


@contextmanager
def _unpacked_data(archive: Archive, data: Sequence[str]) -> Iterator[Path]:
    """Unpack the one table, or NumPy's arrays, that an archive holds; gives the file, or the folder of the arrays."""
    arrays = all(name.lower().endswith(".npy") for name in data)
    if len(data) > 1 and not arrays:
        cause = f"it holds {' and '.join(data[:3])}"
        raise DataError("archive", archive.path.name, cause, "Unpack it, and name one of them.")
    names = {name: PurePosixPath(name).name for name in data}
    if len(set(names.values())) < len(names):
        names = {name: name.replace("/", "_") for name in data}  # train/x.npy is train_x.npy
    with _unpacked(archive, names) as folder:
        yield folder if arrays else folder / names[data[0]]


@contextmanager
def _unpacked(archive: Archive, names: Mapping[str, str]) -> Iterator[Path]:
    """Unpack members under other names into a folder, called as the archive, that is removed at the end."""
    with TemporaryDirectory(prefix="imprint-") as temporary:
        folder = Path(temporary) / archive.path.name
        for member, name in names.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(archive.read(member))
        yield folder


def _renamed(found: ImageList | LabelledImages, archive: Archive) -> ImageList | LabelledImages:
    """Name images after the archive, and free those from a file that is about to be removed."""
    if isinstance(found, ImageList):
        return replace(found, files=[archive.path], name=archive.path.name)
    return replace(found, pixels=found.pixels.copy(), name=archive.path.name)
