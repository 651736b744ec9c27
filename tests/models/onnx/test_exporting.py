import json
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest

from imprint import DataError, ImprintError, OnnxClassifier, UsageError, export
from imprint.cli.app import app
from imprint.models.onnx.exporting import Rounding, sample_images
from imprint.preprocessing.input_spec import InputSpec


def test_the_command_prints_how_the_file_compares(model_file, tmp_path, capsys):
    path = tmp_path / "d.onnx"
    app(["export", str(model_file), "-o", str(path), "--data", "digits", "--json"], standalone_mode=False)
    facts = json.loads(capsys.readouterr().out)
    assert (facts["path"], facts["images"], facts["same"]) == (str(path), 1797, 1.0)
    assert facts["difference"] <= 1e-4
    assert facts["viewed"] > 10
    assert facts["bytes"] == path.stat().st_size
    app(["export", str(model_file.parent)], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("300 images of digits (")
    assert "all classes agree, probabilities differ by at most" in lines[0]
    assert lines[1:] == [str(model_file.with_suffix(".onnx"))]
    model_file.with_suffix(".onnx").unlink()


def test_the_file_is_unsure_where_the_model_is_and_says_why(model, digits, tmp_path):
    model = replace(model, unsure_below=0.97)
    inverted = replace(digits[:100], pixels=255 - digits.pixels[:100])
    assert export(model, tmp_path / "d.onnx", digits[:300]).flags == 1
    loaded = OnnxClassifier.load(tmp_path / "d.onnx")
    assert loaded.unsure_below == 0.97
    for images in (digits, inverted):
        expected = model.predict(images)
        assert np.array_equal(loaded.predict(images).why, expected.why)
        assert set(expected.why) >= {"low confidence" if images is digits else "strange"}


def test_a_name_without_the_suffix_is_refused(model, tmp_path):
    with pytest.raises(UsageError, match=r"Let the name end in \.onnx"):
        export(model, tmp_path / "model.txt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [{"temperature": 1.5}, {"tta_below": 0.0}, {"class": True}])
def test_a_file_that_predicts_otherwise_is_not_kept(model, digits, tmp_path, monkeypatch, wrong):
    """The graph is built from a model that differs a little from the one it is compared with."""
    import imprint.models.onnx.graph

    build = imprint.models.onnx.graph.classifier_model
    if "class" in wrong:
        bias = model.network.dense.bias.detach().clone().roll(1)
        write = imprint.models.onnx.graph.network_model
        monkeypatch.setattr(
            imprint.models.onnx.graph, "network_model", lambda network, *rest: write(with_bias(network, bias), *rest)
        )
    else:
        monkeypatch.setattr(
            imprint.models.onnx.graph,
            "classifier_model",
            lambda model, network: build(replace(model, **wrong), network),
        )
    (tmp_path / "d.onnx").write_text("older")
    with pytest.raises(ImprintError, match="its predictions are not the model's"):
        export(model, tmp_path / "d.onnx", digits)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("d.onnx", "older")]


def with_bias(network, bias):
    other = deepcopy(network)
    other.dense.bias.data = bias
    return other


def test_int8_is_smaller_and_its_loss_is_measured(model, digits, tmp_path):
    whole = export(model, tmp_path / "whole.onnx", digits)
    small = export(model, tmp_path / "small.onnx", digits, int8=True)
    assert whole.rounding is None
    rounding = small.rounding
    assert 0 <= abs(rounding.loss) <= 0.01
    assert rounding.images + 300 <= len(digits)
    saved = (tmp_path / "whole.onnx").stat().st_size - (tmp_path / "small.onnx").stat().st_size
    assert saved > 0.7 * sum(parameter.nbytes for parameter in model.network.parameters())
    assert "accuracy" in str(rounding)
    loaded = OnnxClassifier.load(tmp_path / "small.onnx")
    assert (loaded.predict(digits).labels == digits.labels).mean() == pytest.approx(rounding.accuracy, abs=0.01)


def test_int8_leaves_the_logging_of_its_host_alone(model_file, tmp_path):
    """In a process of its own, since pytest installs handlers."""
    done = subprocess.run([sys.executable, "-c", HOST, model_file], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines() == ["before", "during", "after"]


HOST = """
import logging, sys, imprint
from imprint.models.onnx import quantise
state = lambda: (logging.root.handlers[:], logging.root.filters[:], logging.root.level, logging.root.manager.disable)
before, read = state(), quantise._Reader.get_next
def get_next(self):
    if "during" in messages:
        logging.getLogger("host").warning(messages.pop())
    return read(self)
messages, quantise._Reader.get_next = ["during"], get_next
logging.getLogger("host").warning("before")
imprint.export(imprint.Classifier.load(sys.argv[1], "cpu"), "small.onnx", "digits", int8=True)
logging.getLogger("host").warning("after")
assert state() == before
"""


def test_a_gain_by_int8_reads_as_one():
    gained = Rounding(1000, accuracy=0.992, before=0.99, interval=(-0.0041, 0.0002))
    assert "0.9920 instead of 0.9900, difference +0.0020 (95 % interval -0.0002 to +0.0041;" in str(gained)


def test_int8_without_labels_is_refused(model, digits, tmp_path):
    for data in (None, replace(digits, labels=None)):
        with pytest.raises(DataError, match="without labels its loss of accuracy cannot be measured"):
            export(model, tmp_path / "small.onnx", data, int8=True)
    assert not list(tmp_path.iterdir())


def test_int8_that_loses_too_much_is_not_kept(model, digits, tmp_path, monkeypatch):
    monkeypatch.setattr("imprint.models.onnx.quantise.quantise_network", lambda network, prepared: zeroed(network))
    with pytest.raises(ImprintError, match=r"int8 at .*: accuracy 0\.\d+ instead of 0\.9\d+, difference -0\.\d+ \("):
        export(model, tmp_path / "small.onnx", digits, int8=True)
    assert not list(tmp_path.iterdir())


def zeroed(network):
    for tensor in network.graph.initializer:
        if tensor.data_type == 1:
            tensor.raw_data = bytes(len(tensor.raw_data))
    return network


def test_a_missing_folder_is_named(model, tmp_path):
    with pytest.raises(UsageError, match=r"d\.onnx at .*nowhere: it cannot be written"):
        export(model, tmp_path / "nowhere" / "d.onnx")


@pytest.mark.parametrize("channels", [1, 3])
def test_sample_images_are_real_and_differ(channels):
    pixels = sample_images(InputSpec(channels, (20, 30), (20, 30))).pixels
    assert pixels.shape == (300, channels, 20, 30)
    assert len(np.unique(pixels.reshape(300, -1), axis=0)) == 300
    assert 20 < pixels.std() < 120
