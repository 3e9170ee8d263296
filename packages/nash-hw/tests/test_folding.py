from __future__ import annotations

import itertools

import pytest
from networks import Network, pictures, residual_network, run
from test_steps import specialized

from nash_hw.errors import CapacityError

pytestmark = pytest.mark.usefixtures("finn")


@pytest.fixture
def board():
    from nash_hw.boards import find_board

    return find_board("ZCU104")


@pytest.fixture
def model():
    return specialized(residual_network(size=6))


def attributes_of(model):
    from nash_hw.model import custom_op

    return {node.name: custom_op(node) for node in model.graph.node}


def test_options_of_each_group_equal_brute_force(board):
    """Each layer's cheapest folding for any number of cycles, against all combinations of its divisors."""
    from nash_hw.estimate import RESOURCES, has_narrow_weights, layer_figures
    from nash_hw.folding import FoldingSpace
    from nash_hw.model import custom_op

    net = Network((1, 2, 4, 4))
    model = specialized(net.finish(net.head(net.relu(net.conv(net.image, (6, 2, 3, 3))), 6), (1, 3)))
    space = FoldingSpace(model, board)
    mvau = next(node for node in model.graph.node if node.op_type == "MVAU_rtl")
    group = next(group for group in space._groups if group.names == (mvau.name,))
    instance = custom_op(mvau)
    narrow = has_narrow_weights(model, mvau, instance)
    tried = []
    for pe, simd in itertools.product([1, 2, 3, 6], [1, 2, 3, 6, 9, 18]):
        instance.set_nodeattr("PE", pe)
        instance.set_nodeattr("SIMD", simd)
        figures = layer_figures(mvau, instance, board.fpga_part, narrow_weights=narrow).resources
        price = sum((figures[name] or 0) / max(board.resources[name], 1) for name in RESOURCES) + 1e-9 * (pe + simd)
        tried.append((instance.get_exp_cycles(), price))
    for cycles in sorted({cycles for cycles, _ in tried}):
        chosen = group.cheapest(cycles)
        assert chosen.cycles <= cycles
        assert chosen.price == pytest.approx(min(price for other, price in tried if other <= cycles), rel=1e-12)
    assert group.cheapest(min(cycles for cycles, _ in tried) - 1) is None


def test_highest_utilization_equals_a_scan_over_every_rate(model, board):
    from dataclasses import replace

    from nash_hw.folding import FoldingSpace

    board = replace(board, resources={**board.resources, "DSP": 20})
    space = FoldingSpace(model, board)
    limit = 0.3
    found = space.for_utilization(limit)
    candidates = sorted({option.cycles for group in space._groups for option in group.options})
    fitting = []
    for cycles in (cycles for cycles in candidates if cycles >= space.fastest_cycles):
        folding = space.for_cycles(cycles)
        if all((folding.resources[name] or 0) <= limit * board.resources[name] for name in folding.resources):
            fitting.append(folding.ii_cycles)
    assert found.ii_cycles == min(fitting)
    assert found.ii_cycles > space.fastest_cycles  # the limit binds


@pytest.mark.parametrize("target_fps", [100, 3_000, 200_000])
def test_target_is_reached_and_divisors_divide(model, board, target_fps):
    from nash_hw.folding import FoldingSpace, apply_finn_config, to_finn_config

    folding = FoldingSpace(model, board).for_fps(target_fps, 200.0)
    model = apply_finn_config(model, to_finn_config(model, folding.settings))
    instances = attributes_of(model)
    assert max(instance.get_exp_cycles() for instance in instances.values()) == folding.ii_cycles <= 200e6 / target_fps
    for name, instance in instances.items():
        for attribute, value in folding.settings[name].items():
            assert instance.get_nodeattr(attribute) == value
        if name.startswith("MVAU"):
            assert instance.get_nodeattr("MW") % instance.get_nodeattr("SIMD") == 0
            assert instance.get_nodeattr("MH") % instance.get_nodeattr("PE") == 0


def test_a_pool_works_on_as_many_channels_as_its_window(model, board):
    from nash_hw.folding import FoldingSpace

    settings = FoldingSpace(model, board).for_fps(100_000, 200.0).settings
    for node in model.graph.node:
        if node.op_type == "Pool_hls":
            window = model.find_producer(node.input[0])
            assert settings[window.name]["SIMD"] == settings[node.name]["PE"]


def test_folding_keeps_the_function(model, board):
    from nash_hw.folding import FoldingSpace, apply_finn_config, to_finn_config

    images = pictures(residual_network(size=6))
    before = run(model, images)
    settings = FoldingSpace(model, board).for_fps(100_000, 200.0).settings
    after = run(apply_finn_config(model, to_finn_config(model, settings)), images)
    assert before.tolist() == after.tolist()


def test_pricing_leaves_the_model_as_it_was(model, board):
    from nash_hw.folding import FoldingSpace

    before = model.model.SerializeToString(deterministic=True)
    FoldingSpace(model, board)
    values = [
        instance.get_nodeattr("PE")
        for instance in attributes_of(model).values()
        if "PE" in instance.get_nodeattr_types()
    ]
    after = specialized(residual_network(size=6)).model.SerializeToString(deterministic=True)
    assert len(before) == len(after)
    assert values == [
        instance.get_nodeattr("PE")
        for instance in attributes_of(specialized(residual_network(size=6))).values()
        if "PE" in instance.get_nodeattr_types()
    ]


def test_unreachable_rate_names_the_bottleneck(model, board):
    from nash_hw.folding import FoldingSpace

    with pytest.raises(
        CapacityError, match=r"expected at most .* at 200 MHz; the bottleneck is \w+_\d+ \((conv|maxpool)\d+\)"
    ):
        FoldingSpace(model, board).for_fps(1e9, 200.0)


def test_too_small_a_board_names_the_resource(model, board):
    from dataclasses import replace

    from nash_hw.folding import FoldingSpace

    tiny = replace(board, resources={**board.resources, "LUT": 100})
    with pytest.raises(
        CapacityError, match=r"too small, the slowest design needs [\d,]+ LUT of 70 \(70% of the board\)"
    ):
        FoldingSpace(model, tiny).for_utilization(0.7)


def test_rate_that_does_not_fit_says_what_does(model, board):
    from dataclasses import replace

    from nash_hw.folding import FoldingSpace

    few = replace(board, resources={**board.resources, "DSP": 6})
    with pytest.raises(CapacityError, match=r"DSP of 6; ZCU104 reaches at most [\d,.]+ fps"):
        FoldingSpace(model, few).for_fps(300_000, 200.0)


def test_finn_applies_the_written_configuration(model, board, tmp_path):
    """The file carries to any FINN: its own ApplyConfig reads it on its own model wrapper."""
    import json

    from finn.transformation.general import ApplyConfig
    from qonnx.core.modelwrapper import ModelWrapper

    from nash_hw.folding import FoldingSpace, to_finn_config

    settings = FoldingSpace(model, board).for_fps(50_000, 200.0).settings
    path = tmp_path / "folding.json"
    path.write_text(json.dumps(to_finn_config(model, settings)))
    folded = ModelWrapper(model.model, make_deepcopy=True).transform(ApplyConfig(str(path)))
    for name, instance in attributes_of(folded).items():
        for attribute, value in settings[name].items():
            assert instance.get_nodeattr(attribute) == value
