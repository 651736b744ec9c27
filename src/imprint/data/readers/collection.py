"""Data sets that come as several files in a folder: IDX, Parquet shards, CIFAR's batches, MATLAB's files.

Their parts are told by words in the names, as in ``train-images-idx3-ubyte`` or ``data/test-00000-of-00001.parquet``.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from imprint.core.errors import DataError
from imprint.core.progress import say
from imprint.data.decoding.image_list import ImageList
from imprint.data.images import LabelledImages
from imprint.data.readers.cifar import VERSIONS, may_be_cifar, read_cifar
from imprint.data.readers.columns import BY_NAME, Choice
from imprint.data.readers.folder import is_system_file, may_be_image
from imprint.data.readers.idx import read_idx
from imprint.data.readers.layout import ARRAY_ENDINGS, CSV_ENDINGS, is_image_name
from imprint.data.readers.mat import read_mat
from imprint.data.split import PARTS, in_part_order

if TYPE_CHECKING:
    from imprint.preprocessing.input_spec import InputSpec

DEPTH = 3  # folders below the one named
ENOUGH_IMAGES = 1000  # that many more than other files decide for images without looking on
PART_WORDS = PARTS | {"t10k": "test"}  # MNIST's test images
IDX = re.compile(r"[-.]idx\d")
HASH = re.compile(r"[0-9a-f]{16,}")  # as Hugging Face adds to the names of shards
# Words of a name that do not tell one set from another.
NO_SET = {"images", "image", "labels", "label", "ubyte", "gz", "of", "data", "batch", "parquet", "bin", "mat"}


@dataclass(frozen=True)
class Collection:
    """The files of one data set, as paths in its folder, by part ("" where it is not divided)."""

    kind: str
    files: Mapping[str, Sequence[str]]
    beside: Sequence[str] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts in their order; empty where the set is not divided."""
        return in_part_order(part for part in self.files if part)

    def choose(self, part: str | None, where: str) -> Sequence[str]:
        """Give the files of a part, of which None takes the first; raises DataError when there is no such part."""
        if part is not None and part not in self.parts:
            have = f"it has {' and '.join(self.parts)}" if self.parts else "it is not divided into parts"
            raise DataError(f"part {part}", where, have, "Give files with train, validation or test in their names.")
        if self.beside:
            say(f"left out {len(self.beside):,} files of {where} that are in no part, first {self.beside[0]}")
        return self.files[part or next(iter(self.parts), "")]

    def needed(self, part: str | None, where: str, names: Iterable[str]) -> list[str]:
        """Give the files of a part, and those among `names` that hold labels or class names for them."""
        chosen = list(self.choose(part, where))
        beside = {"IDX": _is_idx_labels, "CIFAR": _names_classes}.get(self.kind)
        return chosen + [name for name in names if beside is not None and beside(name) and name not in chosen]


def scan_folder(root: Path) -> dict[str, int]:
    """List the files of a folder and of folders in it, with their sizes where they matter.

    Ends early where there are so many images that nothing else can be meant.
    """
    found, images, others = dict[str, int](), 0, 0
    waiting = deque([""])
    while waiting:
        inside = waiting.popleft()
        try:
            with os.scandir(root / inside) as entries:
                for entry in entries:
                    path = f"{inside}{entry.name}"
                    if is_system_file(entry.name):
                        continue
                    if _is_folder(entry):
                        waiting += [f"{path}/"] if path.count("/") < DEPTH else []
                        continue
                    found[path] = _size(entry) if path.lower().endswith(".bin") else 0
                    if is_image_name(path):
                        images += 1
                    else:
                        others += _kind(path, found[path]) is not None
                    if images > others + ENOUGH_IMAGES:
                        return found
        except OSError:  # named by whoever reads the folder
            continue
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:
        return 0


def find_collection(sizes: Mapping[str, int], where: str) -> Collection | None:
    """Find the data set that files make, given by path and size; None where images are more than its files.

    Raises DataError where there are several sets, or where two files could be one part.
    """
    images = sum(map(is_image_name, sizes))
    if images >= len(sizes) - images:
        return None
    kinds = {path: kind for path, size in sizes.items() if (kind := _kind(path, size)) is not None}
    strong = {path: kind for path, kind in kinds.items() if kind != "MATLAB"}  # annotations beside images are .mat too
    kinds = strong or kinds
    if not kinds or images >= len(kinds):
        return None
    if len(set(kinds.values())) > 1:
        one, other = sorted(set(kinds.values()))[:2]
        raise DataError("files", where, f"there are {one} files and {other} files", "Name the folder of one kind.")
    kind = next(iter(kinds.values()))
    sets: dict[str, list[str]] = {}
    for path in sorted(kinds, key=_natural):
        sets.setdefault(_set_of(path, kind), []).append(path)
    divided = {key: paths for key, paths in sets.items() if any(_part_of(path) for path in paths)}
    if len(divided or sets) > 1:
        names = " and ".join(_first(paths) for paths in list((divided or sets).values())[:3])
        cause = f"there are {len(divided or sets)} sets, of files such as {names}"
        raise DataError("files", where, cause, f"Name one file, such as {_first(next(iter(sets.values())))}.")
    chosen = next(iter((divided or sets).values()))
    if kind == "IDX":
        chosen = _images_of(chosen)
    files: dict[str, list[str]] = {}
    for path in chosen:
        files.setdefault(_part_of(path), []).append(path)
    beside = [path for path in kinds if path not in chosen and kind != "IDX"]
    if divided:
        beside += files.pop("", [])
    if kind in ("IDX", "MATLAB"):
        for paths in files.values():
            if len(paths) > 1:
                cause = f"{paths[0]} and {paths[1]} could both be meant"
                raise DataError("files", where, cause, f"Name one file, such as {paths[0]}.")
    return Collection(kind, files, tuple(beside)) if files else None


def read_collection(
    root: Path, found: Collection, part: str | None, choice: Choice = BY_NAME, spec: InputSpec | None = None
) -> ImageList | LabelledImages:
    """Read a part of a data set, of which None takes the first; raises DataError when there is no such part."""
    name = root.resolve().name
    paths = [root / path for path in found.choose(part, name)]
    if found.kind == "Parquet":
        from imprint.data.readers.parquet import read_shards  # polars takes time, which images need not

        return read_shards(paths, name, choice)
    if found.kind == "CIFAR":
        return read_cifar(paths, name)
    return replace(read_idx(paths[0]) if found.kind == "IDX" else read_mat(paths[0], spec), name=name)


def lone_table(sizes: Mapping[str, int]) -> str | None:
    """Name the one table or array among files that are otherwise notes; None where there are several, or none."""
    tables = [path for path in sizes if path.lower().endswith((*CSV_ENDINGS, *ARRAY_ENDINGS))]
    names = (path.rpartition("/")[2] for path in sizes if path not in tables)
    if len(tables) != 1 or any("." in name and may_be_image(name) for name in names):
        return None
    return tables[0]


def _kind(path: str, size: int) -> str | None:
    """Tell of which kind of data set a file is, by its name, and of CIFAR by its size."""
    name = path.rpartition("/")[2].lower()
    if IDX.search(name):
        return "IDX"
    if name.endswith(".parquet") and name != "metadata.parquet":  # that is a table beside images
        return "Parquet"
    if name.endswith(".mat"):
        return "MATLAB"
    return "CIFAR" if may_be_cifar(name, size) else None


def _is_idx_labels(path: str) -> bool:
    return _kind(path, 0) == "IDX" and "labels" in path.lower()


def _names_classes(path: str) -> bool:
    return path.rpartition("/")[2] in (names_file for *_, names_file in VERSIONS)


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]


def _part_of_word(word: str) -> str:
    return PART_WORDS.get(word) or PART_WORDS.get(word.rstrip("0123456789"), "")


def _part_of(path: str) -> str:
    """Tell the part by the file's name, else by the folders above it, the nearest first; empty where nothing does."""
    *folders, name = path.split("/")
    if name.lower().startswith("data_batch"):
        return "train"  # CIFAR-10
    words = [*_words(name), *(word for folder in reversed(folders) for word in _words(folder))]
    return next((part for word in words if (part := _part_of_word(word))), "")


def _set_of(path: str, kind: str) -> str:
    """Name the set that a file belongs to: its folder and name without what tells parts, shards and forms."""
    *folders, name = path.split("/")
    if folders and folders[-1] == name.removesuffix(".gz"):  # Kaggle's MNIST has each file in a folder of its name too
        folders.pop()
    while folders and _part_of_word(folders[-1].lower()):
        folders.pop()
    kept = [word for word in _words(name) if not (word in NO_SET or _part_of_word(word) or HASH.fullmatch(word))]
    if kind != "MATLAB":
        kept = [word for word in kept if not word.isdigit() and not word.startswith("idx")]
    return "/".join([*folders, "-".join(kept)])


def _images_of(paths: Sequence[str]) -> list[str]:
    """Choose the images among IDX files, each once: a plain file before the same gzipped, and the least deep."""
    chosen: dict[tuple[str, ...], str] = {}
    for path in sorted(paths, key=lambda path: (path.count("/"), path.lower().endswith(".gz"), path)):
        name = PurePosixPath(path).name.lower()
        if "labels" not in name:
            chosen.setdefault(tuple(_words(name.removesuffix(".gz"))), path)
    return list(chosen.values())


def _first(paths: Sequence[str]) -> str:
    return next((path for path in paths if "labels" not in path.lower()), paths[0])


def _natural(path: str) -> list[tuple[int, str]]:
    """Sort numbers in names by size, so that batch 10 follows batch 9."""
    return [(int(word), "") if word.isdigit() else (-1, word) for word in re.split(r"(\d{1,18})", path)]
