"""From the integer graph in NCHW to the operations FINN's hardware layers are made of, in NHWC.

Shapes: feature maps (1, H, W, C), vectors (1, C).

Each operation is written anew in its channels-last form, in one pass, so no transposition is left to move or cancel:
the only one stands at the input. A convolution becomes a sliding window (Im2Col) and a matrix product,
a depthwise one a product with a matrix of zeros but for each channel's own kernel, which FINN knows by its annotation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import onnx
from qonnx.core.datatype import BaseDataType, DataType

from .model import FINN_DOMAIN, QONNX_DOMAIN, GraphBuilder, Model, attributes


def lower(model: Model) -> Model:
    """Return the channels-last form of a streamlined model; it takes the same NCHW input."""
    return _Lowering(model).run()


class _Lowering:
    def __init__(self, model: Model) -> None:
        self._model = model
        self._new = GraphBuilder("lowered")
        self._names: dict[str, str] = {}
        self._depthwise: dict[str, list[int]] = {}  # weights, and their kernel
        self._windows: dict[tuple[Any, ...], str] = {}  # what they slide over and how, and the tensor of the windows
        self._orders: dict[
            str, np.ndarray
        ] = {}  # of flattened maps, by the NCHW tensor: which entry of NCHW comes where

    def run(self) -> Model:
        source = self._model.graph.input[0].name
        batch, channels, height, width = self._model.get_tensor_shape(source)
        datatype = self._model.get_tensor_datatype(source)
        self._new.input(self._new.unique(source), (batch, channels, height, width), datatype)
        nhwc = (f"{source}_nhwc", (batch, height, width, channels), datatype)
        self._names[source] = self._new.node("Transpose", [source], nhwc, perm=[0, 2, 3, 1])
        for node in self._model.graph.node:
            self._keep_order(node)
            self._names[node.output[0]] = self._WRITERS[node.op_type](self, node)
        self._new.output(self._names[self._model.graph.output[0].name])
        model = self._new.model()
        for name, kernel in self._depthwise.items():
            model.set_tensor_sparsity(name, {"dw": {"kernel_shape": kernel}})
        return model

    def _output(
        self, node: onnx.NodeProto, datatype: BaseDataType | None = None
    ) -> tuple[str, list[int], BaseDataType]:
        name = node.output[0]
        shape = self._model.get_tensor_shape(name)
        if len(shape) == 4:
            shape = [shape[0], shape[2], shape[3], shape[1]]
        return name, shape, datatype or self._model.get_tensor_datatype(name)

    def _inputs(self, node: onnx.NodeProto) -> list[str]:
        return [self._names[name] for name in node.input if name in self._names]

    def _keep_order(self, node: onnx.NodeProto) -> None:
        """Note the order of a vector: what is flattened channels last comes by position, then by channel."""
        source, target = node.input[0], node.output[0]
        if node.op_type == "Flatten":
            _, channels, *size = self._model.get_tensor_shape(source)
            if np.prod(size) > 1:
                self._orders[target] = np.arange(channels * np.prod(size)).reshape(channels, -1).T.reshape(-1)
        elif source in self._orders and node.op_type == "Concat":
            orders = [self._order(name) for name in node.input]
            starts = np.cumsum([0, *map(len, orders)])
            self._orders[target] = np.concatenate([order + start for order, start in zip(orders, starts, strict=False)])
        elif source in self._orders and node.op_type != "MatMul":
            self._orders[target] = self._orders[source]

    def _order(self, name: str) -> np.ndarray:
        """Return the order of a vector."""
        found = self._orders.get(name)
        return np.arange(self._model.get_tensor_shape(name)[1]) if found is None else found

    def _ordered(self, node: onnx.NodeProto, value: np.ndarray) -> np.ndarray:
        """Return a constant with one row for each entry of a node's input in the order these come."""
        order = self._orders.get(node.input[0])
        return value if order is None or len(value) == 1 else value[order]

    def _constant(self, node: onnx.NodeProto, value: np.ndarray) -> str:
        return self._new.constant(node.input[1], value, self._model.get_tensor_datatype(node.input[1]))

    def _convolve(self, node: onnx.NodeProto) -> str:
        size = self._model.get_tensor_shape(node.input[0])[2:]
        weights = self._model.get_initializer(node.input[1])  # (out, in / groups, kh, kw)
        weights, given = _within(size, weights, attributes(node))
        groups, kernel = given["group"], given["kernel_shape"]
        window = self._inputs(node)[0]
        is_depthwise = kernel != [1, 1] and self._has_unit_for(node, weights, groups)
        if kernel != [1, 1] or given["strides"] != [1, 1] or any(given["pads"]):
            window = self._slide(node, window, given, depthwise=is_depthwise)
        datatype = self._model.get_tensor_datatype(node.input[1])
        if groups > 1:
            weights = _dense(weights, groups)
            has_zeros = datatype == DataType["BIPOLAR"] and not is_depthwise
            datatype = DataType["INT2"] if has_zeros else datatype
        matrix = weights.transpose(0, 2, 3, 1).reshape(len(weights), -1).T  # rows: kernel position, then channel
        name = self._new.constant(node.input[1], matrix, datatype)
        if is_depthwise:
            self._depthwise[name] = kernel
        return self._new.node("MatMul", [window, name], self._output(node))

    def _has_unit_for(self, node: onnx.NodeProto, weights: np.ndarray, groups: int) -> bool:
        """Tell whether FINN has a vector-vector unit for a convolution: one filter a channel, no input of 1 bit."""
        is_one_bit = self._model.get_tensor_datatype(node.input[0]).bitwidth() == 1
        return 1 < groups == len(weights) and weights.shape[1] == 1 and not is_one_bit

    def _slide(self, node: onnx.NodeProto, source: str, given: dict[str, Any], *, depthwise: bool) -> str:
        """Return the windows of a convolution; those of one tensor that are alike are made once.

        Channel by channel they are not: a vector-vector unit and its window are folded together.
        """
        kernel = given["kernel_shape"]
        key = (source, *kernel, *given["strides"], *given["pads"])
        if not depthwise and key in self._windows:
            return self._windows[key]
        _, channels, height, width = self._model.get_tensor_shape(node.input[0])
        _, (batch, out_height, out_width, _), _ = self._output(node)
        shape = (batch, out_height, out_width, kernel[0] * kernel[1] * channels)
        windows = self._new.node(
            "Im2Col",
            [source],
            (f"{node.output[0]}_windows", shape, self._model.get_tensor_datatype(node.input[0])),
            domain=QONNX_DOMAIN,
            kernel_size=kernel,
            stride=given["strides"],
            pad_amount=given["pads"],
            dilations=[1, 1],
            depthwise=int(depthwise),
            input_shape=f"(1,{height},{width},{channels})",
        )
        if not depthwise:
            self._windows[key] = windows
        return windows

    def _multiply_matrix(self, node: onnx.NodeProto) -> str:
        name = self._constant(node, self._ordered(node, self._model.get_initializer(node.input[1])))
        return self._new.node("MatMul", [self._inputs(node)[0], name], self._output(node))

    def _threshold(self, node: onnx.NodeProto) -> str:
        name = self._constant(node, self._ordered(node, self._model.get_initializer(node.input[1])))
        given = attributes(node)
        for key in ("requant_scale", "requant_bias"):
            if key in given:
                given[key] = self._ordered(node, np.asarray(given[key])).tolist()
        given["data_layout"] = "NHWC" if given["data_layout"] == b"NCHW" else "NC"
        return self._new.node(
            "MultiThreshold", [self._inputs(node)[0], name], self._output(node), domain=QONNX_DOMAIN, **given
        )

    def _max_pool(self, node: onnx.NodeProto) -> str:
        if self._model.get_tensor_shape(node.input[0])[2:] == [1, 1]:  # of one pixel: that pixel
            return self._inputs(node)[0]
        return self._new.node(
            "MaxPoolNHWC", self._inputs(node), self._output(node), domain=QONNX_DOMAIN, **attributes(node)
        )

    def _add(self, node: onnx.NodeProto) -> str:
        return self._new.node("Add", self._inputs(node), self._output(node))

    def _scale(self, node: onnx.NodeProto) -> str:
        factor = self._constant(node, self._model.get_initializer(node.input[1]))
        return self._new.node("Mul", [self._inputs(node)[0], factor], self._output(node))

    def _concatenate(self, node: onnx.NodeProto) -> str:
        return self._new.node("Concat", self._inputs(node), self._output(node), axis=-1)

    def _sum_positions(self, node: onnx.NodeProto) -> str:
        _, channels, height, width = self._model.get_tensor_shape(node.input[0])
        return self._new.node(
            "GlobalAccPool",
            self._inputs(node),
            self._output(node),
            domain=FINN_DOMAIN,
            backend="fpgadataflow",
            NumChannels=channels,
            PE=1,
            inputDataType=self._model.get_tensor_datatype(node.input[0]).name,
            numInputVectors=[1, height, width],
        )

    def _flatten(self, node: onnx.NodeProto) -> str:
        return self._new.node("Flatten", self._inputs(node), self._output(node), axis=1)

    _WRITERS: ClassVar[dict[str, Callable[[_Lowering, onnx.NodeProto], str]]] = {
        "Add": _add,
        "Concat": _concatenate,
        "Conv": _convolve,
        "Flatten": _flatten,
        "MatMul": _multiply_matrix,
        "MaxPool": _max_pool,
        "Mul": _scale,
        "MultiThreshold": _threshold,
        "ReduceSum": _sum_positions,
    }


def _within(size: list[int], weights: np.ndarray, given: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """Return weights (out, in, kh, kw) and attributes of a convolution without what reads nothing but padding.

    Where a map is one pixel wide or high, the column or row of the kernel that meets it is left: FINN has no other
    windows there.
    """
    given = dict(given)
    for axis, length in enumerate(size):
        before, after = given["pads"][axis], given["pads"][axis + 2]
        kernel = given["kernel_shape"][axis]
        if length > 1 or kernel == 1 or 1 + before + after - kernel >= given["strides"][axis]:  # more than one window
            continue
        weights = np.take(weights, [before], axis=axis + 2)
        for key, values in (("kernel_shape", {axis: 1}), ("strides", {axis: 1}), ("pads", {axis: 0, axis + 2: 0})):
            given[key] = [values.get(position, value) for position, value in enumerate(given[key])]
    return weights, given


def _dense(weights: np.ndarray, groups: int) -> np.ndarray:
    """Return the weights of a grouped convolution as those of an ordinary one, zero between the groups."""
    out_channels, in_group, *kernel = weights.shape
    dense = np.zeros((out_channels, in_group * groups, *kernel), weights.dtype)
    out_group = out_channels // groups
    for group in range(groups):
        rows = slice(group * out_group, (group + 1) * out_group)
        dense[rows, group * in_group : (group + 1) * in_group] = weights[rows]
    return dense
