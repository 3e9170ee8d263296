"""Parts of a split, and pictures that cannot be read: all are named and counted before a run, or left out of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .data import Files, Images, Split
from .errors import DataError

_CHUNK = 256
_MAX_NAMED = 5


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
