"""Losses and gradients of the training steps, looked at before anything is saved."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..base.errors import DivergedError


@dataclass(frozen=True, kw_only=True)
class _Step:
    epoch: int
    step: int
    values: Tensor  # loss and gradient norm


class Watch:
    """Keeps losses and gradient norms where they were computed, to be read a few steps at a time.

    Reading waits until the device has done all its work, so a GPU would stand idle at every step. What was noted must
    be read before the weights go to a file: then no step that diverged is ever saved.
    """

    def __init__(self, steps_between_readings: int) -> None:
        self._size = steps_between_readings
        self._steps: list[_Step] = []

    @property
    def is_full(self) -> bool:
        """Say whether it is time to read."""
        return len(self._steps) >= self._size

    @property
    def is_empty(self) -> bool:
        """Say whether all has been read."""
        return not self._steps

    def note(self, loss: Tensor, gradient_norm: Tensor, *, epoch: int, step: int) -> None:
        """Note a step's loss and gradient norm, tensors of one value; epochs and steps count from 0."""
        values = torch.stack([loss.detach().double(), gradient_norm.detach().double()])
        self._steps.append(_Step(epoch=epoch, step=step, values=values))

    def read(self) -> list[float]:
        """Return the losses since the last reading.

        Raises:
            DivergedError: a loss or a gradient is not finite; the first step of that kind is named.
        """
        if not self._steps:
            return []
        steps, self._steps = self._steps, []
        rows = torch.stack([step.values for step in steps]).tolist()
        for step, (loss, norm) in zip(steps, rows, strict=True):
            refuse_unless_finite("loss", loss, epoch=step.epoch, step=step.step)
            refuse_unless_finite("gradient", norm, epoch=step.epoch, step=step.step)
        return [loss for loss, _ in rows]


def refuse_unless_finite(what: str, value: float, *, epoch: int, step: int) -> None:
    """Refuse to go on with an infinite value or none.

    Raises:
        DivergedError: it is not finite.
    """
    if not math.isfinite(value):
        raise DivergedError(
            f"training: {what}: got {value} in epoch {epoch + 1}, step {step + 1}, expected a finite number; "
            "the last checkpoint is kept: try a recipe with a lower learning_rate"
        )
