import numpy as np

from imprint.core.scores import label_predictions, score
from imprint.models.networks import tutorial
from imprint.models.summary import summarise
from imprint.report.sections import score_section
from imprint.report.tables import preview, score_table, summary_table, table


def test_preview_shows_first_rows(digits):
    lines = preview(digits).splitlines()
    assert lines[0] == "digits: 1,797 images of 8×8 grey, 1 channel, 10 classes"
    assert "    3       183  10.2%" in lines
    assert lines[-1].split()[:2] == ["digits#5", "4"]


def test_preview_without_labels(digits):
    unlabelled = type(digits)(digits.pixels, None, (), digits.sources, "test.csv")
    text = preview(unlabelled)
    assert "no labels" in text
    assert "?" in text


def test_columns_line_up():
    lines = table(["a", "b"], [["x", "1"], ["long", "1,000"]]).splitlines()
    assert [line.index(cell) + len(cell) for line, cell in zip(lines, ("b", "1", "1,000"), strict=True)] == [11] * 3


def test_names_in_a_header_stay_on_their_line_and_steer_nothing():
    assert table(["", "new\nline", "\x1b[31m"], [["a", "1", "2"]]).splitlines()[0] == r"   new line  \x1b[31m"


def test_names_that_begin_with_a_digit_are_words():
    assert table(["layer"], [["1/conv2d (Conv2D)"], ["2/dense"]]).splitlines()[2] == "2/dense"


def test_the_lessons_totals():
    text = summary_table("tutorial", summarise(tutorial(1, 28, 28, 10), (1, 28, 28)))
    assert "conv2d (Conv2D)               (None, 24, 24, 30)      780" in text
    assert "Total params: 203,933\nTrainable params: 203,933\nNon-trainable params: 0" in text


def test_a_class_without_images_is_not_called_the_hardest():
    sure, labels, names, flags = (
        np.eye(3, dtype=np.float32)[:2],
        np.array([0, 1]),
        ("a", "b", "none"),
        np.zeros(2, bool),
    )
    text = score_table(score(sure, labels, names, flags)).split("rows: true class")[0]
    assert "none" not in text
    section = score_section(label_predictions(sure, labels, names, flags), settled_here=False)
    assert [row["name"] for row in section["hardest"]] == ["a", "b"]
