"""A project as one file, and its class folders as a .zip: written, and read again without trusting anything in it."""

from __future__ import annotations

import json
import re
import secrets
import shutil
import zipfile
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from imprint.core.errors import DataError
from imprint.serve.problems import Problem
from imprint.serve.project import Project, label, refused_by_disk
from imprint.serve.samples import Sample, check_encoded
from imprint.serve.state import KINDS, State
from imprint.serve.versions import EXPORTED_NAME, MODEL_NAME

FORMAT = 1
MAX_ENTRIES, MAX_BYTES, MAX_RATIO = 10_000, 10**9, 100
PACK = 2**26  # bytes of samples in one entry, so that a full project has few entries
CHUNK = 2**20
MAX_FACTS = 2**26  # bytes of project.json
FACTS_NAME = "project.json"
NAMES = re.compile(r"project\.json|samples/\d{1,6}\.bin|versions/\d{1,6}/(model\.safetensors|model\.onnx)")
RESERVED = {"con", "prn", "aux", "nul", *(f"{name}{i}" for name in ("com", "lpt") for i in range(1, 10))}


def new_file(project: Project) -> Path:
    """Name a temporary file beside the project, which the next start removes if a kill leaves it."""
    return project.folder / f".{secrets.token_hex(8)}.part"


async def receive(stream: AsyncIterator[bytes], path: Path) -> None:
    """Write a body to a file, counting as it comes."""
    size = 0
    with refused_by_disk(), open(path, "wb") as file:
        async for part in stream:
            size += len(part)
            if size > MAX_BYTES:
                raise Problem(413, "Too large", "A saved project has at most 1 GB.")
            file.write(part)


def save(project: Project) -> Path:
    """Write a project into one file: its samples, and as many versions as 1 GB holds, the one in use first."""
    state, path = project.snapshot(), new_file(project)
    index: list[list[Any]] = []
    looks = state.to_dict()["looks"]
    size = sum(look["size"] for look in looks.values())
    if size > MAX_BYTES - MAX_FACTS:
        detail = "More than 1 GB of pictures do not fit into one file. Copy the project's folder instead."
        raise Problem(413, "Too large", detail)
    versions = list(_versions_that_fit(project, MAX_BYTES - MAX_FACTS - size))
    with refused_by_disk(), zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        pack, number = bytearray(), 0
        for sha, look in looks.items():
            index.append([sha, look["size"], number])
            pack += project.store.read(sha, look["kind"])
            if len(pack) >= PACK:
                file.writestr(f"samples/{number}.bin", bytes(pack))
                pack, number = bytearray(), number + 1
        file.writestr(f"samples/{number}.bin", bytes(pack))
        listed = project.versions.listed
        for version in versions:
            for name in (MODEL_NAME, EXPORTED_NAME):
                file.write(project.versions.folder / str(version) / name, f"versions/{version}/{name}")
        facts = {
            "format": FORMAT,
            "state": state.to_dict(),
            "samples": index,
            "versions": {str(version): listed[version] for version in versions},
            "used": project.used,
        }
        file.writestr(FACTS_NAME, json.dumps(facts))
    return path


def _versions_that_fit(project: Project, left: int) -> Iterator[int]:
    order = sorted(project.versions.listed, key=lambda number: (number != project.used, -number))
    fitting = []
    for version in order:
        names = (MODEL_NAME, EXPORTED_NAME)
        left -= sum((project.versions.folder / str(version) / name).stat().st_size for name in names)
        if left > 0:
            fitting.append(version)
    yield from sorted(fitting)


def open_file(project: Project, path: Path) -> int | None:
    """Put a saved project in the place of the present one, which undo brings back; gives the version to use.

    Raises `DataError` where anything in it is not as `save` writes it; nothing has been changed then.
    """
    try:
        with zipfile.ZipFile(path) as file:
            entries = _checked_entries(file)
            facts = json.loads(_read(file, entries[FACTS_NAME], MAX_FACTS))
            state = State.from_dict(facts["state"])
            samples = list(_samples(file, entries, facts["samples"]))
            _check_state(state, samples)
            versions = {int(number): dict(each) for number, each in facts["versions"].items()}
            unpacked = [(number, each, _unpack(project, file, entries, number)) for number, each in versions.items()]
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise _not_ours("it is damaged, or another program's") from None
    except (RecursionError, NotImplementedError, RuntimeError, OverflowError):
        raise _not_ours("it is damaged, or another program's") from None
    project.replace(state, samples)
    numbers = {}
    for number, each, folder in unpacked:
        with refused_by_disk():
            numbers[number] = project.versions.add(folder, _version_facts(each))
    return numbers.get(facts["used"])


def _checked_entries(file: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Check names, sizes and kinds of all entries before any is read."""
    listed = file.infolist()
    if len(listed) > MAX_ENTRIES:
        raise _not_ours(f"it has more than {MAX_ENTRIES:,} entries")
    if sum(entry.file_size for entry in listed) > MAX_BYTES:
        raise _not_ours("it unpacks to more than 1 GB")
    for entry in listed:
        if not NAMES.fullmatch(entry.filename) or entry.flag_bits & 1:
            raise _not_ours("it holds what no saved project holds")
        if (entry.external_attr >> 16) & 0o170000 not in (0, 0o100000):
            raise _not_ours("it holds a link or a folder")
        if entry.file_size > MAX_RATIO * max(entry.compress_size, 1) and entry.file_size > CHUNK:
            raise _not_ours(f"an entry unpacks to more than {MAX_RATIO} times its size")
    entries = {entry.filename: entry for entry in listed}
    if len(entries) < len(listed):
        raise _not_ours("it holds an entry twice")
    return entries


def _read(file: zipfile.ZipFile, entry: zipfile.ZipInfo, most: int) -> bytes:
    """Unpack an entry, counting while it inflates: its header may lie."""
    content = bytearray()
    with file.open(entry) as source:
        while part := source.read(CHUNK):
            content += part
            if len(content) > min(most, entry.file_size) or len(content) > MAX_RATIO * entry.compress_size + CHUNK:
                raise _not_ours("an entry is larger than it says")
    return bytes(content)


def _samples(file: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], index: list[list[Any]]) -> Iterator[Sample]:
    """Give all samples, each checked to be an image as `encode` writes it."""
    pack, place, current = b"", 0, -1
    for sha, size, number in index:
        if not (isinstance(sha, str) and re.fullmatch("[0-9a-f]{64}", sha) and 0 < int(size) <= MAX_BYTES):
            raise _not_ours("its list of pictures is damaged")
        if number != current:
            pack, place, current = _read(file, entries[f"samples/{int(number)}.bin"], MAX_BYTES), 0, number
        content = pack[place : place + size]
        place += size
        yield Sample(sha, content, check_encoded(content, sha))


def _check_state(state: State, samples: list[Sample]) -> None:
    """Check that a state names only what is there, and says of each sample what is true."""
    known = {sample.sha: sample.look.to_dict() for sample in samples}
    names = [label(each.name) for each in state.classes.values()]
    if len(set(names)) < len(names):
        raise _not_ours("two of its classes have one name")
    if state.name:
        state.name = label(state.name)
    for take in state.takes.values():
        if take.class_id not in state.classes or take.kind not in KINDS or not isinstance(take.exam, bool):
            raise _not_ours("its takes are damaged")
        if (
            not all(isinstance(each, str) for each in (take.id, take.class_id, take.scene))
            or take.samples.keys() - known
        ):
            raise _not_ours("its takes are damaged")
        take.after = int(take.after)
    for each in state.classes.values():
        each.made = int(each.made)
    state.looks = known


def _unpack(project: Project, file: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], number: int) -> Path:
    """Unpack the two files of a version into a folder of their own."""
    folder = project.versions.folder / f".{secrets.token_hex(8)}.part"
    folder.mkdir(mode=0o700)
    try:
        with refused_by_disk():
            for name in (MODEL_NAME, EXPORTED_NAME):
                (folder / name).write_bytes(_read(file, entries[f"versions/{number}/{name}"], MAX_BYTES))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _version_facts(given: dict[str, Any]) -> dict[str, Any]:
    """Take over what is known of a version, but for what it would be compared with here."""
    trained = [sha for sha in given["trained"] if isinstance(sha, str)]
    kept = {key: given.get(key) for key in ("when", "images", "score", "why_no_score", "confusion", "recipe", "seed")}
    return {**kept, "trained": trained, "comparison": None, "mistakes": list(given.get("mistakes") or [])}


def _not_ours(cause: str) -> DataError:
    return DataError("saved project", "the file", cause, "Open a file that Imprint saved.")


def save_folders(project: Project) -> Path:
    """Write the samples as a .zip of class folders, as `imprint train` reads it."""
    state, path, used = project.snapshot(), new_file(project), set[str]()
    with refused_by_disk(), zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        for key, each in state.classes.items():
            folder = _folder_name(each.name, used)
            for take in state.takes_of(key):
                for sha in take.samples:
                    kind = state.looks[sha]["kind"]
                    file.writestr(f"{folder}/{take.id}-{sha[:16]}.{kind}", project.store.read(sha, kind))
    return path


def _folder_name(name: str, used: set[str]) -> str:
    """Spell a class's name so that it is one folder on every system, and only there."""
    plain = re.sub(r'[<>:"/\\|?*\x00-\x1f\u200e\u200f\u202a-\u202e\u2066-\u2069]', "_", name)[:80].strip(" .") or "_"
    plain = f"_{plain}" if plain.split(".")[0].lower() in RESERVED else plain
    number, chosen = 2, plain
    while chosen.lower() in used:
        chosen, number = f"{plain} {number}", number + 1
    used.add(chosen.lower())
    return chosen
