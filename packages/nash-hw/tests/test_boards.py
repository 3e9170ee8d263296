from __future__ import annotations

import pytest

from nash_hw.errors import UsageError

pytestmark = pytest.mark.usefixtures("finn")


def test_every_board_of_finn_has_resources():
    from finn.util.basic import part_map

    from nash_hw.boards import RESOURCES, all_boards

    boards = {board.name: board for board in all_boards()}
    assert set(boards) == set(part_map)
    for board in boards.values():
        assert set(board.resources) == set(RESOURCES)
        assert board.resources["LUT"] > 50_000
        assert board.resources["DSP"] > 200


def test_resources_are_summed_over_the_dies():
    from nash_hw.boards import find_board

    board = find_board("u250")
    assert (board.name, board.num_slrs) == ("U250", 4)
    assert dict(board.resources) == {"LUT": 1_500_000, "FF": 3_000_000, "BRAM_18K": 4_608, "URAM": 1_280, "DSP": 11_520}


@pytest.mark.parametrize(("name", "hint"), [("U251", "did you mean U250"), ("nothing-like-it", "nash-hw boards")])
def test_unknown_board_gets_a_hint(name, hint):
    from nash_hw.boards import find_board

    with pytest.raises(UsageError, match=hint):
        find_board(name)
