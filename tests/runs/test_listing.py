import json

import pytest

from imprint import UsageError
from imprint.core.files import sole_writer
from imprint.recipes import find_recipe
from imprint.runs.listing import delete_runs, list_runs


@pytest.fixture
def parent(run_folder, tmp_path):
    """Three finished runs, one of them of a series of seeds; one that was stopped; what is no run."""
    for name, accuracy in (("0002-quick", 0.8), ("0010-best", 0.9), ("many/seed-7", None)):
        (tmp_path / name).mkdir(parents=True)
        for path in run_folder.iterdir():
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
        metrics = json.loads((run_folder / "metrics.json").read_text())
        metrics["validation"] = accuracy and metrics["validation"] | {"accuracy": accuracy}
        (tmp_path / name / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "0011-quick").mkdir()
    (tmp_path / "0011-quick/checkpoint.safetensors").write_bytes(b"half")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/model.safetensors").write_bytes(b"somebody's")
    return tmp_path


def test_runs_are_listed(parent):
    found = {one.run.removeprefix(f"{parent}/"): one for one in list_runs(parent)}
    assert list(found) == ["0002-quick", "0010-best", "0011-quick", "many/seed-7"]
    best, stopped = found["0010-best"], found["0011-quick"]
    assert (best.state, best.recipe, best.accuracy, best.images, best.data) == ("done", "quick", 0.9, 144, "digits")
    assert best.seconds > 0
    assert best.size == sum(path.stat().st_size for path in (parent / "0010-best").iterdir())
    assert (stopped.state, stopped.recipe, stopped.accuracy, stopped.size) == ("stopped", None, None, 4)
    assert [one.accuracy for one in list_runs(parent, "score")] == [0.9, 0.8, None, None]
    with sole_writer(parent / "0011-quick"):
        assert {one.state for one in list_runs(parent)} == {"done", "training"}
    (parent / "0002-quick/metrics.json").write_text("[" * 10**5)
    assert list_runs(parent)[0].accuracy is None


def test_only_what_a_run_wrote_is_deleted(parent):
    for refused in ("notes", "many", "nowhere"):
        with pytest.raises(UsageError):
            delete_runs([parent / "0002-quick", parent / refused])
    (parent / "0010-best/thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match=r"it also holds thesis\.txt, which no run wrote"):
        delete_runs([parent / "0010-best"])
    (parent / "link").symlink_to(parent / "0002-quick")
    with pytest.raises(UsageError, match="it is no run folder"):
        delete_runs([parent / "link"])
    with sole_writer(parent / "0011-quick"), pytest.raises(UsageError, match="it is still training"):
        delete_runs([parent / "0011-quick"])
    assert len(list_runs(parent)) == 5  # with the link
    delete_runs([parent / "0002-quick", parent / "0011-quick"])
    assert not (parent / "0002-quick").exists()
    assert (parent / "0010-best/thesis.txt").read_text() == "precious"


def test_a_run_folder_is_a_recipe(run, run_folder):
    assert find_recipe(str(run_folder)) == run.recipe
