"""Which rows belong together: a NASH network and its baseline, the rows of one plot, the non-dominated among them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from ..records.collect import Collection, Row
from ..records.facts import RESOURCES
from ..records.figures import BY_KEY, Delta, deltas
from ..records.outcomes import paired_differences
from ..records.record import Record
from ..stats.paired import PairedDifference
from ..stats.pareto import hypervolume, pareto_front
from .configurations import are_of_same_samples, family_terms

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


@lru_cache(maxsize=1)
def pairs_of(collection: Collection) -> list[Pair]:
    """Return the pairs of a collection; asked for again, the same."""
    return find_pairs(collection.rows)


def find_pairs(rows: Sequence[Row]) -> list[Pair]:
    """Return every NASH row with its baseline of the same seed, or with each of its baselines where there is none."""
    baselines: dict[tuple[object, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row.record.identity.is_baseline and (terms := _terms(row.record)) is not None:
            baselines[terms].append(row)
    pairs = []
    for candidate in rows:
        identity, terms = candidate.record.identity, _terms(candidate.record)
        known = [] if identity.kind != "nash" or terms is None else baselines[terms]
        known = [row for row in known if are_of_same_samples([row.record, candidate.record])]
        of_seed = [row for row in known if row.record.identity.seed == identity.seed]
        pairs += [Pair(baseline=baseline, candidate=candidate) for baseline in of_seed or known]
    return pairs


def _terms(record: Record) -> tuple[object, ...] | None:
    """Return what a network and its baseline must share, None if the record says too little."""
    terms = family_terms(record)
    return None if terms is None else (record.identity.width, *terms)


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

    added: what NASH adds to the baselines' volume, as a share of it, from a reference that does not depend on what was
    measured: chance accuracy and the whole board (one frame a second, one second), the figure being logarithmic. None
    where one of the two kinds is missing, or the board's size is not known.
    """

    axis: str
    reference_top1: float
    reference_figure: float
    area: dict[str, float]
    share: dict[str, float]
    is_of_bounds: bool
    added: float | None = None


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
    area = {}
    for kind in ("baseline", "nash"):
        own = [(y, x) for row, x, y in known if row.record.identity.kind == kind]
        if own:
            area[kind] = hypervolume(own, reference=reference, maximize=(True, figure.is_high_good))
    return Dominated(
        axis=axis,
        reference_top1=reference[0],
        reference_figure=reference[1],
        area=area,
        share={kind: found / box if box else 0.0 for kind, found in area.items()},
        is_of_bounds=any(figure.is_lower_bound(row.record) for row, _, _ in known),
        added=_added(known, axis),
    )


def _added(known: Sequence[tuple[Row, float, float]], axis: str) -> float | None:
    """Return the volume that NASH networks add to the baselines', as a share of theirs."""
    worst = _whole(known, axis)
    baselines = [point for point in known if point[0].record.identity.kind == "baseline"]
    found = [point for point in known if point[0].record.identity.kind == "nash"]
    if worst is None or not baselines or not found:
        return None
    chance = max((100 / row.genotype["num_classes"] for row, _, _ in known if row.genotype), default=0.0)
    sign = 1 if BY_KEY[axis].is_high_good else -1

    def volume(points: Sequence[tuple[Row, float, float]]) -> float:
        gains = [(y, sign * math.log(max(x, 1.0) / worst)) for _, x, y in points]  # below one unit nothing is gained
        return hypervolume(gains, reference=(chance, 0.0), maximize=(True, True))

    own = volume(baselines)
    return volume([*baselines, *found]) / own - 1 if own else None


def _whole(known: Sequence[tuple[Row, float, float]], axis: str) -> float | None:
    """Return the worst that a figure can be: all that the board has, or a frame and a second."""
    if axis not in RESOURCES:
        return {"throughput_fps": 1.0, "latency_us": 1e6}[axis]
    shares = [
        (x, ((row.record.hardware.utilization or {}) if row.record.hardware else {}).get(axis)) for row, x, _ in known
    ]
    return next((x / share for x, share in shares if x and share), None)
