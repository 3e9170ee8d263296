from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from networks import Network, pictures, residual_network, run
from test_steps import specialized

from nash_hw.base.errors import CapacityError

pytestmark = pytest.mark.usefixtures("finn")


@pytest.fixture
def board():
    from nash_hw.boards.boards import find_board

    return find_board("ZCU104")


@pytest.fixture
def model():
    return specialized(residual_network(size=6))


def copy_of(model):
    from nash_hw.graph.model import Model

    return Model(type(model.model).FromString(model.model.SerializeToString()))


def hls_twin(node):
    """The HLS layer of an RTL one, made as FINN's SpecializeLayers makes it."""
    from onnx import helper

    twin = helper.make_node("MVAU_hls", node.input, node.output, domain="finn.custom_op.fpgadataflow.hls")
    twin.attribute.extend(node.attribute)
    return twin


def attributes_of(model):
    from nash_hw.graph.model import custom_op

    return {node.name: custom_op(node) for node in model.graph.node}


def test_options_of_each_group_equal_brute_force(board):
    """Each layer's cheapest folding for any number of cycles, against all combinations of its divisors."""
    from nash_hw.estimate.estimate import RESOURCES, layer_figures
    from nash_hw.estimate.facts import facts_of
    from nash_hw.fold.folding import FoldingSpace
    from nash_hw.graph.model import custom_op

    net = Network((1, 2, 4, 4))
    model = specialized(net.finish(net.head(net.relu(net.conv(net.image, (6, 2, 3, 3))), 6), (1, 3)))
    space = FoldingSpace(model, board)
    mvau = next(node for node in model.graph.node if node.op_type == "MVAU_rtl")
    group = next(group for group in space._groups if group.names == (mvau.name,))
    variants = {"dsp": mvau, "lut": hls_twin(mvau)}
    facts = facts_of(model, mvau, custom_op(mvau))
    tried = []
    for pe, simd, style, arithmetic in itertools.product(
        [1, 2, 3, 6], [1, 2, 3, 6, 9, 18], ["block", "distributed", "ultra"], variants
    ):
        if arithmetic == "dsp" and simd == 18:
            continue  # FINN's RTL loses words there, see test_written_fifos.py
        node = variants[arithmetic]
        instance = custom_op(node)
        for name, value in (("PE", pe), ("SIMD", simd), ("ram_style", style), ("resType", arithmetic)):
            instance.set_nodeattr(name, value)
        figures = layer_figures(node, instance, board.fpga_part, facts).resources
        parts = {name: (figures[name] or 0) / max(board.resources[name], 1) for name in RESOURCES}
        price = sum(parts.values()) + parts["LUT"] + 1e-9 * (pe + simd)
        tried.append((instance.get_exp_cycles(), price))
    for cycles in sorted({cycles for cycles, _ in tried}):
        chosen = group.cheapest(cycles)
        assert chosen.cycles <= cycles
        assert chosen.price == pytest.approx(min(price for other, price in tried if other <= cycles), rel=1e-12)
    assert group.cheapest(min(cycles for cycles, _ in tried) - 1) is None


@pytest.mark.parametrize("target_fps", [100, 3_000, 200_000])
def test_target_is_reached_and_divisors_divide(model, board, target_fps):
    from nash_hw.estimate.actors import pace_of
    from nash_hw.estimate.estimate import estimate
    from nash_hw.fold.folding import FoldingSpace, fold

    folding = FoldingSpace(model, board).for_fps(target_fps, 200.0)
    model, config = fold(model, folding.settings)
    instances = attributes_of(model)
    assert pace_of(model)[0] == folding.ii_cycles <= 200e6 / target_fps
    for name, instance in instances.items():
        for attribute, value in config[name].items():
            assert instance.get_nodeattr(attribute) == value
        if name.startswith("MVAU"):
            assert instance.get_nodeattr("MW") % instance.get_nodeattr("SIMD") == 0
            assert instance.get_nodeattr("MH") % instance.get_nodeattr("PE") == 0
    # converters and FIFOs included
    assert estimate(model, board).resources == pytest.approx(folding.resources, rel=1e-12)


def test_a_pool_works_on_as_many_channels_as_its_window(model, board):
    from nash_hw.fold.folding import FoldingSpace

    settings = FoldingSpace(model, board).for_fps(100_000, 200.0).settings
    for node in model.graph.node:
        if node.op_type == "Pool_hls":
            window = model.find_producer(node.input[0])
            assert settings[window.name]["SIMD"] == settings[node.name]["PE"]


@pytest.mark.parametrize("target_fps", [10_000, 1_300_000])
def test_a_depthwise_unit_works_on_as_many_channels_as_its_window(board, target_fps):
    from test_lower import depthwise_network

    from nash_hw.fold.folding import FoldingSpace, fold
    from nash_hw.graph.model import custom_op

    source = depthwise_network()
    before = specialized(source)
    images = pictures(source)
    expected = run(before, images)
    model, _ = fold(before, FoldingSpace(before, board).for_fps(target_fps, 200).settings)
    (unit,) = model.get_nodes_by_op_type("VVAU_hls")
    unit, window = custom_op(unit), custom_op(model.find_producer(unit.input[0]))
    assert window.get_nodeattr("SIMD") == unit.get_nodeattr("PE")
    assert window.get_nodeattr("parallel_window") == (unit.get_nodeattr("SIMD") > 1)
    assert (unit.get_nodeattr("PE"), unit.get_nodeattr("SIMD")) == ((1, 1) if target_fps == 10_000 else (6, 9))
    np.testing.assert_array_equal(run(model, images), expected)


def test_folding_keeps_the_function(model, board):
    from nash_hw.fold.folding import FoldingSpace, fold

    images = pictures(residual_network(size=6))
    before = run(model, images)
    settings = FoldingSpace(model, board).for_fps(100_000, 200.0).settings
    after = run(fold(model, settings)[0], images)
    assert before.tolist() == after.tolist()


def test_pricing_leaves_the_model_as_it_was(model, board):
    from nash_hw.fold.folding import FoldingSpace

    before = model.model.SerializeToString(deterministic=True)
    FoldingSpace(model, board)
    assert model.model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    ("name", "styles"),
    [
        ("Pynq-Z1", {"block": 0, "distributed": 0}),  # has no UltraRAM
        ("ZCU104", {"block": 0, "distributed": 0, "ultra": 1}),  # whose UltraRAM starts empty
        ("VCK190", {"block": 0, "distributed": 0, "ultra": 0}),
    ],
)
def test_weights_lie_where_the_board_can_have_them(name, styles):
    from nash_hw.boards.boards import find_board
    from nash_hw.fold.settings import weight_memories

    found = {each["ram_style"]: each["runtime_writeable_weights"] for each in weight_memories(find_board(name))}
    assert found == styles


def test_weights_move_to_the_memory_that_is_left(board):
    """Each board has plenty of one memory alone; what the layers then answer is what was chosen."""
    from dataclasses import replace

    from nash_hw.estimate.estimate import estimate
    from nash_hw.fold.folding import FoldingSpace, fold

    net = Network((1, 3, 8, 8))
    x = net.relu(net.conv(net.relu(net.conv(net.image, (32, 3, 3, 3))), (64, 32, 3, 3)))
    model = specialized(net.finish(net.head(x, 64), (1, 3)))
    plenty = {"LUT": 10**6, "FF": 10**6, "BRAM_18K": 10**6, "URAM": 10**6, "DSP": 10**3}
    scarce = {
        "block": {"LUT": 10**4, "URAM": 0},
        "distributed": {"BRAM_18K": 1, "URAM": 0},
        "ultra": {"LUT": 10**4, "BRAM_18K": 1},
    }
    for style, few in scarce.items():
        folding = FoldingSpace(model, replace(board, resources=plenty | few)).for_fps(100, 200.0)
        folded, config = fold(copy_of(model), folding.settings)
        instances = {name: each for name, each in attributes_of(folded).items() if name.startswith("MVAU")}
        assert max(instances.values(), key=lambda each: each.get_nodeattr("MW")).get_nodeattr("ram_style") == style
        assert estimate(folded, board).resources == pytest.approx(folding.resources, rel=1e-12)
        for name, instance in instances.items():
            is_ultra = config[name]["ram_style"] == "ultra"
            assert instance.get_nodeattr("runtime_writeable_weights") == is_ultra
            assert bool(instance.uram_estimation(board.fpga_part)) == is_ultra


def test_finn_generates_the_memory_of_weights_in_ultraram(model, board, tmp_path):
    from nash_hw.fold.settings import weight_memories

    instance = next(instance for name, instance in attributes_of(model).items() if name.startswith("MVAU_rtl"))
    for name, value in weight_memories(board)[-1].items():
        instance.set_nodeattr(name, value)
    instance.set_nodeattr("code_gen_dir_ipgen", str(tmp_path))
    instance.generate_infra_hdl(board.fpga_part)
    assert '"ultra"' in next(tmp_path.glob("*_memstream_wrapper.v")).read_text()


def test_a_board_with_just_what_the_fifos_take_is_large_enough(model, board, monkeypatch):
    from dataclasses import replace

    from nash_hw.fold import folding
    from nash_hw.fold.fifos import Fifos

    fifos = {"LUT": 50.0, "FF": 20.0, "BRAM_18K": 3.0, "URAM": 2.0, "DSP": 0.0}
    monkeypatch.setattr(folding, "fifos_of", lambda *_: Fifos(resources=fifos, waiting_bits={}))
    just = replace(board, resources=board.resources | {"URAM": 2})
    found = folding.FoldingSpace(model, just).for_fps(3_000, 200.0)
    assert found.resources["URAM"] == 2


def test_a_join_reads_wide_words_where_its_fifo_outgrows_the_board(model, board, monkeypatch):
    """24,000 words of one channel take more UltraRAMs than the same bits in wider words; the layers need none."""
    from dataclasses import replace

    from nash_hw.estimate.streams import fifo_figures
    from nash_hw.fold import folding
    from nash_hw.fold.fifos import Fifos

    join = next(node for node in model.graph.node if node.op_type == "ElementwiseAdd_hls")
    width = model.get_tensor_datatype(join.input[0]).bitwidth()
    channels = model.get_tensor_shape(join.input[0])[-1]

    def resources(pe):
        return dict(fifo_figures(width * pe, 24_000 // pe, board.fpga_part).resources)

    def fifos_of(_, settings, *others):
        return Fifos(resources=resources(settings[join.name]["PE"]), waiting_bits={join.input[0]: 24_000 * width})

    monkeypatch.setattr(folding, "fifos_of", fifos_of)
    least = resources(channels)["URAM"]
    assert least < resources(1)["URAM"]
    small = replace(board, resources=board.resources | {"URAM": least, "BRAM_18K": 4})
    found = folding.FoldingSpace(model, small).for_fps(3_000, 200.0)
    assert found.settings[join.name]["PE"] > 1
    assert found.resources["URAM"] == least


@pytest.mark.parametrize("fps", [3_000, 20_000])
def test_needs_no_more_of_anything_than_setfolding(model, board, fps):
    """SetFolding's design is itself one of the choices, so a board it just fits on is large enough."""
    from dataclasses import replace

    from finn.transformation.fpgadataflow.set_folding import SetFolding
    from qonnx.core.modelwrapper import ModelWrapper

    from nash_hw.estimate.estimate import estimate
    from nash_hw.fold.folding import FoldingSpace

    folded = ModelWrapper(copy_of(model).model).transform(SetFolding(int(200e6 / fps)))
    theirs = estimate(type(model)(folded.model), board)
    as_large = replace(board, resources={name: math.ceil(used or 0) for name, used in theirs.resources.items()})
    ours = FoldingSpace(model, as_large).for_fps(200e6 / theirs.ii_cycles, 200.0)
    assert ours.ii_cycles <= theirs.ii_cycles
    assert all((used or 0) <= as_large.resources[name] for name, used in ours.resources.items())


def test_unreachable_rate_names_the_bottleneck(model, board):
    from nash_hw.fold.folding import FoldingSpace

    with pytest.raises(
        CapacityError, match=r"expected at most .* at 200 MHz; the bottleneck is \w+_\d+ \((conv|maxpool)\d+\)"
    ):
        FoldingSpace(model, board).for_fps(1e9, 200.0)


def test_too_small_a_board_names_the_resource(model, board):
    from dataclasses import replace

    from nash_hw.fold.folding import FoldingSpace

    tiny = replace(board, resources={**board.resources, "LUT": 100})
    with pytest.raises(
        CapacityError,
        match=r"too small, the slowest design needs [\d,]+ LUT of 70, "
        r"[\d,]+ of them for \w+_\d+ \(\w+\) \(70% of the board\)",
    ):
        FoldingSpace(model, tiny).for_utilization(0.7)


def test_rate_that_does_not_fit_says_what_does(model, board):
    from dataclasses import replace

    from nash_hw.fold.folding import FoldingSpace

    no_blocks = {"BRAM_18K": 0, "URAM": 0, "DSP": 0}
    plenty = FoldingSpace(model, replace(board, resources=board.resources | no_blocks))
    slow, fast = (plenty.for_fps(fps, 200.0).resources["LUT"] for fps in (10, 300_000))
    few = replace(board, resources=board.resources | no_blocks | {"LUT": int((slow + fast) / 2)})
    with pytest.raises(
        CapacityError, match=r"LUT of [\d,]+, [\d,]+ of them for .*; ZCU104 reaches at most [\d,.]+ fps"
    ):
        FoldingSpace(model, few).for_fps(300_000, 200.0)


def test_finn_applies_the_written_configuration(model, board, tmp_path):
    """The file carries to any FINN: its own ApplyConfig reads it on its own model wrapper."""
    import json

    from finn.transformation.general import ApplyConfig
    from qonnx.core.modelwrapper import ModelWrapper

    from nash_hw.fold.folding import FoldingSpace, fold

    settings = FoldingSpace(model, board).for_fps(50_000, 200.0).settings
    model, config = fold(model, settings)
    path = tmp_path / "folding.json"
    path.write_text(json.dumps(config))
    for instance in attributes_of(model).values():
        for attribute in ("PE", "SIMD"):
            if attribute in instance.get_nodeattr_types():
                instance.set_nodeattr(attribute, 1)
    folded = ModelWrapper(model.model, make_deepcopy=True).transform(ApplyConfig(str(path)))
    for name, instance in attributes_of(folded).items():
        for attribute, value in config[name].items():
            assert instance.get_nodeattr(attribute) == value


@pytest.mark.parametrize(("dsps", "luts", "arithmetic"), [(0, 10**6, "lut"), (10**4, 10**4, "dsp")])
def test_arithmetic_lies_where_the_board_has_room(model, dsps, luts, arithmetic, board):
    """Without DSPs every matrix-vector unit becomes the HLS one, and the function stays the same."""
    from dataclasses import replace

    from nash_hw.fold.folding import FoldingSpace, fold

    images = pictures(residual_network(size=6))
    before = run(model, images)
    room = replace(board, resources=board.resources | {"DSP": dsps, "LUT": luts})
    folding = FoldingSpace(model, room).for_fps(20_000, 200.0)
    folded, config = fold(model, folding.settings)
    kinds = {node.op_type for node in folded.graph.node if node.op_type.startswith("MVAU")}
    assert {"lut": "MVAU_hls", "dsp": "MVAU_rtl"}[arithmetic] in kinds
    assert (arithmetic == "dsp") or "MVAU_rtl" not in kinds
    assert {node.name for node in folded.graph.node} == set(config) - {"Defaults"}
    assert (folding.resources["DSP"] > 0) == (arithmetic == "dsp")
    assert run(folded, images).tolist() == before.tolist()


def test_lines_and_thresholds_move_into_block_ram(model, board):
    """Where LUTs are scarce; the figures of the folded layers are those that were chosen."""
    from dataclasses import replace

    from nash_hw.fold.folding import FoldingSpace, fold

    room = replace(board, resources=board.resources | {"LUT": 8_000, "BRAM_18K": 10**6, "URAM": 0})
    folding = FoldingSpace(model, room).for_fps(3_000, 200.0)
    folded, _ = fold(model, folding.settings)
    instances = attributes_of(folded)
    lines = [instance for name, instance in instances.items() if name.startswith("ConvolutionInputGenerator_rtl")]
    assert any(instance.bram_estimation(board.fpga_part) for instance in lines)
    thresholds = [instance for name, instance in instances.items() if name.startswith("Thresholding_rtl")]
    assert any(instance.get_nodeattr("depth_trigger_bram") for instance in thresholds)
    for instance in thresholds:
        assert instance.uram_estimation(board.fpga_part) == 0


@pytest.mark.parametrize("channels", [24, 36])
def test_unusual_channel_counts_fold_by_their_divisors(channels, board):
    from nash_hw.fold.folding import FoldingSpace, fold

    net = Network((1, 3, 8, 8))
    x = net.relu(net.conv(net.image, (channels, 3, 3, 3)))
    x = net.relu(net.conv(x, (channels * 3 // 2, channels, 3, 3), stride=2))
    source = net.finish(net.head(x, channels * 3 // 2), (1, 3))
    model = specialized(source)
    images = pictures(source)
    before = run(model, images)
    space = FoldingSpace(model, board)
    used = set()
    for fps in (2_000, 20_000, 100_000):
        folded, config = fold(copy_of(model), space.for_fps(fps, 200.0).settings)
        for node in folded.graph.node:
            if node.op_type.startswith("MVAU"):
                used |= {config[node.name]["PE"], config[node.name]["SIMD"]}
        assert run(folded, images).tolist() == before.tolist()
    assert any(value & (value - 1) for value in used)  # not only powers of two


def test_frame_rate_that_converters_deny_is_refused_by_name(board):
    """All layers are fast enough, whatever the widths; the windows wait for their converters."""
    from accelerators import case_model
    from genotypes import draw_case

    case = dataclasses.replace(draw_case(57), slowdown=1)
    with pytest.raises(CapacityError, match=r"ConvolutionInputGenerator_rtl_\d waits for the width converter"):
        case_model(case)


def test_price_of_a_resource_moves_the_choice():
    """On a U250 a DSP costs as much as 65 LUTs, unless somebody says that DSPs are there for the taking."""
    from nash_hw.boards.boards import find_board
    from nash_hw.boards.prices import parse_price
    from nash_hw.fold.folding import FoldingSpace

    board = find_board("U250")
    model = specialized(residual_network(size=6), board.fpga_part)
    usual, cheap, dear = (
        FoldingSpace(model, dataclasses.replace(board, price=parse_price(price))).for_fps(100_000, 200.0).resources
        for price in ("LUT=2", "DSP=0.001", "DSP=1000")
    )
    assert usual == FoldingSpace(model, board).for_fps(100_000, 200.0).resources
    assert cheap["DSP"] >= usual["DSP"] > dear["DSP"]
    assert cheap["LUT"] <= usual["LUT"] < dear["LUT"]


def test_balance_takes_the_least_part_of_the_fullest_resource(model, board):
    """Against the cheapest foldings within ever smaller parts of the board."""
    from nash_hw.fold.folding import FoldingSpace

    def fullest(folding):
        return max(folding.resources[name] / max(board.resources[name], 1) for name in board.resources)

    space = FoldingSpace(model, board)
    cheapest, balanced = space.for_fps(100_000, 200.0), space.balanced(100_000, 200.0)
    assert fullest(balanced) == balanced.limit <= fullest(cheapest)
    assert 200e6 / balanced.ii_cycles >= 100_000
    assert space._cheapest(2_000, balanced.limit * 0.97) is None
    with pytest.raises(CapacityError, match="--target-fps"):
        space.balanced(1e8, 200.0)


def test_figures_are_whole_numbers(model, board):
    from nash_hw.estimate.estimate import estimate
    from nash_hw.fold.folding import FoldingSpace, fold

    folding = FoldingSpace(model, board).for_fps(10_000, 200.0)
    result = estimate(fold(model, folding.settings)[0], board)
    parts = [part.figures.resources for part in (*result.layers, *result.streams)]
    values = [value for resources in (*parts, result.resources, folding.resources) for value in resources.values()]
    assert all(isinstance(value, int) for value in values)
