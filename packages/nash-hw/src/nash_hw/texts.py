"""Results for people: what the commands print of their manifests."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def import_text(result: dict[str, Any], out: Path) -> str:
    """Return what was found in a network of other origin, and what to do with it."""
    return (
        f"{result['name']}: pictures {result['input']['shape'][1:]}, input scale {result['input']['scale']:.9g}, "
        f"activations of at most {result['quantization']['act_bits']} bits\n"
        f"{_verified_text(result['import']['verification'])}\n"
        f"wrote {out}; next: nash-hw build {out} --board BOARD --out DIR"
    )


def _verified_text(record: dict[str, Any]) -> str:
    return (
        f"verified {record['stage']}: {record['num_samples']} samples, {record['num_flips']} flips, "
        f"largest error of a logit {record['max_abs_error']:.1e}"
    )


def build_text(result: dict[str, Any], out: Path) -> str:
    """Return what a build found, for people."""
    estimated = result["estimated"]
    lines = [
        f"{result['name']} on {result['board']} at {result['clock_mhz']:g} MHz: "
        f"{estimated['throughput_fps']:,.0f} fps estimated, one frame every {estimated['ii_cycles']:,} cycles "
        f"({estimated['bottleneck']}), latency {estimated['latency_us'] / 1000:,.2f} ms",
    ]
    if estimated["restart_cycles"]:
        lines.append(
            f"layers in C++ begin anew between frames: up to {estimated['restart_cycles']} cycles a frame more"
        )
    table = [["resource", "estimated", "of the board", "parts without a figure", "likely", "with shell"]]
    with_shell = estimated["resources_with_shell"]
    for name, used in estimated["resources"].items():
        part = estimated["utilization"][name]
        table.append(
            [
                name,
                "unknown" if used is None else f"{used:,.0f}",
                "unknown" if part is None else f"{part:.1%}",
                f"{estimated['num_unknown'][name]} of {len(result['layers']) + len(result['streams'])}",
                _interval_text(estimated["interval"][name]),
                "unknown" if with_shell is None or with_shell[name] is None else f"{with_shell[name]:,.0f}",
            ]
        )
    lines.append(columns(table))
    lines.append(f"not counted: {', '.join(estimated['not_counted'])}")
    lines.append(_target_text(result["target"]))
    usual = result.get("clock", {}).get("usual_mhz")
    if usual is not None and result["clock_mhz"] > usual:
        lines.append(
            f"clock: {result['clock_mhz']:g} MHz is more than the {usual} that streaming cores usually reach on this "
            "family: timing may not close"
        )
    lines += [_verified_text(record) for record in result["verification"]]
    if "hdl" in result:
        lines += _hdl_text(result["hdl"], out)
    if "devices" in result:
        devices, board = result["devices"], result["board_resources"]
        shares = [
            {name: None if used is None else used / max(board[name], 1) for name, used in taken.items()}
            for taken in devices["resources"]
        ]
        lines.append(_shares_text("board", devices["layers"], shares))
    if "slrs" in result:
        lines.append(_shares_text("SLR", result["slrs"]["layers"], result["slrs"]["utilization"]))
    if "simulated" in result:
        lines += simulated_text(result, out)[:-1]
    if result["measured"] is not None:
        lines += measured_text(result, out)
    elif "finn" in result:
        lines += _crossed_text(result["finn"])
        lines.append(f"to build the bitfile where Vivado is: cd {out} && {result['finn']['command']}")
        lines.append(f"then: nash-hw collect {out}")
    lines.append(f"wrote {out / 'hardware.json'} in {sum(step['seconds'] for step in result['steps']):.1f} s")
    return "\n".join(lines)


def _interval_text(interval: list[float] | None) -> str:
    return "unknown" if interval is None else " to ".join(f"{value:,.0f}" for value in interval)


def _hdl_text(hdl: dict[str, Any], out: Path) -> list[str]:
    folder = out / hdl["folder"]
    lines = [
        f"RTL of {len(hdl['rtl'])} layers in {folder}; {len(hdl['hls'])} layers need Vitis HLS, their C++ is there:"
    ]
    by_kind: dict[tuple[str, str], list[str]] = {}
    for layer in hdl["hls"]:
        by_kind.setdefault((layer["op_type"], layer["why"]), []).append(layer["name"])
    for (kind, why), names in by_kind.items():
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        lines.append(f"  {kind}: {why}: {shown}")
    return lines


def _crossed_text(finn: dict[str, Any]) -> list[str]:
    crossed = finn.get("crossed_kernels", [])
    if not crossed:
        return []
    return [
        f"look at FINN's link before it is run: it takes the inputs of {', '.join(crossed)} in another order than "
        "theirs; '--price URAM=1000' keeps weights out of UltraRAM, which these kernels come from"
    ]


def _shares_text(what: str, places: dict[str, int], shares: list[dict[str, float | None]]) -> str:
    """Return how many layers lie on each board or SLR, and what part of it they take."""
    table = [[what, "layers", *shares[0]]]
    for number, parts in enumerate(shares):
        cells = ["unknown" if part is None else f"{part:.1%}" for part in parts.values()]
        table.append([str(number), str(sum(place == number for place in places.values())), *cells])
    return columns(table)


def measured_text(result: dict[str, Any], out: Path) -> list[str]:
    """Return what synthesis and the board gave, line by line."""
    measured = result["measured"]
    fps, fmax = measured["throughput_fps"], measured["fmax_mhz"]
    table = [["resource", "estimated", "synthesized", "of the board"]]
    for name, used in measured["resources"].items():
        part = measured["utilization"][name]
        figures = [
            "unknown" if value is None else f"{value:,.0f}" for value in (result["estimated"]["resources"][name], used)
        ]
        table.append([name, *figures, "unknown" if part is None else f"{part:.1%}"])
    bitfiles = [artifact["path"] for artifact in result["artifacts"] if artifact["role"] == "bitfile"]
    return [
        f"synthesized: {'unknown' if fps is None else f'{fps:,.0f}'} fps, "
        f"at most {'unknown' if fmax is None else f'{fmax:,.1f}'} MHz",
        columns(table),
        f"in {out}: {', '.join(bitfiles) or 'no bitfile, an IP core'}",
    ]


def simulated_text(result: dict[str, Any], out: Path) -> list[str]:
    """Return what a simulation found, line by line."""
    simulated, estimated = result["simulated"], result["estimated"]
    written = simulated["as_written"]
    before = "dead-lock" if written["is_deadlocked"] else f"one frame every {written['ii_cycles']:,.0f} cycles"
    lines = [
        f"{result['name']} on {result['board']} at {result['clock_mhz']:g} MHz: "
        f"{simulated['throughput_fps']:,.0f} fps simulated, one frame every {simulated['ii_cycles']:,.0f} cycles "
        f"(estimated {estimated['ii_cycles']:,}), latency {simulated['latency_us'] / 1000:,.2f} ms "
        f"(estimated {estimated['latency_us'] / 1000:,.2f})",
        f"{simulated['frames_compared']} frames compared, every integer the same",
        f"FIFOs as written: {before}, {written['fifo_bits']:,} bits",
    ]
    if any(fifo["origin"] == "simulated" for fifo in simulated["fifos"]):
        lines.append(
            f"FIFOs as simulated: one frame every {simulated['ii_cycles']:,.0f} cycles, {simulated['fifo_bits']:,} bits"
        )
    table = [["layer", "busy", "waits", "for", "stalls", "by"]]
    for layer in sorted(simulated["layers"], key=lambda layer: -layer["busy"])[:5]:
        parts = [f"{layer[key]:.0%}" for key in ("busy", "waits", "stalls")]
        table.append([layer["name"], parts[0], parts[1], layer["waits_for"] or "", parts[2], layer["stalled_by"] or ""])
    lines.append(columns(table))
    lines.append(f"wrote {out / 'hardware.json'}")
    return lines


def _target_text(target: dict[str, Any]) -> str:
    if target["target_fps"] is not None:
        wanted, better = f"the cheapest design of {target['target_fps']:g} fps or more", "cheaper"
    else:
        wanted, better = "the fastest design", "faster"
    is_balanced = target.get("price") == "balance"
    wanted += f" within {target['limit']:.{1 if is_balanced else 0}%} of each resource"
    wanted += ", the least part that was found" if is_balanced else ""
    if target["gap"] == 0:
        return f"folded to {wanted}: proven"
    return f"folded to {wanted}, up to proof: none is {better} by more than {target['gap']:.2%}"


def columns(table: list[list[str]]) -> str:
    """Return a table with its columns aligned."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
    )
