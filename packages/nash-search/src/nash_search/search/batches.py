"""The two halves of the training split, and their batches in an order that depends on the seed and the place alone.

Shapes: batches are x (B, C, H, W) float in [0, 1], channels last, and y (B,) int64.

Order and augmentation are drawn anew from (seed, half, epoch, batch), so a resumed search sees the same pictures
without any generator's state having been kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..base import parallel
from ..base.errors import DataError
from ..data.datasets import Split
from ..layers import devices
from ..layers.devices import Placement
from .recipe import Augmentation

ON_CPU = devices.placement("cpu")


class Half:
    """One half of a split, in shuffled and augmented batches or in clean ones."""

    def __init__(
        self,
        split: Split,
        indices: NDArray[np.int64],
        augmentation: Augmentation,
        *,
        key: tuple[int, int],
        placed: Placement = ON_CPU,
        resident: Tensor | None = None,
    ) -> None:
        self.indices = indices
        self._split = split
        self._augmentation = augmentation
        self._key = key  # seed, number of the half
        self._placed, self._resident = placed, resident
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
        pictures = chosen[taken]
        joined = (len(chosen), taken)
        if self._resident is None:
            pixels = augment(self._split.images[pictures], self._augmentation, rng, joined=joined)
            return self._tensors(torch.from_numpy(pixels), pictures)
        found = self._resident[torch.from_numpy(pictures).to(self._placed.device)]
        return self._tensors(augmented(found, self._augmentation, rng, joined=joined), pictures)

    def clean_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the whole half, without augmentation, in batches of nearly the same size.

        With several processes, each gets its share of every batch.
        """
        for chosen in np.array_split(self.indices, -(-len(self) // batch_size)):
            taken = chosen[parallel.mine()]
            if self._resident is None:
                yield self._tensors(torch.from_numpy(self._split.images[taken]), taken)
            else:
                yield self._tensors(self._resident[torch.from_numpy(taken).to(self._placed.device)], taken)

    def _tensors(self, pixels: Tensor, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return pictures and labels on the device; from pinned memory they are on their way while it computes."""
        labels, device = torch.from_numpy(self._split.labels[chosen]), self._placed.device
        if device.type == "cuda":
            labels = labels.pin_memory().to(device, non_blocking=True)
            if pixels.device != device:
                pixels = pixels.pin_memory().to(device, non_blocking=True)
        return pixels.contiguous(memory_format=torch.channels_last).float().div_(255), labels


def halve(
    split: Split,
    augmentation: Augmentation,
    *,
    seed: int,
    num_images: int | None = None,
    held: NDArray[np.int64] | None = None,
    placed: Placement = ON_CPU,
) -> tuple[Half, Half]:
    """Return the half that the weights train on and the one that the alphas train on.

    num_images: how many pictures are drawn for the two; None takes all. held: indices of those that neither gets.
    placed: where batches are wanted; pictures that lie in memory are put there whole, as uint8.

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
    resident = None
    if placed.holds_pictures and isinstance(split.images, np.ndarray):
        resident = torch.from_numpy(split.images).to(placed.device)
    weight_half, alpha_half = (
        Half(split, part, augmentation, key=(seed, number), placed=placed, resident=resident)
        for number, part in enumerate(parts, 1)
    )
    return weight_half, alpha_half


class Changes(NamedTuple):
    """What is drawn for a batch: which pixels of the padded pictures are taken, and which of those stay.

    padding: pixels a side. rows (B, H), columns (B, W): None takes all. kept: (B, 1, H, W) bool; None keeps all.
    """

    padding: int
    rows: NDArray[np.int64] | None
    columns: NDArray[np.int64] | None
    kept: NDArray[np.bool_] | None


def draw(
    shape: tuple[int, ...],
    augmentation: Augmentation,
    rng: np.random.Generator,
    *,
    joined: tuple[int, NDArray[np.int64]] | None = None,
) -> Changes:
    """Draw what changes a batch of pictures of a shape (B, C, H, W), on any device the same; see `augment`."""
    batch_size, _, height, width = shape
    num_joined, places = joined or (batch_size, np.arange(batch_size))
    padding = min(augmentation.crop_padding, min(height, width) // 8)
    rows = columns = kept = None
    if padding or augmentation.flip:
        top, left = rng.integers(0, 2 * padding + 1, (2, num_joined, 1))[:, places]
        rows, columns = top + np.arange(height), left + np.arange(width)
        if augmentation.flip:
            mirrored = rng.random((num_joined, 1))[places] < 0.5
            columns = np.where(mirrored, columns[:, ::-1], columns)
    if augmentation.cutout:
        centre = rng.integers(0, (height, width), (num_joined, 2))[places].T[:, :, None]
        start = centre - augmentation.cutout // 2
        row, column = np.arange(height), np.arange(width)
        out_rows = (row >= start[0]) & (row < start[0] + augmentation.cutout)
        out_columns = (column >= start[1]) & (column < start[1] + augmentation.cutout)
        kept = ~(out_rows[:, None, :, None] & out_columns[:, None, None, :])
    return Changes(padding, rows, columns, kept)


def augmented(
    pixels: Tensor,
    augmentation: Augmentation,
    rng: np.random.Generator,
    *,
    joined: tuple[int, NDArray[np.int64]] | None = None,
) -> Tensor:
    """Return what `augment` does, of pictures (B, C, H, W) uint8 on a device, by gathering there."""
    changes, device = draw(tuple(pixels.shape), augmentation, rng, joined=joined), pixels.device

    def moved(values: NDArray[Any]) -> Tensor:
        found = torch.from_numpy(np.ascontiguousarray(values))
        return found.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else found

    if changes.rows is not None and changes.columns is not None:
        padded = F.pad(pixels, (changes.padding,) * 4)
        rows, columns = moved(changes.rows)[:, None, :, None], moved(changes.columns)[:, None, None, :]
        batch, channels = (torch.arange(count, device=device) for count in pixels.shape[:2])
        pixels = padded[batch[:, None, None, None], channels[None, :, None, None], rows, columns]
    return pixels if changes.kept is None else pixels * moved(changes.kept)


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
    changes = draw(pixels.shape, augmentation, rng, joined=joined)
    if changes.rows is not None and changes.columns is not None:
        padding = (changes.padding, changes.padding)
        padded = np.pad(pixels, ((0, 0), (0, 0), padding, padding))
        pixels = padded[
            np.arange(pixels.shape[0])[:, None, None, None],
            np.arange(pixels.shape[1])[None, :, None, None],
            changes.rows[:, None, :, None],
            changes.columns[:, None, None, :],
        ]
    return pixels if changes.kept is None else pixels * changes.kept
