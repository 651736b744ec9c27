import gzip
import struct

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given, settings

from imprint import DataError, load


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


@pytest.fixture
def pair(tmp_path, digits):
    """MNIST's own names, with real digits inside."""

    def write(images="train-images-idx3-ubyte", labels="train-labels-idx1-ubyte", packed=False):
        for name, array in ((images, digits.pixels[:50, 0]), (labels, digits.labels[:50])):
            content = gzip.compress(idx(array), mtime=0) if packed else idx(array)
            (tmp_path / (f"{name}.gz" if packed else name)).write_bytes(content)
        return tmp_path / (f"{images}.gz" if packed else images)

    return write


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        ("t10k-images.idx3-ubyte", "t10k-labels.idx1-ubyte"),
        ("emnist-letters-train-images-idx3-ubyte", "emnist-letters-train-labels-idx1-ubyte"),
    ],
)
def test_images_find_their_labels(pair, digits, images, labels, packed):
    loaded = load(pair(images, labels, packed))
    assert np.array_equal(loaded.pixels, digits.pixels[:50])
    assert loaded.pixels.flags.writeable
    assert loaded.pixels.flags.c_contiguous
    assert [loaded.class_names[i] for i in loaded.labels] == [digits.class_names[i] for i in digits.labels[:50]]
    assert loaded.sources[0].endswith("#1")
    assert not loaded.from_pixel_table


def test_without_labels(tmp_path):
    path = tmp_path / "t10k-images-idx3-ubyte"
    path.write_bytes(idx(np.arange(24).reshape(2, 3, 4)))
    loaded = load(path)
    assert loaded.labels is None
    assert loaded.shape == (1, 3, 4)


def test_known_by_its_first_bytes(tmp_path):
    path = tmp_path / "images"
    path.write_bytes(idx(np.zeros((1, 2, 2))))
    assert len(load(path)) == 1


def test_colour(tmp_path):
    path = tmp_path / "a-images-idx4-ubyte"
    path.write_bytes(idx(np.arange(12).reshape(1, 2, 2, 3)))
    assert load(path).pixels[0, :, 0, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (idx(np.zeros((2, 2, 2)))[:-1], "length at a-images-idx3-ubyte"),
        (idx(np.zeros((2, 2, 2))) + b"x", "length at"),
        (idx(np.zeros((2, 2, 2)))[:9], "length at"),
        (struct.pack(">BBBBIII", 0, 0, 8, 3, 2**31, 2**31, 2**31), "length at"),
        (gzip.compress(idx(np.zeros((2, 2, 2))), mtime=0)[:-5], "gzip data at"),
        (struct.pack(">BBBBIII", 0, 0, 13, 3, 1, 1, 1) + b"1234", "only unsigned bytes"),
        (idx(np.zeros((0, 2, 2))), "no stack of images"),
        (idx(np.zeros((2, 2))), "no stack of images"),
        (idx(np.zeros(3)), "the file holds labels, not images"),
        (b"", "not those of an IDX file"),
        (b"<html>", "not those of an IDX file"),
    ],
)
def test_refused_in_one_line(tmp_path, content, words):
    path = tmp_path / "a-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_of_another_count_are_refused(pair, tmp_path):
    path = pair()
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(49)))
    with pytest.raises(DataError, match="49 labels at train-labels-idx1-ubyte"):
        load(path)


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from([0, 8, 9, 13]), shape=st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 3), max_size=6),
       data=st.binary(max_size=80), packed=st.booleans())  # fmt: skip
@example(kind=8, shape=[1] * 255, data=b"1", packed=False)
@example(kind=8, shape=[0, 2**32 - 1, 2**32 - 1, 3], data=b"", packed=False)
@example(kind=8, shape=[2, 2, 2], data=bytes(8), packed=True)
def test_any_header_is_read_rightly_or_refused(kind, shape, data, packed, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any-idx3-ubyte"
    content = bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + data
    path.write_bytes(gzip.compress(content, mtime=0) if packed else content)
    try:
        images = load(path)
    except DataError as error:
        assert "\n" not in str(error)
        return
    assert kind == 8
    assert images.pixels.transpose(0, 2, 3, 1).tobytes() == data
    assert len(images) == shape[0]
