import io
import json
import pickle
from dataclasses import replace

import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import check_classifiers_train, parametrize_with_checks

from imprint import Classifier, DataError, ImageClassifier, ImprintError, LabelledImages, ModelFileError, UsageError
from imprint.recipes import RECIPES
from imprint.runs.estimator import NOTE, EstimatorNote, class_name, read_note

X, Y = load_digits(return_X_y=True)  # 1,797 rows of 64 floats from 0 to 16
QUICK = {"epochs": 4, "batch_size": 64, "settings": {"min_steps": 0}}
ROWS = {"image_shape": (1, -1), "validation_fraction": 0}
# Enough for scikit-learn's three blobs, which take some 25 steps; its other checks need no accuracy.
EASY = {"rotation": 0, "zoom": 0, "shift": 0, "min_steps": 12, "precision": "float32"}


def few_steps(estimator):
    return {"check_classifiers_train": "needs more training than the others; test_scikit_learns_blobs gives it"}


@parametrize_with_checks(
    [ImageClassifier(epochs=1, settings={"min_steps": 0}, **ROWS)], expected_failed_checks=few_steps, legacy=True
)
def test_scikit_learns_checks(estimator, check, unchecked):
    check(estimator)


@pytest.mark.parametrize(
    "options", [{}, {"readonly_memmap": True}, {"readonly_memmap": True, "X_dtype": "float32"}], ids=str
)
def test_scikit_learns_blobs(options):
    check_classifiers_train(
        "ImageClassifier", ImageClassifier(epochs=3, batch_size=32, settings=EASY, **ROWS), **options
    )


def images_of(pixels):
    return LabelledImages(np.ascontiguousarray(pixels), None, (), np.arange(1, len(pixels) + 1))


@pytest.fixture(scope="module")
def fitted():
    return ImageClassifier(**QUICK | {"epochs": 8, "settings": {"min_steps": 12}}).fit(X[:1200], Y[:1200])


def test_digits_are_recognised(fitted):
    assert fitted.score(X[1200:], Y[1200:]) > 0.9
    assert (fitted.n_features_in_, fitted.image_shape_, fitted.pixel_range_) == (64, (8, 8), (0, 16))
    assert fitted.classes_.tolist() == list(range(10))
    assert len(fitted.history_["loss"]) == 8
    assert fitted.validation_.images == 96


def test_every_form_of_the_same_images_gives_the_same(fitted):
    expected = fitted.predict_proba(X[:20])
    stack = X[:20].reshape(-1, 8, 8)
    forms = [
        stack,
        stack[..., None],
        stack[:, None],
        stack.tolist(),
        list(stack),
        X[:20].astype(int),
        pandas.DataFrame(X[:20]),
    ]
    for form in forms:
        assert np.array_equal(fitted.predict_proba(form), expected)


def test_bytes_are_taken_as_they_are_and_fractions_are_scaled():
    pixels = np.round(X[:300].reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    few = {"epochs": 2, "settings": ["min_steps=0"]}
    by_bytes = ImageClassifier(**few).fit(pixels, Y[:300])
    by_fractions = ImageClassifier(**few).fit(pixels / 255, Y[:300])
    assert (by_bytes.pixel_range_, by_fractions.pixel_range_) == ((0, 255), (0, 1))
    assert np.array_equal(by_bytes.predict_proba(pixels), by_fractions.predict_proba(pixels / 255))
    assert np.array_equal(by_bytes.predict_proba(pixels), by_bytes.model_.predict_proba(images_of(pixels[:, None])))
    for classifier in (by_bytes, by_fractions):
        assert np.array_equal(classifier.predict_proba(pixels / 255), classifier.predict_proba(pixels))
    with pytest.raises(DataError, match=r"they reach 510, but went from 0 to 1 in training"):
        by_fractions.predict(pixels * 2.0)


@pytest.mark.parametrize(
    "name",
    [np.arange(10), np.arange(10) * 10 - 20, np.array(list("jihgfedcba")), np.arange(10) % 2 == 0, np.arange(10.0)],
    ids=["int", "apart", "text", "bool", "float"],
)
def test_labels_keep_their_type_also_in_a_file(name, tmp_path):
    y = name[Y]
    classifier = ImageClassifier(**QUICK, random_state=3).fit(X[:200], y[:200])
    assert classifier.classes_.tolist() == np.unique(name).tolist()
    found = classifier.predict(X[:200])
    assert found.dtype == y.dtype
    assert np.array_equal(found, np.unique(name)[classifier.predict_proba(X[:200]).argmax(axis=1)])
    classifier.save(tmp_path / "c.safetensors")
    again = ImageClassifier.load(tmp_path / "c.safetensors")
    assert np.array_equal(again.predict(X[:200]), found)
    assert again.predict(X[:200]).dtype == y.dtype
    assert again.get_params() == classifier.get_params()


def test_labels_as_text_in_a_data_frame(tmp_path):
    y = pandas.Series(["even" if label % 2 == 0 else "odd" for label in Y[:300]])
    classifier = ImageClassifier(**QUICK).fit(pandas.DataFrame(X[:300]), y)
    assert set(classifier.predict(pandas.DataFrame(X[300:320]))) <= {"even", "odd"}
    classifier.save(tmp_path / "c.safetensors")
    assert ImageClassifier.load(tmp_path / "c.safetensors").classes_.tolist() == ["even", "odd"]


def test_colour_rows_have_channels_last():
    colour = np.zeros((40, 9, 11, 3), np.uint8)
    colour[::2, ..., 0] = 200
    colour[1::2, ..., 2] = 200
    y = np.tile(["red", "blue"], 20)
    few = {"epochs": 1, "settings": ["min_steps=0"], "validation_fraction": 0}
    classifier = ImageClassifier(image_shape=(9, 11, 3), **few).fit(colour.reshape(40, -1), y)
    assert classifier.model_.spec.image_size == (9, 11)
    expected = classifier.model_.predict_proba(images_of(colour.transpose(0, 3, 1, 2)))
    for form in (colour, colour.reshape(40, -1), colour.transpose(0, 3, 1, 2)):
        assert np.array_equal(classifier.predict_proba(form), expected)
    turned = colour.transpose(0, 2, 1, 3)
    assert np.array_equal(classifier.predict_proba(turned), classifier.model_.predict_proba(turned))


def test_everything_that_a_classifier_takes(model_file, digits, tmp_path):
    classifier, pixels = ImageClassifier.load(model_file), digits.pixels[:20, 0]
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{i:02}.png")
    files = sorted(tmp_path.iterdir())
    expected = classifier.model_.predict_proba(files)
    forms = {
        "files": files,
        "a folder": tmp_path,
        "PIL images": list(map(Image.fromarray, pixels)),
        "opened files": [io.BytesIO(file.read_bytes()) for file in files],
        "bytes and paths": [files[0].read_bytes(), *files[1:]],
        "a tensor": torch.tensor(pixels)[:, None] / 255,
        "tensors": list(torch.tensor(pixels)),
        "inverted": 255 - pixels,
        "images read before": digits[:20],
        "a column of paths": pandas.Series(map(str, files)),
    }
    for form, given in forms.items():
        found = classifier.predict_proba(given)
        wanted = classifier.model_.predict_proba(given) if form == "inverted" else expected
        assert np.array_equal(found, wanted), form
    alone = classifier.predict_proba(pixels[3])  # one image may be added up in another order than twenty
    assert np.allclose(alone, expected[3:4], atol=1e-6)


def test_fitted_on_files(digits, tmp_path):
    for i, image in enumerate(digits.pixels[:60, 0]):
        Image.fromarray(image).save(tmp_path / f"{i:02}.png")
    files, few = sorted(tmp_path.iterdir()), {"epochs": 1, "settings": ["min_steps=0"]}
    by_files, by_pixels = (ImageClassifier(**few).fit(x, Y[:60]) for x in (files, digits.pixels[:60]))
    assert np.array_equal(by_files.predict_proba(files), by_pixels.predict_proba(digits.pixels[:60]))
    files[7].write_text("<html>")
    with pytest.raises(DataError, match=r"1 of 60 images .* web page"):  # or labels would belong to other images
        by_files.fit(files, Y[:60])
    with pytest.raises(DataError, match=r"1 of 60 images .* web page"):
        by_files.predict(files)


def test_fitted_on_deep_files_and_on_transparent_arrays(digits, tmp_path):
    deep = digits.pixels[:60, 0].astype(np.uint16) * 8 + 900
    for i, image in enumerate(deep):
        Image.fromarray(image).save(tmp_path / f"{i:02}.png")
    files, few = sorted(tmp_path.iterdir()), {"epochs": 1, "settings": ["min_steps=0"]}
    classifier = ImageClassifier(**few).fit(files, Y[:60])
    assert classifier.model_.spec.pixel_range == (900, 900 + 8 * 255)
    expected = classifier.predict_proba(files)
    assert np.array_equal(classifier.predict_proba(deep), expected)
    assert np.array_equal(classifier.predict_proba(digits.pixels[:60]), expected)
    with pytest.raises(UsageError, match="pixel_range"):
        ImageClassifier(pixel_range=(0, 65535), **few).fit(files, Y[:60])
    ink = np.stack([np.full_like(digits.pixels[:60, 0], 255)] * 3 + [digits.pixels[:60, 0]], axis=3)
    classifier = ImageClassifier(**few).fit(ink, Y[:60])
    assert classifier.model_.spec.background == 0
    expected = classifier.predict_proba(digits.pixels[:60].repeat(3, axis=1))
    for form in (ink, list(ink), ink.transpose(0, 3, 1, 2)):
        assert np.array_equal(classifier.predict_proba(form), expected)
    assert np.abs(classifier.predict_proba(ink[0]) - expected[:1]).max() < 1e-4


def test_in_a_pipeline_and_a_search():
    some, labels = X[:500], Y[:500]
    enough = {"batch_size": 64, "settings": {"min_steps": 8, "precision": "float32"}}
    pipeline = make_pipeline(FunctionTransformer(lambda rows: rows / 16), ImageClassifier(epochs=5, **enough))
    assert cross_val_score(pipeline, some, labels, cv=2).mean() > 0.6
    search = GridSearchCV(ImageClassifier(**enough), {"epochs": [1, 5], "learning_rate": [1e-2]}, cv=2)
    search.fit(some, labels)
    assert search.best_params_ == {"epochs": 5, "learning_rate": 1e-2}
    assert search.best_estimator_.model_.recipe.learning_rate == 1e-2
    assert make_pipeline(StandardScaler(), search.best_estimator_).fit(some, labels).score(X[500:], Y[500:]) > 0.6


def test_the_seed_decides_and_a_clone_has_it():
    classifier = ImageClassifier(**QUICK, random_state=11)
    first, same = (clone(classifier).fit(X[:200], Y[:200]).predict_proba(X[200:220]) for _ in range(2))
    assert np.array_equal(first, same)
    classifier.set_params(random_state=np.random.RandomState(4))
    assert not np.array_equal(first, classifier.fit(X[:200], Y[:200]).predict_proba(X[200:220]))


def test_a_pickled_copy_predicts_the_same(fitted):
    again = pickle.loads(pickle.dumps(fitted))  # as joblib does between processes; Imprint itself never does
    assert np.array_equal(again.predict_proba(X[:9]), fitted.predict_proba(X[:9]))


def test_any_model_file_becomes_an_estimator_and_the_other_way_round(fitted, model_file, digits, tmp_path):
    classifier = ImageClassifier.load(model_file)
    assert classifier.predict(digits.pixels[:3]).dtype.kind == "U"
    assert classifier.get_params()["recipe"].name == "quick"
    fitted.save(tmp_path / "c.safetensors")
    assert Classifier.load(tmp_path / "c.safetensors").class_names == tuple("0123456789")


@pytest.mark.parametrize(
    "change",
    [
        lambda note: note.pop("classes"),
        lambda note: note.update(classes=[*range(9), 11]),
        lambda note: note.update(label_type="M8[s]"),
        lambda note: note.update(pixel_range=[1, 0]),
        lambda note: note.update(parameters={"recipe": "quick", "evil": 1}),
        lambda note: note.update(image_shape=[9, 9]),
        lambda note: note.clear(),
    ],
)
def test_an_inconsistent_note_is_refused(fitted, tmp_path, change):
    path = tmp_path / "c.safetensors"
    fitted.save(path)
    model = Classifier.load(path)
    change(model.notes["scikit-learn"])
    model.save(path)
    with pytest.raises(ModelFileError, match="is inconsistent"):
        ImageClassifier.load(path)


MISTAKES = {
    "words as images": lambda: ImageClassifier().fit([["a", "b"], ["c", "d"]], [0, 1]),
    "a path as images": lambda: ImageClassifier().fit("train.csv", [0, 1]),
    "no labels": lambda: ImageClassifier().fit(X, None),
    "too few labels": lambda: ImageClassifier().fit(X, Y[:9]),
    "one class": lambda: ImageClassifier().fit(X, np.zeros(len(X))),
    "labels with halves": lambda: ImageClassifier().fit(X, Y + 0.5),
    "numbers that are none": lambda: ImageClassifier().fit(np.full((9, 64), np.nan), Y[:9]),
    "rows of no square": lambda: ImageClassifier().fit(X[:, :60], Y),
    "images of several sizes": lambda: ImageClassifier().fit([np.zeros((8, 8)), np.zeros((9, 9))], [0, 1]),
    "too many dimensions": lambda: ImageClassifier().fit(np.zeros((4, 4, 4, 4, 4)), [0, 1, 0, 1]),
    "seven channels": lambda: ImageClassifier().fit(np.zeros((4, 8, 8, 7)), [0, 1, 0, 1]),
    "one image": lambda: ImageClassifier().fit(X[0], [0]),
    "no images": lambda: ImageClassifier().fit(np.zeros((0, 8, 8)), []),
    "an unknown recipe": lambda: ImageClassifier("fast").fit(X, Y),
    "an unknown setting": lambda: ImageClassifier(settings={"speed": 3}).fit(X, Y),
    "a setting that train takes for another thing": lambda: ImageClassifier(settings={"verbose": True}).fit(X, Y),
    "a setting without a name": lambda: ImageClassifier(settings={3: 1}).fit(X, Y),
    "settings that are no texts": lambda: ImageClassifier(settings=[3]).fit(X, Y),
    "settings as a text": lambda: ImageClassifier(settings="epochs=3").fit(X, Y),
    "settings of another kind": lambda: ImageClassifier(settings=3).fit(X, Y),
    "a recipe of another kind": lambda: ImageClassifier(3).fit(X, Y),
    "an unknown device": lambda: ImageClassifier(device="tpu9").fit(X, Y),
    "a share above one": lambda: ImageClassifier(validation_fraction=1.5).fit(X, Y),
    "a share in words": lambda: ImageClassifier(validation_fraction="a tenth").fit(X, Y),
    "epochs in words": lambda: ImageClassifier(epochs="three").fit(X, Y),
    "a seed in words": lambda: ImageClassifier(random_state="seven").fit(X, Y),
    "a shape that does not fit": lambda: ImageClassifier(image_shape=(9, 9)).fit(X, Y),
    "a shape in words": lambda: ImageClassifier(image_shape="8x8").fit(X, Y),
    "a range upside down": lambda: ImageClassifier(pixel_range=(1, 0)).fit(X, Y),
    "a range of one number": lambda: ImageClassifier(pixel_range=16).fit(X, Y),
    "a file that is not there": lambda: ImageClassifier.load("nowhere.safetensors"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_line(mistake, unchecked):
    with pytest.raises(ImprintError) as caught:
        MISTAKES[mistake]()
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_rows_of_another_width_are_refused_and_images_of_another_size_are_fitted(fitted):
    with pytest.raises(DataError, match="X has 49 features, but ImageClassifier is expecting 64"):
        fitted.predict(np.zeros((3, 49)))
    large = X[:20].reshape(-1, 8, 8).repeat(3, axis=1).repeat(3, axis=2)
    assert (fitted.predict(large) == Y[:20]).mean() > 0.8


def test_a_recipe_can_be_given_whole(tmp_path):
    recipe = RECIPES["quick"].with_fields({"epochs": 1, "min_steps": 0})
    classifier = ImageClassifier(recipe).fit(X[:200], Y[:200])
    classifier.save(tmp_path / "c.safetensors")
    assert ImageClassifier.load(tmp_path / "c.safetensors").recipe == recipe


@pytest.mark.parametrize("recipe", [None, "quick", RECIPES["quick"]])
def test_a_note_comes_back_from_json(model, recipe):
    parameters = {"recipe": recipe, "epochs": 3, "random_state": np.random.RandomState(4)}
    note = EstimatorNote(parameters, np.arange(10), (8, 8), (0.0, 16.0))
    facts = json.loads(json.dumps(note.facts()))
    again = read_note(replace(model, notes={NOTE: facts}))
    assert again.parameters == {"recipe": recipe, "epochs": 3, "random_state": None}  # a generator's state is not kept
    assert (again.classes.tolist(), again.classes.dtype) == (note.classes.tolist(), note.classes.dtype)
    assert (again.image_shape, again.pixel_range) == ((8, 8), (0, 16))


def test_a_model_without_a_note_has_text_for_labels_and_bytes_for_pixels(model):
    note = read_note(model)
    assert note.classes.tolist() == list("0123456789")
    assert (note.image_shape, note.pixel_range, note.parameters) == ((8, 8), (0, 255), {"recipe": model.recipe})


@pytest.mark.parametrize(("label", "name"), [(3.0, "3"), (-2, "-2"), (True, "True"), ("3.0", "3.0"), (2.5, "2.5")])
def test_classes_are_named_as_a_csv_names_them(label, name):
    assert class_name(label) == name
