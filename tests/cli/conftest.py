import subprocess

import numpy as np
import pytest
from PIL import Image

from helpers import IMPRINT


@pytest.fixture(scope="session")
def lesson(digits_csv):
    """The whole lesson on small real data, once, in a process of its own as users have it."""
    arguments = ["train", "train.csv", "--recipe", "tutorial", "--set", "epochs=4", "--set", "steps_per_epoch=40"]
    command = [*IMPRINT, *arguments, "--test", "test.csv"]
    return subprocess.run(command, cwd=digits_csv, capture_output=True, encoding="utf-8", check=True)


@pytest.fixture
def divided(tmp_path, digits):
    """A folder of divided PNG files: digits 0 and 1, six times as large."""
    for part, places in (("train", range(0, 300)), ("val", range(300, 380)), ("test", range(380, 460))):
        for place in places:
            name = digits.class_names[digits.labels[place]]
            if name in "01":
                folder = tmp_path / "images" / part / name
                folder.mkdir(parents=True, exist_ok=True)
                enlarged = np.kron(digits.pixels[place, 0], np.ones((6, 6), dtype=np.uint8))
                Image.fromarray(enlarged).save(folder / f"{place}.png")
    return tmp_path
