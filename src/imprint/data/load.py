"""`load`: finds the reader for a file, a folder or what is in memory, and gives labelled images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imprint.core.errors import DataError, UsageError, missing_package
from imprint.core.files import similar_path
from imprint.core.progress import shown
from imprint.data.decoding.formats import PEEK, name_format, split_step
from imprint.data.images import LabelledImages, LoadedFrom, kind_of
from imprint.data.readers.columns import Choice
from imprint.data.readers.idx import is_idx, read_idx
from imprint.data.readers.layout import ARCHIVE_ENDINGS, ARRAY_ENDINGS, CSV_ENDINGS, IMAGE_ENDINGS, TABLE_ENDINGS
from imprint.data.readers.memory import Data as Data

if TYPE_CHECKING:
    from imprint.data.decoding.image_list import ImageList
    from imprint.preprocessing.input_spec import InputSpec

# What needs Pillow or torch is imported where it is used: a CSV of pixels needs neither.

ACCEPTED = (
    "Give a folder of class folders, an image, a .csv of pixels or of path,label, a .npz, .npy, .parquet, .mat, IDX "
    "file or a .zip or .tar of these, or the bundled set: digits."
)


def load(
    data: Data,
    *,
    part: str | None = None,
    spec: InputSpec | None = None,
    side: int = 128,
    label: str | None = None,
    group: str | None = None,
    ids: str | None = None,
    allow_bad: float = 0.2,
    classes: Sequence[str] | None = None,
    labels: str | PathLike[str] | None = None,
) -> LabelledImages:
    """Read labelled images from a file or folder, or a set that comes with Imprint.

    Parameters
    ----------
    data : str, path, or images in memory
        A folder of class folders, or of images without labels; an image, or a list of them; a ``.csv`` or ``.csv.gz``
        of pixels as in Kaggle's digit recogniser, or of ``path,label``; a ``.npz``, ``.npy``, ``.parquet``, ``.mat`` or
        IDX file, or a folder of ``.npy`` files, of Parquet shards, of IDX files or of CIFAR's binary batches; a
        ``.zip``, ``.tar`` or ``.tgz`` of any of these; or ``"digits"``: scikit-learn's 1,797 real digits of 8×8 pixels
        (for a file of that name write ``"./digits"``). In memory: a PIL image, the content of an image file, a file
        opened in binary mode, or a list of these and of paths; or an array, a tensor or a table of numbers, as
        docs/data.md tells: one image, several, or rows of pixels.
    part : {"train", "validation", "test"} or None, default=None
        Which part of data that come divided; None takes the training part, or everything.
    spec : InputSpec or None, default=None
        The form to bring the images into, as a model expects them: size, channels, what is black and white in deeper
        images, what transparent ones are laid on, and how ink stands on its ground. None keeps images as they are, but
        files of different sizes get one common size, and black, white and background are settled for all together.
    side : int, default=128
        The most pixels that the shorter side of that common size has.
    label : str or None, default=None
        The column of a table that holds the labels, or a regular expression whose brackets match the label in an
        image's path; None finds them by the names of columns and folders.
    group : str or None, default=None
        A column, or a regular expression for the path, that tells which images belong together.
    ids : str or None, default=None
        The column of a table that holds the images' ids, which predictions are written under; None takes one called
        id, ImageId, image_id or index.
    allow_bad : float, default=0.2
        Fraction of the images that may be unreadable, from 0 to 1.
    classes : sequence of str or None, default=None
        The classes to keep, see `LabelledImages.select`; None keeps all.
    labels : str, path or None, default=None
        A list of corrected labels, as ``imprint evaluate --mistakes`` writes it: a table of ``source,label``. Its
        labels replace those of the data, by source; images without a label there are left out. A list for divided data
        may name images of any part.

    Returns
    -------
    LabelledImages
        Pixels, labels if there are any, class names and sources.

    Raises
    ------
    DataError
        When the data cannot be read; one line names file, row, column and remedy.
    UsageError
        When `group` matches nothing, `ids` is no column, `side` is less than 1, or `allow_bad` is not from 0 to 1.

    Examples
    --------
    >>> import imprint
    >>> imprint.load("digits").class_counts()["9"]
    180
    """
    if side < 1:
        raise UsageError(f"side={side}", "load", "images have one pixel at least", "Give a whole number such as 128.")
    if not 0 <= allow_bad <= 1:
        raise UsageError(f"allow_bad={allow_bad}", "load", "a share lies from 0 to 1", "Give 0.2 for one in five.")
    corrections = labels_path(labels)
    try:
        choice = Choice(label, group, ids)
        images = _read(data, part, spec, side, choice, allow_bad)
        if corrections is not None:
            from imprint.data.readers.corrections import with_corrections

            images = with_corrections(images, Path(corrections), _other_parts(data, part, choice))
    except ModuleNotFoundError as error:
        raise missing_package(error, "load", "give the images as .npy or .npz") from None
    except OSError as error:
        name = fspath(data) if isinstance(data, str | PathLike) else "the list"
        cause = f"it cannot be read ({error.strerror or error})"
        meant = similar_path(name, others=("digits",)) if isinstance(error, FileNotFoundError) else ""
        raise DataError("data", str(name), cause, f"{meant}Check the path and its permissions.") from None
    if not isinstance(data, str | PathLike):
        return images if classes is None else images.select(classes)
    given = {"part": part, "side": side, "label": label, "group": group, "ids": ids, "allow_bad": allow_bad}
    given["labels"] = corrections
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if spec is not None:
        options["form"] = [spec.channels, *spec.image_size]
        settled = {"pixel_range": spec.pixel_range, "background": spec.background}
        options |= {key: value for key, value in settled.items() if value is not None}
    path = data if data == "digits" else str(Path(data).absolute())
    images = replace(images, loaded_from=LoadedFrom(str(path), options))
    return images if classes is None else images.select(classes)


def _read(
    data: Data, part: str | None, spec: InputSpec | None, side: int, choice: Choice, allow_bad: float
) -> LabelledImages:
    """Find the reader and let it read; decode image files."""
    found, group = _find(data, part, choice, spec), choice.group
    if choice.ids is not None and found.ids is None:
        raise UsageError(f"column {choice.ids!r}", found.name, "it has no such column", "Leave --id out.")
    if not isinstance(found, LabelledImages):
        from imprint.data.decoding.image_list import read_images, with_groups

        listed = with_groups(found, group) if group is not None and found.groups is None else found
        return read_images(listed, spec=spec, side=side, allow_bad=allow_bad)
    if group is not None and found.groups is None:
        cause = "there is no such column, and no path to search"
        raise UsageError(f"group {group!r}", found.name, cause, "Leave --group out, or give images as files.")
    return found if spec is None else _fitted(found, spec)


def labels_path(labels: object) -> str | None:
    """Give the absolute path of a list of corrected labels; raises `UsageError` for anything else, such as an array."""
    if labels is None or isinstance(labels, str | PathLike):
        return None if labels is None else str(Path(labels).absolute())
    cause = f"{kind_of(labels)} is no path of a list of corrected labels"
    raise UsageError("labels", "load", cause, "For arrays with their labels use imprint.ImageClassifier.")


def find_originals(data: Data, part: str | None = None, ids: str | None = None) -> ImageList | LabelledImages:
    """Find the images that `load` gives as they are before they are decoded or fitted, unreadable ones too."""
    with shown(False):  # what was left out has been said
        return _find(data, part, Choice(ids=ids), None)


def _other_parts(data: Data, part: str | None, choice: Choice) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
    """Give sources and labels of the parts of divided data that are not being read, without decoding images."""
    for other in parts(data):
        if other != (part or "train"):
            found = _find(data, other, choice, None)
            if isinstance(found, LabelledImages):
                names = [] if found.labels is None else list(found.class_counts())
                yield list(map(str, found.sources.tolist())), names
            else:
                yield found.sources, found.labels or []


def load_again(loaded: LoadedFrom, path: str | None = None) -> LabelledImages:
    """Load images as they were loaded before, from `path` if they were moved."""
    options = dict(loaded.options)
    if form := options.pop("form", None):
        from imprint.preprocessing.input_spec import InputSpec

        channels, height, width = form
        pixel_range, background = options.pop("pixel_range", None), options.pop("background", None)
        settled = None if pixel_range is None else tuple(pixel_range)
        options["spec"] = InputSpec.from_shape((channels, height, width), settled, background)
    return load(path or loaded.path, **options)


def parts(data: Data) -> tuple[str, ...]:
    """Name the parts that data are divided into: train, validation, test; empty where not divided, or unreadable."""
    if not isinstance(data, str | PathLike) or data == "digits":
        return ()
    path = Path(data)
    if path.is_dir():
        from imprint.data.readers.arrays import array_parts, is_array_folder
        from imprint.data.readers.collection import find_collection, lone_table, scan_folder
        from imprint.data.readers.folder import folder_parts

        sizes = scan_folder(path)
        if found := find_collection(sizes, str(path)):
            return found.parts
        if is_array_folder(path):
            return array_parts(path)
        return parts(path / table) if (table := lone_table(sizes)) else folder_parts(path)
    name = path.name.lower()
    if not path.is_file():
        return ()
    if name.endswith(ARRAY_ENDINGS):
        from imprint.data.readers.arrays import array_parts

        return array_parts(path)
    if name.endswith(ARCHIVE_ENDINGS):
        from imprint.data.readers.archive import archive_parts

        return archive_parts(path, parts)
    if name.endswith(CSV_ENDINGS):
        from imprint.data.readers.pixel_text import is_pixel_text, pixel_text_parts

        return pixel_text_parts(path) if is_pixel_text(_start(path)) else ()
    return ()


def _start(path: Path, length: int = 2**16) -> bytes:
    with open(path, "rb") as file:
        return file.read(length)


def _find(data: Data, part: str | None, choice: Choice, spec: InputSpec | None) -> ImageList | LabelledImages:
    """Choose the reader: by being a folder, by name, or by the first bytes."""
    if not isinstance(data, str | PathLike):
        from imprint.data.readers.memory import read_memory

        return _labelled_by_path(_undivided(read_memory(data, spec), part), choice)
    if data == "digits":
        return _labelled_by_path(_undivided(_bundled_digits(), part), choice)
    if data == "":  # from an unset shell variable; Path("") would be the working directory
        raise DataError("data", "''", "the name is empty", ACCEPTED)
    if "\0" in fspath(data):
        raise DataError("data", fspath(data), "no name of a file holds a zero byte", ACCEPTED)
    path = Path(data)
    if path.is_dir():
        return _find_in_folder(path, part, choice, spec)
    if path.exists() and not path.is_file():
        raise DataError("data", path.name, "it is a pipe or a device, no file", ACCEPTED)
    name = path.name.lower()
    if name.endswith(ARRAY_ENDINGS):
        from imprint.data.readers.arrays import read_arrays

        return _labelled_by_path(read_arrays(path, part, choice.group, spec), choice)
    if name.endswith(ARCHIVE_ENDINGS):
        from imprint.data.readers.archive import read_archive

        return read_archive(path, part, choice, lambda file: _find(file, part, choice, spec))
    if name.endswith(CSV_ENDINGS):
        from imprint.data.readers.pixel_text import is_pixel_text, read_pixel_text

        if is_pixel_text(_start(path)):
            return read_pixel_text(path, part, choice)
    return _undivided(_find_file(path, choice, spec), part)


def _find_in_folder(path: Path, part: str | None, choice: Choice, spec: InputSpec | None) -> ImageList | LabelledImages:
    """Choose between a data set of several files, a lone table, and image files."""
    from imprint.data.readers.arrays import is_array_folder, read_array_folder
    from imprint.data.readers.collection import find_collection, lone_table, read_collection, scan_folder
    from imprint.data.readers.folder import list_folder

    sizes = scan_folder(path)
    if found := find_collection(sizes, str(path)):
        images = read_collection(path, found, part, choice, spec)
        return images if found.kind == "Parquet" else _labelled_by_path(images, choice)
    if is_array_folder(path):
        return _labelled_by_path(read_array_folder(path, part, spec), choice)
    return _find(path / table, part, choice, spec) if (table := lone_table(sizes)) else list_folder(path, part, choice)


def _labelled_by_path(found: ImageList | LabelledImages, choice: Choice) -> ImageList | LabelledImages:
    """Label listed images by their paths, where a regular expression for these was given."""
    if choice.label is None:
        return found
    if isinstance(found, LabelledImages):
        cause = "it has neither columns nor paths"
        raise UsageError(f"label {choice.label!r}", found.name, cause, "Leave --label out.")
    from imprint.data.readers.path_table import PathTable, with_table

    return with_table(found, PathTable.by_pattern(found.paths or found.sources, choice.label, found.name))


def _find_file(path: Path, choice: Choice, spec: InputSpec | None) -> ImageList | LabelledImages:
    """Choose the reader for a file of a format that knows no parts."""
    name = path.name.lower()
    if name.endswith(".parquet"):
        from imprint.data.readers.parquet import read_parquet

        return read_parquet(path, choice)
    if name.endswith(TABLE_ENDINGS):
        from imprint.data.readers.folder import list_table
        from imprint.data.readers.path_table import is_path_table

        if is_path_table(_start(path), path.name):
            return list_table(path, choice)
        if name.endswith(CSV_ENDINGS):
            from imprint.data.readers.csv import read_csv  # polars takes a quarter of a second, which images need not

            return read_csv(path, choice)
    if name.endswith(".mat"):
        from imprint.data.readers.mat import read_mat

        return _labelled_by_path(read_mat(path, spec), choice)
    if name.endswith(".bin"):
        from imprint.data.readers.cifar import may_be_cifar, read_cifar

        if may_be_cifar(name, path.stat().st_size):
            return _labelled_by_path(read_cifar([path], path.name), choice)
    if not name.endswith(IMAGE_ENDINGS) and is_idx(path):
        return _labelled_by_path(read_idx(path), choice)
    from imprint.data.decoding.decode import is_image
    from imprint.data.readers.folder import list_files

    if name.endswith(IMAGE_ENDINGS) or is_image(path):
        path.stat()  # an image that is not there is a wrong path, not an unreadable image
        return _labelled_by_path(list_files([path], path.name), choice)
    if known := name_format(_start(path, PEEK), path.name):
        what, step = split_step(known)
        raise DataError("format", path.name, f"it is {what}", step or ACCEPTED)
    raise DataError("format", path.name, "neither the name nor the first bytes tell what it is", ACCEPTED)


def _undivided(found: ImageList | LabelledImages, part: str | None) -> ImageList | LabelledImages:
    if part is not None:
        raise DataError(f"part {part}", found.name, "it is not divided into parts", "Name a folder with parts in it.")
    return found


def _fitted(images: LabelledImages, spec: InputSpec) -> LabelledImages:
    """Bring images from a table or an array into a model's form; those in that form already stay untouched."""
    from imprint.preprocessing.input_spec import fit_all

    scaled = images.shape[1:] != spec.image_size
    if images.from_pixel_table and images.shape != (spec.channels, *spec.image_size):
        return images  # the model's own check reports a table of another size
    sizes = np.broadcast_to(np.array(images.shape[1:], dtype=np.int32), (len(images), 2)).copy() if scaled else None
    return replace(images, pixels=fit_all(images.pixels, spec), sizes=sizes)


def _bundled_digits() -> LabelledImages:
    """Read the test half of UCI's optical digits, as scikit-learn ships it; 17 grey levels become 0 to 255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    sources = np.array([f"digits#{i}" for i in range(1, len(pixels) + 1)])
    names = tuple(str(digit) for digit in bunch.target_names)
    return LabelledImages(pixels, bunch.target.astype(np.int64), names, sources, "digits")
