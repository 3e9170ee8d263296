from __future__ import annotations

import json

import pytest

from nash_hw.base.errors import ManifestError, UsageError

pytestmark = pytest.mark.usefixtures("finn")


def test_every_board_of_finn_has_resources():
    from finn.util.basic import part_map

    from nash_hw.boards.board import RESOURCES
    from nash_hw.boards.boards import all_boards

    boards = {board.name: board for board in all_boards()}
    assert set(boards) == set(part_map)
    for board in boards.values():
        assert set(board.resources) == set(RESOURCES)
        assert board.resources["LUT"] > 50_000
        assert board.resources["DSP"] > 200


def test_resources_are_summed_over_the_dies():
    from nash_hw.boards.boards import find_board

    board = find_board("u250")
    assert (board.name, board.num_slrs) == ("U250", 4)
    assert dict(board.resources) == {"LUT": 1_500_000, "FF": 3_000_000, "BRAM_18K": 4_608, "URAM": 1_280, "DSP": 11_520}


@pytest.mark.parametrize(("name", "hint"), [("U251", "did you mean U250"), ("nothing-like-it", "nash-hw boards")])
def test_unknown_board_gets_a_hint(name, hint):
    from nash_hw.boards.boards import find_board

    with pytest.raises(UsageError, match=hint):
        find_board(name)


OWN = {
    "name": "mine",
    "fpga_part": "xczu7ev-ffvc1156-2-e",
    "num_slrs": 2,
    "resources": {"LUT": 1000, "FF": 2000, "BRAM_18K": 30, "URAM": 0, "DSP": 40},
}


def write(path, **changes):
    path.write_text(json.dumps(OWN | changes), "utf-8")
    return str(path)


def test_own_board_is_read_from_its_file(tmp_path):
    from nash_hw.boards.boards import find_board

    board = find_board(write(tmp_path / "mine.json"))
    assert (board.name, board.fpga_part, board.num_slrs) == ("mine", OWN["fpga_part"], 2)
    assert dict(board.resources) == OWN["resources"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resources": {"LUT": 1}}, r"resources\.DSP: got nothing, expected it to be there"),
        ({"resources": {**OWN["resources"], "LUT": -5}}, r"resources\.LUT: got -5, expected at least 1"),
        ({"resources": {**OWN["resources"], "DSP": "many"}}, r'resources\.DSP: got "many", expected integer'),
        ({"resources": {**OWN["resources"], "DSPs": 3}}, r"resources\.DSPs: unknown key, did you mean DSP\?"),
        ({"part": "x"}, r"part: unknown key, did you mean fpga_part\?"),
        ({"name": ""}, r'name: got "", expected a length of at least 1'),
        ({"fpga_part": "xcvh1582-vsva3697-2MP-e-S"}, r'fpga_part: got "xcvh1582.*expected a 7-series'),
        ({"fpga_part": "10AX115S"}, r'fpga_part: got "10AX115S", expected a 7-series'),
    ],
)
def test_broken_board_file_names_key_got_and_expected(tmp_path, changes, message):
    from nash_hw.boards.boards import find_board

    with pytest.raises(ManifestError, match=message):
        find_board(write(tmp_path / "mine.json", **changes))


@pytest.mark.parametrize("text", [None, "{", "[]", '"x"'])
def test_board_file_that_is_none(tmp_path, text):
    from nash_hw.boards.boards import find_board

    path = tmp_path / "mine.json"
    if text is not None:
        path.write_text(text, "utf-8")
    with pytest.raises(ManifestError, match=r"mine\.json: "):
        find_board(str(path))


def test_parts_of_every_board_are_of_a_known_family():
    from nash_hw.boards.board_file import is_known_part
    from nash_hw.boards.boards import all_boards

    assert [board.name for board in all_boards() if not is_known_part(board.fpga_part)] == []
