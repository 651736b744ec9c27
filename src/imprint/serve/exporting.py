"""A model file as one .onnx file: exported once, in a child process, proved there, and kept in the cache by digest."""

from __future__ import annotations

import os
import subprocess
import sys
from hashlib import file_digest
from pathlib import Path

from imprint.core import __version__
from imprint.core.errors import ImprintError, ModelFileError
from imprint.core.files import cache_folder, make_folder

KEPT = 16  # exports; the ones used longest ago go first
NICENESS = 10  # of the child, so that it does not hold up answers


def is_exported(path: Path) -> bool:
    """Tell an exported model by its name."""
    return path.suffix.lower() == ".onnx"


def kept_export(model: Path) -> Path:
    """Give the place of a model file's export in the cache; it need not be there yet."""
    try:
        with open(model, "rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
    except OSError as error:
        cause = f"it cannot be read ({error.strerror or error})"
        raise ModelFileError("model", str(model), cause, "Check the path and its permissions.") from None
    return cache_folder() / "exports" / f"{digest}-{__version__}.onnx"


def export_in_child(model: Path) -> Path:
    """Give the export of a model file, made and proved by a child process where it is not kept yet."""
    path = kept_export(model)
    if path.is_file():
        os.utime(path)
        return path
    make_folder(path.parent)
    command = [sys.executable, "-m", "imprint.serve.exporting", str(model), str(path)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if done.returncode or not path.is_file():
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        told = lines[-1].removeprefix("error: ") if lines else f"its process ended with {done.returncode}"
        raise ModelFileError("model", model.name, f"it could not be exported: {told}", "See imprint export.")
    _bound(path.parent)
    return path


def _bound(folder: Path) -> None:
    for old in sorted(folder.glob("*.onnx"), key=lambda file: file.stat().st_mtime)[:-KEPT]:
        old.unlink(missing_ok=True)


def main() -> None:
    """Export argv[1] to argv[2], at low priority."""
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    from imprint.models.classifier import Classifier
    from imprint.models.onnx.exporting import export

    try:
        export(Classifier.load(sys.argv[1], "cpu"), sys.argv[2])
    except ImprintError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
