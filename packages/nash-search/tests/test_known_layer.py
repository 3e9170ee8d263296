"""A task of which the right layer, state and operation are known."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conftest import benchmark


@pytest.fixture(scope="module")
def task() -> ModuleType:
    return benchmark("known_layer")


@pytest.mark.parametrize("seed", [0, 1])
def test_search_finds_layer_state_and_operation(seed: int, task: ModuleType, tmp_path: Path) -> None:
    found, accuracy = task.found(seed, tmp_path)
    assert task.is_solved(found)
    assert found.cells[0].layers[task.LAYER - 1].nas_op.probability > 0.4  # of ten options
    assert accuracy > 40  # of four classes


def test_one_channel_of_the_picture_tells_two_classes_apart(task: ModuleType) -> None:
    split = task.pictures(64)
    for channel in (0, 1):
        along_rows = split.images[:, channel, :, 3:] == split.images[:, channel, :, :-3]
        assert (along_rows.all((1, 2)) == (split.labels >> channel & 1 == 0)).all()
    small = split.images[:, :, 4:7, 4:7].reshape(64, -1)
    assert len(np.unique(small, axis=0)) > 60  # what a 3x3 window sees does not repeat
