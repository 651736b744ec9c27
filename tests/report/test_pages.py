import re
from pathlib import Path

import numpy as np
import pytest

from imprint import Findings
from imprint.report import pages
from imprint.report.pages import write_template

BASE = (Path(pages.__file__).parent / "templates" / "base.html").read_text()


def luminance(colour):
    colour = colour * 2 if len(colour) == 3 else colour
    parts = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return np.dot([0.2126, 0.7152, 0.0722], linear)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_has_enough_contrast(scheme):
    """WCAG 2.1, AA: a contrast of 4.5 at least."""
    block = re.findall(r":root \{(.*?)\}", BASE, re.DOTALL)[scheme]
    tones = {name: luminance(tone) for name, tone in re.findall(r"--(\w+): #(\w+)", block)}
    for ground in ("ground", "card"):
        for text in ("ink", "soft", "blue", "orange", "bad", "green"):
            bright, dark = max(tones[text], tones[ground]), min(tones[text], tones[ground])
            assert (bright + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


def test_names_are_escaped(tmp_path):
    write_template("findings.html", tmp_path / "a.html", findings=Findings("<b>", 0, {}, ()), sections=[], bars=[])
    assert "<h1>&lt;b&gt;</h1>" in (tmp_path / "a.html").read_text()
