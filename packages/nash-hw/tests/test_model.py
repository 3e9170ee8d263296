from __future__ import annotations

import numpy as np
import pytest
from networks import residual_network
from onnx import helper

pytestmark = pytest.mark.usefixtures("finn")


@pytest.fixture
def pair():
    """The same graph in our wrapper and in qonnx's."""
    from qonnx.core.modelwrapper import ModelWrapper

    from nash_hw.graph.model import Model
    from nash_hw.graph.streamline import streamline

    proto = streamline(residual_network())[0].model
    return Model(proto), ModelWrapper(proto, make_deepcopy=True)


def tensors(model):
    return [name for node in model.graph.node for name in (*node.input, *node.output)] + ["missing"]


def test_look_ups_equal_those_of_qonnx(pair):
    ours, theirs = pair
    for name in tensors(ours):
        assert ours.get_tensor_shape(name) == theirs.get_tensor_shape(name)
        assert ours.get_tensor_datatype(name) == theirs.get_tensor_datatype(name)
        np.testing.assert_equal(ours.get_initializer(name), theirs.get_initializer(name))


def test_look_ups_follow_edits_below_the_wrapper(pair):
    ours, _ = pair
    first, second = (node.output[0] for node in ours.graph.node[:2])
    shape = ours.get_tensor_shape(second)
    assert ours.get_tensor_shape("late") is None
    del ours.graph.value_info[[info.name for info in ours.graph.value_info].index(first)]
    ours.graph.value_info.insert(3, helper.make_tensor_value_info("late", 1, [7]))
    assert ours.get_tensor_shape(second) == shape
    assert ours.get_tensor_shape("late") == [7]
    assert ours.get_tensor_shape(first) is None


def test_setters_are_read_back(pair):
    from qonnx.core.datatype import DataType

    ours, _ = pair
    name = ours.graph.node[0].output[0]
    ours.set_tensor_datatype(name, DataType["INT3"])
    ours.set_initializer("new", np.eye(2, dtype=np.float32))
    ours.set_initializer("new", 2 * np.eye(3, dtype=np.float32))
    assert ours.get_tensor_datatype(name) == DataType["INT3"]
    assert ours.get_tensor_shape("new") == [3, 3]
    assert ours.get_initializer("new")[0, 0] == 2
    ours.set_tensor_datatype(name, None)
    assert ours.get_tensor_datatype(name) == DataType["FLOAT32"]


def test_transform_keeps_the_instance(pair):
    from qonnx.transformation.infer_datatypes import InferDataTypes
    from qonnx.transformation.infer_shapes import InferShapes

    ours, theirs = pair
    assert ours.transform(InferShapes()).transform(InferDataTypes()) is ours
    assert type(theirs.transform(InferShapes())) is type(theirs)  # qonnx's wrapper is as it was


@pytest.mark.parametrize(
    ("low", "high", "signed", "expected"),
    [
        (0, 1, False, "BINARY"),
        (0, 255, False, "UINT8"),
        (0, 256, False, "UINT9"),
        (-128, 127, False, "INT8"),
        (-129, 0, False, "INT9"),
        (-1, 128, False, "INT9"),
        (0, 127, True, "INT8"),
        (-1, 0, False, "INT2"),
    ],
)
def test_range_datatype_is_the_narrowest(low, high, signed, expected):
    from nash_hw.graph.model import range_datatype

    assert range_datatype(low, high, signed=signed).name == expected
