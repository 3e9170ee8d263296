"""What a simulation found, as hardware.json and streams.csv have it."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .design import Design, Layer
from .run import Result
from .sizing import Sizes, bits
from .tools import Tools


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """All a simulation gave."""

    design: Design
    tools: Tools
    written: Result  # with the FIFOs as the build wrote them
    sizes: Sizes | None
    depths: tuple[int, ...]  # one a stream, as they are now
    are_depths_simulated: bool
    checks: dict[str, Result]
    pictures: str

    @property
    def main(self) -> Result:
        """The run the figures are of."""
        return self.checks["back to back"]


def simulated_depths(design: Design) -> tuple[int, ...] | None:
    """Return the depths that an earlier simulation found, one a stream; None if there was none."""
    fifos = (design.manifest.get("simulated") or {}).get("fifos", ())
    found = {(one["consumer"], one["input"]): one["depth"] for one in fifos if one["origin"] == "simulated"}
    keys = [(stream.consumer, stream.port) for stream in design.streams]
    return tuple(found[key] for key in keys) if set(keys) == set(found) else None


def manifest_entry(simulated: Simulated) -> dict[str, Any]:
    """Return `simulated` of hardware.json."""
    design, main = simulated.design, simulated.main
    clock_mhz = design.manifest["clock_mhz"]
    layers = [
        _layer(simulated, number, layer) for number, layer in enumerate(design.layers) if layer.module is not None
    ]
    hdl = next(artifact["sha256"] for artifact in design.manifest["artifacts"] if artifact["role"] == "hdl")
    return {
        "origin": "simulated",
        "throughput_fps": clock_mhz * 1e6 / main.interval,
        "latency_us": main.latency / clock_mhz,
        "ii_cycles": main.interval,
        "latency_cycles": main.latency,
        "is_steady": bool(main.period),
        "bottleneck": max(layers, key=lambda layer: layer["busy"])["name"],
        "frames_compared": sum(result.num_frames for result in (simulated.written, *simulated.checks.values())),
        "pictures": simulated.pictures,
        "as_written": _written(simulated),
        "checks": [_check(name, result) for name, result in simulated.checks.items()],
        "fifo_bits": bits(design, simulated.depths),
        "fifos": [_fifo(simulated, i) for i in range(len(design.streams))],
        "layers": layers,
        "tools": {"verilator": simulated.tools.version, "compiler": simulated.tools.compiler_version},
        "hdl_sha256": hdl,
    }


def _written(simulated: Simulated) -> dict[str, Any]:
    result, streams = simulated.written, simulated.design.streams
    return {
        "is_deadlocked": result.is_stuck,
        "ii_cycles": result.interval,
        "latency_cycles": result.latency,
        "fifo_bits": bits(simulated.design, [stream.depth for stream in streams]),
    }


def _check(name: str, result: Result) -> dict[str, Any]:
    return {
        "name": name,
        "frames": result.num_frames,
        "is_exact": result.is_exact,
        "ii_cycles": result.interval,
        "latency_cycles": result.latency,
    }


def _fifo(simulated: Simulated, i: int) -> dict[str, Any]:
    stream = simulated.design.streams[i]
    return {
        "producer": stream.producer,
        "consumer": stream.consumer,
        "input": stream.port,
        "width_bits": stream.bits,
        "depth": simulated.depths[i],
        "written_depth": stream.depth,
        "fill": simulated.main.raw["streams"][stream.hop]["peak"],
        "origin": "simulated" if simulated.are_depths_simulated else "written",
    }


def _layer(simulated: Simulated, number: int, layer: Layer) -> dict[str, Any]:
    """Return how a layer spends its cycles, and for whom it waits most."""
    design, raw = simulated.design, simulated.main.raw
    spent = raw["layers"][number]
    total = max(raw["cycles"], 1)
    hops = list(zip(design.hops, raw["streams"], strict=True))
    starved = [(state["starved"], hop.source) for hop, state in hops if hop.target == number]
    blocked = [(state["blocked"], hop.target) for hop, state in hops if hop.source == number]
    return {
        "name": layer.name,
        "busy": spent["busy"] / total,
        "waits": spent["waits"] / total,
        "stalls": spent["stalls"] / total,
        "waits_for": _most(design, starved),
        "stalled_by": _most(design, blocked),
    }


def _most(design: Design, cycles: list[tuple[int, int]]) -> str | None:
    most = max(cycles, default=(0, 0))
    return design.layers[most[1]].name if most[0] else None


def write_streams(path: Path, simulated: Simulated) -> None:
    """Write one line a stream: its FIFO as it was written and as it is, and how full it was."""
    design, states = simulated.design, simulated.main.raw["streams"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        names = ["producer", "consumer", "input", "width_bits", "words_a_frame", "written_depth", "depth"]
        writer.writerow([*names, "fill", "fill_unbounded", "blocked_cycles", "starved_cycles"])
        for i, stream in enumerate(design.streams):
            state = states[stream.hop]
            unbounded = "" if simulated.sizes is None else simulated.sizes.fills[i]
            figures = [stream.words, stream.depth, simulated.depths[i], state["peak"], unbounded]
            writer.writerow(
                [
                    stream.producer,
                    stream.consumer,
                    stream.port,
                    stream.bits,
                    *figures,
                    state["blocked"],
                    state["starved"],
                ]
            )
