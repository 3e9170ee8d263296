"""Random changes of training pictures.

Shapes: pictures (B, C, H, W) uint8. Moves of a picture are one affine map of its plane, applied once, bilinear.
"""

from __future__ import annotations

import functools
import importlib
import math
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional

from ..base.errors import DataError, UsageError
from ..recipe import Augmentation
from . import datasets as data

_LOG_ASPECT = math.log(4 / 3)


def augment(pictures: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Return changed copies of pictures (B, C, H, W) uint8; all chance comes from `generator`."""
    pictures = recoloured(pictures, settings, generator)
    if not settings.moves:
        return pictures
    maps = _affine_maps(len(pictures), settings, generator)
    grid = functional.affine_grid(maps, list(pictures.shape), align_corners=False)
    changed = functional.grid_sample(pictures.float(), grid, align_corners=False, padding_mode="zeros")
    return changed.round().clamp(0, 255).to(torch.uint8)


def recoloured(pictures: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Return pictures (B, C, H, W) uint8 after RandAugment alone, if the settings have it."""
    return _rand_augment(pictures, settings, generator) if settings.rand_ops else pictures


def draws(num_pictures: int, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Return what decides the moves of pictures (7, B).

    Rows: share of the area, aspect; then five numbers in [0, 1): below 0.5 to mirror, place of the window and shift in
    x, the same in y.
    """
    draw = torch.rand(7, num_pictures, generator=generator)
    draw[0] = settings.min_area + (1 - settings.min_area) * draw[0]
    draw[1] = torch.exp((2 * draw[1] - 1) * _LOG_ASPECT) if settings.min_area < 1 else 1.0
    return draw


def check(settings: Augmentation) -> None:
    """Refuse what cannot be done here.

    Raises:
        UsageError: RandAugment is wanted and torchvision is not installed.
    """
    if settings.rand_ops:
        _transforms()


def _rand_augment(pictures: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    transforms = _transforms()
    change = transforms.RandAugment(settings.rand_ops, settings.rand_magnitude)
    seed = int(torch.randint(1 << 62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
        torch.manual_seed(seed)
        return torch.stack([change(picture) for picture in pictures])


@functools.cache
def _transforms() -> ModuleType:
    try:
        data.load_torchvision()
    except DataError as error:
        raise UsageError(
            "recipe: augmentation.rand_ops: needs torchvision, which is not installed; "
            "pip install 'nash-qat[cifar]', or set it to 0"
        ) from error
    return importlib.import_module("torchvision.transforms.v2")


def _affine_maps(num_pictures: int, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Return (B, 2, 3) maps from output to input coordinates, both in [-1, 1]."""
    draw = draws(num_pictures, settings, generator)
    area, aspect = draw[0], draw[1]
    width = (area * aspect).sqrt().clamp(max=1)
    height = (area / aspect).sqrt().clamp(max=1)
    mirror = torch.where(draw[2] < 0.5, -1.0, 1.0) if settings.flip else torch.ones(num_pictures)
    centre_x = (1 - width) * (2 * draw[3] - 1) + 2 * settings.shift * (2 * draw[4] - 1)
    centre_y = (1 - height) * (2 * draw[5] - 1) + 2 * settings.shift * (2 * draw[6] - 1)
    maps = torch.zeros(num_pictures, 2, 3)
    maps[:, 0, 0], maps[:, 0, 2] = width * mirror, centre_x
    maps[:, 1, 1], maps[:, 1, 2] = height, centre_y
    return maps
