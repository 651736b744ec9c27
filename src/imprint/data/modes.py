"""Pillow's modes: what a file's numbers mean, as grey or colour of 8 bits."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image, ImageChops
from PIL.JpegImagePlugin import JpegImageFile

from imprint.data.picture_file import File, refusal

PAPER = 255  # transparent parts lie on white, as browsers and printers show them
DEPTH_TAG = 258  # TIFF 6.0, section 4


def eight_bits(picture: Image.Image, file: File) -> tuple[UInt8[ndarray, "h w c"], str]:
    """Bring a picture of any mode to grey or colour of 8 bits.

    Parameters
    ----------
    picture : Image
        Loaded.
    file : Path, str or bytes
        Where it came from, for messages.

    Returns
    -------
    pixels : ndarray of uint8, shape (h, w, 1) or (h, w, 3)
        Brightness from 0 (black) to 255.
    note : str
        What was decided on the way; empty where nothing was.

    Raises
    ------
    DataError
        When nothing says which number is white.

    Examples
    --------
    >>> eight_bits(Image.new("LA", (1, 1), (0, 0)), b"")
    (array([[[255]]], dtype=uint8), 'transparent, laid on white')
    """
    if picture.mode.startswith("I;16"):
        return _scaled_by_depth(picture), ""
    if picture.mode in ("I", "F", "LAB"):
        raise refusal(file, f"its pixels ({picture.mode}) have no range that says what is white")
    if picture.mode in ("RGBa", "La"):
        picture = picture.convert(picture.mode.upper())  # premultiplied
    if picture.mode == "CMYK" and isinstance(picture, JpegImageFile) and "adobe" not in picture.info:
        picture = ImageChops.invert(picture)  # Pillow takes every CMYK JPEG for Adobe's, which are inverted
    if picture.has_transparency_data:
        return _on_paper(picture)
    if picture.mode != "L" and picture.mode != "RGB":
        picture = picture.convert("L" if picture.mode == "1" else "RGB")
    pixels = np.asarray(picture)
    return pixels[..., None] if pixels.ndim == 2 else pixels, ""


def _scaled_by_depth(picture: Image.Image) -> UInt8[ndarray, "h w 1"]:
    depth = getattr(picture, "tag_v2", {}).get(DEPTH_TAG, (16,))[0]
    wide = np.asarray(picture).astype(np.float32)
    narrow: UInt8[ndarray, "h w"] = np.minimum(wide * (255 / (2**depth - 1)) + 0.5, 255).astype(np.uint8)
    return narrow[..., None]


def _on_paper(picture: Image.Image) -> tuple[UInt8[ndarray, "h w c"], str]:
    """Lay a picture with transparency on white."""
    grey = picture.mode in ("1", "L", "LA")
    layers = picture.convert("RGBA")
    if layers.getchannel("A").getextrema() == (255, 255):
        seen, note = layers.convert("RGB"), ""
    else:
        paper = Image.new("RGBA", picture.size, (PAPER, PAPER, PAPER, 255))
        seen, note = Image.alpha_composite(paper, layers).convert("RGB"), "transparent, laid on white"
    pixels = np.asarray(seen)
    return (pixels[..., :1] if grey else pixels), note
