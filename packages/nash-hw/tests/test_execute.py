from __future__ import annotations

import numpy as np
import pytest
from networks import pictures, residual_network

from nash_hw.base.errors import VerificationError

pytestmark = pytest.mark.usefixtures("finn")


def test_a_value_beyond_its_datatype_is_an_error():
    from qonnx.core.datatype import DataType

    from nash_hw.graph.streamline import streamline
    from nash_hw.verify.execute import Executor

    source = residual_network()
    model, _ = streamline(source)
    conv = model.get_nodes_by_op_type("Conv")[0]
    model.set_tensor_datatype(conv.output[0], DataType["INT3"])
    with pytest.raises(VerificationError, match="expected -4 to 3, the range of its datatype"):
        Executor(model).run(pictures(source, 1))


@pytest.mark.parametrize(
    ("stride", "group", "pads"), [(1, 1, [1, 1, 1, 1]), (2, 1, [0, 0, 1, 1]), (2, 2, [1, 0, 2, 1])]
)
def test_convolution_equals_that_of_onnxruntime(stride, group, pads):
    import onnxruntime
    from onnx import TensorProto, helper

    from nash_hw.verify.execute import _conv

    random = np.random.default_rng(0)
    x = random.integers(-9, 9, (1, 4, 7, 6)).astype(np.float32)
    weights = random.integers(-9, 9, (6, 4 // group, 3, 3)).astype(np.float32)
    given = {"strides": [stride] * 2, "pads": pads, "group": group, "kernel_shape": [3, 3]}
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], **given)],
        "g",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape)
            for name, value in (("x", x), ("w", weights))
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x, "w": weights})[0]
    np.testing.assert_array_equal(_conv(x, weights, **given), expected)
