import numpy as np
import pytest

from imprint import DataError, load
from imprint.data.load import parts

NAMES = ["airplane", "cat"]


def records(labels, fine=None):
    """CIFAR's records, whose image i holds i + 1, i + 2 and i + 3 in its channels."""
    heads = np.array(labels)[:, None] if fine is None else np.c_[labels, fine]
    pixels = np.repeat(np.arange(len(labels))[:, None] + [[1, 2, 3]], 1024, axis=1)
    return np.concatenate([heads, pixels], axis=1).astype(np.uint8).tobytes()


@pytest.fixture
def cifar10(tmp_path):
    root = tmp_path / "cifar-10-batches-bin"
    root.mkdir()
    for i in (1, 2, 10):
        (root / f"data_batch_{i}.bin").write_bytes(records([0, 1, i % 2]))
    (root / "test_batch.bin").write_bytes(records([1, 0]))
    (root / "readme.html").write_text("<html>")
    return root


def test_batches_are_parts_in_their_order(cifar10):
    (cifar10 / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    assert parts(cifar10) == ("train", "test")
    images = load(cifar10)
    assert images.pixels.shape == (9, 3, 32, 32)
    assert images.pixels[1, :, 0, 0].tolist() == [2, 3, 4]
    assert images.class_counts() == {"airplane": 5, "cat": 4}
    assert images.sources[[0, 8]].tolist() == ["data_batch_1.bin#1", "data_batch_10.bin#3"]
    assert load(cifar10, part="test").class_counts() == {"airplane": 1, "cat": 1}
    with pytest.raises(DataError, match="part validation at cifar-10-batches-bin: it has train and test"):
        load(cifar10, part="validation")


def test_one_batch_and_no_names(cifar10):
    images = load(cifar10 / "data_batch_1.bin")
    assert (len(images), images.class_names) == (3, ("0", "1"))


def test_cifar_100_has_fine_classes(tmp_path):
    (tmp_path / "train.bin").write_bytes(records([19, 3, 4], [99, 0, 1]))
    (tmp_path / "test.bin").write_bytes(records([3], [0]))
    assert load(tmp_path).class_counts() == {"0": 1, "1": 1, "99": 1}
    (tmp_path / "fine_label_names.txt").write_text("\n".join(f"fine{i}" for i in range(100)))
    assert load(tmp_path, part="test").class_counts() == {"fine0": 1}


def test_what_does_not_fit_is_refused(cifar10):
    (cifar10 / "batches.meta.txt").write_text("airplane\n")
    with pytest.raises(DataError, match="it names 1 classes, and a label is 1"):
        load(cifar10)
    (cifar10 / "batches.meta.txt").unlink()
    (cifar10 / "data_batch_2.bin").write_bytes(records([0, 77]))
    with pytest.raises(DataError, match=r"batch at data_batch_2.bin: .* bytes are no records of CIFAR-10"):
        load(cifar10)
    (cifar10 / "data_batch_2.bin").write_bytes(records([0, 1], [77, 5]))
    with pytest.raises(DataError, match="they are of CIFAR-10 and of CIFAR-100"):
        load(cifar10)


def test_a_cut_batch_is_not_taken(cifar10):
    whole = (cifar10 / "data_batch_1.bin").read_bytes()
    (cifar10 / "data_batch_1.bin").write_bytes(whole[:-5])
    with pytest.raises(DataError, match="neither the name nor the first bytes"):
        load(cifar10 / "data_batch_1.bin")
