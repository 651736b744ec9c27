import os
import re
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imprint import DataError, UsageError, load
from imprint.data import cache
from imprint.data.decoding import image_list
from imprint.data.decoding.decode import decode
from imprint.data.decoding.image_list import ColourFound, block_ranges, decode_blocks
from imprint.preprocessing.input_spec import InputSpec, fit

FORM = InputSpec(1, (8, 8), (8, 8))


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("IMPRINT_CACHE", str(tmp_path / "cache"))


def noise(height, width, seed=0, grey=False):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width) if grey else (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def many(tmp_path):
    """Forty colour images of one size in two class folders."""
    root = tmp_path / "many"
    for i in range(40):
        folder = root / ("cat" if i % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        noise(12, 16, i).save(folder / f"{i:02}.png")
    return root


def saved(folder, *images, form="png"):
    folder.mkdir(exist_ok=True)
    for i, image in enumerate(images):
        image.save(folder / f"{i:03}.{form}")
    return folder


def test_images_of_one_size_stay_as_they_are(many):
    images = load(many)
    assert images.shape == (3, 12, 16)
    assert images.sizes is None
    for source, pixels, label in zip(images.sources, images.pixels, images.labels, strict=True):
        assert np.array_equal(pixels, np.asarray(Image.open(source)).transpose(2, 0, 1))
        assert images.class_names[label] in source


@pytest.mark.parametrize(
    ("sizes", "side", "expected"),
    [
        ([(100, 100)] * 9 + [(3000, 3000)], 128, (100, 100)),
        ([(200, 300)] * 3, 128, (128, 192)),
        ([(32, 500)] * 3, 128, (32, 500)),
        ([(100, 900), (100, 901)], 50, (50, 100)),
        ([(900, 100), (901, 100)], 50, (100, 50)),
        ([(1, 1), (10, 10), (20, 20)], 128, (10, 10)),
    ],
)
def test_the_common_size(tmp_path, sizes, side, expected):
    folder = saved(tmp_path / "p", *(Image.new("RGB", (w, h), "red") for h, w in sizes))
    images = load(folder, side=side)
    assert images.shape == (3, *expected)
    if set(sizes) == {expected}:
        assert images.sizes is None
    else:
        assert images.sizes.tolist() == [list(size) for size in sizes]


def test_scaling_covers_and_crops_the_middle_as_pillow_does(tmp_path):
    folder = saved(tmp_path / "p", noise(60, 90), noise(30, 30, 1), noise(30, 30, 2))
    wide = load(folder).pixels[0].transpose(1, 2, 0)
    expected = Image.open(folder / "000.png").resize((30, 30), Image.Resampling.BILINEAR, box=(15, 0, 75, 60))
    assert np.array_equal(wide, expected)


def test_grey_only_where_all_are(tmp_path):
    grey, disguised = noise(9, 9, grey=True), noise(9, 9, 1, grey=True).convert("RGB")
    assert load(saved(tmp_path / "a", grey, disguised)).shape == (1, 9, 9)
    images = load(saved(tmp_path / "b", grey, disguised, noise(9, 9)))
    assert images.shape == (3, 9, 9)
    assert (images.pixels[0] == np.asarray(grey)).all()


def test_one_coloured_image_that_no_sample_shows_is_not_made_grey(tmp_path, monkeypatch):
    monkeypatch.setattr(image_list, "HEADERS_READ", 2)
    greys = [noise(9, 9, i, grey=True) for i in range(40)]
    images = load(saved(tmp_path / "p", *greys, noise(9, 9)))
    assert images.shape == (3, 9, 9)
    assert len(cache.entries()) == 1


def test_a_spec_decides_the_form(many, tmp_path):
    spec = InputSpec(1, (8, 8), (28, 28))
    images = load(many, spec=spec)
    assert images.shape == (1, 8, 8)
    assert (images.sizes == [12, 16]).all()
    grey = load(saved(tmp_path / "g", noise(8, 8, grey=True)), spec=InputSpec(3, (8, 8), (8, 8)))
    assert (grey.pixels[0] == grey.pixels[0, 0]).all()
    assert load("digits", spec=InputSpec(3, (12, 12), (12, 12))).shape == (3, 12, 12)


def test_the_second_read_decodes_nothing(many, monkeypatch):
    first = load(many, group=r"(\d)\.png")
    monkeypatch.setattr(image_list, "decode_blocks", None)
    second = load(many)
    assert np.array_equal(first.pixels, second.pixels)
    assert isinstance(second.pixels, np.memmap)
    assert (first.sources == second.sources).all()
    assert (first.labels == second.labels).all()


def test_large_images_from_the_cache_and_those_selected_from_them_are_hashed_once(many, monkeypatch):
    monkeypatch.setattr("imprint.core.memmap.MIN_MAPPED", 1000)
    first = load(many)
    hashes = replace(first, pixels=np.array(first.pixels)).pixel_hashes
    monkeypatch.setattr("imprint.data.images.hash_images", None)
    chosen = np.array([3, 39, 0])
    assert np.array_equal(load(many).pixel_hashes, hashes)
    assert np.array_equal(load(many)[chosen].pixel_hashes, hashes[chosen])
    with pytest.raises(TypeError):
        _ = replace(first, pixels=255 - first.pixels).pixel_hashes  # other pixels


def test_pixels_from_the_cache_suit_torch(many):
    import torch

    load(many)
    assert torch.from_numpy(load(many).pixels).sum() > 0  # warns, so fails here, where they are not writable


@pytest.mark.parametrize("change", ["replaced", "removed", "added"])
def test_the_cache_is_never_trusted_after_files_changed(many, change):
    before = load(many)
    victim = many / "dog" / "00.png"
    if change == "replaced":
        noise(12, 16, 99).save(victim)
    elif change == "removed":
        victim.unlink()
    else:
        noise(12, 16, 99).save(many / "dog" / "000.png")
    after = load(many)
    assert len(after) == len(before) + {"replaced": 0, "removed": -1, "added": 1}[change]
    for source, pixels in zip(after.sources, after.pixels, strict=True):
        assert np.array_equal(pixels, decode(Path(source)).pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("version", [b"imprint1", b"imprint3"])
def test_a_cache_file_of_another_version_is_decoded_anew(many, version):
    pixels = load(many).pixels.copy()
    (entry,) = cache.entries()
    ours = entry.path.read_bytes()
    entry.path.write_bytes(bytes(pixels.nbytes) + ours[pixels.nbytes : -len(version)] + version)
    assert np.array_equal(load(many).pixels, pixels)
    assert entry.path.read_bytes() == ours


def test_without_a_cache_it_goes_on_and_says_so(many, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("IMPRINT_CACHE", str(tmp_path / "file"))
    caplog.set_level("INFO", logger="imprint")
    assert len(load(many)) == 40
    assert "cannot be kept" in caplog.messages[0]


def test_where_the_disk_has_too_little_room_they_are_decoded_into_memory(many, monkeypatch, caplog):
    monkeypatch.setattr(cache, "room_on_disk", lambda folder: 1000)
    caplog.set_level("INFO", logger="imprint")
    assert len(load(many)) == 40
    assert "kept for the next run: they take 0.0 GB, and there is room for 0.0 (" in caplog.messages[0]
    assert cache.entries() == []


def test_what_neither_disk_nor_memory_holds_is_refused_before_it_is_decoded(many, monkeypatch):
    monkeypatch.setattr(cache, "room_on_disk", lambda folder: 1000)
    monkeypatch.setattr(image_list, "MIN_MAPPED", 0)
    monkeypatch.setattr(image_list, "available_memory", lambda: 1000)
    monkeypatch.setattr(image_list, "_decode_block", None)
    told = (
        r"40 images at many: decoded they take 0.0 GB, more than the memory holds, and the cache does not take them: .*"
    )
    with pytest.raises(DataError, match=f"{told}IMPRINT_CACHE=FOLDER"):
        load(many)


def test_killed_half_way_the_next_run_reads_all(many):
    script = (
        "import os, sys, imprint; from imprint.data.decoding import image_list\n"
        "image_list.BLOCK_BYTES = 12 * 16 * 3 * 4\n"
        "real = image_list._decode_block\n"
        "def dying(*arguments):\n"
        "    if arguments[-1].start >= 20: os.kill(os.getpid(), 9)\n"
        "    return real(*arguments)\n"
        "image_list._decode_block = dying\n"
        "imprint.load(sys.argv[1])"
    )
    assert subprocess.run([sys.executable, "-c", script, many], check=False).returncode == -9
    assert len(load(many)) == 40


def test_every_broken_file_is_named_and_the_rest_is_used(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "benchmarks")
    import broken

    made = broken.make(tmp_path / "p", 1800, size=10)
    assert set(made.values()) == set(broken.BREAKS)
    for _ in range(2):  # decoded, then from the cache
        assert broken.read(tmp_path / "p", 1800, made)[0] == []


def test_too_many_broken_files_are_refused(tmp_path):
    folder = saved(tmp_path / "p", *(noise(4, 4, i) for i in range(6)))
    for i in (6, 7):
        (folder / f"{i}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 of 8 images at p: they cannot be used, first .*6.png: it is empty"):
        load(folder)
    assert len(load(folder, allow_bad=0.25)) == 6
    with pytest.raises(DataError, match=r"6\.png: it is empty"):
        load(folder / "6.png", allow_bad=1.0)


def test_what_was_decided_is_said(tmp_path, caplog):
    see_through = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    caplog.set_level("INFO", logger="imprint")
    images = load(saved(tmp_path / "p", see_through, noise(4, 4)))
    assert (images.pixels[0] == 255).all()
    assert caplog.messages == ["1 image of p: transparent, laid on white"]


def test_groups_by_regular_expression(many):
    images = load(many, group=r"(\d)\.png$")
    assert images.groups[:3].tolist() == ["1", "3", "5"]
    assert images[::2].groups.tolist() == images.groups[::2].tolist()
    for pattern, words in (("(", "no regular expression"), ("nothing", "matches no path")):
        with pytest.raises(UsageError, match=words):
            load(many, group=pattern)


def test_memory_stays_bounded_while_images_pass_through(tmp_path):
    """Decoded 240 MB; read through the cache they may not stand in memory."""
    root = tmp_path / "big"
    root.mkdir()
    Image.new("RGB", (1000, 1000), "red").save(root / "0.jpg")
    for i in range(1, 80):
        os.link(root / "0.jpg", root / f"{i}.jpg")
    script = (
        "import resource, sys, imprint, torch\n"
        "from imprint.data.decoding import image_list\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert imprint.load(sys.argv[1], side=1000).pixels.nbytes == 240_000_000\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", script, root], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 120


def file(level, size=(8, 8), mode="L", form="PNG", **options):
    content = BytesIO()
    Image.new(mode, size, level).save(content, form, **options)
    return content.getvalue()


def read_blocks(contents, form=FORM, **options):
    return list(decode_blocks(contents.__getitem__, block_ranges(len(contents), form), form, **options))


def test_images_of_all_kinds_stay_in_order():
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
    made = read_blocks(contents)
    assert [len(block.pixels) + len(block.bad) for block in made] == [256, 256, 88]
    pixels = np.concatenate([block.pixels for block in made])
    assert np.array_equal(pixels, [fit(decode(contents[i]).pixels, FORM) for i in whole])
    assert [size for block in made for size in block.sizes] == [decode(contents[i]).size for i in whole]
    assert [position for block in made for position, _ in block.bad] == [i for i in range(600) if i not in whole]
    assert {cause for block in made for _, cause in block.bad} == {"it is empty", "the file is cut short"}
    assert sum(len(block.notes) for block in made) == len([i for i in whole if i % len(ways) == 4])


@pytest.mark.parametrize("odd", [file((1, 2, 3), mode="RGB"), file((1, 2, 3), mode="RGB", form="BMP")])
def test_colour_among_grey_is_noticed(odd):
    grey = [file((9, 9, 9), mode="RGB") for _ in range(70)]
    assert sum(len(block.pixels) for block in read_blocks(grey, must_be_grey=True)) == 70
    with pytest.raises(ColourFound):
        read_blocks([*grey, odd], must_be_grey=True)


def test_tiny_images_take_one_thread_and_others_all_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(5)), raising=False)
    for contents, workers in (
        ([file(1)] * 900, 1),
        ([b""] * 3, 1),
        ([file(1, size=(65, 9))], 5),
        ([*[file(1)] * 600, *[file(1, size=(9, 65))] * 300], 5),
    ):
        assert image_list._thread_count(contents.__getitem__, block_ranges(len(contents), FORM)) == workers


def phone(root):
    """What a phone leaves: photos, HEIC photos, a video and a list of edits beside each, and one empty file."""
    (root / "dog").mkdir(parents=True)
    for i in range(20):
        noise(4, 4, i).save(root / f"dog/IMG_{i:04}.JPG")
    (root / "dog/IMG_0099.JPG").write_bytes(b"")
    for i in range(4):
        (root / f"dog/IMG_01{i:02}.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50))
        (root / f"dog/IMG_01{i:02}.MOV").write_bytes(b"\0\0\0\x14ftypqt  ")
        (root / f"dog/IMG_01{i:02}.AAE").write_text("<?xml")
    (root / "Thumbs.db").write_bytes(b"x")
    return root


def test_the_commonest_cause_comes_first_with_its_count(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", logger="imprint")
    monkeypatch.setattr("imprint.data.decoding.decode.can_read_heic", lambda: False)
    root = phone(tmp_path / "iphone")
    words = "they cannot be used, 4 of them for one cause, first .*0100.HEIC: it is a HEIC photo; install its decoder"
    with pytest.raises(DataError, match=rf"5 of 25 images at iphone: {words}.* or let --allow-bad be more than 0.1"):
        load(root, allow_bad=0.1)
    assert len(load(root)) == 20
    assert "left out 5 of 25 images of iphone, 4 of them for one cause, first" in caplog.messages[-1]
    assert "HEIC" in caplog.messages[-1]


def test_images_are_read_anew_once_their_decoder_is_installed(tmp_path, monkeypatch):
    from pillow_heif import from_pillow

    folder = saved(tmp_path / "p", *(noise(8, 8, i) for i in range(40)))
    from_pillow(noise(8, 8, 1)).save(folder / "99.heic")
    with monkeypatch.context() as without:
        for module in ("decode", "image_list"):
            without.setattr(f"imprint.data.decoding.{module}.can_read_heic", lambda: False)
        assert len(load(folder)) == 40
    assert len(load(folder)) == 41


def test_no_remedy_removes_what_somebody_needs(tmp_path):
    folder = saved(tmp_path / "p", noise(4, 4))
    for i, content in enumerate((b"<html>", b"\x89PNG\r\n", b"RIFF")):
        (folder / f"bad{i}.png").write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(folder)
    assert "remove" not in caught.value.remedy
    for name in ("bad0.png", "bad1.png"):
        with pytest.raises(DataError) as caught:
            load(folder / name)
        assert "remove" not in caught.value.remedy


def written(folder, arrays, form="PNG"):
    folder.mkdir(parents=True)
    for i, array in enumerate(arrays):
        Image.fromarray(array).save(folder / f"{i:03}.{form.lower()}")
    return folder


def twelve_bits(count=40, low=320, high=456):
    return np.random.default_rng(0).integers(low, high, (count, 16, 16)).astype(np.uint16)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_deep_images_get_the_range_of_their_collection(tmp_path, caplog, form, kind):
    if form == "PNG" and kind != np.uint16:
        pytest.skip("PNG has no such numbers")
    arrays = twelve_bits().astype(kind)
    caplog.set_level("INFO", logger="imprint")
    folder = written(tmp_path / "deep", arrays, form)
    images, again = load(folder), load(folder)
    low, high = np.percentile(arrays, [0.1, 99.9])
    assert images.pixel_range == pytest.approx((low, high))
    expected = np.floor((arrays - low).clip(0, high - low) / (high - low) * 255 + 0.5)
    assert np.abs(images.pixels[:, 0] - expected).max() <= 1
    assert (
        f"40 images of deep: {'32-bit float' if kind == np.float32 else f'{8 * arrays.itemsize}-bit'}, 320 to 455 "
        in caplog.text
    )
    assert np.array_equal(again.pixels, images.pixels)
    assert again.pixel_range == images.pixel_range
    assert caplog.messages[0] == caplog.messages[1]


def test_a_models_range_is_used_and_the_cache_keeps_ranges_apart(tmp_path, caplog):
    folder = written(tmp_path / "deep", twelve_bits())
    own = load(folder)
    form = InputSpec.from_shape(own.shape, (0, 4095))
    caplog.set_level("INFO", logger="imprint")
    wide = load(folder, spec=form)
    assert wide.pixel_range == (0, 4095)
    assert wide.pixels.max() <= round(455 / 4095 * 255)
    assert np.array_equal(load(folder).pixels, own.pixels)
    narrow = load(folder, spec=InputSpec.from_shape(own.shape, (320, 330)))
    assert narrow.pixels.max() == 255
    bright = load(written(tmp_path / "bright", twelve_bits(3, 5000, 6000)), spec=form)
    assert (bright.pixels == 255).all()
    assert "beyond which most of it lies" in caplog.text


def test_without_a_models_range_the_whole_depth_counts_and_lost_levels_are_told(tmp_path, caplog):
    caplog.set_level("INFO", logger="imprint")
    dark = load(written(tmp_path / "dark", twelve_bits(2, 0, 4096)), spec=InputSpec.from_shape((1, 16, 16)))
    assert dark.pixels.max() == 16
    assert "0 to 65,535 became black to white, which leaves fewer than 64 grey levels" in caplog.text


def test_few_levels_left_are_warned_of(tmp_path, caplog):
    arrays = twelve_bits(4, 0, 300)
    arrays[:, 0, :8] = 60_000
    load(written(tmp_path / "hot", arrays))
    assert re.search(r"warning: hot: only \d+ grey levels remain of \d{3}, ", caplog.text)


def test_deep_images_that_no_sample_shows_are_noticed(tmp_path):
    folder = written(tmp_path / "mixed", [*np.full((250, 9, 9), 7, np.uint8), *twelve_bits(1)[:, :9, :9]])
    images = load(folder)
    assert images.pixel_range is not None
    assert (images.pixels[:250] == 7).all()
    assert images.pixels[250].max() == 255


def stroke(ink, count=1):
    layers = np.zeros((count, 20, 20, 4), np.uint8)
    layers[:, 4:16, 8:11] = [*ink, 255]
    return layers


@pytest.mark.parametrize(
    ("ink", "ground"), [((255, 255, 255), 0), ((255, 240, 60), 0), ((0, 0, 0), 255), ((30, 60, 220), 255)]
)
def test_transparent_images_are_laid_on_what_shows_their_ink(tmp_path, caplog, ink, ground):
    caplog.set_level("INFO", logger="imprint")
    images = load(written(tmp_path / "icons", stroke(ink, 3)))
    assert images.background == ground
    assert (images.pixels[:, :, 0, 0] == ground).all()
    assert np.abs(images.pixels[0, :, 8, 9].astype(int) - ground).max() > 150
    assert caplog.messages == [f"3 images of icons: transparent, laid on {'white' if ground else 'black'}"]


def test_the_background_is_one_for_a_collection_and_the_models_goes_first(tmp_path, caplog):
    folder = written(tmp_path / "icons", [*stroke((255, 255, 255), 5), *stroke((90, 90, 90))])
    images = load(folder)
    assert images.background == 0
    assert images.pixels[5, 0, 0, 0] == 0
    white = load(folder, spec=InputSpec.from_shape(images.shape, background=255))
    assert (white.pixels[:5] == 255).all()
    assert "transparent, laid on white, where nothing of it shows" in white_notes(folder, images.shape, caplog)
    each = load(folder, spec=InputSpec.from_shape(images.shape))
    assert each.background is None
    assert each.pixels[:, 0, 0, 0].tolist() == [0] * 5 + [255]


def white_notes(folder, shape, caplog):
    caplog.set_level("INFO", logger="imprint")
    load(folder, spec=InputSpec.from_shape(shape, background=255))
    return caplog.text


def test_a_transparent_image_that_no_sample_shows_is_noticed(tmp_path):
    opaque = np.full((250, 20, 20, 3), 40, np.uint8)
    images = load(written(tmp_path / "mixed", [*opaque, *stroke((255, 255, 255))]))
    assert images.background == 0
    assert images.pixels[250].max() == 255
