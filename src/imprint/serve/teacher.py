"""The teacher: has the child train on a project's samples, keeps each result as a version, and lets one answer."""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from imprint.core.errors import ImprintError
from imprint.core.progress import say, warn
from imprint.recipes import RECIPES
from imprint.serve import hints, predicting
from imprint.serve.engine import Served
from imprint.serve.problems import Problem
from imprint.serve.project import Project, refused_by_disk
from imprint.serve.samples import MAX_PIXELS
from imprint.serve.state import Take
from imprint.serve.training_process import Trainer

READ_AHEAD = 2000  # samples that the child keeps decoded; of larger projects it reads none before it must
CHECKED_IMAGES = 4  # on which a new export is tried before it answers
Facts = dict[str, Any]


class Teacher:
    """Trains, compares, explains and examines by the child process, and keeps the state that the page shows."""

    def __init__(self, project: Project, trainer: Trainer, served: Served, max_pixels: int = MAX_PIXELS) -> None:
        self.project, self.trainer, self.served, self.max_pixels = project, trainer, served, max_pixels
        self._lock, self._explaining = threading.RLock(), threading.Lock()
        self._status: Facts = {"state": "idle", "seconds": 0.0, "seconds_left": None, "curve": []}
        self._status |= {"message": "", "version": None}
        self._started = 0.0
        self.changes = 0

    # Training

    def status(self) -> Facts:
        """Tell how training goes."""
        with self._lock:
            status = dict(self._status)
            if status["state"] in ("training", "warming"):
                status["seconds"] = round(time.monotonic() - self._started, 1)
                status["state"] = "training" if self.trainer.ready else "warming"
                if (until := status.pop("until", None)) is not None:
                    status["seconds_left"] = round(max(0.0, until - time.monotonic()), 1)
            status.pop("until", None)
            return status

    def _set(self, **facts: Any) -> None:
        with self._lock:
            self._status |= facts
            self.changes += 1

    def start(self, recipe: str | None = None, seed: int | None = None, held_out: float | None = None) -> Facts:
        """Begin a training; raises `Problem` where another is under way, or the samples do not allow one."""
        _check_options(recipe, seed, held_out)
        if self.project.needs_images:
            detail = "These images are needed to retrain: add those that the model was trained on, or it forgets them."
            raise Problem(409, "Images needed", detail)
        with self._lock:
            if self._status["state"] in ("training", "warming"):
                detail = "One thing at a time: wait until it is done, or cancel it."
                raise Problem(409, "Training is under way", detail)
            training, exam = self.project.training_sets()
            self._check(training)
            versions = self.project.versions
            with refused_by_disk():
                folder = versions.new_folder()
            previous = self.project.used
            task = {
                "do": "train",
                "training": self._listed(training),
                "exam": self._listed(exam),
                "folder": str(folder),
                "previous": None if previous is None else str(versions.model(previous)),
                "recipe": recipe,
                "seed": seed,
                "held_out": held_out,
            }
            made: Facts = {"version": None, "lesson": self.project.lesson()}
            try:
                future = self.trainer.ask(task, lambda told: self._hear(told, folder, training, made))
            except Problem:
                versions.drop(folder)
                raise
            self._started = time.monotonic()
            self._status = {"state": "training", "seconds": 0.0, "seconds_left": None, "curve": []}
            self._set(message="Looking at the pictures.", version=None)
            future.add_done_callback(lambda ended: self._end(ended, folder, made))
            return self.status()

    def read_ahead(self, shas: Sequence[str]) -> None:
        """Have the child read samples that were just added, while others are being recorded."""
        if self.project.state.count() > READ_AHEAD:
            return
        looks, store = self.project.state.looks, self.project.store
        files = [str(store.path(sha, looks[sha]["kind"])) for sha in shas if sha in looks]
        self.trainer.prepare({"do": "read", "samples": files})

    def _listed(self, samples: Sequence[tuple[str, Take]]) -> list[list[str]]:
        """List samples as the child takes them: file, class, scene, kind of take."""
        state, store = self.project.state, self.project.store
        return [
            [str(store.path(sha, state.looks[sha]["kind"])), state.classes[take.class_id].name, take.scene, take.kind]
            for sha, take in samples
        ]

    def _check(self, training: Sequence[tuple[str, Take]]) -> None:
        """Refuse what cannot be trained on, in words."""
        state = self.project.state
        if shared := hints.conflicts(state):
            names = " and ".join(state.classes[key].name for key in next(iter(shared.values())))
            count = "One picture is" if len(shared) == 1 else f"{len(shared)} pictures are"
            detail = f"{count} in two classes at once ({names}). Choose one for each."
            raise Problem(409, "The same picture in two classes", detail, samples=list(shared))
        filled = {take.class_id for _, take in training}
        if len(filled) < 2:
            detail = "Show me two kinds of things. Two pictures each are enough to start."
            raise Problem(409, "Too few classes", detail)

    def _hear(self, told: Facts, folder: Path, training: Sequence[tuple[str, Take]], made: Facts) -> None:
        """Take in what the child tells while it trains."""
        if "epoch" in told and made["version"] is not None:
            return  # of the networks that only the score needs
        if told["event"] == "progress":
            facts = {key: told[key] for key in ("message",) if key in told}
            if (left := told.get("seconds_left")) is not None:
                facts["until"] = time.monotonic() + left
            if "epoch" in told:
                point = {key: told[key] for key in ("epoch", "accuracy", "loss")}
                facts["curve"] = [*self._status["curve"], point]
            self._set(**facts)
        elif told["event"] == "model":
            self._keep(told["result"], folder, training, made)

    def _keep(self, result: Facts, folder: Path, training: Sequence[tuple[str, Take]], made: Facts) -> None:
        """Make a version of what was trained; it answers unless the exam shows it to be worse."""
        facts = {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "images": len(training),
            "trained": [sha for sha, _ in training],
            "lesson": made["lesson"],
            **result,
        }
        try:
            version = self.project.versions.add(folder, facts)
            made["version"] = version
            comparison = facts["comparison"]
            if comparison is None or comparison["keep"] == "new":
                self.use(version)
            self._set(version=version)
        except (OSError, Problem, ImprintError) as error:
            made["error"] = error

    def _end(self, ended: Any, folder: Path, made: Facts) -> None:
        """Note how a training ended."""
        self.project.versions.drop(folder)
        if made["version"] is not None:
            result = ended.result() if ended.exception() is None else {"why_no_score": "It was not scored: cancelled."}
            with contextlib.suppress(OSError, ImprintError):  # a full disk: the score is told until the server ends
                self.project.versions.update(made["version"], result)
        seconds = round(time.monotonic() - self._started, 1)
        error = made.get("error") or ended.exception()
        if error is None or made["version"] is not None:
            self._set(state="done", message="", seconds=seconds, seconds_left=0.0)
        elif isinstance(error, Problem) and error.title == "Cancelled":
            self._set(state="cancelled", message="Cancelled. Nothing was changed.", seconds=seconds, seconds_left=None)
        else:
            self._set(state="failed", message=_words(error), seconds=seconds, seconds_left=None)

    def cancel(self) -> Facts:
        """Cancel the training that is under way."""
        if self._status["state"] not in ("training", "warming") or not self.trainer.cancel():
            raise Problem(409, "Nothing to cancel", "No training is under way.")
        return self.status()

    # Versions

    def use(self, version: int) -> None:
        """Let a version answer."""
        if version not in self.project.versions.listed:
            raise Problem(404, "No such version", "Choose one of the list.")
        answer_by(self.project, self.served, version)
        self.project.use(version)

    def versions(self) -> list[Facts]:
        """List all versions, the latest first."""
        shown = ("version", "when", "images", "score", "why_no_score", "comparison", "recipe")
        return [
            {key: facts.get(key) for key in shown} | {"current": number == self.project.used}
            for number, facts in reversed(self.project.versions.listed.items())
        ]

    def current(self) -> Facts:
        """Give what is known of the version that answers."""
        return self.project.versions.listed.get(self.project.used or 0, {})

    def has_changed(self) -> bool:
        """Whether there is something else to train on than the latest version was trained on."""
        listed = self.project.versions.listed
        if not listed:
            return False
        latest = listed[max(listed)]
        if "lesson" in latest:
            return bool(latest["lesson"] != self.project.lesson())
        training, _ = self.project.training_sets()  # of a version that came from a file, or from an older Imprint
        return {sha for sha, _ in training} != set(latest["trained"])

    def check(self) -> Facts:
        """Give score, confusion, findings, and the mistakes not corrected since, of the version that answers."""
        facts, state = self.current(), self.project.state
        names = {key: each.name for key, each in state.classes.items()}
        live = {sha: names[take.class_id] for sha, take in state.samples()}
        mistakes = [
            each
            for each in facts.get("mistakes", [])
            # A label that is no class any more was renamed, not corrected.
            if live.get(each["sha"]) == each["label"] or (each["sha"] in live and each["label"] not in names.values())
        ]
        return {
            "score": facts.get("score"),
            "why_no_score": facts.get("why_no_score"),
            "exam": facts.get("exam"),
            "confusion": facts.get("confusion"),
            "mistakes": mistakes,
            "findings": self.project.summary()["findings"],
        }

    # Other tasks of the child

    def doctor(self) -> list[Facts]:
        """Have the data doctor look at all samples; its findings join the quick hints."""
        training, exam = self.project.training_sets()
        self._check_any(training)
        task = {"do": "doctor", "training": self._listed(training), "exam": self._listed(exam)}
        self.project.findings = self.trainer.ask(task).result()["findings"]
        return self.project.findings

    def _check_any(self, training: Sequence[tuple[str, Take]]) -> None:
        if len({take.class_id for _, take in training}) < 2:
            raise Problem(409, "Too few classes", "Show me two kinds of things first.")

    def explain(self, content: bytes) -> bytes:
        """Give a PNG that shows where the model that answers looks in an image.

        Of a version that was taught here by Grad-CAM in the child; of the model that the command line named, of which
        there may be nothing but its export, by covering one part after the other.
        """
        if self.project.used is None:
            return self._explain_by_covering(content)
        path = self.project.folder / f".{secrets.token_hex(8)}.part"
        drawn = path.with_suffix(".png.part")
        try:
            with refused_by_disk():
                path.write_bytes(content)
            task = {"do": "explain", "model": str(self.project.versions.model(self.project.used)), "image": str(path)}
            self.trainer.ask(task | {"drawn": str(drawn)}).result()
            return drawn.read_bytes()
        finally:
            path.unlink(missing_ok=True)
            drawn.unlink(missing_ok=True)

    def _explain_by_covering(self, content: bytes) -> bytes:
        if (engine := self.served.current) is None:
            raise Problem(409, "Nothing to explain", "There is no model yet. Train first.")
        with self._explaining:  # one at a time, since each asks the model a hundred times
            picture = predicting.explain(content, engine, self.max_pixels)
        if picture is None:
            raise Problem(409, "No single place decided.", "Whichever part I cover, my answer stays nearly the same.")
        return picture


def answer_by(project: Project, served: Served, version: int | None) -> None:
    """Load a version, try it on stored samples, and let it answer; nothing for None, as of a project without one."""
    if version is not None:
        served.swap(project.versions.exported(version), stored_images(project))


def stored_images(project: Project) -> list[bytes]:
    """Read some of the samples, on which a model is tried before it answers."""
    training, _ = project.training_sets()
    looks = project.state.looks
    chosen = [sha for sha, _ in training[:: max(1, len(training) // CHECKED_IMAGES)]][:CHECKED_IMAGES]
    return [project.store.read(sha, looks[sha]["kind"]) for sha in chosen]


def begin(project: Project, trainer: Trainer, served: Served, model: Path | None) -> None:
    """Begin serving: the version that answered when the server ended, or what the command line named.

    The images of a run folder whose data is still there become the project. Of any other model there are its classes,
    to be corrected. To be called in a thread once the model answers; raises nothing.
    """
    try:
        adopted = model is not None and project.is_empty and model.is_dir() and _adopt_run(project, trainer, model)
        if model is not None and not adopted and served.current is not None:
            project.add_classes(served.current.class_names)
        project.of_model = model is not None and not project.versions.listed
        if project.used is not None:
            answer_by(project, served, project.used)
            say(f"version {project.used} of the project answers")
    except (Problem, ImprintError, OSError) as error:
        warn(f"the project cannot go on where it ended: {_words(error)}")


def _adopt_run(project: Project, trainer: Trainer, run: Path) -> bool:
    """Make the images of a run those of the project, and its model the first version; False where they are gone."""
    folder = project.versions.new_folder()
    task = {"do": "import", "run": str(run), "samples": str(project.store.folder), "folder": str(folder)}
    try:
        found = trainer.ask(task | {"most": project.max_samples}).result()
        project.adopt(found["name"], json.loads((folder / "images.json").read_text()))
    except Problem as problem:
        warn(f"the images of {run.name} are not in the project: {_words(problem)}")
        project.versions.drop(folder)
        project.remove_strays()
        return False
    (folder / "images.json").unlink()
    training, _ = project.training_sets()
    facts = {"images": len(training), "trained": [sha for sha, _ in training], "lesson": project.lesson()}
    facts |= found["facts"]
    project.use(project.versions.add(folder, facts))
    return True


def _check_options(recipe: str | None, seed: int | None, held_out: float | None) -> None:
    if recipe is not None and recipe not in RECIPES:  # never a path, as the command line takes it
        raise Problem(422, "No such recipe", f"Choose one of {', '.join(RECIPES)}.")
    if seed is not None and not 0 <= seed < 2**32:
        raise Problem(422, "No seed", "A seed is a whole number from 0 to 4294967295.")
    if held_out is not None and not 0 <= held_out <= 0.5:
        raise Problem(422, "No share", "The held-out share is a number from 0 to 0.5.")


def _words(error: Any) -> str:
    if isinstance(error, Problem):
        return f"{error.title}. {error.detail}".strip()
    return f"{error.cause}. {error.remedy}" if isinstance(error, ImprintError) else "The disk refused."
