"""The part of a network around one NAS operation, as QONNX: what nash-qat would export of it, with random weights.

Shapes: the state (1, C, H, W), its integers the input of the graph.

The state is read by a small convolution, which stands for the layer the operation is added to, and, if there is one,
by the operation. Both sides are quantized for the join and added; an activation follows. So the network with the
operation less the one without it is what its presence adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .model import OPSET, QONNX_DOMAIN

JOIN_BITS = 8
_JOIN_SCALE = 10 / 2 ** (JOIN_BITS - 1)
_STATE_RANGE = 6.0  # the largest real value of a state, whose standard deviation is about 1
_CONVOLUTIONS = {"conv_1x1": 1, "conv_3x3": 3, "conv_5x5": 5}
_STAND_IN_BITS = 2
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


def fragment(place: Place, op: str | None) -> onnx.ModelProto:
    """Return the network of a place, with an operation or without."""
    return _Fragment(place).build(op)


class _Fragment:
    def __init__(self, place: Place) -> None:
        self._place = place
        self._random = np.random.default_rng(0)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def build(self, op: str | None) -> onnx.ModelProto:
        place = self._place
        state_scale = _STATE_RANGE / (2**place.act_bits - 1)
        state = self._quantize("state", "x", state_scale, place.act_bits, signed=False)
        joined = self._join("main/join", self._stand_in(state))
        if op is not None:
            side = self._join(f"{OPERATION}/join", self._operation(op, state))
            joined = self._node("Add", f"{OPERATION}/add", [joined, side])
        output = self._quantize("act", self._node("Relu", "relu", [joined]), state_scale, place.act_bits, signed=False)
        height, width = (-(-size // place.stride) for size in place.size)
        graph = helper.make_graph(
            self._nodes,
            "fragment",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, place.in_channels, *place.size])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, [1, place.out_channels, height, width])],
            self._constants,
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(QONNX_DOMAIN, 1)]
        return helper.make_model(graph, opset_imports=opsets)

    def _stand_in(self, state: str) -> str:
        return self._convolve("main", state, kernel=1, pad=0, bits=_STAND_IN_BITS)

    def _operation(self, op: str, state: str) -> str:
        place = self._place
        if op == "max_pool_3x3":
            return self._pool(state)
        if op in _CONVOLUTIONS:
            kernel = _CONVOLUTIONS[op]
            return self._convolve(OPERATION, state, kernel=kernel, pad=kernel // 2, bits=place.weight_bits)
        if place.stride == 2:
            return self._reduce(state)
        if place.in_channels != place.out_channels:
            return self._convolve(OPERATION, state, kernel=1, pad=0, bits=place.weight_bits)
        return state

    def _reduce(self, state: str) -> str:
        """Write two shifted 1x1 convolutions, half of the outputs each, as one with zeros (nash-qat, network.py)."""
        is_even = all(size % 2 == 0 for size in self._place.size)
        kernel, pad, tap = (2, 0, 0) if is_even else (3, 1, 1)
        half = self._place.out_channels // 2
        mask = np.zeros((self._place.out_channels, self._place.in_channels, kernel, kernel), np.float32)
        mask[:half, :, tap, tap] = 1
        mask[half:, :, tap + 1, tap + 1] = 1
        bits = max(2, self._place.weight_bits)
        return self._convolve(OPERATION, state, kernel=kernel, pad=pad, bits=bits, mask=mask)

    def _pool(self, state: str) -> str:
        place = self._place
        repeats = place.out_channels // place.in_channels
        x = self._node(
            "MaxPool",
            f"{OPERATION}/pool",
            [state],
            kernel_shape=[3, 3],
            strides=[place.stride] * 2,
            pads=[1] * 4,
        )
        x = self._node("Concat", f"{OPERATION}/widen", [x] * repeats, axis=1) if repeats > 1 else x
        return self._normalize(OPERATION, x, 1.0, mean=-1.0)

    def _convolve(self, name: str, x: str, *, kernel: int, pad: int, bits: int, mask: np.ndarray | None = None) -> str:
        shape = (self._place.out_channels, self._place.in_channels, kernel, kernel)
        values = self._random.standard_normal(shape, np.float32)
        values = values if mask is None else values * mask
        limits = np.abs(values).max(axis=(1, 2, 3), keepdims=True)
        constant = self._constant(values)
        if bits == 1:
            scale = self._constant(np.abs(values).mean(axis=(1, 2, 3), keepdims=True))
            weights = self._node("BipolarQuant", f"{name}/weights", [constant, scale], QONNX_DOMAIN)
        else:
            weights = self._quantize(f"{name}/weights", constant, limits / (2 ** (bits - 1) - 1), bits, narrow=1)
        y = self._node(
            "Conv",
            f"{name}/conv",
            [x, weights],
            kernel_shape=[kernel] * 2,
            strides=[self._place.stride] * 2,
            pads=[pad] * 4,
            dilations=[1, 1],
            group=1,
        )
        fan_in = float(np.square(values[0]).sum())
        return self._normalize(name, y, 1 / fan_in**0.5)

    def _normalize(self, name: str, x: str, gamma: float, *, mean: float = 0.0) -> str:
        """Write a batch normalization whose gamma and beta differ from channel to channel."""
        channels = self._place.out_channels
        gammas, betas = gamma * self._random.uniform(0.5, 1.5, channels), self._random.normal(mean, 0.5, channels)
        statistics = [gammas, betas, np.zeros(channels), np.ones(channels)]
        return self._node("BatchNormalization", f"{name}/bn", [x, *map(self._constant, statistics)], epsilon=1e-5)

    def _join(self, name: str, x: str) -> str:
        return self._quantize(name, x, _JOIN_SCALE, JOIN_BITS)

    def _quantize(self, name: str, x: str, scale: Any, bits: int, *, signed: bool = True, narrow: int = 0) -> str:
        inputs = [x, *(self._constant(value) for value in (scale, 0.0, float(bits)))]
        return self._node("Quant", name, inputs, QONNX_DOMAIN, signed=int(signed), narrow=narrow, rounding_mode="ROUND")

    def _constant(self, value: Any) -> str:
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def _node(self, op_type: str, name: str, inputs: Sequence[str], domain: str = "", **attributes: Any) -> str:
        name = f"/{name}/{op_type}_output_0"
        self._nodes.append(helper.make_node(op_type, list(inputs), [name], name=name, domain=domain, **attributes))
        return name
