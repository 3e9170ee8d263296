"""A search for each of several cost weights: genotypes along the trade-off between accuracy and cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..base.errors import UsageError
from ..genotype import genotype
from . import search
from .settings import Settings


def parse_weights(text: str) -> list[float]:
    """Return the weights of `0,0.1,1`.

    Raises:
        UsageError: one is not a number from 0 on, or stands there twice.

    >>> parse_weights("0,0.1")
    [0.0, 0.1]
    """
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError:
        weights = []
    if not weights or len(set(weights)) < len(weights) or not all(0 <= weight < float("inf") for weight in weights):
        raise UsageError(f"--sweep-cost: got '{text}', expected different numbers from 0 on; write 0,0.1,1")
    return weights


def run(settings: Settings, weights: Sequence[float], out: Path, **options: Any) -> list[dict[str, Any]]:
    """Search once a weight, each in a folder of its own, and return what each came to.

    All searches begin alike (one seed) and share nothing after that; a finished one is not searched again on resuming.
    """
    found = []
    for weight in weights:
        price = replace(settings.price, weight=weight)
        path = search.run(replace(settings, price=price), out / f"cost-{weight:g}", **options)
        result = genotype.load(path).search
        found.append(
            {
                "weight": weight,
                "genotype": str(path),
                "accuracy": result["accuracy"],
                "expected_cost": result["costs"]["expected_cost"],
                "costs": result["costs"]["genotype"],
            }
        )
    return found


def table(found: Sequence[dict[str, Any]]) -> str:
    """Return the sweep as a table."""
    lines = ["weight  accuracy  expected cost      LUT  BRAM_18K  URAM   DSP  genotype"]
    for entry in found:
        costs = entry["costs"]
        lines.append(
            f"{entry['weight']:<6g}  {entry['accuracy']:6.1f} %  {entry['expected_cost']:13.3f}  {costs['lut']:7,.0f}  "
            f"{costs['bram']:8,.0f}  {costs['uram']:4,.0f}  {costs['dsp']:4,.0f}  {entry['genotype']}"
        )
    return "\n".join(lines)
