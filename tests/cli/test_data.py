"""The commands that look at data: show and check."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from helpers import refused, run_imprint


def test_show(digits_csv, tmp_path):
    done = run_imprint("show", digits_csv / "train.csv", "--save", "five.png", cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert lines[0] == "train.csv: 600 images of 8×8 grey, 1 channel, 10 classes"
    assert lines[-6].split()[:3] == ["row", "label", "pixel0"]
    assert (tmp_path / "five.png").stat().st_size > 1000
    content = json.loads(run_imprint("show", digits_csv / "test.csv", "--json", cwd=tmp_path).stdout)
    assert content == {"images": 100, "channels": 1, "height": 8, "width": 8, "classes": {}}


def test_show_augmented(digits_csv, tmp_path):
    run_imprint("show", digits_csv / "train.csv", "--augmented", "a.png", "--recipe", "tutorial", cwd=tmp_path)
    with Image.open(tmp_path / "a.png") as drawn:
        assert drawn.width > 800


def test_show_what_a_model_sees(model_file, divided):
    expected = "error: --as at .: it draws one image, and that is no file. Name the file of an image."
    assert refused("show", ".", "--as", model_file, cwd=divided) == expected
    image = next(divided.glob("images/test/1/*.png"))
    done = run_imprint("show", image, "--as", model_file, "--json", cwd=divided)
    written = f"{image.stem}-seen.png"
    assert json.loads(done.stdout) == {"files": [written]}
    assert (divided / written).is_file()


def test_check_finds_what_leaks_between_parts(divided):
    leaking = next(divided.glob("images/train/0/*.png"))
    (divided / "images/test/0/again.png").write_bytes(leaking.read_bytes())
    done = run_imprint("check", "images", "--no-labels", "--json", "--strict", cwd=divided, status=1)
    leaks = [finding for finding in json.loads(done.stdout)["findings"] if finding["kind"] == "leak"]
    assert len(leaks) == 1
    assert [Path(source).name for source in leaks[0]["where"]] == [leaking.name, "again.png"]


def test_check_tells_images_that_a_model_reads_better_turned(model_file, digits, tmp_path):
    for name, pixels in (("right", digits.pixels), ("turned", digits.pixels.swapaxes(2, 3))):
        np.savez(tmp_path / f"{name}.npz", images=pixels[:300], labels=digits.labels[:300])
        arguments = ("check", f"{name}.npz", "--as", model_file, "--no-labels", "--json")
        done = run_imprint(*arguments, cwd=tmp_path)
        found = [one for one in json.loads(done.stdout)["findings"] if one["kind"] == "orientation"]
        assert [one["where"] for one in found] == ([["turned.npz"]] if name == "turned" else [])
    assert "the model reads these images much better transposed: accuracy " in found[0]["message"]
    done = run_imprint("evaluate", model_file, "turned.npz", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["notes"] == [found[0]["message"]]
    assert "much better transposed" in done.stderr
