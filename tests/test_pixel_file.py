import numpy as np
import pytest

from imprint.data.pixel_file import Writer, read_facts


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.pictures"
    with open(path, "wb") as file:
        writer = Writer(file)
        writer.add(np.arange(20, dtype=np.uint8).reshape(5, 1, 2, 2))
        writer.add(np.arange(20, 40, dtype=np.uint8).reshape(5, 1, 2, 2)[..., ::-1])
        writer.facts = {"name": "a", "shape": [writer.pictures, 1, 2, 2]}
        writer.finish()
    return path


def test_pixels_stand_at_the_start_in_order_and_facts_behind_them(path):
    assert read_facts(path) == {"name": "a", "shape": [10, 1, 2, 2]}
    pixels = np.fromfile(path, dtype=np.uint8, count=40)
    assert pixels[:20].tolist() == list(range(20))
    assert pixels[20:24].tolist() == [21, 20, 23, 22]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content[:40],
        lambda content: content + content[-1:],
        lambda content: content[:4] + b"x" + content[4:],
        lambda content: content[4:],
        lambda content: content.replace(b'"shape"', b'"shapf"'),
        lambda content: content.replace(b"imprint1", b"imprint2"),
    ],
    ids=["empty", "cut", "no end", "an end too much", "more pixels", "fewer pixels", "other facts", "another mark"],
)
def test_a_file_whose_end_does_not_fit_is_none(path, damage):
    path.write_bytes(damage(path.read_bytes()))
    assert read_facts(path) is None


def test_a_file_that_is_not_there_is_none(tmp_path):
    assert read_facts(tmp_path / "b.pictures") is None
    assert read_facts(tmp_path) is None
