"""PIL's resizing by matrix products, on any device: the same 8-bit values.

PIL resizes rows and columns one after the other. Each new value is a weighted sum of the old ones with
weights that are whole multiples of 2^-22, rounded and clipped to 8 bits. Here a weight is split into an
upper and a lower half: the sums of either are whole numbers that float32 holds exactly, in any order.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

BITS = 22  # of a weight, behind the point
HALF = 2 ** (BITS // 2)


def _bilinear(x: np.ndarray) -> np.ndarray:
    return np.clip(1 - np.abs(x), 0, None)


def _bicubic(x: np.ndarray) -> np.ndarray:
    a, x = -0.5, np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


FILTERS = {"bilinear": (_bilinear, 1.0), "bicubic": (_bicubic, 2.0)}  # and how far they reach


def resize(images: Tensor, height: int, width: int, interpolation: str) -> Tensor:
    """Resize uint8 (n, channels, h, w) to uint8 (n, channels, height, width). In Pillow 13's order:
    columns come first where they lose more than twice as much as rows.
    """
    old_height, old_width = images.shape[-2:]
    if old_height - height > max(0, 2 * (old_width - width)):
        return _across(_down(images, height, interpolation), width, interpolation)
    return _down(_across(images, width, interpolation), height, interpolation)


def _across(images: Tensor, width: int, interpolation: str) -> Tensor:
    if images.shape[-1] == width:
        return images
    upper, lower = _matrices(images.shape[-1], width, interpolation, images.device)
    values = images.float()
    return _to_bytes(values @ upper.T, values @ lower.T)


def _down(images: Tensor, height: int, interpolation: str) -> Tensor:
    if images.shape[-2] == height:
        return images
    upper, lower = _matrices(images.shape[-2], height, interpolation, images.device)
    values = images.float()
    return _to_bytes(upper @ values, lower @ values)


def _to_bytes(upper: Tensor, lower: Tensor) -> Tensor:
    """Add the sums of both halves, rounded and clipped; in their memory."""
    # upper · HALF + lower, in units of 2^-BITS, and a half for rounding. Carried down in two steps, each
    # of which float32 holds exactly; floor as an arithmetic shift does.
    lower.mul_(1 / HALF).floor_()
    return upper.add_(lower).add_(HALF / 2).mul_(1 / HALF).clamp_(0, 255).to(torch.uint8)


def _matrices(old: int, new: int, interpolation: str, device: torch.device) -> list[Tensor]:
    """Return the halves of the weights, (new, old) each: dense, but for the moment only."""
    places, *halves = _bands(old, new, interpolation, device)
    return [torch.zeros(new, old, device=device).scatter_add_(1, places, half) for half in halves]


@lru_cache(4096)
def _bands(old: int, new: int, interpolation: str, device: torch.device) -> tuple[Tensor, ...]:
    """Return for each new value the places of the old ones that it is made of, and their weights in
    halves.
    """
    values, reach = FILTERS[interpolation]
    # As Pillow's precompute_coeffs does it: a filter stretched by the scale where images shrink.
    scale = old / new
    stretch = max(scale, 1.0)
    centre = (np.arange(new)[:, None] + 0.5) * scale
    first = np.maximum((centre - reach * stretch + 0.5).astype(int), 0)
    last = np.minimum((centre + reach * stretch + 0.5).astype(int), old)
    places = first + np.arange((last - first).max())
    weights = np.where(places < last, values((places - centre + 0.5) * (1 / stretch)), 0)
    weights /= weights.cumsum(1)[:, -1:]
    whole = (weights * 2**BITS + np.copysign(0.5, weights)).astype(int)
    upper = (whole + HALF // 2) // HALF
    halves = (torch.from_numpy(half).float().to(device) for half in (upper, whole - upper * HALF))
    return torch.from_numpy(np.minimum(places, old - 1)).to(device), *halves
