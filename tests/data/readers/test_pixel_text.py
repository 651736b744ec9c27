import gzip

import numpy as np
import pytest
from PIL import Image

from imprint import DataError, UsageError, load
from imprint.data.load import parts


def row(image):
    return " ".join(map(str, image.ravel()))


@pytest.fixture
def table(tmp_path, digits):
    """FER-2013's form with real digits inside: two in three to train on."""

    def write(header="emotion,pixels,Usage", usage=("Training", "PublicTest", "PrivateTest", "Training"), name="t.csv"):
        lines = [header]
        for i in range(12):
            cells = {"pixels": row(digits.pixels[i]), "usage": usage[i % len(usage)], "id": str(100 + i)}
            label = digits.class_names[digits.labels[i]]
            lines.append(",".join(cells.get(column.strip().lower(), label) for column in header.split(",")))
        content = "\n".join([*lines, ""]).encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return tmp_path / name

    return write


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
@pytest.mark.parametrize("header", ["emotion,pixels,Usage", "emotion, Usage, pixels"])
def test_parts_by_usage(table, digits, header, name):
    path = table(header, name=name)
    assert parts(path) == ("train", "validation", "test")
    for part, rows in (
        ("train", [0, 3, 4, 7, 8, 11]),
        (None, [0, 3, 4, 7, 8, 11]),
        ("validation", [1, 5, 9]),
        ("test", [2, 6, 10]),
    ):
        images = load(path, part=part)
        assert np.array_equal(images.pixels, digits.pixels[rows])
        assert [images.class_names[i] for i in images.labels] == [digits.class_names[i] for i in digits.labels[rows]]
        assert images.sources.tolist() == [f"{name}#{i + 1}" for i in rows]


def test_without_parts_or_labels(table, digits):
    assert parts(table("label,pixels")) == ()
    assert np.array_equal(load(table("label,pixels")).pixels, digits.pixels[:12])
    assert load(table("pixels")).labels is None
    with pytest.raises(DataError, match=r"part test at t.csv: it is not divided"):
        load(table("pixels"), part="test")
    with pytest.raises(DataError, match=r"it has train. Add a column"):
        load(table(usage=("Training",)), part="test")


def test_columns_that_could_all_be_labels_are_listed(table, caplog):
    caplog.set_level("INFO", logger="imprint")
    path = table("age,gender,pixels")
    assert load(path).labels is None
    assert "unused are age, gender" in caplog.messages[0]
    assert load(path, label="Age", group="gender").groups is not None
    with pytest.raises(UsageError, match=r"column 'eye' at t.csv: there is no such column; others are age, gender"):
        load(path, label="eye")


def test_ids_are_kept(table):
    images = load(table("id,emotion,pixels,Usage"), part="validation")
    assert images.ids.tolist() == ["101", "105", "109"]
    assert images.headers == ("id", "emotion")


def test_many_numbers_beside_the_path_of_an_image_are_no_pixels(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "1.png")
    (tmp_path / "t.csv").write_text(f"ImageId,EncodedPixels,label\n1.png,{'9 ' * 20},cat\n")
    assert load(tmp_path / "t.csv").class_names == ("cat",)


def test_colour_and_decimals(tmp_path):
    colour = np.arange(48).reshape(4, 4, 3)
    (tmp_path / "c.csv").write_text(f"label,pixels\na,{row(colour)}\n")
    assert np.array_equal(load(tmp_path / "c.csv").pixels[0], colour.transpose(2, 0, 1))
    (tmp_path / "d.csv").write_text(f"label;pixels\na;{row(np.full(16, 7.0))}\n")
    assert (load(tmp_path / "d.csv").pixels == 7).all()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"a,{'1 ' * 15}256,Training", r"pixel 256 at t.csv row 2, number 16: pixels are whole numbers"),
        (f"a,{'1 ' * 15}x,Training", r"pixel x at t.csv row 2, number 16"),
        (f"a,{'1 ' * 15}-1,Training", r"pixel -1 at"),
        (f"a,{'1 ' * 17},Training", r"row 2: its cell holds 17 numbers, and that of the first 16"),
        ("a,,Training", r"row 2: its cell holds 0 numbers"),
        (f",{'1 ' * 16},Training", r"label at t.csv row 2, column emotion: it is missing"),
        (f"a,{'1 ' * 16},Holiday", r"part 'holiday' at t.csv row 2, column Usage: it names no part"),
        ("a", "it names no part|cannot be told apart|holds 0 numbers"),
    ],
)
def test_bad_rows_are_named(tmp_path, line, words):
    (tmp_path / "t.csv").write_text(f"emotion,pixels,Usage\na,{'1 ' * 16},Training\n{line}\n")
    with pytest.raises(DataError, match=words) as caught:
        load(tmp_path / "t.csv")
    assert "\n" not in str(caught.value)


def test_no_square(tmp_path):
    (tmp_path / "t.csv").write_text(f"emotion,pixels\na,{'1 ' * 17}\n")
    with pytest.raises(DataError, match=r"17 pixels at t.csv row 1: they make no square"):
        load(tmp_path / "t.csv")
