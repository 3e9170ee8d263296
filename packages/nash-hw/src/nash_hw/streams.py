"""What lies between two layers: a data width converter where their streams differ, a FIFO where words wait."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import gcd
from typing import Any

import numpy as np

from .figures import NO_MEMORY, Figures, clog2, modelled
from .latency import Span, backlog
from .model import Model, custom_op
from .steps import is_layer

_FREE_DEPTH = 2  # words a layer's own ports hold (finn/transformation/fpgadataflow/insert_fifo.py)


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One converter or FIFO between two layers."""

    kind: str  # "converter" or "fifo"
    tensor: str
    producer: str
    consumer: str
    in_width: int
    out_width: int
    depth: int | None  # words of a FIFO
    figures: Figures


def streams(model: Model, spans: dict[str, Span], fpga_part: str) -> Iterator[Stream]:
    """Yield what FINN has to put between the layers of a folded model (InsertDWC, and FIFOs at joins).

    FIFO depths are bounds from `latency`; FINN finds its own by simulation.
    """
    instances = {node.name: custom_op(node) for node in model.graph.node}
    for node in model.graph.node:
        known = [spans[name] for name in node.input if name in spans]
        for position, name in enumerate(node.input):
            producer = model.find_producer(name)
            if producer is None:
                continue
            source, target = instances[producer.name], instances[node.name]
            widths = (
                source.get_outstream_width(list(producer.output).index(name)),
                target.get_instream_width(position),
            )
            ends = {"tensor": name, "producer": producer.name, "consumer": node.name}
            ends |= {"in_width": widths[0], "out_width": widths[1]}
            if widths[0] != widths[1]:
                yield Stream(kind="converter", depth=None, figures=converter_figures(*widths), **ends)
            depth = _depth(node, target, position, spans[name], known)
            if depth > _FREE_DEPTH:
                ends["in_width"] = widths[1]
                yield Stream(kind="fifo", depth=depth, figures=fifo_figures(widths[1], depth, fpga_part), **ends)


def _depth(node: Any, target: Any, position: int, span: Span, all_inputs: list[Span]) -> int:
    if not is_layer(node, "ElementwiseAdd", "StreamingConcat") or len(all_inputs) < 2:
        return 0
    words = int(np.prod(target.get_folded_input_shape(position)[:-1]))
    return backlog(span, all_inputs, words)


@cache
def converter_figures(in_width: int, out_width: int) -> Figures:
    """Return what FINN's data width converter takes between streams of so many bits; nothing if they are equal.

    vpc.sv, which dwc_axi.sv gives both widths in bits: both are cut into elements of their greatest common divisor. A
    buffer holds one word of each side; each of its bits is loaded, kept or moved on, and where input words may begin
    at several places a multiplexer turns them.
    """
    if in_width == out_width:
        return modelled({"LUT": 0.0, "FF": 0.0, **NO_MEMORY, "DSP": 0.0})
    element = gcd(in_width, out_width)
    inputs, outputs = in_width // element, out_width // element
    buffer = inputs + outputs
    counter = clog2(max(inputs, outputs) + 2) + 1
    turned = 0.5 + 3 * inputs / 8 if outputs % inputs else 0.0
    lut = 6 + 2.2 * buffer + in_width * (1 + turned)
    ff = in_width + out_width + buffer + 2 * counter
    return modelled({"LUT": lut, "FF": float(ff), **NO_MEMORY, "DSP": 0.0})


@cache
def fifo_figures(width: int, depth: int, fpga_part: str = "xcu250-figd2104-2L-e") -> Figures:
    """Return what a FIFO of `depth` words of `width` bits takes, in the memory that fifo.sv chooses.

    LUT, BRAM_18K and URAM are FINN's, fitted to Vivado (finn.util.resource_models); FF is its output register and
    counters.
    """
    from finn.util.basic import is_versal
    from finn.util.resource_models import _fifo_cost, _resolve

    padded = -(-width // 8) * 8
    style = _resolve(depth, padded, "auto")
    cost = _fifo_cost(depth, padded, style, is_versal(fpga_part))
    counters = {"srl": 2, "distributed": 5}.get(style, 6)
    pipeline = {"srl": 1, "distributed": 1}.get(style, 0)
    figures = {
        "LUT": float(cost.lut),
        "FF": float(pipeline * width + counters * (clog2(depth + 1) + 1) + 3),
        "BRAM_18K": float(cost.bram),
        "URAM": float(cost.uram),
        "DSP": 0.0,
    }
    found = modelled(figures)
    origins = dict(found.origins) | dict.fromkeys(("LUT", "BRAM_18K", "URAM"), "finn")
    return Figures(resources=found.resources, origins=origins)
