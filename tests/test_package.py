import importlib.resources
import shutil
import subprocess
import sys

import numpy as np
import pytest

import imprint


def test_five_lines(digits_csv, tmp_path, monkeypatch):
    monkeypatch.chdir(digits_csv)
    run = imprint.train("train.csv", "tutorial", epochs=1, steps_per_epoch=5, test="test.csv", verbose=False)
    run.result.write_csv(tmp_path / "result.csv")
    assert len(run.history["val_acc"]) == 1
    assert run.folder is None
    assert run.result.names == run.model.predict(imprint.load("test.csv")).names
    assert (tmp_path / "result.csv").read_text().startswith("ImageId,Label\n1,")


def test_every_public_name_is_there():
    for name in imprint.__all__:
        assert getattr(imprint, name)
    with pytest.raises(AttributeError):
        imprint.nonsense  # noqa: B018


def test_every_object_is_told_in_one_short_line(digits, run, tmp_path):
    names = tuple(f"<b>\n{i:04}" + 200 * "x" for i in range(2000))
    many = imprint.LabelledImages(digits.pixels, digits.labels, names, digits.sources, 500 * "a\n")
    first = imprint.Finding("duplicate", tuple(range(5000)), "the same image 5000 times", 1.0, tuple(range(5000)))
    things = [
        *(digits, many, digits.loaded_from, run, run.model, run.model.spec, run.model.ood_score, run.recipe),
        *(run.validation, run.predictions, run.expected, imprint.evaluate(run.model, digits[:30])),
        *(first, imprint.Findings("a", 5000, dict.fromkeys(names, 1), (first,) * 5000)),
        *(imprint.compare(run.model, run.model, digits), imprint.explain(run.model, digits)),
        imprint.analyse_errors(run.model, digits[900:], digits[:900]),
        *(imprint.export(run.model, tmp_path / "a.onnx"), imprint.OnnxClassifier.load(tmp_path / "a.onnx")),
        *(run.model.summary()[0], *imprint.RECIPES.values()),
    ]
    told = {type(thing).__name__ for thing in things}
    errors = {"DataError", "ImprintError", "ModelFileError", "UsageError"}
    others = {"GlyphForm", "Mistake", "Rounding", "Predictor", "ImageClassifier", "RECIPES"}  # small, or not Imprint's
    classes = {name for name in imprint.__all__ if not callable(getattr(imprint, name)) or name[0].isupper()}
    assert classes - errors - others <= told
    for thing in things:
        assert repr(thing).isprintable()
        assert len(repr(thing)) < 300, repr(thing)
        assert type(thing).__name__ in repr(thing)


def test_functions_are_not_hidden_by_modules():
    script = (
        "import imprint, imprint.runs.run, imprint.analysis.evaluation, imprint.cli.app; assert callable(imprint.train)"
    )
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


MISTAKES = {
    "an array to train": lambda digits: imprint.train(digits.pixels),
    "a path to train that does not exist": lambda digits: imprint.train("train.csv"),
    "nothing to train": lambda digits: imprint.train(None),
    "no labels": lambda digits: imprint.train(imprint.LabelledImages(digits.pixels, None, (), digits.sources)),
    "one class": lambda digits: imprint.train(digits[digits.labels == 3]),
    "a number as recipe": lambda digits: imprint.train(digits, 3),
    "settings, as before 0.2": lambda digits: imprint.train(digits, settings=["epochs=3"]),
    "a field's old name": lambda digits: imprint.train(digits, mirror="no"),
    "a word for a number": lambda digits: imprint.train(digits, epochs="many"),
    "a text as validation": lambda digits: imprint.train(digits, validation="0.1"),
    "an array as validation": lambda digits: imprint.train(digits, validation=digits.pixels),
    "an array to check": lambda digits: imprint.check(digits.pixels),
    "a path to check against": lambda digits: imprint.check(digits, against=["test.csv"]),
    "a path as model": lambda digits: imprint.evaluate("model.safetensors", digits),
    "model and data swapped": lambda digits: imprint.evaluate(digits, None),
    "a path that does not exist": lambda digits: imprint.load("nowhere.csv"),
    "a model that does not exist": lambda digits: imprint.Classifier.load("nowhere.safetensors"),
    "a list as pixels": lambda digits: imprint.LabelledImages([[1]], None, (), digits.sources),
    "fractions as pixels": lambda digits: imprint.LabelledImages(digits.pixels / 255, None, (), digits.sources),
    "words as labels": lambda digits: imprint.LabelledImages(
        digits.pixels, digits.labels.astype(str), digits.class_names, digits.sources
    ),
    "a list as sources": lambda digits: imprint.LabelledImages(digits.pixels, None, (), ["a.png"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_python_is_one_clear_line(digits, mistake, unchecked):
    with pytest.raises(imprint.ImprintError) as caught:
        MISTAKES[mistake](digits)
    assert "\n" not in str(caught.value)
    remedy_lists_all_fields = "recipes have none of that name" in str(caught.value)
    assert len(str(caught.value)) < (700 if remedy_lists_all_fields else 200)


BARE = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {missing}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
import imprint

run = imprint.train("train.npz", "quick", epochs=1, min_steps=2, test="test.npz", verbose=False)
run.result.write_csv("result.csv")
for call in (lambda: imprint.load("train.csv"), lambda: imprint.train("train.npz", "quick", run="runs/1")):
    try:
        call()
    except imprint.UsageError as error:
        print(error)
"""


def test_arrays_are_learnt_and_predicted_with_few_packages(digits, digits_csv, tmp_path):
    """As on a machine with a GPU that somebody else has set up."""
    np.savez(tmp_path / "train.npz", x=digits.pixels[:200, 0], y=digits.labels[:200])
    np.savez(tmp_path / "test.npz", images=digits.pixels[:50, 0])
    shutil.copy(digits_csv / "train.csv", tmp_path)
    missing = {
        "polars",
        "typer",
        "rich",
        "pydantic",
        "matplotlib",
        "safetensors",
        "jinja2",
        "pandas",
        "onnx",
        "beartype",
    }
    command = [sys.executable, "-c", BARE.format(missing=missing)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    csv, folder = done.stdout.splitlines()
    assert csv.startswith("package polars at load: it is not installed. pip install polars, or give")
    assert folder.startswith("package matplotlib at run folder: it is not installed.")
    assert not (tmp_path / "runs").exists()
    assert len((tmp_path / "result.csv").read_text().splitlines()) == 51
