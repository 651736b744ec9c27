"""Tiny PNG files decoded together must be what Pillow alone makes of each, and what is wrong with them must be said."""

import struct
import tracemalloc
import zlib
from io import BytesIO

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from imprint import DataError
from imprint.data.decoding.decode import decode, decode_many
from imprint.data.decoding.small_png import LONGEST, inflate

GREY, COLOUR = (8, 0, 0, 0, 0), (8, 2, 0, 0, 0)  # depth, colour, compression, filters, interlace
HARMLESS = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9, b"tIME": 7}
END = b"\0\0\0\0IEND\xaeB`\x82"


def chunk(name, body, wrong=0):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body) ^ wrong)


def header(width, height, ways=GREY):
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">II5B", width, height, *ways))


def png(width, height, rows, ways=GREY):
    return header(width, height, ways) + chunk(b"IDAT", zlib.compress(rows)) + END


def alone(content):
    """What Pillow makes of a file: size, note and pixels, or what is wrong."""
    try:
        found = decode(content)
    except DataError as error:
        return error.cause
    return found.size, found.note, found.pixels.tolist()


def together(contents):
    """What is made of many files at once, likewise, for each."""
    seen = {}
    for places, found in decode_many(contents.__getitem__, range(len(contents))):
        for i, place in enumerate(places):
            wrong = isinstance(found, DataError)
            seen[place] = found.cause if wrong else (found.size, found.note, found.pixels[i].tolist())
    return [seen[place] for place in range(len(contents))]


@st.composite
def parts(draw):
    """A plain image: its header, filtered rows of all five kinds, and the pieces that these are compressed into."""
    width, height = (draw(st.one_of(st.integers(1, 9), st.integers(1, LONGEST))) for _ in range(2))
    ways = draw(st.sampled_from([GREY, COLOUR]))
    row = width * (1 if ways == GREY else 3)
    dice = np.random.default_rng(draw(st.integers(0, 2**32)))
    filters = draw(st.sampled_from([[0], [1], [2], [3], [4], range(5)]))
    rows = b"".join(bytes([dice.choice(filters)]) + dice.bytes(row) for _ in range(height))
    packed = zlib.compress(rows, draw(st.integers(0, 9)))
    cuts = sorted(draw(st.lists(st.integers(0, len(packed)), max_size=3)))
    pieces = [packed[a:b] for a, b in zip([0, *cuts], [*cuts, len(packed)], strict=True)]
    return (width, height, ways), rows, pieces


@st.composite
def plain(draw):
    (width, height, ways), _, pieces = draw(parts())
    chunks = [chunk(b"IDAT", piece) for piece in pieces]
    others = [chunk(name, bytes(size)) for name, size in HARMLESS.items() if draw(st.booleans())]
    before = draw(st.integers(0, len(others)))
    after = draw(st.sampled_from([b"", b"anything"]))
    return b"".join([header(width, height, ways), *others[:before], *chunks, *others[before:], END, after])


@settings(max_examples=150, deadline=None)
@given(st.lists(plain(), min_size=1, max_size=6))
def test_plain_files_are_taken_and_come_out_as_pillow_reads_them(contents):
    assert all(inflate(content) for content in contents)
    assert together(contents) == [alone(content) for content in contents]


@st.composite
def damaged(draw):
    """A file with one thing about it that is not plain: broken, or another kind of image."""
    (width, height, ways), rows, pieces = draw(parts())
    packed, start = b"".join(pieces), header(width, height, ways)
    place = draw(st.integers(0, len(packed)))
    stray = chunk(draw(st.sampled_from([b"gAMA", b"tRNS", b"PLTE", b"acTL", b"eXIf", b"IHDR", b"abCd"])), bytes(3))
    row = len(rows) // height
    return draw(
        st.sampled_from(
            [
                start + chunk(b"IDAT", packed, wrong=1) + END,
                start + chunk(b"IDAT", packed) + END[:-1] + b"!",
                start[:-1] + bytes([start[-1] ^ 1]) + chunk(b"IDAT", packed) + END,
                start + chunk(b"IDAT", packed),
                (start + chunk(b"IDAT", packed) + END)[: -1 - place],
                start + chunk(b"IDAT", packed[:place]) + END,
                start + chunk(b"IDAT", packed[:-4] + bytes(4)) + END,
                start + chunk(b"IDAT", packed + b"more") + END,
                start + chunk(b"IDAT", packed[:place] + b"\xff" + packed[place + 1 :]) + END,
                start + chunk(b"IDAT", zlib.compress(rows + rows)) + END,
                start + chunk(b"IDAT", zlib.compress(rows[:-row])) + END,
                start + chunk(b"IDAT", zlib.compress(rows[:-1])) + END,
                start + chunk(b"IDAT", zlib.compress(rows[:-row] + b"\5" + rows[1 - row :])) + END,
                start + chunk(b"IDAT", b"") + END,
                start + END,
                start + stray + chunk(b"IDAT", packed) + END,
                start
                + chunk(b"IDAT", packed[:place])
                + chunk(b"tIME", bytes(7))
                + chunk(b"IDAT", packed[place:])
                + END,
                header(width, height, (*ways[:4], 1)) + chunk(b"IDAT", packed) + END,
                header(width, height, (*ways[:2], 1, *ways[3:])) + chunk(b"IDAT", packed) + END,
                header(width, height, (*ways[:3], 1, ways[4])) + chunk(b"IDAT", packed) + END,
                header(width, height, (16, *ways[1:])) + chunk(b"IDAT", packed) + END,
                header(width, height, (4, *ways[1:])) + chunk(b"IDAT", packed) + END,
                header(0, height, ways) + chunk(b"IDAT", packed) + END,
                header(width, 2**31, ways) + chunk(b"IDAT", packed) + END,
            ]
        )
    )


@settings(max_examples=300, deadline=None)
@given(damaged(), plain())
def test_what_is_not_plain_gets_the_answer_that_pillow_alone_gives(odd, whole):
    assert together([whole, odd, whole]) == [alone(whole), alone(odd), alone(whole)]


@settings(max_examples=150, deadline=None)
@given(plain(), st.data())
def test_damage_anywhere_gets_the_answer_that_pillow_alone_gives(content, data):
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    assert together([bytes(changed)]) == [alone(bytes(changed))]


@pytest.mark.parametrize(("mode", "taken"), [("L", True), ("RGB", True), ("1", False), ("P", False), ("LA", False)])
@pytest.mark.parametrize("options", [{"compress_level": level} for level in range(10)] + [{"optimize": True}])
def test_pillows_own_files(digits, mode, taken, options):
    images = [Image.fromarray(pixels[0]).convert(mode) for pixels in digits.pixels[:20]]
    contents = []
    for image in images:
        image.save(file := BytesIO(), "PNG", **options)
        contents.append(file.getvalue())
    assert all((inflate(content) is not None) is taken for content in contents)
    for image, found in zip(images, together(contents), strict=True):
        expected = np.asarray(image.convert("RGB" if mode in ("RGB", "P") else "L"))
        assert found == ((8, 8), "", expected.reshape(8, 8, -1).tolist())


def test_a_note_inside_a_file_leaves_it_to_pillow():
    notes = PngInfo()
    notes.add_text("transparency", "7")  # which Pillow takes for a tRNS chunk
    Image.new("L", (4, 4), 7).save(file := BytesIO(), "PNG", pnginfo=notes)
    assert inflate(file.getvalue()) is None


def test_the_longest_side():
    for width, height in ((LONGEST, 1), (1, LONGEST), (LONGEST + 1, 1), (1, LONGEST + 1)):
        content = png(width, height, bytes((width + 1) * height))
        assert (inflate(content) is not None) is (max(width, height) <= LONGEST)
        assert together([content]) == [alone(content)]


def test_a_bomb_does_not_go_off():
    content = png(28, 28, bytes(200_000_000))
    tracemalloc.start()
    assert inflate(content) is None
    assert tracemalloc.get_traced_memory()[1] < 2 * len(content) + 100_000
    tracemalloc.stop()
    assert together([content]) == [alone(content)]
