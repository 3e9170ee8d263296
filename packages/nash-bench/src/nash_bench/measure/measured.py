"""Take over what synthesis found and what the board did, from the result files of FINN and its PYNQ driver.

- `nw_metrics.txt`: the driver's throughput test, a Python dictionary in text (`throughput[images/s]`, `runtime[ms]`,
  `batch_size` or `N`, `fclk[mhz]`).
- `post_synth_resources.json`: resources of the placed design, an object for each instance; `(top)` is all of it.
- `ooc_synth_and_timing.json`: resources of the accelerator alone, synthesized out of context.

A block RAM of 36 Kbit counts as two of 18 Kbit.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base import json_file, manifest
from ..base.errors import DataError, ManifestError, OutputError, UsageError
from ..records.facts import RESOURCES, Hardware
from ..records.record import hardware_from_manifest

_NUMPY_SCALAR = re.compile(r"np\.\w+\(([^()]*)\)")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one result file says; a figure it does not name is not in it."""

    is_of_board: bool
    figures: Mapping[str, float] = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=dict)
    clock_mhz: float | None = None


def import_measurements(
    hardware_path: Path, files: Sequence[Path], out: Path, *, power_w: float | None = None
) -> dict[str, Any]:
    """Write a copy of a hardware manifest whose `measured` holds the figures of result files, and return it.

    Its origin is `measured` as soon as one figure is of the board, else `synthesized`; what no file names is null, and
    estimates are never filled in.

    Raises:
        ManifestError: the manifest or a result file is malformed.
        DataError: two files disagree on a figure.
        UsageError: there is nothing to import.
        OutputError: the output exists already: records do not change.
    """
    built = manifest.load(hardware_path, "hardware")
    if out.exists():
        raise OutputError(f"{out}: is there already, and records do not change; choose another --out")
    if not files and power_w is None:
        raise UsageError("FILE: got none, expected result files of FINN or its driver, or --power-w")
    figures: dict[str, float] = {}
    clocks: dict[str, float] = {}
    is_of_board = power_w is not None
    for path in files:
        found = read_measurement(path)
        is_of_board |= found.is_of_board
        _merge(figures, {**found.figures, **found.resources}, path)
        _merge(clocks, {} if found.clock_mhz is None else {"clock_mhz": found.clock_mhz}, path)
    if power_w is not None:
        figures["power_w"] = power_w
    resources = {key: figures.get(key) for key in RESOURCES}
    content = built | {
        **manifest.header("hardware", inputs=[manifest.input_record(hardware_path, built), *map(_source, files)]),
        "clock_mhz": clocks.get("clock_mhz", built["clock_mhz"]),
        "measured": {
            "origin": "measured" if is_of_board else "synthesized",
            "throughput_fps": figures.get("throughput_fps"),
            "latency_us": figures.get("latency_us"),
            "power_w": figures.get("power_w"),
            "resources": resources,
            "utilization": _utilization(resources, built["estimated"]),
        },
    }
    hardware_from_manifest(content, source=out)
    manifest.save(out, content, "hardware")
    return content


def _merge(known: dict[str, float], found: Mapping[str, float], path: Path) -> None:
    for key, value in found.items():
        if known.setdefault(key, value) != value:
            raise DataError(
                f"{path}: {key}: got {value:g}, expected {known[key]:g} as another file says; pass one build's"
            )


def _source(path: Path) -> dict[str, Any]:
    return {"path": path.name, "sha256": manifest.file_sha256(path), "schema": None}


def _utilization(resources: Mapping[str, float | None], estimated: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the part of the board that resources take, from the totals that the estimate implies."""
    shares = estimated["utilization"]
    found: dict[str, float | None] = {}
    for key, used in resources.items():
        estimate, share = estimated["resources"][key], shares.get(key)
        found[key] = used * share / estimate if used is not None and estimate and share else None
    return found


def read_measurement(path: Path) -> Measurement:
    """Read one result file, known by what it holds.

    Raises:
        ManifestError: it cannot be read, or is none of the files known.
    """
    try:
        text = json_file.text(path)
    except json_file.Unreadable as error:
        raise ManifestError(f"{path}: {error}; pass a result file of FINN or its driver") from error
    content = _parse(text)
    if isinstance(content, dict):
        if "throughput[images/s]" in content:
            return _of_driver(content, path)
        if isinstance(content.get("(top)"), dict):
            return Measurement(is_of_board=False, resources=_resources(content["(top)"], path))
        if "fmax_mhz" in content:
            return Measurement(is_of_board=False, resources=_resources(content, path))
    raise ManifestError(
        f"{path}: none of the files known, expected nw_metrics.txt, post_synth_resources.json or "
        "ooc_synth_and_timing.json"
    )


def _parse(text: str) -> Any:
    try:
        return json_file.parse(text)
    except ValueError:
        pass
    try:
        return ast.literal_eval(_NUMPY_SCALAR.sub(r"\1", text.strip()))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def _of_driver(content: Mapping[str, Any], path: Path) -> Measurement:
    figures = {"throughput_fps": _number(content, "throughput[images/s]", path)}
    batch_size = content.get("batch_size", content.get("N"))
    if batch_size == 1 and "runtime[ms]" in content:  # of a longer batch, nobody knows one picture's way
        figures["latency_us"] = 1000 * _number(content, "runtime[ms]", path)
    clock_mhz = _number(content, "fclk[mhz]", path) if "fclk[mhz]" in content else None
    return Measurement(is_of_board=True, figures=figures, clock_mhz=clock_mhz)


def _resources(content: Mapping[str, Any], path: Path) -> dict[str, float]:
    found = {key: _number(content, key, path) for key in ("LUT", "FF", "URAM", "DSP") if key in content}
    if "BRAM_36K" in content or "BRAM_18K" in content:
        halves = [2 * _number(content, "BRAM_36K", path)] if "BRAM_36K" in content else []
        found["BRAM_18K"] = sum(halves) + (_number(content, "BRAM_18K", path) if "BRAM_18K" in content else 0)
    if not found:
        raise ManifestError(
            f"{path}: got no resources, expected LUT, FF, BRAM_36K, BRAM_18K, URAM, DSP; synthesize anew"
        )
    return found


def _number(content: Mapping[str, Any], key: str, path: Path) -> float:
    try:
        value = float(content[key])
    except (TypeError, ValueError):
        value = float("nan")
    if not 0 <= value < float("inf"):
        raise ManifestError(f"{path}: {key}: got {content[key]!r}, expected a number of 0 or more; measure anew")
    return value


def measured_text(content: Mapping[str, Any], out: Path) -> str:
    """Return what was imported, to read."""
    hardware = Hardware.from_manifest(content)
    figures = {"frames/s": hardware.throughput_fps, "us": hardware.latency_us, "W": hardware.power_w}
    figures |= {key: getattr(hardware, key) for key in RESOURCES}
    known = ", ".join(f"{value:,g} {unit}" for unit, value in figures.items() if value is not None)
    return f"{content['name']}, {hardware.origin} on {hardware.board}: {known}\nwritten: {out}"
