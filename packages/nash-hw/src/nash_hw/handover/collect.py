"""Read what FINN+ and Vivado have made of a build folder back into hardware.json.

The reports are FINN's (finn/builder/build_dataflow_steps.py): ``ooc_synth_and_timing.json`` has the accelerator by
itself, placed and routed; ``post_synth_resources.json`` (on Alveo ``post_synth_resources_0.json`` for each board) the
whole design with the platform's shell; ``rtlsim_performance.json`` the simulated cycles between two frames.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..base import json_file, manifest
from ..base.errors import IntegrityError, ToolchainError, UsageError
from ..boards.board import RESOURCES
from .finn_build import COMMAND, FOLDER, OUTPUT

_ROLES = {"bitfile": "bitfile", "driver": "driver"}


def collect(out: Path) -> dict[str, Any]:
    """Fill `measured` of ``out/hardware.json`` from FINN's reports, add its artifacts; return the manifest.

    Raises:
        UsageError: there is no build folder, or FINN has not run in it.
        ToolchainError: FINN's build failed.
        IntegrityError: a report is damaged, or the folder is of another design than the manifest.
    """
    path = out / "hardware.json"
    result = manifest.load(path, "hardware")
    folder = out / FOLDER
    if "finn" not in result:
        raise UsageError(f"{path}: has no build folder; build it with --until bitfile")
    for artifact in result["artifacts"]:
        if artifact["role"] in ("dataflow", "folding", "finn"):
            manifest.resolve(path, artifact["path"], artifact["sha256"])
    reports = folder / OUTPUT / "report"
    metadata = _read(reports / "metadata_builder.json")
    if metadata is None:
        raise UsageError(f"{folder}: FINN has not finished there; in {out} run '{COMMAND}'")
    if metadata.get("status") != "ok":
        raise ToolchainError(f"{folder}: FINN's build failed; read {folder / OUTPUT / 'build_dataflow.log'}")
    result["measured"] = _measured(reports, result)
    result["toolchain"]["vivado"] = metadata.get("tool_version")
    known = [artifact for artifact in result["artifacts"] if artifact["role"] not in _ROLES.values()]
    result["artifacts"] = known + _artifacts(folder / OUTPUT, out)
    manifest.save(path, result, "hardware")
    return result


def is_finished(out: Path) -> bool:
    """Tell whether FINN's build in a folder has ended well."""
    return ((_read(out / FOLDER / OUTPUT / "report" / "metadata_builder.json")) or {}).get("status") == "ok"


def _measured(reports: Path, result: dict[str, Any]) -> dict[str, Any]:
    alone = _read(reports / "ooc_synth_and_timing.json")
    if alone is None:
        raise IntegrityError(f"{reports}: misses ooc_synth_and_timing.json; run FINN's build anew")
    simulated = _read(reports / "rtlsim_performance.json") or []
    devices = [_read(path) for path in sorted(reports.glob("post_synth_resources*.json"))]
    try:
        resources = _resources(alone)
        with_shell = [_resources(device["(top)"]) for device in devices if "(top)" in device]
        wns_ns = _routed_wns(reports / "post_route_timing.rpt", alone.get("WNS"))
        fmax_mhz = None if wns_ns is None else 1000 / (1000 / result["clock_mhz"] - wns_ns)
        interval = max((int(one["intervals"][0]) for one in simulated if one["intervals"]), default=None)
        latency = max((int(one["latency_cycles"][0]) for one in simulated if one["latency_cycles"]), default=None)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise IntegrityError(f"{reports}: not FINN's reports ({error!r}); run FINN's build anew") from error
    clock_mhz = result["clock_mhz"] if fmax_mhz is None else min(result["clock_mhz"], fmax_mhz)
    return {
        "origin": "synthesized",
        "throughput_fps": None if not interval else clock_mhz * 1e6 / interval,
        "latency_us": None if latency is None else latency / clock_mhz,
        "ii_cycles": interval or None,
        "bottleneck": None,
        "resources": resources,
        "utilization": {name: _part(resources[name], result["board_resources"][name]) for name in RESOURCES},
        "resources_with_shell": with_shell,
        "wns_ns": wns_ns,
        "fmax_mhz": fmax_mhz,
        "power_w": alone.get("total_power_W"),
        "layers": _layers(devices, result["layers"]),
    }


def _resources(report: dict[str, Any]) -> dict[str, float | None]:
    """Return the resources as the manifest names them; Vivado counts block RAM of 18 and of 36 kbit."""
    blocks = [report.get("BRAM_18K"), report.get("BRAM_36K")]
    found: dict[str, float | None] = {name: report.get(name) for name in RESOURCES}
    found["BRAM_18K"] = None if None in blocks else blocks[0] + 2 * blocks[1]
    return {name: None if value is None else float(value) for name, value in found.items()}


def _layers(devices: list[dict[str, Any]], layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what the synthesis says of each layer; those it dissolved into others are missing."""
    merged = {name: report for device in devices for name, report in device.items()}
    return [
        {"name": layer["name"], "resources": _resources(merged[layer["name"]])}
        for layer in layers
        if layer["name"] in merged
    ]


def _part(used: float | None, available: float) -> float | None:
    return None if used is None or (used and not available) else used / max(available, 1)


def _routed_wns(path: Path, otherwise: float | None) -> float | None:
    """Return the worst slack (ns) of Vivado's timing summary of the whole design, or another where there is none."""
    if not path.exists():
        return otherwise
    lines = iter(path.read_text("utf-8", errors="replace").splitlines())
    if any("WNS(ns)" in line for line in lines):
        for line in lines:
            if re.match(r"\s*-?\d", line):
                return float(line.split()[0])
    raise ValueError(f"no WNS in {path.name}")


def _artifacts(output: Path, out: Path) -> list[dict[str, Any]]:
    """Return the records of the bitfiles and of the driver, the weights it writes included."""
    return [
        manifest.artifact_record(path, out, role)
        for name, role in _ROLES.items()
        for path in sorted((output / name).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    ]


def _read(path: Path) -> Any:
    """Return a report, None if there is none."""
    if not path.exists():
        return None
    try:
        return json_file.read(path)
    except json_file.Unreadable as error:
        raise IntegrityError(f"{path}: {error}; run FINN's build anew") from error
