"""The teacher: a project is trained on in a child process, compared on the exam, and one version answers."""

import json
import os
import signal
import sys
import time
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imprint.serve.engine import Served
from imprint.serve.problems import Problem
from imprint.serve.project import Given, Project
from imprint.serve.samples import SampleStore, encode
from imprint.serve.teacher import Teacher, begin
from imprint.serve.training_process import Trainer
from serve.pictures import drawing, photo
from serve.small_app import client_of, make_app


@pytest.fixture(scope="module")
def trainer():
    child = Trainer()
    child.warm()
    yield child
    child.close()


@pytest.fixture
def app_of():
    """Make apps with their clients, which are closed in the end."""
    with ExitStack() as stack:

        def make(folder, trainer):
            app = make_app(folder, trainer)
            stack.callback(app.state.project.close)
            return app, stack.enter_context(client_of(app))

        yield make


def record(client, key, kind, contents):
    take = client.post("/api/takes", json={"class": key, "kind": kind}).json()["id"]
    files = [("files", (f"{place}", content)) for place, content in enumerate(contents)]
    answer = client.post(f"/api/takes/{take}/samples", files=files)
    assert answer.json()["problems"] == []
    return answer.json()["added"]


def classes(client, *names):
    return [client.post("/api/classes", json={"name": name}).json()["id"] for name in names]


def trained(client, **options):
    """Train until it has ended; gives the last status."""
    answer = client.post("/api/train", json=options)
    assert answer.status_code == 202, answer.text
    for _ in range(6000):
        status = client.get("/api/train").json()
        if status["state"] not in ("warming", "training"):
            return status
        time.sleep(0.02)
    raise AssertionError(status)


def test_photos_are_taught_answered_corrected_compared_and_gone_back_from(tmp_path, trainer, app_of):
    app, client = app_of(tmp_path / "p", trainer)
    keys = classes(client, "<b>Disc</b>", "Square")
    for kind, key in enumerate(keys):
        record(client, key, "camera", [photo(kind, 10 * kind + seed) for seed in range(2)])
    assert client.get("/readyz").status_code == 503

    status = trained(client)
    assert (status["state"], status["version"]) == ("done", 1)
    assert client.post("/v1/predict", content=photo(1, 500), headers={"Content-Type": "image/jpeg"}).status_code == 200
    project = client.get("/api/project").json()
    assert project["model"]["version"] == 1
    assert project["model"]["digest"] == client.get("/v1/model").json()["model"]
    assert project["score"] is None
    assert project["why_no_score"] == "No score yet: too few pictures to tell."

    for take in range(5):
        for kind, key in enumerate(keys):
            record(client, key, "camera", [photo(kind, 1000 + 100 * take + 10 * kind + seed) for seed in range(4)])
    status = trained(client)
    assert status["version"] == 2
    second, first = client.get("/api/versions").json()
    exam = [sample for sample in samples_of(client, keys) if sample["exam"]]
    assert second["comparison"]["images"] == len(exam) in (8, 12, 16)
    assert second["comparison"]["text"] == f"Cannot be proven yet: the exam has {len(exam)} pictures, and needs 20."
    assert second["comparison"]["keep"] == "new"
    assert second["current"]
    assert not first["current"]
    assert second["score"]["method"] in ("leave-one-out", "cross-validated")  # an estimate of the method
    taught = app.state.project.versions.trained()
    assert not taught & {sample["sha"] for sample in exam}
    check = client.get("/api/check").json()
    assert sum(map(sum, check["confusion"]["counts"])) == second["score"]["images"]
    assert check["confusion"]["classes"] == ["<b>Disc</b>", "Square"]

    assert client.post("/api/versions/1/use").json()[1]["current"]
    assert client.get("/v1/model").json()["model"] == project["model"]["digest"]
    assert client.post("/api/versions/9/use").status_code == 404

    explained = client.post("/api/explain", json={"sample": exam[0]["sha"]})
    assert explained.headers["content-type"] == "image/png"
    assert explained.content.startswith(b"\x89PNG")
    exported = client.get("/api/export/model.onnx").content
    assert len(exported) > 1_000_000
    app.state.project.close()

    again, client = app_of(tmp_path / "p", trainer)
    assert [version["version"] for version in client.get("/api/versions").json()] == [2, 1]
    assert again.state.project.used == 1


def test_a_run_whose_data_is_there_becomes_the_project(tmp_path, trainer, monkeypatch):
    import imprint

    digits = imprint.load("digits")
    monkeypatch.chdir(tmp_path)
    for label in range(10):
        folder = tmp_path / "data" / f"{label}"
        folder.mkdir(parents=True)
        for place in np.flatnonzero(digits.labels == label)[:12]:
            Image.fromarray(digits.pixels[place, 0] * 15).save(folder / f"{place}.png")
    run = imprint.train("data", "quick", epochs=1, min_steps=1, validation=0.2, run=tmp_path / "run", verbose=False)
    project, served = Project(tmp_path / "p"), Served()
    begin(project, trainer, served, tmp_path / "run")
    training, exam = project.training_sets()
    assert (len(training), len(exam)) == (96, 24)
    assert [each["name"] for each in project.summary()["classes"]] == [f"{label}" for label in range(10)]
    assert project.versions.listed[1]["score"]["images"] == run.validation.images == 24
    assert served.current.class_names == run.model.class_names
    assert not project.needs_images
    project.undo()
    assert project.summary()["classes"] == []
    project.close()

    for path in (tmp_path / "data" / "3").iterdir():
        path.unlink()  # the data has changed, so nothing tells what the model was trained on
    other = Project(tmp_path / "other")
    begin(other, trainer, served, tmp_path / "run")
    assert other.needs_images
    assert other.state.count() == 0
    assert [each["name"] for each in other.summary()["classes"]] == [f"{label}" for label in range(10)]
    other.close()


class Importing(Trainer):
    """A trainer that imports a run of two images, while somebody does what `meanwhile` does."""

    def __init__(self, meanwhile):
        super().__init__()
        self.meanwhile, self.task = meanwhile, None

    def ask(self, task, heard=lambda told: None):
        if self.task is not None:
            raise Problem(409, "Training is under way")
        self.task = task
        samples = [encode(photo(kind, kind), "image") for kind in (0, 1)]
        SampleStore(Path(task["samples"])).write(samples)
        listed = [[sample.sha, sample.look.to_dict(), f"{kind}", None, False] for kind, sample in enumerate(samples)]
        (Path(task["folder"]) / "images.json").write_text(json.dumps(listed))
        self.task["shas"] = {sample.sha for sample in samples}
        done = Future()
        try:
            self.meanwhile()
            done.set_result({"name": "digits", "facts": {}})
        except Problem as problem:
            done.set_exception(problem)
        return done


def test_who_teaches_while_a_run_is_taken_in_loses_nothing_and_spoils_nothing(tmp_path):
    project, served = Project(tmp_path / "p"), Served()
    (tmp_path / "run").mkdir()

    def meanwhile():
        for kind, name in enumerate(("1", "own")):  # one is a class of the run too
            project.add_samples(
                project.add_take(project.add_class(name), "upload"), [Given("a", photo(kind, 50 + kind))]
            )
        with pytest.raises(Problem, match="under way"):
            Teacher(project, trainer, served).start()

    trainer = Importing(meanwhile)
    begin(project, trainer, served, tmp_path / "run")
    assert {each["name"]: each["samples"] for each in project.summary()["classes"]} == {"1": 2, "own": 1, "0": 1}
    assert set(project.versions.listed) == {1}
    assert [path.name for path in project.versions.folder.iterdir()] == ["1"]
    project.close()


def test_a_run_that_cannot_be_taken_in_leaves_what_was_taught_meanwhile(tmp_path):
    project = Project(tmp_path / "p")
    (tmp_path / "run").mkdir()

    def meanwhile():
        project.add_samples(project.add_take(project.add_class("own"), "upload"), [Given("a", photo(0, 50))])
        raise Problem(500, "Training stopped")

    begin(project, Importing(meanwhile), Served(), tmp_path / "run")
    assert len(list(project.store.folder.iterdir())) == 1
    assert project.versions.listed == {}
    assert list(project.versions.folder.iterdir()) == []
    project.close()


def test_a_server_that_has_ended_touches_nothing_of_the_next_one(tmp_path):
    first = Project(tmp_path / "p")
    (tmp_path / "run").mkdir()
    others = []

    def meanwhile():
        first.close()
        second = Project(tmp_path / "p")
        second.add_samples(second.add_take(second.add_class("own"), "upload"), [Given("a", photo(0, 50))])
        others.append(second)
        raise Problem(500, "Training stopped")

    begin(first, Importing(meanwhile), Served(), tmp_path / "run")
    [sha] = [sha for sha, _ in others[0].state.samples()]
    assert others[0].sample(sha)[0]
    with pytest.raises(Problem):
        first.add_class("late")
    others[0].close()
    again = Project(tmp_path / "p")
    assert [each.name for each in again.state.classes.values()] == ["own"]
    again.close()


def test_a_bare_model_can_be_corrected_and_says_that_its_images_are_needed(tmp_path, app_of):
    app, client = app_of(tmp_path / "p", Trainer(("false",)))
    app.state.project.add_classes(("cat", "dog"))  # as `begin` does of a model whose images are not there
    app.state.project.of_model = True
    project = client.get("/api/project").json()
    assert project["needs_images"]
    assert [each["name"] for each in project["classes"]] == ["cat", "dog"]
    for each in project["classes"]:
        content = photo(0, int(each["id"][1:]))
        answer = client.post("/api/corrections", data={"class": each["id"]}, files={"image": ("a", content)})
        assert len(answer.json()["added"]) == 1, answer.text
    assert client.get("/api/project").json()["needs_images"]
    answer = client.post("/api/train", json={})
    assert answer.status_code == 409
    assert answer.json()["title"] == "Images needed"


def samples_of(client, keys):
    return [each for key in keys for each in client.get(f"/api/classes/{key}/samples?limit=1000").json()["samples"]]


def test_drawings_are_taught_in_the_form_in_which_they_are_answered(tmp_path, trainer, app_of):
    _, client = app_of(tmp_path / "p", trainer)
    keys = classes(client, "ring", "stroke")
    for seed in range(16):
        for kind, key in enumerate(keys):
            record(client, key, "drawing", [drawing(kind, 100 * kind + seed)])
    status = trained(client)
    assert status["state"] == "done", status
    assert len(status["curve"]) >= 7
    assert status["curve"][0].keys() == {"epoch", "accuracy", "loss"}
    for kind, name in enumerate(("ring", "stroke")):
        answer = client.post("/v1/predict", content=drawing(kind, 900), headers={"Content-Type": "image/png"}).json()
        assert answer["predictions"][0]["label"] == name
    [version] = client.get("/api/versions").json()
    assert version["recipe"] == "quick"
    assert version["score"]["method"] == "cross-validated"
    assert version["score"]["images"] == version["images"]
    assert client.get("/v1/model").json()["reads_glyphs"]
    findings = client.post("/api/check/doctor")
    assert findings.status_code == 200


def test_the_same_picture_in_two_classes_blocks_until_chosen(tmp_path, app_of):
    _, client = app_of(tmp_path / "p", Trainer(("false",)))
    rock, paper = classes(client, "Rock", "Paper")
    for key in (rock, paper):
        [sha] = record(client, key, "upload", [photo(0, 1)])
    answer = client.post("/api/train", json={})
    assert answer.status_code == 409
    assert answer.json()["samples"] == [sha]
    assert "two classes at once (Rock and Paper)" in answer.json()["detail"]


def test_one_class_cannot_be_taught(tmp_path, app_of):
    _, client = app_of(tmp_path / "p", Trainer(("false",)))
    record(client, classes(client, "Rock")[0], "upload", [photo(0, 1)])
    assert client.post("/api/train").json()["detail"].startswith("Show me two kinds of things.")


@pytest.mark.parametrize(
    "options",
    [{"recipe": "/etc/passwd"}, {"recipe": "runs/1"}, {"seed": -1}, {"held_out": 0.9}, {"seed": 1.5}, {"x": 1}],
)
def test_no_option_is_a_path_or_makes_no_sense(tmp_path, options, app_of):
    _, client = app_of(tmp_path / "p", Trainer(("false",)))
    assert client.post("/api/train", json=options).status_code == 422


SLEEPER = """
import json, os, sys, threading, time
print(json.dumps({"event": "ready"}), flush=True)
for line in sys.stdin:
    task = json.loads(line)
    print(json.dumps({"id": task["id"], "event": "progress", "message": "x", "seconds_left": 5.0}), flush=True)
    threading.Timer(60, os._exit, (0,)).start()
    sys.stdin.readline()
"""


@pytest.fixture
def sleeping(tmp_path, app_of):
    child = Trainer((sys.executable, "-c", SLEEPER))
    _, client = app_of(tmp_path / "p", child)
    for kind, key in enumerate(classes(client, "Disc", "Square")):
        record(client, key, "camera", [photo(kind, kind)])
    client.post("/api/train", json={})
    yield client, child
    child.close()


def wait_for(holds):
    for _ in range(500):
        if holds():
            return
        time.sleep(0.02)
    raise AssertionError


def test_one_training_at_a_time_which_can_be_cancelled(sleeping):
    client, child = sleeping
    wait_for(lambda: client.get("/api/train").json()["state"] == "training")
    assert client.post("/api/train", json={}).status_code == 409
    assert client.post("/api/check/doctor").status_code == 409
    pid = child.pid
    assert client.delete("/api/train").status_code == 200
    assert client.get("/api/train").json()["state"] == "cancelled"
    assert client.get("/api/train").json()["message"] == "Cancelled. Nothing was changed."
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert client.delete("/api/train").status_code == 409
    assert client.get("/api/versions").json() == []
    assert client.post("/api/train", json={}).status_code == 202


def test_the_server_survives_the_death_of_the_child(sleeping):
    client, child = sleeping
    wait_for(lambda: child.pid is not None and child.ready)
    os.kill(child.pid, signal.SIGKILL)
    wait_for(lambda: client.get("/api/train").json()["state"] == "failed")
    assert "Your pictures are safe" in client.get("/api/train").json()["message"]
    assert client.get("/api/project").json()["classes"][0]["samples"] == 1
    assert client.post("/api/train", json={}).status_code == 202


def test_the_child_ends_when_the_server_is_killed():
    import subprocess

    program = (
        "from imprint.serve.training_process import Trainer; import time\n"
        "child = Trainer(); child.warm(); print(child.pid, flush=True); time.sleep(60)"
    )
    server = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    child = int(server.stdout.readline())
    os.kill(child, 0)
    server.kill()
    server.wait()
    wait_for(lambda: has_ended(child))
    server.stdout.close()


def has_ended(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split()[2] == "Z"
    except OSError:
        return True


LISTENER = """
import json, sys
print(json.dumps({"event": "ready"}), flush=True)
for line in sys.stdin:
    task = json.loads(line)
    print(json.dumps({"id": task["id"], "event": "done", "result": task}), flush=True)
    if task["do"] == "read":
        print(task["samples"], file=open(sys.argv[1], "a"))
"""


def test_what_is_added_is_read_ahead_and_hinders_no_task(tmp_path, app_of):
    child = Trainer((sys.executable, "-c", LISTENER, str(tmp_path / "read")))
    app, client = app_of(tmp_path / "p", child)
    [key] = classes(client, "Disc")
    record(client, key, "camera", [photo(0, 0)])  # before there is a child, which is not started for that
    assert child.pid is None
    client.post("/api/warm")
    wait_for(lambda: child.ready)
    [sha] = record(client, key, "camera", [photo(0, 1)])
    assert child.ask({"do": "explain"}).result(10)["do"] == "explain"  # and not the other one's end
    assert (tmp_path / "read").read_text() == f"['{app.state.project.store.path(sha, 'jpg')}']\n"
    child.close()


def test_a_task_of_a_busy_child_is_refused_and_its_failure_told_in_words(trainer):
    with pytest.raises(Problem, match=r"there is no such file|cannot be read") as refused:
        trainer.ask({"do": "explain", "model": "/no/such.safetensors", "image": "x", "drawn": "y"}).result()
    assert refused.value.status == 422
    assert "/no/such" not in refused.value.detail
