"""From QONNX to an integer graph: every tensor between the input and the logits becomes a small integer.

Shapes: feature maps (1, C, H, W), vectors (1, C).

One pass over the graph carries, beside each integer tensor x, what it stands for: ``real = scale * x + bias``, per
channel and in float64. Convolutions and sums make integers of integers; batch normalization only changes scale and
bias; a quantizer turns them into thresholds on x. The thresholds are exact: the k-th output step begins at the
smallest integer x with ``round_half_even((scale * x + bias) / step) >= k`` - that is QONNX's Quant (qonnx
custom_op/general/quant.py) solved for x, so no floating-point noise is left in the network.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import onnx
from qonnx.core.datatype import BaseDataType

from .errors import ManifestError, UnsupportedError
from .model import QONNX_DOMAIN, GraphBuilder, Model, attributes, range_datatype, tensor_title
from .qonnx_graph import Quantizer, Weights, constants, read_quantizer, read_weights

_FLOAT64_NOISE = 1e-12  # relative; a threshold this near to an integer is computed again, in rational numbers


@dataclass(frozen=True, kw_only=True)
class Integers:
    """An integer tensor of the new graph and what it stands for: ``real = scale * x + bias``, ReLU'd if `relu`."""

    name: str
    shape: tuple[int, ...]
    datatype: BaseDataType
    scale: np.ndarray  # (C,) or (1,), float64
    bias: np.ndarray  # (C,) or (1,), float64
    low: np.ndarray  # (C,) or (1,): smallest and largest value x can take
    high: np.ndarray
    relu: bool = False

    @property
    def channels(self) -> int:
        return self.shape[1]


@dataclass(frozen=True, kw_only=True)
class Dequantization:
    """What turns the accelerator's output integers into logits: ``logits = scale * x + bias``."""

    scale: np.ndarray  # (K,)
    bias: np.ndarray  # (K,)


def streamline(source: onnx.ModelProto) -> tuple[Model, Dequantization]:
    """Return the integer graph of a QONNX model (without the final scale) and the scale of its outputs.

    Raises:
        UnsupportedError: an operation, or a combination, that has no exact integer form; it names the node.
        ManifestError: the graph is not one network from one image to one vector.
    """
    return _Streamliner(source).run()


class _Streamliner:
    def __init__(self, source: onnx.ModelProto) -> None:
        self._graph = source.graph
        self._constants = constants(source.graph)
        self._new = GraphBuilder("streamlined")
        self._integers: dict[str, Integers] = {}
        self._weights: dict[str, Weights] = {}
        self._unwritten: dict[str, _Product] = {}
        self._num_readers = Counter(name for node in source.graph.node for name in node.input)

    def run(self) -> tuple[Model, Dequantization]:
        inputs = [entry for entry in self._graph.input if entry.name not in self._constants]
        if len(inputs) != 1 or len(self._graph.output) != 1:
            raise ManifestError(
                f"model.onnx: got {len(inputs)} inputs and {len(self._graph.output)} outputs, expected one of each"
            )
        self._input = inputs[0]
        for node in self._graph.node:
            self._visit(node)
        result = self._integers.get(self._graph.output[0].name)
        if result is None or result.relu:
            raise UnsupportedError(
                f"output '{self._graph.output[0].name}': does not end in a quantized linear layer; "
                "let the network end with its classifier"
            )
        self._new.output(self._materialize(result).name)
        channels = result.channels
        dequantization = Dequantization(
            scale=np.broadcast_to(result.scale, channels).copy(), bias=np.broadcast_to(result.bias, channels).copy()
        )
        return self._new.model(), dequantization

    def _visit(self, node: onnx.NodeProto) -> None:
        if node.output[0] in self._constants:
            return
        weights = read_weights(node, self._constants, self._weights)
        if weights is not None:
            self._weights[node.output[0]] = weights
            return
        handler = self._HANDLERS.get(node.op_type)
        if handler is None:
            raise UnsupportedError(
                f"{_title(node)}: the accelerator has no such operation; "
                f"use {', '.join(sorted(self._HANDLERS))} with quantized weights"
            )
        self._integers[node.output[0]] = handler(self, node)

    # -- reading inputs

    def _input_of(self, node: onnx.NodeProto, position: int = 0) -> Integers:
        name = node.input[position]
        found = self._integers.get(name)
        if found is None:
            raise UnsupportedError(f"{_title(node)}: reads '{name}', which is not quantized; put a quantizer before it")
        return found

    def _linear_input(self, node: onnx.NodeProto) -> Integers:
        """Return an input that a sum over channels and positions may read: one scale for all, zero is zero."""
        x = self._materialize(self._input_of(node))
        if x.relu or len(np.unique(x.scale)) > 1 or np.any(x.bias != 0):
            raise UnsupportedError(f"{_title(node)}: its input is not quantized; put a quantizer before it")
        return x

    def _constant_of(self, node: onnx.NodeProto, x: Integers) -> tuple[np.ndarray, bool]:
        """Return the constant operand of a node, one value or one a channel, and whether it comes first."""
        for position, name in enumerate(node.input):
            if name in self._constants:
                value = self._constants[name].astype(np.float64)
                return _per_channel(value, len(x.shape), x.channels, node), position == 0
        raise UnsupportedError(f"{_title(node)}: multiplies or divides two feature maps; the accelerator cannot")

    # -- operations

    def _quantize(self, node: onnx.NodeProto) -> Integers:
        quantizer = read_quantizer(node, self._constants)
        if node.input[0] == self._input.name:
            return self._quantize_input(node, quantizer)
        x = self._input_of(node)
        if np.any(x.scale < 0):
            raise UnsupportedError(
                f"{_title(node)}: reads a negative scale that no convolution can absorb; "
                "keep the gamma of a batch normalization after a max-pool positive"
            )
        thresholds = exact_thresholds(x, quantizer)
        datatype = quantizer.datatype
        name = self._new.constant(
            f"{node.output[0]}_thresholds", thresholds, range_datatype(thresholds.min(), thresholds.max())
        )
        output = self._new.node(
            "MultiThreshold",
            [self._materialize(x).name, name],
            (node.output[0], x.shape, datatype),
            domain=QONNX_DOMAIN,
            out_dtype=datatype.name,
            out_scale=1.0,
            out_bias=float(quantizer.low),
            data_layout="NCHW" if len(x.shape) == 4 else "NC",
        )
        return _quantized(output, x.shape, quantizer)

    def _quantize_input(self, node: onnx.NodeProto, quantizer: Quantizer) -> Integers:
        """Let the accelerator take the integers themselves: the host's pixels."""
        shape = tuple(dim.dim_value for dim in self._input.type.tensor_type.shape.dim)
        if len(shape) != 4 or shape[0] != 1 or min(shape) < 1:
            raise ManifestError(f"model.onnx: input: got shape {list(shape)}, expected [1, C, H, W]")
        if self._input.name not in self._integers:
            self._new.input(self._new.unique(self._input.name), shape, quantizer.datatype)
        return _quantized(self._input.name, shape, quantizer)

    def _convolve(self, node: onnx.NodeProto) -> Integers:
        x = self._linear_input(node)
        weights = self._weights_of(node)
        if weights.integers.ndim != 4:
            raise UnsupportedError(f"{_title(node)}: convolves in {weights.integers.ndim - 2} dimensions, expected 2")
        given = attributes(node)
        groups = given.get("group", 1)
        kernel = list(weights.integers.shape[2:])
        strides = list(given.get("strides", [1, 1]))
        pads = _pads(node, given)
        if any(step != 1 for step in given.get("dilations", [1, 1])):
            raise UnsupportedError(f"{_title(node)}: is dilated; use dilation 1")
        size = _output_size(x.shape[2:], kernel, strides, pads)
        shape = (1, weights.integers.shape[0], *size)
        bias = self._constants[node.input[2]].astype(np.float64) if len(node.input) > 2 else np.zeros(1)
        return self._product(
            node, x, weights, (shape, bias), kernel_shape=kernel, strides=strides, pads=pads, group=groups
        )

    def _multiply_matrix(self, node: onnx.NodeProto) -> Integers:
        x = self._linear_input(node)
        weights = self._weights_of(node)
        given = attributes(node)
        bias = np.zeros(1)
        if node.op_type == "Gemm":
            if given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0 or given.get("transA", 0):
                raise UnsupportedError(f"{_title(node)}: uses alpha, beta or transA; export a plain linear layer")
            if not given.get("transB", 0):
                weights = weights.transposed((1, 0))
            if len(node.input) > 2:
                bias = self._constants[node.input[2]].astype(np.float64).reshape(-1)
        else:
            weights = weights.transposed((1, 0))
        if len(x.shape) != 2 or weights.integers.shape[1] != x.channels:
            raise UnsupportedError(f"{_title(node)}: multiplies {list(x.shape)} by {weights.integers.shape[::-1]}")
        return self._product(node, x, weights, ((1, weights.integers.shape[0]), bias))

    def _product(
        self,
        node: onnx.NodeProto,
        x: Integers,
        weights: Weights,
        result: tuple[tuple[int, ...], np.ndarray],
        **given: Any,
    ) -> Integers:
        """Make the integers of a convolution or matrix product; weights: (out channels, in channels, ...)."""
        shape, bias = result
        if weights.output_scale is None:
            raise UnsupportedError(f"{_title(node)}: its weights have more than one scale per output channel")
        scale = x.scale * weights.output_scale
        product = _Product(node=node, x=x, weights=weights, shape=shape, attributes=given)
        low, high = product.range()
        # not written yet: a negative scale may still flip its weights (see `_materialize`)
        name = node.output[0]
        self._unwritten[name] = product
        return Integers(
            name=name,
            shape=shape,
            datatype=range_datatype(low.min(), high.max()),
            scale=scale,
            bias=bias,
            low=low,
            high=high,
        )

    def _materialize(self, x: Integers) -> Integers:
        """Write the product that makes `x`, if it is not written yet."""
        product = self._unwritten.pop(x.name, None)
        if product is not None:
            product.write(self._new, x)
        return x

    def _scaled(self, node: onnx.NodeProto, x: Integers, factor: np.ndarray, offset: np.ndarray) -> Integers:
        if x.relu:
            raise UnsupportedError(f"{_title(node)}: stands between a ReLU and its quantizer; put it before the ReLU")
        scale, bias = x.scale * factor, x.bias * factor + offset
        negative = np.broadcast_to(scale < 0, x.channels)
        product = self._unwritten.get(x.name)
        if negative.any() and product is not None and self._is_read_once(x):
            self._unwritten[x.name] = product = product.flipped(negative)
            low, high = product.range()
            datatype = range_datatype(low.min(), high.max())
            return replace(x, scale=np.abs(scale), bias=bias, low=low, high=high, datatype=datatype)
        return replace(x, scale=scale, bias=bias)

    def _is_read_once(self, x: Integers) -> bool:
        """Tell whether every tensor of the source graph that stands for `x` has one reader."""
        return all(self._num_readers[name] == 1 for name, other in self._integers.items() if other.name == x.name)

    def _normalize(self, node: onnx.NodeProto) -> Integers:
        """Batch normalization: ``gamma * (y - mean) / sqrt(variance + epsilon) + beta``."""
        x = self._input_of(node)
        gamma, beta, mean, variance = (self._constants[name].astype(np.float64) for name in node.input[1:5])
        factor = gamma / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
        return self._scaled(node, x, factor, beta - mean * factor)

    def _multiply(self, node: onnx.NodeProto) -> Integers:
        x = self._input_of(node, 1 if node.input[0] in self._constants else 0)
        value, constant_first = self._constant_of(node, x)
        if node.op_type == "Div":
            if constant_first:
                raise UnsupportedError(f"{_title(node)}: divides by a feature map; the accelerator cannot")
            value = 1.0 / value
        return self._scaled(node, x, value, np.zeros(1))

    def _add(self, node: onnx.NodeProto) -> Integers:
        if any(name in self._constants for name in node.input):
            x = self._input_of(node, 1 if node.input[0] in self._constants else 0)
            value, constant_first = self._constant_of(node, x)
            if node.op_type == "Sub":
                return self._scaled(
                    node, x, np.full(1, -1.0 if constant_first else 1.0), value * (1 if constant_first else -1)
                )
            return self._scaled(node, x, np.ones(1), value)
        if node.op_type == "Sub":
            raise UnsupportedError(f"{_title(node)}: subtracts feature maps; the accelerator only adds them")
        return self._join(node)

    def _join(self, node: onnx.NodeProto) -> Integers:
        left, right = (self._materialize(self._input_of(node, position)) for position in (0, 1))
        for side in (left, right):
            if side.relu or side.scale.size > 1 or np.any(side.bias != 0):
                raise UnsupportedError(
                    f"{_title(node)}: adds '{side.name}', which is not quantized; put the join's "
                    "quantizer on both inputs"
                )
        if left.scale != right.scale:
            raise UnsupportedError(
                f"{_title(node)}: its inputs have the scales {left.scale[0]:.6g} and {right.scale[0]:.6g}; "
                "let both inputs of an addition share one quantizer"
            )
        if left.shape != right.shape:
            raise UnsupportedError(f"{_title(node)}: adds shapes {list(left.shape)} and {list(right.shape)}")
        low, high = left.low + right.low, left.high + right.high
        datatype = range_datatype(low.min(), high.max())
        name = self._new.node("Add", [left.name, right.name], (node.output[0], left.shape, datatype))
        return replace(left, name=name, datatype=datatype, low=low, high=high)

    def _rectify(self, node: onnx.NodeProto) -> Integers:
        return replace(self._input_of(node), relu=True)

    def _max_pool(self, node: onnx.NodeProto) -> Integers:
        x = self._materialize(self._input_of(node))
        given = attributes(node)
        kernel = list(given["kernel_shape"])
        strides, pads = list(given.get("strides", [1, 1])), _pads(node, given)
        if given.get("ceil_mode", 0) or any(step != 1 for step in given.get("dilations", [1, 1])):
            raise UnsupportedError(f"{_title(node)}: uses ceil_mode or dilation; the accelerator cannot")
        if any(pads) and np.any(x.low < 0):
            raise UnsupportedError(
                f"{_title(node)}: pads a signed tensor with zeros, which would win over negative values; "
                "pool an unsigned one"
            )
        if np.any(x.scale <= 0):
            raise UnsupportedError(f"{_title(node)}: pools a tensor of negative scale")
        if min(kernel[0] - strides[0], kernel[1] - strides[1]) < 0:
            raise UnsupportedError(f"{_title(node)}: its stride {strides} exceeds its kernel {kernel}")
        shape = (*x.shape[:2], *_output_size(x.shape[2:], kernel, strides, pads))
        name = self._new.node(
            "MaxPool",
            [x.name],
            (node.output[0], shape, x.datatype),
            kernel_shape=kernel,
            strides=strides,
            pads=pads,
        )
        return replace(x, name=name, shape=shape)

    def _concatenate(self, node: onnx.NodeProto) -> Integers:
        parts = [self._materialize(self._input_of(node, i)) for i in range(len(node.input))]
        if attributes(node)["axis"] not in (1, 1 - len(parts[0].shape)):
            raise UnsupportedError(f"{_title(node)}: concatenates along another axis than the channels")
        if any(part.relu != parts[0].relu or part.datatype != parts[0].datatype for part in parts):
            raise UnsupportedError(f"{_title(node)}: concatenates tensors of different quantizers")
        channels = sum(part.channels for part in parts)
        shape = (1, channels, *parts[0].shape[2:])

        def joined(read: Callable[[Integers], np.ndarray]) -> np.ndarray:
            return np.concatenate([np.broadcast_to(read(part), part.channels) for part in parts])

        name = self._new.node(
            "Concat", [part.name for part in parts], (node.output[0], shape, parts[0].datatype), axis=1
        )
        return replace(
            parts[0],
            name=name,
            shape=shape,
            scale=_collapsed(joined(lambda part: part.scale)),
            bias=_collapsed(joined(lambda part: part.bias)),
            low=_collapsed(joined(lambda part: part.low)),
            high=_collapsed(joined(lambda part: part.high)),
        )

    def _pool_globally(self, node: onnx.NodeProto) -> Integers:
        """The mean over all positions: a sum of integers, and a scale."""
        x = self._materialize(self._input_of(node))
        height, width = x.shape[2:]
        if node.op_type == "AveragePool":
            given = attributes(node)
            if list(given["kernel_shape"]) != [height, width] or any(_pads(node, given)):
                raise UnsupportedError(f"{_title(node)}: averages over less than the whole map; pool globally")
        if node.op_type == "ReduceMean" and not self._reduces_positions(node):
            raise UnsupportedError(f"{_title(node)}: averages over other axes than the positions")
        if x.relu:
            raise UnsupportedError(f"{_title(node)}: reads a ReLU that is not quantized; put a quantizer before it")
        count = height * width
        low, high = x.low * count, x.high * count
        datatype = range_datatype(low.min(), high.max())
        axes = self._new.axes(f"{node.output[0]}_axes", [2, 3])
        shape = (1, x.channels, 1, 1)
        name = self._new.node("ReduceSum", [x.name, axes], (node.output[0], shape, datatype), keepdims=1)
        return replace(x, name=name, shape=shape, datatype=datatype, scale=x.scale / count, low=low, high=high)

    def _reduces_positions(self, node: onnx.NodeProto) -> bool:
        given = attributes(node)
        axes = given.get("axes") or (self._constants[node.input[1]].tolist() if len(node.input) > 1 else [])
        return sorted(axis % 4 for axis in axes) == [2, 3] and given.get("keepdims", 1) == 1

    def _flatten(self, node: onnx.NodeProto) -> Integers:
        x = self._materialize(self._input_of(node))
        if len(x.shape) == 2:
            return x
        if x.shape[2:] != (1, 1):
            raise UnsupportedError(f"{_title(node)}: flattens {list(x.shape)}; pool globally before the classifier")
        shape = (1, x.channels)
        name = self._new.node("Flatten", [x.name], (node.output[0], shape, x.datatype), axis=1)
        return replace(x, name=name, shape=shape)

    def _pass(self, node: onnx.NodeProto) -> Integers:
        return self._input_of(node)

    def _weights_of(self, node: onnx.NodeProto) -> Weights:
        weights = self._weights.get(node.input[1])
        if weights is None:
            raise UnsupportedError(f"{_title(node)}: its weights are not quantized; put a quantizer on them")
        return weights

    _HANDLERS: ClassVar[dict[str, Callable[[_Streamliner, onnx.NodeProto], Integers]]] = {
        "Add": _add,
        "AveragePool": _pool_globally,
        "BatchNormalization": _normalize,
        "Concat": _concatenate,
        "Conv": _convolve,
        "Div": _multiply,
        "Dropout": _pass,
        "Flatten": _flatten,
        "Gemm": _multiply_matrix,
        "GlobalAveragePool": _pool_globally,
        "Identity": _pass,
        "MatMul": _multiply_matrix,
        "MaxPool": _max_pool,
        "Mul": _multiply,
        "Quant": _quantize,
        "ReduceMean": _pool_globally,
        "Relu": _rectify,
        "Reshape": _flatten,
        "Squeeze": _flatten,
        "Sub": _add,
    }


@dataclass(frozen=True, kw_only=True)
class _Product:
    """A convolution or matrix product that is not written yet."""

    node: onnx.NodeProto
    x: Integers
    weights: Weights
    shape: tuple[int, ...]
    attributes: dict[str, Any]

    def flipped(self, negative: np.ndarray) -> _Product:
        """Return the product with the signs of some output channels changed."""
        return replace(self, weights=self.weights.flipped(negative))

    def range(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the smallest and largest value of each output channel; padding adds zeros."""
        weights = self.weights.integers.reshape(len(self.weights.integers), -1)
        low, high = min(0, int(self.x.low.min())), max(0, int(self.x.high.max()))
        positive, negative = np.maximum(weights, 0).sum(axis=1), np.minimum(weights, 0).sum(axis=1)
        return positive * low + negative * high, positive * high + negative * low

    def write(self, graph: GraphBuilder, result: Integers) -> None:
        """Add the node and its weights to the graph."""
        title = self.node.output[0]
        values = self.weights.integers
        is_matrix = values.ndim == 2
        name = graph.constant(f"{title}_weights", values.T if is_matrix else values, self.weights.datatype)
        op_type = "MatMul" if is_matrix else "Conv"
        output = (result.name, self.shape, result.datatype)
        graph.node(op_type, [self.x.name, name], output, **self.attributes)


def exact_thresholds(x: Integers, quantizer: Quantizer) -> np.ndarray:
    """Return the integer thresholds (C or 1, steps) at which the output of `quantizer` rises, reading `x`.

    Step k (from low + 1 to high) is taken where ``round_half_even(real / step) >= k``, that is at
    ``real >= (k - 1/2) * step``, the bound itself included if k is even: 2.5 rounds to 2, 3.5 to 4.
    """
    steps = np.arange(quantizer.low + 1, quantizer.high + 1)
    scale, bias, low, high = (_column(values) for values in (x.scale, x.bias, x.low, x.high))
    bounds = (steps - 0.5 - quantizer.zero_point) * quantizer.scale  # (steps,), of the real value
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (bounds - bias) / scale
        noise = _FLOAT64_NOISE * np.maximum(1.0, (np.abs(bounds) + np.abs(bias)) / scale)
        is_near = np.abs(ratio - np.round(ratio)) <= noise
    tie_rises = steps % 2 == 0
    thresholds = np.ceil(ratio)
    for row, column in np.argwhere(is_near):
        line = (float(values[min(row, len(values) - 1), 0]) for values in (scale, bias))
        thresholds[row, column] = _first_integer(*line, quantizer, int(steps[column]))
    constant = np.broadcast_to(scale == 0, thresholds.shape)
    risen = np.where(tie_rises, bias >= bounds, bias > bounds)
    thresholds = np.where(constant, np.where(risen, -np.inf, np.inf), thresholds)
    if x.relu:  # the real value is at least 0
        always = np.where(tie_rises, bounds <= 0, bounds < 0)
        thresholds = np.where(always, -np.inf, thresholds)
    return _upper_float32(np.clip(thresholds, low, high + 1.0))


def _first_integer(scale: float, bias: float, quantizer: Quantizer, step: int) -> int:
    """Return the first integer to reach a step, in rational arithmetic: for those too near to a bound for floats."""
    bound = (Fraction(2 * step - 1, 2) - quantizer.zero_point) * Fraction(quantizer.scale)
    ratio = (bound - Fraction(bias)) / Fraction(scale)
    if ratio.denominator > 1:
        return math.ceil(ratio)
    return int(ratio) if step % 2 == 0 else int(ratio) + 1


def _upper_float32(values: np.ndarray) -> np.ndarray:
    """Round integers up to what float32, FINN's container of integers, can hold: it has gaps beyond 2**24."""
    rounded = values.astype(np.float32)
    too_low = rounded.astype(np.float64) < values
    return np.where(too_low, np.nextafter(rounded, np.float32(np.inf)), rounded).astype(np.float32)


def _quantized(name: str, shape: tuple[int, ...], quantizer: Quantizer) -> Integers:
    return Integers(
        name=name,
        shape=shape,
        datatype=quantizer.datatype,
        scale=np.full(1, quantizer.scale),
        bias=np.zeros(1) - quantizer.zero_point * quantizer.scale,
        low=np.full(1, float(quantizer.low)),
        high=np.full(1, float(quantizer.high)),
    )


def _title(node: onnx.NodeProto) -> str:
    return f"{node.op_type} '{tensor_title(node.output[0])}'"


def _column(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float64).reshape(-1, 1)


def _collapsed(values: np.ndarray) -> np.ndarray:
    return values[:1] if np.all(values == values[0]) else values


def _per_channel(value: np.ndarray, rank: int, channels: int, node: onnx.NodeProto) -> np.ndarray:
    if value.size == 1:
        return value.reshape(1)
    shape = (1,) * (rank - value.ndim) + value.shape
    if shape != tuple(channels if axis == 1 else 1 for axis in range(rank)):
        raise UnsupportedError(f"{_title(node)}: its constant has shape {list(value.shape)}, expected one per channel")
    return value.reshape(channels)


def _pads(node: onnx.NodeProto, given: dict[str, Any]) -> list[int]:
    if given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise UnsupportedError(f"{_title(node)}: uses auto_pad; export explicit pads")
    return list(given.get("pads", [0, 0, 0, 0]))


def _output_size(size: tuple[int, ...], kernel: list[int], strides: list[int], pads: list[int]) -> tuple[int, int]:
    height = (size[0] + pads[0] + pads[2] - kernel[0]) // strides[0] + 1
    width = (size[1] + pads[1] + pads[3] - kernel[1]) // strides[1] + 1
    return height, width
