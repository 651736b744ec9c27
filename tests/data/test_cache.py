import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from imprint import UsageError
from imprint.data import cache
from imprint.data.cache import Writer, read_facts


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("IMPRINT_CACHE", str(tmp_path / "cache"))


def keep(name, count=10, value=7):
    with cache.writing(name) as writer:
        for _ in range(count // 5):
            writer.add(np.full((5, 1, 2, 2), value, dtype=np.uint8))
        writer.facts = {"name": name, "shape": [count, 1, 2, 2]}
    return cache.folder() / f"{name}.images"


def test_what_is_kept_comes_back_mapped():
    keep("a")
    pixels, facts = cache.lookup("a")
    assert isinstance(pixels, np.memmap)
    assert (pixels == 7).all()
    assert pixels.shape == (10, 1, 2, 2)
    assert facts["name"] == "a"


def test_writing_to_what_came_back_changes_nothing_that_is_kept():
    keep("a")
    pixels, _ = cache.lookup("a")
    pixels[:] = 0
    assert (cache.lookup("a")[0] == 7).all()


@pytest.mark.parametrize("change", ["content", "rename", "touch", "same size and time"])
def test_a_changed_file_has_another_key(tmp_path, change):
    file = tmp_path / "a.png"
    file.write_bytes(b"abc")
    before = cache.key([file], "form")
    assert cache.key([file], "form") == before
    if change == "content":
        file.write_bytes(b"abcd")
    elif change == "rename":
        file = file.rename(tmp_path / "b.png")
    elif change == "touch":
        os.utime(file)
    else:  # as a tool does that restores a file's times: the time of the entry itself cannot be set
        times = file.stat()
        file.write_bytes(b"abd")
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert cache.key([file], "form") != before
    assert cache.key([file], "another form") != cache.key([file], "form")


def test_a_change_right_after_the_key_was_made_shows(tmp_path):
    """Times of files move in steps; two writes within one step would look the same."""
    file = tmp_path / "a.png"
    for step in range(20):
        file.write_bytes(b"%03d" % step)
        key = cache.key([file], "")
        file.write_bytes(b"%03d" % (step + 500))
        assert cache.key([file], "") != key


@pytest.mark.parametrize("damage", ["cut", "folder"])
def test_broken_files_are_not_used(damage):
    path = keep("a")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
        path.mkdir()
    assert cache.lookup("a") is None
    if damage == "cut":
        assert [entry.name for entry in cache.entries()] == ["broken"]
        keep("a")
        assert cache.lookup("a") is not None


def test_a_killed_run_leaves_nothing_that_counts():
    script = (
        "import os, numpy as np; from imprint.data import cache\n"
        "with cache.writing('a') as writer:\n"
        "    writer.add(np.zeros((5, 1, 2, 2), np.uint8)); writer._file.flush(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert cache.lookup("a") is None
    (left,) = cache.folder().iterdir()
    assert left.suffix == ".part"
    cache.bound()
    assert left.exists()  # it might still be written
    os.utime(left, (0, 0))
    cache.bound()
    assert not left.exists()


def test_an_error_half_way_leaves_nothing():
    with pytest.raises(RuntimeError), cache.writing("a") as writer:
        writer.add(np.zeros((5, 1, 2, 2), dtype=np.uint8))
        raise RuntimeError
    assert list(cache.folder().iterdir()) == []


def test_the_least_recently_used_goes_first():
    paths = [keep(name) for name in "abc"]
    for age, path in enumerate(paths):
        os.utime(path, (1000 - age, 1000 - age))
    cache.lookup("c")  # now the latest
    assert [entry.name for entry in cache.entries()] == ["b", "a", "c"]
    size = paths[0].stat().st_size
    assert cache.bound(2 * size) == size
    assert [entry.name for entry in cache.entries()] == ["a", "c"]
    assert cache.clear() == 2 * size
    assert cache.entries() == []


def test_the_limit_holds_but_spares_what_was_just_made(monkeypatch):
    monkeypatch.setenv("IMPRINT_CACHE_GB", "0.0000001")
    keep("a")
    keep("b")
    assert [entry.name for entry in cache.entries()] == ["b"]


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf"])
def test_a_limit_that_is_none_is_refused(monkeypatch, text):
    monkeypatch.setenv("IMPRINT_CACHE_GB", text)
    with pytest.raises(UsageError, match="gigabytes"):
        cache.limit()


def test_removing_does_not_harm_who_has_it_mapped():
    keep("a")
    pixels, _ = cache.lookup("a")
    cache.clear()
    assert (pixels == 7).all()


def test_processes_side_by_side_do_not_harm_each_other():
    script = (
        "import sys, numpy as np; from imprint.data import cache\n"
        "for round in range(40):\n"
        "    value = round % 250\n"
        "    with cache.writing(f'k{round % 3}') as writer:\n"
        "        writer.add(np.full((50, 1, 8, 8), value, np.uint8))\n"
        "        writer.facts = {'name': 'x', 'shape': (50, 1, 8, 8)}\n"
        "    if round % 7 == 0: cache.bound(5000)\n"
        "    found = cache.lookup(f'k{round % 3}')\n"
        "    assert found is None or (found[0] == found[0][0, 0, 0, 0]).all()\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert not [path for path in cache.folder().iterdir() if path.suffix == ".part"]


def test_using_counts_as_use():
    path = keep("a")
    os.utime(path, (1000, 1000))
    cache.lookup("a")
    assert time.time() - path.stat().st_mtime < 60


def test_a_file_dated_in_the_far_future_has_a_key(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"image")
    os.utime(path, ns=(13_600_000_000 * 10**9,) * 2)
    if path.stat().st_mtime_ns < 2**63:
        pytest.skip("this file system knows no such date")
    assert cache.key([path], "grey") == cache.key([path], "grey") != cache.key([path], "colour")


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.images"
    with open(path, "wb") as file:
        writer = Writer(file)
        writer.add(np.arange(20, dtype=np.uint8).reshape(5, 1, 2, 2))
        writer.add(np.arange(20, 40, dtype=np.uint8).reshape(5, 1, 2, 2)[..., ::-1])
        writer.facts = {"name": "a", "shape": [writer.images, 1, 2, 2]}
        writer.finish()
    return path


def test_pixels_stand_at_the_start_in_order_and_facts_behind_them(path):
    assert read_facts(path) == {"name": "a", "shape": [10, 1, 2, 2]}
    pixels = np.fromfile(path, dtype=np.uint8, count=40)
    assert pixels[:20].tolist() == list(range(20))
    assert pixels[20:24].tolist() == [21, 20, 23, 22]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content[:40],
        lambda content: content + content[-1:],
        lambda content: content[:4] + b"x" + content[4:],
        lambda content: content[4:],
        lambda content: content.replace(b'"shape"', b'"shapf"'),
        lambda content: content.replace(b"imprint2", b"imprint1"),
    ],
    ids=["empty", "cut", "no end", "an end too much", "more pixels", "fewer pixels", "other facts", "another mark"],
)
def test_a_file_whose_end_does_not_fit_is_none(path, damage):
    path.write_bytes(damage(path.read_bytes()))
    assert read_facts(path) is None


def keep_with_arrays(name="a"):
    hashes, sizes = np.arange(10, dtype=np.uint64) + 2**63, np.arange(20, dtype=np.int32).reshape(10, 2)
    with cache.writing(name) as writer:
        writer.add(np.full((10, 1, 2, 2), 7, dtype=np.uint8))
        writer.facts = {"name": name, "sizes": sizes, "shape": [10, 1, 2, 2], "hashes": hashes, "bad": [[3, "cut"]]}
    return cache.folder() / f"{name}.images", hashes, sizes


def test_facts_of_each_image_come_back_as_arrays():
    path, hashes, sizes = keep_with_arrays()
    pixels, facts = cache.lookup("a")
    assert (pixels == 7).all()
    for name, given in (("hashes", hashes), ("sizes", sizes)):
        assert facts[name].dtype == given.dtype
        assert np.array_equal(facts[name], given)
        assert not facts[name].flags.writeable
    assert {"columns", "bad"} & set(facts) == {"bad"}
    assert path.read_bytes()[40:200] == sizes.tobytes() + hashes.tobytes()  # no text, which took ten times as long
    assert [(entry.name, entry.images) for entry in cache.entries()] == [("a", 10)]


@pytest.mark.parametrize("at", [40, 199])
def test_a_file_whose_arrays_are_damaged_is_not_used(at):
    path, _, _ = keep_with_arrays()
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    assert cache.lookup("a") is None


@pytest.mark.parametrize("damage", [lambda content: content[1:], lambda content: content[:100] + content[108:]])
def test_a_file_with_other_arrays_than_it_describes_is_none(damage):
    path, _, _ = keep_with_arrays()
    path.write_bytes(damage(path.read_bytes()))
    assert read_facts(path) is None


def test_files_of_earlier_versions_go_with_the_next_one_written_and_broken_ones_by_age():
    earlier, broken = keep("earlier"), keep("broken")
    earlier.write_bytes(earlier.read_bytes()[:-1] + b"1")
    broken.write_bytes(broken.read_bytes()[:-1])
    keep("a")
    assert not earlier.exists()
    assert [entry.name for entry in cache.entries()] == ["broken", "a"]


def test_a_key_depends_on_every_path_in_its_order(small_lots):
    paths = [f"{i}.png" for i in range(7)]
    assert (
        len({cache.key(some, "") for some in (paths, paths[:6], paths[::-1], [*paths[:2], "1.png", *paths[3:]])}) == 4
    )
    assert cache.key(["a", "b"], "") != cache.key(["ab"], "")
    assert cache.key([], "form") != cache.key([""], "form")


@pytest.fixture
def small_lots(monkeypatch):
    monkeypatch.setattr(cache, "PATHS_AT_ONCE", 3)


def test_a_file_that_is_not_there_is_none(tmp_path):
    assert read_facts(tmp_path / "b.images") is None
    assert read_facts(tmp_path) is None


def test_one_decodes_and_the_others_wait():
    entered = threading.Event()

    def other():
        with cache.sole_decoder("a"):
            entered.set()

    with cache.sole_decoder("b"), cache.sole_decoder("a"):
        thread = threading.Thread(target=other)
        thread.start()
        assert not entered.wait(0.3)
    assert entered.wait(10)
    thread.join()
    assert not list(cache.folder().glob("*.lock"))


@pytest.fixture
def small(monkeypatch, caplog):
    """A cache of 180 bytes at most, in which every removal is told; gives what was said since."""
    caplog.set_level("INFO", "imprint")

    monkeypatch.setattr(cache, "WORTH_A_LINE", 10)
    monkeypatch.setenv("IMPRINT_CACHE_GB", "0.00000018")

    def said():
        text = caplog.text
        caplog.clear()
        return text

    return said


def test_what_a_run_has_mapped_stays_beyond_the_limit_and_is_told(small):
    keep("training")
    training, _ = cache.lookup("training")
    small()
    keep("validation")
    assert "GB are in use, which stay until others need the room; otherwise at most 1.8e-07 GB" in small()
    validation, _ = cache.lookup("validation")
    keep("test")
    assert [entry.name for entry in cache.entries()] == ["training", "validation", "test"]
    del training, validation
    small()
    keep("another")
    assert "cache: removed training, validation, test (" in small()
    assert [entry.name for entry in cache.entries()] == ["another"]


def test_a_part_of_what_is_mapped_keeps_all_of_it(small):
    keep("a")
    part = cache.lookup("a")[0][5:]
    keep("b")
    assert [entry.name for entry in cache.entries()] == ["a", "b"]
    assert cache.bound(0)
    assert cache.entries() == []  # who clears the cache clears all of it
    assert (part == 7).all()


def test_room_is_made_on_the_disk_before_anything_is_written(small, monkeypatch):
    monkeypatch.delenv("IMPRINT_CACHE_GB")
    paths = [keep(name) for name in "abc"]
    for age, path in enumerate(paths):
        os.utime(path, (1000 + age, 1000 + age))
    free, size = 5, paths[0].stat().st_size
    present = {path.name for path in paths}

    def room(folder):
        assert folder == cache.folder()
        return free + size * (len(present) - len(list(folder.glob("*.images"))))

    monkeypatch.setattr(cache, "room_on_disk", room)
    first, _ = cache.lookup("a")
    with cache.writing("d", size + 5) as writer:
        assert [entry.name for entry in cache.entries()] == ["c", "a"]  # of the others the oldest
        assert "cache: removed b (0.0 GB), the least recently used: 0.0 GB are needed on the disk" in small()
        writer.facts = {"name": "d", "shape": [0]}
    with pytest.raises(OSError, match="and there is room for"), cache.writing("e", 100 * size):
        raise AssertionError
    assert sorted(entry.name for entry in cache.entries()) == ["a", "c", "d"]  # nothing went, as it would not do
    assert len(first) == 10
