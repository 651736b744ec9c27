import csv
import io
import json
import sys
from dataclasses import replace

import numpy as np
import pandas
import polars
import pytest
import torch
from PIL import Image

import imprint
from helpers import BAD_NAME, pixel_table, tags
from imprint import Classifier, DataError, OnnxClassifier, Predictions, UsageError
from imprint.cli.app import app
from imprint.models.predictor import COLUMNS


def predictions(sources, names=("cat", "dog, big")):
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], dtype=np.float32)
    uncertainty = np.array([4.7, 6.2, 5.1], dtype=np.float32)
    return Predictions(probabilities, names, np.array(sources), uncertainty, unsure_above=6.0, unsure_below=0.85)


def test_kaggles_format_counts_from_one_in_order(tmp_path):
    path = tmp_path / "result.csv"
    predictions([5, 9, 7]).write_csv(path)
    assert path.read_bytes() == b'ImageId,Label\n1,cat\n2,"dog, big"\n3,"dog, big"\n'


def test_other_data_get_all_facts():
    text = predictions(["a.png", "b\n.png", "c.png"]).to_csv()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert rows[1] == {
        "source": "b\n.png",
        "label": "dog, big",
        "confidence": "0.6000",
        "unsure": "yes",
        "why": "strange",
    }
    assert [row["unsure"] for row in rows] == ["no", "yes", "yes"]
    assert [row["why"] for row in rows] == ["", "strange", "low confidence"]


def test_probabilities_come_after_the_other_columns():
    two = np.array([[0.25, 0.75], [0.9, 0.1]], dtype=np.float32)
    zero = np.zeros(2, dtype=np.float32)
    tables = {
        "source,label,confidence,unsure,why,cat,dog": {"sources": np.array(["a.png", "b.png"])},
        "id,species,cat,dog": {"ids": np.array(["x", "y"]), "headers": ("id", "species"), "sources": np.array([1, 2])},
        "ImageId,Label,cat,dog": {"sources": np.array([5, 7])},
    }
    for header, given in tables.items():
        predictions = Predictions(two, ("cat", "dog"), uncertainty=zero, unsure_above=1.0, **given)
        first, *rows = predictions.to_csv(probabilities=True).splitlines()
        assert first == header
        assert [row.split(",")[-2:] for row in rows] == [["0.25", "0.75"], ["0.9", "0.1"]]
        plain = predictions.to_csv().splitlines()
        assert [row.rsplit(",", 2)[0] for row in (first, *rows)] == plain
        assert predictions.to_dicts(probabilities=True)[0]["probabilities"] == {"cat": 0.25, "dog": 0.75}
        assert "probabilities" not in predictions.to_dicts()[0]


def test_a_class_that_is_called_as_a_column_gets_another_name(tmp_path):
    names = ("label", "probability of label", "a,b", "why")
    predictions = Predictions(
        np.eye(4, dtype=np.float32), names, np.array([*"abcd"]), np.zeros(4, dtype=np.float32), 1.0
    )
    predictions.write_csv(tmp_path / "p.csv", probabilities=True)
    with open(tmp_path / "p.csv", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header[5:] == ["probability of probability of label", "probability of label", "a,b", "probability of why"]
    assert [row[5:] for row in rows] == np.eye(4, dtype=int).astype(str).tolist()


def test_data_frames(monkeypatch):
    two = np.array([[0.25, 0.75], [0.9, 0.1]], dtype=np.float32)
    predictions = Predictions(
        two, ("why", "dog"), np.array([1, 2]), np.zeros(2, dtype=np.float32), 1.0, unsure_below=0.8
    )
    for frame in (predictions.to_polars(probabilities=True), predictions.to_pandas(probabilities=True)):
        assert list(frame.columns) == ["source", "label", "confidence", "unsure", "why", "probability of why", "dog"]
        assert list(frame["source"]) == [1, 2]
        assert list(frame["label"]) == ["dog", "why"]
        assert list(frame["unsure"]) == [True, False]
        assert list(frame["dog"]) == two[:, 1].tolist()
    assert list(predictions.to_pandas().columns) == list(COLUMNS)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match=r"package pandas at this Python: it is missing.* pip install pandas"):
        predictions.to_pandas()


def test_an_answer_is_unsure_of_a_strange_image_or_for_its_confidence():
    said = predictions(["a.png", "b.png", "c.png"])
    assert said.why.tolist() == ["", "strange", "low confidence"]
    assert said.unsure.tolist() == [False, True, True]
    assert [one["why"] for one in said.to_dicts()] == said.why.tolist()
    none_low = replace(said, unsure_below=0.0)
    assert none_low.why.tolist() == ["", "strange", ""]


def test_a_failed_write_leaves_the_former_result(tmp_path, monkeypatch):
    path = tmp_path / "result.csv"
    path.write_text("former")
    monkeypatch.setattr("imprint.core.files.os.fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(UsageError, match="No space left"):
        predictions([1, 2, 3]).write_csv(path)
    assert path.read_text() == "former"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture(scope="module", params=["python", "onnx"])
def predictor(request, model_file, onnx_file):
    return Classifier.load(model_file) if request.param == "python" else OnnxClassifier.load(onnx_file)


@pytest.fixture(scope="module")
def everywhere(digits, tmp_path_factory):
    """The same images as a CSV, a .npz, single files, their bytes, and arrays."""
    folder = tmp_path_factory.mktemp("everywhere")
    some = digits[:40]
    (folder / "digits.csv").write_text(pixel_table(some, labelled=False))
    np.savez(folder / "digits.npz", images=some.pixels[:, 0])
    files = [folder / f"{i:02}.png" for i in range(len(some))]
    for image, file in zip(some.pixels[:, 0], files, strict=True):
        Image.fromarray(image).save(file)
    return {
        "records": some,
        "CSV": folder / "digits.csv",
        ".npz": folder / "digits.npz",
        "files": files,
        "their bytes": [file.read_bytes() for file in files],
        "array": some.pixels[:, 0],
        "array with channels": some.pixels.transpose(0, 2, 3, 1),
        "array from 0 to 1": some.pixels[:, 0] / 255,
        "rows": some.pixels.reshape(40, -1),
        "lists": some.pixels.reshape(40, -1).tolist(),
        "list of arrays": list(some.pixels[:, 0]),
        "data frame of pandas": pandas.DataFrame(some.pixels.reshape(40, -1)),
        "data frame of polars": polars.DataFrame(some.pixels.reshape(40, -1)),
        "tensor": torch.tensor(some.pixels),
        "tensor from 0 to 1": torch.tensor(some.pixels, requires_grad=False).bfloat16() / 255,
        "tensor that is trained": (torch.tensor(some.pixels).float() / 255).requires_grad_(),
        "list of tensors": list(torch.tensor(some.pixels[:, 0])),
        "PIL images": [Image.open(io.BytesIO(file.read_bytes())) for file in files],
        "PIL images in memory": [Image.fromarray(image) for image in some.pixels[:, 0]],
        "open files": [io.BytesIO(file.read_bytes()) for file in files],
        "a column of paths": pandas.Series(map(str, files)),
        "paths, bytes, files and images": [
            *files[:10],
            *(file.read_bytes() for file in files[10:20]),
            *(io.BytesIO(file.read_bytes()) for file in files[20:30]),
            *(Image.open(io.BytesIO(file.read_bytes())) for file in files[30:35]),
            *some.pixels[35:, 0],
        ],
    }


def test_the_same_images_have_the_same_predictions_everywhere(predictor, model, everywhere):
    expected = model.predict(everywhere["records"])
    for where, images in everywhere.items():
        found = predictor.predict(images)
        assert found.names == expected.names, where
        assert np.abs(found.probabilities - expected.probabilities).max() < 1e-4, where
        assert np.array_equal(found.unsure, expected.unsure), where


def test_the_command_line_gives_those_predictions_too(model, model_file, onnx_file, everywhere, capsys):
    expected = model.predict(everywhere["records"])
    for path in (model_file, onnx_file):
        for data in (everywhere["CSV"], everywhere[".npz"], everywhere["files"][0]):
            app(["predict", str(path), str(data), "--json"], standalone_mode=False)
            found = json.loads(capsys.readouterr().out)["predictions"]
            assert [one["label"] for one in found] == expected.names[: len(found)]
            assert np.abs([one["confidence"] for one in found] - expected.confidence[: len(found)]).max() < 1e-4


def test_inverted_images_have_the_same_predictions_everywhere_too(predictor, everywhere, tmp_path):
    inverted = 255 - everywhere["records"].pixels[:, 0]
    for i, image in enumerate(inverted):
        Image.fromarray(image).save(tmp_path / f"{i:02}.png")
    expected = predictor.predict(tmp_path)
    assert np.mean(np.array(expected.names) == predictor.predict(everywhere["records"]).names) > 0.6
    (tmp_path / "t.csv").write_text(
        pixel_table(replace(everywhere["records"], pixels=inverted[:, None]), labelled=False)
    )
    np.savez(tmp_path / "t.npz", images=inverted)
    forms = (inverted, inverted.reshape(40, -1), torch.tensor(inverted), tmp_path / "t.csv", tmp_path / "t.npz")
    for form in forms:
        assert np.array_equal(predictor.predict_proba(form), expected.probabilities)


def test_pil_images_are_decoded_as_their_files(predictor, tmp_path):
    photo = np.full((600, 800, 3), 230, dtype=np.uint8)
    photo[150:450, 300:360] = (20, 30, 90)
    exif = Image.Exif()
    exif[274] = 6  # stands on its side
    Image.fromarray(photo).save(tmp_path / "a.jpg", exif=exif)
    Image.fromarray(photo).convert("P").save(tmp_path / "b.gif")
    layers = np.dstack([photo, np.where(photo[..., 0] < 100, 255, 0)]).astype(np.uint8)
    Image.fromarray(layers).save(tmp_path / "c.png")
    Image.fromarray(photo).convert("CMYK").save(tmp_path / "d.jpg")
    for file in sorted(tmp_path.iterdir()):
        expected = predictor.predict_proba(file)
        with Image.open(file) as image:
            assert np.array_equal(predictor.predict_proba(image), expected), file
            size, mode = image.size, image.mode
            image.load()
            assert np.abs(predictor.predict_proba([image, image]) - expected).max() < 0.02, file
            assert (image.size, image.mode) == (size, mode)


def test_changed_pil_images_are_not_read_from_their_file_again(predictor, digits, tmp_path):
    Image.fromarray(digits.pixels[0, 0]).save(tmp_path / "0.png")
    with Image.open(tmp_path / "0.png") as image:
        image.paste(Image.fromarray(digits.pixels[1, 0]))
        assert np.array_equal(predictor.predict_proba(image), predictor.predict_proba(digits.pixels[1, 0]))


def test_an_open_file_stays_where_it_was(predictor, digits):
    file = io.BytesIO()
    Image.fromarray(digits.pixels[0, 0]).save(file, "PNG")
    place = file.tell()
    assert np.array_equal(predictor.predict_proba(file), predictor.predict_proba(digits.pixels[0, 0]))
    assert file.tell() == place
    assert predictor.predict([file, b"no image", file]).sources.tolist() == ["file#1", "file#3"]


def test_deep_and_transparent_images_in_memory_are_settled_as_files_are(tmp_path):
    levels = np.linspace(300, 900, 40 * 30).reshape(40, 30).astype(np.uint16)
    given = {"small": levels, "wide": np.repeat(levels * 4, 2, axis=1)}
    for name, numbers in given.items():
        Image.fromarray(numbers).save(tmp_path / f"{name}.png")
    by_files = imprint.load(sorted(tmp_path.iterdir()))
    assert by_files.pixel_range[1] > 3000
    loaded = [Image.open(file) for file in sorted(tmp_path.iterdir())]
    for image in loaded:
        image.load()
    for images in (list(given.values()), loaded):
        found = imprint.load(images)
        assert found.pixel_range == by_files.pixel_range
        assert np.array_equal(found.pixels, by_files.pixels)
    bytes_and_shares = [given["small"][:8, :8].astype(np.uint8), np.full((8, 8), 0.5)]
    assert imprint.load(bytes_and_shares).pixels[1].tolist() == [[[128] * 8] * 8]
    light = np.full((20, 20, 4), 250, dtype=np.uint8)
    light[..., 3] = np.arange(20) * 13
    for images in ([light, light[:10]], [Image.fromarray(light), Image.fromarray(light[:10])]):
        assert imprint.load(images).background == 0
    with pytest.raises(DataError, match="in colour images of several sizes"):
        imprint.load([np.full((9, 9, 3), 999), np.full((8, 9, 3), 999)])


def test_arrays_of_several_sizes(predictor, digits):
    large = digits.pixels[1, 0].repeat(5, axis=0).repeat(5, axis=1)
    both = predictor.predict_proba([digits.pixels[0, 0], large])
    assert np.abs(both[1:] - predictor.predict_proba(large)).max() < 1e-4


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_an_image_of_another_form_is_the_same_as_file_bytes_and_array(predictor, tmp_path, form):
    photo = np.full((60, 80, 3), 230, dtype=np.uint8)
    photo[15:45, 38:44] = (20, 30, 90)
    Image.fromarray(photo).save(tmp_path / "photo", form, quality=95)
    decoded = np.asarray(Image.open(tmp_path / "photo"))
    given = (tmp_path / "photo", (tmp_path / "photo").read_bytes(), decoded, decoded[None])
    each = [predictor.predict_proba(one) for one in given]
    for found in each:
        assert found.shape == (1, 10)
        assert np.abs(found - each[0]).max() < 1e-4


@pytest.mark.parametrize("count", [1, 3])
def test_one_image_or_several(predictor, digits, count):
    array = digits.pixels[0, 0] if count == 1 else digits.pixels[:3, 0]
    assert predictor.predict(array).sources.tolist() == [f"array#{i}" for i in range(1, count + 1)]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"no image", "image at bytes#1"),
        ([b"x", "y"], "2 of 2 images at 2 images: .* first bytes#1"),
        ([b"x", 3], "number 2 of the list: type int is neither path nor image"),
        (3, "data at load: type int is neither path nor image"),
        ({"a": 1}, "type dict is neither"),
        ([], "there are none"),
        ([[1, 2], [3]], "rows or images are of different lengths"),
        ([np.zeros((8, 8)), np.zeros((2, 8, 8))], r"array#2: it holds 2 images"),
        (io.StringIO("text"), "it gives str, not bytes"),
        (torch.zeros(8, 8, dtype=torch.complex64), "type complex64"),
        (np.array([1, "a", None], dtype=object), "neither path nor image"),
        (np.zeros((5, 65)), r"rows of 65 numbers at array: an image of the model, 8×8 grey, has 64"),
        (np.zeros(64), "no stack of images"),
        (np.zeros((2, 3, 4, 5, 6)), "shape"),
        (np.full((8, 8), 300), "pixels at array"),
        (np.full((8, 8), "a"), "type <U1"),
    ],
)
def test_what_is_no_image_is_refused(predictor, data, words, unchecked):
    with pytest.raises(DataError, match=words):
        predictor.predict(data)


def test_bytes_are_read_as_images_by_load_too():
    content = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(content, "PNG")
    images = imprint.load([content.getvalue()] * 2)
    assert (len(images), images.shape, images.sources.tolist()) == (2, (3, 20, 30), ["bytes#1", "bytes#2"])


@pytest.fixture(scope="module")
def deep_folder(digits, tmp_path_factory):
    """Digits of 12 bits in files of 16, in parts of which the test part is darker."""
    root = tmp_path_factory.mktemp("deep")
    for part, start, count, gain in (("train", 0, 300, 16), ("validation", 300, 60, 12), ("test", 360, 60, 8)):
        for i in range(start, start + count):
            file = root / part / digits.class_names[digits.labels[i]] / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(digits.pixels[i, 0].astype(np.uint16) * gain + 100).save(file)
    return root


@pytest.fixture(scope="module")
def deep_run(deep_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("deep-run") / "run"
    return imprint.train(deep_folder, "quick", epochs=1, min_steps=1, run=folder, verbose=False)


def test_the_models_range_counts_for_files_arrays_and_parts_in_every_form_of_it(deep_folder, deep_run, tmp_path):
    spec = deep_run.model.spec
    assert spec.pixel_range == (100, 4180)
    imprint.export(deep_run.model, tmp_path / "deep.onnx")
    loaded, onnx = Classifier.load(deep_run.folder), OnnxClassifier.load(tmp_path / "deep.onnx")
    assert loaded.spec == onnx.spec == spec
    files = sorted((deep_folder / "test").rglob("*.png"))[:40]
    numbers = np.stack([np.asarray(Image.open(file)) for file in files])
    np.savez(tmp_path / "deep.npz", images=numbers)
    expected = deep_run.model.predict(files).probabilities
    assert loaded.ready(files).pixels.max() == round((255 * 8) / 4080 * 255)
    for predictor in (loaded, onnx):
        for data in (files, tmp_path / "deep.npz", numbers, numbers.astype(np.int32), numbers.astype(np.float32)):
            assert np.abs(predictor.predict(data).probabilities - expected).max() < 1e-4
        assert np.abs(predictor.predict(files[3].read_bytes()).probabilities - expected[3]).max() < 1e-4


def test_other_parts_get_the_range_of_training(deep_folder, deep_run):
    from imprint.runs.read_run import read_run

    spec = deep_run.model.spec
    test = deep_run.model.ready(deep_folder, part="test")
    assert test.pixel_range == spec.pixel_range
    assert test.pixels.max() == round((255 * 8) / 4080 * 255)
    record = read_run(deep_run.folder)
    training, validation = record.read_images()
    assert training.pixel_range == validation.pixel_range == spec.pixel_range
    assert validation.pixels.max() == round((255 * 12) / 4080 * 255)
    with pytest.raises(DataError, match=r"not those of the model. Load them with spec=model.spec"):
        deep_run.model.predict(imprint.load(deep_folder, part="test"))


def test_ink_on_transparency_is_read_whatever_its_colour(model, digits):
    layers = np.zeros((3, 8, 8, 4), np.uint8)
    layers[..., 3] = digits.pixels[0, 0]
    layers[1, ..., :3], layers[2, ..., :3] = 255, (30, 60, 220)
    for strokes in (layers, [drawn(one) for one in layers]):
        assert model.predict(strokes).names == ["0", "0", "0"]


def drawn(layers):
    file = io.BytesIO()
    Image.fromarray(layers).resize((160, 160), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def test_a_notebook_shows_the_images_with_label_confidence_and_doubt(model, digits):
    found = model.predict(digits[:30])
    assert np.array_equal(found.preview, digits.pixels[:12])
    assert not np.shares_memory(found.preview, digits.pixels)  # else it would keep all of them
    two = replace(predictions(["<b>", "b", "c"], ("cat", BAD_NAME)), preview=digits.pixels[:3])
    shown = two._repr_html_()
    assert tags(shown)["img"] == 3
    assert shown.count("unsure: strange") == 1
    assert shown.count("unsure: low confidence") == 1
    assert "90.0 %" in shown
    assert "and 18 more" in found._repr_html_()


def test_without_images_it_shows_a_table(digits):
    rows = predictions(["<b>", "b", "c"], ("cat", BAD_NAME))
    assert tags(rows._repr_html_())["tr"] == 4
    assert tags(replace(rows, ids=np.array(["x", BAD_NAME, "z"]))._repr_html_())["tr"] == 4
    assert repr(rows) == "<Predictions 3 images, 2 classes, unsure of 66.7%>"


def test_a_certain_figure_is_not_rounded_up_to_all():
    almost = np.array([[0.99999, 0.00001]], dtype=np.float32)
    one = Predictions(almost, ("a", "b"), np.array([1]), np.zeros(1, dtype=np.float32), 1.0)
    assert "99.99 %" in replace(one, preview=np.zeros((1, 1, 2, 2), dtype=np.uint8))._repr_html_()
