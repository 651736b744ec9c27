import os
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from imprint.data.decoding import blocks
from imprint.data.decoding.blocks import Coloured, decode_blocks, divide
from imprint.data.decoding.decode import decode
from imprint.preprocessing.input_spec import InputSpec, fit

FORM = InputSpec(1, (8, 8), (8, 8))


def file(level, size=(8, 8), mode="L", form="PNG", **options):
    content = BytesIO()
    Image.new(mode, size, level).save(content, form, **options)
    return content.getvalue()


def read(contents, form=FORM, **options):
    return list(decode_blocks(contents.__getitem__, divide(len(contents), form), form, **options))


def test_images_stay_in_order_whichever_way_each_is_decoded():
    ways = [
        lambda level: file(level),
        lambda level: file(level, size=(20, 10)),
        lambda level: file(level, form="BMP"),
        lambda level: file((level, level, 0), mode="RGB"),
        lambda level: file((level, 99), mode="LA"),
        lambda level: b"",
        lambda level: file(level)[:-1],
    ]
    contents = [ways[i % len(ways)](i % 256) for i in range(600)]
    whole = [i for i in range(600) if i % len(ways) < 5]
    made = read(contents)
    assert [len(block.pixels) + len(block.bad) for block in made] == [256, 256, 88]
    pixels = np.concatenate([block.pixels for block in made])
    assert np.array_equal(pixels, [fit(decode(contents[i]).pixels, FORM) for i in whole])
    assert [size for block in made for size in block.sizes] == [decode(contents[i]).size for i in whole]
    assert [place for block in made for place, _ in block.bad] == [i for i in range(600) if i not in whole]
    assert {cause for block in made for _, cause in block.bad} == {"it is empty", "the file is cut short"}
    assert sum(len(block.notes) for block in made) == len([i for i in whole if i % len(ways) == 4])


@pytest.mark.parametrize("odd", [file((1, 2, 3), mode="RGB"), file((1, 2, 3), mode="RGB", form="BMP")])
def test_colour_among_grey_is_noticed(odd):
    grey = [file((9, 9, 9), mode="RGB") for _ in range(70)]
    assert sum(len(block.pixels) for block in read(grey, must_be_grey=True)) == 70
    with pytest.raises(Coloured):
        read([*grey, odd], must_be_grey=True)


def test_tiny_images_take_one_thread_and_others_all_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(5)), raising=False)
    for contents, workers in (
        ([file(1)] * 900, 1),
        ([b""] * 3, 1),
        ([file(1, size=(65, 9))], 5),
        ([*[file(1)] * 600, *[file(1, size=(9, 65))] * 300], 5),
    ):
        assert blocks._workers(contents.__getitem__, divide(len(contents), FORM)) == workers
