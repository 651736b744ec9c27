import struct
import subprocess
import sys
import time
import warnings
import zlib
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from imprint import DataError
from imprint.data.decoding.decode import count_pages, decode, read_header, read_numbers

HEIGHT, WIDTH = 24, 40


def smooth_colour():
    """An image that survives JPEG: slow ramps, different in each direction and channel."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([rows * 8, columns * 5, 255 - rows * 4 - columns * 2], axis=2).clip(0, 255).astype(np.uint8)


def content(image, form, **options):
    file = BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def oriented(upright, orientation):
    """Store an upright array so that its EXIF orientation brings it back: EXIF 2.32, section 4.6.4."""
    return {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation](upright)


def drawn(stored, mode):
    if mode == "CMYK":
        return Image.frombytes(mode, stored.shape[1::-1], stored.tobytes())
    image = Image.fromarray(np.ascontiguousarray(stored))
    assert image.mode == mode
    return image


def exif(orientation):
    tags = Image.Exif()
    tags[274] = orientation
    return tags


COLOUR = smooth_colour()
GREY = COLOUR[..., :1]
WIDE = (GREY[..., 0].astype(np.uint16) * 257 + 60).clip(0, 65535)
ALPHA = np.broadcast_to(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, WIDTH))


def on_white(colour):
    share = ALPHA[..., None] / 255
    return colour * share + 255 * (1 - share)


def ink(colour):
    """CMYK without black, so that red is 255 - cyan."""
    return np.concatenate([255 - colour, np.zeros((*colour.shape[:2], 1), np.uint8)], axis=2)


MODES = {  # the array as stored, Pillow's mode, file format, what must come out
    "grey png": (GREY[..., 0], "L", "PNG", GREY),
    "colour png": (COLOUR, "RGB", "PNG", COLOUR),
    "16 bit png": (WIDE, "I;16", "PNG", WIDE[..., None] / 257),
    "16 bit tiff": (WIDE, "I;16", "TIFF", WIDE[..., None] / 257),
    "transparent png": (np.dstack([COLOUR, ALPHA]), "RGBA", "PNG", on_white(COLOUR)),
    "grey transparent png": (np.dstack([GREY, ALPHA]), "LA", "PNG", on_white(GREY)),
    "transparent webp": (np.dstack([COLOUR, ALPHA]), "RGBA", "WEBP", on_white(COLOUR)),
    "cmyk tiff": (ink(COLOUR), "CMYK", "TIFF", COLOUR),
    "ycbcr tiff": (COLOUR, "RGB", "TIFF", COLOUR),
    "black and white png": (GREY[..., 0] > 99, "1", "PNG", (GREY > 99) * 255.0),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", MODES)
def test_modes_and_orientations(kind, orientation):
    stored, mode, form, expected = MODES[kind]
    image = drawn(oriented(stored, orientation), mode)
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    decoded = decode(content(image, form, exif=exif(orientation), **options))
    assert decoded.size == (HEIGHT, WIDTH)
    assert decoded.pixels.shape == expected.shape
    assert np.abs(decoded.pixels - expected.astype(float)).max() <= 1


@pytest.mark.parametrize("kind", MODES)
def test_the_header_agrees_with_decoding(kind):
    stored, mode, form, expected = MODES[kind]
    for orientation in (1, 6):
        image = drawn(oriented(stored, orientation), mode)
        size, grey, deep, transparent = read_header(content(image, form, exif=exif(orientation)))
        assert size == (HEIGHT, WIDTH)
        assert grey == (expected.shape[2] == 1 and mode != "RGBA")
        assert (deep, transparent) == (kind.startswith("16"), "transparent" in kind)


@pytest.mark.parametrize("quality", [95, 75])
def test_jpeg_is_pillows(quality):
    file = content(Image.fromarray(COLOUR), "JPEG", quality=quality)
    assert np.array_equal(decode(file).pixels, np.asarray(Image.open(BytesIO(file))))


@pytest.mark.parametrize("form", ["GIF", "PNG"])
def test_palette(form):
    image = Image.fromarray(COLOUR).quantize(64)
    assert np.array_equal(decode(content(image, form)).pixels, np.asarray(image.convert("RGB")))


def test_a_transparent_colour_of_a_palette_becomes_white():
    image = Image.new("P", (2, 1), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((0, 0), 0)
    decoded = decode(content(image, "PNG", transparency=1))
    assert decoded.pixels.tolist() == [[[255, 0, 0], [255, 255, 255]]]
    assert "white" in decoded.note


def test_cmyk_jpeg_with_adobes_marker_is_stored_inverted_and_without_it_is_not():
    adobe = content(drawn(ink(COLOUR), "CMYK"), "JPEG", quality=100, subsampling=0)
    assert b"Adobe" in adobe
    start = adobe.index(b"\xff\xee")
    plain = adobe[:start] + adobe[start + 2 + int.from_bytes(adobe[start + 2 : start + 4]) :]
    as_adobe, as_plain = decode(adobe).pixels.astype(int), decode(plain).pixels.astype(int)
    assert np.abs(as_adobe - COLOUR).max() <= 12  # JPEG's own loss
    assert np.abs(as_plain - decode(adobe).pixels).max() > 100


def test_ycck_jpeg_is_cmyk_after_libjpeg():
    ycc = np.asarray(Image.fromarray(255 - COLOUR).convert("YCbCr"))  # Adobe stores all of it inverted
    stored = np.dstack([255 - ycc, np.zeros((HEIGHT, WIDTH), np.uint8)])
    file = bytearray(content(drawn(stored, "CMYK"), "JPEG", quality=100, subsampling=0))
    file[file.index(b"Adobe") + 11] = 2  # Adobe technical note 5116: YCCK
    assert np.abs(decode(bytes(file)).pixels.astype(int) - COLOUR).max() <= 12


def test_12_bits_of_16_are_scaled_by_their_depth():
    pixels = np.array([[0, 2048, 4095]], dtype=np.uint16)
    header = b"II*\0" + struct.pack("<I", 8)
    tags = [(256, 3, 3), (257, 3, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 200), (277, 3, 1), (278, 3, 1)]
    tags.append((279, 4, 5))
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    packed = bytes([0x00, 0x08, 0x00, 0xFF, 0xF0])  # 000 800 FFF
    file = header + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"
    file = file.ljust(200, b"\0") + packed
    expected = np.round(pixels * (255 / 4095))
    assert np.abs(decode(file).pixels[..., 0] - expected).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (10_000, 1), (1, 10_000)])
def test_odd_shapes(size):
    assert decode(content(Image.new("RGB", size, "red"), "PNG")).pixels.shape == (size[1], size[0], 3)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_animations_give_their_first_frame_and_say_so(form):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    decoded = decode(content(frames[0], form, save_all=True, append_images=frames[1:], lossless=True))
    assert decoded.pixels[0, 0].tolist() == pytest.approx([255, 0, 0], abs=2)
    assert "first frame" in decoded.note


def test_scaled_decoding_keeps_the_shorter_side():
    file = content(Image.fromarray(COLOUR).resize((800, 480)), "JPEG", quality=95)
    assert decode(file).pixels.shape == (480, 800, 3)
    for shorter, expected in ((100, 120), (60, 60), (61, 120), (240, 240), (241, 480), (481, 480)):
        decoded = decode(file, shorter=shorter)
        assert decoded.pixels.shape[0] == expected
        assert decoded.size == (480, 800)


@pytest.mark.parametrize(
    "junk", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" * 9]
)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_is_survived(form, junk):
    file = content(Image.fromarray(COLOUR), form, exif=junk)
    assert decode(file).pixels.shape == (HEIGHT, WIDTH, 3)


def damaged_png():
    file = bytearray(content(Image.fromarray(COLOUR), "PNG"))
    file[file.index(b"IDAT") + 30] ^= 0x10
    return bytes(file)


def wrong_checksum_png():
    file = bytearray(content(Image.fromarray(COLOUR), "PNG"))
    file[-13] ^= 1  # the last byte of the pixels' checksum
    return bytes(file)


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bomb(side=30_000):
    """A one-colour PNG of 900 million pixels, 900 kB."""
    rows = zlib.compressobj(9)
    body = b"".join(rows.compress(b"\0" * (side // 8 + 1)) for _ in range(side)) + rows.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")


SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
BAD = {
    "empty": (b"", "empty"),
    "html": (b"\n<!DOCTYPE html><html></html>", "a web page"),
    "svg": (SVG, "SVG"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
    "text": (b"just words", "no JPEG, PNG"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
    "damaged png": (damaged_png(), "damaged"),
    "wrong checksum": (wrong_checksum_png(), "checksum is wrong"),
    "float tiff": (content(Image.new("F", (2, 2)), "TIFF"), "no range"),
    "many pixels": (content(Image.new("1", (11_000, 11_000)), "PNG"), "more than the 100 million"),
    "float pfm": (content(Image.new("F", (2, 2)), "PPM"), "no range"),
    "cut ppm": (b"P6 9 9 255\n123", "cut short|damaged"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_content_gets_one_clear_line(kind, tmp_path):
    file, words = BAD[kind]
    path = tmp_path / "a.jpg"
    path.write_bytes(file)
    for given in (file, path):
        with pytest.raises(DataError, match=words) as caught:
            decode(given)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_truncated_files_are_refused(form, share):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    file = content(Image.fromarray(noise), form)
    with pytest.raises(DataError):
        decode(file[: int(len(file) * share)])


def test_every_cut_of_a_progressive_jpeg_is_refused_or_read():
    file = content(Image.fromarray(COLOUR), "JPEG", progressive=True)
    for end in range(0, len(file) - 2, 7):
        with pytest.raises(DataError):
            decode(file[:end])


def test_random_damage_never_leaks_another_error():
    dice = np.random.default_rng(1)
    for form in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF"):
        whole = (
            content(Image.fromarray(COLOUR), form, exif=exif(6))
            if form not in ("GIF", "BMP", "PPM")
            else content(Image.fromarray(COLOUR), form)
        )
        for _ in range(60):
            file = bytearray(whole)
            for place in dice.integers(0, len(file), 4):
                file[place] = dice.integers(0, 256)
            for reader in (decode, read_header):
                try:
                    reader(bytes(file))
                except DataError as error:
                    assert "\n" not in str(error)


def test_pillows_warnings_are_not_leaked():
    palette = Image.fromarray(COLOUR).quantize(8)
    big = content(Image.new("1", (9_990, 9_990)), "PNG")
    cases = [content(palette, "PNG", transparency=bytes(range(8))), big]
    cases.append(content(Image.fromarray(COLOUR), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\0\x01\x02"))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for file in cases:
            decode(file)
    assert not seen


def test_a_bomb_is_refused_before_it_goes_off(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb())
    started = time.perf_counter()
    with pytest.raises(DataError, match="pixels"):
        decode(path)
    assert time.perf_counter() - started < 1
    script = (
        "import resource, sys; from imprint.data.decoding.decode import decode; from pathlib import Path\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: decode(Path(sys.argv[1]))\n"
        "except ValueError: print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 200


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("form", ["AVIF", "HEIF"])
def test_avif_and_heic(form, orientation):
    from pillow_heif import from_pillow

    stored = Image.fromarray(np.ascontiguousarray(oriented(COLOUR, orientation)))
    file = BytesIO()
    if form == "HEIF":
        photo = from_pillow(stored)
        photo.info["exif"] = exif(orientation).tobytes()  # written as a rotation too, as phones do
        photo.save(file, quality=100)
    else:
        stored.save(file, "AVIF", quality=100, exif=exif(orientation))
    for reader in (decode, lambda content: SimpleNamespace(size=read_header(content)[0], pixels=None)):
        found = reader(file.getvalue())
        assert found.size == (HEIGHT, WIDTH)
        assert found.pixels is None or np.abs(found.pixels - COLOUR.astype(int)).mean() < 3


def test_reading_heic_registers_nothing_with_pillow():
    from pillow_heif import from_pillow

    file = BytesIO()
    from_pillow(Image.fromarray(COLOUR)).save(file)
    before = dict(Image.OPEN), dict(Image.EXTENSION)
    decode(file.getvalue())
    assert before == (Image.OPEN, Image.EXTENSION)


def test_heic_without_its_decoder_names_it(monkeypatch):
    monkeypatch.setattr("imprint.data.decoding.decode.can_read_heic", lambda: False)
    with pytest.raises(DataError, match=r"it is a HEIC photo; install its decoder: pip install pillow-heif\. Then try"):
        decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50))


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (b"P5\n2 2\n255\n\0\x40\x80\xff", [0, 64, 128, 255]),
        (b"P5\n2 2\n4095\n" + np.array([0, 1024, 2048, 4095], ">u2").tobytes(), [0, 64, 128, 255]),
        (b"P5 2 2 65535\n" + np.array([0, 16448, 32896, 65535], ">u2").tobytes(), [0, 64, 128, 255]),
        (b"P2\n# a note\n2 2\n15\n0 5 10 15\n", [0, 85, 170, 255]),
        (b"P1\n2 2\n1 0 0 1\n", [0, 255, 255, 0]),
        (b"P4\n2 2\n\x80\x40", [0, 255, 255, 0]),
    ],
)
def test_pgm_and_pbm(file, expected):
    decoded = decode(file)
    assert decoded.pixels.shape == (2, 2, 1)
    assert decoded.pixels.ravel().tolist() == expected
    assert read_header(file)[:2] == ((2, 2), True)


def test_ppm():
    assert np.array_equal(decode(content(Image.fromarray(COLOUR), "PPM")).pixels, COLOUR)


def test_the_preview_in_a_raw_is_not_taken_for_the_image(tmp_path):
    preview = Image.fromarray(COLOUR)
    for tags in ({50706: b"\1\4\0\0"}, {254: 1, 330: 8}):
        with pytest.raises(DataError, match="it is a camera's RAW; export it"):
            decode(content(preview, "TIFF", tiffinfo=tags))
    (tmp_path / "a.NEF").write_bytes(content(preview, "TIFF"))
    with pytest.raises(DataError, match="it is a camera's RAW"):
        decode(tmp_path / "a.NEF")
    assert decode(content(preview, "TIFF", tiffinfo={254: 0})).size == (HEIGHT, WIDTH)


DEEP = np.random.default_rng(1).integers(0, 2**16, (7, 9, 4), dtype=np.uint16)


def deep_png(numbers):
    height, width, channels = numbers.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in numbers))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")


def deep_tiff(numbers, order="<", extra=None, planes=1, packed=False):
    """Write it by hand: Pillow writes no 16 bits in colour."""
    height, width, channels = numbers.shape
    values = numbers.transpose(2, 0, 1) if planes == 2 else numbers
    body = values.astype(f"{order}u2").tobytes()
    body = zlib.compress(body) if packed else body
    depths, data = 300, 320
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, channels, depths), (259, 3, 1, 8 if packed else 1)]
    tags += [(262, 3, 1, 2), (273, 4, 1, data), (277, 3, 1, channels), (278, 3, 1, height), (279, 4, 1, len(body))]
    tags += [(284, 3, 1, planes)] + ([] if extra is None else [(338, 3, 1, extra)])
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, kind, count)
        + (struct.pack(f"{order}HH", value, 0) if kind == 3 and count == 1 else struct.pack(f"{order}I", value))
        for tag, kind, count, value in tags
    )
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    file = start + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    return file.ljust(depths, b"\0") + struct.pack(f"{order}{channels}H", *[16] * channels).ljust(20, b"\0") + body


DEEP_FILES = {
    "grey png": (deep_png(DEEP[..., :1]), DEEP[..., :1]),
    "grey transparent png": (deep_png(DEEP[..., :2]), DEEP[..., :1]),
    "colour png": (deep_png(DEEP[..., :3]), DEEP[..., :3]),
    "transparent png": (deep_png(DEEP), DEEP[..., :3]),
    "colour tiff": (deep_tiff(DEEP[..., :3]), DEEP[..., :3]),
    "colour tiff, big-endian": (deep_tiff(DEEP[..., :3], ">"), DEEP[..., :3]),
    "colour tiff, packed": (deep_tiff(DEEP[..., :3], packed=True), DEEP[..., :3]),
    "colour tiff, big-endian, packed": (deep_tiff(DEEP[..., :3], ">", packed=True), DEEP[..., :3]),
    "transparent tiff": (deep_tiff(DEEP, extra=2), DEEP[..., :3]),
    "transparent tiff, packed": (deep_tiff(DEEP, extra=2, packed=True), DEEP[..., :3]),
    "tiff with padding": (deep_tiff(DEEP, extra=0), DEEP[..., :3]),
}


@pytest.mark.parametrize("kind", ["colour png", "colour tiff", "colour tiff, big-endian, packed"])
def test_of_16_bits_in_colour_a_pil_image_has_the_upper_8(kind):
    file, expected = DEEP_FILES[kind]
    with Image.open(BytesIO(file)) as image:
        decoded = decode(image, pixel_range=(0, 9))
        assert np.array_equal(decoded.pixels, expected >> 8)
        assert not decoded.deep
        assert not read_header(image).deep


@pytest.mark.parametrize("kind", DEEP_FILES)
def test_all_16_bits_of_a_channel_are_read(kind):
    file, expected = DEEP_FILES[kind]
    assert np.array_equal(read_numbers(file), expected)
    assert read_header(file).deep
    if "transparent" not in kind:
        shares = (expected / 4095).clip(0, 1)
        assert np.abs(decode(file, pixel_range=(0, 4095)).pixels - 255 * shares).max() <= 0.51


def test_premultiplied_alpha_of_16_bits_is_divided_out():
    alpha = np.full((7, 9, 1), 32768, np.uint16)
    file = deep_tiff(np.concatenate([DEEP[..., :3] // 2, alpha], axis=2), extra=1)
    assert np.abs(read_numbers(file).astype(int) - DEEP[..., :3]).max() <= 3


def test_16_bits_in_planes_of_their_own_are_refused():
    with pytest.raises(DataError, match="in a way that is not read"):
        decode(deep_tiff(DEEP[..., :3], planes=2))


def test_transparent_deep_pixels_are_laid_on_the_background():
    numbers = np.zeros((4, 4, 2), np.uint16)
    numbers[1] = 4095, 65535
    for background in (0, 255):
        decoded = decode(deep_png(numbers), pixel_range=(0, 4095), background=background)
        assert decoded.pixels[:, 0, 0].tolist() == [background, 255, background, background]
        assert decoded.pixels.shape == (4, 4, 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused(bad):
    with pytest.raises(DataError, match="no numbers"):
        decode(content(Image.fromarray(np.array([[0, bad]], np.float32)), "TIFF"), pixel_range=(0, 1))


def test_pages_of_a_tiff_are_counted():
    pages = [Image.new("L", (8, 8), level) for level in (9, 99, 199)]
    for options in ({}, {"big_tiff": True}):
        file = content(pages[0], "TIFF", save_all=True, append_images=pages[1:], **options)
        decoded = decode(file)
        assert decoded.note == "3 pages, first read"
        assert (decoded.pixels == 9).all()
    assert decode(content(pages[0], "TIFF")).note == ""
    preview = content(pages[0], "TIFF", save_all=True, append_images=pages[1:], tiffinfo={254: 1})
    assert count_pages(preview) == 0
    for cut in range(8, len(file)):
        count_pages(file[:cut])  # breaks nowhere


def test_pages_in_a_circle_are_counted_once():
    file = bytearray(content(Image.new("L", (8, 8)), "TIFF"))
    start = int.from_bytes(file[4:8], "little")
    after = start + 2 + 12 * int.from_bytes(file[start : start + 2], "little")
    file[after : after + 4] = file[4:8]
    assert count_pages(bytes(file)) == 1
