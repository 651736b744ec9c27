"""The commands that use a model or a run: predict, evaluate, explain, compare, report, summary."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import imprint
from helpers import pixel_table, refused, run_imprint


def test_predict_repeats_what_train_wrote(lesson, digits_csv, tmp_path):
    run_imprint("predict", "runs/0001-tutorial", "test.csv", "-o", tmp_path / "again.csv", cwd=digits_csv)
    written = (digits_csv / "runs/0001-tutorial/result.csv").read_bytes()
    assert (tmp_path / "again.csv").read_bytes() == written
    printed = run_imprint("predict", "runs/0001-tutorial/model.safetensors", "test.csv", cwd=digits_csv).stdout
    assert printed.encode() == written


def test_predict_json(lesson, digits_csv):
    content = json.loads(run_imprint("predict", "runs/0001-tutorial", "test.csv", "--json", cwd=digits_csv).stdout)
    assert len(content["predictions"]) == 100
    assert set(content["predictions"][0]) == {"source", "label", "confidence", "unsure", "why"}
    assert content["predictions"][4]["source"] == 5


def test_predict_other_data_gives_all_facts(model_file, tmp_path):
    lines = run_imprint("predict", model_file, "digits", cwd=tmp_path).stdout.splitlines()
    assert lines[0] == "source,label,confidence,unsure,why"
    assert re.fullmatch(r"digits#1,\d,[01]\.\d{4},(yes|no),[a-z ]*", lines[1])
    assert len(lines) == 1798


def test_model_and_data_in_the_wrong_order_are_told(model_file, digits_csv):
    for verb, *data in (["predict", "test.csv"], ["evaluate", "labelled.csv"], ["compare", "labelled.csv", model_file]):
        line = refused(verb, *data, model_file, cwd=digits_csv)
        assert f"it is no model, but {model_file} is. Swap the two" in line
    assert "Did you mean labelled.csv?" in refused("evaluate", model_file, "labeled.csv", cwd=digits_csv)
    assert f"Did you mean {model_file}?" in refused("predict", f"{model_file}s", "test.csv", cwd=digits_csv)
    line = refused("evaluate", model_file, "labelled.csv", "--training", "train.csv", cwd=digits_csv)
    assert "--training at imprint: it changes nothing without --clinic" in line


def test_several_images_are_predicted(model_file, divided):
    files = sorted(map(str, divided.glob("images/test/*/*.png")))[:3]
    lines = run_imprint("predict", model_file, *files, cwd=divided).stdout.splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == files
    for other, words in (
        ("images", "each is the file of an image"),
        ("a.csv", "each is the file"),
        ("x.png", "no such"),
    ):
        assert words in refused("predict", model_file, files[0], other, cwd=divided)


def test_a_gate_lets_only_the_better_model_through(model_file, digits, digits_csv, tmp_path):
    poor = tmp_path / "poor.safetensors"
    imprint.train(digits[:600], "quick", epochs=1, min_steps=1, verbose=False).model.save(poor)
    data = digits_csv / "labelled.csv"
    for first, second, better, no_worse in (
        (poor, model_file, 0, 0),
        (model_file, model_file, 1, 0),
        (model_file, poor, 1, 1),
    ):
        compare = ["compare", first, second, data]
        run_imprint(*compare, "--strict", cwd=tmp_path, status=better)
        run_imprint(*compare, "--strict", "--no-worse", "--json", cwd=tmp_path, status=no_worse)
        run_imprint(*compare, cwd=tmp_path)
    assert "--no-worse at imprint: it changes nothing without --strict" in refused(*compare, "--no-worse", cwd=tmp_path)


def test_a_former_result_survives_a_failure(model_file, tmp_path):
    (tmp_path / "result.csv").write_text("former")
    (tmp_path / "bad.csv").write_text("pixel0\n1\nx\n")
    refused("predict", model_file, "bad.csv", "-o", "result.csv", cwd=tmp_path)
    refused("predict", model_file, "missing.csv", "-o", "result.csv", cwd=tmp_path)
    assert (tmp_path / "result.csv").read_text() == "former"


def test_evaluate(lesson, digits_csv):
    content = json.loads(run_imprint("evaluate", "runs/0001-tutorial", "labelled.csv", "--json", cwd=digits_csv).stdout)
    keys = "images accuracy interval baseline log_loss calibration_error confusion classes unsure"
    assert set(content) >= set(keys.split())
    assert content["images"] == np.sum(content["confusion"]) == 100
    assert content["accuracy"] == np.trace(content["confusion"]) / 100
    text = run_imprint("evaluate", "runs/0001-tutorial", "labelled.csv", cwd=digits_csv).stdout
    assert text.startswith(f"accuracy {content['accuracy']:.4f} (95 % interval ")


def test_a_score_on_what_was_learnt_is_called_that(lesson, digits_csv):
    told = {
        data: run_imprint("evaluate", "runs/0001-tutorial", data, cwd=digits_csv)
        for data in ("train.csv", "labelled.csv")
    }
    assert "has learnt from this very data" in told["train.csv"].stderr
    assert not told["labelled.csv"].stderr


def test_evaluate_with_the_clinic_and_images(lesson, digits_csv, tmp_path):
    arguments = ["evaluate", "runs/0001-tutorial", "labelled.csv", "--clinic", "--pictures", tmp_path / "drawn"]
    content = json.loads(run_imprint(*arguments, "--json", cwd=digits_csv).stdout)
    assert len(content["mistakes"]) == round((1 - content["accuracy"]) * 100)
    assert {mistake["cause"] for mistake in content["mistakes"]} <= {"unlike", "mislabelled", "ambiguous", "fault"}
    assert all(len(mistake["nearest"]) == 3 for mistake in content["mistakes"])
    names = ["classes.png", "confusion.png", "coverage.png", "mistakes.png", "reliability.png"]
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == names


def test_evaluate_writes_what_it_says_of_every_image_and_class(lesson, digits_csv, tmp_path):
    files = {option: tmp_path / f"{option}.csv" for option in ("output", "per-class", "mistakes")}
    arguments = [text for option, path in files.items() for text in (f"--{option}", path)]
    done = run_imprint("evaluate", "runs/0001-tutorial", "labelled.csv", *arguments, "--json", cwd=digits_csv)
    content = json.loads(done.stdout)
    assert "mistakes" not in content
    tables = {}
    for option, path in files.items():
        with open(path, newline="", encoding="utf-8") as file:
            tables[option] = list(csv.DictReader(file))
    whole, wrong = tables["output"], [row for row in tables["output"] if row["label"] != row["prediction"]]
    assert list(whole[0]) == ["source", "label", "prediction", "confidence", "unsure", "cause"]
    assert [row["source"] for row in whole] == [str(row) for row in range(1, 101)]
    assert len(wrong) == len(tables["mistakes"]) == round((1 - content["accuracy"]) * 100)
    assert {row["cause"] for row in wrong} <= {"unlike", "mislabelled", "ambiguous", "fault"}
    assert all((row in wrong) == bool(row["cause"]) for row in whole)
    named = {f"labelled.csv row {row['source']}": (row["label"], row["cause"]) for row in wrong}
    assert {row["source"]: (row["label"], row["cause"]) for row in tables["mistakes"]} == named
    assert [row["class"] for row in tables["per-class"]] == list(content["classes"])
    assert "then imprint train labelled.csv --labels" in done.stderr


def test_evaluate_of_an_exported_model_leaves_causes_out_and_says_so(onnx_file, tmp_path):
    options = ["-o", "all.csv", "--mistakes", "m.html", "--per-class", "c.csv"]
    done = run_imprint("evaluate", onnx_file, "digits", *options, cwd=tmp_path)
    assert "without the causes of mistakes: " in done.stderr
    assert "the causes of mistakes" not in run_imprint("evaluate", onnx_file, "digits", cwd=tmp_path).stderr
    assert all(line.endswith(",") for line in (tmp_path / "all.csv").read_text().splitlines()[1:])
    assert "imprint train" in (tmp_path / "m.html").read_text()
    assert len((tmp_path / "c.csv").read_text().splitlines()) == 11
    refused("evaluate", onnx_file, "digits", "-o", "no/such/folder.csv", cwd=tmp_path)
    refused("evaluate", onnx_file, "digits", "-o", "x.csv", "--training", "nowhere", cwd=tmp_path)


def test_labels_are_corrected_before_they_are_scored(model_file, digits_csv, tmp_path):
    run_imprint("evaluate", model_file, "digits", "--mistakes", "m.csv", cwd=tmp_path)
    with open(tmp_path / "m.csv", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert rows
    (tmp_path / "m.csv").write_text("\n".join([",".join(header), *(",".join([r[0], r[2], *r[2:]]) for r in rows)]))
    done = run_imprint("evaluate", model_file, "digits", "--labels", "m.csv", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["accuracy"] == 1
    assert f"labels of m.csv: {len(rows)} of 1,797 changed" in done.stderr


def test_predict_sorts_and_gives_probabilities(model_file, onnx_file, run_folder, divided):
    before = {path: path.read_bytes() for path in divided.glob("images/**/*.png")}
    for number, one in enumerate((model_file, onnx_file, run_folder)):
        done = run_imprint(
            "predict", one, "images/test", "--sort-into", f"s{number}", "--probabilities", "--json", cwd=divided
        )
        content = json.loads(done.stdout)
        said = content["predictions"]
        assert all(sum(fact["probabilities"].values()) == pytest.approx(1, abs=1e-5) for fact in said)
        placed = {path.name: path.parent.name for path in (divided / f"s{number}").glob("*/*.png")}
        expected = {Path(fact["source"]).name: "unsure" if fact["unsure"] else fact["label"] for fact in said}
        assert placed == expected
        assert sum(content["sorted"].values()) == len(said)
    done = run_imprint("predict", model_file, "images/test", "--sort-into", "s0", "--probabilities", cwd=divided)
    assert "images were in s0 already" in done.stderr
    assert done.stdout.startswith("source,label,confidence,unsure,why,0,1,2,")
    assert {path: path.read_bytes() for path in divided.glob("images/**/*.png")} == before
    assert "--link at imprint: it changes nothing without" in refused("predict", one, "images", "--link", cwd=divided)
    assert "hold each image twice" in refused("predict", one, "images", "--sort-into", "images/x", cwd=divided)


def test_explain(lesson, digits_csv, digits, tmp_path):
    explain = ["explain", digits_csv / "runs/0001-tutorial"]
    done = run_imprint(*explain, digits_csv / "test.csv", "--index", "5", "--json", cwd=tmp_path)
    content = json.loads(done.stdout)
    assert content["files"] == ["test-5-explained.png"]
    assert (content["source"], content["truth"], len(content["compared"])) == (6, None, 2)
    assert content["layers"][0] == {"name": "conv2d", "shape": [30, 24, 24]}
    assert f"6,{content['label']}" in (digits_csv / "runs/0001-tutorial/result.csv").read_text().splitlines()
    Image.fromarray(digits.pixels[0, 0]).resize((90, 90)).save(tmp_path / "zero.png")
    lines = run_imprint(*explain, "zero.png", "-o", "why.png", cwd=tmp_path).stdout.splitlines()
    assert re.fullmatch(r"zero\.png: \d \(confidence [01]\.\d{4}(, unsure: (strange|low confidence))?\)", lines[0])
    assert lines[1] == "why.png"
    with Image.open(tmp_path / "why.png") as image:
        assert image.width == 1350
    assert "it holds 100 images" in refused(*explain, digits_csv / "test.csv", "--index", "100", cwd=tmp_path)
    for wrong in (["nowhere.png"], ["zero.png", "--network", "2"], ["zero.png", "-o", "no/such/folder.png"]):
        refused(*explain, *wrong, cwd=tmp_path)


def test_explain_makes_a_page_of_several_images(lesson, digits_csv, digits, tmp_path):
    explain = ["explain", digits_csv / "runs/0001-tutorial"]
    done = run_imprint(*explain, digits_csv / "test.csv", "--limit", "3", "--json", cwd=tmp_path)
    content = json.loads(done.stdout)
    assert content["files"] == ["test-explained.html"]
    assert content["images"] == 100
    assert [one["source"] for one in content["explained"]] == [1, 2, 3]
    assert "the first 3 of 100 images; --limit shows more" in done.stderr
    assert "--limit 30" in (tmp_path / "test-explained.html").read_text(encoding="utf-8")
    (tmp_path / "holiday").mkdir()
    for place in (0, 1):
        Image.fromarray(digits.pixels[place, 0]).resize((90, 90)).save(tmp_path / "holiday" / f"{place}.png")
    assert run_imprint(*explain, "holiday", cwd=tmp_path).stdout == "holiday-explained.html\n"
    text = (tmp_path / "holiday-explained.html").read_text(encoding="utf-8")
    assert text.count('class="answer"') == 2
    assert "<small>0.png</small>" in text
    run_imprint(*explain, "holiday/0.png", "-o", "one.html", cwd=tmp_path)
    assert (tmp_path / "one.html").read_text(encoding="utf-8").count('class="answer"') == 1
    drawn = run_imprint(*explain, "holiday", "-o", "first.png", cwd=tmp_path)
    assert "drawing the first of 2 images; -o FILE.html makes a page of them" in drawn.stderr
    for wrong in (["holiday", "--index", "0", "-o", "a.html"], ["holiday/0.png", "--limit", "3"]):
        refused(*explain, *wrong, cwd=tmp_path)


def test_compare(lesson, digits_csv):
    both = ["compare", "runs/0001-tutorial", "runs/0001-tutorial", "labelled.csv"]
    content = json.loads(run_imprint(*both, "--json", cwd=digits_csv).stdout)
    assert (content["difference"], content["p_value"]) == (0, 1)
    assert content["interval"][0] < 0 < content["interval"][1]
    assert run_imprint(*both, cwd=digits_csv).stdout.splitlines()[-1] == "no difference beyond noise"
    told = run_imprint(*both[:3], "train.csv", cwd=digits_csv).stderr
    assert told.count("runs/0001-tutorial has learnt from this very data") == 2
    refused("compare", "runs/0001-tutorial", "nowhere", "labelled.csv", cwd=digits_csv)


def test_images_that_a_model_was_trained_on_do_not_pass_for_new_ones(lesson, digits_csv, tmp_path):
    rows = (digits_csv / "train.csv").read_text().splitlines(keepends=True)
    (tmp_path / "some.csv").write_text("".join([rows[0], *rows[5:105]]))
    run = digits_csv / "runs/0001-tutorial"
    done = run_imprint("evaluate", run, tmp_path / "some.csv", "--json", cwd=digits_csv)
    content = json.loads(done.stdout)
    assert 80 < content["trained_on"] < 100  # some were held out
    words = f"was trained on {content['trained_on']} of these 100 images: expect less of new ones"
    assert [note.endswith(words) for note in content["notes"]] == [True]
    assert words in done.stderr
    new = json.loads(run_imprint("evaluate", run, "labelled.csv", "--json", cwd=digits_csv).stdout)
    assert (new["trained_on"], new["notes"]) == (0, [])
    compare = ["compare", run, run, tmp_path / "some.csv", "--strict", "--no-worse", "--json"]
    done = run_imprint(*compare, "--quiet", cwd=digits_csv, status=1)  # a warning, which --quiet keeps
    assert json.loads(done.stdout)["trained_on"] == [content["trained_on"]] * 2
    assert done.stderr.count(f"warning: {run} was trained on") == 2
    assert "not passed: " in done.stderr
    run_imprint("compare", run, run, "labelled.csv", "--strict", "--no-worse", cwd=digits_csv)


def test_a_class_that_one_model_does_not_know_counts_as_wrong_for_it(model_file, digits, digits_csv, tmp_path):
    old = tmp_path / "old.safetensors"
    fewer = digits[:600].select(list("01345678"))
    imprint.train(fewer, "quick", epochs=4, min_steps=4, verbose=False).model.save(old)
    data = digits_csv / "labelled.csv"
    done = run_imprint("compare", old, model_file, data, "--strict", "--json", cwd=tmp_path)
    facts = json.loads(done.stdout)
    assert facts["unknown_classes"] == [["2", "9"], []]
    assert facts["images"] == 100
    wrong = sum(name in "29" for name in (digits.class_names[label] for label in digits.labels[600:700]))
    assert f"warning: {old} does not know '2', '9': {wrong} of 100 images, which count as wrong for it" in done.stderr
    known = tmp_path / "known.csv"
    known.write_text(pixel_table(digits[600:700].select(list("01345678"))))
    without = json.loads(run_imprint("compare", old, model_file, known, "--json", cwd=tmp_path).stdout)
    assert facts["accuracy"][0] * 100 == pytest.approx(without["accuracy"][0] * without["images"])
    assert without["unknown_classes"] == [[], []]
    scored = json.loads(run_imprint("evaluate", old, known, "--json", cwd=tmp_path).stdout)
    assert without["accuracy"][0] == pytest.approx(scored["accuracy"])
    turned = json.loads(run_imprint("compare", model_file, old, data, "--json", cwd=tmp_path).stdout)
    assert turned["accuracy"] == facts["accuracy"][::-1]
    assert "label '2'" in refused("compare", old, old, data, cwd=tmp_path)  # neither knows it


def test_report(lesson, digits_csv, tmp_path):
    done = run_imprint("report", "runs/0001-tutorial", "-o", tmp_path / "report.html", cwd=digits_csv)
    assert done.stdout.strip() == str(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "imprint train train.csv --recipe tutorial --set epochs=4 --set steps_per_epoch=40 --test test.csv" in page
    assert "note:" not in done.stderr


def test_summary(lesson, digits_csv):
    text = run_imprint("summary", "tutorial", cwd=digits_csv).stdout
    assert "Total params: 203,933" in text
    of_run = run_imprint("summary", "runs/0001-tutorial", cwd=digits_csv).stdout
    (layers, fields), (layers_of_run, fields_of_run) = (
        one.split("\n", 1)[1].split("\n\nfield ") for one in (text, of_run)
    )
    assert layers_of_run == layers
    assert re.search(r"^epochs +30 +How many epochs to train", fields, re.MULTILINE)
    assert re.search(r"^epochs +4 ", fields_of_run, re.MULTILINE)
    assert "OOD detector" in run_imprint("summary", "best", cwd=digits_csv).stderr
    assert "OOD detector" not in run_imprint("summary", "tutorial", cwd=digits_csv).stderr
    content = json.loads(run_imprint("summary", "tutorial", "--json", cwd=digits_csv).stdout)
    assert (content["total"], content["trainable"], content["non_trainable"]) == (203_933, 203_933, 0)
    assert len(content["layers"]) == 8


def test_a_model_that_is_never_sure_says_so(model, digits_csv, tmp_path):
    replace(model, unsure_below=2.0).save(tmp_path / "m.safetensors")
    done = run_imprint("predict", "m.safetensors", digits_csv / "labelled.csv", "--json", cwd=tmp_path)
    assert "every answer is unsure" in done.stderr
    assert {one["why"] for one in json.loads(done.stdout)["predictions"]} <= {"strange", "low confidence"}


def test_predict_into_a_folder(model_file, divided):
    done = run_imprint("predict", model_file, "images", "-o", "new/", "--json", cwd=divided)
    summary = json.loads(done.stdout)
    assert (summary["inputs"], summary["failed"], summary["complete"]) == (
        len(list(divided.glob("images/test/*/*"))),
        0,
        True,
    )
    assert summary == json.loads((divided / "new/summary.json").read_text())
    assert "predicting the test part of images" in done.stderr
    again = run_imprint("predict", model_file, "images", "-o", "new", cwd=divided)  # a folder that is there
    assert "were predicted before" in again.stderr
    assert not again.stdout
    (divided / "images/test/0/broken.png").write_bytes(b"x")
    done = run_imprint("predict", model_file, "images", "-o", "more/", cwd=divided)
    assert "1 of " in done.stderr
    for option in (["--probabilities"], ["--sort-into", "x"], ["--id", "n"]):
        line = refused("predict", model_file, "images", "-o", "other/", *option, cwd=divided)
        assert "a folder has five columns alone" in line
    assert not (divided / "other").exists()
    files = [str(path) for path in divided.glob("images/test/1/*.png")]
    run_imprint("predict", model_file, *files, "-o", "several/", cwd=divided)
    assert json.loads((divided / "several/summary.json").read_text())["said"] == len(files)
    assert "holds other files" in refused("predict", model_file, files[0], "-o", "images", cwd=divided)
