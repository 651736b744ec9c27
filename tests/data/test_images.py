import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import imprint
from helpers import BAD_NAME, random_images, tags
from imprint import DataError, LabelledImages, UsageError
from imprint.data.images import encode_labels, expect_images, one_of_each
from imprint.data.load import load_again


def two(labels=(0, 1), names=("cat", "dog")):
    pixels = np.zeros((2, 1, 3, 3), dtype=np.uint8)
    return LabelledImages(pixels, np.array(labels, dtype=np.int64), names, np.array([1, 2]), "two.csv")


def test_picking_keeps_classes_and_sources():
    last = two()[[1]]
    assert (len(last), last.labels.tolist(), last.class_names, last.sources.tolist()) == (1, [1], ("cat", "dog"), [2])


def test_one_place_picks_one_image():
    assert two()[1].sources.tolist() == two()[-1].sources.tolist() == [2]


def test_texts_take_their_own_length_and_are_plain_text():
    names = np.array(["cat/1.png", "dog/" + 100 * "x"])
    images = replace(two(), sources=names, groups=np.array(["cat", "dog"]), ids=np.array(["1", "2"]))
    assert [getattr(images, what).dtype.kind for what in ("sources", "groups", "ids")] == ["T", "T", "T"]
    assert (images.sources == names).all()
    assert [*images.sources, *images[::-1].sources.tolist()] == [*names.tolist(), *names.tolist()[::-1]]
    assert replace(images, sources=np.array([3, 4])).sources.dtype.kind == "i"


def test_sources_are_read_again_as_the_files_that_they_name(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    for name, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    images = imprint.load(tmp_path)
    again = imprint.load(images.sources)
    assert np.array_equal(again.pixels[:, 0], pixels)
    assert again.sources.tolist() == images.sources.tolist()


def test_images_turned_round_are_predicted_in_that_order(model, digits):
    first = digits[:6]
    assert model.predict(first[::-1]).names == model.predict(first).names[::-1]
    assert first[::-1].sources.tolist() == first.sources.tolist()[::-1]
    mirrored = replace(first, pixels=first.pixels[..., ::-1])
    assert model.predict(mirrored).names == model.predict(mirrored.pixels.copy()).names


def test_labels_are_matched_by_name_never_by_position():
    assert two().labels_among(("dog", "bird", "cat")).tolist() == [2, 0]


def test_a_label_that_the_model_does_not_know_is_named():
    with pytest.raises(DataError, match=r"label 'dog' at two.csv row 2: the model knows only cat"):
        two().labels_among(("cat",))


def test_a_class_without_images_may_be_unknown():
    assert two(labels=(0, 0)).labels_among(("cat",)).tolist() == [0, 0]


def test_labels_point_at_class_names():
    with pytest.raises(DataError, match="they point outside the 2 class names"):
        two(labels=(0, 2))


def test_counts_must_agree_also_where_shapes_are_not_checked():
    script = (
        "import numpy as np; from imprint import LabelledImages, DataError\n"
        "try: LabelledImages(np.zeros((2, 1, 3, 3), np.uint8), np.zeros(3, np.int64), ('a',), np.array([1, 2]))\n"
        "except DataError as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "3 labels cannot belong to 2 images" in out


def test_images_turned_by_numpy_can_be_used(model, digits):
    turned = digits[::-1]
    assert np.array_equal(model.predict(turned).labels, model.predict(digits).labels[::-1])
    mirrored = LabelledImages(digits.pixels[..., ::-1], None, (), digits.sources)
    assert np.array_equal(mirrored.pixels, digits.pixels[..., ::-1])
    assert len(model.predict(mirrored)) == len(digits)


def test_channels_last_are_refused():
    with pytest.raises(DataError, match="28 channels are more than 4"):
        LabelledImages(np.zeros((5, 28, 28, 3), dtype=np.uint8), None, (), np.arange(5))


def test_no_images_are_refused():
    with pytest.raises(DataError, match="no stack of images"):
        two()[0:0]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["7", "07", "7"], ("7",)),
        (["07", "08"], ("07", "08")),
        (["0", "-0", "+1"], ("0", "+1")),
        (["-1", "1"], ("-1", "1")),
        (["3.0", "4"], ("3", "4")),
        (["1_0", "10"], ("10", "1_0")),
        (["7", "07", "x"], ("07", "7", "x")),
        (["3.5", "3"], ("3", "3.5")),
        ([str(10**18), "9" * 40], (str(10**18), "9" * 40)),
    ],
)
def test_whole_numbers_of_one_value_are_one_class(names, expected):
    labels, class_names = encode_labels(np.array(names))
    assert class_names == expected
    for name, label in zip(names, labels, strict=True):
        assert class_names[label] == name or float(class_names[label]) == float(name)


def test_a_message_about_labels_stays_short(digits):
    odd = replace(digits, class_names=("é" * 3000, *digits.class_names[1:]))
    with pytest.raises(DataError) as caught:
        odd.labels_among(tuple(f"{'a class ' * 20}{i}" for i in range(1000)))
    assert len(str(caught.value)) < 1500
    assert "and 970 more. Correct the label" in str(caught.value)


@pytest.mark.parametrize(("given", "kind"), [("train.csv", "str"), (np.zeros(2), "ndarray of float64")])
def test_what_is_no_labelled_images_is_refused(given, kind):
    with pytest.raises(UsageError, match=f"images at train: {kind} is no LabelledImages. Use imprint.load"):
        expect_images(given, "train")


def test_some_classes_can_be_selected_and_loaded_again(digits):
    some = digits.select(classes=["7", "1"])
    assert some.class_names == ("1", "7")
    assert {some.class_names[label] for label in some.labels} == {"1", "7"}
    first = digits.sources.tolist().index(some.sources[5])
    assert np.array_equal(some.pixels[5], digits.pixels[first])
    assert digits.class_names[digits.labels[first]] == some.class_names[some.labels[5]]
    assert load_again(some.loaded_from).fingerprint == some.fingerprint
    assert imprint.load("digits", classes=["1", "7"]).fingerprint == some.fingerprint
    assert digits[:50].select(["1", "7"]).loaded_from is None
    everything = digits.select(digits.class_names)  # a choice too, which a run notes
    assert everything.pixels is digits.pixels
    assert everything.loaded_from.options["classes"] == list(digits.class_names)


@pytest.mark.parametrize(("names", "words"), [(["11"], "class '11' at digits: there is no"), ([], "class ''")])
def test_a_class_that_is_not_there_is_not_selected(digits, names, words):
    with pytest.raises(DataError, match=words):
        digits.select(classes=names)
    with pytest.raises(DataError, match="there are no labels"):
        replace(digits, labels=None).select(["1"])


def test_one_of_each_class_first():
    assert one_of_each(np.array([1, 1, 0, 0, 2]), 4).tolist() == [2, 0, 4, 3]


def test_a_notebook_shows_images_of_every_class_and_how_many_there_are(digits):
    shown = digits._repr_html_()
    assert tags(shown)["img"] == 12
    assert "1,797 images of 8×8 grey, 10 classes" in shown
    assert all(f">{count}</td>" in shown for count in digits.class_counts().values())
    assert all(f'alt="{name}"' in shown for name in digits.class_names)


def test_hostile_names_are_text_in_a_notebook():
    images = random_images(30, 60, name=f"{BAD_NAME}\n'\"&\x1b[31m" + 500 * "x")
    shown = replace(images, unreadable=((BAD_NAME, "cut short"),))._repr_html_()
    assert tags(shown)["img"] == 12
    assert "1 could not be read" in shown
    assert "more classes between" in shown
    assert len(repr(images)) < 200
    assert repr(images).isprintable()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (70, 90)])
def test_images_of_any_form_and_without_labels_are_shown(channels, size):
    pixels = np.zeros((3, channels, *size), dtype=np.uint8)
    shown = LabelledImages(pixels, None, (), np.array(["/x/a.png", "b", "c"]), "some")._repr_html_()
    assert tags(shown)["img"] == 3
    assert 'alt="a.png"' in shown
    assert "no labels" in shown


def test_plot_draws_some_of_each_class_without_pyplot(digits):
    figure = digits.plot(count=12)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == [*digits.class_names, "0", "1"]
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert len(random_images(3, 5).plot().axes) == 5
    with pytest.raises(UsageError, match="nothing to draw"):
        digits.plot(count=0)
    code = "import sys, imprint; imprint.load('digits').plot()._repr_png_(); print('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
