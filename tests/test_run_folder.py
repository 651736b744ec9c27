import csv
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from imprint import UsageError
from imprint.answers import read_answers
from imprint.recipes import find_recipe
from imprint.run_folder import new_run_folder, train_facts, write_run


def test_numbers_rise_and_nothing_is_overwritten(tmp_path):
    (tmp_path / "0041-best").mkdir()
    (tmp_path / "notes").mkdir()
    assert new_run_folder("quick", parent=tmp_path).name == "0042-quick"
    assert new_run_folder("tutorial", parent=tmp_path).name == "0043-tutorial"


def test_a_folder_that_holds_something_is_refused(tmp_path):
    assert new_run_folder("quick", tmp_path / "mine") == tmp_path / "mine"
    (tmp_path / "mine" / "model.safetensors").write_text("precious")
    with pytest.raises(UsageError, match="it already holds something"):
        new_run_folder("quick", tmp_path / "mine")
    assert (tmp_path / "mine" / "model.safetensors").read_text() == "precious"


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(UsageError, match="it cannot be made"):
        new_run_folder("quick", tmp_path / "runs" / "x")


def test_contents(run, tmp_path):
    facts = train_facts(run, tmp_path, tmp_path / "result.csv")
    write_run(run, tmp_path, facts)
    assert json.loads((tmp_path / "metrics.json").read_text()) == json.loads(json.dumps(facts))
    assert set(facts["validation"]) == {"images", "accuracy", "interval", "baseline"}
    assert find_recipe(str(tmp_path / "recipe.json")) == run.recipe
    with open(tmp_path / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == [str(i) for i in range(1, 13)]
    assert [float(row["val_acc"]) for row in rows] == pytest.approx(run.history["val_acc"], rel=1e-5)


def test_evidence_is_what_the_model_says_of_the_pictures_held_out(run_folder, model, digits):
    answers = read_answers(run_folder / "validation.csv", model.class_names)
    held_out = digits[answers.places]
    said = model.predict(held_out)
    assert (np.diff(answers.places) > 0).all()
    assert np.array_equal(answers.sources, held_out.sources)
    assert np.array_equal(answers.labels, held_out.labels)
    assert np.array_equal(answers.predicted, said.labels)
    assert np.array_equal(answers.unsure, said.unsure)
    assert np.abs(answers.confidence - said.probabilities.max(axis=1)).max() < 1e-5


def test_runs_that_begin_at_once_get_folders_of_their_own(tmp_path):
    with ThreadPoolExecutor(8) as threads:
        folders = list(threads.map(lambda _: new_run_folder("quick", parent=tmp_path / "runs"), range(40)))
    assert sorted(folder.name for folder in folders) == [f"{place:04}-quick" for place in range(1, 41)]
