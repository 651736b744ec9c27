import gzip

import pytest
from PIL import Image

from imprint import DataError, load


@pytest.fixture
def pets(tmp_path):
    folder = tmp_path / "pets"
    (folder / "a b").mkdir(parents=True)
    for i in range(10):
        Image.new("RGB", (4, 4), (i, 1, 2)).save(folder / "a b" / f"{i}.png")
    return folder


def write(folder, text, name="pets.csv"):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


def rows(count=10, separator=","):
    return "".join(f"a b/{i}.png{separator}{'cat' if i % 2 else 'dog'}\n" for i in range(count))


@pytest.mark.parametrize("header", ["path,label", "file_name,class", "Filename,Label", "image,target"])
def test_paths_start_at_the_csvs_folder(pets, header, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    images = load(write(pets, f"{header}\n{rows()}"))
    assert images.pixels[:, 0, 0, 0].tolist() == list(range(10))
    assert [images.class_names[i] for i in images.labels] == ["dog", "cat"] * 5
    assert images.name == "pets.csv"


@pytest.mark.parametrize(
    "text",
    [
        f"\ufeffpath,label\r\n{rows()}".replace("\n", "\r\n").replace("\r\r", "\r"),
        f"path,label\n{rows()}".replace("\n", "\r"),
        f"path;label\n{rows(separator=';')}",
        f"path\tlabel\n{rows(separator=chr(9))}",
        "label,path\n" + "".join(f"x,a b/{i}.png\n" for i in range(10)),
        "path,label\n\n" + "".join(f'"a b/{i}.png", x\n' for i in range(10)) + "\n",
        gzip.compress(f"path,label\n{rows()}".encode(), mtime=0),
    ],
)
def test_spellings(pets, text):
    assert len(load(write(pets, text, "pets.csv.gz" if isinstance(text, bytes) else "pets.csv"))) == 10


def test_absolute_paths_and_paths_upwards(pets, tmp_path):
    images = load(write(tmp_path, f"path,label\n{pets}/a b/3.png,cat\npets/../pets/a b/4.png,dog\n"))
    assert images.pixels[:, 0, 0, 0].tolist() == [3, 4]


def test_without_labels(pets):
    assert load(write(pets, "path\na b/1.png\n")).labels is None


def test_what_cannot_be_used_is_named(pets):
    images = load(write(pets, f"path,label\n{rows()}a b/1.png,\na b/99.png,cat\n"))
    assert len(images) == 10
    assert dict(images.unreadable) == {
        str(pets / "a b/1.png"): "its row has no label",
        str(pets / "a b/99.png"): "it cannot be opened (No such file or directory)",
    }


def test_paths_that_do_not_exist_are_refused_together(pets):
    with pytest.raises(DataError, match=r"2 of 2 images .* first .*no/1\.png"):
        load(write(pets, "path,label\nno/1.png,cat\nno/2.png,dog\n"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,label\n", "there are none"),
        ("path,label\na b/1.png\n", "1 cells at pets.csv line 2"),
        (b"path,label\n\xff.png,cat\n", "not UTF-8"),
        ("path,label\n,cat\na b/1.png,dog\n", "1 of 2 images"),
    ],
)
def test_bad_tables(pets, text, words):
    with pytest.raises(DataError, match=words):
        load(write(pets, text))


def test_groups_by_column_and_by_path(pets):
    text = "path,label,Person\na b/1.png,cat,ann\na b/2.png,dog,bob\na b/3.png,cat,ann\n"
    assert load(write(pets, text), group="Person").groups.tolist() == ["ann", "bob", "ann"]
    assert load(write(pets, text), group=r"[12]\.png").groups.tolist() == ["1.png", "2.png", "a b/3.png"]


@pytest.mark.parametrize("content", [b"\x1f\x8bjunk", b'"path,label', b"\0" * 99, b"x" * 200_000, b"\r"])
def test_junk_is_left_to_the_reader_of_pixels(pets, content):
    for name in ("pets.csv", "pets.csv.gz"):
        with pytest.raises(DataError):
            load(write(pets, content, name))


def test_a_table_of_pixels_is_still_one(pets):
    assert load(write(pets, "label,pixel0\ncat,7\n")).pixels.tolist() == [[[[7]]]]


def test_paths_written_on_windows(pets):
    text = f"path,label\n{rows()}".replace("/", "\\")
    assert load(write(pets, text)).pixels[:, 0, 0, 0].tolist() == list(range(10))


def test_a_backslash_that_is_part_of_a_name_stays(pets):
    Image.new("RGB", (4, 4), (99, 0, 0)).save(pets / "a\\b.png")
    assert load(write(pets, "path,label\na\\b.png,cat\n")).pixels[0, 0, 0, 0] == 99


@pytest.mark.parametrize(
    "text", [f"path,label\n{rows()}".encode("utf-16"), f"\n\n path , label \n{rows()}".replace(",", " , ")]
)
def test_as_excel_and_people_write(pets, text):
    images = load(write(pets, text))
    assert images.class_names == ("cat", "dog")
    assert len(images) == 10


def test_rows_without_path_or_label_are_left_out_by_name(pets):
    images = load(write(pets, f"path,label\n{rows()},cat\na b/1.png,nan\n"))
    assert [cause for _, cause in images.unreadable] == ["its row has no path", "its row has no label"]
    assert images.class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,label\na, b/1.png,cat\n", "3 cells at pets.csv line 2"),  # else the label would be b/1.png
        ("path,label,label\na b/1.png,cat,dog\n", "column label at pets.csv: it is there twice"),
    ],
)
def test_never_a_wrong_label(pets, text, words):
    with pytest.raises(DataError, match=words):
        load(write(pets, text))


def test_cells_that_are_empty_may_follow(pets):
    assert load(write(pets, "path,label\na b/1.png,cat,\n")).class_names == ("cat",)


def test_numbers_are_classes_by_value(pets):
    text = "path,label\na b/1.png,7\na b/2.png,07\na b/3.png,7.0\na b/4.png,0\na b/5.png,-0\n"
    images = load(write(pets, text))
    assert images.class_names == ("0", "7")
    assert images.labels.tolist() == [1, 1, 1, 0, 0]


def test_a_gzip_bomb_is_refused(pets):
    with pytest.raises(DataError, match="would grow to more than"):
        load(write(pets, gzip.compress(b"path,label\n" + b"a b/1.png,cat\n" * 10**6), "pets.csv.gz"))
