import gc
import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import imprint.core.memmap
from imprint import DataError
from imprint.core.memmap import (
    MIN_MAPPED,
    available_memory,
    in_chunks,
    keep_hashes,
    kept_hashes,
    mark_read_only,
    read_ahead,
    release,
    select_rows,
    take_rows,
)

COUNT, SIDE = 6000, 160
DECODED = COUNT * SIDE * SIDE / 1e6  # MB
linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads resident memory from /proc")


def mapped_file_memory():
    """MB of mapped files that are held in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssFile", "RssShmem"))) / 1000


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """154 MB of grey images that are all different."""
    path = tmp_path_factory.mktemp("mapped") / "pixels"
    pixels = np.memmap(path, np.uint8, "w+", shape=(COUNT, 1, SIDE, SIDE))
    patches = np.random.default_rng(0).integers(0, 256, (COUNT, 1, 8, 1, 8, 1), np.uint8)
    pixels.reshape(COUNT, 1, 8, SIDE // 8, 8, SIDE // 8)[:] = patches
    pixels.flush()
    return path


@pytest.fixture(params=["by the file", "through the map"])
def pixels(mapped, request):
    with open(mapped, "rb") as file:
        values = np.memmap(file, np.uint8, "c", shape=(COUNT, 1, SIDE, SIDE))
        return mark_read_only(values, file if request.param == "by the file" else None)


@linux
@pytest.mark.parametrize("part", [slice(None), slice(100, None)])
def test_memory_is_given_back(pixels, part):
    before = mapped_file_memory()
    assert pixels[part].any()
    int(pixels[part].sum())
    assert mapped_file_memory() > before + 0.8 * DECODED
    release(pixels[part])
    assert mapped_file_memory() < before + 10


@pytest.mark.parametrize("start", [0, 100])
def test_what_a_user_has_mapped_and_written_to_is_kept(mapped, start):
    own = np.memmap(mapped, np.uint8, "c", shape=(COUNT, 1, SIDE, SIDE))
    own[start] = 7
    release(own[start:])
    assert (select_rows(own, np.array([start])) == 7).all()
    assert (next(in_chunks(own[start:], 10))[0] == 7).all()
    assert (own[start] == 7).all()


def test_what_was_never_in_a_file_is_kept():
    values = np.frombuffer(mmap.mmap(-1, imprint.core.memmap.MIN_MAPPED + 1), np.uint8)
    values[:3] = 7
    release(values)
    assert values[:4].tolist() == [7, 7, 7, 0]


CHOICES = [
    np.array([COUNT - 1, 3, -3, 3, 0]),
    np.arange(0, COUNT, 2),
    np.arange(COUNT) % 3 == 0,
    np.array([], dtype=int),
]


@pytest.mark.parametrize("chosen", CHOICES)
def test_rows_are_those_of_plain_indexing(pixels, chosen):
    expected = np.asarray(pixels)[chosen]
    assert np.array_equal(take_rows(pixels, chosen), expected)
    assert np.array_equal(select_rows(pixels, chosen), expected)
    assert isinstance(select_rows(pixels, chosen), np.memmap) == (expected.nbytes > imprint.core.memmap.MIN_MAPPED)
    places = np.arange(COUNT)[chosen]
    parts = list(in_chunks(pixels, 700, places))
    assert [len(part) for part in parts[:-1]] == [700] * (len(parts) - 1)
    assert np.array_equal(np.concatenate([expected[:0], *parts]), expected)


def test_hashes_are_kept_of_whole_read_only_values_and_of_rows_selected_from_them(mapped, pixels):
    assert kept_hashes(pixels) is None
    hashes = np.arange(COUNT, dtype=np.uint64)
    keep_hashes(pixels, hashes)
    chosen = np.random.default_rng(0).permutation(COUNT)[: COUNT // 2]
    assert np.array_equal(kept_hashes(pixels), hashes)
    assert np.array_equal(kept_hashes(select_rows(pixels, chosen)), hashes[chosen])
    turned = pixels.transpose(0, 1, 3, 2)
    others = [pixels[1:], pixels[::-1], turned, np.array(pixels), select_rows(pixels, chosen[:10])]
    assert all(kept_hashes(other) is None for other in others)
    own = np.memmap(mapped, np.uint8, "c", shape=(COUNT, 1, SIDE, SIDE))  # its user may write to it
    keep_hashes(own, hashes)
    assert kept_hashes(own) is None


@pytest.mark.parametrize(
    "view",
    [
        lambda values: values[100:5000:3],
        lambda values: values[::-2],
        lambda values: values.reshape(COUNT, 2, SIDE, SIDE // 2)[:, 1:],
        lambda values: values.reshape(COUNT, SIDE, SIDE // 2, 2).transpose(0, 3, 1, 2),  # channels last
        lambda values: values[:, :, 10:20, 30:40],
        lambda values: values.reshape(COUNT, SIDE * SIDE)[:, 5],
        lambda values: values.view(np.int64),
    ],
    ids=["a slice", "backwards", "a channel", "channels last", "a window", "a number each", "another type"],
)
def test_rows_of_views_are_those_of_plain_indexing(pixels, view):
    values, rows = view(pixels), np.random.default_rng(1).integers(0, len(view(pixels)), 50)
    expected = np.asarray(values)[rows]
    taken = take_rows(values, rows)
    assert taken.dtype == expected.dtype
    assert taken.flags.c_contiguous
    assert np.array_equal(taken, expected)


@pytest.mark.parametrize("chosen", [[COUNT], [-COUNT - 1], [0.5], []])
def test_positions_that_are_none_are_refused(pixels, chosen):
    with pytest.raises(IndexError):
        take_rows(pixels, np.array(chosen, dtype=float if chosen in ([], [0.5]) else int))


@linux
def test_rows_at_random_leave_nothing_mapped(pixels):
    rows = np.random.default_rng(2).permutation(COUNT)[:2000]
    release(pixels)
    before = mapped_file_memory()
    read_ahead(pixels, rows)
    peak = before
    for start in range(0, len(rows), 100):
        take_rows(pixels, rows[start : start + 100])
        peak = max(peak, mapped_file_memory())
    assert peak < before + 10


@pytest.mark.skipif(not hasattr(os, "preadv"), reason="rows are read through the map")
def test_a_file_that_has_become_shorter_is_told(tmp_path):
    path = tmp_path / "pixels"
    path.write_bytes(bytes(MIN_MAPPED + 100))
    with open(path, "rb") as file:
        values = mark_read_only(np.memmap(file, np.uint8, "c", shape=(MIN_MAPPED // 100 + 1, 100)), file)
    os.truncate(path, 1050)
    assert not take_rows(values, np.arange(10)).any()
    read_ahead(values, np.array([3, 1000]))
    with pytest.raises(DataError, match="pixels: the file has become shorter"):
        take_rows(values, np.array([10]))


@linux
def test_the_file_is_open_for_as_long_as_the_map_is(mapped):
    def descriptors():
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    with open(mapped, "rb") as file:
        values = mark_read_only(np.memmap(file, np.uint8, "c", shape=(COUNT, SIDE)), file)
    assert descriptors() == before + 1
    part = values[5:]
    del values
    assert len(take_rows(part, np.array([1]))) == 1
    del part
    gc.collect()
    assert descriptors() == before


def test_chunks_of_chosen_rows_are_asked_for_before_they_are_read(pixels, monkeypatch):
    asked = []
    monkeypatch.setattr("imprint.core.memmap.read_ahead", lambda values, rows: asked.append(rows.tolist()))
    chunks = in_chunks(pixels, 2, np.array([9, 8, 7, 6, 5]))
    next(chunks)
    assert asked == [[9, 8], [7, 6]]
    list(chunks)
    assert asked == [[9, 8], [7, 6], [5], []]


def test_where_no_file_can_be_written_rows_are_kept_in_memory(pixels, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("imprint.core.memmap.cache_folder", lambda: tmp_path / "file" / "cache")
    half = select_rows(pixels, np.arange(0, COUNT, 2))
    assert not isinstance(half, np.memmap)
    assert np.array_equal(half, pixels[::2])


def test_a_copy_that_neither_disk_nor_memory_holds_is_refused(pixels, monkeypatch):
    monkeypatch.setattr("imprint.core.memmap.room_on_disk", lambda folder: 10**6)
    assert not isinstance(select_rows(pixels, np.arange(3000)), np.memmap)
    monkeypatch.setattr("imprint.core.memmap.available_memory", lambda: 10**7)
    with pytest.raises(DataError, match=r"3,000 images at .*: a copy takes 0.1 GB, more than disk and memory hold"):
        select_rows(pixels, np.arange(3000))


def test_a_container_has_the_memory_that_it_is_allowed(tmp_path, monkeypatch):
    group = tmp_path / "cgroup" / "jobs" / "one"
    group.mkdir(parents=True)
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 8000 kB\n")
    (tmp_path / "own").write_text("0::/jobs/one\n")
    real = Path
    places = {"/proc/meminfo": "meminfo", "/proc/self/cgroup": "own", "/sys/fs/cgroup": "cgroup"}
    monkeypatch.setattr(
        imprint.core.memmap,
        "Path",
        lambda first, *rest: real(tmp_path / places[first] if first in places else first, *rest),
    )
    assert available_memory() == int(0.7 * 8000 * 1024)
    (group / "memory.max").write_text("max\n")
    (group.parent / "memory.max").write_text("1000000\n")
    assert available_memory() == 700_000


WHOLE = """
import resource, sys
import numpy as np
import imprint
import imprint.core.memmap

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000

count, side = 6000, 160
pixels = imprint.core.memmap.mark_read_only(np.memmap(sys.argv[1], np.uint8, "c", shape=(count, 1, side, side)))
labels, sources = np.arange(count) % 2, np.arange(count).astype(str)
images = imprint.LabelledImages(pixels, labels, ("even", "odd"), sources)
fields = {"epochs": 1, "steps_per_epoch": 2, "batch_size": 32, "largest_side": 28}
few = imprint.LabelledImages(np.array(pixels[:400]), labels[:400], ("even", "odd"), sources[:400])

def all_of_it(images):
    for share in (0.5, 0):
        model = imprint.train(images, "quick", validation=share, verbose=False, **fields).model
    imprint.evaluate(model, images)
    imprint.check(images, labels=False, verbose=False)

all_of_it(few)
before = peak()
all_of_it(images)
print(peak() - before)
"""


@linux
def test_nothing_copies_mapped_images_whole(mapped):
    found = subprocess.run([sys.executable, "-c", WHOLE, mapped], capture_output=True, text=True, check=True)
    assert float(found.stdout) < 0.6 * DECODED, found.stdout
