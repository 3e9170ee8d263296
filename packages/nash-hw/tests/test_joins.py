"""Joins: sums of unequal scales, what several readers share, and quantizers that are the same for every channel."""

from __future__ import annotations

from math import gcd

import numpy as np
import pytest
from networks import Network, aligned_network, op_types, pictures, qonnx_outputs, run
from test_steps import specialized

from nash_hw.base.errors import UnsupportedError

pytestmark = pytest.mark.usefixtures("finn")


def integer_terms(random, scales, *, channels=3):
    """Return quantized terms with random ranges and shapes (1, C, 4, 4), and random integers for each."""
    from nash_hw.graph.integers import Integers
    from nash_hw.graph.model import range_datatype

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
    "multiples",
    [(1,) * 3, (1, 4), (4, 1), (4, 4, 1), (1, 4, 1, 4), (1, 2, 8), (1, 3), (6, 1, 2, 6), (256, 1), (4, 3), (2, 3, 3)],
)
def test_sums_of_unequal_scales_are_exact(multiples):
    """The integers of the sum, in the unit of all scales, are those that numpy gives, and lie within their range."""
    from nash_hw.graph.model import GraphBuilder
    from nash_hw.graph.sums import Sum
    from nash_hw.verify.execute import Executor

    random = np.random.default_rng(len(multiples) + sum(multiples))
    for unit in (0.5, 0.5**7 * 3):
        terms, values = integer_terms(random, [unit * multiple for multiple in multiples])
        found = Sum(terms=tuple(terms))
        assert found.factors == [multiple // gcd(*multiples) for multiple in multiples]
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
        assert op_types(model).count("Mul") == sum(factor > 1 for factor in set(found.factors))
        assert op_types(model).count("Add") == len(multiples) - 1


@pytest.mark.parametrize("scales", [(0.3, 0.1), (0.5, 0.2), (1.0, 257 / 256)])
def test_scales_that_are_no_whole_multiples_have_no_exact_sum(scales):
    from nash_hw.graph.sums import Sum

    terms, _ = integer_terms(np.random.default_rng(0), scales)
    assert Sum(terms=tuple(terms)).factors is None  # 0.3 is not 3 * 0.1 in binary


def test_unequal_scales_are_refused_by_name():
    from nash_hw.graph.streamline import streamline

    net = Network((1, 3, 8, 8))
    x = net.relu(net.norm(net.conv(net.image, (4, 3, 3, 3), 8), 4), scale=0.07)
    y = net.quantize(net.norm(net.conv(x, (4, 4, 3, 3)), 4), 0.03, 8)
    source = net.finish(net.head(net.relu(net.node("Add", [y, x])), 4), (1, 3))
    with pytest.raises(UnsupportedError, match=r"Add 'add.*scales 0\.03 and 0\.07.*whole multiples"):
        streamline(source)


@pytest.mark.parametrize("k", [0, 2, 3])
def test_aligned_joins_compute_the_same(k):
    from nash_hw.graph.streamline import streamline

    source = aligned_network(k=k)
    images = pictures(source)
    model, dequantization = streamline(source)
    integers = run(model, images)
    logits = integers * dequantization.scale + dequantization.bias
    np.testing.assert_allclose(logits, qonnx_outputs(source, images), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(run(specialized(source), images), integers)


def test_sums_that_are_scaled_in_between_are_exact():
    """Twice a sum, and a term: the sum is written, and then counts twice."""
    from nash_hw.graph.streamline import streamline

    net = Network((1, 3, 8, 8))
    x = net.relu(net.norm(net.conv(net.image, (4, 3, 3, 3), 8), 4), scale=0.25)
    y = net.quantize(net.norm(net.conv(x, (4, 4, 3, 3)), 4), 0.125, 8)
    twice = net.node("Mul", [net.node("Add", [x, y]), net.constant(2.0)])
    source = net.finish(net.head(net.relu(net.node("Add", [twice, x]), scale=0.4), 4), (1, 3))
    images = pictures(source)
    model, dequantization = streamline(source)
    logits = run(model, images) * dequantization.scale + dequantization.bias
    np.testing.assert_allclose(logits, qonnx_outputs(source, images), rtol=1e-6, atol=1e-6)


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
    from nash_hw.boards.boards import find_board
    from nash_hw.estimate.estimate import estimate, layer_figures
    from nash_hw.estimate.facts import NO_FACTS, facts_of
    from nash_hw.graph.model import custom_op

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
    from nash_hw.boards.boards import find_board
    from nash_hw.fold.quantizers import infer_requants
    from nash_hw.graph.lower import lower
    from nash_hw.graph.model import custom_op
    from nash_hw.graph.requant import fixed_point
    from nash_hw.graph.steps import minimize_bit_widths, partition, specialize, to_hardware
    from nash_hw.graph.streamline import streamline

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


def shared_network():
    """A state whose readers ask for the same: two pools, two quantizers, and two 3x3 windows of stride 2."""
    net = Network((1, 3, 8, 8))
    x = net.relu(net.norm(net.conv(net.image, (4, 3, 3, 3), 8), 4))
    pools = [net.quantize(net.pool(x), 0.03, 8) for _ in range(2)]
    y = net.relu(net.node("Add", [net.node("Add", [pools[0], net.quantize(x, 0.03, 8)]), pools[1]]))
    terms = [net.quantize(net.norm(net.conv(y, (8, 4, 3, 3), stride=2), 8), 0.05, 8) for _ in range(2)]
    terms.append(net.quantize(net.norm(net.conv(y, (8, 4, 1, 1), stride=2), 8), 0.05, 8))
    z = net.relu(net.node("Add", [net.node("Add", terms[:2]), terms[2]]))
    return net.finish(net.head(z, 8), (1, 3))


def test_what_several_readers_ask_for_is_made_once():
    from nash_hw.graph.streamline import streamline

    source = shared_network()
    images = pictures(source)
    model, dequantization = streamline(source)
    integers = run(model, images)
    logits = integers * dequantization.scale + dequantization.bias
    np.testing.assert_allclose(logits, qonnx_outputs(source, images), rtol=1e-6, atol=1e-6)
    assert op_types(model).count("MaxPool") == 1
    hardware = specialized(source)
    np.testing.assert_array_equal(run(hardware, images), integers)
    kinds = op_types(hardware)
    assert kinds.count("Pool_hls") == 1
    # of the stem, of the pool, and of the stride twice: 3x3 for two convolutions, 1x1 for one
    assert kinds.count("ConvolutionInputGenerator_rtl") == 4
    assert kinds.count("FMPadding_rtl") == 3
    assert kinds.count("MVAU_rtl") + kinds.count("MVAU_hls") == 5
    thresholds = hardware.get_nodes_by_op_type("Thresholding_rtl")
    assert len(thresholds) == len(model.get_nodes_by_op_type("MultiThreshold")) == 9


def test_windows_of_other_kernels_strides_or_pads_are_not_shared():
    from nash_hw.graph.lower import lower
    from nash_hw.graph.streamline import streamline

    net = Network((1, 3, 8, 8))
    x = net.relu(net.norm(net.conv(net.image, (4, 3, 3, 3), 8), 4))
    forms = [((3, 3), 1, None), ((5, 5), 1, None), ((3, 3), 1, (0, 0, 2, 2)), ((3, 3), 1, None)]
    terms = [
        net.quantize(net.norm(net.conv(x, (4, 4, *kernel), stride=stride, pads=pads), 4), 0.05, 8)
        for kernel, stride, pads in forms
    ]
    total = terms[0]
    for term in terms[1:]:
        total = net.node("Add", [total, term])
    source = net.finish(net.head(net.relu(total), 4), (1, 3))
    images = pictures(source)
    model, _ = streamline(source)
    lowered = lower(model)
    assert op_types(lowered).count("Im2Col") == 1 + 3
    np.testing.assert_array_equal(run(lowered, images), run(model, images))


def test_depthwise_windows_are_not_shared():
    """A vector-vector unit is folded with its window, channel by channel."""
    net = Network((1, 3, 8, 8))
    x = net.relu(net.norm(net.conv(net.image, (4, 3, 3, 3), 8), 4))
    terms = [net.quantize(net.norm(net.conv(x, (4, 1, 3, 3), group=4), 4), 0.05, 8) for _ in range(2)]
    source = net.finish(net.head(net.relu(net.node("Add", terms)), 4), (1, 3))
    assert op_types(specialized(source)).count("ConvolutionInputGenerator_rtl") == 3


def one_pool(random, channels=3, size=(7, 6)):
    """Return a graph of one 3x3 max-pool of random strides, random integers for it, and the strides."""
    from qonnx.core.datatype import DataType

    from nash_hw.graph.model import FINN_DOMAIN, QONNX_DOMAIN, GraphBuilder

    stride = [int(step) for step in random.integers(1, 3, 2)]
    height, width = size[0] + 2, size[1] + 2
    out = [(height - 3) // stride[0] + 1, (width - 3) // stride[1] + 1]
    graph = GraphBuilder("pool")
    kind = DataType["UINT4"]
    graph.input("x", (1, height, width, channels), kind)
    windows = graph.node(
        "Im2Col", ["x"], ("windows", (1, *out, 9 * channels), kind), domain=QONNX_DOMAIN, kernel_size=[3, 3],
        stride=stride, pad_amount=[0] * 4, dilations=[1, 1], depthwise=1,
        input_shape=f"(1,{height},{width},{channels})",
    )  # fmt: skip
    graph.node(
        "Pool", [windows], ("y", (1, *out, channels), kind), domain=FINN_DOMAIN, backend="fpgadataflow",
        Channels=channels, PE=1, KernelSize=[3, 3], Function="MaxPool", OutImgDims=out, InputDataType=kind.name,
        OutputDataType=kind.name,
    )  # fmt: skip
    graph.output("y")
    return graph.model(), random.integers(0, 16, (1, height, width, channels)).astype(np.float32), stride


@pytest.mark.parametrize("seed", range(6))
def test_separated_pools_are_exact(seed):
    """Random strides, sizes and integers: the pool, the pool in two, and numpy."""
    from finn.transformation.fpgadataflow.convert_to_hw.conv_inp_gen import InferConvInpGen

    from nash_hw.fold.pools import SEPARATED, separate_pools
    from nash_hw.graph.steps import specialize
    from nash_hw.verify.execute import Executor

    random = np.random.default_rng(seed)
    model, x, stride = one_pool(random, size=tuple(map(int, random.integers(4, 9, 2))))
    model = specialize(model.transform(InferConvInpGen()), "xcu250-figd2104-2L-e")
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))[:, :: stride[0], :: stride[1]]
    expected = windows.max(axis=(-2, -1))
    np.testing.assert_array_equal(Executor(model).run(x), expected)
    window, pool = model.graph.node
    settings = separate_pools(model, {window.name: {"SIMD": 1, SEPARATED: 1}, pool.name: {"PE": 1}})
    assert set(settings) == {node.name for node in model.graph.node}
    assert not any(SEPARATED in values for values in settings.values())
    kinds = [node.op_type for node in model.graph.node]
    assert kinds == ["ConvolutionInputGenerator_rtl", "Pool_hls"] * 2
    np.testing.assert_array_equal(Executor(model).run(x), expected)


def test_pools_are_separated_where_one_is_too_slow_and_only_there():
    from nash_hw.boards.boards import find_board
    from nash_hw.fold.folding import FoldingSpace, fold

    net = Network((1, 3, 8, 8))
    x = net.pool(net.relu(net.norm(net.conv(net.image, (4, 3, 3, 3), 8), 4)))
    source = net.finish(net.head(x, 4), (1, 3))
    images = pictures(source)
    board = find_board("U250")
    for cycles, is_separated in ((600, False), (500, True)):
        model = specialized(source)
        expected = run(model, images)
        folding = FoldingSpace(model, board).for_fps(200e6 / cycles, 200.0)
        assert folding.price_gap < 1e-6
        folded, config = fold(model, folding.settings)
        assert op_types(folded).count("Pool_hls") == 1 + is_separated
        assert not any("separated" in values for values in config.values())
        np.testing.assert_array_equal(run(folded, images), expected)


@pytest.mark.parametrize("seed", range(4))
def test_requants_of_unsigned_values_equal_their_thresholds(seed):
    """15 values of a pool, a scale and bias for each channel: every input through the thresholds and the Requant."""
    from qonnx.core.datatype import DataType

    from nash_hw.graph.integers import Integers, exact_thresholds, requant_attributes, within_reach
    from nash_hw.graph.qonnx_graph import Quantizer
    from nash_hw.graph.requant import MAX_INPUT_BITS, requantize

    random = np.random.default_rng(seed)
    channels = 16
    x = Integers(
        name="x",
        shape=(1, channels, 1, 1),
        datatype=DataType["UINT4"],
        scale=random.uniform(0.1, 0.6, channels),
        bias=random.uniform(-2, 2, channels),
        low=np.zeros(1),
        high=np.full(1, 15.0),
    )
    quantizer = Quantizer(scale=10 / 127, zero_point=0, low=-128, high=127, datatype=DataType["INT8"])
    quantizer, thresholds = within_reach(x, quantizer, exact_thresholds(x, quantizer))
    assert requant_attributes(x, quantizer, thresholds) == {}  # the RTL would take it for signed
    found = requant_attributes(x, quantizer, thresholds, may_widen=True)
    bits = DataType[found["requant_input"]].bitwidth()
    assert 5 <= bits <= MAX_INPUT_BITS
    values = np.broadcast_to(np.arange(16)[:, None], (16, channels))
    scale, bias = (np.array(found[f"requant_{name}"], np.float32) for name in ("scale", "bias"))
    counted = quantizer.low + (values[..., None] >= thresholds).sum(axis=2)
    np.testing.assert_array_equal(requantize(values, scale, bias, quantizer.datatype), counted)


def test_a_pool_of_many_channels_becomes_a_requant_of_wider_words():
    from nash_hw.boards.boards import find_board
    from nash_hw.fold.quantizers import infer_requants
    from nash_hw.graph.lower import lower
    from nash_hw.graph.requant import fixed_point
    from nash_hw.graph.steps import minimize_bit_widths, partition, specialize, to_hardware
    from nash_hw.graph.streamline import streamline

    net = Network((1, 3, 8, 8))
    x = net.relu(net.norm(net.conv(net.image, (64, 3, 3, 3), 8), 64))
    y = net.quantize(net.norm(net.pool(x), 64, positive=True), 0.01, 8)
    source, board = net.finish(net.head(net.relu(y, scale=0.1), 64), (1, 3)), find_board("ZCU104")
    images = pictures(source)
    model, _ = streamline(source)
    expected = run(model, images)
    model = specialize(
        minimize_bit_widths(partition(to_hardware(infer_requants(lower(model), board, 10**6)))), board.fpga_part
    )
    widened = model.get_nodes_by_op_type("ElementwiseMul_hls")[0]
    requant = model.find_consumer(widened.output[0])
    assert model.find_producer(widened.input[0]).op_type == "Pool_hls"
    bits = model.get_tensor_datatype(requant.input[0]).bitwidth()
    parameters = fixed_point(*(model.get_initializer(name) for name in requant.input[1:]))
    assert parameters.fits(bits, model.get_tensor_datatype(requant.output[0]).bitwidth()).all()
    np.testing.assert_array_equal(run(model, images), expected)


def fused_network(*, with_state: bool, units: float = 1.0):
    """Accumulators of equal scale in each channel, or `units` of it, added as they are; one batch normalization."""
    net = Network((1, 3, 8, 8))
    x = net.relu(net.norm(net.conv(net.image, (4, 3, 3, 3), 8), 4), scale=225 / 2048)
    y = net.relu(net.norm(net.conv(x, (4, 4, 3, 3)), 4), scale=225 / 2048)
    scales = net.random.uniform(0.5, 1.5, (4, 1, 1, 1)).astype(np.float32) / 8

    def convolve(source, kernel, units=1.0):
        values = net.constant(units * net.random.normal(size=(4, 4, kernel, kernel)))
        weights = net.quantize(values, np.float32(units) * scales, 4, narrow=True)
        return net.node(
            "Conv", [source, weights], kernel_shape=[kernel] * 2, strides=[1, 1], pads=[kernel // 2] * 4,
            group=1, dilations=[1, 1],
        )  # fmt: skip

    total = net.node("Add", [convolve(y, 3), convolve(x, 1, units)])
    if with_state:  # 4 units of each channel
        total = net.node("Add", [total, net.node("Mul", [x, net.constant(4 * scales.reshape(1, 4, 1, 1))])])
    z = net.relu(net.norm(total, 4, positive=with_state))
    return net.finish(net.head(z, 4), (1, 3))


@pytest.mark.parametrize("with_state", [False, True], ids=["convolutions", "and a state"])
def test_accumulators_of_equal_scale_are_added_as_they_are(with_state):
    """Some gammas are negative where only convolutions are added: their weights change signs."""
    from nash_hw.graph.streamline import streamline

    source = fused_network(with_state=with_state)
    images = pictures(source)
    model, dequantization = streamline(source)
    integers = run(model, images)
    logits = integers * dequantization.scale + dequantization.bias
    np.testing.assert_allclose(logits, qonnx_outputs(source, images), rtol=1e-6, atol=1e-6)
    join = next(node for node in model.graph.node if node.op_type == "Add")
    assert {model.find_producer(name).op_type for name in join.input} == {"Conv"}
    assert op_types(model).count("MultiThreshold") == 4  # two states, the join, the features: none before the join
    hardware = specialized(source)
    np.testing.assert_array_equal(run(hardware, images), integers)
    assert op_types(hardware).count("ElementwiseMul_hls") == with_state


@pytest.mark.parametrize(("units", "num_factors"), [(0.25, 2), (4.0, 1)])
def test_accumulators_of_scales_a_power_of_two_apart_are_shifted(units, num_factors):
    """A convolution of finer weights makes the other one and the state count more; one as coarse as the state none."""
    from nash_hw.graph.streamline import streamline

    source = fused_network(with_state=True, units=units)
    images = pictures(source)
    model, dequantization = streamline(source)
    logits = run(model, images) * dequantization.scale + dequantization.bias
    np.testing.assert_allclose(logits, qonnx_outputs(source, images), rtol=1e-6, atol=1e-6)
    assert op_types(model).count("Mul") == num_factors


def test_accumulators_of_other_scales_are_refused():
    from nash_hw.graph.streamline import streamline

    net = Network((1, 3, 8, 8))
    x = net.relu(net.norm(net.conv(net.image, (4, 3, 3, 3), 8), 4))
    total = net.node("Add", [net.conv(x, (4, 4, 3, 3)), net.conv(x, (4, 4, 1, 1))])
    source = net.finish(net.head(net.relu(net.norm(total, 4)), 4), (1, 3))
    with pytest.raises(UnsupportedError, match=r"Add 'add.*scales [\d.e-]+ to [\d.e-]+ and [\d.e-]+ to [\d.e-]+; let"):
        streamline(source)
