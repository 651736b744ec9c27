"""Provenance: what a run came from, so that it can be told and repeated: command, data, versions, machine."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from imprint.core import __version__
from imprint.core.errors import DataError
from imprint.data.images import LabelledImages, LoadedFrom, has_fingerprint
from imprint.data.load import load_again
from imprint.data.remote import without_secrets
from imprint.models.backbones import weights_source
from imprint.training.plan import Plan

PACKAGES = ("torch", "numpy", "pillow", "polars")
LOAD_OPTIONS = (
    *("part", "side", "label", "group", "ids", "allow_bad", "classes", "labels"),
    *("form", "pixel_range", "background"),
)


@dataclass(frozen=True)
class DataProvenance:
    """Where images came from, and which they were.

    `path` and `options` are those of `LabelledImages.loaded_from`; path is None where the images were made in Python.
    """

    name: str
    path: str | None
    options: dict[str, Any]
    images: int
    shape: tuple[int, int, int]
    classes: dict[str, int]
    fingerprint: str

    @classmethod
    def of(cls, images: LabelledImages) -> DataProvenance:
        """Note where images came from."""
        loaded = images.loaded_from
        path, options = (None, {}) if loaded is None else (_plain(loaded.path), loaded.options)
        return cls(images.name, path, options, len(images), images.shape, images.class_counts(), images.fingerprint)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DataProvenance:
        """Read it from plain JSON values; raises what a malformed one happens to raise."""
        channels, height, width = (int(side) for side in values["shape"])
        given = values["options"]
        return cls(
            str(values["name"]),
            None if values["path"] is None else str(values["path"]),
            {key: given[key] for key in LOAD_OPTIONS if key in given},
            int(values["images"]),
            (channels, height, width),
            {str(name): int(count) for name, count in values["classes"].items()},
            str(values["fingerprint"]),
        )

    def read_again(self, path: str | None = None) -> LabelledImages:
        """Read the same images once more, from `path` if they were moved; raises `DataError` where they are others."""
        if path is None and self.path is None:
            cause = "they were made in Python, so nothing tells where they are"
            raise DataError("data", self.name, cause, "Name the run's data with --data.")
        images = load_again(LoadedFrom(self.path or "", self.options), path)
        if not has_fingerprint(images, self.fingerprint):
            cause = "they are not the images and labels of the run: the data has changed, or is another"
            raise DataError("data", images.name, cause, "Name the run's data with --data, or train again.")
        return images


@dataclass(frozen=True)
class Provenance:
    """What a run came from.

    `settled` is the plan in words; `validation` is None where it is a share of `training`; `pretrained` tells where
    weights came from that the run began with, `parent` the model that it started from: its path, SHA-256 and `leak`;
    `processes` how many trained together.
    """

    command: str
    made: str
    settled: str
    versions: dict[str, str]
    machine: str
    training: DataProvenance
    validation: DataProvenance | None
    pretrained: tuple[str, ...] = ()
    parent: dict[str, str] | None = None
    processes: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Give it as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Provenance:
        """Read it from plain JSON values; raises what a malformed one happens to raise."""
        texts = {key: str(values[key]) for key in ("command", "made", "settled", "machine")}
        versions = {str(name): str(number) for name, number in values["versions"].items()}
        validation, parent = values["validation"], values.get("parent")
        return cls(
            **texts,
            versions=versions,
            training=DataProvenance.from_dict(values["training"]),
            validation=None if validation is None else DataProvenance.from_dict(validation),
            pretrained=tuple(str(source) for source in values.get("pretrained", ())),
            parent=None if parent is None else {key: str(parent[key]) for key in ("model", "sha256", "leak")},
            processes=int(values.get("processes", 1)),
        )


def provenance_of(plan: Plan, command: str) -> Provenance:
    """Note what a run comes from."""
    versions = {"python": platform.python_version(), "imprint": __version__}
    versions |= {name: version(name) for name in PACKAGES}
    device = torch.cuda.get_device_name(plan.device) if plan.device.type == "cuda" else plan.device.type
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors, trained on {device}"
    made = datetime.now(UTC).isoformat(timespec="seconds")
    given = plan.validation is not None and not plan.recipe.validation_fraction  # not held out from the images
    validation = DataProvenance.of(plan.validation) if given and plan.validation is not None else None
    training = DataProvenance.of(plan.images)
    names = dict.fromkeys(plan.recipe.networks)
    pretrained = tuple(source for name in names if (source := weights_source(name, plan.recipe.pretrained)))
    parent = None if plan.parent is None else plan.parent.facts(plan.leak)
    parent = parent and {key: _plain(text) for key, text in parent.items()}
    settled = _plain(str(plan))
    origin = machine, training, validation, pretrained, parent, plan.crew.size
    return Provenance(_plain(command), made, settled, versions, *origin)


def command_line() -> str:
    """Give what was typed to start this process, so that it can be typed again; empty where that tells nothing."""
    program, *arguments = map(without_secrets, sys.argv or [""])
    if program in ("", "-c") or "ipykernel" in program:
        return ""
    if Path(program).stem == "imprint" or Path(program).parts[-2:] == ("imprint", "__main__.py"):
        return shlex.join(["imprint", *arguments])
    return shlex.join(["python", program, *arguments])


def _plain(text: str) -> str:
    """Spell letters that no file can hold, as names of files that are not UTF-8 have."""
    return text.encode("utf-8", "backslashreplace").decode()
