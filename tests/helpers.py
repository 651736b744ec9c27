"""What several tests use."""

import io
import re
import signal
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

import imprint
from imprint.__main__ import main

IMPRINT = [sys.executable, "-m", "imprint"]
FAST = ["--set", "epochs=3", "--set", "min_steps=0"]
BAD_NAME = "<script>alert(1)</script>"


def pixel_table(images, labelled=True):
    """Lay images out as Kaggle's CSV does."""
    flat = images.pixels.transpose(0, 2, 3, 1).reshape(len(images), -1)
    header = [f"pixel{i}" for i in range(flat.shape[1])]
    rows = [",".join(map(str, row)) for row in flat]
    if labelled:
        header.insert(0, "label")
        rows = [f"{images.class_names[label]},{row}" for label, row in zip(images.labels, rows, strict=True)]
    return "\n".join([",".join(header), *rows, ""])


def random_images(classes, count, shape=(1, 8, 8), name=BAD_NAME):
    """Images of noise, whose names and sources hold HTML."""
    random = np.random.default_rng(0)
    names = tuple(f"{name} {i:03}" for i in range(classes))
    pixels = random.integers(0, 256, (count, *shape), dtype=np.uint8)
    sources = np.array([f"/home/someone/{name}/{i}.png" for i in range(count)])
    return imprint.LabelledImages(pixels, np.arange(count) % classes, names, sources, name)


class _Tags(HTMLParser):
    """Counts tags, and refuses what could run a script or fetch something."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def handle_starttag(self, tag, attributes):
        self.counts[tag] += 1
        for name, value in attributes:
            assert not name.startswith("on")
            assert name not in ("src", "href", "xlink:href") or value.startswith(("data:image/", "#")), value
            assert name != "style" or "url(" not in value.replace("url(#", "")


def tags(html):
    """Count the tags of HTML by name; it must be harmless."""
    parser = _Tags()
    parser.feed(html)
    parser.close()
    assert "script" not in parser.counts
    return parser.counts


def write_short_run(images, folder, validation, epochs=3):
    """A run folder of a network trained for one epoch, with a made-up history of any length."""
    from imprint.runs.folder import write_run
    from imprint.training.plan import make_plan

    fields = {"epochs": 1, "min_steps": 1, "validation": validation}
    run = imprint.train(images, "quick", verbose=False, **fields)
    history = dict.fromkeys(run.history, np.geomspace(2, 0.1, epochs).tolist())
    folder.mkdir(exist_ok=True)
    plan = make_plan(images, "quick", **fields)
    write_run(replace(run, history=history, folder=folder), plan, {"command": "imprint train <b>"})


def run_imprint(*arguments, cwd, status=0, **environment):
    """Run a command within this process, which spares it seconds of imports."""
    encoding = environment.pop("PYTHONIOENCODING", "utf-8")
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True) for _ in range(2))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        patch.setattr("sys.argv", ["imprint", *map(str, arguments)])
        patch.setattr("sys.stdout", out)
        patch.setattr("sys.stderr", err)
        for name, value in environment.items():
            patch.setenv(name, value)
        try:
            with pytest.raises(SystemExit) as caught:
                main()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    stdout, stderr = (stream.buffer.getvalue().decode(encoding) for stream in (out, err))
    assert (caught.value.code or 0) == status, stderr
    assert "Traceback" not in stderr
    return SimpleNamespace(returncode=caught.value.code or 0, stdout=stdout, stderr=stderr)


def refused(*arguments, cwd):
    """Run a command that must fail, and give its one line."""
    done = run_imprint(*arguments, cwd=cwd, status=2)
    lines = done.stderr.splitlines()
    assert len(lines) == 1
    assert re.fullmatch(r"error: .+ at .+: .+\. .+\.", lines[0])
    assert not done.stdout or "--save" in arguments  # the table of the data comes before its image
    return lines[0]
