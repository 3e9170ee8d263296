"""The figures of an estimate as hardware.json and layers.csv have them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from .boards import RESOURCES, Board
from .estimate import NOT_COUNTED, Estimate, Layer, utilization
from .integers import Dequantization
from .model import Model


def estimated(result: Estimate, board: Board, clock_mhz: float) -> dict[str, Any]:
    """Return the accelerator's figures as a whole."""
    return {
        "throughput_fps": clock_mhz * 1e6 / result.ii_cycles,
        "latency_us": result.latency_cycles / clock_mhz,
        "ii_cycles": result.ii_cycles,
        "bottleneck": result.bottleneck,
        "resources": dict(result.resources),
        "utilization": utilization(result.resources, board),
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


def write_layers(path: Path, layers: tuple[Layer, ...]) -> None:
    """Write one line a layer; an unknown figure is an empty cell."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "op_type", "source", "cycles", "PE", "SIMD", *RESOURCES])
        for one in layers:
            figures = [one.figures.resources[name] for name in RESOURCES]
            cells = ["" if value is None else value for value in (one.pe, one.simd, *figures)]
            writer.writerow([one.name, one.op_type, one.source, one.cycles, *cells])
