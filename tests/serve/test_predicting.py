"""The same class and probability as `imprint predict`, whichever way an image comes."""

import base64
import json
import warnings
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

import imprint
from serve_helpers import form, png

FORM = "multipart/form-data; boundary=x"
JSON, RAW = "application/json", "application/octet-stream"


@pytest.fixture(scope="module")
def images(digits):
    """Eight digits of the model's form, as height × width."""
    return digits.pixels[:8, 0]


@pytest.fixture(scope="module")
def drawing(digits):
    """A digit as somebody draws it: large, black on white."""
    large = Image.fromarray(255 - digits.pixels[3, 0]).resize((200, 200), Image.Resampling.BICUBIC)
    paper = Image.new("L", (280, 280), 255)
    paper.paste(large, (40, 40))
    return paper


def same(answer, expected):
    """Whether answers are those of the command line: class, confidence to 1e-4, and both flags."""
    predictions = answer.json["predictions"]
    assert len(predictions) == len(expected)
    for one, row, fact in zip(predictions, expected.probabilities, expected.to_dicts(), strict=True):
        assert (one["label"], one["unsure"], one["why"]) == (fact["label"], fact["unsure"], fact["why"])
        assert list(one["probabilities"]) == list(expected.class_names)
        np.testing.assert_allclose(list(one["probabilities"].values()), row, atol=1e-4)
        assert one["confidence"] == pytest.approx(fact["confidence"], abs=1e-4)
    return True


def test_every_way_in_gives_the_answer_of_predict(server, onnx_file, images, tmp_path):
    files = [(f"{i}.png", png(image)) for i, image in enumerate(images)]
    for name, content in files:
        (tmp_path / name).write_bytes(content)
    expected = imprint.OnnxClassifier.load(onnx_file).predict([tmp_path / name for name, _ in files])
    first = imprint.OnnxClassifier.load(onnx_file).predict(tmp_path / "0.png")
    rows = images.reshape(8, 64)
    several = [
        (form(files), FORM, ""),
        (json.dumps({"pixels": images.tolist()}).encode(), JSON, ""),
        (json.dumps({"pixels": rows.tolist()}).encode(), JSON, ""),
        (json.dumps({"pixels": (images / 255).tolist()}).encode(), JSON, ""),
        (json.dumps([{"pixels": image.tolist()} for image in images]).encode(), JSON, ""),
        (json.dumps({"images": [{"base64": base64.b64encode(c).decode()} for _, c in files]}).encode(), JSON, ""),
        (images.tobytes(), RAW, "?shape=8,8,8"),
        (images.tobytes(), RAW, "?shape=8,64"),
        (images.tobytes(), RAW, "?shape=8,8,8,1"),
    ]
    for body, kind, query in several:
        answer = server.predict(body, kind, query)
        assert answer.status == 200, answer.content
        assert same(answer, expected)
    for body, kind in (
        (files[0][1], "image/png"),
        (form(files[:1]), FORM),
        (json.dumps({"pixels": rows[0].tolist()}).encode(), JSON),
        (images[0].tobytes(), RAW),
    ):
        assert same(server.predict(body, kind), first)


def test_drawings_and_photos_of_sheets_too(server, onnx_file, drawing, tmp_path):
    model = imprint.OnnxClassifier.load(onnx_file)
    jpeg = BytesIO()
    turned = drawing.convert("RGB").rotate(90)
    turned.save(jpeg, "JPEG", quality=95, exif=_turned_exif())
    transparent = Image.merge("LA", (Image.new("L", drawing.size, 0), Image.eval(drawing, lambda level: 255 - level)))
    for name, content in (("a.png", png(drawing)), ("b.jpg", jpeg.getvalue()), ("c.png", png(transparent))):
        (tmp_path / name).write_bytes(content)
        assert same(server.predict(content, "image/png"), model.predict(tmp_path / name))
    noisy = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)  # of training's size, not of its form
    (tmp_path / "noisy.png").write_bytes(png(noisy))
    expected = model.predict(tmp_path / "noisy.png")
    assert same(server.predict(png(noisy)), expected)
    assert same(server.predict(noisy.tobytes(), RAW, "?shape=8,8"), model.predict(noisy))
    assert same(
        server.predict(form([("a", png(drawing)), ("b", png(noisy))]), FORM), model.predict([png(drawing), png(noisy)])
    )


def _turned_exif():
    exif = Image.Exif()
    exif[274] = 6
    return exif


def test_an_answer_has_the_keys_of_the_command_line_and_the_models_digest(server, images):
    answer = server.predict(form([("a b.png", png(images[0])), ("", png(images[1]))]), FORM)
    assert set(answer.json) == {"model", "predictions"}
    assert answer.json["model"] == server.get("/v1/model").json["model"]
    keys = {"source", "label", "confidence", "unsure", "why", "probabilities"}
    assert all(set(one) == keys for one in answer.json["predictions"])
    assert [one["source"] for one in answer.json["predictions"]] == ["a b.png", "2"]
    assert answer.headers["X-Request-Id"]


def test_in_a_batch_a_bad_image_has_its_own_problem(server, images):
    answer = server.predict(form([("good.png", png(images[0])), ("bad.png", b"no image")]), FORM)
    good, bad = answer.json["predictions"]
    assert good["label"]
    assert set(bad) == {"source", "title", "status", "detail"}
    assert bad["status"] == 422
    assert "bad.png" in bad["detail"]


def test_a_lone_bad_image_is_refused_in_the_words_of_the_command_line(server, onnx_file, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(imprint.DataError) as error:
        imprint.OnnxClassifier.load(onnx_file).predict(tmp_path / "bad.png")
    answer = server.predict(form([("bad.png", b"no image")]), FORM)
    assert (answer.status, answer.kind) == (422, "application/problem+json")
    assert answer.json["detail"].endswith(f"{error.value.cause}. {error.value.remedy}")


def test_photos_are_fitted_as_predict_fits_them(tmp_path, started):
    """A model of colour reads a large JPEG at a fraction of its size, here as there."""
    from helpers import random_images

    random = random_images(2, 40, shape=(3, 16, 16), name="class")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = imprint.train(random, "quick", epochs=1, min_steps=1, verbose=False).model
    imprint.export(model, tmp_path / "photos.onnx", random)
    photo = BytesIO()
    smooth = np.random.default_rng(1).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(smooth).resize((640, 480), Image.Resampling.BICUBIC).save(photo, "JPEG")
    (tmp_path / "photo.jpg").write_bytes(photo.getvalue())
    expected = imprint.OnnxClassifier.load(tmp_path / "photos.onnx").predict(tmp_path / "photo.jpg")
    server = started(tmp_path / "photos.onnx")
    assert same(server.predict(photo.getvalue(), "image/jpeg"), expected)
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert same(
        server.predict(grey.tobytes(), RAW, "?shape=16,16"),
        imprint.OnnxClassifier.load(tmp_path / "photos.onnx").predict(grey),
    )
