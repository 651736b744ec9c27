import shutil
from dataclasses import replace

import huggingface_hub
import pytest
from huggingface_hub import ModelCard

from imprint import Classifier, ModelFileError, UsageError


class FakeApi:
    """Stands for the Hub: keeps what is uploaded in a folder."""

    def __init__(self, token=None):
        FakeApi.token = token

    def create_repo(self, repo_id, private=None, exist_ok=False):
        if repo_id.startswith("others/"):
            raise huggingface_hub.errors.HFValidationError("403 Forbidden:\nyou may not write here.")
        FakeApi.made = (repo_id, private, exist_ok)
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self, repo_id, folder_path, commit_message):
        shutil.copytree(folder_path, FakeApi.store / repo_id)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    FakeApi.store = tmp_path / "hub"

    def download(repo_id, filename, revision=None, token=None):
        path = FakeApi.store / repo_id / filename
        if not path.is_file():
            raise huggingface_hub.errors.LocalEntryNotFoundError("404 Not Found\n\nRepository is not there.")
        return str(path)

    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return FakeApi.store


def same(one, other, digits):
    return (one.predict_proba(digits[:50]) == other.predict_proba(digits[:50])).all()


def test_a_folder_and_back(model, digits, tmp_path):
    model.save_pretrained(tmp_path / "new" / "digits")
    assert same(Classifier.from_pretrained(tmp_path / "new" / "digits"), model, digits)
    assert sorted(path.name for path in (tmp_path / "new" / "digits").iterdir()) == ["README.md", "model.safetensors"]


def test_to_the_hub_and_back(hub, model, digits):
    assert model.push_to_hub("me/digits", private=True, token="secret") == "https://huggingface.co/me/digits"
    assert FakeApi.made == ("me/digits", True, True)
    assert FakeApi.token == "secret"
    assert same(Classifier.from_pretrained("me/digits"), model, digits)
    card = (hub / "me/digits/README.md").read_text(encoding="utf-8")
    assert 'Classifier.from_pretrained("me/digits")' in card
    assert "secret" not in card


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
    for words in ("10 classes of pictures", "85,322 parameters", "8×8 grey", "scaled to 28×28", "It learnt glyphs"):
        assert words in text
    assert "{" not in text.replace("[imprint", "")


def test_a_card_without_a_score_says_so(model, tmp_path):
    names = ("<b>cat</b>", "a|b", "*", *"3456789")
    replace(model, score=None, class_names=names).save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "No pictures were held out" in text
    assert "model-index" not in text
    assert "license" not in text
    assert r"\<b\>cat\</b\>, a\|b, \*, 3" in text
    assert ModelCard.load(tmp_path / "README.md").data.eval_results is None


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("digits", "repository 'digits' at Hugging Face: it is no name of one. Write it as me/digits."),
        ("others/digits", "it refuses (403 Forbidden:). Check name, token and connection."),
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
        ("me/nothing", "there is no such folder, nor can the Hub give it (404 Not Found)"),
    ],
)
def test_what_is_not_there_is_one_line(hub, source, cause):
    with pytest.raises(ModelFileError) as caught:
        Classifier.from_pretrained(source)
    assert cause in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_library_the_extra_is_named(model, monkeypatch):
    monkeypatch.setattr("imprint.hub.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"it is not installed. pip install 'imprint\[hub\]'"):
        model.push_to_hub("me/digits")
    with pytest.raises(UsageError, match="it is not installed"):
        Classifier.from_pretrained("me/nothing")


def test_a_folder_that_cannot_be_made_is_one_line(model, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"it cannot be made \(Not a directory\)"):
        model.save_pretrained(tmp_path / "file" / "digits")
