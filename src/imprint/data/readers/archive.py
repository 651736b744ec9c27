"""Images in a .zip or .tar: class folders, a CSV of paths, or a data set of another format.

Nothing is unpacked beside it. Images of a .zip or .tar are read where they lie. A packed .tar can only be read from its
start, so it is unpacked once, into a file without a name in the cache folder.
"""

from __future__ import annotations

import bz2
import gzip
import json
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
from typing import IO, TYPE_CHECKING, Any, Protocol
from weakref import finalize

from imprint.core.errors import DataError
from imprint.core.files import cache_folder
from imprint.core.progress import say
from imprint.data.decoding.content import ALWAYS_ALLOWED, GZIP_START, MAX_RATIO, ImageSource, is_bomb
from imprint.data.decoding.image_list import ImageList, join_lists
from imprint.data.images import LabelledImages
from imprint.data.readers.collection import find_collection
from imprint.data.readers.columns import LABELS, Choice, find_column, first_named
from imprint.data.readers.folder import BOX, find_table, is_system_file, may_be_image, refuse_detection
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

if TYPE_CHECKING:
    from PIL import Image

CLASS_FILE = ".cls"  # holds the class of an image of the same name, as WebDataset has it
MAX_CLASS_NAME, MAX_FACTS = 1000, 2**20  # bytes
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

    @property
    def unpacked_sizes(self) -> dict[str, int]:
        """The same without archives in the archive."""
        return {name: size for name, size in self.sizes.items() if not name.lower().endswith(ARCHIVE_ENDINGS)}

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
    if found := find_collection(archive.unpacked_sizes, path.name):
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
    if choice.label is not None and part is None:
        told = _classes_beside(archive, images, others, choice.label)
        if told is not None:
            return _with_classes(archive, sorted(images), told)
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
        if part is None and (told := _classes_beside(archive, layout.paths, others)) is not None:
            return _with_classes(archive, layout.paths, told)
        refuse_detection(layout.paths, others, archive.read, path.name)
    listed = _list_members(archive, list(layout.paths))
    labels = None if layout.labels is None else list(layout.labels)
    unreadable = archive.left_out + _named(archive, layout.left_out)
    return replace(listed, labels=labels, unreadable=unreadable, skipped=_named(archive, layout.skipped))


def read_archives(paths: Sequence[Path], names: Sequence[str], name: str, choice: Choice, read: ReadFile) -> ImageList:
    """Read archives as one set, in the order given, under these names; raises DataError where they differ in form."""
    lists = list[ImageList]()
    for path, called in zip(paths, names, strict=True):
        found = read_archive(path, None, choice, read)
        if not isinstance(found, ImageList):
            raise DataError("archive", path.name, "it holds a table or arrays", "Name that archive alone.")
        if lists and (found.labels is None) != (lists[0].labels is None):
            cause = (
                f"its images have {'no labels, and' if found.labels is None else 'labels, but not'} those of {names[0]}"
            )
            raise DataError("archive", path.name, cause, "Name the archives that belong together.")
        start = len(path.name)
        left_out = tuple((f"{called}{source[start:]}", cause) for source, cause in found.unreadable)
        sources = [f"{called}{source[start:]}" for source in found.sources]
        lists.append(replace(found, sources=sources, unreadable=left_out))
    return join_lists(lists, name)


def archive_parts(path: Path, parts_of: Callable[[Path], tuple[str, ...]]) -> tuple[str, ...]:
    """Name the parts that an archive is divided into; empty where it is not. `parts_of` tells those of a table."""
    archive = Archive(path)
    if found := find_collection(archive.unpacked_sizes, path.name):
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
    beside = {name.removesuffix(CLASS_FILE): name for name in archive.sizes if name.endswith(CLASS_FILE)}
    classes = {key: _short_text(archive, name) for key, name in beside.items()}
    return _with_classes(archive, sorted(names), {key: text for key, text in classes.items() if text is not None})


def _with_classes(archive: Archive, names: Sequence[str], classes: Mapping[str, str]) -> ImageList:
    """Label images by the key of their names; one without a class is left out."""
    labelled = [name for name in names if _key(name) in classes]
    left_out = _named(archive, [(name, "there is no class beside it") for name in names if _key(name) not in classes])
    listed = _list_members(archive, labelled)
    labels = [classes[_key(name)] for name in labelled]
    return replace(listed, labels=labels, unreadable=(*archive.left_out, *left_out))


def _classes_beside(
    archive: Archive, names: Sequence[str], others: Sequence[str], column: str | None = None
) -> dict[str, str] | None:
    """Find classes in a .json or a .txt beside each image, by its key; None where these hold something else.

    Of JSON the field is taken that is called `column`, or label or the like; text is one word, or what images share.
    """
    keys = {_key(name) for name in names}
    for ending in (".json", ".txt"):
        beside = {_key(name): name for name in others if name.lower().endswith(ending) and _key(name) in keys}
        if len(beside) < len(keys) / 2 or (column is not None and ending == ".txt"):
            continue
        if ending == ".json":
            found = {key: _json_label(archive, name, column) for key, name in beside.items()}
        else:
            found = {key: _short_text(archive, name) for key, name in beside.items()}
        classes = {key: text for key, text in found.items() if text}
        texts = set(classes.values())
        shared = ending == ".json" or len(texts) <= len(classes) / 2 or not any(" " in text for text in texts)
        if len(classes) >= len(beside) / 2 and shared and not any(map(BOX.match, map(str.encode, classes.values()))):
            return classes
    return None


def _key(name: str) -> str:
    """Give what names the image in WebDataset: 0001.left.jpg is of 0001 too."""
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{file.partition('.')[0]}"


def _short_text(archive: Archive, name: str) -> str | None:
    """Read a name of a class; None where the file is too large for one."""
    if archive.sizes[name] > MAX_CLASS_NAME:
        return None
    return archive.read(name).decode("utf-8", "replace").strip()


def _json_label(archive: Archive, name: str, column: str | None) -> str | None:
    """Read the label among an image's facts; None where there is none."""
    if archive.sizes[name] > MAX_FACTS:
        return None
    try:
        facts = json.loads(archive.read(name))
    except (ValueError, RecursionError):
        return None
    if not isinstance(facts, dict):
        return None
    fields = list(facts)
    at = find_column(fields, column) if column is not None else first_named(fields, LABELS, name)
    value = None if at is None else facts[fields[at]]
    return str(value).strip() if isinstance(value, str | int) else None


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
        return replace(_in_memory(found), files=[archive.path], name=archive.path.name)
    return replace(found, pixels=found.pixels.copy(), name=archive.path.name)


def _in_memory(found: ImageList) -> ImageList:
    """Read the images of a list now, with what is wrong with each."""
    held: list[ImageSource | Image.Image | DataError] = []
    for i in range(len(found.sources)):
        try:
            held.append(found.open(i))
        except DataError as error:
            held.append(error)

    def open_at(i: int) -> ImageSource | Image.Image:
        content = held[i]
        if isinstance(content, DataError):
            raise content
        return content

    return replace(found, open=open_at)
