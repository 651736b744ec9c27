import os
from pathlib import Path

import pytest
from PIL import UnidentifiedImageError

from imprint import DataError
from imprint.data.decoding import content
from imprint.data.decoding.content import image_error, is_bomb, read_content, to_utf8

DESCRIPTORS = Path("/proc/self/fd")


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(b"image")
    return file


def test_a_file_by_path_by_name_or_by_content(path):
    assert read_content(path) == read_content(str(path)) == read_content(b"image") == b"image"


def test_a_file_that_comes_in_parts_is_read_whole(path, monkeypatch):
    monkeypatch.setattr(content.os, "read", lambda descriptor, size: b"ima")
    assert read_content(path) == b"image"


@pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="open files are not listed here")
def test_no_file_stays_open(path):
    before = len(list(DESCRIPTORS.iterdir()))
    read_content(path)
    with pytest.raises(DataError, match="directory"):
        read_content(path.parent)
    assert len(list(DESCRIPTORS.iterdir())) == before


def test_a_file_that_cannot_be_read_says_why(path, monkeypatch):
    path.with_name("empty").write_bytes(b"")
    for name, words in (("none", "No such file"), ("", "directory"), ("empty", "it is empty"), ("a\0b", "null byte")):
        with pytest.raises(DataError, match=words):
            read_content(f"{path.parent}/{name}")
    monkeypatch.setattr(content, "MAX_BYTES", 4)
    with pytest.raises(DataError, match="larger than"):
        read_content(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match="a pipe or a device"):
        read_content(tmp_path / "pipe.png")


def test_other_formats_are_named():
    assert image_error(b"<html></html>", UnidentifiedImageError()).cause == "it is a web page"
    assert image_error(b"\0\0\0 ftypqt  ", UnidentifiedImageError()).cause == "it is a video; save frames of it as JPEG"


def test_a_bomb_is_told_by_its_sizes():
    assert not is_bomb(1000, 2**20)
    assert not is_bomb(10**6, 2 * 10**8)
    assert is_bomb(10**6, 10**9)


def test_text_of_excel_becomes_utf8():
    assert to_utf8("label".encode("utf-16")) == to_utf8(b"\xef\xbb\xbflabel") == b"label"
