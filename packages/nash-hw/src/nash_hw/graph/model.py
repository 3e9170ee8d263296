"""The ONNX model that goes through the flow: QONNX's wrapper, with look-ups by index and in-place transformation.

qonnx.ModelWrapper searches its protobuf lists for every name and copies the model for every transformation, which
makes FINN's flow quadratic. `Model` is that wrapper, so it passes through every FINN transformation as it is, and
nothing of qonnx or FINN is patched. Positions are remembered and checked at every use, since transformations edit
the protobuf lists directly.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from qonnx.core.datatype import BaseDataType, DataType
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.custom_op.registry import getCustomOp
from qonnx.transformation.base import Transformation
from qonnx.transformation.infer_shapes import InferShapes

QONNX_DOMAIN = "qonnx.custom_op.general"
FINN_DOMAIN = "finn.custom_op.fpgadataflow"
OPSET = 13
_DATATYPE_KEY = "finn_datatype"
_EXPORTER_SUFFIX = re.compile(r"(/act_quant/.*|(/[A-Z]\w*)?_output_\d+(_\d+)?(_(windows|part|scaled|signed|rows))*)$")


class _Index:
    """Positions of named entries in a protobuf list that others may edit at any time."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._positions: dict[str, int] = {}

    def find(self, entries: Any, name: str) -> int | None:
        """Return the position of `name`; a remembered one is checked, a missing one looked for anew."""
        position = self._positions.get(name)
        if position is not None and position < len(entries) and getattr(entries[position], self._key) == name:
            return position
        self._positions = {getattr(entry, self._key): i for i, entry in enumerate(entries)}
        return self._positions.get(name)


class Model(ModelWrapper):
    """A `ModelWrapper` whose look-ups take constant time and whose transformations work in place."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._annotations = _Index("tensor_name")
        self._value_infos = _Index("name")
        self._initializers = _Index("name")
        super().__init__(proto)

    def transform(self, transformation: Transformation, *_: Any, **__: Any) -> Model:
        """Apply a transformation in place, until it changes nothing more."""
        if isinstance(transformation, InferShapes) and self.check_all_tensor_shapes_specified():
            return self  # qonnx's own would return the base class, after a pass over every weight
        model, changed = self, True
        while changed:
            model, changed = transformation.apply(model)
        return model if isinstance(model, Model) else Model(model.model)

    def get_tensor_valueinfo(self, tensor_name: str) -> onnx.ValueInfoProto | None:
        for entry in (*self.graph.input, *self.graph.output):
            if entry.name == tensor_name:
                return entry
        position = self._value_infos.find(self.graph.value_info, tensor_name)
        return None if position is None else self.graph.value_info[position]

    def get_tensor_shape(self, tensor_name: str, fix_missing_init_shape: bool = False) -> list[int] | None:
        info = self.get_tensor_valueinfo(tensor_name)
        if info is not None:
            if not info.type.tensor_type.HasField("shape"):
                return None
            return [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        tensor = self._initializer(tensor_name)
        if tensor is None:
            return None
        if fix_missing_init_shape:
            self.set_tensor_shape(tensor_name, list(tensor.dims), tensor.data_type)
        return list(tensor.dims)

    def set_tensor_shape(self, tensor_name: str, tensor_shape: Sequence[int], dtype: int | None = None) -> None:
        info = self.get_tensor_valueinfo(tensor_name)
        if dtype is None:
            dtype = TensorProto.FLOAT if info is None else info.type.tensor_type.elem_type
        new = helper.make_tensor_value_info(tensor_name, dtype, list(tensor_shape))
        if info is None:
            self.graph.value_info.append(new)
        else:
            info.CopyFrom(new)

    def get_initializer(self, tensor_name: str, return_dtype: bool = False) -> Any:
        tensor = self._initializer(tensor_name)
        value = None if tensor is None else numpy_helper.to_array(tensor)
        if return_dtype:
            return value, None if tensor is None else tensor.data_type
        return value

    def set_initializer(self, tensor_name: str, tensor_value: np.ndarray) -> None:
        new = numpy_helper.from_array(np.ascontiguousarray(tensor_value), tensor_name)
        old = self._initializer(tensor_name)
        if old is None:
            self.graph.initializer.append(new)
        else:
            old.CopyFrom(new)
        self.set_tensor_shape(tensor_name, tensor_value.shape, new.data_type)

    def get_tensor_datatype(self, tensor_name: str) -> BaseDataType:
        position = self._annotations.find(self.graph.quantization_annotation, tensor_name)
        if position is not None:
            annotation = self.graph.quantization_annotation[position]
            for entry in annotation.quant_parameter_tensor_names:
                if entry.key == _DATATYPE_KEY:
                    return _datatype(entry.value)
        return _datatype("FLOAT32")

    def set_tensor_datatype(self, tensor_name: str, datatype: BaseDataType | None) -> None:
        annotations = self.graph.quantization_annotation
        position = self._annotations.find(annotations, tensor_name)
        if position is None:
            if datatype is not None:
                new = annotations.add(tensor_name=tensor_name)
                new.quant_parameter_tensor_names.add(key=_DATATYPE_KEY, value=datatype.name)
            return
        entries = annotations[position].quant_parameter_tensor_names
        kept = [entry for entry in entries if entry.key != _DATATYPE_KEY]
        found = [entry for entry in entries if entry.key == _DATATYPE_KEY]
        if datatype is not None and found:
            found[0].value = datatype.name
        elif datatype is not None:
            entries.add(key=_DATATYPE_KEY, value=datatype.name)
        elif found:
            del annotations[position].quant_parameter_tensor_names[:]
            annotations[position].quant_parameter_tensor_names.extend(kept)

    def _initializer(self, name: str) -> onnx.TensorProto | None:
        position = self._initializers.find(self.graph.initializer, name)
        return None if position is None else self.graph.initializer[position]


@cache
def _datatype(name: str) -> BaseDataType:
    return DataType[name]


class GraphBuilder:
    """Write a new graph node by node; every tensor gets its shape and its FINN datatype at once."""

    def __init__(self, name: str) -> None:
        self._graph = onnx.GraphProto(name=name)
        self._names: set[str] = set()

    def input(self, name: str, shape: Sequence[int], datatype: BaseDataType) -> str:
        """Declare the graph's input."""
        self._graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))
        self._annotate(name, datatype)
        return name

    def output(self, name: str) -> None:
        """Make a tensor that was added the graph's output."""
        position = next(i for i, info in enumerate(self._graph.value_info) if info.name == name)
        self._graph.output.append(self._graph.value_info[position])
        del self._graph.value_info[position]

    def constant(self, name: str, value: np.ndarray, datatype: BaseDataType) -> str:
        """Add a constant (stored as float32, as FINN expects) and return its unique name."""
        name = self.unique(name)
        self._graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name))
        self._declare(name, value.shape, datatype)
        return name

    def axes(self, name: str, value: Sequence[int]) -> str:
        """Add an int64 constant and return its unique name."""
        name = self.unique(name)
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.int64), name))
        self._graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.INT64, [len(value)]))
        return name

    def node(
        self,
        op_type: str,
        inputs: Sequence[str],
        output: tuple[str, Sequence[int], BaseDataType],
        *,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Add a node with one output, given as (wished name, shape, datatype); return the output's unique name."""
        wished, shape, datatype = output
        name = self.unique(wished)
        self._graph.node.append(helper.make_node(op_type, list(inputs), [name], name=name, domain=domain, **attributes))
        self._declare(name, shape, datatype)
        return name

    def unique(self, name: str) -> str:
        """Return `name`, or `name` with a number if it is taken."""
        candidate, number = name, 1
        while candidate in self._names:
            candidate, number = f"{name}_{number}", number + 1
        self._names.add(candidate)
        return candidate

    def model(self) -> Model:
        """Return the finished graph."""
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(QONNX_DOMAIN, 1)]
        opsets += [helper.make_opsetid(FINN_DOMAIN + suffix, 1) for suffix in ("", ".hls", ".rtl")]
        return Model(helper.make_model(self._graph, opset_imports=opsets, producer_name="nash-hw"))

    def _declare(self, name: str, shape: Sequence[int], datatype: BaseDataType) -> None:
        self._graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))
        self._annotate(name, datatype)

    def _annotate(self, name: str, datatype: BaseDataType) -> None:
        annotation = self._graph.quantization_annotation.add(tensor_name=name)
        annotation.quant_parameter_tensor_names.add(key=_DATATYPE_KEY, value=datatype.name)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return the attributes of a node as Python values."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def custom_op(node: onnx.NodeProto) -> Any:
    """Return the object that knows a QONNX or FINN node.

    The object builds its table of attributes anew for every attribute it is asked for; this one keeps it.
    """
    instance = getCustomOp(node)
    table = instance.get_nodeattr_types()
    instance.get_nodeattr_types = lambda: table
    return instance


def range_datatype(low: float, high: float, *, signed: bool = False) -> BaseDataType:
    """Return the narrowest integer datatype that holds low..high, signed if asked for or needed."""
    smallest, largest = int(low), int(high)
    if smallest >= 0 and not signed:
        return DataType[f"UINT{max(1, largest.bit_length())}"]
    magnitude = max(largest.bit_length(), (-smallest - 1).bit_length() if smallest < 0 else 0)
    return DataType[f"INT{max(2, 1 + magnitude)}"]


def tensor_title(name: str) -> str:
    """Return the part of a tensor's name that people know.

    >>> tensor_title("/cells.0/layers.1/main/conv/Conv_output_0")
    'cells.0/layers.1/main/conv'
    """
    return _EXPORTER_SUFFIX.sub("", name).strip("/") or name


def skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy without the values of weights and thresholds."""
    copy = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    for name in ("node", "input", "output", "value_info", "quantization_annotation"):
        getattr(copy.graph, name).extend(getattr(model.graph, name))
    return copy
