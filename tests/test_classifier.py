import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors import safe_open

from imprint import Classifier, DataError


def test_a_saved_model_predicts_the_same(model, model_file, digits):
    loaded = Classifier.load(model_file)
    assert np.array_equal(loaded.predict_proba(digits), model.predict_proba(digits))
    assert (loaded.class_names, loaded.spec, loaded.recipe) == (model.class_names, model.spec, model.recipe)
    assert (loaded.unsure_above, loaded.score["accuracy"]) == (model.unsure_above, model.score["accuracy"])
    assert np.array_equal(loaded.predict(digits).doubt, model.predict(digits).doubt)


def test_a_run_folder_stands_for_its_model(model_file):
    assert Classifier.load(model_file.parent).class_names == Classifier.load(model_file).class_names


def test_everything_but_the_weights_is_json_in_the_header(model_file):
    with safe_open(model_file, framework="np") as file:
        assert list(file.metadata()) == ["imprint"]
        facts = json.loads(file.metadata()["imprint"])
    assert facts["format"] == 3
    assert facts["class_names"] == list("0123456789")
    glyph = facts["input_spec"].pop("glyph")
    assert facts["input_spec"] == {"channels": 1, "picture_size": [8, 8], "input_size": [28, 28]}
    assert (glyph["ground"], glyph["box"], glyph["centring"]) == (0, 8.0, "box")
    assert facts["recipe"]["name"] == "quick"


def test_pictures_of_another_form_are_refused(model, digits):
    other = type(digits)(digits.pixels[:, :, :7], digits.labels, digits.class_names, digits.sources, "seven.csv")
    with pytest.raises(DataError, match=r"pictures of 8×7 grey at seven\.csv: the model was taught with"):
        model.predict(other)


def test_loading_does_not_import_torchs_compiler(model_file):
    script = f"import sys, imprint; imprint.Classifier.load({str(model_file)!r}); sys.exit('sympy' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
