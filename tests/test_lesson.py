"""docs/lesson.md is run as it stands there: what it prints, shows and quotes is so."""

import code
import re
from contextlib import chdir

import numpy as np
import pytest
from lesson_images import draw_images
from lesson_measured import TABLES, measured, spread, with_tables
from lesson_page import BLOCK, IMAGES, PAGE, follow
from PIL import Image

TEXT = PAGE.read_text(encoding="utf-8")
SHOWN = re.findall(r"!\[([^\]]+)\]\(images/lesson/([\w-]+\.png)\)", TEXT)
LEARNT = {"curves", "learnt-filter", "weights", "filters", "layers", "where", "confusion", "mistakes", "ten"}
NUMBER = re.compile(r"(about )?(?<![\w.])-?\d+(?:[.,]\d+)*")


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lesson")
    return folder, *follow(TEXT, folder)


def differences(expected, found, loose):
    """Where two texts differ: words at all, numbers beyond what another processor may make of a training."""
    if NUMBER.sub("0", expected) != NUMBER.sub("0", found):
        yield expected, found
    for one, other in zip(NUMBER.finditer(expected), NUMBER.finditer(found), strict=False):
        values = [float(match[0].removeprefix("about ").replace(",", "")) for match in (one, other)]
        share = 0.2 if loose else 0.1  # a block may show first epochs, which differ most
        allowed = 0 if not (loose or one[1]) else share if values[0] <= 1 else 3 + values[0] / 2
        if abs(values[0] - values[1]) > allowed:
            yield one[0], other[0]


@pytest.mark.slow
def test_the_page_prints_what_it_says(followed):
    _, _, printed = followed
    shown = [block for block, _ in printed if block["printed"] is not None]
    assert len(shown) >= 14
    for block, out in printed:
        if block["printed"] is not None:
            assert not list(differences(block["printed"], out, bool(block["about"]))), block["code"]


def test_a_wrong_number_is_noticed():
    assert list(differences("sum 780\n", "sum 781\n", loose=False))
    assert list(differences("about 0.90\n", "about 0.75\n", loose=False))
    assert list(differences("about 0.90\n", "roughly 0.90\n", loose=False))
    assert not list(differences("about 0.90\n", "about 0.93\n", loose=False))


def test_every_block_is_of_a_kind_that_is_run():
    fences = re.findall(r"^```(\w+)", TEXT, re.MULTILINE)
    assert set(fences) <= {"python", "sh", "text", "console"}
    assert len(list(BLOCK.finditer(TEXT))) == sum(fence in ("python", "sh") for fence in fences)


def test_blocks_can_be_typed_line_by_line():
    class Typed(code.InteractiveConsole):
        def runcode(self, code):
            pass

        def showsyntaxerror(self, filename=None, **_):
            raise AssertionError("\n".join(self.buffer))

    for block in BLOCK.finditer(TEXT):
        if block["language"] == "python":
            console = Typed()
            assert not [console.push(line) for line in [*block["code"].splitlines(), ""]][-1]


def test_measurements_are_those_of_the_benchmark():
    assert with_tables(TEXT) == TEXT
    assert TEXT.count("<!-- measured: ") == len(TABLES)
    whole_lesson = spread(measured(data="kaggle", measure="whole lesson", variant="with"))
    assert f"| `tutorial` | | {whole_lesson} |" in TEXT


def test_images_are_there_small_and_described():
    names = [name for _, name in SHOWN]
    assert sorted(names) == sorted(path.name for path in IMAGES.iterdir())
    sizes = [(IMAGES / name).stat().st_size for name in names]
    assert max(sizes) < 60_000
    assert sum(sizes) < 800_000
    assert all(len(alternative) > 20 for alternative, _ in SHOWN)


@pytest.mark.slow
def test_images_can_be_drawn_again(followed, tmp_path):
    folder, names, _ = followed
    with chdir(folder):
        draw_images(names, folder, tmp_path)
    for _, name in SHOWN:
        with Image.open(tmp_path / name) as drawn, Image.open(IMAGES / name) as kept:
            assert abs(drawn.width - kept.width) <= 60
            tones = [np.asarray(image.convert("L"), dtype=float) for image in (drawn, kept)]
        assert len(np.unique(tones[0])) > 10  # something is drawn
        if name.removesuffix(".png") not in LEARNT:  # training differs from processor to processor
            assert tones[0].shape == tones[1].shape
            assert abs(tones[0] - tones[1]).mean() < 0.1, f"{name} is out of date: make lesson"


def test_links_lead_somewhere():
    headings = {
        re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in TEXT.splitlines()
        if line.startswith("#")
    }
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        if target.startswith("#"):
            assert target[1:] in headings
        elif not target.startswith("http"):
            assert (PAGE.parent / target.split("#")[0]).is_file()
