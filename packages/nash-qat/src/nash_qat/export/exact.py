"""Run a QONNX file in float64, node by node.

In float32 a value that lies on a rounding threshold may fall to either side; in float64 two correct executions of the
same scales and weights agree to the last digits, so a difference is a fault of the file. Slow, for verification only.
Shapes: pictures (N, C, H, W) uint8, logits (N, K) float64.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor
from torch.nn import functional

_INPUT_SCALE = np.float32(1 / 255)


@torch.no_grad()
def execute(path: Path, pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the logits of pictures, run one by one."""
    graph = onnx.load(str(path)).graph
    constants = {
        tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()).double() for tensor in graph.initializer
    }
    outputs = []
    for picture in pictures:
        values = dict(constants)
        values[graph.input[0].name] = torch.from_numpy((picture[None] * _INPUT_SCALE).astype(np.float64))
        for node in graph.node:
            values[node.output[0]] = _run(node, [values[name] for name in node.input])
        outputs.append(values[graph.output[0].name])
    return torch.cat(outputs).numpy()


def _run(node: onnx.NodeProto, inputs: list[Tensor]) -> Tensor:
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    x = inputs[0]
    match node.op_type:
        case "Quant":
            return _quant(*inputs, **attributes)
        case "BipolarQuant":
            return torch.where(x >= 0, inputs[1], -inputs[1])
        case "Conv":
            pads, strides = attributes["pads"], attributes["strides"]
            return functional.conv2d(x, inputs[1], None, strides, pads[:2], groups=attributes["group"])
        case "BatchNormalization":
            gamma, beta, mean, variance = inputs[1:]
            return functional.batch_norm(x, mean, variance, gamma, beta, eps=attributes["epsilon"])
        case "Relu":
            return x.relu()
        case "Add":
            return x + inputs[1]
        case "Mul":
            return x * inputs[1]
        case "Concat":
            return torch.cat(inputs, attributes["axis"])
        case "MaxPool":
            return functional.max_pool2d(x, attributes["kernel_shape"], attributes["strides"], attributes["pads"][:2])
        case "GlobalAveragePool":
            return x.mean((2, 3), keepdim=True)
        case "Flatten":
            return x.flatten(attributes["axis"])
        case "MatMul":
            return x @ inputs[1]
        case "Gemm":
            return x @ (inputs[1].T if attributes.get("transB") else inputs[1])
        case "Transpose":
            return x.permute(attributes["perm"])
        case _:
            raise NotImplementedError(f"an exported network has no {node.op_type}")


def _quant(x: Tensor, scale: Tensor, zero_point: Tensor, bits: Tensor, **attributes: Any) -> Tensor:
    assert not zero_point.any()
    assert attributes["rounding_mode"] == b"ROUND"
    steps, narrow = 2 ** int(bits.item()), attributes["narrow"]
    low, high = (-steps // 2 + narrow, steps // 2 - 1) if attributes["signed"] else (0, steps - 1 - narrow)
    return (x / scale).round().clamp(low, high) * scale
