import json
from dataclasses import replace

import numpy as np
import pytest

from imprint.estimator_note import NOTE, EstimatorNote, class_name, read_note
from imprint.recipes import RECIPES


@pytest.mark.parametrize("recipe", [None, "quick", RECIPES["quick"]])
def test_a_note_comes_back_from_json(model, recipe):
    parameters = {"recipe": recipe, "epochs": 3, "random_state": np.random.RandomState(4)}
    note = EstimatorNote(parameters, np.arange(10), (8, 8), (0.0, 16.0))
    facts = json.loads(json.dumps(note.facts()))
    again = read_note(replace(model, notes={NOTE: facts}))
    assert again.parameters == {"recipe": recipe, "epochs": 3, "random_state": None}  # a generator's state is not kept
    assert (again.classes.tolist(), again.classes.dtype) == (note.classes.tolist(), note.classes.dtype)
    assert (again.image_shape, again.pixel_range) == ((8, 8), (0, 16))


def test_a_model_without_one_has_words_for_labels_and_bytes_for_pixels(model):
    note = read_note(model)
    assert note.classes.tolist() == list("0123456789")
    assert (note.image_shape, note.pixel_range, note.parameters) == ((8, 8), (0, 255), {"recipe": model.recipe})


@pytest.mark.parametrize(("label", "name"), [(3.0, "3"), (-2, "-2"), (True, "True"), ("3.0", "3.0"), (2.5, "2.5")])
def test_classes_are_named_as_a_csv_names_them(label, name):
    assert class_name(label) == name
