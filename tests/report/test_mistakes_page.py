"""The mistakes as a list and as a page."""

import csv
import re

import numpy as np

from helpers import BAD_NAME, random_images
from imprint import load
from imprint.core.scores import label_predictions
from imprint.report import mistakes_page
from imprint.report.mistakes_page import class_keys, save_mistakes


def mistaken(images, wrong):
    """Predictions that take each image of `wrong` for the next class."""
    classes = len(images.class_names)
    said = (images.labels + np.isin(np.arange(len(images)), wrong)) % classes
    probabilities = np.full((len(images), classes), 0.1 / (classes - 1), dtype=np.float32)
    probabilities[np.arange(len(images)), said] = 0.9
    why = np.where(np.arange(len(images)) == wrong[0], "low confidence", "")
    return label_predictions(probabilities, images.labels, images.class_names, why, images.sources)


def test_a_list_with_a_column_to_edit(digits, tmp_path):
    images = digits[:20]
    path = tmp_path / "mistakes.csv"
    assert save_mistakes(mistaken(images, [4, 7]), images, {4: "fault"}, "digits", path) == 2
    assert path.read_text().splitlines() == [
        "source,label,prediction,confidence,unsure,cause,given",
        "digits#5,4,5,0.9000,yes,fault,4",
        "digits#8,7,8,0.9000,no,,7",
    ]
    text = path.read_text().replace("digits#8,7", "digits#8,1")
    path.write_text(text)
    assert load("digits", labels=path).labels[7] == 1


def test_a_page_holds_every_mistake_and_nothing_from_elsewhere(tmp_path):
    images = random_images(3, 60)
    path = tmp_path / "m.html"
    save_mistakes(mistaken(images, list(range(50))), images, {0: "unlike"}, "it's here", path)
    page = path.read_text(encoding="utf-8")
    assert page.count("<li tabindex=") == page.count('src="data:image/png;base64,') == 50
    assert BAD_NAME not in page
    assert "unlike the training data" in page
    assert "imprint train &#39;it&#39;" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "https:" not in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


def test_more_than_a_page_bears_are_in_the_list(tmp_path, monkeypatch):
    monkeypatch.setattr(mistakes_page, "MOST_ON_PAGE", 10)
    images = random_images(3, 60)
    labelled = mistaken(images, list(range(50)))
    for name in ("m.html", "m.csv"):
        save_mistakes(labelled, images, {}, "x", tmp_path / name)
    page = (tmp_path / "m.html").read_text(encoding="utf-8")
    assert page.count("<li tabindex=") == 10
    assert "Here are the 10 most doubtful; <code>--mistakes m.csv</code> lists all" in page
    with open(tmp_path / "m.csv", newline="", encoding="utf-8") as file:
        assert len(list(csv.reader(file))) == 51


def test_a_model_without_mistakes(digits, tmp_path):
    images = digits[:5]
    perfect = label_predictions(np.eye(10, dtype=np.float32)[:5], images.labels, images.class_names, np.array([""] * 5))
    save_mistakes(perfect, images, {}, "digits", tmp_path / "m.html")
    assert "there is nothing to correct" in (tmp_path / "m.html").read_text(encoding="utf-8")


def test_each_class_has_a_key_of_its_own():
    assert class_keys(("0", "7", "x")) == {"0": "0", "7": "7", "x": "x"}
    assert class_keys(("cat", "1", "dog")) == {"1": "1", "2": "cat", "3": "dog"}
    assert class_keys(("a", "A")) == {"a": "a", "1": "A"}
    many = class_keys(tuple(f"class {i}" for i in range(50)))
    assert len(many) == len(set(many.values())) == 36
