import numpy as np

from imprint.core.texts import text_array


def test_texts_come_back_as_plain_text():
    texts = ["a.png", "", "größe/" + 300 * "x", "a\0", "🥚"]
    assert text_array(texts).tolist() == texts
    assert [type(text) for text in text_array(texts)] == [str] * 5
    assert text_array([]).shape == (0,)


def test_one_long_text_does_not_widen_the_others():
    array = text_array([*map(str, range(1000)), 10_000 * "x"])
    assert array.dtype.kind == "T"
    assert array.nbytes < 50_000  # at a fixed width 40 MB


def test_half_characters_are_written_out():
    assert text_array(["a\ud800", "b"]).tolist() == ["a\\ud800", "b"]
    assert text_array(np.array(["a\udcff"]).tolist()).tolist() == ["a\\udcff"]
