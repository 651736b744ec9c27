"""huggingface_hub itself, against a server on this machine that answers the few requests which it makes."""

import base64
import hashlib
import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import ModelCard, constants

from imprint import Classifier, ModelFileError, UsageError


class Hub(BaseHTTPRequestHandler):
    """Answers as the Hub does, from and into the server's `files`, by repository and name."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, content=b"", **headers):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": len(content)} | headers).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.tokens.add(self.headers["Authorization"])
        match self.path.split("?")[0].strip("/").split("/"):
            case ["api", "repos", "create"]:
                self.server.made = json.loads(content)
                name = f"{self.server.made['organization']}/{self.server.made['name']}"
                if name.startswith("others/"):
                    self.answer(403, X_Error_Message="You may not write here")
                else:
                    self.answer(200, {"url": f"{self.server.url}/{name}"})
            case ["api", "validate-yaml"]:
                self.answer(200, {"errors": [], "warnings": []})
            case ["api", "models", _, _, "preupload", "main"]:
                names = [file["path"] for file in json.loads(content)["files"]]
                how = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
                self.answer(200, {"files": [{"path": name, **how} for name in names]})
            case ["api", "models", owner, name, "commit", "main"]:
                lines = [json.loads(line) for line in content.splitlines()]
                files = [line["value"] for line in lines if line["key"] == "file"]
                self.server.files |= {
                    f"{owner}/{name}/{file['path']}": base64.b64decode(file["content"]) for file in files
                }
                url = f"{self.server.url}/{owner}/{name}/commit/{'1' * 40}"
                self.answer(200, {"success": True, "commitOid": "1" * 40, "commitUrl": url})
            case _:
                self.answer(404, {"error": self.path}, X_Error_Code="RepoNotFound")

    def do_GET(self):
        match self.path.split("?")[0].strip("/").split("/"):
            case [owner, name, "resolve", _, file] if f"{owner}/{name}/{file}" in self.server.files:
                content = self.server.files[f"{owner}/{name}/{file}"]
                etag = hashlib.sha256(content).hexdigest()
                self.answer(200, content, ETag=f'"{etag}"', X_Repo_Commit="1" * 40)
            case _:
                self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET  # noqa: N815


@pytest.fixture
def hub(tmp_path, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.files, server.tokens = {}, set()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def same(one, other, digits):
    return (one.predict_proba(digits[:50]) == other.predict_proba(digits[:50])).all()


def test_a_folder_and_back(model, digits, tmp_path):
    model.save_pretrained(tmp_path / "new" / "digits")
    assert same(Classifier.from_pretrained(tmp_path / "new" / "digits"), model, digits)
    assert sorted(path.name for path in (tmp_path / "new" / "digits").iterdir()) == ["README.md", "model.safetensors"]


def test_to_the_hub_and_back(hub, model, digits):
    assert model.push_to_hub("me/digits", private=True, token="secret") == f"{hub.url}/me/digits"
    assert hub.made == {"name": "digits", "organization": "me", "visibility": "private"}
    assert hub.tokens == {"Bearer secret"}
    assert set(hub.files) == {"me/digits/README.md", "me/digits/model.safetensors"}
    assert same(Classifier.from_pretrained("me/digits"), model, digits)
    card = hub.files["me/digits/README.md"].decode()
    assert 'Classifier.from_pretrained("me/digits")' in card
    assert "secret" not in card


def test_what_the_hub_cut_short_is_refused(hub, model):
    model.push_to_hub("me/digits", token="secret")
    hub.files["me/digits/model.safetensors"] = hub.files["me/digits/model.safetensors"][:-1]
    with pytest.raises(ModelFileError, match="it holds"):
        Classifier.from_pretrained("me/digits")


def test_the_card_says_how_good_the_model_is_and_what_it_expects(run, tmp_path):
    run.model.save_pretrained(tmp_path, license="mit")
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.library_name, card.data.license) == ("imprint", "mit")
    assert (card.data.pipeline_tag, card.data.metrics) == ("image-classification", ["accuracy"])
    [result] = card.data.eval_results
    assert result.metric_value == pytest.approx(run.validation.accuracy, abs=1e-6)
    low, high = run.validation.interval
    assert f"| {run.validation.accuracy:.4f} | {low:.4f} to {high:.4f} | {run.validation.baseline:.4f} | 144 |" in text
    assert "it was unsure of 0.0 %: strange 0.0 %, low confidence 0.0 %" in text
    assert f"  {run.limit}." in text
    for words in ("10 classes of images", "85,322 parameters", "8×8 grey", "scaled to 28×28", "It learnt glyphs"):
        assert words in text
    assert "{" not in text.replace("[imprint", "")


def test_a_card_without_a_score_says_so(model, tmp_path):
    names = ("<b>cat</b>", "a|b", "*", *"3456789")
    replace(model, score=None, class_names=names).save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "No images were held out" in text
    assert "model-index" not in text
    assert "license" not in text
    assert r"\<b\>cat\</b\>, a\|b, \*, 3" in text
    assert ModelCard.load(tmp_path / "README.md").data.eval_results is None


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("digits", "repository 'digits' at Hugging Face: it names none. Write it as me/digits."),
        ("others/digits", "it refuses (403 Forbidden: You may not write here). Check name, token and connection."),
    ],
)
def test_what_the_hub_refuses_is_one_line(hub, model, name, line):
    with pytest.raises(UsageError) as caught:
        model.push_to_hub(name)
    assert line in str(caught.value)


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("nowhere", "there is no such folder, and it names no repository"),
        ("no/where/at/all", "there is no such folder, and it names no repository"),
        ("me/nothing", "there is no such folder, nor can the Hub give it (404 Client Error"),
    ],
)
def test_what_is_not_there_is_one_line(hub, source, cause):
    with pytest.raises(ModelFileError) as caught:
        Classifier.from_pretrained(source)
    assert cause in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_library_it_is_named(model, monkeypatch):
    monkeypatch.setattr("imprint.models.hub.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"it is not installed\. pip install huggingface_hub"):
        model.push_to_hub("me/digits")
    with pytest.raises(UsageError, match="it is not installed"):
        Classifier.from_pretrained("me/nothing")


def test_a_folder_that_cannot_be_made_is_one_line(model, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"it cannot be made \(Not a directory\)"):
        model.save_pretrained(tmp_path / "file" / "digits")
