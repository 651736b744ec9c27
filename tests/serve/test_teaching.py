"""The routes below /api over HTTP: what they answer, and what they refuse in words."""

import io
import json
import sys
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imprint.serve.training_process import Trainer
from serve.pictures import photo, png
from serve.small_app import client_of, make_app


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    app = make_app(tmp_path_factory.mktemp("teaching") / "p", Trainer(("false",)))
    with client_of(app) as opened:
        yield opened
    app.state.project.close()


def add_class(client, name):
    return client.post("/api/classes", json={"name": name}).json()["id"]


def add_samples(client, key, *contents, kind="upload"):
    take = client.post("/api/takes", json={"class": key, "kind": kind}).json()["id"]
    files = [("files", (f"{place}.png", content)) for place, content in enumerate(contents)]
    return take, client.post(f"/api/takes/{take}/samples", files=files).json()


def takes(client, given):
    return client.get(f"/api/classes/{given['id']}/takes").json()


def test_a_project_as_the_page_sees_it(client):
    key = add_class(client, "<img src=x onerror=alert(1)>")
    take, answer = add_samples(client, key, png(1), b"<svg/>")
    assert [each["source"] for each in answer["problems"]] == ["1.png"]
    project = client.get("/api/project").json()
    known = {"revision", "name", "place", "classes", "can_undo", "can_redo", "model", "training", "findings", "score"}
    assert known | {"why_no_score", "needs_images", "changed"} == project.keys()
    [own] = [each for each in project["classes"] if each["id"] == key]
    assert own["name"] == "<img src=x onerror=alert(1)>"
    assert (own["takes"], own["recorded"], own["exam_takes"]) == (1, 1, 0)
    listed = client.get(f"/api/classes/{key}/takes").json()
    assert listed == [{"id": take, "count": 1, "kind": "upload", "exam": False}]
    assert own["thumbnails"] == answer["added"]
    listed = client.get(f"/api/classes/{key}/samples?offset=0&limit=10").json()
    assert listed == {"total": 1, "samples": [{"sha": answer["added"][0], "take": take, "exam": False}]}
    assert client.patch("/api/project", json={"name": "Mine"}).json()["name"] == "Mine"


def test_samples_leave_with_a_fixed_type(client):
    _, answer = add_samples(client, add_class(client, "types"), png(2), photo(0, 2))
    for sha, kind in zip(answer["added"], ("image/png", "image/jpeg"), strict=True):
        for path in (f"/api/samples/{sha}", f"/api/samples/{sha}/thumbnail"):
            sent = client.get(path)
            assert sent.headers["content-type"] == (kind if "thumb" not in path else "image/png") or "thumb" in path
            assert sent.headers["content-type"] in ("image/png", "image/jpeg")
            assert sent.headers["x-content-type-options"] == "nosniff"
    assert client.get("/api/samples/" + "0" * 64).status_code == 404
    assert client.get("/api/samples/..%2f..%2fetc%2fpasswd").status_code == 404


def test_folders_become_classes_of_one_take_each(client):
    names = ["animals/cat/1.png", "animals/cat/2.png", "animals/dog/1.png", "x\\bird\\1.png", "cat/.hidden"]
    files = [("files", (name, png(100 + place))) for place, name in enumerate(names)]
    answer = client.post("/api/folder", files=files).json()
    assert len(answer["added"]) == 4
    project = client.get("/api/project").json()
    found = {each["name"]: [take["count"] for take in takes(client, each)] for each in project["classes"]}
    assert (found["cat"], found["dog"], found["bird"]) == ([2], [1], [1])
    flat = client.post("/api/folder", files=[("files", ("1.png", png(1)))])
    assert flat.status_code == 422
    assert "one folder a class" in flat.json()["detail"]


def test_corrections_by_key_by_upload_and_many_at_once(client):
    wrong, right = add_class(client, "wrong"), add_class(client, "right")
    _, answer = add_samples(client, wrong, png(200), png(201))
    assert client.post("/api/corrections", json={"image": answer["added"], "class": right}).status_code == 200
    uploaded = client.post("/api/corrections", data={"class": right}, files={"image": ("a", png(202))}).json()
    listed = client.get(f"/api/classes/{right}/samples").json()["samples"]
    assert {each["sha"] for each in listed} == {*answer["added"], *uploaded["added"]}
    kinds = {take["kind"] for each in client.get("/api/project").json()["classes"] for take in takes(client, each)}
    assert "correction" in kinds


def test_a_saved_project_is_opened_over_http_and_undone(client):
    saved = client.get("/api/project/file")
    assert "project.imprint.zip" in saved.headers["content-disposition"]
    before = client.get("/api/project").json()
    opened = client.post("/api/project/open", content=saved.content)
    assert opened.status_code == 200
    assert [each["name"] for each in opened.json()["classes"]] == [each["name"] for each in before["classes"]]
    assert client.post("/api/undo").json()["classes"] == before["classes"]
    refused = client.post("/api/project/open", content=b"PK\3\4")
    assert refused.status_code == 422
    assert refused.json()["detail"].endswith("Open a file that Imprint saved.")
    folders = client.get("/api/export/folder.zip").content
    assert zipfile.ZipFile(io.BytesIO(folders)).testzip() is None


def test_training_is_told_as_events(client):
    import asyncio

    from starlette.requests import Request

    # The client would wait for the end of a stream that has none, so ask the route itself.
    route = next(route for route in client.app.routes if route.path == "/api/train/events")
    asked = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b"", "app": client.app}

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": True}

    async def first_event():
        response = await route.endpoint(Request(asked, receive))
        assert response.media_type == "text/event-stream"
        return await anext(response.body_iterator)

    event = asyncio.run(first_event()).decode()
    assert json.loads(event.removeprefix("data: ")).keys() >= {"state", "seconds", "seconds_left", "curve", "message"}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/classes", b""),
        ("POST", "/api/classes", b"[" * 100_000),
        ("POST", "/api/classes", b'{"name": NaN}'),
        ("POST", "/api/classes", b'{"name": "a", "name": "b"}'),
        ("POST", "/api/classes", b'{"name": 1}'),
        ("POST", "/api/classes", b'{"name": "\xff"}'),
        ("POST", "/api/classes", b'{"name": "\\ud800"}'),
        ("POST", "/api/takes", b'{"class": "c999", "kind": "camera"}'),
        ("POST", "/api/samples/delete", b'{"samples": [1]}'),
        ("POST", "/api/samples/move", b'{"samples": [], "class": "c999"}'),
        ("POST", "/api/takes/t999/samples", png(1)),
        ("POST", "/api/train", b'{"seed": 1e400}'),
        ("POST", "/api/train", b'{"seed": ' + b"9" * 5000 + b"}"),
        ("POST", "/api/versions/99999999999999999999/use", b""),
        ("POST", "/api/corrections", b'{"image": "x", "class": "c999"}'),
        ("POST", "/api/explain", b"no image"),
        ("GET", "/api/classes/c999/samples", None),
        ("GET", "/api/classes/c1/samples?limit=-1", None),
        ("GET", "/api/classes/c1/samples?offset=1e9", None),
        ("GET", "/api/export/model.onnx", None),
    ],
)
def test_bad_requests_get_problems_in_words(client, method, path, body):
    answer = client.request(method, path, content=body)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]
    assert "Traceback" not in answer.text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
PATHS = (
    "/api/classes /api/takes /api/takes/t1/samples /api/folder /api/samples/delete /api/samples/move /api/train "
    "/api/corrections /api/explain /api/project/open"
)
KEYS = st.sampled_from(["name", "class", "kind", "samples", "image", "recipe", "seed", "held_out", "sample"])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(PATHS.split()), st.dictionaries(KEYS, JSON, max_size=3) | JSON)
def test_no_json_breaks_the_server(client, path, body):
    answer = client.post(path, content=json.dumps(body).encode("utf-8", "surrogatepass"))
    assert answer.status_code < 500, (path, body, answer.text)


def test_the_server_of_a_project_never_imports_torch(tmp_path):
    import subprocess

    program = (
        "import sys; sys.path.insert(0, 'tests'); from serve.small_app import make_app, client_of\n"
        f"app = make_app({str(tmp_path / 'p')!r})\n"
        "with client_of(app) as client: assert client.get('/api/project').status_code == 200\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
