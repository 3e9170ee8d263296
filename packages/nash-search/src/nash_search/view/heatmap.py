"""The alphas of a search for the eye: the probability of each primitive on each edge, as a heat map in SVG.

Where a layer has one choice, its `none` is one square as high as the layer.
"""

# ruff: noqa: RUF001 - the drawing sets multiplication signs and dashes
from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from ..base import manifest
from ..base.errors import ManifestError, UsageError
from ..base.quoting import brief
from ..genotype.genotype import Edge, Genotype
from ..genotype.primitives import NONE, PRIMITIVES
from .draw import _FONT, _text

_COLOURS = ("#edf7f4", "#83cdc0", "#2b9c94", "#006969", "#003840")  # CIELAB lightness falls in even steps
_COLUMN, _ROW, _LAYER_GAP = 48, 24, 8  # a square with the space around it; the space between two layers
_PADDING, _LEFT, _ABOVE = 16, 78, 66  # of a panel: inside it, left of its squares, above them
_TOP, _MARGIN, _MIN_WIDTH, _MAX_WIDTH, _MAX_LINE = 120, 12, 660, 1200, 24
_GREY, _PALE, _KEPT = "#4a525c", "#5f6873", "rx='4' fill='none' stroke='#c8481f' stroke-width='2.5'"
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_Rows = Sequence[tuple[Edge, Sequence[float]]]  # of a cell: its edges with their probabilities


@dataclass(frozen=True, kw_only=True)
class Alphas:
    """What a search learned: a row of probabilities an edge of `Genotype.edges()`, a column a primitive.

    relaxation: whether a row's probabilities sum to 1 (`edge`), or those of a layer with one `none` (`layer`).
    """

    primitives: tuple[str, ...]
    probs: tuple[tuple[float, ...], ...]
    relaxation: str = "edge"


def load(path: Path, found: Genotype) -> Alphas:
    """Read the alphas that the genotype.json of the network `found` has among its artifacts.

    Raises:
        UsageError: it has none.
        ManifestError: they are malformed, or those of another network; the text names the keys.
        IntegrityError: their file is missing, has changed or lies outside the genotype's folder.
    """
    records = [record for record in manifest.load(path, "genotype")["artifacts"] if record["role"] == "alphas"]
    if not records:
        wanted = "a genotype that 'nash-search run' wrote"
        raise UsageError(f"--heatmap: got {path}, which has no alphas, expected {wanted}")
    file = manifest.resolve(path, records[0]["path"], records[0]["sha256"])
    content = manifest.read_object(file)
    if problems := list(_problems(content, found)):
        raise ManifestError(manifest.joined(file, problems, f"restore the one that was written with {path.name}"))
    probs = (tuple(map(float, edge["probabilities"])) for edge in content["edges"])
    relaxation = content.get("relaxation", "edge")  # files of before have none
    return Alphas(primitives=tuple(content["primitives"]), probs=tuple(probs), relaxation=relaxation)


def _problems(content: dict[str, Any], found: Genotype) -> Iterator[str]:
    names, edges, known = content.get("primitives"), content.get("edges"), list(found.edges())
    if content.get("relaxation", "edge") not in ("layer", "edge"):
        yield f"relaxation: got {_got(content['relaxation'])}, expected layer or edge"
    if not _is_list(names, str) or not names or len(set(names)) < len(names):
        yield f"primitives: got {_got(names)}, expected a list of names, each once"
    elif not _is_list(edges, dict) or len(edges) != len(known):
        yield f"edges: got {_got(edges)}, expected {len(known)} objects, one an edge of the genotype"
    else:
        kept = {layer.nas_op.op for cell in found.cells for layer in cell.layers if layer.nas_op}
        yield from (f"primitives: misses {op}, which the genotype keeps" for op in sorted(kept - set(names)))
        for index, edge in enumerate(edges):
            yield from (f"edges[{index}].{problem}" for problem in _edge_problems(edge, known[index], len(names)))


def _edge_problems(edge: dict[str, Any], known: Edge, num_primitives: int) -> Iterator[str]:
    wrong = ((key, value) for key, value in asdict(known).items() if edge.get(key) != value)
    yield from (f"{key}: got {_got(edge.get(key))}, expected {value} as in the genotype" for key, value in wrong)
    probs = edge.get("probabilities")
    if not _is_list(probs, int | float) or len(probs) != num_primitives:
        yield f"probabilities: got {_got(probs)}, expected {num_primitives} numbers, one a primitive"
    else:
        yield from (f"probabilities: got {_got(prob)}, expected 0..1" for prob in probs if not 0 <= prob <= 1)


def _is_list(value: Any, kind: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) and not isinstance(item, bool) for item in value)


def _got(value: Any) -> str:
    return f"a {type(value).__name__} of {len(value)}" if isinstance(value, dict | list) else brief(value)


def svg(found: Genotype, alphas: Alphas) -> str:
    """Return a drawing of the probabilities: a panel a cell, a row an edge, a column a primitive."""
    every = zip(found.edges(), alphas.probs, strict=True)
    cells = [list(rows) for _, rows in groupby(every, key=lambda row: row[0].cell)]
    column = max(_COLUMN, *(6 * len(line) for name in alphas.primitives for line in _heading(name)))
    width = _LEFT + len(alphas.primitives) * column + _PADDING
    pitch = width + _MARGIN
    fitting = max(1, (_MAX_WIDTH - _MARGIN) // pitch)
    num_columns = -(-len(cells) // -(-len(cells) // fitting))  # as few rows as fit, evenly filled
    largest = max(prob for probs in alphas.probs for prob in probs) or 1.0
    top, panels = _TOP, []
    for start in range(0, len(cells), num_columns):
        shown = cells[start : start + num_columns]
        height = max(_y(rows[-1][0], len(rows)) for rows in shown) + _PADDING
        ground = f"<rect width='{width}' height='{height}' rx='10' fill='#fff'/>"
        for place, rows in enumerate(shown):
            panel = _panel(found, alphas, rows, column, largest)
            panels += [f"<g transform='translate({_MARGIN + place * pitch} {top})'>{ground}", *panel, "</g>"]
        top += height + _MARGIN
    head = _head(found, alphas.relaxation, max(_MARGIN + num_columns * pitch, _MIN_WIDTH), top, largest)
    return "\n".join([*head, *panels, "</svg>\n"])


def _head(found: Genotype, relaxation: str, width: int, height: int, largest: float) -> Iterator[str]:
    name = _NOT_XML.sub("\ufffd", found.name)
    stops = "".join(f"<stop offset='{step / 4}' stop-color='{colour}'/>" for step, colour in enumerate(_COLOURS))
    yield f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' {_FONT}>"
    yield f"<title>{escape(name)}</title><rect width='100%' height='100%' fill='#eef1f4'/><defs>"
    yield "<pattern id='blank' width='6' height='6' patternUnits='userSpaceOnUse' patternTransform='rotate(45)'>"
    yield "<rect width='6' height='6' fill='#f7f8fa'/><rect width='1.5' height='6' fill='#e2e6ea'/></pattern>"
    yield f"<linearGradient id='scale'>{stops}</linearGradient></defs>" + _text(20, 38, name, size=22, weight=700)
    of_what = "of all of its layer" if relaxation == "layer" else "on each edge"
    yield _text(20, 64, f"probability of each operation {of_what}: state ← earlier state", size=14, fill=_GREY)
    yield f"<rect x='20' y='80' width='180' height='{_ROW - 8}' rx='3' fill='url(#scale)'/>"
    for share, anchor in ((0, "start"), (0.5, "middle"), (1, "end")):
        yield _text(20 + 180 * share, 109, f"{share * largest:.2f}", size=11, fill=_GREY, anchor=anchor)
    yield _square(226, 76, 34, 0.25) + f"<rect x='226' y='76' width='34' height='{_ROW}' {_KEPT}/>"
    yield _text(267, 92, "kept in the genotype", size=12, fill=_GREY) + _square(414, 76, 34, 0, "–")
    yield _text(453, 92, "cannot stand there, or discarded", size=12, fill=_GREY)


def _y(edge: Edge, index: int) -> int:
    return _ABOVE + index * _ROW + (edge.layer - 1) * _LAYER_GAP


def _panel(found: Genotype, alphas: Alphas, rows: _Rows, column: int, largest: float) -> Iterator[str]:
    index, names = rows[0][0].cell, alphas.primitives
    nothing = NONE if alphas.relaxation == "layer" else None
    heights = Counter(edge.layer for edge, _ in rows)
    cell, sizes = found.cells[index], found.sizes()[index]
    ends = (f"{cell.channels(state)}×{sizes[state][0]}×{sizes[state][1]}" for state in (0, len(cell.layers)))
    yield _text(_PADDING, 26, f"cell {index}", size=13, weight=600)
    yield _text(_LEFT + 2, 26, " → ".join(ends), size=12, fill=_PALE)
    for number, name in enumerate(names):
        for y, line in zip((_ABOVE - 7, _ABOVE - 19), reversed(_heading(name)), strict=False):
            yield _text(_LEFT + (number + 0.5) * column, y, line, size=10, weight=600, fill=_GREY, anchor="middle")
    for index, (edge, probs) in enumerate(rows):
        y, kept = _y(edge, index), cell.layers[edge.layer - 1].nas_op
        label = f"{edge.layer} ← {edge.input}" + f" /{edge.stride}" * (edge.stride > 1)
        yield _text(_PADDING, y + 16, label, size=12)
        is_first = index == 0 or rows[index - 1][0].layer != edge.layer
        for number, (name, prob) in enumerate(zip(names, probs, strict=True)):
            if name == nothing and not is_first:
                continue
            x, text, height = _LEFT + number * column, f"{prob:.2f}" if prob else "–", _ROW
            is_kept = kept is not None and (kept.op, kept.input) == (name, edge.input)
            if name == nothing:
                height, is_kept = heights[edge.layer] * _ROW, kept is None
            yield f"<g class='square'>{_square(x, y, column, prob / largest, text, height)}</g>"
            if is_kept:
                yield f"<rect class='kept' x='{x}' y='{y}' width='{column}' height='{height}' {_KEPT}/>"


def _heading(name: str) -> list[str]:
    lines = PRIMITIVES[name].label.rsplit(" ", 1) if name in PRIMITIVES else [_NOT_XML.sub("\ufffd", name)]
    return [line if len(line) <= _MAX_LINE else line[: _MAX_LINE - 1] + "…" for line in lines]


def _square(x: float, y: float, width: float, share: float, text: str = "", height: float = _ROW) -> str:
    fill, ink = "url(#blank)", _PALE
    if share:
        fill, ink = _colour(share), "#fff" if share > 0.62 else "#000"  # a contrast of 4.5 to 1 on either side
    square = f"<rect x='{x + 2}' y='{y + 2}' width='{width - 4}' height='{height - 4}' rx='3' fill='{fill}'/>"
    return square + _text(x + width / 2, y + height / 2 + 4, text, size=11, fill=ink, anchor="middle")


def _colour(share: float) -> str:
    step = min(int(4 * share), 3)
    ends = (bytes.fromhex(colour[1:]) for colour in _COLOURS[step : step + 2])
    return "#" + bytes(round(low + (4 * share - step) * (high - low)) for low, high in zip(*ends, strict=True)).hex()
