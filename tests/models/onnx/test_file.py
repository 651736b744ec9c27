import re
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from imprint import ModelFileError, OnnxClassifier
from imprint.models.onnx.file import MAX_BYTES, OPERATORS, SEAL_LENGTH, parse_facts, seal, serialise


def tampered(change):
    """Do what an attacker would: change the model, then compute the digest again."""

    def damage(content):
        model = onnx.ModelProto.FromString(content[:-SEAL_LENGTH])
        facts = parse_facts(content, "before")
        del model.metadata_props[:]
        change(model, facts)
        return serialise(model, facts)

    return damage


def move_out(tensor, location="../../etc/passwd"):
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)


def operator(name, domain=""):
    return lambda model, facts: model.graph.node.append(
        helper.make_node(name, ["pixels"], ["more"], domain=domain, name="more")
    )


def attribute(**held):
    return lambda model, facts: model.graph.node[0].attribute.add(name="held", **held)


def constant(kind):
    tensor = numpy_helper.from_array(np.ones(3, np.float32), "c")
    move_out(tensor)
    return {"t": {"t": tensor}, "tensors": {"tensors": [tensor]}, "sparse": {"sparse_tensor": {"values": tensor}}}[kind]


DAMAGES = {
    "empty": lambda content: b"",
    "text": lambda content: b"label,pixel0\n" * 99,
    "cut": lambda content: content[:-1],
    "cut in half": lambda content: content[: len(content) // 2],
    "without its seal": lambda content: content[:-SEAL_LENGTH],
    "longer": lambda content: content + b"\0",
    "another program's": lambda content: onnx.helper.make_model(
        onnx.helper.make_graph([], "g", [], [])
    ).SerializeToString(),
    "a seal alone": lambda content: content[-SEAL_LENGTH:],
    "another version": tampered(lambda model, facts: facts.update(format=4)),
    "no facts": lambda content: serialise(onnx.ModelProto(), {}),
    "no classes": tampered(lambda model, facts: facts.update(class_names=[])),
    "fewer classes": tampered(lambda model, facts: facts.update(class_names=["a"])),
    "a class twice": tampered(lambda model, facts: facts.update(class_names=["a"] * 10)),
    "an enormous size": tampered(lambda model, facts: facts["input_spec"].update(image_size=[10**9, 10**9])),
    "another size": tampered(lambda model, facts: facts["input_spec"].update(image_size=[9, 9])),
    "no threshold": tampered(lambda model, facts: facts.update(unsure_above="nan")),
    "no limit of confidence": tampered(lambda model, facts: facts.pop("unsure_below")),
    "weights in another file": tampered(lambda model, facts: move_out(model.graph.initializer[0])),
    "weights at an absolute path": tampered(lambda model, facts: move_out(model.graph.initializer[0], "/etc/passwd")),
    "a constant in another file": tampered(attribute(**constant("t"))),
    "constants in another file": tampered(attribute(**constant("tensors"))),
    "a sparse constant": tampered(attribute(**constant("sparse"))),
    "sparse weights": tampered(lambda model, facts: model.graph.sparse_initializer.add()),
    "a graph within": tampered(attribute(g=onnx.GraphProto())),
    "an operator of its own": tampered(operator("Evil", "com.evil")),
    "an endless loop": tampered(operator("Loop")),
    "a function": tampered(lambda model, facts: model.functions.add(name="Relu", domain="")),
    "a graph that makes no sense": tampered(lambda model, facts: model.graph.node[0].input.pop()),
    "no graph": tampered(lambda model, facts: model.ClearField("graph")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_other_files_are_refused_in_one_line(onnx_file, tmp_path, damage):
    path = tmp_path / "digits.onnx"
    path.write_bytes(DAMAGES[damage](onnx_file.read_bytes()))
    with pytest.raises(ModelFileError) as caught:
        OnnxClassifier.load(path)
    assert str(caught.value).startswith(f"model at {path}: ")
    assert "\n" not in str(caught.value)


def test_every_flipped_bit_is_noticed(onnx_file):
    content = onnx_file.read_bytes()
    generator = np.random.default_rng(0)
    for place, bit in zip(generator.integers(0, len(content), 1000), generator.integers(0, 8, 1000), strict=True):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(bit)
        with pytest.raises(ModelFileError):
            parse_facts(bytes(flipped), "flipped.onnx")


def test_a_file_of_the_first_format_is_named(onnx_file):
    older = tampered(lambda model, facts: facts.update(format=1))(onnx_file.read_bytes())
    with pytest.raises(ModelFileError, match=r"its format is 1, and this Imprint reads 2 and 3\. .* export it again"):
        parse_facts(older, "older.onnx")
    assert older[-SEAL_LENGTH:] == seal(older[:-SEAL_LENGTH])


def test_a_file_of_before_there_was_a_limit_of_confidence_is_read(onnx_file, tmp_path):
    before = tampered(lambda model, facts: (facts.update(format=2), facts.pop("unsure_below")))
    (tmp_path / "older.onnx").write_bytes(before(onnx_file.read_bytes()))
    older, now = OnnxClassifier.load(tmp_path / "older.onnx"), OnnxClassifier.load(onnx_file)
    assert (older.unsure_below, older.unsure_above) == (0, now.unsure_above)


def test_a_huge_file_is_refused_unread(onnx_file, tmp_path):
    path = tmp_path / "huge.onnx"
    with open(path, "wb") as file:
        file.truncate(MAX_BYTES + 1)
    started = time.perf_counter()
    with pytest.raises(ModelFileError, match="are the most"):
        OnnxClassifier.load(path)
    with open(path, "wb") as file:
        file.truncate(MAX_BYTES)
    with pytest.raises(ModelFileError, match="no file of imprint export"):
        OnnxClassifier.load(path)
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize("place", ["missing.onnx", "."])
def test_a_missing_model_is_refused(tmp_path, place):
    with pytest.raises(ModelFileError, match="it cannot be read"):
        OnnxClassifier.load(tmp_path / place)


def test_the_file_stands_alone_and_others_can_read_its_facts(onnx_file, model):
    whole = onnx.load(onnx_file, load_external_data=False)
    onnx.checker.check_model(whole, full_check=True)
    assert not any(tensor.external_data for tensor in whole.graph.initializer)
    facts = parse_facts(onnx_file.read_bytes(), onnx_file)
    assert facts["class_names"] == list(model.class_names)
    assert facts["input_spec"]["glyph"]["ink"] == 255
    assert (facts["format"], facts["recipe"], facts["precision"]) == (3, "quick", "float32")
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", facts["imprint"])
    assert {node.op_type for node in whole.graph.node} <= OPERATORS
