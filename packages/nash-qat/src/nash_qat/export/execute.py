"""Run a QONNX file with onnxruntime.

Quantized weights become integers with DequantizeLinear; an activation quantizer becomes QuantizeLinear, Clip (below 8
bits) and DequantizeLinear, which is the same function: the QCDQ form.
Shapes: pictures (N, C, H, W) uint8, logits (N, K) float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ..base import binary_file
from ..base.errors import IntegrityError

_INPUT_SCALE = np.float32(1 / 255)
_QUANTIZERS = ("Quant", "BipolarQuant")


class Runner:
    """An executable QONNX file."""

    def __init__(self, path: Path, *, batch_size: int = 1) -> None:
        """Load a file for pictures in batches of `batch_size`.

        Raises:
            IntegrityError: the file is damaged or no QONNX network.
        """
        try:
            model = binary_file.onnx_model(path)
            _lower(model)
            for dimension in _batch_dimensions(model):
                dimension.dim_value = batch_size
            self._session = _session(model)
        except Exception as error:  # parser, checker and runtime each have errors of their own
            brief = " ".join(str(error).split())[:120]
            raise IntegrityError(f"{path}: not a readable QONNX file ({brief}); export it anew") from error
        self._batch_size = batch_size
        self._input = self._session.get_inputs()[0].name

    def __call__(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits of pictures; the last batch is filled up with zeros and cut again."""
        outputs = []
        for start in range(0, len(pictures), self._batch_size):
            batch = pictures[start : start + self._batch_size]
            padded = np.zeros((self._batch_size, *batch.shape[1:]), dtype=np.float32)
            padded[: len(batch)] = batch * _INPUT_SCALE
            outputs.append(self._session.run(None, {self._input: padded})[0][: len(batch)])
        return np.concatenate(outputs)


def snap_weights(model: onnx.ModelProto) -> None:
    """Replace weights by their quantized values, in place: who quantizes them again finds none near a tie."""
    constants = _constants(model.graph)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in _QUANTIZERS and node.input[0] in constants:
            snapped = _quantized_weights(node, constants)
            tensors[node.input[0]].CopyFrom(numpy_helper.from_array(snapped, node.input[0]))


def _constants(graph: onnx.GraphProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def _session(model: onnx.ModelProto) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # no fusion: the arithmetic stays that of the file
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def write_qcdq(path: Path, qonnx_path: Path) -> None:
    """Write a QONNX file in the QCDQ form, which onnxruntime runs as it is, for any batch size."""
    model = onnx.load(str(qonnx_path))
    _lower(model)
    for dimension in _batch_dimensions(model):
        dimension.dim_param = "batch"
    path.write_bytes(model.SerializeToString())


def _batch_dimensions(model: onnx.ModelProto) -> list[onnx.TensorShapeProto.Dimension]:
    return [value.type.tensor_type.shape.dim[0] for value in (*model.graph.input, *model.graph.output)]


def _lower(model: onnx.ModelProto) -> None:
    graph = model.graph
    constants = _constants(graph)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type not in _QUANTIZERS:
            nodes.append(node)
        elif node.input[0] in constants:
            nodes.append(_dequantize_weights(node, constants, graph))
        else:
            nodes += _quantize_linear(node, constants, graph)
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.quantization_annotation[:]
    del graph.value_info[:]
    read = {name for node in nodes for name in node.input}
    kept_tensors = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept_tensors)
    kept = [opset for opset in model.opset_import if opset.domain in ("", "ai.onnx")]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _quantized_weights(node: onnx.NodeProto, constants: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    return (_integer_weights(node, constants) * constants[node.input[1]]).astype(np.float32)


def _integer_weights(node: onnx.NodeProto, constants: dict[str, NDArray[Any]]) -> NDArray[np.int8]:
    weights, scale = constants[node.input[0]], constants[node.input[1]]
    if node.op_type == "BipolarQuant":
        return np.where(weights >= 0, 1, -1).astype(np.int8)
    return np.clip(np.rint(weights / scale), *_levels(node, constants)).astype(np.int8)


def _dequantize_weights(
    node: onnx.NodeProto, constants: dict[str, NDArray[Any]], graph: onnx.GraphProto
) -> onnx.NodeProto:
    name, scale = node.output[0], constants[node.input[1]].astype(np.float32)
    integers = _integer_weights(node, constants)
    axis = int(np.argmax(scale.shape)) if scale.size > 1 else None  # one scale a channel, or one
    scale = scale.reshape(() if axis is None else -1)
    graph.initializer.append(numpy_helper.from_array(integers, f"{name}/integers"))
    graph.initializer.append(numpy_helper.from_array(scale, f"{name}/scale"))
    settings = {} if axis is None else {"axis": axis}
    return helper.make_node("DequantizeLinear", [f"{name}/integers", f"{name}/scale"], [name], **settings)


def _levels(node: onnx.NodeProto, constants: dict[str, NDArray[Any]]) -> tuple[int, int]:
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    bits, signed, narrow = int(constants[node.input[3]].item()), attributes["signed"], attributes["narrow"]
    if signed:
        return -(1 << bits - 1) + narrow, (1 << bits - 1) - 1
    return 0, (1 << bits) - 1 - narrow


def _quantize_linear(
    node: onnx.NodeProto, constants: dict[str, NDArray[Any]], graph: onnx.GraphProto
) -> list[onnx.NodeProto]:
    assert node.op_type == "Quant", "activations are never bipolar here"
    low, high = _levels(node, constants)
    name, kind = node.output[0], np.int8 if low < 0 else np.uint8
    limits = np.iinfo(kind)

    def constant(suffix: str, value: NDArray[Any]) -> str:
        graph.initializer.append(numpy_helper.from_array(value, f"{name}/{suffix}"))
        return f"{name}/{suffix}"

    scale = constant("scale", constants[node.input[1]].reshape(()).astype(np.float32))
    zero = constant("zero", np.zeros((), dtype=kind))
    nodes = [helper.make_node("QuantizeLinear", [node.input[0], scale, zero], [f"{name}/q"])]
    if (low, high) != (limits.min, limits.max):
        bounds = [constant(suffix, np.array(value, dtype=kind)) for suffix, value in (("low", low), ("high", high))]
        nodes.append(helper.make_node("Clip", [f"{name}/q", *bounds], [f"{name}/c"]))
    nodes.append(helper.make_node("DequantizeLinear", [nodes[-1].output[0], scale, zero], [name]))
    return nodes
