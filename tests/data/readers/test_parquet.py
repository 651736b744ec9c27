import json
from io import BytesIO

import numpy as np
import polars
import pytest
from PIL import Image

from imprint import DataError, load
from imprint.data.readers import parquet


def png(red):
    file = BytesIO()
    Image.new("RGB", (4, 4), (red, 1, 2)).save(file, "PNG")
    return file.getvalue()


def metadata(**names):
    features = {column: {"names": list(classes), "_type": "ClassLabel"} for column, classes in names.items()}
    return {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}, **features}}})}


def save(tmp_path, table, **names):
    polars.DataFrame(table).write_parquet(tmp_path / "t.parquet", metadata=metadata(**names) if names else None)
    return tmp_path / "t.parquet"


def rows(count, **columns):
    return {"image": [{"bytes": png(i), "path": f"scene{i // 2}/{i}.png"} for i in range(count)], **columns}


def test_hugging_faces_form(tmp_path):
    images = load(save(tmp_path, rows(3, label=[1, 0, 1]), label=["dog", "cat"]))
    assert images.pixels[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert images.class_names == ("cat", "dog")  # mapped by name, not by position
    assert [images.class_names[i] for i in images.labels] == ["cat", "dog", "cat"]
    assert images.sources.tolist() == ["t.parquet#1", "t.parquet#2", "t.parquet#3"]


def test_plain_bytes_and_plain_labels(tmp_path):
    images = load(save(tmp_path, {"jpg": [png(5), png(6)], "label": [10, 9]}))
    assert images.class_names == ("9", "10")
    assert images.pixels[:, 0, 0, 0].tolist() == [5, 6]


def test_labels_of_a_column_that_only_the_metadata_names(tmp_path):
    images = load(save(tmp_path, rows(2, breed=[1, 0]), breed=["dog", "cat"]))
    assert images.class_names == ("cat", "dog")
    with pytest.raises(DataError, match="fine, coarse are there"):
        load(save(tmp_path, rows(2, fine=[1, 0], coarse=[0, 0]), fine=["a", "b"], coarse=["c"]))


def test_missing_bytes_and_labels_are_named(tmp_path):
    table = rows(20, label=["cat"] * 19 + [None])
    table["image"][3] = {"bytes": None, "path": "3.png"}
    table["image"][4] = None
    table["image"][5] = {"bytes": b"<html>", "path": "5.png"}
    images = load(save(tmp_path, table))
    assert dict(images.unreadable) == {
        "t.parquet#20": "its row has no label",
        "t.parquet#4": "its bytes are missing",
        "t.parquet#5": "its bytes are missing",
        "t.parquet#6": "it is a web page",
    }
    assert images.pixels[:, 0, 0, 0].tolist() == [0, 1, 2, *range(6, 19)]


def test_a_column_of_images_that_are_all_missing_is_named(tmp_path):
    for name in ("image", "picture"):
        with pytest.raises(DataError, match=r"3 of 3 images .*t.parquet#1: its bytes are missing"):
            load(save(tmp_path, {name: [None] * 3, "label": ["a", "b", "b"]}))


def test_a_test_set_has_no_labels(tmp_path):
    assert load(save(tmp_path, rows(2, label=[-1, -1]), label=["a", "b"])).labels is None
    assert load(save(tmp_path, rows(2))).labels is None


def test_labels_outside_the_names_are_refused(tmp_path):
    with pytest.raises(DataError, match="outside the 2 class names"):
        load(save(tmp_path, rows(2, label=[0, 2]), label=["a", "b"]))
    with pytest.raises(DataError, match="is no label"):
        load(save(tmp_path, rows(2, label=[0.5, 2.0])))


def test_groups_by_column_and_by_path(tmp_path):
    path = save(tmp_path, rows(4, label=[0, 1, 0, 1], person=["ann", "bob", "ann", None]))
    assert load(path, group="person").groups.tolist() == ["ann", "bob", "ann", ""]
    assert load(path, group=r"scene\d").groups.tolist() == ["scene0", "scene0", "scene1", "scene1"]


def test_columns_of_pixels(tmp_path, digits):
    flat = digits.pixels[:50].reshape(50, 64)
    table = {"label": digits.labels[:50]} | {f"pixel{i}": flat[:, i] for i in range(64)}
    images = load(save(tmp_path, table))
    assert np.array_equal(images.pixels, digits.pixels[:50])
    assert images.class_names == digits.class_names
    table["pixel3"] = table["pixel3"].astype(float) * 1.5
    with pytest.raises(DataError, match="column pixel3"):
        load(save(tmp_path, table))
    del table["pixel3"]
    with pytest.raises(DataError, match=r"pixel3 .*missing"):
        load(save(tmp_path, table))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1junkPAR1", b"junk" * 100])
def test_damaged_files_are_refused(tmp_path, content):
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(DataError, match="no Parquet file"):
        load(tmp_path / "t.parquet")


def test_metadata_that_is_nonsense_is_passed_over(tmp_path):
    path = tmp_path / "t.parquet"
    for nonsense in ("{", "[]", '{"info": 3}', '{"info": {"features": {"label": 1}}}'):
        polars.DataFrame(rows(2, label=[0, 1])).write_parquet(path, metadata={"huggingface": nonsense})
        assert load(path).class_names == ("0", "1")


def test_rows_are_read_some_at_a_time(tmp_path, monkeypatch):
    path = save(tmp_path, rows(40, label=["cat", "dog"] * 20))
    whole = load(path)
    monkeypatch.setattr(parquet, "READ_AT_ONCE", path.stat().st_size // 13)
    listed = parquet.read_parquet(path)
    assert [listed.open(i) for i in (39, 0, 20, 1)] == [png(i) for i in (39, 0, 20, 1)]
    assert np.array_equal(whole.pixels[:, 0, 0, 0], range(40))


def test_a_pattern_of_files_is_one_set(tmp_path):
    for i in range(3):
        polars.DataFrame(rows(2, label=["cat", "dog"])).write_parquet(tmp_path / f"{i}.parquet")
    images = load(str(tmp_path / "{0..2}.parquet"))
    assert (len(images), images.sources[3]) == (6, "1.parquet#2")
