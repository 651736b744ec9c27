import dataclasses
import json

import numpy as np
import pytest

from helpers import pixel_table
from imprint import DataError, load
from imprint.runs.provenance import DataProvenance, Provenance, provenance_of
from imprint.training.plan import make_plan


def test_the_same_images_come_again_from_elsewhere(digits, tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text(pixel_table(digits[:50]))
    monkeypatch.chdir(tmp_path)
    provenance = DataProvenance.of(load("a.csv"))
    monkeypatch.chdir("/")
    assert np.array_equal(provenance.read_again().pixels, digits.pixels[:50])
    (tmp_path / "a.csv").rename(tmp_path / "moved.csv")
    with pytest.raises(DataError, match="No such file"):
        provenance.read_again()
    assert len(provenance.read_again(str(tmp_path / "moved.csv"))) == 50


def test_changed_data_are_refused(digits, tmp_path):
    (tmp_path / "a.csv").write_text(pixel_table(digits[:50]))
    provenance = DataProvenance.of(load(tmp_path / "a.csv"))
    for other in (digits[1:51], digits[:49], dataclasses.replace(digits[:50], labels=(digits.labels[:50] + 1) % 10)):
        (tmp_path / "a.csv").write_text(pixel_table(other))
        with pytest.raises(DataError, match="they are not the images and labels of the run"):
            provenance.read_again()


def test_every_pixel_label_and_name_counts(digits):
    some = digits[:30]
    pixels, labels = some.pixels.copy(), some.labels.copy()
    pixels[17, 0, 3, 3] ^= 1
    labels[29] = (labels[29] + 1) % 10
    names = ("zero", *some.class_names[1:])
    others = [some]
    others += [dataclasses.replace(some, **change) for change in ({"pixels": pixels}, {"labels": labels})]
    others.append(dataclasses.replace(some, class_names=names))
    assert len({other.fingerprint for other in others}) == 4


def test_through_json(digits):
    plan = make_plan(digits, validation=digits)
    provenance = provenance_of(plan, "imprint train '\udcff'")
    assert Provenance.from_dict(json.loads(json.dumps(provenance.to_dict()))) == provenance
    provenance.command.encode()
    assert provenance.training == provenance.validation
    assert (provenance.training.path, provenance.training.options) == ("digits", {"side": 128, "allow_bad": 0.2})


@pytest.mark.parametrize("broken", [{}, {"training": None}, {"training": 1}, {"training": {}, "validation": None}])
def test_what_does_not_hold_together(broken):
    with pytest.raises((KeyError, TypeError, ValueError)):
        Provenance.from_dict(broken)
