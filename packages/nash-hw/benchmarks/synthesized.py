"""Hold estimates against designs that others synthesized and ran.

    python benchmarks/synthesized.py [--layers NAME]

The designs are those of tests/data/synthesized.json, which says whose figures they are. Estimated are the accelerator
and the shell around it; FINN's own estimate, which has no shell, stands beside it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from published import designs, published

from nash_hw.boards import RESOURCES, find_board
from nash_hw.estimate import estimate
from nash_hw.finn_env import contained_finn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--layers", help="print the figures of each kind of layer of one design")
    options = parser.parse_args()
    with contained_finn():
        board = find_board("RFSoC2x2")
        results = [(design, estimate(published(design), board)) for design in designs()]
    ratios = defaultdict(list)
    print(f"{'design':18}{'resource':10}{'estimated':>10}{'synthesized':>12}{'ratio':>7}{'FINN':>9}{'ratio':>7}")
    for design, result in results:
        for name in RESOURCES:
            found, true = result.resources[name], design["synthesized"][name]
            finn = design["finn_estimate"].get(name)
            ratios[name].append(found / true if true else None)
            shown = ["" if not true or value is None else f"{value / true:.2f}" for value in (found, finn)]
            row = f"{design['name']:18}{name:10}{found:10,.0f}{true:12,}{shown[0]:>7}"
            print(row + ("" if finn is None else f"{finn:9,}{shown[1]:>7}"))
        cycles, true = result.ii_cycles, design["measured"]["interval_cycles"]
        finn = design["finn_estimate"]["max_cycles"]
        print(f"{design['name']:18}{'cycles':10}{cycles:10,}{true:12,}{cycles / true:7.3f}{finn:9,}{finn / true:7.3f}")
    for name, values in ratios.items():
        known = [value for value in values if value is not None]
        if known:
            print(f"{name}: {len(known)} designs, median {statistics.median(known):.2f}, {min(known):.2f} to {max(known):.2f}")
    if options.layers:
        print_kinds(next(result for design, result in results if design["name"] == options.layers))


def print_kinds(result) -> None:
    """Print the sums over each kind of layer and stream."""
    sums = defaultdict(lambda: dict.fromkeys(RESOURCES, 0.0))
    counts = defaultdict(int)
    for kind, figures in [(layer.op_type, layer.figures) for layer in result.layers] + [
        (part.kind, part.figures) for part in result.streams
    ]:
        counts[kind] += 1
        for name in RESOURCES:
            sums[kind][name] += figures.resources[name] or 0.0
    for kind, values in sums.items():
        print(f"{kind:32}{counts[kind]:4}", "".join(f"{values[name]:11,.0f}" for name in RESOURCES))


if __name__ == "__main__":
    main()
