"""Several files named at once, as shells and WebDataset do: ``train-{000..009}.tar``, ``shards/*.parquet``."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from imprint.core.errors import DataError
from imprint.data.readers.layout import ARCHIVE_ENDINGS, IMAGE_ENDINGS
from imprint.data.remote import Remote

BRACES = re.compile(r"\{([^{}]+)\}")
RANGE = re.compile(r"(\d{1,12})\.\.(\d{1,12})")
MOST = 1_000_000  # files; a pattern of a few letters could name any number


def is_pattern(data: str) -> bool:
    """Tell a pattern from the path of a file that is there, which may hold the same letters."""
    return bool(BRACES.search(data) or set("*?[") & set(data)) and not Path(data).exists()


def expand(pattern: str) -> list[str]:
    """List the files that a pattern names, in its order; raises DataError where one is missing, or there is none."""
    names = list[str]()
    for written in _without_braces(pattern):
        # Path.glob takes no absolute pattern
        found = sorted(glob.glob(written, recursive=True)) if glob.has_magic(written) else [written]  # noqa: PTH207
        if not found or not Path(found[0]).exists():
            cause = "no file is called so" if written == pattern else f"there is no file {written}"
            raise DataError("files", pattern, cause, "Correct the pattern, and write it between quotes.")
        names += found
    return names


def expand_address(address: str) -> list[str]:
    """List the addresses that braces in one name, and those that stars do where its server can list files."""
    start, query, end = address.partition("?") if address.startswith("http") else (address, "", "")
    found = list[str]()
    for written in _without_braces(start):
        if set("*?[") & set(written):
            found += Remote.at(written).matching()
        else:
            found.append(f"{written}{query}{end}")
    return found


def kind_of_files(names: Sequence[str], pattern: str) -> str:
    """Tell what files are by their endings: images, archives or Parquet; raises DataError where they differ."""
    kinds = {"images": IMAGE_ENDINGS, "archives": ARCHIVE_ENDINGS, "Parquet": (".parquet",)}
    for kind, endings in kinds.items():
        if all(name.lower().endswith(endings) for name in names):
            return kind
    cause = f"it names {Path(names[0]).name} and {len(names) - 1:,} more, which make no one data set"
    raise DataError("files", pattern, cause, "Name files that are all .tar, all .parquet or all images, or one file.")


def _without_braces(pattern: str) -> list[str]:
    """Write a pattern for each choice of what stands in braces: ``a..b`` counts, commas list."""
    pieces = BRACES.split(pattern)
    choices = [[piece] if i % 2 == 0 else _choices(piece, pattern) for i, piece in enumerate(pieces)]
    total = 1
    for choice in choices:
        total *= len(choice)
    if total > MOST:
        raise DataError("files", pattern, f"it names {total:,} files", f"Name {MOST:,} at most.")
    return ["".join(chosen) for chosen in product(*choices)]


def _choices(inside: str, pattern: str) -> list[str]:
    if (match := RANGE.fullmatch(inside)) is None:
        return inside.split(",") if "," in inside else [f"{{{inside}}}"]
    first, last = int(match[1]), int(match[2])
    if not 0 <= last - first < MOST:
        cause = f"{inside} counts {last - first + 1:,} files"
        raise DataError("files", pattern, cause, f"Count upwards, to {MOST:,} files at most.")
    return [f"{number:0{len(match[1])}}" for number in range(first, last + 1)]
