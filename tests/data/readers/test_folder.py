import os
import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imprint import DataError, load
from imprint.data.load import parts
from imprint.data.readers import folder as folder_module
from imprint.data.readers.folder import infer_layout


@pytest.fixture
def photos(tmp_path):
    """Write one-colour images under given paths; the colour's red tells their order."""

    def write(*paths, root="photos"):
        for i, path in enumerate(paths):
            file = tmp_path / root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (i, 1, 2)).save(file, "PNG")
        return tmp_path / root

    return write


def labelled(images):
    """From the red of each image to the name of its class."""
    names = [images.class_names[label] for label in images.labels]
    return dict(zip(images.pixels[:, 0, 0, 0].tolist(), names, strict=True))


def test_class_folders(photos):
    images = load(photos("dog/1.png", "cat/1.png", "cat/deep/er/2.jpg", "10/x.png"))
    assert images.class_names == ("10", "cat", "dog")
    assert labelled(images) == {0: "dog", 1: "cat", 2: "cat", 3: "10"}
    assert images.name == "photos"
    assert all(Path(source).is_file() for source in images.sources)


def test_classes_that_are_numbers_stand_in_order_of_size(photos):
    assert load(photos("10/1.png", "9/1.png", "2/1.png")).class_names == ("2", "9", "10")


def test_order_does_not_depend_on_the_file_system(photos, monkeypatch):
    root = photos(*(f"{name}/{i}.png" for name in "zxya" for i in range(5)))
    expected = load(root)
    real = os.scandir

    class Shuffled(list):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    def scandir(path):
        with real(path) as entries:
            found = list(entries)
        random.shuffle(found)
        return Shuffled(found)

    monkeypatch.setattr(folder_module.os, "scandir", scandir)
    again = load(root)
    assert again.sources.tolist() == expected.sources.tolist()
    assert again.class_names == expected.class_names


def test_a_class_has_one_name_however_the_file_system_spells_it(photos):
    root = photos(f"{unicodedata.normalize('NFD', 'café')}/1.png", "tea/1.png")
    assert load(root).class_names == (unicodedata.normalize("NFC", "café"), "tea")


@pytest.mark.parametrize("validation", ["val", "validation", "VALID"])
def test_parts_are_used_as_such_and_never_mixed(photos, validation):
    root = photos("train/cat/1.png", "train/dog/1.png", f"{validation}/dog/1.png", "test/dog/1.png", "test/emu/1.png")
    assert parts(root) == ("train", "validation", "test")
    assert labelled(load(root)) == {0: "cat", 1: "dog"}
    assert labelled(load(root, part="train")) == {0: "cat", 1: "dog"}
    assert labelled(load(root, part="validation")) == {2: "dog"}
    test = load(root, part="test")
    assert labelled(test) == {3: "dog", 4: "emu"}
    with pytest.raises(DataError, match="label 'emu'"):
        test.labels_among(load(root).class_names)


def test_a_test_part_may_be_flat(photos):
    images = load(photos("train/cat/1.png", "train/dog/1.png", "test/1.png"), part="test")
    assert images.labels is None
    assert len(images) == 1


def test_a_class_called_test_is_a_class(photos):
    root = photos("cat/1.png", "test/1.png")
    assert parts(root) == ()
    assert load(root).class_names == ("cat", "test")


def test_what_lies_beside_the_parts_is_named(photos):
    root = photos(*(f"train/cat/{i}.png" for i in range(9)), "extra/1.png")
    assert load(root).unreadable == ((str(root / "extra"), "1 image lies beside train, in none of them"),)


@pytest.mark.parametrize(
    ("paths", "part", "words"),
    [
        (["cat/1.png"], "test", "it is not divided"),
        (["train/cat/1.png"], "test", "it has train"),
        (["train/cat/1.png", "val/cat/1.png", "valid/cat/1.png"], None, "both the validation part"),
    ],
)
def test_parts_that_are_not_there_or_twice(photos, paths, part, words):
    with pytest.raises(DataError, match=words):
        load(photos(*paths), part=part)


def test_litter_is_passed_by_in_silence(photos):
    root = photos(
        "cat/1.png", "dog/1.png", ".ipynb_checkpoints/1.png", "__MACOSX/cat/1.png", "cat/._1.png", "@eaDir/1.png"
    )
    for name in ("cat/Thumbs.db", ".DS_Store", "cat/desktop.ini", "README.md", "cat/notes.txt"):
        (root / name).write_bytes(b"x")
    images = load(root)
    assert images.class_names == ("cat", "dog")
    assert images.unreadable == ()


def test_other_files_among_images_are_named(photos):
    root = photos(*(f"cat/{i}.png" for i in range(20)))
    (root / "cat" / "page.jpg").write_bytes(b"<html></html>")
    (root / "cat" / "image").write_bytes((root / "cat" / "1.png").read_bytes())  # without an ending
    images = load(root)
    assert len(images) == 21
    assert images.unreadable == ((str(root / "cat" / "page.jpg"), "it is a web page"),)


def test_empty_class_folders_and_images_without_one_are_named(photos):
    root = photos(*(f"cat/{i}.png" for i in range(9)), "stray.png")
    for name in ("emu", "fox", "gnu"):  # three of ten images would be too many to leave out
        (root / name).mkdir()
    images = load(root)
    assert images.class_names == ("cat",)
    causes = {Path(source).name: cause for source, cause in images.unreadable}
    empty = dict.fromkeys(("emu", "fox", "gnu"), "the folder has no images in it")
    assert causes == {"stray.png": "it lies in no class folder"} | empty


def test_images_that_lie_about_are_too_many_to_be_passed_over(photos):
    with pytest.raises(DataError, match="no class folder"):
        load(photos("cat/1.png", "a.png", "b.png"))


def test_a_flat_folder_and_a_list_and_one_image_have_no_labels(photos):
    root = photos("b.png", "a.png")
    images = load(root)
    assert images.labels is None
    assert [Path(source).name for source in images.sources] == ["a.png", "b.png"]
    listed = load([root / "b.png", str(root / "a.png")])
    assert listed.pixels[:, 0, 0, 0].tolist() == [0, 1]
    assert load(root / "b.png").sources.tolist() == [str(root / "b.png")]
    (root / "b.png").rename(root / "b")
    assert len(load(root / "b")) == 1
    with pytest.raises(DataError, match="No such file"):
        load(root / "c.png")


def test_links_in_circles_are_survived(photos):
    root = photos("cat/1.png", "dog/1.png")
    (root / "cat" / "again").symlink_to(root)
    (root / "cat" / "self").symlink_to(root / "cat" / "self")
    (root / "cat" / "gone.png").symlink_to(root / "nowhere.png")
    images = load(root, allow_bad=0.9)
    assert labelled(images) == {0: "cat", 1: "dog"}
    causes = sorted(cause for _, cause in images.unreadable)
    assert causes == [
        "it cannot be opened (No such file or directory)",
        "it cannot be opened (Too many levels of symbolic links)",
    ]


def test_a_linked_class_folder_is_followed(photos, tmp_path):
    root = photos("cat/1.png")
    photos("1.png", root="elsewhere")
    (root / "dog").symlink_to(tmp_path / "elsewhere")
    assert load(root).class_names == ("cat", "dog")


def test_files_and_folders_without_permission_are_named(photos, monkeypatch):
    root = photos(*(f"cat/{i}.png" for i in range(9)), "dog/1.png", "dog/secret/2.png")
    closed = [root / "cat" / "3.png", root / "dog" / "secret"]
    if os.geteuid():
        for path in closed:
            path.chmod(0)
    else:  # root may read everything
        import builtins

        def refusing(real):
            def opened(path, *arguments, **options):
                if str(path).rstrip("/") in map(str, closed):
                    raise PermissionError(13, "Permission denied", str(path))
                return real(path, *arguments, **options)

            return opened

        monkeypatch.setattr(builtins, "open", refusing(open))
        monkeypatch.setattr(folder_module.os, "open", refusing(os.open))
        monkeypatch.setattr(folder_module.os, "scandir", refusing(os.scandir))
    images = load(root)
    assert len(images) == 9
    assert {Path(source).name: cause for source, cause in images.unreadable} == {
        "3.png": "it cannot be opened (Permission denied)",
        "secret": "the folder cannot be opened (Permission denied)",
    }


@pytest.mark.parametrize(
    "name", ["new\nline.png", "x" * 251 + ".png", "snø 雪 🙂.png", "a,b;c'\".png", b"\xff\xfe.png"]
)
def test_odd_names(photos, name):
    root = photos("cat/1.png", "dog/1.png")
    path = os.fsencode(root / "cat") + b"/" + os.fsencode(name)
    with open(path, "wb") as file:
        file.write((root / "dog" / "1.png").read_bytes())
    images = load(root)
    assert len(images) == 3
    assert labelled(images)[1] == "dog"
    assert all(source.encode() for source in images.sources)
    with open(path, "wb"):
        pass
    with pytest.raises(DataError) as caught:
        load(root)
    assert "\n" not in str(caught.value)


def test_nothing_in_it(tmp_path):
    with pytest.raises(DataError, match="no images in it"):
        load(tmp_path)
    for name in ("sample_submission.csv", "test.csv", "train.csv"):
        (tmp_path / name).write_text("label,pixel0\n")
    with pytest.raises(DataError, match=r"such as test\.csv"):
        load(tmp_path)


def test_one_class_only_is_read_and_refused_by_training(photos):
    from imprint.training.plan import make_plan

    images = load(photos("cat/1.png", "cat/2.png"))
    assert images.class_names == ("cat",)
    with pytest.raises(DataError, match="at least two classes"):
        make_plan(images)


def test_classes_are_the_outermost_folders():
    found = infer_layout(["b/c/2.png", "a/1.png", "b/1.png"], ["a", "b", "b/c", "b/d"])
    assert (found.paths, found.labels, found.left_out) == (("a/1.png", "b/1.png", "b/c/2.png"), ("a", "b", "b"), ())


def test_a_pipe_is_named_and_not_waited_for(photos):
    root = photos("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png", "dog/3.png")
    os.mkfifo(root / "cat" / "3.png")
    images = load(root)
    assert dict(images.unreadable) == {str(root / "cat" / "3.png"): "it is a pipe or a device, no file"}
    with pytest.raises(DataError, match="pipe or a device"):
        load(root / "cat" / "3.png")


def test_a_link_to_itself_among_parts(photos):
    root = photos("train/cat/1.png", "test/cat/1.png")
    (root / "loop").symlink_to("loop")
    assert parts(root) == ("train", "test")


def test_one_table_alone_is_read(tmp_path):
    (tmp_path / "README").write_text("words")
    (tmp_path / "train.csv").write_text("label,pixel0\ncat,7\n")
    assert load(tmp_path).pixels.tolist() == [[[[7]]]]


def test_several_arrays_are_no_images_and_among_images_are_named_rightly(photos, tmp_path, digits):
    for name in ("a.npz", "b.npz"):
        np.savez(tmp_path / name, images=digits.pixels[:2])
    with pytest.raises(DataError, match=r"no images in it\. Name a file in it, such as a\.npz"):
        load(tmp_path)
    root = photos("dog/1.png", *(f"cat/{i}.png" for i in range(9)))
    np.savez(root / "dog/a.npz", images=digits.pixels[:2])
    assert load(root).unreadable[0][1] == "it is NumPy arrays; name it on its own"


def test_only_videos(tmp_path):
    (tmp_path / "dog").mkdir()
    for name in ("a.mov", "b.MP4"):
        (tmp_path / "dog" / name).write_bytes(b"\0\0\0\x14ftypqt  ")
    with pytest.raises(DataError, match=r"there are no images in it, but 2 videos\. Save frames"):
        load(tmp_path)


def test_litter_beside_images_is_not_counted(photos):
    root = photos("dog/1.png", "dog/2.png", "cat/3.png")
    for name in ("dog/1.AAE", "dog/1.MOV", "cat/Thumbs.db", "desktop.ini", "cat/.DS_Store", "cat/3.xmp"):
        (root / name).write_bytes(b"<?xml")
    assert load(root, allow_bad=0.0).unreadable == ()
