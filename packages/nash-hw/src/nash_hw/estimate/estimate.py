"""Cycles and resources of each layer, of what lies between them and of the whole, each figure with its origin.

FINN answers 0 for a resource it has no model of. `_FINN_MODELS` lists what it does model; the rest is this package's,
from the layer's structure (`rtl_models`, `hls_models`, `streams`), or unknown: None, never 0. Where both have a figure,
FINN's is `corrected`: the DSPs of an RTL matrix-vector unit to the lanes that its RTL packs, thresholds to what
compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from ..boards.board import RESOURCES, Board
from ..graph.model import Model, custom_op, tensor_title
from ..graph.steps import is_layer
from . import hls_models, rtl_models
from .actors import cycles_of, pace_of
from .facts import NO_FACTS, Facts, facts_of
from .figures import Figures, sum_known, whole
from .schedule import Schedule
from .streams import Stream, fifo_depths, streams

_MEMORIES = ("BRAM_18K", "URAM")
# what FINN's node_res_estimation sums up, less the efficiencies that nobody reads here
_FINN_METHODS = {
    "LUT": "lut_estimation",
    "BRAM_18K": "bram_estimation",
    "URAM": "uram_estimation",
    "DSP": "dsp_estimation",
}
_FINN_MODELS: dict[str, tuple[str, ...]] = {
    "MVAU_hls": ("LUT", *_MEMORIES, "DSP"),
    "MVAU_rtl": (*_MEMORIES, "DSP"),
    "VVAU_hls": ("LUT", *_MEMORIES, "DSP"),
    "VVAU_rtl": (*_MEMORIES, "DSP"),
    "Thresholding_hls": ("LUT", *_MEMORIES),
    "ConvolutionInputGenerator_rtl": ("LUT", *_MEMORIES),
}
_ABSENT: dict[str, tuple[str, ...]] = {
    "Thresholding": ("DSP",),
    "ConvolutionInputGenerator": ("DSP",),
}
_OUR_MODELS: dict[str, Callable[[Any], dict[str, float]]] = {
    "VVAU_rtl": lambda instance: rtl_models.mvau(instance, None),
    "Thresholding_hls": hls_models.thresholding,
    "ConvolutionInputGenerator_rtl": rtl_models.window_generator,
    "FMPadding_rtl": rtl_models.padding,
    "Requant_rtl": rtl_models.requant,
    "Requant_hls": hls_models.requant,
    "DuplicateStreams_hls": hls_models.duplication,
    "StreamingConcat_hls": hls_models.concatenation,
    "ElementwiseAdd_hls": hls_models.addition,
    "Pool_hls": hls_models.pool,
    "GlobalAccPool_hls": hls_models.accumulating_pool,
    "LabelSelect_hls": hls_models.selection,
}
NOT_COUNTED = ("platform shell",)
# cycles that a layer stands still between two frames: its loop in C++ ends and begins anew. FINN+ measured 4,194,310
# for one of 4,194,304 (run CI_118677), and 70 for four accelerators whose slowest layer takes 64
# (tests/data/synthesized.json)
_RESTART_CYCLES = {"MVAU_hls": 6}


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of the accelerator as it is folded."""

    name: str
    op_type: str
    backend: str
    source: str  # the operation of the network it belongs to
    cycles: int
    pe: int | None
    simd: int | None
    figures: Figures


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The accelerator as a whole. Resources are the sums of the known figures; `num_unknown` counts the others."""

    layers: tuple[Layer, ...]
    streams: tuple[Stream, ...]
    ii_cycles: int
    bottleneck: str
    restart_cycles: int  # beyond ii_cycles, for layers in C++ that begin anew
    latency_cycles: int  # of a frame in an idle accelerator
    latency_bound_cycles: int  # no layer overlapping another
    resources: Mapping[str, float | None]
    num_unknown: Mapping[str, int]


def estimate(model: Model, board: Board) -> Estimate:
    """Return the figures of a specialized, folded model on a board."""
    ii_cycles, bottleneck = pace_of(model)
    schedule = Schedule(model)
    layers, between = parts(model, board, fifo_depths(model) or schedule.depths(ii_cycles))
    figures = [part.figures.resources for part in (*layers, *between)]
    totals = {resource: [part[resource] for part in figures] for resource in RESOURCES}
    return Estimate(
        layers=layers,
        streams=between,
        ii_cycles=ii_cycles,
        bottleneck=bottleneck,
        restart_cycles=restart_cycles(layers, ii_cycles),
        latency_cycles=schedule.latency(),
        latency_bound_cycles=_longest_path(model, {layer.name: layer.cycles for layer in layers}),
        resources={resource: sum_known(values) for resource, values in totals.items()},
        num_unknown={resource: sum(value is None for value in values) for resource, values in totals.items()},
    )


def parts(model: Model, board: Board, depths: Mapping[str, int]) -> tuple[tuple[Layer, ...], tuple[Stream, ...]]:
    """Return the layers of a specialized, folded model and what lies between them; `depths`: of FIFOs, by tensor."""
    layers = tuple(_layer(model, node, board.fpga_part) for node in model.graph.node)
    return layers, tuple(streams(model, depths, board.fpga_part))


def restart_cycles(layers: Sequence[Layer], ii_cycles: int) -> int:
    """Return the cycles beyond `ii_cycles` that a frame takes, as a layer in C++ begins anew."""
    return max(0, *(layer.cycles + _RESTART_CYCLES.get(layer.op_type, 0) - ii_cycles for layer in layers))


def utilization(resources: Mapping[str, float | None], board_resources: Mapping[str, float]) -> dict[str, float | None]:
    """Return what part of a board's resources is used; None where unknown, or where the board has none to use."""
    result: dict[str, float | None] = {}
    for resource in RESOURCES:
        used, available = resources[resource], board_resources[resource]
        result[resource] = None if used is None or (not available and used) else used / max(available, 1)
    return result


def layer_figures(node: onnx.NodeProto, instance: Any, fpga_part: str, facts: Facts = NO_FACTS) -> Figures:
    """Return the resources of a specialized layer as it is folded now."""
    if facts.shared_thresholds and node.op_type == "Thresholding_rtl":
        with _one_set_of_thresholds(instance):
            return layer_figures(node, instance, fpga_part)
    finn = _finn_figures(node.op_type, instance, fpga_part)
    known: dict[str, float] = finn | dict.fromkeys(_ABSENT.get(node.op_type[:-4], ()), 0.0)
    if node.op_type == "MVAU_rtl":
        known |= rtl_models.mvau(instance, _mvau_lanes(instance, fpga_part, narrow_weights=facts.narrow_weights))
        known["DSP"] = float(mvau_dsps(instance, fpga_part, narrow_weights=facts.narrow_weights))
    elif node.op_type == "Thresholding_rtl":
        known |= rtl_models.thresholding(instance, finn["LUT"])
    elif node.op_type in ("MVAU_hls", "VVAU_hls"):
        known |= hls_models.matrix_vector(instance, finn["LUT"])
    elif node.op_type == "ElementwiseMul_hls":
        known |= hls_models.scaling(instance, facts.factor)
    elif node.op_type in _OUR_MODELS:
        known |= _OUR_MODELS[node.op_type](instance)
    if node.op_type[:4] in ("MVAU", "VVAU") and rtl_models.memory_style(instance) == "distributed":
        known["BRAM_18K"] = 0.0  # FINN counts block RAM wherever Vivado may choose
    origins: dict[str, str | None] = dict.fromkeys(RESOURCES)
    for name, value in known.items():
        origins[name] = "modelled" if name not in finn else "finn" if value == finn[name] else "corrected"
    return Figures(resources=whole(known), origins=origins)


def _finn_figures(op_type: str, instance: Any, fpga_part: str) -> dict[str, float]:
    if op_type == "Thresholding_rtl":  # one estimate of its memories holds all three
        memories = instance.get_memory_estimate()
        names = {"LUT": "LUTRAM", "BRAM_18K": "BRAM", "URAM": "URAM"}
        return {name: float(memories.get(memory, 0)) for name, memory in names.items()}
    return {name: float(getattr(instance, _FINN_METHODS[name])(fpga_part)) for name in _FINN_MODELS.get(op_type, ())}


def mvau_dsps(instance: Any, fpga_part: str, *, narrow_weights: bool) -> int:
    """Return the DSP blocks of an RTL matrix-vector unit.

    Each block multiplies one activation by as many weights, of as many PEs, as its datapath has lanes for
    (finn-rtllib/mvu/hdl/mvu.sv, NUM_LANES); a DSP58 sums three products instead where that is no loss
    (mvu_vvu_axi.sv, genINT8).
    """
    lanes = _mvau_lanes(instance, fpga_part, narrow_weights=narrow_weights)
    pe, simd = instance.get_nodeattr("PE"), instance.get_nodeattr("SIMD")
    return pe * -(-simd // 3) if lanes is None else -(-pe // lanes) * simd


def _mvau_lanes(instance: Any, fpga_part: str, *, narrow_weights: bool) -> int | None:
    """Return how many weights share one DSP block, None where a DSP58 sums three products instead."""
    from finn.util.basic import get_dsp_block

    weight_bits, act_bits = (instance.get_input_datatype(i).bitwidth() for i in (1, 0))
    block = get_dsp_block(fpga_part)
    lanes = dsp_lanes(weight_bits, act_bits, 25 if block == "DSP48E1" else 27, narrow_weights=narrow_weights)
    return None if block == "DSP58" and lanes <= 3 and weight_bits <= 8 and act_bits <= 9 else lanes


def dsp_lanes(weight_bits: int, act_bits: int, port_bits: int, *, narrow_weights: bool) -> int:
    """Return how many weights share one DSP multiplier; 4-bit weights and activations, 27-bit port: 4."""
    if port_bits == weight_bits:
        return 1
    return 1 + (port_bits - (not narrow_weights) - weight_bits) // (weight_bits + act_bits - 1)


@contextmanager
def _one_set_of_thresholds(instance: Any) -> Iterator[None]:
    """Let RTL thresholds have as many channels as PEs, as FINN writes it for a single set (thresholding_rtl.py)."""
    channels = instance.get_nodeattr("NumChannels")
    instance.set_nodeattr("NumChannels", instance.get_nodeattr("PE"))
    try:
        yield
    finally:
        instance.set_nodeattr("NumChannels", channels)


def _layer(model: Model, node: onnx.NodeProto, fpga_part: str) -> Layer:
    instance = custom_op(node)
    known = instance.get_nodeattr_types()
    return Layer(
        name=node.name,
        op_type=node.op_type,
        backend=node.op_type[-3:],
        source=layer_source(model, node),
        cycles=cycles_of(node, instance),
        pe=int(instance.get_nodeattr("PE")) if "PE" in known else None,
        simd=int(instance.get_nodeattr("SIMD")) if "SIMD" in known else None,
        figures=layer_figures(node, instance, fpga_part, facts_of(model, node, instance)),
    )


def layer_source(model: Model, node: onnx.NodeProto) -> str:
    """Return the operation of the network that a layer is part of; FINN's own tensors have names of 20 letters."""
    reading: onnx.NodeProto | None = node
    while reading is not None and "/" not in reading.output[0]:
        reading = model.find_consumer(reading.output[0]) if not is_layer(reading, "DuplicateStreams") else None
    return tensor_title((reading.output if reading is not None else node.input)[0])


def _longest_path(model: Model, cycles: Mapping[str, int]) -> int:
    """Return the cycles of the slowest way through the graph, no layer overlapping another: FINN's upper bound."""
    finished: dict[str, int] = {}
    for node in model.graph.node:
        started = max((finished.get(name, 0) for name in node.input), default=0)
        for name in node.output:
            finished[name] = started + cycles[node.name]
    return int(np.max(list(finished.values())))
