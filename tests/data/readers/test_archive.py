import gzip
import os
import tarfile
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
    assert all(path.suffix in (".zip", ".tar", ".tgz", ".gz", ".bz2") for path in tmp_path.iterdir())
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


MODES = {"pets.tar": "w", "pets.tar.gz": "w:gz", "pets.tgz": "w:gz", "pets.tar.bz2": "w:bz2"}


def member(name, size=0, kind=tarfile.REGTYPE, target=""):
    found = tarfile.TarInfo(name)
    found.size, found.type, found.linkname = size, kind, target
    return found


@pytest.fixture
def tarred(tmp_path):
    """Write a .tar of members by name and content, or of headers made by hand."""

    def write(members, name="pets.tgz", **options):
        with tarfile.open(tmp_path / name, MODES[name], **options) as archive:
            for path, content in members.items():
                if isinstance(content, tarfile.TarInfo):
                    archive.addfile(content)
                else:
                    content = content.encode() if isinstance(content, str) else content
                    archive.addfile(member(path, len(content)), BytesIO(content))
        return tmp_path / name

    return write


@pytest.mark.parametrize("name", MODES)
def test_class_folders_in_a_tar(tarred, name):
    members = {f"pets/{'dog' if i % 2 else 'cat'}/{i}.png": png(i) for i in range(40)}
    path = tarred({"pets/LICENSE.txt": "words", **members, "pets/dog/._1.png": "x"}, name)
    for _ in range(2):  # decoded, then from the cache
        images = load(path)
        assert labelled(images) == {i: "dog" if i % 2 else "cat" for i in range(40)}
    assert images.sources[0] == f"{name}/cat/0.png"


def test_parts_and_tables_in_a_tar(tarred):
    path = tarred({"train/dog/1.png": png(1), "train/cat/2.png": png(2), "test/cat/3.png": png(3)})
    assert parts(path) == ("train", "test")
    assert labelled(load(path, part="test")) == {3: "cat"}
    path = tarred(
        {"x/1.png": png(1), "x/2.png": png(2), "pets.csv": "path,label\nx/1.png,dog\nx/2.png,cat\n"}, "pets.tar"
    )
    assert labelled(load(path)) == {1: "dog", 2: "cat"}


def test_data_sets_in_a_tar(tarred, digits):
    arrays = BytesIO()
    np.savez(arrays, images=digits.pixels[:30])
    assert np.array_equal(load(tarred({"digits.npz": arrays.getvalue()})).pixels, digits.pixels[:30])
    record = bytes([1, *[7] * 3072])
    path = tarred({
        "cifar-10-batches-bin/data_batch_1.bin": record * 2,
        "cifar-10-batches-bin/test_batch.bin": record,
        "cifar-10-batches-bin/batches.meta.txt": "airplane\ncat\n",
        "cifar-10-batches-bin/readme.html": "<html>",
    })  # fmt: skip
    assert parts(path) == ("train", "test")
    assert load(path).class_counts() == {"cat": 2}
    assert len(load(path, part="test")) == 1
    with pytest.raises(DataError, match="it has train and test"):
        load(path, part="validation")
    rows = [
        f"{i % 2},{' '.join(map(str, digits.pixels[i].ravel()))},{'Training' if i else 'PublicTest'}" for i in range(4)
    ]
    table = "\n".join(["emotion,pixels,Usage", *rows])
    path = tarred({"fer2013/README": "words", "fer2013/fer2013.bib": "@misc{}", "fer2013/fer2013.csv": table})
    assert parts(path) == ("train", "validation")
    assert np.array_equal(load(path, part="validation").pixels, digits.pixels[:1])


def test_webdataset(tarred):
    members = {
        f"{i:05}.{end}": png(i) if end == "png" else str(i % 3) for i in range(6) for end in ("png", "cls", "json")
    }
    images = load(tarred({**members, "00009.png": png(9)}, "pets.tar"))
    assert labelled(images) == {i: str(i % 3) for i in range(6)}
    assert images.unreadable == (("pets.tar/00009.png", "there is no class beside it"),)
    with pytest.raises(DataError, match=r"part test at pets\.tar: it is not divided"):
        load(tarred(members, "pets.tar"), part="test")
    assert load(tarred(members, "pets.tar"), label=r"^(\d)").class_names == ("0",)


@pytest.mark.parametrize("root", ["", "quick/"])
def test_arrays_in_an_archive_are_read_as_those_of_a_folder(packed, digits, root):
    def stored(array):
        file = BytesIO()
        np.save(file, array)
        return file.getvalue()

    named = {"X_train": digits.pixels[:9], "y_train": digits.labels[:9], "X_test": digits.pixels[9:12]}
    path = packed({f"{root}{name}.npy": stored(array) for name, array in named.items()})
    assert parts(path) == ("train", "test")
    assert load(path).labels.tolist() == digits.labels[:9].tolist()
    path = packed({f"{root}full_numpy_bitmap_{name}.npy": stored(digits.pixels[:5]) for name in ("cat", "dog")})
    assert load(path).class_counts() == {"cat": 5, "dog": 5}


def test_files_without_an_ending_are_images_where_a_table_names_them(packed):
    path = packed({"x/1": png(1), "x/2": png(2), "pets.csv": "path,label\nx/1,dog\nx/2,cat\n"})
    assert labelled(load(path)) == {1: "dog", 2: "cat"}


def test_archives_in_an_archive_are_refused(tarred):
    with pytest.raises(DataError, match=r"it holds archives, first n01440764\.tar. Unpack it"):
        load(tarred({"n01440764.tar": b"x", "n01443537.tar": b"x"}, "pets.tar"))


@pytest.mark.parametrize("name", ["pets.tar", "pets.tgz"])
@pytest.mark.parametrize(
    ("bad", "cause"),
    [
        (member("../evil.png"), "its path leads out of the archive"),
        (member("/evil.png"), "its path leads out of the archive"),
        (member("cat/link.png", kind=tarfile.SYMTYPE, target="/etc/passwd"), "it is a link or a device, no file"),
        (member("cat/hard.png", kind=tarfile.LNKTYPE, target="cat/1.png"), "it is a link or a device, no file"),
        (member("cat/null.png", kind=tarfile.CHRTYPE), "it is a link or a device, no file"),
        (member("cat/pipe.png", kind=tarfile.FIFOTYPE), "it is a link or a device, no file"),
        (member("cat/holes.png", kind=tarfile.GNUTYPE_SPARSE), "it is stored with holes (sparse)"),
    ],
    ids=lambda one: one.name if isinstance(one, tarfile.TarInfo) else "",
)
def test_unsafe_members_of_a_tar_are_named_and_left(tarred, name, bad, cause):
    images = load(tarred({"bad": bad, **{f"cat/{i}.png": png(i) for i in range(6)}}, name))
    assert images.pixels[:, 0, 0, 0].tolist() == list(range(6))
    assert images.unreadable == ((f"{name}/{bad.name}", cause),)


def test_bombs_in_a_tar_are_refused(tarred, tmp_path):
    zeros = {"cat/1.png": png(), "cat/2.png": b"\0" * 30_000_000}
    with pytest.raises(DataError, match="would grow to more than"):
        load(tarred(zeros))
    with pytest.raises(DataError, match="would grow to more than"):
        load(tarred(zeros, "pets.tar.bz2"))
    (tmp_path / "train.csv").write_bytes(b"label,pixel0\n" + b"0,0\n" * 5_000_000)
    content = gzip.compress((tmp_path / "train.csv").read_bytes())
    (tmp_path / "train.csv").unlink()
    with pytest.raises(DataError, match="would grow"):
        load(tarred({"train.csv.gz": content}, "pets.tar"))


def test_members_that_share_bytes_are_a_bomb(packed, monkeypatch):
    path = packed({f"cat/{i}.png": png(i) for i in range(5)})
    monkeypatch.setattr("imprint.data.readers.archive.is_bomb", lambda packed, unpacked: unpacked > 5 * len(png()) - 20)
    with pytest.raises(DataError, match=r"archive at pets\.zip: .* would grow"):
        load(path)


def test_room_on_the_disk_is_kept(tarred, monkeypatch):
    path = tarred({"cat/1.png": png()})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: os.terminal_size((0, 0)) and type("", (), {"free": 100}))
    with pytest.raises(DataError, match="more than half of the free space"):
        load(path)


@pytest.mark.parametrize("name", ["pets.tar", "pets.tgz", "pets.tar.bz2"])
def test_damaged_tars(tarred, name):
    path = tarred({f"cat/{i}.png": os.urandom(2000) for i in range(20)}, name)
    whole = path.read_bytes()
    for content in (b"", b"junk", whole[:600], whole[: len(whole) // 2 + 300]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"no \.tar"):
            load(path)


def test_a_damaged_header_is_not_taken_for_the_end(tarred):
    path = tarred({f"cat/{i}.png": png(i) for i in range(20)}, "pets.tar")
    whole = bytearray(path.read_bytes())
    whole[whole.index(b"cat/9.png") + 150] ^= 1  # in its checksum
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"no \.tar"):
        load(path)


def test_a_tar_that_ends_between_two_members_is_said_to_be_cut(tarred, caplog):
    caplog.set_level("INFO", logger="imprint")
    path = tarred({f"cat/{i}.png": png(i) for i in range(20)}, "pets.tar")
    path.write_bytes(path.read_bytes()[: 12 * 1024])
    assert len(load(path)) == 12
    assert caplog.messages == ["pets.tar has no mark at its end, so it may be cut short"]


def test_a_packed_tar_is_unpacked_once(tarred, monkeypatch):
    opened = []
    monkeypatch.setattr("gzip.open", lambda path: opened.append(path) or gzip.GzipFile(path))
    assert len(load(tarred({f"cat/{i}.png": png(i) for i in range(50)}))) == 50
    assert len(opened) == 1


def shard(path, members):
    with tarfile.open(path, "w") as archive:
        for member, content in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, BytesIO(content))
    return path


def webdataset(first, count, ending, told):
    """Members of a WebDataset shard: images and what is told of each."""
    members = {}
    for i in range(first, first + count):
        members[f"{i:04}.png"] = png(i)
        members[f"{i:04}{ending}"] = told(i).encode()
    return members


TOLD = {
    ".cls": lambda i: str(i % 2),
    ".json": lambda i: f'{{"width": 4, "label": {i % 2}}}',
    ".txt": lambda i: f"{i % 2}\n",
}


@pytest.mark.parametrize("ending", TOLD)
def test_shards_of_webdataset(tmp_path, ending):
    for number in range(3):
        shard(tmp_path / f"train-{number:03}.tar", webdataset(4 * number, 4, ending, TOLD[ending]))
    shard(tmp_path / "val-000.tar", webdataset(100, 2, ending, TOLD[ending]))
    for data in (tmp_path, tmp_path / "train-{000..002}.tar", tmp_path / "train-*.tar"):
        images = load(str(data))
        assert labelled(images) == {i: str(i % 2) for i in range(12)}
        assert images.sources[5] == "train-001.tar/0005.png"
    assert parts(tmp_path) == ("train", "validation")
    assert labelled(load(tmp_path, part="validation")) == {100: "0", 101: "1"}


def test_a_field_of_the_facts_is_chosen_and_captions_are_no_classes(tmp_path):
    facts = shard(tmp_path / "facts.tar", webdataset(0, 4, ".json", lambda i: f'{{"kind": "{"ab"[i % 2]}"}}'))
    assert labelled(load(facts, label="kind")) == {0: "a", 1: "b", 2: "a", 3: "b"}
    assert load(facts).labels is None
    captions = shard(tmp_path / "captions.tar", webdataset(0, 4, ".txt", lambda i: f"photo {i} of a dog"))
    assert load(captions).labels is None
    boxes = shard(tmp_path / "boxes.tar", webdataset(0, 4, ".txt", lambda i: "0 0.5 0.5 0.1 0.1"))
    with pytest.raises(DataError, match="object detection"):
        load(boxes)


def test_shards_that_differ_are_refused(tmp_path):
    shard(tmp_path / "0.tar", webdataset(0, 2, ".cls", TOLD[".cls"]))
    shard(tmp_path / "1.tar", {"a.png": png(1), "b.png": png(2)})
    with pytest.raises(DataError, match=r"archive at 1.tar: its images have no labels, and those of 0.tar"):
        load(tmp_path)
