"""Images in files and folders: their paths, and the parts and classes that folders stand for."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from imprint.core.errors import DataError
from imprint.core.progress import say
from imprint.data.decoding.formats import VIDEO_ENDINGS
from imprint.data.decoding.image_list import ImageList
from imprint.data.readers.columns import BY_NAME, ONE_LABEL, Choice, find_column
from imprint.data.readers.layout import (
    ARCHIVE_ENDINGS,
    DATA_ENDINGS,
    TABLE_ENDINGS,
    Layout,
    find_parts,
    infer_layout,
    part_word,
)
from imprint.data.readers.path_table import (
    PathTable,
    Resolver,
    is_path_table,
    read_path_names,
    read_path_table,
    with_table,
)

MOST_TABLES = 30  # beside images, among which the one of their labels is looked for
TRIED_ROWS = 20  # of a table decide whether it speaks of the images beside it
BOX = re.compile(rb"\s*\d+(\s+[\d.eE+-]+){4,}\s*$", re.MULTILINE)  # a line of YOLO: class, middle and size
SAMPLED, SAMPLED_DEPTH = 20, 4  # images of a folder, and folders below the first, that tell parts of large data
MAX_DEPTH = 40  # folders; deeper is a mistake, or a loop that the file system does not show
# What systems and tools leave among images, besides hidden files.
SYSTEM_FILES = {
    *("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "@eadir", "lost+found", "icon\r"),
    *("picasa.ini", "zbthumbnail.info", "folder.htt"),
}
# What people leave beside images. Anything else is tried, and named if it is no image.
NOT_IMAGES = (
    *(".txt", ".md", ".rst", ".pdf", ".html", ".htm", ".log", ".ini", ".bib"),
    *(".csv", ".csv.gz", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".db", ".mat"),
    *(".py", ".ipynb", ".m", ".sh"),
    *VIDEO_ENDINGS,  # as phones keep one with each photo
    *(".aae", ".xmp", ".thm", ".lrv", ".pp3", ".dop", ".lnk", ".url"),  # edits of photos, and shortcuts
)


def list_folder(root: Path, part: str | None = None, choice: Choice = BY_NAME) -> ImageList:
    """Find the images of a folder, in the order of their paths; raises DataError when there are none or no such part.

    ``root/<class>/…/*.jpg`` gives labelled images, ``root/*.jpg`` unlabelled ones unless a table there has labels;
    ``root/train/…``, ``root/validation/…``, ``root/test/…`` are parts, of which None takes training; see `layout`.
    """
    files, folders, beside, closed = _walk(root)
    if not closed and all(path.lower().endswith((*DATA_ENDINGS, *ARCHIVE_ENDINGS)) for path in files):
        raise no_images(root)
    name, start = root.resolve().name, str(root / "x")[:-1]  # 60,000 paths as text cost 0.6 s less than as Path
    tables = [path for path in beside if path.lower().endswith(TABLE_ENDINGS)]
    found = infer_layout(files, folders, part=part, where=str(root))
    chosen = find_table(found, tables, lambda path: (root / path).read_bytes(), choice)
    if chosen is not None:
        return _from_table(root, found, *chosen)
    if choice.label is not None:
        found = infer_layout(files, folders, part=part, where=str(root), label=choice.label)
    elif found.labels is None or len(set(found.labels)) < 2:
        refuse_detection(found.paths, beside, lambda path: (root / path).read_bytes(), name)
    listed = list_files([start + path for path in found.paths], name)
    left_out = [*found.left_out, *closed]
    unreadable, skipped = (
        tuple(zip(_printable([start + path for path, _ in some]), (cause for _, cause in some), strict=True))
        for some in (left_out, found.skipped)
    )
    labels = None if found.labels is None else _printable(found.labels)
    paths = _printable(found.paths)
    return ImageList(name, listed.sources, listed.open, listed.files, labels, unreadable, paths=paths, skipped=skipped)


def list_table(path: Path, choice: Choice = BY_NAME) -> ImageList:
    """List the images that a table names, one a row.

    Paths are relative to the table's folder. Where they are not there, the file below it is taken whose name and
    folders agree, also without an ending and behind folders of another machine.
    """
    table = read_path_table(path.read_bytes(), path.name, choice)
    files: list[Path | str] = [_file(path.parent, name) for name in table.paths]
    if not all(Path(file).exists() for file in files[:: 1 + len(files) // 50]):
        below, _, _, _ = _walk(path.parent)
        resolver = Resolver(below)
        named = resolver.find_all(table.paths, prefer=part_word(path.name))
        if not any(named) and len(same := resolver.of_that_name(table.paths[0])) > 1:
            cause = f"{len(same):,} files have that name, such as {same[0]} and {same[1]}"
            raise DataError(f"image {table.paths[0]}", path.name, cause, "Write the folder before the name.")
        files = [
            file if found is None or Path(file).exists() else path.parent / found
            for file, found in zip(files, named, strict=True)
        ]
    listed = ImageList(path.name, [str(file) for file in files], files.__getitem__, files)
    return with_table(listed, table)


def _file(folder: Path, name: str) -> Path:
    """Resolve a row's path; one written on Windows names the same file elsewhere."""
    file = folder / name
    return file if "\\" not in name or file.exists() else folder / name.replace("\\", "/")


def find_table(
    found: Layout, tables: Sequence[str], read: Callable[[str], bytes], choice: Choice
) -> tuple[PathTable, list[str | None], list[tuple[str, str]]] | None:
    """Find the table beside images that names their labels: without class folders, or if it has a column chosen.

    Gives the image of each row too, and what to say of images that no row names. Raises DataError where several do.
    """
    has_classes = found.labels is not None and len(set(found.labels)) > 1 and not _numbered(set(found.labels))
    wanted = [name for name in (choice.label, choice.group, choice.ids) if name is not None]
    if not tables or (has_classes and not wanted):
        return None
    resolver = Resolver(found.paths)
    for home in found.homes:
        fitting = []
        here = [path for path in tables if path.rpartition("/")[0] == home.rstrip("/")]
        for path in here if len(here) <= MOST_TABLES else ():  # more are notes of single images
            if not is_path_table((content := read(path))[: 2**16], path):
                continue
            header, names = read_path_names(content, path)
            if has_classes and all(find_column(header, name) is None for name in wanted):
                continue
            names = names[:TRIED_ROWS]
            if sum(row is not None for row in resolver.find_all(names, home)) >= max(len(names) / 2, 1):
                fitting.append(path)
        fitting = [path for path in fitting if len(fitting) == 1 or _names_labels(read(path), path)]
        if len(fitting) > 1:
            wanted_part = part_word(found.homes[0]) or "train"
            fitting = [path for path in fitting if part_word(path.rpartition("/")[2]) == wanted_part] or fitting
        if len(fitting) > 1:
            cause = f"{', '.join(fitting[:4])} all name these images"
            raise DataError("labels", home or "the folder", cause, f"Give one of them, such as {fitting[0]}.")
        if fitting:
            table = read_path_table(read(fitting[0]), fitting[0], choice)
            if table.labels is not None:
                rows = resolver.find_all(table.paths, home)
                without = len(set(found.paths).difference(row for row in rows if row is not None))
                say(f"labels of {fitting[0]}")
                return table, rows, [(fitting[0], f"it names {without:,} of the images not")] if without else []
    return None


def _numbered(folders: set[str]) -> bool:
    """Tell folders that differ in a number alone, such as images_001 and images_002: pieces rather than classes."""
    bare = {re.sub(r"\d+", "", folder).strip(" _-") for folder in folders}
    return len(bare) == 1 and bare != {""}


def _names_labels(content: bytes, path: str) -> bool:
    """Tell whether a table has labels, also several an image; an example of what to submit has none that count."""
    if "submission" in path.lower():
        return False
    try:
        return read_path_table(content, path).labels is not None
    except DataError:
        return True


def _from_table(
    root: Path, found: Layout, table: PathTable, rows: list[str | None], left: list[tuple[str, str]]
) -> ImageList:
    """List the images of a table inside the folder; its rows without an image are named when they are read."""
    names = [name if row is None else row for name, row in zip(table.paths, rows, strict=True)]
    listed = list_files([str(root / name) for name in names], root.resolve().name)
    skipped = tuple((str(root / where), cause) for where, cause in (*found.skipped, *left))
    return with_table(replace(listed, skipped=skipped), table)


def refuse_detection(paths: Sequence[str], beside: Sequence[str], read: Callable[[str], bytes], where: str) -> None:
    """Raise DataError for sets of object detection, which have several labels an image: YOLO, VOC or COCO."""
    stems = {path.rpartition("/")[2].rpartition(".")[0] for path in paths}
    twins = [path for path in beside if path.rpartition("/")[2].rpartition(".")[0] in stems]
    boxes = [path for path in twins if path.lower().endswith(".txt")][:TRIED_ROWS]
    kind = ""
    if any(BOX.match(read(path)[:200]) for path in boxes):
        kind = f"YOLO, boxes in {boxes[0]}"
    elif voc := next((path for path in twins if path.lower().endswith(".xml") and b"<bndbox>" in read(path)), ""):
        kind = f"Pascal VOC, boxes in {voc}"
    elif coco := next((path for path in beside if path.lower().endswith(".json") and _is_coco(read(path))), ""):
        kind = f"COCO, boxes in {coco}"
    if kind:
        cause = f"it is a set for object detection ({kind}); {ONE_LABEL}"
        remedy = "Cut the objects out into class folders, or give path,label in a CSV, or --label if the names tell."
        raise DataError("several labels an image", where, cause, remedy)


def _is_coco(content: bytes) -> bool:
    return b'"bbox"' in content and b'"annotations"' in content


def list_files(files: Sequence[Path | str], name: str) -> ImageList:
    """List image files in the order given, without labels; `name` is for messages."""
    return ImageList(name, _printable([str(file) for file in files]), files.__getitem__, files)


def folder_parts(root: Path) -> tuple[str, ...]:
    """Name the parts that a folder is divided into, such as ``("train", "test")``; empty where it is not."""
    files, _, _, _ = _walk(root)
    return tuple(find_parts(files, str(root))[1])


def _printable(paths: Sequence[str]) -> list[str]:
    """Give paths as text that can be printed and written, also where their bytes are no UTF-8."""
    if all(map(str.isascii, paths)):
        return list(paths)
    return [os.fsencode(path).decode("utf-8", "backslashreplace") for path in paths]


def _walk(root: Path) -> tuple[list[str], list[str], list[str], list[tuple[str, str]]]:
    """List files that may be images, folders, other files, and what cannot be entered; links in circles end."""
    files, folders, others, closed = list[str](), list[str](), list[str](), list[tuple[str, str]]()
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
                    else:
                        others.append(path)
        except OSError as error:
            if not inside:
                raise
            closed.append((inside.removesuffix("/"), f"the folder cannot be opened ({error.strerror})"))
    return files, folders, others, closed


def walk(root: str) -> Iterator[str]:
    """Yield the files of a folder that may be images, in the order of their paths, holding the names of few folders.

    A folder that cannot be entered is yielded itself, so that reading it tells why; links in circles end.
    """
    inside = [_Entered(root if root.endswith("/") else f"{root}/", frozenset())]
    while inside:
        name = inside[-1].next_name()
        path = f"{inside[-1].path}{name}"
        if not name:
            inside.pop()
        elif not name.endswith("/"):
            yield path
        elif len(inside) <= MAX_DEPTH:
            try:
                entered = _Entered(path, inside[-1].above)
            except OSError:
                yield path.rstrip("/")
                continue
            inside += [entered] if entered.is_new else []


class _Entered:
    """A folder that `walk` is in: the names still to come, folders with ``/`` at the end, and what it lies in."""

    def __init__(self, path: str, above: frozenset[tuple[int, int]]) -> None:
        status = os.stat(path)  # noqa: PTH116
        self.path, self.above = path, above | {(status.st_dev, status.st_ino)}
        self.is_new = self.above != above
        with os.scandir(path) as entries:
            names = (f"{entry.name}/" if _is_folder(entry) else entry.name for entry in entries)
            wanted = (n for n in names if not is_system_file(n.rstrip("/")) and (n.endswith("/") or may_be_image(n)))
            self._names = sorted(wanted, reverse=True)

    def next_name(self) -> str:
        return self._names.pop() if self._names else ""


def sampled_parts(root: Path) -> dict[str, str]:
    """Map the parts that a folder is divided into to their folders below it, judged by some images of each folder.

    Raises DataError where all of these are other data than images.
    """
    some, waiting = list[str](), deque([""])
    while waiting:
        inside = waiting.popleft()
        with suppress(OSError), os.scandir(root / inside) as entries:
            wanted, here = (entry for entry in entries if not is_system_file(entry.name)), 0
            for entry in wanted:
                if _is_folder(entry):
                    waiting += [f"{inside}{entry.name}/"] if inside.count("/") < SAMPLED_DEPTH else []
                elif here < SAMPLED and may_be_image(entry.name):
                    some.append(f"{inside}{entry.name}")
                    here += 1
    if some and all(path.lower().endswith((*DATA_ENDINGS, *ARCHIVE_ENDINGS)) for path in some):
        raise no_images(root)
    home, divided = find_parts(some, str(root))
    return {part: f"{home}{folder}" for part, folder in divided.items()}


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself; named when it is read as an image
        return False


def no_images(root: Path) -> DataError:
    """Say that a folder holds no images, and what else it holds that could be read."""
    names = sorted(path.name for path in root.rglob("*"))
    endings = (*DATA_ENDINGS, *ARCHIVE_ENDINGS)
    data = (path.name for path in root.iterdir() if path.name.lower().endswith(endings))
    others = sorted(data, key=lambda name: ("submission" in name.lower(), name))
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
