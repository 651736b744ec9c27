"""Pictures for tests: photos and drawings of two kinds."""

import io

import numpy as np
from PIL import Image, ImageDraw


def png(seed, size=(40, 50)):
    """Give a PNG of noise."""
    return saved(Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)), "PNG")


def photo(kind, seed):
    """Give a JPEG of a red disc or a blue square on noise."""
    random = np.random.default_rng(seed)
    image = Image.fromarray((random.integers(0, 40, (120, 160, 3)) + random.integers(60, 180, 3)).astype(np.uint8))
    x, y = random.integers(10, 90), random.integers(10, 60)
    shape = getattr(ImageDraw.Draw(image), "ellipse" if kind == 0 else "rectangle")
    shape((x, y, x + 50, y + 50), fill=(220, 60, 40) if kind == 0 else (40, 60, 230))
    return saved(image, "JPEG")


def drawing(kind, seed):
    """Give a PNG of a ring or a stroke, as the page's drawing pad makes it."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (280, 280), "white")
    x, y = random.integers(60, 100, 2)
    draw = ImageDraw.Draw(image)
    if kind == 0:
        draw.ellipse((x, y, x + 110 + random.integers(30), y + 120), outline="black", width=18)
    else:
        draw.line((x, y, x + 100, y + 130 + random.integers(30)), fill="black", width=18)
    return saved(image, "PNG")


def saved(image, form, **options):
    """Give the bytes of a file."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()
