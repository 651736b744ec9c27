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
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from imprint.data.decoding.formats import IMAGE_ENDINGS
from imprint.data.decoding.image_list import ImageList
from imprint.data.images import LabelledImages
from imprint.data.readers.collection import TABLE_ENDINGS, find_collection, lone_table, read_collection
from imprint.data.readers.folder import infer_layout, is_system_file, may_be_image
from imprint.data.readers.path_csv import is_path_csv, read_path_csv, with_table
from imprint.data.split import part_folders

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz")
ENDINGS = (".zip", *TAR_ENDINGS)
DATA_ENDINGS = (*TABLE_ENDINGS, ".parquet", ".mat")
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
        top = _wrapper(list(inside))
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


def _wrapper(names: list[str]) -> str:
    """Name the one folder that most packers put around folders of classes; empty where there is none."""
    named = [name for name in names if "/" in name or may_be_image(name) or name.lower().endswith(DATA_ENDINGS)]
    tops = {name.partition("/")[0] for name in named}
    top = f"{next(iter(tops))}/" if len(tops) == 1 else ""
    nested = [name.removeprefix(top) for name in named if name != top]
    inner = [name for name in nested if "/" in name or name.lower().endswith(DATA_ENDINGS) or may_be_image(name)]
    return top if inner and all("/" in name or name.lower().endswith(DATA_ENDINGS) for name in inner) else ""


ReadFile = Callable[[Path], ImageList | LabelledImages]


def read_archive(path: Path, part: str | None, group: str | None, read_file: ReadFile) -> ImageList | LabelledImages:
    """Find the images of an archive: class folders, a CSV of paths beside images, or a set that `read_file` can read.

    Only the latter is unpacked, into a folder that is removed at once. `group` is a column of the CSV.
    """
    archive = Archive(path)
    files = list(archive.sizes)
    if found := find_collection(archive.sizes, path.name):
        names = found.needed(part, path.name, files)
        with _unpacked(archive, {name: name for name in names}) as folder:
            return _renamed(read_collection(folder, replace(found, beside=()), part, group), archive)
    data = [name for name in files if name.lower().endswith(DATA_ENDINGS)]
    images = [name for name in files if may_be_image(name.rpartition("/")[2]) and name not in data]
    named_images = any(name.lower().endswith(IMAGE_ENDINGS) for name in images)
    tables = [name for name in data if ".csv" in name.lower() and is_path_csv(archive.read(name)[: 2**16])]
    if images and len(tables) == 1:
        return _from_table(archive, tables[0], group)
    if data and not named_images:
        return _from_file(archive, data, read_file)
    if any(name.endswith(CLASS_FILE) for name in files) and named_images:
        return _with_class_files(archive, images)
    packed = [name for name in images if name.lower().endswith(ENDINGS)]
    if packed and not named_images:
        cause = f"it holds archives, first {packed[0]}"
        raise DataError("archive", path.name, cause, "Unpack it, and then them, each into a folder of its name.")
    found_layout = infer_layout(images, archive.folders, part=part, where=path.name)
    listed = _list_members(archive, list(found_layout.paths))
    left_out, empty = (
        tuple((f"{path.name}/{member}", cause) for member, cause in some)
        for some in (found_layout.left_out, found_layout.empty)
    )
    labels = None if found_layout.labels is None else list(found_layout.labels)
    return replace(listed, labels=labels, unreadable=archive.left_out + left_out, empty=empty)


def archive_parts(path: Path, parts_of: Callable[[Path], tuple[str, ...]]) -> tuple[str, ...]:
    """Name the parts that an archive is divided into; empty where it is not. `parts_of` tells those of a table."""
    archive = Archive(path)
    if found := find_collection(archive.sizes, path.name):
        return found.parts
    if table := lone_table(archive.sizes):
        with _unpacked(archive, {table: PurePosixPath(table).name}) as folder:
            return parts_of(folder / PurePosixPath(table).name)
    tops = {name.partition("/")[0] for name in archive.members if "/" in name}
    return tuple(part_folders(tops, path.name))


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


def _with_class_files(archive: Archive, names: Sequence[str]) -> ImageList:
    """Read the class of each image from the file beside it, as in WebDataset: 0001.jpg and 0001.cls."""
    classes = {name.removesuffix(CLASS_FILE): name for name in archive.sizes if name.endswith(CLASS_FILE)}
    images = sorted(name for name in names if not name.endswith(CLASS_FILE))
    labels = dict[str, str]()
    left_out = list[tuple[str, str]]()
    for name in images:
        folder, slash, file = name.rpartition("/")
        class_file = classes.get(f"{folder}{slash}{file.partition('.')[0]}")  # 0001.left.jpg is of 0001 too
        if class_file is None or archive.sizes[class_file] > MAX_CLASS_NAME:
            left_out.append((f"{archive.path.name}/{name}", "there is no class beside it"))
            continue
        labels[name] = archive.read(class_file).decode("utf-8", "replace").strip()
    listed = _list_members(archive, list(labels))
    return replace(listed, labels=list(labels.values()), unreadable=(*archive.left_out, *left_out))


def _from_table(archive: Archive, table: str, group: str | None) -> ImageList:
    """Read a CSV of paths inside the archive; its paths are relative to its own folder."""
    rows = read_path_csv(archive.read(table), f"{archive.path.name}/{table}", group)
    folder = PurePosixPath(table).parent
    names = [(folder / row.replace("\\", "/")).as_posix() for row in rows.paths]
    return with_table(_list_members(archive, names), rows)


def _from_file(archive: Archive, data: list[str], read_file: ReadFile) -> ImageList | LabelledImages:
    """Unpack the file of another format that the archive holds, and its labels, under plain names; read it."""
    labels = [name for name in data if any(word in name.lower() for word in ("labels", "y.npy", "y_"))]
    others = [name for name in data if name not in labels] or data
    if len(others) > 1:
        cause = f"it holds {' and '.join(others[:3])}"
        raise DataError("archive", archive.path.name, cause, "Unpack it, and name one of them.")
    with _unpacked(archive, {name: PurePosixPath(name).name for name in (*others, *labels)}) as folder:
        return _renamed(read_file(folder / PurePosixPath(others[0]).name), archive)


@contextmanager
def _unpacked(archive: Archive, names: Mapping[str, str]) -> Iterator[Path]:
    """Unpack members under other names into a folder that is removed at the end."""
    with TemporaryDirectory(prefix="imprint-") as temporary:
        for member, name in names.items():
            file = Path(temporary) / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(archive.read(member))
        yield Path(temporary)


def _renamed(found: ImageList | LabelledImages, archive: Archive) -> ImageList | LabelledImages:
    """Name images after the archive, and free those from a file that is about to be removed."""
    if isinstance(found, ImageList):
        return replace(found, files=[archive.path], name=archive.path.name)
    return replace(found, pixels=found.pixels.copy(), name=archive.path.name)
