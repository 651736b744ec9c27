import numpy as np
import pytest
from PIL import Image

import imprint
from imprint.analysis.explanation import explain
from imprint.report.explanation_plots import save_explanation


def drawn(explanation, path, **bands):
    save_explanation(explanation, path, **bands)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def orange_share(pixels):
    return (pixels[..., 0] - pixels[..., 2] > 40).mean()


@pytest.fixture(scope="module")
def explanation(model, digits):
    return explain(model, digits, index=7)


def test_the_whole_is_its_bands(explanation, tmp_path):
    heights = {}
    for band in ("prediction", "filters", "layers"):
        pixels = drawn(explanation, tmp_path / f"{band}.png", bands=[band])
        heights[band] = len(pixels)
        assert pixels.shape[1] == 1350
        assert 0.02 < orange_share(pixels) < 0.5
        assert (pixels[:, :3] == 255).all()  # nothing runs off the left edge
        assert (pixels[:, -3:] == 255).all()
    assert len(drawn(explanation, tmp_path / "all.png")) == pytest.approx(sum(heights.values()), abs=3)


def test_long_names_many_classes_and_long_images(tmp_path):
    rng = np.random.default_rng(7)
    pixels = rng.integers(0, 256, (24, 3, 20, 80), dtype=np.uint8)
    names = tuple(f"$a {'very ' * i}long name" for i in range(12))
    photos = imprint.LabelledImages(pixels, np.arange(24) % 12, names, np.array([f"<{i}>.png" for i in range(24)]))
    model = imprint.train(photos, "photos", epochs=1, min_steps=1, validation=0.0, verbose=False).model
    pixels = drawn(explain(model, photos, index=3), tmp_path / "long.png")
    assert (pixels[:, -3:] == 255).all()
