"""What a project holds, as plain records, and how each event of its journal changes it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

KINDS = ("camera", "upload", "drawing", "folder", "correction")
EXAM_FROM, EXAM_OF = 2, 3  # takes of a class that always train, and then one of so many is held out

Event = dict[str, Any]


@dataclass
class Take:
    """One recording: its samples stay on one side of every split.

    `scene` is the take that the images were recorded in, which differs where they were moved to another class;
    `after` is how many versions there were when it was made.
    """

    id: str
    class_id: str
    kind: str
    exam: bool
    scene: str
    after: int
    samples: dict[str, None] = field(default_factory=dict)

    def to_dict(self) -> Event:
        """Give it as plain JSON values."""
        facts = {"id": self.id, "class": self.class_id, "kind": self.kind, "exam": self.exam}
        return facts | {"scene": self.scene, "after": self.after, "samples": list(self.samples)}


@dataclass
class ImageClass:
    """A class: its name is a label, never a path. `made` counts the takes that it ever had, but for corrections."""

    id: str
    name: str
    made: int = 0


@dataclass
class State:
    """Classes, takes and samples; `looks` holds what is remembered of every sample that was ever added."""

    name: str = ""
    classes: dict[str, ImageClass] = field(default_factory=dict)
    takes: dict[str, Take] = field(default_factory=dict)
    looks: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Event) -> State:
        """Read it from plain JSON values that `to_dict` made."""
        state = cls(values["name"], looks=dict(values["looks"]))
        for each in values["classes"]:
            state.classes[each["id"]] = ImageClass(each["id"], each["name"], each["made"])
        for each in values["takes"]:
            samples = dict.fromkeys(each["samples"])
            facts = (each["id"], each["class"], each["kind"], each["exam"], each["scene"], each["after"])
            state.takes[each["id"]] = Take(*facts, samples)
        return state

    def to_dict(self) -> Event:
        """Give it as plain JSON values."""
        held = {sha for take in self.takes.values() for sha in take.samples}
        return {
            "name": self.name,
            "classes": [{"id": each.id, "name": each.name, "made": each.made} for each in self.classes.values()],
            "takes": [take.to_dict() for take in self.takes.values()],
            "looks": {sha: look for sha, look in self.looks.items() if sha in held},
        }

    def takes_of(self, class_id: str) -> list[Take]:
        """Give the takes of a class that hold samples, in the order that they were made."""
        return [take for take in self.takes.values() if take.class_id == class_id and take.samples]

    def takes_with(self, sha: str) -> list[Take]:
        """Give every take that holds a sample; of several classes where the same picture is in several."""
        return [take for take in self.takes.values() if sha in take.samples]

    def samples(self) -> Iterator[tuple[str, Take]]:
        """Go through all samples with their takes."""
        for take in self.takes.values():
            for sha in take.samples:
                yield sha, take

    def count(self) -> int:
        """Count the samples."""
        return sum(len(take.samples) for take in self.takes.values())

    def apply(self, event: Event) -> None:
        """Change by one event of the journal."""
        match event["do"]:
            case "name":
                self.name = event["name"]
            case "class":
                self.classes[event["id"]] = ImageClass(event["id"], event["name"])
            case "rename":
                self.classes[event["id"]].name = event["name"]
            case "delete-class":
                del self.classes[event["id"]]
                self.takes = {key: take for key, take in self.takes.items() if take.class_id != event["id"]}
            case "take":
                facts = (event["id"], event["class"], event["kind"], event["exam"], event["scene"], event["after"])
                self.takes[event["id"]] = Take(*facts)
                if event["kind"] != "correction" and event["scene"] == event["id"]:
                    self.classes[event["class"]].made += 1
            case "add":
                self.takes[event["take"]].samples.update(dict.fromkeys(event["samples"]))
                self.looks.update(event["samples"])
            case "put":
                self.takes[event["take"]].samples.update(dict.fromkeys(event["samples"]))
            case "remove":
                for sha in event["samples"]:
                    self.takes[event["take"]].samples.pop(sha, None)
            case "replace":
                replaced = State.from_dict(event["state"])
                self.name, self.classes, self.takes = replaced.name, replaced.classes, replaced.takes
                self.looks = self.looks | replaced.looks
            case other:
                raise ValueError(f"unknown event {other!r}")


def is_held_out(key: str, class_id: str, made: int, kind: str) -> bool:
    """Tell whether a new take joins the exam: of a class's takes after the second one of three, chosen by a hash.

    It depends on nothing that can be seen in the images. Corrections never join it.
    """
    if kind == "correction" or made < EXAM_FROM:
        return False
    block, place = divmod(made - EXAM_FROM, EXAM_OF)
    digest = hashlib.sha256(f"{key} {class_id} {block}".encode()).digest()
    return digest[0] % EXAM_OF == place
