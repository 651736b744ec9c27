from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from imprint.recipes import RECIPES
from imprint.runs.figures import by_network, curve_plot, random_window, save_curves, save_predictions


def read_png(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def test_ten_predictions_stand_in_two_rows(digits, model, tmp_path):
    save_predictions(digits, model.predict(digits), tmp_path / "p.png", random_window(len(digits), 7))
    pixels = read_png(tmp_path / "p.png")
    assert 1 < pixels.shape[1] / pixels.shape[0] < 3


@pytest.mark.parametrize("epochs", [1, 2, 30])
def test_nothing_lies_over_the_curves(epochs):
    rates = np.geomspace(2e-4, 4e-3, epochs).tolist()
    history = {key: np.geomspace(2, 0.1, epochs).tolist() for key in ("loss", "acc", "val_loss", "val_acc")}
    for what in ("loss", "acc", "lr"):
        figure = curve_plot(history | {"lr": rates}, what)
        figure.draw_without_rendering()
        axes = figure.axes[0]
        if (legend := axes.get_legend()) is not None:
            key, title = legend.get_window_extent(), axes.title.get_window_extent()
            assert key.y0 >= axes.get_window_extent().y1 - 0.5
            assert key.y1 <= title.y0 + 0.5
            assert key.x1 <= figure.bbox.x1
        ticks = [tick for tick in axes.get_xticks() if axes.get_xlim()[0] <= tick <= axes.get_xlim()[1]]
        assert all(tick == round(tick) for tick in ticks)  # there is no epoch 1.02
        if what == "lr" and epochs > 1:
            low, high = axes.get_ylim()
            assert sum(low <= tick <= high for tick in axes.get_yticks()) >= 2


@pytest.mark.parametrize("count", [1, 9, 10, 11, 28_000])
def test_window_stays_inside(count):
    windows = [random_window(count, seed) for seed in range(50)]
    assert all(window.start >= 0 and window.stop <= count for window in windows)
    assert {window.stop - window.start for window in windows} == {min(count, 10)}
    assert len({window.start for window in windows}) == min(50, max(1, count - 9)) or count == 28_000


def test_curves(run, tmp_path):
    save_curves(run.history, tmp_path / "curves.png")
    pixels = read_png(tmp_path / "curves.png")
    assert pixels.shape[1] > 2 * pixels.shape[0]
    blue = (np.abs(pixels.astype(int) - [0, 0x72, 0xB2]).sum(2) < 30).mean()
    assert blue > 0.0005  # the validation curve


def test_each_network_of_several_has_its_curve():
    history = {key: np.geomspace(2, 0.1, 12).tolist() for key in ("loss", "acc", "val_loss", "val_acc", "lr")}
    recipe = replace(RECIPES["best"], networks=("deep", "broad", "deep"), epochs=5)
    parts = by_network(history, recipe)
    assert [(name, len(part["loss"])) for name, part in parts] == [("deep", 5), ("broad", 5), ("deep", 2)]
    assert [value for _, part in parts for value in part["loss"]] == history["loss"]
    axes = curve_plot(history, "loss", recipe).axes[0]
    drawn = [line for line in axes.lines if len(line.get_xdata())]
    assert [len(line.get_xdata()) for line in drawn] == [5, 5, 5, 5, 2, 2]
    assert max(line.get_xdata()[-1] for line in drawn) == 5  # each network begins at epoch 1
    assert len({line.get_color() for line in drawn}) == 2
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["deep (2)", "broad", "training"]
    assert by_network(history, RECIPES["quick"]) == by_network(history, None) == [("", history)]


def test_one_epoch_without_validation(tmp_path):
    save_curves({"loss": [1.0], "acc": [0.5], "lr": [1e-3], "seconds": [1.0]}, tmp_path / "curves.png")
    assert read_png(tmp_path / "curves.png").size
