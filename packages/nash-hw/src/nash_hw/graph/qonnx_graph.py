"""Read a QONNX graph: its constants, its quantizers, its quantized weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from qonnx.core.datatype import BaseDataType, DataType
from qonnx.custom_op.general.quant import max_int, min_int

from ..base import binary_file, json_file
from ..base.errors import IntegrityError, UnsupportedError
from ..base.quoting import brief
from .activations import Quantizer, Sign, Truncation
from .model import attributes, tensor_title

_MAX_BITS = 8
_AXES_ARE_ATTRIBUTE = 11  # opset
QUANTIZER_OPS = ("Quant", "BipolarQuant")
_UNFIT = (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Quantized weights: ``real = scale * integers``; the scale broadcasts to the integers."""

    integers: np.ndarray  # (out, in, kh, kw) or (out, in), float64
    scale: np.ndarray  # as many axes as the integers, float64
    datatype: BaseDataType

    @property
    def output_scale(self) -> np.ndarray | None:
        """The scale of each output channel (axis 0), (out,) or (1,); None if it differs within a channel."""
        return self.scale.reshape(-1) if self.scale.size == self.scale.shape[0] else None

    def transposed(self, axes: tuple[int, ...]) -> Weights:
        """Return the weights with their axes in another order."""
        return replace(self, integers=self.integers.transpose(axes), scale=self.scale.transpose(axes))

    def flipped(self, negative: np.ndarray) -> Weights:
        """Return the weights with the signs of some output channels changed."""
        signs = np.where(negative, -1.0, 1.0).reshape(-1, *(1,) * (self.integers.ndim - 1))
        integers = self.integers * signs
        datatype = self.datatype
        if not (datatype.min() <= integers.min() and integers.max() <= datatype.max()):
            datatype = DataType[f"INT{datatype.bitwidth() + 1}"]  # 4 bits hold -8, but no 8
        return replace(self, integers=integers, datatype=datatype)


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file and check that it is whole.

    Raises:
        IntegrityError: it cannot be read, is truncated, or no ONNX.
    """
    try:
        proto = binary_file.onnx_model(path)
    except json_file.Unreadable as error:
        raise IntegrityError(f"{path}: {error}; check the path, or export the model anew") from error
    graph = proto.graph
    known = {entry.name for entry in (*graph.input, *graph.initializer)} | {""}
    for node in graph.node:
        missing = [name for name in node.input if name not in known]
        if missing:
            raise IntegrityError(
                f"{path}: node '{node.name}' reads '{missing[0]}', which nothing writes; export the model anew"
            )
        known.update(node.output)
    if not graph.node or not graph.output or any(entry.name not in known for entry in graph.output):
        raise IntegrityError(f"{path}: the graph has no nodes or misses its output; export the model anew")
    return proto


def constants(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """Return every tensor of a graph that does not depend on its input, except quantized weights."""
    known = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
    for node in graph.node:
        with reading(node):
            if node.op_type == "Constant":
                known[node.output[0]] = numpy_helper.to_array(attributes(node)["value"])
            elif node.op_type not in QUANTIZER_OPS and node.input and all(name in known for name in node.input):
                known.update(evaluate(node, known))
    return known


@contextmanager
def reading(node: onnx.NodeProto) -> Iterator[None]:
    """Refuse a node that is not what its operator asks for: an input or attribute too few, or of another shape.

    Raises:
        UnsupportedError: whoever reads it in this block has met that.
    """
    try:
        yield
    except _UNFIT as error:
        reason = brief(f"{type(error).__name__}: {error}", 120, is_text=True)
        raise UnsupportedError(
            f"{node_title(node)}: its inputs and attributes do not fit together ({reason}); export the model anew"
        ) from error


def evaluate(node: onnx.NodeProto, known: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the outputs of a node whose inputs are all known."""
    from onnx.reference import ReferenceEvaluator

    has_axes = "axes" in attributes(node)  # an input since opset 13
    evaluator = ReferenceEvaluator(_alone(node, known)) if has_axes else ReferenceEvaluator(node)
    values = evaluator.run(None, {name: known[name] for name in node.input})
    return dict(zip(node.output, map(np.asarray, values), strict=True))


def _alone(node: onnx.NodeProto, known: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Return a model of one node in the last opset that has axes as an attribute."""
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(known[name].dtype), known[name].shape)
        for name in node.input
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
    graph = helper.make_graph([node], "constant", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _AXES_ARE_ATTRIBUTE)])


def read_quantizer(node: onnx.NodeProto, known: dict[str, np.ndarray], shape: tuple[int, ...] = (1, 1)) -> Quantizer:
    """Return what a quantizer of activations of a shape, (1, C, ...), does.

    Raises:
        UnsupportedError: it is one the accelerator's thresholds cannot express.
    """
    title = node_title(node)
    if node.op_type == "BipolarQuant":
        scale = _scales(title, known, node.input[1], shape)
        return Sign(scale=scale, zero_point=0, low=0, high=1, datatype=DataType["UINT1"])
    if node.op_type == "Trunc":
        return _read_truncation(node, known)
    scale = _scales(title, known, node.input[1], shape)
    zero_point, bits = (_scalar(title, known, name) for name in node.input[2:4])
    given = attributes(node)
    if given.get("rounding_mode", b"ROUND").decode().upper() != "ROUND":
        raise UnsupportedError(f"{title}: rounds by {given['rounding_mode'].decode()}; use ROUND")
    if not 1 <= bits <= _MAX_BITS or bits != int(bits) or zero_point != int(zero_point) or np.min(scale) <= 0:
        raise UnsupportedError(
            f"{title}: got {bits:g} bits, scale {np.min(scale):g}, zero point {zero_point:g}; "
            f"expected 1 to {_MAX_BITS} bits, a positive scale and an integer zero point"
        )
    signed, narrow = bool(given.get("signed", 1)), bool(given.get("narrow", 0))
    if signed and bits == 1:
        raise UnsupportedError(f"{title}: signed activations of 1 bit; use BipolarQuant, 2 bits, or unsigned ones")
    low, high = int(min_int(signed, narrow, int(bits))), int(max_int(signed, narrow, int(bits)))
    datatype = DataType[f"{'INT' if signed else 'UINT'}{int(bits)}"]
    return Quantizer(scale=scale, zero_point=int(zero_point), low=low, high=high, datatype=datatype)


def _read_truncation(node: onnx.NodeProto, known: dict[str, np.ndarray]) -> Truncation:
    """Return what a Trunc does: version 1 has the bits of its output, version 2 its scale, too."""
    title = node_title(node)
    values = [_scalar(title, known, name) for name in node.input[1:]]
    (scale, zero_point, in_bits), out_bits = values[:3], values[-1]
    given = attributes(node)
    mode = given.get("rounding_mode", b"FLOOR").decode().upper()
    is_second = len(values) == 5
    bits = np.round(np.log2(values[3] / scale)) if is_second else in_bits - out_bits
    if mode not in ("FLOOR", "ROUND") or zero_point or bits < 0 or not 1 <= out_bits <= _MAX_BITS or scale <= 0:
        raise UnsupportedError(
            f"{title}: truncates by {mode} to {out_bits:g} bits with zero point {zero_point:g}; expected FLOOR or "
            f"ROUND, 1 to {_MAX_BITS} bits, zero point 0"
        )
    signed = bool(given.get("signed", 1)) if is_second else False
    low, high = (int(bound(signed, bool(given.get("narrow", 0)), int(out_bits))) for bound in (min_int, max_int))
    return Truncation(
        scale=values[3] if is_second else scale,
        zero_point=0,
        low=low,
        high=high,
        datatype=DataType[f"{'INT' if signed else 'UINT'}{int(out_bits)}"],
        input_scale=scale,
        bits=int(bits),
        is_floor=mode == "FLOOR",
    )


def direct_scale(graph: onnx.GraphProto) -> float | None:
    """Return the scale of the unsigned 8-bit quantizer that reads the graph's input, None if there is no such one."""
    known = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
    known |= {n.output[0]: numpy_helper.to_array(attributes(n)["value"]) for n in graph.node if n.op_type == "Constant"}
    inputs = {entry.name for entry in graph.input} - set(known)
    for node in graph.node:
        if node.op_type == "Quant" and node.input[0] in inputs and all(name in known for name in node.input[1:]):
            scale, zero_point, bits = (known[name] for name in node.input[1:4])
            is_byte = float(bits.reshape(-1)[0]) == _MAX_BITS and not attributes(node).get("signed", 1)
            return float(scale.reshape(-1)[0]) if is_byte and scale.size == 1 and not zero_point.any() else None
    return None


def widest_activation(source: onnx.ModelProto) -> int:
    """Return the bits of the widest quantizer of activations behind the first layer with weights."""
    known = constants(source.graph)
    behind: set[str] = set()
    widest = 1
    for node in source.graph.node:
        is_behind = any(name in behind for name in node.input)
        if is_behind or node.op_type in ("Conv", "MatMul", "Gemm"):
            behind.update(node.output)
        if is_behind and node.op_type in ("Quant", "Trunc") and node.input[-1] in known:
            position = 3 if node.op_type == "Quant" else -1
            widest = max(widest, int(known[node.input[position]].reshape(-1)[0]))
    return widest


def read_weights(node: onnx.NodeProto, known: dict[str, np.ndarray], quantized: dict[str, Weights]) -> Weights | None:
    """Return the quantized weights a node makes of constants (or of other quantized weights), or None.

    Raises:
        UnsupportedError: a quantizer of weights the accelerator cannot express.
    """
    if node.op_type == "Transpose" and node.input[0] in quantized:
        source = quantized[node.input[0]]
        return source.transposed(tuple(attributes(node).get("perm", range(source.integers.ndim)[::-1])))
    if node.op_type == "Identity" and node.input[0] in quantized:
        return quantized[node.input[0]]
    if node.op_type not in QUANTIZER_OPS or node.input[0] not in known:
        return None
    title = node_title(node)
    values = known[node.input[0]].astype(np.float32)
    scale = known[node.input[1]].astype(np.float32)
    scale = scale.reshape((1,) * (values.ndim - scale.ndim) + scale.shape)
    if np.any(scale <= 0):
        raise UnsupportedError(f"{title}: a scale of its weights is not positive")
    if node.op_type == "BipolarQuant":
        integers = np.where(values >= 0, 1.0, -1.0)
        return Weights(integers=integers, scale=scale.astype(np.float64), datatype=DataType["BIPOLAR"])
    zero_point, bits = (_scalar(title, known, name) for name in node.input[2:4])
    if zero_point != 0 or not 2 <= bits <= _MAX_BITS or bits != int(bits):
        raise UnsupportedError(
            f"{title}: got weights of {bits:g} bits with zero point {zero_point:g}; "
            f"expected 2 to {_MAX_BITS} bits with zero point 0, or BipolarQuant for 1 bit"
        )
    given = attributes(node)
    signed, narrow = bool(given.get("signed", 1)), bool(given.get("narrow", 0))
    low, high = min_int(signed, narrow, int(bits)), max_int(signed, narrow, int(bits))
    integers = np.clip(np.rint(values / scale), low, high).astype(np.float64)
    datatype = DataType[f"{'INT' if signed else 'UINT'}{int(bits)}"]
    return Weights(integers=integers, scale=scale.astype(np.float64), datatype=datatype)


def read_bias(node: onnx.NodeProto, known: dict[str, np.ndarray]) -> np.ndarray | None:
    """Return what a quantizer of more than 8 bits makes of constants, real, float64; None for another node."""
    if node.op_type != "Quant" or any(name not in known for name in node.input):
        return None
    title = node_title(node)
    zero_point, bits = (_scalar(title, known, name) for name in node.input[2:4])
    if bits <= _MAX_BITS:
        return None
    values, scale = (known[name].astype(np.float64) for name in node.input[:2])
    given = attributes(node)
    bound = (bool(given.get("signed", 1)), bool(given.get("narrow", 0)), int(bits))
    integers = np.clip(np.rint(values / scale + zero_point), min_int(*bound), max_int(*bound))
    return (integers - zero_point) * scale


def _scalar(title: str, known: dict[str, np.ndarray], name: str) -> float:
    value = known.get(name)
    if value is None or value.size != 1:
        got = "a computed value" if value is None else f"{value.size} values"
        raise UnsupportedError(f"{title}: its parameter '{name}' is {got}, expected one constant for the whole tensor")
    return float(value.reshape(()))


def _scales(title: str, known: dict[str, np.ndarray], name: str, shape: tuple[int, ...]) -> float | tuple[float, ...]:
    """Return the scale of a quantizer of activations: one, or one for each channel (axis 1)."""
    value = known.get(name)
    if value is None or value.size == 1:
        return _scalar(title, known, name)
    expected = tuple(size if axis == 1 else 1 for axis, size in enumerate(shape))
    if (1,) * (len(shape) - value.ndim) + value.shape != expected:
        raise UnsupportedError(
            f"{title}: its scale has shape {list(value.shape)}, expected one value, or {list(expected)}, one a channel"
        )
    scales = value.reshape(-1).astype(np.float64)
    return float(scales[0]) if np.all(scales == scales[0]) else tuple(scales.tolist())


def node_title(node: onnx.NodeProto) -> str:
    """Return how a message names a node."""
    return f"{node.op_type} '{tensor_title(node.output[0])}'"
