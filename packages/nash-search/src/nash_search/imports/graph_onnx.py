"""A float classifier in an ONNX file as a graph; nodes have the names that the file gives them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..base import binary_file, json_file
from ..base.errors import IntegrityError, ToolchainError, UnsupportedError, UsageError
from .graphs import Graph, Node, square, unknown

_SHAPES = {
    "Shape", "Gather", "Unsqueeze", "Squeeze", "Concat", "Cast", "Slice", "Add", "Sub", "Mul", "Div", "Constant",
    "ConstantOfShape",
}  # fmt: skip
_ALIASES = {"Identity", "Dropout"}


def read(path: Path, *, input_size: int | None) -> Graph:
    """Return the network of an ONNX file with one input (B, C, H, W) and one output (B, K).

    input_size: pixels a side, where the file does not say.

    Raises:
        ToolchainError: the package onnx is not installed.
        IntegrityError: the file is missing, damaged or no ONNX network.
        UnsupportedError: a node has no counterpart in a genotype.
    """
    onnx = _package("onnx")
    if not path.is_file():
        raise IntegrityError(f"{path}: no such file; check SOURCE")
    try:
        model = binary_file.onnx_model(path, is_alone=False)
        onnx.checker.check_model(model)
    except json_file.Unreadable as error:
        raise IntegrityError(f"{path}: not a readable ONNX network ({error}); export it anew") from error
    except Exception as error:  # protobuf, the checker and file systems raise of many kinds
        reason = str(error).partition("\n")[0][:160]
        raise IntegrityError(f"{path}: not a readable ONNX network ({reason}); export it anew") from error
    reader = _Reader(onnx, model, path)
    nodes = list(reader.nodes())
    if reader.unknown:
        raise unknown(str(path), reader.unknown)
    return Graph(
        source=str(path),
        name=path.stem,
        input=reader.input,
        shape=reader.shape(input_size),
        output=reader.resolved(model.graph.output[0].name),
        nodes=nodes,
        run=_Runner(path, model),
    )


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ToolchainError(f"import: {name} is not installed; pip install 'nash-search[export]'") from error


class _Runner:
    """Runs the file in onnxruntime where that is installed, else in the reference evaluator of onnx."""

    def __init__(self, path: Path, model: Any) -> None:
        self._path, self._model = path, model

    def __call__(self, x: Tensor) -> Tensor:
        name = next(entry.name for entry in self._model.graph.input if entry.name not in _initializers(self._model))
        pictures = [{name: picture[None].float().numpy()} for picture in x]
        try:
            runtime = importlib.import_module("onnxruntime")
        except ImportError:
            evaluator = importlib.import_module("onnx.reference").ReferenceEvaluator(self._model)
            return torch.from_numpy(np.concatenate([evaluator.run(None, feed)[0] for feed in pictures]))
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
        session = runtime.InferenceSession(str(self._path), options, providers=["CPUExecutionProvider"])
        return torch.from_numpy(np.concatenate([session.run(None, feed)[0] for feed in pictures]))


def _initializers(model: Any) -> set[str]:
    return {tensor.name for tensor in model.graph.initializer}


class _Reader:
    """Turns the nodes of a file into ours; those that it cannot are noted."""

    def __init__(self, onnx: ModuleType, model: Any, path: Path) -> None:
        self._onnx, self._graph, self._path = onnx, model.graph, path
        folder = str(path.parent)
        to_array = onnx.numpy_helper.to_array
        self._constants: dict[str, NDArray[Any]] = {
            tensor.name: to_array(tensor, folder) for tensor in self._graph.initializer
        }
        self._shapes: set[str] = set()  # tensors that only say how large others are
        self._same: dict[str, str] = {}  # tensors that are others under a second name
        self.unknown: list[tuple[str, str]] = []
        inputs = [entry for entry in self._graph.input if entry.name not in self._constants]
        if len(inputs) != 1 or len(self._graph.output) != 1:
            counts = f"{len(inputs)} inputs and {len(self._graph.output)} outputs"
            raise UnsupportedError(f"{path}: got {counts}, expected one of each; export the classifier alone")
        self._input = inputs[0]
        self.input = self._input.name

    def shape(self, input_size: int | None) -> tuple[int, int, int]:
        """Return channels, height and width of a picture."""
        sides = [int(side.dim_value) for side in self._input.type.tensor_type.shape.dim]
        if len(sides) != 4 or sides[1] < 1:
            raise UnsupportedError(f"{self._path}: input '{self.input}': got shape {sides}, expected (B, C, H, W)")
        if input_size is None and min(sides[2:]) < 1:
            raise UsageError(f"--input-size: {self._path} leaves open how large its pictures are; pass pixels a side")
        height, width = (input_size, input_size) if input_size is not None else sides[2:]
        if input_size is not None and any(side not in (0, input_size) for side in sides[2:]):
            raise UsageError(f"--input-size: got {input_size}, expected {sides[2]} as {self._path} has; leave it out")
        return sides[1], height, width

    def resolved(self, name: str) -> str:
        """Return the tensor that a name stands for."""
        return self._same.get(name, name)

    def nodes(self) -> Iterator[Node]:
        for number, node in enumerate(self._graph.node):
            name = node.name or f"node {number}"
            attributes = {entry.name: self._onnx.helper.get_attribute_value(entry) for entry in node.attribute}
            if self._is_of_shapes(node, attributes):
                continue
            if node.op_type in _ALIASES:
                if node.input[0] in self._constants:
                    self._constants[node.output[0]] = self._constants[node.input[0]]
                else:
                    self._same[node.output[0]] = self.resolved(node.input[0])
                continue
            found = self._described(node, attributes)
            if found is None:
                self.unknown.append((name, node.op_type))
                continue
            for op, window, tensors in found:
                if op == "same":
                    self._same[node.output[0]] = self.resolved(node.input[0])
                    continue
                yield Node(
                    name=name,
                    kind=node.op_type,
                    op=op,
                    inputs=tuple(self.resolved(key) for key in node.input if key and key not in self._constants)[:2],
                    output=node.output[0],
                    attributes=window,
                    tensors={key: torch.tensor(value) for key, value in tensors.items() if value is not None},
                )

    def _is_of_shapes(self, node: Any, attributes: Mapping[str, Any]) -> bool:
        """Say whether a node computes no more than how large a tensor is, or is a constant; its outputs are noted."""
        if node.op_type == "Constant" and "value" in attributes:
            self._constants[node.output[0]] = self._onnx.numpy_helper.to_array(attributes["value"])
            return True
        open_inputs = [key for key in node.input if key and key not in self._constants]
        is_shape = node.op_type == "Shape" or (bool(open_inputs) and all(key in self._shapes for key in open_inputs))
        if is_shape and node.op_type in _SHAPES:
            self._shapes.update(node.output)
        return is_shape and node.op_type in _SHAPES

    def _constant(self, node: Any, place: int) -> NDArray[Any] | None:
        return self._constants.get(node.input[place]) if place < len(node.input) else None

    def _described(self, node: Any, attributes: Mapping[str, Any]) -> list[tuple[str, dict[str, Any], Any]] | None:
        """Return what a node is here: operations, each with its attributes and tensors; None for an unknown one."""
        match node.op_type:
            case "Conv":
                return self._conv(node, attributes)
            case "BatchNormalization" if not attributes.get("training_mode"):
                names = ("weight", "bias", "running_mean", "running_var")
                tensors = {key: self._constant(node, place) for place, key in enumerate(names, 1)}
                eps = attributes.get("epsilon", 1e-5)
                return None if None in map(_kind, tensors.values()) else [("batch_norm", {"eps": eps}, tensors)]
            case "Relu":
                return [("relu", {}, {})]
            case "Clip":
                return self._clip(node, attributes)
            case "Add":
                return self._add(node)
            case "MaxPool" | "AveragePool":
                window = _window(attributes)
                if window is None or len(node.output) > 1:
                    return None
                op = "max_pool" if node.op_type == "MaxPool" else "avg_pool"
                if op == "avg_pool" and (window["kernel"], window["stride"], window["padding"]) == (1, 1, 0):
                    return [("same", {}, {})]
                return [(op, window | {"ceil": bool(attributes.get("ceil_mode", 0))}, {})]
            case "GlobalAveragePool":
                return [("global_pool", {}, {})]
            case "ReduceMean":
                axes = attributes.get("axes", self._constant(node, 1))
                is_global = axes is not None and sorted(int(axis) % 4 for axis in axes) == [2, 3]
                return [("global_pool", {}, {})] if is_global else None
            case "Flatten" if attributes.get("axis", 1) == 1:
                return [("flatten", {}, {})]
            case "Reshape":
                shape = self._constant(node, 1)
                is_flat = node.input[1] in self._shapes if shape is None else len(shape) == 2
                return [("flatten", {}, {})] if is_flat else None
            case "Gemm" | "MatMul":
                return self._linear(node, attributes)
        return None

    def _conv(self, node: Any, attributes: Mapping[str, Any]) -> list[tuple[str, dict[str, Any], Any]] | None:
        weight, window = self._constant(node, 1), _window(attributes)
        if weight is None or weight.ndim != 4 or window is None:
            return None
        window["kernel"] = square(weight.shape[2:])
        is_same = str(attributes.get("auto_pad", b"NOTSET"), "ascii").startswith("SAME")
        if is_same:
            window["padding"] = window["kernel"] // 2 if window["stride"] == 1 and window["kernel"] else None
        window |= {"groups": int(attributes.get("group", 1)), "dilation": square(attributes.get("dilations", [1]))}
        return [("conv", window, {"weight": weight, "bias": self._constant(node, 2)})]

    def _clip(self, node: Any, attributes: Mapping[str, Any]) -> list[tuple[str, dict[str, Any], Any]] | None:
        low, high = (self._constant(node, place) for place in (1, 2))
        low = attributes.get("min", low)
        high = attributes.get("max", high)
        if low is None or float(low) != 0:
            return None
        if high is None or not float(high) < 1e30:
            return [("relu", {}, {})]
        return [("relu6", {}, {})] if float(high) == 6 else None

    def _add(self, node: Any) -> list[tuple[str, dict[str, Any], Any]] | None:
        constants = [self._constants[key] for key in node.input if key in self._constants]
        if not constants:
            return [("add", {}, {})]
        return [("bias", {}, {"bias": constants[0].reshape(-1)})] if len(constants) == 1 else None

    def _linear(self, node: Any, attributes: Mapping[str, Any]) -> list[tuple[str, dict[str, Any], Any]] | None:
        weight = self._constant(node, 1)
        is_plain = (
            attributes.get("alpha", 1.0) == 1 and attributes.get("beta", 1.0) == 1 and not attributes.get("transA")
        )
        if weight is None or weight.ndim != 2 or not is_plain:
            return None
        weight = weight if attributes.get("transB") else weight.T
        bias = self._constant(node, 2) if node.op_type == "Gemm" else None
        return [("linear", {}, {"weight": np.ascontiguousarray(weight), "bias": bias})]


def _kind(value: Any) -> Any:
    return None if value is None else type(value)


def _window(attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the sides of a window; None where it is of a kind that no genotype has, a side None where it differs."""
    if str(attributes.get("auto_pad", b"NOTSET"), "ascii") not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        return None
    return {
        "kernel": square(attributes.get("kernel_shape", [1])),
        "stride": square(attributes.get("strides", [1])),
        "padding": square(attributes.get("pads", [0])),
    }
