"""Hold estimates against the simulation of whole accelerators, and print the table of the README.

    python benchmarks/simulation.py run/model.json ... [--board KV260_SOM] [--target-fps 5000] [--trials 40]

Each model is built until its RTL is there and simulated with its golden pictures; what is compiled is kept in --cache.
Times are processor seconds, those of the tools included.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import sys
import tempfile
from pathlib import Path

_COLUMNS = (
    *("network", "layers", "distinct", "cycles a frame: estimated", "as written", "sized"),
    *("latency: estimated", "simulated", "FIFO bits: written", "sized", "processor time"),
)


def _seconds() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _row(path: Path, options: argparse.Namespace, folder: Path) -> list[str]:
    from nash_hw.build import BuildConfig, build
    from nash_hw.simulate.command import SimulateConfig, simulate

    config = BuildConfig(
        board=options.board, clock_mhz=options.clock_mhz, target_fps=options.target_fps, out=folder, until="hdl"
    )
    build(path, config)
    before = set(options.cache.glob("*.so"))
    start = _seconds()
    golden = path.parent / "golden.npz"
    result = simulate(SimulateConfig(folder=folder, golden=golden, trials=options.trials, cache=options.cache))
    seconds = _seconds() - start
    estimated, simulated = result["estimated"], result["simulated"]
    written = simulated["as_written"]
    return [
        result["name"],
        str(len(result["layers"])),
        str(len(set(options.cache.glob("*.so")) - before)),
        f"{estimated['ii_cycles']:,}",
        "dead-lock" if written["is_deadlocked"] else f"{written['ii_cycles']:,.0f}",
        f"{simulated['ii_cycles']:,.0f}",
        f"{estimated['latency_us'] * result['clock_mhz']:,.0f}",
        f"{simulated['latency_cycles']:,}",
        f"{written['fifo_bits']:,}",
        f"{simulated['fifo_bits']:,}",
        f"{seconds:,.0f} s",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--board", default="KV260_SOM")
    parser.add_argument("--clock-mhz", type=float, default=200.0)
    parser.add_argument("--target-fps", type=float, default=5000.0)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--cache", type=Path, help="the folder of compiled layers; a new one if not given")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="simulation-"))
    options.cache = options.cache or work / "cache"
    options.cache.mkdir(parents=True, exist_ok=True)
    try:
        rows = []
        for number, path in enumerate(options.models):
            rows.append(_row(path, options, work / str(number)))
            print(rows[-1], file=sys.stderr)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    for row in (_COLUMNS, ["---"] * len(_COLUMNS), *rows):
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
