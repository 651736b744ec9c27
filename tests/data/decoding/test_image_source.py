import os
from pathlib import Path

import pytest

from imprint import DataError
from imprint.data.decoding import image_source as image_source
from imprint.data.decoding.image_source import read

OPEN = Path("/proc/self/fd")


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(b"image")
    return file


def test_a_file_by_path_by_name_or_by_content(path):
    assert read(path) == read(str(path)) == read(b"image") == b"image"


def test_a_file_that_comes_in_parts_is_read_whole(path, monkeypatch):
    monkeypatch.setattr(image_source.os, "read", lambda opened, size: b"pic")
    assert read(path) == b"image"


@pytest.mark.skipif(not OPEN.is_dir(), reason="open files are not listed here")
def test_no_file_stays_open(path):
    before = len(list(OPEN.iterdir()))
    read(path)
    with pytest.raises(DataError, match="directory"):
        read(path.parent)
    assert len(list(OPEN.iterdir())) == before


def test_a_file_that_cannot_be_read_says_why(path, monkeypatch):
    path.with_name("empty").write_bytes(b"")
    for name, words in (("none", "No such file"), ("", "directory"), ("empty", "it is empty"), ("a\0b", "null byte")):
        with pytest.raises(DataError, match=words):
            read(f"{path.parent}/{name}")
    monkeypatch.setattr(image_source, "MOST_BYTES", 6)
    with pytest.raises(DataError, match="larger than"):
        read(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="a pipe or a device"):
        read(tmp_path / "pipe.png")
