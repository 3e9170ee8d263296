"""Gains at equal width and at equal cost, for people and machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from .configurations import Configuration, Spread
from .equal_cost import AXES, EqualCost, Gains
from .figures import BY_KEY, FIGURES, NOT_KNOWN, OF_BOUNDS, OF_TEST

PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
GAINS_LEGEND = (
    "Top-1 of the NASH network over the baseline of the same width, and over the baseline widened to the same figure: "
    "its top-1 interpolated linearly between two measured widths, never extrapolated. "
    f"{PLUS_MINUS}: the standard deviation over seeds of such a difference, where both sides have several."
)
_WHY_NOT = {
    "outside": "outside the measured range",
    "constant": "the same at every width",
    "one_width": "one width only",
    "unknown": NOT_KNOWN,
}


def spread_text(key: str, spread: Spread | None, *, is_lower_bound: bool = False) -> str:
    """Return a mean to read, with its standard deviation where there is one."""
    figure = BY_KEY[key]
    if spread is None:
        return NOT_KNOWN
    text = figure.text(spread.mean, is_lower_bound=is_lower_bound)
    return text if spread.std is None else f"{text} {PLUS_MINUS} {figure.text(spread.std)}"


def label_text(found: Gains) -> str:
    """Return a configuration's label, marked where an accuracy in its gains is one that its network was chosen by."""
    return f"{found.candidate.label} {OF_TEST}" if found.is_of_selected else found.candidate.label


def gain_text(gain: float | None, std: float | None) -> str:
    """Return a difference of top-1 to read, with its spread where there is one."""
    if gain is None:
        return NOT_KNOWN
    text = f"{gain:+.2f} pp".replace("-", "\N{MINUS SIGN}")
    return text if std is None else f"{text} {PLUS_MINUS} {std:.2f}"


def equal_cost_text(found: EqualCost) -> str:
    """Return a gain at equal cost to read, or why there is none."""
    if found.status != "interpolated":
        return _WHY_NOT[found.status]
    return gain_text(found.gain, found.std) + (f" {OF_BOUNDS}" if found.is_of_bounds else "")


def between_text(found: EqualCost) -> str:
    """Return which widths the rival lies between, and its top-1; empty if there is no rival."""
    if found.rival is None:
        return ""
    low, high = found.rival.widths
    widths = f"width {low}" if low == high else f"widths {low} to {high}"
    return f"over {found.rival.top1:.2f} % at {BY_KEY[found.axis].text(found.cost)}, {widths}"


def shown_axes(gains: Sequence[Gains]) -> list[str]:
    """Return the axes along which at least one network has something to say."""
    silent = ("constant", "unknown")
    return [
        axis
        for index, axis in enumerate(AXES)
        if any(found.at_equal_cost[index].status not in silent for found in gains)
    ]


def gains_table(gains: Sequence[Gains]) -> tuple[list[str], list[list[str]]]:
    """Return heads and cells: a line a NASH configuration."""
    axes = shown_axes(gains)
    heads = ["NASH configuration", "seeds", "top-1 (%)", "equal width", *(f"equal {BY_KEY[a].label}" for a in axes)]
    cells = []
    for found in gains:
        along = {one.axis: equal_cost_text(one) for one in found.at_equal_cost}
        top1 = spread_text("top1", found.top1)
        at_width = gain_text(found.gain, found.std)
        cells.append([label_text(found), str(found.top1.num_seeds), top1, at_width, *(along[axis] for axis in axes)])
    return heads, cells


def gains_lines(gains: Sequence[Gains]) -> list[str]:
    """Return a line for each NASH configuration."""
    lines = []
    for found in gains:
        along = [f"at equal {BY_KEY[one.axis].label} {equal_cost_text(one)}" for one in found.at_equal_cost
                 if one.axis in shown_axes(gains)]  # fmt: skip
        at_width = f"at equal width {gain_text(found.gain, found.std)}"
        lines.append(f"{label_text(found)} ({_seeds(found.top1.num_seeds)}): {', '.join([at_width, *along])}")
    return lines


def _seeds(count: int) -> str:
    return f"{count} seed" if count == 1 else f"{count} seeds"


def configuration_json(found: Configuration) -> dict[str, Any]:
    """Return mean and spread of every figure for a machine."""
    identity, hardware = found.first.identity, found.first.hardware
    return {
        "label": found.label,
        "is_baseline": found.is_baseline,
        "backbone": identity.backbone,
        "variant": identity.variant,
        "width": identity.width,
        "preset": identity.preset,
        "board": hardware and hardware.board,
        "origin": hardware and hardware.origin,
        "seeds": list(found.seeds),
        "figures": {
            figure.key: None if (spread := found.spread(figure.key)) is None else asdict(spread) for figure in FIGURES
        },
        "lower_bounds": [figure.key for figure in FIGURES if found.is_lower_bound(figure.key)],
    }


def gains_json(found: Gains) -> dict[str, Any]:
    """Return the gains of a configuration for a machine."""
    return {
        "configuration": found.candidate.label,
        "num_seeds": found.top1.num_seeds,
        "is_of_selected": found.is_of_selected,
        "equal_width": {
            "baseline": found.baseline and found.baseline.label,
            "gain": found.gain,
            "std": found.std,
        },
        "equal_cost": {one.axis: asdict(one) for one in found.at_equal_cost},
    }
