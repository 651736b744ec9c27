"""OOD images for digit models: hands, letters, textures and blanks, as rows of a CSV and as image files are read."""

from pathlib import Path

import matplotlib
import numpy as np
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

from imprint.preprocessing.glyph import fit_glyph

LETTERS = [chr(code) for code in (*range(65, 91), *range(97, 123))]
LOOKALIKES = set("OoIlSsZz")  # printed, they look like the digits 0, 1, 5 and 2
SYMBOLS = ("LastResort", "cmex", "cmsy", "cmmi")  # fonts with other signs in place of letters
TEXTURES = {
    "tried": ("stripes", "checkers", "blobs", "gradient", "noise"),
    "unseen": ("rings", "wood", "clouds", "lattice", "dots", "salt", "ramp"),
}
NOISE = ("noise", "salt")  # of the textures, those counted as noise


def fonts(part):
    """Find fonts with all letters: sans serif for "tried", serif for "unseen"."""
    places = [Path("/usr/share/fonts"), Path(matplotlib.get_data_path()) / "fonts" / "ttf"]
    found = {}
    for path in sorted(path for place in places for path in place.rglob("*.ttf")):
        serif = "Serif" in path.name or "STIX" in path.name or path.name in ("cmtt10.ttf", "cmss10.ttf")
        letters = TTFont(path).getBestCmap() or {}
        if (
            not path.name.startswith(SYMBOLS)
            and serif == (part == "unseen")
            and all(ord(x) in letters for x in LETTERS)
        ):
            found[path.name] = path
    return list(found.values())


def ink(letter, font):
    drawn = ImageFont.truetype(font, 100)
    left, top, right, bottom = drawn.getbbox(letter)
    image = Image.new("L", (right - left + 20, bottom - top + 20))
    ImageDraw.Draw(image).text((10 - left, 10 - top), letter, font=drawn, fill=255)
    return image.crop(image.getbbox())


def scaled(image, side):
    share = side / max(image.size)
    return image.resize([max(1, round(length * share)) for length in image.size], Image.Resampling.BOX)


def as_row(image, side):
    """Put ink into 28×28 as MNIST does: its box scaled, its centre of mass in the middle."""
    small = np.asarray(scaled(image, side), dtype=np.uint8)
    weights = small + 1e-9
    middle = [
        round(float((weights.sum(1 - axis) * np.arange(small.shape[axis])).sum() / weights.sum())) for axis in (0, 1)
    ]
    wide = np.zeros((84, 84), dtype=np.uint8)
    top, left = (42 - place for place in middle)
    wide[top : top + small.shape[0], left : left + small.shape[1]] = small
    return wide[28:56, 28:56]


def on_paper(image, rng):
    image = scaled(image, int(rng.integers(70, 100)))
    sheet = Image.new("L", (240, 240), 255)
    sheet.paste(0, ((240 - image.width) // 2, (240 - image.height) // 2), image)
    return np.asarray(sheet)


def texture(kind, rng, side):
    y, x = np.mgrid[:side, :side] / side
    angle, rate, phase = rng.uniform(0, 2 * np.pi), rng.uniform(2, 9), rng.uniform(0, 6)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    wave, across = np.sin(2 * np.pi * rate * u + phase), np.sin(2 * np.pi * rate * v)
    away = np.hypot(x - rng.uniform(0.2, 0.8), y - rng.uniform(0.2, 0.8))
    z = {
        "stripes": lambda: wave > rng.uniform(-0.5, 0.5),
        "checkers": lambda: (np.floor(u * rate + phase) + np.floor(v * rate)) % 2,
        "blobs": lambda: np.max(
            [
                np.hypot(*(axis - rng.random() for axis in (x, y))) < rng.uniform(0.08, 0.3)
                for _ in range(rng.integers(1, 6))
            ],
            axis=0,
        ),
        "gradient": lambda: u,
        "noise": lambda: rng.normal(size=(side, side)),
        "rings": lambda: np.sin(2 * np.pi * rate * away + phase) > 0,
        "wood": lambda: np.sin(2 * np.pi * rate * u + 3 * np.sin(4 * v + phase)) + rng.normal(0, 0.3, (side, side)),
        "clouds": lambda: sum(
            np.asarray(Image.fromarray(rng.normal(size=(k, k)).astype(np.float32)).resize((side, side), 3)) / k
            for k in (3, 5, 9, 15)
        ),
        "lattice": lambda: np.maximum(wave, across) > 0.7,
        "dots": lambda: wave * across > 0.4,
        "salt": lambda: rng.random((side, side)) < rng.uniform(0.02, 0.5),
        "ramp": lambda: away,
    }[kind]()
    z = np.asarray(z, dtype=np.float64)
    z = (z - z.min()) / max(1e-9, float(np.ptp(z)))
    low, high = sorted(rng.uniform(0, 255, 2)) if rng.random() < 0.5 else (0, 255)
    return (low + z * max(high - low, 30)).clip(0, 255).astype(np.uint8)


def ood_images(part, form, hands):
    """Give pixels uint8 [n, 1, 28, 28] of each kind; `part` is "tried" or "unseen"."""
    rng = np.random.default_rng(["tried", "unseen"].index(part))
    read = lambda image: fit_glyph(image[..., None], form)[0]  # noqa: E731
    drawn = {}
    parity = ["tried", "unseen"].index(part)
    photos = [
        path
        for path in sorted(Path(hands).glob("*/*"))
        if path.parent.name.isdigit() and int(path.parent.name) % 2 == parity
    ]
    greys = [Image.open(path).convert("L").resize((100, 100)) for path in photos]
    drawn["hands, rows"] = [np.asarray(grey.resize((28, 28), Image.Resampling.BOX)) for grey in greys]
    drawn["hands, files"] = [read(np.asarray(grey)) for grey in greys[::4]]
    for side in (28, 64):
        small = (grey.resize((side, side), Image.Resampling.BOX) for grey in greys[::4])
        drawn[f"hands, files of {side}×{side}"] = [read(np.asarray(grey)) for grey in small]
    for font in fonts(part):
        for letter in LETTERS:
            kind = "lookalikes" if letter in LOOKALIKES else "letters"
            image = ink(letter, font)
            drawn.setdefault(f"{kind}, rows", []).extend(as_row(image, side) for side in (16, 20, 24))
            drawn.setdefault(f"{kind}, files", []).append(read(on_paper(image, rng)))
    for kind in TEXTURES[part]:
        name = "noise" if kind in NOISE else "textures"
        drawn.setdefault(f"{name}, rows", []).extend(texture(kind, rng, 28) for _ in range(100))
        drawn.setdefault(f"{name}, files", []).extend(read(texture(kind, rng, 120)) for _ in range(30))
    levels = range(parity, 256, 8)
    drawn["blank, rows"] = [np.full((28, 28), level, dtype=np.uint8) for level in levels]
    drawn["blank, files"] = [read(np.full((200, 200), level, dtype=np.uint8)) for level in levels]
    return {kind: np.stack(images)[:, None] for kind, images in drawn.items()}
