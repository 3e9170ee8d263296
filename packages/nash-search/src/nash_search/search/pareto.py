"""Genotypes along the trade-off between loss and cost, from one search.

One supernet, then a ladder of budgets from what the plain backbone takes up to what the most probable genotype does: at
each, the most probable genotype within it, found exactly (decoding.py). All share the supernet's weights, so their
losses can be compared, and a point more costs a validation. A search for each weight (`sweep.py`) costs a search a
point, and their losses differ by what training differs, too.

Beside them stands the plain backbone at the widths that costs.json prices. The supernet has one width: of the others
no loss is known, and so nothing is said of which points beat them until they are trained.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..base import manifest, parallel
from ..base.errors import Interrupted, UsageError
from ..cost import costs as cost
from ..cost.costs import RESOURCES, SCARCEST, SUM
from ..genotype import backbones, genotype
from ..genotype.genotype import Genotype
from . import search
from .engine import Search
from .settings import Settings

PARETO_FILE, SEARCH_FOLDER, POINTS_FOLDER = "pareto.json", "search", "points"


@dataclass(frozen=True, kw_only=True)
class Point:
    """A genotype with what it costs and how good it is in the supernet.

    kind: `found`, or `plain` for the backbone. budget: what it was decoded within. cost: of the whole accelerator, by
    the metric of the ladder. loss, accuracy (percent), is_dominated: None where the supernet cannot tell.
    """

    kind: str
    genotype: str  # relative to pareto.json
    width: int
    budget: float | None
    cost: float
    operations: Mapping[str, float]
    total: Mapping[str, float]
    loss: float | None
    accuracy: float | None
    is_dominated: bool | None = None


def run(settings: Settings, out: Path, *, along: str, num_points: int, **options: Any) -> dict[str, Any]:
    """Search, or go on with the search of `out`, write the points and pareto.json, and return the latter.

    along: the metric of the ladder, one of `cost.METRICS`, `sum` or `scarcest`. options: those of `search.run`.

    Raises:
        UsageError: there are no costs.
        ManifestError: the costs do not tell what the backbone takes.
        Interrupted: a stop was requested; the search and the points so far are kept.
    """
    if settings.costs_file is None:
        raise UsageError("pareto: got no --costs; pass what 'nash-hw costs' wrote")
    told = cost.load(settings.costs_file, settings.backbone, settings.strategy())
    told.of_plain(along, told.width)  # they tell of the backbone, or nothing is searched
    with parallel.alone_in(out):
        path = search.run(settings, out / SEARCH_FOLDER, **options)
        with parallel.joined(settings.device), parallel.JointStop() as stop:
            found = search.reopen(settings, path.parent, options.get("data_dir"), options.get("backbone_file"))
            points = list(_Points(found, path, out, along).all(num_points, stop))
            parallel.wait()
        content = _manifest(settings, found, path, out, along, _judged(points))
        if parallel.is_first():
            manifest.save(out / PARETO_FILE, content, "pareto")
    return content


def ladder(found: Search, along: str, num_points: int) -> Iterator[tuple[float, Genotype]]:
    """Yield budgets of the whole accelerator and the most probable genotypes within them, from the cheapest on.

    The first budget is what the plain backbone takes, the last what the genotype of the search does.
    """
    costs, variant = found.penalty.costs, found.supernet.variant
    most = found.genotype()
    low, high = costs.of_plain(along), costs.total(along, most, variant, is_whole=True)
    for number in range(num_points):
        budget = low + (high - low) * (number / (num_points - 1) if num_points > 1 else 1.0)
        yield budget, most if number == num_points - 1 else _within(found, along, budget)


def _within(found: Search, along: str, budget: float) -> Genotype:
    costs, supernet = found.penalty.costs, found.supernet
    shares = {name: budget * costs.available[name] for name in RESOURCES if costs.available[name]}
    limits = dict(found.penalty.limits)
    for name, limit in (shares if along == SCARCEST else {along: budget}).items():
        limits[name] = min(costs.room(name, limit), limits.get(name, math.inf))
    return costs.decode(supernet.backbone, supernet.table().tolist(), supernet.variant, limits)


class _Points:
    """The points of a finished search."""

    def __init__(self, found: Search, path: Path, out: Path, along: str) -> None:
        self._search, self._out, self._along = found, out, along
        self._costs, self._variant = found.penalty.costs, found.supernet.variant
        self._written = manifest.load(path, "genotype")
        self._source = manifest.input_record(path, self._written)

    def all(self, num_points: int, stop: Any) -> Iterator[Point]:
        """Yield the plain backbone, what is found at each budget, and the plain backbone at other widths."""
        plain = self._search.supernet.backbone.without_nas_ops()
        named = [(f"plain-{self._costs.width}", "plain", None, plain)]
        rungs = enumerate(ladder(self._search, self._along, num_points))
        named += [(f"{self._along}-{number}", "found", budget, one) for number, (budget, one) in rungs]
        seen: list[Any] = []
        for number, (name, kind, budget, one) in enumerate(named, 1):
            ops = [
                layer.nas_op and (layer.nas_op.op, layer.nas_op.input) for cell in one.cells for layer in cell.layers
            ]
            if ops not in seen:
                seen.append(ops)
                point = self._scored(name, kind, budget, one, stop)
                if parallel.is_first():
                    print(f"point {number}/{len(named)}: loss {point.loss:.3f}, {name}", file=sys.stderr, flush=True)
                yield point
        for width, taken in sorted(self._costs.plain.items()):
            if width != self._costs.width:
                yield self._unscored(backbones.widened(plain, width), width, taken)

    def _scored(self, name: str, kind: str, budget: float | None, one: Genotype, stop: Any) -> Point:
        """Score a genotype in the supernet and write it, unless it lies there with its score already."""
        path = self._out / POINTS_FOLDER / f"{name}.json"
        one = replace(one, name=f"{self._written['name']}-{name}")
        scores = self._kept(path, one)
        if scores is None:
            scores = self._search.validate(stop, one)
        if scores is None:
            raise Interrupted(f"stopped by {stop.requested} at {name}; go on with the same command and --resume")
        costs = {
            "board": self._costs.board,
            "operations": self._costs.of(one, self._variant),
            "total": self._costs.of(one, self._variant, is_whole=True),
        }
        kept = {key: value for key, value in self._written["search"].items() if key != "alphas"}
        found = kept | {"accuracy": scores["accuracy"], "costs": costs, "pareto": {"budget": budget, **scores}}
        if parallel.is_first():
            genotype.save(replace(one, search=found), path, inputs=[self._source, self._costs.record])
        return Point(
            kind=kind,
            genotype=path.relative_to(self._out).as_posix(),
            width=self._costs.width,
            budget=budget,
            cost=self._costs.total(self._along, one, self._variant, is_whole=True),
            operations=costs["operations"],
            total=costs["total"],
            **scores,
        )

    def _kept(self, path: Path, one: Genotype) -> dict[str, float] | None:
        """Return the scores that a point of the same search has, if it is there."""
        if not path.exists():
            return None
        written = manifest.load(path, "genotype")
        is_same = self._source in written["inputs"] and genotype.from_manifest(written).cells == one.cells
        scores = (written.get("search") or {}).get("pareto", {})
        return {key: scores[key] for key in ("loss", "accuracy")} if is_same and "loss" in scores else None

    def _unscored(self, one: Genotype, width: int, taken: Mapping[str, float]) -> Point:
        path = self._out / POINTS_FOLDER / f"plain-{width}.json"
        if parallel.is_first():
            genotype.save(replace(one, name=f"{one.name}-w{width}"), path, inputs=[self._costs.record])
        return Point(
            kind="plain",
            genotype=path.relative_to(self._out).as_posix(),
            width=width,
            budget=None,
            cost=self._costs.of_plain(self._along, width),
            operations=dict.fromkeys(taken, 0.0),
            total=dict(taken),
            loss=None,
            accuracy=None,
        )


def _judged(points: Sequence[Point]) -> list[Point]:
    """Return the points by cost, dominated or not: by one that costs no more and loses no more, either of them less."""
    scored = [point for point in points if point.loss is not None]
    judged = []
    for point in sorted(points, key=lambda point: point.cost):
        if point.loss is not None:
            is_dominated = any(
                other.cost <= point.cost
                and other.loss <= point.loss
                and (other.cost, other.loss) != (point.cost, point.loss)
                for other in scored
            )
            point = replace(point, is_dominated=is_dominated)
        judged.append(point)
    return judged


def _manifest(
    settings: Settings, found: Search, path: Path, out: Path, along: str, points: Sequence[Point]
) -> dict[str, Any]:
    costs = found.penalty.costs
    files = [(path, "search"), *((out / point.genotype, "genotype") for point in points)]
    header = manifest.header(
        "pareto",
        inputs=[costs.record],
        artifacts=[manifest.artifact_record(file, out, role) for file, role in files],
    )
    return header | {
        "name": found.supernet.backbone.backbone or found.supernet.backbone.name,
        "variant": settings.variant,
        "dataset": settings.dataset,
        "seed": settings.seed,
        "board": costs.board,
        "available": dict(costs.available),
        "along": along,
        "search": path.relative_to(out).as_posix(),
        "points": [asdict(point) for point in points],
    }


def table(content: Mapping[str, Any]) -> str:
    """Return the points of a pareto.json as a table."""
    along = content["along"]
    lines = [f"{along:>10}      LUT  BRAM_18K  URAM   DSP     loss  accuracy  kind   dominated  genotype"]
    for point in content["points"]:
        total, loss = point["total"], point["loss"]
        scores = "      -         -" if loss is None else f"{loss:7.3f}  {point['accuracy']:6.1f} %"
        dominated = {None: "-", True: "yes", False: "no"}[point["is_dominated"]]
        cost = f"{point['cost']:10.2%}" if along in (SUM, SCARCEST) else f"{point['cost']:10,.0f}"
        figures = f"{total['lut']:7,.0f}  {total['bram']:8,.0f}  {total['uram']:4,.0f}  {total['dsp']:4,.0f}"
        lines.append(f"{cost}  {figures}  {scores}  {point['kind']:<5}  {dominated:<9}  {point['genotype']}")
    return "\n".join(lines)
