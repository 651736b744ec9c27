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


def names(images):
    return [images.class_names[label] for label in images.labels]


def test_the_one_list_of_names_and_ids(pets):
    for header, ids in (
        ("image_id,label", ("image_id", "label")),
        ("id,breed", ("id", "breed")),
        ("Id,Species", ("Id", "Species")),
    ):
        images = load(write(pets, f"{header}\n{rows()}"))
        assert names(images) == ["dog", "cat"] * 5
        assert (images.headers, images.ids[3]) == (ids, "a b/3.png")
    images = load(write(pets, f"Image,Id\n{rows()}"))  # of an image and an id alone, the id is the class
    assert (names(images)[:2], images.ids) == (["dog", "cat"], None)


@pytest.mark.parametrize(
    "prefix", ["/content/drive/My Drive/set/", "C:\\Users\\me\\set\\", "/kaggle/input/x/train/", ""]
)
@pytest.mark.parametrize("ending", [".png", ""])
def test_paths_of_another_machine_and_missing_endings(pets, prefix, ending):
    text = "".join(f"{prefix}{i}{ending},{'cat' if i % 2 else 'dog'}\n" for i in range(10))
    images = load(write(pets, f"filename,label\n{text}"))
    assert images.pixels[:, 0, 0, 0].tolist() == list(range(10))


def test_a_path_never_means_a_file_in_another_folder(pets):
    (pets / "b").mkdir()
    Image.new("RGB", (4, 4), (50, 1, 2)).save(pets / "b" / "1.png")
    images = load(write(pets, "path,label\nb/1.png,x\na b/2.png,y\nb/2.png,z\n"), allow_bad=0.5)
    assert images.pixels[:, 0, 0, 0].tolist() == [50, 2]
    images = load(write(pets, "path,label\nb/1.png,x\n1.png,y\n2.png,y\n"), allow_bad=0.5)
    assert images.pixels[:, 0, 0, 0].tolist() == [50, 2]  # two files are called 1.png


def test_one_hot_columns(pets):
    lines = "".join(f"a b/{i}.png,{int(i % 3 == 0)},{int(i % 3 == 1)},{int(i % 3 == 2)}\n" for i in range(9))
    images = load(write(pets, f"image_id,healthy,rust,scab\n{lines}"))
    assert names(images) == ["healthy", "rust", "scab"] * 3
    several = lines.replace("a b/4.png,0,1,0", "a b/4.png,1,1,0")
    with pytest.raises(DataError, match="1 of 9 rows have a 1 in several of the columns healthy, rust, scab"):
        load(write(pets, f"image_id,healthy,rust,scab\n{several}"))
    assert names(load(write(pets, f"image_id,healthy,rust,scab\n{several}"), label="rust")) == list("010010010")


@pytest.mark.parametrize(
    ("header", "cells"),
    [
        ("tags", ["haze primary", "clear"]),
        ("Finding Labels", ["Hernia|Effusion", "No Finding"]),
        ("label", ["cat", "dog", "cat dog"]),
        ("label", ["cat", "dog", "cat,dog"]),
        ("label", ["a|b", "b|c"]),
    ],
)
def test_several_labels_an_image_are_refused_by_name(pets, header, cells):
    text = f"path,{header}\n" + "".join(f'a b/{i}.png,"{cells[i % len(cells)]}"\n' for i in range(10))
    with pytest.raises(DataError, match=r"several labels an image at pets.csv: .* Imprint gives one label an image"):
        load(write(pets, text))
    assert len(load(write(pets, text), label=header).class_names) == len(cells)


@pytest.mark.parametrize(
    "cells", [["golden retriever", "poodle"], ["apple", "apple pie"], ["cat (big)", "cat"], ["Rust, brown", "scab"]]
)
def test_names_of_several_words_are_one_label(pets, cells):
    text = "path,label\n" + "".join(f'a b/{i}.png,"{cells[i % 2]}"\n' for i in range(10))
    assert set(load(write(pets, text)).class_names) == set(cells)


def test_unnamed_columns(pets):
    text = "path,kind,colour\n" + "".join(
        f"a b/{i}.png,{'cat' if i % 2 else 'dog'},{'red' if i < 5 else 'blue'}\n" for i in range(10)
    )
    with pytest.raises(DataError, match=r"kind, colour are there\. Say which column holds them: --label 'kind'"):
        load(write(pets, text))
    assert load(write(pets, text), label="Colour").class_names == ("blue", "red")
    assert names(load(write(pets, text), label=r"/([0-4])?"))[:2] == ["0", "1"]
    captions = "path,caption\n" + "".join(f"a b/{i}.png,words {i}\n" for i in range(10))
    assert load(write(pets, captions)).labels is None


def test_lists_without_a_header_and_json_lines(pets):
    plain = "".join(f"a b/{i}.png {i % 2}\n" for i in range(10)).replace("a b", "ab")
    (pets / "a b").rename(pets / "ab")
    assert load(write(pets, plain, "train.txt")).class_names == ("0", "1")
    tabs = "".join(f"{i}.png\tn0{i % 2}\t0\t1\n" for i in range(10))
    assert load(write(pets, tabs, "val_annotations.txt")).class_names == ("n00", "n01")
    lines = "".join(
        f'{{"file_name": "ab/{i}.png", "label": "{"cat" if i % 2 else "dog"}", "box": [1]}}\n' for i in range(10)
    )
    assert names(load(write(pets, lines, "metadata.jsonl"))) == ["dog", "cat"] * 5
    with pytest.raises(DataError, match=r"line at metadata\.jsonl line 2: it is no JSON object"):
        load(write(pets, lines.splitlines()[0] + "\n[1]\n", "metadata.jsonl"))


def folder_with(tmp_path, tables, part="train"):
    root = tmp_path / "set"
    (root / part).mkdir(parents=True)
    for i in range(10):
        Image.new("RGB", (4, 4), (i, 1, 2)).save(root / part / f"{i}.png")
    for name, text in tables.items():
        (root / name).write_text(text)
    return root


def test_a_table_beside_flat_images_names_their_labels(tmp_path):
    text = "id,breed\n" + "".join(f"{i},{'cat' if i % 2 else 'dog'}\n" for i in range(9))
    root = folder_with(
        tmp_path, {"labels.csv": text, "sample_submission.csv": "id,breed\nzz,cat\n", "notes.txt": "words"}
    )
    images = load(root)
    assert names(images) == ["dog", "cat"] * 4 + ["dog"]
    assert images.unreadable == ((str(root / "labels.csv"), "it names 1 of the images not"),)
    (root / "other.csv").write_text(text)
    with pytest.raises(DataError, match=r"labels.csv, other.csv all name these images|other.csv, labels.csv all name"):
        load(root)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("train/{i}.txt", "0 0.5 0.5 0.2 0.1\n", "YOLO"),
        ("annotations/{i}.xml", "<annotation><object><bndbox></bndbox></object></annotation>", "Pascal VOC"),
        ("annotations.json", '{"images": [], "annotations": [{"bbox": [0, 0, 1, 1]}]}', "COCO"),
    ],
)
def test_sets_for_object_detection_are_refused_by_name(tmp_path, name, content, kind):
    root = folder_with(tmp_path, {})
    for i in range(10):
        file = root / name.format(i=i)
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)
    with pytest.raises(DataError, match=rf"a set for object detection \({kind}, .* one label an image"):
        load(root)
    assert len(load(root, label="[0-9]")) == 10


def test_pieces_of_a_set_are_no_classes_where_a_table_names_labels(tmp_path):
    """HAM10000: two folders of images, one table."""
    rows = "".join(f"L{i},{i},{'nv' if i % 2 else 'mel'}\n" for i in range(10))
    root = folder_with(tmp_path, {"metadata.csv": f"lesion,image_id,dx\n{rows}"}, "images_part_1")
    (root / "images_part_2").mkdir()
    for i in range(5):
        (root / "images_part_1" / f"{i}.png").rename(root / "images_part_2" / f"{i}.png")
    assert names(load(root)) == ["mel", "nv"] * 5
    (root / "metadata.csv").unlink()
    assert load(root).class_names == ("images_part_1", "images_part_2")


def test_tables_of_competitions(tmp_path):
    """Plant Pathology 2020: images of both parts in one folder, one-hot labels, an example of what to submit."""
    hot = "".join(f"{i},{int(i % 2 == 0)},{i % 2}\n" for i in range(5))
    root = folder_with(
        tmp_path,
        {
            "train.csv": f"image_id,healthy,rust\n{hot}",
            "test.csv": "image_id\n" + "".join(f"{i}\n" for i in range(5, 10)),
            "sample_submission.csv": "image_id,healthy,rust\n" + "".join(f"{i},0.5,0.5\n" for i in range(5, 10)),
        },
        "images",
    )
    images = load(root)
    assert names(images) == ["healthy", "rust", "healthy", "rust", "healthy"]
    assert load(root / "test.csv").ids.tolist() == list("56789")


def test_labels_json_of_fiftyone(tmp_path):
    labels = ", ".join(f'"{i}": {i % 2}' for i in range(10))
    root = folder_with(tmp_path, {"labels.json": f'{{"classes": ["cat", "dog"], "labels": {{{labels}}}}}'}, "data")
    assert names(load(root)) == ["cat", "dog"] * 5


def test_other_names_of_columns(pets):
    """keras-preprocessing#57 and #92: a name that ends in path, and the index that pandas writes."""
    text = "".join(f"a b/{i}.png, {i % 2}\n" for i in range(10))
    assert load(write(pets, f"subDirectory_filePath, expression\n{text}")).headers == ("", "expression")
    text = "".join(f"{i},a b/{i}.png,{'cat' if i % 2 else 'dog'}\n" for i in range(10))
    assert names(load(write(pets, f",filepath,label\n{text}"))) == ["dog", "cat"] * 5


def test_a_name_that_several_files_have_is_told(pets):
    (pets / "b").mkdir()
    for i in range(10):
        Image.new("RGB", (4, 4), (i, 1, 2)).save(pets / "b" / f"{i}.png")
    with pytest.raises(DataError, match=r"image 0\.png at pets\.csv: 2 files have that name, such as "):
        load(write(pets, "".join(["path,label\n", *(f"{i}.png,cat\n" for i in range(10))])))
