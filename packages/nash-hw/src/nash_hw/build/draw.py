"""The dataflow graph for the eye, as one self-contained SVG.

The picture flows downwards. A row is a distance from the input, a lane a chain of layers; the longest chain is the
first lane, and a stream that passes others by has a lane for itself, so no line goes through a box. A box is the
redder the nearer its cycles come to those of the slowest layer, which is framed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from ..base.quoting import visible
from ..boards.board import RESOURCES
from ..estimate.estimate import Estimate, Layer
from ..graph.model import Model

_BOX_WIDTH, _BOX_HEIGHT = 252, 68
_LANE, _ROW = _BOX_WIDTH + 22, _BOX_HEIGHT + 34
_MARGIN, _TOP = 24, 132
_FONT = "font-family='system-ui,Segoe UI,Helvetica,Arial,sans-serif'"
_INK, _QUIET, _LINE, _ALARM = "#20262e", "#59636e", "#7d8894", "#b3261e"
_SCALE = ((0xF4, 0xF7, 0xFA), (0xFF, 0xE3, 0x9A), (0xF7, 0xA0, 0x80))  # no share of the II, half of it, all of it
_MAX_SOURCE = 42


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the layers and the streams between them lie."""

    places: tuple[tuple[int, int], ...]  # (row, lane) of each node
    streams: tuple[tuple[int, int, int], ...]  # producer, consumer, and the lane the stream goes down in

    @property
    def num_rows(self) -> int:
        return max(row for row, _ in self.places) + 1

    @property
    def num_lanes(self) -> int:
        return max(*(lane for _, lane in self.places), *(lane for *_, lane in self.streams)) + 1


class _Lanes:
    """The lanes and which rows of each are taken."""

    def __init__(self) -> None:
        self._taken: list[list[tuple[int, int]]] = []

    def take(self, first: int, last: int, wished: tuple[int, ...] = ()) -> int:
        """Take the rows `first` to `last` of a wished lane, or of the first that has them free."""
        lanes = (*wished, *range(len(self._taken)))
        lane = next((lane for lane in lanes if self._is_free(lane, first, last)), len(self._taken))
        if lane == len(self._taken):
            self._taken.append([])
        self._taken[lane].append((first, last))
        return lane

    def _is_free(self, lane: int, first: int, last: int) -> bool:
        return all(last < start or first > end for start, end in self._taken[lane])


def layout(edges: list[tuple[int, int]], num_nodes: int) -> Layout:
    """Lay a graph out whose nodes are numbered in an order in which each follows those it reads."""
    readers: list[list[int]] = [[] for _ in range(num_nodes)]
    rows, heights = [0] * num_nodes, [0] * num_nodes
    for source, reader in edges:
        readers[source].append(reader)
        rows[reader] = max(rows[reader], rows[source] + 1)
    for node in reversed(range(num_nodes)):
        heights[node] = max((heights[reader] + 1 for reader in readers[node]), default=0)
    lanes, within = _Lanes(), {}
    place: dict[int, tuple[int, int]] = {}
    for start in sorted(range(num_nodes), key=lambda node: (-heights[node], node)):
        if start in place:
            continue
        chain = [start]
        while free := [reader for reader in readers[chain[-1]] if reader not in place]:
            chain.append(max(free, key=lambda node: (heights[node], -node)))
            within[chain[-2], chain[-1]] = True
        lane = lanes.take(rows[chain[0]], rows[chain[-1]])
        place |= {node: (rows[node], lane) for node in chain}
    streams = []
    for source, reader in sorted(edges, key=lambda edge: (rows[edge[1]] - rows[edge[0]], edge)):
        lane = place[reader][1]
        if (source, reader) not in within and rows[reader] - rows[source] > 1:
            lane = lanes.take(rows[source] + 1, rows[reader] - 1, (place[source][1], lane))
        streams.append((source, reader, lane))
    return Layout(places=tuple(place[node] for node in range(num_nodes)), streams=tuple(streams))


def svg(title: str, model: Model, result: Estimate) -> str:
    """Return a drawing of a folded model and its estimate."""
    number = {node.name: position for position, node in enumerate(model.graph.node)}
    producers = {name: number[node.name] for node in model.graph.node for name in node.output}
    edges = [
        (producers[name], number[node.name]) for node in model.graph.node for name in node.input if name in producers
    ]
    plan = layout(edges, len(number))
    width = max(2 * _MARGIN + plan.num_lanes * _LANE - (_LANE - _BOX_WIDTH), 760)
    height = _TOP + plan.num_rows * _ROW + _MARGIN
    layers = {number[layer.name]: layer for layer in result.layers}
    parts = [*_head(title, result, width, height)]
    parts += [_stream(plan.places[source], plan.places[reader], lane) for source, reader, lane in plan.streams]
    for node, (row, lane) in enumerate(plan.places):
        parts += _box(layers[node], result, _x(lane), _y(row))
    return "\n".join([*parts, "</svg>\n"])


def _x(lane: int) -> int:
    return _MARGIN + lane * _LANE


def _y(row: int) -> int:
    return _TOP + row * _ROW


def _head(title: str, result: Estimate, width: int, height: int) -> Iterator[str]:
    yield (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' height='{height}' "
        f"{_FONT}>"
    )
    yield f"<title>{escape(visible(title))}</title><rect width='100%' height='100%' fill='#fff'/>"
    yield (
        f"<defs><marker id='to' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='8' markerHeight='8' "
        f"markerUnits='userSpaceOnUse' orient='auto'><path d='M0 0L8 4L0 8Z' fill='{_LINE}'/></marker>"
        f"<linearGradient id='scale'>{''.join(_stop(share) for share in (0.0, 0.5, 1.0))}</linearGradient></defs>"
    )
    yield _text(_MARGIN, 38, title, size=21, weight=700)
    yield _text(
        _MARGIN, 62, f"{len(result.layers)} layers, a frame every {result.ii_cycles:,} cycles: {result.bottleneck}"
    )
    used = " · ".join(f"{name} {_figure(result.resources[name])}" for name in RESOURCES)
    yield _text(_MARGIN, 82, used)
    yield f"<rect x='{_MARGIN}' y='94' width='180' height='10' rx='5' fill='url(#scale)' stroke='{_LINE}'/>"
    yield _text(_MARGIN + 190, 103, "cycles as a part of the slowest layer's, 0 to 100 %; that layer is framed")


def _box(layer: Layer, result: Estimate, x: int, y: int) -> Iterator[str]:
    share = layer.cycles / result.ii_cycles
    is_slowest = layer.name == result.bottleneck
    frame = f"stroke='{_ALARM}' stroke-width='4'" if is_slowest else f"stroke='{_LINE}'"
    folding = ", ".join(
        f"{name} {value}" for name, value in (("PE", layer.pe), ("SIMD", layer.simd)) if value is not None
    )
    resources = " · ".join(f"{_figure(layer.figures.resources[name])} {name}" for name in _shown(layer))
    yield f"<g><title>{escape(visible(f'{layer.name}: {layer.source}'))}</title>"
    yield f"<rect x='{x}' y='{y}' width='{_BOX_WIDTH}' height='{_BOX_HEIGHT}' rx='7' fill='{_fill(share)}' {frame}/>"
    yield _text(x + 10, y + 17, layer.name, size=12, weight=650, fill=_INK)
    if is_slowest:
        yield _text(x + _BOX_WIDTH - 10, y + 60, "bottleneck", size=11, weight=700, fill=_ALARM, anchor="end")
    yield _text(x + 10, y + 31, _shortened(layer.source), size=10.5)
    yield _text(x + 10, y + 46, f"{layer.cycles:,} cycles, {share:.0%}", size=11, fill=_INK)
    yield _text(x + _BOX_WIDTH - 10, y + 46, folding, size=11, fill=_INK, anchor="end")
    yield _text(x + 10, y + 60, resources or "no figures", size=10.5)
    yield "</g>"


def _stream(source: tuple[int, int], reader: tuple[int, int], lane: int) -> str:
    """Draw a stream: sideways only between rows, where there are no boxes."""
    half, gap = _BOX_WIDTH / 2, _ROW - _BOX_HEIGHT
    points = [(_x(source[1]) + half, _y(source[0]) + _BOX_HEIGHT)]
    if reader[0] - source[0] > 1:
        points += [(_x(lane) + half, _y(source[0] + 1)), (_x(lane) + half, _y(reader[0]) - gap)]
    points.append((_x(reader[1]) + half, _y(reader[0]) - 1))
    path = f"M{points[0][0]:g} {points[0][1]:g}"
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (y0 + y1) / 2
        path += f"L{x1:g} {y1:g}" if x0 == x1 else f"C{x0:g} {middle:g} {x1:g} {middle:g} {x1:g} {y1:g}"
    return f"<path d='{path}' fill='none' stroke='{_LINE}' stroke-width='1.6' marker-end='url(#to)'/>"


def _shown(layer: Layer) -> list[str]:
    """Return the resources worth a word: those that are used, and LUT even if unknown."""
    return [name for name in RESOURCES if layer.figures.resources[name] or name == "LUT"]


def _figure(value: float | None) -> str:
    return "?" if value is None else f"{value:,.0f}"


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_SOURCE else f"…{text[1 - _MAX_SOURCE :]}"


def _stop(share: float) -> str:
    return f"<stop offset='{share:g}' stop-color='{_fill(share)}'/>"


def _fill(share: float) -> str:
    """Return the colour of a share 0..1 of the slowest layer's cycles."""
    position = min(max(share, 0.0), 1.0) * (len(_SCALE) - 1)
    low = min(int(position), len(_SCALE) - 2)
    mixed = (
        round(start + (end - start) * (position - low)) for start, end in zip(_SCALE[low], _SCALE[low + 1], strict=True)
    )
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def _text(
    x: float, y: float, text: str, *, size: float = 13, weight: int = 400, fill: str = _QUIET, anchor: str = "start"
) -> str:
    return (
        f"<text x='{x:g}' y='{y:g}' font-size='{size:g}' font-weight='{weight}' fill='{fill}' "
        f"text-anchor='{anchor}'>{escape(visible(text))}</text>"
    )
