import dataclasses

import numpy as np
import pytest

from imprint import DataError
from imprint.answers import answers_to, read_answers

NAMES = ("cat", "dog, or wolf", '"<script>"')


@pytest.fixture
def answers():
    probabilities = np.array([[0.9, 0.1, 0], [0.4, 0.35, 0.25], [0.2, 0.7, 0.1], [0.5, 0.1, 0.4]], dtype=np.float32)
    sources, places = np.array(["a.png", "b, c.png", "日本.png", "d.png"]), np.array([7, 8, 9, 12])
    unsure = np.array([False, True, False, False])
    return answers_to(probabilities, np.array([0, 1, 2, 2]), NAMES, unsure, sources, places)


def test_what_is_written_is_read(answers, tmp_path):
    answers.write_csv(tmp_path / "validation.csv")
    again = read_answers(tmp_path / "validation.csv", NAMES)
    for field in dataclasses.fields(answers):
        assert np.array_equal(getattr(answers, field.name), getattr(again, field.name)), field.name


def test_rows_stay_numbers(answers, tmp_path):
    rows = dataclasses.replace(answers, sources=np.array([3, 4, 5, 9]))
    rows.write_csv(tmp_path / "validation.csv")
    assert read_answers(tmp_path / "validation.csv", NAMES).sources.dtype.kind == "i"


def test_the_worst_is_the_one_whose_label_was_least_probable(answers):
    assert answers.correct.tolist() == [True, False, False, False]
    assert answers.worst().tolist() == [2, 1, 3]
    assert answers.confusion().tolist() == [[1, 0, 0], [1, 0, 0], [1, 1, 0]]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "a,b\n1,2\n",
        "place,row,label,prediction,confidence,label_probability,unsure\n",
        "place,row,label,prediction,confidence,label_probability,unsure\n1,1,cow,cat,0.9,0.1,no\n",
        "place,row,label,prediction,confidence,label_probability,unsure\n1,1,cat,cat,high,0.1,no\n",
        "place,row,label,prediction,confidence,label_probability,unsure\n1,1,cat\n",
    ],
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "validation.csv").write_text(content)
    with pytest.raises(DataError, match="it is no list of answers"):
        read_answers(tmp_path / "validation.csv", NAMES)


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        ("", "its columns"),
        ("{}\n1,2", "fewer cells"),
        ("{}\n1,1,cat,cat,inf,0.5,no", "outside 0 to 1"),
        ("{}", "empty"),
    ],
)
def test_a_mangled_file_is_refused_with_its_fault(changed, cause, tmp_path):
    header = "place,row,label,prediction,confidence,label_probability,unsure"
    (tmp_path / "validation.csv").write_text(changed.format(header))
    with pytest.raises(DataError, match=cause):
        read_answers(tmp_path / "validation.csv", ("cat", "dog"))
