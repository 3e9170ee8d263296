"""QONNX to a graph of standard ONNX operators (QCDQ) that onnxruntime executes.

Weight quantizers are folded into their weights. A quantizer of activations becomes QuantizeLinear - Clip -
DequantizeLinear by qonnx's QuantToQCDQ where that is exact, and arithmetic of standard operators where it is not
(1 bit, more than 8 bit, a zero point, another rounding). Each value is the one qonnx's own execution gives.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from ..base import binary_file, json_file
from ..base.errors import IntegrityError, UnsupportedError

_QONNX_DOMAINS = {"qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general"}
_QUANTIZERS = {"Quant", "IntQuant", "BipolarQuant"}
_ROUND_OPERATORS = {"ROUND": "Round", "HALF_EVEN": "Round", "CEIL": "Ceil", "FLOOR": "Floor"}
_MIN_OPSET = 13


def read_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file and check that it is a whole graph with one input and one output.

    Raises:
        IntegrityError: the file is damaged.
        UnsupportedError: the graph has several inputs or outputs.
    """
    try:
        model = binary_file.onnx_model(path)
    except json_file.Unreadable as error:
        raise IntegrityError(f"{path}: {error}; export it anew") from error
    graph = model.graph
    initializers = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in initializers]
    known = initializers | {value.name for value in inputs} | {name for node in graph.node for name in node.output}
    wanted = [value.name for value in graph.output] + [name for node in graph.node for name in node.input if name]
    missing = [name for name in wanted if name not in known]
    if not graph.node or not graph.output or missing:
        what = f"tensor '{missing[0]}' comes from nowhere" if missing else "it holds no graph"
        raise IntegrityError(f"{path}: not a whole ONNX file ({what}); export it anew")
    if len(inputs) != 1 or len(graph.output) != 1:
        got = f"{len(inputs)} inputs and {len(graph.output)} outputs"
        raise UnsupportedError(f"{path}: got {got}, expected one of each; export a classifier")
    return model


def to_qcdq(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a QONNX graph in standard operators, its batch dimension free.

    Raises:
        UnsupportedError: an operator has no exact counterpart among the standard ones.
    """
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.qonnx_to_qcdq import QuantToQCDQ

    converted = onnx.ModelProto()
    converted.CopyFrom(model)
    _check_operators(converted)
    _keep_one_input(converted.graph)
    _constants_to_initializers(converted.graph)
    _fold_weight_quantizers(converted.graph)
    _express_in_arithmetic(converted.graph)
    _drop_unused_initializers(converted.graph)
    if any(node.op_type in _QUANTIZERS for node in converted.graph.node):
        converted = ModelWrapper(converted).transform(QuantToQCDQ()).model
    left = {node.op_type for node in converted.graph.node if node.domain in _QONNX_DOMAINS}
    assert not left, f"QuantToQCDQ left {left}"
    _keep_standard_opsets(converted)
    _free_batch(converted.graph)
    return converted


def _check_operators(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.domain in _QONNX_DOMAINS and node.op_type not in _QUANTIZERS:
            raise UnsupportedError(
                f"node {node.name or node.output[0]}: got operator {node.domain}.{node.op_type}, "
                f"expected standard ones and {', '.join(sorted(_QUANTIZERS))}; export without it"
            )
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < _MIN_OPSET:
        raise UnsupportedError(f"opset: got {opset}, expected at least {_MIN_OPSET}; export with that opset")


def _keep_one_input(graph: onnx.GraphProto) -> None:
    """Drop the weights that old exporters list among the inputs: a value that may be fed is not a constant."""
    initializers = {tensor.name for tensor in graph.initializer}
    kept = [value for value in graph.input if value.name not in initializers]
    del graph.input[:]
    graph.input.extend(kept)


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        value = helper.get_node_attr_value(node, node.attribute[0].name)
        array = numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)
        if array.dtype == np.float64:  # value_float and value_floats are 32-bit
            array = array.astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
        graph.node.remove(node)


def _constants(graph: onnx.GraphProto) -> dict[str, NDArray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def _fold_weight_quantizers(graph: onnx.GraphProto) -> None:
    """Replace each quantizer of a constant by the constant that it gives."""
    from qonnx.custom_op.general.bipolar_quant import binary_quant
    from qonnx.custom_op.general.quant import quant

    constants = _constants(graph)
    for node in [node for node in graph.node if node.op_type in _QUANTIZERS]:
        if any(name not in constants for name in node.input):
            continue
        values = [constants[name] for name in node.input]
        if node.op_type == "BipolarQuant":
            folded = binary_quant(*values)
        else:
            signed, narrow, rounding = _quantizer_attributes(node)
            folded = quant(*values, signed, narrow, rounding)
        graph.initializer.append(numpy_helper.from_array(np.asarray(folded, dtype=np.float32), node.output[0]))
        constants[node.output[0]] = np.asarray(folded, dtype=np.float32)
        graph.node.remove(node)


def _quantizer_attributes(node: onnx.NodeProto) -> tuple[bool, bool, str]:
    found = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    rounding = found.get("rounding_mode", b"ROUND")
    return bool(found.get("signed", 1)), bool(found.get("narrow", 1)), rounding.decode().upper()


def _express_in_arithmetic(graph: onnx.GraphProto) -> None:
    """Write each quantizer that QuantToQCDQ cannot express exactly in standard operators, in its place."""
    constants = _constants(graph)
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in [*graph.value_info, *graph.input, *graph.output]
        if value.type.tensor_type.HasField("shape")
    }
    nodes = []
    for node in graph.node:
        if node.op_type not in _QUANTIZERS:
            nodes.append(node)
        elif any(name not in constants for name in node.input[1:]):
            raise UnsupportedError(
                f"node {node.name or node.output[0]}: its scale, zero point or bit width is computed at run time, "
                "expected a constant; export with fixed quantizers"
            )
        elif node.op_type != "BipolarQuant" and _fits_qcdq(node, constants, ranks.get(node.input[0])):
            nodes.append(node)
        else:
            nodes.extend(_arithmetic(node, constants, graph.initializer.append))
    del graph.node[:]
    graph.node.extend(nodes)


def _fits_qcdq(node: onnx.NodeProto, constants: dict[str, NDArray], rank: int | None) -> bool:
    """Tell whether QuantToQCDQ replaces this node, and by something that equals it."""
    scale, zero_point, bit_width = (constants[name] for name in node.input[1:])
    signed, narrow, rounding = _quantizer_attributes(node)
    num_axes = sum(side > 1 for side in scale.shape)
    return (
        node.op_type == "Quant"
        and node.domain != "finn.custom_op.general"
        and (num_axes == 0 or (num_axes == 1 and scale.ndim == rank))  # else the axis is not the scale's own
        and zero_point.size == 1
        and zero_point.item() == 0
        and bit_width.ndim == 0
        and bit_width.item() in range(2, 9)
        and (bit_width.item() < 8 or signed or not narrow)  # it forgets to narrow an unsigned byte
        and rounding == "ROUND"
    )


def _arithmetic(
    node: onnx.NodeProto, constants: dict[str, NDArray], add_initializer: Callable[[onnx.TensorProto], None]
) -> list[onnx.NodeProto]:
    """Return standard operators that compute what the quantizer `node` computes, in the same order of operations."""
    source, target = node.input[0], node.output[0]
    nodes: list[onnx.NodeProto] = []

    def constant(value: NDArray | float, role: str) -> str:
        name = f"{target}_{role}"
        add_initializer(numpy_helper.from_array(np.asarray(value, dtype=np.float32), name))
        return name

    def step(op_type: str, *inputs: str, output: str | None = None) -> str:
        name = output or f"{target}_step{len(nodes)}"
        nodes.append(helper.make_node(op_type, list(inputs), [name], name=f"{target}_{op_type}{len(nodes)}"))
        return name

    scale = constant(constants[node.input[1]], "scale")
    if node.op_type == "BipolarQuant":
        is_positive = step("GreaterOrEqual", source, constant(0, "zero"))
        sign = step("Where", is_positive, constant(1, "plus"), constant(-1, "minus"))
        step("Mul", sign, scale, output=target)
        return nodes

    signed, narrow, rounding = _quantizer_attributes(node)
    bits = constants[node.input[3]]
    if bits.size != 1:
        raise UnsupportedError(f"node {node.name or target}: got a bit width a channel, expected one; export it so")
    zero_point = constant(constants[node.input[2]], "zero_point")
    value = step("Add", step("Div", source, scale), zero_point)
    if bits.item() == 1 and signed:
        is_positive = step("GreaterOrEqual", value, constant(0, "zero"))
        value = step("Where", is_positive, constant(1, "plus"), constant(-1, "minus"))
    else:
        if rounding not in _ROUND_OPERATORS:
            expected = ", ".join(_ROUND_OPERATORS)
            raise UnsupportedError(f"node {node.name or target}: got rounding {rounding}, expected one of {expected}")
        low, high = _integer_range(bits.item(), signed, narrow)
        value = step("Clip", value, constant(low, "low"), constant(high, "high"))
        value = step(_ROUND_OPERATORS[rounding], value)
    step("Mul", step("Sub", value, zero_point), scale, output=target)
    return nodes


def _integer_range(bits: float, signed: bool, narrow: bool) -> tuple[float, float]:
    if signed:
        return -(2 ** (bits - 1)) + narrow, 2 ** (bits - 1) - 1
    return 0, 2**bits - 1 - narrow


def _drop_unused_initializers(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _keep_standard_opsets(model: onnx.ModelProto) -> None:
    kept = [entry for entry in model.opset_import if entry.domain in ("", "ai.onnx", "ai.onnx.ml")]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _free_batch(graph: onnx.GraphProto) -> None:
    """Let the graph take any number of pictures: nothing in it may name the exported batch size."""
    del graph.value_info[:]
    del graph.quantization_annotation[:]
    for value in [*graph.input, *graph.output]:
        dims = value.type.tensor_type.shape.dim
        if len(dims):
            dims[0].ClearField("dim_value")
            dims[0].dim_param = "batch"
    shapes = {node.input[1] for node in graph.node if node.op_type == "Reshape"}
    for tensor in graph.initializer:
        if tensor.name in shapes:
            shape = numpy_helper.to_array(tensor).copy()
            if shape.size > 1 and shape[0] == 1:
                shape[0] = 0  # "as the input has"
                tensor.CopyFrom(numpy_helper.from_array(shape, tensor.name))
