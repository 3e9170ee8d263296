from __future__ import annotations

from pathlib import Path

import pytest
from conftest import DATA

from nash_hw.base.errors import UsageError
from nash_hw.boards.clocks import check_clock, clock_ceiling_mhz, usual_clock_mhz

_MODEL = DATA / "every-operation-v3" / "model.json"


@pytest.mark.parametrize(
    ("part", "ceiling"),
    [
        ("xc7z020clg400-1", 464),
        ("xc7a35tcpg236-2", 628),
        ("xc7z045ffg900-2", None),
        ("xck26-sfvc784-2LV-c", 644),
        ("xczu3eg-sbva484-1-i", 645),
        ("xczu7ev-ffvc1156-2-e", 775),
        ("xcu250-figd2104-2L-e", 775),
        ("xcvu9p-flga2104-3-e", 891),
        ("xcku5p-ffvb676-1-e", 645),
        ("xcku040-ffva1156-2-e", None),
        ("xcvc1902-vsva2197-2MP-e-S", 1070),
        ("xcvc1902-vsva2197-1LP-e-S", 680),
    ],
)
def test_ceiling_is_of_fabric_and_speed_grade(part, ceiling):
    assert clock_ceiling_mhz(part) == ceiling


@pytest.mark.usefixtures("finn")
def test_every_board_of_finn_has_a_ceiling():
    from nash_hw.boards.boards import all_boards

    for board in all_boards():
        assert usual_clock_mhz(board.fpga_part) < clock_ceiling_mhz(board.fpga_part) <= 1070
        check_clock(board, clock_ceiling_mhz(board.fpga_part))


def test_clock_that_no_design_can_have_is_refused(tmp_path: Path):
    """Before anything is built; 900 MHz used to be accepted, and "proven", for a Pynq-Z1."""
    from nash_hw.build.build import BuildConfig, build

    config = BuildConfig(board="Pynq-Z1", clock_mhz=900, target_fps=100, out=tmp_path / "hw", quiet=True)
    with pytest.raises(UsageError, match=r"--clock-mhz: got 900, expected at most 464: .* Pynq-Z1's xc7z020clg400-1"):
        build(_MODEL, config)
    assert not (tmp_path / "hw").exists()
