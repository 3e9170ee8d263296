"""Gains at equal width and at equal cost, for people and machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..records.figures import BY_KEY, FIGURES, NOT_KNOWN, OF_BOUNDS, OF_TEST
from ..stats.uncertainty import CONFIDENCE, Interval
from .configurations import Configuration, Spread
from .equal_cost import AXES, SCARCEST, EqualCost, Gains
from .headline import Verdict

PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
DEARER_MARK = "\N{SECTION SIGN}"
MINUS = "\N{MINUS SIGN}"
GAINS_LEGEND = (
    "Top-1 of the NASH network over the baseline of the same width, and over the baseline widened to the same figure: "
    "its top-1 interpolated linearly between two measured widths, never extrapolated; over the best baseline where "
    f"NASH takes more than all of them ({DEARER_MARK}). In brackets the 95 % interval over training seeds and pictures "
    "together, with one seed over the pictures alone. The scarcest resource is the one of which a network takes the "
    "largest share of the board."
)
_WHY_NOT = {
    "outside": "cheaper than every baseline",
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


def gain_text(gain: float | None, found: Interval | None = None) -> str:
    """Return a difference of top-1 to read, with its interval if there is one."""
    if gain is None:
        return NOT_KNOWN
    text = f"{gain:+.2f} pp".replace("-", MINUS)
    return text if found is None else f"{text} ({bounds_text(found)})"


def bounds_text(found: Interval) -> str:
    """Return the bounds of an interval to read."""
    return f"{found.low:+.2f} to {found.high:+.2f}".replace("-", MINUS)


def equal_cost_text(found: EqualCost, *, with_interval: bool = True) -> str:
    """Return a gain at equal cost to read, or why there is none."""
    if found.gain is None:
        return _WHY_NOT[found.status]
    marks = [DEARER_MARK] if found.status == "dearer" else []
    text = gain_text(found.gain, found.interval if with_interval else None)
    return " ".join([text, *marks, *([OF_BOUNDS] if found.is_of_bounds else [])])


def verdict_value(found: Verdict) -> str:
    """Return who wins in a few words."""
    points = f"{abs(found.gain.value):.2f} points"
    if found.outcome in ("wins", "loses"):
        return f"NASH {found.outcome} by {points}"
    if found.outcome == "draws":
        return f"A draw: NASH {found.gain.value:+.2f} points".replace("-", MINUS)
    return f"Open: NASH {'ahead' if found.gain.value > 0 else 'behind'} by {points}"


def verdict_text(found: Verdict) -> str:
    """Return what a verdict is of, its interval, and why it is open."""
    over = "pictures alone" if found.gain.is_of_pictures_alone else "seeds and pictures"
    bounds = f"95 % over {over}: {bounds_text(found.gain)}"
    count = found.num_configurations
    members = "one NASH configuration" if count == 1 else f"mean of {count} NASH configurations"
    without = f", {found.num_without} more without a rival" if found.num_without else ""
    parts = [bounds, members + without, f"{found.dataset} / {found.split}, {found.board}, {found.origin}"]
    if found.over_random is not None:
        parts.append(f"{gain_text(found.over_random.value, found.over_random)} over random networks of the same cost")
    return "; ".join(parts + ([found.why] if found.why else []))


def verdict_line(found: Verdict) -> str:
    """Return a verdict on one line."""
    return f"{verdict_value(found)} at equal use of the scarcest resource ({verdict_text(found)})"


def between_text(found: EqualCost) -> str:
    """Return which widths the rival lies between, and its top-1; empty if there is no rival."""
    if found.rival is None:
        return ""
    low, high = found.rival.widths
    widths = f"width {low}" if low == high else f"widths {low} to {high}"
    cost = BY_KEY[found.axis].text(found.cost)
    if found.status == "dearer":
        return f"over {found.rival.top1:.2f} %, {widths}, that takes less than {cost}"
    return f"over {found.rival.top1:.2f} % at {cost}, {widths}"


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
        at_width = gain_text(found.gain, found.interval)
        cells.append([label_text(found), str(found.top1.num_seeds), top1, at_width, *(along[axis] for axis in axes)])
    return heads, cells


def gains_lines(gains: Sequence[Gains]) -> list[str]:
    """Return a line for each NASH configuration."""
    lines = []
    for found in gains:
        along = [f"at equal {BY_KEY[one.axis].label} {equal_cost_text(one)}" for one in found.at_equal_cost
                 if one.axis in shown_axes(gains)]  # fmt: skip
        at_width = f"at equal width {gain_text(found.gain, found.interval)}"
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
        "kind": found.kind,
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
            "interval": _interval_json(found.interval),
        },
        "equal_cost": {one.axis: _equal_cost_json(one) for one in found.at_equal_cost},
    }


def _equal_cost_json(found: EqualCost) -> dict[str, Any]:
    rival = found.rival
    return {
        "axis": found.axis,
        "status": found.status,
        "cost": found.cost,
        "rival": rival and {"top1": rival.top1, "std": rival.std, "widths": rival.widths},
        "gain": found.gain,
        "std": found.std,
        "interval": _interval_json(found.interval),
        "is_of_bounds": found.is_of_bounds,
    }


def _interval_json(found: Interval | None) -> dict[str, Any] | None:
    return found and {
        "low": found.low,
        "high": found.high,
        "confidence": CONFIDENCE,
        "is_of_pictures_alone": found.is_of_pictures_alone,
    }


def verdict_json(found: Verdict) -> dict[str, Any]:
    """Return a verdict for a machine."""
    return {
        "outcome": found.outcome,
        "axis": SCARCEST,
        "gain": found.gain.value,
        "interval": _interval_json(found.gain),
        "why": found.why,
        "num_configurations": found.num_configurations,
        "num_without_rival": found.num_without,
        "over_random": found.over_random
        and {"gain": found.over_random.value, "interval": _interval_json(found.over_random)},
        "dataset": found.dataset,
        "split": found.split,
        "board": found.board,
        "origin": found.origin,
    }
