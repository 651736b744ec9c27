"""Images that a model reads much better turned, mirrored or inverted, such as those of EMNIST, stored transposed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from jaxtyping import Bool, Int64, UInt8
from numpy import ndarray

from imprint.core.metrics import difference_interval
from imprint.data.images import LabelledImages
from imprint.models.predictor import Predictor

POOR = 0.8  # accuracy; from there on nothing is tried
MIN_GAIN = 0.1  # of accuracy; the whole 95 % interval must lie above
SAMPLED, CHOOSING = 200, 32  # images looked at; so many of them choose an orientation, and the others test it
MIN_IMAGES = 30  # fewer test nothing
ORIENTATIONS = {  # by whether rows and columns are exchanged, then rows and columns reversed
    (False, False, False): "",
    (True, False, False): "transposed",
    (True, False, True): "turned by 90° clockwise",
    (True, True, False): "turned by 90° anticlockwise",
    (True, True, True): "transposed and turned by 180°",
    (False, True, True): "turned by 180°",
    (False, False, True): "mirrored left to right",
    (False, True, False): "mirrored top to bottom",
}


@dataclass(frozen=True)
class Orientation:
    """A way to turn, mirror or invert images so that a model reads them better."""

    transposed: bool
    rows_reversed: bool
    columns_reversed: bool
    inverted: bool

    def __str__(self) -> str:
        name = ORIENTATIONS[self.transposed, self.rows_reversed, self.columns_reversed]
        return " and ".join([*([name] if name else ()), *(["inverted"] if self.inverted else ())])

    def apply(self, pixels: UInt8[ndarray, "n c h w"]) -> UInt8[ndarray, "n c _ _"]:
        """Give images in this orientation."""
        turned = pixels.swapaxes(2, 3) if self.transposed else pixels
        turned = turned[:, :, :: -1 if self.rows_reversed else 1, :: -1 if self.columns_reversed else 1]
        return np.ascontiguousarray(255 - turned if self.inverted else turned)

    def expression(self) -> str:
        """Write `apply` as one expression of numpy."""
        reversals = {(True, False): "[..., ::-1, :]", (False, True): "[..., ::-1]", (True, True): "[..., ::-1, ::-1]"}
        turned = "pixels.swapaxes(2, 3)" if self.transposed else "pixels"
        turned += reversals.get((self.rows_reversed, self.columns_reversed), "")
        return f"255 - {turned}" if self.inverted else turned


@dataclass(frozen=True)
class BetterOrientation:
    """How much better a model reads images in another orientation: accuracy of both on as many images."""

    orientation: Orientation
    images: int
    accuracy: float
    before: float
    interval: tuple[float, float]  # of the accuracy gained

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"the model reads these images much better {self.orientation}: accuracy {self.accuracy:.4f} instead of "
            f"{self.before:.4f} (95 % interval of the difference {low:.4f} to {high:.4f}; {self.images:,} images); "
            f"change them so before it gets them, in numpy {self.orientation.expression()}"
        )


def find_better_orientation(model: Predictor, images: LabelledImages) -> BetterOrientation | None:
    """Try all orientations on a sample of the images; None where no other is clearly better.

    Raises `DataError` where labels are missing or unknown to the model.
    """
    sample = _sample(images, images.labels_among(model.class_names))
    as_they_are = Orientation(False, False, False, False)
    before = _is_right(model, sample, as_they_are)
    if len(sample) < MIN_IMAGES or before.mean() >= POOR:
        return None
    choosing, testing = np.split(np.arange(len(sample)), [min(CHOOSING, len(sample) // 3)])
    square = sample.shape[1] == sample.shape[2]
    others = [
        Orientation(*key, inverted) for key, inverted in product(ORIENTATIONS, (False, True)) if square or not key[0]
    ]
    others.remove(as_they_are)
    chosen = max(others, key=lambda orientation: _is_right(model, sample[choosing], orientation).mean())
    # Other images test it: the best of 15 by chance would look better than it is.
    before, after = before[testing], _is_right(model, sample[testing], chosen)
    interval = difference_interval(int((after & ~before).sum()), int((before & ~after).sum()), len(testing))
    if interval[0] <= MIN_GAIN:
        return None
    return BetterOrientation(chosen, len(testing), float(after.mean()), float(before.mean()), interval)


def _sample(images: LabelledImages, labels: Int64[ndarray, " n"]) -> LabelledImages:
    """Pick images at random, of each class one after the other, in that order."""
    shuffled = np.random.default_rng(0).permutation(len(labels))
    turn = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        turn[members] = np.arange(len(members))
    return images[shuffled[np.argsort(turn[shuffled], kind="stable")][:SAMPLED]]


def _is_right(model: Predictor, images: LabelledImages, orientation: Orientation) -> Bool[ndarray, " n"]:
    turned = replace(images, pixels=orientation.apply(images.pixels))
    return np.asarray(model.predict(turned).labels == images.labels_among(model.class_names))
