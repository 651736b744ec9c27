import zipfile
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from imprint import DataError, load
from imprint.data import cache
from imprint.data.load import parts


def png(red=0):
    file = BytesIO()
    Image.new("RGB", (4, 4), (red, 1, 2)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def packed(tmp_path):
    """Write a .zip of members, given by name and content."""

    def write(members, name="pets.zip"):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in members.items():
                archive.writestr(member, content)
        return tmp_path / name

    return write


@pytest.fixture(autouse=True)
def nothing_is_unpacked_beside(tmp_path):
    yield
    assert all(path.suffix == ".zip" for path in tmp_path.iterdir())
    assert not (tmp_path.parent / "evil.png").exists()


def labelled(images):
    names = [images.class_names[label] for label in images.labels]
    return dict(zip(images.pixels[:, 0, 0, 0].tolist(), names, strict=True))


@pytest.mark.parametrize("top", ["", "pets/"])
def test_class_folders(packed, top):
    images = load(packed({f"{top}dog/1.png": png(1), f"{top}cat/2.png": png(2), f"__MACOSX/{top}dog/._1.png": b"x"}))
    assert labelled(images) == {1: "dog", 2: "cat"}
    assert sorted(images.sources) == ["pets.zip/cat/2.png", "pets.zip/dog/1.png"]


def test_parts(packed):
    path = packed({"train/dog/1.png": png(1), "train/cat/2.png": png(2), "test/cat/3.png": png(3)})
    assert parts(path) == ("train", "test")
    assert labelled(load(path)) == {1: "dog", 2: "cat"}
    assert labelled(load(path, part="test")) == {3: "cat"}


def test_flat(packed):
    assert load(packed({"b.png": png(1), "a.png": png(2)})).pixels[:, 0, 0, 0].tolist() == [2, 1]


def test_a_table_of_paths_inside(packed):
    table = "path,label,person\nx/1.png,dog,ann\nx/2.png,cat,bob\n../evil.png,cat,bob\nx/9.png,cat,bob\n"
    path = packed({"pets/x/1.png": png(1), "pets/x/2.png": png(2), "pets/pets.csv": table})
    images = load(path, group="person", allow_bad=0.5)
    assert labelled(images) == {1: "dog", 2: "cat"}
    assert images.groups.tolist() == ["ann", "bob"]
    assert {cause for _, cause in images.unreadable} == {"the archive has no such file"}


def test_one_file_of_another_form(packed, digits, tmp_path):
    arrays = BytesIO()
    np.savez(arrays, images=digits.pixels[:30], labels=digits.labels[:30])
    images = load(packed({"digits.npz": arrays.getvalue()}))
    assert np.array_equal(images.pixels, digits.pixels[:30])
    images = load(packed({"a/train.csv": "label,pixel0\ncat,7\n", "a/README.md": "words"}, "b.zip"))
    assert (images.pixels.tolist(), images.name) == ([[[[7]]]], "b.zip")
    halves = {}
    for name, array in (("images", digits.pixels[:30]), ("labels", digits.labels[:30])):
        file = BytesIO()
        np.save(file, array)
        halves[f"{name}.npy"] = file.getvalue()
    images = load(packed(halves, "c.zip"))
    assert np.array_equal(images.labels, digits.labels[:30])
    assert np.array_equal(images.pixels, digits.pixels[:30])


def test_parquet_inside(packed, tmp_path_factory):
    import polars

    path = tmp_path_factory.mktemp("p") / "t.parquet"
    polars.DataFrame({"image": [png(5), png(6)], "label": ["b", "a"]}).write_parquet(path)
    assert labelled(load(packed({"t.parquet": path.read_bytes()}))) == {5: "b", 6: "a"}


def test_the_archive_is_kept_decoded_until_it_changes(packed):
    members = {f"{'cat' if i % 2 else 'dog'}/{i}.png": png(i) for i in range(40)}
    before = len(cache.entries())
    first = load(packed(members))
    assert len(cache.entries()) == before + 1
    assert isinstance(load(packed(members)).pixels, np.memmap)
    assert np.array_equal(first.pixels, load(packed(members)).pixels)
    changed = load(packed(members | {"cat/1.png": png(200)}))
    assert 200 in changed.pixels


@pytest.mark.parametrize("name", ["../evil.png", "a/../../evil.png", "/evil.png", "C:\\evil.png", "..\\evil.png"])
def test_members_that_lead_out_are_named_and_left(packed, name):
    images = load(packed({name: png(9), **{f"cat/{i}.png": png(i) for i in range(6)}}))
    assert len(images) == 6
    assert images.unreadable[0][1] == "its path leads out of the archive"


def test_a_bomb_is_refused(packed):
    with pytest.raises(DataError, match="would grow"):
        load(packed({"cat/1.png": png(), "cat/2.png": b"\0" * 20_000_000}))
    with pytest.raises(DataError, match="would grow"):
        load(packed({"train.csv": b"label,pixel0\n" + b"0,0\n" * 5_000_000}))


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({}, "there are none"),
        ({"notes.txt": "x"}, "there are none"),
        ({"train.csv": "label,pixel0\na,1\n", "test.csv": "pixel0\n1\n"}, "train.csv and test.csv"),
        ({"cat/1.png": b"", "cat/2.png": png()}, "it is empty"),
    ],
)
def test_archives_that_cannot_be_used(packed, members, words):
    with pytest.raises(DataError, match=words):
        load(packed(members))


def test_damaged_archives(packed, tmp_path):
    path = packed({f"cat/{i}.png": png(i) for i in range(20)})
    whole = path.read_bytes()
    for content in (b"", b"junk", whole[:200]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"no \.zip"):
            load(path)
    place = whole.index(b"cat/5.png") + 20
    path.write_bytes(whole[:place] + b"XXXXXXXX" + whole[place + 8 :])
    images = load(path)
    assert len(images) == 19
    assert "archive is damaged" in images.unreadable[0][1]
