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

from . import parallel
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
        """Return this process's pictures of a batch of an epoch, augmented."""
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([*self._key, epoch]).permutation(self.indices)
        chosen = self._order[1][number * batch_size : (number + 1) * batch_size]
        rng = np.random.default_rng([*self._key, epoch, number])
        taken = np.arange(len(chosen))[parallel.mine()]
        pixels = augment(self._split.images[chosen[taken]], self._augmentation, rng, joined=(len(chosen), taken))
        return self._tensors(pixels, chosen[taken])

    def clean_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the whole half, without augmentation, in batches of nearly the same size.

        With several processes, each gets its share of every batch.
        """
        for chosen in np.array_split(self.indices, -(-len(self) // batch_size)):
            taken = chosen[parallel.mine()]
            yield self._tensors(self._split.images[taken], taken)

    def _tensors(self, pixels: NDArray[np.uint8], chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        x = torch.from_numpy(pixels).contiguous(memory_format=torch.channels_last).float().div_(255)
        return x, torch.from_numpy(self._split.labels[chosen])


def halve(
    split: Split,
    augmentation: Augmentation,
    *,
    seed: int,
    num_images: int | None = None,
    held: NDArray[np.int64] | None = None,
) -> tuple[Half, Half]:
    """Return the half that the weights train on and the one that the alphas train on.

    num_images: how many pictures are drawn for the two; None takes all. held: indices of those that neither gets.

    Raises:
        DataError: fewer than four pictures.
    """
    order = np.random.default_rng([seed, 0]).permutation(len(split))
    if held is not None and len(held):
        order = order[~np.isin(order, held)]
    if len(order) < 4:
        raise DataError(f"{split.name}: got {len(order)} pictures, expected at least 4 to search on")
    order = order[:num_images]
    middle = len(order) // 2
    parts = (order[:middle], order[middle:])  # mixed: a split may lie class by class, and batches are normalized
    weight_half, alpha_half = (
        Half(split, part, augmentation, key=(seed, number)) for number, part in enumerate(parts, 1)
    )
    return weight_half, alpha_half


def augment(
    pixels: NDArray[np.uint8],
    augmentation: Augmentation,
    rng: np.random.Generator,
    *,
    joined: tuple[int, NDArray[np.int64]] | None = None,
) -> NDArray[np.uint8]:
    """Crop each picture at random out of its padded self, mirror every other one, and black out a square.

    pixels: (B, C, H, W). The padding is at most an eighth of the shorter side, so that small pictures stay in view.
    joined: the size of the batch that these pictures are part of, and their places in it; they come out alike
        whether the rest of it is there or not.
    """
    batch_size, channels, height, width = pixels.shape
    num_joined, places = joined or (batch_size, np.arange(batch_size))
    padding = min(augmentation.crop_padding, min(height, width) // 8)
    if padding or augmentation.flip:
        padded = np.pad(pixels, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
        top, left = rng.integers(0, 2 * padding + 1, (2, num_joined, 1))[:, places]
        rows, columns = top + np.arange(height), left + np.arange(width)
        if augmentation.flip:
            mirrored = rng.random((num_joined, 1))[places] < 0.5
            columns = np.where(mirrored, columns[:, ::-1], columns)
        pixels = padded[
            np.arange(batch_size)[:, None, None, None],
            np.arange(channels)[None, :, None, None],
            rows[:, None, :, None],
            columns[:, None, None, :],
        ]
    if augmentation.cutout:
        centre = rng.integers(0, (height, width), (num_joined, 2))[places].T[:, :, None]
        start = centre - augmentation.cutout // 2
        row, column = np.arange(height), np.arange(width)
        rows = (row >= start[0]) & (row < start[0] + augmentation.cutout)
        columns = (column >= start[1]) & (column < start[1] + augmentation.cutout)
        pixels = pixels * ~(rows[:, None, :, None] & columns[:, None, None, :])
    return pixels
