"""docs/api.md is what `make docs` writes from the docstrings as they stand."""

import re
from pathlib import Path

import pytest
from api_page import api_page

import imprint

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def test_the_page_is_up_to_date():
    assert api_page() == PAGE, "run make docs"


def test_it_has_what_is_exported_and_nothing_else():
    assert sorted(re.findall(r"^## imprint\.(\w+)$", PAGE, re.MULTILINE)) == sorted(imprint.__all__)


@pytest.mark.parametrize("name", imprint.__all__)
def test_every_public_name_is_on_it(name):
    assert f"\n## imprint.{name}\n" in PAGE
    assert f"](#imprint{name.lower()})" in PAGE


def test_methods_have_parameters_errors_and_example():
    [save] = [part for part in PAGE.split("\n### ") if part.startswith("Classifier.save\n")]
    for words in (
        "Classifier.save(path)",
        "| `path` | str or Path |",
        "Raises:\n\n- `UsageError`:",
        ">>> model.save(path)",
    ):
        assert words in save


def test_no_example_is_left_out_of_the_tests():
    for path in (ROOT / "src").rglob("*.py"):
        assert "+SKIP" not in path.read_text(encoding="utf-8"), path
