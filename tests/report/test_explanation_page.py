import re
from html.parser import HTMLParser

import numpy as np
import pytest

import imprint
from helpers import BAD_NAME
from imprint.analysis.explanation import explain_briefly
from imprint.core.errors import UsageError
from imprint.report.explanation_page import write_explanations


class Images(HTMLParser):
    """The sources of all images of a page, and all else that it would load."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.others = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("src", "href"):
                (self.sources if tag == "img" else self.others).append(value)


@pytest.fixture(scope="module")
def page(model, digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "digits.html"
    explained = explain_briefly(model, digits[:12])
    write_explanations(explained, "digits", 40, path)
    return explained, path.read_text(encoding="utf-8")


def test_each_image_has_its_answer_and_where_the_network_looked(page, model, digits):
    explained, text = page
    predictions = model.predict(digits[:12])
    assert re.findall(r'class="answer">(\d)<', text) == list(predictions.names)
    assert text.count(">unsure: ") == predictions.unsure.sum()
    assert all(one.evidence.shape == explained[0].evidence.shape and one.evidence.min() >= 0 for one in explained)
    found = Images(text)
    assert len(found.sources) == len(set(found.sources)) == 24
    assert all(source.startswith("data:image/png;base64,") for source in found.sources)
    assert not found.others  # one file, whole by itself


def test_the_limit_is_told_with_its_remedy(page):
    assert "The first 12 of 40 images" in page[1]
    assert "--limit 40" in page[1]


def test_wrong_and_unsure_answers_are_marked(model, digits, tmp_path):
    wrong = imprint.LabelledImages(
        digits.pixels[:3], (digits.labels[:3] + 1) % 10, digits.class_names, digits.sources[:3]
    )
    write_explanations(explain_briefly(model, wrong), "wrong", 3, tmp_path / "wrong.html")
    text = (tmp_path / "wrong.html").read_text()
    assert [int(label) for label in re.findall(r"labelled (\d)<", text)] == wrong.labels.tolist()
    assert "--limit" not in text


def test_names_are_escaped_and_private_folders_left_out(model, digits, tmp_path):
    sources = np.array([f"/home/someone/{BAD_NAME}.png"])
    images = imprint.LabelledImages(digits.pixels[:1], None, (), sources, BAD_NAME)
    write_explanations(explain_briefly(model, images), BAD_NAME, 1, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "<script" not in text
    assert "/home/someone" not in text


def test_a_network_that_is_not_there_is_refused(model, digits):
    with pytest.raises(UsageError, match="network 2"):
        explain_briefly(model, digits[:1], network=2)
