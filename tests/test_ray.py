"""Prediction by Ray: what can be told without a cluster; scripts/scale_bulk.py has one."""

import sys

import numpy as np
import polars
import pytest

from helpers import refused
from imprint.core.errors import UsageError
from imprint.ray import Predict, on_cluster


@pytest.fixture
def contents(digits, tmp_path):
    from PIL import Image

    for i in range(3):
        Image.fromarray(digits.pixels[i, 0]).save(tmp_path / f"{i}.png")
    return [(tmp_path / f"{i}.png").read_bytes() for i in range(3)]


def test_a_batch_of_a_pipeline(model, model_file, contents, monkeypatch):
    monkeypatch.setattr(polars.DataFrame, "to_arrow", lambda table: table)  # pyarrow comes with Ray
    batch = {"bytes": np.array([contents[0], b"", contents[2]], dtype=object), "path": np.array(["a", "b", "c"])}
    rows = Predict(str(model_file))(batch)
    assert rows.columns == ["source", "label", "confidence", "unsure", "error"]
    assert rows["source"].to_list() == ["a", "b", "c"]
    assert rows["error"].to_list() == [None, "it is empty", None]
    said = model.predict([contents[0], contents[2]])
    assert rows["label"].drop_nulls().to_list() == said.names
    empty = Predict(str(model_file))({"bytes": np.array([], dtype=object), "path": np.array([], dtype=str)})
    assert (len(empty), empty.schema) == (0, rows.schema)


def test_columns_of_other_names(model_file, contents, monkeypatch):
    monkeypatch.setattr(polars.DataFrame, "to_arrow", lambda table: table)
    step = Predict(str(model_file), content="jpg", source="__key__")
    assert step({"jpg": np.array(contents[:1], dtype=object), "__key__": np.array(["k"])})["source"].to_list() == ["k"]


def test_missing_ray_is_told(model_file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"package ray at this Python: .* pip install ray pyarrow pandas"):
        on_cluster(model_file, tmp_path / "out")
    line = refused("predict", model_file, "digits", "-o", "out/", "--engine", "ray", cwd=tmp_path)
    assert line.startswith("error: package ray")
    assert not (tmp_path / "out").exists()


def test_engines_are_checked(model_file, tmp_path):
    assert "there is no such engine" in refused(
        "predict", model_file, "digits", "-o", "out/", "--engine", "spark", cwd=tmp_path
    )
    line = refused("predict", model_file, "digits", "-o", "out.csv", "--engine", "ray", cwd=tmp_path)
    assert "--engine at imprint: it changes nothing without -o FOLDER/" in line


@pytest.mark.filterwarnings("ignore")  # of Ray's own code
def test_two_actors_predict_each_image_once(model_file, contents, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    from imprint.data import shards
    from imprint.models.bulk import predict_folder

    monkeypatch.setattr(shards, "MOST", 4)
    (tmp_path / "data").mkdir()
    for i in range(20):
        (tmp_path / f"data/{i:02}.png").write_bytes(contents[0] if i % 5 else b"broken")
    out = tmp_path / "out"
    summary = predict_folder(model_file, str(tmp_path / "data"), out, on_cluster(model_file, out))
    ray.shutdown()
    assert (summary["inputs"], summary["said"], summary["failed"]) == (20, 16, 4)
