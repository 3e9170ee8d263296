from __future__ import annotations

import math

import pytest
import torch

from nash_qat.base.errors import DivergedError
from nash_qat.train.watch import Watch


def _noted(losses: list[float], norms: list[float]) -> Watch:
    watch = Watch(3)
    for step, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
        watch.note(torch.tensor(loss, dtype=torch.float64), torch.tensor(norm), epoch=4, step=step)
    return watch


def test_losses_are_read_once_in_the_order_of_the_steps() -> None:
    watch = _noted([0.1, 1e-17], [1.0, 2.0])
    assert not watch.is_full
    watch.note(torch.tensor(3.0), torch.tensor(1.0), epoch=5, step=0)
    assert watch.is_full
    assert watch.read() == [0.1, 1e-17, 3.0]
    assert watch.is_empty
    assert watch.read() == []


@pytest.mark.parametrize(
    ("losses", "norms", "named"),
    [
        ([1.0, math.inf, math.nan], [1.0, 1.0, 1.0], "loss: got inf in epoch 5, step 2,"),
        ([1.0, 1.0, math.nan], [1.0, math.nan, 1.0], "gradient: got nan in epoch 5, step 2,"),
        ([-math.inf, 1.0, 1.0], [math.inf, 1.0, 1.0], "loss: got -inf in epoch 5, step 1,"),
    ],
)
def test_first_step_that_diverged_is_named(losses: list[float], norms: list[float], named: str) -> None:
    with pytest.raises(DivergedError, match=named):
        _noted(losses, norms).read()


def test_noted_values_do_not_change_with_the_tensors() -> None:
    watch, loss = Watch(2), torch.tensor(1.0)
    watch.note(loss, loss, epoch=0, step=0)
    loss.fill_(9.0)
    assert watch.read() == [1.0]
