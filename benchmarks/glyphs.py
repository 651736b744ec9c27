"""How a model trained on Kaggle's digits reads other people's, on paper and pens that it never saw.

    make bench-glyphs DATA=folder-with-train.csv

Trains a model (or takes one, --model), then reads scikit-learn's 1,797 digits: 8×8 pixels, enlarged to 160×160
with Pillow's bicubic filter and drawn as a pen would on paper, once for each set below. Beside it, plain resizing
to 28×28, inverted where the border is bright. Settings were chosen on the digits at even places and on the sets in
SETS; those at odd places (--half odd) and the sets in HELD_OUT tell what to expect of others.
"""

import argparse
import io
import time
import zlib

import numpy as np
from common import machine
from PIL import Image, ImageDraw, ImageFilter

import imprint
from imprint.core.metrics import wilson_interval
from imprint.models.classifier import Classifier
from imprint.preprocessing.glyph import fit_glyph, learn_glyph_form


def enlarged(digit, side=160, method=Image.Resampling.BICUBIC):
    return Image.fromarray(digit).resize((side, side), method)


def written(ink, paper=(255, 255, 255), pen=(0, 0, 0), size=(240, 240), at=None):
    """Put ink on paper of one colour, in the middle or at a place."""
    sheet = Image.new("RGB", size, paper)
    at = at or ((size[0] - ink.width) // 2, (size[1] - ink.height) // 2)
    sheet.paste(Image.new("RGB", ink.size, pen), at, ink)
    return sheet


def lit(sheet, rng, shadow=0.55, noise=3.0):
    """Light a sheet unevenly: a shadow with a soft edge across it, a fall-off to the corners, noise, JPEG's levels."""
    width, height = sheet.size
    y, x = np.mgrid[:height, :width] / max(width, height)
    angle = rng.uniform(0, 2 * np.pi)
    across = (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle) + rng.uniform(-0.15, 0.15)
    light = 1 - shadow / (1 + np.exp(-across / rng.uniform(0.01, 0.08)))
    light = light * (1 - 0.3 * ((x - 0.5) ** 2 + (y - 0.5) ** 2))
    pixels = np.asarray(sheet, dtype=np.float32) * light[..., None] + rng.normal(0, noise, (height, width, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def off_centre(digit, rng):
    at = tuple(int(v) for v in rng.integers(0, 140, 2))
    return written(enlarged(digit), size=(300, 300), at=at)


def other_size(digit, rng):
    return written(enlarged(digit, int(rng.integers(40, 400))), size=(480, 420))


def corner_of_photo(digit, rng):
    """A sheet on a wooden desk with a cup on it, the digit a fifteenth of its width, near one corner of the sheet."""
    size = (1200, 900)
    y, x = np.mgrid[: size[1], : size[0]]
    grain = 12 * np.sin(y / 9 + 3 * np.sin(x / 170)) + rng.normal(0, 4, (size[1], size[0]))
    desk = np.stack([110 + grain, 75 + grain, 50 + grain], axis=2).clip(0, 255).astype(np.uint8)
    photo = Image.fromarray(desk)
    photo.paste((235, 232, 225), (150, 90, 1140, 860))
    ImageDraw.Draw(photo).ellipse((80, 20, 280, 220), fill=(200, 60, 40))
    side = int(rng.integers(70, 100))
    at = (int(rng.integers(960, 1010)), int(rng.integers(650, 730)))
    photo.paste(Image.new("RGB", (side, side), (30, 30, 60)), at, enlarged(digit, side))
    return lit(photo.filter(ImageFilter.GaussianBlur(1)), rng, shadow=0.35)


SETS = {
    "black ink on white": lambda digit, rng: written(enlarged(digit)),
    "off-centre": off_centre,
    "other sizes": other_size,
    "enlarged without smoothing": lambda digit, rng: written(enlarged(digit, method=Image.Resampling.NEAREST)),
    "grey paper, shadow": lambda digit, rng: lit(written(enlarged(digit), (190, 190, 190), (40, 40, 40)), rng),
    "blue on cream": lambda digit, rng: lit(written(enlarged(digit), (250, 240, 210), (30, 50, 150)), rng, 0.1),
    "chalk on green board": lambda digit, rng: lit(written(enlarged(digit), (35, 80, 60), (225, 230, 220)), rng, 0.25),
    "thin pen": lambda digit, rng: written(enlarged(digit).filter(ImageFilter.MinFilter(11))),
    "thick pen": lambda digit, rng: written(enlarged(digit).filter(ImageFilter.MaxFilter(11))),
    "corner of a large photo": corner_of_photo,
    "cut out tightly": lambda digit, rng: written(enlarged(digit), size=(160, 160)),
    "inverted": lambda digit, rng: written(enlarged(digit), (0, 0, 0), (255, 255, 255)),
}


def as_jpeg(sheet, quality):
    content = io.BytesIO()
    sheet.save(content, "JPEG", quality=quality)
    return Image.open(content).convert("RGB")


def enlarged_by(method):
    return lambda digit, rng: written(enlarged(digit, method=method))


def pencil(digit, rng):
    """Faint grey on recycled paper: fibres of many greys, a hundred and fifty levels apart at most."""
    fibres = rng.normal(0, 9, (60, 60))
    grain = np.asarray(Image.fromarray(fibres.astype(np.float32)).resize((240, 240), Image.Resampling.BICUBIC))
    sheet = np.asarray(written(enlarged(digit), (205, 198, 185), (95, 95, 100)), dtype=np.float32) + grain[..., None]
    return as_jpeg(lit(Image.fromarray(sheet.clip(0, 255).astype(np.uint8)), rng, 0.2), 85)


HELD_OUT = {
    "enlarged, Lanczos": enlarged_by(Image.Resampling.LANCZOS),
    "enlarged, bilinear": enlarged_by(Image.Resampling.BILINEAR),
    "poor JPEG": lambda digit, rng: as_jpeg(written(enlarged(digit)), 15),
    "pencil on recycled paper": pencil,
    "red marker on yellow": lambda digit, rng: lit(
        written(enlarged(digit).filter(ImageFilter.MaxFilter(7)), (250, 225, 90), (190, 30, 40)), rng, 0.3
    ),
    "white on blue, tilted": lambda digit, rng: written(enlarged(digit), (40, 60, 130), (240, 240, 250)).rotate(
        float(rng.uniform(-8, 8)), Image.Resampling.BILINEAR, fillcolor=(40, 60, 130)
    ),
}


def images(name, digits):
    """Draw a set, the same each time; one image after another."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    for digit in digits.pixels[:, 0]:
        yield np.asarray((SETS | HELD_OUT)[name](digit, rng))


def resized(image, form):
    """The peer: grey, scaled to the training size, inverted where the border is bright."""
    grey = np.asarray(Image.fromarray(image).convert("L").resize((form.width, form.height), Image.Resampling.BOX))
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    return (255 - grey if np.median(border) > 127 else grey)[None]


def answered_right(model, fitted, digits):
    images = imprint.LabelledImages(np.stack(fitted), digits.labels, digits.class_names, digits.sources)
    labelled = np.array(model.predict(images).names)
    return labelled == np.array(digits.class_names)[digits.labels]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("train_csv")
    parser.add_argument("--model", help="a model file; left out, recipe quick is trained")
    parser.add_argument("--half", choices=["all", "even", "odd"], default="all", help="digits at which places")
    parser.add_argument("--every", type=int, default=1, help="take only each so-manieth of them")
    parser.add_argument("--sets", nargs="*", default=list(SETS | HELD_OUT))
    arguments = parser.parse_args()
    training = imprint.load(arguments.train_csv)
    model = Classifier.load(arguments.model) if arguments.model else imprint.train(training, "quick").model
    form = learn_glyph_form(training.pixels)
    untouched = sum(np.array_equal(fit_glyph(p.transpose(1, 2, 0), form), p) for p in training.pixels)
    print(machine(), form, f"{untouched:,} of {len(training):,} training images pass untouched", sep="\n")
    half = {"all": slice(None), "even": slice(0, None, 2), "odd": slice(1, None, 2)}[arguments.half]
    digits = imprint.load("digits")[half][:: arguments.every]
    print(f"| {len(digits):,} images each | accuracy (95 % interval) | plain resizing | CPU ms an image |")
    print("|---|---|---|---|")
    for name in arguments.sets:
        fitted, plain, seconds = [], [], 0.0
        for image in images(name, digits):
            started = time.process_time()  # other jobs beside it do not count
            fitted.append(fit_glyph(image, form))
            seconds += time.process_time() - started
            plain.append(resized(image, form))
        right, peer = answered_right(model, fitted, digits), answered_right(model, plain, digits).mean()
        each = seconds / len(digits) * 1000
        low, high = wilson_interval(int(right.sum()), len(right))
        print(f"| {name} | {right.mean():.4f} ({low:.4f} to {high:.4f}) | {peer:.4f} | {each:.1f} |", flush=True)


if __name__ == "__main__":
    main()
