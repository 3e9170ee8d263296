"""The loss of one network after a short training of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

from ..base.interrupt import Stop
from ..supernet.supernet import Path, Supernet
from . import training
from .batches import Half
from .recipe import WeightRecipe


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What all networks have in common that are held against each other.

    first_epoch: of the weight half; order and augmentation of its pictures follow from the number of the epoch.
    """

    supernet: Supernet  # stays as it is
    weight_half: Half
    alpha_half: Half
    batch_size: int
    recipe: WeightRecipe
    first_epoch: int

    @property
    def steps_per_epoch(self) -> int:
        """Return how many batches an epoch has."""
        return len(self.weight_half) // self.batch_size


def trained_loss(
    trial: Trial, path: Path, epochs: int, stop: Stop, on_step: Callable[[float], None] = lambda _: None
) -> float | None:
    """Train a copy of the supernet along one path; return its loss on the clean alpha half, None if stopped.

    It begins with the supernet's weights and sees the same batches as every other network. on_step: gets each loss.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    supernet = copy.deepcopy(trial.supernet)
    optimizer = training.sgd(supernet, trial.recipe)
    num_steps = epochs * trial.steps_per_epoch
    for step in range(num_steps):
        if stop.requested:
            return None
        epoch, number = divmod(step, trial.steps_per_epoch)
        x, y = trial.weight_half.batch(trial.first_epoch + epoch, number, trial.batch_size)
        lr = training.rate(trial.recipe, step, num_steps)
        on_step(training.weight_step(supernet, path, x, y, optimizer, lr=lr, clip_norm=trial.recipe.clip_norm))
    figures = training.evaluate(supernet, path, trial.alpha_half, trial.batch_size, stop)
    return None if figures is None else figures[0]
