"""Images sorted into a folder for each predicted class."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

import imprint
from imprint.core.errors import UsageError
from imprint.data.load import find_originals
from imprint.models.predictor import Predictions
from imprint.models.sorting import check_sorting, class_folders, safe_name, sort_into

NAMES = ("cat", "a/b")


def says(sources, classes, unsure=(), ids=None):
    """Predictions of some classes for images with these sources."""
    probabilities = np.eye(2, dtype=np.float32)[list(classes)]
    uncertainty = np.isin(np.arange(len(sources)), list(unsure)).astype(np.float32)
    return Predictions(probabilities, NAMES, np.array(sources), uncertainty, 0.5, ids=ids)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Five images in three folders, two of one name and two of one content; the third cannot be read."""
    monkeypatch.chdir(tmp_path)
    for level, name in enumerate(("x/1.png", "x/2.png", "y/1.png", "y/broken.png", "z/1.png")):
        path = tmp_path / "given" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), level * (name != "z/1.png"), dtype=np.uint8)).save(path)
    (tmp_path / "given/y/broken.png").write_bytes(b"\x89PNG broken")
    return tmp_path / "given"


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def sorted_folder(folder, link=False):
    images = imprint.load("given", allow_bad=1.0)
    assert len(images) == 4
    return sort_into(says(images.sources, [0, 1, 0, 0], unsure=[1]), find_originals("given"), folder, link)


def test_each_image_is_copied_into_the_folder_of_its_class(folder, tmp_path, caplog):
    caplog.set_level("INFO", "imprint")
    before = tree(folder)
    assert sorted_folder(tmp_path / "out") == {"cat": 3, "unsure": 1}
    expected = {
        "cat/1.png": "x/1.png",
        "cat/1 (2).png": "y/1.png",
        "cat/1 (3).png": "z/1.png",
        "unsure/2.png": "x/2.png",
    }
    assert tree(tmp_path / "out") == {name: before[source] for name, source in expected.items()}
    assert (tmp_path / "out/cat/1.png").stat().st_mtime == (folder / "x/1.png").stat().st_mtime
    assert sorted_folder(tmp_path / "out") == {"cat": 3, "unsure": 1}  # which adds nothing
    assert tree(folder) == before
    assert len(tree(tmp_path / "out")) == 4
    assert "4 of 4 images were in out already".replace("out", str(tmp_path / "out")) in caplog.messages


def test_nothing_that_exists_is_replaced(folder, tmp_path):
    (tmp_path / "out/cat").mkdir(parents=True)
    (tmp_path / "out/cat/1.png").write_text("former")
    (tmp_path / "out/cat/1 (2).png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "out/cat/1 (3).png")
    (tmp_path / "out/cat/1 (4).png").mkdir()
    sorted_folder(tmp_path / "out")
    assert (tmp_path / "out/cat/1.png").read_text() == "former"
    assert (tmp_path / "out/cat/1 (5).png").read_bytes() == (folder / "x/1.png").read_bytes()
    assert not (tmp_path / "nowhere").exists()


def test_a_file_that_another_process_makes_meanwhile_stays(folder, tmp_path, monkeypatch):
    (tmp_path / "out/cat").mkdir(parents=True)
    (tmp_path / "out/cat/1.png").write_text("former")
    monkeypatch.setattr("os.path.lexists", lambda path: False)
    sorted_folder(tmp_path / "out")
    assert (tmp_path / "out/cat/1.png").read_text() == "former"
    assert (tmp_path / "out/cat/1 (2).png").read_bytes() == (folder / "x/1.png").read_bytes()


def test_links_lead_to_the_originals(folder, tmp_path):
    sorted_folder(tmp_path / "out", link=True)
    assert (tmp_path / "out/unsure/2.png").readlink() == folder / "x/2.png"
    sorted_folder(tmp_path / "out", link=True)
    assert len(tree(tmp_path / "out")) == 4


def test_images_of_an_archive_are_unpacked_as_they_are(folder, tmp_path):
    shutil.make_archive("packed", "zip", folder / "x")
    images = imprint.load("packed.zip")
    assert sort_into(says(images.sources, [0, 1]), find_originals("packed.zip"), tmp_path / "out") == {
        "cat": 1,
        "a_b": 1,
    }
    assert tree(tmp_path / "out") == {"a_b/2.png": tree(folder)["x/2.png"], "cat/1.png": tree(folder)["x/1.png"]}
    with pytest.raises(UsageError, match="its images are no files of their own"):
        sort_into(says(images.sources, [0, 1]), find_originals("packed.zip"), tmp_path / "linked", link=True)


def test_arrays_become_png_files(tmp_path, digits):
    np.savez(tmp_path / "x.npz", images=digits.pixels[:2])
    sort_into(says(["x.npz#1", "x.npz#2"], [0, 0]), find_originals(tmp_path / "x.npz"), tmp_path / "out")
    assert sorted(tree(tmp_path / "out")) == ["cat/x-1.png", "cat/x-2.png"]
    with Image.open(tmp_path / "out/cat/x-2.png") as image:
        assert np.array_equal(np.asarray(image), digits.pixels[1, 0])
    ids = np.array(["../7", "8"])
    sort_into(says(["x.npz#1", "x.npz#2"], [0, 0], ids=ids), digits[:2], tmp_path / "named")
    assert sorted(tree(tmp_path / "named")) == ["cat/8.png", "cat/_7.png"]


def test_folders_are_safe_and_differ_on_every_system():
    hostile = ("unsure", "..", "/etc", "a/b", "a_b", "Cat", "cat", "con", "x" * 300, "", "Ä.", ".hidden", "a\n")
    folders = class_folders(hostile)
    assert folders[:8] == ["unsure (2)", "class (2)", "_etc", "a_b (2)", "a_b", "Cat", "cat (2)", "con_"]
    assert len({folder.casefold() for folder in folders}) == len(hostile)
    assert all(folder == safe_name(folder) and len(folder.encode()) < 140 for folder in folders)


def test_a_folder_within_the_data_is_refused(folder, tmp_path):
    for inside in (folder, folder / "x" / "sorted"):
        with pytest.raises(UsageError, match="which would then hold each image twice"):
            check_sorting("given", inside)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be made"):
        check_sorting("given", tmp_path / "file")


def test_a_full_disk_leaves_no_half_file(folder, tmp_path, monkeypatch):
    def full(source, target):
        target.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(UsageError, match="No space left on device"):
        sorted_folder(tmp_path / "out")
    assert tree(tmp_path / "out") == {}
