"""What a genotype's expected cost adds to the loss of the architecture step.

- A weight: weight * expected cost / cost of the most expensive genotype, so at weight 1 the most expensive genotype
  costs one nat of cross-entropy more than a free one.
- A budget: the augmented Lagrangian sum over resources of (max(0, multiplier + d e)^2 - multiplier^2) / 2d, with the
  excess e = expected / limit - 1 and d = 2, whose slope is max(0, multiplier + d e). Each step then moves the
  multipliers by dual ascent, multiplier += lr * e, never below 0. Without d they would swing around their goal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .cost import METRICS, RESOURCES, SUM, Costs
from .errors import ManifestError, UsageError
from .genotype import Genotype
from .suggest import one_of
from .variants import Variant

_DAMPING = 2.0


@dataclass(frozen=True, kw_only=True)
class Price:
    """What is asked about costs: a weight for one metric (or for the sum of all shares), and limits by resource.

    budget: by resource, the text of a limit: a number, or a percentage of the board.
    """

    weight: float = 0.0
    metric: str = SUM
    budget: Mapping[str, str] = field(default_factory=dict)


def parse_budget(text: str) -> dict[str, str]:
    """Return the limits of `lut=1000,bram=5%` by resource, as they were given.

    Raises:
        UsageError: an unknown resource, one twice, or a limit that is no positive number.

    >>> parse_budget("lut=1000,bram=5%")
    {'lut': '1000', 'bram': '5%'}
    """
    budget: dict[str, str] = {}
    for part in text.split(","):
        name, _, limit = (piece.strip() for piece in part.partition("="))
        if name not in METRICS:
            raise UsageError(f"--budget: got '{name}', expected {one_of(name, METRICS)}; write lut=20000,bram=5%")
        if name in budget:
            raise UsageError(f"--budget: got {name} twice, expected it once")
        if not _number(limit.removesuffix("%") if name in RESOURCES else limit) > 0:
            raise UsageError(
                f"--budget: {name}: got '{limit}', expected a number above 0, or a percentage of the board"
            )
        budget[name] = limit
    return budget


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


class Penalty:
    """The differentiable penalty of a search, with the multipliers of its budget."""

    def __init__(self, costs: Costs, price: Price, *, multiplier_lr: float) -> None:
        self.costs = costs
        self.price = price
        self.multiplier_lr = multiplier_lr
        self.limits = {name: _limit(name, text, costs) for name, text in price.budget.items()}
        self.multipliers = torch.zeros(len(self.limits), dtype=torch.double)
        self.largest = costs.largest(price.metric)
        if not self.largest:
            raise ManifestError(f"--cost-resource: got {price.metric}, which no operation costs; choose another one")

    def __call__(self, probs: Tensor) -> Tensor:
        """Return the penalty, a scalar differentiable in the probabilities (num_edges, num_primitives)."""
        penalty = self.price.weight * self.expected(probs)
        if self.limits:
            pull = (self.multipliers + _DAMPING * self.excess(probs)).clamp(min=0)
            penalty = penalty + (pull.square() - self.multipliers.square()).sum() / (2 * _DAMPING)
        return penalty

    def expected(self, probs: Tensor) -> Tensor:
        """Return the expected cost as a share of the most expensive genotype's."""
        return self.costs.expected(self.price.metric, probs) / self.largest

    def excess(self, probs: Tensor) -> Tensor:
        """Return by how much each expected cost exceeds its limit, as a share of the limit."""
        return torch.stack([self.costs.expected(name, probs) / limit - 1 for name, limit in self.limits.items()])

    @torch.no_grad()
    def update(self, probs: Tensor) -> None:
        """Move the multipliers up where the budget is exceeded, down where it is not."""
        if self.limits:
            self.multipliers.add_(self.multiplier_lr * self.excess(probs)).clamp_(min=0)

    @torch.no_grad()
    def record(self, probs: Tensor) -> dict[str, float]:
        """Return what the history tells of costs."""
        record = {"expected_cost": float(self.expected(probs))}
        for name, multiplier in zip(self.limits, self.multipliers.tolist(), strict=True):
            record[f"expected_{name}"] = float(self.costs.expected(name, probs))
            record[f"multiplier_{name}"] = multiplier
        return record

    @torch.no_grad()
    def summary(self, genotype: Genotype, variant: Variant, probs: Tensor) -> dict[str, Any]:
        """Return what a genotype tells of its costs: what was asked, and what its operations cost."""
        return {
            "board": self.costs.board,
            "weight": self.price.weight,
            "resource": self.price.metric,
            "budget": dict(self.price.budget),
            "num_unknown": self.costs.num_unknown,
            **self.record(probs),
            "genotype": self.costs.of(genotype, variant),
        }


def _limit(name: str, text: str, costs: Costs) -> float:
    if not text.endswith("%"):
        return float(text)
    if not costs.available[name]:
        raise UsageError(f"--budget: {name}: got {text}, but {costs.board} has none; leave it out")
    return float(text.removesuffix("%")) / 100 * costs.available[name]
