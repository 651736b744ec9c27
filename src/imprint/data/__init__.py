"""Reading labelled pictures: `load` and one module a format."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np

from imprint.data.csv import read_csv
from imprint.data.idx import is_idx, read_idx
from imprint.errors import DataError
from imprint.images import LabelledImages

FORMS = "Give a .csv, .csv.gz, an IDX file, or the bundled set: digits."


def load(data: str | PathLike[str]) -> LabelledImages:
    """Read labelled pictures from a file, or a set that comes with Imprint.

    Parameters
    ----------
    data : str or path
        A ``.csv`` or ``.csv.gz`` of pixels as Kaggle's digit recogniser has them, an IDX file
        (its labels are found beside it), or ``"digits"``: scikit-learn's 1,797 real digits of
        8×8 pixels. A file that is called digits is meant by ``"./digits"``.

    Returns
    -------
    LabelledImages
        Pixels, labels if there are any, class names and sources.

    Raises
    ------
    DataError
        When the data cannot be read rightly; one line names file, row, column and remedy.

    Examples
    --------
    >>> load("digits").class_counts()["9"]
    180
    """
    if data == "digits":
        return _bundled_digits()
    path = Path(data)
    try:
        if path.is_dir():
            raise DataError("folder", str(path), "folders of pictures cannot be read yet", FORMS)
        if path.name.lower().endswith((".csv", ".csv.gz")):
            return read_csv(path)
        if is_idx(path):
            return read_idx(path)
    except OSError as error:
        raise DataError(
            "data", str(path), f"it cannot be read ({error.strerror or error})", "Check the path and its permissions."
        ) from None
    raise DataError("form", path.name, "neither the name nor the first bytes tell what it is", FORMS)


def _bundled_digits() -> LabelledImages:
    """Read the test half of UCI's optical digits, as scikit-learn ships it; 17 grey levels become 0 to 255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    sources = np.array([f"digits#{i}" for i in range(1, len(pixels) + 1)])
    names = tuple(str(digit) for digit in bunch.target_names)
    return LabelledImages(pixels, bunch.target.astype(np.int64), names, sources, "digits")
