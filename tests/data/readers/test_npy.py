import math
import re

import numpy as np
import pytest

from imprint import DataError, UsageError, load, train
from imprint.data.load import parts
from imprint.preprocessing.input_spec import InputSpec

STACK = np.random.default_rng(0).integers(0, 256, (6, 5, 7, 3), dtype=np.uint8)


LABELS = np.array([2, 0, 1, 10, 1, 0])


def save(tmp_path, **arrays):
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    return tmp_path / "a.npz"


WIDE = InputSpec(1, (10, 30), (10, 30))


RANDOM = np.random.default_rng(5).integers(0, 256, 10**6, dtype=np.uint8)


def numbers(*shape):
    return RANDOM[: math.prod(shape)].reshape(shape)


class Evil:
    def __reduce__(self):
        return print, ("code was run",)


@pytest.mark.parametrize(
    "names",
    [
        ("images", "labels"),
        ("x", "y"),
        ("X", "Y"),
        ("data", "targets"),
        ("arr_0", "arr_1"),
        ("image", "label"),
        ("pictures", "label"),
    ],
)
def test_arrays_are_known_by_name(tmp_path, names):
    images = load(save(tmp_path, **dict(zip(names, (STACK, LABELS), strict=True))))
    assert np.array_equal(images.pixels, STACK.transpose(0, 3, 1, 2))
    assert images.class_names == ("0", "1", "2", "10")
    assert [images.class_names[i] for i in images.labels] == [str(label) for label in LABELS]
    assert images.sources[0] == "a.npz#1"


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (STACK.transpose(0, 3, 1, 2), STACK),
        (STACK[..., 0], STACK[..., :1]),
        (STACK[..., :1], STACK[..., :1]),
        (STACK[:, None, ..., 0], STACK[..., :1]),
        (STACK / 255, STACK),
        ((STACK / 255).astype(np.float16), STACK),
        (STACK.astype(np.float32), STACK),
        (STACK.astype(np.int64), STACK),
        (STACK.astype(np.uint16) * 257, STACK),
        (STACK.astype(np.uint16), STACK),
        (STACK > 99, (STACK > 99) * 255),
        (np.concatenate([STACK, np.full((6, 5, 7, 1), 255, np.uint8)], axis=3), STACK),
        (np.concatenate([STACK, np.zeros((6, 5, 7, 1), np.uint8)], axis=3), np.full_like(STACK, 255)),
        (np.asfortranarray(STACK), STACK),
    ],
)
def test_shapes_and_types(tmp_path, array, expected):
    images = load(save(tmp_path, images=array))
    assert images.labels is None
    assert np.abs(images.pixels.astype(int) - expected.transpose(0, 3, 1, 2)).max() <= 0


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.where(STACK > 9, np.nan, 0.5), "nan"),
        (STACK.astype(str), "pixels are numbers"),
        (STACK.reshape(6, -1), "no stack of images"),
        (STACK[..., :2], "no stack of images"),
        (STACK[:0], "no stack of images"),
    ],
)
def test_pixels_that_say_nothing_are_refused(tmp_path, array, words):
    with pytest.raises(DataError, match=words):
        load(save(tmp_path, images=array))


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda stack: stack * 16.0, np.uint16),
        (lambda stack: stack * 16.0 - 1000, np.int16),
        (lambda stack: stack * 16.0, np.int64),
        (lambda stack: stack / 127.5 - 1, np.float32),
        (lambda stack: stack * 1e300, np.float64),
    ],
)
def test_deeper_numbers_get_the_range_of_the_array(tmp_path, caplog, change, kind):
    caplog.set_level("INFO", logger="imprint")
    array = change(STACK).astype(kind)
    images = load(save(tmp_path, images=array))
    low, high = np.percentile(array, [0.1, 99.9])
    assert images.pixel_range == pytest.approx((low, high))
    scale = high / 2 - low / 2
    expected = ((array / 2 - low / 2) / scale).clip(0, 1).transpose(0, 3, 1, 2) * 255
    assert np.abs(images.pixels - expected).max() <= 0.51
    assert re.search(r"6 images of \S+: \d\d-bit.* became black to white", caplog.text)


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        (np.array(list("abcaba")), None, list("abcaba")),
        (np.array([b"a", b"b"] * 3), None, ["a", "b"] * 3),
        (np.array([0.0, 1.0] * 3), None, ["0", "1"] * 3),
        (np.array([True, False] * 3), None, ["1", "0"] * 3),
        (np.array([[0], [1]] * 3), None, ["0", "1"] * 3),
        (np.array([[0, 1, 0, 1, 0, 1]]), None, ["0", "1"] * 3),
        (np.array([0, 1] * 3), np.array(["dog", "cat"]), ["dog", "cat"] * 3),
        (np.eye(3)[[0, 2] * 3], None, ["0", "2"] * 3),
        (np.eye(3, dtype=np.int8)[[0, 2] * 3], None, ["0", "2"] * 3),
        (np.eye(2, dtype=bool)[[0, 1] * 3], np.array(["dog", "cat"]), ["dog", "cat"] * 3),
    ],
)
def test_labels(tmp_path, labels, names, expected):
    images = load(save(tmp_path, images=STACK, labels=labels, **({} if names is None else {"class_names": names})))
    assert [images.class_names[i] for i in images.labels] == expected


@pytest.mark.parametrize(
    ("labels", "names", "words"),
    [
        (LABELS[:5], None, "cannot have labels"),
        (np.eye(5), None, "cannot have labels"),
        (np.eye(6) + np.eye(6, k=1), None, r"labels at a\.npz#1, and 4 more: it has several labels"),
        (np.eye(6, k=1), None, r"a\.npz#6: none of its classes is 1"),
        (np.eye(6) * 0.9 + 0.05, None, "not only 0 and 1"),
        (np.eye(6), np.array(["cat", "dog"]), "6 columns for 2 class names"),
        (np.array([0.5] * 6), None, "whole numbers"),
        (LABELS, np.array(["cat", "dog"]), "outside the 2 class names"),
        (np.array([-1, 0] * 3), np.array(["cat", "dog"]), "outside the 2 class names"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, labels, names, words):
    with pytest.raises(DataError, match=words):
        load(save(tmp_path, images=STACK, labels=labels, **({} if names is None else {"class_names": names})))


def test_parts(tmp_path):
    path = save(tmp_path, x_train=STACK, y_train=LABELS, x_test=STACK[:2], y_test=LABELS[:2])
    assert parts(path) == ("train", "test")
    assert len(load(path)) == 6
    assert len(load(path, part="test")) == 2
    with pytest.raises(DataError, match="it has train and test"):
        load(path, part="validation")
    path = save(tmp_path, train_images=STACK, train_labels=LABELS, val_images=STACK[:3], val_labels=LABELS[:3])
    assert len(load(path, part="validation")) == 3
    with pytest.raises(DataError, match="not divided"):
        load(save(tmp_path, images=STACK), part="test")


def test_groups(tmp_path):
    path = save(tmp_path, images=STACK, labels=LABELS, person=np.arange(6) // 2)
    assert load(path, group="person").groups.tolist() == ["0", "0", "1", "1", "2", "2"]
    with pytest.raises(DataError, match="no array has that name"):
        load(path, group="scene")
    with pytest.raises(UsageError, match="no path to search"):
        load("digits", group="scene")


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images", "labels"),
        ("x_train", "y_train"),
        ("X", "y"),
        ("X", "Y"),
        ("X_train", "y_train"),
        ("train_images", "train_labels"),
        ("trainX", "trainY"),
        ("data", "targets"),
    ],
)
def test_npy_finds_its_labels_beside(tmp_path, images, labels):
    np.save(tmp_path / f"{images}.npy", STACK)
    assert load(tmp_path / f"{images}.npy").labels is None
    np.save(tmp_path / f"{labels}.npy", LABELS)
    images = load(tmp_path / f"{images}.npy")
    assert [images.class_names[i] for i in images.labels] == [str(label) for label in LABELS]


def test_labels_that_could_be_two_files_are_refused(tmp_path):
    for name, array in (("data", STACK), ("labels", LABELS), ("targets", LABELS)):
        np.save(tmp_path / f"{name}.npy", array)
    with pytest.raises(DataError, match=r"labels at data\.npy: labels\.npy and targets\.npy could be theirs"):
        load(tmp_path / "data.npy")


def test_rows_in_files(tmp_path):
    flat = save(tmp_path, x_train=numbers(500, 784), y_train=np.arange(500) % 3)
    images = load(flat)
    assert (images.shape, images.class_counts()["2"]) == ((1, 28, 28), 166)
    assert len(load(save(tmp_path, images=numbers(64, 64), labels=np.arange(64) % 3))) == 64  # so no single image
    with pytest.raises(DataError, match="rows of 105 numbers are no square ones"):
        load(save(tmp_path, images=STACK.reshape(6, -1), labels=LABELS))
    assert load(save(tmp_path, images=numbers(6, 300), labels=LABELS), spec=WIDE).shape == (1, 10, 30)
    assert load(save(tmp_path, images=STACK[0])).shape == (3, 5, 7)


def test_quick_draw(tmp_path):
    np.save(tmp_path / "full_numpy_bitmap_cat.npy", numbers(50, 784))
    one = load(tmp_path / "full_numpy_bitmap_cat.npy")
    assert (one.class_counts(), one.shape) == ({"cat": 50}, (1, 28, 28))
    with pytest.raises(DataError, match=r"all are 'cat'. Training needs at least two classes: a folder or a \.npy for"):
        train(one, verbose=False)
    (tmp_path / "README.txt").write_text("from Quick, Draw!")
    np.save(tmp_path / "full_numpy_bitmap_hot dog.npy", numbers(30, 784))
    both = load(tmp_path)
    assert both.class_counts() == {"cat": 50, "hot dog": 30}
    assert both.sources[50] == "full_numpy_bitmap_hot dog.npy#1"
    np.save(tmp_path / "sun.npy", numbers(30, 64))
    with pytest.raises(
        DataError, match=r"images of sun\.npy .*: its images are 8×8 grey, those of .*cat\.npy are 28×28"
    ):
        load(tmp_path)


def test_classes_in_files_have_one_range(tmp_path):
    dim, bright = (numbers(20, 8, 8).astype(np.uint16) * scale for scale in (8, 64))
    np.save(tmp_path / "dim.npy", dim)
    np.save(tmp_path / "bright.npy", bright)
    images = load(tmp_path)
    low, high = images.pixel_range
    assert high > 10_000
    expected = np.floor(((dim - low) / (high - low)).clip(0, 1) * 255 + 0.5)
    assert np.abs(images.pixels[20:, 0].astype(int) - expected).max() <= 1  # each class by its own range, up to 255
    np.save(tmp_path / "dim.npy", dim / 2)
    with pytest.raises(DataError, match=r"its numbers are float64, those of bright\.npy are uint16"):
        load(tmp_path)


def test_a_folder_of_npy_is_read_as_a_npz(tmp_path):
    for name, array in (("X_train", STACK), ("y_train", LABELS), ("X_test", STACK[:2]), ("y_test", LABELS[:2])):
        np.save(tmp_path / f"{name}.npy", array)
    assert parts(tmp_path) == ("train", "test")
    assert (load(tmp_path).class_counts()["0"], len(load(tmp_path, part="test"))) == (2, 2)
    (tmp_path / "more").mkdir()
    with pytest.raises(DataError):  # which is no folder of arrays alone
        load(tmp_path)


def test_npy_files_of_one_image_each_are_no_classes(tmp_path):
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", STACK[i])
    with pytest.raises(DataError, match="each of its 3 files holds one image, but stands for a class"):
        load(tmp_path)


def test_a_large_npy_is_not_copied(tmp_path):
    np.save(tmp_path / "images.npy", STACK.transpose(0, 3, 1, 2).copy())
    assert isinstance(load(tmp_path / "images.npy").pixels.base, np.memmap)


@pytest.mark.parametrize("where", ["images", "labels"])
def test_pickled_objects_are_refused(tmp_path, capsys, where):
    objects = np.array([Evil()] * 6, dtype=object)
    arrays = {"images": STACK, "labels": LABELS} | {where: objects}
    with pytest.raises(DataError, match="pickled objects"):
        load(save(tmp_path, **arrays))
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    with pytest.raises(DataError, match="pickled objects"):
        load(tmp_path / "a.npy")
    assert "code was run" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY", b"junk", b"\x80\x04."])
def test_damaged_files_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=r"damaged|pickled"):
        load(tmp_path / name)


def test_cut_short(tmp_path):
    for path in (save(tmp_path, images=STACK), tmp_path / "b.npy"):
        if path.suffix == ".npy":
            np.save(path, STACK)
        whole = path.read_bytes()
        for share in (0.1, 0.5, 0.9):
            path.write_bytes(whole[: int(len(whole) * share)])
            with pytest.raises(DataError, match="cut short"):
                load(path)


def test_a_number_alone_and_no_number(tmp_path):
    np.savez(tmp_path / "one.npz", images=np.float32(3))
    with pytest.raises(DataError, match="no stack of images"):
        load(tmp_path / "one.npz")
    pixels = np.zeros((4, 8, 8), np.float32)
    pixels[2, 1, 1] = np.nan
    np.savez(tmp_path / "nan.npz", images=pixels)
    with pytest.raises(DataError, match=r"pixel nan at nan\.npz#3"):
        load(tmp_path / "nan.npz")
