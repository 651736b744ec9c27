"""Bulk prediction: each input exactly once in the output, whatever happens."""

import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
import zipfile
from collections import Counter

import numpy as np
import polars
import pytest
from PIL import Image

import imprint
from helpers import IMPRINT
from imprint.core.errors import DataError, StoppedError, UsageError
from imprint.data import shards
from imprint.data.shards import find_shards
from imprint.models import bulk
from imprint.models.bulk import predict_folder, predict_shard


@pytest.fixture(scope="module")
def photos(tmp_path_factory, digits):
    """Sixty digits as files in two folders, three of them broken."""
    folder = tmp_path_factory.mktemp("bulk") / "photos"
    for i in range(60):
        path = folder / "ab"[i % 2] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.pixels[i, 0]).save(path)
    for i, content in ((7, b""), (20, b"<html>"), (41, (folder / "b/041.png").read_bytes()[:60])):
        (folder / "ab"[i % 2] / f"{i:03}.png").write_bytes(content)
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def few(monkeypatch):
    """Shards of ten files and parts of ten rows."""
    monkeypatch.setattr(shards, "FEWEST", 10)
    monkeypatch.setattr(shards, "MOST", 10)
    monkeypatch.setattr(bulk, "ROWS", 10)


def table(out):
    return polars.concat([polars.read_parquet(path) for path in sorted(out.glob("*.parquet"))])


def same_as_predict(model_file, data, rows):
    """Whether rows say what `imprint predict` says, and failures their causes."""
    said = imprint.Classifier.load(model_file).predict(data).to_polars()
    good = rows.filter(polars.col("error").is_null())
    assert sorted(good["source"]) == sorted(said["source"])
    both = good.join(said, on="source", suffix="_one")
    assert both["label"].to_list() == both["label_one"].to_list()
    assert both["unsure"].to_list() == both["unsure_one"].to_list()
    assert np.allclose(both["confidence"], both["confidence_one"], atol=1e-5)
    return len(good)


def test_a_folder_is_predicted_as_predict_does(model_file, photos, few, tmp_path):
    summary = predict_folder(model_file, str(photos), tmp_path / "out")
    rows = table(tmp_path / "out")
    assert rows.columns == ["source", "label", "confidence", "unsure", "error"]
    assert Counter(rows["source"]) == Counter(str(path) for path in photos.glob("*/*.png"))
    assert same_as_predict(model_file, str(photos), rows) == 57
    failed = rows.filter(polars.col("error").is_not_null())
    assert failed["label"].null_count() == failed["unsure"].null_count() == len(failed) == 3
    assert {path[-7:]: cause for path, cause in failed.select("source", "error").iter_rows()}[
        "007.png"
    ] == "it is empty"
    assert summary == json.loads((tmp_path / "out/summary.json").read_text())
    assert {key: summary[key] for key in ("inputs", "said", "failed", "complete")} == {
        **{"inputs": 60, "said": 57, "failed": 3},
        "complete": True,
    }
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 6


def test_it_goes_on_where_it_was_stopped(model_file, photos, few, tmp_path, monkeypatch):
    out, done = tmp_path / "out", []

    def stopping(after):
        def run(found):
            for shard in found:
                if len(done) == after:
                    raise KeyboardInterrupt
                done.append(shard)
                yield predict_shard(model_file, shard, out)

        return run

    with pytest.raises(StoppedError, match=r"stopped, 20 images are predicted. The same command goes on"):
        predict_folder(model_file, str(photos), out, stopping(2))
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    assert len(before) == 2
    assert not json.loads((out / "summary.json").read_text())["complete"]
    next(iter(before)).write_bytes(b"not whole")  # as a disk may leave it
    assert predict_folder(model_file, str(photos), out)["inputs"] == 60
    assert Counter(table(out)["source"]).most_common(1)[0][1] == 1
    kept = [path for path, changed in before.items() if path.stat().st_mtime_ns == changed]
    assert len(kept) == 1


def test_changed_data_leave_no_image_twice(model_file, photos, few, tmp_path, caplog):
    caplog.set_level("INFO", "imprint")
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(photos, data)
    predict_folder(model_file, str(data), out)
    (data / "a/000.png").unlink()
    shutil.copy(data / "a/002.png", data / "a/0021.png")
    assert predict_folder(model_file, str(data), out)["inputs"] == 60
    assert Counter(table(out)["source"]) == Counter(str(path) for path in data.glob("*/*.png"))
    assert "the data have changed" in caplog.text
    assert list((out / "_outdated").glob("*.parquet"))


def test_a_file_more_changes_few_shards(monkeypatch):
    names = [f"{i:05}.jpg" for i in range(5000)]
    before = {shard.files for shard in shards._cut(names)}
    after = {shard.files for shard in shards._cut([*names[:1000], "00999b.jpg", *names[1000:]])}
    assert len(before) > 8
    assert len(after - before) <= 2
    assert all(len(files) <= shards.MOST for files in before)


def archive_of(photos, path):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(photos.glob("*/*.png")):
                archive.write(file, file.relative_to(photos))
    else:
        with tarfile.open(path, "w") as archive:
            archive.add(photos, "photos")
    return path


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.parquet", "x.csv"])
def test_files_of_many_images(model_file, photos, few, tmp_path, name):
    path = tmp_path / name
    files = sorted(photos.glob("*/*.png"))
    if name == "x.parquet":
        polars.DataFrame({"image": [{"bytes": file.read_bytes(), "path": file.name} for file in files]}).write_parquet(
            path
        )
    elif name == "x.csv":
        path.write_text("path\n" + "".join(f"{file}\n" for file in files))
    else:
        archive_of(photos, path)
    summary = predict_folder(model_file, str(path), tmp_path / "out")
    rows = table(tmp_path / "out")
    assert (summary["inputs"], summary["failed"], len(rows)) == (60, 3, 60)
    assert len(set(rows["source"])) == 60
    assert all(source.startswith(str(photos if name == "x.csv" else path)) for source in rows["source"])
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 6


def test_a_damaged_archive_among_many_is_a_row(model_file, photos, few, tmp_path):
    for i in range(2):
        archive_of(photos, tmp_path / f"{i}.tar")
    (tmp_path / "2.tar").write_bytes(b"no archive")
    summary = predict_folder(model_file, str(tmp_path / "{0..2}.tar"), tmp_path / "out")
    assert (summary["inputs"], summary["said"], summary["failed"]) == (121, 114, 7)
    rows = table(tmp_path / "out").filter(source=str(tmp_path / "2.tar"))
    assert rows["error"].to_list() == ["it is cut short, damaged or no .tar"]
    with pytest.raises(DataError, match="damaged or no"):
        predict_folder(model_file, str(tmp_path / "2.tar"), tmp_path / "alone")


def test_arrays_and_tables_are_taken_whole(model_file, digits_csv, few, tmp_path):
    assert predict_folder(model_file, str(digits_csv / "test.csv"), tmp_path / "out")["said"] == 100
    assert table(tmp_path / "out")["source"][9] == "test.csv#10"
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 10


def test_a_shard_is_predicted_without_any_engine(model_file, photos, tmp_path):
    files = sorted(map(str, photos.glob("a/*.png")))
    result = predict_shard(model_file, files, tmp_path / "out")
    assert (result.inputs, result.said, result.failed, result.found) == (30, 29, 1, False)
    again = predict_shard(str(model_file), files, tmp_path / "out")
    assert (again.files, again.found) == (result.files, True)
    assert table(tmp_path / "out")["source"].to_list() == files


def test_an_exported_model(model_file, onnx_file, photos, tmp_path):
    predict_folder(onnx_file, str(photos), tmp_path / "out")
    assert same_as_predict(model_file, str(photos), table(tmp_path / "out")) == 57


def test_parts_are_chosen_as_predict_does(model_file, photos, tmp_path):
    for part in ("train", "test"):
        shutil.copytree(photos, tmp_path / "data" / part)
    predict_folder(model_file, str(tmp_path / "data"), tmp_path / "out")
    assert set(table(tmp_path / "out")["source"]) == set(map(str, tmp_path.glob("data/test/*/*.png")))


def test_folders_that_are_not_for_this_are_refused(model_file, onnx_file, photos, tmp_path):
    out = tmp_path / "out"
    predict_folder(model_file, str(photos), out)
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(UsageError, match="predictions of other data"):
        predict_folder(model_file, str(photos / "a"), out)
    with pytest.raises(UsageError, match="predictions of another model"):
        predict_folder(onnx_file, str(photos), out)
    with pytest.raises(UsageError, match="it lies within"):
        predict_folder(model_file, str(photos), photos / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="a folder that holds other files"):
        predict_folder(model_file, str(photos), tmp_path / "mine")
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_no_data_make_no_folder(model_file, tmp_path):
    (tmp_path / "empty").mkdir()
    for data in ("missing", "empty"):
        with pytest.raises(DataError):
            predict_folder(model_file, str(tmp_path / data), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "empty/a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"not one can be used, first .*png: it is empty"):
        predict_folder(model_file, str(tmp_path / "empty"), tmp_path / "out")


def test_folders_are_walked_lazily_and_in_order(tmp_path, monkeypatch):
    for name in ("b/2.png", "b/1.png", "a.png", "c/d/e.png", ".hidden/x.png", "Thumbs.db"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "c/loop").symlink_to(tmp_path)
    monkeypatch.setattr(shards, "MOST", 2)
    found = [shard.files for shard in find_shards(str(tmp_path))]
    names = [os.path.relpath(file, tmp_path) for files in found for file in files]
    assert names == ["a.png", "b/1.png", "b/2.png", "c/d/e.png"]
    assert [len(files) for files in found] == [2, 2]


def test_killed_and_run_again(model_file, photos, tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    original = (photos / "a/000.png").read_bytes()
    for i in range(3000):
        (data / f"{i:05}.png").write_bytes(original if i % 20 else b"broken")
    command = [*IMPRINT, "predict", str(model_file), str(data), "-o", f"{out}/"]
    running = subprocess.Popen(command, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while len(list(out.glob("*.parquet"))) < 2 and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    assert kept
    assert not json.loads((out / "summary.json").read_text())["complete"]
    subprocess.run(command, check=True, capture_output=True)
    assert all(path.stat().st_mtime_ns == changed for path, changed in kept.items())
    rows = table(out)
    assert Counter(rows["source"]) == Counter(str(path) for path in data.iterdir())
    assert len(rows.filter(polars.col("error").is_not_null())) == 150
