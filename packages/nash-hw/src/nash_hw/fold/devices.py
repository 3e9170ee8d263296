"""Which board of several each layer lies on.

FINN+ links Alveo boards in a chain and cuts where one stream alone goes on (its `single_stream_network`). Its own
partitioner starts from resources that it has for HLS layers only once Vitis has compiled them, and counts layers else;
so the cuts are chosen here, from the estimates, and handed to it as constraints.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

from ..base.errors import CapacityError
from ..boards.board import RESOURCES, Board
from ..estimate.estimate import Estimate, sum_known
from ..graph.model import Model


def assign_devices(model: Model, result: Estimate, board: Board, num_fpgas: int, limit: float) -> dict[str, int]:
    """Return the board (0, 1, ...) of each layer such that the fullest board is as empty as it can be.

    Raises:
        CapacityError: a board has to hold more than the part `limit` of a resource.
    """
    layers = {layer.name: layer.figures.resources for layer in result.layers}
    used = [[layers[node.name][resource] or 0.0 for resource in RESOURCES] for node in model.graph.node]
    available = [[board.resources[resource] for resource in RESOURCES]] * num_fpgas
    possible = single_stream_cuts(model)
    cuts = best_cuts(used, available, possible)
    if cuts is None:
        raise CapacityError(
            f"--num-fpgas: got {num_fpgas}, expected at most {len(possible) + 1}: elsewhere several streams cross"
        )
    names = [node.name for node in model.graph.node]
    bounds = (0, *cuts, len(names))
    devices = {name: device for device, (first, last) in enumerate(pairwise(bounds)) for name in names[first:last]}
    for device, resources in enumerate(device_resources(result, devices, num_fpgas)):
        for resource, amount in resources.items():
            if amount is not None and amount > limit * board.resources[resource]:
                raise CapacityError(
                    f"--num-fpgas: {num_fpgas} boards together hold the design, but cut between cells board {device} "
                    f"needs {amount:,.0f} {resource} of {limit * board.resources[resource]:,.0f}; raise --num-fpgas "
                    "or lower the target"
                )
    return devices


def device_resources(result: Estimate, devices: Mapping[str, int], num_fpgas: int) -> list[dict[str, float | None]]:
    """Return the sums of the known figures on each board, None where there is none."""
    return [
        {
            resource: sum_known(
                layer.figures.resources[resource] for layer in result.layers if devices[layer.name] == device
            )
            for resource in RESOURCES
        }
        for device in range(num_fpgas)
    ]


def partitioning(devices: Mapping[str, int], num_fpgas: int) -> dict[str, Any]:
    """Return FINN's PartitioningConfiguration (finn/builder/build_dataflow_config.py)."""
    return {
        "num_fpgas": num_fpgas,
        "partition_strategy": "layer_count",
        "topology": "chain",
        "communication_kernel": "aurora",
        "single_stream_network": True,
        "custom_partitioning_constraints": dict(devices),
    }


def single_stream_cuts(model: Model) -> list[int]:
    """Return the positions before which the graph can be cut: one stream alone crosses."""
    last_read = {name: position for position, node in enumerate(model.graph.node) for name in node.input}
    cuts, live = [], set()
    for position, node in enumerate(model.graph.node):
        live = {name for name in live if last_read[name] >= position}
        if len(live) == 1 and position:
            cuts.append(position)
        live.update(name for name in node.output if name in last_read)
    return cuts


def best_cuts(
    used: Sequence[Sequence[float]], available: Sequence[Sequence[float]], cuts: Sequence[int]
) -> tuple[int, ...] | None:
    """Return the cuts that make the fullest part as empty as possible, None if there are not enough.

    used: (layers, resources); available: (parts, resources).
    """
    sums = [[0.0] * len(available[0])]
    for row in used:
        sums.append([total + value for total, value in zip(sums[-1], row, strict=True)])

    def fill(first: int, last: int, part: int) -> float:
        spans = zip(sums[first], sums[last], available[part], strict=True)
        return max((end - start) / max(room, 1) for start, end, room in spans)

    @cache
    def best(first: int, part: int) -> tuple[float, tuple[int, ...]]:
        if part == len(available) - 1:
            return fill(first, len(used), part), ()
        found = (math.inf, ())
        for cut in cuts:
            if cut > first:
                rest, later = best(cut, part + 1)
                found = min(found, (max(fill(first, cut, part), rest), (cut, *later)))
        return found

    fullest, chosen = best(0, 0)
    return None if fullest == math.inf else chosen
