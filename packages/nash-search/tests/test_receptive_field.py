"""A task of which the right operation is known."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conftest import benchmark


@pytest.fixture(scope="module")
def task() -> ModuleType:
    return benchmark("receptive_field")


@pytest.mark.parametrize("seed", [10, 11, 12])
def test_search_finds_the_operation_that_solves_the_task(seed: int, task: ModuleType, tmp_path: Path) -> None:
    nas_op, accuracy = task.found(seed, tmp_path)
    assert nas_op.op == "conv_5x5"
    assert nas_op.probability > 0.5
    assert accuracy > 90


def test_no_other_operation_solves_it(task: ModuleType, tmp_path: Path) -> None:
    _, accuracy = task.found(10, tmp_path, ("none", "max_pool_3x3", "skip_connect", "conv_1x1", "conv_3x3"))
    assert accuracy < 65


def test_small_windows_are_alike_in_both_classes(task: ModuleType) -> None:
    split = task.pictures(8192)
    windows = split.images[:, 0, 4:7, 4:7].reshape(-1, 9) > 0
    codes = windows @ (1 << np.arange(9))
    counts = [np.bincount(codes[split.labels == label], minlength=512) for label in (0, 1)]
    expected = 4096 / 512
    for count in counts:  # chi-squared with 511 degrees of freedom: 511 +- 32
        assert abs(((count - expected) ** 2 / expected).sum() - 511) < 4 * 32
