"""Estimates held against designs that others synthesized with Vivado and measured on a board.

The bounds are what is reached today: a change that worsens a model fails here.
"""

from __future__ import annotations

import json
from statistics import median

import pytest
import synthesized
from published import BOARD, designs, estimated, others, parts_of

from nash_hw.estimate import confidence
from nash_hw.finn.finn_env import contained_finn

SMALL_BRAM = "vgg10-w4a4"  # 36 block RAMs, 16 of which no layer of the estimate accounts for
SHALLOW_FIFOS = ("cnv-w1a2", "cnv-w2a2")  # measured 13 % slower than their slowest layer, in FINN's estimate as well


@pytest.fixture(scope="module")
def rows():
    """Every design with its estimate, shell included."""
    with contained_finn():
        return [(design, estimated(design)) for design in designs()]


def ratios(rows, resource: str) -> dict[str, float]:
    """Return estimated / synthesized of the designs that have any."""
    return {
        design["name"]: found[resource] / design["synthesized"][resource]
        for design, found in rows
        if design["synthesized"][resource]
    }


def test_there_are_designs_of_several_networks(rows):
    networks = {design["name"].rsplit("-", 1)[0] for design, _ in rows}
    assert (len(rows), len(networks)) == (11, 7)


def test_the_readme_has_the_estimates_of_today(rows):
    found = {design["name"]: synthesized.stored(estimate) for design, estimate in rows}
    assert found == json.loads(synthesized.STORED.read_text()), "run benchmarks/synthesized.py --store, nox -s readme"


def test_luts_are_near_the_synthesized_ones(rows):
    found = ratios(rows, "LUT").values()
    assert 0.75 <= median(found) <= 1.25
    assert min(found) >= 0.80
    assert max(found) <= 1.35


def test_luts_are_nearer_than_finns_estimate(rows):
    ours = median(abs(ratio - 1) for ratio in ratios(rows, "LUT").values())
    theirs = median(abs(design["finn_estimate"]["LUT"] / design["synthesized"]["LUT"] - 1) for design, _ in rows)
    assert ours < 0.12 < 0.4 < theirs


def test_block_rams_are_near_the_synthesized_ones(rows):
    found = ratios(rows, "BRAM_18K")
    assert 0.5 < found.pop(SMALL_BRAM) < 0.6
    assert min(found.values()) >= 0.85
    assert max(found.values()) <= 1.15


def test_dsps_are_near_the_synthesized_ones(rows):
    found = ratios(rows, "DSP")
    assert set(found) == {"vgg10-w4a4", "mobilenetv1-w4a4"}
    assert all(0.9 <= ratio <= 1.1 for ratio in found.values())


def test_flip_flops_are_within_a_factor_of_two(rows):
    found = ratios(rows, "FF").values()
    assert 0.75 <= median(found) <= 1.25
    assert min(found) >= 0.5
    assert max(found) <= 1.25


def test_cycles_are_near_the_measured_ones(rows):
    found = {design["name"]: found["cycles"] / design["measured"]["interval_cycles"] for design, found in rows}
    assert all(0.87 < found.pop(name) < 0.89 for name in SHALLOW_FIFOS)
    assert all(0.95 <= ratio <= 1.05 for ratio in found.values())


def test_an_earlier_finns_accelerator_is_of_that_size(rows):
    (row,) = others("without_shell")
    design = next(design for design, _ in rows if design["name"] == row["name"])
    with contained_finn():
        found = estimated(design, shell=False)
    part = {name: found[name] / value for name, value in row["synthesized"].items()}
    assert 0.7 <= part["LUT"] <= 1.3
    assert 0.55 <= part["FF"] <= 1.3
    assert 0.7 <= part["BRAM_18K"] <= 1.3


def test_a_layer_with_operands_of_one_bit(rows):
    (row,) = others("layers")
    design = next(design for design, _ in rows if design["name"] == row["design"])
    with contained_finn():
        layers, _, _ = parts_of(design)
    layer = next(layer for layer in layers if layer.name == row["layer"])
    for name, low, high in (("LUT", 0.75, 1.25), ("FF", 0.8, 1.6), ("BRAM_18K", 1.0, 1.0)):
        assert low <= layer.figures.resources[name] / row["synthesized"][name] <= high, name


@pytest.mark.parametrize("resource", [name for name, known in confidence.RATIOS.items() if known])
def test_the_interval_holds_every_published_design(rows, resource):
    from nash_hw.boards.boards import find_board
    from nash_hw.boards.shells import shell_of

    with contained_finn():
        shell = shell_of(find_board(BOARD)).resources[resource]
    for design, found in rows:
        if design["synthesized"][resource]:
            low, high = confidence.interval(found)[resource]
            alone = confidence.interval({**found, resource: found[resource] - shell})[resource]
            assert alone[0] + shell - 1 <= design["synthesized"][resource] <= alone[1] + shell + 1, design["name"]
            assert low < high


def test_a_zynq_has_less_room_by_its_shell_and_other_boards_have_all():
    from nash_hw.boards.boards import find_board
    from nash_hw.boards.shells import room_beside_shell, shell_of, with_shell

    with contained_finn():
        small, zynq, alveo = (find_board(name) for name in ("Pynq-Z1", "ZCU104", "U250"))
        assert room_beside_shell(small).resources["LUT"] == 53_200 - 6_421
        assert shell_of(zynq).family == "Zynq UltraScale+"
        assert room_beside_shell(alveo) is alveo
        assert with_shell(zynq.resources, shell_of(alveo)) is None
        unknown = with_shell({**zynq.resources, "FF": None}, shell_of(zynq))
    assert (unknown["FF"], unknown["LUT"]) == (None, zynq.resources["LUT"] + 9_800)
