"""Execute a graph of the flow node by node in Python, each FINN and QONNX node by its own `execute_node`.

Every value is held against the datatype its tensor is annotated with, and against the integers float32 holds exactly:
an accumulator that is too narrow for its data fails here instead of in hardware.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from qonnx.custom_op.registry import is_custom_op

from ..base.errors import VerificationError
from ..graph.model import FINN_DOMAIN, Model, attributes, custom_op
from ..graph.requant import requantize
from ..graph.steps import is_layer

_FLOAT32_INTEGERS = 2**24
_BACKENDS = (".hls", ".rtl")


class Executor:
    """Runs one model on many inputs."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._constants = {entry.name: model.get_initializer(entry.name) for entry in model.graph.initializer}
        self._nodes = [(node, _operation(node, model.graph)) for node in model.graph.node]
        self._buffers = {
            name: np.zeros(model.get_tensor_shape(name), np.float32)
            for node in model.graph.node
            for name in node.output
        }
        self._limits = {name: _limits(model, name) for name in self._buffers}

    def run(self, x: np.ndarray) -> np.ndarray:
        """Return the output for the input `x`, of the shape the graph takes, as float32.

        Raises:
            VerificationError: a value does not fit its tensor's datatype.
        """
        context = {**self._constants, **self._buffers, self._model.graph.input[0].name: x.astype(np.float32)}
        for node, execute in self._nodes:
            execute(context)
            for name in node.output:
                self._check(node, name, context[name])
        return context[self._model.graph.output[0].name]

    def _check(self, node: onnx.NodeProto, name: str, value: np.ndarray) -> None:
        low, high = self._limits[name]
        if value.min() < low or value.max() > high:
            raise VerificationError(
                f"{node.op_type} '{node.name}': its values reach {value.min():g} to {value.max():g}, "
                f"expected {low:g} to {high:g}, the range of its datatype; report this as a bug of nash-hw"
            )


def _limits(model: Model, name: str) -> tuple[float, float]:
    datatype = model.get_tensor_datatype(name)
    if not datatype.is_integer():
        return -np.inf, np.inf
    return max(datatype.min(), -_FLOAT32_INTEGERS), min(datatype.max(), _FLOAT32_INTEGERS)


def _operation(node: onnx.NodeProto, graph: onnx.GraphProto) -> Callable[[dict[str, Any]], None]:
    if is_layer(node, "Requant"):
        return _requant(node)
    if is_custom_op(node.domain):
        instance = custom_op(_unspecialized(node))
        if is_layer(node, "MVAU", "Thresholding"):
            return _flattened(node, instance, graph)
        return lambda context: instance.execute_node(context, graph)
    function = _FUNCTIONS[node.op_type]
    given = attributes(node)

    def execute(context: dict[str, Any]) -> None:
        context[node.output[0]] = function(*(context[name] for name in node.input), **given)

    return execute


def _requant(node: onnx.NodeProto) -> Callable[[dict[str, Any]], None]:
    """Execute a Requant in the arithmetic of its RTL; FINN's Python model rounds in float32 and may be a step off."""
    output_type = custom_op(node).get_output_datatype()

    def execute(context: dict[str, Any]) -> None:
        context[node.output[0]] = requantize(*(context[name] for name in node.input), output_type)

    return execute


def _flattened(node: onnx.NodeProto, instance: Any, graph: onnx.GraphProto) -> Callable[[dict[str, Any]], None]:
    """Execute a layer that may read a feature map (1, H, W, C) as one vector (1, H * W * C), as its stream is."""
    shape = tuple(int(size) for size in instance.get_normal_input_shape())
    name = node.input[0]

    def execute(context: dict[str, Any]) -> None:
        source = context[name]
        context[name] = source.reshape(shape)
        instance.execute_node(context, graph)
        context[name] = source

    return execute


def _unspecialized(node: onnx.NodeProto) -> onnx.NodeProto:
    """Return the node, or for one of a backend (MVAU_rtl) the hardware-independent one that Python can execute."""
    if not node.domain.endswith(_BACKENDS):
        return node
    base = onnx.NodeProto()
    base.CopyFrom(node)
    base.op_type, base.domain = node.op_type[:-4], FINN_DOMAIN
    known = custom_op(base).get_nodeattr_types()
    del base.attribute[:]
    base.attribute.extend(attribute for attribute in node.attribute if attribute.name in known)
    if is_layer(base, "VVAU"):  # told of fewer PEs than channels, it expects the window in another order than Python's
        instance = custom_op(base)
        instance.set_nodeattr("PE", instance.get_nodeattr("Channels"))
    return base


def _windows(x: np.ndarray, kernel: Any, strides: Any, pads: Any, value: float) -> np.ndarray:
    """Return the windows (1, C, H', W', kh, kw) that slide over x: (1, C, H, W), padded with a value."""
    top, left, bottom, right = pads
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)
    return sliding_window_view(padded, tuple(kernel), axis=(2, 3))[:, :, :: strides[0], :: strides[1]]


def _conv(x: np.ndarray, weights: np.ndarray, *, strides: Any, pads: Any, group: int, kernel_shape: Any) -> np.ndarray:
    windows = _windows(x, kernel_shape, strides, pads, 0.0)
    parts = zip(np.split(windows, group, axis=1), np.split(weights, group), strict=True)
    results = [np.tensordot(part, kernel, axes=((1, 4, 5), (1, 2, 3))) for part, kernel in parts]
    return np.ascontiguousarray(np.concatenate(results, axis=-1).transpose(0, 3, 1, 2))


def _max_pool(x: np.ndarray, *, kernel_shape: Any, strides: Any, pads: Any) -> np.ndarray:
    return _windows(x, kernel_shape, strides, pads, -np.inf).max(axis=(4, 5))


def _sum(x: np.ndarray, axes: np.ndarray, *, keepdims: int) -> np.ndarray:
    return x.sum(axis=tuple(axes.tolist()), keepdims=bool(keepdims))


_FUNCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "Add": lambda a, b: a + b,
    "Concat": lambda *parts, axis: np.concatenate(parts, axis=axis),
    "Conv": _conv,
    "Flatten": lambda x, axis: x.reshape(x.shape[0], -1),
    "MatMul": lambda a, b: a @ b,
    "MaxPool": _max_pool,
    "Mul": lambda a, b: a * b,
    "ReduceSum": _sum,
    "Transpose": lambda x, perm: np.ascontiguousarray(x.transpose(perm)),
}
