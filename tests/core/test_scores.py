import csv
import dataclasses

import numpy as np
import pytest
import sklearn.metrics
from scipy.stats import binomtest
from sklearn.dummy import DummyClassifier
from sklearn.naive_bayes import GaussianNB

from helpers import BAD_NAME, tags
from imprint import DataError
from imprint.core.metrics import wilson_interval
from imprint.core.scores import estimate_accuracy, label_predictions, read_labelled_predictions, restored_score, score

NAMES = ("cat", "dog, or wolf", '"<script>"')


@pytest.fixture
def labelled():
    probabilities = np.array([[0.9, 0.1, 0], [0.4, 0.35, 0.25], [0.2, 0.7, 0.1], [0.5, 0.1, 0.4]], dtype=np.float32)
    sources, places = np.array(["a.png", "b, c.png", "日本.png", "d.png"]), np.array([7, 8, 9, 12])
    why = np.array(["", "strange", "", "low confidence"])
    return label_predictions(probabilities, np.array([0, 1, 2, 2]), NAMES, why, sources, places)


def test_what_is_written_is_read(labelled, tmp_path):
    labelled.write_csv(tmp_path / "validation.csv")
    again = read_labelled_predictions(tmp_path / "validation.csv", NAMES)
    for field in dataclasses.fields(labelled):
        assert np.array_equal(getattr(labelled, field.name), getattr(again, field.name)), field.name


def test_rows_stay_numbers(labelled, tmp_path):
    rows = dataclasses.replace(labelled, sources=np.array([3, 4, 5, 9]))
    rows.write_csv(tmp_path / "validation.csv")
    assert read_labelled_predictions(tmp_path / "validation.csv", NAMES).sources.dtype.kind == "i"
    header, first, *_ = (tmp_path / "validation.csv").read_text().splitlines()
    assert header == "place,row,label,prediction,confidence,label_probability,unsure,why"
    assert first == "8,3,cat,cat,0.9,0.9,no,"


def test_a_file_of_before_there_were_two_causes_is_read(labelled, tmp_path):
    labelled.write_csv(tmp_path / "validation.csv")
    rows = [line.rpartition(",")[0] for line in (tmp_path / "validation.csv").read_text().splitlines()]
    (tmp_path / "validation.csv").write_text("\n".join(rows))
    older = read_labelled_predictions(tmp_path / "validation.csv", NAMES)
    assert older.why.tolist() == ["", "strange", "", "strange"]
    assert older.unsure.tolist() == labelled.unsure.tolist()


def test_the_worst_is_the_one_whose_label_was_least_probable(labelled):
    assert labelled.correct.tolist() == [True, False, False, False]
    assert labelled.worst().tolist() == [2, 1, 3]
    assert labelled.confusion().tolist() == [[1, 0, 0], [1, 0, 0], [1, 1, 0]]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "a,b\n1,2\n",
        "place,row,label,prediction,confidence,label_probability,unsure,why\n",
        "place,row,label,prediction,confidence,label_probability,unsure,why\n1,1,cow,cat,0.9,0.1,no,\n",
        "place,row,label,prediction,confidence,label_probability,unsure,why\n1,1,cat,cat,high,0.1,no,\n",
        "place,row,label,prediction,confidence,label_probability,unsure,why\n1,1,cat\n",
    ],
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "validation.csv").write_text(content)
    with pytest.raises(DataError, match="it is not a table of predictions"):
        read_labelled_predictions(tmp_path / "validation.csv", NAMES)


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        ("", "its columns"),
        ("{}\n1,2", "fewer cells"),
        ("{}\n1,1,cat,cat,inf,0.5,no,", "outside 0 to 1"),
        ("{}", "empty"),
        ("{}\n1,1,cat,cat,0.5,0.5,yes,rainy", "cause"),
    ],
)
def test_a_mangled_file_is_refused_with_its_fault(changed, cause, tmp_path):
    header = "place,row,label,prediction,confidence,label_probability,unsure,why"
    (tmp_path / "validation.csv").write_text(changed.format(header))
    with pytest.raises(DataError, match=cause):
        read_labelled_predictions(tmp_path / "validation.csv", ("cat", "dog"))


def share_holding(truth, draws):
    return np.mean([low <= truth <= high for low, high in (one.interval for one in draws)])


@pytest.fixture(scope="module")
def right(digits):
    """Whether a fast classifier, trained on 300 digits, predicts each of the others correctly."""
    pixels = digits.pixels.reshape(len(digits), -1)
    return (
        GaussianNB(var_smoothing=0.1).fit(pixels[:300], digits.labels[:300]).predict(pixels[300:])
        == digits.labels[300:]
    )


@pytest.mark.parametrize("held_out", [50, 150, 600])
def test_the_interval_holds_the_truth_in_95_of_100_repeats(right, held_out):
    generator = np.random.default_rng(0)
    draws = [estimate_accuracy(generator.choice(right, held_out)) for _ in range(3000)]
    assert 0.935 < share_holding(right.mean(), draws) < 0.97
    assert np.mean([one.accuracy for one in draws]) == pytest.approx(right.mean(), abs=0.002)


def test_images_without_groups_have_wilsons_interval():
    expected = estimate_accuracy(np.arange(1000) >= 6)
    wilson = binomtest(994, 1000).proportion_ci(0.95, method="wilson")
    assert expected.interval == pytest.approx((wilson.low, wilson.high), abs=1e-9)
    assert (expected.images, expected.effective, expected.tries) == (1000, 1000.0, 1)
    assert str(expected) == (
        "expect 0.9940 on new images like these, from 0.9870 to 0.9972 (95 % interval, from 1,000 images held out)"
    )


def in_groups(generator, groups, size):
    """Photos of persons, some of whom are hard for the model: correct with a probability of 0.9 on average."""
    chance = generator.beta(9, 1, groups)
    number = np.repeat(np.arange(groups), size)
    return generator.random(groups * size) < chance[number], number


def test_groups_that_err_together_count_as_fewer():
    generator = np.random.default_rng(0)
    drawn = [in_groups(generator, 40, 15) for _ in range(2000)]
    together = [estimate_accuracy(correct, number) for correct, number in drawn]
    assert 0.92 < share_holding(0.9, together) < 0.98
    assert share_holding(0.9, [estimate_accuracy(correct) for correct, _ in drawn]) < 0.85
    assert 100 < np.median([one.effective for one in together]) < 400
    assert "worth" in str(together[0])


def test_groups_that_do_not_matter_cost_little():
    generator = np.random.default_rng(0)
    correct, number = generator.random(2000) < 0.9, np.repeat(np.arange(1000), 2)
    assert estimate_accuracy(correct, number).effective > 1700


def test_one_group_is_one_image():
    assert estimate_accuracy(np.ones(50, dtype=bool), np.zeros(50)).interval[0] < 0.3


def test_the_best_of_several_epochs_has_a_wider_interval():
    generator = np.random.default_rng(0)
    truth, tries, draws = 0.95, 20, []
    for _ in range(2000):  # epochs that are all equally good: the best looks better than it is
        epochs = generator.random((tries, 200)) < truth
        draws.append(epochs[epochs.sum(axis=1).argmax()])
    assert share_holding(truth, [estimate_accuracy(best) for best in draws]) < 0.9
    widened = [estimate_accuracy(best, tries=tries) for best in draws]
    assert share_holding(truth, widened) > 0.95
    assert "the best of 20 epochs" in str(widened[0])


def test_scores_are_scikit_learns(predictions):
    probabilities, labels = predictions
    result = score(
        probabilities, labels, ("a", "b", "c", "d"), np.where(probabilities.max(1) < 0.5, "low confidence", "")
    )
    predicted = probabilities.argmax(1)
    assert result.images == 500
    assert result.accuracy == sklearn.metrics.accuracy_score(labels, predicted)
    assert result.log_loss == pytest.approx(sklearn.metrics.log_loss(labels, probabilities), rel=1e-4)
    assert result.confusion == sklearn.metrics.confusion_matrix(labels, predicted).tolist()
    dummy = DummyClassifier(strategy="most_frequent").fit(probabilities, labels)
    assert result.baseline == dummy.score(probabilities, labels)
    for key, value in result.macro.items():
        one = getattr(sklearn.metrics, f"{key}_score")
        assert value == pytest.approx(one(labels, predicted, average="macro"))
    assert list(result.per_class) == ["a", "b", "c", "d"]
    assert result.top_5 is None
    sure = probabilities.max(1) >= 0.5
    assert result.unsure["share"] == pytest.approx(1 - sure.mean())
    assert result.unsure["accuracy_when_sure"] == (predicted == labels)[sure].mean()


def test_a_class_without_images_does_not_count_in_the_mean():
    result = score(np.eye(3, dtype=np.float32)[:2], np.array([0, 1]), ("a", "b", "c"), np.array(["", ""]))
    assert result.macro == {"precision": 1.0, "recall": 1.0, "f1": 1.0}


def test_no_accuracy_when_sure_if_all_are_unsure():
    result = score(np.eye(2, dtype=np.float32), np.array([0, 1]), ("a", "b"), np.array(["strange", "low confidence"]))
    assert result.unsure == {"share": 1.0, "accuracy_when_sure": None, "strange": 0.5, "low_confidence": 0.5}


def test_many_classes_have_a_top_5_score():
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(12), size=200).astype(np.float32)
    labels = generator.integers(12, size=200)
    result = score(probabilities, labels, tuple("abcdefghijkl"), np.full(200, ""))
    assert result.top_5 == sklearn.metrics.top_k_accuracy_score(labels, probabilities, k=5)


@pytest.mark.parametrize("count", [1, 19, 20])
def test_no_single_figure_stands_in_front_of_a_score_from_nearly_nothing(count):
    labels = np.arange(count) % 2
    found = score(np.eye(2, dtype=np.float32)[labels], labels, ("a", "b"), np.zeros(count, dtype=bool))
    for line in (str(found), str(estimate_accuracy(np.ones(count, dtype=bool)))):
        assert line.startswith("too few to tell: ") == (count < 20)
        assert line.split(" (")[0].count("1.0000") == (count == 20) + (not line.startswith("1.0000"))


def test_a_score_is_restored_from_its_table(labelled, tmp_path):
    probabilities = np.array([[0.9, 0.1, 0], [0.4, 0.35, 0.25], [0.2, 0.7, 0.1], [0.5, 0.1, 0.4]], dtype=np.float32)
    before = score(probabilities, labelled.labels, NAMES, labelled.why)
    facts = dataclasses.asdict(before)
    assert restored_score(labelled, facts) == before
    older = restored_score(labelled, before.facts())
    assert np.isnan([older.brier, older.log_loss, older.calibration_error]).all()
    assert "nan" not in older._repr_html_()


def test_a_notebook_shows_accuracy_with_interval_baseline_and_confusion(predictions):
    probabilities, labels = predictions
    result = score(probabilities, labels, ("a", "b", BAD_NAME, "d"), np.full(500, ""))
    shown = result._repr_html_()
    assert tags(shown)["td"] == 20
    assert f"{result.interval[0]:.1%}".replace("%", " %") in shown
    assert f"always the commonest class: {result.baseline:.1%}".replace("%", " %") in shown
    assert "no better than guessing" in shown
    assert "\n" not in repr(result)


def test_a_notebook_claims_nothing_of_few_images_and_lists_the_hardest_of_many_classes():
    few = score(np.eye(3, dtype=np.float32), np.arange(3), NAMES, np.full(3, ""))
    assert "too few to tell" in few._repr_html_()
    many = score(np.eye(40, dtype=np.float32), np.arange(40), tuple(map(str, range(40))), np.full(40, ""))
    assert tags(many._repr_html_())["tr"] == 16


def test_scores_of_every_class_as_csv(tmp_path):
    names, probabilities = ("a,b", "c", "never met", "never said"), np.eye(4, dtype=np.float32)[[0, 0, 1, 0]]
    result = score(probabilities, np.array([0, 0, 1, 3]), names, np.full(4, ""))
    result.write_per_class(tmp_path / "classes.csv")
    with open(tmp_path / "classes.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list(names)
    low, high = wilson_interval(2, 2)
    first = {"images": "2", "precision": "0.6667", "recall": "1.0000", "f1": "0.8000"}
    assert rows[0] == {"class": "a,b", **first, "recall_low": f"{low:.4f}", "recall_high": f"{high:.4f}"}
    assert {value for key, value in rows[2].items() if key not in ("class", "images")} == {""}
    assert (rows[3]["precision"], rows[3]["recall"], rows[3]["f1"]) == ("", "0.0000", "0.0000")
    for row, one in zip(rows, result.per_class.values(), strict=True):
        assert [float(row[key] or 0) for key in ("precision", "recall", "f1")] == [
            round(one[key], 4) for key in ("precision", "recall", "f1")
        ]
