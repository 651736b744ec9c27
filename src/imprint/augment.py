"""Augmentation: whole batches of pictures in, whole batches out."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def warp(pixels: Float[Tensor, "n c h w"], matrices: Float[Tensor, "n 2 3"]) -> Float[Tensor, "n c h w"]:
    """Resample each picture through its own affine map.

    Output pixel (x, y) takes the input at ``matrix @ (x, y, 1)``, in pixels from the picture's
    centre; between pixels bilinear, beyond the edge the nearest pixel.

    Parameters
    ----------
    pixels : Tensor of float, shape (n, c, h, w)
        Pictures.
    matrices : Tensor of float, shape (n, 2, 3)
        Rows for x (along columns) and y (along rows); the last column shifts, in pixels.

    Returns
    -------
    Tensor of float, shape (n, c, h, w)
        The warped pictures.

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
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=True)


def random_affine(
    pixels: Float[Tensor, "n c h w"], rotation: float, zoom: float, shift: float
) -> Float[Tensor, "n c h w"]:
    """Turn, stretch and move each picture by its own random amounts, as Keras's ImageDataGenerator does.

    The map from output to input is rotation · shift · zoom; every amount is uniform.

    Parameters
    ----------
    pixels : Tensor of float, shape (n, c, h, w)
        Pictures.
    rotation : float
        Largest turn either way, in degrees.
    zoom : float
        Width and height are each stretched by their own factor from 1 - zoom to 1 + zoom.
    shift : float
        Largest move, as a share of width and of height.

    Returns
    -------
    Tensor of float, shape (n, c, h, w)
        The changed pictures; `pixels` itself where all amounts are 0.

    References
    ----------
    keras/src/legacy/preprocessing/image.py, `get_random_transform` and `apply_affine_transform`.

    Examples
    --------
    >>> pixels = torch.rand(2, 1, 28, 28)
    >>> random_affine(pixels, rotation=10.0, zoom=0.1, shift=0.1).shape
    torch.Size([2, 1, 28, 28])
    """
    if not (rotation or zoom or shift):
        return pixels
    count, _, height, width = pixels.shape
    draws = torch.rand(5, count, device=pixels.device) * 2 - 1
    angle = draws[0] * math.radians(rotation)
    matrices = affine_matrices(
        angle,
        zooms=(1 + zoom * draws[1], 1 + zoom * draws[2]),
        shifts=(shift * width * draws[3], shift * height * draws[4]),
    )
    return warp(pixels, matrices)


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
        Factors along x and y; above 1 shows more of the picture, smaller.
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
