"""Several files named at once."""

import zipfile

import pytest
from PIL import Image

from imprint import DataError, load
from imprint.data.readers import pattern
from imprint.data.readers.pattern import expand, is_pattern, kind_of_files


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a-008.tar", "a-009.tar", "a-010.tar", "b.tar", "c[1].tar", "x.parquet"):
        (tmp_path / name).touch()
    return tmp_path


def test_braces_and_stars(folder):
    assert expand("a-{008..010}.tar") == ["a-008.tar", "a-009.tar", "a-010.tar"]
    assert expand("{b,a-009}.tar") == ["b.tar", "a-009.tar"]
    assert expand("a-*.tar") == ["a-008.tar", "a-009.tar", "a-010.tar"]
    assert expand("a-00{8..9}.t?r") == ["a-008.tar", "a-009.tar"]
    assert not is_pattern("c[1].tar")  # which is the name of a file that is there
    assert not is_pattern("b.tar")
    assert kind_of_files(expand("*.tar"), "*.tar") == "archives"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("a-{008..011}.tar", "there is no file a-011.tar"),
        ("z*.tar", "no file is called so"),
        ("a-{5..1}.tar", "Count upwards"),
        ("a-{0..999999999}.tar", "Count upwards, to 1,000,000 files at most"),
        ("{0..999}{0..999}{0..999}.tar", "it names 1,000,000,000 files"),
    ],
)
def test_what_names_nothing_is_told(folder, given, words):
    with pytest.raises(DataError, match=words):
        expand(given)


def test_files_of_several_kinds_are_refused(folder):
    with pytest.raises(DataError, match="make no one data set"):
        kind_of_files(expand("*"), "*")
    assert pattern.MOST == 10**6


def test_archives_of_one_name_are_told_apart(folder):
    Image.new("L", (4, 4)).save(folder / "1.png")
    for name in "pq":
        (folder / name).mkdir()
        with zipfile.ZipFile(folder / name / "0.zip", "w") as archive:
            for member in ("dog/1.png", "cat/1.png"):
                archive.write("1.png", member)
    images = load("{p,q}/0.zip")
    assert images.sources.tolist()[1:3] == ["p/0.zip/dog/1.png", "q/0.zip/cat/1.png"]
    assert images.loaded_from.path == str(folder / "{p,q}/0.zip")
