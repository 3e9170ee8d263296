from __future__ import annotations

import re

import pytest
from networks import residual_network
from test_steps import specialized

pytestmark = pytest.mark.usefixtures("finn")


@pytest.fixture
def board():
    from nash_hw.boards.boards import find_board

    return find_board("U250")


@pytest.fixture
def result(board):
    from nash_hw.estimate.estimate import estimate

    return estimate(specialized(residual_network()), board)


def layers_of(result, op_type):
    found = [layer for layer in result.layers if layer.op_type == op_type]
    assert found
    return found


def test_every_figure_of_every_layer_is_known(result):
    for layer in result.layers:
        assert None not in layer.figures.resources.values(), layer.name
    assert set(result.num_unknown.values()) == {0}


@pytest.mark.parametrize(
    ("op_type", "resource", "origin"),
    [
        ("MVAU_rtl", "LUT", "modelled"),
        ("MVAU_rtl", "URAM", "finn"),
        ("Thresholding_rtl", "LUT", "corrected"),
        ("ConvolutionInputGenerator_rtl", "LUT", "corrected"),
        ("FMPadding_rtl", "LUT", "modelled"),
        ("DuplicateStreams_hls", "FF", "modelled"),
        ("ElementwiseAdd_hls", "LUT", "modelled"),
        ("Pool_hls", "LUT", "modelled"),
        ("GlobalAccPool_hls", "LUT", "modelled"),
        ("StreamingConcat_hls", "LUT", "modelled"),
    ],
)
def test_luts_that_finn_reports_as_zero_are_modelled(result, op_type, resource, origin):
    for layer in layers_of(result, op_type):
        assert layer.figures.origins[resource] == origin
        assert layer.figures.resources["LUT"] > 0


def test_a_layer_nobody_knows_has_no_figures(board):
    from types import SimpleNamespace

    from nash_hw.estimate.estimate import layer_figures

    figures = layer_figures(SimpleNamespace(op_type="Upsample_hls"), None, board.fpga_part)
    assert set(figures.resources.values()) == {None} == set(figures.origins.values())


def test_every_figure_has_an_origin(result):
    for layer in result.layers:
        for name, value in layer.figures.resources.items():
            assert (value is None) == (layer.figures.origins[name] is None)


def test_sums_are_those_of_layers_and_streams(result):
    assert {stream.kind for stream in result.streams} == {"converter", "fifo", "converter_fifo", "port_fifo"}
    for name, total in result.resources.items():
        assert total == sum(part.figures.resources[name] for part in (*result.layers, *result.streams))


def test_bottleneck_is_the_slowest_layer(result):
    assert result.ii_cycles == max(layer.cycles for layer in result.layers)
    assert next(layer for layer in result.layers if layer.name == result.bottleneck).cycles == result.ii_cycles
    total = sum(layer.cycles for layer in result.layers)
    assert result.ii_cycles < result.latency_cycles < result.latency_bound_cycles < total


def test_layers_name_their_operation(result):
    sources = {kind: {layer.source for layer in layers_of(result, kind)} for kind in ("MVAU_rtl", "FMPadding_rtl")}
    assert all(re.fullmatch(r"(conv|matmul)\d+", source) for source in sources["MVAU_rtl"])
    assert all(re.fullmatch(r"(conv|maxpool)\d+", source) for source in sources["FMPadding_rtl"])


@pytest.mark.parametrize(
    ("weight_bits", "act_bits", "port_bits", "narrow", "expected"),
    [
        (4, 4, 27, True, 4),
        (4, 4, 27, False, 4),
        (2, 2, 27, True, 9),
        (4, 8, 27, True, 3),
        (8, 8, 27, True, 2),
        (27, 4, 27, True, 1),
    ],
)
def test_lanes_of_a_dsp(weight_bits, act_bits, port_bits, narrow, expected):
    """By hand: a lane takes weight + activation - 1 bits, the first only its weight's."""
    from nash_hw.estimate.estimate import dsp_lanes

    assert dsp_lanes(weight_bits, act_bits, port_bits, narrow_weights=narrow) == expected


def test_dsps_are_corrected_to_the_lanes_of_the_rtl(board):
    from nash_hw.estimate.estimate import layer_figures
    from nash_hw.estimate.facts import facts_of
    from nash_hw.graph.model import custom_op

    model = specialized(residual_network(8, 8))
    node = next(
        node for node in model.graph.node if node.op_type == "MVAU_rtl" and custom_op(node).get_nodeattr("MH") == 8
    )
    instance = custom_op(node)
    instance.set_nodeattr("PE", 8)
    instance.set_nodeattr("SIMD", 3)
    assert instance.node_res_estimation(board.fpga_part)["DSP"] == 6  # FINN: four multiplications in any DSP
    figures = layer_figures(node, instance, board.fpga_part, facts_of(model, node, instance))
    assert (figures.resources["DSP"], figures.origins["DSP"]) == (12, "corrected")


def test_utilization_of_a_resource_the_board_lacks():
    from nash_hw.boards.boards import find_board
    from nash_hw.estimate.estimate import utilization

    resources = {"LUT": 53200.0, "FF": None, "BRAM_18K": 70.0, "URAM": 1.0, "DSP": 0.0}
    parts = utilization(resources, find_board("Pynq-Z1").resources)
    assert parts == {"LUT": 1.0, "FF": None, "BRAM_18K": 0.25, "URAM": None, "DSP": 0.0}


def test_only_deep_weights_are_cheaper_in_ultraram(board):
    """UltraRAM starts empty: the host's access to it costs LUTs that a small memory in LUTs does not."""
    from nash_hw.estimate.rtl_models import weight_memory

    for depth, is_cheaper in ((64, False), (4096, True)):
        ultra, luts = (weight_memory(64, depth, style, written=style == "ultra") for style in ("ultra", "distributed"))
        assert (ultra["LUT"] < luts["LUT"]) == is_cheaper
