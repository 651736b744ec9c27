import json
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace

import numpy as np
import onnx
import pytest
from sklearn.datasets import load_sample_images

import imprint
from helpers import run_imprint
from imprint import DataError, ImprintError, LabelledImages, OnnxClassifier, UsageError, export, train
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


def test_a_model_of_four_channels_is_exported(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 4, 10, 10), dtype=np.uint8)
    images = LabelledImages(pixels, np.arange(60) % 2, ("even", "odd"), np.arange(1, 61))
    run = train(images, "quick", epochs=1, min_steps=1, validation=0.5, verbose=False)
    assert export(run.model, tmp_path / "four.onnx").difference <= 1e-4
    assert np.array_equal(
        OnnxClassifier.load(tmp_path / "four.onnx").predict(images).labels, run.model.predict(images).labels
    )


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
            lambda model, *rest: build(replace(model, **wrong), *rest),
        )
    (tmp_path / "d.onnx").write_text("older")
    with pytest.raises(ImprintError, match="its predictions are not the model's"):
        export(model, tmp_path / "d.onnx", digits)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("d.onnx", "older")]


def with_bias(network, bias):
    other = deepcopy(network)
    other.dense.bias.data = bias
    return other


def test_a_plain_file_predicts_the_same(model_file, digits, tmp_path):
    path = tmp_path / "plain.onnx"
    done = run_imprint("export", model_file, "-o", path, "--plain", "--json", cwd=tmp_path)
    facts = json.loads(done.stdout)
    assert facts["viewed"] > 3
    assert facts["difference"] <= 1e-4
    assert "test-time augmentation is computed for every image" in done.stderr
    written = {node.op_type for node in onnx.load(path).graph.node}
    assert not written & {"NonZero", "GatherND", "ScatterND", "Loop", "If"}
    expected = imprint.Classifier.load(model_file, "cpu").predict(digits)
    assert np.abs(OnnxClassifier.load(path).predict(digits).probabilities - expected.probabilities).max() <= 1e-4


def test_int8_and_plain_exclude_each_other(model, digits, tmp_path):
    with pytest.raises(UsageError, match=r"int8 at a plain export: OpenCV 4 .* Leave one of the two out"):
        export(model, tmp_path / "small.onnx", digits, int8=True, plain=True)
    assert not list(tmp_path.iterdir())


def test_opencv_reads_a_plain_file(model, digits, tmp_path):
    compare_with_opencv(model, digits[:60], tmp_path / "plain.onnx")


def test_opencv_reads_a_plain_file_of_a_pretrained_network(tmp_path):
    photos = load_sample_images().images
    places = [(top, left) for top in range(0, 320, 64) for left in range(0, 512, 128)]
    parts = [photo[top : top + 96, left : left + 96].transpose(2, 0, 1) for top, left in places for photo in photos]
    labels, sources = np.arange(len(parts)) % 2, np.arange(1, len(parts) + 1)
    images = imprint.LabelledImages(np.stack(parts), labels, ("temple", "flower"), sources, "photos")
    model = imprint.train(images, "probe", smallest_side=96, verbose=False).model
    compare_with_opencv(model, sample_images(model.spec)[:60], tmp_path / "plain.onnx")


def compare_with_opencv(model, images, path):
    """OpenCV 4 and 5 must give the model's predictions, of one image and of many."""
    cv2 = pytest.importorskip("cv2")
    export(model, path, images, plain=True)
    expected = model.predict(images)
    network = cv2.dnn.readNetFromONNX(str(path))
    for count in (1, len(images)):
        network.setInput(images.pixels[:count])
        probabilities, uncertainty = network.forward(["probabilities", "uncertainty"])
        assert probabilities.shape == (count, len(model.class_names))
        assert np.abs(probabilities - expected.probabilities[:count]).max() < 1e-4
        assert np.abs(uncertainty.ravel() - expected.uncertainty[:count]).max() < 1e-3


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


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sample_images_are_real_and_differ(channels):
    pixels = sample_images(InputSpec(channels, (20, 30), (20, 30))).pixels
    assert pixels.shape == (300, channels, 20, 30)
    assert len(np.unique(pixels.reshape(300, -1), axis=0)) == 300
    assert 20 < pixels.std() < 120
