"""A step of the weights along one path, and what a path is worth: what the search and its finish have in common.

Shapes: x (B, C, H, W) in [0, 1], y (B,).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ..base import parallel
from ..base.interrupt import Stop
from ..supernet.supernet import Path, Supernet
from .batches import Half
from .recipe import WeightRecipe


def sgd(supernet: Supernet, recipe: WeightRecipe) -> torch.optim.SGD:
    """Return an optimizer of a supernet's weights whose momentum is zero."""
    optimizer = torch.optim.SGD(
        supernet.weights(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, fused=True
    )
    for weight in supernet.weights():  # a path trains some of them only: the rest must have a momentum, too
        optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    return optimizer


def rate(recipe: WeightRecipe, step: int, num_steps: int) -> float:
    """Return the learning rate of a step, which falls along a cosine."""
    cosine = (1 + math.cos(math.pi * step / num_steps)) / 2
    return recipe.lr_min + (recipe.lr - recipe.lr_min) * cosine


def weight_step(
    supernet: Supernet, path: Path, x: Tensor, y: Tensor, optimizer: torch.optim.SGD, *, lr: float, clip_norm: float
) -> float:
    """Train the weights of a path on a batch and return the loss.

    Raises:
        FloatingPointError: the loss or its gradient is not finite; no weight has changed.
    """
    share = parallel.share_of_loss(supernet(x.to(supernet.alpha.dtype), path), y)
    loss = parallel.total(share.item())
    refuse_unless_finite("weight loss", loss)
    share.backward()
    parallel.sum_gradients(supernet.weights())
    trained = [weight for weight in supernet.weights() if weight.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(trained, clip_norm)
    refuse_unless_finite("gradient of the weights", norm.item())
    optimizer.param_groups[0]["lr"] = lr
    optimizer.step()
    optimizer.zero_grad()  # not later: the architecture step has no use for these gradients
    return loss


@torch.no_grad()
def evaluate(supernet: Supernet, path: Path, half: Half, batch_size: int, stop: Stop) -> tuple[float, float] | None:
    """Return loss and accuracy (percent) of a path on a clean half; None if stopped.

    It normalizes by the batch: running statistics mix those of all sampled paths and fit no single one.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    loss, num_correct = 0.0, 0
    with supernet.frozen():
        for x, y in half.clean_batches(batch_size):
            if stop.requested:
                return None
            logits = supernet(x.to(supernet.alpha.dtype), path)
            loss += F.cross_entropy(logits, y, reduction="sum").item()
            num_correct += int((logits.argmax(1) == y).sum())
    loss, num_correct = parallel.total(loss), parallel.total(num_correct)
    refuse_unless_finite("validation loss", loss)
    return loss / len(half), 100 * num_correct / len(half)


def refuse_unless_finite(what: str, value: float) -> None:
    """Raise FloatingPointError for infinity and NaN."""
    if not math.isfinite(value):
        raise FloatingPointError(f"the {what} is {value}")
