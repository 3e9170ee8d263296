"""The two halves of the training split, and their batches in an order that depends on the seed and the place alone.

Shapes: batches are x (B, C, H, W) float in [0, 1], channels last, and y (B,) int64.

Order and augmentation are drawn anew from (seed, half, epoch, batch), so a resumed search sees the same pictures
without any generator's state having been kept.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .data import Split
from .errors import DataError
from .recipe import Augmentation


class Half:
    """One half of a split, in shuffled and augmented batches or in clean ones."""

    def __init__(
        self, split: Split, indices: NDArray[np.int64], augmentation: Augmentation, *, key: tuple[int, int]
    ) -> None:
        self.indices = indices
        self._split = split
        self._augmentation = augmentation
        self._key = key  # seed, number of the half
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, epoch: int, number: int, batch_size: int) -> tuple[Tensor, Tensor]:
        """Return a batch of an epoch, augmented."""
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([*self._key, epoch]).permutation(self.indices)
        chosen = self._order[1][number * batch_size : (number + 1) * batch_size]
        rng = np.random.default_rng([*self._key, epoch, number])
        return self._tensors(augment(self._split.images[chosen], self._augmentation, rng), chosen)

    def clean_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the whole half, without augmentation, in batches of nearly the same size."""
        for chosen in np.array_split(self.indices, -(-len(self) // batch_size)):
            yield self._tensors(self._split.images[chosen], chosen)

    def _tensors(self, pixels: NDArray[np.uint8], chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        x = torch.from_numpy(pixels).contiguous(memory_format=torch.channels_last).float().div_(255)
        return x, torch.from_numpy(self._split.labels[chosen])


def halve(split: Split, augmentation: Augmentation, *, seed: int, num_images: int | None = None) -> tuple[Half, Half]:
    """Return the half that the weights train on and the one that the alphas train on.

    num_images: how many pictures are drawn for the two; None takes all.

    Raises:
        DataError: fewer than four pictures.
    """
    if len(split) < 4:
        raise DataError(f"{split.name}: got {len(split)} pictures, expected at least 4 to search on")
    order = np.random.default_rng([seed, 0]).permutation(len(split))[:num_images]
    middle = len(order) // 2
    parts = (order[:middle], order[middle:])  # mixed: a split may lie class by class, and batches are normalized
    weight_half, alpha_half = (
        Half(split, part, augmentation, key=(seed, number)) for number, part in enumerate(parts, 1)
    )
    return weight_half, alpha_half


def augment(pixels: NDArray[np.uint8], augmentation: Augmentation, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Crop each picture at random out of its padded self, and mirror every other one.

    pixels: (B, C, H, W). The padding is at most an eighth of the shorter side, so that small pictures stay in view.
    """
    batch_size, channels, height, width = pixels.shape
    padding = min(augmentation.crop_padding, min(height, width) // 8)
    if padding == 0 and not augmentation.flip:
        return pixels
    padded = np.pad(pixels, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    top, left = rng.integers(0, 2 * padding + 1, (2, batch_size, 1))
    rows, columns = top + np.arange(height), left + np.arange(width)
    if augmentation.flip:
        mirrored = rng.random((batch_size, 1)) < 0.5
        columns = np.where(mirrored, columns[:, ::-1], columns)
    return padded[
        np.arange(batch_size)[:, None, None, None],
        np.arange(channels)[None, :, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]
