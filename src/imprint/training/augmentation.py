"""Augmentation: whole batches of images in, whole batches out."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from imprint.recipes import Recipe

DOWNSCALE_SIZES = 4  # at once; each costs two small tensor operations


def warp(
    pixels: Float[Tensor, "n c h w"],
    matrices: Float[Tensor, "n 2 3"],
    bend: Float[Tensor, "n 2 h w"] | None = None,
) -> Float[Tensor, "n c h w"]:
    """Resample each image through its own affine map, bent where wanted.

    Output pixel (x, y) takes the input at ``matrix @ (x, y, 1) + bend(x, y)``, in pixels from the
    image's centre; between pixels bilinear, beyond the edge the nearest pixel.

    Parameters
    ----------
    pixels : Tensor of float, shape (n, c, h, w)
        Images.
    matrices : Tensor of float, shape (n, 2, 3)
        Rows for x (along columns) and y (along rows); the last column shifts, in pixels.
    bend : Tensor of float, shape (n, 2, h, w) or None, default=None
        Added along x and y, in pixels.

    Returns
    -------
    Tensor of float, shape (n, c, h, w)
        The warped images.

    Examples
    --------
    >>> shift_left = torch.tensor([[[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]])
    >>> warp(torch.tensor([[[[1.0, 2.0, 3.0]]]]), shift_left)
    tensor([[[[2., 3., 3.]]]])
    """
    count, _, height, width = pixels.shape
    x = torch.arange(width, device=pixels.device) - (width - 1) / 2
    y = torch.arange(height, device=pixels.device) - (height - 1) / 2
    grid = torch.empty(count, height, width, 2, device=pixels.device)
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


def augment(pixels: Float[Tensor, "n c h w"], recipe: Recipe) -> Float[Tensor, "n c h w"]:
    """Change each image at random, as the recipe says.

    Parameters
    ----------
    pixels : Tensor of float, shape (n, c, h, w)
        Images, from 0 to 1.
    recipe : Recipe
        Its fields rotation, zoom, shift, elastic, min_crop_area, hflip, downscale and color_jitter.

    Returns
    -------
    Tensor of float, shape (n, c, h, w)
        The changed images.

    Examples
    --------
    >>> from imprint.recipes import RECIPES
    >>> augment(torch.rand(2, 1, 28, 28), RECIPES["quick"]).shape
    torch.Size([2, 1, 28, 28])
    """
    warped = random_warp(
        pixels,
        rotation=recipe.rotation,
        zoom=recipe.zoom,
        shift=recipe.shift,
        elastic=recipe.elastic,
        min_crop_area=recipe.min_crop_area,
        hflip=recipe.hflip == "yes",
    )
    return random_color_jitter(random_downscale(warped, recipe.downscale), recipe.color_jitter)


def random_warp(
    pixels: Float[Tensor, "n c h w"],
    rotation: float,
    zoom: float,
    shift: float,
    elastic: float = 0.0,
    min_crop_area: float = 1.0,
    hflip: bool = False,
) -> Float[Tensor, "n c h w"]:
    """Turn, stretch, move, bend, min_crop_area and hflip each image by its own random amounts.

    Rotation, zoom and shift alone are what Keras's ImageDataGenerator does: the map from output
    to input is rotation · shift · zoom, every amount uniform.

    Parameters
    ----------
    pixels : Tensor of float, shape (n, c, h, w)
        Images.
    rotation : float
        Largest turn either way, in degrees.
    zoom : float
        Width and height are each stretched by their own factor from 1 - zoom to 1 + zoom.
    shift : float
        Largest move, as a share of width and of height.
    elastic : float, default=0
        Standard deviation of the displacements at 5×5 points, bicubic between them, in 28ths of the side.
    min_crop_area : float, default=1
        Take a part of this share of the area at least, of a shape from 3:4 to 4:3 of the image's,
        anywhere within, and enlarge it to the whole.
    hflip : bool, default=False
        Turn left and right about in half of the images.

    Returns
    -------
    Tensor of float, shape (n, c, h, w)
        The changed images; `pixels` itself where nothing is asked.

    References
    ----------
    keras/src/legacy/preprocessing/image.py, `get_random_transform` and `apply_affine_transform`;
    Simard, Steinkraus and Platt, "Best practices for convolutional neural networks", ICDAR 2003,
    for the bending; Szegedy et al., "Going deeper with convolutions", arXiv:1409.4842, for the crops.

    Examples
    --------
    >>> pixels = torch.rand(2, 1, 28, 28)
    >>> random_warp(pixels, rotation=10.0, zoom=0.1, shift=0.1).shape
    torch.Size([2, 1, 28, 28])
    """
    if not (rotation or zoom or shift or elastic or min_crop_area < 1 or hflip):
        return pixels
    count, _, height, width = pixels.shape
    draws = torch.rand(8, count, device=pixels.device) * 2 - 1
    angle = draws[0] * math.radians(rotation)
    zoom_x, zoom_y = 1 + zoom * draws[1], 1 + zoom * draws[2]
    shift_x, shift_y = shift * width * draws[3], shift * height * draws[4]
    if min_crop_area < 1:
        side = (min_crop_area + (1 - min_crop_area) * (draws[5] + 1) / 2).sqrt()
        stretch = (draws[6] * math.log(4 / 3) / 2).exp()
        zoom_x, zoom_y = zoom_x * (side * stretch).clamp(max=1), zoom_y * (side / stretch).clamp(max=1)
        shift_x = shift_x + draws[3] * (1 - zoom_x).clamp(min=0) * (width - 1) / 2
        shift_y = shift_y + draws[4] * (1 - zoom_y).clamp(min=0) * (height - 1) / 2
    if hflip:
        zoom_x = zoom_x * torch.where(draws[7] < 0, -1.0, 1.0)
    matrices = affine_matrices(angle, zooms=(zoom_x, zoom_y), shifts=(shift_x, shift_y))
    return warp(pixels, matrices, random_bend(count, (height, width), elastic, pixels.device) if elastic else None)


def random_downscale(pixels: Float[Tensor, "n c h w"], share: float) -> Float[Tensor, "n c h w"]:
    """Show some of the images as if they had been taken at a third to six tenths of their side, then enlarged.

    Strangers' images often come so, and an enlarged edge is soft until somebody raises the contrast: so it is
    raised too, by up to three times.

    Parameters
    ----------
    pixels : Tensor of float, shape (n, c, h, w)
        Images in random order, from 0 to 1.
    share : float
        Of them that are changed, spread evenly, at four random sizes.

    Returns
    -------
    Tensor of float, shape (n, c, h, w)
        From 0 to 1; `pixels` itself where the share is 0.

    Examples
    --------
    >>> random_downscale(torch.rand(20, 1, 28, 28), 0.3).shape
    torch.Size([20, 1, 28, 28])
    """
    if not share:
        return pixels
    height, width = pixels.shape[2:]
    seen = pixels.clone()
    step = max(round(DOWNSCALE_SIZES / share), DOWNSCALE_SIZES)
    for first in range(min(DOWNSCALE_SIZES, len(pixels))):
        some = pixels[first::step]
        scale = 1 / 3 + 0.27 * float(torch.rand(()))
        contrast = 1 + 2 * torch.rand(len(some), 1, 1, 1, device=pixels.device)
        size = max(round(height * scale), 1), max(round(width * scale), 1)
        small = F.interpolate(some, size=size, mode="bilinear", antialias=True)
        large = F.interpolate(small, size=(height, width), mode="bicubic", align_corners=False)
        seen[first::step] = ((large - 0.5) * contrast + 0.5).clamp(0, 1)
    return seen


def random_color_jitter(pixels: Float[Tensor, "n c h w"], amount: float) -> Float[Tensor, "n c h w"]:
    """Change each image's saturation, contrast and brightness by its own random factors.

    Parameters
    ----------
    pixels : Tensor of float, shape (n, c, h, w)
        Images, from 0 to 1.
    amount : float
        Each factor is uniform from 1 - amount to 1 + amount.

    Returns
    -------
    Tensor of float, shape (n, c, h, w)
        From 0 to 1; `pixels` itself where the amount is 0.

    Examples
    --------
    >>> random_color_jitter(torch.rand(2, 3, 4, 4), 0.3).shape
    torch.Size([2, 3, 4, 4])
    """
    if not amount:
        return pixels
    factors = 1 + amount * (torch.rand(3, len(pixels), 1, 1, 1, device=pixels.device) * 2 - 1)
    saturation, contrast, brightness = factors
    grey = pixels.mean(dim=1, keepdim=True)
    coloured = grey.lerp(pixels, saturation)
    mean = grey.mean(dim=(2, 3), keepdim=True)
    lit: Tensor = mean.lerp(coloured, contrast) * brightness
    return lit.clamp(0, 1)


def random_bend(count: int, size: tuple[int, int], elastic: float, device: torch.device) -> Float[Tensor, "n 2 h w"]:
    """Draw smooth displacements for `warp`.

    Parameters
    ----------
    count : int
        Images.
    size : tuple of int
        Their height and width in pixels.
    elastic : float
        Standard deviation at 5×5 points, in 28ths of the side.
    device : torch.device
        Where they are needed.

    Returns
    -------
    Tensor of float, shape (count, 2, height, width)
        Along x and y, in pixels.

    Examples
    --------
    >>> random_bend(3, (28, 28), 0.5, torch.device("cpu")).shape
    torch.Size([3, 2, 28, 28])
    """
    points = torch.randn(count, 2, 5, 5, device=device) * (elastic / 28)
    for axis, side in enumerate(reversed(size)):
        points[:, axis] *= side
    return F.interpolate(points, size=size, mode="bicubic", align_corners=True)


def affine_matrices(
    angle: Float[Tensor, " n"],
    zooms: tuple[Float[Tensor, " n"], Float[Tensor, " n"]],
    shifts: tuple[Float[Tensor, " n"], Float[Tensor, " n"]],
) -> Float[Tensor, "n 2 3"]:
    """Compose rotation · shift · zoom.

    Parameters
    ----------
    angle : Tensor of float, shape (n,)
        In radians.
    zooms : pair of Tensor of float, shape (n,)
        Factors along x and y; above 1 shows more of the image, smaller.
    shifts : pair of Tensor of float, shape (n,)
        Along x and y, in pixels.

    Returns
    -------
    Tensor of float, shape (n, 2, 3)
        Matrices for `warp`.

    Examples
    --------
    >>> one, none = torch.ones(1), torch.zeros(1)
    >>> affine_matrices(none, (one, one), (none, none))
    tensor([[[1., -0., 0.],
             [0., 1., 0.]]])
    """
    cos, sin = angle.cos(), angle.sin()
    (zoom_x, zoom_y), (shift_x, shift_y) = zooms, shifts
    to_x = torch.stack([cos * zoom_x, -sin * zoom_y, cos * shift_x - sin * shift_y], dim=1)
    to_y = torch.stack([sin * zoom_x, cos * zoom_y, sin * shift_x + cos * shift_y], dim=1)
    return torch.stack([to_x, to_y], dim=1)
