"""What each layer does with one frame, word by word: when it may take a word, when it gives one.

The numbers are those of FINN's RTL (finn-rtllib: mvu, thresholding, requant, fmpadding, dwc; windows.py: swg) and, for
layers that FINN has in HLS, of their C++: one iteration a cycle, between the two-word register slices that Vitis HLS
puts at each port. tests/simulated.json holds them against a simulation of the RTL.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import gcd, prod
from typing import Any

import numpy as np
import onnx

from ..graph.model import Model, custom_op
from ..graph.steps import is_layer
from .figures import clog2
from .firings import Actor, Input, Output
from .windows import Geometry, converted_window_cycles, geometry_of, window, window_cycles


def actor_of(node: onnx.NodeProto, instance: Any) -> Actor:
    """Return what a specialized, folded layer does."""
    kind = next((kind for kind in _ACTORS if is_layer(node, kind)), None)
    if kind is None:
        return _all_at_once(instance)
    return _ACTORS[kind](node, instance)


def cycles_of(node: onnx.NodeProto, instance: Any) -> int:
    """Return the cycles from one frame to the next in which a specialized, folded layer never waits.

    FINN's own figure, but for sliding windows, where it is off by some percent.
    """
    if node.op_type == "ConvolutionInputGenerator_rtl":
        return window_cycles(geometry_of(instance))
    return int(instance.get_exp_cycles())


def pace_of(model: Model) -> tuple[int, str]:
    """Return the cycles from one frame to the next that a folded model can keep, and the layer that needs them.

    That is the slowest layer, or one that waits for the converter behind it.
    """
    instances = {node.name: custom_op(node) for node in model.graph.node}
    cycles = {node.name: cycles_of(node, instances[node.name]) for node in model.graph.node}
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            producer = model.find_producer(name)
            if producer is not None:
                source, read = instances[producer.name], instances[node.name].get_instream_width(position)
                width = source.get_outstream_width(list(producer.output).index(name))
                converted = _converted_cycles(producer, source, width, read)
                cycles[producer.name] = max(cycles[producer.name], converted)
    slowest = max(cycles, key=cycles.__getitem__)
    return cycles[slowest], slowest


def _converted_cycles(node: onnx.NodeProto, instance: Any, width: int, read: int) -> int:
    """Return the cycles of a frame of a layer whose words are converted; 0 if that is no slower than sending them."""
    words = _words(instance.get_folded_output_shape())
    cycles = -(-words * (width + read - gcd(width, read)) // read)
    if width == read or cycles == words:
        return 0
    if node.op_type == "ConvolutionInputGenerator_rtl":
        return _converted_window_cycles(geometry_of(instance), width, read)
    if is_layer(node, "GlobalAccPool"):
        return int(instance.get_exp_cycles()) + cycles - words
    return cycles


@cache
def _converted_window_cycles(geometry: Geometry, width: int, read: int) -> int:
    words = len(window(geometry).outputs[0].fires)
    return converted_window_cycles(geometry, converter(width, read, words))


@cache
def converter(in_width: int, out_width: int, num_in: int) -> Actor:
    """Return what a data width converter does with words of `in_width` bits (vpc.sv).

    It holds as many bits as a word of each side. Where neither width divides the other, it mostly takes a word or gives
    one, not both at once: of 8 bits and 12 it takes three in four cycles.
    """
    num_out = num_in * in_width // out_width
    out, taken = np.arange(num_out), np.arange(num_in)
    return Actor(
        gaps=1,
        num_firings=num_out,
        inputs=(
            Input(
                reads=-(-(out + 1) * out_width // in_width) - 1,
                frees=np.maximum(-(-taken * in_width // out_width) - 2, -1),
            ),
        ),
        outputs=(Output(fires=out, lag=0),),
        is_coupled=is_uneven(in_width, out_width),
        reset=0,
    )


def is_uneven(in_width: int, out_width: int) -> bool:
    """Tell whether neither width divides the other."""
    return bool(in_width % out_width and out_width % in_width)


def _words(shape: Any) -> int:
    return int(np.prod(shape[:-1]))


def _word_by_word(words: int, num_inputs: int, num_outputs: int, latency: int) -> Actor:
    """A word in, a word out."""
    every = np.arange(words)
    return Actor(
        gaps=1,
        num_firings=words,
        inputs=(Input(reads=every, frees=every - 2),) * num_inputs,
        outputs=(Output(fires=every, lag=latency),) * num_outputs,
    )


def _hls(node: onnx.NodeProto, instance: Any) -> Actor:
    count = sum(1 for name in node.input if name), len(node.output)
    return _word_by_word(_words(instance.get_folded_output_shape()), *count, 1)


def _scaling(node: onnx.NodeProto, instance: Any) -> Actor:
    """As any layer in C++; the number it multiplies by is no stream."""
    return _word_by_word(_words(instance.get_folded_output_shape()), 1, 1, 1)


def _threshold(node: onnx.NodeProto, instance: Any) -> Actor:
    """One stage for each bit of the result, then a queue (thresholding.sv)."""
    words = _words(instance.get_folded_output_shape())
    every = np.arange(words)
    stages = instance.get_output_datatype().bitwidth()
    deep = "deep_pipeline" in instance.get_nodeattr_types() and instance.get_nodeattr("deep_pipeline")
    return Actor(
        gaps=1,
        num_firings=words,
        inputs=(Input(reads=every, frees=every - 1, lag=0, room=1),),
        outputs=(Output(fires=every, lag=(1 + bool(deep)) * stages + 2),),
    )


def _requant(node: onnx.NodeProto, instance: Any) -> Actor:
    words = _words(instance.get_folded_output_shape())
    every = np.arange(words)
    return Actor(
        gaps=1,
        num_firings=words,
        inputs=(Input(reads=every, frees=every - 1, lag=0, room=1),),
        outputs=(Output(fires=every, lag=6),),
    )


def _padding(node: onnx.NodeProto, instance: Any) -> Actor:
    """A firing for each word out; one word waits while the border is written (fmpadding.sv)."""
    top, left, _, _ = instance.get_nodeattr("Padding")
    _, height, width, channels = instance.get_normal_output_shape()
    _, rows, columns, _ = instance.get_normal_input_shape()
    folds = channels // instance.get_nodeattr("SIMD")
    inside = np.zeros((height, width, folds), bool)
    inside[top : top + rows, left : left + columns] = True
    inside = inside.reshape(-1)
    places = np.flatnonzero(inside)
    return Actor(
        gaps=1,
        num_firings=len(inside),
        inputs=(Input(reads=np.cumsum(inside) - 1, frees=np.concatenate([[-1], places[:-1]]), lag=0, room=1),),
        outputs=(Output(fires=np.arange(len(inside))),),
    )


def _matrix(node: onnx.NodeProto, instance: Any) -> Actor:
    """A firing for each word of a vector; the other rows' turns with it (NF - 1 of SF cycles) follow its last."""
    get = instance.get_nodeattr
    fold, turns = get("MW") // get("SIMD"), get("MH") // get("PE")
    vectors = prod(instance.get_normal_output_shape()[:-1])
    words = vectors * fold
    every = np.arange(words)
    gaps = np.ones(words, np.int64)
    gaps[::fold] += (turns - 1) * fold
    is_rtl = node.op_type.endswith("_rtl")
    if is_rtl and turns > 1:  # replay_buffer.sv: memory of a power of two, and a register
        held, lag, room = max(1 << clog2(fold), 2), 1, (turns - 1) * fold + 1
    elif is_rtl:
        held, lag, room = 1, 0, 1
    else:
        held, lag, room = 2, 1, 1
    latency = _matrix_latency(get("SIMD"), turns) if is_rtl else 1
    return Actor(
        gaps=gaps,
        num_firings=words,
        inputs=(Input(reads=every, frees=np.maximum(every - held, -1), lag=lag, room=room),),
        outputs=(
            Output(
                fires=np.repeat(np.arange(fold - 1, words, fold), turns),
                lag=np.tile(np.arange(turns) * fold + latency, vectors),
            ),
        ),
    )


def _matrix_latency(simd: int, turns: int) -> int:
    return 3 + clog2(simd + 1) + (simd == 1) + 2 + (turns > 1)


def _by_channel(node: onnx.NodeProto, instance: Any) -> Actor:
    """K words of a window, then one word out: a pool, or a vector-vector unit."""
    outputs = _words(instance.get_folded_output_shape())
    words = _words(instance.get_folded_input_shape())
    kernel = words // outputs
    every = np.arange(words)
    return Actor(
        gaps=1,
        num_firings=words,
        inputs=(Input(reads=every, frees=every - 2),),
        outputs=(Output(fires=np.arange(kernel - 1, words, kernel)),),
    )


def _accumulating(node: onnx.NodeProto, instance: Any) -> Actor:
    """Sums leave after the last pixel, and nothing enters then."""
    words, outputs = _words(instance.get_folded_input_shape()), _words(instance.get_folded_output_shape())
    every = np.arange(words)
    gaps = np.ones(words, np.int64)
    gaps[0] += outputs
    return Actor(
        gaps=gaps,
        num_firings=words,
        inputs=(Input(reads=every, frees=every - 2),),
        outputs=(Output(fires=np.full(outputs, words - 1), lag=np.arange(outputs) + 2),),
    )


def _concatenation(node: onnx.NodeProto, instance: Any) -> Actor:
    """Of each pixel the words of the first input, then those of the next."""
    folds = [int(instance.get_folded_input_shape(position)[-2]) for position in range(len(node.input))]
    pixels = _words(instance.get_folded_output_shape()) // sum(folds)
    owner = np.tile(np.repeat(np.arange(len(folds)), folds), pixels)
    inputs = []
    for position in range(len(folds)):
        places = np.flatnonzero(owner == position)
        inputs.append(
            Input(reads=np.cumsum(owner == position) - 1, frees=np.concatenate([[-1, -1], places[:-2]])[: len(places)])
        )
    return Actor(gaps=1, num_firings=len(owner), inputs=tuple(inputs), outputs=(Output(fires=np.arange(len(owner))),))


def _all_at_once(instance: Any) -> Actor:
    """A layer that is not known: the whole frame in, its cycles, the whole frame out."""
    inputs, outputs = _words(instance.get_folded_input_shape()), _words(instance.get_folded_output_shape())
    every = np.arange(inputs)
    gaps = np.ones(inputs, np.int64)
    cycles = int(instance.get_exp_cycles())
    gaps[0] += max(cycles - inputs, outputs)
    return Actor(
        gaps=gaps,
        num_firings=inputs,
        inputs=(Input(reads=every, frees=every - 2),),
        outputs=(Output(fires=np.full(outputs, inputs - 1), lag=np.arange(outputs) + max(cycles - outputs, 2)),),
    )


_ACTORS: dict[str, Callable[[onnx.NodeProto, Any], Actor]] = {
    "Thresholding": _threshold,
    "Requant": _requant,
    "FMPadding": _padding,
    "ConvolutionInputGenerator": lambda _, instance: window(geometry_of(instance)),
    "MVAU": _matrix,
    "VVAU": _by_channel,
    "Pool": _by_channel,
    "GlobalAccPool": _accumulating,
    "StreamingConcat": _concatenation,
    "DuplicateStreams": _hls,
    "ElementwiseAdd": _hls,
    "ElementwiseMul": _scaling,
}
