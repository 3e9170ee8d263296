"""The self-contained HTML page: everything it shows is in it, drawn here as SVG, and readable without scripts."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..compare.comparison import interval_text, marks_of, p_text, side_text
from ..compare.equal_cost import Gains, gains_of
from ..compare.families import AXES, Dominated, Pair, dominated, fronts_of, pairs_of, panels
from ..compare.gains_text import (
    GAINS_LEGEND,
    between_text,
    bounds_text,
    equal_cost_text,
    gain_text,
    label_text,
    shown_axes,
    spread_text,
    verdict_text,
    verdict_value,
)
from ..compare.headline import Verdict, verdicts
from ..records.collect import Collection, Row
from ..records.figures import BOUNDS_LEGEND, BY_KEY, OF_BOUNDS, Delta, legends
from ..records.record import nas_operations
from ..stats.paired import PairedDifference
from ..stats.uncertainty import Interval
from .cells import OPERATION_LABELS, draw_cells
from .chart import STYLES, Style, make_plot, style_of
from .chart_view import MARKER_RADIUS, chart_view, marker_path, published_charts

TABLE_FIGURES = ("top1", "top5", "LUT", "BRAM_18K", "URAM", "DSP", "throughput_fps", "latency_us", "cpu_fps")


def render_page(collection: Collection, published: dict[str, Any], *, version: str, title: str, place: Path) -> str:
    """Return the page of a collection; `published` are reference results, shown apart.

    Its links to manifests are relative to `place`, the folder that the page is to lie in.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("nash_bench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates = resources.files(__package__).joinpath("templates")
    rows = _row_views(collection.rows, place)
    ids = {id(view["row"]): view["id"] for view in rows}
    pairs, gains = pairs_of(collection), gains_of(collection)
    notes = legends([row.record for row in collection.rows])
    networks, drawn = _networks(collection.rows)
    return environment.get_template("page.html.j2").render(
        title=title,
        version=version,
        css=Markup(templates.joinpath("page.css").read_text("utf-8")),
        js=Markup(templates.joinpath("page.js").read_text("utf-8")),
        styles=_styles_used(collection.rows),
        all_styles=list(STYLES.values()),
        markers={style.key: marker_path(style, (8, 8), MARKER_RADIUS) for style in STYLES.values()},
        labels={figure.key: figure.label for figure in BY_KEY.values()},
        operation_labels=OPERATION_LABELS,
        rows=rows,
        networks=networks,
        drawn=drawn,
        figures=[BY_KEY[key] for key in TABLE_FIGURES],
        panels=[_panel_view(key, members, ids) for key, members in panels(collection.rows).items()],
        pairs=[_pair_view(pair, ids) for pair in pairs],
        pair_figures=[BY_KEY[delta.key] for delta in pairs[0].deltas] if pairs else [],
        gains=[_gain_view(found, shown_axes(gains)) for found in gains],
        gain_axes=[BY_KEY[axis].label for axis in shown_axes(gains)],
        gains_legend=GAINS_LEGEND,
        cards=[*map(_verdict_card, verdicts(gains)), *_cards(collection.rows)],
        not_counted=_not_counted(collection.rows),
        legend=" ".join(notes),
        has_bounds=BOUNDS_LEGEND in notes,
        published=published["points"],
        published_charts=published_charts(published["points"]),
        warnings=collection.warnings,
        errors=[str(error) for error in collection.errors],
    )


def _row_views(rows: Sequence[Row], place: Path) -> list[dict[str, Any]]:
    fronts = fronts_of(rows)
    return [
        _row_view(index, row, axes) | {"links": _links(row, place)}
        for index, (row, axes) in enumerate(zip(rows, fronts, strict=True))
    ]


def _links(row: Row, place: Path) -> list[tuple[str, str]]:
    """Return the name and the relative address of each manifest that a row stands on."""
    folder = place.resolve()
    return [(path.stem, quote(Path(os.path.relpath(path, folder)).as_posix())) for path in row.manifests]


def _networks(rows: Sequence[Row]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return each genotype once, with the networks that were made of it, and where each network (by hash) is drawn.

    The first with NAS operations is unfolded.
    """
    found: dict[str, dict[str, Any]] = {}
    drawn: dict[str, str] = {}
    for row in rows:
        if row.genotype is None:
            continue
        key = json.dumps([row.genotype[part] for part in ("name", "cells")], sort_keys=True)
        if key not in found:
            operations = nas_operations(row.genotype)
            found[key] = {
                "id": f"n{len(found)}",
                "name": row.genotype["name"],
                "members": [],
                "style": style_of(row.record),
                "operations": operations,
                "is_open": bool(operations) and not any(view["is_open"] for view in found.values()),
                "cells": draw_cells(row.genotype),
            }
        drawn[row.record.identity.model_sha256] = found[key]["id"]
        if row.label not in found[key]["members"]:
            found[key]["members"].append(row.label)
    return list(found.values()), drawn


def _not_counted(rows: Sequence[Row]) -> list[str]:
    parts = [part for row in rows if row.record.hardware for part in row.record.hardware.not_counted]
    return list(dict.fromkeys(parts))


def _styles_used(rows: Sequence[Row]) -> list[Style]:
    used = {style_of(row.record).key for row in rows}
    return [style for style in STYLES.values() if style.key in used]


def _row_view(index: int, row: Row, axes: tuple[str, ...]) -> dict[str, Any]:
    identity, hardware, accuracy = row.record.identity, row.record.hardware, row.record.accuracy
    return {
        "id": f"r{index}",
        "row": row,
        "label": row.label,
        "identity": identity,
        "style": style_of(row.record),
        "marker": marker_path(style_of(row.record), (8, 8), MARKER_RADIUS),
        "cells": [
            (BY_KEY[key], BY_KEY[key].value(row.record), BY_KEY[key].text_of(row.record)) for key in TABLE_FIGURES
        ],
        "utilization": _utilization(row),
        "hardware": hardware,
        "accuracy": accuracy,
        "front": axes,
    }


def _utilization(row: Row) -> dict[str, float | None]:
    hardware = row.record.hardware
    return dict(hardware.utilization or {}) if hardware is not None else {}


def _panel_view(key: tuple[Any, ...], members: list[Row], ids: dict[int, str]) -> dict[str, Any]:
    dataset, split, num_samples, board, origin = key
    plots = [make_plot(members, axis) for axis in AXES]
    return {
        "dataset": dataset,
        "split": split,
        "num_samples": num_samples,
        "board": board,
        "origin": origin,
        "charts": [
            chart_view(plot, ids) | {"dominated": _dominated_text(dominated(members, plot.axis))}
            for plot in plots
            if plot is not None
        ],
        "styles": _styles_used(members),
        "has_both": {"baseline", "nash"} <= {row.record.identity.kind for row in members},
        "has_nash": any(row.record.identity.kind == "nash" for row in members),
    }


def _dominated_text(found: Dominated | None) -> str | None:
    """Return what NASH adds to the volume that the baselines dominate."""
    if found is None or found.added is None:
        return None
    return f"NASH adds {100 * found.added:.2g} % to the hypervolume of the baselines" + (
        f" {OF_BOUNDS}" if found.is_of_bounds else ""
    )


@dataclass(frozen=True, kw_only=True)
class _DeltaCell:
    text: str
    detail: str
    tone: str
    sort: float | None
    intervals: tuple[str, ...]


def _pair_view(pair: Pair, ids: dict[int, str]) -> dict[str, Any]:
    identity, hardware = pair.candidate.record.identity, pair.candidate.record.hardware
    return {
        "candidate": pair.candidate.label,
        "baseline": pair.baseline.label,
        "row": ids[id(pair.candidate)],
        "style": style_of(pair.candidate.record),
        "marker": marker_path(style_of(pair.candidate.record), (8, 8), MARKER_RADIUS),
        "terms": ", ".join(
            filter(None, (identity.preset or identity.bits, f"width {identity.width}", hardware and hardware.board))
        ),
        "cells": [_delta_cell(delta, pair.paired.get(delta.key)) for delta in pair.deltas],
    }


def _delta_cell(delta: Delta, paired: PairedDifference | None) -> _DeltaCell:
    figure = BY_KEY[delta.key]
    intervals = _interval_lines(paired) if figure.is_percentage else ()
    tone = {True: "better", False: "worse", None: "same"}[delta.is_better]
    if paired is not None and paired.low <= 0 <= paired.high:
        tone = "same"  # it may be chance
    if delta.difference is None:
        return _DeltaCell(text="n/a", detail="", tone="unknown", sort=None, intervals=())
    detail = f"{side_text(delta, 'baseline')} \N{RIGHTWARDS ARROW} {side_text(delta, 'candidate')}"
    mark = "".join(f" {mark}" for mark in marks_of(delta))
    if delta.relative is not None:
        text = f"{delta.relative:+.1%}".replace("-", "\N{MINUS SIGN}")
        return _DeltaCell(text=text + mark, detail=detail, tone=tone, sort=delta.relative, intervals=intervals)
    text = figure.delta_text(delta.difference) + mark
    return _DeltaCell(text=text, detail=detail, tone=tone, sort=delta.difference, intervals=intervals)


def _interval_lines(paired: PairedDifference | None) -> tuple[str, ...]:
    if paired is None:
        return ("95 %: n/a",)
    return f"95 %: {interval_text(paired)}", f"p = {p_text(paired)}".replace("= <", "<")


def _gain_view(found: Gains, axes: Sequence[str]) -> dict[str, Any]:
    style = style_of(found.candidate.first)
    hardware, baseline = found.candidate.first.hardware, found.baseline and found.baseline.spread("top1")
    built = "" if hardware is None else f"; {hardware.board}, {hardware.origin}"
    over = baseline and f"over {spread_text('top1', baseline)} %"
    cells = [_gain_cell(gain_text(found.gain), found.gain, found.interval, over)]
    cells += [
        _gain_cell(
            equal_cost_text(one, with_interval=False), one.gain, one.interval, between_text(one), one.is_of_bounds
        )
        for one in found.at_equal_cost
        if one.axis in axes
    ]
    return {
        "label": label_text(found),
        "style": style,
        "marker": marker_path(style, (8, 8), MARKER_RADIUS),
        "terms": f"seeds {', '.join(map(str, found.candidate.seeds))}{built}",
        "top1": spread_text("top1", found.top1),
        "mean": found.top1.mean,
        "cells": cells,
    }


def _gain_cell(
    text: str, gain: float | None, found: Interval | None, detail: str | None, is_of_bounds: bool = False
) -> dict[str, Any]:
    """Return a gain as the page shows it; only one that seeds and pictures bear out is better or worse."""
    tone = "same"
    if found is not None and not found.is_of_pictures_alone and not is_of_bounds:
        tone = "better" if found.low > 0 else "worse" if found.high < 0 else "same"
    bounds = None if found is None or gain is None else bounds_text(found)
    return {"text": text, "sort": gain, "bounds": bounds, "detail": detail, "tone": tone}


def _verdict_card(found: Verdict) -> dict[str, str]:
    """Return the card that says who wins, the first on the page."""
    return {
        "title": "At equal use of the scarcest resource",
        "value": verdict_value(found),
        "text": verdict_text(found),
        "kind": f"verdict {found.outcome}",
    }


def _cards(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Return the few other figures that stand on top of the page."""
    count = Counter(row.record.identity.kind for row in rows)
    text = f"{count['nash']} NASH, {count['baseline']} baseline"
    text += f", {count['random']} random" if count["random"] else ""
    cards = [{"title": "Networks", "value": str(len(rows)), "text": text, "kind": ""}]
    keys = {row.record.accuracy.key for row in rows if row.record.accuracy is not None}
    if len(keys) == 1:  # accuracies of several datasets have no best one
        best = max((row for row in rows if row.record.accuracy), key=lambda row: row.record.accuracy.top1)
        value = f"{BY_KEY['top1'].text_of(best.record)} %"
        cards.append({"title": "Best top-1", "value": value, "text": best.label, "kind": ""})
    return cards
