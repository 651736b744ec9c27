import subprocess
import sys

import pytest

import imprint


def test_five_lines(digits_csv, tmp_path, monkeypatch):
    monkeypatch.chdir(digits_csv)
    images = imprint.load("train.csv")
    run = imprint.train(images, recipe="tutorial", settings=["epochs=1", "steps_per_epoch=5"], silent=True)
    predictions = run.model.predict(imprint.load("test.csv"))
    predictions.write_csv(tmp_path / "result.csv")
    assert len(run.history["val_acc"]) == 1
    assert (tmp_path / "result.csv").read_text().startswith("ImageId,Label\n1,")


def test_every_promised_name_is_there():
    for name in imprint.__all__:
        assert getattr(imprint, name)
    with pytest.raises(AttributeError):
        imprint.nonsense  # noqa: B018


def test_functions_are_not_hidden_by_modules():
    script = "import imprint, imprint.training, imprint.evaluation, imprint.cli; assert callable(imprint.train)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_importing_is_light():
    script = "import sys, imprint; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
