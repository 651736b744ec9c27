"""One file in a hundred is broken, in 18 ways: reading must name every one and use all the others.

    make bench-broken                    10,000 small images in ten class folders, 100 of them broken

Exits with status 1 if a broken file was read, a whole one left out, or a label is wrong.
"""

import argparse
import io
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import machine
from PIL import Image

import imprint

FORMATS = ("png", "jpg", "webp", "bmp", "gif", "tiff")


def encoded(pixels, ending):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG" if ending == "jpg" else ending.upper())
    return file.getvalue()


def cut(share):
    return lambda content: content[: int(len(content) * share)]


def flipped(content):
    """Change a byte in the middle, which is among the compressed pixels of nearly every small PNG."""
    changed = bytearray(content)
    changed[len(content) // 2] ^= 0x55
    return bytes(changed)


# The format that notices the damage (None: all), and a function from a whole file's content to a broken one's.
BREAKS = {
    "empty": (None, lambda content: b""),
    "cut to 2 %": (None, cut(0.02)),
    "cut in half": (None, cut(0.5)),
    "cut short by a tenth": (None, cut(0.9)),
    "begins with zeros": (None, lambda content: bytes(64) + content[64:]),
    "all zeros": (None, lambda content: bytes(len(content))),
    "a byte of a PNG changed": ("png", flipped),
    "PNG without its end": ("png", lambda content: content[:-12]),
    "JPEG without its tables": ("jpg", lambda content: content[:2] + content[-40:]),
    "noise": (None, lambda content: np.random.default_rng(len(content)).bytes(len(content))),
    "web page": (None, lambda content: b"<!DOCTYPE html><html><body>404 Not Found</body></html>"),
    "SVG with a script": (None, lambda content: b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>"),
    "PostScript": (None, lambda content: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"),
    "PDF": (None, lambda content: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"),
    "Git LFS pointer": (None, lambda content: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "archive": (None, lambda content: b"PK\x03\x04" + content),
    "text": (None, lambda content: b"the camera was here"),
    "PNG sent as text": ("png", lambda content: content.decode("latin-1").encode("utf-8")),
}


def make(folder, count, size=28):
    """Write images, every hundredth broken; return the paths of the broken ones and how each was broken."""
    rng = np.random.default_rng(0)
    broken = {}
    for i in range(count):
        pixels = rng.integers(0, 256, (size, size, 3), np.uint8)
        ending, content, name = FORMATS[i % len(FORMATS)], None, ""
        if i % 100 == 37:
            name = list(BREAKS)[i // 100 % len(BREAKS)]
            only, damage = BREAKS[name]
            ending = only or ending
            content = damage(encoded(pixels, ending))
        path = folder / f"class{i % 10}" / f"{i:05}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(pixels, ending) if content is None else content)
        if content is not None:
            broken[str(path)] = name
    return broken


def read(folder, count, broken):
    """Read the folder; return a line for each thing that is wrong with the result, and the causes that were named."""
    images = imprint.load(folder)
    named = dict(images.unreadable)
    wrong = [f"not named: {path} ({broken[path]})" for path in broken if path not in named]
    wrong += [f"named without cause: {path}" for path in named if path not in broken]
    if len(images) != count - len(broken):
        wrong.append(f"{len(images):,} images used of {count - len(broken):,} whole ones")
    names = np.array(images.class_names)[images.labels]
    wrong += [
        f"label {name}: {source}" for name, source in zip(names, images.sources, strict=True) if name not in source
    ]
    return wrong, named


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=10_000)
    count = parser.parse_args().images
    print(machine())
    with tempfile.TemporaryDirectory() as work:
        os.environ["IMPRINT_CACHE"] = f"{work}/cache"
        broken = make(Path(work) / "images", count)
        for run in ("decoded", "from the cache"):
            started = time.perf_counter()
            wrong, named = read(Path(work) / "images", count, broken)
            print(f"{run}: {len(named):,} of {len(broken):,} named, {time.perf_counter() - started:.1f} s")
            print(*wrong, sep="\n", end="\n" * bool(wrong))
        print(*sorted({f"{broken[path]}: {cause}" for path, cause in named.items() if path in broken}), sep="\n")
        sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
