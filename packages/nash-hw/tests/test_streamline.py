from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from networks import Network, op_types, pictures, qonnx_outputs, residual_network, run

from nash_hw.base.errors import ManifestError, UnsupportedError

pytestmark = pytest.mark.usefixtures("finn")


def streamlined_outputs(source, images):
    from nash_hw.graph.streamline import streamline

    model, dequantization = streamline(source)
    return run(model, images) * dequantization.scale + dequantization.bias


def assert_same_function(source):
    images = pictures(source)
    np.testing.assert_allclose(streamlined_outputs(source, images), qonnx_outputs(source, images), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("weight_bits", [1, 2, 4, 8])
@pytest.mark.parametrize("act_bits", [1, 2, 4, 8])
def test_streamlined_network_computes_the_same(weight_bits, act_bits):
    """A value in the middle between two levels is decided by qonnx's float32: one of four pictures may differ."""
    source = residual_network(weight_bits, act_bits)
    images = pictures(source, 4)
    found, expected = streamlined_outputs(source, images), qonnx_outputs(source, images)
    assert np.isclose(found, expected, rtol=1e-6, atol=1e-6).all(axis=1).sum() >= 3


def test_streamlined_network_holds_integers_only():
    from nash_hw.graph.streamline import streamline

    model, _ = streamline(residual_network())
    assert set(op_types(model)) == {
        "Add",
        "Concat",
        "Conv",
        "Flatten",
        "MatMul",
        "MaxPool",
        "MultiThreshold",
        "ReduceSum",
    }
    for node in model.graph.node:
        assert model.get_tensor_datatype(node.output[0]).is_integer()
        assert all(model.get_tensor_datatype(name).is_integer() for name in node.input if node.op_type != "ReduceSum")


@pytest.mark.parametrize("scale", [0.013, 0.25, 1.0])
@pytest.mark.parametrize("step", [0.5, 0.07])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("zero_point", [0, 3])
def test_thresholds_equal_exact_rounding_of_every_integer(scale, step, relu, zero_point):
    """Against rational arithmetic, ties to even included: scale 1/4 and step 1/2 make every other value a tie."""
    from qonnx.core.datatype import DataType

    from nash_hw.graph.integers import Integers, exact_thresholds
    from nash_hw.graph.qonnx_graph import Quantizer

    bias = np.array([0.0, -0.5, 0.31])
    x = Integers(
        name="x",
        shape=(1, 3, 1, 1),
        datatype=DataType["INT8"],
        scale=np.full(1, scale),
        bias=bias,
        low=np.full(1, -128.0),
        high=np.full(1, 127.0),
        relu=relu,
    )
    quantizer = Quantizer(scale=step, zero_point=zero_point, low=-8, high=7, datatype=DataType["INT4"])
    thresholds = exact_thresholds(x, quantizer)
    assert np.all(np.diff(thresholds, axis=1) >= 0)
    for channel in range(3):
        for value in range(-128, 128):
            real = Fraction(scale) * value + Fraction(bias[channel])
            real = max(real, Fraction(0)) if relu else real
            expected = min(max(round(real / Fraction(step) + zero_point), -8), 7)
            assert -8 + int((value >= thresholds[channel]).sum()) == expected


def test_thresholds_of_a_constant_channel():
    from qonnx.core.datatype import DataType

    from nash_hw.graph.integers import Integers, exact_thresholds
    from nash_hw.graph.qonnx_graph import Quantizer

    x = Integers(
        name="x",
        shape=(1, 2, 1, 1),
        datatype=DataType["INT4"],
        scale=np.array([0.0, 1.0]),
        bias=np.array([2.6, 0.0]),
        low=np.full(1, -8.0),
        high=np.full(1, 7.0),
    )
    quantizer = Quantizer(scale=1.0, zero_point=0, low=0, high=15, datatype=DataType["UINT4"])
    thresholds = exact_thresholds(x, quantizer)
    assert [(value >= thresholds[0]).sum() for value in (-8, 0, 7)] == [3, 3, 3]


def test_negative_gamma_flips_the_weights():
    from nash_hw.graph.streamline import streamline

    net = Network((1, 2, 5, 5))
    net_output = net.head(net.relu(net.norm(net.conv(net.image, (4, 2, 3, 3), 1), 4)), 4)
    source = net.finish(net_output, (1, 3))
    assert_same_function(source)
    model, _ = streamline(source)
    conv = model.get_nodes_by_op_type("Conv")[0]
    assert model.get_tensor_datatype(conv.input[1]).name == "BIPOLAR"


def test_flipping_the_lowest_weight_widens_its_type():
    from qonnx.core.datatype import DataType

    from nash_hw.graph.qonnx_graph import Weights

    weights = Weights(integers=np.array([[-8.0, 3.0], [1.0, 2.0]]), scale=np.ones((2, 1)), datatype=DataType["INT4"])
    flipped = weights.flipped(np.array([True, False]))
    assert flipped.integers.tolist() == [[8.0, -3.0], [1.0, 2.0]]
    assert flipped.datatype.name == "INT5"


@pytest.mark.parametrize(("size", "pads"), [(8, [0, 0, 0, 0]), (7, [0, 0, 1, 1])])
def test_masked_strided_convolution(size, pads):
    net = Network((1, 2, size, size))
    x = net.relu(net.norm(net.conv(net.image, (4, 2, 1, 1), 4), 4))
    x = net.relu(net.norm(net.conv(x, (6, 4, 2, 2), 2, stride=2, pads=pads), 6))
    assert_same_function(net.finish(net.head(x, 6), (1, 3)))


@pytest.mark.parametrize("group", [2, 4])
def test_grouped_convolution(group):
    net = Network((1, 2, 6, 6))
    x = net.relu(net.norm(net.conv(net.image, (4, 2, 1, 1), 4), 4))
    x = net.relu(net.norm(net.conv(x, (4, 4 // group, 3, 3), 1, group=group), 4))
    assert_same_function(net.finish(net.head(x, 4), (1, 3)))


def test_two_quantizers_read_one_sum():
    net = Network((1, 2, 6, 6))
    x = net.relu(net.norm(net.conv(net.image, (4, 2, 3, 3), 8), 4))
    total = net.node(
        "Relu", [net.node("Add", [net.quantize(x, 0.03, 8), net.quantize(net.conv(x, (4, 4, 1, 1)), 0.03, 8)])]
    )
    fine, coarse = net.quantize(total, 0.01, 8, signed=False), net.quantize(total, 0.2, 2, signed=False)
    left = net.quantize(net.norm(net.conv(coarse, (4, 4, 3, 3)), 4), 0.03, 8)
    right = net.quantize(net.norm(net.pool(fine), 4, positive=True), 0.03, 8)
    assert_same_function(net.finish(net.head(net.relu(net.node("Add", [left, right])), 4), (1, 3)))


def test_scalar_constants_fold_into_the_thresholds():
    net = Network((1, 2, 5, 5))
    x = net.conv(net.image, (4, 2, 3, 3), 8)
    x = net.node("Add", [net.node("Mul", [x, net.constant(0.5)]), net.constant(np.full((1, 4, 1, 1), 0.2))])
    x = net.node("Sub", [net.constant(0.7), net.node("Div", [x, net.constant(-2.0)])])
    assert_same_function(net.finish(net.head(net.relu(x), 4), (1, 3)))


def unsupported_networks():
    def join_of_two_scales(net, x):
        return net.node("Add", [net.quantize(x, 0.03, 8), net.quantize(x, 0.04123, 8)])

    def signed_padded_pool(net, x):
        return net.pool(net.quantize(net.norm(net.conv(x, (4, 4, 3, 3)), 4), 0.03, 8))

    def softmax(net, x):
        return net.node("Softmax", [x], axis=1)

    def unquantized_weights(net, x):
        kernel = net.constant(np.ones((4, 4, 1, 1)))
        return net.node("Conv", [x, kernel], kernel_shape=[1, 1], strides=[1, 1], pads=[0] * 4, group=1)

    def unquantized_input(net, x):
        return net.conv(net.norm(net.conv(x, (4, 4, 3, 3)), 4), (4, 4, 3, 3))

    def nine_bits(net, x):
        return net.quantize(x, 0.1, 9)

    def negative_gamma_after_a_pool(net, x):
        return net.norm(net.pool(x), 4)

    def product_of_feature_maps(net, x):
        return net.node("Mul", [x, x])

    def scales_per_channel(net, x):
        return net.quantize(x, np.full((1, 2, 1, 2), 0.1), 4)

    return [value for value in locals().values() if callable(value)]


@pytest.mark.parametrize("break_network", unsupported_networks(), ids=lambda function: function.__name__)
def test_unsupported_operation_names_its_node(break_network):
    from nash_hw.graph.streamline import streamline

    net = Network((1, 2, 6, 6))
    x = break_network(net, net.relu(net.norm(net.conv(net.image, (4, 2, 3, 3), 8), 4)))
    culprits = [x.split("/")[1], net.relu(x).split("/")[1]]  # the operation, or the quantizer that meets its result
    source = net.finish(net.head(net.relu(x), 4), (1, 3))
    with pytest.raises(UnsupportedError) as caught:
        streamline(source)
    assert any(f"'{name}" in str(caught.value) for name in culprits)


def test_unquantized_logits_are_refused():
    from nash_hw.graph.streamline import streamline

    net = Network((1, 2, 6, 6))
    with pytest.raises(UnsupportedError, match="classifier"):
        streamline(net.finish(net.node("Relu", [net.conv(net.image, (4, 2, 1, 1))]), (1, 4, 6, 6)))


def test_dynamic_input_shape_is_refused():
    from nash_hw.graph.streamline import streamline

    source = residual_network()
    source.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    with pytest.raises(ManifestError, match=r"expected \[1, C, H, W\]"):
        streamline(source)


@pytest.mark.parametrize(("bits", "signed"), [(8, True), (4, False)])
def test_input_that_is_not_bytes_is_refused(bits, signed):
    from nash_hw.graph.streamline import streamline

    net = Network((1, 2, 6, 6))
    image = net.quantize("x", 1 / 128, bits, signed=signed)
    source = net.finish(net.head(net.relu(net.conv(image, (4, 2, 3, 3))), 4), (1, 3))
    del source.graph.node[0]  # the byte quantizer every Network begins with
    with pytest.raises(UnsupportedError, match="unsigned 8-bit quantizer"):
        streamline(source)
