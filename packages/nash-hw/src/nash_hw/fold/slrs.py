"""Which SLR of a device of several dies each layer lies on.

A design that one SLR does not hold is cut where one stream alone goes on, into as few SLRs as hold it, from the first
on. FINN makes a kernel of each such part (partitions.py), which Vitis places on its SLR. FIFOs and converters lie
beside the layer that writes into them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..boards.board import RESOURCES, Board
from ..estimate.estimate import Estimate, utilization
from ..estimate.figures import sum_known
from ..graph.model import Model
from .devices import best_cuts, single_stream_cuts

_ROUTABLE = 0.7  # of each resource of an SLR


@dataclass(frozen=True, kw_only=True)
class SlrPlan:
    """The SLR of each layer by its name, and what each SLR takes and holds."""

    slr_of: Mapping[str, int]
    resources: tuple[Mapping[str, float | None], ...]
    available: tuple[Mapping[str, int], ...]

    def as_json(self) -> dict[str, Any]:
        """Return the entry of the manifest."""
        parts = zip(self.resources, self.available, strict=True)
        return {
            "layers": dict(self.slr_of),
            "resources": [dict(used) for used in self.resources],
            "utilization": [utilization(used, available) for used, available in parts],
        }


def plan_slrs(model: Model, result: Estimate, board: Board) -> SlrPlan | None:
    """Return the SLR of each layer of a folded model, None if one SLR holds all, which is left to Vitis.

    Where no cut keeps each SLR within 70 % of each resource, the fullest one is as empty as it can be.
    """
    available = slr_resources(board)
    parts: dict[str, list[Mapping[str, float | None]]] = {one.name: [one.figures.resources] for one in result.layers}
    for stream in result.streams:
        parts[stream.consumer if stream.producer == "input" else stream.producer].append(stream.figures.resources)
    taken = {name: _sum(of_layer) for name, of_layer in parts.items()}
    names = [node.name for node in model.graph.node]
    used = [[taken[name][resource] or 0.0 for resource in RESOURCES] for name in names]
    plans = []
    for number in range(1, len(available) + 1):
        room = [[slr[resource] for resource in RESOURCES] for slr in available[:number]]
        cuts = best_cuts(used, room, single_stream_cuts(model))
        if cuts is None:
            break
        plan = _plan(names, cuts, taken, available)
        plans.append((_fullest(plan), plan))
        if plans[-1][0] <= _ROUTABLE:
            break
    best = plans[-1] if plans[-1][0] <= _ROUTABLE else min(plans, key=lambda entry: entry[0])
    return None if max(best[1].slr_of.values()) == 0 else best[1]


def slr_resources(board: Board) -> list[Mapping[str, int]]:
    """Return what each SLR of a board holds: FINN's figures, or equal parts where it has none."""
    from finn.util.platforms import platforms

    if board.source == "finn" and board.name in platforms:
        return [dict(zip(RESOURCES, slr, strict=False)) for slr in platforms[board.name]().compute_resources]
    return [{name: amount // board.num_slrs for name, amount in board.resources.items()}] * board.num_slrs


def floorplan(inserted: Model, slr_of: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Return FINN's vitis_floorplan_file: the SLR of each node of a graph with all that FINN inserts.

    Nothing is left to its Floorplan, which puts narrowing converters on no SLR at all.
    """
    slrs: dict[str, int] = {}
    first = slr_of[next(node.doc_string for node in inserted.graph.node if node.doc_string)]
    for node in inserted.graph.node:
        producer = inserted.find_producer(node.input[0])
        beside = first if producer is None else slrs[producer.name]
        slrs[node.name] = slr_of[node.doc_string] if node.doc_string else beside
    return {"Defaults": {}} | {name: {"slr": slr} for name, slr in slrs.items()}


def write_floorplan(path: Path, inserted: Model, slr_of: Mapping[str, int]) -> None:
    """Write FINN's vitis_floorplan_file; FINN itself writes more into it later."""
    path.write_text(json.dumps(floorplan(inserted, slr_of), indent=2) + "\n", "utf-8")


def _plan(
    names: list[str],
    cuts: tuple[int, ...],
    taken: Mapping[str, Mapping[str, float | None]],
    available: list[Mapping[str, int]],
) -> SlrPlan:
    bounds = (0, *cuts, len(names))
    slr_of = {name: slr for slr, (first, last) in enumerate(pairwise(bounds)) for name in names[first:last]}
    used = tuple(_sum([taken[name] for name in names if slr_of[name] == slr]) for slr in range(len(available)))
    return SlrPlan(slr_of=slr_of, resources=used, available=tuple(available))


def _sum(parts: list[Mapping[str, float | None]]) -> dict[str, float | None]:
    return {name: sum_known(part[name] for part in parts) for name in RESOURCES}


def _fullest(plan: SlrPlan) -> float:
    parts = zip(plan.resources, plan.available, strict=True)
    return max((used[name] or 0.0) / max(room[name], 1) for used, room in parts for name in RESOURCES)
