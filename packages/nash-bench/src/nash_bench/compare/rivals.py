"""The baseline widened to a network's cost: what a plain network reaches with the same hardware.

The baselines of one family, from narrow to wide, are points of (figure, top-1). Between neighbouring widths both are
interpolated linearly; where the line crosses a network's figure stands its rival, of several crossings the highest. A
network that takes more than every baseline has the best of them as its rival: the cheaper one would be bought. For
one that takes less than all of them there is none: nothing is extrapolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, kw_only=True)
class Point:
    """A baseline of one width: a figure of its hardware, its top-1 and that one's spread over seeds."""

    width: int
    cost: float
    top1: float
    std: float | None


@dataclass(frozen=True, kw_only=True)
class Rival:
    """The baseline at one figure of hardware: its top-1, and the two widths that it lies between.

    weights: the share that each of the points has in it. is_cheaper: whether it takes less than the figure.
    """

    top1: float
    std: float | None
    widths: tuple[int, int]
    weights: tuple[float, ...]
    is_cheaper: bool = False


def rival_at(points: Sequence[Point], cost: float, *, is_high_good: bool = False) -> Rival | None:
    """Return the rival at a figure of hardware, None where every baseline takes more.

    >>> narrow, wide = Point(width=4, cost=100, top1=80.0, std=None), Point(width=8, cost=200, top1=90.0, std=None)
    >>> rival_at([narrow, wide], 150).top1, rival_at([narrow, wide], 300).widths, rival_at([narrow, wide], 99)
    (85.0, (8, 8), None)
    """
    crossings = [_mix(points, {index: 1.0}) for index, point in enumerate(points) if point.cost == cost]
    for index, (low, high) in enumerate(pairwise(points)):
        if low.cost != high.cost and min(low.cost, high.cost) <= cost <= max(low.cost, high.cost):
            share = (cost - low.cost) / (high.cost - low.cost)
            crossings.append(_mix(points, {index: 1 - share, index + 1: share}))
    if not crossings and all((cost < point.cost) == is_high_good for point in points):
        crossings = [_mix(points, {index: 1.0}, is_cheaper=True) for index in range(len(points))]
    return max(crossings, key=lambda rival: rival.top1, default=None)


def _mix(points: Sequence[Point], shares: dict[int, float], *, is_cheaper: bool = False) -> Rival:
    members = [points[index] for index in shares]
    stds = [point.std for point in members]
    std = None if None in stds else sum(share * value for share, value in zip(shares.values(), stds, strict=True))
    return Rival(
        top1=sum(share * points[index].top1 for index, share in shares.items()),
        std=std,
        widths=(members[0].width, members[-1].width),
        weights=tuple(shares.get(index, 0.0) for index in range(len(points))),
        is_cheaper=is_cheaper,
    )
