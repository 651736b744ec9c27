"""A model file is data, and is either what was written or refused: nothing of it is run, and little of it is read."""

import json
import os
import pickle
import random
import resource
import struct
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from imprint import Classifier, ImprintError, ModelFileError
from imprint.models.model_file import FORMAT, MAX_HEADER, read_model_file, write_model_file


@pytest.fixture(scope="module")
def content(model_file):
    return model_file.read_bytes()


def refused(path):
    """Load what must be refused in one line within a second, and give that line."""
    started = time.perf_counter()
    with pytest.raises(ModelFileError) as caught:
        Classifier.load(path)
    assert time.perf_counter() - started < 1
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_same_contents_give_the_same_bytes(model, model_file, tmp_path):
    model.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == model_file.read_bytes()


def test_any_program_reads_the_weights(model, model_file):
    tensors = load_file(model_file)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in model.network.state_dict().items())


def test_every_flipped_bit_is_noticed(content, tmp_path):
    path, generator = tmp_path / "m.safetensors", random.Random(1)
    header = 8 + int.from_bytes(content[:8], "little")
    places = [generator.randrange(header) for _ in range(500)] + [generator.randrange(len(content)) for _ in range(492)]
    for place in [*range(8), *places]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        refused(path)


def test_every_cut_is_noticed(content, tmp_path):
    path = tmp_path / "m.safetensors"
    for length in [0, 1, 7, 8, 9, 100, *range(1000, len(content), len(content) // 20), len(content) - 1]:
        path.write_bytes(content[:length])
        refused(path)


def test_exchanged_weights_are_noticed(content, tmp_path):
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    first, second = (header[f"batch_normalization_{place}.running_mean"]["data_offsets"] for place in (1, 2))
    if first[1] - first[0] != second[1] - second[0]:
        second = header["batch_normalization_1.running_var"]["data_offsets"]
    body = bytearray(content[8 + length :])
    body[slice(*first)], body[slice(*second)] = body[slice(*second)], body[slice(*first)]
    (tmp_path / "m.safetensors").write_bytes(content[: 8 + length] + body)
    assert "damaged" in refused(tmp_path / "m.safetensors")
    renamed = (
        content.replace(b"running_mean", b"running_xxxx")
        .replace(b'running_var"', b"running_mean")
        .replace(b"running_xxxx", b'running_var"')
    )
    (tmp_path / "m.safetensors").write_bytes(renamed)
    refused(tmp_path / "m.safetensors")


class Attack:
    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_is_not_run(tmp_path, protocol):
    path, proof = tmp_path / "m.safetensors", tmp_path / "proof"
    path.write_bytes(pickle.dumps(Attack(proof), protocol=protocol) * 99)
    assert "it is no whole safetensors file" in refused(path) or "header" in refused(path)
    torch.save({"w": torch.ones(2), "attack": Attack(proof)}, path)
    refused(path)
    assert not proof.exists()


def sparse(path, start, size):
    path.write_bytes(start)
    os.truncate(path, size)


HUGE = {
    "zeros": lambda path, content: sparse(path, b"", 50 * 2**30),
    "a header of 1 GB": lambda path, content: sparse(path, struct.pack("<Q", 2**30) + content[8:], 2 * 2**30),
    "a header of 2⁶⁴ bytes": lambda path, content: path.write_bytes(b"\xff" * 8 + content[8:]),
    "a gigabyte behind the weights": lambda path, content: sparse(path, content, 2**30),
    "endless weights": lambda path, content: sparse(path, content, 50 * 2**30),
    "a header that nests": lambda path, content: path.write_bytes(struct.pack("<Q", 10**6) + b"[" * 10**6),
}


@pytest.mark.parametrize("case", HUGE)
def test_what_is_huge_is_refused_soon_and_without_memory(content, tmp_path, case):
    path = tmp_path / "m.safetensors"
    HUGE[case](path, content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KB


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero", "/dev/null"):
        assert "it is a folder or device, not a file" in refused(path)
    (tmp_path / "folder" / "model.safetensors").mkdir(parents=True)
    assert "it is a folder or device, not a file" in refused(tmp_path / "folder")
    with pytest.raises(ModelFileError, match="folder or device"):
        read_model_file(tmp_path)


def signed(text, tensors=None):
    """Write a safetensors file with any text for its facts, and a digest that is right for it."""
    import hashlib

    text = f'{{"format": {FORMAT}, "sha256": "{"0" * 64}"' + text
    content = save(tensors or {"w": torch.ones(2)}, {"imprint": text})
    return content.replace(b"0" * 64, hashlib.sha256(content).hexdigest().encode(), 1)


@pytest.mark.parametrize(
    "text",
    [
        ', "temperature": NaN}',
        ', "temperature": 1e999}',
        ', "temperature": -Infinity}',
        ', "deep": ' + "[" * 10**5 + "]" * 10**5 + "}",
        ', "digits": ' + "9" * 10**5 + "}",
        "",
    ],
)
def test_the_header_is_strict_json(tmp_path, text):
    path = tmp_path / "m.safetensors"
    path.write_bytes(signed(text))
    assert "its header is inconsistent" in refused(path)


def test_a_well_signed_file_is_read(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(signed(', "a": 1}'))
    assert read_model_file(tmp_path / "m.safetensors")[1] == {"a": 1}


def test_facts_that_no_reader_would_take_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="Out of range"):
        write_model_file(tmp_path / "m.safetensors", {}, {"temperature": float("nan")})
    with pytest.raises(ImprintError, match="a model file holds"):
        write_model_file(tmp_path / "m.safetensors", {}, {"names": "x" * MAX_HEADER})
    assert not list(tmp_path.iterdir())


@settings(max_examples=60, deadline=None)
@given(start=st.binary(max_size=40), keep=st.integers(0, 400), tail=st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(model_file, tmp_path_factory, start, keep, tail):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    content = model_file.read_bytes()
    path.write_bytes((start or content[:8]) + content[8:keep] + tail)
    with pytest.raises(ModelFileError):
        Classifier.load(path)


FLOATS = st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False)  # which the CPU may take for zero
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_facts_are_read_or_refused(model_file, tmp_path_factory, data):
    tensors, facts = read_model_file(model_file)
    place = facts
    while True:
        key = data.draw(st.sampled_from(sorted(place)))
        if not isinstance(place[key], dict) or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(JSON)
    path = tmp_path_factory.getbasetemp() / "facts.safetensors"
    write_model_file(path, tensors, facts)
    try:
        model = Classifier.load(path)
    except ModelFileError:
        return
    assert model.network.dense.weight.isfinite().all()


def test_the_command_line_refuses_in_one_line_and_before_it_imports_torch(content, tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content[:-1])
    script = "import sys; sys.modules['torch'] = None; from imprint.__main__ import main; main()"
    command = [sys.executable, "-c", script, "predict", path, "digits"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: model at {path}: it holds")
    assert done.stderr.count("\n") == 1


def test_an_exported_model_is_distinguished_from_a_broken_one(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(
        ModelFileError, match="it is an exported model, which predict, evaluate and compare alone can use"
    ):
        read_model_file(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("version", "words"),
    [
        (
            "3",
            "an older Imprint wrote it: its format is 3, and this one reads 4 and 5. Train again with imprint train.",
        ),
        ("6", "a newer Imprint wrote it: its format is 6, and this one reads 4 and 5. Update Imprint."),
        ('"4"', "it is not one of Imprint's"),
        ("true", "it is not one of Imprint's"),
    ],
)
def test_other_formats_are_refused_by_name(tmp_path, version, words):
    path = tmp_path / "m.safetensors"
    text = '{"format": ' + version + ', "sha256": "' + "0" * 64 + '"}'
    path.write_bytes(save({"w": torch.ones(2)}, {"imprint": text}))
    assert words in refused(path)


@pytest.mark.parametrize("digest", ['"' + "0" * 63 + '"', '""', "7", "null", "[]", '"\\\\u0030' + "0" * 63 + '"'])
def test_a_digest_of_another_form_is_refused(tmp_path, digest):
    path = tmp_path / "m.safetensors"
    path.write_bytes(save({"w": torch.ones(2)}, {"imprint": '{"format": 4, "sha256": ' + digest + "}"}))
    refused(path)
