import dataclasses
import json
import re
import shutil

import pytest

import imprint
from helpers import random_images, write_short_run
from imprint import UsageError
from imprint.report import sections
from imprint.report.run_report import write_report
from imprint.report.sections import curves_section, data_section, percent, recipe_section, repeat_section, short_source
from imprint.runs.folder import write_run
from imprint.runs.provenance import DataProvenance
from imprint.training.plan import make_plan


@pytest.fixture
def copied(run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / "copy")
    return tmp_path / "copy"


def read(path):
    page = path.read_text(encoding="utf-8")
    assert "<script" not in page
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    assert "http" not in page.replace("http://www.w3.org/", "")
    for image in re.findall(r"<img [^>]+>", page):
        assert re.search(r'alt="[^"]+"', image)
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)
    return page


def test_a_whole_report(run_folder, run, tmp_path):
    page = read(write_report(run_folder, tmp_path / "a.html"))
    right, count = round(run.validation.accuracy * run.validation.images), run.validation.images
    assert f"is right {percent(right / count, count)} of the time</h1>" in page
    assert f"Of {count} images that it was not trained on, it classified {right} correctly." in page
    for words in (
        "<code>imprint train digits</code>",
        "What the network sees",
        f"It erred on {count - right} of {count} images",
        f"{percent(run.validation.interval[0])} to {percent(run.validation.interval[1])}",
        "torch 2.",
        "(strange 0.0 %, low confidence 0.0 %); of the others",
        "Unsure (low confidence): none is flagged for it; of its 144 sure answers",
    ):
        assert words in page
    assert 'class="note"' not in page
    assert page.count("<small>nearest in training") == count - right
    assert page.count("<svg") == 6


def test_the_page_gives_the_runs_own_estimate(copied, run):
    metrics = json.loads((copied / "metrics.json").read_text())
    assert metrics["expected"]["interval"] == list(run.expected.interval)
    metrics["expected"]["interval"] = [0.5, 0.75]
    (copied / "metrics.json").write_text(json.dumps(metrics))
    assert f"expect {percent(0.5)} to {percent(0.75)} to be classified correctly" in read(write_report(copied))


def test_a_command_that_does_not_give_the_same_run(copied):
    metrics = json.loads((copied / "metrics.json").read_text())
    (copied / "metrics.json").write_text(json.dumps(metrics | {"interrupted": True}))
    provenance = (copied / "origin.json").read_text().replace("imprint train digits", "imprint train digits --run it")
    (copied / "origin.json").write_text(provenance)
    renamed = copied.rename(copied.with_name("my run"))
    page = read(write_report(renamed))
    assert "to its end, it gives another model" in page
    assert "Name a\nnew folder after <code>--run</code>" in page
    assert "it gives the same model" not in page
    assert re.search(r"imprint predict &#39;.*my run&#39; image.png", page)


def test_groups_are_mentioned_beside_the_interval(copied):
    provenance = json.loads((copied / "origin.json").read_text())
    assert "one group" not in read(write_report(copied))
    provenance["training"]["options"]["group"] = r"\d+"
    (copied / "origin.json").write_text(json.dumps(provenance))
    assert "Images of one group err together" in read(write_report(copied))


def test_data_that_went_away(copied, tmp_path):
    provenance = (copied / "origin.json").read_text().replace('"path": "digits"', '"path": "/no/such.csv"')
    (copied / "origin.json").write_text(provenance)
    page = read(write_report(copied))
    assert "Images cannot be shown" in page
    assert "No such file" in page
    assert "<img" not in page
    assert "The mistakes" in page
    assert page.count("<svg") == 6
    assert "<img" in read(write_report(copied, data="digits"))


def test_a_run_of_an_older_version(copied, run):
    for name in ("origin.json", "validation.csv"):
        (copied / name).unlink()
    page = read(write_report(copied))
    assert f"is right {percent(run.validation.accuracy)} of the time</h1>" in page
    assert f"expect {percent(run.validation.interval[0])} to" in page
    assert "--recipe" in page
    assert page.count('class="note"') == 2
    assert page.count("<svg") == 3


@pytest.mark.parametrize(
    ("epochs", "words"), [(12, "; the model holds the networks that were finished"), (5, ", and this very score chose")]
)
def test_a_run_that_was_stopped_early(copied, epochs, words):
    metrics = json.loads((copied / "metrics.json").read_text())
    (copied / "metrics.json").write_text(json.dumps(metrics | {"interrupted": True}))
    history = (copied / "history.csv").read_text().splitlines(keepends=True)
    (copied / "history.csv").write_text("".join(history[: 1 + epochs]))
    assert f"raining was stopped early{words}" in read(write_report(copied))


def test_a_run_without_validation(run, digits, tmp_path):
    plan = make_plan(digits, run.recipe, validation=0.0)
    blind = dataclasses.replace(
        run,
        model=dataclasses.replace(run.model, score=None),
        validation=None,
        predictions=None,
        expected=None,
        folder=tmp_path,
        history={key: run.history[key] for key in ("loss", "acc", "lr", "seconds")},
    )
    write_run(blind, plan, {"command": "imprint train digits"})
    page = read(write_report(tmp_path))
    assert "and not scored: no images were held out" in page
    assert 'class="note"' not in page


def test_strange_names_are_only_names(tmp_path):
    write_short_run(random_images(3, 60), tmp_path, 0.5)
    page = read(write_report(tmp_path))
    assert "&lt;script&gt;alert(1)&lt;/script&gt; 001" in page
    assert "imprint train &lt;b&gt;" in page
    assert "/home/someone" not in page


def test_a_hundred_classes_and_thirty_thousand_images_stay_light(tmp_path):
    write_short_run(random_images(120, 1_200), tmp_path, 0.5, epochs=5_000)
    head, *rows = (tmp_path / "validation.csv").read_text().splitlines()
    (tmp_path / "validation.csv").write_text("\n".join([head, *(rows * 50), ""]))
    path = write_report(tmp_path)
    assert path.stat().st_size < 4_000_000
    assert (tmp_path / "validation.csv").stat().st_size < 6_000_000
    page = read(path)
    assert "Of 30,000 images" in page
    assert "<code>validation.csv</code> in the run folder lists every image" in page
    assert "history.csv in the run holds all" in page


def test_every_mistake_is_on_the_page(tmp_path, digits, monkeypatch):
    write_short_run(digits[:300], tmp_path / "unread", 0.5, epochs=200)
    page = read(write_report(tmp_path / "unread"))  # made in Python: the images cannot be read again
    wrong = [row for row in (tmp_path / "unread/validation.csv").read_text().splitlines()[1:] if mistaken(row)]
    assert len(wrong) > 40
    assert all(f">{row.split(',')[1]}</th>" in page for row in wrong)
    assert all(f'<td class="number">{epoch}</td>' in page for epoch in range(1, 201))
    monkeypatch.setattr(sections, "MOST_DRAWN", 20)
    write_short_run(imprint.load("digits"), tmp_path / "read", 0.05)
    page = read(write_report(tmp_path / "read"))
    wrong = [row for row in (tmp_path / "read/validation.csv").read_text().splitlines()[1:] if mistaken(row)]
    assert page.count('<li class="mistake">') == 20 < len(wrong)
    assert all(f"{row.split(',')[1]}<" in page for row in wrong)


def mistaken(row):
    _, _, label, prediction, *_ = row.split(",")
    return label != prediction


def test_two_validation_images(tmp_path, digits):
    write_short_run(digits[:20], tmp_path, 0.1)
    assert "and not shown to do better than guessing" in read(write_report(tmp_path))


def test_a_page_that_cannot_be_written(run_folder, tmp_path):
    with pytest.raises(UsageError, match="cannot be written"):
        write_report(run_folder, tmp_path / "no" / "a.html")
    assert not list(tmp_path.iterdir())


def test_sources():
    assert short_source(7, "a.csv") == "row 7"
    assert short_source("/home/me/photos/cat/1.jpg", "/home/me/photos") == "cat/1.jpg"
    assert short_source("/home/me/photos-2/1.jpg", "/home/me/photos") == "1.jpg"
    assert short_source("digits#3", "digits") == "digits#3"
    assert short_source("cat/1.jpg", "/home/me/photos") == "cat/1.jpg"


def test_no_rounding_hides_a_mistake():
    assert percent(0.99999, 10**6).startswith("99.99")
    assert percent(1.0, 10).startswith("100.0")


def test_percentages_have_the_digits_that_the_count_bears():
    assert percent(0.99612, 3360) == "99.61\u00a0%"
    assert percent(0.985, 200) == "98.5\u00a0%"


def test_sections_in_words(digits, model):
    about = data_section(DataProvenance.of(digits), None, model)["about"]
    assert about == "digits: 1,797 images of 8×8 grey in 10 classes, 174 to 183 in each."
    history = {"loss": [1.0, 0.5], "acc": [0.7, 0.9], "lr": [1e-3, 1e-3]}
    assert curves_section(history, 12.0)["about"] == "2 epochs in 12.0 seconds."
    assert recipe_section(model, "")["about"].startswith(
        "Recipe quick, with epochs=12, min_steps=0: network quick with"
    )
    by_recipe = repeat_section("runs/0001-quick", None)["by_recipe"]
    assert by_recipe == "imprint train DATA --recipe runs/0001-quick/recipe.json"
