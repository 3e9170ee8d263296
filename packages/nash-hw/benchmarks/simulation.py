"""Hold estimates against the simulation of whole accelerators, and print the table of the README.

    python benchmarks/simulation.py run/model.json ... [--board KV260_SOM] [--target-fps 5000] [--trials 40]
    python benchmarks/simulation.py --genotypes 50

Each model is built until its RTL is there and simulated with its golden pictures; what is compiled is kept in --cache.
--genotypes does so with as many random small networks of tests/genotypes.py, with the FIFO depths as `build` writes
them. Times are processor seconds, those of the tools included.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
_COLUMNS = (
    *("network", "layers", "distinct", "cycles a frame: estimated", "as written", "sized"),
    *("latency: estimated", "simulated", "FIFO bits: written", "sized", "processor time"),
)


def _seconds() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _row(path: Path, options: argparse.Namespace, folder: Path) -> list[str]:
    from nash_hw.build.build import BuildConfig, build
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


_GENOTYPE_COLUMNS = (
    *("seed", "network", "layers", "cycles a frame: estimated", "simulated", "latency: estimated", "simulated"),
    *("FIFO bits", "frames, all exact", "processor time"),
)


def _genotype_row(seed: int, options: argparse.Namespace, folder: Path) -> list[str]:
    """Return what one random network gives, frames back to back and under back-pressure."""
    from accelerators import CLOCK_MHZ, case_model, make_design, make_simulation
    from genotypes import draw_case

    from nash_hw.finn.finn_env import contained_finn
    from nash_hw.simulate.deadlock import told
    from nash_hw.simulate.run import Pace
    from nash_hw.simulate.sizing import bits

    start = _seconds()
    case = draw_case(seed)
    folder.mkdir()
    with contained_finn():
        design = make_design(*case_model(case), folder)
        simulation = make_simulation(design, folder / "work", options.cache)
        depths, estimated = [stream.depth for stream in design.streams], design.manifest["estimated"]
        paces = (Pace(frames=4, max_frames=40), Pace(frames=3, max_frames=3, stall=50, bubble=30))
        results = [simulation.run(depths, pace) for pace in paces]
    main = results[0]
    for result in results:
        if result.is_stuck:
            raise SystemExit(f"seed {seed}: {case.title}: {told(design, result, depths)}")
    return [
        str(seed),
        case.title,
        str(len(design.model.graph.node)),
        f"{estimated['ii_cycles']:,}",
        f"{main.interval:,.0f}",
        f"{estimated['latency_us'] * CLOCK_MHZ:,.0f}",
        f"{main.latency:,}",
        f"{bits(design, depths):,}",
        f"{sum(result.num_frames for result in results)}, {all(result.is_exact for result in results)}",
        f"{_seconds() - start:,.0f} s",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--genotypes", type=int, default=0, metavar="N", help="simulate as many random networks")
    parser.add_argument("--first", type=int, default=0, help="the seed of the first of them")
    parser.add_argument("--board", default="KV260_SOM")
    parser.add_argument("--clock-mhz", type=float, default=200.0)
    parser.add_argument("--target-fps", type=float, default=5000.0)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--cache", type=Path, help="the folder of compiled layers; a new one if not given")
    options = parser.parse_args()
    if bool(options.models) == bool(options.genotypes):
        parser.error("give models or --genotypes, not both")
    work = Path(tempfile.mkdtemp(prefix="simulation-"))
    options.cache = options.cache or work / "cache"
    options.cache.mkdir(parents=True, exist_ok=True)
    try:
        rows = []
        for number, path in enumerate(options.models):
            rows.append(_row(path, options, work / str(number)))
            print(f"| {' | '.join(rows[-1])} |", file=sys.stderr, flush=True)
        for seed in range(options.first, options.first + options.genotypes):
            rows.append(_genotype_row(seed, options, work / f"seed-{seed}"))
            print(f"| {' | '.join(rows[-1])} |", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    columns = _GENOTYPE_COLUMNS if options.genotypes else _COLUMNS
    for row in (columns, ["---"] * len(columns), *rows):
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
