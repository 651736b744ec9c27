"""What the pages show is run as it stands there; what they say of the code is so."""

import gzip
import re
import shlex
import shutil
import tarfile
import tomllib
import warnings
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy
import polars
import pytest
import scipy.io
from PIL import Image

import imprint
from helpers import pixel_table
from imprint.cli.app import app

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
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
    photos += [f"named/train/{name}.{i}.jpg" for name in ("cat", "dog") for i in range(3)]
    photos += [f"breeds/train/0a{i}b.png" for i in range(6)]
    for i, name in enumerate(photos):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20), (9 * i, 90, 200)).save(root / name)
    (root / "photos/cat/page.jpg").write_text("<html>")
    (root / "pets.csv").write_text(re.search(r"^path,label.*?(?=```)", PAGE, re.MULTILINE | re.DOTALL)[0])
    (root / "wrong.csv").write_text(re.search(r"^source,label,pred.*?(?=```)", PAGE, re.MULTILINE | re.DOTALL)[0])
    (root / "breeds/labels.csv").write_text(
        "id,breed\n" + "".join(f"0a{i}b,{'pug' if i % 2 else 'dingo'}\n" for i in range(6))
    )
    (root / "kannada.csv").write_text(pixel_table(digits[:9]).replace("label", "id", 1))
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
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        (root / "snapshot/data").mkdir(parents=True, exist_ok=True)
        shutil.copy(root / "train-00000-of-00001.parquet", root / "snapshot/data" / f"{name}.parquet")
    (root / "shards").mkdir()
    for name in ("train-000", "train-001", "val-000"):
        with tarfile.open(root / "shards" / f"{name}.tar", "w") as archive:
            for i, path in enumerate(photos[:2]):
                (root / "class").write_text(f"{i}")
                archive.add(root / path, f"{i:04}.jpg")
                archive.add(root / "class", f"{i:04}.cls")
    for kind in ("images-idx3", "labels-idx1"):
        (root / "MNIST/raw").mkdir(parents=True, exist_ok=True)
        for part in ("train", "t10k"):
            shutil.copy(root / f"train-{kind}-ubyte.gz", root / "MNIST/raw" / f"{part}-{kind}-ubyte.gz")
    (root / "cifar-10-batches-bin").mkdir()
    for name in ("data_batch_1", "data_batch_2", "test_batch"):
        (root / "cifar-10-batches-bin" / f"{name}.bin").write_bytes(bytes([3, *[7] * 3072]))
    arrays = {"X": digits.pixels[:50].transpose(2, 3, 1, 0), "y": digits.labels[:50, None]}
    scipy.io.savemat(root / "train_32x32.mat", arrays)
    rows = [f"{i % 7},{' '.join(map(str, digits.pixels[i].ravel()))},{use}"
            for i, use in enumerate(("Training", "PublicTest", "PrivateTest"))]  # fmt: skip
    (root / "fer2013.csv").write_text("\n".join(["emotion,pixels,Usage", *rows]))
    with tarfile.open(root / "photos.tgz", "w:gz") as archive:
        for name in photos[:3]:
            archive.add(root / name, name)
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
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)  # a page may leave a file to be closed
                exec(code, names)
    printed = capsys.readouterr().out
    for words in ("photos: 3 images of 30×20 colour", "{'cat': 2, 'dog': 1}", "('train', 'validation', 'test')"):
        assert words in printed
    assert "page.jpg it is a web page" in printed
    assert sorted(names["images"].groups.tolist()) == ["felix", "rex", "tom"]
    assert len(names["some"]) == 2
    assert names["one"].labels is None
    assert names["same"].pixels.shape == (50, 1, 8, 8)
    assert names["drawings"].class_names == ("one", "zero")
    assert names["mixed"].sources.tolist() == ["holiday/1.png", "image#2", "array#3"]


EXPORTING = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_exporting(model_file, digits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/0001-quick").mkdir(parents=True)
    (tmp_path / "runs/0001-quick/model.safetensors").write_bytes(model_file.read_bytes())
    (tmp_path / "test.csv").write_text(pixel_table(digits[:50], labelled=False))
    (tmp_path / "labelled.csv").write_text(pixel_table(digits[:500]))
    Image.fromarray(digits.pixels[7, 0]).save("seven.png")
    names = {"pixels": digits.pixels[:3, 0]}
    examples = re.findall(r"^```(python|sh)\n(.*?)^```$", EXPORTING, re.MULTILINE | re.DOTALL)
    assert [language for language, _ in examples] == ["sh", "sh", "python", "python", "sh", "python", "sh"]
    for language, code in examples:
        if "import cv2" in code and find_spec("cv2") is None:
            continue
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


ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]


def test_architecture_has_the_floors_of_the_contract():
    floors = CONTRACTS[0]["layers"]
    assert f"`{' > '.join(floors)}`" in ARCHITECTURE
    told = re.findall(r"^\| \*\*`(\w+)(?:/|\.py)`\*\* \|", ARCHITECTURE, re.MULTILINE)
    assert told == [name for floor in floors[1:] for name in floor.split(" | ")]


def test_architecture_names_every_file_where_it_is():
    top, package, named = ROOT / "src" / "imprint", "", set()
    for line in ARCHITECTURE.split("## Where to change what")[0].splitlines():
        found = re.findall(r"`(\w+(?:\.py|/))`", line)
        if line.startswith("| **"):
            package = found[0] if found[0].endswith("/") else ""
            named |= {found[0]} - {package}
        elif line.startswith("| `"):
            inner = found[0] if found[0] in ("onnx/", "readers/", "decoding/") else ""
            named |= {f"{package}{inner}{name}" for name in found if name.endswith(".py")}
    there = {
        path.relative_to(top).as_posix() for path in top.rglob("*.py") if path.parent == top or path.stem != "__init__"
    }
    assert named == there


# How a reference to the log is written: docs/log/ink.md, "Any paper, any pen", "No ink, no glyph"
REFERENCE = re.compile(r'(?:docs/log/?|\blog/\w+\.md\)?),((?: "[^"]+",?(?: and)?)+)')
LOG = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "log").glob("*.md")}
TITLES = {title: name for name, text in LOG.items() for title in re.findall(r"^## (.+)$", text, re.MULTILINE)}


def test_the_log_is_listed():
    listed = re.findall(r"^- \[(\w+\.md)\]\(\1\)|^  - (.+)$", LOG["README.md"], re.MULTILINE)
    name, places = "", {}
    for file, title in listed:
        name = file or name
        if title:
            places[title] = name
    assert places == TITLES
    assert {file for file, _ in listed if file} | {"README.md"} == set(LOG)


def test_references_to_the_log_lead_somewhere():
    count = 0
    suffixes = {".py", ".md", ".html", ".toml"}
    folders = ("src", "tests", "docs", "benchmarks", "scripts", "examples")
    paths = [*ROOT.glob("*.md"), *(path for folder in folders for path in (ROOT / folder).rglob("*"))]
    for path in paths:
        if path.suffix not in suffixes or path == Path(__file__) or path.parent.name == "log":
            continue
        text = re.sub(r"\s+(?:#:? )?\s*", " ", path.read_text(encoding="utf-8"))  # comments over several lines
        assert not re.search(r"\bLOG\.md", text), path
        for name in re.findall(r"\blog/(\w+\.md)", text):
            assert name in LOG, path
        for titles in REFERENCE.findall(text):
            for title in re.findall(r'"([^"]+)"', titles):
                count += 1
                assert any(whole.startswith(title.rstrip(",.")) for whole in TITLES), (path, title)
    assert count >= 10


def test_links_between_pages_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith(("http", "#")):
                assert (page.parent / target.split("#")[0]).exists(), (page, target)
