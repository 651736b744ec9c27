import csv
import dataclasses
import json
import re
import sys

import numpy as np
import pytest
from PIL import Image

from helpers import pixel_table
from imprint import LabelledImages, UsageError, load
from imprint.__main__ import main
from imprint.analysis.doctor import check, reasons_to_drop, write_cleaned
from imprint.analysis.label_errors import judging_recipe
from imprint.data.quality import find_faults
from imprint.report.doctor_page import write_page
from imprint.report.tables import findings_table


def kinds(findings):
    return [finding.kind for finding in findings.findings]


def check_without_labels(images, **options):
    return check(images, labels=False, verbose=False, **options)


@pytest.fixture(scope="module")
def mislabelled(digits):
    """The bundled digits, 36 of them (2 %) with a wrong label."""
    random = np.random.default_rng(3)
    wrong = random.choice(len(digits), 36, replace=False)
    labels = digits.labels.copy()
    labels[wrong] = (labels[wrong] + random.integers(1, 10, len(wrong))) % 10
    return dataclasses.replace(digits, labels=labels), set(wrong.tolist())


@pytest.fixture(scope="module")
def checked(mislabelled):
    fewer_steps = dataclasses.replace(judging_recipe((1, 8, 8)), min_steps=12)
    return check(mislabelled[0], recipe=fewer_steps, verbose=False)


def test_wrong_labels_come_first_with_the_right_one(mislabelled, checked, digits):
    images, wrong = mislabelled
    found = checked.of("label")
    first = {finding.images[0] for finding in found[: round(0.03 * len(images))]}
    assert len(first & wrong) >= 0.9 * len(wrong)
    assert len(found) < 1.5 * len(wrong)
    right = [f.suggested == digits.class_names[digits.labels[f.images[0]]] for f in found if f.images[0] in wrong]
    assert np.mean(right) > 0.9
    worst = found[0]
    given = images.class_names[images.labels[worst.images[0]]]
    assert re.fullmatch(rf"labelled {given}, looks like {worst.suggested} \(\d+%\)", worst.message)
    assert found == sorted(found, key=lambda finding: -finding.score)


def test_progress_goes_to_stderr_unless_verbose_is_false(digits, capsys):
    check(digits[:20], labels=False)
    assert capsys.readouterr().err == "looking for copies among 20 images\n"
    check(digits[:20], labels=False, verbose=False)
    assert capsys.readouterr() == ("", "")


def test_copies_and_contradicting_labels(digits):
    images = digits[[0, 1, 2, 0, 1]]
    images = dataclasses.replace(images, labels=np.array([0, 1, 2, 0, 7]))
    contradiction, plain = check_without_labels(images).of("duplicate")
    assert contradiction.where == ("digits#2", "digits#2")
    assert contradiction.message == "the same image 2 times, with different labels: 1, 7"
    assert plain.message == "the same image 2 times"


def test_leaks_name_both_places(digits, table):
    other = load(table(pixel_table(digits[[3, 1]])))
    findings = check_without_labels(digits[:3], against=other)
    assert [finding.to_dict() for finding in findings.of("leak")] == [
        {
            "kind": "leak",
            "where": ["digits#2", "table.csv row 2"],
            "message": "the same image in table.csv",
            "score": 1.0,
        }
    ]


def test_a_copy_within_the_other_data_is_not_ours(digits):
    assert not {"leak", "duplicate"} & {
        *kinds(check_without_labels(digits[:3], against=[digits[[5, 5]], digits[[7, 5]]]))
    }


def test_one_colour_and_inverted_images(digits):
    pixels = digits.pixels.copy()
    pixels[10], pixels[11] = 0, 200
    dark = np.array([40, 50, 60])
    pixels[dark] = 255 - pixels[dark]
    found = find_faults(dataclasses.replace(digits, pixels=pixels))
    assert [(f.kind, f.images[0], f.message) for f in found[:2]] == [
        ("constant", 10, "every pixel is 0"),
        ("constant", 11, "every pixel is 200"),
    ]
    assert {f.images[0] for f in found[2:]} <= set(dark.tolist())
    assert len(found) >= 4
    assert "dark on bright" in found[2].message


def test_digits_all_inverted_are_not_inverted(digits):
    assert not find_faults(dataclasses.replace(digits, pixels=255 - digits.pixels))


def test_unreadable_and_unusual_sizes(digits):
    sizes = np.array([[100, 80]] * 9 + [[2000, 1600]], dtype=np.int32)
    images = dataclasses.replace(digits[:10], unreadable=(("a/broken.png", "the file is cut short"),), sizes=sizes)
    unreadable, size = (f for f in find_faults(images) if f.kind in ("unreadable", "size"))
    assert (unreadable.where, unreadable.message) == (("a/broken.png",), "the file is cut short")
    assert (size.images, size.message) == ((9,), "1600×2000 pixels, where 80×100 is usual")


def test_odd_names_and_few_images(digits):
    names = ("Cat", "cat ", ".ipynb_checkpoints", "c++", "c--", "dog")
    labels = np.repeat(np.arange(6), [60, 20, 20, 20, 20, 3])
    found = find_faults(dataclasses.replace(digits[: len(labels)], labels=labels, class_names=names))
    assert [(f.kind, f.where) for f in found] == [
        ("name", ("Cat", "cat ")),
        ("name", (".ipynb_checkpoints",)),
        ("imbalance", ("dog",)),
    ]
    assert found[0].suggested == "Cat"
    assert found[-1].message == "3 images, where class 'Cat' has 60"


def test_one_class_only(digits):
    ones = np.flatnonzero(digits.labels == 1)
    images = dataclasses.replace(digits[ones], labels=np.zeros(len(ones), dtype=np.int64), class_names=("1",))
    assert "nothing to tell apart" in check_without_labels(images).of("imbalance")[0].message


def test_data_without_labels_is_looked_at_too(digits):
    unlabelled = dataclasses.replace(digits[[0, 1, 0]], labels=None, class_names=())
    findings = check(unlabelled, verbose=False)
    assert kinds(findings) == ["duplicate"]
    assert findings.notes


def test_the_cleaned_list_of_files(digits, tmp_path):
    (tmp_path / "photos").mkdir()
    sources = []
    for number, image in enumerate(digits.pixels[:6, 0]):
        sources.append(str(tmp_path / "photos" / f"ü {number}.png"))
        Image.fromarray(image).save(sources[-1])
    pixels = digits.pixels[[0, 1, 2, 0, 4, 5]].copy()
    pixels[5] = 0
    labels, names = np.array([0, 1, 2, 0, 1, 2]), ("cat", "Cat ", "dog")
    images = LabelledImages(pixels, labels, names, np.array(sources), "photos")
    assert write_cleaned(images, check_without_labels(images), tmp_path / "clean.csv") == {
        "": 4,
        "duplicate": 1,
        "constant": 1,
    }
    with open(tmp_path / "clean.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["path", "label"],
        *[[f"photos/ü {i}.png", label] for i, label in ((0, "cat"), (1, "cat"), (2, "dog"), (4, "cat"))],
    ]


def test_the_cleaned_table_can_be_trained_on(digits_csv, tmp_path):
    images = load(digits_csv / "train.csv")[[0, 1, 0, 2]]
    assert write_cleaned(images, check_without_labels(images), tmp_path / "clean.csv") == {"": 3, "duplicate": 1}
    again = load(tmp_path / "clean.csv")
    assert np.array_equal(again.pixels, images.pixels[[0, 1, 3]])
    assert [again.class_names[i] for i in again.labels] == [images.class_names[i] for i in images.labels[[0, 1, 3]]]


def test_contradicting_copies_are_all_left_out(digits):
    images = dataclasses.replace(digits[[0, 1, 0]], labels=np.array([0, 1, 2]))
    assert reasons_to_drop(images, check_without_labels(images)).tolist() == ["duplicate", "", "duplicate"]


def test_labels_are_left_out_only_where_asked_and_more_probably_wrong_than_right(mislabelled, checked):
    images, wrong = mislabelled
    assert not (reasons_to_drop(images, checked) == "label").any()
    dropped = np.flatnonzero(reasons_to_drop(images, checked, labels=True) == "label")
    assert set(dropped) == {f.images[0] for f in checked.of("label") if f.score > 0.5}
    assert len(set(dropped) & wrong) > 0.8 * len(dropped)


def test_inverted_images_are_told_and_kept(digits):
    pixels = digits.pixels.copy()
    pixels[:5] = 255 - pixels[:5]
    images = dataclasses.replace(digits, pixels=pixels)
    findings = check_without_labels(images)
    assert findings.of("polarity")
    assert not (reasons_to_drop(images, findings) == "polarity").any()


def test_nothing_left_is_refused(digits, tmp_path):
    images = dataclasses.replace(digits[[0, 0]], labels=np.array([0, 1]))
    with pytest.raises(UsageError, match="no image would be left"):
        write_cleaned(images, check_without_labels(images), tmp_path / "clean.csv")


def test_the_page_stands_alone_and_escapes(mislabelled, checked, tmp_path):
    odd = dataclasses.replace(checked, name="<script>alert(1)</script>")
    write_page(odd, [mislabelled[0]], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    images = re.findall(r"<img [^>]+>", page)
    assert len(images) >= len(checked.of("label")) > 0
    assert all(re.search(r' alt="[^"]+"', image) for image in images)
    assert f"looks like <i>{checked.of('label')[0].suggested}</i>" in page


def test_the_summary_counts_every_kind(checked):
    text = findings_table(checked)
    assert text.startswith(f"digits: 1,797 images, 10 classes; {len(checked.findings)} findings")
    assert f"label: {len(checked.of('label'))} probably mislabelled" in text
    assert "… and " in text


def command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["imprint", "check", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, *capsys.readouterr()


def test_the_command(digits, tmp_path, table, monkeypatch, capsys):
    doubled = table(pixel_table(digits[[0, 1, 2, 1]]))
    fix, save = tmp_path / "clean.csv", tmp_path / "report.html"
    test = table(pixel_table(digits[[7, 0]], labelled=False), "test.csv")
    options = ["--json", "--no-labels", "--fix", fix, "--save", save, "--against", test]
    status, out, err = command(monkeypatch, capsys, doubled, *options)
    assert status == 0
    facts = json.loads(out)
    assert facts["images"] == 4
    assert facts["classes"] == {"0": 1, "1": 2, "2": 1}
    assert [f["kind"] for f in facts["findings"]] == ["leak", "duplicate"]
    assert facts["findings"][0]["where"] == [1, "test.csv row 2"]
    assert {*facts["findings"][0]} == {"kind", "where", "message", "score"}
    assert facts["findings"][1]["where"] == [2, 4]
    assert f"wrote 2 of 4 images to {fix}\nleft out: 1 also in the other data, 1 there more than once\n" in err
    assert save.stat().st_size > 1000


def test_strict_ends_with_1_only_where_something_was_found(digits, table, monkeypatch, capsys):
    doubled = table(pixel_table(digits[[0, 1, 1]]))
    assert command(monkeypatch, capsys, doubled, "--no-labels", "--strict")[0] == 1
    assert command(monkeypatch, capsys, doubled, "--no-labels")[0] == 0
    clean = table(pixel_table(digits[:20]))
    status, out, _ = command(monkeypatch, capsys, clean, "--no-labels", "--strict")
    assert status == 0
    assert "nothing found" in out


def test_classes_that_only_the_other_data_have(digits):
    few = digits[np.flatnonzero(digits.labels < 9)[:200]]
    few = dataclasses.replace(few, class_names=few.class_names[:9])
    findings = check(few, against=digits[1000:1200], labels=False, verbose=False)
    (only,) = [finding for finding in findings.findings if finding.kind == "imbalance"]
    assert only.where == ("9",)
    assert "no image to learn from" in only.message


def test_numbers_are_not_spellings_of_each_other(digits):
    signed = dataclasses.replace(digits, class_names=("-1", "1", *digits.class_names[2:]))
    assert not [finding for finding in check(signed, labels=False, verbose=False).findings if finding.kind == "name"]
