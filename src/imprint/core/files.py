"""Writing files so that a reader never meets half of one, and the folder for what can be made again."""

import contextlib
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imprint.core.errors import UsageError

UNFINISHED = ".part"


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path` and move it into place once it is complete.

    The file is synced to disk before the move and its folder after, so that after a crash `path`
    holds either its former content or all of the new one.

    Parameters
    ----------
    path : str or Path
        The file to write; an existing one is replaced. Its folder must exist.

    Yields
    ------
    Path
        Where to write meanwhile.

    Raises
    ------
    UsageError
        When it is a folder, or its folder does not exist, cannot be written to or is full.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with written_whole(folder / "a.txt") as temporary:
    ...     _ = temporary.write_text("whole")
    >>> [p.name for p in folder.iterdir()]
    ['a.txt']
    """
    path = Path(path)
    check_output(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise UsageError(
            f"{path.name}",
            f"{path.parent}",
            f"it cannot be written ({error.strerror or error})",
            "Free some space, and try again." if full else "Choose a folder that exists and can be written to.",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_output(path: Path) -> None:
    """Refuse a place where no file can be written, before anything is spent on what shall stand there.

    Parameters
    ----------
    path : Path
        The file to write.

    Raises
    ------
    UsageError
        When it is a folder, or its folder does not exist.

    Examples
    --------
    >>> check_output(Path("."))
    Traceback (most recent call last):
    imprint.core.errors.UsageError: output at .: it is a folder. Name a file in it.
    """
    if path.is_dir():
        raise UsageError("output", str(path), "it is a folder", "Name a file in it.")
    if not path.parent.is_dir():
        cause = "it cannot be written (there is no such folder)"
        raise UsageError(path.name, str(path.parent), cause, "Choose a folder that exists and can be written to.")


def make_folder(path: Path) -> None:
    """Make a folder for output, and those above it, where they are missing.

    Parameters
    ----------
    path : Path
        The folder.

    Raises
    ------
    UsageError
        When it cannot be made.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "plots"
    >>> make_folder(folder)
    >>> folder.is_dir()
    True
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError("folder", str(path), f"it cannot be made ({error.strerror})", "Choose another.") from None


def _sync_folder(folder: Path) -> None:
    """Bring a folder's entries to disk, where the system lets a folder be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed process was writing with `written_whole` in a folder that nobody else writes to.

    Parameters
    ----------
    folder : Path
        Only its own files, not those in folders below.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / ".model.safetensors.123.part").write_text("ha")
    >>> remove_unfinished(folder)
    >>> list(folder.iterdir())
    []
    """
    for path in folder.glob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone; a process that ends, however it ends, lets it go.

    Without effect where folders cannot be locked: on Windows and on some network file systems.

    Parameters
    ----------
    folder : Path
        An existing folder.

    Yields
    ------
    None
        While the block runs, nobody else is let in.

    Raises
    ------
    UsageError
        When another process, or this one, holds it already.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with sole_writer(folder), sole_writer(folder):
    ...     pass
    Traceback (most recent call last):
    imprint.core.errors.UsageError: run folder at ...: another process is training in it. Wait until that has ended.
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


def cache_folder() -> Path:
    """Tell where Imprint keeps what it can make again; the folder need not exist yet.

    Returns
    -------
    Path
        ``$IMPRINT_CACHE``, else ``$XDG_CACHE_HOME/imprint``, else ``~/.cache/imprint``.

    Examples
    --------
    >>> cache_folder().is_absolute()
    True
    """
    if named := os.environ.get("IMPRINT_CACHE"):
        return Path(named).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "imprint"
