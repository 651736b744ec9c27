import dataclasses
import json
import re
import shutil

import numpy as np
import pytest

from imprint import LabelledImages, UsageError
from imprint.report.run_report import write_report
from imprint.report.sections import percent, place_text
from imprint.runs.folder import train_facts, write_evidence, write_run
from imprint.runs.provenance import data_provenance, provenance_of
from imprint.runs.run import carry_out
from imprint.training.plan import make_plan

BAD_NAME = "<script>alert(1)</script>"


@pytest.fixture
def copy_weights(run_folder, tmp_path):
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
    assert f"It named {right} of {count} images rightly" in page
    for words in (
        "<code>imprint train digits</code>",
        "What the network sees",
        f"It erred on {count - right} of {count} images",
        f"{percent(run.validation.interval[0])} to {percent(run.validation.interval[1])}",
        "torch 2.",
    ):
        assert words in page
    assert 'class="note"' not in page
    assert page.count("<small>nearest in training") == count - right
    assert page.count("<svg") == 6


def test_what_the_run_said_to_expect_is_what_the_page_says(copy_weights, run):
    metrics = json.loads((copy_weights / "metrics.json").read_text())
    assert metrics["expected"]["interval"] == list(run.expected.interval)
    metrics["expected"]["interval"] = [0.5, 0.75]
    (copy_weights / "metrics.json").write_text(json.dumps(metrics))
    assert f"expect {percent(0.5)} to {percent(0.75)} to be named rightly" in read(write_report(copy_weights))


def test_what_the_page_says_of_a_run_that_cannot_be_repeated_word_for_word(copy_weights):
    metrics = json.loads((copy_weights / "metrics.json").read_text())
    (copy_weights / "metrics.json").write_text(json.dumps(metrics | {"interrupted": True}))
    provenance = (
        (copy_weights / "origin.json").read_text().replace("imprint train digits", "imprint train digits --run it")
    )
    (copy_weights / "origin.json").write_text(provenance)
    renamed = copy_weights.rename(copy_weights.with_name("my run"))
    page = read(write_report(renamed))
    assert "without a stop it goes on, and gives another model" in page
    assert "Name a\nnew folder after <code>--run</code>" in page
    assert "it gives the same model" not in page
    assert re.search(r"imprint predict &#39;.*my run&#39; image.png", page)


def test_groups_are_told_beside_the_interval(copy_weights):
    provenance = json.loads((copy_weights / "origin.json").read_text())
    assert "one group" not in read(write_report(copy_weights))
    provenance["training"]["options"]["group"] = r"\d+"
    (copy_weights / "origin.json").write_text(json.dumps(provenance))
    assert "Images of one group err together" in read(write_report(copy_weights))


def test_data_that_went_away(copy_weights, tmp_path):
    provenance = (copy_weights / "origin.json").read_text().replace('"path": "digits"', '"path": "/no/such.csv"')
    (copy_weights / "origin.json").write_text(provenance)
    page = read(write_report(copy_weights))
    assert "Images cannot be shown" in page
    assert "No such file" in page
    assert "<img" not in page
    assert "The mistakes" in page
    assert page.count("<svg") == 6
    assert "<img" in read(write_report(copy_weights, data="digits"))


def test_a_run_of_an_older_version(copy_weights, run):
    for name in ("origin.json", "validation.csv"):
        (copy_weights / name).unlink()
    page = read(write_report(copy_weights))
    assert f"is right {percent(run.validation.accuracy)} of the time</h1>" in page
    assert f"expect {percent(run.validation.interval[0])} to" in page
    assert "--recipe" in page
    assert page.count('class="note"') == 2
    assert page.count("<svg") == 3


@pytest.mark.parametrize(
    ("had", "words"), [(12, "; the model holds the networks that had ended"), (5, ", and the best epoch")]
)
def test_a_run_that_was_stopped_early(copy_weights, had, words):
    metrics = json.loads((copy_weights / "metrics.json").read_text())
    (copy_weights / "metrics.json").write_text(json.dumps(metrics | {"interrupted": True}))
    history = (copy_weights / "history.csv").read_text().splitlines(keepends=True)
    (copy_weights / "history.csv").write_text("".join(history[: 1 + had]))
    assert f"raining was stopped early{words}" in read(write_report(copy_weights))


def test_a_run_without_validation(run, digits, tmp_path):
    plan = make_plan(digits, run.recipe, validation=0)
    blind = dataclasses.replace(
        run,
        model=dataclasses.replace(run.model, score=None),
        validation=None,
        history={key: run.history[key] for key in ("loss", "acc", "lr", "seconds")},
    )
    write_run(blind, tmp_path, train_facts(blind, tmp_path, None))
    write_evidence(
        blind, plan, provenance_of(plan, "imprint train digits", data_provenance(digits, "digits")), tmp_path
    )
    page = read(write_report(tmp_path))
    assert "was not scored: no images were held out" in page
    assert 'class="note"' not in page


def hasty_run(images, folder, validation, epochs=3):
    """A run folder of a network that has learnt next to nothing; its history is made up, to be as long as wanted."""
    plan = make_plan(images, "quick", epochs=1, min_steps=1, validation=validation)
    run = carry_out(plan)
    falling = np.geomspace(2, 0.1, epochs).tolist()
    run = dataclasses.replace(run, history=dict.fromkeys(run.history, falling))
    folder.mkdir(exist_ok=True)
    write_run(run, folder, train_facts(run, folder, None))
    write_evidence(
        run, plan, provenance_of(plan, "imprint train <b>", data_provenance(images, str(folder / "x.npz"))), folder
    )


def many(classes, count, shape=(1, 8, 8), name=BAD_NAME):
    random = np.random.default_rng(0)
    names = tuple(f"{name} {i:03}" for i in range(classes))
    pixels = random.integers(0, 256, (count, *shape), dtype=np.uint8)
    sources = np.array([f"/home/someone/{name}/{i}.png" for i in range(count)])
    return LabelledImages(pixels, np.arange(count) % classes, names, sources, name)


def test_strange_names_are_only_names(tmp_path):
    hasty_run(many(3, 60), tmp_path, 0.5)
    page = read(write_report(tmp_path))
    assert "&lt;script&gt;alert(1)&lt;/script&gt; 001" in page
    assert "imprint train &lt;b&gt;" in page
    assert "/home/someone" not in page


def test_a_hundred_classes_and_thirty_thousand_images_stay_light(tmp_path):
    hasty_run(many(120, 1_200), tmp_path, 0.5, epochs=5_000)
    head, *rows = (tmp_path / "validation.csv").read_text().splitlines()
    (tmp_path / "validation.csv").write_text("\n".join([head, *(rows * 50), ""]))
    path = write_report(tmp_path)
    assert path.stat().st_size < 1_500_000
    assert (tmp_path / "validation.csv").stat().st_size < 6_000_000
    assert "of 30,000 images" in read(path)


def test_two_validation_images(tmp_path, digits):
    hasty_run(digits[:20], tmp_path, 0.1)
    assert "is not shown to do better than guessing" in read(write_report(tmp_path))


def test_the_page_goes_where_it_is_sent(run_folder, tmp_path):
    with pytest.raises(UsageError, match="cannot be written"):
        write_report(run_folder, tmp_path / "no" / "a.html")
    assert not list(tmp_path.iterdir())


def test_places():
    assert place_text("/home/me/photos-2/1.jpg", "/home/me/photos") == "1.jpg"
    assert place_text("digits#3", "digits") == "digits#3"
    assert place_text("cat/1.jpg", "/home/me/photos") == "cat/1.jpg"


def test_no_rounding_hides_a_mistake():
    assert percent(0.99999, 10**6).startswith("99.99")
    assert percent(1.0, 10).startswith("100.0")
