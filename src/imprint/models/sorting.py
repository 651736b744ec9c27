"""Sorting images into a folder for each predicted class: copies or links of the originals, which stay as they are."""

from __future__ import annotations

import contextlib
import filecmp
import io
import os
import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imprint.core.errors import UsageError
from imprint.core.files import WRITABLE, make_folder
from imprint.core.progress import say
from imprint.data.decoding.image_list import ImageList
from imprint.data.images import LabelledImages
from imprint.data.readers.layout import IMAGE_ENDINGS
from imprint.models.predictor import Predictions

UNSURE = "unsure"  # the folder of what is to be looked at
UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')  # in names on some system
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # of Windows, whatever their ending
LONGEST = 120  # bytes of a name; file systems take 255, and numbers and endings are added
ENDINGS = {"JPEG": ".jpg", "TIFF": ".tif", "PPM": ".ppm"}  # of formats that are not called as their files end


MARK = ".imprint-sorted"  # in a folder that images were sorted into


def check_sorting(data: str | Sequence[str], folder: Path) -> None:
    """Make the folder to sort into; raises `UsageError` where that fails or it lies within the data or is in use."""
    for name in [data] if isinstance(data, str) else data:
        if Path(name).is_dir() and folder.resolve().is_relative_to(Path(name).resolve()):
            cause = f"it lies within {name}, which would then hold each image twice"
            raise UsageError("--sort-into", str(folder), cause, "Choose a folder beside the data.")
    make_folder(folder)
    if any(folder.iterdir()) and not (folder / MARK).exists():
        cause = "it holds other files, such as images to learn from, among which predictions would be lost"
        raise UsageError("--sort-into", str(folder), cause, "Choose a new folder, or one that was sorted into before.")
    with contextlib.suppress(OSError):
        (folder / MARK).touch()


def sort_into(
    predictions: Predictions, originals: ImageList | LabelledImages, folder: Path, link: bool = False
) -> dict[str, int]:
    """Copy or link each image into ``folder/CLASS``, unsure ones into ``folder/unsure``; gives how many went where.

    `originals` are the images before they were decoded; arrays become PNG files. Another image of the same name gets a
    number, one that is there already stays. Raises `UsageError` where that fails, or links are asked for of no files.
    """
    if link and not _all_files(originals):
        cause = "its images are no files of their own"
        raise UsageError("--link", originals.name, cause, "Leave --link out, so that they are written as files.")
    folders, counts = class_folders(predictions.class_names), Counter[str]()
    taken, numbers, there = set[Path](), Counter[Path](), 0
    images = _each(predictions, originals)
    for label, unsure, (name, content) in zip(predictions.labels, predictions.unsure, images, strict=True):
        home = folder / (UNSURE if unsure else folders[label])
        make_folder(home)
        try:
            there += _place(home / name, content, link, taken, numbers)
        except OSError as error:
            cause = f"it cannot be written ({error.strerror or error})"
            remedy = "Leave --link out." if link else WRITABLE
            raise UsageError(name, str(home), cause, remedy) from error
        counts[home.name] += 1
    for name, place in zip(predictions.class_names, folders, strict=True):
        if name != place and counts[place]:
            say(f"class {name!r} is in the folder {place!r}")
    if there:
        say(f"{there:,} of {len(predictions):,} images were in {folder} already")
    return {home: counts[home] for home in (*folders, UNSURE) if counts[home]}


def class_folders(class_names: Sequence[str]) -> list[str]:
    """Name a folder for each class: its name where that is safe on every system, and no two alike in any case."""
    named = dict[str, str]()
    taken = {UNSURE}
    for name in sorted(class_names, key=lambda name: (safe_name(name) != name, class_names.index(name))):
        base = safe_name(name) or "class"
        number, place = 1, base
        while _folded(place) in taken:
            number += 1
            place = f"{base} ({number})"
        taken.add(_folded(place))
        named[name] = place
    return [named[name] for name in class_names]


def safe_name(name: str) -> str:
    """Give a name for a file or folder that every system takes, that is not hidden, and leads nowhere else."""
    safe = UNSAFE.sub("_", name).strip(" ").lstrip(".")
    safe = safe.encode()[:LONGEST].decode(errors="ignore").rstrip(". ")
    return f"{safe}_" if DEVICES.fullmatch(safe) else safe


def _folded(name: str) -> str:
    """Bring a name into the form by which systems that ignore case compare names."""
    return unicodedata.normalize("NFC", name).casefold()


def _all_files(originals: ImageList | LabelledImages) -> bool:
    """Tell images that are files from those within an archive, a table or memory, by the first."""
    return isinstance(originals, ImageList) and isinstance(originals.open(0), str | Path)


def _each(predictions: Predictions, originals: ImageList | LabelledImages) -> Iterator[tuple[str, Path | bytes]]:
    """Give name and file, or content, of each image that was predicted; unreadable ones are passed over."""
    ids = None if predictions.ids is None else predictions.ids.tolist()
    if isinstance(originals, LabelledImages):
        for i, pixels in enumerate(originals.pixels):
            source = str(originals.sources[i])
            source = f"{originals.name}#{source}" if originals.from_pixel_table else source
            yield f"{_stem(source, None if ids is None else ids[i])}.png", _png(np.asarray(pixels))
        return
    wanted, done = predictions.sources.tolist(), 0
    for i, source in enumerate(originals.sources):
        if done < len(wanted) and source == wanted[done]:
            opened = originals.open(i)
            if isinstance(opened, str | Path):
                yield Path(opened).name, Path(opened)
            else:
                yield _named(source, None if ids is None else ids[done], opened)
            done += 1


def _named(source: str, id_: str | None, opened: Any) -> tuple[str, bytes]:
    """Name the content of an image file that stands in another file, or an image in memory, which becomes PNG."""
    from PIL import Image

    if not isinstance(opened, bytes):
        content = io.BytesIO()
        opened.save(content, "PNG")
        return f"{_stem(source, id_)}.png", content.getvalue()
    inside = re.split(r"[/\\]", source)[-1]
    if inside.lower().endswith(IMAGE_ENDINGS):
        return f"{safe_name(Path(inside).stem) or 'image'}{Path(inside).suffix}", opened
    with contextlib.suppress(Exception), Image.open(io.BytesIO(opened)) as image:  # Pillow raises many kinds
        known = image.format or ""
        return f"{_stem(source, id_)}{ENDINGS.get(known, f'.{known.lower()}')}", opened
    return _stem(source, id_), opened


def _stem(source: str, id_: str | None) -> str:
    """Name an image that is no file by its id, else by its file and number: x-3 for x.npz#3."""
    file, _, number = re.split(r"[/\\]", source)[-1].rpartition("#")
    return safe_name(id_ or (f"{Path(file).stem}-{number}" if file else number)) or "image"


def _png(pixels: Any) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    shaped = pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    Image.fromarray(shaped).save(content, "PNG")
    return content.getvalue()


def _place(wanted: Path, content: Path | bytes, link: bool, taken: set[Path], numbers: Counter[Path]) -> bool:
    """Write one image under the first name that is free, or find it there already, which is told by True."""
    while True:
        numbers[wanted] += 1
        number = numbers[wanted]
        target = wanted if number == 1 else wanted.with_name(f"{wanted.stem} ({number}){wanted.suffix}")
        if target in taken:
            continue
        if os.path.lexists(target):
            if _same(target, content):
                taken.add(target)
                return True
            continue
        with contextlib.suppress(FileExistsError):  # made by another process meanwhile
            _write(target, content, link)
            taken.add(target)
            return False


def _same(target: Path, content: Path | bytes) -> bool:
    with contextlib.suppress(OSError):
        if isinstance(content, Path):
            return filecmp.cmp(content, target, shallow=False)
        return target.is_file() and target.stat().st_size == len(content) and target.read_bytes() == content
    return False


def _write(target: Path, content: Path | bytes, link: bool) -> None:
    """Write a new file; one that exists is never opened, and one that was not written whole is removed."""
    if link and isinstance(content, Path):
        target.symlink_to(content.absolute())
        return
    with open(target, "xb") as file:
        try:
            if isinstance(content, bytes):
                file.write(content)
            else:
                with open(content, "rb") as original:
                    shutil.copyfileobj(original, file)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
    if isinstance(content, Path):
        with contextlib.suppress(OSError):
            shutil.copystat(content, target)
