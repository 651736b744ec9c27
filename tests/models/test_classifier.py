"""A file whose digest is right and whose parts do not fit together is refused, before anything is computed."""

import json
import resource
import struct
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from imprint import Classifier, DataError, ModelFileError
from imprint.models.model_file import read_model_file, write_model_file
from imprint.models.networks import build_network, build_networks


def test_a_saved_model_predicts_the_same(model, model_file, digits):
    loaded = Classifier.load(model_file)
    assert np.array_equal(loaded.predict_proba(digits), model.predict_proba(digits))
    assert (loaded.class_names, loaded.spec, loaded.recipe) == (model.class_names, model.spec, model.recipe)
    assert (loaded.unsure_above, loaded.score["accuracy"]) == (model.unsure_above, model.score["accuracy"])
    assert loaded.score["trust"] == model.score["trust"]
    assert np.array_equal(loaded.predict(digits).uncertainty, model.predict(digits).uncertainty)


def test_the_limit_of_confidence_is_saved(model, digits, tmp_path):
    replace(model, unsure_below=0.97).save(tmp_path / "m.safetensors")
    loaded = Classifier.load(tmp_path / "m.safetensors")
    assert loaded.unsure_below == 0.97
    assert (loaded.predict(digits).why == "low confidence").sum() > 5


def test_a_file_of_before_there_was_one_is_read(model, digits, tmp_path, monkeypatch):
    facts = {key: value for key, value in model.facts().items() if key != "unsure_below"}
    monkeypatch.setattr("imprint.models.model_file.FORMAT", 4)
    monkeypatch.setattr(Classifier, "facts", lambda self: facts)
    model.save(tmp_path / "m.safetensors")
    monkeypatch.undo()
    assert Classifier.load(tmp_path / "m.safetensors").unsure_below == 0


def test_a_run_folder_stands_for_its_model(model_file):
    assert Classifier.load(model_file.parent).class_names == Classifier.load(model_file).class_names


def test_everything_but_the_weights_is_json_in_the_header(model_file):
    with safe_open(model_file, framework="np") as file:
        assert list(file.metadata()) == ["imprint"]
        facts = json.loads(file.metadata()["imprint"])
    assert facts["format"] == 5
    assert facts["class_names"] == list("0123456789")
    glyph = facts["input_spec"].pop("glyph")
    sizes = {"channels": 1, "image_size": [8, 8], "input_size": [28, 28]}
    assert facts["input_spec"] == sizes | {
        "mean": [0.0],
        "std": [1.0],
        "version": 2,
        "pixel_range": None,
        "background": None,
    }
    assert (glyph["ground"], glyph["box"], glyph["centring"]) == (0, 8.0, "box")
    assert facts["recipe"]["name"] == "quick"


def test_images_of_another_form_are_refused(model, digits):
    other = type(digits)(digits.pixels[:, :, :7], digits.labels, digits.class_names, digits.sources, "seven.csv")
    with pytest.raises(DataError, match=r"images of 8×7 grey at seven\.csv: the model was trained on"):
        model.predict(other)


def test_loading_does_not_import_torchs_compiler(model_file):
    script = f"import sys, imprint; imprint.Classifier.load({str(model_file)!r}); sys.exit('sympy' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def with_contents(change):
    """Change tensors and facts, and write a digest that is right for them, as an attacker would."""

    def damage(path, content):
        tensors, facts = read_model_file(path)
        change(tensors, facts)
        write_model_file(path, tensors, facts)

    return damage


def with_facts(change):
    return with_contents(lambda tensors, facts: change(facts))


def with_tensors(change):
    return with_contents(lambda tensors, facts: change(tensors))


def with_bytes(change):
    return lambda path, content: path.write_bytes(change(content))


DAMAGES = {
    "empty": with_bytes(lambda content: b""),
    "text": with_bytes(lambda content: b"label,pixel0\n" * 99),
    "cut in the weights": with_bytes(lambda content: content[:-1]),
    "cut in the header": with_bytes(lambda content: content[:200]),
    "longer": with_bytes(lambda content: content + b"\0"),
    "a header of 1 GB": with_bytes(lambda content: struct.pack("<Q", 2**30) + content[8:]),
    "another program's": lambda path, content: save_file({"w": torch.ones(2)}, path),
    "our key, no JSON": lambda path, content: save_file({"w": torch.ones(2)}, path, metadata={"imprint": "{"}),
    "our key, a list": lambda path, content: save_file({"w": torch.ones(2)}, path, metadata={"imprint": "[]"}),
    "another version": with_bytes(lambda content: content.replace(b'format\\": 5', b'format\\": 6', 1)),
    "an older version": lambda path, content: save_file({"w": torch.ones(2)}, path, {"imprint": '{"format": 1}'}),
    "no limit of confidence": with_facts(lambda facts: facts.pop("unsure_below")),
    "a limit of confidence in words": with_facts(lambda facts: facts.update(unsure_below="low")),
    "another input contract": with_facts(lambda facts: facts["input_spec"].update(version=3)),
    "an input contract without a version": with_facts(lambda facts: facts["input_spec"].pop("version")),
    "a standard deviation of 0": with_facts(lambda facts: facts["input_spec"].update(std=[0.0])),
    "a mean of two channels": with_facts(lambda facts: facts["input_spec"].update(mean=[0.5, 0.5])),
    "a mean of words": with_facts(lambda facts: facts["input_spec"].update(mean="dark")),
    "no classes": with_facts(lambda facts: facts.update(class_names=[])),
    "a class twice": with_facts(lambda facts: facts.update(class_names=["1"] * 10)),
    "a missing fact": with_facts(lambda facts: facts.pop("input_spec")),
    "an unknown network": with_facts(lambda facts: facts["recipe"].update(networks=["evil"])),
    "an enormous size": with_facts(lambda facts: facts["input_spec"].update(input_size=[10**9, 10**9])),
    "a tiny size": with_facts(lambda facts: facts["input_spec"].update(input_size=[1, 1])),
    "an enormous glyph": with_facts(lambda facts: facts["input_spec"]["glyph"].update(box=1e9)),
    "a glyph of words": with_facts(lambda facts: facts["input_spec"]["glyph"].update(stroke="thick")),
    "a glyph of another size": with_facts(lambda facts: facts["input_spec"]["glyph"].update(height=9)),
    "classes of numbers": with_facts(lambda facts: facts.update(class_names=list(range(10)))),
    "classes of one text": with_facts(lambda facts: facts.update(class_names="0123456789")),
    "an endless temperature": with_facts(lambda facts: facts.update(temperature=10**400)),
    "an impossible confidence": with_facts(lambda facts: facts.update(unsure_above=[])),
    "test-time augmentation that is none": with_facts(lambda facts: facts["recipe"].update(tta="auto", hflip="yes")),
    "an OOD detector that is not there": with_facts(lambda facts: facts["recipe"].update(ood_detector="quick")),
    "an unknown OOD detector": with_facts(lambda facts: facts["recipe"].update(ood_detector="evil")),
    "fewer classes": with_facts(lambda facts: facts.update(class_names=list("012345678"))),
    "a missing tensor": with_tensors(lambda tensors: tensors.pop("dense.bias")),
    "a tensor of another type": with_tensors(lambda tensors: tensors.update({"dense.bias": torch.ones(10).half()})),
    "a tensor of another shape": with_tensors(lambda tensors: tensors.update({"dense.bias": torch.ones(11)})),
    "no OOD score": with_tensors(lambda tensors: tensors.pop("ood_score/whitening")),
    "an OOD score of other embeddings": with_tensors(
        lambda tensors: tensors.update({"ood_score/whitening": torch.zeros(10, 207, 207)})
    ),
    "an OOD score of fewer classes": with_tensors(
        lambda tensors: tensors.update({"ood_score/centres": tensors["ood_score/centres"][1:].clone()})
    ),
    "an OOD score that is no number": with_tensors(lambda tensors: tensors["ood_score/centres"].fill_(float("inf"))),
    "a limit that is no number": with_facts(lambda facts: facts.update(unsure_above="no")),
    "weights that are not numbers": with_tensors(lambda tensors: tensors["dense.bias"].fill_(float("nan"))),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_no_model_is_refused_in_one_line(model_file, tmp_path, damage):
    path = tmp_path / "model.safetensors"
    path.write_bytes(model_file.read_bytes())
    DAMAGES[damage](path, path.read_bytes())
    with pytest.raises(ModelFileError) as caught:
        Classifier.load(path)
    assert str(caught.value).startswith(f"model at {path}: ")
    assert "\n" not in str(caught.value)


DETECTOR_DAMAGES = {
    "a missing tensor": with_tensors(lambda tensors: tensors.pop("ood_detector/dense.bias")),
    "a tensor too much": with_tensors(lambda tensors: tensors.update({"ood_detector/evil": torch.zeros(3)})),
    "other classes": with_tensors(lambda tensors: tensors.update({"ood_detector/dense.bias": torch.zeros(50)})),
    "another type": with_tensors(lambda tensors: tensors.update({"ood_detector/dense.bias": torch.zeros(51).half()})),
    "no numbers": with_tensors(lambda tensors: tensors["ood_detector/dense.bias"].fill_(float("nan"))),
    "a recipe without one": with_facts(lambda facts: facts["recipe"].pop("ood_detector")),
    "a recipe with another": with_facts(lambda facts: facts["recipe"].update(ood_detector="deep")),
    "a recipe of other synthetic images": with_facts(lambda facts: facts["recipe"].update(hflip="yes")),
    "a detector of another kind": with_facts(lambda facts: facts["recipe"].update(ood_detector=["quick"])),
}


@pytest.mark.parametrize("damage", DETECTOR_DAMAGES)
def test_an_ood_detector_that_does_not_fit_its_model_is_refused(model, tmp_path, damage):
    path = tmp_path / "model.safetensors"
    recipe, ood_detector = replace(model.recipe, ood_detector="quick"), build_network("quick", 1, (28, 28), 51)
    replace(model, recipe=recipe, ood_detector=ood_detector).save(path)
    Classifier.load(path)
    DETECTOR_DAMAGES[damage](path, path.read_bytes())
    with pytest.raises(ModelFileError, match=r"tensor|OOD detector|ood_detector|quick"):
        Classifier.load(path)


@pytest.mark.parametrize("place", ["missing.safetensors", "."])
def test_a_missing_model_is_refused(tmp_path, place):
    with pytest.raises(ModelFileError, match="No such file"):
        Classifier.load(tmp_path / place)


def test_a_network_for_huge_images_is_not_run_to_find_out(model_file, tmp_path):
    facts = read_model_file(model_file)[1]
    facts["input_spec"] |= {"input_size": [4096, 4096], "image_size": [4096, 4096], "glyph": None}
    facts["recipe"]["networks"] = ["residual"] * 3  # whose weights are the same for images of any size
    weights = build_networks(facts["recipe"]["networks"], 1, (64, 64), 10).state_dict()
    write_model_file(tmp_path / "m.safetensors", weights, facts)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    with pytest.raises(ModelFileError, match="ood_score/centres is missing"):
        Classifier.load(tmp_path / "m.safetensors")
    assert time.perf_counter() - started < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KB
