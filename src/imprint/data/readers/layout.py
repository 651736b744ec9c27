"""Parts and classes, read off the folders that images lie in; the same for folders and archives."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from imprint.core.errors import DataError

# What people call the folders of data that comes divided.
PARTS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "test": "test",
}
# What systems and tools leave among images.
LITTER = {"__macosx", "thumbs.db", "desktop.ini", "$recycle.bin", "@eadir", "lost+found"}
# What people leave beside images. Anything else is tried, and named if it is no image.
NOTES = (
    *(".txt", ".md", ".rst", ".pdf", ".html", ".htm", ".log", ".ini"),
    *(".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".db", ".mat"),
    *(".py", ".ipynb", ".m", ".sh"),
)


@dataclass(frozen=True)
class Arrangement:
    """Which images belong to a part of the data, and to which class each.

    Parameters
    ----------
    paths : tuple of str
        Those that belong to it, in the order of the alphabet.
    labels : tuple of str or None
        The class of each; None where there are no class folders.
    left_out : tuple of (str, str)
        Path and cause of what has no class.
    empty : tuple of (str, str), default=()
        The same of class folders without images, which are none themselves.

    Examples
    --------
    >>> infer_layout(["cat/1.png", "dog/2.png"]).labels
    ('cat', 'dog')
    """

    paths: tuple[str, ...]
    labels: tuple[str, ...] | None
    left_out: tuple[tuple[str, str], ...]
    empty: tuple[tuple[str, str], ...] = ()


def is_litter(name: str) -> bool:
    """Tell what is hidden, or left by a system, by a file's or folder's name.

    Parameters
    ----------
    name : str
        The last part of a path.

    Returns
    -------
    bool
        Whether to pass it by in silence.

    Examples
    --------
    >>> is_litter(".ipynb_checkpoints"), is_litter("Thumbs.db"), is_litter("cat")
    (True, True, False)
    """
    return name.startswith(".") or name.lower() in LITTER


def may_be_image(name: str) -> bool:
    """Tell a file that might be an image from notes that lie beside images.

    Parameters
    ----------
    name : str
        The last part of its path.

    Returns
    -------
    bool
        Whether to try to read it; also for endings that nobody knows.

    Examples
    --------
    >>> may_be_image("0001"), may_be_image("a.JPG"), may_be_image("LICENSE.txt")
    (True, True, False)
    """
    return not name.lower().endswith(NOTES)


def part_folders(folders: Iterable[str], where: str) -> dict[str, str]:
    """Tell which folders at the top are parts of divided data.

    Data are divided where there is a folder for training, or nothing but parts; else a folder called
    test is a class of that name.

    Parameters
    ----------
    folders : iterable of str
        The names of the folders at the top.
    where : str
        The data's name, for messages.

    Returns
    -------
    dict of str to str
        From ``"train"``, ``"validation"`` and ``"test"`` to the folder's name; empty where data are not
        divided.

    Raises
    ------
    DataError
        When two folders are the same part.

    Examples
    --------
    >>> part_folders(["Train", "val"], "photos"), part_folders(["cat", "test"], "photos")
    ({'train': 'Train', 'validation': 'val'}, {})
    """
    found: dict[str, str] = {}
    others = False
    for folder in sorted(folders):
        part = PARTS.get(folder.lower())
        if part is None:
            others = True
        elif part in found:
            cause = f"{found[part]} and {folder} are both the {part} part"
            raise DataError("folders", where, cause, "Merge or rename one of the two.")
        else:
            found[part] = folder
    if others and "train" not in found:
        return {}
    return {part: found[part] for part in dict.fromkeys(PARTS.values()) if part in found}


def infer_layout(
    paths: Sequence[str], folders: Iterable[str] = (), *, part: str | None = None, where: str = "data"
) -> Arrangement:
    """Read parts and classes off paths.

    Parameters
    ----------
    paths : sequence of str
        Paths of images within the data, with ``/``, in any order.
    folders : iterable of str, default=()
        Paths of folders, so that empty ones can be named.
    part : str or None, default=None
        ``"train"``, ``"validation"`` or ``"test"``; None takes the training part where data are divided,
        else everything.
    where : str, default="data"
        The data's name, for messages.

    Returns
    -------
    Arrangement
        Classes are named by the outermost folder, in Unicode's composed form (NFC), since some file
        systems store it otherwise.

    Raises
    ------
    DataError
        When there is no such part.

    Examples
    --------
    >>> infer_layout(["train/cat/1.png", "test/dog/2.png"], part="test").paths
    ('test/dog/2.png',)
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
    strays = tuple((path, f"it lies beside {' and '.join(divided.values())}, in none of them") for path in beside)
    return Arrangement(found.paths, found.labels, found.left_out + strays, found.empty)


def _by_class(paths: list[str], folders: list[str], inside: str) -> Arrangement:
    """Name classes after the outermost folder below `inside`; without such folders there are none."""
    start = len(inside)
    tops = [path[start:].rpartition("/")[0].partition("/")[0] for path in paths]
    classes = {folder[start:] for folder in folders if "/" not in folder[start:]}
    empty = tuple((inside + name, "the folder has no images in it") for name in sorted(classes - set(tops)))
    if not any(tops):
        return Arrangement(tuple(paths), None, (), empty)
    names = {top: unicodedata.normalize("NFC", top) for top in set(tops)}
    strays = tuple((path, "it lies in no class folder") for path, top in zip(paths, tops, strict=True) if not top)
    placed = tuple(path for path, top in zip(paths, tops, strict=True) if top)
    return Arrangement(placed, tuple(names[top] for top in tops if top), strays, empty)
