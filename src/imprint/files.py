"""Writing files so that a reader never meets half of one, and the folder for what can be made again."""

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy import ndarray

from imprint.errors import UsageError


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path` and move it into place once it is complete.

    The file is synced to disk before the move, so that after a crash `path` holds either its
    former content or all of the new one.

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
        When the folder does not exist or cannot be written to.

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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UsageError(
            f"{path.name}",
            f"{path.parent}",
            f"it cannot be written ({error.strerror or error})",
            "Choose a folder that exists and can be written to.",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def let_go(values: ndarray) -> None:
    """Give back the memory that mapped values have taken; they are read again when next looked at.

    Parameters
    ----------
    values : ndarray
        Mapped from a file and never written to; of others nothing is given back.

    Examples
    --------
    >>> let_go(np.zeros(3))
    """
    if isinstance(values, np.memmap) and isinstance(values.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        values.base.madvise(mmap.MADV_DONTNEED)


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
