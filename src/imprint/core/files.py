"""Atomic writes, locks on folders, and the cache folder."""

import contextlib
import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from imprint.core.errors import UsageError, closest

UNFINISHED = ".part"
SPARED = 10**9  # bytes that stay free on a disk
MOST_COMPARED = 10_000  # entries of a folder, with a wrong path
WRITABLE = "Choose a folder that exists and can be written to."


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, and move it into place, synced to disk, once the block has written it.

    Even a crash leaves `path` with its former content or all of the new one. A link stays, and what it leads to is
    written; a device or a pipe gets the content at the end. Raises `UsageError` where it cannot be written.
    """
    special = Path(path).exists() and not Path(path).is_file()
    path = Path(path if special else os.path.realpath(path))
    check_output(path)
    beside = Path(tempfile.gettempdir()) if special else path.parent
    temporary = beside / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}{UNFINISHED}"  # no other host's either
    try:
        yield temporary
        if special:
            with open(temporary, "rb") as content, open(path, "wb") as target:
                shutil.copyfileobj(content, target)
            return
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        cause = f"it cannot be written ({error.strerror or error})"
        remedy = "Free some space, and try again." if full else WRITABLE
        raise UsageError(path.name, str(path.parent), cause, remedy) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_output(path: Path) -> None:
    """Raise `UsageError` where no file can be written: to be called before the work whose result goes there."""
    if path.is_dir():
        raise UsageError("output", str(path), "it is a folder", "Name a file in it.")
    if not path.parent.is_dir():
        cause = "it cannot be written (there is no such folder)"
        raise UsageError(path.name, str(path.parent), cause, WRITABLE)


def similar_path(path: str | Path, others: Iterable[str] = ()) -> str:
    """Ask, as `did_you_mean` does, whether a file was meant that stands beside the first wrong part of a path.

    `others` are names that would do as well as a file's.
    """
    path = Path(path)
    with contextlib.suppress(OSError, ValueError):
        wrong = next((part for part in (*reversed(path.parents), path) if not part.exists()), None)
        if wrong is None:
            return ""
        beside = [entry.name for entry in islice(wrong.parent.iterdir(), MOST_COMPARED) if entry.name[0] != "."]
        for name in closest(wrong.name, [*sorted(beside), *others]):
            meant = wrong.parent / name / path.relative_to(wrong)
            if meant.exists() or str(meant) in others:
                return f"Did you mean {meant}? "
    return ""


def make_folder(path: Path) -> None:
    """Make a folder for output and its missing parents; raises `UsageError` when that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError("folder", str(path), f"it cannot be made ({error.strerror})", "Choose another.") from None


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, on systems that allow opening a folder."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_unfinished(folder: Path) -> None:
    """Remove temporary files that a killed `written_whole` left in a folder that no other process writes to."""
    for path in folder.glob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Lock an existing folder until the block or the process ends; raises `UsageError` where it is locked already.

    Without effect where folders cannot be locked: on Windows and on some network file systems.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            cause, remedy = "another process is training in it", "Wait until that has ended."
            raise UsageError("run folder", str(folder), cause, remedy) from None
        except OSError:  # no locks on this file system
            pass
        yield
    finally:
        os.close(descriptor)


def has_writer(folder: Path) -> bool:
    """Whether a living process holds the lock of `sole_writer`; False where folders cannot be locked."""
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # gone with the descriptor
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    return False


def cache_folder() -> Path:
    """Where Imprint caches what it can compute again: $IMPRINT_CACHE, else imprint in $XDG_CACHE_HOME or ~/.cache.

    The folder need not exist yet.
    """
    if named := os.environ.get("IMPRINT_CACHE"):
        return Path(named).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "imprint"


def room_on_disk(folder: Path) -> int:
    """Give the bytes that may be written to the disk of a folder that exists: half of it is left free, or 1 GB."""
    free = shutil.disk_usage(folder).free
    return max(free // 2, free - SPARED)
