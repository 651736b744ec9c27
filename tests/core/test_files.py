import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from imprint import UsageError
from imprint.core.files import (
    cache_folder,
    has_writer,
    make_folder,
    remove_unfinished,
    similar_path,
    sole_writer,
    written_whole,
)


def test_a_failure_half_way_leaves_the_old_file(tmp_path):
    path = tmp_path / "result.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError), written_whole(path) as temporary:
        temporary.write_text("ne")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_appears_only_once_whole(tmp_path):
    path = tmp_path / "result.csv"
    with written_whole(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"


def test_a_missing_folder_is_refused(tmp_path):
    with (
        pytest.raises(UsageError, match="cannot be written"),
        written_whole(tmp_path / "no" / "a.csv") as temporary,
    ):
        temporary.write_text("x")


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="no such folder"), written_whole(tmp_path / "file" / "a.csv") as temporary:
        temporary.write_text("x")


@pytest.mark.parametrize("path", [".", "", ".."])
def test_a_folder_is_no_file(path):
    with pytest.raises(UsageError, match="it is a folder"), written_whole(path):
        pass


@pytest.mark.parametrize(("number", "remedy"), [(28, "Free some space"), (30, "Choose a folder that exists")])
def test_a_full_or_read_only_disk_leaves_the_old_file(tmp_path, monkeypatch, number, remedy):
    def fails(descriptor):
        raise OSError(number, os.strerror(number))

    (tmp_path / "a.csv").write_text("old")
    monkeypatch.setattr("os.fsync", fails)
    with (
        pytest.raises(UsageError, match=f"{os.strerror(number)}.*{remedy}"),
        written_whole(tmp_path / "a.csv") as temporary,
    ):
        temporary.write_text("new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_the_file_is_on_disk_before_it_appears_and_its_name_after(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr("os.fsync", lambda descriptor: synced.append((tmp_path / "a").exists()))
    with written_whole(tmp_path / "a") as temporary:
        temporary.write_text("x")
    assert synced == [False, True]


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    for name in (".model.safetensors.123.part", "model.safetensors", ".hidden"):
        (tmp_path / name).write_text("x")
    remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "model.safetensors"]


def test_a_folder_is_made_with_its_parents_or_refused(tmp_path):
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="it cannot be made"):
        make_folder(tmp_path / "file" / "b")


def test_a_folder_has_one_writer_at_a_time(tmp_path):
    pytest.importorskip("fcntl")
    with (
        sole_writer(tmp_path),
        pytest.raises(UsageError, match="another process is training in it"),
        sole_writer(tmp_path),
    ):
        pass
    with sole_writer(tmp_path):
        pass


def test_the_cache_folder_is_found_by_environment_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("IMPRINT_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("IMPRINT_CACHE")
    assert cache_folder() == tmp_path / "xdg" / "imprint"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "imprint"


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("photos/cat/tom.jpg", ""),
        ("photo/cat/tom.jpg", "photos/cat/tom.jpg"),
        ("photos/cats", "photos/cat"),
        ("photos/cat/TOM.JPEG", "photos/cat/tom.jpg"),
        ("photo/dog", ""),
        ("x\0y", ""),
        ("digit", "digits"),
    ],
)
def test_a_wrong_path_offers_what_stands_beside_it(tmp_path, monkeypatch, wrong, meant):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos/cat").mkdir(parents=True)
    (tmp_path / "photos/cat/tom.jpg").write_text("")
    assert similar_path(wrong, others=("digits",)) == (f"Did you mean {meant}? " if meant else "")


@pytest.mark.skipif(os.name == "nt", reason="folders cannot be locked on Windows")
def test_a_writer_is_seen_while_its_process_lives(tmp_path):
    assert not has_writer(tmp_path)
    script = "import sys, time, pathlib\nfrom imprint.core.files import sole_writer\n"
    script += "with sole_writer(pathlib.Path(sys.argv[1])): print('locked', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"locked\n"
        assert has_writer(tmp_path)
        process.kill()
        process.wait()
        assert not has_writer(tmp_path)
    assert not has_writer(tmp_path / "nowhere")


@pytest.mark.skipif(sys.platform == "win32", reason="has no such links and pipes")
def test_links_stay_and_pipes_get_the_content(tmp_path):
    target, link, pipe = tmp_path / "there" / "target.csv", tmp_path / "link.csv", tmp_path / "pipe"
    target.parent.mkdir()
    target.write_text("old")
    link.symlink_to(target)
    os.mkfifo(pipe)
    with written_whole(link) as temporary:
        temporary.write_text("new")
    assert (link.is_symlink(), target.read_text()) == (True, "new")
    received = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_text()))
    reader.start()
    with written_whole(pipe) as temporary:
        temporary.write_text("all of it")
    reader.join()
    assert received == ["all of it"]
    assert pipe.is_fifo()
    with written_whole("/dev/null") as temporary:
        temporary.write_text("nothing")
    assert Path("/dev/null").is_char_device()
