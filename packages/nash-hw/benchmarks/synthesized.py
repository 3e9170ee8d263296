"""Hold estimates against designs that others synthesized and ran.

    python benchmarks/synthesized.py [--layers NAME] [--store]

The designs are those of tests/data/synthesized.json, which says whose figures they are: synthesized with the shell
around the accelerator, measured on a board. Estimated are both; FINN's own estimate, which has no shell and no FIFOs,
stands beside it. Width converters are priced as the RTL that these designs were built of. --store keeps the estimates
in measured/synthesized.json, of which the README's tables are made (`nox -s readme`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from published import designs, estimated, parts_of

from nash_hw.boards.board import RESOURCES
from nash_hw.finn.finn_env import contained_finn

STORED = Path(__file__).parent / "measured" / "synthesized.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--layers", help="print the figures of each kind of layer of one design")
    parser.add_argument("--store", action="store_true", help=f"write the estimates to {STORED.name}")
    options = parser.parse_args()
    ratios = defaultdict(list)
    estimates = {}
    lines = []
    with contained_finn():
        for design in designs():
            found = estimated(design)
            estimates[design["name"]] = stored(found)
            lines += list(rows(design, found, ratios))
            if design["name"] == options.layers:
                lines += list(kinds(*parts_of(design)[:2]))
    head = f"{'design':18}{'':10}{'estimated':>10}{'synthesized':>12}{'ratio':>7}{'FINN':>9}{'ratio':>7}"
    print("\n".join([head, *lines]))
    for (name, who), values in ratios.items():
        low, high, middle = min(values), max(values), statistics.median(values)
        print(f"{name:10}{who:10}{len(values):3} designs, median {middle:.2f}, {low:.2f} to {high:.2f}")
    if options.store:
        STORED.write_text(json.dumps(estimates, indent=1) + "\n", "utf-8")


def stored(found: dict) -> dict[str, int]:
    """Return an estimate as it is stored, in whole LUTs, FFs and so on."""
    return {name: round(found[name]) for name in (*RESOURCES, "cycles")}


def rows(design: dict, found: dict, ratios: dict):
    """Yield the lines of one design."""
    true = design["synthesized"] | {"cycles": design["measured"]["interval_cycles"]}
    finn = design["finn_estimate"] | {"cycles": design["finn_estimate"]["max_cycles"]}
    for name in (*RESOURCES, "cycles"):
        shown = []
        for who, value in (("nash-hw", found[name]), ("FINN", finn.get(name))):
            if value is not None and true[name]:
                ratios[name, who].append(value / true[name])
            shown.append("" if value is None or not true[name] else f"{value / true[name]:.2f}")
        row = f"{design['name']:18}{name:10}{found[name]:10,.0f}{true[name]:12,}{shown[0]:>7}"
        yield row + ("" if name not in finn else f"{finn[name]:9,}{shown[1]:>7}")


def kinds(layers, streams):
    """Yield the sums over each kind of layer and stream."""
    sums = defaultdict(lambda: dict.fromkeys(RESOURCES, 0.0))
    counts = defaultdict(int)
    of_layers = [(layer.op_type, layer.figures) for layer in layers]
    for kind, figures in [*of_layers, *((part.kind, part.figures) for part in streams)]:
        counts[kind] += 1
        for name in RESOURCES:
            sums[kind][name] += figures.resources[name] or 0.0
    for kind, values in sums.items():
        yield f"  {kind:32}{counts[kind]:4}" + "".join(f"{values[name]:11,.0f}" for name in RESOURCES)


if __name__ == "__main__":
    main()
