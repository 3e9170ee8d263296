"""What each operation of a QONNX graph does to integers and their scale and bias.

Shapes: feature maps (1, C, H, W), vectors (1, C).

A handler reads the integers of a node's inputs, writes integer nodes where there is something to compute, and returns
the integers of the node's output. Convolutions and sums make integers of integers, batch normalization only changes
scale and bias, a quantizer turns both into thresholds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from qonnx.core.datatype import DataType

from ..base.errors import UnsupportedError
from .activations import Quantizer, Sign, Truncation
from .integer_graph import IntegerGraph
from .integers import Integers, exact_thresholds, quantized_integers, requant_attributes, within_reach
from .model import QONNX_DOMAIN, attributes, range_datatype
from .qonnx_graph import Weights, node_title, read_quantizer


def _quantize(graph: IntegerGraph, node: onnx.NodeProto) -> Integers:
    is_input = node.input[0] == graph.input.name
    if is_input and node.op_type == "Quant":
        quantizer = read_quantizer(node, graph.constants)
        if graph.takes(node, quantizer):
            return graph.quantize_input(node, quantizer)
    x = graph.input_of(node)
    quantizer = read_quantizer(node, graph.constants, x.shape)
    if isinstance(quantizer, Truncation):
        _check_truncation(node, x, quantizer)
    if isinstance(quantizer, Sign) and graph.needs_true_zero(node.output[0]):
        quantizer = replace(quantizer, low=-1, datatype=range_datatype(-1, 1))
    if np.any(x.scale < 0):
        raise UnsupportedError(
            f"{node_title(node)}: reads a negative scale that no convolution can absorb; "
            "keep the gamma of a batch normalization after a max-pool positive"
        )
    key = (node.op_type, x.name, x.relu, x.leak, x.scale.tobytes(), x.bias.tobytes(), quantizer)
    return graph.once(key, lambda: _write_quantizer(graph, node, x, quantizer))


def _check_truncation(node: onnx.NodeProto, x: Integers, quantizer: Truncation) -> None:
    """Refuse what thresholds would clip and QONNX's Trunc does not."""
    ratio = x.scale / quantizer.input_scale
    highest = np.max(x.high * ratio + x.bias / quantizer.input_scale) / 2**quantizer.bits
    is_below = np.min(x.low * ratio + x.bias / quantizer.input_scale) < quantizer.low * 2**quantizer.bits - 0.25
    if (is_below and not x.relu) or highest > quantizer.high + 1:
        raise UnsupportedError(
            f"{node_title(node)}: its input reaches {highest:g} in units of its output, expected {quantizer.low} to "
            f"{quantizer.high}; give it as many bits"
        )


def _write_quantizer(graph: IntegerGraph, node: onnx.NodeProto, x: Integers, quantizer: Quantizer) -> Integers:
    quantizer, thresholds = within_reach(x, quantizer, exact_thresholds(x, quantizer))
    datatype = quantizer.datatype
    may_widen = graph.may_widen(x) or not x.datatype.signed()
    name = graph.new.constant(
        f"{node.output[0]}_thresholds", thresholds, range_datatype(thresholds.min(), thresholds.max())
    )
    output = graph.new.node(
        "MultiThreshold",
        [graph.materialize(x).name, name],
        (node.output[0], x.shape, datatype),
        domain=QONNX_DOMAIN,
        out_dtype=datatype.name,
        out_scale=1.0,
        out_bias=float(quantizer.low),
        data_layout="NCHW" if len(x.shape) == 4 else "NC",
        **requant_attributes(x, quantizer, thresholds, may_widen=may_widen),
    )
    return quantized_integers(output, x.shape, quantizer)


def _convolve(graph: IntegerGraph, node: onnx.NodeProto) -> Integers:
    x = graph.linear_input(node)
    weights = graph.weights_of(node)
    if weights.integers.ndim != 4:
        raise UnsupportedError(f"{node_title(node)}: convolves in {weights.integers.ndim - 2} dimensions, expected 2")
    given = attributes(node)
    groups = given.get("group", 1)
    kernel = list(weights.integers.shape[2:])
    strides = list(given.get("strides", [1, 1]))
    pads = _pads(node, given)
    if any(step != 1 for step in given.get("dilations", [1, 1])):
        raise UnsupportedError(f"{node_title(node)}: is dilated; use dilation 1")
    size = _output_size(x.shape[2:], kernel, strides, pads)
    shape = (1, weights.integers.shape[0], *size)
    bias = _bias(graph, node)
    return graph.product(node, x, weights, (shape, bias), kernel_shape=kernel, strides=strides, pads=pads, group=groups)


def _bias(graph: IntegerGraph, node: onnx.NodeProto) -> np.ndarray:
    """Return the bias of a convolution or a linear layer, (out,) or (1,)."""
    if len(node.input) < 3 or not node.input[2]:
        return np.zeros(1)
    bias = graph.constant(node.input[2])
    if bias is None:
        raise UnsupportedError(f"{node_title(node)}: its bias depends on the input; export a constant one")
    return bias.reshape(-1)


def _multiply_matrix(graph: IntegerGraph, node: onnx.NodeProto) -> Integers:
    x = graph.linear_input(node)
    weights = graph.weights_of(node)
    given = attributes(node)
    bias = np.zeros(1)
    if node.op_type == "Gemm":
        if given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0 or given.get("transA", 0):
            raise UnsupportedError(f"{node_title(node)}: uses alpha, beta or transA; export a plain linear layer")
        if not given.get("transB", 0):
            weights = weights.transposed((1, 0))
        bias = _bias(graph, node)
    else:
        weights = weights.transposed((1, 0))
    if len(x.shape) != 2 or weights.integers.shape[1] != x.channels:
        raise UnsupportedError(f"{node_title(node)}: multiplies {list(x.shape)} by {weights.integers.shape[::-1]}")
    return graph.product(node, x, weights, ((1, weights.integers.shape[0]), bias))


def _normalize(graph: IntegerGraph, node: onnx.NodeProto) -> Integers:
    """Batch normalization: ``gamma * (y - mean) / sqrt(variance + epsilon) + beta``."""
    x = graph.input_of(node)
    gamma, beta, mean, variance = (graph.constants[name].astype(np.float64) for name in node.input[1:5])
    factor = gamma / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
    return graph.scaled(node, x, factor, beta - mean * factor)


def _multiply(graph: IntegerGraph, node: onnx.NodeProto) -> Integers:
    x = graph.input_of(node, 1 if node.input[0] in graph.constants else 0)
    value, constant_first = graph.constant_of(node, x)
    if node.op_type == "Div":
        if constant_first:
            raise UnsupportedError(f"{node_title(node)}: divides by a feature map; the accelerator cannot")
        value = 1.0 / value
    return graph.scaled(node, x, value, np.zeros(1))


def _add(graph: IntegerGraph, node: onnx.NodeProto) -> Integers:
    if any(name in graph.constants for name in node.input):
        x = graph.input_of(node, 1 if node.input[0] in graph.constants else 0)
        value, constant_first = graph.constant_of(node, x)
        if node.op_type == "Sub":
            return graph.scaled(
                node, x, np.full(1, -1.0 if constant_first else 1.0), value * (1 if constant_first else -1)
            )
        return graph.scaled(node, x, np.ones(1), value)
    if node.op_type == "Sub":
        raise UnsupportedError(f"{node_title(node)}: subtracts feature maps; the accelerator only adds them")
    return _join(graph, node)


def _join(graph: IntegerGraph, node: onnx.NodeProto) -> Integers:
    left, right = (graph.input_of(node, position) for position in (0, 1))
    for side in (left, right):
        if side.relu or np.any(side.scale <= 0):
            raise UnsupportedError(
                f"{node_title(node)}: adds '{side.name}', which is not quantized; put the join's "
                "quantizer on both inputs"
            )
    if left.shape != right.shape:
        raise UnsupportedError(f"{node_title(node)}: adds shapes {list(left.shape)} and {list(right.shape)}")
    return graph.add(node, (left, right))


def _rectify(graph: IntegerGraph, node: onnx.NodeProto) -> Integers:
    return replace(graph.input_of(node), relu=True, leak=0.0)


def _rectify_leakily(graph: IntegerGraph, node: onnx.NodeProto) -> Integers:
    """A leaky ReLU rises everywhere, so a quantizer behind it is thresholds all the same."""
    x = graph.input_of(node)
    leak = float(attributes(node).get("alpha", 0.01))
    if x.relu and x.leak:
        raise UnsupportedError(f"{node_title(node)}: reads a leaky ReLU; put a quantizer between them")
    if not leak >= 0:
        raise UnsupportedError(f"{node_title(node)}: got alpha {leak:g}, expected 0 or more: it must not fall")
    return x if x.relu else replace(x, relu=True, leak=leak)


def _max_pool(graph: IntegerGraph, node: onnx.NodeProto) -> Integers:
    x = graph.materialize(graph.input_of(node))
    given = attributes(node)
    kernel = list(given["kernel_shape"])
    strides, pads = list(given.get("strides", [1, 1])), _pads(node, given)
    if given.get("ceil_mode", 0) or any(step != 1 for step in given.get("dilations", [1, 1])):
        raise UnsupportedError(f"{node_title(node)}: uses ceil_mode or dilation; the accelerator cannot")
    if any(pads) and np.any(x.low < 0):
        raise UnsupportedError(
            f"{node_title(node)}: pads a signed tensor with zeros, which would win over negative values; "
            "pool an unsigned one"
        )
    if np.any(x.scale <= 0):
        raise UnsupportedError(f"{node_title(node)}: pools a tensor of negative scale")
    if min(kernel[0] - strides[0], kernel[1] - strides[1]) < 0:
        raise UnsupportedError(f"{node_title(node)}: its stride {strides} exceeds its kernel {kernel}")
    shape = (*x.shape[:2], *_output_size(x.shape[2:], kernel, strides, pads))
    output = (node.output[0], shape, x.datatype)
    window = {"kernel_shape": kernel, "strides": strides, "pads": pads}
    key = ("MaxPool", x.name, *kernel, *strides, *pads)
    return replace(x, name=graph.once(key, lambda: graph.new.node("MaxPool", [x.name], output, **window)), shape=shape)


def _concatenate(graph: IntegerGraph, node: onnx.NodeProto) -> Integers:
    parts = [graph.materialize(graph.input_of(node, i)) for i in range(len(node.input))]
    if attributes(node)["axis"] not in (1, 1 - len(parts[0].shape)):
        raise UnsupportedError(f"{node_title(node)}: concatenates along another axis than the channels")
    if any((part.relu, part.leak) != (parts[0].relu, parts[0].leak) for part in parts):
        raise UnsupportedError(f"{node_title(node)}: concatenates a ReLU that is not quantized with another tensor")
    low, high = min(part.low.min() for part in parts), max(part.high.max() for part in parts)
    datatype = range_datatype(low, high)
    channels = sum(part.channels for part in parts)
    shape = (1, channels, *parts[0].shape[2:])

    def joined(read: Callable[[Integers], np.ndarray]) -> np.ndarray:
        return np.concatenate([np.broadcast_to(read(part), part.channels) for part in parts])

    name = graph.new.node("Concat", [part.name for part in parts], (node.output[0], shape, datatype), axis=1)
    return replace(
        parts[0],
        name=name,
        shape=shape,
        datatype=datatype,
        scale=_collapsed(joined(lambda part: part.scale)),
        bias=_collapsed(joined(lambda part: part.bias)),
        low=_collapsed(joined(lambda part: part.low)),
        high=_collapsed(joined(lambda part: part.high)),
    )


def _pool_globally(graph: IntegerGraph, node: onnx.NodeProto) -> Integers:
    """The mean over all positions: a sum of integers, and a scale."""
    x = graph.materialize(graph.input_of(node))
    height, width = x.shape[2:]
    if node.op_type == "ReduceMean" and not _reduces_positions(graph, node):
        raise UnsupportedError(f"{node_title(node)}: averages over other axes than the positions")
    if x.relu:
        raise UnsupportedError(f"{node_title(node)}: reads a ReLU that is not quantized; put a quantizer before it")
    count = height * width
    low, high = x.low * count, x.high * count
    datatype = range_datatype(low.min(), high.max())
    axes = graph.new.axes(f"{node.output[0]}_axes", [2, 3])
    shape = (1, x.channels, 1, 1)
    name = graph.new.node("ReduceSum", [x.name, axes], (node.output[0], shape, datatype), keepdims=1)
    return replace(x, name=name, shape=shape, datatype=datatype, scale=x.scale / count, low=low, high=high)


def _pool_average(graph: IntegerGraph, node: onnx.NodeProto) -> Integers:
    """The mean of each window: over the whole map a sum, over less a depthwise convolution by ones, and a scale."""
    x = graph.input_of(node)
    given = attributes(node)
    kernel, pads = list(given["kernel_shape"]), _pads(node, given)
    strides = list(given.get("strides", [1, 1]))
    if kernel == list(x.shape[2:]) and not any(pads):
        return _pool_globally(graph, node)
    if given.get("ceil_mode", 0) or any(step != 1 for step in given.get("dilations", [1, 1])):
        raise UnsupportedError(f"{node_title(node)}: uses ceil_mode or dilation; the accelerator cannot")
    if any(pads) and not given.get("count_include_pad", 0):
        raise UnsupportedError(
            f"{node_title(node)}: divides windows at the edge by fewer positions; set count_include_pad, or pads of 0"
        )
    x = graph.linear_input(node)
    ones = np.ones((x.channels, 1, *kernel))
    weights = Weights(integers=ones, scale=np.full((1, 1, 1, 1), 1 / np.prod(kernel)), datatype=DataType["INT2"])
    shape = (1, x.channels, *_output_size(x.shape[2:], kernel, strides, pads))
    given = {"kernel_shape": kernel, "strides": strides, "pads": pads, "group": x.channels}
    return graph.product(node, x, weights, (shape, np.zeros(1)), **given)


def _reduces_positions(graph: IntegerGraph, node: onnx.NodeProto) -> bool:
    given = attributes(node)
    axes = given.get("axes") or (graph.constants[node.input[1]].tolist() if len(node.input) > 1 else [])
    return sorted(axis % 4 for axis in axes) == [2, 3] and given.get("keepdims", 1) == 1


def _flatten(graph: IntegerGraph, node: onnx.NodeProto) -> Integers:
    """A vector of all channels and positions, channel by channel as the network's own layout has them."""
    x = graph.materialize(graph.input_of(node))
    if len(x.shape) == 2:
        return x
    if not _keeps_batch(graph, node):
        raise UnsupportedError(
            f"{node_title(node)}: makes another shape of {list(x.shape)} than one vector; flatten to [1, -1]"
        )
    size = int(np.prod(x.shape[2:]))
    shape = (1, x.channels * size)
    name = graph.new.node("Flatten", [x.name], (node.output[0], shape, x.datatype), axis=1)
    each = {
        key: np.repeat(values, size) if len(values := getattr(x, key)) > 1 else values
        for key in ("scale", "bias", "low", "high")
    }
    return replace(x, name=name, shape=shape, **each)


def _keeps_batch(graph: IntegerGraph, node: onnx.NodeProto) -> bool:
    """Tell whether a node that changes the shape keeps the batch and makes a vector of the rest."""
    given = attributes(node)
    match node.op_type:
        case "Flatten":
            return given.get("axis", 1) in (1, -3)
        case "Reshape":
            target = graph.constant(node.input[1])
            shape = graph.input_of(node).shape
            return (
                target is not None
                and len(target) == 2
                and target[0] in (0, 1, -1)
                and target[1] in (-1, np.prod(shape))
            )
        case _:
            return graph.input_of(node).shape[2:] == (1, 1)


def _pass(graph: IntegerGraph, node: onnx.NodeProto) -> Integers:
    return graph.input_of(node)


HANDLERS: dict[str, Callable[[IntegerGraph, onnx.NodeProto], Integers]] = {
    "Add": _add,
    "AveragePool": _pool_average,
    "BipolarQuant": _quantize,
    "BatchNormalization": _normalize,
    "Concat": _concatenate,
    "Conv": _convolve,
    "Div": _multiply,
    "Dropout": _pass,
    "Flatten": _flatten,
    "Gemm": _multiply_matrix,
    "GlobalAveragePool": _pool_globally,
    "Identity": _pass,
    "LeakyRelu": _rectify_leakily,
    "MatMul": _multiply_matrix,
    "MaxPool": _max_pool,
    "Mul": _multiply,
    "Quant": _quantize,
    "ReduceMean": _pool_globally,
    "Relu": _rectify,
    "Reshape": _flatten,
    "Squeeze": _flatten,
    "Sub": _add,
    "Trunc": _quantize,
}


def _collapsed(values: np.ndarray) -> np.ndarray:
    return values[:1] if np.all(values == values[0]) else values


def _pads(node: onnx.NodeProto, given: dict[str, Any]) -> list[int]:
    if given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise UnsupportedError(f"{node_title(node)}: uses auto_pad; export explicit pads")
    return list(given.get("pads", [0, 0, 0, 0]))


def _output_size(size: tuple[int, ...], kernel: list[int], strides: list[int], pads: list[int]) -> tuple[int, int]:
    height = (size[0] + pads[0] + pads[2] - kernel[0]) // strides[0] + 1
    width = (size[1] + pads[1] + pads[3] - kernel[1]) // strides[1] + 1
    return height, width
