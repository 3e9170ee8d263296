"""A genotype for the eye: a table in the terminal, and its cells as a graph in SVG.

In the graph a cell is a row of states. The thick arrows are the backbone's convolutions, the dashed arcs below them
its residuals, the coloured arcs above them the NAS operations.
"""

# ruff: noqa: RUF001 - the drawing sets multiplication signs
from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..base.quoting import visible
from ..genotype.genotype import LINEAR, RELU6, Cell, Genotype, Layer, Stem
from ..genotype.primitives import PRIMITIVES
from ..genotype.zoo import Entry

_STATE_WIDTH, _STATE_HEIGHT, _PITCH = 84, 40, 176
_MARGIN, _ARC, _RISE, _SAG = 32, 36, 30, 34
_FONT = "font-family='system-ui,Segoe UI,Helvetica,Arial,sans-serif'"


def nas_ops(found: Genotype) -> list[list[dict[str, Any] | None]]:
    """Return the operation of each layer, cell by cell, as JSON."""
    return [
        [
            layer.nas_op
            and {"op": layer.nas_op.op, "input": layer.nas_op.input, "probability": layer.nas_op.probability}
            for layer in cell.layers
        ]
        for cell in found.cells
    ]


def zoo_table(entries: Iterable[Entry]) -> str:
    """Return the zoo's list as text."""
    table = Table("name", "backbone", "variant", "layers", "width", box=None, pad_edge=False)
    for entry in entries:
        variant = entry.variant or "none (baseline)"
        table.add_row(entry.name, entry.backbone, variant, str(entry.num_layers), str(entry.width))
    return _render(table)


def table(found: Genotype) -> str:
    """Return a genotype as a table of its layers."""
    shape, stem = found.input, found.stem
    heading = Text(
        f"{found.name}: {shape.channels} x {shape.height} x {shape.width} in, {found.num_classes} classes out\n"
        f"stem: {_conv(stem.kernel, stem.stride)}, {stem.channels} channels{_stem_pool(stem)}"
    )
    rows = Table("cell", "state", "size", "convolution", "residual", "NAS operation", "p", box=None, pad_edge=False)
    for number, (cell, sizes) in enumerate(zip(found.cells, found.sizes(), strict=True)):
        for target, layer in enumerate(cell.layers, 1):
            size = f"{layer.channels} x {sizes[target][0]} x {sizes[target][1]}"
            first = str(number) if target == 1 else ""
            conv = _conv(layer.kernel, layer.stride) + (f", {layer.groups} groups" if layer.groups > 1 else "")
            conv += _unusual(layer)
            rows.add_row(first, str(target), size, conv, _residual(cell, target), *_nas_op(cell, target))
    return f"{_render(heading)}\n{_render(rows)}"


def _render(*parts: Any) -> str:
    console = Console(force_terminal=sys.stdout.isatty(), highlight=False, width=None if sys.stdout.isatty() else 110)
    with console.capture() as capture:
        console.print(*parts)
    return "\n".join(line.rstrip() for line in capture.get().rstrip("\n").split("\n"))


def _stem_pool(stem: Stem) -> str:
    return "" if stem.pool is None else f", max-pool {_conv(stem.pool.kernel, stem.pool.stride)}"


def _unusual(layer: Layer) -> str:
    """Return what a layer has that few have: another padding or activation, a pool behind it."""
    found = [] if layer.padding is None else [f"padding {layer.padding}"]
    found += {RELU6: ["relu6"], LINEAR: ["linear"]}.get(layer.activation, [])
    found += [] if layer.pool is None else [f"max-pool {_conv(layer.pool.kernel, layer.pool.stride)}"]
    return "".join(f", {part}" for part in found)


def _conv(kernel: int, stride: int) -> str:
    return f"{kernel}x{kernel}" + (f" /{stride}" if stride > 1 else "")


def _residual(cell: Cell, target: int) -> str:
    layer = cell.layers[target - 1]
    if layer.residual_from is None:
        return "-"
    stride = cell.stride(layer.residual_from, target)
    how = "projection" + (f" /{stride}" if stride > 1 else "") if layer.projection else "identity"
    return f"state {layer.residual_from}, {how}"


def _nas_op(cell: Cell, target: int) -> tuple[str, str]:
    nas_op = cell.layers[target - 1].nas_op
    if nas_op is None:
        return "-", ""
    stride = cell.stride(nas_op.input, target)
    text = f"{nas_op.op} of state {nas_op.input}" + (f" /{stride}" if stride > 1 else "")
    return text, "" if nas_op.probability is None else f"{nas_op.probability:.2f}"


def svg(found: Genotype) -> str:
    """Return a drawing of the cells."""
    num_states = max(len(cell.layers) for cell in found.cells) + 1
    width = max(2 * _MARGIN + (num_states - 1) * _PITCH + _STATE_WIDTH, 620)
    top, rows = 92, []
    for number, (cell, sizes) in enumerate(zip(found.cells, found.sizes(), strict=True)):
        height = _cell_height(cell)
        rows.append(f"<rect x='12' y='{top}' width='{width - 24}' height='{height}' rx='10' fill='#fff'/>")
        rows.append(_text(28, top + 22, f"cell {number}", size=13, weight=600))
        rows += _cell(cell, sizes, top + height - _below(cell) - _STATE_HEIGHT / 2)
        top += height + 12
    height = top + 44
    return "\n".join([*_head(found, width, height), *rows, *_legend(found, top + 20), "</svg>\n"])


def _head(found: Genotype, width: float, height: float) -> Iterator[str]:
    shape, stem = found.input, found.stem
    yield f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' {_FONT}>"
    yield f"<title>{escape(visible(found.name))}</title><rect width='100%' height='100%' fill='#eef1f4'/><defs>"
    for colour in dict.fromkeys(["#20262e", "#8a929c", *(primitive.colour for primitive in PRIMITIVES.values())]):
        yield (
            f"<marker id='to{colour[1:]}' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='9' markerHeight='9' "
            f"markerUnits='userSpaceOnUse' orient='auto'><path d='M0 0L8 4L0 8Z' fill='{colour}'/></marker>"
        )
    yield "</defs>" + _text(20, 38, found.name, size=22, weight=700)
    pool = _stem_pool(stem).replace("3x3", "3×3").replace("2x2", "2×2")
    line = (
        f"input {shape.channels}×{shape.height}×{shape.width}  →  stem {stem.kernel}×{stem.kernel}"
        f"{f' /{stem.stride}' * (stem.stride > 1)}, {stem.channels} channels{pool}  →  "
        f"cells  →  global average  →  {found.num_classes} classes"
    )
    yield _text(20, 66, line, size=14, fill="#4a525c")


def _cell_height(cell: Cell) -> float:
    spans = [target - layer.nas_op.input for target, layer in enumerate(cell.layers, 1) if layer.nas_op]
    above = _ARC + (max(spans) - 1) * _RISE + 26 if spans else 34
    return above + _STATE_HEIGHT + _below(cell)


def _below(cell: Cell) -> float:
    return _SAG + 24 if any(layer.residual_from is not None for layer in cell.layers) else 20


def _x(state: int) -> float:
    return _MARGIN + _STATE_WIDTH / 2 + state * _PITCH


def _cell(cell: Cell, sizes: list[tuple[int, int]], y: float) -> Iterator[str]:
    labels: list[str] = []  # on top of every arc
    for target, layer in enumerate(cell.layers, 1):
        yield from _backbone_arrow(layer, target, y)
        if layer.residual_from is not None:
            stride = cell.stride(layer.residual_from, target)
            label = f"1×1 projection{f' /{stride}' * (stride > 1)}" if layer.projection else "identity"
            arc, text = _arc(layer.residual_from, target, y + _STATE_HEIGHT / 2, -_SAG, label, "#8a929c")
            labels += text
            yield arc
        if layer.nas_op is not None:
            stride = cell.stride(layer.nas_op.input, target)
            label = PRIMITIVES[layer.nas_op.op].label + f" /{stride}" * (stride > 1)
            rise = _ARC + (target - layer.nas_op.input - 1) * _RISE
            colour = PRIMITIVES[layer.nas_op.op].colour
            arc, text = _arc(layer.nas_op.input, target, y - _STATE_HEIGHT / 2, rise, label, colour)
            labels += text
            yield arc
    yield from labels
    for state, (height, width) in enumerate(sizes):
        x = _x(state)
        yield (
            f"<rect x='{x - _STATE_WIDTH / 2}' y='{y - _STATE_HEIGHT / 2}' width='{_STATE_WIDTH}' "
            f"height='{_STATE_HEIGHT}' rx='8' fill='#20262e'/>"
        )
        yield _text(x, y - 3, f"state {state}", size=12, weight=600, fill="#fff", anchor="middle")
        yield _text(x, y + 12, f"{cell.channels(state)}×{height}×{width}", size=11, fill="#c9d1da", anchor="middle")


def _backbone_arrow(layer: Layer, target: int, y: float) -> Iterator[str]:
    start, end = _x(target - 1) + _STATE_WIDTH / 2, _x(target) - _STATE_WIDTH / 2
    yield (
        f"<line x1='{start}' y1='{y}' x2='{end - 1}' y2='{y}' stroke='#20262e' stroke-width='2.5' "
        "marker-end='url(#to20262e)'/>"
    )
    label = f"{layer.kernel}×{layer.kernel}" + f" /{layer.stride}" * (layer.stride > 1)
    label += f" g{layer.groups}" * (layer.groups > 1)
    yield _text((start + end) / 2 - 2, y - 6, label, size=12, anchor="middle")


def _arc(source: int, target: int, y: float, rise: float, label: str, colour: str) -> tuple[str, list[str]]:
    """Return an arc from state to state, `rise` pixels high (negative: below), and its label at the apex."""
    is_residual = rise < 0
    spread = 0 if is_residual else 7 * min(target - source - 1, 4)  # the wider arc starts further left and ends right
    start, end = _x(source) + 26 - spread, _x(target) - 26 + spread
    lean, control = min(44.0, (end - start) / 3), y - rise * 4 / 3
    style = "stroke-width='1.6' stroke-dasharray='5 4'" if is_residual else "stroke-width='2.2'"
    arc = (
        f"<path d='M{start} {y}C{start + lean} {control} {end - lean} {control} {end} {y}' fill='none' "
        f"stroke='{colour}' {style} marker-end='url(#to{colour[1:]})'/>"
    )
    x, half = (start + end) / 2, 3.7 * len(label) + 10
    if is_residual:
        ground = f"<rect x='{x - half}' y='{y - rise - 8}' width='{2 * half}' height='16' fill='#fff'/>"
        return arc, [ground, _text(x, y - rise + 4, label, size=11, fill="#5f6873", anchor="middle")]
    pill = f"<rect x='{x - half}' y='{y - rise - 10}' width='{2 * half}' height='20' rx='10' fill='{colour}'/>"
    return arc, [pill, _text(x, y - rise + 4, label, size=12, weight=600, fill="#fff", anchor="middle")]


def _legend(found: Genotype, y: float) -> Iterator[str]:
    used = {layer.nas_op.op for cell in found.cells for layer in cell.layers if layer.nas_op}
    entries = [("backbone convolution", "#20262e", ""), ("residual", "#8a929c", "stroke-dasharray='5 4'")]
    entries += [(f"NAS {found.label}", found.colour, "") for op, found in PRIMITIVES.items() if op in used]
    x = 24.0
    for label, colour, style in entries:
        yield f"<line x1='{x}' y1='{y}' x2='{x + 24}' y2='{y}' stroke='{colour}' stroke-width='2.5' {style}/>"
        yield _text(x + 30, y + 4, label, size=12, fill="#4a525c")
        x += 30 + 6.6 * len(label) + 18


def _text(
    x: float, y: float, content: str, *, size: int, weight: int = 400, fill: str = "#20262e", anchor: str = "start"
) -> str:
    style = f"font-size='{size}' font-weight='{weight}' fill='{fill}' text-anchor='{anchor}'"
    return f"<text x='{x}' y='{y}' {style}>{escape(visible(content))}</text>"
