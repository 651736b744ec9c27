from dataclasses import fields, replace
from pathlib import Path

import numpy as np

import imprint
from helpers import random_images
from imprint import RECIPES, Comparison, Finding, Findings
from imprint.core.scores import label_predictions, score
from imprint.data.cache import Entry
from imprint.models.networks import tutorial
from imprint.models.summary import summarise
from imprint.report.sections import score_section
from imprint.report.tables import (
    cache_table,
    comparison_table,
    fields_table,
    findings_table,
    preview,
    run_lines,
    score_table,
    seeds_table,
    summary_table,
    table,
)


def test_preview_shows_first_rows(digits):
    lines = preview(digits).splitlines()
    assert lines[0] == "digits: 1,797 images of 8×8 grey, 1 channel, 10 classes"
    assert "    3     183  10.2%" in lines
    assert lines[-1].split()[:2] == ["digits#5", "4"]


def test_preview_without_labels(digits):
    unlabelled = type(digits)(digits.pixels, None, (), digits.sources, "test.csv")
    text = preview(unlabelled)
    assert "no labels" in text
    assert "?" in text


def test_columns_line_up():
    lines = table(["a", "b"], [["x", "1"], ["long", "1,000"]]).splitlines()
    assert [line.index(cell) + len(cell) for line, cell in zip(lines, ("b", "1", "1,000"), strict=True)] == [11] * 3


def test_control_characters_in_a_header_are_escaped():
    assert table(["", "new\nline", "\x1b[31m"], [["a", "1", "2"]]).splitlines()[0] == r"   new line  \x1b[31m"


def test_names_that_begin_with_a_digit_are_not_numbers():
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
        np.array(["", ""]),
    )
    text = score_table(score(sure, labels, names, flags)).split("rows: true class")[0]
    assert "none" not in text
    section = score_section(label_predictions(sure, labels, names, flags))
    assert [row["name"] for row in section["hardest"]] == ["a", "b"]


def test_comparison():
    text = comparison_table("a", "b", Comparison(1000, (0.99, 0.97), 0.02, (0.0075, 0.0324), 30, 10, 0.0022))
    assert text.splitlines() == [
        "model  accuracy  correct where the other is wrong",
        "a        0.9900                                30",
        "b        0.9700                                10",
        "",
        "difference +0.0200 (95 % interval +0.0075 to +0.0324; 1,000 images; McNemar's test: p = 0.0022)",
        "a is better",
    ]


def test_seeds():
    rows = [{"seed": 7, "accuracy": 0.98, "run": "runs/1"}, {"seed": 8, "accuracy": 0.99, "run": "runs/2"}]
    lines = seeds_table({"seeds": rows, "mean": 0.985, "sd": 0.0071}).splitlines()
    assert lines[1] == "   7    0.9800  runs/1"
    assert lines[-1] == "mean 0.9850 ± 0.0071 (standard deviation of 2 seeds on the same validation images)"


def test_cache():
    lines = cache_table("cache", 10**10, [Entry(Path("ab.images"), "photos", 200, 9_830_500, 0.0)]).splitlines()
    assert lines[0] == "cache: 9.8 MB of at most 10,000 MB (IMPRINT_CACHE_GB)"
    assert lines[-1] == "photos         200  9.8  1970-01-01"


def test_fields_of_a_recipe_with_value_and_meaning():
    recipe = replace(RECIPES["record"], ood_detector="")
    lines = fields_table(recipe).splitlines()
    assert max(map(len, lines)) <= 100
    assert [line.split()[0] for line in lines[1:] if line[0] != " "] == [field.name for field in fields(recipe)]
    starts = {line.split()[0]: line.split()[1] for line in lines if line[0] != " "}
    assert starts["networks"] == "deep+broad+deep+broad+deep+broad+deep+broad"
    assert starts["epochs"] == "54"
    assert "One of rmsprop, adamw, muon." in " ".join(" ".join(lines).split())


def test_a_score_no_better_than_guessing_is_called_that(predictions):
    probabilities, labels = predictions
    names, sure = tuple("abcd"), np.zeros(len(labels), dtype=bool)
    assert "no better than guessing" in score_table(score(probabilities, labels, names, sure))
    knowing = np.eye(4, dtype=np.float32)[labels]
    assert "guessing" not in score_table(score(knowing, labels, names, sure))


def test_scores_from_nearly_nothing_are_told_first(digits):
    few = score(np.eye(2, dtype=np.float32), np.array([0, 1]), ("a", "b"), np.array([False, False]))
    told = "too few to tell: 0.3424 to 1.0000 (95 % interval of the accuracy; 2 of 2 images right;"
    assert score_table(few).startswith(told)
    assert "guessing" not in score_table(few)
    run = imprint.train(digits[:100], "quick", epochs=1, min_steps=1, verbose=False)
    for line in run_lines(run).splitlines():
        assert "accuracy" not in line or line.startswith("too few to tell: ")
    assert run.expectation.startswith("too few to tell: expect 0.")
    rows = [{"seed": 7, "accuracy": 1.0, "run": "runs/1"}]
    facts = {"seeds": rows, "mean": 1.0, "sd": None, "validation": {"images": 8}}
    assert seeds_table(facts).splitlines()[-1].startswith("too few to tell: 8 held out; mean 1.0000")


def test_what_is_cut_says_where_all_of_it_is():
    names = tuple(f"class {i}" for i in range(40))
    perfect, labels = np.eye(40, dtype=np.float32), np.arange(40)
    text = score_table(score(perfect, labels, names, np.full(40, "")))
    assert "… and 10 easier classes; imprint evaluate --per-class FILE.csv writes all" in text
    assert "confusions of 40 classes: imprint evaluate --json lists them, --pictures DIR draws them" in text
    few = score_table(score(perfect[:20, :20], labels[:20], names[:20], np.full(20, "")))
    assert "writes all" not in few
    assert "lists them" not in few
    assert "… and 10 more classes; imprint show DATA --json lists all" in preview(random_images(40, 80))
    flaws = tuple(Finding("constant", (i,), "flaw", 1.0) for i in range(9))
    whole = "imprint check --save REPORT.html or --json gives the whole list"
    assert findings_table(Findings("x", 9, {}, flaws)).endswith(f"… and 4 more\n\n{whole}")
    copies = Finding("duplicate", tuple(range(9)), "copies", 1.0)
    assert findings_table(Findings("x", 9, {}, (copies,))).endswith(whole)
    assert whole not in findings_table(Findings("x", 9, {}, flaws[:5]))
