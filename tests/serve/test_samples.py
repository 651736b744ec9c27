"""Samples are encoded again: no metadata, no other format, no bombs."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import IFD, Base

from imprint.core.errors import DataError
from imprint.serve.samples import JPEG_START, SampleStore, check_encoded, encode
from serve.pictures import photo, png, saved

PNG_START = b"\x89PNG\r\n\x1a\n"


def with_exif(image, form):
    exif = image.getexif()
    exif[Base.Make] = "SecretCamera"
    exif[Base.Orientation] = 6
    exif.get_ifd(IFD.GPSInfo)[1] = "N"
    exif.get_ifd(IFD.GPSInfo)[2] = (48.0, 51.0, 29.0)
    return saved(image, form, exif=exif)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_no_exif_and_no_place_leaves(form):
    content = with_exif(Image.open(io.BytesIO(photo(0, 1))).convert("RGB"), form)
    assert b"SecretCamera" in content
    sample = encode(content, "a")
    assert b"SecretCamera" not in sample.content
    with Image.open(io.BytesIO(sample.content)) as stored:
        assert not dict(stored.getexif())
        assert stored.size == (120, 160)  # upright, as the decoder has it
        assert stored.format == ("JPEG" if form in ("JPEG", "WEBP") else "PNG")
    assert check_encoded(sample.content, sample.sha) == sample.look


def test_a_text_or_a_profile_in_a_png_does_not_leave():
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Comment", "where I live")
    content = saved(Image.new("RGB", (9, 9), "red"), "PNG", pnginfo=info, icc_profile=b"0" * 200)
    assert b"where I live" in content
    stored = encode(content, "a").content
    assert b"where I live" not in stored
    assert b"iCCP" not in stored


@pytest.mark.parametrize(
    "content",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        b"<!doctype html><script>alert(1)</script>",
        b"",
        b"GIF89a",
        b"\x89PNG\r\n\x1a\n" + bytes(40),
    ],
)
def test_what_is_no_image_is_refused_by_its_content(content):
    with pytest.raises(DataError):
        encode(content, "a.png")


def test_too_many_pixels_are_refused_by_the_header():
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 9_000, 9_000, 8, 2, 0, 0, 0))
    bomb = PNG_START + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    with pytest.raises(DataError, match="million"):
        encode(bomb, "a.png")
    with pytest.raises(DataError, match=r"more than the 0\.001 million"):
        encode(png(1), "a.png", max_pixels=1000)


def test_one_picture_has_one_key_and_small_ones_keep_every_pixel():
    first, second = encode(png(1), "a"), encode(png(1), "b")
    assert first.sha == second.sha
    with Image.open(io.BytesIO(first.content)) as stored, Image.open(io.BytesIO(png(1))) as given:
        assert np.array_equal(np.asarray(stored), np.asarray(given))


def test_large_photos_are_kept_at_1024_pixels():
    look = encode(saved(Image.new("RGB", (3000, 2000), "red"), "JPEG"), "a").look
    assert (look.width, look.height) == (1536, 1024)


@pytest.mark.parametrize("make", [lambda: encode(photo(0, 1), "a"), lambda: encode(png(1), "a")])
def test_an_archive_brings_nothing_but_what_is_stored(make):
    from hashlib import sha256

    sample = make()

    def refused(content):
        with pytest.raises(DataError):
            check_encoded(content, sha256(content).hexdigest())

    refused(sample.content + b"<script>")
    refused(sample.content[:-2])
    refused(b"<html>")
    if sample.content.startswith(JPEG_START):
        comment = b"\xff\xfe\x00\x06hide"
        refused(sample.content[:2] + comment + sample.content[2:])
        refused(with_exif(Image.open(io.BytesIO(sample.content)), "JPEG"))
    with pytest.raises(DataError, match="changed"):
        check_encoded(sample.content, "0" * 64)


def test_thumbnails_are_small(tmp_path):
    store, sample = SampleStore(tmp_path / "s"), encode(photo(0, 1), "a")
    store.write([sample])
    with Image.open(io.BytesIO(store.thumbnail(sample.sha, sample.look.kind))) as thumbnail:
        assert max(thumbnail.size) == 96
