"""The versions of a project: each training leaves one folder, whole or not at all, and all of them stay."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from imprint.core.files import UNFINISHED, written_whole

MODEL_NAME, EXPORTED_NAME, FACTS_NAME = "model.safetensors", "model.onnx", "version.json"


class Versions:
    """The folders 1, 2, 3 … with a model file, its export, and what is known of both."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)
        for path in folder.glob(f".*{UNFINISHED}"):  # of a training that was killed
            shutil.rmtree(path, ignore_errors=True)
        numbers = sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
        self.listed: dict[int, dict[str, Any]] = {}
        for number in numbers:
            facts = json.loads((folder / str(number) / FACTS_NAME).read_text(encoding="utf-8"))
            self.listed[number] = facts

    def exported(self, number: int) -> Path:
        """Where the export of a version lies."""
        return self.folder / str(number) / EXPORTED_NAME

    def model(self, number: int) -> Path:
        """Where the model file of a version lies."""
        return self.folder / str(number) / MODEL_NAME

    def new_folder(self) -> Path:
        """Make a folder of its own for one training to write to; it is no version until `add`."""
        return Path(tempfile.mkdtemp(prefix=".new-", suffix=UNFINISHED, dir=self.folder))

    def drop(self, made: Path) -> None:
        """Remove the folder of a training that came to nothing; one that became a version has another name."""
        shutil.rmtree(made, ignore_errors=True)

    def add(self, made: Path, facts: dict[str, Any]) -> int:
        """Make a version of a folder that a training has written; raises OSError where the disk refuses."""
        number = max(self.listed, default=0) + 1
        facts = facts | {"version": number}
        (made / FACTS_NAME).write_text(json.dumps(facts), encoding="utf-8")
        for path in made.iterdir():
            _sync(path)
        _sync(made)
        made.rename(self.folder / str(number))
        _sync(self.folder)
        self.listed[number] = facts
        return number

    def update(self, number: int, facts: dict[str, Any]) -> None:
        """Add to what is known of a version."""
        known = self.listed[number] = self.listed[number] | facts
        with written_whole(self.folder / str(number) / FACTS_NAME) as temporary:
            temporary.write_text(json.dumps(known), encoding="utf-8")

    def trained(self) -> set[str]:
        """Name every sample that any version has trained on."""
        return {sha for facts in self.listed.values() for sha in facts["trained"]}


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
