import importlib.resources
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


HEAVY = ("jinja2", "matplotlib", "numpy", "onnxruntime", "PIL", "polars", "scipy", "sklearn", "torch", "typer")


def loaded_by(statement):
    script = f"import sys; {statement}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return done.stdout.split()


def test_importing_is_light():
    assert loaded_by("import imprint; imprint.ImprintError, imprint.__version__, dir(imprint)") == []


def test_training_needs_neither_scikit_learn_nor_matplotlib():
    assert not {"sklearn", "matplotlib", "jinja2"} & set(loaded_by("import imprint; imprint.train, imprint.Classifier"))


def test_public_names_complete_in_an_editor():
    assert set(imprint.__all__) <= set(dir(imprint))


def test_the_package_says_that_it_is_typed():
    assert (importlib.resources.files(imprint) / "py.typed").is_file()
