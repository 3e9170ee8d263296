"""What FINN puts between two layers: a FIFO in every stream, and a data width converter where the two ends differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from math import gcd

from ..graph.model import Model, custom_op
from .figures import NO_MEMORY, Figures, clog2, modelled

LEAST_DEPTH = 5  # words that FINN's FIFO holds at least, however shallow it is asked to be (fifo.sv)


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One converter or FIFO.

    `kind`: "fifo", one for each stream from layer to layer, before its reader; "converter"; "converter_fifo", the one
    that FINN puts before a converter; "port_fifo", at an end of the accelerator.
    """

    kind: str
    tensor: str
    producer: str  # "input" at the accelerator's
    consumer: str  # "output" at the accelerator's
    in_width: int
    out_width: int
    depth: int | None  # words of a FIFO
    figures: Figures


def fifo_depths(model: Model) -> dict[str, int] | None:
    """Return how deep the FIFO of each stream is, by tensor, as a folding has it; None where none was written."""
    depths: dict[str, int] = {}
    for node in model.graph.node:
        names = [name for name in node.input if model.find_producer(name) is not None]
        written = custom_op(node).get_nodeattr("inFIFODepths")
        if names and min(written) < LEAST_DEPTH:
            return None
        depths |= dict(zip(names, written, strict=False))
    return depths


def streams(model: Model, depths: Mapping[str, int], fpga_part: str) -> Iterator[Stream]:
    """Yield what FINN puts between the layers of a folded model (InsertDWC, then InsertFIFO in every stream).

    `depths`: words of the FIFO of each stream, by tensor.
    """
    instances = {node.name: custom_op(node) for node in model.graph.node}

    def fifo(kind: str, width: int, depth: int, ends: Mapping[str, str]) -> Stream:
        figures = fifo_figures(width, depth, fpga_part)
        return Stream(kind=kind, in_width=width, out_width=width, depth=depth, figures=figures, **ends)

    for node in model.graph.node:
        for position, name in enumerate(node.input):
            width = instances[node.name].get_instream_width(position)
            ends = {"tensor": name, "producer": "input", "consumer": node.name}
            if name == model.graph.input[0].name:
                yield fifo("port_fifo", width, LEAST_DEPTH, ends)
            producer = model.find_producer(name)
            if producer is None:
                continue
            ends["producer"] = producer.name
            from_width = instances[producer.name].get_outstream_width(list(producer.output).index(name))
            if from_width != width:
                yield fifo("converter_fifo", from_width, LEAST_DEPTH, ends)
                figures = converter_figures(from_width, width)
                yield Stream(
                    kind="converter", in_width=from_width, out_width=width, depth=None, figures=figures, **ends
                )
            yield fifo("fifo", width, depths[name], ends)
    for output in model.graph.output:
        producer = model.find_producer(output.name)
        width = instances[producer.name].get_outstream_width(list(producer.output).index(output.name))
        ends = {"tensor": output.name, "producer": producer.name, "consumer": "output"}
        yield fifo("port_fifo", width, LEAST_DEPTH, ends)


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
