"""Compare configurations that come in several seeds: means, their spread, and the spread of their difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..records.figures import BY_KEY, COMPARED, NOT_KNOWN, OF_BOUNDS, OF_TEST
from ..records.record import Record
from .configurations import Configuration, Spread, configurations, std_of_difference
from .gains_text import PLUS_MINUS, spread_text


def seeds_json(baselines: Sequence[Record], candidates: Sequence[Record]) -> list[dict[str, Any]]:
    """Return each configuration of the candidates over the baseline, if one of the two comes in several seeds."""
    known = configurations(baselines)
    if len(known) != 1:
        return []
    found = configurations(candidates)
    if len(baselines) == 1 and all(len(one.records) == 1 for one in found):
        return []
    return [_difference_json(known[0], one) for one in found]


def _difference_json(baseline: Configuration, candidate: Configuration) -> dict[str, Any]:
    return {
        "baseline": baseline.label,
        "candidate": candidate.label,
        "baseline_seeds": list(baseline.seeds),
        "candidate_seeds": list(candidate.seeds),
        "figures": {key: _figure_json(baseline, candidate, key) for key in COMPARED},
    }


def _figure_json(baseline: Configuration, candidate: Configuration, key: str) -> dict[str, Any]:
    before, after = baseline.spread(key), candidate.spread(key)
    is_known = before is not None and after is not None
    return {
        "baseline": before and asdict(before),
        "candidate": after and asdict(after),
        "delta": after.mean - before.mean if is_known else None,
        "delta_std": std_of_difference(before.std, after.std) if is_known else None,
        "is_baseline_bound": baseline.is_lower_bound(key),
        "is_candidate_bound": candidate.is_lower_bound(key),
        "is_baseline_selected": baseline.is_selected(key),
        "is_candidate_selected": candidate.is_selected(key),
    }


def seeds_table(found: dict[str, Any]) -> Any:
    """Return a rich table of one configuration over the baseline, figures downwards."""
    from rich.table import Table

    table = Table(title=f"mean {PLUS_MINUS} standard deviation over seeds", title_justify="left", title_style="")
    table.add_column("figure")
    table.add_column(f"{found['baseline']}\n(baseline, {_of_seeds(found['baseline_seeds'])})", justify="right")
    table.add_column(f"{found['candidate']}\n({_of_seeds(found['candidate_seeds'])})", justify="right")
    table.add_column("difference", justify="right")
    for key, values in found["figures"].items():
        figure = BY_KEY[key]
        unit = f" [{figure.unit}]".replace("[", r"\[") if figure.unit else ""
        cells = [_side_text(key, values, side) for side in ("baseline", "candidate")]
        table.add_row(figure.label + unit, *cells, _delta_text(key, values))
    return table


def _side_text(key: str, values: dict[str, Any], side: str) -> str:
    text = spread_text(key, values[side] and Spread(**values[side]), is_lower_bound=values[f"is_{side}_bound"])
    return f"{text}{OF_TEST}" if values[f"is_{side}_selected"] else text


def _of_seeds(seeds: Sequence[int | None]) -> str:
    return f"seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else f"seed {seeds[0]}"


def _delta_text(key: str, values: dict[str, Any]) -> str:
    figure = BY_KEY[key]
    if values["delta"] is None:
        return NOT_KNOWN
    text = figure.delta_text(values["delta"]) + (" pp" if figure.is_percentage else "")
    if values["delta_std"] is not None:
        text = f"{text} {PLUS_MINUS} {figure.text(values['delta_std'])}"
    return f"{text} {OF_BOUNDS}" if values["is_baseline_bound"] or values["is_candidate_bound"] else text
