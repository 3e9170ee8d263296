"""The part of a network around one NAS operation, as QONNX: what nash-qat would export of it, with random weights.

Shapes: the state (1, C, H, W), its integers the input of the graph.

The state is read by a small convolution, which stands for the layer the operation is added to, and, if there is one,
by the operation. Both sides are quantized for the join and added; an activation follows. So the network with the
operation less the one without it is what its presence adds.

Joins are of a kind: where they are "quantized" both sides have a quantizer with a scale of the join; where they are
"aligned" only convolutions have one, and their scale is a part of the state's, which enters as it is; where they are
"fused" nothing has one, and a batch normalization is behind the sum (nash-qat, sums.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..graph.model import OPSET, QONNX_DOMAIN
from .unit import Unit, largest_weight

JOIN_BITS = 8
_JOIN_RANGE = 10.0  # of its largest real value
_STATE_RANGE = 6.0  # the largest real value of a state, whose standard deviation is about 1
JOINS = ("quantized", "aligned", "fused")
_FINER_BITS = 2  # by which an aligned join is finer than a state
CONVOLUTIONS = {"conv_1x1": 1, "conv_3x3": 3, "conv_5x5": 5}
STAND_IN_BITS = 2
OPERATION = "operation"  # begins the names of the operation's tensors


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an operation stands: from a state (in_channels, size) to one of out_channels, at a stride."""

    in_channels: int
    out_channels: int
    stride: int
    size: tuple[int, int]
    weight_bits: int
    act_bits: int


class Writer:
    """Writes a small QONNX network, node by node, with random weights; each method returns the name of its tensor."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def finish(self, output: str, shapes: tuple[Sequence[int], Sequence[int]]) -> onnx.ModelProto:
        """Return the network from "x" to `output`, which have these shapes."""
        graph = helper.make_graph(
            self._nodes,
            "fragment",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shapes[0]))],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, list(shapes[1]))],
            self._constants,
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(QONNX_DOMAIN, 1)]
        return helper.make_model(graph, opset_imports=opsets)

    def state(self, name: str, x: str, bits: int) -> str:
        """Write the unsigned quantizer of a state."""
        return self.quantize(name, x, _state_scale(bits), bits, signed=False)

    def aligned(self, name: str, x: str, state_bits: int) -> str:
        """Write the signed quantizer of a convolution that is added to states."""
        scale = _state_scale(state_bits) / np.float32(2**_FINER_BITS)
        return self.quantize(name, x, scale, min(JOIN_BITS, _FINER_BITS + 6))

    def join(self, name: str, x: str, bits: int = JOIN_BITS) -> str:
        """Write the signed quantizer of a side of an addition."""
        return self.quantize(name, x, _JOIN_RANGE / 2 ** (bits - 1), bits)

    def convolve(
        self,
        name: str,
        x: str,
        shape: tuple[int, int, int, int],
        *,
        stride: int,
        pad: int,
        bits: int,
        groups: int = 1,
        mask: np.ndarray | None = None,
        unit: Unit | None = None,
    ) -> str:
        """Write a convolution with weights of a shape (out, in / groups, kH, kW), and its batch normalization.

        With a `unit` it is a term of a fused sum, of the variance that its input has, and has none.
        """
        values = self._random.standard_normal(shape, np.float32)
        values = values if mask is None else values * mask
        if unit is not None:
            values /= np.sqrt(np.square(values).sum(axis=(1, 2, 3), keepdims=True))
        scales = None if unit is None else unit.scales_of(values, bits)
        y = self.node(
            "Conv",
            f"{name}/conv",
            [x, self.weights(f"{name}/weights", values, bits, scales=scales)],
            kernel_shape=list(shape[2:]),
            strides=[stride] * 2,
            pads=[pad] * 4,
            dilations=[1, 1],
            group=groups,
        )
        if unit is not None:
            return y
        fan_in = float(np.square(values[0]).sum())
        return self.normalize(name, y, shape[0], 1 / fan_in**0.5)

    def weights(
        self, name: str, values: np.ndarray, bits: int, *, per_channel: bool = True, scales: np.ndarray | None = None
    ) -> str:
        """Write the quantizer of weights, one scale an output channel (axis 0) or one for all, or the given ones."""
        axes = tuple(range(1, values.ndim)) if per_channel else None
        constant = self.constant(values)
        if bits == 1:
            scale = self.constant(np.abs(values).mean(axis=axes, keepdims=True) if scales is None else scales)
            return self.node("BipolarQuant", name, [constant, scale], QONNX_DOMAIN)
        if scales is None:
            scales = np.abs(values).max(axis=axes, keepdims=True) / largest_weight(bits)
        return self.quantize(name, constant, scales, bits, narrow=1)

    def reduce(
        self,
        name: str,
        x: str,
        channels: tuple[int, int],
        size: tuple[int, int],
        bits: int,
        unit: Unit | None = None,
    ) -> str:
        """Write two shifted 1x1 convolutions, half of the outputs each, as one with zeros (nash-qat, network.py)."""
        is_even = all(side % 2 == 0 for side in size)
        kernel, pad, tap = (2, 0, 0) if is_even else (3, 1, 1)
        in_channels, out_channels = channels
        half = out_channels // 2
        mask = np.zeros((out_channels, in_channels, kernel, kernel), np.float32)
        mask[:half, :, tap, tap] = 1
        mask[half:, :, tap + 1, tap + 1] = 1
        return self.convolve(name, x, mask.shape, stride=2, pad=pad, bits=max(2, bits), mask=mask, unit=unit)

    def pool(self, name: str, x: str, stride: int) -> str:
        """Write a 3x3 max-pool."""
        return self.node("MaxPool", f"{name}/pool", [x], kernel_shape=[3, 3], strides=[stride] * 2, pads=[1] * 4)

    def pool_operation(
        self, name: str, x: str, channels: tuple[int, int], stride: int, *, normalize: bool = True
    ) -> str:
        """Write a max-pool whose channels are repeated, and its batch normalization."""
        repeats = channels[1] // channels[0]
        x = self.pool(name, x, stride)
        x = self.node("Concat", f"{name}/widen", [x] * repeats, axis=1) if repeats > 1 else x
        return self.normalize(name, x, channels[1], 1.0, mean=-1.0) if normalize else x

    def normalize(self, name: str, x: str, channels: int, gamma: float, *, mean: float = 0.0) -> str:
        """Write a batch normalization whose gamma and beta differ from channel to channel."""
        gammas, betas = gamma * self._random.uniform(0.5, 1.5, channels), self._random.normal(mean, 0.5, channels)
        statistics = [gammas, betas, np.zeros(channels), np.ones(channels)]
        return self.node("BatchNormalization", f"{name}/bn", [x, *map(self.constant, statistics)], epsilon=1e-5)

    def quantize(self, name: str, x: str, scale: Any, bits: int, *, signed: bool = True, narrow: int = 0) -> str:
        """Write a Quant node."""
        inputs = [x, *(self.constant(value) for value in (scale, 0.0, float(bits)))]
        return self.node("Quant", name, inputs, QONNX_DOMAIN, signed=int(signed), narrow=narrow, rounding_mode="ROUND")

    def constant(self, value: Any) -> str:
        """Add a float32 constant."""
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def classify(self, name: str, features: str, shape: tuple[int, int], bits: int) -> str:
        """Write the classifier of (features, classes) behind pooled, quantized features (1, C, 1, 1)."""
        x = self.node("Flatten", f"{name}/flatten", [features], axis=1)
        values = self._random.standard_normal(shape, np.float32)
        return self.node("MatMul", name, [x, self.weights(f"{name}/weights", values, bits, per_channel=False)])

    def node(self, op_type: str, name: str, inputs: Sequence[str], domain: str = "", **attributes: Any) -> str:
        """Add a node."""
        name = f"/{name}/{op_type}_output_0"
        self._nodes.append(helper.make_node(op_type, list(inputs), [name], name=name, domain=domain, **attributes))
        return name


def _state_scale(bits: int) -> np.float32:
    return np.float32(_STATE_RANGE / (2**bits - 1))


class Terms:
    """The terms of one layer's sum, each written as joins of a kind have it."""

    def __init__(self, write: Writer, joins: str, state_bits: int) -> None:
        self._write, self._joins, self._state_bits = write, joins, state_bits
        self.unit = Unit() if joins == "fused" else None  # of the convolutions
        self._terms: list[tuple[str, str]] = []

    def convolution(self, name: str, tensor: str) -> None:
        """Add a convolution."""
        match self._joins:
            case "quantized":
                tensor = self._write.join(f"{name}/join", tensor)
            case "aligned":
                tensor = self._write.aligned(f"{name}/join", tensor, self._state_bits)
        self._terms.append((name, tensor))

    def operation(self, name: str, place: Place, op: str, state: str) -> None:
        """Add an operation that reads a state."""
        side = operation(self._write, name, place, op, state, normalize=self._joins == "quantized", unit=self.unit)
        if side != state and op != "max_pool_3x3":
            self.convolution(name, side)
            return
        match self._joins:
            case "quantized":
                side = self._write.join(f"{name}/join", side)
            case "fused":
                side = self._write.node("Mul", f"{name}/states", [side, self._write.constant(self.unit.of_states())])
        self._terms.append((name, side))

    def total(self, name: str, channels: int) -> str:
        """Write the sum and return its tensor."""
        (_, total), *others = self._terms
        for other, tensor in others:
            total = self._write.node("Add", f"{other}/add", [total, tensor])
        if self._joins == "fused":
            total = self._write.normalize(f"{name}/join", total, channels, 1.0)
        return total


def fragment(place: Place, op: str | None, joins: str) -> onnx.ModelProto:
    """Return the network of a place, with an operation or without, and joins of a kind."""
    write = Writer()
    state = write.state("state", "x", place.act_bits)
    terms = Terms(write, joins, place.act_bits)
    stand_in = (place.out_channels, place.in_channels, 1, 1)
    main = write.convolve("main", state, stand_in, stride=place.stride, pad=0, bits=STAND_IN_BITS, unit=terms.unit)
    terms.convolution("main", main)
    if op is not None:
        terms.operation(OPERATION, place, op, state)
    total = terms.total("main", place.out_channels)
    output = write.state("act", write.node("Relu", "relu", [total]), place.act_bits)
    height, width = (-(-size // place.stride) for size in place.size)
    return write.finish(output, ([1, place.in_channels, *place.size], [1, place.out_channels, height, width]))


def operation(
    write: Writer, name: str, place: Place, op: str, state: str, *, normalize: bool, unit: Unit | None = None
) -> str:
    """Write an operation that reads a state, and return its tensor: the state itself where the operation is nothing.

    normalize: whether a max-pool, whose values are those of states, has a batch normalization. unit: of a fused sum.
    """
    channels = (place.in_channels, place.out_channels)
    if op == "max_pool_3x3":
        return write.pool_operation(name, state, channels, place.stride, normalize=normalize)
    if op == "skip_connect" and place.stride == 2:
        return write.reduce(name, state, channels, place.size, place.weight_bits, unit)
    if op == "skip_connect" and place.in_channels == place.out_channels:
        return state
    kernel = CONVOLUTIONS.get(op, 1)
    shape = (place.out_channels, place.in_channels, kernel, kernel)
    return write.convolve(name, state, shape, stride=place.stride, pad=kernel // 2, bits=place.weight_bits, unit=unit)
