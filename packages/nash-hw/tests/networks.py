"""Small QONNX networks, written by hand, and what QONNX's own execution gives for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

QONNX = "qonnx.custom_op.general"


class Network:
    """A QONNX graph under construction; each method returns the name of the tensor it makes."""

    def __init__(self, shape: Sequence[int], seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.shape = list(shape)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self.image = self.quantize("x", 1 / 255, 8, signed=False)

    def constant(self, value: Any, dtype: type = np.float32) -> str:
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def node(self, op_type: str, inputs: Sequence[str], domain: str = "", **attributes: Any) -> str:
        name = f"/{op_type.lower()}{len(self._nodes)}/{op_type}_output_0"
        self._nodes.append(helper.make_node(op_type, list(inputs), [name], name=name, domain=domain, **attributes))
        return name

    def quantize(
        self, x: str, scale: Any, bits: float, *, signed: bool = True, narrow: bool = False, zero_point: float = 0.0
    ) -> str:
        inputs = [x, *(self.constant(value) for value in (scale, zero_point, bits))]
        return self.node("Quant", inputs, QONNX, signed=int(signed), narrow=int(narrow), rounding_mode="ROUND")

    def weights(self, shape: Sequence[int], bits: int, mask: np.ndarray | None = None) -> str:
        values = self.constant(self.random.normal(size=shape) * (1 if mask is None else mask))
        scale = self.random.uniform(0.5, 1.5, (shape[0], *(1,) * (len(shape) - 1))) / 2 ** (bits - 1)
        if bits == 1:
            return self.node("BipolarQuant", [values, self.constant(scale * 0.3)], QONNX)
        return self.quantize(values, scale, bits, narrow=True)

    def conv(
        self,
        x: str,
        shape: Sequence[int],
        bits: int = 4,
        *,
        stride: int = 1,
        pads: Sequence[int] | None = None,
        group: int = 1,
        mask: np.ndarray | None = None,
    ) -> str:
        kernel = list(shape[2:])
        pads = list(pads) if pads is not None else [size // 2 for size in kernel] * 2
        return self.node(
            "Conv",
            [x, self.weights(shape, bits, mask)],
            kernel_shape=kernel,
            strides=[stride] * 2,
            pads=pads,
            group=group,
            dilations=[1, 1],
        )

    def norm(self, x: str, channels: int, *, positive: bool = False) -> str:
        gamma = self.random.uniform(0.5, 1.5, channels)
        if not positive:
            gamma[::2] *= -1
        values = [gamma, *self.random.uniform(-0.5, 0.5, (2, channels)), self.random.uniform(0.5, 2, channels)]
        return self.node("BatchNormalization", [x, *map(self.constant, values)], epsilon=1e-5)

    def relu(self, x: str, bits: int = 4, scale: float = 0.07) -> str:
        return self.quantize(self.node("Relu", [x]), scale, bits, signed=False)

    def pool(self, x: str, kernel: int = 3, stride: int = 1, pad: int = 1) -> str:
        return self.node("MaxPool", [x], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)

    def head(self, x: str, channels: int, classes: int = 3) -> str:
        features = self.quantize(self.node("GlobalAveragePool", [x]), 0.05, 4, signed=False)
        weights = self.quantize(self.constant(self.random.normal(size=(channels, classes))), 0.02, 8, narrow=True)
        return self.node("MatMul", [self.node("Flatten", [features], axis=1), weights])

    def finish(self, output: str, shape: Sequence[int]) -> onnx.ModelProto:
        """Return the model with `output` as its output."""
        graph = helper.make_graph(
            self._nodes,
            "network",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, list(shape))],
            self._constants,
        )
        opsets = [helper.make_opsetid("", 13), helper.make_opsetid(QONNX, 1)]
        return helper.make_model(graph, opset_imports=opsets)


def residual_network(weight_bits: int = 4, act_bits: int = 4, *, size: int = 8) -> onnx.ModelProto:
    """A stem, two layers that join a residual and a NAS operation, a strided layer, a head."""
    net = Network((1, 3, size, size))
    x = net.relu(net.norm(net.conv(net.image, (4, 3, 3, 3), 8), 4), act_bits)
    y = net.quantize(net.norm(net.conv(x, (4, 4, 3, 3), weight_bits), 4), 0.03, 8)
    pooled = net.quantize(net.norm(net.pool(x), 4, positive=True), 0.03, 8)
    identity = net.quantize(x, 0.03, 8)
    y = net.relu(net.node("Add", [net.node("Add", [y, identity]), pooled]), act_bits)
    z = net.quantize(net.norm(net.conv(y, (8, 4, 3, 3), weight_bits, stride=2), 8), 0.05, 8)
    wide = net.pool(y, stride=2)
    wide = net.quantize(net.norm(net.node("Concat", [wide, wide], axis=1), 8, positive=True), 0.05, 8)
    z = net.relu(net.node("Add", [z, wide]), act_bits)
    return net.finish(net.head(z, 8), (1, 3))


class AlignedCells(Network):
    """Two cells whose states have one scale; a join's grid is 2**k times finer (what nash-qat calls aligned)."""

    def __init__(self, *, k: int = 2, size: int = 8, act_bits: int = 4) -> None:
        super().__init__((1, 3, size, size))
        self._act_bits = act_bits
        # with few bits float32 makes no error; one sum in 2**k lies in the middle between two states
        self._scale = np.float32(225 / 2048)
        self._k = k

    def activate(self, x: str) -> str:
        return self.relu(x, self._act_bits, self._scale)

    def term(self, x: str, channels: int) -> str:
        """Return a convolution's term of a join: on the grid, with some bits more than a state."""
        bits = min(8, self._k + 6)
        return self.quantize(self.norm(x, channels), self._scale / np.float32(2**self._k), bits)

    def join(self, *terms: str) -> str:
        total = terms[0]
        for term in terms[1:]:
            total = self.node("Add", [total, term])
        return self.activate(total)

    def cell(self, states: list[str], channels: int) -> list[str]:
        """Add three layers: a skip, a max-pool with an identity residual, and a 1x1 convolution."""

        def main(x: str) -> str:
            return self.term(self.conv(x, (channels, channels, 3, 3)), channels)

        states.append(self.join(main(states[-1]), states[-1]))
        states.append(self.join(main(states[-1]), states[-1], self.pool(states[0])))
        states.append(
            self.join(main(states[-1]), self.term(self.conv(states[1], (channels, channels, 1, 1)), channels))
        )
        return states

    def down(self, x: str, channels: int) -> str:
        """Add a layer of stride 2 with a 5x5 convolution, a projection and a max-pool whose channels are repeated."""
        pooled = self.pool(x, stride=2)
        terms = [
            self.term(self.conv(x, (2 * channels, channels, kernel, kernel), stride=2), 2 * channels)
            for kernel in (3, 5, 1)
        ]
        return self.join(*terms, self.node("Concat", [pooled, pooled], axis=1))


def aligned_network(*, k: int = 2, size: int = 8, act_bits: int = 4):
    """Return a network with every operation a join can add up, at both strides."""
    net = AlignedCells(k=k, size=size, act_bits=act_bits)
    stem = net.activate(net.norm(net.conv(net.image, (4, 3, 3, 3), 8), 4))
    states = net.cell([stem], 4)
    states = net.cell([net.down(states[-1], 4)], 8)
    return net.finish(net.head(states[-1], 8), (1, 3))


def pictures(source: onnx.ModelProto, count: int = 2, seed: int = 1) -> np.ndarray:
    """Return random pictures (count, C, H, W) uint8 for a network."""
    shape = [dim.dim_value for dim in source.graph.input[0].type.tensor_type.shape.dim]
    return np.random.default_rng(seed).integers(0, 256, (count, *shape[1:]), dtype=np.uint8)


def qonnx_outputs(source: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """Return what qonnx gives for pictures, node by node."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    model = ModelWrapper(source, make_deepcopy=True).transform(InferShapes())
    name = model.graph.output[0].name
    inputs = (images.astype(np.float32) / np.float32(255))[:, None]
    return np.stack([execute_onnx(model, {"x": x})[name][0] for x in inputs])


def run(model: Any, images: np.ndarray) -> np.ndarray:
    """Return the output integers of a stage of the flow for pictures."""
    from nash_hw.verify.execute import Executor

    executor = Executor(model)
    if list(images.shape[1:]) != model.get_tensor_shape(model.graph.input[0].name)[1:]:
        images = images.transpose(0, 2, 3, 1)
    return np.stack([executor.run(image[None]).reshape(-1) for image in images])


def op_types(model: Any) -> list[str]:
    return sorted(node.op_type for node in model.graph.node)
