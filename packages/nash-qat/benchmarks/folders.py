"""Image folders for the benchmarks beside this file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nash_qat.data import pictures
from nash_qat.data.datasets import Split, SplitName
from nash_qat.network.genotype import Genotype


def load(name: SplitName, tree: Genotype, folder: Path) -> Split:
    """Return the train or test split of an image folder, prepared for a network."""
    return pictures.load("imagefolder", name, tree.input_shape, tree.num_classes, folder)


def part(split: Split, indices: NDArray[np.int64]) -> Split:
    """Return some pictures of a split, in memory."""
    return dataclasses.replace(split, images=split.images[indices], labels=split.labels[indices])


def shuffled(split: Split) -> NDArray[np.int64]:
    """Return the indices of a split in the order that all benchmarks take pictures in."""
    return np.random.default_rng(0).permutation(len(split))
