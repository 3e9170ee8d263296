"""What a training step minimizes: labels, mixed pictures, and the soft labels of a teacher.

Shapes: pictures x (B, C, H, W) float, labels (B,) int64, logits (B, K).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Pictures with their labels; with `share` below 1 the rest of a picture is one of `other_labels`."""

    x: Tensor
    labels: Tensor
    other_labels: Tensor | None = None
    share: float = 1.0

    def __len__(self) -> int:
        return len(self.labels)

    def parts(self, num_parts: int) -> list[Batch]:
        """Return the batch in up to `num_parts` pieces, each of at least two samples, as one has no variance."""
        num_parts = max(1, min(num_parts, len(self) // 2))
        others = [None] * num_parts if self.other_labels is None else self.other_labels.tensor_split(num_parts)
        pieces = zip(self.x.tensor_split(num_parts), self.labels.tensor_split(num_parts), others, strict=True)
        return [replace(self, x=x, labels=labels, other_labels=other) for x, labels, other in pieces]


def mixed(batch: Batch, recipe: Recipe, generator: torch.Generator) -> Batch:
    """Return a batch mixed with itself by mixup or cutmix, as the recipe wants; all chance comes from `generator`."""
    ways = [way for way, alpha in ((_mixup, recipe.mixup), (_cutmix, recipe.cutmix)) if alpha > 0]
    if not ways:
        return batch
    random = np.random.default_rng(int(torch.randint(1 << 62, (), generator=generator)))
    way = ways[random.integers(len(ways))]
    alpha = recipe.mixup if way is _mixup else recipe.cutmix
    order = torch.from_numpy(random.permutation(len(batch))).to(batch.labels.device)
    x, share = way(batch.x, batch.x[order], random.beta(alpha, alpha), random)
    return Batch(x=x, labels=batch.labels, other_labels=batch.labels[order], share=share)


def _mixup(x: Tensor, other: Tensor, share: float, _random: np.random.Generator) -> tuple[Tensor, float]:
    return share * x + (1 - share) * other, share


def _cutmix(x: Tensor, other: Tensor, share: float, random: np.random.Generator) -> tuple[Tensor, float]:
    """Replace a window of about 1 - share of the area, which may reach over the edge."""
    height, width = x.shape[2:]
    side = (1 - share) ** 0.5
    top, bottom = _window(height, side, random)
    left, right = _window(width, side, random)
    result = x.clone()
    result[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
    return result, 1 - (bottom - top) * (right - left) / (height * width)


def _window(length: int, share: float, random: np.random.Generator) -> tuple[int, int]:
    centre, half = int(random.integers(length)), round(length * share / 2)
    return max(centre - half, 0), min(centre + half, length)


def loss(logits: Tensor, batch: Batch, recipe: Recipe, teacher: nn.Module | None) -> Tensor:
    """Return the mean loss of a batch; `teacher` maps its pictures to the logits that are imitated."""
    of_labels = _cross_entropy(logits, batch.labels, recipe)
    if batch.other_labels is not None:
        of_others = _cross_entropy(logits, batch.other_labels, recipe)
        of_labels = batch.share * of_labels + (1 - batch.share) * of_others
    if teacher is None:
        return of_labels
    with torch.no_grad():
        soft = functional.log_softmax(teacher(batch.x) / recipe.distill_temperature, dim=1)
    ours = functional.log_softmax(logits / recipe.distill_temperature, dim=1)
    distance = functional.kl_div(ours, soft, reduction="batchmean", log_target=True)
    of_teacher = recipe.distill_temperature**2 * distance
    return (1 - recipe.distill_weight) * of_labels + recipe.distill_weight * of_teacher


def _cross_entropy(logits: Tensor, labels: Tensor, recipe: Recipe) -> Tensor:
    return functional.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
