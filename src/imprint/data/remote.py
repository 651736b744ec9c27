"""Data at addresses such as s3://bucket/photos or https://host/photos.zip, read through fsspec (extra `cloud`).

A file or folder is copied once into the cache folder, under what its server says of its content. Messages and what is
written name an address without its user, password, query and fragment, any of which may hold a secret.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from imprint.core.errors import DataError, UsageError, did_you_mean
from imprint.core.files import UNFINISHED, cache_folder, make_folder
from imprint.core.progress import say
from imprint.data import cache

# Other protocols of fsspec read local files, chain addresses or run what a reference file names.
PROTOCOLS = ("http", "https", "s3", "gs", "gcs", "az", "abfs", "abfss", "hf", "sftp", "ftp")
ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(/?)")  # two letters at least: c:/ is a drive
SECRET = re.compile(r"(?P<start>[A-Za-z][A-Za-z0-9+.-]+://)(?:[^/?#\s]*@)?(?P<place>[^?#\s]*)(?P<more>[?#]\S*)?")
VERSION = ("size", "ETag", "etag", "md5Hash", "Content-MD5", "Digest", "Last-Modified", "LastModified", "last_modified")
MOST_FILES = 5_000_000
CHUNK = 2**20
PAUSES = (0, 1, 5)  # seconds before each try to read files
FINAL = ("nothing is there", "the server refuses")  # what another try does not change
CHECK = "Check the address and who may read it."


def is_address(data: object) -> bool:
    """Tell an address from a path; raises UsageError for one that is mistyped."""
    if not isinstance(data, str) or (match := ADDRESS.match(data)) is None or Path(data).exists():
        return False
    protocol, known = match[1].lower(), ", ".join(PROTOCOLS)
    if protocol not in PROTOCOLS or "::" in data:
        meant = did_you_mean(protocol, PROTOCOLS)
        cause = "addresses are not chained" if "::" in data else f"{protocol}:// is no address that data are read from"
        raise UsageError("address", without_secrets(data), cause, f"{meant}Those are {known}.")
    if not match[2]:
        raise UsageError("address", without_secrets(data), f"{protocol}: has one slash", f"Write {protocol}://.")
    return True


def without_secrets(text: str) -> str:
    """Leave user, password, query and fragment out of every address in a text."""
    return SECRET.sub(lambda m: f"{m['start']}{m['place']}{'?…' if m['more'] else ''}", text)


@dataclass(frozen=True)
class Remote:
    """A file or folder at an address, and the file system that reads it."""

    address: str
    system: Any
    path: str

    @classmethod
    def at(cls, address: str) -> Remote:
        """Find what reads an address; raises UsageError where a package for it is missing."""
        try:
            import fsspec
        except ModuleNotFoundError:
            raise _missing("fsspec", address, "fsspec and aiohttp") from None
        try:
            system, path = fsspec.core.url_to_fs(address)
        except ImportError as error:
            told = re.search(r"(?i)(?:install|requires) ([\w-]+)", str(error))
            package = told[1] if told else error.name or "one"
            raise _missing(package, address, package) from None
        except Exception as error:
            raise _unreadable(address, error) from None
        return cls(address, system, path)

    @property
    def name(self) -> str:
        """The last part of its path."""
        return PurePosixPath(unquote(urlsplit(self.address).path).rstrip("/")).name or "data"

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder, which an address of the web says by a slash at its end."""
        if self.address.startswith("http"):  # asked, it would send a file whole
            return urlsplit(self.address).path.endswith("/")
        with _told(self.address):
            return bool(self.system.isdir(self.path))

    def matching(self) -> list[str]:
        """List the addresses of files that its path, a pattern, names; raises DataError where there are none."""
        with _told(self.address):
            found = sorted(self.system.glob(self.path))
        if not found:
            raise DataError("files", without_secrets(self.address), "no file is called so", CHECK)
        return [path if "://" in path else f"{self.address.partition('://')[0]}://{path}" for path in found]

    def version(self) -> str:
        """Ask the server for what changes with a file's content."""
        with _told(self.address):
            facts = self.system.info(self.path)
        return " ".join(f"{facts[key]}" for key in VERSION if facts.get(key) is not None)

    def files(self) -> dict[str, tuple[str, str]]:
        """List a folder's files: path within it to the path for the file system and the version."""
        with _told(self.address):
            found = self.system.find(self.path, detail=True)
        start, listed = self.path.rstrip("/") + "/", dict[str, tuple[str, str]]()
        if len(found) > MOST_FILES:
            raise DataError("folder", without_secrets(self.address), f"it has over {MOST_FILES:,} files", CHECK)
        for path, facts in sorted(found.items()):
            inside = unquote(path[len(start) :]) if path.startswith(start) else ""
            if inside and not {"", ".."} & set(inside.split("/")) and not set(inside) & set("?#\0\\"):
                told = " ".join(f"{facts[key]}" for key in VERSION if facts.get(key) is not None)
                listed[inside] = path, told
        if not listed:
            raise DataError("folder", without_secrets(self.address), "there are no files in it", CHECK)
        return listed

    def read(self, paths: Sequence[str]) -> list[bytes | DataError]:
        """Read files whole, several at a time, and again where the server failed."""
        held, left = dict[str, bytes | DataError](), list(paths)
        for pause in PAUSES:
            time.sleep(pause)
            with _told(self.address):
                found = self.system.cat(left, on_error="return")
            found = found if isinstance(found, dict) else {left[0]: found}
            held |= {path: c if isinstance(c := found[path], bytes) else _unreadable(path, c) for path in left}
            left = [path for path in left if isinstance(e := held[path], DataError) and not e.cause.startswith(FINAL)]
            if not left:
                break
        return [held[path] for path in paths]

    def copy(self, path: str, target: Path) -> None:
        """Copy a file; raises DataError where it takes more than half of the free space, or is not whole."""
        options = {"block_size": 0} if self.address.startswith("http") else {}
        room, done = shutil.disk_usage(target.parent).free // 2, 0
        with _told(self.address), self.system.open(path, "rb", **options) as source, open(target, "wb") as file:
            while chunk := source.read(CHUNK):
                done += len(chunk)
                if done > room:
                    cause = f"it would take more than half of the free space in {target.parent}"
                    raise DataError("data", without_secrets(self.address), cause, "Free some space.")
                file.write(chunk)


def fetch(address: str) -> Path:
    """Copy what is at an address into the cache folder, unless it is there; gives the file or folder."""
    remote = Remote.at(address)
    listed = remote.files() if remote.is_folder else None
    told = remote.version() if listed is None else repr([(inside, version) for inside, (_, version) in listed.items()])
    key = hashlib.sha256(f"{address}\0{told}".encode()).hexdigest()[:40]
    home = cache.remote_folder() / key
    if not home.is_dir():
        temporary = home.with_name(f"{key}.{os.getpid()}.{secrets.token_hex(4)}{UNFINISHED}")
        make_folder(temporary)
        try:
            _copy_into(remote, listed, temporary / remote.name)
            with contextlib.suppress(OSError):  # another process was faster
                temporary.rename(home)
            say(f"copied {without_secrets(address)} into the cache")
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.utime(home)
    cache.bound(spare=home)
    return home / remote.name


def _copy_into(remote: Remote, listed: dict[str, tuple[str, str]] | None, place: Path) -> None:
    if listed is None:
        remote.copy(remote.path, place)
        return
    for inside, (path, _) in listed.items():
        (place / inside).parent.mkdir(parents=True, exist_ok=True)
        remote.copy(path, place / inside)


@contextmanager
def fetched_briefly(address: str) -> Iterator[Path]:
    """Copy a file for as long as the block lasts: one of many that are read one after another."""
    remote = Remote.at(address)
    folder = cache_folder() / f"shard.{os.getpid()}.{secrets.token_hex(4)}{UNFINISHED}"
    make_folder(folder)
    try:
        remote.copy(remote.path, folder / remote.name)
        yield folder / remote.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _told(address: str) -> Iterator[None]:
    """Turn what a server or its library raises into a DataError, which holds none of its words."""
    try:
        yield
    except (DataError, UsageError):
        raise
    except Exception as error:
        raise _unreadable(address, error) from None


def _unreadable(address: str, error: object) -> DataError:
    chain = [error, getattr(error, "__cause__", None), getattr(error, "__context__", None)]
    status = next((s for one in chain if isinstance(s := getattr(one, "status", None), int)), None)
    unreachable = any("connect" in type(one).__name__.lower() for one in chain)
    if unreachable and status is None:
        cause = "the server cannot be reached"
    elif status == 404 or (status is None and isinstance(error, FileNotFoundError)):
        cause = "nothing is there (404)" if status else "nothing is there"
    elif status in (401, 403) or isinstance(error, PermissionError):
        cause = f"the server refuses{f' ({status})' if status else ''}"
    elif status is not None:
        cause = f"the server answers {status}"
    else:
        cause = f"it cannot be read ({type(error).__name__})"
    return DataError("data", without_secrets(address), cause, CHECK)


def _missing(package: str, address: str, packages: str) -> UsageError:
    protocol = address.partition("://")[0]
    cause = f"it is missing, and {protocol}:// needs it"
    return UsageError(f"package {package}", "this Python", cause, f"Install {packages} by pip.")
