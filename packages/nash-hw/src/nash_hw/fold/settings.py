"""The foldings FINN can build of each layer: its parallelism, its memories, its arithmetic.

The values PE and SIMD may take are the divisors of what they split, as in FINN's SetFolding
(finn/transformation/fpgadataflow/set_folding.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from math import prod
from typing import Any

import onnx

from ..boards.board import Board
from ..graph.steps import is_layer

Values = dict[str, int | str]  # attribute -> value
_NEVER = 2**30  # deeper than any memory


def settings_of(nodes: Sequence[onnx.NodeProto], instances: Sequence[Any], board: Board) -> Iterator[list[Values]]:
    """Yield the settings of layers that are folded together: one, or a sliding window and what reads it by channel."""
    if len(nodes) == 2 and is_layer(nodes[1], "VVAU"):
        yield from _depthwise_settings(instances[1], board)
        return
    if len(nodes) == 2:
        for channels, memory in product(_divisors(instances[1].get_nodeattr("Channels")), _buffer_memories(board)):
            yield [{"SIMD": channels, "parallel_window": 0} | memory, {"PE": channels}]
        return
    instance = instances[0]
    for values in _PARALLELISM.get(nodes[0].op_type[:-4], _pe_settings)(instance):
        for other in _others(nodes[0], instance, values, board):
            yield [values | other]


def weight_memories(board: Board) -> list[Values]:
    """Return where weights can lie on a board.

    UltraRAM of an UltraScale+ starts empty; FINN refuses it there unless the host can write the weights
    (finn/custom_op/fpgadataflow/matrixvectoractivation.py, generate_infra_hdl).
    """
    from finn.util.basic import is_versal

    styles = ["block", "distributed"] + (["ultra"] if board.resources["URAM"] else [])
    return [
        {"ram_style": style, "runtime_writeable_weights": int(style == "ultra" and not is_versal(board.fpga_part))}
        for style in styles
    ]


def folded_attributes(instance: Any) -> list[str]:
    """Return the attributes of a layer that are its parallelism."""
    return [name for name in ("PE", "SIMD", "parallel_window") if name in instance.get_nodeattr_types()]


def _others(node: onnx.NodeProto, instance: Any, values: Values, board: Board) -> list[Values]:
    """Return what can be chosen beside the parallelism."""
    if is_layer(node, "MVAU"):
        return [memory | kind for memory, kind in product(weight_memories(board), _arithmetic(instance))]
    if node.op_type == "ConvolutionInputGenerator_rtl":
        return _buffer_memories(board)
    if node.op_type == "Thresholding_rtl":
        return _threshold_memories(instance, values["PE"])
    return [{}]


def _arithmetic(instance: Any) -> list[Values]:
    """Return what multiplies; an RTL matrix-vector unit has nothing but DSPs, in LUTs it is the HLS one.

    With weights of one bit there is nothing to multiply.
    """
    if instance.get_input_datatype(1).bitwidth() == 1:
        return [{"resType": "lut"}]
    return [{"resType": "dsp"}, {"resType": "lut"}]


def _buffer_memories(board: Board) -> list[Values]:
    """Return where a sliding window can keep its lines, which start empty in any memory."""
    return [{"ram_style": style} for style in ("block", "distributed", *(["ultra"] if board.resources["URAM"] else []))]


def _threshold_memories(instance: Any, pe: int) -> list[Values]:
    """Return where RTL thresholds can lie: all as Vivado likes, or from one comparison of the search on in block RAM.

    The memory of comparison i holds 2**i thresholds of each channel (finn-rtllib/thresholding/hdl/thresholding.sv).
    Thresholds are part of the bitstream, so UltraRAM, which starts empty, is not among them. FINN's estimate reads an
    UltraRAM depth of 0 as "everything", the RTL as "nothing": hence a depth that nothing has.
    """
    fold = instance.get_nodeattr("NumChannels") // pe
    depths = [fold << level for level in range(instance.get_output_datatype().bitwidth())]
    return [{"depth_trigger_bram": 0, "depth_trigger_uram": 0}] + [
        {"depth_trigger_bram": depth, "depth_trigger_uram": _NEVER} for depth in depths
    ]


def _mvau_settings(instance: Any) -> Iterator[Values]:
    for pe in _divisors(instance.get_nodeattr("MH")):
        for simd in _divisors(instance.get_nodeattr("MW")):
            yield {"PE": pe, "SIMD": simd}


def _window_settings(instance: Any) -> Iterator[Values]:
    channels = instance.get_nodeattr("IFMChannels")
    for simd in _divisors(channels):
        yield {"SIMD": simd, "parallel_window": 0}
    if "parallel_window" in instance.get_nodeattr_types():
        yield {"SIMD": channels, "parallel_window": 1}


def _depthwise_settings(instance: Any, board: Board) -> Iterator[list[Values]]:
    """Yield the settings of a sliding window and the vector-vector unit behind it.

    Both work on as many channels; the unit can take several positions of the kernel at once where it has all channels
    (FINN's SetFolding).
    """
    channels = instance.get_nodeattr("Channels")
    positions = _divisors(prod(instance.get_nodeattr("Kernel")))
    parallel = [(pe, 1) for pe in _divisors(channels)] + [(channels, simd) for simd in positions[1:]]
    others = product(_buffer_memories(board), weight_memories(board), _arithmetic(instance))
    for (pe, simd), (buffer, memory, kind) in product(parallel, list(others)):
        yield [{"SIMD": pe, "parallel_window": int(simd > 1)} | buffer, {"PE": pe, "SIMD": simd} | memory | kind]


def _simd_settings(instance: Any) -> Iterator[Values]:
    for simd in _divisors(instance.get_nodeattr("NumChannels")):
        yield {"SIMD": simd}


def _concat_settings(instance: Any) -> Iterator[Values]:
    streams = instance.get_nodeattr("ChannelsPerStream")
    for simd in _divisors(min(streams)):
        if all(channels % simd == 0 for channels in streams):
            yield {"SIMD": simd}


def _pe_settings(instance: Any) -> Iterator[Values]:
    known = instance.get_nodeattr_types()
    channels = (
        instance.get_nodeattr("NumChannels") if "NumChannels" in known else instance.get_normal_output_shape()[-1]
    )
    for pe in _divisors(int(channels)):
        yield {"PE": pe}


_PARALLELISM: dict[str, Callable[[Any], Iterator[Values]]] = {
    "MVAU": _mvau_settings,
    "ConvolutionInputGenerator": _window_settings,
    "FMPadding": _simd_settings,
    "StreamingConcat": _concat_settings,
}


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
