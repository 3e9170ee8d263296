from __future__ import annotations

import random

import pytest
from accelerators import BOARD, CLOCK_MHZ, FPS, NETWORKS, case_model, folded
from finn_passes import is_crossed, kernels, shared
from genotypes import draw_case
from networks import pictures, run
from test_folding import copy_of
from test_steps import specialized

from nash_hw.base.errors import UnsupportedError

pytestmark = pytest.mark.usefixtures("finn")
_CYCLIC = draw_case(8)


def in_ultraram(model, part: float, seed: int = 0):
    """Put the weights of a part of the matrix-vector units into UltraRAM, which the host writes."""
    from nash_hw.graph.model import custom_op

    draw = random.Random(seed)
    for node in model.graph.node:
        if node.op_type.startswith("MVAU") and draw.random() < part:
            custom_op(node).set_nodeattr("ram_style", "ultra")
            custom_op(node).set_nodeattr("runtime_writeable_weights", 1)
    return model


def ordered(model, slrs=None):
    """Return a copy whose additions are ordered, and its configuration."""
    from nash_hw.fold.finn_config import to_finn_config
    from nash_hw.fold.partitions import order_operands

    model = copy_of(model)
    config = to_finn_config(model, {})
    order_operands(model, config, slrs)
    return model, config


def unordered():
    """A network for a KV260 whose first addition reads the older of two partitions first."""
    model, board = case_model(_CYCLIC)
    return in_ultraram(model, 0.5, _CYCLIC.seed), board


def assert_finn_takes(model, board, folder, slrs=None, floorplan=None):
    """Hold FINN's partitions against ours, and let FINN cut; transfers to and from memory are two more."""
    from nash_hw.fold.partitions import check_partitions, partitions

    check_partitions(model, slrs)
    ours = partitions(model, slrs)
    theirs, graph = kernels(model, board, folder, floorplan)
    assert theirs == shared(ours)
    assert len(graph.graph.node) == 2 + len({0, *ours.values()})
    return graph


@pytest.mark.parametrize("seed", [8, 12, 27])
def test_kernels_that_finn_links_wrongly_are_found(seed, tmp_path):
    from nash_hw.fold.partitions import crossed_kernels, partitions
    from nash_hw.handover.finn_build import with_transfers

    model, board = case_model(draw_case(seed))
    model = ordered(in_ultraram(model, 0.5, seed))[0]
    model.save(str(tmp_path / "dataflow.onnx"))
    _, graph = kernels(model, board, tmp_path / "kernels")
    crossed = [number for number, kernel in enumerate(graph.graph.node) if is_crossed(graph, kernel)]
    assert bool(crossed) == (seed != 12)
    inserted = with_transfers(tmp_path / "dataflow.onnx", board.fpga_part)
    found = crossed_kernels(inserted, partitions(model))
    assert found == [f"StreamingDataflowPartition_{number}" for number in crossed]


@pytest.mark.parametrize("name", NETWORKS)
def test_finn_takes_every_design_of_the_tests(name, tmp_path):
    from nash_hw.boards.boards import find_board
    from nash_hw.fold.folding import FoldingSpace

    board = find_board(BOARD)
    space = FoldingSpace(specialized(NETWORKS[name](), board.fpga_part), board)
    model = in_ultraram(folded(space, FPS[name], CLOCK_MHZ), 0.5)
    assert_finn_takes(ordered(model)[0], board, tmp_path)


@pytest.mark.parametrize("seed", [0, 4, 8, 12, 16, 22, 24])
def test_finn_takes_drawn_networks(seed, tmp_path):
    """Networks for Zynq and Alveo, with half of their matrix-vector units in UltraRAM where there is some."""
    model, board = case_model(draw_case(seed))
    part = 0.5 if board.resources["URAM"] else 0.0
    assert_finn_takes(ordered(in_ultraram(model, part, seed))[0], board, tmp_path)


def test_kernels_that_wait_for_each_other_are_refused(tmp_path):
    """FINN refuses them as well, at the end of its build."""
    from nash_hw.fold.partitions import check_partitions

    model, board = unordered()
    with pytest.raises(UnsupportedError, match=r"ElementwiseAdd_hls_\d+: FINN would build it into a kernel"):
        check_partitions(model)
    with pytest.raises(AssertionError, match="cycle-free graph violated"):
        kernels(model, board, tmp_path)
    assert_finn_takes(ordered(model)[0], board, tmp_path / "ordered")


def test_order_of_operands_changes_no_integer():
    from nash_hw.graph.model import custom_op

    model, _ = unordered()
    turned, config = ordered(model)
    images = pictures(_CYCLIC.network())
    assert (run(model, images) == run(turned, images)).all()
    pairs = [(a, b) for a, b in zip(model.graph.node, turned.graph.node, strict=True) if a.input != b.input]
    assert pairs
    for before, after in pairs:
        a, b = custom_op(before), custom_op(after)
        assert list(before.input) == list(reversed(after.input))
        assert list(a.get_nodeattr("inFIFODepths")) == list(reversed(b.get_nodeattr("inFIFODepths")))
        assert config[after.name].get("inFIFODepths", b.get_nodeattr("inFIFODepths")) == b.get_nodeattr("inFIFODepths")
        assert [a.get_input_datatype(i) for i in (0, 1)] == [b.get_input_datatype(i) for i in (1, 0)]
        assert [a.get_instream_width(i) for i in (0, 1)] == [b.get_instream_width(i) for i in (1, 0)]


def test_nothing_is_turned_without_ultraram():
    model, _ = case_model(_CYCLIC)
    assert [list(node.input) for node in ordered(model)[0].graph.node] == [list(n.input) for n in model.graph.node]
