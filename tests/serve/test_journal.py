"""The journal: what it has acknowledged stays, whatever happens."""

import os

import pytest

from imprint.core.errors import DataError
from imprint.serve.journal import Journal


def journal_of(path, *lines):
    journal = Journal(path)
    for line in lines:
        journal.append(line)
    journal.close()


@pytest.mark.parametrize("cut", range(1, 20))
def test_a_last_line_that_was_cut_short_goes_and_all_others_stay(tmp_path, cut):
    path = tmp_path / "journal"
    journal_of(path, {"a": 1}, {"b": "ü\n"}, {"c": 3})
    path.write_bytes(path.read_bytes()[:-cut])
    journal = Journal(path)
    assert journal.lines == [{"a": 1}, {"b": "ü\n"}][: 2 if cut < 18 else 1] or cut >= 18
    assert journal.lines[0] == {"a": 1}
    journal.append({"d": 4})
    journal.close()
    assert Journal(path).lines[-1] == {"d": 4}


def test_blocks_of_the_last_line_that_never_reached_the_disk_are_cut_off(tmp_path):
    path = tmp_path / "journal"
    journal_of(path, {"a": 1}, {"b": 2})
    path.write_bytes(path.read_bytes()[:-5] + b"\0\0\0\0\n")
    assert Journal(path).lines == [{"a": 1}]


def test_another_damaged_line_is_told_and_nothing_is_lost(tmp_path):
    path = tmp_path / "journal"
    journal_of(path, {"a": 1}, {"b": 2}, {"c": 3})
    before = path.read_bytes().replace(b'"b":2', b'"b":9')
    path.write_bytes(before)
    with pytest.raises(DataError, match=r"line 2 at .*its checksum is wrong"):
        Journal(path)
    assert path.read_bytes() == before


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.append({"a": 1})
    before = path.read_bytes()

    def refuse(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match="No space"):
            journal.append({"b": 2})
    assert path.read_bytes() == before
    journal.append({"c": 3})
    assert Journal(path).lines == [{"a": 1}, {"c": 3}]


def test_replacing_all_lines_goes_on_with_the_new_file(tmp_path):
    journal = Journal(tmp_path / "journal")
    journal.append({"a": 1})
    journal.replace([{"b": 2}])
    journal.append({"c": 3})
    assert Journal(tmp_path / "journal").lines == [{"b": 2}, {"c": 3}]
