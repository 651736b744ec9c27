"""Images in a .zip: class folders, a table of paths, or one file of another form; nothing is unpacked beside it."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from imprint.core.errors import DataError
from imprint.data.decoding.image_list import ImageList
from imprint.data.decoding.text import may_grow
from imprint.data.images import LabelledImages
from imprint.data.readers.layout import infer_layout, is_litter, may_be_image, part_folders
from imprint.data.readers.path_csv import is_path_csv, read_path_csv, with_table

DATA = (".csv", ".csv.gz", ".npz", ".npy", ".parquet")
AGAIN = "Pack it again from files that you trust."


class Archive:
    """What a .zip holds, checked but not unpacked.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    DataError
        When it is no whole .zip, or a member would grow more than 200 times.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "pets.zip"
    >>> with zipfile.ZipFile(path, "w") as archive:
    ...     archive.writestr("pets/cat/1.png", b"")
    ...     archive.writestr("../evil.png", b"")
    >>> archive = Archive(path)
    >>> list(archive.members), archive.left_out
    (['cat/1.png'], (('pets.zip/../evil.png', 'its path leads out of the archive'),))
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, ValueError, NotImplementedError):
            raise DataError("archive", path.name, "it is cut short, damaged or no .zip", AGAIN) from None
        inside = dict[str, zipfile.ZipInfo]()
        left_out = list[tuple[str, str]]()
        for member in self._zip.infolist():
            parts = PurePosixPath(member.filename.replace("\\", "/")).parts
            if not parts or any(is_litter(part) and part != ".." for part in parts):
                continue
            if ".." in parts or parts[0].startswith("/") or ":" in parts[0]:
                left_out.append((f"{path.name}/{member.filename}", "its path leads out of the archive"))
                continue
            if not may_grow(member.compress_size, member.file_size):
                cause = f"{member.compress_size:,} bytes would grow to {member.file_size:,}"
                raise DataError(f"member {member.filename}", path.name, cause, AGAIN)
            inside["/".join(parts) + ("/" if member.is_dir() else "")] = member
        self.left_out = tuple(left_out)
        top = _wrapper(list(inside))
        self.members = {name.removeprefix(top): member for name, member in inside.items() if name != top}

    @property
    def folders(self) -> list[str]:
        """The folders inside.

        Returns
        -------
        list of str
            Their paths, without a slash at the end.

        Examples
        --------
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "pets.zip"
        >>> with zipfile.ZipFile(path, "w") as archive:
        ...     archive.mkdir("cat")
        ...     archive.mkdir("dog")
        >>> Archive(path).folders
        ['cat', 'dog']
        """
        return [name[:-1] for name in self.members if name.endswith("/")]

    def read(self, name: str) -> bytes:
        """Read a member into memory; threads may do so at once.

        Parameters
        ----------
        name : str
            One of `members`.

        Returns
        -------
        bytes
            Its content.

        Raises
        ------
        DataError
            When it is not there, damaged or locked with a password.

        Examples
        --------
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "pets.zip"
        >>> with zipfile.ZipFile(path, "w") as archive:
        ...     archive.writestr("1.png", b"abc")
        >>> Archive(path).read("1.png")
        b'abc'
        """
        place = f"{self.path.name}/{name}"
        if name not in self.members:
            raise DataError("image", place, "the archive has no such file", "Correct the path.")
        try:
            return self._zip.read(self.members[name])
        except RuntimeError:
            raise DataError("image", place, "it is locked with a password", "Unlock the archive.") from None
        except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, zlib.error) as error:
            raise DataError("image", place, f"the archive is damaged there ({error})", AGAIN) from None


def _wrapper(names: list[str]) -> str:
    """Name the one folder that everything lies in with folders of its own, as most packers put it; else nothing."""
    tops = {name.partition("/")[0] for name in names}
    top = f"{next(iter(tops))}/" if len(tops) == 1 else ""
    nested = [name.removeprefix(top) for name in names if name != top]
    return top if nested and all("/" in name or name.endswith(DATA) for name in nested) else ""


def read_archive(
    path: Path,
    part: str | None,
    group: str | None,
    read_file: Callable[[Path], ImageList | LabelledImages],
) -> ImageList | LabelledImages:
    """Find the images of a .zip.

    Parameters
    ----------
    path : Path
        The archive: class folders as on disk, a CSV of paths beside images, or one file of any other
        form, which alone is unpacked, into a folder that is removed at once.
    part : str or None
        ``"train"``, ``"validation"`` or ``"test"``; None takes the training part, or all.
    group : str or None
        A column of the CSV with each image's group.
    read_file : callable
        Reads a file of another form.

    Returns
    -------
    ImageList or LabelledImages
        Sources are the archive's name and the path inside.

    Raises
    ------
    DataError
        When the archive is damaged, a bomb, or leaves open what is meant.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "pets.zip"
    >>> with zipfile.ZipFile(path, "w") as archive:
    ...     archive.writestr("cat/1.png", b"")
    >>> read_archive(path, None, None, lambda path: ...).sources
    ['pets.zip/cat/1.png']
    """
    archive = Archive(path)
    files = [name for name in archive.members if not name.endswith("/")]
    data = [name for name in files if name.lower().endswith(DATA) or "-idx" in name]
    images = [name for name in files if may_be_image(name.rpartition("/")[2]) and name not in data]
    tables = [name for name in data if ".csv" in name.lower() and is_path_csv(archive.read(name)[: 2**16])]
    if images and len(tables) == 1:
        return _from_table(archive, tables[0], group)
    if not images and data:
        return _from_file(archive, data, read_file)
    found = infer_layout(images, archive.folders, part=part, where=path.name)
    listed = _list_members(archive, list(found.paths))
    left_out, empty = (
        tuple((f"{path.name}/{member}", cause) for member, cause in some) for some in (found.left_out, found.empty)
    )
    labels = None if found.labels is None else list(found.labels)
    return replace(listed, labels=labels, unreadable=archive.left_out + left_out, empty=empty)


def archive_parts(path: Path) -> tuple[str, ...]:
    """Tell into which parts a .zip is divided.

    Parameters
    ----------
    path : Path
        The archive.

    Returns
    -------
    tuple of str
        Among ``"train"``, ``"validation"`` and ``"test"``; empty where it is not divided.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "pets.zip"
    >>> with zipfile.ZipFile(path, "w") as archive:
    ...     archive.writestr("train/cat/1.png", b"")
    ...     archive.writestr("test/cat/1.png", b"")
    >>> archive_parts(path)
    ('train', 'test')
    """
    tops = {name.partition("/")[0] for name in Archive(path).members if "/" in name}
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


def _from_table(archive: Archive, table: str, group: str | None) -> ImageList:
    """Read a CSV of paths inside the archive; its paths start at its own folder."""
    rows = read_path_csv(archive.read(table), f"{archive.path.name}/{table}", group)
    folder = PurePosixPath(table).parent
    names = [(folder / row.replace("\\", "/")).as_posix() for row in rows.paths]
    return with_table(_list_members(archive, names), rows)


def _from_file(
    archive: Archive, data: list[str], read_file: Callable[[Path], ImageList | LabelledImages]
) -> ImageList | LabelledImages:
    """Unpack the file or files of another form that the archive holds, under plain names, and read the first."""
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
