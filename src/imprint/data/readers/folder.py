"""Images in files and folders: their paths, and the parts and classes that folders stand for."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from imprint.core.errors import DataError
from imprint.data.decoding.formats import VIDEO_ENDINGS
from imprint.data.decoding.image_list import ImageList
from imprint.data.split import part_folders

MAX_DEPTH = 40  # folders; deeper is a mistake, or a loop that the file system does not show
# What systems and tools leave among images, besides hidden files.
SYSTEM_FILES = {
    *("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "@eadir", "lost+found", "icon\r"),
    *("picasa.ini", "zbthumbnail.info", "folder.htt"),
}
# What people leave beside images. Anything else is tried, and named if it is no image.
NOT_IMAGES = (
    *(".txt", ".md", ".rst", ".pdf", ".html", ".htm", ".log", ".ini", ".bib"),
    *(".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".db", ".mat"),
    *(".py", ".ipynb", ".m", ".sh"),
    *VIDEO_ENDINGS,  # as phones keep one with each photo
    *(".aae", ".xmp", ".thm", ".lrv", ".pp3", ".dop", ".lnk", ".url"),  # edits of photos, and shortcuts
)


@dataclass(frozen=True)
class Layout:
    """The images that belong to a part of the data, in alphabetical order, and their classes (None without folders).

    `left_out` holds path and cause of what has no class, `empty` the same of class folders without images.
    """

    paths: tuple[str, ...]
    labels: tuple[str, ...] | None
    left_out: tuple[tuple[str, str], ...]
    empty: tuple[tuple[str, str], ...] = ()


def list_folder(root: Path, part: str | None = None) -> ImageList:
    """Find the images of a folder, in the order of their paths; raises DataError when there are none or no such part.

    ``root/<class>/…/*.jpg`` gives labelled images, ``root/*.jpg`` unlabelled ones; ``root/train/…``,
    ``root/validation/…`` and ``root/test/…`` are parts, of which None takes training.
    """
    files, folders, closed = _walk(root)
    if not files and not closed:
        raise _no_images(root)
    name = root.resolve().name
    found = infer_layout(files, folders, part=part, where=str(root))
    start = str(root / "x")[:-1]  # 60,000 paths as text cost 0.6 s less than as Path
    listed = list_files([start + path for path in found.paths], name)
    left_out = [*found.left_out, *closed]
    unreadable, empty = (
        tuple(zip(_printable([start + path for path, _ in some]), (cause for _, cause in some), strict=True))
        for some in (left_out, found.empty)
    )
    labels = None if found.labels is None else _printable(found.labels)
    paths = _printable(found.paths)
    return ImageList(name, listed.sources, listed.open, listed.files, labels, unreadable, paths=paths, empty=empty)


def list_files(files: Sequence[Path | str], name: str) -> ImageList:
    """List image files in the order given, without labels; `name` is for messages."""
    return ImageList(name, _printable([str(file) for file in files]), files.__getitem__, files)


def folder_parts(root: Path) -> tuple[str, ...]:
    """Name the parts that a folder is divided into, such as ``("train", "test")``; empty where it is not."""
    with os.scandir(root) as entries:
        tops = [entry.name for entry in entries if not is_system_file(entry.name) and _is_folder(entry)]
    return tuple(part_folders(tops, str(root)))


def _printable(paths: Sequence[str]) -> list[str]:
    """Give paths as text that can be printed and written, also where their bytes are no UTF-8."""
    if all(map(str.isascii, paths)):
        return list(paths)
    return [os.fsencode(path).decode("utf-8", "backslashreplace") for path in paths]


def _walk(root: Path) -> tuple[list[str], list[str], list[tuple[str, str]]]:
    """List files that may be images, folders, and what cannot be entered; links are followed, but not in circles."""
    files, folders, closed = list[str](), list[str](), list[tuple[str, str]]()
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while waiting:
        inside, above = waiting.pop()
        try:
            status = os.stat(os.path.join(root, inside))  # noqa: PTH116, PTH118
            identity = (status.st_dev, status.st_ino)
            if identity in above or len(above) > MAX_DEPTH:
                continue
            with os.scandir(os.path.join(root, inside)) as entries:  # noqa: PTH118
                for entry in entries:
                    if is_system_file(entry.name):
                        continue
                    path = f"{inside}{entry.name}"
                    if _is_folder(entry):
                        folders.append(path)
                        waiting.append((f"{path}/", above | {identity}))
                    elif may_be_image(entry.name):
                        files.append(path)
        except OSError as error:
            if not inside:
                raise
            closed.append((inside.removesuffix("/"), f"the folder cannot be opened ({error.strerror})"))
    return files, folders, closed


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself; named when it is read as an image
        return False


def _no_images(root: Path) -> DataError:
    """Say that a folder holds no images, and what else it holds that could be read."""
    endings = (".csv", ".csv.gz", ".npz", ".npy", ".parquet", ".zip", ".tar", ".tgz", ".tar.gz")
    names = sorted(path.name for path in root.rglob("*"))
    others = sorted(path.name for path in root.iterdir() if path.name.lower().endswith(endings))
    videos = sum(name.lower().endswith(VIDEO_ENDINGS) for name in names)
    remedy = "Save frames of the videos as JPEG." if videos else "Name a folder of images."
    remedy = f"Name a file in it, such as {others[0]}." if others else remedy
    cause = f"there are no images in it{f', but {videos:,} videos' if videos else ''}"
    return DataError("folder", str(root), cause, remedy)


def is_system_file(name: str) -> bool:
    """Tell by its name a file or folder that is hidden or was left by a system, such as Thumbs.db."""
    return name.startswith(".") or name.lower() in SYSTEM_FILES


def may_be_image(name: str) -> bool:
    """Tell by its name a file that is worth reading as an image, also with an unknown ending or none."""
    return not name.lower().endswith(NOT_IMAGES)


def infer_layout(
    paths: Sequence[str], folders: Iterable[str] = (), *, part: str | None = None, where: str = "data"
) -> Layout:
    """Infer parts and classes from paths with ``/``; `folders` are given so that empty ones can be named.

    Classes are named by the outermost folder, in Unicode's composed form (NFC), since some file systems store it
    otherwise. Raises DataError when there is no such part.
    """
    tops = {path.partition("/")[0] for path in paths if "/" in path} | {f for f in folders if "/" not in f}
    divided = part_folders(tops, where)
    if part is not None and part not in divided:
        have = f"it has {' and '.join(divided)}" if divided else "it is not divided into parts"
        raise DataError(f"part {part}", where, have, "Name a folder with train, validation or test in it.")
    if not divided:
        return _by_class(sorted(paths), sorted(folders), "")
    inside = f"{divided[part or next(iter(divided))]}/"
    beside = sorted({path.partition("/")[0] for path in paths} - set(divided.values()))
    found = _by_class(
        sorted(path for path in paths if path.startswith(inside)),
        sorted(folder for folder in folders if folder.startswith(inside)),
        inside,
    )
    outside = tuple((path, f"it lies beside {' and '.join(divided.values())}, in none of them") for path in beside)
    return Layout(found.paths, found.labels, found.left_out + outside, found.empty)


def _by_class(paths: list[str], folders: list[str], inside: str) -> Layout:
    """Name classes after the outermost folder below `inside`; without such folders there are no labels."""
    start = len(inside)
    tops = [path[start:].rpartition("/")[0].partition("/")[0] for path in paths]
    classes = {folder[start:] for folder in folders if "/" not in folder[start:]}
    empty = tuple((inside + name, "the folder has no images in it") for name in sorted(classes - set(tops)))
    if not any(tops):
        return Layout(tuple(paths), None, (), empty)
    names = {top: unicodedata.normalize("NFC", top) for top in set(tops)}
    outside = tuple((path, "it lies in no class folder") for path, top in zip(paths, tops, strict=True) if not top)
    placed = tuple(path for path, top in zip(paths, tops, strict=True) if top)
    return Layout(placed, tuple(names[top] for top in tops if top), outside, empty)
