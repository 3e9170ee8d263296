from __future__ import annotations

import numpy as np
import pytest
from networks import Network, op_types, pictures, qonnx_outputs, residual_network, run
from test_steps import specialized

pytestmark = pytest.mark.usefixtures("finn")


@pytest.fixture
def stages():
    from nash_hw.graph.lower import lower
    from nash_hw.graph.streamline import streamline

    source = residual_network()
    model, _ = streamline(source)
    return source, model, lower(model)


def test_lowered_model_computes_the_same(stages):
    source, before, after = stages
    images = pictures(source)
    np.testing.assert_array_equal(run(after, images), run(before, images))


def test_the_only_transposition_is_at_the_input(stages):
    _, _, after = stages
    transposes = after.get_nodes_by_op_type("Transpose")
    assert [node.input[0] for node in transposes] == [after.graph.input[0].name]
    assert op_types(after).count("Im2Col") == 3
    assert op_types(after).count("MatMul") == 4


def test_shapes_and_datatypes_are_complete(stages):
    _, _, after = stages
    assert after.check_all_tensor_shapes_specified()
    for node in after.graph.node:
        assert after.get_tensor_datatype(node.output[0]).is_integer()


@pytest.mark.parametrize("bits", [1, 4])
@pytest.mark.parametrize("group", [2, 4])
def test_groups_become_zeros_of_a_dense_matrix(bits, group):
    from nash_hw.graph.lower import lower
    from nash_hw.graph.streamline import streamline

    net = Network((1, 2, 6, 6))
    x = net.relu(net.norm(net.conv(net.image, (4, 2, 1, 1), 4), 4))
    x = net.relu(net.norm(net.conv(x, (8, 4 // group, 3, 3), bits, group=group), 8))
    source = net.finish(net.head(x, 8), (1, 3))
    before, _ = streamline(source)
    after = lower(before)
    images = pictures(source)
    np.testing.assert_array_equal(run(after, images), run(before, images))
    weights = after.get_nodes_by_op_type("MatMul")[1].input[1]
    assert after.get_tensor_datatype(weights).name == ("INT2" if bits == 1 else "INT4")
    assert (after.get_initializer(weights) != 0).mean() <= 1 / group


@pytest.mark.parametrize("stride", [1, 2])
def test_windows_of_one_pixel_are_that_pixel(stride):
    """Kernels of 3 and 5 and a pool, on a map of one pixel: all but one of their weights meets padding alone."""
    net = Network((1, 3, 2, 2))
    x = net.relu(net.norm(net.conv(net.image, (4, 3, 3, 3), stride=2), 4))
    for kernel in (3, 5):
        x = net.relu(net.norm(net.conv(x, (4, 4, kernel, kernel), stride=stride), 4))
    x = net.relu(net.norm(net.conv(x, (4, 1, 3, 3), stride=stride, group=4), 4))
    source = net.finish(net.head(net.pool(x, stride=stride), 4), (1, 3))
    images = pictures(source)
    before, dequantization = streamline_of(source)
    logits = run(before, images) * dequantization.scale + dequantization.bias
    np.testing.assert_allclose(logits, qonnx_outputs(source, images), rtol=1e-6, atol=1e-6)
    after = specialized(source)
    np.testing.assert_array_equal(run(after, images), run(before, images))
    assert "Pool_hls" not in op_types(after)
    assert op_types(after).count("ConvolutionInputGenerator_rtl") == 1  # of the first


def streamline_of(source):
    from nash_hw.graph.streamline import streamline

    return streamline(source)


def depthwise_network(bits=4, act_bits=4, stride=1):
    net = Network((1, 2, 7, 7))
    x = net.relu(net.norm(net.conv(net.image, (6, 2, 1, 1), 4), 6), act_bits)
    x = net.relu(net.norm(net.conv(x, (6, 1, 3, 3), bits, group=6, stride=stride), 6))
    return net.finish(net.head(x, 6), (1, 3))


@pytest.mark.parametrize("bits", [1, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_convolution_keeps_its_weights_and_computes_the_same(bits, stride):
    from nash_hw.graph.lower import lower
    from nash_hw.graph.model import custom_op
    from nash_hw.graph.steps import minimize_bit_widths, partition, specialize, to_hardware
    from nash_hw.graph.streamline import streamline

    source = depthwise_network(bits, stride=stride)
    before, _ = streamline(source)
    images = pictures(source)
    expected = run(before, images)
    after = lower(before)
    np.testing.assert_array_equal(run(after, images), expected)
    after = to_hardware(after)
    np.testing.assert_array_equal(run(after, images), expected)
    after = specialize(minimize_bit_widths(partition(after)), "xcu250-figd2104-2L-e")
    (unit,) = after.get_nodes_by_op_type("VVAU_hls")
    window = after.find_producer(unit.input[0])
    assert after.get_initializer(unit.input[1]).shape == (6, 1, 3, 3)
    assert custom_op(unit).get_nodeattr("weightDataType") == ("BIPOLAR" if bits == 1 else "INT4")
    assert custom_op(window).get_nodeattr("depthwise") == 1
    for pe in (1, 2, 6):
        custom_op(unit).set_nodeattr("PE", pe)
        np.testing.assert_array_equal(run(after, images), expected)


def test_depthwise_convolution_of_one_bit_is_dense():
    """FINN cannot write a vector-vector unit that reads 0 and 1."""
    from nash_hw.graph.lower import lower
    from nash_hw.graph.steps import to_hardware
    from nash_hw.graph.streamline import streamline

    model = to_hardware(lower(streamline(depthwise_network(act_bits=1))[0]))
    assert "VVAU" not in op_types(model)
