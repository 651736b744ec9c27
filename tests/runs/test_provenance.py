import dataclasses
import json

import numpy as np
import pytest

from helpers import pixel_table
from imprint import DataError, load
from imprint.data.images import has_fingerprint
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


def test_fingerprints_of_versions_up_to_0_2_are_known_again(digits):
    assert not has_fingerprint(digits, digits[::-1].fingerprint)
    earlier = "b1291caeee242b2705518b699105c956"  # as 0.2.0 wrote it
    assert has_fingerprint(digits, earlier)
    assert not has_fingerprint(digits[::-1], earlier)
    provenance = DataProvenance.of(load("digits"))
    assert len(dataclasses.replace(provenance, fingerprint=earlier).read_again()) == 1797
    with pytest.raises(DataError, match="they are not the images and labels of the run"):
        dataclasses.replace(provenance, fingerprint=earlier[::-1]).read_again()


def test_a_fingerprint_reads_no_pixels_whose_hashes_are_known(digits, monkeypatch):
    images = dataclasses.replace(digits)
    assert len(images.pixel_hashes) == 1797
    monkeypatch.setattr("imprint.data.images.in_chunks", None)  # through which pixels are read
    assert images.fingerprint == digits.fingerprint


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
