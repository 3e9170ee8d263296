"""The integer graph while it is written, and what the operations ask of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import onnx
from qonnx.core.datatype import DataType

from ..base.errors import ManifestError, UnsupportedError
from .activations import Quantizer
from .integers import Integers, Product, quantized_integers
from .model import GraphBuilder, Model, attributes, range_datatype
from .qonnx_graph import QUANTIZER_OPS, Weights, constants, node_title
from .sums import Sum

T = TypeVar("T")
_SAME_SCALE = 1e-6  # relative; scales are float32


class IntegerGraph:
    """What is known of a QONNX graph's tensors, by name, and the integer graph made of them so far."""

    def __init__(self, source: onnx.GraphProto, input_bits: int, input_scale: float | None = None) -> None:
        inputs = [entry for entry in source.input if entry.name not in {tensor.name for tensor in source.initializer}]
        if len(inputs) != 1 or len(source.output) != 1:
            raise ManifestError(
                f"model.onnx: got {len(inputs)} inputs and {len(source.output)} outputs, expected one of each; "
                "export a network from one picture to its logits"
            )
        self.input = inputs[0]
        self._input_bits = input_bits
        self._input_scale = input_scale
        self.constants = constants(source)
        self.weights: dict[str, Weights] = {}
        self.integers: dict[str, Integers] = {}
        self.new = GraphBuilder("streamlined")
        self._unwritten: dict[str, Product | Sum] = {}
        self._made: dict[tuple[Any, ...], Any] = {}
        self._num_readers = Counter(name for node in source.node for name in node.input)
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in source.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def finish(self, result: Integers) -> Model:
        """Return the integer graph with `result` as its output."""
        self.new.output(self.materialize(result).name)
        return self.new.model()

    def input_of(self, node: onnx.NodeProto, position: int = 0) -> Integers:
        """Return the integers a node reads."""
        name = node.input[position]
        if name == self.input.name and name not in self.integers and self._input_scale is not None:
            self.integers[name] = self._pixels(self._input_scale)
        found = self.integers.get(name)
        if found is None:
            raise UnsupportedError(
                f"{node_title(node)}: reads '{name}', which is not quantized; put a quantizer before it"
            )
        return found

    def linear_input(self, node: onnx.NodeProto) -> Integers:
        """Return an input that a sum over channels and positions may read."""
        x = self.materialize(self.input_of(node))
        if x.relu:
            raise UnsupportedError(f"{node_title(node)}: its input is not quantized; put a quantizer before it")
        return x

    def constant(self, name: str) -> np.ndarray | None:
        """Return a constant tensor, quantized or not, float64; None if it depends on the input."""
        if name in self.constants:
            return self.constants[name].astype(np.float64)
        weights = self.weights.get(name)
        return None if weights is None else weights.integers * weights.scale

    def needs_true_zero(self, name: str) -> bool:
        """Tell whether zeros are put beside a tensor before it is quantized again: by a convolution's padding."""
        for node in self._readers.get(name, ()):
            given = attributes(node)
            if node.op_type in ("Conv", "AveragePool") and any(given.get("pads", ())):
                return True
            if node.op_type not in QUANTIZER_OPS and any(map(self.needs_true_zero, node.output)):
                return True
        return False

    def constant_of(self, node: onnx.NodeProto, x: Integers) -> tuple[np.ndarray, bool]:
        """Return the constant operand of a node, one value or one a channel, and whether it comes first."""
        for position, name in enumerate(node.input):
            if name in self.constants:
                value = self.constants[name].astype(np.float64)
                return _per_channel(value, len(x.shape), x.channels, node), position == 0
        raise UnsupportedError(f"{node_title(node)}: multiplies or divides two feature maps; the accelerator cannot")

    def weights_of(self, node: onnx.NodeProto) -> Weights:
        """Return the quantized weights a convolution or matrix product reads."""
        weights = self.weights.get(node.input[1])
        if weights is None:
            raise UnsupportedError(f"{node_title(node)}: its weights are not quantized; put a quantizer on them")
        return weights

    def product(
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
            raise UnsupportedError(f"{node_title(node)}: its weights have more than one scale per output channel")
        scale, offset = self._of_input(node, x, weights, given)
        scale, bias = scale * weights.output_scale, bias + offset
        product = Product(node=node, x=x, weights=weights, shape=shape, attributes=given)
        low, high = product.range()
        # not written yet: a negative scale may still flip its weights (see `materialize`)
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

    def _of_input(
        self, node: onnx.NodeProto, x: Integers, weights: Weights, given: dict[str, Any]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what a product makes of the scale and the bias of its input, for each output channel or for all.

        The bias goes through the weights; beside a bias padding would not be zero. A scale for each channel stays one
        where each output channel reads one input channel.
        """
        groups, num_outputs = given.get("group", 1), len(weights.integers)
        scale, bias = x.scale, np.zeros(1)
        if np.any(x.bias != 0):
            if any(given.get("pads", ())):
                raise UnsupportedError(
                    f"{node_title(node)}: pads with zeros an input in which a zero is no integer ({x.name}); subtract "
                    "nothing before a padded convolution, quantize with zero point 0, or convolve without padding"
                )
            real = weights.integers * weights.scale
            own = np.broadcast_to(x.bias, x.channels).reshape(groups, -1)
            own = np.repeat(own, num_outputs // groups, axis=0)  # (out, in / groups)
            bias = (real * own.reshape(own.shape + (1,) * (real.ndim - 2))).reshape(num_outputs, -1).sum(axis=1)
        if len(np.unique(scale)) > 1:
            if groups != x.channels:
                raise UnsupportedError(
                    f"{node_title(node)}: its input has another scale in each channel, which it adds up; "
                    "let the quantizer or the normalization before it have one scale for all channels"
                )
            scale = np.repeat(scale, num_outputs // groups)
        return (scale if scale.size == num_outputs else scale[:1]), bias

    def add(self, node: onnx.NodeProto, sides: Sequence[Integers]) -> Integers:
        """Add feature maps; a sum that only this one reads becomes a part of it."""
        terms: list[Integers] = []
        for side in sides:
            inner = self._unwritten.get(side.name)
            is_inner = isinstance(inner, Sum) and np.array_equal(side.scale, inner.unit)  # not scaled since
            if is_inner and self._is_read_once(side):
                del self._unwritten[side.name]
                terms += inner.terms
            else:
                terms.append(side)
        found = Sum(terms=tuple(terms))
        if found.factors is None:
            scales = " and ".join(dict.fromkeys(_range_title(term.scale) for term in terms))
            raise UnsupportedError(
                f"{node_title(node)}: its inputs have the scales {scales}; let the inputs of an addition share one "
                "quantizer, or have scales that are whole multiples of the smallest"
            )
        self._unwritten[node.output[0]] = found
        return found.integers(node.output[0])

    def once(self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        """Return what `make` makes, made once for all nodes of a key: what they do, and to what."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def materialize(self, x: Integers) -> Integers:
        """Write the product or sum that makes `x`, if it is not written yet."""
        unwritten = self._unwritten.pop(x.name, None)
        if isinstance(unwritten, Sum):
            for term in unwritten.terms:
                self.materialize(term)
        if unwritten is not None:
            unwritten.write(self.new, x)
        return x

    def scaled(self, node: onnx.NodeProto, x: Integers, factor: np.ndarray, offset: np.ndarray) -> Integers:
        """Return ``factor * real + offset``; where that makes a scale negative, the weights that made x are flipped."""
        if x.relu and (np.any(factor <= 0) or np.any(offset != 0)):
            raise UnsupportedError(
                f"{node_title(node)}: stands between a ReLU and its quantizer; put it before the ReLU"
            )
        scale, bias = x.scale * factor, x.bias * factor + offset
        negative = np.broadcast_to(scale < 0, x.channels)
        flipped = self._flipped(x, negative) if negative.any() else None
        if flipped is not None:
            return replace(flipped, scale=np.abs(scale), bias=bias)
        return replace(x, scale=scale, bias=bias)

    def _flipped(self, x: Integers, negative: np.ndarray) -> Integers | None:
        """Change the signs of some channels of a product, or of every term of a sum, that nobody else reads."""
        unwritten = self._unwritten.get(x.name)
        if not self._is_read_once(x):
            return None
        if isinstance(unwritten, Product):
            self._unwritten[x.name] = product = unwritten.flipped(negative)
            low, high = product.range()
            return replace(x, low=low, high=high, datatype=range_datatype(low.min(), high.max()))
        if not isinstance(unwritten, Sum) or not all(self.may_widen(term) for term in unwritten.terms):
            return None
        self._unwritten[x.name] = flipped = Sum(terms=tuple(self._flipped(term, negative) for term in unwritten.terms))
        return flipped.integers(x.name)

    def may_widen(self, x: Integers) -> bool:
        """Tell whether the accumulators of `x` may have more bits than they need, as nobody else reads them."""
        return isinstance(self._unwritten.get(x.name), Product) and self._is_read_once(x)

    def _is_read_once(self, x: Integers) -> bool:
        """Tell whether every tensor of the source graph that stands for `x` has one reader."""
        return all(self._num_readers[name] == 1 for name, other in self.integers.items() if other.name == x.name)

    def takes(self, node: onnx.NodeProto, quantizer: Quantizer) -> bool:
        """Tell whether a quantizer of the graph's input gives the very integers that the accelerator takes."""
        if node.input[0] != self.input.name:
            return False
        if self._input_scale is None:
            return True
        is_bytes = (quantizer.low, quantizer.high, quantizer.zero_point) == (0, 2**self._input_bits - 1, 0)
        return is_bytes and np.allclose(quantizer.scales, self._input_scale, rtol=_SAME_SCALE, atol=0)

    def quantize_input(self, node: onnx.NodeProto, quantizer: Quantizer) -> Integers:
        """Let the accelerator take the integers themselves: the host's pixels."""
        one_reader = self._num_readers[self.input.name] == 1
        if not one_reader or (quantizer.low, quantizer.high) != (0, 2**self._input_bits - 1):
            raise UnsupportedError(
                f"{node_title(node)}: the accelerator takes the bytes of a picture; "
                f"let the input have one reader, an unsigned {self._input_bits}-bit quantizer"
            )
        return self._pixels(float(quantizer.scales[0]), quantizer)

    def _pixels(self, scale: float, quantizer: Quantizer | None = None) -> Integers:
        shape = tuple(dim.dim_value for dim in self.input.type.tensor_type.shape.dim)
        if len(shape) != 4 or shape[0] != 1 or min(shape) < 1:
            raise ManifestError(f"model.onnx: input: got shape {list(shape)}, expected [1, C, H, W]")
        if quantizer is None:
            low, high = 0, 2**self._input_bits - 1
            datatype = DataType[f"UINT{self._input_bits}"]
            quantizer = Quantizer(scale=scale, zero_point=0, low=low, high=high, datatype=datatype)
        self.once(("input",), lambda: self.new.input(self.new.unique(self.input.name), shape, quantizer.datatype))
        return quantized_integers(self.input.name, shape, quantizer)


def _range_title(values: np.ndarray) -> str:
    low, high = f"{values.min():.6g}", f"{values.max():.6g}"
    return low if low == high else f"{low} to {high}"


def _per_channel(value: np.ndarray, rank: int, channels: int, node: onnx.NodeProto) -> np.ndarray:
    if value.size == 1:
        return value.reshape(1)
    shape = (1,) * (rank - value.ndim) + value.shape
    if shape != tuple(channels if axis == 1 else 1 for axis in range(rank)):
        raise UnsupportedError(
            f"{node_title(node)}: its constant has shape {list(value.shape)}, expected one per channel"
        )
    return value.reshape(channels)
