"""Plots in drawing coordinates, as the page draws them: ticks, fronts, markers, tooltips and labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..records.collect import Row
from ..records.figures import BY_KEY, NOT_KNOWN
from ..stats.uncertainty import of_pictures
from .chart import (
    MAX_POINTS_LABELLED,
    STYLES,
    Plot,
    Point,
    Scale,
    Style,
    place_labels,
    scale_of,
    short_labels,
    style_of,
    tick_text,
)

MARKER_RADIUS = 5.6
_CHART = (520.0, 340.0)  # the drawing's size in its own units
_FRAME = (54.0, 12.0, 508.0, 292.0)  # left, top, right, bottom of the plotted area
_FEWEST_PUBLISHED = 3  # of a data set that is worth a plot


class _Drawing:
    """The place of every point of a plot, and what all plots have."""

    def __init__(self, x: Scale, y: Scale) -> None:
        self._x, self._y = x, y

    def place(self, x: float, y: float) -> Point:
        """Return where a point of the axes lies."""
        left, top, right, bottom = _FRAME
        return round(left + self._x(x) * (right - left), 1), round(bottom - self._y(y) * (bottom - top), 1)

    def view(self, title: str, points: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """Return what the template draws."""
        left, top, right, bottom = _FRAME
        return {
            "title": title,
            "size": _CHART,
            "frame": {"left": left, "top": top, "right": right, "bottom": bottom},
            "x_ticks": [(self.place(tick, self._y.low)[0], tick_text(tick)) for tick in self._x.ticks],
            "y_ticks": [(self.place(self._x.low, tick)[1], tick_text(tick)) for tick in self._y.ticks],
            "points": points,
            "fronts": {},
            "num_left_out": 0,
        } | more

    def corners(
        self, anchors: Sequence[Point], texts: Sequence[str], lines: Sequence[Sequence[Point]] = ()
    ) -> list[Point | None]:
        """Return where the label of each point stands, None where there is no room."""
        if len(anchors) > MAX_POINTS_LABELLED:
            return [None] * len(anchors)
        left, top, right, bottom = _FRAME
        shifted = [(x - left, y - top) for x, y in anchors]
        clear = [[(x - left, y - top) for x, y in line] for line in lines]
        found = place_labels(shifted, texts, char_width=7.4, height=13, box=(right - left, bottom - top), lines=clear)
        return [
            None if corner is None or not text else (round(corner[0] + left, 1), round(corner[1] + top, 1))
            for corner, text in zip(found, texts, strict=True)
        ]


def chart_view(plot: Plot, ids: dict[int, str]) -> dict[str, Any]:
    """Return a plot of networks; a whisker at each point is the 95 % interval of its top-1 over the pictures."""
    drawing = _Drawing(plot.x, plot.y)
    rows = [row for row, _, _ in plot.known]
    anchors = [drawing.place(x, y) for _, x, y in plot.known]
    fronts = {kind: [drawing.place(x, y) for x, y in line] for kind, line in plot.fronts.items()}
    texts = _once([style_of(row.record).key for row in rows], short_labels(rows))
    corners = drawing.corners(anchors, texts, list(fronts.values()))
    points = [
        {
            "row": ids[id(row)],
            "style": style_of(row.record),
            "path": marker_path(style_of(row.record), anchor, MARKER_RADIUS),
            "whisker": _whisker(row, x, plot.y, drawing),
            "tooltip": json.dumps(_tooltip(row), ensure_ascii=False),
            "name": f"{row.label}: top-1 {y:.2f} %, {plot.title} {BY_KEY[plot.axis].text_of(row.record)}",
            "text": text if corner else None,
            "corner": corner,
        }
        for (row, x, y), anchor, text, corner in zip(plot.known, anchors, texts, corners, strict=True)
    ]
    lines = {kind: "M" + "L".join(f"{x} {y}" for x, y in line) for kind, line in fronts.items()}
    return drawing.view(plot.title, points, axis=plot.axis, fronts=lines, num_left_out=plot.num_left_out)


def _once(kinds: Sequence[str], texts: Sequence[str]) -> list[str]:
    """Return the labels with those emptied that another point of the same kind has already: seeds share one."""
    pairs = list(zip(kinds, texts, strict=True))
    return [text if pairs.index((kind, text)) == index else "" for index, (kind, text) in enumerate(pairs)]


def _whisker(row: Row, x: float, y: Scale, drawing: _Drawing) -> tuple[float, float, float] | None:
    """Return where a whisker stands, its lower and its upper end, within the plot."""
    accuracy = row.record.accuracy
    if accuracy is None:
        return None
    low, high = of_pictures(accuracy.top1, accuracy.num_samples)
    (at, bottom), (_, top) = drawing.place(x, max(low, y.low)), drawing.place(x, min(high, y.high))
    return at, bottom, top


def published_charts(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a plot of top-1 over frame rate for each data set of which enough was published."""
    known: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for index, point in enumerate(points):
        if {"dataset", "top1", "throughput_fps"} <= point.keys():
            known.setdefault(point["dataset"], []).append((index, point))
    return [_published(name, found) for name, found in known.items() if len(found) >= _FEWEST_PUBLISHED]


def _published(dataset: str, found: Sequence[tuple[int, Mapping[str, Any]]]) -> dict[str, Any]:
    rates, accuracies = [[point[key] for _, point in found] for key in ("throughput_fps", "top1")]
    drawing = _Drawing(scale_of(rates, may_be_log=True), scale_of(accuracies, may_be_log=False, at_most=100))
    anchors = [drawing.place(x, y) for x, y in zip(rates, accuracies, strict=True)]
    texts = [point["name"].partition(" (")[0] for _, point in found]
    corners = drawing.corners(anchors, texts)
    style = STYLES["published"]
    views = []
    for (index, point), anchor, text, corner in zip(found, anchors, texts, corners, strict=True):
        said = [(key, point.get(key)) for key in ("board", "top1", "throughput_fps", "LUT", "DSP", "source")]
        lines = [(key, f"{value:,}" if isinstance(value, int) else str(value)) for key, value in said if value]
        tooltip = {"title": point["name"], "kind": point.get("origin", style.label), "lines": lines}
        views.append(
            {
                "row": f"p{index}",
                "style": style,
                "path": marker_path(style, anchor, MARKER_RADIUS),
                "whisker": None,
                "tooltip": json.dumps(tooltip, ensure_ascii=False),
                "name": f"{point['name']}: top-1 {point['top1']} %, {point['throughput_fps']:,} fps",
                "text": text if corner else None,
                "corner": corner,
            }
        )
    return drawing.view("Throughput (fps)", views, dataset=dataset)


def marker_path(style: Style, center: Point, radius: float) -> str:
    """Return the outline of a network's marker as SVG path data."""
    x, y = center
    if not style.outline:
        return (
            f"M{x - radius:.1f} {y:.1f}a{radius} {radius} 0 1 0 {2 * radius} 0a{radius} {radius} 0 1 0 {-2 * radius} 0Z"
        )
    return "M" + "L".join(f"{x + dx * radius:.1f} {y + dy * radius:.1f}" for dx, dy in style.outline) + "Z"


def _tooltip(row: Row) -> dict[str, Any]:
    identity, hardware = row.record.identity, row.record.hardware
    lines = [("bits", identity.preset or identity.bits), ("width", identity.width)]
    for key in ("top1", "top5", "LUT", "BRAM_18K", "DSP", "throughput_fps", "latency_us"):
        figure = BY_KEY[key]
        if figure.value(row.record) is None:
            lines.append((figure.label, NOT_KNOWN))
            continue
        lines.append((figure.label, f"{figure.text_of(row.record)} {figure.unit}".strip()))
    if hardware is not None:
        lines.append(("board", f"{hardware.board}, {hardware.clock_mhz:g} MHz, {hardware.origin}"))
    known = [(name, str(value)) for name, value in lines if value is not None]
    return {"title": row.label, "kind": style_of(row.record).label, "lines": known}
