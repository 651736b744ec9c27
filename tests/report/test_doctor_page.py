"""The doctor's page lists everything that was found."""

import dataclasses

import numpy as np
import pytest

from helpers import random_images
from imprint import Finding, Findings
from imprint.report import doctor_page
from imprint.report.doctor_page import write_page


@pytest.fixture
def found():
    images = dataclasses.replace(
        random_images(2, 400, name="plain"), sources=np.array([f"{i}.png" for i in range(400)])
    )
    singles = tuple(Finding("constant", (f"{i}.png",), f"flaw {i}", 1.0, (i,)) for i in range(200))
    copies = tuple(range(300, 350))
    many = Finding("duplicate", tuple(f"{i}.png" for i in copies), "the same image 50 times", 1.0, copies)
    return images, Findings("plain", 400, images.class_counts(), (many, *singles))


def test_no_finding_is_left_out(found, tmp_path):
    images, findings = found
    write_page(findings, [images], tmp_path / "f.html")
    page = (tmp_path / "f.html").read_text(encoding="utf-8")
    assert all(f">flaw {i}<" in page for i in range(200))
    assert all(f"{i}.png" in page for i in range(300, 350))
    assert "<summary>176 more</summary>" in page
    assert page.count('loading="lazy"') == 206
    assert "and 44" not in page


def test_beyond_a_number_of_images_findings_are_listed_by_source(found, tmp_path, monkeypatch):
    images, findings = found
    monkeypatch.setattr(doctor_page, "MOST_DRAWN", 10)
    monkeypatch.setattr(doctor_page, "MOST_LISTED", 150)
    write_page(findings, [images], tmp_path / "f.html")
    page = (tmp_path / "f.html").read_text(encoding="utf-8")
    assert page.count("data:image") == 10
    assert all(f"{i}.png" in page for i in range(150))
    assert "… and 50 more; <code>imprint check --json</code> lists all." in page
