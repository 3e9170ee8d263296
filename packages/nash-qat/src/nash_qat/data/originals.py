"""Training pictures cut from their files, where those are larger than the network's input.

Shapes: pictures (B, C, H, W) uint8. A box is (left, top, right, bottom) in pixels of the original picture.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..recipe import Augmentation
from . import augment, pictures
from .datasets import Preprocessing, Split, decode

_REDUCING_GAP = 3.0  # a picture many times too large is first averaged down to thrice the size
_INSIDE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What is taken of a picture: its place among the draws of a batch, as `augment.draws` makes them."""

    area: float
    aspect: float
    x: float
    y: float
    shift_x: float
    shift_y: float
    is_mirrored: bool

    def box(self, size: tuple[int, int], settings: Augmentation, preprocessing: Preprocessing) -> list[float]:
        """Return the part of an original picture (width, height) that becomes the network's input.

        With a `min_area` it is a window of the whole picture, made smaller where it would not fit (arXiv 1409.4842);
        without, what evaluation sees. A shift moves it, outside the picture, too, where there is black.
        """
        width, height = float(size[0]), float(size[1])
        if settings.min_area < 1:
            window = [math.sqrt(self.area * width * height * ratio) for ratio in (self.aspect, 1 / self.aspect)]
            fit = min(1.0, width / window[0], height / window[1])
            across, down = fit * window[0], fit * window[1]
            left, top = (width - across) * self.x, (height - down) * self.y
        else:
            scale = min(size) / preprocessing.resize
            across, down = preprocessing.width * scale, preprocessing.height * scale
            left, top = (width - across) / 2, (height - down) / 2
            width, height = across, down
        left, top = left + settings.shift * self.shift_x * width, top + settings.shift * self.shift_y * height
        return [left, top, left + across, top + down]


class Originals:
    """The pictures of a training split, each in its original size where it has more pixels than the network takes.

    Of those no pixels are kept in memory, only whether they are larger.
    """

    def __init__(self, split: Split, shape: tuple[int, int, int]) -> None:
        channels, height, width = shape
        self._preprocessing = Preprocessing(channels=channels, height=height, width=width)
        self._images = split.images
        self._files = pictures.files_of(split.images)
        num_files = 0 if self._files is None else len(self._files)
        self._is_large = np.zeros(num_files, dtype=bool)
        self._is_known = np.zeros(num_files, dtype=bool)
        self._pool = ThreadPoolExecutor()

    def changed(self, indices: NDArray[np.int64], settings: Augmentation, generator: torch.Generator) -> Tensor:
        """Return pictures (B, C, H, W) uint8 of the network's size, changed at random.

        Pictures that are larger are cut from the original and then changed by RandAugment; the others are changed as
        `augment.augment` does.

        Raises:
            DataError: a picture cannot be read.
        """
        is_large = self._are_large(indices) if settings.moves else np.zeros(len(indices), dtype=bool)
        if not is_large.any():
            return augment.augment(torch.from_numpy(self._images[indices]), settings, generator)
        channels, height, width = (getattr(self._preprocessing, name) for name in ("channels", "height", "width"))
        batch = torch.empty(len(indices), channels, height, width, dtype=torch.uint8)
        if not is_large.all():
            prepared = torch.from_numpy(self._images[indices[~is_large]])
            batch[torch.from_numpy(~is_large)] = augment.augment(prepared, settings, generator)
        batch[torch.from_numpy(is_large)] = self._cut(indices[is_large], settings, generator)
        return batch

    def _are_large(self, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        if self._files is None:
            return np.zeros(len(indices), dtype=bool)
        unknown = indices[~self._is_known[indices]]
        if len(unknown):
            paths = [self._files[index] for index in unknown.tolist()]
            self._is_large[unknown] = list(self._pool.map(self._is_larger, paths))
            self._is_known[unknown] = True
        return self._is_large[indices]

    def _is_larger(self, path: Path) -> bool:
        width, height = decode(path, lambda picture: picture.size)
        return width > self._preprocessing.width or height > self._preprocessing.height

    def _cut(self, indices: NDArray[np.int64], settings: Augmentation, generator: torch.Generator) -> Tensor:
        assert self._files is not None
        paths = [self._files[index] for index in indices.tolist()]
        cuts = _cuts(len(indices), settings, generator)

        def read(path: Path, cut: Cut) -> NDArray[np.uint8]:
            return decode(path, lambda picture: self._view(picture, cut, settings))

        cropped = torch.from_numpy(np.stack(list(self._pool.map(read, paths, cuts))))
        return augment.recoloured(cropped, settings, generator)

    def _view(self, picture: Image.Image, cut: Cut, settings: Augmentation) -> NDArray[np.uint8]:
        """Return a cut of a picture (C, H, W)."""
        preprocessing = self._preprocessing
        size = preprocessing.width, preprocessing.height
        original = picture.size
        box = cut.box(original, settings, preprocessing)
        enough = tuple(math.ceil(original[axis] * size[axis] / (box[axis + 2] - box[axis])) for axis in (0, 1))
        drafted = picture.draft(None, enough)  # a JPEG is decoded at a half, a quarter or an eighth if that will do
        if drafted is not None:
            scale = drafted[1][2] / original[0]
            box = [edge * scale for edge in box]
        picture = picture.convert("L" if preprocessing.channels == 1 else "RGB")
        pixels = np.asarray(_resized(picture, box, size), dtype=np.uint8)
        pixels = pixels[:, ::-1] if cut.is_mirrored else pixels
        return pixels[None] if preprocessing.channels == 1 else pixels.transpose(2, 0, 1)


def _resized(picture: Image.Image, box: list[float], size: tuple[int, int]) -> Image.Image:
    """Return a box of a picture as a picture of `size`; what lies outside is black."""
    left, top, right, bottom = box
    outer = [math.floor(left + _INSIDE), math.floor(top + _INSIDE)]
    outer += [math.ceil(right - _INSIDE), math.ceil(bottom - _INSIDE)]
    if outer[0] < 0 or outer[1] < 0 or outer[2] > picture.width or outer[3] > picture.height:
        picture = picture.crop(tuple(outer))
        left, top, right, bottom = left - outer[0], top - outer[1], right - outer[0], bottom - outer[1]
    inside = (max(left, 0.0), max(top, 0.0), min(right, picture.width), min(bottom, picture.height))
    return picture.resize(size, Image.Resampling.BILINEAR, box=inside, reducing_gap=_REDUCING_GAP)


def _cuts(number: int, settings: Augmentation, generator: torch.Generator) -> list[Cut]:
    area, aspect, *rest = (row.tolist() for row in augment.draws(number, settings, generator))
    is_mirrored, x, shift_x, y, shift_y = rest
    return [
        Cut(
            area=area[index],
            aspect=aspect[index],
            x=x[index],
            y=y[index],
            shift_x=2 * shift_x[index] - 1,
            shift_y=2 * shift_y[index] - 1,
            is_mirrored=settings.flip and is_mirrored[index] < 0.5,
        )
        for index in range(number)
    ]
