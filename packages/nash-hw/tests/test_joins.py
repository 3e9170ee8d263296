"""Joins: sums of unequal scales, what several readers share, and quantizers that are the same for every channel."""

from __future__ import annotations

import numpy as np
import pytest
from networks import Network, aligned_network, op_types, pictures, qonnx_outputs, run
from test_steps import specialized

from nash_hw.errors import UnsupportedError

pytestmark = pytest.mark.usefixtures("finn")


def integer_terms(random, scales, *, channels=3):
    """Return quantized terms with random ranges and shapes (1, C, 4, 4), and random integers for each."""
    from nash_hw.integers import Integers
    from nash_hw.model import range_datatype

    terms, values = [], []
    for number, scale in enumerate(scales):
        low, high = (int(limit) for limit in np.sort(random.choice(np.arange(-40, 41), 2, replace=False)))
        limits = {name: np.full(1, float(limit)) for name, limit in (("low", low), ("high", high))}
        shape = (1, channels, 4, 4)
        kind = {"datatype": range_datatype(low, high), "scale": np.full(1, scale), "bias": np.zeros(1)}
        terms.append(Integers(name=f"x{number}", shape=shape, **kind, **limits))
        values.append(random.integers(low, high + 1, shape).astype(np.float32))
    return terms, values


@pytest.mark.parametrize(
    "multiples", [(1,) * 3, (1, 4), (4, 1), (4, 4, 1), (1, 4, 1, 4), (1, 2, 8), (1, 3), (6, 1, 2, 6), (256, 1)]
)
def test_sums_of_unequal_scales_are_exact(multiples):
    """The integers of the sum, in the smallest scale, are those that numpy gives, and lie within their range."""
    from nash_hw.execute import Executor
    from nash_hw.model import GraphBuilder
    from nash_hw.sums import Sum

    random = np.random.default_rng(len(multiples) + sum(multiples))
    for unit in (0.5, 0.5**7 * 3):
        terms, values = integer_terms(random, [unit * multiple for multiple in multiples])
        found = Sum(terms=tuple(terms))
        assert found.is_whole
        result = found.integers("sum")
        graph = GraphBuilder("sum")
        for term in terms:
            graph.input(term.name, term.shape, term.datatype)
        found.write(graph, result)
        graph.output("sum")
        model = graph.model()
        executor = Executor(model)
        context = {term.name: value for term, value in zip(terms, values, strict=True)}
        executor._constants |= context
        expected = sum(multiple * value for multiple, value in zip(multiples, values, strict=True))
        np.testing.assert_array_equal(executor.run(values[0]), expected)
        assert result.scale == unit
        assert result.low <= expected.min()
        assert expected.max() <= result.high
        # each coarser scale is multiplied once, however many terms have it
        assert op_types(model).count("Mul") == len(set(multiples)) - 1
        assert op_types(model).count("Add") == len(multiples) - 1


@pytest.mark.parametrize("scales", [(0.3, 0.1), (0.5, 0.2), (1.0, 0.75)])
def test_scales_that_are_no_whole_multiples_have_no_exact_sum(scales):
    from nash_hw.sums import Sum

    terms, _ = integer_terms(np.random.default_rng(0), scales)
    assert not Sum(terms=tuple(terms)).is_whole  # 0.3 is not 3 * 0.1 in binary


def test_unequal_scales_are_refused_by_name():
    from nash_hw.streamline import streamline

    net = Network((1, 3, 8, 8))
    x = net.relu(net.norm(net.conv(net.image, (4, 3, 3, 3), 8), 4), scale=0.07)
    y = net.quantize(net.norm(net.conv(x, (4, 4, 3, 3)), 4), 0.03, 8)
    source = net.finish(net.head(net.relu(net.node("Add", [y, x])), 4), (1, 3))
    with pytest.raises(UnsupportedError, match=r"Add 'add.*scales 0\.03 and 0\.07.*whole multiples"):
        streamline(source)


@pytest.mark.parametrize("k", [0, 2, 3])
def test_aligned_joins_compute_the_same(k):
    from nash_hw.streamline import streamline

    source = aligned_network(k=k)
    images = pictures(source)
    model, dequantization = streamline(source)
    integers = run(model, images)
    logits = integers * dequantization.scale + dequantization.bias
    np.testing.assert_allclose(logits, qonnx_outputs(source, images), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(run(specialized(source), images), integers)


def test_aligned_joins_need_no_quantizers_of_states():
    """Nothing but convolutions has one before a join, and behind it the thresholds of all channels are the same."""
    model = specialized(aligned_network())
    shared = [model.get_tensor_shape(node.input[1])[0] == 1 for node in model.get_nodes_by_op_type("Thresholding_rtl")]
    kinds = op_types(model)
    num_convolutions, num_joins, num_states = 11, 7, 8
    assert kinds.count("Thresholding_rtl") == num_convolutions + num_states + 1  # the pooled features
    assert sum(shared) >= num_joins
    assert kinds.count("ElementwiseMul_hls") == 5  # one a join that reads a state or pool
    assert kinds.count("ElementwiseAdd_hls") == 11


def uniform_network():
    """A network whose first thresholds follow a batch normalization, and whose second follow nothing but a scale."""
    net = Network((1, 3, 8, 8))
    x = net.relu(net.norm(net.conv(net.image, (8, 3, 3, 3), 8), 8))
    return net.finish(net.head(net.relu(net.quantize(x, 0.02, 8), scale=0.05), 8), (1, 3))


def test_thresholds_that_all_channels_share_are_stored_and_counted_once():
    from nash_hw.boards import find_board
    from nash_hw.estimate import estimate, layer_figures
    from nash_hw.facts import NO_FACTS, facts_of
    from nash_hw.model import custom_op

    model, board = specialized(uniform_network()), find_board("U250")
    layers = {layer.name: layer.figures.resources["LUT"] for layer in estimate(model, board).layers}
    counted = []
    for node in model.get_nodes_by_op_type("Thresholding_rtl"):
        instance = custom_op(node)
        for_each = layer_figures(node, instance, board.fpga_part, NO_FACTS).resources["LUT"]
        shared = facts_of(model, node, instance).shared_thresholds
        assert shared == (len(model.get_initializer(node.input[1])) == 1)
        assert (layers[node.name] < for_each) == shared
        assert instance.get_nodeattr("NumChannels") == 8  # as before
        counted.append(shared)
    assert counted == [False, True, True, True]


def biased_network(beta: float):
    """A network with a quantizer whose bias is more steps than a Requant of its accumulators takes."""
    net = Network((1, 3, 8, 8))
    x = net.relu(net.norm(net.conv(net.image, (4, 3, 3, 3), 8), 4), 2)
    y = net.conv(x, (64, 4, 3, 3))
    statistics = [np.ones(64), np.linspace(-beta, beta, 64), np.zeros(64), np.ones(64)]
    y = net.node("BatchNormalization", [y, *map(net.constant, statistics)], epsilon=1e-5)
    return net.finish(net.head(net.relu(net.quantize(y, 0.02, 8), scale=0.2), 64), (1, 3))


def test_accumulators_get_the_bits_that_a_requant_needs_for_its_bias():
    from nash_hw.boards import find_board
    from nash_hw.lower import lower
    from nash_hw.model import custom_op
    from nash_hw.quantizers import infer_requants
    from nash_hw.requant import fixed_point
    from nash_hw.steps import minimize_bit_widths, partition, specialize, to_hardware
    from nash_hw.streamline import streamline

    source, board = biased_network(0.5), find_board("U250")
    images = pictures(source, 4)
    model, _ = streamline(source)
    expected = run(model, images)
    needed = {node.output[0]: model.get_tensor_datatype(node.output[0]).bitwidth() for node in model.graph.node}
    model = to_hardware(infer_requants(lower(model), board, 10**6))
    model = specialize(minimize_bit_widths(partition(model)), board.fpga_part)
    requant = model.get_nodes_by_op_type("Requant_rtl")[-1]
    unit = model.find_producer(requant.input[0])
    scale, bias = (model.get_initializer(name) for name in requant.input[1:])
    bits = model.get_tensor_datatype(requant.input[0]).bitwidth()
    assert bits == custom_op(unit).get_output_datatype().bitwidth() > needed[requant.input[0]]
    assert fixed_point(scale, bias).fits(bits, 8).all()
    assert not fixed_point(scale, bias).fits(needed[requant.input[0]], 8).all()
    np.testing.assert_array_equal(run(model, images), expected)
