import gzip
import zlib

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from imprint import DataError, UsageError, load

HEADER = "label,pixel0,pixel1,pixel2,pixel3"


def test_train_form(table):
    images = load(table(f"{HEADER}\n7,0,1,2,3\n10,4,5,6,255\n7,9,9,9,9\n"))
    assert images.pixels.dtype == np.uint8
    assert images.pixels.tolist() == [[[[0, 1], [2, 3]]], [[[4, 5], [6, 255]]], [[[9, 9], [9, 9]]]]
    assert images.class_names == ("7", "10")
    assert images.labels.tolist() == [0, 1, 0]
    assert images.sources.tolist() == [1, 2, 3]
    assert images.name == "table.csv"


def test_test_form_has_no_labels(table):
    images = load(table("pixel0,pixel1,pixel2,pixel3\n0,1,2,3\n"))
    assert images.labels is None
    assert images.class_names == ()
    assert images.pixels.tolist() == [[[[0, 1], [2, 3]]]]


def test_real_digits_come_back_as_they_went(digits, digits_csv):
    images = load(digits_csv / "train.csv")
    assert np.array_equal(images.pixels, digits.pixels[:600])
    assert np.array_equal(images.labels, digits.labels[:600])
    assert images.class_names == digits.class_names


def test_numpy_reads_the_same(digits_csv):
    expected = np.loadtxt(digits_csv / "train.csv", delimiter=",", skiprows=1, dtype=int)
    images = load(digits_csv / "train.csv")
    assert np.array_equal(images.pixels.reshape(600, -1), expected[:, 1:])
    assert np.array_equal(images.labels, expected[:, 0])


@pytest.mark.parametrize(
    "content",
    [
        f"{HEADER}\r\ncat,0,50,100,255\r\n",
        f"\ufeff{HEADER}\ncat,0,50,100,255\n",
        f"{HEADER}\ncat,0,50,100,255",
        f"{HEADER}\ncat,0,50,100,255\n\n\n",
        f"{HEADER}\rcat,0,50,100,255\r",
        "label, pixel0 , pixel1,pixel2 ,pixel3\ncat,0,50,100,255\n",
        "label;pixel0;pixel1;pixel2;pixel3\ncat;0;50;100;255\n",
        "label\tpixel0\tpixel1\tpixel2\tpixel3\ncat\t0\t50\t100\t255\n",
        '"label","pixel0","pixel1","pixel2","pixel3"\n"cat","0","50","100","255"\n',
        "pixel3,pixel1,label,pixel0,pixel2\n255,50,cat,0,100\n",
        "label,pixel1,pixel2,pixel3,pixel4\ncat,0,50,100,255\n",
        "label,pixel0000,pixel0001,pixel0002,pixel0003\ncat,0,50,100,255\n",
        "Label,PIXEL_0,PIXEL_1,PIXEL_2,PIXEL_3\ncat,0,50,100,255\n",
        "label,0,1,2,3\ncat,0,50,100,255\n",
        "label,1x1,1x2,2x1,2x2\ncat,0,50,100,255\n",
        "id,label,pixel0,pixel1,pixel2,pixel3\n77,cat,0,50,100,255\n",
        ",label,pixel0,pixel1,pixel2,pixel3\n0,cat,0,50,100,255\n",
        f"{HEADER}\ncat,0.0,50.0,1e2,255\n",
        f"{HEADER}\n cat , 0,50 , 100 ,255 \n",
        gzip.compress(f"{HEADER}\ncat,0,50,100,255\n".encode(), mtime=0),
        f"{HEADER}\ncat,0,50,100,255\n".encode("utf-16"),
    ],
)
def test_read_rightly(table, content):
    images = load(table(content))
    assert images.pixels.tolist() == [[[[0, 50], [100, 255]]]]
    assert images.class_names == ("cat",)


def test_colour_pixels_stand_side_by_side(table):
    header = ",".join(f"pixel{i}" for i in range(12))
    images = load(table(f"{header}\n{','.join(map(str, range(12)))}\n"))
    assert images.shape == (3, 2, 2)
    assert images.pixels[0].tolist() == [[[0, 3], [6, 9]], [[1, 4], [7, 10]], [[2, 5], [8, 11]]]


def test_gzipped_by_name(table):
    assert len(load(table(gzip.compress(f"{HEADER}\n1,0,0,0,0\n".encode(), mtime=0), "train.csv.gz"))) == 1


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        (["2", "10", "-1"], ("-1", "2", "10")),
        (["dog", "Cat", "2"], ("2", "Cat", "dog")),
        (["3.0", "3", "4"], ("3", "4")),
        (["ü b", "日本", "a"], ("a", "ü b", "日本")),
        (["True", "False", "True"], ("False", "True")),
    ],
)
def test_labels_keep_their_names(table, cells, names):
    rows = "\n".join(f"{cell},0,0,0,0" for cell in cells)
    images = load(table(f"{HEADER}\n{rows}\n"))
    assert images.class_names == names
    assert [images.class_names[i] for i in images.labels] == [cell.replace(".0", "") for cell in cells]


GOOD = "1,0,0,0,0\n" * 16


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (f"{HEADER}\n{GOOD}1,0,0,0,256\n", "pixel 256 at table.csv row 17, column pixel3"),
        (f"{HEADER}\n1,-5,0,0,0\n", "pixel -5 at table.csv row 1, column pixel0"),
        (f"{HEADER}\n1,0,0.5,0,0\n", "pixel 0.5 at table.csv row 1, column pixel1"),
        (f"{HEADER}\n1,0,0,NaN,0\n", "pixel NaN at table.csv row 1, column pixel2"),
        (f"{HEADER}\n1,0,0,inf,0\n", "pixel inf"),
        (f"{HEADER}\n1,0,0,1_0,0\n", "pixel 1_0"),
        (f"{HEADER}\n1,0,0,x,0\n", "pixel x at table.csv row 1, column pixel2"),
        (f"{HEADER}\n1,0,0,,0\n", "empty cell at table.csv row 1, column pixel2"),
        (f"{HEADER}\n1,0,0,0,\n", "empty cell at table.csv row 1, column pixel3"),
        (f"{HEADER}\n1,0,0,0\n", "4 cells at table.csv row 1: the header names 5 columns"),
        (f"{HEADER}\n1,0,0,0,0,0\n", "6 cells at table.csv row 1"),
        (f"{HEADER}\n1,0,0,0,0\n\n1,0,0,0,0\n", "table.csv row 2: the line is empty"),
        (f"{HEADER}\n,0,0,0,0\n", "label at table.csv row 1, column label: it is missing"),
        (f"{HEADER}\n1,0,0,0,0\nnan,0,0,0,0\n", "label at table.csv row 2, column label: it is missing"),
        (f"{HEADER}\n0.5,0,0,0,0\n", "label 0.5 at table.csv row 1"),
        (f"{HEADER}\n", "no images at table.csv: there is a header but no row"),
        ("", "no content at table.csv: the file is empty"),
        ("\n\n", "the file is empty"),
        ("label,pixel0,pixel1,pixel3\n1,0,0,0\n", "column pixel2 at table.csv: it is missing"),
        ("label,pixel0,pixel999999999\n1,0,0\n", "column pixel1 at table.csv: it is missing"),
        ("label,pixel0,pixel1,pixel1,pixel2\n1,0,0,0,0\n", "column pixel1 at table.csv: it is there twice"),
        ("label,pixel0,label,pixel1,pixel2\n1,0,0,0,0\n", "column label at table.csv: it is there twice"),
        ("label,pixel0,pixel1\n1,0,0\n", "2 pixels at table.csv: they make no square image"),
        ("label\n1\n", "pixels at table.csv: no column is named pixel0"),
        ("5,0,0,0,0\n4,0,0,0,0\n", "line 1 at table.csv: it holds numbers instead of column names"),
        ("1x1,pixel0,pixel1\n0,0,0\n", "columns at table.csv: pixels are named both"),
        (f"{HEADER}\n1,0,0,0,0\n".encode("utf-16-le"), "line 1 at table.csv: it is not text"),
        (f"{HEADER}\n".encode() + b"\xff,0,0,0,0\n", "text at table.csv row 1: it is not UTF-8"),
        (gzip.compress(GOOD.encode(), mtime=0)[:-9], "gzip data at table.csv: the file is cut short"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "table.csv"),
    ],
)
def test_refused_in_one_line(table, content, words):
    with pytest.raises(DataError) as caught:
        load(table(content))
    line = str(caught.value)
    assert words in line
    assert "\n" not in line
    assert line.endswith(".")


def test_shares_get_their_own_remedy(table):
    with pytest.raises(DataError, match="Multiply pixels from 0 to 1 by 255"):
        load(table(f"{HEADER}\n1,0.0,0.25,1.0,0\n"))


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(-2, 258), min_size=3, max_size=5), min_size=1, max_size=4),
    end=st.sampled_from(["\n", "\r\n"]),
    mark=st.sampled_from([",", ";", "\t"]),
)
def test_any_small_table_is_read_rightly_or_refused(rows, end, mark, tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "table.csv"
    header = mark.join(f"pixel{i}" for i in range(4))
    path.write_text(end.join([header, *(mark.join(map(str, row)) for row in rows), ""]), newline="")
    good = all(len(row) == 4 and all(0 <= pixel <= 255 for pixel in row) for row in rows)
    if good:
        assert load(path).pixels.reshape(len(rows), 4).tolist() == rows
    else:
        with pytest.raises(DataError):
            load(path)


def test_labels_that_begin_as_compressed_streams_do(table):
    images = load(table("label,pixel0,pixel1,pixel2,pixel3\nx^2,1,2,3,4\nx,5,6,7,8\n"))
    assert images.class_names == ("x", "x^2")


def test_a_quotation_mark_left_open_is_refused_without_a_panic(table, capfd):
    with pytest.raises(DataError):
        load(table('label,pixel0,pixel1,pixel2,pixel3\n1,1e999999,9,200,255\n2,4,5,6,"\n'))
    assert "panicked" not in capfd.readouterr().err


def test_compressed_rows_behind_a_header_are_not_unpacked(table):
    rows = zlib.compress(b"cat,1,2,3,4\n" * 10)
    with pytest.raises(DataError):
        load(table(b"label,pixel0,pixel1,pixel2,pixel3\n" + rows))


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "table.csv"
    path.write_bytes(content)
    try:
        load(path)
    except DataError as error:
        assert "\n" not in str(error)


HEADER_OF_9 = ",".join(f"pixel{i}" for i in range(9))
THREE = ("0,0,0,0,9,0,0,0,0", "0,0,0,0,8,0,0,0,0", "0,0,0,0,7,0,0,0,0")


def numbered(header, cells):
    return f"{header}\n" + "".join(f"{cell},{row}\n" for cell, row in zip(cells, THREE, strict=True))


@pytest.mark.parametrize("name", ["class", "Target", "character", "digit_name", "y"])
def test_the_one_other_column_holds_the_labels(table, name):
    images = load(table(numbered(f"{name},{HEADER_OF_9}", ["a", "b", "a"])))
    assert (images.class_names, images.labels.tolist(), images.ids) == (("a", "b"), [0, 1, 0], None)
    assert images.headers == ("", name)


@pytest.mark.parametrize("name", ["id", "ImageId", "image_id", "INDEX", "file"])
def test_ids_are_kept_as_text(table, name):
    images = load(table(numbered(f"{name},{HEADER_OF_9}", ["007", "a-1", "3.0"])))
    assert images.ids.tolist() == ["007", "a-1", "3.0"]
    assert (images.labels, images.headers) == (None, (name, ""))
    assert images[1:].ids.tolist() == ["a-1", "3.0"]


def test_label_and_id_may_be_named(table):
    text = f"a,b,c,{HEADER_OF_9}\n" + "".join(f"x{i % 2},y{i % 2},{i},{row}\n" for i, row in enumerate(THREE))
    with pytest.raises(DataError, match=r"a, b are there. Say which column holds them: --label 'a'"):
        load(table(text))
    images = load(table(text), label="b", ids="C")
    assert (images.class_names, images.ids.tolist(), images.headers) == (("y0", "y1"), ["0", "1", "2"], ("c", "b"))
    with pytest.raises(UsageError, match="beside the pixels a, b, c"):
        load(table(text), label="d")


def test_without_a_header_the_first_column_holds_the_labels(table, caplog):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (5, 64))
    labels = [3, 1, 3, 0, 1]
    caplog.set_level("INFO", logger="imprint")
    lines = [",".join(map(str, [label, *row])) for label, row in zip(labels, values, strict=True)]
    images = load(table("\n".join(lines) + "\n"))
    assert np.array_equal(images.pixels.reshape(5, 64), values)
    assert [images.class_names[i] for i in images.labels] == ["3", "1", "3", "0", "1"]
    assert "has no line of names: its first column is taken for the labels" in caplog.text
    only = load(table("\n".join(line.partition(",")[2] for line in lines) + "\n"))
    assert (len(only), only.labels) == (5, None)


def test_a_first_row_that_pandas_took_for_names_is_an_image(table):
    first = ["3", *["0"] * 60, "7", "0", "7", "9"]
    seen, mangled = {}, []
    for value in first:
        mangled.append(f"{value}.{seen[value]}" if value in seen else value)
        seen[value] = seen.get(value, 0) + 1
    second = ["1", *map(str, range(64))]
    images = load(table(",".join(mangled) + "\n" + ",".join(second) + "\n"))
    assert images.pixels.reshape(2, 64).tolist() == [[int(v) for v in first[1:]], list(range(64))]
    assert [images.class_names[i] for i in images.labels] == ["3", "1"]


def test_columns_numbered_from_0_are_names(table):
    header = ",".join(["label", *map(str, range(64))])
    assert len(load(table(f"{header}\n" + ",".join(["1"] * 65) + "\n"))) == 1
