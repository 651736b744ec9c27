"""Images in a .zip: class folders, a CSV of paths, or one file of another format; nothing is unpacked beside it."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from imprint.core.errors import DataError
from imprint.data.decoding.content import is_bomb
from imprint.data.decoding.image_list import ImageList
from imprint.data.images import LabelledImages
from imprint.data.readers.columns import Choice
from imprint.data.readers.folder import find_table, is_system_file, may_be_image, refuse_detection
from imprint.data.readers.layout import TABLE_ENDINGS, find_parts, infer_layout
from imprint.data.readers.path_table import with_table

DATA_ENDINGS = (".csv", ".csv.gz", ".npz", ".npy", ".parquet")
REPACK = "Pack it again from files that you trust."


class Archive:
    """The members of a .zip, checked but not unpacked; `left_out` is source and cause of those with unsafe paths.

    Raises DataError when it is no whole .zip, or a member is a decompression bomb.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, ValueError, NotImplementedError):
            raise DataError("archive", path.name, "it is cut short, damaged or no .zip", REPACK) from None
        inside = dict[str, zipfile.ZipInfo]()
        left_out = list[tuple[str, str]]()
        for member in self._zip.infolist():
            parts = PurePosixPath(member.filename.replace("\\", "/")).parts
            if not parts or any(is_system_file(part) and part != ".." for part in parts):
                continue
            if ".." in parts or parts[0].startswith("/") or ":" in parts[0]:
                left_out.append((f"{path.name}/{member.filename}", "its path leads out of the archive"))
                continue
            if is_bomb(member.compress_size, member.file_size):
                cause = f"{member.compress_size:,} bytes would grow to {member.file_size:,}"
                raise DataError(f"member {member.filename}", path.name, cause, REPACK)
            inside["/".join(parts) + ("/" if member.is_dir() else "")] = member
        self.left_out = tuple(left_out)
        top = _wrapper(list(inside))
        self.members = {name.removeprefix(top): member for name, member in inside.items() if name != top}

    @property
    def folders(self) -> list[str]:
        """The paths of the folders inside, without a slash at the end."""
        return [name[:-1] for name in self.members if name.endswith("/")]

    def read(self, name: str) -> bytes:
        """Read a member into memory (thread-safe); raises DataError when it is missing, damaged or locked."""
        place = f"{self.path.name}/{name}"
        if name not in self.members:
            raise DataError("image", place, "the archive has no such file", "Correct the path.")
        try:
            return self._zip.read(self.members[name])
        except RuntimeError:
            raise DataError("image", place, "it is locked with a password", "Unlock the archive.") from None
        except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, zlib.error) as error:
            raise DataError("image", place, f"the archive is damaged there ({error})", REPACK) from None


def _wrapper(names: list[str]) -> str:
    """Name the one folder that most packers put around folders of classes; empty where there is none."""
    tops = {name.partition("/")[0] for name in names}
    top = f"{next(iter(tops))}/" if len(tops) == 1 else ""
    nested = [name.removeprefix(top) for name in names if name != top]
    return top if nested and all("/" in name or name.endswith(DATA_ENDINGS) for name in nested) else ""


def read_archive(
    path: Path,
    part: str | None,
    choice: Choice,
    read_file: Callable[[Path], ImageList | LabelledImages],
) -> ImageList | LabelledImages:
    """Find the images of a .zip: class folders, a table of paths beside images, or one file that `read_file` can read.

    Only the latter is unpacked, into a folder that is removed at once.
    """
    archive = Archive(path)
    files = [name for name in archive.members if not name.endswith("/")]
    data = [name for name in files if name.lower().endswith(DATA_ENDINGS) or "-idx" in name]
    images = [name for name in files if may_be_image(name.rpartition("/")[2]) and name not in data]
    if not images and data:
        return _from_file(archive, data, read_file)
    found = infer_layout(images, archive.folders, part=part, where=path.name)
    others = [name for name in files if name not in images]
    tables = [name for name in others if name.lower().endswith(TABLE_ENDINGS)]
    chosen = find_table(found, tables, archive.read, choice)
    if chosen is not None:
        table, rows, left = chosen
        names = [name if row is None else row for name, row in zip(table.paths, rows, strict=True)]
        skipped = (*_named(archive, found.skipped), *_named(archive, left))
        return with_table(replace(_list_members(archive, names), skipped=skipped), table)
    if choice.label is not None:
        found = infer_layout(images, archive.folders, part=part, where=path.name, label=choice.label)
    elif found.labels is None or len(set(found.labels)) < 2:
        refuse_detection(found.paths, others, archive.read, path.name)
    listed = _list_members(archive, list(found.paths))
    labels = None if found.labels is None else list(found.labels)
    unreadable = archive.left_out + _named(archive, found.left_out)
    return replace(listed, labels=labels, unreadable=unreadable, skipped=_named(archive, found.skipped))


def _named(archive: Archive, some: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple((f"{archive.path.name}/{member}", cause) for member, cause in some)


def archive_parts(path: Path) -> tuple[str, ...]:
    """Name the parts that a .zip is divided into; empty where it is not."""
    names = [name for name in Archive(path).members if not name.endswith("/") and may_be_image(name)]
    return tuple(find_parts(names, path.name)[1])


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


def _from_file(
    archive: Archive, data: list[str], read_file: Callable[[Path], ImageList | LabelledImages]
) -> ImageList | LabelledImages:
    """Unpack the file of another format that the archive holds, and its labels, under plain names; read it."""
    labels = [name for name in data if any(word in name.lower() for word in ("labels", "y.npy", "y_"))]
    others = [name for name in data if name not in labels] or data
    if len(others) > 1:
        cause = f"it holds {' and '.join(others[:3])}"
        raise DataError("archive", archive.path.name, cause, "Unpack it, and name one of them.")
    with TemporaryDirectory(prefix="imprint-") as folder:
        for name in (*others, *labels):
            (Path(folder) / PurePosixPath(name).name).write_bytes(archive.read(name))
        found = read_file(Path(folder) / PurePosixPath(others[0]).name)
        if isinstance(found, ImageList):
            return replace(found, files=[archive.path])
        return replace(found, pixels=found.pixels.copy(), name=archive.path.name)
