import subprocess
import sys

import numpy as np
import pytest

from imprint import DataError, LabelledImages


def two(labels=(0, 1), names=("cat", "dog")):
    pixels = np.zeros((2, 1, 3, 3), dtype=np.uint8)
    return LabelledImages(pixels, np.array(labels, dtype=np.int64), names, np.array([1, 2]), "two.csv")


def test_picking_keeps_classes_and_sources():
    last = two()[[1]]
    assert (len(last), last.labels.tolist(), last.class_names, last.sources.tolist()) == (1, [1], ("cat", "dog"), [2])


def test_labels_are_matched_by_name_never_by_position():
    assert two().labels_among(("dog", "bird", "cat")).tolist() == [2, 0]


def test_a_label_that_the_model_does_not_know_is_named():
    with pytest.raises(DataError, match=r"label 'dog' at two.csv row 2: the model knows only cat"):
        two().labels_among(("cat",))


def test_a_class_without_pictures_may_be_unknown():
    assert two(labels=(0, 0)).labels_among(("cat",)).tolist() == [0, 0]


def test_labels_point_at_class_names():
    with pytest.raises(DataError, match="they point outside the 2 class names"):
        two(labels=(0, 2))


def test_counts_must_agree_also_where_shapes_are_not_checked():
    script = (
        "import numpy as np; from imprint import LabelledImages, DataError\n"
        "try: LabelledImages(np.zeros((2, 1, 3, 3), np.uint8), np.zeros(3, np.int64), ('a',), np.array([1, 2]))\n"
        "except DataError as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "3 labels cannot belong to 2 pictures" in out


def test_no_pictures_are_refused():
    with pytest.raises(DataError, match="no stack of pictures"):
        two()[0:0]
