"""Cycles and resources of each layer and of the whole, without a figure that nobody computed.

FINN answers 0 for a resource it has no model of. `_FINN_MODELS` lists what it does model; a 0 for anything else
is reported as unknown (None), unless the layer's structure rules the resource out (`_ABSENT`: no memory, no
multiplier). DSPs of the RTL matrix-vector unit are corrected to the lanes that its RTL packs, and where its weights
lie in LUTs, the LUTs are those of the weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from .boards import RESOURCES, Board
from .model import Model, custom_op, tensor_title
from .steps import is_layer

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
    "MVAU_rtl": _MEMORIES,
    "Thresholding_rtl": ("LUT", *_MEMORIES),  # the LUTs of its threshold memories, not of its comparators
    "Thresholding_hls": ("LUT", *_MEMORIES),
    "ConvolutionInputGenerator_rtl": ("LUT", *_MEMORIES),
}
_ABSENT: dict[str, tuple[str, ...]] = {
    "Thresholding": ("DSP",),
    "ConvolutionInputGenerator": ("DSP",),
    "FMPadding": (*_MEMORIES, "DSP"),
    "DuplicateStreams": (*_MEMORIES, "DSP"),
    "StreamingConcat": (*_MEMORIES, "DSP"),
    "ElementwiseAdd": (*_MEMORIES, "DSP"),
    "Pool": (*_MEMORIES, "DSP"),  # of maxima
    "GlobalAccPool": ("URAM", "DSP"),
    "Requant": _MEMORIES,
}
NOT_COUNTED = ("stream FIFOs", "data width converters", "platform shell")


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Resources of one layer, None where unknown, and who says so: finn, corrected or modelled."""

    resources: Mapping[str, float | None]
    origins: Mapping[str, str | None]


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
    ii_cycles: int
    bottleneck: str
    latency_cycles: int
    resources: Mapping[str, float | None]
    num_unknown: Mapping[str, int]


def estimate(model: Model, board: Board) -> Estimate:
    """Return the figures of a specialized, folded model on a board."""
    layers = tuple(_layer(model, node, board.fpga_part) for node in model.graph.node)
    slowest = max(layers, key=lambda layer: layer.cycles)
    totals = {resource: [layer.figures.resources[resource] for layer in layers] for resource in RESOURCES}
    return Estimate(
        layers=layers,
        ii_cycles=slowest.cycles,
        bottleneck=slowest.name,
        latency_cycles=_longest_path(model, {layer.name: layer.cycles for layer in layers}),
        resources={resource: sum_known(values) for resource, values in totals.items()},
        num_unknown={resource: sum(value is None for value in values) for resource, values in totals.items()},
    )


def sum_known(values: Iterable[float | None]) -> float | None:
    """Return the sum of the known values, None if none is known."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def utilization(resources: Mapping[str, float | None], board: Board) -> dict[str, float | None]:
    """Return what part of a board's resources is used; None where unknown, or where the board has none to use."""
    result: dict[str, float | None] = {}
    for resource in RESOURCES:
        used, available = resources[resource], board.resources[resource]
        result[resource] = None if used is None or (not available and used) else used / max(available, 1)
    return result


def layer_figures(node: onnx.NodeProto, instance: Any, fpga_part: str, *, narrow_weights: bool) -> Figures:
    """Return the resources of a specialized layer as it is folded now."""
    resources: dict[str, float | None] = dict.fromkeys(RESOURCES)
    origins: dict[str, str | None] = dict.fromkeys(RESOURCES)
    for resource in _FINN_MODELS.get(node.op_type, ()):
        resources[resource], origins[resource] = float(getattr(instance, _FINN_METHODS[resource])(fpga_part)), "finn"
    for resource in _ABSENT.get(node.op_type[:-4], ()):
        resources[resource], origins[resource] = 0.0, "modelled"
    if node.op_type == "MVAU_rtl":
        resources["DSP"] = float(mvau_dsps(instance, fpga_part, narrow_weights=narrow_weights))
        origins["DSP"] = "finn" if resources["DSP"] == instance.dsp_estimation(fpga_part) else "corrected"
        if instance.get_nodeattr("ram_style") == "distributed":
            resources["LUT"], origins["LUT"] = float(_weight_luts(instance)), "modelled"
    if node.op_type == "Requant_rtl":
        resources |= {"LUT": float(requant_luts(instance)), "DSP": float(instance.get_nodeattr("PE"))}
        origins |= {"LUT": "modelled", "DSP": "modelled"}
    return Figures(resources=resources, origins=origins)


def requant_luts(instance: Any) -> int:
    """Return the LUTs of a Requant with decoupled parameters, whose products and sums lie in one DSP a PE.

    By finn-rtllib/requant/hdl/requant_decoupled.sv: for each PE the memory of its parameters (25 bits of scale, 25
    plus the input's of bias, 3 of shift), 64 words a LUT; two LUTs an output bit to shift and clip; half a LUT an
    output bit in the queue of 7. The control of stream, queue and memory is counted as 50.
    """
    bits, output_bits = (instance.get_input_datatype().bitwidth(), instance.get_output_datatype().bitwidth())
    pe = instance.get_nodeattr("PE")
    words = -(-instance.get_nodeattr("NumChannels") // pe)
    memory = (25 + 25 + bits + 3) * -(-words // 64)
    return pe * (memory + 2 * output_bits + -(-output_bits // 2)) + 50


def _weight_luts(instance: Any) -> int:
    """Return the LUTs that hold the weights of a matrix-vector unit, 64 bits each.

    FINN counts them in the HLS form (MVAU_hls.lut_estimation, c2) but not in the RTL form, which has the same memory.
    """
    width = instance.get_nodeattr("PE") * instance.get_nodeattr("SIMD") * instance.get_input_datatype(1).bitwidth()
    return width * -(-instance.calc_wmem() // 64)


def mvau_dsps(instance: Any, fpga_part: str, *, narrow_weights: bool) -> int:
    """Return the DSP blocks of an RTL matrix-vector unit.

    Each block multiplies one activation by as many weights, of as many PEs, as its datapath has lanes for
    (finn-rtllib/mvu/hdl/mvu.sv, NUM_LANES); a DSP58 sums three products instead where that is no loss
    (mvu_vvu_axi.sv, genINT8).
    """
    from finn.util.basic import get_dsp_block

    pe, simd = instance.get_nodeattr("PE"), instance.get_nodeattr("SIMD")
    weight_bits, act_bits = (instance.get_input_datatype(i).bitwidth() for i in (1, 0))
    block = get_dsp_block(fpga_part)
    lanes = dsp_lanes(weight_bits, act_bits, 25 if block == "DSP48E1" else 27, narrow_weights=narrow_weights)
    if block == "DSP58" and lanes <= 3 and weight_bits <= 8 and act_bits <= 9:
        return pe * -(-simd // 3)
    return -(-pe // lanes) * simd


def dsp_lanes(weight_bits: int, act_bits: int, port_bits: int, *, narrow_weights: bool) -> int:
    """Return how many weights share one DSP multiplier; 4-bit weights and activations, 27-bit port: 4."""
    if port_bits == weight_bits:
        return 1
    return 1 + (port_bits - (not narrow_weights) - weight_bits) // (weight_bits + act_bits - 1)


def has_narrow_weights(model: Model, node: onnx.NodeProto, instance: Any) -> bool:
    """Tell whether an MVAU's weights spare the lowest value of their datatype (-8 of 4 bits)."""
    if not is_layer(node, "MVAU"):
        return False
    return bool(model.get_initializer(node.input[1]).min() > instance.get_input_datatype(1).min())


def _layer(model: Model, node: onnx.NodeProto, fpga_part: str) -> Layer:
    instance = custom_op(node)
    known = instance.get_nodeattr_types()
    narrow = has_narrow_weights(model, node, instance)
    return Layer(
        name=node.name,
        op_type=node.op_type,
        backend=node.op_type[-3:],
        source=layer_source(model, node),
        cycles=int(instance.get_exp_cycles()),
        pe=int(instance.get_nodeattr("PE")) if "PE" in known else None,
        simd=int(instance.get_nodeattr("SIMD")) if "SIMD" in known else None,
        figures=layer_figures(node, instance, fpga_part, narrow_weights=narrow),
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
