"""Parts of a split, and pictures that cannot be read: all are named and counted before a run, or left out of it."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..base.errors import DataError
from . import datasets
from .datasets import Files, Images, Split, SplitName

_CHUNK = 256
_MAX_NAMED = 5
_CHECKED_BYTES = 2 << 30  # what data keeps of decoded pictures


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chosen:
    """Some of the pictures of a split, in the order of `indices`."""

    images: Images
    indices: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self.images[self.indices[indices]]


def part(split: Split, indices: NDArray[np.int64], *, name: str | None = None) -> Split:
    """Return the pictures of a split that have these indices, under the split's name or another."""
    chosen = Chosen(images=split.images, indices=indices)
    return dataclasses.replace(split, name=name or split.name, images=chosen, labels=split.labels[indices])


def files_of(images: Images) -> list[Path] | None:
    """Return the files of pictures, in their order; None for pictures that are none."""
    if isinstance(images, Chosen):
        files = files_of(images.images)
        return None if files is None else [files[index] for index in images.indices.tolist()]
    return images.paths if isinstance(images, Files) else None


def checked(split: Split, *, skip_broken: bool) -> tuple[Split, int]:
    """Read every picture once; return the split without those that cannot be read, and their number.

    Raises:
        DataError: there are such pictures and they are not to be skipped, or no class or only one would be left.
    """
    broken = dict(_broken(split.images))
    if not broken:
        return split, 0
    if not skip_broken:
        named = " | ".join(list(broken.values())[:_MAX_NAMED])
        more = f" | and {len(broken) - _MAX_NAMED} more" if len(broken) > _MAX_NAMED else ""
        count = f"{len(broken)} of {len(split)} pictures cannot be read"
        raise DataError(f"{split.name}: {count}: {named}{more}; mend them or pass --skip-broken")
    good = np.array([index for index in range(len(split)) if index not in broken], dtype=np.int64)
    left = np.unique(split.labels[good])
    if len(left) < 2:
        raise DataError(
            f"{split.name}: {len(broken)} of {len(split)} pictures cannot be read; {len(left)} classes are left"
        )
    return part(split, good), len(broken)


def _broken(images: Images) -> Iterator[tuple[int, str]]:
    for start in range(0, len(images), _CHUNK):
        indices = np.arange(start, min(start + _CHUNK, len(images)))
        try:
            images[indices]
        except DataError:
            yield from _broken_one_by_one(images, indices)


def _broken_one_by_one(images: Images, indices: NDArray[np.int64]) -> Iterator[tuple[int, str]]:
    for index in indices:
        try:
            images[np.array([index])]
        except DataError as error:
            yield int(index), str(error).rpartition(";")[0]


def load(
    dataset: str,
    split: SplitName,
    shape: tuple[int, int, int],
    num_classes: int,
    data_dir: Path | None,
    *,
    skip_broken: bool = False,
) -> Split:
    """Return a split prepared for a network's input (C, H, W).

    Picture files are all read before, if they are to be kept in memory or the broken ones skipped; else a broken one
    is met when its turn comes.

    Raises:
        DataError: the dataset is broken, or has another number of classes than the network.
    """
    channels, height, width = shape
    preprocessing = datasets.Preprocessing(channels=channels, height=height, width=width)
    loaded = datasets.load(dataset, split, preprocessing, data_dir=data_dir)
    if len(loaded.class_names) != num_classes:
        raise DataError(
            f"{dataset}: got {len(loaded.class_names)} classes, expected {num_classes} as the network has; "
            "choose another dataset, or a genotype with its number of classes"
        )
    fits_memory = len(loaded) * channels * height * width <= _CHECKED_BYTES
    if dataset != "imagefolder" or not (skip_broken or fits_memory):
        return loaded
    usable, num_broken = checked(loaded, skip_broken=skip_broken)
    if num_broken:
        warnings.warn(
            f"{loaded.name}: left out {num_broken} of {len(loaded)} pictures, which cannot be read", stacklevel=2
        )
    return usable
