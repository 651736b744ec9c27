import numpy as np
import pytest

from helpers import BAD_NAME, tags
from imprint.core.html import block, confusion_table, count_bars, line, page_image, table, text, tile


def test_small_images_stay_crisp_and_large_ones_become_small():
    small = page_image(np.zeros((1, 8, 8), dtype=np.uint8))
    assert small["crisp"]
    assert small["src"].startswith("data:image/png;base64,")
    photo = np.random.default_rng(0).integers(0, 256, (3, 900, 1200), dtype=np.uint8)
    large = page_image(photo)
    assert not large["crisp"]
    assert large["src"].startswith("data:image/jpeg;base64,")
    assert len(page_image(photo, 80)["src"]) < len(large["src"]) < 40_000


@pytest.mark.parametrize("name", [BAD_NAME, '" onerror="alert(1)', "a\nb\x1b[31m\u202e", "&amp;", 9000 * "x", "日本"])
def test_every_text_is_escaped_short_and_printable(name):
    pixels = np.zeros((1, 8, 8), dtype=np.uint8)
    parts = [
        tile(pixels, name, name, name, name),
        line(name),
        table((name, name), [(name, name)]),
        count_bars({name: 3, "b": 0}),
        confusion_table((name, "b"), [[1, 2], [0, 3]]),
    ]
    shown = block(name, name, *parts)
    assert set(tags(shown)) <= {"div", "span", "b", "img", "table", "thead", "tbody", "tr", "td", "th"}
    assert len(shown) < 12_000
    assert text(name).isprintable()


def test_of_many_classes_the_largest_and_the_smallest_are_counted():
    shown = count_bars({f"class {count}": count for count in range(100)})
    assert "class 99<" in shown
    assert "class 0<" in shown
    assert "class 50<" not in shown
    assert "88 more classes" in shown


def test_a_confusion_matrix_shows_every_count():
    shown = confusion_table(("cat", "dog"), [[7, 1], [0, 2000]])
    assert [f">{count}</td>" in shown for count in ("7", "1", "0", "2,000")] == [True, True, False, True]
    assert tags(confusion_table(("cat",), [[0]]))["td"] == 2
