"""The figures of an estimate as hardware.json and layers.csv have them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from ..boards.board import RESOURCES, Board
from ..boards.shells import shell_of, with_shell
from ..graph.integers import Dequantization
from ..graph.model import Model
from . import confidence
from .estimate import NOT_COUNTED, Estimate, Layer, utilization
from .figures import Figures
from .streams import Stream


def estimated(result: Estimate, board: Board, clock_mhz: float) -> dict[str, Any]:
    """Return the accelerator's figures as a whole."""
    shell = shell_of(board)
    return {
        "throughput_fps": clock_mhz * 1e6 / result.ii_cycles,
        "latency_us": result.latency_cycles / clock_mhz,
        "latency_bound_us": result.latency_bound_cycles / clock_mhz,
        "ii_cycles": result.ii_cycles,
        "restart_cycles": result.restart_cycles,
        "bottleneck": result.bottleneck,
        "resources": dict(result.resources),
        "utilization": utilization(result.resources, board.resources),
        "resources_with_shell": with_shell(result.resources, shell),
        "shell": None if shell is None else {"family": shell.family, "source": shell.source},
        "interval": confidence.interval(result.resources),
        "interval_source": confidence.SOURCE,
        "num_unknown": dict(result.num_unknown),
        "not_counted": list(NOT_COUNTED),
    }


def layer(figures: Layer) -> dict[str, Any]:
    """Return the figures of one layer."""
    return {
        "name": figures.name,
        "op_type": figures.op_type,
        "backend": figures.backend,
        "source": figures.source,
        "cycles": figures.cycles,
        "PE": figures.pe,
        "SIMD": figures.simd,
        "resources": dict(figures.figures.resources),
        "origins": dict(figures.figures.origins),
    }


def stream(part: Stream) -> dict[str, Any]:
    """Return the figures of one converter or FIFO."""
    return {
        "kind": part.kind,
        "producer": part.producer,
        "consumer": part.consumer,
        "in_width_bits": part.in_width,
        "out_width_bits": part.out_width,
        "depth": part.depth,
        "origin": None if part.depth is None else "estimated",
        "resources": dict(part.figures.resources),
        "origins": dict(part.figures.origins),
    }


def interface(model: Model, dequantization: Dequantization) -> dict[str, Any]:
    """Return what goes into the accelerator and comes out of it."""
    source, target = model.graph.input[0].name, model.graph.output[0].name
    return {
        "input": {
            "datatype": model.get_tensor_datatype(source).name,
            "shape": model.get_tensor_shape(source),
            "layout": "NHWC",
        },
        "output": {
            "datatype": model.get_tensor_datatype(target).name,
            "shape": model.get_tensor_shape(target),
            "scale": dequantization.scale.tolist(),
            "bias": dequantization.bias.tolist(),
        },
    }


def write_layers(path: Path, result: Estimate) -> None:
    """Write one line a layer, then one for each converter and FIFO; an unknown figure is an empty cell."""
    rows: list[list[Any]] = [
        [one.name, one.op_type, one.source, one.cycles, one.pe, one.simd, *_resources(one.figures)]
        for one in result.layers
    ]
    for part in result.streams:
        rows.append([f"{part.producer} to {part.consumer}", part.kind, "", "", "", "", *_resources(part.figures)])
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "op_type", "source", "cycles", "PE", "SIMD", *RESOURCES])
        writer.writerows(["" if value is None else value for value in row] for row in rows)


def _resources(figures: Figures) -> list[float | None]:
    return [figures.resources[name] for name in RESOURCES]
