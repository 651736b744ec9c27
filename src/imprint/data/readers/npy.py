"""NumPy's files: .npz, .npy with labels in a file beside, and folders of .npy."""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

from imprint.core.errors import DataError
from imprint.core.memmap import mark_read_only
from imprint.data.images import LabelledImages, encode_labels
from imprint.data.readers.arrays import (
    as_stack,
    channels_first,
    labelled_arrays,
    laid_on_background,
    stack_to_bytes,
)
from imprint.data.split import PARTS, in_part_order

if TYPE_CHECKING:
    from imprint.preprocessing.input_spec import InputSpec

IMAGES = ("images", "image", "imgs", "pixels", "pictures", "data", "x", "arr_0")
LABELS = ("labels", "label", "targets", "target", "classes", "y", "arr_1")
NAMES = ("class_names", "label_names", "names")
PAIRS = {"x": ("y",), "images": ("labels",), "image": ("label",)}  # of a .npy; other names take whichever is there
ROLE, PART = "|".join(IMAGES[:-1] + LABELS[:-1]), "|".join(PARTS)
GLUED = re.compile(f"({ROLE})({PART})|({PART})({ROLE})")  # trainX, Xtrain
QUICK_DRAW = re.compile(r"^(?:full(?:_|%2F))?numpy_bitmap(?:_|%2F)")  # before the class in the name of its files
NAME_THE_ARRAYS = "Call the arrays images and labels."
NOTES = (".txt", ".md", ".json", ".csv", ".pdf", ".html", ".ini", ".db")  # what may lie beside arrays


def read_arrays(
    path: Path, part: str | None = None, group: str | None = None, spec: InputSpec | None = None
) -> LabelledImages:
    """Read a ``.npz`` or ``.npy`` of images, with labels, class names and groups where it has them.

    Arrays are known by name: images and labels, x_train and y_train, test_images; x.npy finds y.npy. Numbers beyond 0
    to 255 get the range of `spec`, else of their percentiles. Sources are the file's name and a number from 1.
    """
    arrays = _load(path, part)
    if "images" not in arrays:
        raise DataError("images", path.name, "no array is called images, x or pixels", NAME_THE_ARRAYS)
    images = labelled_arrays(arrays, path.name, spec)
    if "labels" not in arrays and path.suffix.lower() == ".npy" and QUICK_DRAW.match(path.stem):
        return _of_one_class(images, path)
    groups = None if group is None else _groups(path, group, len(images))
    return replace(images, groups=groups)


def is_array_folder(root: Path) -> bool:
    """Tell a folder that holds ``.npy`` files and nothing else but notes."""
    found = False
    with os.scandir(root) as entries:
        for name in (entry.name.lower() for entry in entries if not entry.name.startswith(".")):
            if not name.endswith((".npy", *NOTES)):
                return False  # at the first of 60,000 images
            found = found or name.endswith(".npy")
    return found


def read_array_folder(root: Path, part: str | None = None, spec: InputSpec | None = None) -> LabelledImages:
    """Read the ``.npy`` files of a folder as if they were the arrays of a ``.npz``.

    Where none is called images or labels, each is a class of its file's name, as Quick, Draw! comes.
    """
    files = _arrays_of(root)
    if len(files) == 1:
        return read_arrays(next(iter(files.values())), part, None, spec)
    if any(_part_and_role(name)[1] in ("images", "labels") for name in files):
        chosen = _chosen(list(files), part, root.name)
        if "images" not in chosen:
            raise DataError("images", root.name, "no file is called images.npy, x.npy or x_train.npy", NAME_THE_ARRAYS)
        return labelled_arrays({role: _array(files[name]) for role, name in chosen.items()}, root.name, spec)
    if part is not None:
        raise _no_part(part, root.name, ())
    stacks = {file: channels_first(as_stack(_array(file), file.name, spec), file.name) for file in files.values()}
    if all(len(stack) == 1 for stack in stacks.values()):
        cause = f"each of its {len(stacks):,} files holds one image, but stands for a class of many"
        raise DataError(
            "arrays", root.name, cause, "Join them with numpy.stack, and save them and their labels as .npz."
        )
    first, *others = stacks
    for file in others:
        _refuse_unlike(stacks[file], stacks[first], file.name, first.name, root.name)
    joined = np.concatenate(list(stacks.values()))  # so that one range and one background hold for all classes
    pixels, pixel_range = stack_to_bytes(joined, root.name, spec)
    pixels, background = laid_on_background(pixels, root.name, spec)
    labels, names = encode_labels(np.concatenate([np.full(len(stacks[file]), _class_of(file)) for file in stacks]))
    sources = np.array([f"{file.name}#{i}" for file, stack in stacks.items() for i in range(1, len(stack) + 1)])
    settled: dict[str, Any] = {"pixel_range": pixel_range, "background": background}
    return LabelledImages(pixels, labels, names, sources, root.name, **settled)


def _refuse_unlike(stack: ndarray, first: ndarray, name: str, first_name: str, where: str) -> None:
    """Raise DataError where the images of two classes differ in size, channels or type of numbers."""
    if stack.shape[1:] != first.shape[1:]:
        from imprint.preprocessing.input_spec import describe

        cause = f"its images are {describe(stack.shape[1:])}, those of {first_name} are {describe(first.shape[1:])}"
        raise DataError(f"images of {name}", where, cause, "Keep files of one size, a class in each.")
    if stack.dtype != first.dtype:
        cause = f"its numbers are {stack.dtype}, those of {first_name} are {first.dtype}"
        raise DataError(f"images of {name}", where, cause, "Save all of them in one type, such as uint8.")


def _of_one_class(images: LabelledImages, file: Path) -> LabelledImages:
    """Label images with the class that their file is named after: cat for full_numpy_bitmap_cat.npy."""
    return replace(images, labels=np.zeros(len(images), dtype=np.int64), class_names=(_class_of(file),))


def _class_of(file: Path) -> str:
    return QUICK_DRAW.sub("", file.stem)


def array_parts(path: Path) -> tuple[str, ...]:
    """Name the parts that a ``.npz`` or a folder of ``.npy`` is divided into; empty where it is not."""
    if path.is_dir():
        return in_part_order(part for part, _ in map(_part_and_role, _arrays_of(path)) if part)
    if path.suffix.lower() != ".npz":
        return ()
    try:
        with zipfile.ZipFile(path) as archive:
            keys = [name.removesuffix(".npy") for name in archive.namelist()]
    except zipfile.BadZipFile:
        return ()
    return in_part_order(part for part, _ in map(_part_and_role, keys) if part)


def _part_and_role(key: str) -> tuple[str, str]:
    """Split an array's name into part and role: x_train and train_images are images of train."""
    words = _words(key)
    part = next((PARTS[word] for word in words if word in PARTS), "")
    rest = "_".join(word for word in words if word not in PARTS)
    roles = (("images", IMAGES), ("labels", LABELS), ("names", NAMES))
    return part, next((role for role, names in roles if rest in names), "")


def _words(key: str) -> list[str]:
    """Split a name into words in lower case, also where nothing stands between: trainX is train and x."""
    words = list[str]()
    for word in re.split(r"[_\W]+", key.lower()):
        glued = GLUED.fullmatch(word)
        words += [part for part in glued.groups() if part] if glued else [word]
    return words


def _load(path: Path, part: str | None) -> dict[str, ndarray]:
    """Read the arrays that matter: images, labels and names."""
    if path.suffix.lower() == ".npy":
        if part is not None:
            raise _no_part(part, path.name, ())
        beside = _labels_beside(path)
        found = {"images": _array(path)}
        return found if beside is None else {**found, "labels": _array(beside)}
    with _opened(path) as stored:
        chosen = _chosen(list(stored), part, path.name)
        return {role: _member(stored, key, path.name) for role, key in chosen.items()}


def _chosen(keys: Sequence[str], part: str | None, where: str) -> dict[str, str]:
    """Choose the arrays of a part (None is the first) by name: their roles and names."""
    parts = in_part_order(of for of, _ in map(_part_and_role, keys) if of)
    if part is not None and part not in parts:
        raise _no_part(part, where, parts)
    wanted = (part or parts[0]) if parts else ""
    chosen = dict[str, str]()
    for key in keys:
        of, role = _part_and_role(key)
        if role and (of == wanted or (role == "names" and not of)):
            if role in chosen:
                raise DataError(f"array {key}", where, f"it is not the only one with {role}", NAME_THE_ARRAYS)
            chosen[role] = key
    return chosen


def _no_part(part: str, where: str, parts: tuple[str, ...]) -> DataError:
    have = f"it has {' and '.join(parts)}" if parts else "it is not divided into parts"
    return DataError(f"part {part}", where, have, "Call the arrays x_train, y_train, x_test and so on.")


@contextmanager
def _opened(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    with open(path, "rb") as file:
        try:
            opened = np.load(file, allow_pickle=False)
        except (zipfile.BadZipFile, ValueError, EOFError):
            raise _damaged(path.name) from None
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise _damaged(path.name)
        with opened:
            yield opened


def _array(path: Path) -> ndarray:
    """Map a .npy into memory; not to be written to, as `LabelledImages` says."""
    try:
        with open(path, "rb") as file:
            return mark_read_only(np.lib.format.open_memmap(path, mode="c"), file)
    except (ValueError, EOFError, OSError) as error:
        raise _no_array(error, path.name) from None


def _member(stored: np.lib.npyio.NpzFile, key: str, where: str) -> ndarray:
    try:
        array: ndarray = stored[key]
        return array
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise _no_array(error, f"{where}, array {key}") from None


def _no_array(error: Exception, where: str) -> DataError:
    if "Object arrays" in str(error) or "Python objects" in str(error):
        cause = "it holds pickled objects, which could run code when they are read"
        return DataError("array", where, cause, "Save it as numbers, or as text with dtype=str.")
    if isinstance(error, OSError) and error.errno is not None:
        return DataError("array", where, f"it cannot be opened ({error.strerror})", "Check the path.")
    return _damaged(where)


def _damaged(where: str) -> DataError:
    return DataError("array", where, "it is cut short, damaged or no NumPy file", "Save or download it again.")


def _arrays_of(folder: Path) -> dict[str, Path]:
    """Find the .npy files of a folder, by their names without ending, in alphabetical order."""
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".npy" and path.name[0] != ".")
    return {path.stem: path for path in found if path.is_file()}


def _labels_beside(path: Path) -> Path | None:
    """Find the labels that belong to a .npy of images, whatever the case: y_train.npy for X_train.npy."""
    words = _words(path.stem)
    role = next((word for word in words if word in IMAGES), None)
    if role is None:
        return None
    others = [word for word in words if word != role]
    found = dict[str, Path]()
    for name, file in _arrays_of(path.parent).items():
        label = next((word for word in _words(name) if word in LABELS), None)
        if label is not None and [word for word in _words(name) if word != label] == others:
            found[label] = file
    natural = [found[label] for label in PAIRS.get(role, ()) if label in found]
    if len(found) > 1 and not natural:
        cause = f"{' and '.join(file.name for file in found.values())} could be theirs"
        raise DataError("labels", path.name, cause, "Call images and labels x.npy and y.npy.")
    return next(iter(natural or found.values()), None)


def _groups(path: Path, key: str, count: int) -> ndarray:
    """Read the array of groups."""
    if path.suffix.lower() == ".npz":
        with _opened(path) as stored:
            if key in stored:
                groups = _member(stored, key, path.name).astype(str)
                if groups.shape == (count,):
                    return groups
                raise DataError(f"array {key}", path.name, f"it has not one group for each of {count:,} images", "")
    raise DataError(f"group {key}", path.name, "no array has that name", "Name an array of the file with --group.")
