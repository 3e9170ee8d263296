"""Read a QONNX graph: its constants, its quantizers, its quantized weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from qonnx.core.datatype import BaseDataType, DataType
from qonnx.custom_op.general.quant import max_int, min_int

from .errors import IntegrityError, UnsupportedError
from .model import attributes, tensor_title

_MAX_BITS = 8
_QUANTIZER_OPS = ("Quant", "BipolarQuant")


@dataclass(frozen=True, kw_only=True)
class Quantizer:
    """A quantizer of activations: ``clip(round_half_even(real / scale + zero_point), low, high)``."""

    scale: float
    zero_point: int
    low: int
    high: int
    datatype: BaseDataType


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
        IntegrityError: it is truncated, or no ONNX.
    """
    try:
        proto = onnx.load(str(path))
    except Exception as error:  # protobuf and onnx each raise their own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise IntegrityError(f"{path}: not a whole ONNX file ({reason[:120]}); export the model anew") from error
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
        if node.op_type == "Constant":
            known[node.output[0]] = numpy_helper.to_array(attributes(node)["value"])
        elif node.op_type not in _QUANTIZER_OPS and node.input and all(name in known for name in node.input):
            known.update(_evaluate(node, known))
    return known


def _evaluate(node: onnx.NodeProto, known: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    from onnx.reference import ReferenceEvaluator

    values = ReferenceEvaluator(node).run(None, {name: known[name] for name in node.input})
    return dict(zip(node.output, map(np.asarray, values), strict=True))


def read_quantizer(node: onnx.NodeProto, known: dict[str, np.ndarray]) -> Quantizer:
    """Return what a Quant node of activations does.

    Raises:
        UnsupportedError: it is one the accelerator's thresholds cannot express.
    """
    title = f"{node.op_type} '{tensor_title(node.output[0])}'"
    scale, zero_point, bits = (_scalar(title, known, name) for name in node.input[1:4])
    given = attributes(node)
    if given.get("rounding_mode", b"ROUND").decode().upper() != "ROUND":
        raise UnsupportedError(f"{title}: rounds by {given['rounding_mode'].decode()}; use ROUND")
    if not 1 <= bits <= _MAX_BITS or bits != int(bits) or zero_point != int(zero_point) or scale <= 0:
        raise UnsupportedError(
            f"{title}: got {bits:g} bits, scale {scale:g}, zero point {zero_point:g}; "
            f"expected 1 to {_MAX_BITS} bits, a positive scale and an integer zero point"
        )
    signed, narrow = bool(given.get("signed", 1)), bool(given.get("narrow", 0))
    if signed and bits == 1:
        raise UnsupportedError(f"{title}: signed activations of 1 bit; use 2 bits, or unsigned")
    low, high = int(min_int(signed, narrow, int(bits))), int(max_int(signed, narrow, int(bits)))
    datatype = DataType[f"{'INT' if signed else 'UINT'}{int(bits)}"]
    return Quantizer(scale=scale, zero_point=int(zero_point), low=low, high=high, datatype=datatype)


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
    if node.op_type not in _QUANTIZER_OPS or node.input[0] not in known:
        return None
    title = f"{node.op_type} '{tensor_title(node.output[0])}'"
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


def _scalar(title: str, known: dict[str, np.ndarray], name: str) -> float:
    value = known.get(name)
    if value is None or value.size != 1:
        got = "a computed value" if value is None else f"{value.size} values"
        raise UnsupportedError(f"{title}: its parameter '{name}' is {got}, expected one constant for the whole tensor")
    return float(value.reshape(()))
