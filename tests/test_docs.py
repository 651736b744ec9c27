"""What docs/data.md shows is run as it stands there, in a folder that has what it speaks of."""

import gzip
import re
import shlex
import warnings
import zipfile
from pathlib import Path

import numpy
import polars
import pytest
from PIL import Image

import imprint
from helpers import pixel_table
from imprint.cli.app import app

PAGE = (Path(__file__).parent.parent / "docs" / "data.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```(python|sh)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(digits, tmp_path_factory):
    root = tmp_path_factory.mktemp("docs")
    photos = [
        "photos/cat/tom.jpg",
        "photos/cat/outdoors/felix.png",
        "photos/dog/rex.webp",
        "holiday/1.png",
        "holiday/2.png",
    ]
    photos += [f"divided/{part}/{name}/1.png" for part in ("train", "validation", "test") for name in ("cat", "dog")]
    for i, name in enumerate(photos):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20), (9 * i, 90, 200)).save(root / name)
    (root / "photos/cat/page.jpg").write_text("<html>")
    (root / "pets.csv").write_text(re.search(r"^path,label.*?(?=```)", PAGE, re.MULTILINE | re.DOTALL)[0])
    (root / "train.csv").write_text(pixel_table(digits[:50]))
    polars.read_csv(root / "train.csv").write_parquet(root / "train.parquet")
    files = [(root / name).read_bytes() for name in photos]
    polars.DataFrame({"image": files, "label": ["cat"] * len(files)}).write_parquet(
        root / "train-00000-of-00001.parquet"
    )
    for name, start, array in (
        ("images", [8, 3, 50, 8, 8], digits.pixels[:50]),
        ("labels", [8, 1, 50], digits.labels[:50]),
    ):
        header = bytes([0, 0, *start[:2]]) + b"".join(size.to_bytes(4) for size in start[2:])
        content = gzip.compress(header + array.astype(numpy.uint8).tobytes())
        (root / f"train-{name}-idx{start[1]}-ubyte.gz").write_bytes(content)
    with zipfile.ZipFile(root / "photos.zip", "w") as archive:
        for name in photos[:3]:
            archive.write(root / name, name)
    return root


def test_every_form_has_an_example():
    assert len(EXAMPLES) >= 12


def test_examples(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (folder / "photos/cat/page.jpg").rename(folder / "page")  # a quarter of so few is too much, until it is allowed
    names = {"imprint": imprint, "numpy": numpy}
    for language, code in EXAMPLES:
        if "allow_bad" in code and (folder / "page").exists():
            (folder / "page").rename(folder / "photos/cat/page.jpg")
        if language == "sh":
            for line in code.splitlines():
                app(shlex.split(line, comments=True)[1:], standalone_mode=False)
        else:
            exec(code, names)
    printed = capsys.readouterr().out
    for words in ("photos: 3 images of 30×20 colour", "{'cat': 2, 'dog': 1}", "('train', 'validation', 'test')"):
        assert words in printed
    assert "page.jpg it is a web page" in printed
    assert sorted(names["images"].groups.tolist()) == ["felix", "rex", "tom"]
    assert len(names["some"]) == 2
    assert names["one"].labels is None
    assert names["same"].pixels.shape == (50, 1, 8, 8)


SERVING = (Path(__file__).parent.parent / "docs" / "serving.md").read_text(encoding="utf-8")


def test_serving(model_file, digits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/0001-quick").mkdir(parents=True)
    (tmp_path / "runs/0001-quick/model.safetensors").write_bytes(model_file.read_bytes())
    (tmp_path / "test.csv").write_text(pixel_table(digits[:50], labelled=False))
    (tmp_path / "labelled.csv").write_text(pixel_table(digits[:500]))
    Image.fromarray(digits.pixels[7, 0]).save("seven.png")
    names = {"pixels": digits.pixels[:3, 0]}
    examples = re.findall(r"^```(python|sh)\n(.*?)^```$", SERVING, re.MULTILINE | re.DOTALL)
    assert [language for language, _ in examples] == ["sh", "sh", "python", "python", "sh"]
    for language, code in examples:
        if language == "sh":
            for line in code.splitlines():
                app(shlex.split(line, comments=True)[1:], standalone_mode=False)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)  # a page may leave a file to be closed
                exec(code, names)
    printed = capsys.readouterr().out
    for words in ("all classes agree", "digits.onnx\naccuracy ", "int8: accuracy "):
        assert words in printed
    assert re.search(r"^7 [01]\.\d{4} sure$", printed, re.MULTILINE)
    assert len((tmp_path / "result.csv").read_text().splitlines()) == 51
