"""Augmentation: whole batches of images in, whole batches out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from imprint.recipes import Recipe

DOWNSCALE_SIZES = 4  # of so many images at once; each costs two small tensor operations
DOWNSCALED_AT_ONCE = 8192


@dataclass(frozen=True, eq=False)
class Rows:
    """Which of `total` images some are, where several processes share them; of None all.

    Random numbers are drawn for the total, so that an image gets the same ones whoever computes it.
    """

    total: int
    own: Int64[Tensor, " n"] | None = None

    def keep(self, draws: Shaped[Tensor, "*drawn"], dim: int = 0) -> Shaped[Tensor, "*kept"]:
        """Keep, of numbers drawn for all images, those for the own."""
        return draws if self.own is None else draws.index_select(dim, self.own)

    def every(self, first: int, step: int) -> tuple[slice | Tensor, slice | Tensor]:
        """Find the own images among each `step`-th of all from `first` on: their positions, and those among these."""
        if self.own is None:
            return slice(first, None, step), slice(None)
        places = torch.where((self.own >= first) & ((self.own - first) % step == 0))[0]
        return places, (self.own[places] - first) // step


def warp(
    pixels: Float[Tensor, "n c h w"],
    matrices: Float[Tensor, "n 2 3"],
    bend: Float[Tensor, "n 2 h w"] | None = None,
) -> Float[Tensor, "n c h w"]:
    """Resample each image through its own affine map, bent where wanted.

    Output pixel (x, y) takes the input at ``matrix @ (x, y, 1) + bend(x, y)``, in pixels from the image's centre;
    between pixels bilinear, beyond the edge the nearest pixel.
    """
    count, _, height, width = pixels.shape
    x = torch.arange(width, dtype=pixels.dtype, device=pixels.device) - (width - 1) / 2
    y = torch.arange(height, dtype=pixels.dtype, device=pixels.device) - (height - 1) / 2
    grid = torch.empty(count, height, width, 2, dtype=pixels.dtype, device=pixels.device)
    # The map is affine, so each coordinate is a sum of one term by column and one by row. That is
    # ten times as fast as F.affine_grid, which multiplies matrices with an inner side of three.
    for axis, side in enumerate((width, height)):
        to_unit = 2 / max(side - 1, 1)  # grid_sample's corners are at ±1
        a, b, shift = (matrices[:, axis] * to_unit).unbind(1)
        along_row = a[:, None, None] * x
        along_column = b[:, None, None] * y[:, None] + shift[:, None, None]
        torch.add(along_row, along_column, out=grid[..., axis])
        if bend is not None:
            grid[..., axis].add_(bend[:, axis], alpha=to_unit)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=True)


def augment(pixels: Float[Tensor, "n c h w"], recipe: Recipe, rows: Rows | None = None) -> Float[Tensor, "n c h w"]:
    """Change each image (from 0 to 1) at random, by the recipe's fields from rotation to color_jitter."""
    rows = rows or Rows(len(pixels))
    warped = random_warp(
        pixels,
        rotation=recipe.rotation,
        zoom=recipe.zoom,
        shift=recipe.shift,
        elastic=recipe.elastic,
        min_crop_area=recipe.min_crop_area,
        hflip=recipe.hflip == "yes",
        rows=rows,
    )
    return random_color_jitter(random_downscale(warped, recipe.downscale, rows), recipe.color_jitter, rows)


def random_warp(
    pixels: Float[Tensor, "n c h w"],
    rotation: float,
    zoom: float,
    shift: float,
    elastic: float = 0.0,
    min_crop_area: float = 1.0,
    hflip: bool = False,
    rows: Rows | None = None,
) -> Float[Tensor, "n c h w"]:
    """Rotate, stretch, shift, bend, crop and mirror each image by its own random amounts.

    Rotation (degrees), zoom and shift (shares of the side) are uniform up to the given amount either way, composed as
    by Keras's ImageDataGenerator (keras/src/legacy/preprocessing/image.py): output to input is rotation · shift · zoom.
    """
    # `elastic` is the standard deviation of displacements at 5×5 points, in 28ths of the side (Simard et al., ICDAR
    # 2003). A crop takes `min_crop_area` or more of the area, of a shape from 3:4 to 4:3 of the image's (Szegedy et
    # al., arXiv:1409.4842).
    if not (rotation or zoom or shift or elastic or min_crop_area < 1 or hflip):
        return pixels
    height, width = pixels.shape[2:]
    rows = rows or Rows(len(pixels))
    draws = rows.keep(torch.rand(8, rows.total, device=pixels.device), 1).to(pixels.dtype) * 2 - 1
    angle = draws[0] * math.radians(rotation)
    zoom_x, zoom_y = 1 + zoom * draws[1], 1 + zoom * draws[2]
    shift_x, shift_y = shift * width * draws[3], shift * height * draws[4]
    if not (rotation or zoom or elastic or min_crop_area < 1):
        # Whole pixels blur nothing: CIFAR-10 was learnt to 0.769 in two epochs, by parts of a pixel to 0.755.
        shift_x, shift_y = shift_x.round(), shift_y.round()
    if min_crop_area < 1:
        side = (min_crop_area + (1 - min_crop_area) * (draws[5] + 1) / 2).sqrt()
        stretch = (draws[6] * math.log(4 / 3) / 2).exp()
        zoom_x, zoom_y = zoom_x * (side * stretch).clamp(max=1), zoom_y * (side / stretch).clamp(max=1)
        shift_x = shift_x + draws[3] * (1 - zoom_x).clamp(min=0) * (width - 1) / 2
        shift_y = shift_y + draws[4] * (1 - zoom_y).clamp(min=0) * (height - 1) / 2
    if hflip:
        zoom_x = zoom_x * torch.where(draws[7] < 0, -1.0, 1.0)
    matrices = affine_matrices(angle, zooms=(zoom_x, zoom_y), shifts=(shift_x, shift_y))
    return warp(pixels, matrices, random_bend(pixels, elastic, rows) if elastic else None)


def random_downscale(
    pixels: Float[Tensor, "n c h w"], share: float, rows: Rows | None = None
) -> Float[Tensor, "n c h w"]:
    """Show a share of the images as if taken at a third to six tenths of their side, then enlarged.

    Images from elsewhere often come so, and an enlarged edge is soft until somebody raises the contrast: so it is
    raised too, by up to three times.
    """
    # The images must stand in random order: those changed are spread evenly, over few sizes.
    if not share:
        return pixels
    height, width = pixels.shape[2:]
    rows = rows or Rows(len(pixels))
    seen = pixels.clone()
    sizes = DOWNSCALE_SIZES * -(-rows.total // DOWNSCALED_AT_ONCE)
    step = max(round(sizes / share), sizes)
    for first in range(min(sizes, rows.total)):
        places, among = rows.every(first, step)
        some = pixels[places]
        scale = 1 / 3 + 0.27 * float(torch.rand(()))
        draws = torch.rand(len(range(first, rows.total, step)), 1, 1, 1, device=pixels.device)
        contrast = 1 + 2 * draws[among].to(pixels.dtype)
        if not len(some):  # all of this size are of other processes
            continue
        size = max(round(height * scale), 1), max(round(width * scale), 1)
        small = F.interpolate(some, size=size, mode="bilinear", antialias=True)
        large = F.interpolate(small, size=(height, width), mode="bicubic", align_corners=False)
        seen[places] = ((large - 0.5) * contrast + 0.5).clamp(0, 1)
    return seen


def random_color_jitter(
    pixels: Float[Tensor, "n c h w"], amount: float, rows: Rows | None = None
) -> Float[Tensor, "n c h w"]:
    """Change each image's saturation, contrast and brightness by own factors, from 1 - amount to 1 + amount."""
    if not amount:
        return pixels
    rows = rows or Rows(len(pixels))
    draws = rows.keep(torch.rand(3, rows.total, 1, 1, 1, device=pixels.device), 1).to(pixels.dtype)
    factors = 1 + amount * (draws * 2 - 1)
    saturation, contrast, brightness = factors
    grey = pixels.mean(dim=1, keepdim=True)
    coloured = grey.lerp(pixels, saturation)
    mean = grey.mean(dim=(2, 3), keepdim=True)
    lit: Tensor = mean.lerp(coloured, contrast) * brightness
    return lit.clamp(0, 1)


def random_bend(pixels: Float[Tensor, "n c h w"], elastic: float, rows: Rows) -> Float[Tensor, "n 2 h w"]:
    """Draw smooth displacements for `warp`, in pixels along x and y; for `elastic` see `random_warp`."""
    size = pixels.shape[2:]
    points = rows.keep(torch.randn(rows.total, 2, 5, 5, device=pixels.device)).to(pixels.dtype) * (elastic / 28)
    for axis, side in enumerate(reversed(size)):
        points[:, axis] *= side
    return F.interpolate(points, size=size, mode="bicubic", align_corners=True)


def affine_matrices(
    angle: Float[Tensor, " n"],
    zooms: tuple[Float[Tensor, " n"], Float[Tensor, " n"]],
    shifts: tuple[Float[Tensor, " n"], Float[Tensor, " n"]],
) -> Float[Tensor, "n 2 3"]:
    """Compose rotation (radians) · shift (pixels) · zoom, along x and y; zooms above 1 show more, smaller."""
    cos, sin = angle.cos(), angle.sin()
    (zoom_x, zoom_y), (shift_x, shift_y) = zooms, shifts
    to_x = torch.stack([cos * zoom_x, -sin * zoom_y, cos * shift_x - sin * shift_y], dim=1)
    to_y = torch.stack([sin * zoom_x, cos * zoom_y, sin * shift_x + cos * shift_y], dim=1)
    return torch.stack([to_x, to_y], dim=1)
