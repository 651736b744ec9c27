import re
from xml.etree import ElementTree

import pytest

from imprint.core.plot_style import CSS_VARIABLES, image_height, new_figure, save_png, shorten, to_svg


@pytest.fixture
def figure():
    with new_figure(3, 2) as drawn:
        axes = drawn.subplots()
        axes.plot([0, 1], [0, 1], "o-", color="#0072B2", label="<script>alert(1)</script> & 日本")
        axes.set_title("a title")
        axes.legend()
    return drawn


def test_svg_takes_the_colours_of_the_page_and_escapes(figure):
    drawn = to_svg(figure, "one", 'seen "so" <b>')
    root = ElementTree.fromstring(drawn.replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1))
    assert root.attrib["aria-label"] == 'seen "so" <b>'
    assert "<script" not in drawn
    assert "var(--blue)" in drawn
    assert not [colour for colour in CSS_VARIABLES if colour.lower() in drawn.lower()]
    assert "DejaVu" not in drawn
    assert "700 12px" in drawn or "font-weight: 700" in drawn


def test_ids_of_two_figures_differ(figure):
    drawings = [to_svg(figure, name, "") for name in ("one", "two")]
    ids = [set(re.findall(r'id="([^"]+)"', drawn)) for drawn in drawings]
    assert ids[0]
    assert not ids[0] & ids[1]
    used = re.findall(r'(?:href="#|url\(#)([^")]+)', drawings[0])
    assert used
    assert set(used) <= ids[0]


def test_png(figure, tmp_path):
    save_png(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_names_are_cut_in_the_middle():
    assert shorten("class number 17 of many", 9) == "clas…many"
    assert shorten("short\nclass number 17 of many", 9) == "short\nclas…many"


def test_heights_of_extreme_shapes_are_bounded():
    assert [image_height((1, height, 100), 1.6) for height in (1, 50, 1000)] == [0.4, 0.8, 2.4000000000000004]


def test_a_figure_shows_itself_without_warning(figure):
    figure.axes[0].set_title("日本")
    assert figure._repr_png_()[:4] == b"\x89PNG"
