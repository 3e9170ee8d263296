"""When each layer of a simulated accelerator is busy, waits or stalls, as one self-contained SVG.

A row is a layer, in the order of the graph, from the first frame's first word to the end of the run; each column is as
tall in each colour as the part of its cycles spent so. Vertical lines are the ends of frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from itertools import pairwise

import numpy as np

from .describe import Simulated

_FONT = "font-family='system-ui,Segoe UI,Helvetica,Arial,sans-serif'"
_INK, _QUIET, _GRID, _ALARM = "#20262e", "#59636e", "#c9d0d8", "#b3261e"
_COLOURS = {"busy": "#3d7ea6", "waits": "#e9edf1", "stalls": "#f0b35a"}
_ACTIVITIES = ("busy", "waits", "stalls")  # in the kernel's order
_LABEL, _PLOT, _SHARES, _MARGIN, _TOP = 250, 860, 170, 24, 118
_ROW, _BAR = 16, 12
_MAX_COLUMNS = 430


def timeline(simulated: Simulated) -> str:
    """Return the drawing of the run with frames back to back; converters have no row."""
    rows = _rows(simulated)
    height = _TOP + _ROW * len(rows) + 2 * _MARGIN
    width = 2 * _MARGIN + _LABEL + _PLOT + _SHARES
    slowest = max(rows, key=lambda row: row[1][:, 0].sum() / max(row[1].sum(), 1))[0]
    parts = [*_head(simulated, slowest, width, height), *_frames(simulated, len(rows))]
    for number, (name, spent) in enumerate(rows):
        parts += _row(name, spent, _TOP + _ROW * number, is_slowest=name == slowest)
    return "\n".join([*parts, "</svg>\n"])


def _rows(simulated: Simulated) -> list[tuple[str, np.ndarray]]:
    """Return each layer's name and its cycles (columns, 3): busy, waits, stalls."""
    names = {node.name for node in simulated.design.model.graph.node}
    rows = []
    for layer, raw in zip(simulated.design.layers, simulated.main.raw["layers"], strict=True):
        if layer.name in names:
            spent = np.array(raw["timeline"], np.int64).reshape(-1, len(_ACTIVITIES))
            step = -(-len(spent) // _MAX_COLUMNS)
            rows.append((layer.name, np.add.reduceat(spent, np.arange(0, len(spent), step))))
    return rows


def _head(simulated: Simulated, slowest: str, width: int, height: int) -> Iterator[str]:
    design, main = simulated.design, simulated.main
    title = f"{design.name}: {len(design.model.graph.node)} layers simulated"
    yield (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' height='{height}' "
        f"{_FONT}>"
    )
    yield f"<title>{escape(title)}</title><rect width='100%' height='100%' fill='#fff'/>"
    yield _text(_MARGIN, 38, title, size=21, weight=700, fill=_INK)
    yield _text(
        _MARGIN,
        62,
        f"a frame every {main.interval:,.0f} cycles, the first after {main.latency:,}; {slowest} is the bottleneck",
    )
    x = _MARGIN
    words = {"busy": "busy", "waits": "waits for words", "stalls": "stalls: nobody takes its word"}
    for activity, text in words.items():
        yield f"<rect x='{x}' y='78' width='14' height='12' fill='{_COLOURS[activity]}' stroke='{_GRID}'/>"
        yield _text(x + 20, 88, text)
        x += 40 + 7 * len(text)
    yield _text(x, 88, "lines: a frame has left")
    yield _text(_MARGIN + _LABEL + _PLOT + 10, _TOP - 8, "busy / waits / stalls", size=11)


def _frames(simulated: Simulated, num_rows: int) -> Iterator[str]:
    cycles, bottom = simulated.main.raw["cycles"], _TOP + _ROW * num_rows
    ends = simulated.main.ends
    step = -(-len(ends) // 12)
    for number, end in enumerate(ends):
        x = _MARGIN + _LABEL + _PLOT * end / cycles
        yield f"<line x1='{x:.1f}' y1='{_TOP - 6}' x2='{x:.1f}' y2='{bottom}' stroke='{_QUIET}' stroke-width='0.7'/>"
        if number % step == 0:
            yield _text(x, bottom + 16, f"{end:,}", size=10, anchor="middle")
    yield _text(_MARGIN + _LABEL, bottom + 16, "cycle 0", size=10)


def _row(name: str, spent: np.ndarray, y: int, *, is_slowest: bool) -> Iterator[str]:
    colour = _ALARM if is_slowest else _INK
    yield _text(
        _MARGIN + _LABEL - 8, y + 10, name, size=10.5, fill=colour, anchor="end", weight=700 if is_slowest else 400
    )
    x = _MARGIN + _LABEL
    yield f"<rect x='{x}' y='{y}' width='{_PLOT}' height='{_BAR}' fill='{_COLOURS['waits']}'/>"
    totals = np.maximum(spent.sum(axis=1), 1)
    busy, stalls = (_BAR * spent[:, i] / totals for i in (0, 2))
    fill = _ALARM if is_slowest else _COLOURS["busy"]
    for heights, tops, paint in ((busy, _BAR - busy, fill), (stalls, 0 * stalls, _COLOURS["stalls"])):
        path = _columns(x, y, np.round(tops, 1), np.round(heights, 1))
        if path:
            yield f"<path d='{path}' fill='{paint}'/>"
    shares = spent.sum(axis=0) / max(spent.sum(), 1)
    yield _text(
        _MARGIN + _LABEL + _PLOT + 10, y + 10, " / ".join(f"{share:.0%}" for share in shares), size=10.5, fill=colour
    )


def _columns(x: float, y: float, tops: np.ndarray, heights: np.ndarray) -> str:
    """Return the path of bars beside each other; equal neighbours are one."""
    width = _PLOT / len(heights)
    starts = [0, *(np.flatnonzero((np.diff(heights) != 0) | (np.diff(tops) != 0)) + 1), len(heights)]
    parts = []
    for first, last in pairwise(starts):
        if heights[first] > 0:
            left, across = x + first * width, (last - first) * width
            parts.append(f"M{left:.1f} {y + tops[first]:.1f}h{across:.1f}v{heights[first]:.1f}h-{across:.1f}z")
    return "".join(parts)


def _text(
    x: float, y: float, text: str, *, size: float = 13, weight: int = 400, fill: str = _QUIET, anchor: str = "start"
) -> str:
    return (
        f"<text x='{x:g}' y='{y:g}' font-size='{size:g}' font-weight='{weight}' fill='{fill}' "
        f"text-anchor='{anchor}'>{escape(text)}</text>"
    )
