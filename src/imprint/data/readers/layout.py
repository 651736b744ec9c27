"""Layouts of folders and archives: the parts, the classes and the folders around them, inferred from paths alone."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from imprint.core.errors import DataError
from imprint.core.progress import say
from imprint.data.split import PARTS, in_part_order

IMAGE_ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".heic", ".heif", ".hif"),
)
CSV_ENDINGS = (".csv", ".csv.gz", ".tsv")  # of tables of pixels, or of paths
TABLE_ENDINGS = (*CSV_ENDINGS, ".jsonl", ".txt", "labels.json")  # of tables of paths
ARRAY_ENDINGS = (".npz", ".npy")
DATA_ENDINGS = (*CSV_ENDINGS, *ARRAY_ENDINGS, ".parquet", ".mat")  # of files with many images
TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz")
ARCHIVE_ENDINGS = (".zip", *TAR_ENDINGS)
FOLDER_PARTS = PARTS | {"pred": "prediction", "predict": "prediction", "prediction": "prediction"}
# Words beside that of a part which say nothing: train_images, training_set.
PLAIN_WORDS = {"set", "data", "dataset", "image", "images", "imgs", "photos", "pictures", "folder", "split", "part"}
CONTAINERS = {"images", "image", "imgs", "img", "jpegimages", "pictures", "photos", "data", "jpg", "png", "all"}
STRAYS = 0.02  # of the images may lie beside a folder that is entered
SAME_SUBFOLDERS = 0.5  # of all subfolders' names that occur are in every class folder


@dataclass(frozen=True)
class Layout:
    """The images that belong to a part of the data, in alphabetical order, and their classes (None without folders).

    `left_out` holds path and cause of images that have no class, `skipped` folder and cause of what was passed by:
    class folders without images, folders beside the parts. `homes` are the folders around the images, innermost first,
    where a table of labels may lie.
    """

    paths: tuple[str, ...]
    labels: tuple[str, ...] | None
    left_out: tuple[tuple[str, str], ...]
    skipped: tuple[tuple[str, str], ...] = ()
    homes: tuple[str, ...] = ("",)


def is_image_name(path: str) -> bool:
    """Tell by its ending a file that claims to be an image."""
    return path.lower().endswith(IMAGE_ENDINGS)


def infer_layout(
    paths: Sequence[str],
    folders: Iterable[str] = (),
    *,
    part: str | None = None,
    where: str = "data",
    label: str | None = None,
) -> Layout:
    """Infer parts and classes from paths with ``/``; `folders` are given so that empty ones can be named.

    Folders that alone hold all images are entered. Classes are then named by the outermost folder, in Unicode's NFC, or
    by what `label` matches in a path. Raises DataError without such a part, or where the classes are left open.
    """
    inside, divided = find_parts(paths, where)
    if part is not None and part not in divided:
        have = f"it has {' and '.join(divided)}" if divided else "it is not divided into parts"
        raise DataError(f"part {part}", where, have, "Name a folder with train, validation or test in it.")
    homes, skipped = _around(inside), list(_beside(paths, "", inside))
    if divided:
        home, around = inside, " and ".join(divided.values())
        top = f"{home}{divided[part or next(iter(divided))]}/"
        named = {f"{home}{folder}" for folder in divided.values()}
        beside = Counter(f"{home}{path[len(home) :].partition('/')[0]}" for path in paths if path.startswith(home))
        for folder, count in sorted(beside.items()):
            if folder not in named:
                skipped.append((folder, f"{_images(count)} beside {around}, in none of them"))
        inside = _enter(paths, top)
        skipped += _beside(paths, top, inside)
        homes = (*_around(inside, top), *homes)
    chosen = sorted(path for path in paths if path.startswith(inside))
    below = sorted(folder for folder in folders if folder.startswith(inside))
    if label is not None:
        return _by_pattern(chosen, label, where, tuple(skipped), homes)
    if copy := _copy_inside(chosen, inside):
        copies = [path for path in chosen if path.startswith(copy)]
        skipped.append((copy.rstrip("/"), f"{_images(len(copies))} in it, in the folders that stand beside it too"))
        chosen = [path for path in chosen if not path.startswith(copy)]
        below = [folder for folder in below if not f"{folder}/".startswith(copy)]
    _refuse_nested_classes(chosen, inside, where)
    return _by_class(chosen, below, inside, tuple(skipped), homes, _initials(chosen, inside))


def find_parts(paths: Sequence[str], where: str) -> tuple[str, dict[str, str]]:
    """Find the folder that holds the parts, as a prefix, and map each part to its folder in it.

    Without parts the prefix is that of the folder which holds the classes.
    """
    inside = ""
    while True:
        if divided := part_folders([path[len(inside) :] for path in paths if path.startswith(inside)], where):
            return inside, divided
        entered = _lone_folder(paths, inside)
        if not entered:
            return inside, {}
        inside = entered


def part_folders(paths: Sequence[str], where: str) -> dict[str, str]:
    """Map parts to the top folders that hold them; empty where data are not divided.

    Data are divided if the tops are nothing but parts, or training is among them with folders of its own or beside
    another part; else a folder called test is a class of that name. Raises DataError when two are the same part.
    """
    images = [path for path in paths if is_image_name(path)] or list(paths)
    tops = {path.partition("/")[0] for path in images if "/" in path}
    deep = {path.partition("/")[0] for path in images if path.count("/") > 1}
    found = {top: known for top in sorted(tops) if (known := _part_of(top)) is not None}
    plain = {top: part for top, (part, rest) in found.items() if not rest}
    compound = {top: part for top, (part, rest) in found.items() if rest}
    alike = len({rest for part, rest in found.values() if rest}) == 1
    if plain or not alike or (len(compound) == 1 and not deep & set(compound)):
        _refuse_crossed(compound, where)
        named = plain | _likewise_divided(images, plain, compound)
    else:
        named = compound
    others = tops - set(named)
    kinds = set(named.values())
    trains = {top for top, part in named.items() if part == "train"}
    if not named or (others and not (trains and (len(kinds) > 1 or deep & trains))):
        return {}
    if len(kinds) == 1 and len(named) > 1:
        return {}
    by_part: dict[str, str] = {}
    for top, part in named.items():
        if part in by_part:
            cause = f"{by_part[part]} and {top} are both the {part} part"
            raise DataError("folders", where, cause, "Merge or rename one of the two.")
        by_part[part] = top
    return {part: by_part[part] for part in in_part_order(by_part)}


def _likewise_divided(paths: Sequence[str], plain: dict[str, str], compound: dict[str, str]) -> dict[str, str]:
    """Take validation-horse-or-human beside train for a part where it holds none but classes that train has."""
    if not compound or "train" not in plain.values():
        return {}
    subs: dict[str, set[str]] = {}
    for path in paths:
        top, *inner = path.split("/")[:-1] or [""]
        subs.setdefault(top, set()).update(inner[:1])
    classes = set().union(*(subs.get(top, set()) for top, part in plain.items() if part == "train"))
    return {
        top: part
        for top, part in compound.items()
        if part not in plain.values() and subs.get(top) and subs[top] <= classes
    }


def _part_of(name: str) -> tuple[str, tuple[str, ...]] | None:
    """Tell which part a folder's name speaks of, and the words beside that say more: seg_train is train and seg."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]
    words = [word for word in words if word]
    for word in list(words):
        for ending in ("set", "images", "data"):
            if word not in FOLDER_PARTS and word.removesuffix(ending) in FOLDER_PARTS:
                words[words.index(word)] = word.removesuffix(ending)
    parts = [word for word in words if word in FOLDER_PARTS]
    if len(parts) != 1:
        return None
    rest = tuple(word for word in words if word not in PLAIN_WORDS and word != parts[0])
    return FOLDER_PARTS[parts[0]], rest


def part_word(name: str) -> str:
    """Give the word by which a file's name, such as train_labels.csv, speaks of a part; empty where it does not."""
    part = _part_of(name.partition(".")[0])
    return next((word for word, known in FOLDER_PARTS.items() if part and known == part[0]), "")


def _refuse_crossed(compound: dict[str, str], where: str) -> None:
    """Refuse folders such as cats_train, cats_test, dogs_train, dogs_test, which are a class and a part in one."""
    counts = Counter(compound.values())
    if len(counts) > 1 and min(counts.values()) > 1:
        first, second = sorted(compound)[:2]
        cause = f"{first}, {second} and others name a class and a part at once"
        raise DataError("folders", where, cause, "Make a folder for each part, such as train/cats and test/cats.")


def _lone_folder(paths: Sequence[str], inside: str) -> str:
    """Name the one folder to enter, as a prefix: it holds (nearly) all images, none of them in classes yet."""
    below = [path[len(inside) :] for path in paths if path.startswith(inside)]
    images = [path for path in below if is_image_name(path)] or below
    tops = {path.partition("/")[0] for path in images if "/" in path}
    strays = sum("/" not in path for path in images)
    if len(tops) != 1 or strays > STRAYS * len(images):
        return ""
    top = tops.pop()
    within = [path[len(top) + 1 :] for path in images if path.startswith(f"{top}/")]
    direct = sum("/" not in path for path in within)
    repeats = inside.rstrip("/").rpartition("/")[2].lower() == top.lower() or top.lower() in CONTAINERS
    if direct > STRAYS * len(within) and not (direct == len(within) and repeats):
        return ""
    return f"{inside}{top}/"


def _enter(paths: Sequence[str], inside: str) -> str:
    """Enter lone folders as far as they go."""
    while entered := _lone_folder(paths, inside):
        inside = entered
    return inside


def _around(inside: str, stop: str = "") -> tuple[str, ...]:
    """List a folder and those around it up to `stop`, innermost first, each with ``/`` at its end."""
    found = [inside]
    while inside != stop:
        inside = inside.rstrip("/").rpartition("/")[0]
        inside += "/" if inside else ""
        found.append(inside)
    return tuple(found)


def _beside(paths: Sequence[str], outer: str, inside: str) -> Iterable[tuple[str, str]]:
    """Name images between a folder and the one inside it that was entered."""
    for path in paths:
        if path.startswith(outer) and not path.startswith(inside) and is_image_name(path):
            yield path, f"it lies beside {inside.rstrip('/')}"


def _copy_inside(paths: Sequence[str], inside: str) -> str:
    """Name the folder, as a prefix, that holds no images itself but folders named as those beside it, once more."""
    subs: dict[str, set[str]] = {}
    for path in paths:
        top, *inner = path[len(inside) :].split("/")[:-1] or [""]
        subs.setdefault(top, set()).add(inner[0] if inner else "")
    for top, names in subs.items():
        if top and len(names) > 1 and names <= set(subs) - {"", top}:
            return f"{inside}{top}/"
    return ""


def _initials(paths: Sequence[str], inside: str) -> bool:
    """Tell whether the outermost folders are the initials of those in them, as in a/airfield and b/bakery."""
    folders = (path[len(inside) :].split("/")[:-1] for path in paths)
    return bool(paths) and all(
        len(each) > 1 and len(each[0]) == 1 and each[1].lower().startswith(each[0].lower()) for each in folders
    )


def _refuse_nested_classes(paths: Sequence[str], inside: str, where: str) -> None:
    """Refuse class folders that hold no image themselves and have the same subfolders: either could be the classes."""
    within: dict[str, Counter[str]] = {}
    for path in paths:
        top, _, rest = path[len(inside) :].partition("/")
        if not rest:
            continue
        sub = rest.partition("/")[0] if "/" in rest else ""
        within.setdefault(top, Counter())[sub] += 1
    _refuse_parts_in_classes(paths, inside, where)
    if len(within) < 2 or any("" in subs for subs in within.values()):
        return
    names = [set(subs) for subs in within.values()]
    shared, every = set.intersection(*names), set.union(*names)
    tops, subs = sorted(within), sorted(shared or every)
    if len(shared) < 2 or len(shared) < SAME_SUBFOLDERS * len(every):
        if len(every) > len(within) and not _initials(paths, inside):
            inner = "--label '([^/]+)/[^/]+$'"
            say(f"classes are {_some(tops)}, not the folders in them ({_some(subs)}): for these {inner}")
        return
    cause = f"{_some(tops)} hold no image themselves, and each has the folders {_some(subs)}: either may be the classes"
    inner, outer = r"([^/]+)/[^/]+$", rf"^{inside}([^/]+)/"
    remedy = f"Say which: --label '{outer}' for {tops[0]}, --label '{inner}' for {subs[0]}; or name one of the folders."
    raise DataError("folders", where, cause, remedy)


def _refuse_parts_in_classes(paths: Sequence[str], inside: str, where: str) -> None:
    """Refuse folders that would be classes but hold parts: the data are in one of them, or each class is divided."""
    within: dict[str, list[str]] = {}
    for path in paths:
        top, _, rest = path[len(inside) :].partition("/")
        if "/" in rest:
            within.setdefault(top, []).append(rest)
    for top in sorted(within):
        divided = part_folders(within[top], where)
        if len(divided) > 1:
            cause = f"{top} would be a class, but holds the parts {' and '.join(divided.values())}"
            remedy = f"Name {top} itself, or make a folder for each part around the classes."
            raise DataError("folders", where, cause, remedy)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4:,} more" if len(names) > 4 else "")


def _by_class(
    paths: list[str],
    folders: list[str],
    inside: str,
    skipped: tuple[tuple[str, str], ...],
    homes: tuple[str, ...],
    initials: bool,
) -> Layout:
    """Name classes after the outermost folder below `inside`, or the next where those are only the `initials`."""
    start = len(inside) + 2 * initials
    tops = [path[start:].rpartition("/")[0].partition("/")[0] for path in paths]
    classes = {folder[start:] for folder in folders if folder[start:] and "/" not in folder[start:]}
    # A folder of notes beside images that have no classes is not an empty class.
    missing = sorted(classes - set(tops)) if any(tops) else []
    empty = tuple((inside + name, "the folder has no images in it") for name in missing)
    if not any(tops):
        return Layout(tuple(paths), None, (), (*skipped, *empty), homes)
    names = {top: unicodedata.normalize("NFC", top) for top in set(tops)}
    outside = tuple((path, "it lies in no class folder") for path, top in zip(paths, tops, strict=True) if not top)
    placed = tuple(path for path, top in zip(paths, tops, strict=True) if top)
    return Layout(placed, tuple(names[top] for top in tops if top), outside, (*skipped, *empty), homes)


def _by_pattern(
    paths: list[str], label: str, where: str, skipped: tuple[tuple[str, str], ...], homes: tuple[str, ...]
) -> Layout:
    """Name classes after what a regular expression matches in a path."""
    names = labels_by_pattern(paths, label, where)
    outside = tuple((path, "--label matches nothing in its path") for path in paths if path not in names)
    placed = tuple(path for path in paths if path in names)
    return Layout(placed, tuple(names[path] for path in placed), outside, skipped, homes)


def labels_by_pattern(paths: Sequence[str], pattern: str, where: str) -> dict[str, str]:
    """Map paths to what the brackets of a regular expression match in them, or all of it where it has none.

    Paths that it does not match are missing. Raises DataError where it is none, or matches nowhere.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DataError(f"label {pattern!r}", where, f"it is no regular expression ({error})", "Correct it.") from None
    matches = {path: found for path in paths if (found := compiled.search(path))}
    if paths and not matches:
        cause = f"no column has that name, and it matches no path (the first is {paths[0]})"
        raise DataError(f"label {pattern!r}", where, cause, "Correct the name or the regular expression.")
    names = {path: "/".join(filter(None, found.groups())) or found[0] for path, found in matches.items()}
    return {path: unicodedata.normalize("NFC", name) for path, name in names.items()}


def label_in_names(paths: Sequence[str]) -> str:
    """Suggest a regular expression for labels in the names of files, such as cat.0.jpg; empty where none fits."""
    pattern = r"([A-Za-z]+)[ ._-]*\d[^/]*$"
    found = Counter(match[1] for path in paths if (match := re.search(pattern, path)))
    return pattern if 2 <= len(found) <= len(paths) / 5 and sum(found.values()) > 0.9 * len(paths) else ""


def _images(count: int) -> str:
    return "1 image lies" if count == 1 else f"{count:,} images lie"
