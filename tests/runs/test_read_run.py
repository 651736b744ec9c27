import json
import shutil

import numpy as np
import pytest

from imprint import ImprintError, ModelFileError, UsageError
from imprint.runs.read_run import read_run
from imprint.training.plan import make_plan


@pytest.fixture
def copied(run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / "copy")
    return tmp_path / "copy"


def test_what_was_written_is_read(run_folder, run, digits):
    record = read_run(run_folder)
    assert record.notes == ()
    assert record.history["val_acc"] == pytest.approx(run.history["val_acc"], rel=1e-5)
    assert record.labelled.correct.mean() == pytest.approx(run.validation.accuracy)
    assert record.labelled.unsure.mean() == pytest.approx(run.validation.unsure["share"])
    plan = make_plan(digits, run.recipe)
    training, held_out = record.read_images()
    assert sorted(training.sources) == sorted(digits.sources[plan.training])
    assert sorted(held_out.sources) == sorted(plan.validation.sources)
    assert np.array_equal(held_out.labels, record.labelled.labels)


def test_a_run_of_an_older_version(copied):
    for name in ("origin.json", "validation.csv", "history.csv"):
        (copied / name).unlink()
    record = read_run(copied)
    assert (record.provenance, record.labelled, record.history) == (None, None, {})
    assert len(record.notes) == 3
    with pytest.raises(ImprintError, match="the run does not tell it"):
        record.read_images()


@pytest.mark.parametrize("name", ["origin.json", "validation.csv", "history.csv", "metrics.json"])
@pytest.mark.parametrize("content", [b"", b'{"validation": 1}', b"\xff\xfe", b"[1, 2]", b"{}", b"a,b\n1,2\n"])
def test_broken_files_get_one_line(copied, name, content):
    if (name, content) == ("metrics.json", b"{}"):
        return  # it says little, but nothing wrong
    (copied / name).write_bytes(content)
    with pytest.raises(ImprintError, match=name):
        read_run(copied)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("history.csv", "epoch,loss,acc,lr\n1,nan,0.5,0.001\n"),
        ("metrics.json", '{"validation": null, "seconds": Infinity}'),
    ],
)
def test_figures_that_are_none_are_refused(copied, name, content):
    (copied / name).write_text(content)
    with pytest.raises(UsageError, match="it is inconsistent"):
        read_run(copied)


def test_places_that_the_data_does_not_have(copied):
    rows = (copied / "validation.csv").read_text().splitlines()
    (copied / "validation.csv").write_text("\n".join([rows[0], "99999" + rows[1][rows[1].index(",") :], ""]))
    with pytest.raises(ImprintError, match="it names images that the data does not have"):
        read_run(copied).read_images()


def test_no_run(copied):
    (copied / "model.safetensors").unlink()
    with pytest.raises(ModelFileError):
        read_run(copied)
    with pytest.raises(UsageError, match="there is no such folder"):
        read_run(copied / "no")


def test_an_origin_says_nothing_that_is_not_text(copied):
    provenance = json.loads((copied / "origin.json").read_text())
    keys = {"command", "made", "settled", "versions", "machine", "training", "validation", "pretrained", "parent"}
    keys |= {"processes"}
    assert set(provenance) == keys
    assert (copied / "origin.json").stat().st_size < 5_000
