"""How far synthesis may be from an estimate: the widest that published designs show.

For each resource the least and the most of synthesized / estimated over the designs of tests/data/synthesized.json (11
designs of 7 networks on a Zynq UltraScale+, Vivado 2024.2), their shell taken off. Nothing is known of UltraRAM.
"""

from __future__ import annotations

from collections.abc import Mapping

SOURCE = "11 designs that FINN+ published for RFSoC2x2 (Vivado 2024.2), each as synthesized / estimated"
RATIOS: dict[str, tuple[float, float] | None] = {
    "LUT": (0.75, 1.35),
    "FF": (0.80, 2.30),
    "BRAM_18K": (0.90, 2.35),
    "URAM": None,
    "DSP": (1.00, 1.02),
}


def interval(resources: Mapping[str, float | None]) -> dict[str, list[float] | None]:
    """Return the lowest and highest figure of each resource that the comparison supports; None where it has none."""
    found: dict[str, list[float] | None] = {}
    for name, ratios in RATIOS.items():
        used = resources[name]
        known = ratios is not None and used is not None
        found[name] = [float(round(used * ratio)) for ratio in ratios] if known else None
    return found
