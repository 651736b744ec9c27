"""A file whose digest is right and whose parts do not fit together is refused, before anything is computed."""

import resource
import struct
import time

import pytest
import torch
from safetensors.torch import save_file

from imprint import Classifier, ModelFileError
from imprint.model_file import read_model_file, write_model_file
from imprint.nets import build_net


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
    "another version": with_bytes(lambda content: content.replace(b'format\\": 3', b'format\\": 4', 1)),
    "an older version": lambda path, content: save_file({"w": torch.ones(2)}, path, {"imprint": '{"format": 1}'}),
    "no classes": with_facts(lambda facts: facts.update(class_names=[])),
    "a class twice": with_facts(lambda facts: facts.update(class_names=["1"] * 10)),
    "a missing fact": with_facts(lambda facts: facts.pop("input_spec")),
    "an unknown net": with_facts(lambda facts: facts["recipe"].update(net="evil")),
    "an enormous size": with_facts(lambda facts: facts["input_spec"].update(input_size=[10**9, 10**9])),
    "a tiny size": with_facts(lambda facts: facts["input_spec"].update(input_size=[1, 1])),
    "an enormous glyph": with_facts(lambda facts: facts["input_spec"]["glyph"].update(box=1e9)),
    "a glyph of words": with_facts(lambda facts: facts["input_spec"]["glyph"].update(stroke="thick")),
    "a glyph of another size": with_facts(lambda facts: facts["input_spec"]["glyph"].update(height=9)),
    "classes of numbers": with_facts(lambda facts: facts.update(class_names=list(range(10)))),
    "classes of one text": with_facts(lambda facts: facts.update(class_names="0123456789")),
    "an endless temperature": with_facts(lambda facts: facts.update(temperature=10**400)),
    "an impossible confidence": with_facts(lambda facts: facts.update(unsure_above=[])),
    "views that are none": with_facts(lambda facts: facts["recipe"].update(views="auto", mirror="yes")),
    "a guard that is not there": with_facts(lambda facts: facts["recipe"].update(guard="quick")),
    "an unknown guard": with_facts(lambda facts: facts["recipe"].update(guard="evil")),
    "fewer classes": with_facts(lambda facts: facts.update(class_names=list("012345678"))),
    "a missing tensor": with_tensors(lambda tensors: tensors.pop("dense.bias")),
    "a tensor of another type": with_tensors(lambda tensors: tensors.update({"dense.bias": torch.ones(10).half()})),
    "a tensor of another shape": with_tensors(lambda tensors: tensors.update({"dense.bias": torch.ones(11)})),
    "no familiarity": with_tensors(lambda tensors: tensors.pop("familiarity.whitening")),
    "familiarity of other features": with_tensors(
        lambda tensors: tensors.update({"familiarity.whitening": torch.zeros(10, 207, 207)})
    ),
    "familiarity of fewer classes": with_tensors(
        lambda tensors: tensors.update({"familiarity.centres": tensors["familiarity.centres"][1:].clone()})
    ),
    "familiarity that is no number": with_tensors(lambda tensors: tensors["familiarity.centres"].fill_(float("inf"))),
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


@pytest.mark.parametrize("place", ["missing.safetensors", "."])
def test_a_missing_model_is_refused(tmp_path, place):
    with pytest.raises(ModelFileError, match="No such file"):
        Classifier.load(tmp_path / place)


def test_a_network_for_huge_pictures_is_not_run_to_find_out(model_file, tmp_path):
    facts = read_model_file(model_file)[1]
    facts["input_spec"] |= {"input_size": [4096, 4096], "picture_size": [4096, 4096], "glyph": None}
    facts["recipe"]["net"] = "+".join(["residual"] * 3)  # whose weights are the same for pictures of any size
    weights = build_net(facts["recipe"]["net"], 1, (64, 64), 10).state_dict()
    write_model_file(tmp_path / "m.safetensors", weights, facts)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    with pytest.raises(ModelFileError, match=r"familiarity\.centres is missing"):
        Classifier.load(tmp_path / "m.safetensors")
    assert time.perf_counter() - started < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KB
