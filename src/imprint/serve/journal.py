"""The journal of a project: an append-only file, one transaction a line, synced to disk before it counts."""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from pathlib import Path
from typing import Any

from imprint.core.errors import DataError
from imprint.core.files import written_whole

Line = dict[str, Any]


class Journal:
    """Appends transactions to a file; what `append` has returned from survives the end of the process at any moment.

    Each line is a CRC-32 and JSON. A last line that a kill or a full disk cut short was never acknowledged, so it is
    cut off when the file is opened; `DataError` is raised where any other line is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines, whole = _read(path)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        if os.fstat(self._file).st_size > whole:
            os.ftruncate(self._file, whole)
        os.fsync(self._file)

    def append(self, line: Line) -> None:
        """Write a transaction and wait until it is on disk; raises OSError, and leaves the file as it was, if not."""
        before = os.fstat(self._file).st_size
        try:
            rest = memoryview(_spelled(line))
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, before)
            raise

    def replace(self, lines: list[Line]) -> None:
        """Write all transactions anew, whole or not at all."""
        with written_whole(self.path) as temporary:
            temporary.write_bytes(b"".join(map(_spelled, lines)))
            temporary.chmod(0o600)
        os.close(self._file)
        self._file = os.open(self.path, os.O_RDWR | os.O_APPEND)

    def close(self) -> None:
        """Close the file; what is appended later is refused, and goes to no file that has its number now."""
        os.close(self._file)
        self._file = -1


def _spelled(line: Line) -> bytes:
    content = json.dumps(line, ensure_ascii=True, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(content), content)


def _read(path: Path) -> tuple[list[Line], int]:
    """Give the whole lines, and how many bytes they take."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    lines: list[Line] = []
    place = 0
    while (end := content.find(b"\n", place)) >= 0:
        checksum, _, text = content[place:end].partition(b" ")
        if checksum != b"%08x" % zlib.crc32(text):
            if content.find(b"\n", end + 1) < 0 and end == len(content) - 1:
                break  # the last line: its blocks did not all reach the disk
            cause = "its checksum is wrong, so the disk or another program has changed it"
            remedy = "Put a copy of the file back, or open a saved project in another --project folder."
            raise DataError(f"line {len(lines) + 1}", str(path), cause, remedy)
        lines.append(json.loads(text))
        place = end + 1
    return lines, place
