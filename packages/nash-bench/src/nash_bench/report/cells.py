"""Draw the cells of a genotype: states in a row, the backbone between them, residuals below, NAS operations above."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_GAP = 92  # between two states
_LEFT, _RADIUS = 26, 13
_ARC_RISE = 21  # an arc over n states rises n times this
OPERATION_LABELS = {
    "conv_1x1": "conv 1\N{MULTIPLICATION SIGN}1",
    "conv_3x3": "conv 3\N{MULTIPLICATION SIGN}3",
    "conv_5x5": "conv 5\N{MULTIPLICATION SIGN}5",
    "max_pool_3x3": "max-pool",
    "skip_connect": "skip",
}


def draw_cells(genotype: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return each cell of a genotype in drawing coordinates."""
    return [_draw_cell(index, cell) for index, cell in enumerate(genotype["cells"])]


def _draw_cell(index: int, cell: Mapping[str, Any]) -> dict[str, Any]:
    layers = cell["layers"]
    operations = [(layer["nas_op"], target) for target, layer in enumerate(layers, 1) if layer["nas_op"]]
    residuals = [
        (layer["residual_from"], target) for target, layer in enumerate(layers, 1) if layer["residual_from"] is not None
    ]
    rise = max((target - op["input"] for op, target in operations), default=0) * _ARC_RISE
    drop = max((target - source for source, target in residuals), default=0) * _ARC_RISE * 0.6
    level = rise + 38 if operations else 22
    states = [_LEFT + _GAP * state for state in range(len(layers) + 1)]
    return {
        "title": f"Cell {index}",
        "text": f"{layers[0]['channels']} channels" + (", stride 2" if layers[0]["stride"] == 2 else ""),
        "width": states[-1] + _LEFT,
        "height": level + 24 + drop,
        "level": level,
        "states": list(enumerate(states)),
        "radius": _RADIUS,
        "backbone": [
            {
                "x0": states[target - 1] + _RADIUS,
                "x1": states[target] - _RADIUS,
                "middle": (states[target - 1] + states[target]) / 2,
                "text": f"{layer['kernel']}\N{MULTIPLICATION SIGN}{layer['kernel']}"
                + (f" /{layer['stride']}" if layer["stride"] > 1 else ""),
            }
            for target, layer in enumerate(layers, 1)
        ],
        "residuals": [
            _arc(states[source], states[target], level, sign=1, rise=(target - source) * _ARC_RISE * 0.6)
            for source, target in residuals
        ],
        "operations": [
            _arc(states[op["input"]], states[target], level, sign=-1, rise=(target - op["input"]) * _ARC_RISE)
            | {"op": op["op"], "text": OPERATION_LABELS.get(op["op"], op["op"]), "probability": op.get("probability")}
            for op, target in operations
            if op["input"] < len(states)
        ],
    }


def _arc(x0: float, x1: float, level: float, *, sign: int, rise: float) -> dict[str, Any]:
    """Return a curve from one state to another: above the row for sign -1, below it for +1."""
    start = level + sign * _RADIUS * 0.8
    control = start + sign * rise * 4 / 3
    apex = start + sign * rise
    start_x, end_x = x0 + _RADIUS * 0.5, x1 - _RADIUS * 0.5
    bend = (end_x - start_x) * 0.2
    corners = (start_x + bend, control, end_x - bend, control, end_x, start)
    path = f"M{start_x:.1f} {start:.1f}C" + " ".join(f"{value:.1f}" for value in corners)
    return {"path": path, "x": (start_x + end_x) / 2, "y": round(apex, 1)}
