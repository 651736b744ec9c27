"""A project on disk: classes, takes and samples, every change of which is noted in a journal and can be undone."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from imprint.core.errors import DataError, ImprintError, UsageError
from imprint.core.files import remove_unfinished, sole_writer
from imprint.serve import hints
from imprint.serve.journal import Journal
from imprint.serve.problems import Problem
from imprint.serve.samples import MAX_PIXELS, Sample, SampleStore, encode
from imprint.serve.state import KINDS, Event, State, Take, is_held_out
from imprint.serve.versions import Versions

MAX_BYTES, MAX_SAMPLES = 2 * 10**9, 50_000
MAX_CLASSES, MAX_NAME = 1000, 200
SHOWN_THUMBNAILS, RUN_TAKES = 12, 10
JOURNAL_NAME, SAMPLES_NAME, VERSIONS_NAME = "journal.jsonl", "samples", "versions"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Given:
    """An image that is to be added: its name in messages, and its bytes."""

    name: str
    content: bytes


def default_folder() -> Path:
    """Give the folder of the user's project, by the custom of the system; it need not exist yet."""
    if os.name == "nt":
        home = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local")
    else:
        home = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
    return home.absolute() / "imprint" / "project"


def folder_for(model: Path) -> Path:
    """Give the folder of the project that belongs to a model or a run, beside that of `default_folder`."""
    key = hashlib.sha256(os.fsencode(model.absolute())).hexdigest()[:12]
    return default_folder().with_name("projects") / key


class Project:
    """A project folder, locked against a second server. All methods may be called from several threads.

    A transaction is a line of the journal: `unit` and `events`. Lines of one unit that follow each other, such as a
    recording that was sent in several requests, are undone together. What raises changes nothing.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES, max_samples: int = MAX_SAMPLES) -> None:
        self.folder, self.max_bytes, self.max_samples = folder, max_bytes, max_samples
        self._lock, self._closing, self._adding = threading.RLock(), ExitStack(), threading.Lock()
        self.of_model = False  # whether a model answers whose images are not here
        self._closed = False
        _make_private(folder)
        try:
            self._closing.enter_context(sole_writer(folder))
        except UsageError:
            remedy = "Stop that one, or choose another folder with --project DIR."
            raise UsageError("project", str(folder), "another imprint serve uses it", remedy) from None
        try:
            remove_unfinished(folder)
            self.store = SampleStore(folder / SAMPLES_NAME)
            self.versions = Versions(folder / VERSIONS_NAME)
            self._journal = Journal(folder / JOURNAL_NAME)
            self._closing.callback(lambda: self._journal.close())
            self._read_journal()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self._closing.close()
            if isinstance(error, ImprintError):
                raise
            cause = f"its files are not as this Imprint writes them ({error!r:.100})"
            raise DataError(
                "project", str(folder), cause, "Use the Imprint that wrote it, or another folder."
            ) from None
        except BaseException:
            self._closing.close()
            raise

    def close(self) -> None:
        """Give the folder free."""
        with self._lock:
            self._closed = True
            self._closing.close()

    def remove_strays(self) -> None:
        """Remove sample files that no line of the journal names, unless another server may have the folder."""
        with self._lock:
            if not self._closed:
                self.store.keep_only(self._files())

    def _read_journal(self) -> None:
        lines, self._journal.lines = self._journal.lines, []
        self.key, self._next, self._base = "", 1, State()
        self._done: list[Event] = []
        self._undone: list[list[Event]] = []
        self.revision = 0
        self.findings: list[dict[str, Any]] = []
        self._counted: dict[str, tuple[int, int]] = {}
        self._summary: dict[str, Any] | None = None
        self._lesson: str | None = None
        self._used: int | None = None
        for line in lines:
            self._take_in(line)
        if not lines:
            first = {"begin": {"key": secrets.token_hex(8), "next": 1, "state": State().to_dict(), "version": None}}
            self._journal.append(first)
            self._take_in(first)
        self._replay()
        self.store.keep_only(self._files())

    def _take_in(self, line: Event) -> None:
        """Take a line of the journal in, without changing the state."""
        self.revision += 1
        if "begin" in line:
            begin = line["begin"]
            self.key, self._next, self._used = begin["key"], begin["next"], begin["version"]
            self._base, self._done, self._undone = State.from_dict(begin["state"]), [], []
        elif "use" in line:
            self._used = line["use"]
        elif "undo" in line:
            count = len(self._done) - line["undo"]
            self._undone.append(self._done[count:])
            del self._done[count:]
        elif "redo" in line:
            self._done += self._undone.pop()
        else:
            self._next = max(self._next, line["next"])
            self._done.append(line)
            self._undone.clear()

    def _replay(self) -> None:
        """Compute the state anew from all that is done."""
        self.state = State.from_dict(self._base.to_dict())
        self.state.looks = dict(self._base.looks)
        for line in self._done:
            for event in line["events"]:
                self.state.apply(event)
        self._summary = self._lesson = None

    def _files(self) -> set[str]:
        """Name the files of all samples that undoing or redoing may need."""
        looks = self._base.looks | _added((*self._done, *(line for lines in self._undone for line in lines)))
        return {self.store.path(sha, look["kind"]).name for sha, look in looks.items()}

    def _write(self, line: Event) -> None:
        """Note a line; afterwards it counts, whatever happens. Raises `Problem` where the disk refuses."""
        with refused_by_disk():
            self._journal.append(line)
        self._take_in(line)

    def _do(self, unit: str, events: list[Event]) -> None:
        """Note events as one transaction and apply them; those that make no sense are refused before."""
        undone = _added(line for lines in self._undone for line in lines)
        self._write({"unit": unit, "next": self._next, "events": events})
        for event in events:
            self.state.apply(event)
        self._summary = self._lesson = None
        for sha in undone.keys() - self.state.looks.keys():  # which nothing can bring back now
            with contextlib.suppress(OSError):
                self.store.path(sha, undone[sha]["kind"]).unlink(missing_ok=True)

    def _new_id(self, letter: str) -> str:
        self._next += 1
        return f"{letter}{self._next - 1}"

    # Classes

    def add_class(self, name: str) -> str:
        """Add a class; gives its id."""
        with self._lock:
            name = self._checked_name(name)
            key = self._new_id("c")
            self._do(key, [{"do": "class", "id": key, "name": name}])
            return key

    def rename_class(self, key: str, name: str) -> None:
        """Rename a class."""
        with self._lock:
            if self._class(key).name != name:
                self._do(self._unit(), [{"do": "rename", "id": key, "name": self._checked_name(name, key)}])

    def delete_class(self, key: str) -> None:
        """Delete a class and its samples; undoing brings both back."""
        with self._lock:
            self._class(key)
            self._do(self._unit(), [{"do": "delete-class", "id": key}])

    def rename(self, name: str) -> None:
        """Name the project."""
        with self._lock:
            self._do(self._unit(), [{"do": "name", "name": label(name)}])

    def _checked_name(self, name: str, own: str = "") -> str:
        name = label(name)
        if any(each.name == name for key, each in self.state.classes.items() if key != own):
            raise Problem(422, "Name taken", f"There is a class {name!r} already. Choose another name.")
        if len(self.state.classes) >= MAX_CLASSES and not own:
            raise Problem(422, "Too many classes", f"A project has at most {MAX_CLASSES:,} classes.")
        return name

    def _class(self, key: str) -> Any:
        if key not in self.state.classes:
            raise Problem(404, "No such class", "It may have been deleted; undo brings it back.")
        return self.state.classes[key]

    def _unit(self) -> str:
        return f"{self.revision}"

    # Takes and samples

    def add_take(self, class_id: str, kind: str) -> str:
        """Begin a recording; gives its id. Whether it joins the exam is decided here, by a hash, for ever."""
        with self._lock:
            self._class(class_id)
            if kind not in KINDS:
                raise Problem(422, "Unknown kind", f"A take is one of {', '.join(KINDS)}.")
            event = self._take_event(class_id, kind)
            self._do(event["id"], [event])
            return str(event["id"])

    def _take_event(self, class_id: str, kind: str, made: int | None = None) -> Event:
        key = self._new_id("t")
        made = self.state.classes[class_id].made if made is None else made
        exam = is_held_out(self.key, class_id, made, kind)
        facts = {"do": "take", "id": key, "class": class_id, "kind": kind, "exam": exam, "scene": key}
        return facts | {"after": len(self.versions.listed)}

    def add_samples(
        self, take_id: str, given: Sequence[Given], max_pixels: int = MAX_PIXELS
    ) -> tuple[list[str], list[dict[str, str]]]:
        """Add images to a take; gives the keys of those added, and what was wrong with each other one."""
        encoded, problems = _encode_all(given, max_pixels)
        with self._lock:
            if take_id not in self.state.takes:
                raise Problem(404, "No such take", "It may have been undone. Record again.")
            take = self.state.takes[take_id]
            new, repeated = self._new_in_class(encoded, take.class_id)
            self._add(take_id, [{"do": "add", "take": take_id, "samples": _looks(new)}], new)
            return [sample.sha for sample in new], problems + repeated

    def _new_in_class(
        self, encoded: list[tuple[str, Sample]], class_id: str
    ) -> tuple[list[Sample], list[dict[str, str]]]:
        """Leave out what the class holds already."""
        held = {sha for take in self.state.takes_of(class_id) for sha in take.samples}
        new, repeated = dict[str, Sample](), []
        for name, sample in encoded:
            if sample.sha in held or sample.sha in new:
                title, detail = "There already", "The same picture is in this class already; it counts once."
                repeated.append({"source": name, "title": title, "detail": detail})
            else:
                new[sample.sha] = sample
        return list(new.values()), repeated

    def _add(self, unit: str, events: list[Event], new: list[Sample]) -> None:
        """Store samples, then note them: a kill in between leaves files that the next start removes."""
        if not new:
            return
        self._check_quota(new)
        with refused_by_disk():
            self.store.write(new)
        try:
            self._do(unit, events)
        except Problem:
            kept = self._files()
            for sample in new:
                path = self.store.path(sample.sha, sample.look.kind)
                if path.name not in kept:
                    with contextlib.suppress(OSError):
                        path.unlink(missing_ok=True)
            raise

    def _check_quota(self, new: list[Sample]) -> None:
        """Refuse more than a project may hold; where only what was deleted fills it, let go of that first."""
        count, size = self.state.count() + len(new), sum(sample.look.size for sample in new)
        live = {sha for sha, _ in self.state.samples()}
        held = sum(self.state.looks[sha]["size"] for sha in live)
        if count > self.max_samples or held + size > self.max_bytes:
            most = f"{self.max_samples:,} pictures or {self.max_bytes / 1e9:g} GB"
            detail = f"A project holds at most {most}. Delete some, or save it and begin another."
            raise Problem(507, "The project is full", detail)
        if sum(look["size"] for look in self.state.looks.values()) + size > 2 * self.max_bytes:
            self.forget_undone()

    def forget_undone(self) -> None:
        """Let go of what was deleted: begin the journal anew with the state as it is."""
        with self._lock:
            begin = {"key": self.key, "next": self._next, "state": self.state.to_dict(), "version": self._used}
            self._journal.replace([{"begin": begin}])
            revision = self.revision
            self._take_in({"begin": begin})
            self.revision = revision + 1
            self._replay()
            self.remove_strays()

    def add_folders(
        self, given: dict[str, list[Given]], max_pixels: int = MAX_PIXELS
    ) -> tuple[dict[str, list[str]], list[dict[str, str]]]:
        """Add folders, each as one take of the class of its name, which is made where it is missing."""
        encoded = {name: _encode_all(images, max_pixels) for name, images in given.items()}
        with self._lock:
            events, everything, added, problems = list[Event](), list[Sample](), dict[str, list[str]](), []
            by_name = {each.name: each.id for each in self.state.classes.values()}
            for name, (images, wrong) in encoded.items():
                problems += wrong
                name = label(name)
                if (key := by_name.get(name)) is None:
                    key = by_name[name] = self._new_id("c")
                    events.append({"do": "class", "id": key, "name": name})
                new, repeated = self._new_in_class(images, key)
                problems += repeated
                if new:
                    made = self.state.classes[key].made if key in self.state.classes else 0
                    take = self._take_event(key, "folder", made)
                    events += [take, {"do": "add", "take": take["id"], "samples": _looks(new)}]
                    everything += new
                    added[key] = [sample.sha for sample in new]
            if len(by_name) > MAX_CLASSES:
                raise Problem(422, "Too many classes", f"A project has at most {MAX_CLASSES:,} classes.")
            self._add(self._unit(), events, everything)
            return added, problems

    def delete_samples(self, shas: Iterable[str], class_id: str | None = None) -> int:
        """Delete samples, of one class or of all; gives how many there were."""
        with self._lock:
            events = self._removals(shas, class_id)
            if events:
                self._do(self._unit(), events)
            return sum(len(event["samples"]) for event in events)

    def _removals(self, shas: Iterable[str], class_id: str | None = None) -> list[Event]:
        wanted = set(shas)
        return [
            {"do": "remove", "take": take.id, "samples": found}
            for take in self.state.takes.values()
            if (class_id is None or take.class_id == class_id) and (found := [s for s in take.samples if s in wanted])
        ]

    def move_samples(self, shas: Sequence[str], class_id: str) -> int:
        """Move samples to a class; what is in several classes is then in that one alone. Gives how many moved.

        They stay with the scene that they were recorded in, and those of the exam stay in the exam.
        """
        with self._lock:
            events = self._moves(shas, class_id, {})
            if events:
                self._do(self._unit(), events)
            return sum(len(event["samples"]) for event in events if event["do"] == "remove")

    def _moves(self, shas: Sequence[str], class_id: str, kinds: dict[str, str]) -> list[Event]:
        self._class(class_id)
        held = {sha for take in self.state.takes_of(class_id) for sha in take.samples}
        removals = [each for each in self._removals(shas) if self.state.takes[each["take"]].class_id != class_id]
        events, put = list[Event](), set[str]()
        for removal in removals:
            source = self.state.takes[removal["take"]]
            events.append(removal)
            new = [sha for sha in removal["samples"] if sha not in held | put]
            put |= {*new}
            if new:
                facts = {"kind": kinds.get(source.id, source.kind), "exam": source.exam, "scene": source.scene}
                take = self._take_event(class_id, "correction") | facts
                events += [take, {"do": "put", "take": take["id"], "samples": new}]
        return events

    def correct(self, class_id: str, sha: str | None = None, given: Given | None = None) -> list[str]:
        """Add a picture to the class that it is of: a stored one moves, a new one joins a take of corrections.

        Pictures of the exam keep their place there, so that no version learns them.
        """
        with self._lock:
            self._class(class_id)
            if sha is not None:
                takes = self.state.takes_with(sha)
                if not takes:
                    raise Problem(404, "No such picture", "It may have been deleted; undo brings it back.")
                if events := self._moves([sha], class_id, {}):
                    self._do(self._unit(), events)
                return [sha]
            assert given is not None
            sample = encode(given.content, given.name)
            if any(take.exam for take in self.state.takes_with(sample.sha)):
                detail = "This picture is in the exam, where it stays: the exam is never learnt."
                raise Problem(409, "In the exam", detail)
            if self.state.takes_with(sample.sha):
                return self.correct(class_id, sample.sha)
            events = []
            number = len(self.versions.listed)
            own = [take for take in self.state.takes_of(class_id) if take.kind == "correction" and take.after == number]
            own = [take for take in own if not take.exam and take.scene == take.id]
            take_id = own[-1].id if own else ""
            if not own:
                events.append(self._take_event(class_id, "correction"))
                take_id = events[0]["id"]
            self._add(self._unit(), [*events, {"do": "add", "take": take_id, "samples": _looks([sample])}], [sample])
            return [sample.sha]

    # Undo

    @property
    def can_undo(self) -> bool:
        """Whether something visible can be undone."""
        return any(not _is_empty_take(line) for line in self._done)

    @property
    def can_redo(self) -> bool:
        """Whether something that was undone can be done again."""
        return bool(self._undone)

    def undo(self) -> None:
        """Undo the last unit; takes that were begun and got no sample go with it."""
        with self._lock:
            if not self.can_undo:
                raise Problem(409, "Nothing to undo", "Nothing has been done since the project began.")
            place = len(self._done)
            while _is_empty_take(self._done[place - 1]):
                place -= 1
            unit = self._done[place - 1]["unit"]
            while place and self._done[place - 1]["unit"] == unit:
                place -= 1
            self._write({"undo": len(self._done) - place})
            self._replay()

    def redo(self) -> None:
        """Do again what was undone last."""
        with self._lock:
            if not self._undone:
                raise Problem(409, "Nothing to redo", "Nothing has been undone.")
            self._write({"redo": 1})
            self._replay()

    # Whole states

    @property
    def needs_images(self) -> bool:
        """Whether a model answers whose images are not here, so that training would forget what it knows."""
        return self.of_model and not any(take.kind != "correction" for _, take in self.state.samples())

    def add_classes(self, names: Iterable[str]) -> None:
        """Begin with the classes of a model, so that its answers can be corrected; nothing where there are some."""
        with self._lock:
            if not self.state.classes:
                self._do("model", [{"do": "class", "id": self._new_id("c"), "name": name} for name in names])

    def adopt(self, name: str, listed: Sequence[Sequence[Any]]) -> None:
        """Take in the images of a run, which lie in the folder of samples: sha, look, class, scene, held out.

        Those that the run held out are the exam; where nothing tells scenes, its images count as several recordings.
        Classes that somebody has made meanwhile are joined.
        """
        with self._lock:
            if len(listed) > self.max_samples or sum(each[1]["size"] for each in listed) > self.max_bytes:
                raise Problem(507, "The project is full", f"The run has {len(listed):,} images.")
            made = {each.name: key for key, each in self.state.classes.items()}
            new = {label: self._new_id("c") for label in dict.fromkeys(each[2] for each in listed) if label not in made}
            keys = made | new
            events: list[Event] = [{"do": "name", "name": name[:MAX_NAME]}]
            events += [{"do": "class", "id": key, "name": label} for label, key in new.items()]
            takes: dict[tuple[Any, ...], dict[str, Any]] = {}
            for place, (sha, look, label, scene, held_out) in enumerate(listed):
                together = (label, scene if scene is not None else place % RUN_TAKES, held_out)
                takes.setdefault(together, {})[sha] = look
            for (label, _, held_out), samples in takes.items():
                take = self._take_event(keys[label], "folder", 0) | {"exam": held_out}
                events += [take, {"do": "add", "take": take["id"], "samples": samples}]
            self._do("run", events)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever done in it."""
        return not self.state.classes and not self._done and not self._undone

    def snapshot(self) -> State:
        """Copy the state."""
        with self._lock:
            return State.from_dict(self.state.to_dict())

    def replace(self, state: State, samples: Iterable[Sample]) -> None:
        """Put another state in the place of this one, with samples that are new to the folder; it can be undone."""
        with self._lock:
            new = list(samples)
            size = sum(look["size"] for look in state.looks.values())
            if state.count() > self.max_samples or size > self.max_bytes:
                raise Problem(507, "The project is full", "The saved project is larger than a project may be.")
            renamed = _renumbered(state, self._new_id)
            with refused_by_disk():
                self.store.write(new)
            self._do(self._unit(), [{"do": "replace", "state": renamed.to_dict()}])

    # What the page sees

    def summary(self) -> dict[str, Any]:
        """Give classes, takes, hints and findings; computed anew only after a change."""
        with self._lock:
            if self._summary is None:
                per_class, found = hints.quick_hints(self.state, self._counted)
                classes = [self._class_facts(key, per_class[key]) for key in self.state.classes]
                self._summary = {"name": self.state.name, "classes": classes, "findings": found}
            live = {sha for sha, _ in self.state.samples()} if self.findings else set()
            kept = [each for each in self.findings if not each["where"] or live & {*each["where"]}]
            facts = {"revision": self.revision, "place": "saved on this computer", **self._summary}
            facts |= {"findings": [*self._summary["findings"], *kept], "needs_images": self.needs_images}
            return facts | {"can_undo": self.can_undo, "can_redo": self.can_redo}

    def _class_facts(self, key: str, told: list[str]) -> dict[str, Any]:
        """Give counts and what a card shows, so that a class of thousands is told as shortly as a small one."""
        takes = self.state.takes_of(key)
        return {
            "id": key,
            "name": self.state.classes[key].name,
            "samples": sum(len(take.samples) for take in takes),
            "takes": len(takes),
            "recorded": sum(take.kind != "correction" for take in takes),
            "exam_takes": sum(take.exam for take in takes),
            "thumbnails": list(islice((sha for take in takes for sha in take.samples), SHOWN_THUMBNAILS)),
            "hints": told,
        }

    def takes_of(self, class_id: str) -> list[dict[str, Any]]:
        """List the takes of a class that hold samples."""
        with self._lock:
            self._class(class_id)
            return [
                {"id": take.id, "count": len(take.samples), "kind": take.kind, "exam": take.exam}
                for take in self.state.takes_of(class_id)
            ]

    def samples_of(self, class_id: str, offset: int, limit: int) -> dict[str, Any]:
        """List some samples of a class."""
        with self._lock:
            self._class(class_id)
            takes = self.state.takes_of(class_id)
            every = [{"sha": sha, "take": take.id, "exam": take.exam} for take in takes for sha in take.samples]
            return {"total": len(every), "samples": every[offset : offset + limit]}

    def sample(self, sha: str, thumbnail: bool = False) -> tuple[bytes, str]:
        """Give a sample's bytes and media type."""
        with self._lock:
            look = self.state.looks.get(sha)
        if look is None:
            raise Problem(404, "No such picture", "It may belong to another project.")
        content = self.store.thumbnail(sha, look["kind"]) if thumbnail else self.store.read(sha, look["kind"])
        return content, "image/png" if content.startswith(b"\x89PNG") else "image/jpeg"

    # Training

    def training_sets(self) -> tuple[list[tuple[str, Take]], list[tuple[str, Take]]]:
        """Give what trains and what the exam holds; none is in both, and no version has trained on the exam.

        A picture that was held out once is never trained on as long as it is there, and one that a version has
        trained on is in no exam.
        """
        with self._lock:
            taught = self.versions.trained()
            held_out = {sha for sha, take in self.state.samples() if take.exam}
            training = [(sha, take) for sha, take in self.state.samples() if sha not in held_out]
            exam = {sha: take for sha, take in self.state.samples() if take.exam and sha not in taught}
            return training, list(exam.items())

    def lesson(self) -> str:
        """Give a digest of what would be trained on: it differs whenever a sample or the name of its class does."""
        with self._lock:
            if self._lesson is None:
                training, _ = self.training_sets()
                lines = sorted(f"{sha} {self.state.classes[take.class_id].name}" for sha, take in training)
                self._lesson = hashlib.sha256("\n".join(lines).encode()).hexdigest()
            return self._lesson

    def use(self, version: int | None) -> None:
        """Note which version answers."""
        with self._lock:
            self._write({"use": version})

    @property
    def used(self) -> int | None:
        """The version that answers; None for none."""
        return self._used if self._used in self.versions.listed else None


def _make_private(folder: Path) -> None:
    """Make a folder that its owner alone can enter; raises `UsageError` where it holds something else."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        names = {path.name for path in folder.iterdir()}
        if names and JOURNAL_NAME not in names and names - {SAMPLES_NAME, VERSIONS_NAME}:
            cause, remedy = "it holds something else than a project", "Choose a new folder with --project DIR."
            raise UsageError("project", str(folder), cause, remedy)
        folder.chmod(0o700)
    except OSError as error:
        cause = f"it cannot be used ({error.strerror or error})"
        raise UsageError("project", str(folder), cause, "Choose another folder with --project DIR.") from None


@contextmanager
def refused_by_disk() -> Iterator[None]:
    """Turn the refusal of a disk into a problem in words."""
    try:
        yield
    except UsageError as error:
        raise Problem(507, "Not saved", f"{error.cause}. {error.remedy}") from None
    except OSError as error:
        if error.errno in FULL:
            detail = "The disk is full. Nothing was changed; free some space, and try again."
            raise Problem(507, "The disk is full", detail) from None
        raise Problem(507, "Not saved", f"The disk refused ({error.strerror}). Nothing was changed.") from None


def label(name: object) -> str:
    """Check a name: any text of at most 200 letters, without line breaks and other control characters."""
    if not isinstance(name, str) or not name.strip() or len(name.strip()) > MAX_NAME:
        raise Problem(422, "Not a name", f"A name has 1 to {MAX_NAME} letters.")
    name = name.strip()
    try:
        name.encode()
    except UnicodeEncodeError:
        raise Problem(422, "Not a name", "Some of its letters are halves of letters.") from None
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        raise Problem(422, "Not a name", "A name has no line breaks and no control characters.")
    return name


def _encode_all(given: Sequence[Given], max_pixels: int) -> tuple[list[tuple[str, Sample]], list[dict[str, str]]]:
    encoded, problems = list[tuple[str, Sample]](), []
    for one in given:
        try:
            encoded.append((one.name, encode(one.content, one.name, max_pixels)))
        except DataError as error:
            detail = f"{error.cause}. {error.remedy}"
            problems.append({"source": one.name, "title": "Not added", "detail": detail})
    return encoded, problems


def _added(lines: Iterable[Event]) -> dict[str, dict[str, Any]]:
    """Give the samples that lines of the journal have added."""
    looks: dict[str, dict[str, Any]] = {}
    for line in lines:
        for event in line["events"]:
            looks |= event["samples"] if event["do"] == "add" else {}
            looks |= event["state"]["looks"] if event["do"] == "replace" else {}
    return looks


def _looks(samples: Iterable[Sample]) -> dict[str, dict[str, Any]]:
    return {sample.sha: sample.look.to_dict() for sample in samples}


def _is_empty_take(line: Event) -> bool:
    return [event["do"] for event in line["events"]] == ["take"]


def _renumbered(state: State, new_id: Callable[[str], str]) -> State:
    """Give classes and takes of another project ids that this one has not used."""
    facts = state.to_dict()
    classes = {each["id"]: new_id("c") for each in facts["classes"]}
    takes = {each["id"]: new_id("t") for each in facts["takes"]}
    for each in facts["classes"]:
        each["id"] = classes[each["id"]]
    for each in facts["takes"]:
        each |= {"id": takes[each["id"]], "class": classes[each["class"]]}
        each["scene"] = takes.setdefault(each["scene"], new_id("t"))
    return State.from_dict(facts)
