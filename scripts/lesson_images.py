"""The images of docs/lesson.md, a function each, drawn from the variables of its blocks."""

import math

import numpy as np
import torch
from lesson_measured import draw_augmentation, draw_learning_rates, draw_overfitting
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle
from PIL import Image
from torch.nn.functional import conv2d, max_pool2d, relu

from imprint.analysis.explanation import explain
from imprint.core.metrics import wilson_interval
from imprint.core.plot_style import BLUE, EDGE, GREEN, GREY, INK, ORANGE, draw_image, new_figure, save_png
from imprint.core.scores import label_predictions
from imprint.preprocessing.prepare import prepare
from imprint.recipes import RECIPES
from imprint.report.explanation_plots import save_explanation
from imprint.report.plots import save_samples
from imprint.report.score_plots import confusion_plot, mistakes_plot
from imprint.runs.figures import save_curves, save_predictions
from imprint.training.augmentation import augment

SIGNED = LinearSegmentedColormap.from_list("signed", [BLUE, "#FFFFFF", ORANGE])
EXPLAINED = 3  # index of the test image that the page explains


def draw_images(names, work, folder):
    """Draw all images of the page; `names` holds the variables of its blocks, `work` is the folder that they ran in."""
    folder.mkdir(parents=True, exist_ok=True)
    run, known, secret = names["run"], names["known"], names["secret"]
    draw_numbers(known, folder / "numbers.png")
    save_samples(known, folder / "digits.png", count=10)
    draw_heaps(folder / "heaps.png")
    draw_ten(names["templates"], folder / "templates.png")
    draw_convolution(folder / "convolution.png")
    draw_edges(known, run.model.spec, folder / "edges.png")
    draw_pooling(folder / "pooling.png")
    draw_softmax(folder / "softmax.png")
    draw_downhill(folder / "downhill.png")
    draw_learnt_filter(names["stages"], names["edge"], folder / "learnt-filter.png")
    draw_ten(names["weights"].detach().T.numpy(), folder / "weights.png", signed=True)
    save_curves(run.history, folder / "curves.png")
    draw_learning_rates(folder / "learning-rate.png")
    draw_augmented(known, run.model.spec, folder / "augmented.png")
    draw_augmentation(folder / "augmentation.png")
    draw_overfitting(folder / "overfitting.png")
    explanation = explain(run.model, work / "test.csv", index=EXPLAINED)
    for name, band in (("filters", "filters"), ("layers", "layers"), ("where", "prediction")):
        save_explanation(explanation, folder / f"{name}.png", bands=[band])
    predictions = names["answers"]
    labelled = label_predictions(predictions.probabilities, secret.labels, secret.class_names, predictions.why)
    save_png(confusion_plot(labelled), folder / "confusion.png")
    save_png(mistakes_plot(labelled, secret), folder / "mistakes.png")
    draw_interval(folder / "interval.png")
    save_predictions(secret, predictions, folder / "ten.png", slice(0, 10))
    for path in folder.glob("*.png"):
        shrink(path)


def shrink(path):
    """Keep 256 colours: a third of the bytes, without a visible difference."""
    with Image.open(path) as image:
        small = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def draw_table(axes, table, title, colours=None, limit=27.0):
    """Draw a small table of numbers in coloured cells."""
    height, width = table.shape
    axes.axis("off")
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_aspect("equal")
    axes.set_title(title, loc="center", fontsize=10.5, fontweight="normal")
    for (row, column), value in np.ndenumerate(table):
        colour = colours[row][column] if colours is not None else SIGNED(value / (2 * limit) + 0.5)
        axes.add_patch(Rectangle((column, row), 1, 1, facecolor=colour, edgecolor=EDGE, clip_on=False))
        axes.text(column + 0.5, row + 0.52, f"{value:g}".replace("-", "−"), ha="center", va="center", fontsize=11)


def frame(axes, left, top, width, height):
    axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=GREEN, linewidth=3.5, clip_on=False))


def arrow(axes, text):
    axes.axis("off")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.text(0.5, 0.58, text, ha="center", va="center", fontsize=10.5, color=INK)
    axes.annotate("", (0.95, 0.42), (0.05, 0.42), arrowprops={"arrowstyle": "->", "color": INK, "linewidth": 1.5})


def draw_numbers(images, path):
    """One digit as an image, and as the numbers in the file."""
    image = images.pixels[0]
    with new_figure(6.4, 3.2) as figure:
        left, right = figure.subplots(1, 2)
        draw_image(left, image)
        left.set_title("what you see", loc="center", fontsize=10.5, fontweight="normal")
        right.axis("off")
        right.imshow(image[0], cmap="gray", vmin=0, vmax=255)
        right.set_title("what the file says", loc="center", fontsize=10.5, fontweight="normal")
        for (row, column), value in np.ndenumerate(image[0]):
            dark = value < 130
            right.text(column, row, value, ha="center", va="center", fontsize=8, color="white" if dark else "black")
        save_png(figure, path)


def draw_heaps(path):
    """How the images are divided."""
    heaps = (
        ("training", 1380, GREY, "learn"),
        ("validation", 120, BLUE, "watch"),
        ("test", 297, ORANGE, "judge"),
    )
    with new_figure(6.6, 1.35) as figure:
        axes = figure.subplots()
        axes.axis("off")
        start = 0
        for name, count, colour, use in heaps:
            axes.barh(0, count, left=start, color=colour, height=0.5, edgecolor="white", linewidth=2)
            middle = start + count / 2
            side, at = ("right", start + count) if name == "validation" else ("center", middle)
            axes.text(at, 0.33, name, ha=side, va="bottom", fontsize=10.5, fontweight="bold", color=colour)
            axes.text(middle, 0, f"{count:,}", ha="center", va="center", color="white", fontsize=10.5)
            axes.text(middle, -0.33, use, ha="center", va="top", fontsize=9.5, color=GREY)
            start += count
        axes.set_ylim(-0.75, 0.7)
        axes.set_xlim(-10, start + 40)
        save_png(figure, path)


def draw_convolution(path):
    """The worked example of part 3, its first window framed."""
    stroke = np.array([[0, 0, 9, 0, 0]] * 5)
    edge = np.array([[-1, 0, 1]] * 3)
    found = np.array([[27, 0, -27]] * 3)
    grey = [["#2B3036" if value == 0 else "#F4F4F4" for value in row] for row in stroke]
    with new_figure(6.6, 2.8) as figure:
        panels = figure.subplots(1, 5, width_ratios=[5, 1.5, 3, 1.8, 3])
        draw_table(panels[0], stroke, "an upright stroke", grey)
        for text in panels[0].texts:
            text.set_color("white" if text.get_text() == "0" else "black")
        frame(panels[0], 0, 0, 3, 3)
        arrow(panels[1], "lay on")
        draw_table(panels[2], edge, "filter", limit=1.6)
        arrow(panels[3], "multiply,\nadd\n")
        draw_table(panels[4], found, "what comes out", limit=45)
        frame(panels[4], 0, 0, 1, 1)
        save_png(figure, path)


def draw_ten(tables, path, signed=False):
    """Ten tables of 64 numbers, one a digit, as images."""
    tables = tables.reshape(10, 8, 8)
    limit = np.abs(tables).max()
    shades = {"cmap": SIGNED, "vmin": -limit, "vmax": limit} if signed else {"cmap": "gray", "vmin": 0, "vmax": 1}
    with new_figure(6.6, 2.9) as figure:
        for digit, axes in enumerate(figure.subplots(2, 5).flat):
            axes.imshow(tables[digit], **shades)
            axes.set_title(str(digit), loc="center", fontsize=10.5, fontweight="normal")
            axes.set(xticks=[], yticks=[])
            axes.grid(visible=False)
            axes.spines[:].set_visible(signed)
        save_png(figure, path)


def plain_four(images, spec):
    """A 4 that is easy to read, as the network sees it."""
    place = int(np.flatnonzero(images.labels == 4)[5])
    return prepare(torch.from_numpy(images.pixels[place : place + 1]), spec)


def draw_edges(images, spec, path):
    """Two filters applied to a real digit, then ReLU and pooling."""
    digit = plain_four(images, spec)
    upright = torch.tensor([[-1.0, 0, 1]] * 3)
    with new_figure(6.6, 3.5) as figure:
        grid = figure.subplots(2, 5, width_ratios=[1.3, 0.75, 1.3, 1.3, 1.3])
        for row, edge in zip(grid, (upright, upright.T), strict=True):
            found = conv2d(digit, edge[None, None])
            steps = (digit, edge, found, relu(found), max_pool2d(relu(found), 2))
            for axes, numbers in zip(row, steps, strict=True):
                table = numbers.squeeze().numpy()
                limit = np.abs(table).max()
                shades = {"cmap": "gray"} if numbers is digit else {"cmap": SIGNED, "vmin": -limit, "vmax": limit}
                axes.imshow(table, **shades)
                axes.set(xticks=[], yticks=[], xlabel=f"{len(table)}×{len(table)}")
                axes.grid(visible=False)
                axes.spines[:].set_visible(True)
        for axes, title in zip(grid[0], ("digit", "filter", "answers", "ReLU", "pooled"), strict=True):
            axes.set_title(title, loc="center", fontsize=10.5, fontweight="normal")
        save_png(figure, path)


def draw_downhill(path):
    """Ten steps down a parabola with each of three learning rates."""
    with new_figure(6.6, 2.7) as figure:
        for axes, rate in zip(figure.subplots(1, 3), (0.01, 0.3, 1.1), strict=True):
            places = [0.0]
            for _ in range(10):
                places.append(places[-1] - rate * 2 * (places[-1] - 3))
            w = np.array(places)
            low, high = (-17, 23) if rate > 1 else (-1, 7)
            line = np.linspace(low, high, 200)
            axes.plot(line, (line - 3) ** 2, color=EDGE)
            axes.plot(w, (w - 3) ** 2, "o-", color=ORANGE, markersize=4, linewidth=1)
            axes.plot(w[0], (w[0] - 3) ** 2, "o", color=INK, markersize=6)
            axes.set_title(f"learning rate {rate}", fontsize=10.5)
            axes.set_xlabel("w")
        figure.supylabel("loss", fontsize=11)
        save_png(figure, path)


def draw_learnt_filter(stages, wanted, path):
    """A filter at several steps of training, and the one to be found."""
    with new_figure(6.6, 1.7) as figure:
        panels = figure.subplots(1, len(stages) + 1)
        for axes, (step, weights) in zip(panels, stages.items(), strict=False):
            draw_table(axes, weights.numpy().round(1) + 0.0, f"after {step}" if step else "at first", limit=1.6)
        draw_table(panels[-1], wanted.numpy(), "wanted", limit=1.6)
        for axes in panels:
            for text in axes.texts:
                text.set_fontsize(9)
        save_png(figure, path)


def draw_pooling(path):
    """The worked example of max pooling."""
    four = np.array([[1, 3, 0, 2], [5, 2, 1, 0], [0, 1, 8, 6], [2, 0, 7, 4]])
    tones = ["#DCEBF5", "#FBE6D9", "#DDF1EA", "#ECEEF0"]
    colours = [[tones[row // 2 * 2 + column // 2] for column in range(4)] for row in range(4)]
    with new_figure(5, 2.4) as figure:
        panels = figure.subplots(1, 3, width_ratios=[4, 1.8, 2])
        draw_table(panels[0], four, "a map", colours)
        arrow(panels[1], "largest of\neach four\n")
        draw_table(panels[2], np.array([[5, 2], [2, 8]]), "pooled", [tones[:2], tones[2:]])
        save_png(figure, path)


def draw_softmax(path):
    """Logits, probabilities, and the loss as a curve."""
    logits = np.array([2.0, 1.0, 0.0])
    shares = np.exp(logits) / np.exp(logits).sum()
    with new_figure(6.6, 4.6) as figure:
        panels = figure.subplot_mosaic([["logits", "shares"], ["loss", "loss"]])
        titles = (("logits", "logits", logits), ("shares", "softmax: probabilities", shares))
        for axes, title, values in ((panels[key], title, values) for key, title, values in titles):
            axes.bar(("0", "1", "2"), values, color=GREY, width=0.6)
            axes.set_title(title, fontsize=11)
            axes.set_xlabel("class")
            axes.grid(axis="x", visible=False)
            axes.margins(y=0.15)
            for place, value in enumerate(values):
                axes.text(place, value, f"{value:.3g}", ha="center", va="bottom", fontsize=9.5)
        p = np.linspace(0.01, 1, 200)
        panels["loss"].plot(p, -np.log(p), color=ORANGE, linewidth=2)
        panels["loss"].set_title("loss", fontsize=11)
        panels["loss"].set_xlabel("probability of the true class")
        for share in (0.1, 0.665):
            panels["loss"].plot(share, -math.log(share), "o", color=INK)
            panels["loss"].annotate(
                f"p = {share}: {-math.log(share):.2f}",
                (share, -math.log(share)),
                (10, 6),
                textcoords="offset points",
                fontsize=9.5,
            )
        save_png(figure, path)


def draw_augmented(images, spec, path):
    """One image as the network sees it, and nine versions of it."""
    torch.manual_seed(7)
    one = plain_four(images, spec)
    versions = [one, *(augment(one, RECIPES["tutorial"]) for _ in range(9))]
    with new_figure(6.6, 2.9) as figure:
        for place, (axes, version) in enumerate(zip(figure.subplots(2, 5).flat, versions, strict=True)):
            draw_image(axes, (version[0] * 255).round().to(torch.uint8).numpy())
            axes.set_title("as it is" if place == 0 else "", fontsize=9.5, loc="center", fontweight="normal")
        save_png(figure, path)


def draw_interval(path):
    """How the 95 % interval around 0.98 shrinks."""
    scored = (100, 300, 1000, 3360, 28000)
    with new_figure(6.6, 2.6) as figure:
        axes = figure.subplots()
        for row, count in enumerate(scored):
            low, high = wilson_interval(round(0.98 * count), count)
            axes.plot((low, high), (row, row), color=BLUE, linewidth=5, solid_capstyle="butt", alpha=0.6)
            axes.plot(0.98, row, "o", color=INK)
            axes.text(high + 0.001, row, f"{low:.3f} to {high:.3f}", va="center", fontsize=9.5, color=GREY)
        axes.set_yticks(range(len(scored)), [f"{count:,} images" for count in scored])
        axes.set_ylim(len(scored) - 0.5, -0.5)
        axes.set_xlim(0.925, 1.017)
        axes.set_xticks(np.arange(0.93, 1.001, 0.01))
        axes.set_xlabel("accuracy: measured (dot) and its 95 % interval")
        save_png(figure, path)
