"""Images in folders: a folder for each class, a flat folder, a list of files, or one image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from imprint.core.errors import DataError
from imprint.data.decoding.image_list import ImageList
from imprint.data.readers.layout import infer_layout, is_litter, may_be_image, part_folders

MOST_NESTED = 40  # folders; deeper is a mistake, or a loop that the file system does not show


def list_folder(root: Path, part: str | None = None) -> ImageList:
    """Find the images of a folder.

    ``root/<class>/…/*.jpg`` gives labelled images, whatever folders lie below a class; ``root/*.jpg``
    gives unlabelled ones; ``root/train/…``, ``root/validation/…`` and ``root/test/…`` are parts.

    Parameters
    ----------
    root : Path
        An existing folder.
    part : str or None, default=None
        ``"train"``, ``"validation"`` or ``"test"``; None takes the training part, or all.

    Returns
    -------
    ImageList
        In the order of the paths, which no file system changes.

    Raises
    ------
    DataError
        When there are no images or there is no such part.

    Examples
    --------
    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> (root / "cat").mkdir()
    >>> (root / "cat" / "1.png").touch()
    >>> list_folder(root).labels
    ['cat']
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
        tuple(zip(_readable([start + path for path, _ in some]), (cause for _, cause in some), strict=True))
        for some in (left_out, found.empty)
    )
    labels = None if found.labels is None else _readable(found.labels)
    paths = _readable(found.paths)
    return ImageList(name, listed.sources, listed.open, listed.files, labels, unreadable, paths=paths, empty=empty)


def list_files(files: Sequence[Path | str], name: str) -> ImageList:
    """Take images in files, in the order given, without labels.

    Parameters
    ----------
    files : sequence of Path or str
        One image each.
    name : str
        What they are called together, for messages.

    Returns
    -------
    ImageList
        Its sources are the paths.

    Examples
    --------
    >>> list_files([Path("b.png"), Path("a.png")], "two").sources
    ['b.png', 'a.png']
    """
    return ImageList(name, _readable([str(file) for file in files]), files.__getitem__, files)


def folder_parts(root: Path) -> tuple[str, ...]:
    """Tell into which parts a folder is divided.

    Parameters
    ----------
    root : Path
        An existing folder.

    Returns
    -------
    tuple of str
        Among ``"train"``, ``"validation"`` and ``"test"``; empty where it is not divided.

    Examples
    --------
    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> (root / "val").mkdir()
    >>> folder_parts(root)
    ('validation',)
    """
    with os.scandir(root) as entries:
        tops = [entry.name for entry in entries if not is_litter(entry.name) and _is_folder(entry)]
    return tuple(part_folders(tops, str(root)))


def _readable(paths: Sequence[str]) -> list[str]:
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
            if identity in above or len(above) > MOST_NESTED:
                continue
            with os.scandir(os.path.join(root, inside)) as entries:  # noqa: PTH118
                for entry in entries:
                    if is_litter(entry.name):
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
    endings = (".csv", ".csv.gz", ".npz", ".npy", ".parquet", ".zip")
    others = sorted(path.name for path in root.iterdir() if path.name.lower().endswith(endings))
    remedy = f"Name a file in it, such as {others[0]}." if others else "Name a folder of images."
    return DataError("folder", str(root), "there are no images in it", remedy)
