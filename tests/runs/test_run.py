import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import BAD_NAME, random_images, tags
from imprint import Run, UsageError, train, write_report


@pytest.fixture
def copied(run_folder, tmp_path):
    return Path(shutil.copytree(run_folder, tmp_path / "copy"))


def change(folder, **values):
    path = folder / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_run_is_read_back(run, run_folder, digits):
    again = Run.load(run_folder)
    assert again.facts() == run.facts()
    assert json.loads(json.dumps(run.facts())) == json.loads((run_folder / "metrics.json").read_text())
    assert again.validation == run.validation
    assert again.expected == run.expected
    assert again.limit == run.limit
    assert again.expectation == run.expectation
    assert again.recipe == run.recipe
    assert again.history["val_acc"] == pytest.approx(run.history["val_acc"], rel=1e-5)
    assert again.model.predict(digits[:9]).names == run.model.predict(digits[:9]).names
    assert (again.predictions, again.result) == (None, None)
    assert repr(again) == repr(run)


def test_a_run_without_images_held_out_is_read_back(digits, tmp_path):
    run = train(digits, "quick", epochs=1, min_steps=1, validation=0, run=tmp_path / "a", verbose=False)
    again = Run.load(tmp_path / "a")
    assert (again.validation, again.expected) == (None, None)
    assert again.facts() == run.facts()
    assert again.expectation == run.expectation
    assert "no score" in again._repr_html_()


def test_a_run_of_an_older_version_is_read_back(run, copied):
    keys = ("images", "accuracy", "interval", "baseline")
    change(copied, validation={key: run.facts()["validation"][key] for key in keys}, trust=None)
    metrics = json.loads((copied / "metrics.json").read_text())
    metrics["expected"] = {key: metrics["expected"][key] for key in ("accuracy", "interval")}
    (copied / "metrics.json").write_text(json.dumps(metrics))
    again = Run.load(copied)
    assert again.validation.accuracy == run.validation.accuracy
    assert again.validation.confusion == run.validation.confusion
    assert again.expected.interval == run.expected.interval
    assert again.limit is None
    assert "nan" not in again._repr_html_()
    json.loads(json.dumps(again.facts(), allow_nan=False))


def test_files_that_do_not_fit_together_are_refused(run, copied):
    score = run.facts()["validation"]
    trust = run.facts()["trust"]
    for values in (
        {"validation": score | {"images": 5}},
        {"validation": score | {"log_loss": "low"}},
        {"trust": trust | {"basis": "magic"}},
        {"trust": trust | {"answered": -1}},
        {"expected": run.facts()["expected"] | {"tries": "many"}},
    ):
        before = (copied / "metrics.json").read_text()
        change(copied, **values)
        with pytest.raises(UsageError, match=r"metrics\.json at .* is inconsistent"):
            Run.load(copied)
        (copied / "metrics.json").write_text(before)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        Run.load(tmp_path / "nothing")


def test_a_notebook_shows_score_curves_and_files(run, copied):
    shown = replace(run, folder=copied)._repr_html_()
    assert tags(shown)["svg"] == 1
    assert "held out" in shown
    assert "always the commonest class" in shown
    assert all(path.name in shown for path in copied.iterdir())
    shutil.rmtree(copied)
    assert "nothing any more" in replace(run, folder=copied)._repr_html_()
    first, second = ({part.split('"')[0] for part in run._repr_html_().split(' id="')[1:]} for _ in range(2))
    assert first
    assert not first & second  # a notebook may show a run twice


def test_hostile_names_are_text(tmp_path):
    folder = tmp_path / BAD_NAME.replace("/", "&")
    run = train(random_images(3, 60), "quick", epochs=1, min_steps=1, run=folder, verbose=False)
    for html in (run._repr_html_(), run.validation._repr_html_(), run.predictions._repr_html_()):
        tags(html)
    assert "no better than guessing" in run._repr_html_() or run.validation.images < 20


def test_plot_draws_the_curves(run):
    figure = run.plot()
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Loss", "Accuracy", "Learning rate"]
    assert figure.axes[1].get_lines()[1].get_ydata().tolist() == run.history["val_acc"]
    assert figure._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="no epochs"):
        replace(run, history={"loss": []}).plot()


def test_report_writes_the_page_and_gives_its_path(run, copied, tmp_path):
    assert replace(run, folder=copied).report() == copied / "report.html"
    assert "How good it is" in (copied / "report.html").read_text()
    assert write_report(str(copied), str(tmp_path / "a.html")) == tmp_path / "a.html"
    with pytest.raises(UsageError, match="it wrote no folder"):
        replace(run, folder=None).report()
