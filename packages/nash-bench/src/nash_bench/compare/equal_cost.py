"""What NASH gains at equal width, and at equal cost: against the baseline widened to the same figure of hardware.

The rival of every seed is the one at that seed's own cost (see rivals.py); the gain is the mean over seeds, with the
interval over seeds and pictures together (see uncertainty.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from ..records.collect import Collection
from ..records.figures import BY_KEY
from ..stats.uncertainty import Interval, Part, interval
from .configurations import (
    Configuration,
    Spread,
    are_of_same_samples,
    configurations,
    family_terms,
    std_of_difference,
)
from .rivals import Point, Rival, rival_at

SCARCEST = "scarcest"
AXES = (SCARCEST, "LUT", "BRAM_18K", "URAM", "DSP", "price", "throughput_fps", "latency_us")
Status = Literal["interpolated", "dearer", "outside", "constant", "one_width", "unknown"]


@dataclass(frozen=True, kw_only=True)
class EqualCost:
    """Top-1 of a NASH configuration over the baseline at the same figure, in percentage points; None if not known.

    rival: at the mean cost. Where NASH takes more than every baseline ('dearer'), it is the best of them.
    """

    axis: str
    status: Status
    cost: float | None = None
    rival: Rival | None = None
    gain: float | None = None
    std: float | None = None
    interval: Interval | None = None
    parts: tuple[Part, ...] = field(default=(), repr=False)
    is_of_bounds: bool = False


@dataclass(frozen=True, kw_only=True)
class Gains:
    """A NASH configuration against its baselines: at equal width, and along each axis at equal cost."""

    candidate: Configuration
    top1: Spread
    baseline: Configuration | None
    gain: float | None
    std: float | None
    interval: Interval | None
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
    parts = None if baseline is None else [part_of(candidate, 1.0), part_of(baseline, -1.0)]
    return Gains(
        candidate=candidate,
        top1=top1,
        baseline=baseline,
        gain=None if own is None else top1.mean - own.mean,
        std=None if own is None else std_of_difference(top1.std, own.std),
        interval=None if parts is None else interval(parts),
        at_equal_cost=tuple(_at_equal_cost(candidate, family, axis) for axis in AXES),
        is_of_selected=any(member.is_selected("top1") for member in (candidate, *family)),
    )


def _at_equal_cost(candidate: Configuration, family: Sequence[Configuration], axis: str) -> EqualCost:
    costs = [BY_KEY[axis].value(record) for record in candidate.records]
    members = [member for member in family if member.spread(axis) is not None]
    points = [_point(member, axis) for member in members]
    if None in costs or not points:
        return EqualCost(axis=axis, status="unknown")
    cost = math.fsum(costs) / len(costs)
    if len({point.width for point in points}) == 1:
        return EqualCost(axis=axis, status="one_width", cost=cost)
    if len({point.cost for point in points}) == 1:
        return EqualCost(axis=axis, status="constant", cost=cost)
    is_high_good = BY_KEY[axis].is_high_good
    rivals = [rival_at(points, each, is_high_good=is_high_good) for each in costs]
    at_mean = rival_at(points, cost, is_high_good=is_high_good)
    if at_mean is None or None in rivals:
        return EqualCost(axis=axis, status="outside", cost=cost)
    parts = _parts(candidate, members, rivals)
    found = interval(parts)
    top1 = candidate.spread("top1")
    return EqualCost(
        axis=axis,
        status="dearer" if any(rival.is_cheaper for rival in rivals) else "interpolated",
        cost=cost,
        rival=at_mean,
        gain=found.value,
        std=std_of_difference(top1.std, at_mean.std),
        interval=found,
        parts=parts,
        is_of_bounds=any(member.is_lower_bound(axis) for member in (candidate, *family)),
    )


def _point(member: Configuration, axis: str) -> Point:
    top1, cost = member.spread("top1"), member.spread(axis)
    return Point(width=member.first.identity.width or 0, cost=cost.mean, top1=top1.mean, std=top1.std)


def _parts(candidate: Configuration, members: Sequence[Configuration], rivals: Sequence[Rival]) -> tuple[Part, ...]:
    """Return the gain as parts: the NASH network's, whose seeds may stand against other rivals, and each baseline's."""
    weights = [math.fsum(column) / len(rivals) for column in zip(*(rival.weights for rival in rivals), strict=True)]
    means = [member.spread("top1").mean for member in members]
    common = math.fsum(weight * mean for weight, mean in zip(weights, means, strict=True))
    own = part_of(candidate, 1.0, shifts=[common - rival.top1 for rival in rivals])
    return (own, *(part_of(member, -weight) for member, weight in zip(members, weights, strict=True) if weight))


def part_of(found: Configuration, weight: float, *, shifts: Sequence[float] | None = None) -> Part:
    """Return a configuration as a part of a difference; `shifts` are added to the top-1 of its seeds."""
    top1 = [record.accuracy.top1 for record in found.records if record.accuracy is not None]
    shifted = [value + shift for value, shift in zip(top1, shifts or [0.0] * len(top1), strict=True)]
    count = found.first.accuracy.num_samples
    return Part(weight=weight, top1=tuple(shifted), num_samples=count, hits=found.hits, source=found)
