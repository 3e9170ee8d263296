"""What a genotype's expected cost adds to the loss of the architecture step.

- A weight: weight * expected cost / cost of the most expensive genotype, both less that of one without operations, so
  at weight 1 the most expensive genotype costs one nat of cross-entropy more than one without.
- A budget: the augmented Lagrangian sum over resources of (max(0, multiplier + d e)^2 - multiplier^2) / 2d, with the
  excess e = expected / limit - 1 and d = 2, whose slope is max(0, multiplier + d e). Each step then moves the
  multipliers by dual ascent, multiplier += lr * e, never below 0. Without d they would swing around their goal.
  Expected and limit are of the operations alone, or of the whole accelerator.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..base.errors import ManifestError, UsageError
from ..base.suggest import one_of
from ..genotype.genotype import Genotype
from ..genotype.variants import Variant
from .costs import METRICS, RESOURCES, SUM, Costs

_DAMPING = 2.0


@dataclass(frozen=True, kw_only=True)
class Price:
    """What is asked about costs: a weight for one metric (or for the sum of all shares), and limits by resource.

    budget: by resource, the text of a limit of the operations: a number, or a percentage of the board. total_budget:
    likewise, of the whole accelerator.
    """

    weight: float = 0.0
    metric: str = SUM
    budget: Mapping[str, str] = field(default_factory=dict)
    total_budget: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A limit of one metric, of the operations or of the whole accelerator."""

    metric: str
    limit: float
    is_whole: bool

    @property
    def title(self) -> str:
        """Its name in the history."""
        return f"total_{self.metric}" if self.is_whole else self.metric


def parse_budget(text: str, option: str = "--budget") -> dict[str, str]:
    """Return the limits of `lut=1000,bram=5%` by resource, as they were given with an option.

    Raises:
        UsageError: an unknown resource, one twice, or a limit that is no positive number.

    >>> parse_budget("lut=1000,bram=5%")
    {'lut': '1000', 'bram': '5%'}
    """
    budget: dict[str, str] = {}
    for part in text.split(","):
        name, _, limit = (piece.strip() for piece in part.partition("="))
        if name not in METRICS:
            raise UsageError(f"{option}: got '{name}', expected {one_of(name, METRICS)}; write lut=20000,bram=5%")
        if name in budget:
            raise UsageError(f"{option}: got {name} twice, expected it once")
        if not _number(limit.removesuffix("%") if name in RESOURCES else limit) > 0:
            raise UsageError(
                f"{option}: {name}: got '{limit}', expected a number above 0, or a percentage of the board"
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
    """The differentiable penalty of a search, with the multipliers of its budget.

    bounds: limits of the operations and of the whole accelerator. limits: what they leave for operations, by metric.
    """

    def __init__(self, costs: Costs, price: Price, *, multiplier_lr: float) -> None:
        self.costs = costs
        self.price = price
        self.multiplier_lr = multiplier_lr
        self.bounds = [
            Bound(metric=name, limit=_limit(option, name, text, costs), is_whole=is_whole)
            for option, budget, is_whole in (
                ("--budget", price.budget, False),
                ("--total-budget", price.total_budget, True),
            )
            for name, text in budget.items()
        ]
        self.limits: dict[str, float] = {}
        for bound in self.bounds:
            room = costs.room(bound.metric, bound.limit) if bound.is_whole else bound.limit
            self.limits[bound.metric] = min(room, self.limits.get(bound.metric, math.inf))
        self.multipliers = torch.zeros(len(self.bounds), dtype=torch.double)
        self._least = costs.least(price.metric)
        self._range = costs.largest(price.metric) - self._least
        if not self._range:
            raise ManifestError(f"--cost-resource: got {price.metric}, which no operation costs; choose another one")

    def __call__(self, probs: Tensor) -> Tensor:
        """Return the penalty, a scalar differentiable in the probabilities (num_edges, num_primitives)."""
        penalty = self.price.weight * self.expected(probs)
        if self.bounds:
            pull = (self.multipliers + _DAMPING * self.excess(probs)).clamp(min=0)
            penalty = penalty + (pull.square() - self.multipliers.square()).sum() / (2 * _DAMPING)
        return penalty

    def expected(self, probs: Tensor) -> Tensor:
        """Return the expected cost as a share of the most expensive genotype's, both less that of the cheapest."""
        return (self.costs.expected(self.price.metric, probs) - self._least) / self._range

    def excess(self, probs: Tensor) -> Tensor:
        """Return by how much each expected cost exceeds its limit, as a share of the limit."""
        return torch.stack([self._expected(bound, probs) / bound.limit - 1 for bound in self.bounds])

    def _expected(self, bound: Bound, probs: Tensor) -> Tensor:
        return self.costs.expected(bound.metric, probs, is_whole=bound.is_whole)

    @torch.no_grad()
    def update(self, probs: Tensor) -> None:
        """Move the multipliers up where the budget is exceeded, down where it is not."""
        if self.bounds:
            self.multipliers.add_(self.multiplier_lr * self.excess(probs)).clamp_(min=0)

    @torch.no_grad()
    def record(self, probs: Tensor) -> dict[str, float]:
        """Return what the history tells of costs."""
        record = {"expected_cost": float(self.expected(probs))}
        for bound, multiplier in zip(self.bounds, self.multipliers.tolist(), strict=True):
            record[f"expected_{bound.title}"] = float(self._expected(bound, probs))
            record[f"multiplier_{bound.title}"] = multiplier
        return record

    @torch.no_grad()
    def summary(self, genotype: Genotype, variant: Variant, probs: Tensor) -> dict[str, Any]:
        """Return what a genotype tells of its costs: what was asked, and what it costs.

        `genotype` is of its operations, as is `operations`, `total` of the whole accelerator (None: not known).
        """
        operations = self.costs.of(genotype, variant)
        return {
            "board": self.costs.board,
            "weight": self.price.weight,
            "resource": self.price.metric,
            "budget": dict(self.price.budget),
            "total_budget": dict(self.price.total_budget),
            "num_unknown": self.costs.num_unknown,
            **self.record(probs),
            "genotype": operations,
            "operations": operations,
            "total": self.costs.of(genotype, variant, is_whole=True) if self.costs.plain else None,
        }


def _limit(option: str, name: str, text: str, costs: Costs) -> float:
    if not text.endswith("%"):
        return float(text)
    if not costs.available[name]:
        raise UsageError(f"{option}: {name}: got {text}, but {costs.board} has none; leave it out")
    return float(text.removesuffix("%")) / 100 * costs.available[name]
