import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

import imprint
from imprint import OnnxClassifier
from imprint.analysis.evaluation import compare

BLOCKED = """
import sys
sys.modules |= dict.fromkeys({blocked!r})  # None stands for a module that is missing
sys.argv[1:] = {arguments!r}
from imprint.__main__ import main
main()
"""


def without(blocked, *arguments):
    script = BLOCKED.format(blocked=blocked, arguments=[str(argument) for argument in arguments])
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, encoding="utf-8")


@pytest.fixture(scope="module")
def loaded(onnx_file):
    return OnnxClassifier.load(onnx_file)


def test_onnxruntime_tells_nobody(onnx_file, tmp_path):
    """Its telemetry keeps an identifier below the home folder, and sends, unless it is turned off before it starts."""
    folders = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"} | folders
    script = f"import imprint; imprint.OnnxClassifier.load({str(onnx_file)!r})"
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    assert not [path for path in tmp_path.rglob("*") if "onnxruntime" in path.name or "Microsoft" in path.name]


def test_the_exported_model_predicts_as_the_model_does(loaded, model, digits):
    inverted = replace(digits, pixels=255 - digits.pixels)
    for images in (digits, inverted):
        expected, found = model.predict(images), loaded.predict(images)
        assert np.abs(expected.probabilities - found.probabilities).max() < 1e-4
        assert expected.names == found.names
        assert np.abs(expected.uncertainty - found.uncertainty).max() < 1e-3
        assert np.array_equal(expected.unsure, found.unsure)
    assert found.unsure.mean() > 0.5
    assert (loaded.class_names, loaded.spec, loaded.recipe) == (model.class_names, model.spec, "quick")


def test_it_is_scored_and_compared_as_the_model_is(loaded, model, digits):
    scored = imprint.evaluate(loaded, digits)
    assert scored.accuracy == imprint.evaluate(model, digits).accuracy
    assert compare(loaded, model, digits).difference == 0


def test_threads_predict_at_the_same_time_as_one_does(loaded, digits):
    expected = loaded.predict_proba(digits)
    starts = [0, 1, 2, 3] * 3
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda start: loaded.predict_proba(digits[start:]), starts))
    for start, probabilities in zip(starts, results, strict=True):
        assert np.abs(probabilities - expected[start:]).max() < 1e-4


TORCH = ("torch", "safetensors", "sklearn", "matplotlib")


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_the_command_line_needs_no_torch(onnx_file, digits_csv, model, verb):
    done = without(TORCH, verb, onnx_file, digits_csv / "labelled.csv", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    printed = json.loads(done.stdout)
    if verb == "predict":
        expected = model.predict(digits_csv / "labelled.csv")
        assert [one["label"] for one in printed["predictions"]] == expected.names
        assert np.allclose([one["confidence"] for one in printed["predictions"]], expected.confidence, atol=1e-4)
    else:
        assert printed["accuracy"] == imprint.evaluate(model, digits_csv / "labelled.csv").accuracy


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named_with_its_remedy(onnx_file, digits_csv, model_file, package):
    for arguments in (("predict", onnx_file, digits_csv / "test.csv"), ("export", model_file)):
        done = without((package,), *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            f"error: package {package} at this Python: it is missing, and ONNX needs it. "
            "Install it: pip install onnx onnxruntime.\n"
        )
    assert not model_file.with_suffix(".onnx").exists()
