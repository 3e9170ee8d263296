from __future__ import annotations

import dataclasses
import json

import pytest
import yaml
from accelerators import CLOCK_MHZ, case_model, folded
from conftest import DATA
from finn_passes import is_crossed, partitioned, with_transfers
from genotypes import draw_case
from networks import residual_network
from test_build import build
from test_partitions import in_ultraram, ordered
from test_steps import specialized

from nash_hw.boards.board import RESOURCES

pytestmark = pytest.mark.usefixtures("finn")
_MODEL = DATA / "every-operation-v3" / "model.json"


@pytest.fixture
def board():
    from nash_hw.boards.boards import find_board

    return find_board("U250")


@pytest.fixture
def model(board):
    from nash_hw.fold.folding import FoldingSpace

    return folded(FoldingSpace(specialized(residual_network(), board.fpga_part), board), 20_000, CLOCK_MHZ)


def shrunk(board, result, part):
    """The board with three SLRs that each hold a part of a design, at 70 %."""
    room = {name: int((result.resources[name] or 1) * part / 0.7) + 3 for name in RESOURCES}
    total = {name: 3 * amount for name, amount in room.items()}
    return dataclasses.replace(board, resources=total, num_slrs=3, source="file")


def planned(model, board, part):
    from nash_hw.estimate.estimate import estimate
    from nash_hw.fold.slrs import plan_slrs

    result = estimate(model, board)
    small = shrunk(board, result, part)
    return plan_slrs(model, result, small), result, small


def test_design_of_one_slr_has_no_plan(model, board):
    from nash_hw.estimate.estimate import estimate
    from nash_hw.fold.slrs import plan_slrs, slr_resources

    assert plan_slrs(model, estimate(model, board), board) is None
    slrs = slr_resources(board)
    assert len(slrs) == board.num_slrs == 4
    assert {name: sum(slr[name] for slr in slrs) for name in RESOURCES} == board.resources


@pytest.mark.parametrize(("part", "number"), [(0.8, 2), (0.1, 3)])
def test_plan_takes_as_few_slrs_as_hold_the_design(model, board, part, number):
    plan, result, _ = planned(model, board, part)
    order = [plan.slr_of[node.name] for node in model.graph.node]
    assert order == sorted(order)
    assert set(order) == set(range(number))
    for name in RESOURCES:
        assert sum(slr[name] or 0 for slr in plan.resources) == (result.resources[name] or 0)
    crossing = [
        name
        for node in model.graph.node
        for name in node.input
        if (writer := model.find_producer(name)) and plan.slr_of[writer.name] != plan.slr_of[node.name]
    ]
    assert len(crossing) == number - 1


@pytest.mark.parametrize("seed", [12, 27, 39])
def test_finn_builds_kernels_of_one_slr(seed, tmp_path):
    """With weights in UltraRAM, whose kernels begin for themselves, in the SLRs of the plan."""
    from nash_hw.fold.partitions import check_partitions, crossed_kernels, partitions
    from nash_hw.fold.slrs import write_floorplan
    from nash_hw.graph.model import custom_op
    from nash_hw.handover.finn_build import with_transfers as with_transfers_of

    model, board = case_model(draw_case(seed))
    model = ordered(in_ultraram(model, 0.5, seed))[0]
    plan, *_ = planned(model, board, 0.7)
    check_partitions(model, plan.slr_of)
    model.save(str(tmp_path / "dataflow.onnx"))
    floorplan = tmp_path / "floorplan.json"
    inserted = with_transfers_of(tmp_path / "dataflow.onnx", board.fpga_part)
    write_floorplan(floorplan, inserted, plan.slr_of)
    prepared = with_transfers(model, board)
    assert set(json.loads(floorplan.read_text())) == {"Defaults", *(node.name for node in prepared.graph.node)}
    theirs, graph = partitioned(prepared, tmp_path / "kernels", floorplan)
    slrs = [custom_op(kernel).get_nodeattr("slr") for kernel in graph.graph.node]
    assert set(slrs) == set(plan.slr_of.values())
    assert slrs[0] == 0
    ours = partitions(model, plan.slr_of)
    crossed = [number for number, kernel in enumerate(graph.graph.node) if is_crossed(graph, kernel)]
    assert crossed_kernels(inserted, ours) == [f"StreamingDataflowPartition_{number}" for number in crossed]
    assert {frozenset(name for name in ours if ours[name] == number) for number in ours.values()} == {
        frozenset(name for name in theirs if theirs[name] == number) for number in theirs.values()
    }


def test_build_hands_the_plan_to_finn(tmp_path, monkeypatch):
    slr = {"LUT": 12_000, "FF": 20_000, "BRAM_18K": 100, "URAM": 100, "DSP": 200}
    monkeypatch.setattr("nash_hw.fold.slrs.slr_resources", lambda board: [slr] * 4)
    monkeypatch.setattr("nash_hw.build.build.vivado_version", lambda: None)
    out = tmp_path / "hw"
    result = build(_MODEL, out, board="U250", target_fps=5000, until="bitfile")
    config = yaml.safe_load((out / "finn" / "build.yaml").read_text())
    assert config["vitis_floorplan_file"] == "floorplan.json"
    floorplan = json.loads((out / "finn" / "floorplan.json").read_text())
    assert all(floorplan[name] == {"slr": slr} for name, slr in result["slrs"]["layers"].items() if name in floorplan)
    assert floorplan["IODMA_hls_0"] == {"slr": 0}
    assert len(result["slrs"]["resources"]) == 4
