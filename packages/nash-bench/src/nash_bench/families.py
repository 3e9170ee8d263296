"""Which rows belong together: a NASH network and its baseline, the rows of one plot, the non-dominated among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from .collect import Row
from .figures import BY_KEY, Delta, deltas
from .outcomes import paired_differences
from .paired import PairedDifference
from .pareto import hypervolume, pareto_front

AXES = ("LUT", "BRAM_18K", "DSP", "throughput_fps")
PanelKey = tuple[str, str, int, str, str]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A NASH network beside the baseline it improves on: same backbone, width, bits, dataset and board."""

    baseline: Row
    candidate: Row

    @property
    def deltas(self) -> tuple[Delta, ...]:
        return deltas(self.baseline.record, self.candidate.record)

    @cached_property
    def paired(self) -> dict[str, PairedDifference | None]:
        """Return the differences of top-1 and top-5 with their intervals, None where outcomes are missing."""
        return paired_differences(self.baseline.record.outcomes, self.candidate.record.outcomes)


def find_pairs(rows: Sequence[Row]) -> list[Pair]:
    """Return every NASH row with each of its baselines."""
    return [
        Pair(baseline=baseline, candidate=candidate)
        for candidate in rows
        if not candidate.record.identity.is_baseline
        for baseline in rows
        if baseline.record.identity.is_baseline
        and _terms(baseline) == _terms(candidate) is not None
        and _has_same_samples(baseline, candidate)
    ]


def _has_same_samples(baseline: Row, candidate: Row) -> bool:
    """Tell whether nothing says that two rows were measured on other pictures."""
    known, own = baseline.record.outcomes, candidate.record.outcomes
    return known is None or own is None or known.is_of_same_samples(own)


def _terms(row: Row) -> tuple[object, ...] | None:
    """Return what a network and its baseline must share, None if the row says too little."""
    identity, accuracy, hardware = row.record.identity, row.record.accuracy, row.record.hardware
    bits = identity.preset or identity.bits
    if None in (identity.backbone, identity.width, bits):
        return None
    built = None if hardware is None else (*hardware.key, hardware.clock_mhz, hardware.target)
    return identity.backbone, identity.width, bits, None if accuracy is None else accuracy.key, built


def panels(rows: Sequence[Row]) -> dict[PanelKey, list[Row]]:
    """Return the rows of each plot: what was measured on the same pictures and built for the same board."""
    found: dict[PanelKey, list[Row]] = {}
    for row in rows:
        if row.panel is not None:
            found.setdefault(row.panel, []).append(row)
    return found


def points(rows: Sequence[Row], axis: str) -> list[tuple[Row, float, float]]:
    """Return (row, figure, top-1) of the rows that have both."""
    figure, top1 = BY_KEY[axis], BY_KEY["top1"]
    known = [(row, figure.value(row.record), top1.value(row.record)) for row in rows]
    return [(row, x, y) for row, x, y in known if x is not None and y is not None]


def front(known: Sequence[tuple[Row, float, float]], axis: str) -> list[tuple[Row, float, float]]:
    """Return the non-dominated of the points, in the order of their figure."""
    chosen = pareto_front([(y, x) for _, x, y in known], maximize=(True, BY_KEY[axis].is_high_good))
    return sorted((known[index] for index in chosen), key=lambda point: (point[1], point[2]))


def fronts_of(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return for each row the axes on which it is not dominated within its panel."""
    found: dict[int, list[str]] = {id(row): [] for row in rows}
    for members in panels(rows).values():
        for axis in AXES:
            for row, _, _ in front(points(members, axis), axis):
                found[id(row)].append(axis)
    return [tuple(found[id(row)]) for row in rows]


COSTS = ("LUT", "FF", "BRAM_18K", "URAM", "DSP", "throughput_fps", "latency_us")


@dataclass(frozen=True, kw_only=True)
class Dominated:
    """The area that baselines and NASH networks of one panel dominate over top-1 and one figure.

    The area is in percentage points of top-1 times the figure's unit, from the reference point: 1 point under the
    panel's lowest top-1 and a tenth worse than its worst figure. A share is of the box from there to the best of both.
    """

    axis: str
    reference_top1: float
    reference_figure: float
    area: dict[str, float]
    share: dict[str, float]
    is_of_bounds: bool


def dominated(rows: Sequence[Row], axis: str) -> Dominated | None:
    """Return the area that each kind of network of a panel dominates, None if no row has both figures."""
    known = points(rows, axis)
    if not known:
        return None
    figure = BY_KEY[axis]
    values, accuracies = [x for _, x, _ in known], [y for _, _, y in known]
    worst, best = (min(values), max(values)) if figure.is_high_good else (max(values), min(values))
    reference = (max(0.0, min(accuracies) - 1), worst * (0.9 if figure.is_high_good else 1.1) or 1.0)
    box = (max(accuracies) - reference[0]) * abs(best - reference[1])
    kinds = {"baseline": True, "nash": False}
    area = {}
    for kind, is_baseline in kinds.items():
        own = [(y, x) for row, x, y in known if row.record.identity.is_baseline is is_baseline]
        if own:
            area[kind] = hypervolume(own, reference=reference, maximize=(True, figure.is_high_good))
    return Dominated(
        axis=axis,
        reference_top1=reference[0],
        reference_figure=reference[1],
        area=area,
        share={kind: found / box if box else 0.0 for kind, found in area.items()},
        is_of_bounds=any(figure.is_lower_bound(row.record) for row, _, _ in known),
    )
