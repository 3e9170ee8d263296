"""What NASH gains at equal width, and at equal cost: against the baseline widened to the same figure of hardware.

The baselines of one backbone and bit width, from narrow to wide, are points of (figure, top-1). Between neighbouring
widths both are interpolated linearly; where the line crosses a NASH network's figure, its top-1 is the honest rival's.
Of several crossings the highest counts. Nothing is extrapolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

from .collect import Collection
from .configurations import (
    Configuration,
    Spread,
    are_of_same_samples,
    configurations,
    family_terms,
    std_of_difference,
)

AXES = ("LUT", "BRAM_18K", "URAM", "DSP", "throughput_fps", "latency_us")
Status = Literal["interpolated", "outside", "constant", "one_width", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Rival:
    """The baseline at one figure of hardware: its top-1, and the two widths that it lies between."""

    top1: float
    std: float | None
    widths: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class EqualCost:
    """Top-1 of a NASH configuration over the baseline at the same figure, in percentage points; None if not known."""

    axis: str
    status: Status
    cost: float | None = None
    rival: Rival | None = None
    gain: float | None = None
    std: float | None = None
    is_of_bounds: bool = False


@dataclass(frozen=True, kw_only=True)
class Gains:
    """A NASH configuration against its baselines: at equal width, and along each axis at equal cost."""

    candidate: Configuration
    top1: Spread
    baseline: Configuration | None
    gain: float | None
    std: float | None
    at_equal_cost: tuple[EqualCost, ...]
    is_of_selected: bool = False  # one of the accuracies is of a network that was chosen by it


@lru_cache(maxsize=1)
def gains_of(collection: Collection) -> list[Gains]:
    """Return the gains of a collection's NASH configurations; asked for again, the same."""
    return find_gains(configurations([row.record for row in collection.rows]))


def find_gains(found: Sequence[Configuration]) -> list[Gains]:
    """Return the gains of each NASH configuration that has a baseline of any width."""
    gains = []
    for candidate in found:
        family = [] if candidate.is_baseline else _family(candidate, found)
        if family:
            gains.append(_gains(candidate, family))
    return gains


def _family(candidate: Configuration, found: Sequence[Configuration]) -> list[Configuration]:
    """Return the baselines that share all but the width with a NASH configuration, from narrow to wide."""
    terms = family_terms(candidate.first)
    members = [
        other
        for other in found
        if other.is_baseline
        and family_terms(other.first) == terms
        and are_of_same_samples([*other.records, *candidate.records])
    ]
    return sorted(members, key=lambda member: member.first.identity.width or 0)


def _gains(candidate: Configuration, family: Sequence[Configuration]) -> Gains:
    top1 = candidate.spread("top1")
    assert top1 is not None, "configurations have accuracies"
    width = candidate.first.identity.width
    baseline = next((member for member in family if member.first.identity.width == width), None)
    own = None if baseline is None else baseline.spread("top1")
    return Gains(
        candidate=candidate,
        top1=top1,
        baseline=baseline,
        gain=None if own is None else top1.mean - own.mean,
        std=None if own is None else std_of_difference(top1.std, own.std),
        at_equal_cost=tuple(_at_equal_cost(candidate, top1, family, axis) for axis in AXES),
        is_of_selected=any(member.is_selected("top1") for member in (candidate, *family)),
    )


def _at_equal_cost(candidate: Configuration, top1: Spread, family: Sequence[Configuration], axis: str) -> EqualCost:
    cost = candidate.spread(axis)
    points = [
        Point(width=member.first.identity.width or 0, cost=figure.mean, top1=own.mean, std=own.std)
        for member in family
        if (figure := member.spread(axis)) is not None and (own := member.spread("top1")) is not None
    ]
    if cost is None or not points:
        return EqualCost(axis=axis, status="unknown")
    costs = {point.cost for point in points}
    if len({point.width for point in points}) == 1:
        return EqualCost(axis=axis, status="one_width", cost=cost.mean)
    if len(costs) == 1:
        return EqualCost(axis=axis, status="constant", cost=cost.mean)
    rival = rival_at(points, cost.mean)
    if rival is None:
        return EqualCost(axis=axis, status="outside", cost=cost.mean)
    return EqualCost(
        axis=axis,
        status="interpolated",
        cost=cost.mean,
        rival=rival,
        gain=top1.mean - rival.top1,
        std=std_of_difference(top1.std, rival.std),
        is_of_bounds=any(member.is_lower_bound(axis) for member in (candidate, *family)),
    )


@dataclass(frozen=True, kw_only=True)
class Point:
    """A baseline of one width: a figure of its hardware, its top-1 and that one's spread over seeds."""

    width: int
    cost: float
    top1: float
    std: float | None


def rival_at(points: Sequence[Point], cost: float) -> Rival | None:
    """Return the baseline at a figure of hardware, None where no two neighbouring widths have it between them.

    >>> narrow, wide = Point(width=4, cost=100, top1=80.0, std=None), Point(width=8, cost=200, top1=90.0, std=None)
    >>> rival_at([narrow, wide], 150)
    Rival(top1=85.0, std=None, widths=(4, 8))
    """
    crossings = [Rival(top1=p.top1, std=p.std, widths=(p.width, p.width)) for p in points if p.cost == cost]
    crossings += [
        _between(low, high, (cost - low.cost) / (high.cost - low.cost))
        for low, high in pairwise(points)
        if low.cost != high.cost and min(low.cost, high.cost) <= cost <= max(low.cost, high.cost)
    ]
    return max(crossings, key=lambda rival: rival.top1, default=None)


def _between(low: Point, high: Point, share: float) -> Rival:
    def mix(first: float, second: float) -> float:
        return first + share * (second - first)

    std = None if low.std is None or high.std is None else mix(low.std, high.std)
    return Rival(top1=mix(low.top1, high.top1), std=std, widths=(low.width, high.width))
