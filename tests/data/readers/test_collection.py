import gzip
import json
import zipfile
from io import BytesIO

import numpy as np
import polars
import pytest
from PIL import Image

from imprint import DataError, UsageError, load
from imprint.data.load import parts


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4) for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


def png(red):
    file = BytesIO()
    Image.new("RGB", (4, 4), (red, 1, 2)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def mnist(tmp_path, digits):
    """MNIST's four files by any names, the test part half as long."""

    def write(names, packed=(False,), root="mnist"):
        for name in names:
            part = slice(20) if "train" in name else slice(20, 30)
            content = idx(digits.pixels[part, 0] if "images" in name else digits.labels[part])
            file = tmp_path / root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            for gz in packed:
                file.with_name(f"{file.name}.gz" if gz else file.name).write_bytes(
                    gzip.compress(content) if gz else content
                )
        return tmp_path / root

    return write


def four(form="{}-idx{}-ubyte", tests="t10k"):
    return [form.format(f"{part}-{kind}", n) for part in ("train", tests) for kind, n in (("images", 3), ("labels", 1))]


def is_mnist(root, digits):
    assert parts(root) == ("train", "test")
    for part, rows in ((None, slice(20)), ("train", slice(20)), ("test", slice(20, 30))):
        images = load(root, part=part)
        assert np.array_equal(images.pixels, digits.pixels[rows])
        assert [images.class_names[i] for i in images.labels] == [digits.class_names[i] for i in digits.labels[rows]]
        assert images.name == root.name
    with pytest.raises(DataError, match="it has train and test"):
        load(root, part="validation")


@pytest.mark.parametrize(
    "names",
    [
        four(),
        four("{}.idx{}-ubyte"),
        four("raw/{}-idx{}-ubyte"),
        four("MNIST/raw/{}-idx{}-ubyte"),
        four("emnist-letters-{}-idx{}-ubyte", "test"),
        [*four("{0}-idx{1}-ubyte/{0}-idx{1}-ubyte"), *four("{}.idx{}-ubyte")],  # Kaggle's mnist-dataset
    ],
    ids=["plain", "dots", "raw", "torchvision", "emnist", "kaggle"],
)
@pytest.mark.parametrize("packed", [(False,), (True,), (False, True)])
def test_idx_files_are_paired_and_parts(mnist, digits, names, packed):
    root = mnist(names, packed)
    (root / "README.md").write_text("words")
    is_mnist(root, digits)


def test_no_label_is_chosen_of_files_without_columns(mnist):
    with pytest.raises(UsageError, match="label 'a' at mnist: it has neither columns nor paths"):
        load(mnist(four()), label="a")


def test_idx_files_in_an_archive(mnist, digits, tmp_path):
    root = mnist(four(), packed=(True,))
    for name, top in (("a.zip", ""), ("b.zip", "fashion/")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for file in root.iterdir():
                archive.write(file, top + file.name)
        is_mnist(tmp_path / name, digits)


def test_two_sets_are_refused(mnist):
    root = mnist([*four("emnist-letters-{}-idx{}-ubyte"), *four("emnist-mnist-{}-idx{}-ubyte")])
    with pytest.raises(DataError, match=r"there are 2 sets, .* Name one file, such as emnist-letters-t10k-images"):
        load(root)
    mnist(["a/train-images-idx3-ubyte", "b/train-images-idx3-ubyte"], root="folders")
    with pytest.raises(DataError, match="there are 2 sets"):
        load(root.with_name("folders"))


@pytest.fixture
def shards(tmp_path):
    """Parquet shards of two images each, whose red tells them apart; class by metadata or as number."""

    def write(*names, classes=None, labels=True, table=None):
        for i, name in enumerate(names):
            rows = {"image": [{"bytes": png(2 * i + k), "path": None} for k in range(2)]}
            rows |= {"label": [0, 1]} if labels else {}
            features = {"features": {"label": {"names": classes, "_type": "ClassLabel"}}}
            facts = {"huggingface": json.dumps({"info": features})} if classes else None
            file = tmp_path / "hf" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            polars.DataFrame(table or rows).write_parquet(file, metadata=facts)
        return tmp_path / "hf"

    return write


HF = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-00000-of-00001.parquet"]


@pytest.mark.parametrize(
    "names",
    [
        HF,
        [name.replace(".parquet", f"-{i:016x}.parquet") for i, name in enumerate(HF)],  # as datasets named them to 2023
        ["default/train/0000.parquet", "default/train/0001.parquet", "default/test/0000.parquet"],  # refs/convert
        ["train1.parquet", "train2.parquet", "test.parquet"],
    ],
    ids=["data", "hash", "converted", "flat"],
)
def test_shards_are_joined_and_parts(shards, names, tmp_path):
    root = shards(*names, classes=["cat", "dog"])
    (root / "README.md").write_text("words")
    with zipfile.ZipFile(tmp_path / "hf.zip", "w") as archive:
        for file in root.rglob("*.parquet"):
            archive.write(file, file.relative_to(root))
    for data in (root, tmp_path / "hf.zip"):
        assert parts(data) == ("train", "test")
        images = load(data)
        assert images.pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
        assert images.class_counts() == {"cat": 2, "dog": 2}
        assert images.name == data.name
        assert load(data, part="test").pixels[:, 0, 0, 0].tolist() == [4, 5]


def test_columns_are_chosen_of_all_shards(shards, digits):
    pixels = {f"pixel{i}": digits.pixels[:5].reshape(5, 64)[:, i] for i in range(64)}
    named = {"id": list("abcde"), "site": list("xxyyy"), "kind": list("ppqqq"), "label": [0, 1, 0, 1, 0]}
    images = load(shards(*HF[:2], table=named | pixels), label="kind", group="site")
    assert images.class_names == ("p", "q")
    assert images.groups.tolist() == list("xxyyy") * 2
    assert images.ids.tolist() == list("abcde") * 2
    assert images.headers == ("id", "kind")


def test_shards_are_sorted_by_number(shards):
    root = shards("0.parquet", "10.parquet", "9.parquet")
    assert parts(root) == ()
    assert load(root).pixels[:, 0, 0, 0].tolist() == [0, 1, 4, 5, 2, 3]


def test_class_names_must_be_those_of_every_shard(shards):
    shards(HF[0], classes=["cat", "dog"])
    root = shards(HF[1], classes=["dog", "cat"])
    with pytest.raises(DataError, match=r"class names at train-00001-of-00002.parquet: .* other classes than"):
        load(root)
    shards(HF[1])
    with pytest.raises(DataError, match="other classes than"):
        load(root)
    shards(HF[1], labels=False)
    with pytest.raises(DataError, match="its columns differ"):
        load(root)


def test_shards_of_pixels(shards, digits):
    table = {"label": digits.labels[:5]} | {f"pixel{i}": digits.pixels[:5].reshape(5, 64)[:, i] for i in range(64)}
    images = load(shards(*HF[:2], table=table))
    assert np.array_equal(images.pixels, digits.pixels[[0, 1, 2, 3, 4] * 2])
    assert len(images.labels) == 10


def test_files_of_no_part_are_said_and_sets_of_several_folders_refused(shards, caplog):
    caplog.set_level("INFO", logger="imprint")
    root = shards("data/train-0.parquet", "data/unlabeled-0.parquet")
    assert len(load(root)) == 2
    assert "left out 1 files of hf that are in no part, first data/unlabeled-0.parquet" in caplog.messages
    shards("other/train-0.parquet")
    with pytest.raises(DataError, match="there are 2 sets"):
        load(root)


def test_a_few_images_beside_shards_and_a_table_beside_images(shards, tmp_path):
    root = shards(*HF)
    (root / "logo.png").write_bytes(png(0))
    assert len(load(root)) == 4
    for i in range(6):
        (root / "cat").mkdir(exist_ok=True)
        (root / "cat" / f"{i}.png").write_bytes(png(i))
    with pytest.raises(DataError, match=r"it is Parquet; let its name|cannot be used"):
        load(root)
    photos = tmp_path / "photos"
    (photos / "cat").mkdir(parents=True)
    (photos / "cat" / "1.png").write_bytes(png(1))
    (photos / "imagelabels.mat").write_bytes(b"MATLAB 5.0")
    assert load(photos).class_names == ("cat",)


def test_two_kinds_are_refused(shards, mnist):
    shards(*HF)
    with pytest.raises(DataError, match=r"there are IDX files and Parquet files. Name the folder of one kind"):
        load(mnist(four(), root="hf"))
