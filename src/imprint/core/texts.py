"""Texts of many images in an array: each takes its own length, not that of the longest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped
from numpy import ndarray

STRING = np.dtypes.StringDType()  # a million paths of 66 letters take 83 MB, as fixed-width text 264


def text_array(texts: Sequence[str]) -> Shaped[ndarray, " n"]:
    r"""Put texts into an array; halves of characters, as JSON may spell them, become ``\ud800`` and the like."""
    try:
        return np.array(texts, dtype=STRING)
    except UnicodeEncodeError:
        return np.array([text.encode("utf-8", "backslashreplace").decode() for text in texts], dtype=STRING)
