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
    for pe, simd, style in itertools.product([1, 2, 3, 6], [1, 2, 3, 6, 9, 18], ["block", "distributed", "ultra"]):
        for name, value in (("PE", pe), ("SIMD", simd), ("ram_style", style)):
            instance.set_nodeattr(name, value)
        figures = layer_figures(mvau, instance, board.fpga_part, narrow_weights=narrow).resources
        price = sum((figures[name] or 0) / max(board.resources[name], 1) for name in RESOURCES) + 1e-9 * (pe + simd)
        tried.append((instance.get_exp_cycles(), price))
    for cycles in sorted({cycles for cycles, _ in tried}):
        chosen = group.cheapest(cycles)
        assert chosen.cycles <= cycles
        assert chosen.price == pytest.approx(min(price for other, price in tried if other <= cycles), rel=1e-12)
    assert group.cheapest(min(cycles for cycles, _ in tried) - 1) is None


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
    from nash_hw.boards import find_board
    from nash_hw.options import _weight_memories

    found = {each["ram_style"]: each["runtime_writeable_weights"] for each in _weight_memories(find_board(name))}
    assert found == styles


def test_weights_move_to_the_memory_that_is_left(model, board):
    """Each board has plenty of one memory alone; what the layers then answer is what was chosen."""
    from dataclasses import replace

    from nash_hw.estimate import estimate
    from nash_hw.folding import FoldingSpace, apply_finn_config, to_finn_config

    plenty = {"LUT": 10**6, "FF": 10**6, "BRAM_18K": 10**3, "URAM": 10**3, "DSP": 10**3}
    few_luts = {"LUT": FoldingSpace(model, board)._chooser.least(66_000)["LUT"] + 20}
    scarce = {
        "block": few_luts | {"URAM": 0},
        "distributed": {"BRAM_18K": 1, "URAM": 0},
        "ultra": few_luts | {"BRAM_18K": 1},
    }
    for style, few in scarce.items():
        folding = FoldingSpace(model, replace(board, resources=plenty | few)).for_fps(3_000, 200.0)
        styles = [values["ram_style"] for name, values in folding.settings.items() if name.startswith("MVAU")]
        assert max(styles, key=styles.count) == style
        folded = apply_finn_config(model, to_finn_config(model, folding.settings))
        assert estimate(folded, board).resources == folding.resources
        for name, instance in attributes_of(folded).items():
            if name.startswith("MVAU"):
                is_ultra = instance.get_nodeattr("ram_style") == "ultra"
                assert instance.get_nodeattr("runtime_writeable_weights") == is_ultra
                assert bool(instance.uram_estimation(board.fpga_part)) == is_ultra


def test_finn_generates_the_memory_of_weights_in_ultraram(model, board, tmp_path):
    from nash_hw.options import _weight_memories

    instance = next(instance for name, instance in attributes_of(model).items() if name.startswith("MVAU_rtl"))
    for name, value in _weight_memories(board)[-1].items():
        instance.set_nodeattr(name, value)
    instance.set_nodeattr("code_gen_dir_ipgen", str(tmp_path))
    instance.generate_infra_hdl(board.fpga_part)
    assert '"ultra"' in next(tmp_path.glob("*_memstream_wrapper.v")).read_text()


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
