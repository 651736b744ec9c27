"""Lists of corrected labels, laid over the data's own."""

import numpy as np
import pytest
from PIL import Image

import imprint
from helpers import pixel_table
from imprint.core.errors import DataError, UsageError
from imprint.data.load import load_again
from imprint.data.readers.corrections import full_sources


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Four images of two classes; the test works in the folder above them."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("cat/1", "cat/2", "dog/1", "dog/2")):
        path = tmp_path / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 50 * number, dtype=np.uint8)).save(path)
    return "photos"


def labels_of(images):
    return [images.class_names[label] for label in images.labels]


def test_labels_of_a_list_replace_those_of_the_data(photos, table, caplog):
    caplog.set_level("INFO", "imprint")
    path = table("source,label,prediction\nphotos/cat/2.png,dog,dog\nphotos/dog/1.png,dog,cat\n")
    images = imprint.load(photos, labels=path)
    assert labels_of(images) == ["cat", "dog", "dog", "dog"]
    assert caplog.messages == ["labels of table.csv: 1 of 4 changed"]
    assert load_again(images.loaded_from).fingerprint == images.fingerprint != imprint.load(photos).fingerprint


def test_an_empty_label_leaves_the_image_out(photos, table, caplog):
    caplog.set_level("INFO", "imprint")
    images = imprint.load(photos, labels=table("source,label\nphotos/cat/2.png,\n"))
    assert images.sources.tolist() == ["photos/cat/1.png", "photos/dog/1.png", "photos/dog/2.png"]
    assert caplog.messages == ["labels of table.csv: 0 of 4 changed, 1 image without a label left out"]


def test_a_class_may_lose_its_last_image_and_numbers_are_classes_by_value(tmp_path, table, digits):
    (tmp_path / "train.csv").write_text(pixel_table(digits[:12]))
    path = table("source;label\ntrain.csv row 3;07.0\ntrain.csv row 1;1\n")
    images = imprint.load(tmp_path / "train.csv", labels=path)
    assert labels_of(images)[:4] == ["1", "1", "7", "3"]
    assert images.class_names == digits.class_names


@pytest.mark.parametrize("start", ["", "./", "{folder}/", "../{name}/"])
def test_the_same_file_is_found_by_other_paths(photos, table, tmp_path, start):
    start = start.format(folder=tmp_path, name=tmp_path.name)
    path = table(f"source,label\n{start}photos/cat/1.png,dog\n")
    assert labels_of(imprint.load(photos, labels=path))[0] == "dog"
    assert labels_of(imprint.load(tmp_path / "photos", labels=path))[0] == "dog"


def test_a_list_of_check_and_one_from_excel_are_read(photos, tmp_path):
    (tmp_path / "clean.csv").write_text("path,label\nphotos/cat/1.png,dog\n")
    (tmp_path / "excel.csv").write_bytes("source;label\nphotos/cat/1.png;dog\n".encode("utf-16"))
    for name in ("clean.csv", "excel.csv"):
        assert labels_of(imprint.load(photos, labels=name))[0] == "dog"


def test_a_list_may_name_images_of_any_part(tmp_path, table, photos):
    (tmp_path / "whole").mkdir()
    (tmp_path / photos).rename(tmp_path / "whole" / "train")
    bird = tmp_path / "whole" / "test" / "bird" / "1.png"
    bird.parent.mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(bird)
    path = table("source,label\nwhole/train/cat/1.png,bird\nwhole/test/bird/1.png,cat\n")
    training = imprint.load("whole", labels=path)
    assert (labels_of(training)[0], training.class_names) == ("bird", ("bird", "cat", "dog"))
    assert labels_of(imprint.load("whole", part="test", labels=path)) == ["cat"]
    with pytest.raises(DataError, match="no such image"):
        imprint.load("whole", labels=table("source,label\nwhole/other/1.png,cat\n"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            "source,label\nphotos/cat/9.png,dog\nx.png,cat\n",
            "source photos/cat/9.png and 1 more at table.csv: photos has",
        ),
        ("source,label\nphotos/cat/1.png,dgo\n", "has no such class, and a misspelling .* Did you mean dog?"),
        ("source,label,given\nphotos/cat/1.png,dog,bird\n", "the list says that its label was 'bird', and it is 'cat'"),
        ("source,label\nphotos/cat/1.png,dog\nphotos/cat/1.png,cat\n", "it is there twice, as 'dog' and 'cat'"),
        ("source,prediction\nphotos/cat/1.png,dog\n", "no column is called label"),
        ("label,prediction\ncat,dog\n", "no column is called source"),
        ("source,label\nphotos/cat/1.png\n", "1 cells at table.csv line 2"),
        ("", "no column is called source"),
        (b"\x1f\x8b\x08broken", "gzip"),
        (b"\xff\xfa\x00", "it is not UTF-8"),
        (
            "source,label\n" + "".join(f"photos/{one}.png,\n" for one in ("cat/1", "cat/2", "dog/1", "dog/2")),
            "no image",
        ),
    ],
)
def test_other_lists_are_refused_in_one_line(photos, table, content, words):
    with pytest.raises(DataError, match=words):
        imprint.load(photos, labels=table(content))


def test_what_is_no_list_is_refused(photos, digits, unchecked):
    with pytest.raises(DataError, match="cannot be read"):
        imprint.load(photos, labels="nowhere.csv")
    with pytest.raises(DataError, match="cannot be read"):
        imprint.load(photos, labels=photos)
    for call in (imprint.load, imprint.train):
        with pytest.raises(UsageError, match="ndarray of int64 is no path of a list of corrected labels"):
            call(photos, labels=digits.labels)


def test_rows_are_corrected_only_in_the_table_that_the_list_names(tmp_path, table, digits):
    (tmp_path / "train.csv").write_text(pixel_table(digits[:12]))
    for source in ("3", "test.csv row 3"):
        with pytest.raises(DataError, match=r"train\.csv has no such image"):
            imprint.load(tmp_path / "train.csv", labels=table(f"source,label\n{source},7\n"))
    assert full_sources(imprint.load(tmp_path / "train.csv"))[2] == "train.csv row 3"


def test_labels_that_were_corrected_in_the_data_since_are_taken(photos, table):
    path = table("source,label,given\nphotos/cat/1.png,cat,dog\n")
    assert labels_of(imprint.load(photos, labels=path))[0] == "cat"


def test_names_that_spreadsheets_change_are_recognised(tmp_path, table, digits):
    names = ("007", " cat", "nan", *digits.class_names[3:])
    numpy_file = tmp_path / "x.npz"
    np.savez(numpy_file, images=digits.pixels[:6], labels=np.array(names)[digits.labels[:6]])
    assert labels_of(imprint.load(numpy_file))[:3] == list(names[:3])
    path = table("source,label,given\nx.npz#1,cat,7\nx.npz#2,7.0,cat\nx.npz#4,nan,3\nx.npz#5,NaN,4\n")
    images = imprint.load(numpy_file, labels=path)
    assert labels_of(images) == [" cat", "007", "nan", "nan", "5"]
